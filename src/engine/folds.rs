//! The furthest fold of a user that is known: this backend's own, or one that another backend has published.
//!
//! Both are true for good, as [`private`] says. Those that are shared save a backend the rows that others have read since
//! its own last visit; its own are there when a shared one is too new for a reader, or was overwritten.

use std::cell::{Cell, OnceCell};

use ledger::coverage::Coverage;
use ledger::fold::Fold;
use ledger::shared_folds::{Origin, SharedFolds};

use super::{Id, private};
use crate::pg::catalog::{self, Relations};
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
}

impl Folds {
    /// As of now: a ledger changed before is read afresh.
    pub fn open(relations: &Relations) -> Self {
        let shared = shared_folds().map(|folds| {
            let epoch = enter_epoch(folds);
            (folds, Origin { database: shared::database(), ledger: relations.ledger.to_u32(), epoch })
        });
        Self { shared }
    }

    /// The fold with the most rows among those whose coverage is of use.
    pub fn furthest(&self, user: &Id, is_of_use: impl Fn(&Coverage) -> bool) -> Option<Fold> {
        let shared = self.shared.as_ref().and_then(|(folds, origin)| folds.get(origin, user));
        [shared, private::get(user)]
            .into_iter()
            .flatten()
            .filter(|fold| is_of_use(&fold.coverage))
            .max_by_key(|fold| fold.transaction_count)
    }

    /// Keeps the fold and publishes it, unless a further one is there.
    pub fn keep(&self, user: &Id, fold: &Fold) {
        private::keep(user, fold);
        if let Some((folds, origin)) = &self.shared {
            folds.publish(origin, user, fold);
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
