//! The users whose balance a transaction changes, noted as it goes and settled when it commits.
//!
//! A user stays noted if the savepoint that touched it is rolled back: settling it then finds nothing to do, or the checkpoint
//! where it was.

use ledger::id::UserId;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use ledger::credits::Credits;
use ledger::segment::headroom::Written;

use super::lock_order;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;

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
pub struct NotedUser {
    /// What to do.
    pub request: Request,
    /// The rows that the transaction has inserted.
    pub written: Written,
    /// What the user's checkpoint said before somebody deleted it by hand.
    pub announced: Option<Announced>,
}

/// What a checkpoint says that the ledger's rows do not.
#[derive(Clone, Copy, Debug)]
pub struct Announced {
    /// The side of zero last announced.
    pub is_positive: bool,
    /// When that last changed, in microseconds.
    pub crossed_at: Option<i64>,
}

thread_local! {
    /// Whether everyone has been handed over: who is noted now would not be settled.
    static TAKEN: Cell<bool> = const { Cell::new(false) };
    static NOTED: RefCell<HashMap<UserId, NotedUser>> = RefCell::new(HashMap::new());
}

/// Notes a request for each of the users. Raises 55000 where their deltas cannot be read.
pub fn request<'a>(users: impl IntoIterator<Item = &'a UserId>, request: Request) -> Result<(), LedgerError> {
    let mut users = users.into_iter().peekable();
    if users.peek().is_some() {
        lock_order::keep_delta_index(&Relations::locked().ok_or(LedgerError::NotInstalled)?);
        users.for_each(|user| update(*user, request, |_| ()));
    }
    Ok(())
}

/// Notes a row with its signed amount; raises 25000 at the end of the transaction, where it is too late.
pub fn note_row(user: UserId, amount: Credits) {
    if TAKEN.get() {
        LedgerError::Committing.raise();
    }
    update(user, Request::Settle, |noted| noted.written.add(amount));
}

/// Notes that the user's checkpoint is deleted by hand: it is made anew when the transaction commits. If it is deleted again,
/// what counts is what it said at first.
pub fn note_deleted_checkpoint(user: UserId, announced: Announced) {
    update(user, Request::Refresh, |noted| _ = noted.announced.get_or_insert(announced));
}

fn update(user: UserId, request: Request, change: impl FnOnce(&mut NotedUser)) {
    NOTED.with_borrow_mut(|users| {
        let new = NotedUser { request, written: Written::default(), announced: None };
        let noted = users.entry(user).or_insert(new);
        noted.request = request.max(noted.request);
        change(noted);
    });
}

/// Hands over everyone noted in this transaction.
pub fn take() -> HashMap<UserId, NotedUser> {
    TAKEN.set(true);
    NOTED.take()
}

/// Forgets everyone noted: the transaction is over.
pub fn forget() {
    TAKEN.set(false);
    NOTED.with_borrow_mut(HashMap::clear);
}
