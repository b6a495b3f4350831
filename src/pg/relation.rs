//! Open tables and indexes, and their locks.
//!
//! Closing a relation that was opened for reading releases its lock, unless it is to be kept. A relation that was opened for writing, or
//! locked without being opened, stays locked to the end of the transaction. A long transaction of a reader must not keep the lock of a derived
//! table's index: REINDEX of that index would wait for it, holding a lock on the table that the reader's own commit may need.
//! While an error unwinds, nothing is closed: the server's abort releases what the resource owner holds.

use std::cell::Cell;
use std::convert::Infallible;
use std::thread::panicking;

use pgrx::{PgList, pg_sys};

use super::column::{AnyColumn, Layout};
use super::{description, relcache};
use crate::error::LedgerError;

/// Lock to open a relation with.
#[derive(Clone, Copy, Debug)]
pub enum Access {
    /// `ACCESS SHARE`, as SELECT.
    Read,
    /// `ROW EXCLUSIVE`, as INSERT and UPDATE.
    Write,
}

impl Access {
    const fn lock_mode(self) -> pg_sys::LOCKMODE {
        match self {
            Self::Read => pg_sys::AccessShareLock.cast_signed(),
            Self::Write => pg_sys::RowExclusiveLock.cast_signed(),
        }
    }

    /// What is released when the relation is closed.
    const fn released(self) -> pg_sys::LOCKMODE {
        match self {
            Self::Read => self.lock_mode(),
            Self::Write => NO_LOCK,
        }
    }
}

/// `InvalidSubTransactionId` of c.h
pub(super) const INVALID_SUBTRANSACTION: pg_sys::SubTransactionId = 0;

const NO_LOCK: pg_sys::LOCKMODE = pg_sys::NoLock.cast_signed();

/// How often an index is looked up again if it is dropped between the lookup and its lock.
const ATTEMPTS: u8 = 10;

/// Another session holds, or waits for, a lock that conflicts with the one asked for.
#[derive(Debug)]
pub struct NotFree;

/// Locks the relation to the end of the transaction, whether it still exists or not.
pub fn lock(oid: pg_sys::Oid, access: Access) {
    // SAFETY: any oid can be locked.
    unsafe { pg_sys::LockRelationOid(oid, access.lock_mode()) }
}

/// Locks the relation to the end of the transaction if no other session holds a lock that conflicts.
pub fn lock_if_free(oid: pg_sys::Oid, access: Access) -> Result<(), NotFree> {
    // SAFETY: any oid can be locked.
    unsafe { pg_sys::ConditionalLockRelationOid(oid, access.lock_mode()) }.then_some(()).ok_or(NotFree)
}

/// Whether the transaction holds a lock of this mode. Rolling back to a savepoint releases the locks taken since.
pub fn is_locked(oid: pg_sys::Oid, access: Access) -> bool {
    // SAFETY: looks at the session's own locks.
    unsafe { pg_sys::CheckRelationOidLockedByMe(oid, access.lock_mode(), false) }
}

// From storage/lmgr.h, access/relation.h and access/table.h, without the guard that pgrx puts around each call: one stands around all of
// them.
unsafe extern "C-unwind" {
    fn LockRelationOid(oid: pg_sys::Oid, mode: pg_sys::LOCKMODE);
    fn ConditionalLockRelationOid(oid: pg_sys::Oid, mode: pg_sys::LOCKMODE) -> bool;
    fn UnlockRelationOid(oid: pg_sys::Oid, mode: pg_sys::LOCKMODE);
    fn table_open(oid: pg_sys::Oid, mode: pg_sys::LOCKMODE) -> pg_sys::Relation;
    fn try_relation_open(oid: pg_sys::Oid, mode: pg_sys::LOCKMODE) -> pg_sys::Relation;
}

/// The subtransaction that has given the relation another file than it had before the transaction, if any.
///
/// # Safety
/// The relation is open.
pub(super) const unsafe fn file_made_by(relation: pg_sys::Relation) -> pg_sys::SubTransactionId {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let made_by = (*relation).rd_firstRelfilenodeSubid;
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        let made_by = (*relation).rd_firstRelfilelocatorSubid;
        made_by
    }
}

/// An open table.
pub struct Table {
    relation: pg_sys::Relation,
    /// What is released when it is closed.
    released: Cell<pg_sys::LOCKMODE>,
}

impl Table {
    /// Opens the table, waiting for its lock.
    pub fn open(oid: pg_sys::Oid, access: Access) -> Self {
        // SAFETY: raises an error if there is no such table.
        let relation = unsafe { pg_sys::table_open(oid, access.lock_mode()) };
        Self { relation, released: Cell::new(access.released()) }
    }

    /// Opens the table if its lock is free.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the calls")]
    pub fn open_if_free(oid: pg_sys::Oid, access: Access) -> Result<Self, NotFree> {
        // SAFETY: raises an error if there is no such table; the lock is held.
        let relation = unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                ConditionalLockRelationOid(oid, access.lock_mode()).then(|| table_open(oid, NO_LOCK))
            })
        };
        Ok(Self { relation: relation.ok_or(NotFree)?, released: Cell::new(access.released()) })
    }

    /// Opens a table that the transaction has locked.
    pub fn open_locked(oid: pg_sys::Oid) -> Self {
        // SAFETY: raises an error if there is no such table; the caller holds a lock on it.
        Self { relation: unsafe { pg_sys::table_open(oid, NO_LOCK) }, released: Cell::new(NO_LOCK) }
    }

    /// Opens the table once more, for less than by its oid. The lock stays with the one that has it.
    pub fn again(&self) -> Self {
        // SAFETY: the table is open, so its relcache entry stays where it is; dropping the value counts it down again.
        unsafe { pg_sys::RelationIncrementReferenceCount(self.relation) }
        Self { relation: self.relation, released: Cell::new(NO_LOCK) }
    }

    /// Whether the transaction has given the table another file, as CLUSTER does. Rows may have moved then.
    pub const fn has_own_file(&self) -> bool {
        // SAFETY: the table is open.
        unsafe { file_made_by(self.relation) != INVALID_SUBTRANSACTION }
    }

    /// Keeps the lock of the table to the end of the transaction when it is closed. Releasing it costs as much as locking it did.
    pub fn keep_lock(&self) {
        self.released.set(NO_LOCK);
    }

    /// The indexes of the table that writers maintain, in the order in which the server locks them.
    pub fn indexes(&self) -> Vec<pg_sys::Oid> {
        // SAFETY: the table is open; the list is a copy of oids.
        unsafe { PgList::<pg_sys::Oid>::from_pg(pg_sys::RelationGetIndexList(self.relation)) }
            .iter_oid()
            .collect()
    }

    /// The index of its primary key, if it has one.
    pub(super) fn primary_key(&self) -> Option<pg_sys::Oid> {
        // SAFETY: the table is open.
        let oid = unsafe {
            #[cfg(not(feature = "pg18"))]
            let oid = pg_sys::RelationGetPrimaryKeyIndex(self.relation);
            #[cfg(feature = "pg18")]
            let oid = pg_sys::RelationGetPrimaryKeyIndex(self.relation, false);
            oid
        };
        (oid != pg_sys::InvalidOid).then_some(oid)
    }

    /// For the modules of this folder.
    pub(super) const fn as_raw(&self) -> pg_sys::Relation {
        self.relation
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: opened by a constructor, closed once, by the same resource owner.
            unsafe { pg_sys::table_close(self.relation, self.released.get()) }
        }
    }
}

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
        LedgerError::Missing(format!("the primary key of {}", unsafe { relcache::name(table.relation) }))
            .raise()
    }

    /// Opens an index once more that is open, for less than by its oid. The lock stays with whoever has it.
    ///
    /// # Safety
    /// The index is open, and locked to the end of the transaction.
    pub(super) unsafe fn of_open(relation: pg_sys::Relation) -> Self {
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
    pub(super) fn is_on(&self, table: &Table) -> bool {
        // SAFETY: index and table are open.
        unsafe { (*(*self.relation).rd_index).indrelid == (*table.relation).rd_id }
    }

    /// Whether its column at this place, from 0, is that column of its table, or an expression of its type.
    pub(super) fn has_column<L: Layout>(&self, place: usize, column: AnyColumn<L>) -> bool {
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
    pub(super) fn has_seconds_of(&self, place: usize, column: pg_sys::AttrNumber) -> bool {
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
    pub(super) fn collation(&self, place: usize) -> pg_sys::Oid {
        // SAFETY: the index is open, and the server has loaded a collation for each of its columns.
        unsafe {
            let columns = usize::try_from((*(*self.relation).rd_index).indnkeyatts).unwrap_or_default();
            let collations = std::slice::from_raw_parts((*self.relation).rd_indcollation, columns);
            collations.get(place).copied().unwrap_or(pg_sys::InvalidOid)
        }
    }

    /// For the modules of this folder.
    pub(super) const fn as_raw(&self) -> pg_sys::Relation {
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
