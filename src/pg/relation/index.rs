//! Open indexes.

use std::cell::Cell;
use std::convert::Infallible;
use std::thread::panicking;

use pgrx::{PgList, pg_sys};

use super::{
    Access, ConditionalLockRelationOid, LockRelationOid, NO_LOCK, NotFree, Table, UnlockRelationOid,
    try_relation_open,
};
use crate::error::LedgerError;
use crate::pg::column::{AnyColumn, Layout};
use crate::pg::{description, relcache};

/// How often an index is looked up again if it is dropped between the lookup and its lock.
const ATTEMPTS: u8 = 10;

/// An index that is open for reading.
pub struct Index {
    relation: pg_sys::Relation,
    /// What is released when it is closed.
    released: Cell<pg_sys::LOCKMODE>,
}

impl Index {
    /// Opens the index, waiting for its lock; `None` if it has been dropped.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the calls")]
    pub fn open(oid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: any oid can be locked, and the lock is taken before the index is opened.
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                LockRelationOid(oid, Access::Read.lock_mode());
                Self::take_over(oid)
            })
        }
    }

    /// [`open`](Self::open), for a function that takes either that or [`open_if_free`](Self::open_if_free).
    pub fn waited_for(oid: pg_sys::Oid) -> Result<Option<Self>, Infallible> {
        Ok(Self::open(oid))
    }

    /// Opens the index if its lock is free.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the calls")]
    pub fn open_if_free(oid: pg_sys::Oid) -> Result<Option<Self>, NotFree> {
        // SAFETY: any oid can be locked, and the lock is taken before the index is opened.
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                ConditionalLockRelationOid(oid, Access::Read.lock_mode()).then(|| Self::take_over(oid))
            })
        }
        .ok_or(NotFree)
    }

    /// Opens an index whose lock has just been taken.
    ///
    /// # Safety
    /// The caller has a guard around the call.
    #[expect(ffi_unwind_calls, reason = "the caller puts the guard around it")]
    unsafe fn take_over(oid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: null if there is no such relation; then its lock is released.
        unsafe {
            let relation = try_relation_open(oid, NO_LOCK);
            if relation.is_null() {
                UnlockRelationOid(oid, Access::Read.lock_mode());
                return None;
            }
            Some(Self { relation, released: Cell::new(Access::Read.released()) })
        }
    }

    /// Keeps the lock of the index to the end of the transaction when it is closed.
    pub fn keep_lock(&self) {
        self.released.set(NO_LOCK);
    }

    /// Opens the primary key of a table. The table's lock keeps the index complete, even while REINDEX CONCURRENTLY replaces it. On a
    /// standby replay waits for no such lock and may drop it: then the next one is opened.
    pub fn primary_key_of(table: &Table) -> Self {
        let Ok(index) = Self::primary_key_by(table, Self::waited_for);
        index
    }

    /// Opens the primary key of a table if its lock is free.
    pub fn primary_key_if_free(table: &Table) -> Result<Self, NotFree> {
        Self::primary_key_by(table, Self::open_if_free)
    }

    fn primary_key_by<E>(
        table: &Table,
        open: impl Fn(pg_sys::Oid) -> Result<Option<Self>, E>,
    ) -> Result<Self, E> {
        for _ in 0..ATTEMPTS {
            let Some(oid) = table.primary_key() else { break };
            if let Some(index) = open(oid)? {
                return Ok(index);
            }
        }
        // SAFETY: the table is open.
        LedgerError::Missing(format!("the primary key of {}", unsafe { relcache::name(table.as_raw()) }))
            .raise()
    }

    /// Opens an index once more that is open, for less than by its oid. The lock stays with whoever has it.
    ///
    /// # Safety
    /// The index is open, and locked to the end of the transaction.
    pub(in crate::pg) unsafe fn of_open(relation: pg_sys::Relation) -> Self {
        // SAFETY: being open, its relcache entry stays where it is; dropping the value counts it down again.
        unsafe { pg_sys::RelationIncrementReferenceCount(relation) }
        Self { relation, released: Cell::new(NO_LOCK) }
    }

    /// Opens the index once more.
    pub fn again(&self) -> Self {
        // SAFETY: it is there, being open, and the lock is held.
        let relation = unsafe { pg_sys::index_open(self.oid(), Access::Read.lock_mode()) };
        Self { relation, released: Cell::new(Access::Read.released()) }
    }

    /// The oid of the index.
    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: the index is open.
        unsafe { (*self.relation).rd_id }
    }

    /// Whether it can be relied on to hold every row: not while CREATE INDEX CONCURRENTLY builds it, nor
    /// after that has failed, nor once DROP or REINDEX INDEX CONCURRENTLY has begun to drop it.
    pub fn is_valid(&self) -> bool {
        // SAFETY: the index is open.
        unsafe { (*(*self.relation).rd_index).indisvalid }
    }

    /// Whether every snapshot, however old, finds every row by it (`indcheckxmin` is not set).
    pub fn is_complete(&self) -> bool {
        // SAFETY: the index is open.
        self.is_valid() && unsafe { !(*(*self.relation).rd_index).indcheckxmin }
    }

    /// Whether it is an index of this table.
    pub(in crate::pg) fn is_on(&self, table: &Table) -> bool {
        // SAFETY: index and table are open.
        unsafe { (*(*self.relation).rd_index).indrelid == (*table.as_raw()).rd_id }
    }

    /// Whether its column at this place, from 0, is that column of its table, or an expression of its type.
    pub(in crate::pg) fn has_column<L: Layout>(&self, place: usize, column: AnyColumn<L>) -> bool {
        // SAFETY: the index is open, and its description has the numbers and types of as many columns as it says.
        unsafe {
            let index = &*(*self.relation).rd_index;
            let columns =
                index.indkey.values.as_slice(usize::try_from(index.indnkeyatts).unwrap_or_default());
            columns.get(place) == Some(&column.attribute_number())
                && description::column((*self.relation).rd_att, place).atttypid == column.oid()
        }
    }

    /// Whether it has every row of its table, and its column at this place, from 0, is that column of its table cast to whole seconds:
    /// `timestamptz(0)`.
    pub(in crate::pg) fn has_seconds_of(&self, place: usize, column: pg_sys::AttrNumber) -> bool {
        // SAFETY: the index is open, its description has the numbers of as many columns as it says, and its lists of nodes are copies. The
        // first expression is that of the first column without a number. A node is looked at as what its tag says.
        unsafe {
            let index = &*(*self.relation).rd_index;
            let columns =
                index.indkey.values.as_slice(usize::try_from(index.indnkeyatts).unwrap_or_default());
            if columns.get(place) != Some(&0) {
                return false;
            }
            let expression = columns[..place].iter().filter(|&&number| number == 0).count();
            let expressions =
                PgList::<pg_sys::Node>::from_pg(pg_sys::RelationGetIndexExpressions(self.relation));
            let predicate = PgList::<pg_sys::Node>::from_pg(pg_sys::RelationGetIndexPredicate(self.relation));
            let Some(node) = expressions.get_ptr(expression) else { return false };
            if !predicate.is_empty() || (*node).type_ != pg_sys::NodeTag::T_FuncExpr {
                return false;
            }
            let cast = node.cast::<pg_sys::FuncExpr>();
            let arguments = PgList::<pg_sys::Node>::from_pg((*cast).args);
            let [Some(of), Some(digits)] = [arguments.get_ptr(0), arguments.get_ptr(1)] else { return false };
            let (of, digits) = (of.cast::<pg_sys::Var>(), digits.cast::<pg_sys::Const>());
            (*cast).funcid.to_u32() == pg_sys::F_TIMESTAMPTZ_TIMESTAMPTZ_INT4
                && (*of).xpr.type_ == pg_sys::NodeTag::T_Var
                && (*of).varattno == column
                && (*digits).xpr.type_ == pg_sys::NodeTag::T_Const
                && !(*digits).constisnull
                && (*digits).constvalue.value() == 0
        }
    }

    /// The collation by which its column at this place, from 0, is ordered; none for a type that has no collations.
    pub(in crate::pg) fn collation(&self, place: usize) -> pg_sys::Oid {
        // SAFETY: the index is open, and the server has loaded a collation for each of its columns.
        unsafe {
            let columns = usize::try_from((*(*self.relation).rd_index).indnkeyatts).unwrap_or_default();
            let collations = std::slice::from_raw_parts((*self.relation).rd_indcollation, columns);
            collations.get(place).copied().unwrap_or(pg_sys::InvalidOid)
        }
    }

    /// For the modules of this folder.
    pub(in crate::pg) const fn as_raw(&self) -> pg_sys::Relation {
        self.relation
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: opened by a constructor, closed once, by the same resource owner.
            unsafe { pg_sys::index_close(self.relation, self.released.get()) }
        }
    }
}
