//! The rows of a user by their dates.
//!
//! The index on user and date has dates rounded to the second, up or down, so a scan of it begins early, ends late and looks at the dates
//! themselves.

use ledger::credits::SumOutOfRange;
use ledger::id::UserId;

use crate::pg::catalog::Relations;
use crate::pg::column::Column;
use crate::pg::column_type::ColumnType;
use crate::pg::relation::{Index, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::scan_key::ToTheSecond;
use crate::pg::snapshot::Sight;
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::xact;

const SECOND: i64 = 1_000_000;

/// Reads rows of users by their dates.
pub struct RowsByDate(IndexScan<Ledger>);

impl RowsByDate {
    /// By this index, which is [that by date](Relations::open_created_index). The ledger is locked. `furthest` is the last column that
    /// is looked at, not before `created_at`.
    pub fn new<T: ColumnType>(
        relations: &Relations,
        index: Index,
        sight: Sight,
        furthest: Column<Ledger, T>,
    ) -> Self {
        Self(IndexScan::new(Table::open_locked(relations.ledger), index, sight, 2, furthest))
    }

    /// Calls `visit` with each row of the user that is dated `from` then on and before the end, if there is one; both are microseconds
    /// since 2000-01-01 UTC.
    pub fn each(
        &mut self,
        user: &UserId,
        from: i64,
        end: Option<i64>,
        mut visit: impl FnMut(&Row<'_, Ledger>) -> Result<(), SumOutOfRange>,
    ) -> Result<(), SumOutOfRange> {
        let first_second = from.saturating_sub(from.rem_euclid(SECOND));
        self.0.seek(&[transactions::USER_ID.equal(user), ToTheSecond.at_least(first_second)]);
        while let Some(row) = self.0.next() {
            xact::check_for_interrupts();
            let time = row.get(transactions::CREATED_AT);
            if end.is_some_and(|end| time > end.saturating_add(SECOND)) {
                break;
            }
            if time >= from && end.is_none_or(|end| time < end) {
                visit(&row)?;
            }
        }
        Ok(())
    }
}
