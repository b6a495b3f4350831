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
use crate::pg::relation::Access;
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
    All { lagging: Vec<Id> },
    /// Not all, or not known: a user without a checkpoint has no announced side yet.
    Doubtful,
}

fn assess(view: &mut CommitView, users: &[(Id, Request)]) -> Result<Agreement, LedgerError> {
    let now = Moment::now();
    let mut lagging = Vec::new();
    for &(user, request) in users {
        xact::check_for_interrupts();
        let Some((_, checkpoint)) = view.stored(&user, &now)? else { return Ok(Agreement::Doubtful) };
        let pass = view.pass(&user, &checkpoint.fold, &now)?;
        if !pass.outlook().agrees_with(checkpoint.is_positive)? {
            return Ok(Agreement::Doubtful);
        }
        if lags(&checkpoint.fold, &pass, request) {
            lagging.push(user);
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
        let (pass, batches) = match &stored {
            Some((_, checkpoint)) => {
                let pass = view.pass(&user, &checkpoint.fold, &now)?;
                if lags(&checkpoint.fold, &pass, request) {
                    let (pass, batches) = view.pass_with_batches(&user, checkpoint.fold.clone(), &now)?;
                    (pass, Some(batches))
                } else {
                    (pass, None)
                }
            }
            None => {
                let (pass, batches) = view.pass_with_batches(&user, Fold::default(), &now)?;
                (pass, Some(batches))
            }
        };

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
        if let Some(batches) = &batches {
            checkpoint::write_batches(&relations, &batch_writer, &user, batches)?;
            checkpoint.fold = pass.advanced().clone();
            statistics::count(Event::Refresh, 1);
        }
        let crossing = Direction::between(checkpoint.is_positive, pass.balance());
        if let Some(direction) = crossing {
            checkpoint.is_positive = pass.balance().is_positive();
            checkpoint.crossed_at = Some(xact::now());
            notification::announce(&user, direction);
            statistics::count(direction.into(), 1);
        }
        if batches.is_some() || crossing.is_some() {
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
fn refresh_if_free(relations: &Relations, stripe: u8, users: &[Id]) {
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
        refresh(relations, users, &writer, &batch_writer).unwrap_or_else(|error| error.raise());
        Event::Refresh
    });
    statistics::count(outcome.unwrap_or(Event::RefreshFailed), users.len());
}

/// Whoever refreshed before us has committed by now, so the checkpoints are read again.
fn refresh(
    relations: &Relations,
    users: &[Id],
    writer: &TableWriter,
    batch_writer: &TableWriter,
) -> Result<(), LedgerError> {
    let (mut view, now) = (CommitView::open(relations), Moment::now());
    for user in users {
        let Some(stored) = view.stored(user, &now)? else { continue };
        let (pass, batches) = view.pass_with_batches(user, stored.1.fold.clone(), &now)?;
        checkpoint::write_batches(relations, batch_writer, user, &batches)?;
        let checkpoint = Checkpoint { fold: pass.into_advanced(), ..stored.1.clone() };
        checkpoint::write(writer, user, Some(&stored), &checkpoint);
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
        Self {
            relations: *relations,
            folds: Folds::open(relations),
            checkpoints: CheckpointScan::open(relations),
            delta: DeltaScan::open(relations, Access::Write, Sight::Dirty(DirtySnapshot::new())),
        }
    }

    /// The user's stored checkpoint.
    fn stored(&mut self, user: &Id, now: &Moment) -> Result<Option<Stored>, LedgerError> {
        self.checkpoints.find(user, &now.snapshot)
    }

    /// One pass over the user's delta, from the stored fold on or from a further one that is known.
    fn pass(&mut self, user: &Id, stored: &Fold, now: &Moment) -> Result<DeltaPass, LedgerError> {
        let base = self.folds.furthest(user, |coverage| coverage.contains(&stored.coverage));
        let base = base.unwrap_or_else(|| stored.clone());
        let coverage = base.coverage.clone();
        let mut pass = DeltaPass::new(base, now.target.clone(), xact::current_id_if_any());
        self.delta.add_to(&mut pass, user, &coverage, |_| Ok(()))?;
        self.folds.keep(user, pass.advanced());
        Ok(pass)
    }

    /// One pass from the stored fold on, with the batches that it folds.
    fn pass_with_batches(
        &mut self,
        user: &Id,
        stored: Fold,
        now: &Moment,
    ) -> Result<(DeltaPass, BatchTotals), LedgerError> {
        let folded = checkpoint::fold_delta(&mut self.delta, user, stored, now.target.clone())?;
        self.folds.keep(user, folded.0.advanced());
        Ok(folded)
    }
}
