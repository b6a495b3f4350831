//! Index scans that fetch heap rows, without a query.

use std::marker::PhantomData;
use std::thread::panicking;

use pgrx::pg_sys;

use super::relation::{Index, Table};
use super::row::Row;
use super::snapshot::Sight;

/// Most index columns that a scan is keyed on.
const MAX_KEYS: usize = 2;

/// Condition on one column of an index; the first key is for the first column, and so on.
#[derive(Clone, Copy, Debug)]
pub enum Key {
    /// `= uuid`
    UuidEqual([u8; 16]),
    /// `= xid8`
    Xid8Equal(u64),
    /// `>= xid8`
    Xid8AtLeast(u64),
}

/// A forward scan. It owns its relations and may be sought again and again.
pub struct IndexScan<'s> {
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    columns: i32,
    /// Scan keys point to these bytes.
    uuids: Box<[[u8; 16]; MAX_KEYS]>,
    _table: Table,
    _index: Index,
    _sight: PhantomData<Sight<'s>>,
}

impl<'s> IndexScan<'s> {
    /// A scan over `key_columns` columns of the index whose rows have their first `columns` columns read.
    pub fn new(table: Table, index: Index, sight: Sight<'s>, key_columns: usize, columns: i32) -> Self {
        assert!(key_columns <= MAX_KEYS, "a scan has at most {MAX_KEYS} keys");
        // SAFETY: both relations are open, and stay so as long as the scan; the sight outlives it by its lifetime.
        let (scan, slot) = unsafe {
            (
                #[cfg(not(feature = "pg18"))]
                pg_sys::index_beginscan(
                    table.as_raw(),
                    index.as_raw(),
                    sight.as_raw(),
                    i32::try_from(key_columns).unwrap_or_default(),
                    0,
                ),
                #[cfg(feature = "pg18")]
                pg_sys::index_beginscan(
                    table.as_raw(),
                    index.as_raw(),
                    sight.as_raw(),
                    std::ptr::null_mut(),
                    i32::try_from(key_columns).unwrap_or_default(),
                    0,
                ),
                pg_sys::table_slot_create(table.as_raw(), std::ptr::null_mut()),
            )
        };
        let uuids = Box::new([[0; 16]; MAX_KEYS]);
        Self { scan, slot, columns, uuids, _table: table, _index: index, _sight: PhantomData }
    }

    /// Starts over, at the first row that meets the keys.
    pub fn seek<const N: usize>(&mut self, keys: [Key; N]) {
        const { assert!(N <= MAX_KEYS) };
        let mut scan_keys = [pg_sys::ScanKeyData::default(); N];
        for (index, key) in keys.iter().enumerate() {
            let (strategy, procedure, argument) = match *key {
                Key::UuidEqual(uuid) => {
                    self.uuids[index] = uuid;
                    let pointer = std::ptr::from_ref(&self.uuids[index]);
                    (pg_sys::BTEqualStrategyNumber, pg_sys::F_UUID_EQ, pg_sys::Datum::from(pointer))
                }
                Key::Xid8Equal(id) => {
                    (pg_sys::BTEqualStrategyNumber, pg_sys::F_XID8EQ, pg_sys::Datum::from(id))
                }
                Key::Xid8AtLeast(id) => {
                    (pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_XID8GE, pg_sys::Datum::from(id))
                }
            };
            let column = i16::try_from(index + 1).unwrap_or_default();
            let strategy = u16::try_from(strategy).unwrap_or_default();
            // SAFETY: fills the key in place; the procedure belongs to the column's default btree operator class.
            unsafe {
                pg_sys::ScanKeyInit(&raw mut scan_keys[index], column, strategy, procedure.into(), argument);
            }
        }
        // SAFETY: the server copies the keys; the bytes that they point to are ours and do not move.
        unsafe {
            pg_sys::index_rescan(
                self.scan,
                scan_keys.as_mut_ptr(),
                i32::try_from(N).unwrap_or_default(),
                std::ptr::null_mut(),
                0,
            );
        }
    }

    /// The next row that the sight sees.
    pub fn next(&mut self) -> Option<Row<'_>> {
        // SAFETY: scan and slot are valid until dropped; the row borrows the slot until the next call.
        unsafe {
            if !pg_sys::index_getnext_slot(self.scan, pg_sys::ScanDirection::ForwardScanDirection, self.slot)
            {
                return None;
            }
            if i32::from((*self.slot).tts_nvalid) < self.columns {
                pg_sys::slot_getsomeattrs_int(self.slot, self.columns);
            }
            // For a dirty snapshot the server leaves here who inserted the row just returned, if that has not ended.
            let snapshot = &*(*self.scan).xs_snapshot;
            let in_flight = snapshot.snapshot_type == pg_sys::SnapshotType::SNAPSHOT_DIRTY
                && snapshot.xmin != pg_sys::InvalidTransactionId;
            Some(Row::new(&*self.slot, in_flight))
        }
    }
}

impl Drop for IndexScan<'_> {
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: made by `new`, released once, before the relations.
            unsafe {
                pg_sys::index_endscan(self.scan);
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            }
        }
    }
}
