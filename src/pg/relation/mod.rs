//! Open tables and indexes, and their locks.
//!
//! Closing a relation that was opened for reading releases its lock, unless it is to be kept. A relation that was opened for writing, or
//! locked without being opened, stays locked to the end of the transaction. A long transaction of a reader must not keep the lock of a derived
//! table's index: REINDEX of that index would wait for it, holding a lock on the table that the reader's own commit may need.
//! While an error unwinds, nothing is closed: the server's abort releases what the resource owner holds.

mod index;
mod table;

use pgrx::pg_sys;

pub use self::index::Index;
pub use self::table::Table;

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
