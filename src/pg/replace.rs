//! Updates and deletions of rows without a statement, of a table that may have indexes of any kind.
//!
//! An UPDATE would fire triggers, and after a BEFORE ROW trigger the server computes generated columns anew. This fires no
//! trigger and keeps every column that the caller does not name. Otherwise it is an ordinary, WAL-logged update: values out of
//! line are kept, and every index is maintained, also those that the owner has added.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::slice;
use std::thread::panicking;

use pgrx::pg_sys;

use super::column::{AnyColumn, Column, Layout};
use super::column_type::Timestamptz;
use super::description;
use super::fetch::Tid;
use super::memory::Scratch;
use super::relation::Table;
use super::row::Row;
use super::snapshot::Snapshot;
use crate::error::LedgerError;

/// A table open for writing, with its indexes.
pub struct RowReplacer<L> {
    state: *mut pg_sys::EState,
    target: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    memory: RefCell<Scratch>,
    layout: PhantomData<L>,
    _table: Table,
}

impl<L: Layout> RowReplacer<L> {
    /// Opens the indexes of a table that is open for writing.
    pub fn new(table: Table) -> Self {
        // SAFETY: the steps of a logical replication worker that applies an update. The table stays open as long as this value,
        // which owns it.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let target = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*target).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            pg_sys::InitResultRelInfo(target, table.as_raw(), 1, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(target, false);
            let slot = pg_sys::table_slot_create(table.as_raw(), std::ptr::null_mut());
            Self {
                state,
                target,
                slot,
                memory: RefCell::new(Scratch::new("credits_ledger replaced rows")),
                layout: PhantomData,
                _table: table,
            }
        }
    }

    /// Updates the row to have NULL in these columns, and its other columns as they are. The caller has found it with the
    /// snapshot, and keeps other transactions from updating it meanwhile. Returns where the new version is.
    pub fn clear(&self, row: &Row<'_, L>, columns: &[AnyColumn<L>], snapshot: &Snapshot) -> Tid {
        self.replace_with(row, columns, None, snapshot)
    }

    /// Updates the row to have this time in the column, as [`clear`](Self::clear) does.
    pub fn set_time(
        &self,
        row: &Row<'_, L>,
        column: Column<L, Timestamptz>,
        microseconds: i64,
        snapshot: &Snapshot,
    ) -> Tid {
        self.replace_with(row, &[column.any()], Some(pg_sys::Datum::from(microseconds)), snapshot)
    }

    fn replace_with(
        &self,
        row: &Row<'_, L>,
        columns: &[AnyColumn<L>],
        value: Option<pg_sys::Datum>,
        snapshot: &Snapshot,
    ) -> Tid {
        self.memory.borrow_mut().step(|| {
            // SAFETY: the row is of this table, since its layout is, and its slot holds it while the new version is formed and
            // stored. A value is passed by value, and of the columns' type.
            unsafe {
                self.fill(row, columns, value);
                self.replace(row.tid(), snapshot)
            }
        })
    }

    /// Forms the new version in the slot: the row with this value, or NULL, in these columns, and with NULL in those that have been
    /// dropped. Values that are held by reference stay in the row, so it must last as long as the slot is
    /// used.
    ///
    /// # Safety
    /// The row is one of the table, and the value is one of these columns.
    unsafe fn fill(&self, row: &Row<'_, L>, columns: &[AnyColumn<L>], value: Option<pg_sys::Datum>) {
        // SAFETY: the caller's promise: row and slot have as many columns as the table.
        unsafe {
            let description = (*self.slot).tts_tupleDescriptor;
            let count = description::count(description);
            pg_sys::ExecClearTuple(self.slot);
            let (values, nulls) = row.all(count);
            let new_values = slice::from_raw_parts_mut((*self.slot).tts_values, count);
            let new_nulls = slice::from_raw_parts_mut((*self.slot).tts_isnull, count);
            for place in 0..count {
                let column = description::column(description, place);
                let is_new = columns.iter().any(|column| column.number() == place + 1);
                if is_new && value.is_none() && column.attnotnull {
                    LedgerError::ClearedNotNull(description::text(column.attname.data.as_ptr())).raise();
                }
                let kept = (!nulls[place]).then_some(values[place]);
                let stored = if is_new { value } else { kept }.filter(|_| !column.attisdropped);
                new_nulls[place] = stored.is_none();
                new_values[place] = stored.unwrap_or(pg_sys::Datum::null());
            }
            pg_sys::ExecStoreVirtualTuple(self.slot);
        }
    }

    /// Inserts entries for the new row version into the indexes, into `only_summarizing` ones if it is a heap-only tuple. A unique
    /// index whose check is deferred may return a conflict to be checked again, which it has for the old version, too.
    ///
    /// # Safety
    /// The slot holds the row version as it is stored.
    unsafe fn insert_index_entries(
        &self,
        #[cfg(not(any(feature = "pg14", feature = "pg15")))] only_summarizing: bool,
    ) {
        let (is_update, no_duplicate_error) = (false, false);
        let (no_conflict, no_arbiters) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the caller's promise; the indexes of the target are open.
        unsafe {
            pg_sys::ExecInsertIndexTuples(
                self.target,
                self.slot,
                self.state,
                is_update,
                no_duplicate_error,
                no_conflict,
                no_arbiters,
                #[cfg(not(any(feature = "pg14", feature = "pg15")))]
                only_summarizing,
            );
        }
    }

    /// Whether the table has foreign keys, or unique indexes that are checked after a row is inserted. Such a check passes over a
    /// row version that has been replaced meanwhile.
    pub fn is_checked_later(&self) -> bool {
        // SAFETY: the table is open, and so are as many indexes of it as it says.
        unsafe {
            let target = &*self.target;
            let count = usize::try_from(target.ri_NumIndices).unwrap_or_default();
            let has_foreign_keys = !pg_sys::RelationGetFKeyList(target.ri_RelationDesc).is_null();
            has_foreign_keys
                || (0..count).any(|number| {
                    let index = *target.ri_IndexRelationDescs.add(number);
                    !(*(*index).rd_index).indimmediate
                })
        }
    }

    /// Locks the row, which the snapshot has seen, as an UPDATE does, once other transactions that are writing it have ended. False if
    /// one of them has updated or deleted it.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
    pub fn lock_unless_changed(&self, row: &Row<'_, L>, snapshot: &Snapshot) -> bool {
        let mut failure = pg_sys::TM_FailureData::default();
        let (mut tid, slot, failure) = (row.tid(), self.slot, &raw mut failure);
        // SAFETY: the row is of this table, since its layout is, and the table is open for writing; the server fills the slot, which is
        // one of the table's and free between two calls, and writes what it finds to `failure`.
        unsafe {
            let relation = (*self.target).ri_RelationDesc;
            let command = pg_sys::GetCurrentCommandId(true);
            let lock = (*(*relation).rd_tableam).tuple_lock.expect("every table has one");
            let follows_no_update = 0;
            let result = pg_sys::ffi::pg_guard_ffi_boundary(|| {
                lock(
                    relation,
                    &raw mut tid,
                    snapshot.as_raw(),
                    slot,
                    command,
                    pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
                    pg_sys::LockWaitPolicy::LockWaitBlock,
                    follows_no_update,
                    failure,
                )
            });
            pg_sys::ExecClearTuple(slot);
            result == pg_sys::TM_Result::TM_Ok
        }
    }

    /// Stores the new version, and returns where.
    ///
    /// # Safety
    /// The slot holds the new version, and `tid` is that of the old one.
    unsafe fn replace(&self, mut tid: Tid, snapshot: &Snapshot) -> Tid {
        // SAFETY: the caller's promise; table and indexes are open for writing.
        unsafe {
            #[cfg(any(feature = "pg14", feature = "pg15"))]
            let mut indexes = false;
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            let mut indexes = pg_sys::TU_UpdateIndexes::TU_None;
            let relation = (*self.target).ri_RelationDesc;
            pg_sys::simple_table_tuple_update(
                relation,
                &raw mut tid,
                self.slot,
                snapshot.as_raw(),
                &raw mut indexes,
            );
            #[cfg(any(feature = "pg14", feature = "pg15"))]
            if indexes {
                self.insert_index_entries();
            }
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            if indexes != pg_sys::TU_UpdateIndexes::TU_None {
                self.insert_index_entries(indexes == pg_sys::TU_UpdateIndexes::TU_Summarizing);
            }
            if let Some(context) = (*self.state).es_per_tuple_exprcontext.as_ref() {
                pg_sys::MemoryContextReset(context.ecxt_per_tuple_memory);
            }
            let stored_at = (*self.slot).tts_tid;
            pg_sys::ExecClearTuple(self.slot);
            stored_at
        }
    }
}

/// Deletes the row at `tid`, which the snapshot has seen, once other transactions that are writing it have ended. False if one of them
/// has updated or deleted it.
#[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
pub fn delete_unless_changed(table: &Table, mut tid: Tid, snapshot: &Snapshot) -> bool {
    let mut failure = pg_sys::TM_FailureData::default();
    let (relation, failure) = (table.as_raw(), &raw mut failure);
    // SAFETY: the table is open for writing; the server writes what it finds to `failure`.
    let result = unsafe {
        let command = pg_sys::GetCurrentCommandId(true);
        let delete = (*(*relation).rd_tableam).tuple_delete.expect("every table has one");
        let (no_other_snapshot, waits, is_moved) = (std::ptr::null_mut(), true, false);
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            delete(
                relation,
                &raw mut tid,
                command,
                snapshot.as_raw(),
                no_other_snapshot,
                waits,
                failure,
                is_moved,
            )
        })
    };
    result == pg_sys::TM_Result::TM_Ok
}

impl<L> Drop for RowReplacer<L> {
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: `new` has made them. They are released once, while the table is open.
            unsafe {
                pg_sys::ExecCloseIndices(self.target);
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::FreeExecutorState(self.state);
            }
        }
    }
}
