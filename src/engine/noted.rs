//! The users whose balance a transaction changes. It notes them in session memory as it runs, and settles them when it commits.
//!
//! A user stays noted if the savepoint with its rows is rolled back: its settlement finds nothing to do then, or writes the
//! checkpoint as it was.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use ledger::credits::Credits;
use ledger::crossing::Announced;
use ledger::id::UserId;
use ledger::segment::headroom::Written;
use ledger::settlement::Request;

use super::lock_order;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;

/// A user with what the transaction has done to it so far.
#[derive(Debug)]
pub struct NotedUser {
    /// What to do.
    pub request: Request,
    /// The rows that the transaction has inserted.
    pub written: Written,
    /// Whether rows of the transaction name others that they take back: the commit then needs the stripe exclusively.
    pub reverses: bool,
    /// What the user's checkpoint said before the transaction deleted it by hand.
    pub deleted: Option<Box<Announced>>,
}

impl NotedUser {
    /// Whether the commit has only to ask if this node still has the account: all that the transaction did was to delete holds, which crosses
    /// no boundary.
    pub fn only_asks(&self) -> bool {
        self.request == Request::Settle && self.written.is_empty() && !self.reverses
    }
}

thread_local! {
    /// Whether settlement has taken the noted users: one that is noted after that would not be settled.
    static TAKEN: Cell<bool> = const { Cell::new(false) };
    static NOTED: RefCell<BTreeMap<UserId, NotedUser>> = const { RefCell::new(BTreeMap::new()) };
}

/// Notes a request for each of the users. Raises 55000 where their deltas cannot be read.
pub fn request<'a>(users: impl IntoIterator<Item = &'a UserId>, request: Request) -> Result<(), LedgerError> {
    let mut users = users.into_iter().peekable();
    if users.peek().is_some() {
        // Who changes boundaries goes on to write, as like as not. With the ledger locked for writing it need not wait then for a
        // REINDEX that waits for the index.
        let lock =
            if request == Request::Rebound { Relations::locked_for_writing } else { Relations::locked };
        lock_order::keep_delta_index(&lock().ok_or(LedgerError::NotInstalled)?);
        users.for_each(|user| update(*user, request, |_| ()));
    }
    Ok(())
}

/// Notes that the transaction changes what bounds these users: the commit reads their limits and caps again. Raises 25000 once
/// settlement has taken the noted users, and 55000 where their deltas cannot be read.
pub fn note_rebound(users: [Option<UserId>; 2]) -> Result<(), LedgerError> {
    refuse_once_taken();
    request(users.iter().flatten(), Request::Rebound)
}

/// Notes a row with its signed amount. Raises 25000 for a row that is inserted after settlement has taken the noted users, as another
/// library may do at the commit.
pub fn note_row(user: UserId, amount: Credits) {
    refuse_once_taken();
    update(user, Request::Settle, |noted| noted.written.add(amount));
}

/// Notes that the transaction makes a hold of this amount, or extends one.
pub fn note_hold(user: UserId, amount: Credits) {
    refuse_once_taken();
    update(user, Request::Settle, |noted| noted.written.hold(amount));
}

/// Notes that the transaction has deleted a hold of this user: its commit asks whether this node still has the account, and nothing else.
pub fn note_release(user: UserId) {
    refuse_once_taken();
    update(user, Request::Settle, |_| ());
}

/// What the transaction has written of the user so far.
pub fn written(user: &UserId) -> Written {
    NOTED.with_borrow(|users| users.get(user).map_or_else(Written::default, |noted| noted.written))
}

/// Notes that rows of the user take back other transactions.
pub fn note_reversal(user: UserId) {
    update(user, Request::Settle, |noted| noted.reverses = true);
}

/// Raises 25000 once settlement has taken the noted users.
pub fn refuse_once_taken() {
    if TAKEN.get() {
        LedgerError::Committing.raise();
    }
}

/// Notes that the transaction deletes the user's checkpoint by hand: the commit makes it anew, with the level that it said was
/// announced. Where the transaction deletes it more than once, the one that the first said is kept.
pub fn note_deleted_checkpoint(user: UserId, announced: Announced) {
    update(user, Request::Refresh, |noted| _ = noted.deleted.get_or_insert_with(|| Box::new(announced)));
}

fn update(user: UserId, request: Request, change: impl FnOnce(&mut NotedUser)) {
    NOTED.with_borrow_mut(|users| {
        let new = NotedUser { request, written: Written::default(), reverses: false, deleted: None };
        let noted = users.entry(user).or_insert(new);
        noted.request = request.max(noted.request);
        change(noted);
    });
}

/// Takes the users that this transaction has noted.
pub fn take() -> BTreeMap<UserId, NotedUser> {
    TAKEN.set(true);
    NOTED.take()
}

/// Forgets the noted users: the transaction is over.
pub fn forget() {
    TAKEN.set(false);
    NOTED.with_borrow_mut(BTreeMap::clear);
}
