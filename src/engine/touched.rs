//! The users whose balance a transaction changes, noted as it goes and settled when it commits.
//!
//! A user stays noted if the savepoint that touched it is rolled back: settling it then finds nothing to do.

use std::cell::RefCell;
use std::collections::HashMap;

use super::Id;

/// What to do for a user at commit. Of several, the last in this order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// Decide whether the balance crosses zero; refresh the checkpoint if it lags.
    Settle,
    /// The same, and refresh the checkpoint unless someone else is at it.
    RefreshIfFree,
    /// The same, and refresh the checkpoint.
    Refresh,
}

thread_local! {
    static TOUCHED: RefCell<HashMap<Id, Request>> = RefCell::new(HashMap::new());
}

/// Notes a user.
pub fn note(user: Id, request: Request) {
    TOUCHED.with_borrow_mut(|touched| {
        let noted = touched.entry(user).or_insert(request);
        *noted = request.max(*noted);
    });
}

/// Hands over everyone noted in this transaction.
pub fn take() -> HashMap<Id, Request> {
    TOUCHED.take()
}

/// Forgets everyone noted: the transaction is over.
pub fn forget() {
    TOUCHED.with_borrow_mut(HashMap::clear);
}
