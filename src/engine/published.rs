//! What this session reads from shared memory and publishes there: folds, headroom, and counts.
//!
//! What a coverage covers never changes, so a fold that was computed once stays true for good, stored or not, and even if
//! the transaction that computed it rolls back. A published fold saves a session the rows that another has read before.
//! [`ledger::coverage::Coverage::serves`] says which snapshots may use one. [`ledger::segment::headroom`] says why headroom
//! stays true.
//!
//! All of that holds as long as only the engine changes the ledger and its checkpoints. So everything is published under
//! the name of a [`State`] of the ledger. A change by hand replaces the state by another one in the moment in which it commits,
//! and what was published under the old name is not found any more. A session determines the state again when an invalidation
//! message arrives, some microseconds after that commit: a reader in between returns the balance of before. A settlement must
//! not store one: it compares the state with what its own snapshot sees ([`Published::check_against`], [`Published::check_version`]).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ledger::coverage::OpenTransactions;
use ledger::fold::Fold;
use ledger::id::UserId;
use ledger::segment::folds::PublishedFold;
use ledger::segment::headroom::{Counted, Headroom, Written};
use ledger::segment::{Segment, StateName};

use super::attachment::{attached_memory, directory, grow_if_full, note_displaced};
use crate::pg::catalog::{self, Relations};
use crate::pg::database;
use crate::pg::relation::NotFree;
use crate::pg::shared_memory::Epoch;
use crate::pg::snapshot::Snapshot;
use crate::pg::state::State;
use crate::pg::xact::{self, SubtransactionId};
use crate::settings;

thread_local! {
    /// The state that this session has determined last.
    static LAST_STATE: Cell<Option<LastState>> = const { Cell::new(None) };
    /// The transactions that were open for the snapshot that saw it.
    static OPEN_IN_LAST_STATE: RefCell<OpenTransactions> = RefCell::default();
}

#[derive(Clone, Copy)]
struct LastState {
    /// [`catalog::ledger_generation`] before the state was determined: it holds until that changes.
    generation: u64,
    /// `None` if nothing may be published.
    state: Option<State>,
    /// Every transaction below this one had ended for a snapshot that saw no other changes of checkpoints than the state has.
    agrees_below: u64,
}

/// Shared memory as one reader or one settlement uses it, under the state that the ledger was in when it began.
pub struct Published {
    /// `None` if this session is not attached.
    segment: Option<Segment<'static>>,
    relations: Relations,
    state: Option<State>,
    /// As the reader or settlement has found it before it looked at anything. No other memory than that of this epoch is used, nor what
    /// was published in another one.
    epoch: Epoch,
    /// This transaction may see the ledger in another state: it neither uses nor publishes anything.
    may_see_another_state: Cell<bool>,
    /// Whether the state has been compared with what the snapshot of the settlement sees.
    is_checked: Cell<bool>,
}

impl Published {
    /// For a transaction that sees the ledger as it is now. One that has itself changed the ledger's definition or its
    /// checkpoints uses and publishes nothing, since it may roll back.
    pub fn open(relations: &Relations) -> Self {
        let (epoch, segment) = attached_memory().unzip();
        let state = segment.and_then(|_| current_state(relations));
        Self {
            segment,
            relations: *relations,
            state,
            epoch: epoch.unwrap_or_default(),
            may_see_another_state: Cell::new(false),
            is_checked: Cell::new(false),
        }
    }

    /// For a reader whose snapshot has these transactions open. A snapshot that is older than the current state may see the
    /// ledger in the state before: what the reader computes is not true of the current one, nor the other way round.
    pub fn open_for_reader(relations: &Relations, open: &OpenTransactions) -> Self {
        grow_if_full();
        let published = Self::open(relations);
        if !OPEN_IN_LAST_STATE.with_borrow(|then| open.is_as_late_as(then)) {
            published.may_see_another_state.set(true);
        }
        published
    }

    /// Uses and publishes nothing from here on if the snapshot sees other changes of checkpoints than the state has: a change
    /// is visible some microseconds before its invalidation message arrives. The settlement reads with one snapshot, which is looked at once.
    pub fn check_against(&self, snapshot: &Rc<Snapshot>) {
        let Some(state) = self.state.filter(|_| !self.is_checked.replace(true)) else { return };
        if state.agrees_with(snapshot, &self.relations) {
            self.agree_below(snapshot.oldest_open());
        } else {
            self.may_see_another_state.set(true);
        }
    }

    /// Does what [`check_against`](Self::check_against) does, unless this version of the one user's checkpoint that the settlement goes by
    /// says that it need not: if a snapshot that agreed with the state has seen all that the version's transaction did, the state has this
    /// version.
    pub fn check_version(&self, stored_by: SubtransactionId, snapshot: &Rc<Snapshot>) {
        if LAST_STATE.get().is_none_or(|last| xact::full_id(stored_by) >= last.agrees_below) {
            self.check_against(snapshot);
        }
    }

    /// Notes that a snapshot agrees for which every transaction below this one had ended. Of a later snapshot that is no lower one.
    fn agree_below(&self, transaction: u64) {
        if let Some(last) = LAST_STATE.get() {
            LAST_STATE.set(Some(LastState { agrees_below: transaction, ..last }));
        }
    }

    /// Processes the invalidations that have been sent, unless that was done when this was opened.
    pub fn accept_invalidations(&self) {
        if self.segment.is_none() {
            catalog::accept_invalidations();
        }
    }

    /// The segment and the name under which this transaction reads and publishes; `None` if it may do neither.
    fn in_state(&self) -> Option<(Segment<'static>, StateName)> {
        if self.may_see_another_state.get() {
            return None;
        }
        let (segment, state) = self.segment.zip(self.state)?;
        // A count that was lost makes untrue what was published before, and so does one that is made in more sets: from then on it
        // has another name.
        let digest = state.digest.wrapping_add(self.epoch.number());
        Some((
            segment,
            StateName { database: database::oid(), ledger: self.relations.ledger.to_u32(), digest },
        ))
    }

    /// The name under which this transaction may use what it has itself kept; `None` if it may use nothing.
    pub fn name(&self) -> Option<StateName> {
        self.in_state().map(|(_, name)| name)
    }

    /// Whether every hold is noted and counted, so that what was counted says how much more may be held.
    fn counts_holds(&self) -> bool {
        self.state.is_some_and(|state| state.notes_holds)
    }

    /// The published fold of the user.
    pub fn fold(&self, user: &UserId) -> Option<PublishedFold> {
        let (segment, state) = self.in_state()?;
        segment.account(state.database, user).fold(&state)
    }

    /// How many rows of the user have been counted.
    pub fn counted_rows(&self, user: &UserId) -> Option<u64> {
        let (segment, state) = self.in_state()?;
        Some(segment.account(state.database, user).counted_rows())
    }

    /// Publishes the fold.
    pub fn publish_fold(&self, user: &UserId, fold: &Fold) {
        if let Some((segment, state)) = self.in_state()
            && segment.account(state.database, user).publish_fold(&state, fold)
        {
            note_displaced(segment);
        }
    }

    /// Publishes that the fold has every row of the user as long as `rows` is the count of its rows.
    pub fn mark_fold_complete(&self, user: &UserId, fold: &Fold, rows: u64) {
        if let Some((segment, state)) = self.in_state() {
            segment.account(state.database, user).mark_fold_complete(&state, fold, rows);
        }
    }

    /// Adds what the transaction has written of the user to the counts, which headroom and complete folds rely on. A session
    /// that is not attached cannot: it records a lost count, by which everything published before becomes invalid.
    pub fn count(&self, user: &UserId, written: &Written) -> Counted {
        match self.segment {
            Some(segment) => segment.account(database::oid(), user).count(written),
            None => {
                if !written.is_empty()
                    && let Some(directory) = directory()
                {
                    directory.record_lost_count();
                }
                Counted::default()
            }
        }
    }

    /// [Counts](Self::count) what the transaction has written, and returns whether published headroom says that with these counts the user
    /// stays on its level, and that its checkpoint lags by less than the interval.
    pub fn count_and_ask(&self, user: &UserId, written: &Written) -> (Counted, bool) {
        let Some(segment) = self.segment else { return (self.count(user, written), false) };
        let account = segment.account(database::oid(), user);
        let counted = account.count(written);
        let published = self.in_state().and_then(|(_, state)| account.headroom(&state));
        let has_headroom = published.is_some_and(|headroom| {
            headroom.suffices(&counted, settings::checkpoint_interval().unsigned_abs())
        });
        (counted, has_headroom)
    }

    /// Whether published headroom says that the user's checkpoint lags by the interval or more.
    pub fn lags(&self, user: &UserId, counted: &Counted) -> bool {
        let interval = settings::checkpoint_interval().unsigned_abs();
        self.headroom(user).is_some_and(|headroom| headroom.lags(counted, interval))
    }

    /// Publishes headroom of the user.
    pub fn publish_headroom(&self, user: &UserId, headroom: &Headroom) {
        if let Some((segment, state)) = self.in_state()
            && segment.account(state.database, user).publish_headroom(&state, headroom)
        {
            note_displaced(segment);
        }
    }

    /// Whether published headroom says that with these counts the user is covered.
    pub fn covers(&self, user: &UserId, counted: &Counted) -> bool {
        self.headroom(user).is_some_and(|headroom| headroom.covers(counted))
    }

    fn headroom(&self, user: &UserId) -> Option<Headroom> {
        let (segment, state) = self.in_state()?;
        segment.account(state.database, user).headroom(&state)
    }

    /// Whether published headroom says that the user is covered if so much more is charged, in steps, than has been counted.
    pub fn covers_as_much_more(&self, user: &UserId, more: u64) -> bool {
        let counted = |segment: Segment<'_>| {
            let charged = segment.account(database::oid(), user).counted_charges();
            Counted::new(charged.saturating_add(more), 0, 0)
        };
        self.segment.is_some_and(|segment| self.covers(user, &counted(segment)))
    }

    /// What has been charged to the user since the settlement had counted, in steps; without end if that is not known.
    pub fn charged_since(&self, user: &UserId, counted: &Counted) -> u64 {
        match self.segment {
            Some(segment) if self.counts_holds() && self.is_in_epoch() => {
                counted.charged_since(segment.account(database::oid(), user).counted_charges())
            }
            _ => u64::MAX,
        }
    }

    /// Has nobody use what was published of the user's headroom, in whichever state: its boundaries will be others when the
    /// transaction commits. The transaction has the stripe exclusively, so nobody publishes anything of the user until then.
    pub fn void_headroom(&self, user: &UserId) {
        let is_void = self.segment.is_some_and(|it| it.account(database::oid(), user).void_headroom());
        if !is_void && let Some(directory) = directory() {
            // By that, nobody uses anything that was published before.
            directory.record_lost_count();
        }
    }

    /// Whether no count has been lost since, and everybody still counts in the same memory.
    fn is_in_epoch(&self) -> bool {
        directory().is_some_and(|directory| directory.epoch() == self.epoch)
    }
}

/// The state of the ledger as of now; `None` if nothing may be published. It is determined again after each invalidation, which
/// may be that of a change by this transaction: then the others follow when it commits, and this session when it rolls back. One that
/// arrives meanwhile has the next call determine it again.
fn current_state(relations: &Relations) -> Option<State> {
    catalog::accept_invalidations();
    let generation = catalog::ledger_generation();
    if let Some(last) = LAST_STATE.get()
        && last.generation == generation
    {
        return last.state;
    }
    // No snapshot can be taken while workers of a parallel query run. Nor is a lock waited for: the next call tries again.
    if xact::is_parallel() {
        return None;
    }
    determine_state(relations, generation).ok().flatten()
}

fn determine_state(relations: &Relations, generation: u64) -> Result<Option<State>, NotFree> {
    // A snapshot that sees no less than this one sees the ledger in this state or in a later one.
    let snapshot = Rc::new(Snapshot::latest());
    let state = State::seen_by(&snapshot, relations)?;
    OPEN_IN_LAST_STATE.set(snapshot.open_transactions());
    LAST_STATE.set(Some(LastState { generation, state, agrees_below: snapshot.oldest_open() }));
    Ok(state)
}
