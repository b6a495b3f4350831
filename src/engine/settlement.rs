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
//! Locks of relations come before stripes, as [`lock_order`] has it: where one is not free that is needed, every stripe is let
//! go, the locks are waited for, and settlement begins anew. Nothing has been written by then, and a charge that is counted
//! twice makes others look, no more.
//!
//! Locks are released when the commit is visible. Of the transactions that together make a crossing, the one that looks
//! last sees the rows of all others, committed or in flight, or counted, so it goes exclusive and decides on the true sum.

use std::cell::LazyCell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use ledger::coverage::{Coverage, OpenTransactions};
use ledger::credits::SumOutOfRange;
use ledger::crossing::Direction;
use ledger::fold::{DeltaPass, Fold};
use ledger::id::UserId;
use ledger::segment::headroom::Counted;
use ledger::statistics::Event;
use ledger::stripe;

use super::batches::{self, BatchTotals};
use super::checkpoint::{self, Checkpoint, CheckpointScan, Stored};
use super::delta::DeltaScan;
use super::lock_order::{self, Writers};
use super::noted::{self, Announced, NotedUser, Request};
use super::published::Published;
use super::{notification, statistics};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{NotFree, Table};
use crate::pg::snapshot::{DirtySnapshot, Sight, Snapshot};
use crate::pg::{lock, xact};
use crate::settings;

/// Settles everyone that the transaction touched. An error rolls the transaction back.
pub fn settle_noted() {
    let Some((mut settlement, mut users)) = begin() else { return };
    stripe::sort_for_settlement(&mut users, |settled| settled.user);
    loop {
        match settlement.settle(&mut users) {
            Ok(()) => return,
            Err(Stop::NotFree) => settlement.wait_for_relations(),
            Err(Stop::Failed(error)) => error.raise(),
        }
    }
}

/// Counts what a transaction charges that is about to be prepared. It is not settled; whoever settles its users later
/// relies on the count. Raises 0A000 if it has deleted checkpoints: nobody would know what they said.
pub fn count_prepared() {
    let Some((settlement, users)) = begin() else { return };
    let published = settlement.published();
    for Settled { user, noted, .. } in &users {
        if noted.announced.is_some() {
            LedgerError::PreparedDeletion.raise();
        }
        published.count(user, &noted.written);
    }
}

fn begin() -> Option<(Settlement, Vec<Settled>)> {
    let noted = noted::take();
    if noted.is_empty() {
        return None;
    }
    // Gone if the transaction dropped the extension, or another did and this one has no rows.
    let settlement = Settlement::open(Relations::locked_at_commit()?);
    let settled = |(user, noted)| Settled { user, noted, counted: Counted::default() };
    Some((settlement, noted.into_iter().map(settled).collect()))
}

/// A user that is being settled.
struct Settled {
    user: UserId,
    noted: NotedUser,
    counted: Counted,
}

/// The settlement of a transaction.
struct Settlement {
    relations: Relations,
    ledger: Table,
    /// The stripes that are shared.
    sharing: Vec<u8>,
    /// Opened for the first user that has to be looked at.
    view: Option<CommitView>,
    /// Opened for the first that has to be written.
    writers: Option<Writers>,
}

/// Why a settlement goes no further.
enum Stop {
    /// The lock of a relation is not free. No stripe is held exclusively, and nothing has been written.
    NotFree,
    Failed(LedgerError),
}

impl From<NotFree> for Stop {
    fn from(_: NotFree) -> Self {
        Self::NotFree
    }
}

impl From<LedgerError> for Stop {
    fn from(error: LedgerError) -> Self {
        Self::Failed(error)
    }
}

impl From<SumOutOfRange> for Stop {
    fn from(error: SumOutOfRange) -> Self {
        Self::Failed(error.into())
    }
}

impl Settlement {
    fn open(relations: Relations) -> Self {
        let ledger = Table::open_locked(relations.ledger);
        Self { relations, ledger, sharing: Vec::new(), view: None, writers: None }
    }

    /// What is told of users as of now. To be asked for anew with each lock of a stripe: while this transaction waited for it,
    /// somebody may have repaired a checkpoint, and then nothing that was told before is true.
    fn published(&self) -> Published {
        Published::open(&self.relations, &self.ledger)
    }

    fn settle(&mut self, users: &mut [Settled]) -> Result<(), Stop> {
        for users in users.chunk_by_mut(|a, b| stripe::of_user(&a.user) == stripe::of_user(&b.user)) {
            self.settle_stripe(users)?;
        }
        Ok(())
    }

    /// Lets everything go that was taken since the settlement began, then waits for the locks of relations.
    fn wait_for_relations(&mut self) {
        self.view = None;
        self.writers = None;
        self.sharing.drain(..).for_each(lock::release_shared_stripe);
        lock_order::wait_for_relations(&self.relations);
    }

    fn settle_stripe(&mut self, users: &mut [Settled]) -> Result<(), Stop> {
        let stripe = stripe::of_user(&users[0].user);
        let is_forced = users.iter().any(|settled| settled.noted.request == Request::Refresh);
        if is_forced {
            self.prepare_to_decide()?;
            lock::lock_stripe(stripe);
        } else {
            lock::share_stripe(stripe);
            self.sharing.push(stripe);
        }
        let mut published = self.published();
        for settled in &mut *users {
            settled.counted = published.count(&settled.user, &settled.noted.written);
        }
        if !is_forced {
            if let Agreement::All { lagging } = self.assess(&published, users)? {
                // Not before: with a user in doubt the stripe is let go, and others could write what we have written.
                if !lagging.is_empty() {
                    self.refresh_if_free(stripe, &lagging);
                }
                return Ok(());
            }
            self.prepare_to_decide()?;
            self.sharing.pop();
            lock::release_shared_stripe(stripe);
            lock::lock_stripe(stripe);
            published = self.published();
        }
        self.decide(&published, users)
    }

    /// Opens all that a decision may need: from here on settlement waits for no relation.
    fn prepare_to_decide(&mut self) -> Result<(), NotFree> {
        CommitView::get(&mut self.view, &self.relations)?;
        Self::writers(&mut self.writers, &self.relations)?.require_plain_indexes();
        Ok(())
    }

    fn writers<'a>(opened: &'a mut Option<Writers>, relations: &Relations) -> Result<&'a Writers, NotFree> {
        match opened {
            Some(writers) => Ok(writers),
            None => Ok(opened.insert(Writers::open_if_free(relations)?)),
        }
    }

    fn assess(&mut self, published: &Published, users: &[Settled]) -> Result<Agreement, Stop> {
        let now = LazyCell::new(|| Moment::now_for(published));
        let mut lagging = Vec::new();
        for Settled { user, noted, counted } in users {
            if noted.request == Request::Settle && published.has_headroom(user, counted) {
                continue;
            }
            xact::check_for_interrupts();
            let view = CommitView::get(&mut self.view, &self.relations)?;
            let Some((_, checkpoint)) = view.stored(user, &now)? else {
                // Nobody's rows: asked for by name, or touched by a savepoint that was rolled back.
                if view.delta.is_empty(user, &Coverage::default()) {
                    continue;
                }
                return Ok(Agreement::Doubtful);
            };
            let further = published_fold(published, user, &checkpoint.fold);
            let (pass, refreshed) =
                pass(&mut view.delta, published, user, &checkpoint.fold, further, now.target.clone())?;
            if !pass.outlook().agrees_with(checkpoint.is_positive)? {
                return Ok(Agreement::Doubtful);
            }
            let lags = lags(&checkpoint.fold, &pass, noted.request);
            if checkpoint.is_positive {
                // One that lags is refreshed now, by us or by whoever is at it.
                let lag = if lags { 0 } else { gained(&checkpoint.fold, &pass) };
                published.publish_headroom(user, &pass, &noted.written, counted, lag);
            }
            if lags {
                lagging.push(Lagging { user: *user, stored: checkpoint.fold, refreshed });
            }
        }
        Ok(Agreement::All { lagging })
    }

    /// Refreshes checkpoints of a stripe that is shared. Best effort: it neither waits nor fails the commit. Once it has written,
    /// the stripe must not be let go: the writers being open, nothing is left that settlement could wait for.
    fn refresh_if_free(&mut self, stripe: u8, lagging: &[Lagging]) {
        let relations = self.relations;
        let outcome = if lock::try_lock_refresh(stripe)
            && let Ok(writers) = Self::writers(&mut self.writers, &relations)
        {
            let work = AssertUnwindSafe(|| match refresh(&relations, lagging, writers) {
                Ok(()) => Event::Refresh,
                Err(Stop::NotFree) => Event::RefreshSkipped,
                Err(Stop::Failed(error)) => error.raise(),
            });
            xact::attempt("refreshing checkpoints", work).unwrap_or(Event::RefreshFailed)
        } else {
            Event::RefreshSkipped
        };
        statistics::count(outcome, lagging.len());
    }

    /// Decides with the stripe to ourselves.
    fn decide(&mut self, published: &Published, users: &[Settled]) -> Result<(), Stop> {
        statistics::count(Event::ExclusiveSection, 1);
        let relations = self.relations;
        let view = CommitView::get(&mut self.view, &relations)?;
        let writers = Self::writers(&mut self.writers, &relations)?;
        let now = Moment::now_for(published);
        let mut delta = view.delta.again(&relations, Sight::without_siread(&now.snapshot));
        for &Settled { user, noted: NotedUser { request, announced, .. }, .. } in users {
            xact::check_for_interrupts();
            let stored = view.stored(&user, &now)?;
            let from = match &stored {
                Some((_, checkpoint)) => checkpoint.fold.clone(),
                None => {
                    published.invalidate(&user);
                    Fold::default()
                }
            };
            // Nor does a fold decide that has rows which came after the snapshot: it may not have all of them.
            let further =
                published_fold(published, &user, &from).filter(|fold| fold.coverage.serves(&now.open));
            let (pass, refreshed) = pass(&mut delta, published, &user, &from, further, now.target.clone())?;
            let mut checkpoint = match &stored {
                Some((_, checkpoint)) => checkpoint.clone(),
                // Only a savepoint that was rolled back touched the user.
                None if pass.latest_seq().is_none() => continue,
                None => {
                    batches::discard(&relations, &writers.batches, &user);
                    // A user that nobody has met: what it was before is not news.
                    let (is_positive, crossed_at) = match announced {
                        Some(Announced { is_positive, crossed_at }) => (is_positive, crossed_at),
                        None => (pass.balance_before()?.is_positive(), None),
                    };
                    Checkpoint { fold: Fold::default(), is_positive, crossed_at }
                }
            };
            let is_refreshed = stored.is_none() || lags(&from, &pass, request);
            if is_refreshed {
                let Refreshed { fold, batches } = refreshed
                    .map_or_else(|| refreshed_from(&mut delta, &user, from, now.target.clone()), Ok)?;
                batches::write(&relations, &writers.batches, &user, &batches)?;
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
                checkpoint::write(&writers.checkpoints, &user, stored.as_ref(), &checkpoint);
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
    user: UserId,
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

/// Refreshes checkpoints, which are read again: whoever refreshed before us has committed by now.
fn refresh(relations: &Relations, lagging: &[Lagging], writers: &Writers) -> Result<(), Stop> {
    writers.require_plain_indexes();
    let (mut view, now) = (CommitView::open_if_free(relations)?, Moment::now());
    for Lagging { user, stored: assessed, refreshed } in lagging {
        let Some(stored) = view.stored(user, &now)? else { continue };
        let from = &stored.1.fold;
        let Refreshed { fold, batches } = match refreshed {
            Some(refreshed) if from == assessed => refreshed.clone(),
            _ => refreshed_from(&mut view.delta, user, from.clone(), now.target.clone())?,
        };
        batches::write(relations, &writers.batches, user, &batches)?;
        checkpoint::write(
            &writers.checkpoints,
            user,
            Some(&stored),
            &Checkpoint { fold, ..stored.1.clone() },
        );
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
    fn now_for(published: &Published) -> Self {
        let now = Self::now();
        published.check_against(&now.snapshot);
        now
    }
}

/// What a committing transaction looks at: checkpoints at a moment, and deltas with the rows in flight.
struct CommitView {
    checkpoints: CheckpointScan,
    delta: DeltaScan,
}

impl CommitView {
    fn get<'a>(opened: &'a mut Option<Self>, relations: &Relations) -> Result<&'a mut Self, NotFree> {
        match opened {
            Some(view) => Ok(view),
            None => {
                // What the last statement did is not visible to our snapshots yet.
                xact::see_own_changes();
                Ok(opened.insert(Self::open_if_free(relations)?))
            }
        }
    }

    fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        let delta = DeltaScan::open_if_free(relations, Sight::Dirty(DirtySnapshot::new()))?;
        Ok(Self { checkpoints: CheckpointScan::open_if_free(relations)?, delta })
    }

    /// The user's stored checkpoint.
    fn stored(&mut self, user: &UserId, now: &Moment) -> Result<Option<Stored>, LedgerError> {
        self.checkpoints.find(user, &now.snapshot)
    }
}

/// The user's published fold, if it is further than the stored one.
fn published_fold(published: &Published, user: &UserId, stored: &Fold) -> Option<Fold> {
    let fold = published.fold(user)?.fold;
    fold.coverage.contains(&stored.coverage).then_some(fold)
}

/// One pass over the user's delta, from the stored fold on or from one that is further. It also tells what the checkpoint
/// becomes by a refresh, if it has met all the rows of batches that the refresh folds.
fn pass(
    delta: &mut DeltaScan,
    published: &Published,
    user: &UserId,
    stored: &Fold,
    further: Option<Fold>,
    target: Coverage,
) -> Result<(DeltaPass, Option<Refreshed>), LedgerError> {
    let base = further.unwrap_or_else(|| stored.clone());
    let meets_all = base.gained_no_batch_since(stored);
    let (pass, batches) = checkpoint::fold_delta(delta, user, base, target)?;
    published.publish_fold(user, pass.advanced());
    let refreshed = meets_all.then(|| Refreshed { fold: pass.advanced().clone(), batches });
    Ok((pass, refreshed))
}

/// What a checkpoint becomes by a refresh.
fn refreshed_from(
    delta: &mut DeltaScan,
    user: &UserId,
    stored: Fold,
    target: Coverage,
) -> Result<Refreshed, LedgerError> {
    let (pass, batches) = checkpoint::fold_delta(delta, user, stored, target)?;
    Ok(Refreshed { fold: pass.into_advanced(), batches })
}
