//! Inserts of rows without a statement, into tables that are [plain](super::plain).
//!
//! The steps are those that the executor makes for `INSERT ... ON CONFLICT (key) DO NOTHING` once it has the values of a row. What it
//! does before that for each statement, and not for each row, is left out: it reads and plans the constraints and the expressions of the
//! indexes, and makes and ends a plan. That is half of what such a statement costs.

use std::marker::PhantomData;
use std::thread::panicking;

use pgrx::pg_sys;

use super::column::{self, AnyColumn, Layout};
use super::column_value::ColumnValue;
use super::description;
use super::fetch::Tid;
use super::raised::call_out;
use super::relation::Table;
use super::row::Row;

// From executor/executor.h, access/tableam.h, storage/lmgr.h and nodes/pg_list.h, without the guard that pgrx puts around each call:
// `call_out` stands around all of them.
unsafe extern "C-unwind" {
    fn CreateExecutorState() -> *mut pg_sys::EState;
    fn FreeExecutorState(state: *mut pg_sys::EState);
    fn InitResultRelInfo(
        target: *mut pg_sys::ResultRelInfo,
        relation: pg_sys::Relation,
        number: pg_sys::Index,
        parent: *mut pg_sys::ResultRelInfo,
        instrument: i32,
    );
    fn ExecOpenIndices(target: *mut pg_sys::ResultRelInfo, speculative: bool);
    fn ExecCloseIndices(target: *mut pg_sys::ResultRelInfo);
    fn ExecCheckIndexConstraints(
        target: *mut pg_sys::ResultRelInfo,
        slot: *mut pg_sys::TupleTableSlot,
        state: *mut pg_sys::EState,
        conflict: pg_sys::ItemPointer,
        #[cfg(feature = "pg18")] updated: pg_sys::ItemPointer,
        arbiters: *mut pg_sys::List,
    ) -> bool;
    fn ExecInsertIndexTuples(
        target: *mut pg_sys::ResultRelInfo,
        slot: *mut pg_sys::TupleTableSlot,
        state: *mut pg_sys::EState,
        is_update: bool,
        no_duplicate_error: bool,
        conflict: *mut bool,
        arbiters: *mut pg_sys::List,
        #[cfg(not(any(feature = "pg14", feature = "pg15")))] only_summarizing: bool,
    ) -> *mut pg_sys::List;
    fn table_slot_create(
        relation: pg_sys::Relation,
        list: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::TupleTableSlot;
    fn ExecDropSingleTupleTableSlot(slot: *mut pg_sys::TupleTableSlot);
    fn ExecStoreVirtualTuple(slot: *mut pg_sys::TupleTableSlot) -> *mut pg_sys::TupleTableSlot;
    fn GetCurrentCommandId(used: bool) -> pg_sys::CommandId;
    fn GetCurrentTransactionId() -> pg_sys::TransactionId;
    fn SpeculativeInsertionLockAcquire(transaction: pg_sys::TransactionId) -> u32;
    fn SpeculativeInsertionLockRelease(transaction: pg_sys::TransactionId);
    fn lappend_oid(list: *mut pg_sys::List, oid: pg_sys::Oid) -> *mut pg_sys::List;
    fn list_free(list: *mut pg_sys::List);
    fn MemoryContextReset(context: pg_sys::MemoryContext);
    fn palloc0(size: usize) -> *mut std::ffi::c_void;
}

/// No tuple id: what `ItemPointerSetInvalid` sets.
const NO_TID: Tid = Tid { ip_blkid: pg_sys::BlockIdData { bi_hi: u16::MAX, bi_lo: u16::MAX }, ip_posid: 0 };

/// A table open for inserting, with its indexes.
pub struct Inserter<L> {
    state: *mut pg_sys::EState,
    target: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    table: Table,
    layout: PhantomData<L>,
}

impl<L: Layout> Inserter<L> {
    /// Opens the indexes of a table that is open for writing. Raises 55000 unless the table has the layout.
    #[expect(ffi_unwind_calls, reason = "`call_out` stands around the calls")]
    pub fn new(table: Table) -> Self {
        column::require::<L>(&table);
        let relation = table.as_raw();
        // SAFETY: what the executor does for the table that it inserts into. The table stays open as long as this value, which owns it.
        let (state, target, slot) = unsafe {
            call_out(|| {
                let state = CreateExecutorState();
                let target = palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
                (*target).type_ = pg_sys::NodeTag::T_ResultRelInfo;
                InitResultRelInfo(target, relation, 1, std::ptr::null_mut(), 0);
                ExecOpenIndices(target, true);
                (state, target, table_slot_create(relation, std::ptr::null_mut()))
            })
        };
        Self { state, target, slot, table, layout: PhantomData }
    }

    /// Whether this key is one of the table's unique indexes, these and the primary key are the only others, and each of them is checked as a
    /// row is inserted. A key that was looked up before the table was locked may have been replaced meanwhile, by REINDEX CONCURRENTLY.
    pub fn is_keyed_by(&self, key: pg_sys::Oid, others: &[Option<pg_sys::Oid>]) -> bool {
        // SAFETY: the table is open, and so are as many indexes of it as it says.
        let mut indexes = unsafe {
            let target = &*self.target;
            let count = usize::try_from(target.ri_NumIndices).unwrap_or_default();
            (0..count).map(|place| &*(**target.ri_IndexRelationDescs.add(place)).rd_index)
        };
        indexes.clone().any(|index| index.indexrelid == key)
            && indexes.all(|index| {
                let id = index.indexrelid;
                let is_known = index.indisprimary || id == key || others.contains(&Some(id));
                let is_whole = index.indisvalid && index.indisready && index.indimmediate;
                if index.indisunique { is_known && is_whole } else { !index.indisexclusion }
            })
    }

    /// Inserts a row with these values, and NULL in the other columns, unless this unique index has a row with its key; waits for a
    /// transaction that is about to store one. `None` if it has. The values have passed the checks of the table, and no trigger fires.
    /// Panics if a column that must not be NULL has no value.
    #[expect(ffi_unwind_calls, reason = "`call_out` stands around the calls")]
    pub fn insert(
        &mut self,
        values: &[(AnyColumn<L>, ColumnValue<'_>)],
        key: pg_sys::Oid,
    ) -> Option<Row<'_, L>> {
        self.fill(values);
        let (state, target, slot, relation) = (self.state, self.target, self.slot, self.table.as_raw());
        // SAFETY: what the executor does for ON CONFLICT DO NOTHING. The slot has the values of a row of the table, which is open for
        // writing; so are its indexes. An error of the server jumps over frames without destructors only.
        let is_stored = unsafe {
            call_out(|| {
                // What the indexes of the row before were computed with.
                if let Some(expressions) = (*state).es_per_tuple_exprcontext.as_ref() {
                    MemoryContextReset(expressions.ecxt_per_tuple_memory);
                }
                ExecStoreVirtualTuple(slot);
                (*slot).tts_tableOid = (*relation).rd_id;
                let arbiters = lappend_oid(std::ptr::null_mut(), key);
                let is_stored = loop {
                    if !is_free(state, target, slot, arbiters) {
                        break false;
                    }
                    if store(state, target, slot, arbiters) {
                        break true;
                    }
                };
                list_free(arbiters);
                is_stored
            })
        };
        // SAFETY: the slot holds the row that was stored, of a table that has been compared with the layout; the row borrows it until the
        // next one is inserted.
        is_stored.then(|| unsafe { Row::new(slot) })
    }

    /// Puts the values into the slot.
    fn fill(&mut self, values: &[(AnyColumn<L>, ColumnValue<'_>)]) {
        // SAFETY: the slot has as many columns as the table, and has a value or NULL of each. Values are of the columns' types.
        unsafe {
            pg_sys::ExecClearTuple(self.slot);
            let columns = (*self.slot).tts_tupleDescriptor;
            let count = description::count(columns);
            let datums = std::slice::from_raw_parts_mut((*self.slot).tts_values, count);
            let nulls = std::slice::from_raw_parts_mut((*self.slot).tts_isnull, count);
            datums.fill(pg_sys::Datum::null());
            nulls.fill(true);
            for (column, value) in values {
                let place = column.number() - 1;
                assert!(value.is_of(description::column(columns, place).atttypid), "a value of its type");
                (datums[place], nulls[place]) = (value.to_datum(), value.is_null());
            }
            let is_whole =
                (0..count).all(|place| !nulls[place] || !description::column(columns, place).attnotnull);
            assert!(is_whole, "a value where NULL must not be");
        }
    }
}

/// Whether no row has the key of the one in the slot; waits for a transaction that is about to store one.
///
/// # Safety
/// The target is a table that is open for writing, with its indexes, and the slot has a row of it. The caller has [`call_out`] around the call.
#[expect(ffi_unwind_calls, reason = "the caller puts `call_out` around it")]
unsafe fn is_free(
    state: *mut pg_sys::EState,
    target: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    arbiters: *mut pg_sys::List,
) -> bool {
    let mut conflicting = NO_TID;
    #[cfg(feature = "pg18")]
    let mut updated = NO_TID;
    // SAFETY: the caller's promise.
    unsafe {
        ExecCheckIndexConstraints(
            target,
            slot,
            state,
            &raw mut conflicting,
            #[cfg(feature = "pg18")]
            &raw mut updated,
            arbiters,
        )
    }
}

/// Stores the row in the slot; takes it back, and returns `false`, if another transaction has stored one with its key meanwhile.
///
/// # Safety
/// As for [`is_free`].
#[expect(ffi_unwind_calls, reason = "the caller puts `call_out` around it")]
unsafe fn store(
    state: *mut pg_sys::EState,
    target: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    arbiters: *mut pg_sys::List,
) -> bool {
    let mut has_conflict = false;
    let (is_update, no_duplicate_error) = (false, true);
    // SAFETY: the caller's promise. Until the row is completed, others that meet it wait for the lock of its token.
    unsafe {
        let relation = (*target).ri_RelationDesc;
        let methods = &*(*relation).rd_tableam;
        let insert = methods.tuple_insert_speculative.expect("every table has one");
        let complete = methods.tuple_complete_speculative.expect("every table has one");
        let transaction = GetCurrentTransactionId();
        let token = SpeculativeInsertionLockAcquire(transaction);
        insert(relation, slot, GetCurrentCommandId(true), 0, std::ptr::null_mut(), token);
        ExecInsertIndexTuples(
            target,
            slot,
            state,
            is_update,
            no_duplicate_error,
            &raw mut has_conflict,
            arbiters,
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            false,
        );
        complete(relation, slot, token, !has_conflict);
        SpeculativeInsertionLockRelease(transaction);
    }
    !has_conflict
}

impl<L> Drop for Inserter<L> {
    #[expect(ffi_unwind_calls, reason = "`call_out` stands around the calls")]
    fn drop(&mut self) {
        if !panicking() {
            let (state, target, slot) = (self.state, self.target, self.slot);
            // SAFETY: `new` has made them. They are released once, while the table is open.
            unsafe {
                call_out(|| {
                    ExecCloseIndices(target);
                    ExecDropSingleTupleTableSlot(slot);
                    FreeExecutorState(state);
                });
            }
        }
    }
}
