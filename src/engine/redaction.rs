//! Erasing what people have written into an account's rows.
//!
//! The rows get new versions, and that is all that changes: stamps, amounts and numbers stay, so nothing that is derived from them
//! does either. Settlements of the account look at its rows dirty, where both versions of a row would be seen until the redaction
//! has committed: they wait for the stripe meanwhile. Everybody else reads with a snapshot, which sees one of them.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;

use ledger::id::UserId;
use ledger::stripe;

use super::lock_order;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{self, Access, Index, Table};
use crate::pg::replace::RowReplacer;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::columns;
use crate::pg::tables::transactions::{self, LaterColumns};
use crate::pg::{lock, xact};

thread_local! {
    static REDACTED: Cell<bool> = const { Cell::new(false) };
}

/// Clears description and metadata of the user's rows; returns how many had any. Fails if the transaction has inserted some of them
/// and the ledger's owner has added constraints that may be checked only after the row is replaced.
pub fn redact(user: &UserId) -> Result<i64, LedgerError> {
    let relations = locked_for_writing().ok_or(LedgerError::NotInstalled)?;
    let LaterColumns { metadata, .. } = relations.later_columns()?;
    let ledger = || Table::open(relations.ledger, Access::Write);
    let replacer = RowReplacer::new(ledger());
    lock_order::wait_for_relations(&relations);
    REDACTED.set(true);
    lock::lock_stripe(stripe::of_user(user));
    // What the transaction has written is redacted, too, also by the same statement.
    xact::see_own_changes();
    let Ok(index) = relations.open_delta_index(|oid| Ok::<_, Infallible>(Index::open(oid)));
    let snapshot = Rc::new(Snapshot::latest());
    let mut rows = IndexScan::new(ledger(), index, Sight::AsOf(Rc::clone(&snapshot)), 1, metadata);
    rows.seek(&[transactions::USER_ID.equal(user)]);
    let (own, is_checked_later) = (xact::current_id_if_any(), replacer.is_checked_later());
    let mut redacted = 0;
    while let Some(row) = rows.next() {
        xact::check_for_interrupts();
        if !(row.is_null(transactions::DESCRIPTION) && row.is_null(metadata)) {
            if is_checked_later && own == Some(row.get(transactions::XACT_ID)) {
                return Err(LedgerError::UncheckedRows(*user));
            }
            replacer.clear(&row, &columns![transactions::DESCRIPTION, metadata], &snapshot);
            redacted += 1;
        }
    }
    Ok(redacted)
}

/// The relations, with a lock on the ledger for writing.
fn locked_for_writing() -> Option<Relations> {
    loop {
        let relations = Relations::lookup()?;
        relation::lock(relations.ledger, Access::Write);
        // An update may have come before the lock.
        if Relations::lookup()? == relations {
            return Some(relations);
        }
    }
}

/// Raises 0A000 if the transaction, which is about to be prepared, has redacted: it would keep the stripe until somebody ends it.
pub fn refuse_to_prepare() {
    if REDACTED.get() {
        LedgerError::PreparedRedaction.raise();
    }
}

/// Forgets at the end of the transaction.
pub fn forget() {
    REDACTED.set(false);
}
