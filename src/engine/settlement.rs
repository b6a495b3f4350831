//! Settlement: what happens to the users that a transaction touched when it commits.
//!
//! For each stripe, in ascending order:
//!
//! 1. Share the stripe: several transactions may look at its users at once, none may announce a crossing meanwhile.
//! 2. Read each user's checkpoint as of now, then its delta dirty. Rows of transactions that have not ended span an
//!    interval of balances; if all of it lies on the announced side of zero, there is nothing to decide. Nobody waited.
//! 3. Otherwise let go of the stripe and take it exclusively, which waits for those who are committing on it. Every row
//!    that is still in flight now is followed by a settlement of its own, so committed and own rows alone decide. Every
//!    touched user of the stripe is read again: while the stripe was let go, someone may have settled it without our row.
//!
//! Locks are released when the commit is visible. Of the transactions that together make a crossing, the one that scans
//! last sees the rows of all others, committed or in flight, so it goes exclusive and decides on the true sum.

use std::cell::LazyCell;
use std::rc::Rc;

use ledger::coverage::Coverage;
use ledger::crossing::Direction;
use ledger::fold::{DeltaPass, Fold};
use ledger::statistics::Event;
use ledger::stripe;

use super::checkpoint::{self, BatchTotals, Checkpoint, CheckpointScan, Stored};
use super::delta::DeltaScan;
use super::folds::Folds;
use super::touched::{self, Request};
use super::{Id, notification, statistics};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{Access, Table};
use crate::pg::snapshot::{DirtySnapshot, Sight, Snapshot};
use crate::pg::write::TableWriter;
use crate::pg::{lock, xact};
use crate::settings;

/// Settles everyone that the transaction touched. An error rolls the transaction back.
pub fn settle_touched() {
    let touched = touched::take();
    if touched.is_empty() {
        return;
    }
    // Gone if the transaction dropped the extension.
    let Some(relations) = Relations::lookup() else { return };
    let mut users: Vec<(Id, Request)> = touched.into_iter().collect();
    stripe::sort_for_settlement(&mut users, |&(user, _)| user);
    // What the last statement did is not visible to our snapshots yet. A dirty scan sees its ledger rows all the same, but
    // the statement may have changed checkpoints, too.
    xact::see_own_changes();

    let mut view = CommitView::open(&relations);
    for users in users.chunk_by(|(a, _), (b, _)| stripe::of_user(a) == stripe::of_user(b)) {
        settle_stripe(&mut view, users).unwrap_or_else(|error| error.raise());
    }
}

fn settle_stripe(view: &mut CommitView, users: &[(Id, Request)]) -> Result<(), LedgerError> {
    let stripe = stripe::of_user(&users[0].0);
    if users.iter().all(|&(_, request)| request != Request::Refresh) {
        lock::share_stripe(stripe);
        if let Agreement::All { lagging } = assess(view, users)? {
            // Not before: with a user in doubt the stripe is let go, and others could write what we have written.
            if !lagging.is_empty() {
                refresh_if_free(&view.relations, stripe, &lagging);
            }
            return Ok(());
        }
        lock::release_shared_stripe(stripe);
    }
    lock::lock_stripe(stripe);
    decide(view, users)
}

/// Whether the users of a stripe are on the announced side of zero, whatever becomes of the rows in flight.
enum Agreement {
    /// All of them; the checkpoints of some have fallen behind.
    All { lagging: Vec<Lagging> },
    /// Not all, or not known: a user without a checkpoint has no announced side yet.
    Doubtful,
}

/// A checkpoint that has fallen behind.
struct Lagging {
    user: Id,
    stored: Fold,
    /// What it can become, if the pass that found this out has told.
    refreshed: Option<Refreshed>,
}

/// What a checkpoint becomes, and what its batches gain.
#[derive(Clone)]
struct Refreshed {
    fold: Fold,
    batches: BatchTotals,
}

fn assess(view: &mut CommitView, users: &[(Id, Request)]) -> Result<Agreement, LedgerError> {
    let now = Moment::now();
    let mut lagging = Vec::new();
    for &(user, request) in users {
        xact::check_for_interrupts();
        let Some((_, checkpoint)) = view.stored(&user, &now)? else { return Ok(Agreement::Doubtful) };
        let (pass, refreshed) = view.pass(&user, &checkpoint.fold, &now)?;
        if !pass.outlook().agrees_with(checkpoint.is_positive)? {
            return Ok(Agreement::Doubtful);
        }
        if lags(&checkpoint.fold, &pass, request) {
            lagging.push(Lagging { user, stored: checkpoint.fold, refreshed });
        }
    }
    Ok(Agreement::All { lagging })
}

/// Decides with the stripe to ourselves.
fn decide(view: &mut CommitView, users: &[(Id, Request)]) -> Result<(), LedgerError> {
    statistics::count(Event::ExclusiveSection, 1);
    let (relations, now) = (view.relations, Moment::now());
    let writer = LazyCell::new(|| TableWriter::open(relations.checkpoints));
    let batch_writer = LazyCell::new(|| TableWriter::open(relations.batches));
    for &(user, request) in users {
        xact::check_for_interrupts();
        let stored = view.stored(&user, &now)?;
        let from = match &stored {
            Some((_, checkpoint)) => checkpoint.fold.clone(),
            None => {
                view.folds.forget(&user);
                Fold::default()
            }
        };
        let (pass, refreshed) = view.pass(&user, &from, &now)?;
        let mut checkpoint = match &stored {
            Some((_, checkpoint)) => checkpoint.clone(),
            // Only a savepoint that was rolled back touched the user.
            None if pass.latest_seq().is_none() => continue,
            None => {
                checkpoint::discard_batches(&relations, &batch_writer, &user);
                let is_positive = pass.balance_before()?.is_positive();
                Checkpoint { fold: Fold::default(), is_positive, crossed_at: None }
            }
        };
        let is_refreshed = stored.is_none() || lags(&from, &pass, request);
        if is_refreshed {
            let Refreshed { fold, batches } =
                refreshed.map_or_else(|| view.refreshed(&user, from, &now), Ok)?;
            checkpoint::write_batches(&relations, &batch_writer, &user, &batches)?;
            checkpoint.fold = fold;
            statistics::count(Event::Refresh, 1);
        }
        let crossing = Direction::between(checkpoint.is_positive, pass.balance());
        if let Some(direction) = crossing {
            checkpoint.is_positive = pass.balance().is_positive();
            checkpoint.crossed_at = Some(xact::now());
            notification::announce(&user, direction);
            statistics::count(direction.into(), 1);
        }
        if is_refreshed || crossing.is_some() {
            checkpoint::write(&writer, &user, stored.as_ref(), &checkpoint);
        }
    }
    Ok(())
}

/// Whether a checkpoint is to be refreshed: it could cover too many rows that it does not, or someone asked. Then one row is
/// enough, or a straggler that has ended and would cost every reader a probe.
fn lags(stored: &Fold, pass: &DeltaPass, request: Request) -> bool {
    let advanced = pass.advanced();
    let rows = advanced.transaction_count - stored.transaction_count;
    match request {
        Request::Settle => rows >= settings::checkpoint_interval(),
        Request::RefreshIfFree | Request::Refresh => {
            rows > 0 || advanced.coverage.stragglers() != stored.coverage.stragglers()
        }
    }
}

/// Refreshes checkpoints of a stripe that is shared. Best effort: it neither waits nor fails the commit.
fn refresh_if_free(relations: &Relations, stripe: u8, lagging: &[Lagging]) {
    let outcome = xact::attempt("refreshing checkpoints", || {
        if !lock::try_lock_refresh(stripe) {
            return Event::RefreshSkipped;
        }
        let Some(writer) = TableWriter::open_if_free(relations.checkpoints) else {
            return Event::RefreshSkipped;
        };
        let Some(batch_writer) = TableWriter::open_if_free(relations.batches) else {
            return Event::RefreshSkipped;
        };
        refresh(relations, lagging, &writer, &batch_writer).unwrap_or_else(|error| error.raise());
        Event::Refresh
    });
    statistics::count(outcome.unwrap_or(Event::RefreshFailed), lagging.len());
}

/// Whoever refreshed before us has committed by now, so the checkpoints are read again.
fn refresh(
    relations: &Relations,
    lagging: &[Lagging],
    writer: &TableWriter,
    batch_writer: &TableWriter,
) -> Result<(), LedgerError> {
    let (mut view, now) = (CommitView::open(relations), Moment::now());
    for Lagging { user, stored: assessed, refreshed } in lagging {
        let Some(stored) = view.stored(user, &now)? else { continue };
        let from = &stored.1.fold;
        let Refreshed { fold, batches } = match refreshed {
            Some(refreshed) if from == assessed => refreshed.clone(),
            _ => view.refreshed(user, from.clone(), &now)?,
        };
        checkpoint::write_batches(relations, batch_writer, user, &batches)?;
        checkpoint::write(writer, user, Some(&stored), &Checkpoint { fold, ..stored.1.clone() });
    }
    Ok(())
}

/// A moment that settlement looks at checkpoints in.
struct Moment {
    snapshot: Rc<Snapshot>,
    /// The most that a checkpoint may cover then.
    target: Coverage,
}

impl Moment {
    fn now() -> Self {
        let snapshot = Snapshot::latest();
        let target = Coverage::up_to(&snapshot.open_transactions());
        Self { snapshot: Rc::new(snapshot), target }
    }
}

/// What a committing transaction looks at: checkpoints at a moment, and deltas with the rows in flight.
struct CommitView {
    relations: Relations,
    folds: Folds,
    checkpoints: CheckpointScan,
    delta: DeltaScan,
}

impl CommitView {
    fn open(relations: &Relations) -> Self {
        let ledger = Table::open(relations.ledger, Access::Write);
        Self {
            relations: *relations,
            folds: Folds::open(relations, &ledger),
            checkpoints: CheckpointScan::open(relations),
            delta: DeltaScan::open(relations, ledger, Access::Write, Sight::Dirty(DirtySnapshot::new())),
        }
    }

    /// The user's stored checkpoint.
    fn stored(&mut self, user: &Id, now: &Moment) -> Result<Option<Stored>, LedgerError> {
        self.checkpoints.find(user, &now.snapshot)
    }

    /// One pass over the user's delta, from the stored fold on or from a published one that is further. It also tells what the
    /// checkpoint becomes by a refresh, if it has met all the rows of batches that the refresh folds.
    fn pass(
        &mut self,
        user: &Id,
        stored: &Fold,
        now: &Moment,
    ) -> Result<(DeltaPass, Option<Refreshed>), LedgerError> {
        let published = self.folds.published(user);
        let further = published.filter(|fold| fold.coverage.contains(&stored.coverage));
        let base = further.unwrap_or_else(|| stored.clone());
        let meets_all = base.gained_no_batch_since(stored);
        let (pass, batches) = checkpoint::fold_delta(&mut self.delta, user, base, now.target.clone())?;
        self.folds.publish(user, pass.advanced());
        let refreshed = meets_all.then(|| Refreshed { fold: pass.advanced().clone(), batches });
        Ok((pass, refreshed))
    }

    /// What a checkpoint becomes by a refresh.
    fn refreshed(&mut self, user: &Id, stored: Fold, now: &Moment) -> Result<Refreshed, LedgerError> {
        let (pass, batches) = checkpoint::fold_delta(&mut self.delta, user, stored, now.target.clone())?;
        Ok(Refreshed { fold: pass.into_advanced(), batches })
    }
}
