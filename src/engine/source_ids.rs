//! Whether a `source_id` is taken, by a transaction of the ledger or by a hold, for the functions that record and hold.
//!
//! A look-up is as of now, whatever the caller's snapshot sees. Where another transaction is writing the row, it waits until that has ended.

use pgrx::pg_sys;

use crate::error::LedgerError;
use crate::pg::buckets;
use crate::pg::catalog::Relations;
use crate::pg::column::Layout;
use crate::pg::relation::{Access, Index, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::scan_key::Key;
use crate::pg::snapshot::{DirtySnapshot, Sight};
use crate::pg::tables::holds::{self, Holds};
use crate::pg::tables::transactions;
use crate::pg::text::Text;
use crate::pg::xact;

/// A scan of the holds by their `source_id`.
pub fn scan_holds(holds: pg_sys::Oid, access: Access, sight: Sight) -> IndexScan<Holds> {
    let table = Table::open(holds, access);
    let index = Index::primary_key_of(&table);
    IndexScan::new(table, index, sight, 1, holds::EXPIRES_AT)
}

/// Whether a transaction has this `source_id`, a committed one or one of the caller's own; waits for one that is about to take it.
/// The caller has locked the ledger.
pub fn has_transaction(relations: &Relations, source_id: Text) -> bool {
    is_taken(
        transactions::SOURCE_ID.equal(source_id),
        |_| true,
        || {
            let table = Table::open_locked(relations.ledger);
            let index = relations.open_source_id_key();
            IndexScan::new(table, index, Sight::Dirty(DirtySnapshot::new()), 1, transactions::SOURCE_ID)
        },
    )
}

/// Whether a hold that is open now has this `source_id`, a committed one or one of the caller's own; waits for transactions that are
/// making, extending or deleting one.
pub fn has_open_hold(relations: &Relations, source_id: Text) -> Result<bool, LedgerError> {
    let now = xact::now();
    has_hold_that(relations, source_id, |hold| hold.get(holds::EXPIRES_AT) > now)
}

/// Whether there is a hold with this `source_id`, whether open or expired; waits as [`has_open_hold`] does.
pub fn has_hold(relations: &Relations, source_id: Text) -> Result<bool, LedgerError> {
    has_hold_that(relations, source_id, |_| true)
}

/// Whether there is a hold with this `source_id`, of an account that is here; waits as [`has_open_hold`] does.
pub fn has_hold_here(relations: &Relations, source_id: Text) -> Result<bool, LedgerError> {
    has_hold_that(relations, source_id, |hold| buckets::is_here(&hold.get(holds::USER_ID)))
}

fn has_hold_that(
    relations: &Relations,
    source_id: Text,
    counts: impl Fn(&Row<'_, Holds>) -> bool,
) -> Result<bool, LedgerError> {
    let holds = relations.holds()?;
    let open = || scan_holds(holds, Access::Read, Sight::Dirty(DirtySnapshot::new()));
    Ok(is_taken(holds::SOURCE_ID.equal(source_id), counts, open))
}

/// Whether a row with this key counts, once the transaction that is writing it has ended.
fn is_taken<L: Layout>(
    key: Key<L>,
    counts: impl Fn(&Row<'_, L>) -> bool,
    open: impl Fn() -> IndexScan<L>,
) -> bool {
    let key = [key];
    loop {
        let mut rows = open();
        rows.seek(&key);
        let found = loop {
            match rows.next() {
                None => return false,
                Some(row) if counts(&row) => break rows.writer(),
                Some(_) => {}
            }
        };
        let Some(writer) = found else { return true };
        // Pages are not kept pinned while this waits.
        drop(rows);
        xact::wait_for(writer);
    }
}
