//! The checkpoints that a backend keeps in its own memory.
//!
//! What a coverage covers never changes, so a fold that was computed once stays true for good, written down or not, and
//! even if the transaction that computed it rolls back. Each backend keeps the furthest fold of the users it met last and
//! scans only what came after. [`ledger::coverage::Coverage::serves`] says which readers may use one. Beside it is kept
//! where the stored checkpoint was last found, which is where it is looked for first.

use std::cell::RefCell;
use std::num::NonZeroUsize;

use ledger::fold::Fold;
use lru::LruCache;

use super::Id;
use crate::pg::catalog;
use crate::pg::fetch::Place;

/// Users kept: about a megabyte.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(4096).expect("above zero");

/// What is known of a user.
#[derive(Default)]
struct Known {
    fold: Option<Fold>,
    checkpoint_place: Option<Place>,
}

struct Private {
    users: LruCache<Id, Known>,
    generation: u64,
}

thread_local! {
    static PRIVATE: RefCell<Private> = RefCell::new(Private { users: LruCache::new(CAPACITY), generation: 0 });
}

fn with<R>(work: impl FnOnce(&mut LruCache<Id, Known>) -> R) -> R {
    PRIVATE.with_borrow_mut(|private| {
        // A changed table, a rewritten one above all, is read afresh.
        let generation = catalog::ledger_generation();
        if private.generation != generation {
            private.users.clear();
            private.generation = generation;
        }
        work(&mut private.users)
    })
}

/// The user's fold, if this backend has one.
pub fn get(user: &Id) -> Option<Fold> {
    with(|users| users.get(user)?.fold.clone())
}

/// Keeps the fold, unless a further one is kept already.
pub fn keep(user: &Id, fold: &Fold) {
    with(|users| match &mut users.get_or_insert_mut(*user, Known::default).fold {
        Some(kept) if !fold.coverage.contains(&kept.coverage) => {}
        kept => *kept = Some(fold.clone()),
    });
}

/// Where the user's checkpoint was last found. It may have moved since.
pub fn checkpoint_place(user: &Id) -> Option<Place> {
    with(|users| users.get(user)?.checkpoint_place)
}

/// Keeps where the user's checkpoint was found.
pub fn keep_checkpoint_place(user: &Id, place: Place) {
    with(|users| users.get_or_insert_mut(*user, Known::default).checkpoint_place = Some(place));
}
