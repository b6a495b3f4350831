//! The users whose balance a transaction changes, noted as it goes and settled when it commits.
//!
//! A user stays noted if the savepoint that touched it is rolled back: settling it then finds nothing to do.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use ledger::credits::Credits;
use ledger::shared::headroom::Written;

use super::Id;
use crate::error::LedgerError;

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
    /// Whether everyone has been handed over: who is noted now would not be settled.
    static TAKEN: Cell<bool> = const { Cell::new(false) };
    static TOUCHED: RefCell<HashMap<Id, Noted>> = RefCell::new(HashMap::new());
}

/// Notes a request.
pub fn note(user: Id, request: Request) {
    update(user, request, |_| ());
}

/// Notes a row with its signed amount; raises 25000 at the end of the transaction, where it is too late.
pub fn note_row(user: Id, amount: Credits) {
    if TAKEN.get() {
        LedgerError::Committing.raise();
    }
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
    TAKEN.set(true);
    TOUCHED.take()
}

/// Forgets everyone noted: the transaction is over.
pub fn forget() {
    TAKEN.set(false);
    TOUCHED.with_borrow_mut(HashMap::clear);
}
