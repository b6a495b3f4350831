//! Erasing what people have written into an account's rows and holds.
//!
//! The rows get new versions that differ in these texts alone. Stamps, amounts and numbers stay, so everything that is derived from
//! them stays true. A dirty scan meets both versions of a row until the redaction has committed. Settlements scan dirty, so the
//! redaction holds the account's stripe exclusively, and they wait. All others read with an MVCC snapshot, which sees one version.
//!
//! The holds come first, before the stripe: others lock rows of holds early in their transactions, and take the stripe when they commit.
//! A settlement that passes over the holds meanwhile meets the earlier version of a hold at least, which is gone only when the redaction
//! commits, and that it does with the stripe.

use std::cell::Cell;
use std::rc::Rc;

use ledger::id::UserId;
use ledger::stripe;

use super::{claims, holds, lock_order};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{Access, Index, Table};
use crate::pg::replace::RowReplacer;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::columns;
use crate::pg::tables::transactions::{self, LaterColumns};
use crate::pg::{lock, xact};

thread_local! {
    static REDACTED: Cell<bool> = const { Cell::new(false) };
}

/// Clears description and metadata of the user's rows and holds; returns how many had any. Fails if the transaction has inserted some
/// of them and the owner of their table has added constraints that may be checked only after the row is replaced.
pub fn redact(user: &UserId) -> Result<i64, LedgerError> {
    let relations = Relations::locked_for_writing().ok_or(LedgerError::NotInstalled)?;
    let LaterColumns { metadata, .. } = relations.later_columns()?;
    let ledger = || Table::open(relations.ledger, Access::Write);
    let replacer = RowReplacer::new(ledger());
    lock_order::wait_for_relations_and_holds(&relations);
    REDACTED.set(true);
    // Rows that the transaction itself has inserted are redacted, too, those of the running statement included.
    xact::see_own_changes();
    let mut redacted = holds::redact(&relations, user)?;
    lock::lock_stripe(stripe::of_user(user));
    let Ok(index) = relations.open_delta_index(Index::waited_for);
    let snapshot = Rc::new(Snapshot::latest());
    let mut rows = IndexScan::new(ledger(), index, Sight::AsOf(Rc::clone(&snapshot)), 1, metadata);
    rows.seek(&[transactions::USER_ID.equal(user)]);
    let (own, is_checked_later) = (xact::current_id_if_any(), replacer.is_checked_later());
    while let Some(row) = rows.next() {
        xact::check_for_interrupts();
        if !(row.is_null(transactions::DESCRIPTION) && row.is_null(metadata)) {
            if is_checked_later && own == Some(row.get(transactions::XACT_ID)) {
                return Err(LedgerError::UncheckedRows(*user));
            }
            let moved_to = replacer.clear(&row, &columns![transactions::DESCRIPTION, metadata], &snapshot);
            claims::note_charge_moved(row.version(), (moved_to, xact::current_subtransaction()));
            redacted += 1;
        }
    }
    Ok(redacted)
}

/// Raises 0A000 if the transaction, which is about to be prepared, has redacted: it would hold the stripe until COMMIT PREPARED
/// or ROLLBACK PREPARED.
pub fn refuse_to_prepare() -> Result<(), LedgerError> {
    if REDACTED.get() { Err(LedgerError::PreparedRedaction) } else { Ok(()) }
}

/// Forgets that the transaction has redacted: it is over.
pub fn forget() {
    REDACTED.set(false);
}
