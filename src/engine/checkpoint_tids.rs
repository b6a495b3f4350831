//! A backend's cache of the tuple ids by which the index found stored checkpoints: they are fetched by these first.

use std::cell::RefCell;
use std::num::NonZeroUsize;

use ledger::id::UserId;
use lru::LruCache;

use crate::pg::catalog;
use crate::pg::fetch::Tid;

/// Users kept: a quarter of a megabyte.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(4096).expect("above zero");

struct Cache {
    tids: LruCache<UserId, Tid>,
    generation: u64,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::new(Cache { tids: LruCache::new(CAPACITY), generation: 0 });
}

fn with<R>(work: impl FnOnce(&mut LruCache<UserId, Tid>) -> R) -> R {
    CACHE.with_borrow_mut(|cache| {
        // The tuple ids of another ledger's checkpoints are other ones. A checkpoint that has moved is noticed at the fetch.
        let generation = catalog::ledger_generation();
        if cache.generation != generation {
            cache.tids.clear();
            cache.generation = generation;
        }
        work(&mut cache.tids)
    })
}

/// The tuple id by which the index found the user's checkpoint last. The checkpoint may have moved since.
pub fn get(user: &UserId) -> Option<Tid> {
    with(|cache| cache.get(user).copied())
}

/// Keeps the tuple id by which the index found the user's checkpoint.
pub fn keep(user: &UserId, tid: Tid) {
    with(|cache| cache.put(*user, tid));
}
