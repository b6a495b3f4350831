//! Entries of the relation cache: descriptions of relations, read without opening them for a scan.

use pgrx::pg_sys;

use super::description;

/// Passes the relcache entry of the relation to `look` under ACCESS SHARE, which is released afterwards; `None` if there is no
/// such relation, or if the lock is not free since another session is changing it.
///
/// # Safety
/// `look` makes no changes. It keeps no pointer into the entry across a call that may process invalidations: they rebuild it.
pub(super) unsafe fn with_entry_if_free<R>(
    oid: pg_sys::Oid,
    look: impl FnOnce(pg_sys::Relation) -> R,
) -> Option<R> {
    let mode = pg_sys::AccessShareLock.cast_signed();
    // SAFETY: locked and unlocked once; an error ends the transaction, and the lock with it.
    unsafe {
        if !pg_sys::ConditionalLockRelationOid(oid, mode) {
            return None;
        }
        let result = with_entry(oid, look);
        pg_sys::UnlockRelationOid(oid, mode);
        result
    }
}

/// Passes the relcache entry of the relation to `look`, without a lock and as of the invalidations that this session has processed;
/// `None` if there is no such relation.
///
/// # Safety
/// `look` makes no changes. It keeps no pointer into the entry across a call that may process invalidations: they rebuild it.
pub(super) unsafe fn with_entry<R>(oid: pg_sys::Oid, look: impl FnOnce(pg_sys::Relation) -> R) -> Option<R> {
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
    unsafe { description::text((*(*relation).rd_rel).relname.data.as_ptr()) }
}
