//! Settlement: what happens at commit to the users whose balance a transaction changes.
//!
//! What follows from the rows that are read here is computed by [`ledger::settlement`]. Four models have every schedule explored:
//! `models/settlement.pml` for users whose only boundary is zero, `models/levels.pml` for one with thresholds, `models/holds.pml` for
//! what must be covered, `models/caps.pml` for spend caps. The last column says what does the same in `settlement.pml`, and which flag
//! of that model removes the step.
//!
//! | step | done by | in the model |
//! |---|---|---|
//! | 1. Sort the users by stripe. Settle one stripe after the other, ascending, so that no two commits wait for each other. | [`settle_noted`] | `Transaction`: the loop over `STRIPES`; `NO_ORDER` |
//! | 2. Share the stripe. Other commits may read its users at the same time; none decides meanwhile. | [`Settlement::settle_stripe`] | `lock_share`; `NO_SHARED_LOCK` |
//! | 3. Count the rows and charges of each user, before anything of it is read. | [`Settlement::count`] | `count_charges`; `COUNT_BEFORE_LOCK`, `COUNT_AFTER_CHECK` |
//! | 4. A user whose headroom suffices for all that is counted is settled. | [`Published::count_and_ask`] | `assess`: `SUFFICES`; `NO_NAME_BY_LOST` |
//! | 5. Read each other user's checkpoint, and pass over its delta with the rows in flight. If all outcomes lie on the announced level, publish what they leave as headroom. | [`Settlement::assess`] | `assess`: `scan_dirty`, `publish`; `NO_DIRTY_SCAN`, `COUNT_AFTER_SCAN`, `COUNT_OWN_GRANTS` |
//! | 6. If that is so of all users of the stripe, refresh the checkpoints that lag. The stripe is settled. | [`refresh::refresh_if_free`] | `refresh`; `NO_TRY_LOCK`, `REFRESH_BEFORE_DECISION` |
//! | 7. Otherwise release the stripe and take it exclusively. That waits for every commit that shares it to end. | [`Settlement::settle_stripe`] | `straddles`: `unlock`, `lock_exclusive`; `NO_EXCLUSIVE_LOCK` |
//! | 8. Read every noted user of the stripe again: another transaction may have settled one meanwhile, without our rows. Committed rows and our own decide, those of one snapshot. Write the checkpoint and queue the notification. | [`Settlement::decide`] | `decide`: `take_snapshot`, `sum_snapshot`, `write_row`; `NO_REREAD`, `NO_RESCAN`, `DIRTY_DECISION` |
//! | 9. Postgres releases the stripes when the commit is visible. | the server | `commit`, then `release` |
//!
//! A user whose refresh is forced ([`Request::Refresh`]), whose boundaries change ([`Request::Rebound`]), or one of whose rows takes back
//! another ([`reversals`]), starts at step 7, and is counted then.
//!
//! What the others have of these steps:
//!
//! | step | with thresholds, in `levels.pml` | where a user must be covered, in `holds.pml` |
//! |---|---|---|
//! | 3 | `count`: charges, then grants; `GRANTS_NOT_COUNTED`, `PREPARED_NOT_COUNTED` | `count`: what is held, too; `HOLD_NOT_COUNTED`, `EXTENSION_NOT_COUNTED` |
//! | 4 | `SUFFICES`: both counts; `ONE_SIDED` | `SUFFICES`: `covered_until`, too ([`Published::covers`]) |
//! | 5 | `assess`: the nearest boundaries (`measure`), both ceilings or none (`publish`); `OWN_GRANTS_LEFT`, `OWN_CHARGES_LEFT`, `MERGED`, `PUBLISH_LATE` | `judge` reads the clock, `assess` passes over holds, then the delta, and reads the charges again ([`Published::charged_since`]); `BY_INTERVAL_ALONE`, `CLOCK_BEFORE_LOCK` |
//! | 8 | `decide`: every boundary, those of `spending_limits` where they were changed or there is no checkpoint; a change voids the headroom; `NO_VOID`, `CHANGE_SHARED`, `STAYING_SILENT`, `LIMITS_BEFORE_LOCK` | `decide`: the clock after the snapshot, own rows judged again, what is not covered refused; `CLOCK_BEFORE_SNAPSHOT`, `JUDGED_ONCE`, `COVERED_ONCE` |
//!
//! **No crossing is missed.** Of the transactions that make one together, take the last that looks, in step 4 or 5. It sees the
//! rows of all others: committed, in flight or counted. So it is in doubt and decides, and step 7 has waited for all that
//! settled before it. What is in flight under the exclusive stripe is followed by a settlement of its own, or is prepared: then
//! the user's next settlement announces it. **None is announced twice**: the side announced last is read and written
//! under the exclusive stripe only.
//!
//! Locks of relations come before those of stripes ([`lock_order`]). Where a settlement needs the lock of a relation that is not
//! free, it releases every stripe, waits for the relations and begins anew at step 1 (`begin_anew`; `COUNTED_ONCE`, `ANEW_AFTER_REFRESH`).
//! It has written nothing by then. What it has counted is counted a second time, which makes headroom smaller than it is.

use std::cell::LazyCell;

use ledger::caps::{AnnouncedCap, CapChange, CapState};
use ledger::credits::{Credits, SumOutOfRange};
use ledger::fold::Fold;
use ledger::id::UserId;
use ledger::segment::headroom::{Counted, Cover};
use ledger::settlement::{
    self, Assessment, Change, Checkpoint, Decision, Found, FoundRows, Own, Request, Terms,
};
use ledger::statistics::Event;
use ledger::stripe;

use super::boundaries::LimitsScan;
use super::caps::CapsScan;
use super::claims;
use super::commit_view::{CommitView, Moment};
use super::cover::CoverScans;
use super::lock_order::{self, OpenIfFree, Writers};
use super::noted::{self, NotedUser};
use super::published::Published;
use super::refresh::{self, Lagging};
use super::reversals::{self, ReversalScans};
use super::{attachment, checkpoint, notification, statistics};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::NotFree;
use crate::pg::{buckets, lock, xact};
use crate::settings;

/// Settles every user that the transaction has noted. An error rolls the transaction back.
pub fn settle_noted() {
    let noted = noted::take();
    if noted.is_empty() {
        return;
    }
    // Gone if the transaction dropped the extension, or if another one did and this one has no rows.
    let Some(relations) = Relations::locked_at_commit() else { return };
    let settled = |(user, noted)| Settled { user, noted, counted: Counted::default(), has_headroom: false };
    let mut users: Vec<Settled> = noted.into_iter().map(settled).collect();
    stripe::sort_for_settlement(&mut users, |settled| settled.user);
    attachment::grow_if_full();
    let mut settlement = Settlement::open(relations);
    loop {
        match settlement.settle(&mut users) {
            Ok(()) => return settlement.finish(),
            Err(Stop::NotFree) => settlement.wait_for_relations(),
            Err(Stop::Failed(error)) => error.raise(),
        }
    }
}

/// A user that is being settled.
struct Settled {
    user: UserId,
    noted: NotedUser,
    counted: Counted,
    /// Whether headroom that was published sufficed for what has been counted.
    has_headroom: bool,
}

/// The settlement of a transaction.
struct Settlement {
    relations: Relations,
    /// The stripes that are shared.
    sharing: Vec<u8>,
    /// Opened for the first user that is read.
    view: Option<CommitView>,
    /// Opened for the first checkpoint that is written.
    writers: Option<Writers>,
    /// Opened for the first user whose rows take back others.
    reversals: Option<ReversalScans>,
    /// Opened for the first decision.
    limits: Option<LimitsScan>,
    /// Opened for the first user that has spend caps, and for the first decision.
    caps: Option<CapsScan>,
    /// What caps have become.
    cap_changes: Vec<(UserId, CapChange)>,
    /// Opened for the first user that may have to be covered.
    cover: Option<CoverScans>,
}

/// Why a settlement stops.
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
        Self {
            relations,
            sharing: Vec::new(),
            view: None,
            writers: None,
            reversals: None,
            limits: None,
            caps: None,
            cap_changes: Vec::new(),
            cover: None,
        }
    }

    fn settle(&mut self, users: &mut [Settled]) -> Result<(), Stop> {
        let is_of_one = |a: &Settled, b: &Settled| stripe::of_user(&a.user) == stripe::of_user(&b.user);
        let mut stripes = users.chunk_by_mut(is_of_one).peekable();
        while let Some(users) = stripes.next() {
            self.settle_stripe(users, stripes.peek().is_none())?;
        }
        Ok(())
    }

    /// Releases every lock and closes every scan of the settlement, then waits for the locks of relations.
    fn wait_for_relations(&mut self) {
        self.view = None;
        self.writers = None;
        self.reversals = None;
        self.limits = None;
        self.caps = None;
        self.cover = None;
        self.sharing.drain(..).for_each(lock::release_shared_stripe);
        if reversals::any_noted() {
            reversals::wait_for_indexes(&self.relations);
        }
        lock_order::wait_for_relations(&self.relations);
    }

    fn settle_stripe(&mut self, users: &mut [Settled], is_last: bool) -> Result<(), Stop> {
        let stripe = stripe::of_user(&users[0].user);
        let is_decided = |noted: &NotedUser| noted.request.is_forced() || noted.reverses;
        if users.iter().any(|settled| is_decided(&settled.noted)) {
            self.prepare_to_decide()?;
            lock::lock_stripe(stripe);
            let published = self.count(users);
            self.require_here(&published, users)?;
            return self.decide(&published, users);
        }
        lock::share_stripe(stripe);
        self.sharing.push(stripe);
        let published = self.count(users);
        self.require_here(&published, users)?;
        if let Agreement::All { lagging } = self.assess(&published, users)? {
            // Not earlier: with a user in doubt the stripe is released, and another commit could write what this one has written.
            if !lagging.is_empty() {
                // What has been written is not let go of: nothing may be left that a decision about another stripe could wait for.
                if is_last || self.open_to_decide().is_ok() {
                    refresh::refresh_if_free(stripe, &lagging, &self.relations, self.writers.as_ref());
                } else {
                    statistics::count(Event::RefreshSkipped, lagging.len());
                }
            }
            return Ok(());
        }
        self.prepare_to_decide()?;
        self.sharing.pop();
        lock::release_shared_stripe(stripe);
        lock::lock_stripe(stripe);
        // Again: the stripe was let go.
        let published = self.published();
        self.require_here(&published, users)?;
        self.decide(&published, users)
    }

    /// What is published as of now. Opened again with each lock of a stripe: while the transaction waited for it, an
    /// operator may have repaired a checkpoint, and then nothing holds that was published before.
    fn published(&self) -> Published {
        Published::open(&self.relations)
    }

    /// Counts what the transaction has written of the users of a stripe that it has, and asks for headroom.
    fn count(&self, users: &mut [Settled]) -> Published {
        let published = self.published();
        for settled in users.iter_mut().filter(|settled| !settled.noted.only_asks()) {
            (settled.counted, settled.has_headroom) =
                published.count_and_ask(&settled.user, &settled.noted.written);
        }
        published
    }

    /// Refuses users that this node does not have, or not any more.
    fn require_here(&self, published: &Published, users: &[Settled]) -> Result<(), LedgerError> {
        published.accept_invalidations();
        buckets::require_at_commit(&self.relations, users.iter().map(|settled| &settled.user))
    }

    /// Opens everything that a decision can need. From here on the settlement waits for no relation.
    fn prepare_to_decide(&mut self) -> Result<(), NotFree> {
        self.open_to_decide()?;
        self.writers.iter().for_each(Writers::require_plain_indexes);
        Ok(())
    }

    fn open_to_decide(&mut self) -> Result<(), NotFree> {
        CommitView::get_or_open(&mut self.view, &self.relations)?.open_key_if_free()?;
        Writers::get_or_open(&mut self.writers, &self.relations)?;
        if reversals::any_noted() {
            ReversalScans::get_or_open(&mut self.reversals, &self.relations)?;
        }
        if claims::any_guarded() {
            CoverScans::get_or_open(&mut self.cover, &self.relations)?;
        }
        LimitsScan::get_or_open(&mut self.limits, &self.relations)?;
        CapsScan::get_or_open(&mut self.caps, &self.relations)?;
        Ok(())
    }

    /// Reads users of a shared stripe, except those whose headroom suffices, until one is in doubt.
    fn assess(&mut self, published: &Published, users: &[Settled]) -> Result<Agreement, Stop> {
        let now = LazyCell::new(Moment::now);
        let mut lagging = Vec::new();
        for Settled { user, noted, counted, has_headroom } in users.iter().filter(|it| !it.noted.only_asks())
        {
            let NotedUser { request, written, .. } = noted;
            let has_headroom = *request == Request::Settle && *has_headroom;
            // What is published of the cover stays true while a crossing or a checkpoint that lags has the balance read.
            let may_ask = claims::guards(user) && !published.covers(user, counted);
            if has_headroom && !may_ask {
                continue;
            }
            xact::check_for_interrupts();
            let view = CommitView::get_or_open(&mut self.view, &self.relations)?;
            // Holds before the delta: a hold that is captured meanwhile is met in both, or has been counted.
            let covered = if may_ask {
                let scans = CoverScans::get_or_open(&mut self.cover, &self.relations)?;
                // After the count: whoever takes another hold for expired has counted it, or sees an extension that it must cover.
                let clock = xact::now();
                match scans.cover_at_most(user, &now, clock)? {
                    None if has_headroom => continue,
                    covered => covered,
                }
            } else {
                None
            };
            let is_due = *request != Request::Settle || published.lags(user, counted);
            let known = view.look::<Stop>(user, &now, published, is_due)?;
            let rows = match &known {
                Some((checkpoint, pass)) => FoundRows::Checkpoint(checkpoint, &pass.sums),
                None => FoundRows::NoCheckpoint { has_rows: view.has_rows(user) },
            };
            let mut caps = match &known {
                Some((Checkpoint { announced, .. }, _)) if !announced.caps.is_empty() => {
                    let scan = CapsScan::get_or_open(&mut self.caps, &self.relations)?;
                    scan.spends_in_flight(user, &announced.caps, &now, published, &self.relations)?
                }
                _ => Vec::new(),
            };
            if let Some(covered) = &covered {
                covered.add_to(&mut caps)?;
            }
            let cover = covered.map(|covered| Cover {
                held: covered.held,
                released: claims::released(user),
                charged_since: published.charged_since(user, counted),
            });
            let interval = settings::checkpoint_interval();
            let interval = known.as_ref().map_or(interval, |(_, pass)| pass.interval(interval));
            let found = Found { rows, cover: cover.as_ref(), caps: &caps };
            let own = Own { request: *request, written: *written, counted: *counted };
            match settlement::assess(&found, &own, interval)? {
                Assessment::Nothing => {}
                Assessment::Doubt => return Ok(Agreement::Doubtful),
                Assessment::Agrees { headroom, lags } => {
                    if let Some(headroom) = headroom {
                        published.publish_headroom(user, &headroom);
                    }
                    if let (true, Some((checkpoint, pass))) = (lags, known) {
                        let refreshed = pass.into_refreshed();
                        lagging.push(Lagging { user: *user, stored: checkpoint.fold, refreshed });
                    }
                }
            }
        }
        Ok(Agreement::All { lagging })
    }

    /// Decides with the stripe to itself.
    fn decide(&mut self, published: &Published, users: &[Settled]) -> Result<(), Stop> {
        statistics::count(Event::ExclusiveSection, 1);
        let relations = self.relations;
        let view = CommitView::get_or_open(&mut self.view, &relations)?;
        let writers = Writers::get_or_open(&mut self.writers, &relations)?;
        let limits = LimitsScan::get_or_open(&mut self.limits, &relations)?;
        let caps = CapsScan::get_or_open(&mut self.caps, &relations)?;
        let now = Moment::now();
        // After the snapshot: a hold that expires in between is left out of what is available at neither moment.
        let clock = xact::now();
        let mut deltas = view.deltas_at(&now, &relations);
        let nothing = Fold::default();
        for Settled { user, noted, .. } in users.iter().filter(|it| !it.noted.only_asks()) {
            let NotedUser { request, reverses, deleted, .. } = noted;
            xact::check_for_interrupts();
            if *reverses {
                let scans = ReversalScans::get_or_open(&mut self.reversals, &relations)?;
                scans.check(user, || now.sight())?;
            }
            let stored = view.stored(user, &now)?;
            match &stored {
                Some(stored) => published.check_version(stored.stored_by, now.snapshot()),
                None => published.check_against(now.snapshot()),
            }
            let checkpoint = stored.as_ref().map(|stored| &stored.checkpoint);
            let fold = checkpoint.map_or(&nothing, |checkpoint| &checkpoint.fold);
            let pass = deltas.pass(user, fold, published)?;
            let interval = settings::checkpoint_interval();
            let cover = match &mut self.cover {
                Some(scans) if claims::guards(user) => scans.cover(user, &now, clock, &relations)?,
                _ => None,
            };
            let boundaries = (stored.is_none() || request.is_forced()).then(|| limits.find(user, &now));
            let known_caps: &[AnnouncedCap] = match (checkpoint, deleted) {
                (Some(checkpoint), _) => &checkpoint.announced.caps,
                (None, Some(deleted)) => &deleted.caps,
                (None, None) => &[],
            };
            let mut spends = if boundaries.is_some() || !known_caps.is_empty() {
                caps.spends_to_decide(user, known_caps, *request, &now, clock, &relations)?
            } else {
                Vec::new()
            };
            if let Some(cover) = &cover {
                cover.add_to(&mut spends)?;
            }
            if request.is_forced() && !(spends.is_empty() && known_caps.is_empty()) {
                // What a cap allows may be less than before, whatever was announced of it.
                published.void_headroom(user);
            }
            let terms = Terms {
                request: *request,
                deleted: deleted.as_deref(),
                boundaries: boundaries.as_ref(),
                held: cover.as_ref().map(|cover| cover.held),
                caps: &spends,
            };
            let decision = settlement::decide(checkpoint, &pass.sums, &terms, interval, clock)?;
            let change = match decision {
                Decision::Nothing => continue,
                Decision::Refuse { available, limit } => {
                    let asked = cover.map_or(Ok(Credits::ZERO), |cover| cover.asked())?;
                    return Err(Stop::Failed(LedgerError::InsufficientCredits {
                        user: *user,
                        asked,
                        available: available.checked_add(asked)?,
                        overdraft_limit: Credits::ZERO.checked_sub(limit)?,
                    }));
                }
                Decision::Exceed(refusal) => {
                    return Err(Stop::Failed(LedgerError::SpendCapReached { user: *user, refusal }));
                }
                Decision::Write(change) => change,
            };
            if change.rebounds {
                published.void_headroom(user);
            }
            let stored = stored.as_ref();
            let Change { announced, overdraft, .. } = &change;
            if change.refreshes {
                let refreshed = deltas.refreshed(user, fold, pass)?;
                refresh::write(&relations, writers, user, stored, &refreshed, announced, *overdraft)?;
                statistics::count(Event::Refresh, 1);
            } else {
                checkpoint::write(
                    &relations,
                    &writers.checkpoints,
                    user,
                    stored,
                    fold,
                    announced,
                    *overdraft,
                )?;
            }
            // What another node has announced is copied with the account.
            if buckets::is_copied(user) {
                continue;
            }
            for crossing in &change.crossings {
                notification::announce(user, crossing);
                statistics::count(crossing.direction.into(), 1);
            }
            self.cap_changes.extend(change.cap_changes.into_iter().map(|change| (*user, change)));
        }
        Ok(())
    }

    /// The commit follows, and waits for no relation any more.
    fn finish(&self) {
        if let Some(view) = &self.view {
            view.keep_locks();
        }
        if let Some(limits) = &self.limits {
            limits.keep_locks();
        }
        if let Some(caps) = &self.caps {
            caps.keep_locks();
        }
        self.announce_caps();
    }

    /// Queues the notifications of what caps have become. First of those that are open: a cap may have been given to another account, of
    /// which it is reached at once.
    fn announce_caps(&self) {
        let is_open = |(_, change): &&(UserId, CapChange)| change.state == CapState::Open;
        let changes = &self.cap_changes;
        for (user, change) in changes.iter().filter(is_open).chain(changes.iter().filter(|it| !is_open(it))) {
            notification::announce_cap(user, change);
        }
    }
}

/// Whether the users of a stripe are on the announced side of zero, whatever becomes of the rows in flight.
enum Agreement {
    /// All of them. The checkpoints of some lag.
    All { lagging: Vec<Lagging> },
    /// At least one may not be, or has no announced side.
    Doubtful,
}
