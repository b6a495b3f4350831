//! Daily totals: the folded ones in `daily_totals`.
//!
//! A row of `daily_totals` adds up the rows of a day, a type, a category and a key that the user's checkpoint covers. It is written by
//! the transaction that writes the checkpoint, if that has days: those of a checkpoint that was made before there were daily totals
//! are added up by [`days_fill`](super::days_fill).

use std::convert::Infallible;
use std::rc::Rc;

use ledger::daily::{DailyTotal, DailyTotals, TotalOf};
use ledger::id::UserId;
use pgrx::pg_sys;

use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::column_value::NewValue;
use crate::pg::relation::{Access, Index, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::days::{self, Days};
use crate::pg::write::TableWriter;

/// Adds the totals to the user's rows of `daily_totals`.
pub fn write(
    relations: &Relations,
    writer: &TableWriter<Days>,
    user: &UserId,
    totals: &DailyTotals,
) -> Result<(), LedgerError> {
    if totals.is_empty() {
        return Ok(());
    }
    let mut scan = scan_of(relations, &Rc::new(Snapshot::latest()), 5)?;
    for (of, added) in totals.iter() {
        match find(&mut scan, user, of) {
            Some((tid, mut total)) => {
                total.add(*added)?;
                writer.update(tid, values(user, of, &total));
            }
            None => writer.insert(values(user, of, added)),
        }
    }
    Ok(())
}

/// Inserts the totals as they are, whatever the user has in `daily_totals`.
pub fn insert(writer: &TableWriter<Days>, user: &UserId, totals: &DailyTotals) {
    for (of, total) in totals.iter() {
        writer.insert(values(user, of, total));
    }
}

fn values<'a>(user: &'a UserId, of: &'a TotalOf, total: &DailyTotal) -> [NewValue<'a, Days>; 7] {
    [
        days::USER_ID.set(user),
        days::DAY.set(of.day),
        days::CATEGORY.set(of.category.as_deref()),
        days::API_KEY_ID.set(of.api_key_id.as_ref()),
        days::TRANSACTION_TYPE.set(of.transaction_type),
        days::TOTAL_AMOUNT.set(total.amount),
        days::TRANSACTION_COUNT.set(total.transaction_count),
    ]
}

/// Deletes the user's rows of `daily_totals`, which a deleted checkpoint has left behind. The caller has that seen.
pub fn discard(relations: &Relations, writer: &TableWriter<Days>, user: &UserId) -> Result<(), LedgerError> {
    discard_if(relations, writer, user, |_| true)
}

/// Deletes those of the user's rows of `daily_totals` that are unwanted. The caller has that seen.
pub fn discard_if(
    relations: &Relations,
    writer: &TableWriter<Days>,
    user: &UserId,
    is_unwanted: impl Fn(&Row<'_, Days>) -> bool,
) -> Result<(), LedgerError> {
    let mut scan = scan_of(relations, &Rc::new(Snapshot::latest()), 1)?;
    scan.seek(&[days::USER_ID.equal(user)]);
    let mut left = Vec::new();
    while let Some(row) = scan.next() {
        if is_unwanted(&row) {
            left.push(row.tid());
        }
    }
    for tid in left {
        writer.delete(tid);
    }
    Ok(())
}

/// A scan of daily totals by their index, with keys for so many of its columns.
pub(super) fn scan_of(
    relations: &Relations,
    snapshot: &Rc<Snapshot>,
    key_columns: usize,
) -> Result<IndexScan<Days>, LedgerError> {
    let table = Table::open(relations.days()?, Access::Read);
    let Ok(index) = relations.open_days_index(|oid| Ok::<_, Infallible>(Index::open(oid)));
    Ok(IndexScan::new(table, index, Sight::without_siread(snapshot), key_columns, days::TRANSACTION_COUNT))
}

/// The folded total, and the tuple id of its row.
fn find(
    scan: &mut IndexScan<Days>,
    user: &UserId,
    of: &TotalOf,
) -> Option<(pg_sys::ItemPointerData, DailyTotal)> {
    scan.seek(&[
        days::USER_ID.equal(user),
        days::DAY.equal(of.day),
        days::TRANSACTION_TYPE.equal(of.transaction_type),
        days::CATEGORY.same(of.category.as_deref()),
        days::API_KEY_ID.same(of.api_key_id.as_ref()),
    ]);
    scan.next().map(|row| {
        let (amount, transaction_count) = (row.get(days::TOTAL_AMOUNT), row.get(days::TRANSACTION_COUNT));
        (row.tid(), DailyTotal { amount, transaction_count })
    })
}
