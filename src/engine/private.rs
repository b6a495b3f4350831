//! The checkpoints that a backend keeps in its own memory.
//!
//! What a coverage covers never changes, so a fold that was computed once stays true for good, written down or not, and
//! even if the transaction that computed it rolls back. Each backend keeps the furthest fold of the users it met last and
//! scans only what came after. [`ledger::coverage::Coverage::serves`] says which readers may use one.

use std::cell::RefCell;
use std::num::NonZeroUsize;

use ledger::fold::Fold;
use lru::LruCache;

use super::Id;
use crate::pg::catalog;

/// Users kept: about a megabyte.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(4096).expect("above zero");

struct Private {
    folds: LruCache<Id, Fold>,
    generation: u64,
}

thread_local! {
    static PRIVATE: RefCell<Private> = RefCell::new(Private { folds: LruCache::new(CAPACITY), generation: 0 });
}

fn with<R>(work: impl FnOnce(&mut LruCache<Id, Fold>) -> R) -> R {
    PRIVATE.with_borrow_mut(|private| {
        // A changed table, a rewritten one above all, is read afresh.
        let generation = catalog::ledger_generation();
        if private.generation != generation {
            private.folds.clear();
            private.generation = generation;
        }
        work(&mut private.folds)
    })
}

/// The user's fold, if this backend has one.
pub fn get(user: &Id) -> Option<Fold> {
    with(|folds| folds.get(user).cloned())
}

/// Keeps the fold, unless a further one is kept already.
pub fn keep(user: &Id, fold: &Fold) {
    with(|folds| match folds.get_mut(user) {
        Some(kept) if fold.coverage.contains(&kept.coverage) => *kept = fold.clone(),
        Some(_) => {}
        None => {
            folds.put(*user, fold.clone());
        }
    });
}
