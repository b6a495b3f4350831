//! Open tables.

use std::cell::Cell;
use std::thread::panicking;

use pgrx::{PgList, pg_sys};

use super::{
    Access, ConditionalLockRelationOid, INVALID_SUBTRANSACTION, NO_LOCK, NotFree, file_made_by, table_open,
};

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
    pub(in crate::pg) fn primary_key(&self) -> Option<pg_sys::Oid> {
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
    pub(in crate::pg) const fn as_raw(&self) -> pg_sys::Relation {
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
