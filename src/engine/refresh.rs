//! Refreshing checkpoints that lag while their stripe is shared (`refresh` in `models/settlement.pml`).
//!
//! Best effort: a commit that cannot refresh at once leaves it to a later one. One transaction at a time refreshes checkpoints of a
//! stripe. It reads each of them again: the transaction that had the lock before it has committed by now.

use std::panic::AssertUnwindSafe;

use ledger::fold::Fold;
use ledger::id::UserId;
use ledger::settlement::Checkpoint;
use ledger::statistics::Event;

use super::checkpoint::{self, CheckpointScan, Stored, StoredRow};
use super::commit_view::{Gained, Refreshed, UserDelta};
use super::delta::DeltaScan;
use super::lock_order::{OpenIfFree, Writers};
use super::moment::Moment;
use super::{batches, days, statistics};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::snapshot::{DirtySnapshot, Sight};
use crate::pg::{lock, subtransaction, xact};

/// A checkpoint that lags.
pub struct Lagging {
    /// The user of the checkpoint.
    pub user: UserId,
    /// The fold that the checkpoint had when the user was assessed.
    pub stored: Fold,
    /// The new fold if the checkpoint still has that one; `None` if it has to be computed from the rows.
    pub refreshed: Option<Refreshed>,
}

impl Lagging {
    /// Whether a refresh may add to batches.
    fn may_have_batches(&self) -> bool {
        self.refreshed.as_ref().is_none_or(|refreshed| !refreshed.gained.batches.is_empty())
    }
}

/// Refreshes checkpoints of a stripe that is shared. It neither waits nor fails the commit. Once it has written, the stripe must
/// not be let go, or another transaction writes the same rows: the settlement may wait for nothing any more. `writers` are those that it
/// has open; if it has none, they are opened for this alone.
pub fn refresh_if_free(stripe: u8, lagging: Vec<Lagging>, relations: &Relations, writers: Option<&Writers>) {
    let is_free = lock::try_lock_refresh(stripe);
    let users = lagging.len();
    let outcome = match writers {
        Some(writers) if is_free => attempt(lagging, writers),
        None if is_free => {
            let writers = if lagging.iter().any(Lagging::may_have_batches) {
                Writers::open_if_free(relations)
            } else {
                Writers::without_batches_if_free(relations)
            };
            writers.map_or(Event::RefreshSkipped, |writers| attempt(lagging, &writers))
        }
        _ => Event::RefreshSkipped,
    };
    statistics::count(outcome, users);
}

fn attempt(lagging: Vec<Lagging>, writers: &Writers) -> Event {
    let work = AssertUnwindSafe(|| refresh(lagging, writers).unwrap_or_else(|error| error.raise()));
    subtransaction::attempt("refreshing checkpoints", work).unwrap_or(Event::RefreshFailed)
}

/// Returns what came of it.
fn refresh(lagging: Vec<Lagging>, writers: &Writers) -> Result<Event, LedgerError> {
    writers.require_plain_indexes();
    let mut checkpoints = CheckpointScan::of_written(writers);
    let mut delta = None;
    let now = Moment::now();
    for Lagging { user, stored: assessed, refreshed } in lagging {
        let Some(Stored { row, checkpoint }) = checkpoints.find(&user, now.snapshot())? else { continue };
        let refreshed = match refreshed.filter(|_| checkpoint.fold == assessed) {
            Some(refreshed) => refreshed,
            None => {
                let delta = match &mut delta {
                    Some(delta) => delta,
                    None => {
                        let dirty = Sight::Dirty(DirtySnapshot::new());
                        let opened = DeltaScan::open_if_free(&writers.relations, dirty);
                        let Ok(opened) = opened else { return Ok(Event::RefreshSkipped) };
                        delta.insert(opened)
                    }
                };
                UserDelta { scan: delta, user: &user, now: &now }.refreshed(&checkpoint.fold)?
            }
        };
        let Refreshed { fold, gained } = refreshed;
        // Others may have refreshed it meanwhile, and rows of batches come.
        if writers.batches.is_none() && !gained.batches.is_empty() {
            continue;
        }
        write(writers, &user, Some(row), &Checkpoint { fold, ..checkpoint }, &gained)?;
    }
    Ok(Event::Refresh)
}

/// Writes a refreshed checkpoint together with what batches and days have gained, in place of the one stored if there is one.
pub fn write(
    writers: &Writers,
    user: &UserId,
    stored: Option<StoredRow>,
    checkpoint: &Checkpoint,
    gained: &Gained,
) -> Result<(), LedgerError> {
    let (relations, Gained { batches, days }) = (&writers.relations, gained);
    let of_batches = || writers.batches.as_ref().expect("whoever writes batches has them open");
    if stored.is_none() {
        // A checkpoint that was deleted has left its batches and days.
        batches::discard(of_batches(), user);
        days::discard(relations, &writers.days, user);
        // Or the replacements of batches fail by the primary key, and days are added to those that are gone.
        xact::see_own_changes();
    }
    if !batches.is_empty() {
        batches::write(of_batches(), user, batches)?;
    }
    // Those of a checkpoint that has none yet are added up from all of its rows.
    if !days.is_empty() && stored.is_none_or(|stored| stored.has_days) {
        days::write(relations, &writers.days, user, days)?;
    }
    checkpoint::write(writers, user, stored, checkpoint)
}
