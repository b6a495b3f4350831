//! Settlement: what happens at commit to the users whose balance a transaction changes.
//!
//! What follows from the rows that are read here is computed by [`ledger::settlement`].
//!
//! 1. Sort the users by stripe. Settle one stripe after the other, ascending, so that no two commits wait for each other:
//!    [`settle_noted`].
//! 2. Share the stripe. Other commits may read its users at the same time; none decides meanwhile: [`Settlement::settle_stripe`].
//! 3. Count the rows and charges of each user, before anything of it is read: [`Settlement::count`].
//! 4. A user whose headroom suffices for all that is counted is settled: [`Published::count_and_ask`].
//! 5. Read each other user's checkpoint, and pass over its delta with the rows in flight. If all outcomes lie on the announced level,
//!    publish what they leave as headroom: [`Settlement::assess`].
//! 6. If that is so of all users of the stripe, refresh the checkpoints that lag. The stripe is settled: [`refresh::refresh_if_free`].
//! 7. Otherwise release the stripe and take it exclusively. That waits for every commit that shares it to end:
//!    [`Settlement::settle_stripe`].
//! 8. Read every noted user of the stripe again: another transaction may have settled one meanwhile, without our rows. Committed rows
//!    and our own decide, those of one snapshot. Write the checkpoint and queue the notification: [`Settlement::decide`].
//! 9. Postgres releases the stripes when the commit is visible.
//!
//! A user whose refresh is forced or whose boundaries change ([`Request`](ledger::settlement::Request)), or one of whose rows takes back
//! another ([`reversals`]), starts at step 7, and is counted then.
//!
//! Four models have every schedule explored: `models/settlement.pml` for users whose only boundary is zero, `models/levels.pml` for one
//! with thresholds, `models/holds.pml` for what must be covered, `models/caps.pml` for spend caps. What does the same in
//! `settlement.pml`, and which flags remove or change it:
//!
//! | step | in the model | flags |
//! |---|---|---|
//! | 1 | `Transaction`: the loop over `STRIPES` | `NO_ORDER` |
//! | 2 | `lock_share` | `NO_SHARED_LOCK` |
//! | 3 | `count_charges` | `COUNT_BEFORE_LOCK`, `COUNT_AFTER_CHECK` |
//! | 4 | `assess`: `SUFFICES` | `NO_NAME_BY_LOST` |
//! | 5 | `assess`: `scan_dirty`, `publish` | `NO_DIRTY_SCAN`, `COUNT_AFTER_SCAN`, `COUNT_OWN_GRANTS` |
//! | 6 | `refresh` | `NO_TRY_LOCK`, `REFRESH_BEFORE_DECISION` |
//! | 7 | `straddles`: `unlock`, `lock_exclusive` | `NO_EXCLUSIVE_LOCK` |
//! | 8 | `decide`: `take_snapshot`, `sum_snapshot`, `write_row` | `NO_REREAD`, `NO_RESCAN`, `DIRTY_DECISION` |
//! | 9 | `commit`, then `release` | |
//!
//! With thresholds, in `levels.pml`:
//!
//! | step | in the model | flags |
//! |---|---|---|
//! | 3 | `count`: charges, then grants | `GRANTS_NOT_COUNTED`, `PREPARED_NOT_COUNTED` |
//! | 4 | `SUFFICES`: both counts | `ONE_SIDED` |
//! | 5 | `assess`: the nearest boundaries (`measure`) | |
//! | | both ceilings or none (`publish`) | `OWN_GRANTS_LEFT`, `OWN_CHARGES_LEFT`, `MERGED`, `PUBLISH_LATE` |
//! | 8 | `decide`: every boundary, those of `spending_limits` where they were changed or there is no checkpoint | `LIMITS_BEFORE_LOCK`, `STAYING_SILENT` |
//! | | a change decides, and voids the headroom | `CHANGE_SHARED`, `NO_VOID` |
//!
//! Where a user must be covered, in `holds.pml`:
//!
//! | step | in the model | flags |
//! |---|---|---|
//! | 3 | `count`: what is held, too | `HOLD_NOT_COUNTED`, `EXTENSION_NOT_COUNTED` |
//! | 4 | `SUFFICES`: `covered_until`, too ([`Published::covers`]) | |
//! | 5 | `judge` reads the clock | `CLOCK_BEFORE_LOCK` |
//! | | `assess` passes over holds, then the delta, and reads the charges again ([`Published::charged_since`]) | `BY_INTERVAL_ALONE` |
//! | 8 | `decide`: the clock after the snapshot | `CLOCK_BEFORE_SNAPSHOT` |
//! | | own rows judged again, what is not covered refused | `JUDGED_ONCE`, `COVERED_ONCE` |
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

mod assessment;
mod decision;
mod opened;

use ledger::caps::{CapChange, CapState};
use ledger::credits::SumOutOfRange;
use ledger::id::UserId;
use ledger::segment::headroom::Counted;
use ledger::statistics::Event;
use ledger::stripe;

use self::assessment::Agreement;
use self::opened::Opened;
use super::lock_order;
use super::noted::{self, NotedUser};
use super::published::Published;
use super::refresh::{self, Lagging};
use super::{attachment, notification, reversals, statistics};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::NotFree;
use crate::pg::{buckets, lock};

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
    let mut settlement =
        Settlement { relations, sharing: Vec::new(), opened: Opened::default(), cap_changes: Vec::new() };
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

impl Settled {
    /// Whether the commit does not assess first.
    fn is_decided_at_once(&self) -> bool {
        self.noted.request.is_forced() || self.noted.reverses
    }
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

/// The settlement of a transaction.
struct Settlement {
    relations: Relations,
    /// The stripes that are shared.
    sharing: Vec<u8>,
    opened: Opened,
    /// What caps have become.
    cap_changes: Vec<(UserId, CapChange)>,
}

impl Settlement {
    fn settle(&mut self, users: &mut [Settled]) -> Result<(), Stop> {
        let is_of_one = |a: &Settled, b: &Settled| stripe::of_user(&a.user) == stripe::of_user(&b.user);
        let mut stripes = users.chunk_by_mut(is_of_one).peekable();
        while let Some(users) = stripes.next() {
            let stripe = stripe::of_user(&users[0].user);
            let lagging = self.settle_stripe(stripe, users)?;
            if lagging.is_empty() {
                continue;
            }
            // What has been written is not let go of: nothing may be left that a decision about a later stripe could wait for.
            if stripes.peek().is_none() || self.opened.open_to_decide(&self.relations).is_ok() {
                refresh::refresh_if_free(stripe, lagging, &self.relations, self.opened.writers.as_ref());
            } else {
                statistics::count(Event::RefreshSkipped, lagging.len());
            }
        }
        Ok(())
    }

    /// Releases every lock and closes every scan of the settlement, then waits for the locks of relations.
    fn wait_for_relations(&mut self) {
        self.opened = Opened::default();
        self.sharing.drain(..).for_each(lock::release_shared_stripe);
        if reversals::any_noted() {
            reversals::wait_for_indexes(&self.relations);
        }
        lock_order::wait_for_relations(&self.relations);
    }

    /// Settles the users of a stripe. Returns the checkpoints that lag: they are to be refreshed while the stripe is shared, and not before
    /// all its users agree, since with one in doubt it is released, and another commit could write what this one has written.
    fn settle_stripe(&mut self, stripe: u8, users: &mut [Settled]) -> Result<Vec<Lagging>, Stop> {
        if users.iter().any(Settled::is_decided_at_once) {
            self.prepare_to_decide()?;
            lock::lock_stripe(stripe);
            let published = self.count(users);
            self.require_here(&published, users)?;
            self.decide(&published, users)?;
            return Ok(Vec::new());
        }
        lock::share_stripe(stripe);
        self.sharing.push(stripe);
        let published = self.count(users);
        self.require_here(&published, users)?;
        if let Agreement::All { lagging } = self.assess(&published, users)? {
            return Ok(lagging);
        }
        self.prepare_to_decide()?;
        self.sharing.pop();
        lock::release_shared_stripe(stripe);
        lock::lock_stripe(stripe);
        // Again: the stripe was let go.
        let published = self.published();
        self.require_here(&published, users)?;
        self.decide(&published, users)?;
        Ok(Vec::new())
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
        let opened = self.opened.open_to_decide(&self.relations)?;
        opened.writers.require_plain_indexes();
        Ok(())
    }

    /// The commit follows.
    fn finish(&self) {
        self.opened.keep_locks();
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
