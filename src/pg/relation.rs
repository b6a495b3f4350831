//! Open tables and indexes.
//!
//! Both are closed when dropped and keep their lock to the end of the transaction, as a query's do. While an error
//! unwinds nothing is called: the server's abort releases what the resource owner holds.

use std::ffi::CStr;
use std::thread::panicking;

use pgrx::pg_sys;

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
}

/// Locks the relation to the end of the transaction, whether it still exists or not.
pub fn lock(oid: pg_sys::Oid, access: Access) {
    // SAFETY: any oid can be locked.
    unsafe { pg_sys::LockRelationOid(oid, access.lock_mode()) }
}

/// Shows the description of the relation that this session has, as far as it has been told of changes, without a lock; `None` if
/// there is no such relation.
///
/// # Safety
/// `look` does nothing that may change the description: it learns of no changes of others, and makes none.
pub(super) unsafe fn with_description<R>(
    oid: pg_sys::Oid,
    look: impl FnOnce(pg_sys::Relation) -> R,
) -> Option<R> {
    // SAFETY: opened and closed once; while an error unwinds, the server closes it.
    unsafe {
        let relation = pg_sys::RelationIdGetRelation(oid);
        if relation.is_null() {
            return None;
        }
        let result = look(relation);
        pg_sys::RelationClose(relation);
        Some(result)
    }
}

/// The name of an open relation, for messages.
///
/// # Safety
/// The relation is open.
pub(super) unsafe fn name(relation: pg_sys::Relation) -> String {
    // SAFETY: the caller's promise; a name is NUL-terminated.
    unsafe { CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr()) }.to_string_lossy().into_owned()
}

/// An open table.
pub struct Table(pg_sys::Relation);

impl Table {
    /// Opens the table, waiting for its lock.
    pub fn open(oid: pg_sys::Oid, access: Access) -> Self {
        // SAFETY: raises an error if there is no such table.
        Self(unsafe { pg_sys::table_open(oid, access.lock_mode()) })
    }

    /// Opens the table if its lock is free.
    pub fn open_if_free(oid: pg_sys::Oid, access: Access) -> Option<Self> {
        // SAFETY: with the lock held the table is opened without another.
        unsafe {
            pg_sys::ConditionalLockRelationOid(oid, access.lock_mode())
                .then(|| Self(pg_sys::table_open(oid, pg_sys::NoLock.cast_signed())))
        }
    }

    /// Whether rows can only be inserted, and are noted by those who do: in every session the trigger `append_only` refuses all
    /// else, `append_only_applied` refuses it row by row, and `note_transaction` notes.
    pub fn only_gains_noted_rows(&self) -> bool {
        // SAFETY: the table is open; its description has as many triggers as it says, with names.
        unsafe {
            let description = (*self.0).trigdesc;
            if description.is_null() {
                return false;
            }
            let count = usize::try_from((*description).numtriggers).unwrap_or_default();
            let triggers = std::slice::from_raw_parts((*description).triggers, count);
            let always = |name: &CStr| {
                triggers.iter().any(|trigger| {
                    trigger.tgenabled == pg_sys::TRIGGER_FIRES_ALWAYS.cast_signed()
                        && CStr::from_ptr(trigger.tgname) == name
                })
            };
            [c"append_only", c"append_only_applied", c"note_transaction"].into_iter().all(always)
        }
    }

    /// For the modules of this folder.
    pub(super) const fn as_raw(&self) -> pg_sys::Relation {
        self.0
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: opened by `open`, closed once; NoLock keeps the lock.
            unsafe { pg_sys::table_close(self.0, pg_sys::NoLock.cast_signed()) }
        }
    }
}

/// An open index.
pub struct Index(pg_sys::Relation);

impl Index {
    /// Opens the index, waiting for its lock.
    pub fn open(oid: pg_sys::Oid, access: Access) -> Self {
        // SAFETY: raises an error if there is no such index.
        Self(unsafe { pg_sys::index_open(oid, access.lock_mode()) })
    }

    /// Opens the primary key of a table for reading. The table's lock keeps it in place, even if another is made to follow it.
    pub fn primary_key_of(table: &Table) -> Self {
        // SAFETY: the table is open.
        unsafe {
            #[cfg(not(feature = "pg18"))]
            let oid = pg_sys::RelationGetPrimaryKeyIndex(table.0);
            #[cfg(feature = "pg18")]
            let oid = pg_sys::RelationGetPrimaryKeyIndex(table.0, false);
            if oid == pg_sys::InvalidOid {
                LedgerError::Missing(format!("the primary key of {}", name(table.0))).raise();
            }
            Self::open(oid, Access::Read)
        }
    }

    /// Whether it has every row: not while it is being built concurrently, or if that has failed.
    pub fn is_valid(&self) -> bool {
        // SAFETY: the index is open.
        unsafe { (*(*self.0).rd_index).indisvalid }
    }

    /// Whether every snapshot, however old, finds every row by it.
    pub fn is_complete(&self) -> bool {
        // SAFETY: the index is open.
        self.is_valid() && unsafe { !(*(*self.0).rd_index).indcheckxmin }
    }

    /// For the modules of this folder.
    pub(super) const fn as_raw(&self) -> pg_sys::Relation {
        self.0
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: as for `Table`.
            unsafe { pg_sys::index_close(self.0, pg_sys::NoLock.cast_signed()) }
        }
    }
}
