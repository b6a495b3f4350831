//! Rows of tables with one or a few rows for each user.

use std::rc::Rc;

use pgrx::pg_sys;

use super::moment::Moment;
use crate::error::LedgerError;
use crate::pg::column::{Column, Layout};
use crate::pg::column_type::ColumnType;
use crate::pg::relation::{Access, Index, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::scan_key::Key;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::xact;

/// Reads the rows of one user after the other, by an index that begins with the user.
pub struct UserRows<L> {
    /// Until the scan is begun: most decisions look for no user.
    opened: Option<(Table, Index)>,
    scan: Option<IndexScan<L>>,
}

impl<L: Layout> UserRows<L> {
    /// The rows of this table, by this index of it.
    pub const fn new(table: Table, index: Index) -> Self {
        Self { opened: Some((table, index)), scan: None }
    }

    /// Keeps the locks of table and index to the end of the transaction.
    pub fn keep_locks(&self) {
        let opened = self.opened.as_ref().map(|(table, index)| (table, index));
        let scanned = self.scan.as_ref().map(|scan| (scan.table().as_ref(), scan.index()));
        if let Some((table, index)) = opened.or(scanned) {
            table.keep_lock();
            index.keep_lock();
        }
    }

    /// The rows with this key, as the moment has them. `furthest` is the last column that is looked at.
    pub fn seek<T: ColumnType>(
        &mut self,
        key: Key<L>,
        now: &Moment,
        furthest: Column<L, T>,
    ) -> &mut IndexScan<L> {
        if let Some((table, index)) = self.opened.take() {
            self.scan = Some(IndexScan::new(table, index, now.sight(), 1, furthest));
        }
        let scan = self.scan.as_mut().expect("begun above");
        scan.see_with(now.sight());
        scan.seek(&[key]);
        scan
    }
}

/// Calls `visit` with each row of a table, as it is now. `furthest` is the last column that is looked at.
pub fn each<L: Layout, T: ColumnType>(
    table: pg_sys::Oid,
    furthest: Column<L, T>,
    mut visit: impl FnMut(&Row<'_, L>) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let table = Table::open(table, Access::Read);
    let key = Index::primary_key_of(&table);
    let now = Rc::new(Snapshot::latest());
    let mut scan = IndexScan::new(table, key, Sight::without_siread(&now), 0, furthest);
    scan.seek(&[]);
    while let Some(row) = scan.next() {
        visit(&row)?;
        xact::check_for_interrupts();
    }
    Ok(())
}
