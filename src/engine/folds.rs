//! Folds that this backend and others have published for each other.
//!
//! A published fold saves a backend the rows that others have read since its own last visit. It is as far as what is stored,
//! or nearly: settlement, which alone stores one, publishes it first. Where nothing can be published, a backend keeps its own
//! as [`private`], which may have fallen far behind what is stored.

use std::cell::{Cell, OnceCell};

use ledger::fold::Fold;
use ledger::shared_folds::{Origin, SharedFolds};

use super::{Id, private};
use crate::pg::catalog::{self, Relations};
use crate::pg::relation::Table;
use crate::pg::{shared, xact};

thread_local! {
    /// Looked up once; `None` if the server has no room for them.
    static SHARED: OnceCell<Option<&'static SharedFolds>> = const { OnceCell::new() };
    /// The generation of the ledger that this backend last entered an epoch with.
    static ENTERED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The folds that a settlement or a reader may start from.
pub struct Folds {
    shared: Option<(&'static SharedFolds, Origin)>,
    is_append_only: bool,
}

impl Folds {
    /// As of now: a ledger changed before is read afresh. While rows are changed by this transaction, or could be, no fold is
    /// used or kept: this transaction may be rolled back.
    pub fn open(relations: &Relations, ledger: &Table) -> Self {
        let is_append_only = ledger.is_append_only();
        let shared = shared_folds().filter(|_| is_append_only).map(|folds| {
            let epoch = enter_epoch(folds);
            (folds, Origin { database: shared::database(), ledger: relations.ledger.to_u32(), epoch })
        });
        Self { shared, is_append_only }
    }

    /// The published fold of the user.
    pub fn published(&self, user: &Id) -> Option<Fold> {
        let (folds, origin) = self.shared.as_ref()?;
        folds.get(origin, user)
    }

    /// This backend's own fold of the user.
    pub fn own(&self, user: &Id) -> Option<Fold> {
        private::get(user).filter(|_| self.is_append_only)
    }

    /// Publishes the fold, or keeps it as this backend's own where that is not possible.
    pub fn keep(&self, user: &Id, fold: &Fold) {
        let is_published =
            self.shared.as_ref().is_some_and(|(folds, origin)| folds.publish(origin, user, fold));
        if !is_published && self.is_append_only {
            private::keep(user, fold);
        }
    }
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
