//! Scans by block range: a BRIN index gives the blocks in which rows may lie, and a tuple id range scan reads those.

use std::marker::PhantomData;
use std::thread::panicking;

use pgrx::{itemptr, pg_sys};

use super::column::{self, Column, Layout};
use super::column_type::ColumnType;
use super::fetch::Tid;
use super::relation::{Index, Table};
use super::row::Row;
use super::snapshot::Snapshot;

/// A range of blocks of a table.
pub type Blocks = std::ops::Range<pg_sys::BlockNumber>;

/// The blocks that may have rows whose `xid8` in the first column of the index, a BRIN, is in the range. Block ranges that are not
/// summarized yet are among them.
pub fn with_xid8(index: &Index, ids: &std::ops::Range<u64>) -> Vec<Blocks> {
    let bound = |strategy: u32, procedure: u32, id: u64| {
        let mut key = pg_sys::ScanKeyData::default();
        // SAFETY: fills the key in place; the operators belong to the operator class of the index.
        unsafe {
            pg_sys::ScanKeyEntryInitialize(
                &raw mut key,
                0,
                1,
                u16::try_from(strategy).unwrap_or_default(),
                pg_sys::XID8OID,
                pg_sys::InvalidOid,
                procedure.into(),
                pg_sys::Datum::from(id),
            );
        }
        key
    };
    let mut keys = [
        bound(pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_XID8GE, ids.start),
        bound(pg_sys::BTLessStrategyNumber, pg_sys::F_XID8LT, ids.end),
    ];
    let mut found = Vec::new();
    // SAFETY: the index is open, and a BRIN looks at no row: with this snapshot, a serializable transaction is not taken to have
    // read the index whole.
    unsafe {
        let (any, count) = (&raw mut pg_sys::SnapshotAnyData, 2);
        #[cfg(not(feature = "pg18"))]
        let scan = pg_sys::index_beginscan_bitmap(index.as_raw(), any, count);
        #[cfg(feature = "pg18")]
        let scan = pg_sys::index_beginscan_bitmap(index.as_raw(), any, std::ptr::null_mut(), count);
        pg_sys::index_rescan(scan, keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
        #[cfg(not(feature = "pg18"))]
        let memory = i64::from(pg_sys::work_mem) * 1024;
        #[cfg(feature = "pg18")]
        let memory = usize::try_from(pg_sys::work_mem).unwrap_or_default() * 1024;
        let bitmap = pg_sys::tbm_create(memory, std::ptr::null_mut());
        pg_sys::index_getbitmap(scan, bitmap);
        pg_sys::index_endscan(scan);
        each_block(bitmap, |block| join(&mut found, block));
        pg_sys::tbm_free(bitmap);
    }
    found
}

/// # Safety
/// The bitmap is whole.
#[cfg(not(feature = "pg18"))]
unsafe fn each_block(bitmap: *mut pg_sys::TIDBitmap, mut visit: impl FnMut(pg_sys::BlockNumber)) {
    // SAFETY: the caller's promise.
    unsafe {
        let iterator = pg_sys::tbm_begin_iterate(bitmap);
        while let Some(page) = pg_sys::tbm_iterate(iterator).as_ref() {
            visit(page.blockno);
        }
        pg_sys::tbm_end_iterate(iterator);
    }
}

/// # Safety
/// The bitmap is whole.
#[cfg(feature = "pg18")]
unsafe fn each_block(bitmap: *mut pg_sys::TIDBitmap, mut visit: impl FnMut(pg_sys::BlockNumber)) {
    // SAFETY: the caller's promise.
    unsafe {
        let iterator = pg_sys::tbm_begin_private_iterate(bitmap);
        let mut page = pg_sys::TBMIterateResult::default();
        while pg_sys::tbm_private_iterate(iterator, &raw mut page) {
            visit(page.blockno);
        }
        pg_sys::tbm_end_private_iterate(iterator);
    }
}

/// Adds a block, which comes after all that have been found.
fn join(found: &mut Vec<Blocks>, block: pg_sys::BlockNumber) {
    match found.last_mut() {
        Some(last) if last.end == block => last.end += 1,
        _ => found.push(block..block + 1),
    }
}

/// All blocks of the table.
pub fn all(table: &Table) -> Vec<Blocks> {
    // SAFETY: the table is open.
    let end =
        unsafe { pg_sys::RelationGetNumberOfBlocksInFork(table.as_raw(), pg_sys::ForkNumber::MAIN_FORKNUM) };
    let whole = 0..end;
    vec![whole]
}

/// Reads rows of a table by their tuple ids.
pub struct BlockScan<L> {
    scan: pg_sys::TableScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    snapshot: Snapshot,
    table: Table,
    /// The column that rows are deformed to.
    furthest: usize,
    layout: PhantomData<L>,
}

impl<L: Layout> BlockScan<L> {
    /// Reads what the snapshot sees, deformed up to this column. Raises 55000 unless the table has the layout.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
    pub fn new<T: ColumnType>(table: Table, snapshot: Snapshot, furthest: Column<L, T>) -> Self {
        column::require::<L>(&table);
        let relation = table.as_raw();
        let flags = pg_sys::ScanOptions::SO_TYPE_TIDRANGESCAN | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
        // SAFETY: the table is open. Table and snapshot live as long as this value, which owns them.
        let (scan, slot) = unsafe {
            let begin = (*(*relation).rd_tableam).scan_begin.expect("every table has one");
            (
                pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    begin(relation, snapshot.as_raw(), 0, std::ptr::null_mut(), std::ptr::null_mut(), flags)
                }),
                pg_sys::table_slot_create(relation, std::ptr::null_mut()),
            )
        };
        Self { scan, slot, snapshot, table, furthest: furthest.number(), layout: PhantomData }
    }

    /// Calls `visit` with each row in these blocks that the snapshot sees.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
    pub fn each(&mut self, blocks: &Blocks, mut visit: impl FnMut(&Row<'_, L>)) {
        let (mut first, mut last) = (Tid::default(), Tid::default());
        itemptr::item_pointer_set_all(&mut first, blocks.start, 0);
        itemptr::item_pointer_set_all(&mut last, blocks.end - 1, u16::MAX);
        // SAFETY: the scan is valid; the row borrows the slot until the next one is looked for, and its table has been compared
        // with the layout.
        unsafe {
            let methods = &*(*self.table.as_raw()).rd_tableam;
            let rescan = methods.scan_rescan.expect("every table has one");
            let set_range = methods.scan_set_tidrange.expect("a heap has one");
            let get_next = methods.scan_getnextslot_tidrange.expect("a heap has one");
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                rescan(self.scan, std::ptr::null_mut(), false, false, false, false);
                set_range(self.scan, &raw mut first, &raw mut last);
            });
            let next = || get_next(self.scan, pg_sys::ScanDirection::ForwardScanDirection, self.slot);
            // One guard a row: `visit` may panic, which must not pass a guard.
            while pg_sys::ffi::pg_guard_ffi_boundary(next) {
                let row = Row::new(self.slot);
                row.deform(self.furthest);
                visit(&row);
            }
        }
    }

    /// The row with this tuple id, which [`each`](Self::each) has shown. Panics if the snapshot sees none there.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
    pub fn at(&mut self, mut tid: Tid) -> Row<'_, L> {
        let relation = self.table.as_raw();
        // SAFETY: the table is open, and vacuum keeps what a registered snapshot sees; the row borrows the slot until the next one
        // is looked for, and its table has been compared with the layout.
        unsafe {
            let fetch = (*(*relation).rd_tableam).tuple_fetch_row_version.expect("every table has one");
            let found = pg_sys::ffi::pg_guard_ffi_boundary(|| {
                fetch(relation, &raw mut tid, self.snapshot.as_raw(), self.slot)
            });
            assert!(found, "a row stays as long as a snapshot sees it");
            Row::new(self.slot)
        }
    }
}

impl<L> Drop for BlockScan<L> {
    #[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: `new` has made both. They are released once, while the table is open.
            unsafe {
                let end = (*(*self.table.as_raw()).rd_tableam).scan_end.expect("every table has one");
                pg_sys::ffi::pg_guard_ffi_boundary(|| end(self.scan));
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            }
        }
    }
}
