//! The stamp of a ledger row: the value of the generated column `xact_id`. The server computes it for each row that is inserted, by
//! whatever command, after the BEFORE ROW triggers and before the row is stored and indexed.
//!
//! COPY, OVERRIDING and replication insert rows that have a `seq` of their own. The stamp function recognizes such a row, since the
//! sequence has not reached its `seq`, and advances the sequence past it. It does so before the row is stored: no other transaction
//! can draw the same number meanwhile.
//!
//! PUBLIC may execute the stamp function, so anyone can call it with any number. The sequence is therefore only advanced for a
//! caller that may insert into the column `seq`. Where another role has that privilege, the owner of a view for instance, the row
//! trigger advances the sequence instead.

use std::cell::Cell;

use super::catalog::Relations;
use super::{privilege, sequence, xact};
use crate::error::LedgerError;

thread_local! {
    static GIVEN: Cell<u64> = const { Cell::new(0) };
    /// The transaction that has stamped a row whose `seq` the row trigger is to advance the sequence past.
    static LEFT_TO_TRIGGER: Cell<u64> = const { Cell::new(0) };
}

/// The stamp of a row that this transaction inserts with this `seq`: its id. A row without a `seq` violates NOT NULL afterwards.
pub fn give(seq: Option<i64>) -> u64 {
    GIVEN.set(GIVEN.get().wrapping_add(1));
    let transaction = xact::current_id();
    if let (Some(seq), Some(relations)) = (seq, Relations::lookup_own_version()) {
        notice(&relations, seq, transaction);
    }
    transaction
}

/// The `seq` and the stamp of a row that is stored with both as they are given. `None` if the owner has dropped the identity.
pub fn draw(relations: &Relations) -> Option<(i64, u64)> {
    let seq = sequence::next(sequence::of(relations)?);
    GIVEN.set(GIVEN.get().wrapping_add(1));
    Some((seq, xact::current_id()))
}

/// Raises 55000 unless the stamp is this transaction's id. pglogical, for one, inserts the publisher's stamp. A checkpoint could
/// cover that id already, and would never count the row.
pub fn require_own(stamped: u64) {
    let current = xact::current_id();
    if stamped != current {
        LedgerError::ForeignStamp { stamped, current }.raise();
    }
}

/// How many rows this session has stamped. A row that a BEFORE trigger leaves out is not stamped.
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

/// Raises 23514 unless the caller owns the ledger: an owner who restores rows may insert a `seq` that the sequence cannot be
/// advanced past.
fn refuse_unless_owner(relations: &Relations, seq: i64) {
    if !privilege::is_owner(relations) {
        LedgerError::SeqTooHigh(seq).raise();
    }
}

/// Advances the sequence past an inserted row, if the stamp function has left that to the row trigger.
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

/// Advances the sequence past this number. Raises 42501 unless the caller may insert into the column `seq`.
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
