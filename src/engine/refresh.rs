//! Refreshing checkpoints that lag while their stripe is shared (`refresh` in `models/settlement.pml`).
//!
//! Best effort: a commit that cannot refresh at once leaves it to a later one. One transaction at a time refreshes checkpoints of a
//! stripe. It reads each of them again: the transaction that had the lock before it has committed by now.

use std::panic::AssertUnwindSafe;

use ledger::crossing::Announced;
use ledger::fold::Fold;
use ledger::id::UserId;
use ledger::overdraft::Overdraft;
use ledger::settlement::Checkpoint;
use ledger::statistics::Event;

use super::checkpoint::{self, Stored};
use super::commit_view::{CommitView, Gained, Moment, Refreshed};
use super::lock_order::{OpenIfFree, Writers};
use super::{batches, days, statistics};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::Table;
use crate::pg::{lock, xact};

/// A checkpoint that lags.
pub struct Lagging {
    /// The user of the checkpoint.
    pub user: UserId,
    /// The fold that the checkpoint had when the user was assessed.
    pub stored: Fold,
    /// The new fold if the checkpoint still has that one; `None` if it has to be computed from the rows.
    pub refreshed: Option<Refreshed>,
}

/// Refreshes checkpoints of a stripe that is shared. It neither waits nor fails the commit. Once it has written, the stripe must
/// not be let go, or another transaction writes the same rows; since the writers are open by then, nothing is left that the
/// settlement could wait for.
pub fn refresh_if_free(
    stripe: u8,
    lagging: &[Lagging],
    relations: &Relations,
    writers: &mut Option<Writers>,
) {
    let outcome = if lock::try_lock_refresh(stripe)
        && let Ok(writers) = Writers::get_or_open(writers, relations)
    {
        let work =
            AssertUnwindSafe(|| refresh(lagging, relations, writers).unwrap_or_else(|error| error.raise()));
        xact::attempt("refreshing checkpoints", work).unwrap_or(Event::RefreshFailed)
    } else {
        Event::RefreshSkipped
    };
    statistics::count(outcome, lagging.len());
}

/// Returns what came of it.
fn refresh(lagging: &[Lagging], relations: &Relations, writers: &Writers) -> Result<Event, LedgerError> {
    writers.require_plain_indexes();
    let ledger = Table::open_locked(relations.ledger);
    let Ok(mut view) = CommitView::open_if_free(relations, &ledger) else { return Ok(Event::RefreshSkipped) };
    if view.open_key_if_free().is_err() {
        return Ok(Event::RefreshSkipped);
    }
    let now = Moment::now();
    for Lagging { user, stored: assessed, refreshed } in lagging {
        let Some(stored) = view.stored(user, &now)? else { continue };
        let Checkpoint { fold, announced, overdraft } = &stored.checkpoint;
        let refreshed = match refreshed {
            Some(refreshed) if fold == assessed => refreshed,
            _ => &view.refreshed(user, fold, &now)?,
        };
        write(relations, writers, user, Some(&stored), refreshed, announced, *overdraft)?;
    }
    Ok(Event::Refresh)
}

/// Writes a refreshed checkpoint together with what it adds to batches and days.
pub fn write(
    relations: &Relations,
    writers: &Writers,
    user: &UserId,
    stored: Option<&Stored>,
    refreshed: &Refreshed,
    announced: &Announced,
    overdraft: Overdraft,
) -> Result<(), LedgerError> {
    let Refreshed { fold, gained: Gained { batches, days } } = refreshed;
    if stored.is_none() {
        // A checkpoint that was deleted has left its batches and days.
        batches::discard(relations, &writers.batches, user);
        days::discard(relations, &writers.days, user)?;
        // Or the replacements of batches fail by the primary key, and days are added to those that are gone.
        xact::see_own_changes();
    }
    batches::write(relations, &writers.batches, user, batches)?;
    // Those of a checkpoint that has none yet are added up from all of its rows.
    if stored.is_none_or(|stored| stored.has_days) {
        days::write(relations, &writers.days, user, days)?;
    }
    checkpoint::write(relations, &writers.checkpoints, user, stored, fold, announced, overdraft)
}
