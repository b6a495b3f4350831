//! What this backend and others tell each other: folds, and how much users can spend.
//!
//! What a coverage covers never changes, so a fold that was computed once stays true for good, written down or not, and
//! even if the transaction that computed it rolls back. A published fold saves a backend the rows that others have read
//! before. [`ledger::coverage::Coverage::serves`] says which readers may use one. [`ledger::shared::headroom`] says why
//! headroom stays true.

use std::cell::{Cell, OnceCell, RefCell};

use ledger::coverage::OpenTransactions;
use ledger::fold::{DeltaPass, Fold};
use ledger::shared::folds::Published;
use ledger::shared::headroom::{Counted, Headroom, Written};
use ledger::shared::{self, Origin};
use pgrx::pg_sys;

use super::Id;
use crate::pg::catalog::{self, Relations};
use crate::pg::relation::Table;
use crate::pg::shared::{Directory, database};
use crate::pg::snapshot::Snapshot;
use crate::pg::xact;
use crate::settings;

thread_local! {
    /// Looked up once; `None` if the server has no room for it.
    static DIRECTORY: OnceCell<Option<&'static Directory>> = const { OnceCell::new() };
    /// Attached to once; `None` if that failed.
    static MEMORY: OnceCell<Option<&'static shared::Shared>> = const { OnceCell::new() };
    /// The generation of the ledger that this backend last entered an epoch with.
    static ENTERED: Cell<Option<u64>> = const { Cell::new(None) };
    /// The transactions that were open when this backend last learnt of a change.
    static LEARNT: RefCell<OpenTransactions> = RefCell::default();
    /// Whether this transaction may have changed the ledger, or checkpoints, other than as the engine does.
    static CHANGING: Cell<bool> = const { Cell::new(false) };
    /// Whether this transaction has announced a change.
    static ANNOUNCING: Cell<bool> = const { Cell::new(false) };
}

/// What a settlement or a reader may rely on.
pub struct Shared {
    memory: Option<(&'static shared::Shared, Origin)>,
    /// What this transaction sees may differ from what others do.
    may_differ: bool,
}

impl Shared {
    /// As of now: a ledger changed before is read afresh. Nothing is used or published by a transaction that may have changed
    /// rows or checkpoints: it may be rolled back.
    pub fn open(relations: &Relations, ledger: &Table) -> Self {
        let memory = memory().and_then(|memory| {
            let epoch = enter_epoch(memory, relations.ledger)?;
            Some((memory, Origin { database: database(), ledger: relations.ledger.to_u32(), epoch }))
        });
        let may_differ = CHANGING.get() || !ledger.only_gains_noted_rows();
        Self { memory, may_differ }
    }

    /// The same for a reader for whom these transactions are open. If it sees the ledger as it was before a change that has been
    /// learnt of, then what it computes is not true of the ledger any more, nor what others have computed since of what it sees.
    pub fn open_for_reader(relations: &Relations, ledger: &Table, open: &OpenTransactions) -> Self {
        let mut shared = Self::open(relations, ledger);
        shared.may_differ |= !LEARNT.with_borrow(|learnt| open.is_as_late_as(learnt));
        shared
    }

    fn usable(&self) -> Option<&(&'static shared::Shared, Origin)> {
        self.memory.as_ref().filter(|_| !self.may_differ)
    }

    /// The published fold of the user.
    pub fn fold(&self, user: &Id) -> Option<Published> {
        let (memory, origin) = self.usable()?;
        memory.folds.get(origin, user)
    }

    /// How many rows of the user have been counted; `None` if not all are.
    pub fn rows(&self, user: &Id) -> Option<u64> {
        let (memory, origin) = self.usable()?;
        let rows = memory.headroom.rows(origin, user);
        everyone_counts().then_some(rows)
    }

    /// Tells that the fold has been complete since so many rows had been counted.
    pub fn complete_fold(&self, user: &Id, fold: &Fold, rows: u64) {
        if let Some((memory, origin)) = self.usable() {
            memory.folds.complete(origin, user, fold, rows);
        }
    }

    /// Publishes the fold.
    pub fn publish_fold(&self, user: &Id, fold: &Fold) {
        if let Some((memory, origin)) = self.usable() {
            memory.folds.publish(origin, user, fold);
        }
    }

    /// Counts what the transaction has written of the user: all others rely on it.
    pub fn count(&self, user: &Id, written: &Written) -> Counted {
        match &self.memory {
            Some((memory, origin)) => memory.headroom.count(origin, user, written),
            None => {
                if let Some(directory) = directory() {
                    directory.miss();
                }
                Counted::default()
            }
        }
    }

    /// Whether the user is known to stay above zero, and its checkpoint to lag behind by less than the interval, with all
    /// that has been counted.
    pub fn has_headroom(&self, user: &Id, counted: &Counted) -> bool {
        let known = self.usable().and_then(|(memory, origin)| memory.headroom.get(origin, user));
        known.is_some_and(|headroom| {
            headroom.suffices(counted, settings::checkpoint_interval().unsigned_abs())
        }) && everyone_counts()
    }

    /// Tells what a pass leaves of a user whose announced side is above zero.
    pub fn publish_headroom(
        &self,
        user: &Id,
        pass: &DeltaPass,
        written: &Written,
        counted: &Counted,
        lag: i64,
    ) {
        if let Some((memory, origin)) = self.usable()
            && let Some(left) = Headroom::left_by(pass.outlook(), written, counted, lag.unsigned_abs())
        {
            memory.headroom.publish(origin, user, &left);
        }
    }

    /// The user's checkpoint is gone, perhaps because it was wrong: what was told of it is not used from here on, and by
    /// nobody when the transaction has committed. A user of whom no row was folded never had a checkpoint.
    pub fn forget(&mut self, relations: &Relations, user: &Id) {
        let known = self.memory.as_ref().and_then(|(memory, origin)| memory.folds.get(origin, user));
        if known.is_some_and(|known| known.fold.transaction_count > 0) {
            self.may_differ = true;
            announce_change(relations);
        }
    }
}

fn directory() -> Option<&'static Directory> {
    DIRECTORY.with(|directory| *directory.get_or_init(Directory::find))
}

fn everyone_counts() -> bool {
    directory().is_some_and(Directory::is_shared_by_all)
}

fn attached() -> Option<&'static shared::Shared> {
    MEMORY.with(|memory| memory.get().copied().flatten())
}

fn memory() -> Option<&'static shared::Shared> {
    MEMORY.with(|memory| match memory.get() {
        Some(&memory) => memory,
        // Attaching runs a subtransaction: another call will.
        None if xact::is_parallel() => None,
        None => *memory.get_or_init(|| directory()?.attach()),
    })
}

/// Has everyone forget what was told, as soon as the transaction has committed: what is not the engine's doing has changed
/// what is derived from the ledger. Unlike a change of the ledger it leaves no mark on a definition.
pub fn announce_change(relations: &Relations) {
    if memory().is_none()
        && let Some(directory) = directory()
    {
        directory.miss();
    }
    ANNOUNCING.set(true);
    catalog::announce_change(relations.ledger);
}

/// The transaction has committed.
pub fn publish_change() {
    if ANNOUNCING.get()
        && let Some(memory) = attached()
    {
        memory.epoch.begin();
    }
}

/// The transaction is about to be prepared: whoever commits it will not know that it announces a change.
pub fn prepare_change() {
    if ANNOUNCING.get()
        && let Some(memory) = attached()
    {
        memory.definitions.void();
    }
}

/// The transaction is over.
pub fn end_transaction() {
    CHANGING.set(false);
    ANNOUNCING.set(false);
}

/// Enters the epoch as [`shared::Epoch::current`] says. A change that is learnt of may be the transaction's own, which others
/// learn of when it commits, and so does this one when it is rolled back. `None` if there is one to learn of while workers of
/// a parallel query run, where no snapshot can be taken.
fn enter_epoch(memory: &shared::Shared, ledger: pg_sys::Oid) -> Option<u64> {
    loop {
        let current = memory.epoch.current();
        catalog::accept_invalidations();
        let generation = Some(catalog::ledger_generation());
        let entered = ENTERED.get();
        if entered == generation {
            return Some(current);
        }
        if xact::is_parallel() {
            return None;
        }
        LEARNT.set(Snapshot::latest().open_transactions());
        CHANGING.set(CHANGING.get() || xact::has_written());
        let definition = catalog::definition(ledger);
        let seen = definition.is_some_and(|digest| memory.definitions.contains(database(), digest));
        if entered.is_some() || !seen || !everyone_counts() {
            memory.epoch.begin();
            if let Some(digest) = definition {
                memory.definitions.note(database(), digest);
            }
        }
        ENTERED.set(generation);
    }
}
