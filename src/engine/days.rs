//! Daily totals: the folded ones in `daily_totals`.
//!
//! A row of `daily_totals` adds up the rows of a day, a type, a category and a key that the user's checkpoint covers. It is written by
//! the transaction that writes the checkpoint, if that has days: those of a checkpoint that was made before there were daily totals
//! are added up by [`days_fill`](super::days_fill).

use std::convert::Infallible;
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;

use ledger::credits::SumOutOfRange;
use ledger::daily::{DailyTotal, DailyTotals, TotalOf};
use ledger::day::Day;
use ledger::id::UserId;

use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::column_value::NewValue;
use crate::pg::fetch::Tid;
use crate::pg::relation::{Access, Index, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::days::{self, Days};
use crate::pg::write::TableWriter;
use crate::pg::xact;

/// Where a total is stored, and what it is so far.
type Found = (Tid, DailyTotal);

/// Adds the totals to the user's rows of `daily_totals`.
pub fn write(
    relations: &Relations,
    writer: &TableWriter<Days>,
    user: &UserId,
    totals: &DailyTotals,
) -> Result<(), LedgerError> {
    let totals: Vec<(&TotalOf, &DailyTotal)> = totals.iter().collect();
    let snapshot = Rc::new(Snapshot::latest());
    let mut stored = StoredTotals { relations, writer, snapshot, of_day: None, of_total: None };
    for of_day in totals.chunk_by(|(of, _), (other, _)| of.day == other.day) {
        let found = stored.find(user, of_day);
        for ((of, added), found) in of_day.iter().zip(found) {
            match found {
                Some((tid, mut total)) => {
                    total.add(**added)?;
                    writer.update(tid, values(user, of, &total));
                }
                None => writer.insert(values(user, of, added)),
            }
        }
    }
    Ok(())
}

/// Looks for the rows of totals, as of one moment.
struct StoredTotals<'a> {
    relations: &'a Relations,
    writer: &'a TableWriter<Days>,
    snapshot: Rc<Snapshot>,
    /// Reads all totals of a day; opened for the first day with more than one.
    of_day: Option<IndexScan<Days>>,
    /// Looks for one; opened for the first that is looked for alone.
    of_total: Option<IndexScan<Days>>,
}

impl StoredTotals<'_> {
    /// How many totals of a day are looked for together at most: each row of the day is compared with all of them.
    const MOST_TOGETHER: usize = 32;

    /// What is stored of each of these totals of one day.
    fn find(&mut self, user: &UserId, totals: &[(&TotalOf, &DailyTotal)]) -> Vec<Option<Found>> {
        let mut found = vec![None; totals.len()];
        let has_all =
            (2..=Self::MOST_TOGETHER).contains(&totals.len()) && self.find_together(user, totals, &mut found);
        if !has_all {
            for ((of, _), found) in totals.iter().zip(&mut found).filter(|(_, found)| found.is_none()) {
                *found = self.find_one(user, of);
            }
        }
        found
    }

    /// Reads the day from its first row on, which costs less than a look-up of each total if the day has not many more than these.
    /// Returns whether it has come to the end of the day, or has found them all.
    fn find_together(
        &mut self,
        user: &UserId,
        totals: &[(&TotalOf, &DailyTotal)],
        found: &mut [Option<Found>],
    ) -> bool {
        let open = || written(self.relations, self.writer, &self.snapshot, 2);
        let scan = self.of_day.get_or_insert_with(open);
        scan.seek(&[days::USER_ID.equal(user), days::DAY.equal(totals[0].0.day)]);
        let mut missing = totals.len();
        for _ in 0..2 * totals.len() {
            let Some(row) = scan.next() else { return true };
            if let Some(place) = totals.iter().position(|(of, _)| is_of(&row, of)) {
                found[place] = Some(decode(&row));
                missing -= 1;
                if missing == 0 {
                    return true;
                }
            }
        }
        false
    }

    fn find_one(&mut self, user: &UserId, of: &TotalOf) -> Option<Found> {
        let open = || written(self.relations, self.writer, &self.snapshot, 5);
        let scan = self.of_total.get_or_insert_with(open);
        scan.seek(&[
            days::USER_ID.equal(user),
            days::DAY.equal(of.day),
            days::TRANSACTION_TYPE.equal(of.transaction_type),
            days::CATEGORY.same(of.category.as_deref()),
            days::API_KEY_ID.same(of.api_key_id.as_ref()),
        ]);
        scan.next().map(|row| decode(&row))
    }
}

/// Whether the row is that of the total, which is one of its day.
fn is_of(row: &Row<'_, Days>, of: &TotalOf) -> bool {
    row.get(days::API_KEY_ID) == of.api_key_id
        && row.get(days::CATEGORY).as_deref() == of.category.as_deref()
        && row.get(days::TRANSACTION_TYPE) == of.transaction_type
}

fn decode(row: &Row<'_, Days>) -> Found {
    let (amount, transaction_count) = (row.get(days::TOTAL_AMOUNT), row.get(days::TRANSACTION_COUNT));
    (row.tid(), DailyTotal { amount, transaction_count })
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
pub fn discard(relations: &Relations, writer: &TableWriter<Days>, user: &UserId) {
    discard_if(relations, writer, user, |_| true);
}

/// Deletes those of the user's rows of `daily_totals` that are unwanted. The caller has that seen.
pub fn discard_if(
    relations: &Relations,
    writer: &TableWriter<Days>,
    user: &UserId,
    is_unwanted: impl Fn(&Row<'_, Days>) -> bool,
) {
    let mut scan = written(relations, writer, &Rc::new(Snapshot::latest()), 1);
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
}

/// A scan of daily totals by their index, with keys for so many of its columns.
pub(super) fn scan_of(
    relations: &Relations,
    snapshot: &Rc<Snapshot>,
    key_columns: usize,
) -> Result<IndexScan<Days>, LedgerError> {
    let table = Table::open(relations.days()?, Access::Read);
    let Ok(index) = relations.open_days_index(Index::waited_for);
    Ok(scan_by(table, index, snapshot, key_columns))
}

/// What is stored, for who writes it: nothing is locked.
fn written(
    relations: &Relations,
    writer: &TableWriter<Days>,
    snapshot: &Rc<Snapshot>,
    key_columns: usize,
) -> IndexScan<Days> {
    let Ok(index) = relations.open_days_index(|oid| Ok::<_, Infallible>(writer.index(oid)));
    scan_by(writer.table(), index, snapshot, key_columns)
}

fn scan_by(table: Table, index: Index, snapshot: &Rc<Snapshot>, key_columns: usize) -> IndexScan<Days> {
    IndexScan::new(table, index, Sight::without_siread(snapshot), key_columns, days::TRANSACTION_COUNT)
}

/// Calls `visit` with each total of the user's days from the first of these to the last, in the order of days.
pub fn each(
    totals: &mut IndexScan<Days>,
    user: &UserId,
    first: Day,
    last: Bound<Day>,
    mut visit: impl FnMut(Day, &Row<'_, Days>) -> Result<(), SumOutOfRange>,
) -> Result<(), SumOutOfRange> {
    totals.seek(&[days::USER_ID.equal(user), days::DAY.at_least(first)]);
    while let Some(row) = totals.next() {
        xact::check_for_interrupts();
        let day = row.get(days::DAY);
        if !(Bound::Unbounded, last).contains(&day) {
            break;
        }
        visit(day, &row)?;
    }
    Ok(())
}
