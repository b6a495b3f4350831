//! Folds that this backend and others have published for each other.
//!
//! What a coverage covers never changes, so a fold that was computed once stays true for good, written down or not, and
//! even if the transaction that computed it rolls back. A published fold saves a backend the rows that others have read
//! before. It is as far as what is stored, or nearly: settlement, which alone stores one, publishes it first.
//! [`ledger::coverage::Coverage::serves`] says which readers may use one.

use std::cell::{Cell, OnceCell};

use ledger::fold::Fold;
use ledger::shared_folds::{Origin, SharedFolds};

use super::Id;
use crate::pg::catalog::{self, Relations};
use crate::pg::relation::{self, Table};
use crate::pg::{shared, xact};

thread_local! {
    /// Looked up once; `None` if the server has no room for them.
    static SHARED: OnceCell<Option<&'static SharedFolds>> = const { OnceCell::new() };
    /// The generation of the ledger that this backend last entered an epoch with.
    static ENTERED: Cell<Option<u64>> = const { Cell::new(None) };
    /// Whether the transaction is to forget what was published, when it commits.
    static FORGETTING: Cell<bool> = const { Cell::new(false) };
}

/// The folds that a settlement or a reader may start from.
pub struct Folds {
    shared: Option<(&'static SharedFolds, Origin)>,
    /// What this transaction sees may differ from what they are made of.
    may_differ: bool,
}

impl Folds {
    /// As of now: a ledger changed before is read afresh. None is used or published by a transaction that may have changed
    /// rows or checkpoints: it may be rolled back.
    pub fn open(relations: &Relations, ledger: &Table) -> Self {
        let shared = shared_folds().map(|folds| {
            let epoch = enter_epoch(folds);
            (folds, Origin { database: shared::database(), ledger: relations.ledger.to_u32(), epoch })
        });
        let may_differ = !ledger.is_append_only() || relation::may_have_written(relations.checkpoints);
        Self { shared, may_differ }
    }

    fn usable(&self) -> Option<&(&'static SharedFolds, Origin)> {
        self.shared.as_ref().filter(|_| !self.may_differ)
    }

    /// The published fold of the user.
    pub fn published(&self, user: &Id) -> Option<Fold> {
        let (folds, origin) = self.usable()?;
        folds.get(origin, user)
    }

    /// Publishes the fold.
    pub fn publish(&self, user: &Id, fold: &Fold) {
        if let Some((folds, origin)) = self.usable() {
            folds.publish(origin, user, fold);
        }
    }

    /// The user's checkpoint is gone, perhaps because it was wrong: what was published of it is not used from here on, and by
    /// nobody when the transaction has committed. A user of whom no row was folded never had a checkpoint.
    pub fn forget(&mut self, user: &Id) {
        let known = self.shared.as_ref().and_then(|(folds, origin)| folds.get(origin, user));
        if known.is_some_and(|fold| fold.transaction_count > 0) {
            self.may_differ = true;
            FORGETTING.set(true);
        }
    }
}

/// The transaction has committed: what it was to forget is forgotten.
pub fn committed() {
    if FORGETTING.take()
        && let Some(folds) = shared_folds()
    {
        folds.begin_epoch();
    }
}

/// The transaction has not committed.
pub fn rolled_back() {
    FORGETTING.set(false);
}

fn shared_folds() -> Option<&'static SharedFolds> {
    SHARED.with(|shared| match shared.get() {
        Some(&folds) => folds,
        // Looking them up runs a subtransaction: another call will.
        None if xact::is_parallel() => None,
        None => *shared.get_or_init(shared::folds),
    })
}

/// Enters the epoch as [`SharedFolds::epoch`] says.
fn enter_epoch(folds: &SharedFolds) -> u64 {
    loop {
        let epoch = folds.epoch();
        catalog::accept_invalidations();
        let generation = Some(catalog::ledger_generation());
        if ENTERED.replace(generation) == generation {
            return epoch;
        }
        folds.begin_epoch();
    }
}
