//! Who owns a relation, and whether the caller can read it without running code of others.

use pgrx::pg_sys;
use pgrx::pg_sys::SysCacheIdentifier::{DATABASEOID, RELOID};

/// Whether the caller trusts the owner of the relation. A view, a policy or the expression of an index runs with the privileges of the
/// role that reads, so the owner must be a superuser, the owner of the database, or a role that the caller is or is a member of. A
/// caller that is a superuser trusts superusers only.
pub fn is_trusted(relation: pg_sys::Oid) -> bool {
    // SAFETY: catalog lookups.
    unsafe {
        let Some(owner) =
            attribute(RELOID.cast_signed(), relation, pg_sys::Anum_pg_class_relowner.cast_signed())
        else {
            return false;
        };
        if pg_sys::superuser_arg(owner) {
            return true;
        }
        let caller = pg_sys::GetUserId();
        let database_owner = attribute(
            DATABASEOID.cast_signed(),
            pg_sys::MyDatabaseId,
            pg_sys::Anum_pg_database_datdba.cast_signed(),
        );
        !pg_sys::superuser_arg(caller)
            && (database_owner == Some(owner) || pg_sys::is_member_of_role_nosuper(caller, owner))
    }
}

/// The oid in a column of the catalog row that the cache finds by an oid.
///
/// # Safety
/// `cache` must be looked up by one oid, and `column` of its table be an oid that is not NULL.
unsafe fn attribute(cache: i32, key: pg_sys::Oid, column: i32) -> Option<pg_sys::Oid> {
    // SAFETY: the caller's promise; the value is copied before the row is released.
    unsafe {
        let row = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(key));
        if row.is_null() {
            return None;
        }
        let mut is_null = false;
        let value =
            pg_sys::SysCacheGetAttr(cache, row, i16::try_from(column).unwrap_or_default(), &raw mut is_null);
        pg_sys::ReleaseSysCache(row);
        u32::try_from(value.value()).ok().map(pg_sys::Oid::from)
    }
}
