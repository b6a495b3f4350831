//! Settlement: what happens to the users that a transaction touched when it commits.
//!
//! For each stripe, in ascending order:
//!
//! 1. Share the stripe: several transactions may look at its users at once, none may announce a crossing meanwhile.
//! 2. Count what the transaction charges each user. One that is known to stay above zero all the same needs no more.
//! 3. Read each other user's checkpoint as of now, then its delta dirty. Rows of transactions that have not ended span an
//!    interval of balances; if all of it lies on the announced side of zero, there is nothing to decide. Nobody waited.
//! 4. Otherwise let go of the stripe and take it exclusively, which waits for those who are committing on it. Every row
//!    that is still in flight now is followed by a settlement of its own, so committed and own rows alone decide, those of
//!    one snapshot: COMMIT PREPARED waits for no stripe, and a dirty scan would see one of two prepared transactions
//!    without the other. What it leaves out, the user's next settlement announces. Every touched user of the stripe
//!    is read again: while the stripe was let go, someone may have settled it without our row.
//!
//! Locks are released when the commit is visible. Of the transactions that together make a crossing, the one that looks
//! last sees the rows of all others, committed or in flight, or counted, so it goes exclusive and decides on the true sum.

use std::cell::LazyCell;
use std::rc::Rc;

use ledger::coverage::{Coverage, OpenTransactions};
use ledger::crossing::Direction;
use ledger::fold::{DeltaPass, Fold};
use ledger::shared::headroom::Counted;
use ledger::statistics::Event;
use ledger::stripe;

use super::checkpoint::{self, BatchTotals, Checkpoint, CheckpointScan, Stored};
use super::delta::DeltaScan;
use super::shared::Shared;
use super::touched::{self, Noted, Request};
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
    let Some((mut settlement, mut users)) = begin() else { return };
    stripe::sort_for_settlement(&mut users, |settled| settled.user);
    for users in users.chunk_by_mut(|a, b| stripe::of_user(&a.user) == stripe::of_user(&b.user)) {
        settlement.settle_stripe(users).unwrap_or_else(|error| error.raise());
    }
}

/// Counts what a transaction charges that is about to be prepared. It is not settled; whoever settles its users later
/// relies on the count.
pub fn count_prepared() {
    let Some((settlement, users)) = begin() else { return };
    let shared = settlement.shared();
    for Settled { user, noted, .. } in &users {
        shared.count(user, &noted.written);
    }
}

fn begin() -> Option<(Settlement, Vec<Settled>)> {
    let touched = touched::take();
    if touched.is_empty() {
        return None;
    }
    // Gone if the transaction dropped the extension.
    let settlement = Settlement::open(Relations::lookup()?);
    let settled = |(user, noted)| Settled { user, noted, counted: Counted::default() };
    Some((settlement, touched.into_iter().map(settled).collect()))
}

/// A user that is being settled.
struct Settled {
    user: Id,
    noted: Noted,
    counted: Counted,
}

/// The settlement of a transaction.
struct Settlement {
    relations: Relations,
    ledger: Table,
    /// Opened for the first user that has to be looked at.
    view: Option<CommitView>,
}

impl Settlement {
    fn open(relations: Relations) -> Self {
        Self { relations, ledger: Table::open(relations.ledger, Access::Write), view: None }
    }

    /// What is told of users as of now. To be asked for anew with each lock of a stripe: while this transaction waited for it,
    /// somebody may have repaired a checkpoint, and then nothing that was told before is true.
    fn shared(&self) -> Shared {
        Shared::open(&self.relations, &self.ledger)
    }

    fn settle_stripe(&mut self, users: &mut [Settled]) -> Result<(), LedgerError> {
        let stripe = stripe::of_user(&users[0].user);
        let is_forced = users.iter().any(|settled| settled.noted.request == Request::Refresh);
        if is_forced {
            lock::lock_stripe(stripe);
        } else {
            lock::share_stripe(stripe);
        }
        let mut shared = self.shared();
        for settled in &mut *users {
            settled.counted = shared.count(&settled.user, &settled.noted.written);
        }
        if !is_forced {
            if let Agreement::All { lagging } = self.assess(&shared, users)? {
                // Not before: with a user in doubt the stripe is let go, and others could write what we have written.
                if !lagging.is_empty() {
                    refresh_if_free(&self.relations, stripe, &lagging);
                }
                return Ok(());
            }
            lock::release_shared_stripe(stripe);
            lock::lock_stripe(stripe);
            shared = self.shared();
        }
        self.decide(&shared, users)
    }

    fn assess(&mut self, shared: &Shared, users: &[Settled]) -> Result<Agreement, LedgerError> {
        let now = LazyCell::new(|| Moment::now_for(shared));
        let mut lagging = Vec::new();
        for Settled { user, noted, counted } in users {
            if noted.request == Request::Settle && shared.has_headroom(user, counted) {
                continue;
            }
            xact::check_for_interrupts();
            let view = CommitView::get(&mut self.view, &self.relations);
            let Some((_, checkpoint)) = view.stored(user, &now)? else {
                // Nobody's rows: asked for by name, or touched by a savepoint that was rolled back.
                if view.delta.is_empty(user, &Coverage::default()) {
                    continue;
                }
                return Ok(Agreement::Doubtful);
            };
            let further = told(shared, user, &checkpoint.fold);
            let (pass, refreshed) =
                pass(&mut view.delta, shared, user, &checkpoint.fold, further, now.target.clone())?;
            if !pass.outlook().agrees_with(checkpoint.is_positive)? {
                return Ok(Agreement::Doubtful);
            }
            let lags = lags(&checkpoint.fold, &pass, noted.request);
            if checkpoint.is_positive {
                // One that lags is refreshed now, by us or by whoever is at it.
                let lag = if lags { 0 } else { gained(&checkpoint.fold, &pass) };
                shared.publish_headroom(user, &pass, &noted.written, counted, lag);
            }
            if lags {
                lagging.push(Lagging { user: *user, stored: checkpoint.fold, refreshed });
            }
        }
        Ok(Agreement::All { lagging })
    }

    /// Decides with the stripe to ourselves.
    fn decide(&mut self, shared: &Shared, users: &[Settled]) -> Result<(), LedgerError> {
        statistics::count(Event::ExclusiveSection, 1);
        let relations = self.relations;
        let view = CommitView::get(&mut self.view, &relations);
        let now = Moment::now_for(shared);
        let mut delta = DeltaScan::open(&relations, Access::Write, Sight::without_siread(&now.snapshot));
        let writer = LazyCell::new(|| TableWriter::open(relations.checkpoints));
        let batch_writer = LazyCell::new(|| TableWriter::open(relations.batches));
        for &Settled { user, noted: Noted { request, .. }, .. } in users {
            xact::check_for_interrupts();
            let stored = view.stored(&user, &now)?;
            let from = match &stored {
                Some((_, checkpoint)) => checkpoint.fold.clone(),
                None => {
                    shared.forget(&user);
                    Fold::default()
                }
            };
            // Nor does a fold decide that has rows which came after the snapshot: it may not have all of them.
            let further = told(shared, &user, &from).filter(|fold| fold.coverage.serves(&now.open));
            let (pass, refreshed) = pass(&mut delta, shared, &user, &from, further, now.target.clone())?;
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
                let Refreshed { fold, batches } = refreshed
                    .map_or_else(|| refreshed_from(&mut delta, &user, from, now.target.clone()), Ok)?;
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

/// Whether a checkpoint is to be refreshed: it could cover too many rows that it does not, or someone asked. Then one row is
/// enough, or a straggler that has ended and would cost every reader a probe.
fn lags(stored: &Fold, pass: &DeltaPass, request: Request) -> bool {
    let rows = gained(stored, pass);
    match request {
        Request::Settle => rows >= settings::checkpoint_interval(),
        Request::RefreshIfFree | Request::Refresh => {
            rows > 0 || pass.advanced().coverage.stragglers() != stored.coverage.stragglers()
        }
    }
}

/// How many rows a refresh would fold.
const fn gained(stored: &Fold, pass: &DeltaPass) -> i64 {
    pass.advanced().transaction_count - stored.transaction_count
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
            _ => refreshed_from(&mut view.delta, user, from.clone(), now.target.clone())?,
        };
        checkpoint::write_batches(relations, batch_writer, user, &batches)?;
        checkpoint::write(writer, user, Some(&stored), &Checkpoint { fold, ..stored.1.clone() });
    }
    Ok(())
}

/// A moment that settlement looks at checkpoints in.
struct Moment {
    snapshot: Rc<Snapshot>,
    /// The transactions that have not ended then.
    open: OpenTransactions,
    /// The most that a checkpoint may cover then.
    target: Coverage,
}

impl Moment {
    fn now() -> Self {
        let snapshot = Snapshot::latest();
        let open = snapshot.open_transactions();
        Self { snapshot: Rc::new(snapshot), target: Coverage::up_to(&open), open }
    }

    /// The same; what was told of users is compared with what is seen now.
    fn now_for(shared: &Shared) -> Self {
        let now = Self::now();
        shared.compare_with(&now.snapshot);
        now
    }
}

/// What a committing transaction looks at: checkpoints at a moment, and deltas with the rows in flight.
struct CommitView {
    checkpoints: CheckpointScan,
    delta: DeltaScan,
}

impl CommitView {
    fn get<'a>(opened: &'a mut Option<Self>, relations: &Relations) -> &'a mut Self {
        opened.get_or_insert_with(|| {
            // What the last statement did is not visible to our snapshots yet.
            xact::see_own_changes();
            Self::open(relations)
        })
    }

    fn open(relations: &Relations) -> Self {
        Self {
            checkpoints: CheckpointScan::open(relations),
            delta: DeltaScan::open(relations, Access::Write, Sight::Dirty(DirtySnapshot::new())),
        }
    }

    /// The user's stored checkpoint.
    fn stored(&mut self, user: &Id, now: &Moment) -> Result<Option<Stored>, LedgerError> {
        self.checkpoints.find(user, &now.snapshot)
    }
}

/// The user's published fold, if it is further than the stored one.
fn told(shared: &Shared, user: &Id, stored: &Fold) -> Option<Fold> {
    let published = shared.fold(user).map(|published| published.fold);
    published.filter(|fold| fold.coverage.contains(&stored.coverage))
}

/// One pass over the user's delta, from the stored fold on or from one that is further. It also tells what the checkpoint
/// becomes by a refresh, if it has met all the rows of batches that the refresh folds.
fn pass(
    delta: &mut DeltaScan,
    shared: &Shared,
    user: &Id,
    stored: &Fold,
    further: Option<Fold>,
    target: Coverage,
) -> Result<(DeltaPass, Option<Refreshed>), LedgerError> {
    let base = further.unwrap_or_else(|| stored.clone());
    let meets_all = base.gained_no_batch_since(stored);
    let (pass, batches) = checkpoint::fold_delta(delta, user, base, target)?;
    shared.publish_fold(user, pass.advanced());
    let refreshed = meets_all.then(|| Refreshed { fold: pass.advanced().clone(), batches });
    Ok((pass, refreshed))
}

/// What a checkpoint becomes by a refresh.
fn refreshed_from(
    delta: &mut DeltaScan,
    user: &Id,
    stored: Fold,
    target: Coverage,
) -> Result<Refreshed, LedgerError> {
    let (pass, batches) = checkpoint::fold_delta(delta, user, stored, target)?;
    Ok(Refreshed { fold: pass.into_advanced(), batches })
}
