//! Rows of the server's own catalogs.

use pgrx::pg_sys;

use super::relation::{Access, Table};

/// An index of a system catalog, whose first column is looked up.
#[derive(Clone, Copy, Debug)]
pub struct Lookup {
    /// The catalog.
    pub catalog: pg_sys::Oid,
    /// Its index.
    pub index: u32,
    /// The number of the column in the catalog.
    pub column: u32,
    /// The function that compares it.
    pub equal: u32,
}

/// Shows the rows with this key, as of now, to `visit`, with the catalog.
///
/// # Safety
/// The parts of the lookup belong together, and the key is of the column's type.
pub unsafe fn visit(
    lookup: Lookup,
    key: pg_sys::Datum,
    mut visit: impl FnMut(&Table, &mut pg_sys::HeapTupleData),
) {
    let table = Table::open(lookup.catalog, Access::Read);
    let mut scan_key = pg_sys::ScanKeyData::default();
    // SAFETY: the caller's promise; the catalog is open as long as the scan, and a row valid until the next one is asked for.
    unsafe {
        pg_sys::ScanKeyInit(
            &raw mut scan_key,
            i16::try_from(lookup.column).unwrap_or_default(),
            u16::try_from(pg_sys::BTEqualStrategyNumber).unwrap_or_default(),
            lookup.equal.into(),
            key,
        );
        let scan = pg_sys::systable_beginscan(
            table.as_raw(),
            lookup.index.into(),
            true,
            std::ptr::null_mut(),
            1,
            &raw mut scan_key,
        );
        while let Some(row) = pg_sys::systable_getnext(scan).as_mut() {
            visit(&table, row);
        }
        pg_sys::systable_endscan(scan);
    }
}
