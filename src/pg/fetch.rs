//! Fetches rows again at the tuple id that an index once gave for them, without descending the index.

use std::marker::PhantomData;
use std::rc::Rc;
use std::thread::panicking;

use pgrx::pg_sys;

use super::column::{self, AnyColumn, Layout};
use super::pruning;
use super::relation::Table;
use super::row::Row;
use super::snapshot::{Sight, Snapshot};

/// The tuple id that an index has for a row. Its newer versions can be reached from there as long as they are on the same page.
pub type Tid = pg_sys::ItemPointerData;

/// A tuple id as a number, which can be compared.
pub type Address = u64;

/// The number of a tuple id.
pub fn address(tid: Tid) -> Address {
    pgrx::itemptr::item_pointer_to_u64(tid)
}

/// The tuple id of this number.
pub fn tid(address: Address) -> Tid {
    let mut tid = Tid::default();
    pgrx::itemptr::u64_to_item_pointer(address, &mut tid);
    tid
}

/// Fetches rows of one table by tuple id.
pub struct RowFetch<L> {
    fetch: *mut pg_sys::IndexFetchTableData,
    slot: *mut pg_sys::TupleTableSlot,
    /// How many blocks the table had when it was opened: VACUUM does not truncate it while it is locked.
    blocks: pg_sys::BlockNumber,
    table: Rc<Table>,
    /// The column that rows are deformed to.
    furthest: usize,
    layout: PhantomData<L>,
}

impl<L: Layout> RowFetch<L> {
    /// Fetches rows of the table, deformed up to this column. Raises 55000 unless the table has the layout.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
    pub fn new(table: impl Into<Rc<Table>>, furthest: impl Into<AnyColumn<L>>) -> Self {
        let table = table.into();
        column::require::<L>(&table);
        let relation = table.as_raw();
        // SAFETY: the table is open. It stays open as long as this value, which owns it.
        let (fetch, slot, blocks) = unsafe {
            let begin = (*(*relation).rd_tableam).index_fetch_begin.expect("every table has one");
            (
                pg_sys::ffi::pg_guard_ffi_boundary(|| begin(relation)),
                pg_sys::table_slot_create(relation, std::ptr::null_mut()),
                pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM),
            )
        };
        Self { fetch, slot, blocks, table, furthest: furthest.into().number(), layout: PhantomData }
    }

    /// The row that the snapshot sees at the tuple id, or in the HOT chain that begins there. The tuple id may have been reused for
    /// another row, and the row may have moved to another page: the caller compares the key, and scans the index if it differs.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
    pub fn at(&mut self, mut tid: Tid, sight: &Sight) -> Option<Row<'_, L>> {
        // SAFETY: reads the tuple id, which is on the stack.
        if unsafe { pgrx::itemptr::item_pointer_get_block_number(&raw const tid) } >= self.blocks {
            return None;
        }
        let (fetch, slot, table, relation) = (self.fetch, self.slot, &self.table, self.table.as_raw());
        let (mut call_again, mut all_dead) = (false, false);
        // SAFETY: the tuple id's block is within the table. An error of the server jumps over frames without destructors only.
        let found = unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                pruning::come_to_page::<L>(table, fetch, tid);
                let fetch_tuple = (*(*relation).rd_tableam).index_fetch_tuple.expect("every table has one");
                while fetch_tuple(
                    fetch,
                    &raw mut tid,
                    sight.as_raw(),
                    slot,
                    &raw mut call_again,
                    &raw mut all_dead,
                ) {
                    if sight.sees(relation, slot) {
                        return true;
                    }
                    if !call_again {
                        break;
                    }
                }
                false
            })
        };
        found.then(|| {
            // SAFETY: the slot holds a row, of a table that has been compared with the layout; the row borrows it until the next
            // call.
            let row = unsafe { Row::new(self.slot) };
            row.deform(self.furthest);
            row
        })
    }
}

impl<L: Layout> RowFetch<L> {
    /// The version of a row that is stored at this very tuple id, if the snapshot sees it. The tuple id may have been reused for another row.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
    pub fn version_at(&mut self, mut tid: Tid, snapshot: &Snapshot) -> Option<Row<'_, L>> {
        // SAFETY: reads the tuple id, which is on the stack.
        if unsafe { pgrx::itemptr::item_pointer_get_block_number(&raw const tid) } >= self.blocks {
            return None;
        }
        let (slot, relation) = (self.slot, self.table.as_raw());
        // SAFETY: the tuple id's block is within the table.
        let found = unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                let fetch = (*(*relation).rd_tableam).tuple_fetch_row_version.expect("every table has one");
                fetch(relation, &raw mut tid, snapshot.as_raw(), slot)
            })
        };
        // SAFETY: the slot holds a row, of a table that has been compared with the layout; the row borrows it until the next call.
        found.then(|| unsafe { Row::new(self.slot) })
    }
}

impl<L> Drop for RowFetch<L> {
    #[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: `new` has made both. They are released once, while the table is open.
            unsafe {
                let end = (*(*self.table.as_raw()).rd_tableam).index_fetch_end.expect("every table has one");
                pg_sys::ffi::pg_guard_ffi_boundary(|| end(self.fetch));
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            }
        }
    }
}
