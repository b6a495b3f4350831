//! Writes to the derived tables without the executor, as the server writes its catalogs.
//!
//! The heap and index changes are WAL-logged like any other. But they fire no trigger, check no privilege and do not raise
//! serialization failures. Callers hold a lock that keeps other transactions from writing the same row.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::thread::panicking;

use pgrx::pg_sys;

use super::column::{self, Layout};
use super::column_value::{self, NewValue};
use super::fetch::Tid;
use super::memory::Scratch;
use super::relation::{self, Access, Index, NotFree, Table};
use super::{description, relcache};
use crate::error::LedgerError;

/// A derived table open for writing, with its indexes.
pub struct TableWriter<L> {
    indexes: pg_sys::CatalogIndexState,
    table: Table,
    /// Reset after each write: a transaction can make very many.
    memory: RefCell<Scratch>,
    layout: PhantomData<L>,
}

impl<L: Layout> TableWriter<L> {
    /// Opens the table, waiting for its lock. Raises 55000 unless the table has the layout.
    pub fn open(oid: pg_sys::Oid) -> Self {
        Self::with(Table::open(oid, Access::Write))
    }

    /// Opens the table if the locks of it and of its indexes are free. They stay locked to the end of the transaction.
    pub fn open_if_free(oid: pg_sys::Oid) -> Result<Self, NotFree> {
        let table = Table::open_if_free(oid, Access::Write)?;
        // The server locks them when it opens them, and waits for locks that are not free.
        table.indexes().into_iter().try_for_each(|index| relation::lock_if_free(index, Access::Write))?;
        Ok(Self::with(table))
    }

    fn with(table: Table) -> Self {
        column::require::<L>(&table);
        // SAFETY: the table is open.
        let indexes = unsafe { pg_sys::CatalogOpenIndexes(table.as_raw()) };
        Self {
            indexes,
            table,
            memory: RefCell::new(Scratch::new("credits_ledger writes")),
            layout: PhantomData,
        }
    }

    /// Raises 55000 if an owner has added an index with an expression or a predicate, an exclusion constraint or a deferrable
    /// unique key: catalog writes do not maintain those.
    pub fn require_plain_indexes(&self) {
        // SAFETY: the state has as many open indexes, and descriptions of them, as it says.
        unsafe {
            let state = &*self.indexes;
            for (number, &index) in self.open_indexes().iter().enumerate() {
                let info = &**state.ri_IndexRelationInfo.add(number);
                let is_plain = info.ii_Expressions.is_null()
                    && info.ii_Predicate.is_null()
                    && info.ii_ExclusionOps.is_null()
                    && (*(*index).rd_index).indimmediate;
                if !is_plain {
                    LedgerError::IndexNotPlain(relcache::name(index)).raise();
                }
            }
        }
    }

    fn open_indexes(&self) -> &[pg_sys::Relation] {
        // SAFETY: the state has as many open indexes as it says, and stays as it is as long as this value.
        unsafe {
            let state = &*self.indexes;
            let count = usize::try_from(state.ri_NumIndices).unwrap_or_default();
            if count == 0 { &[] } else { std::slice::from_raw_parts(state.ri_IndexRelationDescs, count) }
        }
    }

    /// The table, opened once more to be read. That takes no lock, and costs little.
    pub fn table(&self) -> Table {
        self.table.again()
    }

    /// The index of the table with this oid, opened once more to be read, without another lock; `None` if it has been dropped.
    pub fn index(&self, oid: pg_sys::Oid) -> Option<Index> {
        // SAFETY: the indexes are open. They are counted by who has them open, and stay locked to the end of the transaction.
        let opened = unsafe {
            let opened = self.open_indexes().iter().find(|&&index| (*index).rd_id == oid);
            opened.map(|&index| Index::of_open(index))
        };
        opened.or_else(|| Index::open(oid))
    }

    /// The primary key of the table, opened once more to be read, without another lock.
    pub fn primary_key(&self) -> Index {
        let opened = self.table.primary_key().and_then(|oid| self.index(oid));
        opened.unwrap_or_else(|| Index::primary_key_of(&self.table))
    }

    fn form<const N: usize>(&self, values: [NewValue<'_, L>; N]) -> pg_sys::HeapTuple {
        let (values, numbers) = NewValue::row(values);
        let (mut datums, mut nulls) = column_value::datums(values);
        // SAFETY: there is a value for each column of the layout, of its type. The table was compared with the layout, or the column was
        // found in it; columns that it has besides are NULL.
        unsafe {
            let description = (*self.table.as_raw()).rd_att;
            let count = description::count(description);
            if numbers.into_iter().eq(1..=count) {
                return pg_sys::heap_form_tuple(description, datums.as_mut_ptr(), nulls.as_mut_ptr());
            }
            let (mut all_datums, mut all_nulls) = (vec![pg_sys::Datum::null(); count], vec![true; count]);
            for (place, number) in numbers.into_iter().enumerate() {
                all_datums[number - 1] = datums[place];
                all_nulls[number - 1] = nulls[place];
            }
            for number in (1..=count).filter(|number| !numbers.contains(number)) {
                self.require_none(description::column(description, number - 1));
            }
            pg_sys::heap_form_tuple(description, all_datums.as_mut_ptr(), all_nulls.as_mut_ptr())
        }
    }

    /// Raises 55000 for a column that an owner has added with NOT NULL: the engine has no value for it.
    fn require_none(&self, column: &pg_sys::FormData_pg_attribute) {
        if column.attnotnull && !column.attisdropped {
            // SAFETY: the table is open, and names end with NUL.
            let (table, column) = unsafe {
                (relcache::name(self.table.as_raw()), description::text(column.attname.data.as_ptr()))
            };
            LedgerError::NoValue { table, column }.raise();
        }
    }

    /// Inserts a row.
    pub fn insert<const N: usize>(&self, values: [NewValue<'_, L>; N]) {
        self.memory.borrow_mut().step(|| {
            let tuple = self.form(values);
            // SAFETY: table and indexes are open for writing; the tuple has the table's shape.
            unsafe { pg_sys::CatalogTupleInsertWithInfo(self.table.as_raw(), tuple, self.indexes) }
        });
    }

    /// Replaces the row at `tid`, which a scan has found.
    pub fn update<const N: usize>(&self, mut tid: Tid, values: [NewValue<'_, L>; N]) {
        self.memory.borrow_mut().step(|| {
            let tuple = self.form(values);
            // SAFETY: table and indexes are open for writing; the tuple has the table's shape. The server looks for the row at
            // `tid` and raises an error if another transaction has written it meanwhile.
            unsafe {
                pg_sys::CatalogTupleUpdateWithInfo(self.table.as_raw(), &raw mut tid, tuple, self.indexes);
            }
        });
    }

    /// Deletes the row at `tid`, which a scan has found.
    pub fn delete(&self, mut tid: Tid) {
        // SAFETY: the table is open for writing. The server looks for the row at `tid` and raises an error if another transaction has
        // written it meanwhile.
        unsafe { pg_sys::CatalogTupleDelete(self.table.as_raw(), &raw mut tid) }
    }
}

impl<L> Drop for TableWriter<L> {
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: `with` has opened them. They are closed once, while the table is open.
            unsafe { pg_sys::CatalogCloseIndexes(self.indexes) }
        }
    }
}
