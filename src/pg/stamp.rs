//! The stamp of a ledger row: computed for each row that is about to be inserted, whatever brings it, behind the triggers that
//! come before the row and ahead of its way into the heap and the indexes.
//!
//! So this is where a row is noticed that comes with a `seq` of its own, by COPY, OVERRIDING or replication, and where the
//! sequence follows it: before anybody can meet the row, and draw its number, too. A row that has drawn its number is known by
//! the sequence's page: it is there already.
//!
//! Everybody may call the function that stamps, by hand, too. The sequence follows only whoever may insert the number. Where the
//! right is somebody else's, a view's owner's for instance, the trigger behind the row makes up for it.

use std::cell::Cell;

use super::catalog::Relations;
use super::{privilege, sequence, xact};
use crate::error::LedgerError;

thread_local! {
    static GIVEN: Cell<u64> = const { Cell::new(0) };
    /// The transaction in which a number was met that is to be followed by the trigger.
    static LEFT_TO_TRIGGER: Cell<u64> = const { Cell::new(0) };
}

/// The stamp of a row of this transaction that has this number; a row without one is refused later.
pub fn give(seq: Option<i64>) -> u64 {
    GIVEN.set(GIVEN.get().wrapping_add(1));
    let transaction = xact::current_id();
    if let (Some(seq), Some(relations)) = (seq, Relations::lookup_own_version()) {
        notice(&relations, seq, transaction);
    }
    transaction
}

/// Raises 55000 for a row with another one: there are ways to bring rows that take the stamp from elsewhere, and checkpoints
/// would take the row for one that they have.
pub fn require_own(stamped: u64) {
    let current = xact::current_id();
    if stamped != current {
        LedgerError::ForeignStamp { stamped, current }.raise();
    }
}

/// How many stamps this session has given. A row that a trigger leaves out gets none.
pub fn given() -> u64 {
    GIVEN.get()
}

fn notice(relations: &Relations, seq: i64, transaction: u64) {
    let Some(numbers) = sequence::of(relations) else { return };
    let Some(found) = sequence::look(numbers, seq) else { return };
    if !privilege::may_choose_seq(relations) {
        LEFT_TO_TRIGGER.set(transaction);
    } else if !found.may_follow(seq) {
        refuse_unless_owner(relations, seq);
    } else if !xact::is_read_only() {
        sequence::follow(numbers, seq);
    }
}

/// The owner restores what there is, though nobody follows it.
fn refuse_unless_owner(relations: &Relations, seq: i64) {
    if !privilege::is_owner(relations) {
        LedgerError::SeqTooHigh(seq).raise();
    }
}

/// Has the sequence follow a row that is there, if that was left to its trigger.
pub fn follow_inserted(relations: &Relations, seq: impl FnOnce() -> i64) {
    let left_by = LEFT_TO_TRIGGER.get();
    if left_by == 0 || Some(left_by) != xact::current_id_if_any() {
        return;
    }
    let (seq, numbers) = (seq(), sequence::of(relations));
    let Some(numbers) = numbers else { return };
    match sequence::look(numbers, seq) {
        Some(found) if !found.may_follow(seq) => refuse_unless_owner(relations, seq),
        Some(_) => sequence::follow(numbers, seq),
        None => {}
    }
}

/// Has the sequence go on behind this number, for whoever may insert it.
pub fn advance(relations: &Relations, seq: i64) -> Result<(), LedgerError> {
    privilege::require_choosing_seq(relations);
    let Some(numbers) = sequence::of(relations) else {
        return Err(LedgerError::Missing("the sequence of credits.credits_transactions.seq".to_owned()));
    };
    match sequence::look(numbers, seq) {
        Some(found) if !found.may_follow(seq) => Err(LedgerError::SeqTooHigh(seq)),
        Some(_) => {
            sequence::follow(numbers, seq);
            Ok(())
        }
        None => Ok(()),
    }
}
