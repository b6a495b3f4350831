//! The users whose balance a transaction changes, noted as it goes and settled when it commits.
//!
//! A user stays noted if the savepoint that touched it is rolled back: settling it then finds nothing to do.

use std::cell::RefCell;
use std::collections::HashMap;

use ledger::credits::Credits;
use ledger::shared::headroom::Written;

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

/// What is noted of a user.
#[derive(Clone, Copy, Debug)]
pub struct Noted {
    /// What to do.
    pub request: Request,
    /// The rows that the transaction has inserted.
    pub written: Written,
}

thread_local! {
    static TOUCHED: RefCell<HashMap<Id, Noted>> = RefCell::new(HashMap::new());
}

/// Notes a request.
pub fn note(user: Id, request: Request) {
    update(user, request, |_| ());
}

/// Notes a row with its signed amount.
pub fn note_row(user: Id, amount: Credits) {
    update(user, Request::Settle, |written| written.add(amount));
}

fn update(user: Id, request: Request, change: impl FnOnce(&mut Written)) {
    TOUCHED.with_borrow_mut(|touched| {
        let noted = touched.entry(user).or_insert(Noted { request, written: Written::default() });
        noted.request = request.max(noted.request);
        change(&mut noted.written);
    });
}

/// Hands over everyone noted in this transaction.
pub fn take() -> HashMap<Id, Noted> {
    TOUCHED.take()
}

/// Forgets everyone noted: the transaction is over.
pub fn forget() {
    TOUCHED.with_borrow_mut(HashMap::clear);
}
