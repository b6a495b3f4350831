//! Where this backend last found the stored checkpoints, which is where they are looked for first.

use ledger::id::UserId;
use std::cell::RefCell;
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::pg::catalog;
use crate::pg::fetch::Place;

/// Users kept: a quarter of a megabyte.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(4096).expect("above zero");

struct Places {
    of_users: LruCache<UserId, Place>,
    generation: u64,
}

thread_local! {
    static PLACES: RefCell<Places> = RefCell::new(Places { of_users: LruCache::new(CAPACITY), generation: 0 });
}

fn with<R>(work: impl FnOnce(&mut LruCache<UserId, Place>) -> R) -> R {
    PLACES.with_borrow_mut(|places| {
        // Another ledger's are elsewhere. A place that a checkpoint has moved from is noticed when it is looked at.
        let generation = catalog::ledger_generation();
        if places.generation != generation {
            places.of_users.clear();
            places.generation = generation;
        }
        work(&mut places.of_users)
    })
}

/// Where the user's checkpoint was last found. It may have moved since.
pub fn get(user: &UserId) -> Option<Place> {
    with(|places| places.get(user).copied())
}

/// Keeps where the user's checkpoint was found.
pub fn keep(user: &UserId, place: Place) {
    with(|places| places.put(*user, place));
}
