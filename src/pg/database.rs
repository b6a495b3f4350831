//! The database of this session.

use pgrx::pg_sys;

use super::snapshot::Snapshot;
use super::system_catalog::{self, Lookup};

const BY_OID: Lookup = Lookup {
    catalog: pg_sys::DatabaseRelationId,
    index: pg_sys::DatabaseOidIndexId,
    column: pg_sys::Anum_pg_database_oid,
    equal: pg_sys::F_OIDEQ,
};

/// Its oid.
pub fn oid() -> u32 {
    // SAFETY: the server sets this variable before it runs the first transaction of a session, and never again.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

/// The version of its row in `pg_database`, as the snapshot sees it or as of now: the transaction that wrote it. Of databases
/// that had the same oid one after the other, each has another.
pub fn version(snapshot: Option<&Snapshot>) -> u32 {
    let mut version = 0;
    // SAFETY: the catalog, its index and the column belong together, and the key is an oid, as the column is.
    unsafe {
        system_catalog::visit(BY_OID, pg_sys::Datum::from(oid()), snapshot, |_, row| {
            version = system_catalog::xmin(row).into_inner();
        });
    }
    version
}
