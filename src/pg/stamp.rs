//! The stamp of a ledger row: computed for each row that is about to be inserted, behind the triggers that come before the row.

use std::cell::Cell;

use super::xact;

thread_local! {
    static GIVEN: Cell<u64> = const { Cell::new(0) };
}

/// The stamp of a row of this transaction.
pub(super) fn give() -> u64 {
    GIVEN.set(GIVEN.get().wrapping_add(1));
    xact::current_id()
}

/// How many stamps this session has given. A row that a trigger leaves out gets none.
pub fn given() -> u64 {
    GIVEN.get()
}
