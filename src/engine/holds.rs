//! Holds: what an account holds, what is noted of those that a transaction makes, extends and deletes, and how rows of holds are replaced
//! without a statement.
//!
//! The open holds of an account are one range of the index on `(user_id, expires_at)`. Where the scan meets an index entry of a row
//! that is gone for everybody, the server marks the entry, and later scans pass over it without fetching a row.

use std::rc::Rc;

use ledger::credits::{Credits, SumOutOfRange};
use ledger::id::{ApiKeyId, UserId};

use super::{claims, inserted, noted, source_ids};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::column_type::Jsonb;
use crate::pg::relation::{Access, Index, NotFree, Table};
use crate::pg::replace::{self, RowReplacer};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::columns;
use crate::pg::tables::holds::{self, Holds};
use crate::pg::text::{self, Text};
use crate::pg::xact;

/// An index scan that sums up holds, of one account after the other.
pub struct HoldScan(IndexScan<Holds>);

impl HoldScan {
    /// Opens the holds and their index, waiting for their locks. `None` if the index is not there, or does not have every row for a
    /// snapshot that is as old as the caller's may be.
    pub fn open(relations: &Relations, sight: Sight) -> Option<Self> {
        let table = Table::open(relations.holds().ok()?, Access::Read);
        let index = relations.holds_index.and_then(Index::open).filter(Index::is_complete)?;
        Some(Self::with(table, index, sight))
    }

    /// Opens them for a snapshot as of now if their locks are free. Raises 55000 if the index does not have every row.
    pub fn open_if_free(relations: &Relations, sight: Sight) -> Result<Self, NotFree> {
        let holds = relations.holds().unwrap_or_else(|error| error.raise());
        let table = Table::open_if_free(holds, Access::Read)?;
        let index = relations.open_holds_index(Index::open_if_free)?;
        Ok(Self::with(table, index, sight))
    }

    fn with(table: Table, index: Index, sight: Sight) -> Self {
        Self(IndexScan::new(table, index, sight, 2, holds::EXPIRES_AT))
    }

    /// Another scan of the same index, with another snapshot. It waits for no lock.
    pub fn again(&self, relations: &Relations, sight: Sight) -> Self {
        let holds = relations.holds().unwrap_or_else(|error| error.raise());
        Self::with(Table::open_locked(holds), self.0.index().again(), sight)
    }

    /// What the account holds of the rows that the scan sees: the sum of those that expire after this time. With a dirty snapshot,
    /// other transactions' holds in flight count, and so do those whose deletion is.
    pub fn held(&mut self, user: &UserId, now: i64) -> Result<Credits, SumOutOfRange> {
        self.held_by_key(user, now, |_, _| Ok(()))
    }

    /// What the account holds, as [`held`](Self::held) adds it up. Calls `visit` with the key and the amount of each hold.
    pub fn held_by_key(
        &mut self,
        user: &UserId,
        now: i64,
        mut visit: impl FnMut(Option<ApiKeyId>, Credits) -> Result<(), SumOutOfRange>,
    ) -> Result<Credits, SumOutOfRange> {
        self.0.seek(&[holds::USER_ID.equal(user), holds::EXPIRES_AT.after(now)]);
        let mut held = Credits::ZERO;
        while let Some(hold) = self.0.next() {
            let amount = hold.get(holds::AMOUNT);
            held = held.checked_add(amount)?;
            visit(hold.get(holds::API_KEY_ID).map(ApiKeyId::from_bytes), amount)?;
            xact::check_for_interrupts();
        }
        Ok(held)
    }
}

/// Notes a hold that the transaction has made. Raises 23514 for a blank `source_id`, a category that is too long, or metadata that is
/// no object.
pub fn note_made(hold: &Row<'_, Holds>) {
    require_rules(hold).unwrap_or_else(|error| error.raise());
    noted::note_hold(hold.get(holds::USER_ID), hold.get(holds::AMOUNT));
}

/// Notes that the transaction has extended a hold. That counts as one more: who passes over the holds may meet neither version, and the
/// earlier one may have expired.
pub fn note_update(old: &Row<'_, Holds>, new: &Row<'_, Holds>) {
    let user = new.get(holds::USER_ID);
    noted::note_hold(user, new.get(holds::AMOUNT));
    claims::note_update(user, old.get(holds::EXPIRES_AT), old.version(), new.version());
}

/// Notes that the transaction has deleted a hold.
pub fn note_deleted(hold: &Row<'_, Holds>) {
    let user = hold.get(holds::USER_ID);
    noted::note_release(user);
    claims::note_release(user, hold.get(holds::AMOUNT));
}

/// The rules that the row trigger of the ledger has for its rows.
fn require_rules(hold: &Row<'_, Holds>) -> Result<(), LedgerError> {
    let source_id = hold.get(holds::SOURCE_ID);
    if text::is_blank(&source_id) {
        return Err(LedgerError::BlankSourceId { what: "source_id", value: text::shown(&source_id) });
    }
    inserted::require_object(hold.get(holds::METADATA).is_none_or(Jsonb::is_object))?;
    hold.get(holds::CATEGORY).map_or(Ok(()), |category| inserted::require_category(&category))
}

/// Has a hold of this account that has expired give way to another one with its `source_id`, which is about to be inserted. Does
/// nothing where there is no such hold any more. No trigger fires: what the application has of the `source_id` stays true.
pub fn give_way(relations: &Relations, source_id: Text, user: &UserId) -> Result<(), LedgerError> {
    let holds = relations.holds()?;
    let snapshot = Rc::new(Snapshot::latest());
    let mut rows = source_ids::scan_holds(holds, Access::Write, Sight::without_siread(&snapshot));
    rows.seek(&[holds::SOURCE_ID.equal(source_id)]);
    let now = xact::now();
    let expired = rows
        .next()
        .filter(|hold| hold.get(holds::USER_ID) == *user && hold.get(holds::EXPIRES_AT) <= now)
        .map(|hold| hold.tid());
    drop(rows);
    if let Some(tid) = expired {
        replace::delete_unless_changed(&Table::open(holds, Access::Write), tid, &snapshot);
    }
    Ok(())
}

/// Says of a hold that the transaction has just extended that it was made now. No trigger fires.
pub fn make_anew(relations: &Relations, source_id: Text, now: i64) -> Result<(), LedgerError> {
    xact::see_own_changes();
    let holds = relations.holds()?;
    let snapshot = Rc::new(Snapshot::latest());
    let mut rows = source_ids::scan_holds(holds, Access::Write, Sight::without_siread(&snapshot));
    rows.seek(&[holds::SOURCE_ID.equal(source_id)]);
    let replacer = RowReplacer::new(Table::open(holds, Access::Write));
    if let Some(hold) = rows.next() {
        let stored_at = replacer.set_time(&hold, holds::CREATED_AT, now, &snapshot);
        claims::note_hold_moved(hold.version(), (stored_at, xact::current_subtransaction()));
    }
    Ok(())
}

/// Clears description and metadata of the user's holds, open and expired ones, as of now; returns how many had any. Waits for
/// transactions that are extending or deleting one. No trigger fires, and nothing is counted.
pub fn redact(relations: &Relations, user: &UserId) -> Result<i64, LedgerError> {
    let table = || relations.holds().map(|holds| Table::open(holds, Access::Write));
    let replacer = RowReplacer::new(table()?);
    let mut redacted = 0;
    loop {
        let mut was_changed = false;
        let Ok(index) = relations.open_holds_index(Index::waited_for);
        let snapshot = Rc::new(Snapshot::latest());
        let mut rows =
            IndexScan::new(table()?, index, Sight::AsOf(Rc::clone(&snapshot)), 1, holds::EXPIRES_AT);
        rows.seek(&[holds::USER_ID.equal(user)]);
        while let Some(hold) = rows.next() {
            xact::check_for_interrupts();
            if hold.is_null(holds::DESCRIPTION) && hold.is_null(holds::METADATA) {
                continue;
            }
            if replacer.is_checked_later() && xact::is_own(hold.stored_by()) {
                return Err(LedgerError::UncheckedRows(*user));
            }
            if replacer.lock_unless_changed(&hold, &snapshot) {
                let texts = columns![holds::DESCRIPTION, holds::METADATA];
                let moved_to = replacer.clear(&hold, &texts, &snapshot);
                claims::note_hold_moved(hold.version(), (moved_to, xact::current_subtransaction()));
                redacted += 1;
            } else {
                was_changed = true;
            }
        }
        if !was_changed {
            return Ok(redacted);
        }
        // The next snapshot sees what has been cleared.
        xact::see_own_changes();
    }
}
