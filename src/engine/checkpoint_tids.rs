//! A session's cache of the tuple ids by which the index found stored checkpoints: they are fetched by these first. What it says may be
//! another user's tuple id: who fetches by it compares the user in the row.

use std::cell::RefCell;

use ledger::id::UserId;
use ledger::places::Places;

use crate::pg::catalog;
use crate::pg::fetch::{self, Address, Tid};

/// Users kept at most: a quarter of a megabyte.
const MOST: usize = 16_384;

struct Cache {
    tids: Places<Address>,
    generation: u64,
}

thread_local! {
    static CACHE: RefCell<Cache> = const { RefCell::new(Cache { tids: Places::new(MOST), generation: 0 }) };
}

fn with<R>(work: impl FnOnce(&mut Places<Address>) -> R) -> R {
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
    with(|tids| tids.get(user)).map(fetch::tid)
}

/// Keeps the tuple id by which the index found the user's checkpoint.
pub fn keep(user: &UserId, tid: Tid) {
    with(|tids| tids.put(user, fetch::address(tid)));
}
