//! Rows of the server's own catalogs, and of tables that are read like one.

use pgrx::pg_sys;

use super::relation::{Access, Table};
use super::snapshot::{Sight, Snapshot};

/// An index of a system catalog, whose first column is looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lookup {
    /// The catalog.
    pub catalog: pg_sys::Oid,
    /// Its index.
    pub index: u32,
    /// The number of the column in the catalog.
    pub column: u32,
    /// The function that compares it.
    pub equal: u32,
}

/// Shows the rows with this key to `visit`, with the catalog: as the snapshot sees them, or as of now.
///
/// # Safety
/// The parts of the lookup belong together, and the key is of the column's type.
pub(super) unsafe fn visit(
    lookup: Lookup,
    key: pg_sys::Datum,
    snapshot: Option<&Snapshot>,
    mut visit: impl FnMut(&Table, &mut pg_sys::HeapTupleData),
) {
    let table = Table::open(lookup.catalog, Access::Read);
    let mut scan_key = pg_sys::ScanKeyData::default();
    // SAFETY: the parts of the lookup belong together and the key is of the column's type, as the caller promises. The catalog is
    // open as long as the scan, and a row is valid until the next one is fetched.
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
            snapshot.map_or(std::ptr::null_mut(), Snapshot::as_raw),
            1,
            &raw mut scan_key,
        );
        while let Some(row) = pg_sys::systable_getnext(scan).as_mut() {
            visit(&table, row);
        }
        pg_sys::systable_endscan(scan);
    }
}

/// Shows all visible rows of a table to `visit`, in physical order.
pub fn visit_all(table: &Table, sight: &Sight, mut visit: impl FnMut(&pg_sys::HeapTupleData)) {
    any(table, sight, |row| {
        visit(row);
        false
    });
}

/// Whether `is_it` of one of the visible rows of a table, which are shown to it in physical order up to that one.
pub fn any(table: &Table, sight: &Sight, mut is_it: impl FnMut(&pg_sys::HeapTupleData) -> bool) -> bool {
    // SAFETY: table and sight are held as long as the scan, and a row is valid, in the scan's slot, until the next one is asked for.
    unsafe {
        let scan = pg_sys::systable_beginscan(
            table.as_raw(),
            pg_sys::InvalidOid,
            false,
            sight.as_raw(),
            0,
            std::ptr::null_mut(),
        );
        let mut found = false;
        while !found && let Some(row) = pg_sys::systable_getnext(scan).as_ref() {
            let slot = (*scan).slot;
            let is_seen = pg_sys::ffi::pg_guard_ffi_boundary(|| sight.sees(table.as_raw(), slot));
            found = is_seen && is_it(row);
        }
        pg_sys::systable_endscan(scan);
        found
    }
}

/// Whether this transaction has inserted the row that a scan shows.
pub fn is_of_this_transaction(row: &pg_sys::HeapTupleData) -> bool {
    // SAFETY: a row of a scan has a header, of the kind that stored rows have.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId((*row.t_data).t_choice.t_heap.t_xmin) }
}

/// Whether a transaction has marked the row that a scan shows as deleted or replaced, and has not been rolled back.
pub fn is_being_deleted(row: &pg_sys::HeapTupleData) -> bool {
    // SAFETY: a row of a scan has a header, in which the visibility check has set `HEAP_XMAX_INVALID` if that transaction was rolled
    // back.
    let infomask = unsafe { (*row.t_data).t_infomask };
    u32::from(infomask) & pg_sys::HEAP_XMAX_INVALID == 0
}

/// The transaction that made this version of a row that a scan shows. It stays so when the row is frozen.
pub const fn xmin(row: &pg_sys::HeapTupleData) -> pg_sys::TransactionId {
    // SAFETY: a row of a scan has a header, and the borrow keeps the scan from moving on meanwhile.
    unsafe { (*row.t_data).t_choice.t_heap.t_xmin }
}
