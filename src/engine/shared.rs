//! What this backend and others tell each other: folds, and how much users can spend.
//!
//! What a coverage covers never changes, so a fold that was computed once stays true for good, written down or not, and
//! even if the transaction that computed it rolls back. A published fold saves a backend the rows that others have read
//! before. [`ledger::coverage::Coverage::serves`] says which readers may use one. [`ledger::shared::headroom`] says why
//! headroom stays true.
//!
//! All of that holds as long as nobody else changes the ledger or its checkpoints. So everything is told in the name of a
//! [`State`] of the ledger, which such a change replaces by another one in the same moment as it commits. Sessions look for the
//! state when an invalidation tells them to, which comes some microseconds later: a reader in between has the answer of before.
//! A settlement does not store one: it compares the state with what it sees.

use ledger::id::UserId;
use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use ledger::coverage::OpenTransactions;
use ledger::fold::{DeltaPass, Fold};
use ledger::shared::folds::Published;
use ledger::shared::headroom::{Counted, Headroom, Written};
use ledger::shared::{self, Origin};

use super::changes;
use crate::pg::catalog::{self, Relations};
use crate::pg::definition::KEEPING_TRIGGERS;
use crate::pg::relation::Table;
use crate::pg::shared::{Directory, database};
use crate::pg::snapshot::Snapshot;
use crate::pg::state::State;
use crate::pg::xact;
use crate::settings;

thread_local! {
    /// Looked up once; `None` if the server has no room for it.
    static DIRECTORY: OnceCell<Option<&'static Directory>> = const { OnceCell::new() };
    static ATTACHMENT: Cell<Attachment> = const { Cell::new(Attachment { memory: None, asked: 0 }) };
    /// The state of the ledger that this backend has learnt of last.
    static LEARNT: Cell<Option<Learnt>> = const { Cell::new(None) };
    /// The transactions that were open then.
    static OPEN_THEN: RefCell<OpenTransactions> = RefCell::default();
}

#[derive(Clone, Copy)]
struct Attachment {
    /// `None` if it failed so far.
    memory: Option<&'static shared::Shared>,
    /// How often it was asked for.
    asked: u32,
}

#[derive(Clone, Copy)]
struct Learnt {
    /// The generation of what is cached.
    generation: u64,
    /// `None` if nobody else is to be told of it.
    state: Option<State>,
}

/// What a settlement or a reader may rely on.
pub struct Shared {
    memory: Option<&'static shared::Shared>,
    relations: Relations,
    state: Option<State>,
    /// How often somebody could not count, before this one looks at anything.
    misses: u64,
    /// What this transaction sees may differ from what others do.
    may_differ: Cell<bool>,
}

impl Shared {
    /// As of now: a ledger changed before is read afresh. Nothing is used or published by a transaction that has changed it
    /// itself: it may be rolled back.
    pub fn open(relations: &Relations, ledger: &Table) -> Self {
        let memory = memory();
        let misses = memory.and_then(|_| directory()).map_or(0, Directory::misses);
        let state = memory.and_then(|_| current_state(relations));
        let may_differ = Cell::new(!ledger.has_triggers_for_all_sessions(&KEEPING_TRIGGERS));
        Self { memory, relations: *relations, state, misses, may_differ }
    }

    /// The same for a reader for whom these transactions are open. If it sees the ledger as it was before a change that has been
    /// learnt of, then what it computes is not true of the ledger any more, nor what others have computed since of what it sees.
    pub fn open_for_reader(relations: &Relations, ledger: &Table, open: &OpenTransactions) -> Self {
        let shared = Self::open(relations, ledger);
        if !OPEN_THEN.with_borrow(|then| open.is_as_late_as(then)) {
            shared.may_differ.set(true);
        }
        shared
    }

    /// Has what was told compared with what the snapshot sees: a change of checkpoints is visible before anybody is told of it.
    pub fn compare_with(&self, snapshot: &Rc<Snapshot>) {
        if self.state.is_some_and(|state| !state.agrees_with(snapshot, &self.relations)) {
            self.may_differ.set(true);
        }
    }

    fn usable(&self) -> Option<(&'static shared::Shared, Origin)> {
        let (memory, state) = self.memory.zip(self.state)?;
        let ledger = self.relations.ledger.to_u32();
        // What was told before somebody could not count is as good as another state's.
        let epoch = state.name.wrapping_add(self.misses);
        (!self.may_differ.get()).then(|| (memory, Origin { database: database(), ledger, epoch }))
    }

    /// The published fold of the user.
    pub fn fold(&self, user: &UserId) -> Option<Published> {
        let (memory, origin) = self.usable()?;
        memory.folds.get(&origin, user)
    }

    /// How many rows of the user have been counted.
    pub fn rows(&self, user: &UserId) -> Option<u64> {
        let (memory, origin) = self.usable()?;
        Some(memory.headroom.rows(origin.database, user))
    }

    /// Tells that the fold has been complete since so many rows had been counted.
    pub fn complete_fold(&self, user: &UserId, fold: &Fold, rows: u64) {
        if let Some((memory, origin)) = self.usable() {
            memory.folds.complete(&origin, user, fold, rows);
        }
    }

    /// Publishes the fold.
    pub fn publish_fold(&self, user: &UserId, fold: &Fold) {
        if let Some((memory, origin)) = self.usable() {
            memory.folds.publish(&origin, user, fold);
        }
    }

    /// Counts what the transaction has written of the user: all others rely on it. Who cannot count has them forget what they
    /// rely on, as if it had charged without end.
    pub fn count(&self, user: &UserId, written: &Written) -> Counted {
        match self.memory {
            Some(memory) => memory.headroom.count(database(), user, written),
            None => {
                if !written.is_empty()
                    && let Some(directory) = directory()
                {
                    directory.miss();
                }
                Counted::default()
            }
        }
    }

    /// Whether the user is known to stay above zero, and its checkpoint to lag behind by less than the interval, with all
    /// that has been counted.
    pub fn has_headroom(&self, user: &UserId, counted: &Counted) -> bool {
        let known = self.usable().and_then(|(memory, origin)| memory.headroom.get(&origin, user));
        known.is_some_and(|headroom| {
            headroom.suffices(counted, settings::checkpoint_interval().unsigned_abs())
        }) && directory().is_some_and(|directory| directory.misses() == self.misses)
    }

    /// Tells what a pass leaves of a user whose announced side is above zero.
    pub fn publish_headroom(
        &self,
        user: &UserId,
        pass: &DeltaPass,
        written: &Written,
        counted: &Counted,
        lag: i64,
    ) {
        if let Some((memory, origin)) = self.usable()
            && let Some(left) = Headroom::left_by(pass.outlook(), written, counted, lag.unsigned_abs())
        {
            memory.headroom.publish(&origin, user, &left);
        }
    }

    /// The user's checkpoint is gone, perhaps because it was wrong: what was told of it is not used from here on, and by
    /// nobody when the transaction has committed. A user of whom no row was folded never had a checkpoint.
    pub fn forget(&self, user: &UserId) {
        let is_known = match self.memory {
            Some(_) => self.fold(user).is_some_and(|known| known.fold.transaction_count > 0),
            // To others, perhaps.
            None => directory().is_some() && !self.may_differ.get(),
        };
        if is_known {
            self.may_differ.set(true);
            changes::announce(&self.relations);
        }
    }
}

fn directory() -> Option<&'static Directory> {
    DIRECTORY.with(|directory| *directory.get_or_init(Directory::find))
}

/// The memory that backends share. Who cannot attach to it tries again, less and less often.
fn memory() -> Option<&'static shared::Shared> {
    let Attachment { memory, asked } = ATTACHMENT.get();
    // Attaching runs a subtransaction.
    if memory.is_some() || xact::is_parallel() {
        return memory;
    }
    let asked = asked.saturating_add(1);
    let memory = if asked.is_power_of_two() { directory().and_then(Directory::attach) } else { None };
    ATTACHMENT.set(Attachment { memory, asked });
    memory
}

/// The state of the ledger as of now. A change that is learnt of may be the transaction's own, which others learn of when it
/// commits, and so does this one when it is rolled back. `None` as well if there is one to learn of while workers of a parallel
/// query run, where no snapshot can be taken.
fn current_state(relations: &Relations) -> Option<State> {
    loop {
        catalog::accept_invalidations();
        let generation = catalog::ledger_generation();
        match LEARNT.get() {
            Some(learnt) if learnt.generation == generation => return learnt.state,
            _ if xact::is_parallel() => return None,
            _ => {
                // One snapshot for both: who sees no less than it sees that state, or a later one.
                let snapshot = Rc::new(Snapshot::latest());
                // Not for long: the next one asks again.
                let Ok(state) = State::seen_by(&snapshot, relations) else { return None };
                OPEN_THEN.set(snapshot.open_transactions());
                LEARNT.set(Some(Learnt { generation, state }));
            }
        }
    }
}
