//! The state that a ledger is in, named by all that a change by other hands leaves a mark on.
//!
//! The server makes a new version of a catalog row to change what it says, and each version tells which transaction made it.
//! So the versions of the rows that define a ledger name a state that never comes again. To change rows of the ledger one has
//! to change its triggers first; changes of checkpoints are noted in a table by a trigger of theirs. A database that was
//! copied has the rows of its template, but a version of its own in `pg_database`, whatever its oid.

use std::ffi::CStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use pgrx::pg_sys;

use super::catalog::Relations;
use super::relation::{Access, NotFree, Table};
use super::shared::database;
use super::snapshot::{Sight, Snapshot};
use super::system_catalog::{self, Lookup};

/// The trigger that notes changes of a table.
const NOTES_CHANGES: &CStr = c"announce_change";

/// A state of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Its name: a digest of all versions.
    pub name: u64,
    /// A digest of the noted changes alone.
    changes: u64,
}

impl State {
    /// The state that the snapshot sees. `None` if the transaction itself has changed it, or changes of checkpoints are not noted.
    /// Who asks may have a stripe, so nothing is waited for.
    pub fn seen_by(snapshot: &Rc<Snapshot>, relations: &Relations) -> Result<Option<Self>, NotFree> {
        let Some(mut versions) = changes_seen_by(snapshot, relations)? else { return Ok(None) };
        let changes = versions.digest.finish();
        database_version(Some(snapshot)).hash(&mut versions.digest);
        let mut noting = 0;
        for table in relations.telling() {
            let table = pg_sys::Datum::from(table);
            // SAFETY: both columns are oids.
            unsafe {
                system_catalog::visit(CLASS, table, Some(snapshot), |_, row| versions.add(row));
                system_catalog::visit(TRIGGERS, table, Some(snapshot), |_, row| {
                    versions.add(row);
                    noting += usize::from(notes_changes(row));
                });
            }
        }
        // Those of the checkpoints, and those of what is noted.
        let are_noted = noting == 2;
        Ok((are_noted && !versions.is_own).then(|| Self { name: versions.digest.finish(), changes }))
    }

    /// Whether the snapshot sees the changes of checkpoints that were noted in this state, and no others; likewise.
    pub fn agrees_with(&self, snapshot: &Rc<Snapshot>, relations: &Relations) -> bool {
        let seen = changes_seen_by(snapshot, relations).ok().flatten();
        seen.is_some_and(|seen| seen.digest.finish() == self.changes)
    }
}

/// Versions of rows.
#[derive(Default)]
struct Versions {
    digest: DefaultHasher,
    /// The transaction itself has made one of them.
    is_own: bool,
}

impl Versions {
    fn add(&mut self, row: &pg_sys::HeapTupleData) {
        let (maker, place) = (maker(row), row.t_self);
        // SAFETY: compares with the ids of this transaction.
        self.is_own |= unsafe { pg_sys::TransactionIdIsCurrentTransactionId(maker) };
        (maker.into_inner(), place.ip_blkid.bi_hi, place.ip_blkid.bi_lo, place.ip_posid)
            .hash(&mut self.digest);
    }
}

/// `None` if there is nothing that they could be noted in.
fn changes_seen_by(snapshot: &Rc<Snapshot>, relations: &Relations) -> Result<Option<Versions>, NotFree> {
    let Some(changes) = relations.changes else { return Ok(None) };
    let table = Table::open_if_free(changes, Access::Read)?;
    let mut versions = Versions::default();
    system_catalog::visit_all(&table, &Sight::without_siread(snapshot), |row| versions.add(row));
    Ok(Some(versions))
}

/// The version of this database's row in `pg_database`, as the snapshot sees it or as of now.
pub fn database_version(snapshot: Option<&Snapshot>) -> u32 {
    let mut version = 0;
    // SAFETY: the column is an oid.
    unsafe {
        system_catalog::visit(DATABASE, pg_sys::Datum::from(database()), snapshot, |_, row| {
            version = maker(row).into_inner();
        });
    }
    version
}

const DATABASE: Lookup = Lookup {
    catalog: pg_sys::DatabaseRelationId,
    index: pg_sys::DatabaseOidIndexId,
    column: pg_sys::Anum_pg_database_oid,
    equal: pg_sys::F_OIDEQ,
};
const CLASS: Lookup = Lookup {
    catalog: pg_sys::RelationRelationId,
    index: pg_sys::ClassOidIndexId,
    column: pg_sys::Anum_pg_class_oid,
    equal: pg_sys::F_OIDEQ,
};
const TRIGGERS: Lookup = Lookup {
    catalog: pg_sys::TriggerRelationId,
    index: pg_sys::TriggerRelidNameIndexId,
    column: pg_sys::Anum_pg_trigger_tgrelid,
    equal: pg_sys::F_OIDEQ,
};

/// The transaction that made this version of a row. It stays so when the row is frozen.
const fn maker(row: &pg_sys::HeapTupleData) -> pg_sys::TransactionId {
    // SAFETY: a row of a scan has a header, and is not moved while it is looked at.
    unsafe { (*row.t_data).t_choice.t_heap.t_xmin }
}

/// Whether a row of `pg_trigger` is of a trigger that notes changes, in every session.
fn notes_changes(row: &pg_sys::HeapTupleData) -> bool {
    // SAFETY: behind its header such a row begins with these columns, none of which can be NULL; a name is NUL-terminated.
    unsafe {
        let columns = row.t_data.byte_add((*row.t_data).t_hoff.into()).cast::<pg_sys::FormData_pg_trigger>();
        (*columns).tgenabled == pg_sys::TRIGGER_FIRES_ALWAYS.cast_signed()
            && CStr::from_ptr((*columns).tgname.data.as_ptr()) == NOTES_CHANGES
    }
}
