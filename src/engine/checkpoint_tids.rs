//! A session's cache of the tuple ids by which the index found stored checkpoints: they are fetched by these first. What it says may be
//! another user's tuple id, or that of a table that is gone: who fetches by it compares the user in the row, and a user has one checkpoint.

use std::cell::RefCell;

use ledger::id::UserId;
use ledger::places::Places;

use crate::pg::fetch::{self, Address, Tid};

/// Users kept at most: a quarter of a megabyte.
const MOST: usize = 16_384;

thread_local! {
    static TIDS: RefCell<Places<Address>> = const { RefCell::new(Places::new(MOST)) };
}

/// The tuple id by which the index found the user's checkpoint last. The checkpoint may have moved since.
pub fn get(user: &UserId) -> Option<Tid> {
    TIDS.with_borrow(|tids| tids.get(user)).map(fetch::tid)
}

/// Keeps the tuple id by which the index found the user's checkpoint.
pub fn keep(user: &UserId, tid: Tid) {
    TIDS.with_borrow_mut(|tids| tids.put(user, fetch::address(tid)));
}
