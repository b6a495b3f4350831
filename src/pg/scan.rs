//! Index scans that fetch heap rows, without a query.

use std::marker::PhantomData;
use std::rc::Rc;
use std::thread::panicking;

use pgrx::pg_sys;

use super::column::{self, AnyColumn, Layout};
use super::fetch::Tid;
use super::pruning;
use super::relation::{Index, Table};
use super::row::Row;
use super::scan_key::{Argument, Key};
use super::snapshot::{Sight, Writer};
use super::text::OwnedText;

/// The most index columns that a scan has keys for.
const MAX_KEYS: usize = 5;

/// A scan in the order of the index, or backward. It owns its table, its index and its snapshot, and can be started again with
/// other keys.
///
/// It returns at most one row for each index entry. That is enough: an MVCC snapshot sees one version of a row. A dirty snapshot
/// would see two while a redaction is in flight. Settlement has one, but holds the stripe of the user, which a redaction takes
/// exclusively.
pub struct IndexScan<L> {
    scan: pg_sys::IndexScanDesc,
    direction: pg_sys::ScanDirection::Type,
    slot: *mut pg_sys::TupleTableSlot,
    /// The context in which the scan allocates: it must live as long as the scan.
    memory: pg_sys::MemoryContext,
    /// The arguments of scan keys for uuids, which are passed by reference. In a box, they stay where they are when this value is moved.
    uuids: Box<[[u8; 16]; MAX_KEYS]>,
    /// The arguments of scan keys for texts.
    texts: [OwnedText; MAX_KEYS],
    sight: Sight,
    /// The tuple id in the last index entry.
    index_tid: Tid,
    /// Whether the slot holds a row that the snapshot sees.
    found: bool,
    index: Index,
    /// Closed last: dropping this value releases scan and slot first.
    table: Rc<Table>,
    /// The column that rows are deformed to.
    furthest: usize,
    layout: PhantomData<L>,
}

// From access/genam.h, access/tableam.h, access/skey.h and executor/tuptable.h, without the guard that pgrx puts around each call: one
// stands around several of them.
unsafe extern "C-unwind" {
    #[cfg(not(feature = "pg18"))]
    fn index_beginscan(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        keys: i32,
        order_bys: i32,
    ) -> pg_sys::IndexScanDesc;
    #[cfg(feature = "pg18")]
    fn index_beginscan(
        table: pg_sys::Relation,
        index: pg_sys::Relation,
        snapshot: pg_sys::Snapshot,
        instrument: *mut pg_sys::IndexScanInstrumentation,
        keys: i32,
        order_bys: i32,
    ) -> pg_sys::IndexScanDesc;
    fn table_slot_create(
        table: pg_sys::Relation,
        registered: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::TupleTableSlot;
    fn index_rescan(
        scan: pg_sys::IndexScanDesc,
        keys: *mut pg_sys::ScanKeyData,
        key_count: i32,
        order_bys: *mut pg_sys::ScanKeyData,
        order_by_count: i32,
    );
    fn index_endscan(scan: pg_sys::IndexScanDesc);
    fn ExecDropSingleTupleTableSlot(slot: *mut pg_sys::TupleTableSlot);
    fn ScanKeyInit(
        key: *mut pg_sys::ScanKeyData,
        column: pg_sys::AttrNumber,
        strategy: pg_sys::StrategyNumber,
        procedure: pg_sys::RegProcedure,
        argument: pg_sys::Datum,
    );
    fn index_getnext_tid(
        scan: pg_sys::IndexScanDesc,
        direction: pg_sys::ScanDirection::Type,
    ) -> pg_sys::ItemPointer;
    fn index_fetch_heap(scan: pg_sys::IndexScanDesc, slot: *mut pg_sys::TupleTableSlot) -> bool;
}

impl<L: Layout> IndexScan<L> {
    /// A scan with keys for so many columns of the index, which is one of the table's. Rows are deformed up to the column that is
    /// the furthest to be read. Raises 55000 unless the table has the layout.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the calls")]
    pub fn new(
        table: impl Into<Rc<Table>>,
        index: Index,
        sight: Sight,
        key_columns: usize,
        furthest: impl Into<AnyColumn<L>>,
    ) -> Self {
        let table = table.into();
        column::require::<L>(&table);
        assert!(index.is_on(&table), "an index of the table");
        assert!(key_columns <= MAX_KEYS, "a scan has at most {MAX_KEYS} keys");
        let (opened, by, snapshot) = (table.as_raw(), index.as_raw(), sight.as_raw());
        let keys = i32::try_from(key_columns).unwrap_or_default();
        // SAFETY: table and index are open. They stay open as long as the scan, which owns them and the snapshot. An error of the server
        // jumps over frames without destructors only.
        let (scan, slot) = unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                (
                    #[cfg(not(feature = "pg18"))]
                    index_beginscan(opened, by, snapshot, keys, 0),
                    #[cfg(feature = "pg18")]
                    index_beginscan(opened, by, snapshot, std::ptr::null_mut(), keys, 0),
                    table_slot_create(opened, std::ptr::null_mut()),
                )
            })
        };
        // SAFETY: reads a global of the server; there is always a current memory context.
        let memory = unsafe { pg_sys::CurrentMemoryContext };
        let uuids = Box::new([[0; 16]; MAX_KEYS]);
        let index_tid = Tid::default();
        let direction = pg_sys::ScanDirection::ForwardScanDirection;
        let furthest = furthest.into().number();
        Self {
            scan,
            direction,
            slot,
            memory,
            uuids,
            texts: Default::default(),
            sight,
            index_tid,
            found: false,
            index,
            table,
            furthest,
            layout: PhantomData,
        }
    }

    /// Turns the scan around: it returns the last row of the index first.
    pub const fn backward(mut self) -> Self {
        self.direction = pg_sys::ScanDirection::BackwardScanDirection;
        self
    }

    /// Replaces the snapshot, from the next [`seek`](Self::seek) on.
    pub fn see_with(&mut self, sight: Sight) {
        // SAFETY: the scan descriptor is valid, and this value owns both snapshots until the new one is in place.
        unsafe { (*self.scan).xs_snapshot = sight.as_raw() }
        self.sight = sight;
    }

    /// The index that it scans.
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// The table.
    pub const fn table(&self) -> &Rc<Table> {
        &self.table
    }

    /// Its snapshot.
    pub const fn sight(&self) -> &Sight {
        &self.sight
    }

    /// Starts over, before the first row that meets the keys. Panics unless there are as many keys as the scan was made for, one
    /// for each column of the index from the first on.
    pub fn seek(&mut self, keys: &[Key<L>]) {
        // SAFETY: the scan descriptor is valid until the scan is dropped.
        let expected = unsafe { (*self.scan).numberOfKeys };
        assert!(
            usize::try_from(expected) == Ok(keys.len()),
            "a scan is sought with as many keys as it was made for"
        );
        let mut arguments = [pg_sys::Datum::null(); MAX_KEYS];
        for (place, key) in keys.iter().enumerate() {
            assert!(self.index.has_column(place, key.column), "a key for another column");
            arguments[place] = self.keep(place, &key.argument);
        }
        self.found = false;
        // SAFETY: each key is for the index's column in its place, and what its argument points to is kept.
        unsafe { self.rescan(keys, &arguments) }
    }

    /// The argument of the key in this place as the server takes it. What that points to stays until another is kept in its place.
    fn keep(&mut self, place: usize, argument: &Argument) -> pg_sys::Datum {
        match argument {
            Argument::Value(datum) => *datum,
            Argument::Uuid(uuid) => {
                self.uuids[place] = *uuid;
                pg_sys::Datum::from(std::ptr::from_ref(&self.uuids[place]))
            }
            Argument::Text(text) => self.texts[place].set(text),
            Argument::Null => pg_sys::Datum::null(),
        }
    }

    /// # Safety
    /// Each key is for the column of the index in its place. Its argument is the datum in that place, and stays until the next call.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the calls")]
    unsafe fn rescan(&self, keys: &[Key<L>], arguments: &[pg_sys::Datum; MAX_KEYS]) {
        let (scan, memory, index) = (self.scan, self.memory, &self.index);
        // SAFETY: the server copies the keys; what they point to stays, as the caller promises. A procedure compares the type of its
        // column, which is the index column's. An error of the server jumps over frames without destructors only.
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                let mut scan_keys = [pg_sys::ScanKeyData::default(); MAX_KEYS];
                for ((place, key), scan_key) in keys.iter().enumerate().zip(&mut scan_keys) {
                    let column = i16::try_from(place + 1).unwrap_or_default();
                    if matches!(key.argument, Argument::Null) {
                        scan_key.sk_flags = (pg_sys::SK_ISNULL | pg_sys::SK_SEARCHNULL).cast_signed();
                        scan_key.sk_attno = column;
                        continue;
                    }
                    let strategy = u16::try_from(key.strategy).unwrap_or_default();
                    ScanKeyInit(scan_key, column, strategy, key.procedure.into(), arguments[place]);
                    scan_key.sk_collation = index.collation(place);
                }
                let current = pg_sys::MemoryContextSwitchTo(memory);
                let count = i32::try_from(keys.len()).unwrap_or_default();
                index_rescan(scan, scan_keys.as_mut_ptr(), count, std::ptr::null_mut(), 0);
                pg_sys::MemoryContextSwitchTo(current);
            });
        }
    }

    /// The next row that the snapshot sees; `None` at the end.
    pub fn next(&mut self) -> Option<Row<'_, L>> {
        self.found = self.find_next();
        let row = self.current()?;
        row.deform(self.furthest);
        Some(row)
    }

    #[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
    fn find_next(&mut self) -> bool {
        let (scan, direction, slot, memory) = (self.scan, self.direction, self.slot, self.memory);
        let (index_tid, sight, table) = (&raw mut self.index_tid, &self.sight, &self.table);
        // SAFETY: scan and slot are valid until the scan is dropped. A tuple id of the index is within the table. An error of the server
        // jumps only over frames without destructors.
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                let current = pg_sys::MemoryContextSwitchTo(memory);
                let found = 'entries: loop {
                    let entry = index_getnext_tid(scan, direction);
                    if entry.is_null() {
                        break false;
                    }
                    *index_tid = *entry;
                    pruning::come_to_page::<L>(table, (*scan).xs_heapfetch, *index_tid);
                    while index_fetch_heap(scan, slot) {
                        if sight.sees(table.as_raw(), slot) {
                            break 'entries true;
                        }
                        if !(*scan).xs_heap_continue {
                            break;
                        }
                    }
                };
                pg_sys::MemoryContextSwitchTo(current);
                found
            })
        }
    }

    /// The row that [`next`](Self::next) has returned last.
    pub fn current(&self) -> Option<Row<'_, L>> {
        if !self.found {
            return None;
        }
        let in_flight = match &self.sight {
            Sight::AsOf(_) | Sight::WithoutSiread(_) => false,
            Sight::Dirty(snapshot) => snapshot.last_row_is_in_flight(),
        };
        // SAFETY: the row borrows the slot, which holds it until the next one is looked for. It is of the table, which has been
        // compared with the layout.
        let row = unsafe { Row::new(self.slot) };
        Some(row.seen_in_flight(in_flight))
    }

    /// The other transaction that is writing the row that was found last; `None` for a scan that does not meet such rows.
    pub fn writer(&self) -> Option<Writer> {
        match &self.sight {
            Sight::Dirty(snapshot) if self.found => snapshot.writer_of_last_row(),
            _ => None,
        }
    }

    /// The tuple id that the index has for the row that was found last: the root of its HOT chain.
    pub const fn index_tid(&self) -> Tid {
        self.index_tid
    }
}

impl<L> Drop for IndexScan<L> {
    #[expect(ffi_unwind_calls, reason = "the guard stands around the calls")]
    fn drop(&mut self) {
        if !panicking() {
            let (scan, slot) = (self.scan, self.slot);
            // SAFETY: `new` has made both. They are released once, while table and index are open.
            unsafe {
                pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    index_endscan(scan);
                    ExecDropSingleTupleTableSlot(slot);
                });
            }
        }
    }
}
