//! The state that a ledger is in: a digest of the versions of all rows that a change by hand replaces.
//!
//! To change a catalog row the server makes a new version of it, and each version has the id of the transaction that made it in
//! xmin. So the versions of the rows that define a ledger make up a state that never comes again:
//!
//! - Who wants to change rows of the ledger by hand, or holds and limits unnoticed, must change their triggers first, which are such rows.
//! - A trigger records changes of checkpoints by hand in a table, whose rows are part of the state.
//! - A copied database has the rows of its template, and a version of its own in `pg_database`.

use std::ffi::CStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use pgrx::pg_sys;

use super::catalog::Relations;
use super::database;
use super::definition::{KEEPING_TRIGGERS, KEEPING_TRIGGERS_OF_HOLDS};
use super::relation::{Access, NotFree, Table};
use super::snapshot::{Sight, Snapshot};
use super::system_catalog::{self, Lookup};

/// The name of the triggers that record changes of a table by hand.
const RECORDS_CHANGES: &CStr = c"announce_change";

/// A state of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// A digest of the versions of all rows that define it.
    pub digest: u64,
    /// Whether triggers note every hold, in every session. Where they do not, what holds take from an account is not counted.
    pub notes_holds: bool,
    /// A digest of the recorded changes of checkpoints alone.
    changes_digest: u64,
}

impl State {
    /// The state that the snapshot sees. `None` if this transaction itself has changed it, or if a trigger that keeps the ledger or records
    /// changes of checkpoints is missing or does not fire in every session. A settlement that asks may have a stripe, so no lock is
    /// waited for: [`NotFree`] if the lock of `checkpoint_changes` is taken.
    pub fn seen_by(snapshot: &Rc<Snapshot>, relations: &Relations) -> Result<Option<Self>, NotFree> {
        let Some(mut versions) = changes_seen_by(snapshot, relations)? else { return Ok(None) };
        let changes_digest = versions.digest.finish();
        database::version(Some(snapshot)).hash(&mut versions.digest);
        let (mut recording, mut keeping, mut keeping_holds) = (0, 0, 0);
        for oid in relations.tables_of_state() {
            let table = pg_sys::Datum::from(oid);
            // SAFETY: each lookup's catalog, index and column belong together, both columns are oids, and so is the key.
            unsafe {
                system_catalog::visit(CLASS, table, Some(snapshot), |_, row| versions.add(row));
                system_catalog::visit(TRIGGERS, table, Some(snapshot), |_, row| {
                    versions.add(row);
                    let name = name_if_it_fires_always(row);
                    recording += usize::from(name == Some(RECORDS_CHANGES));
                    let is_one_of = |names: &[&CStr]| name.is_some_and(|name| names.contains(&name));
                    keeping += usize::from(oid == relations.ledger && is_one_of(&KEEPING_TRIGGERS));
                    keeping_holds += usize::from(is_one_of(&KEEPING_TRIGGERS_OF_HOLDS));
                });
            }
        }
        // One trigger records changes of the checkpoints, the other changes of the record.
        let is_kept = recording == 2 && keeping == KEEPING_TRIGGERS.len();
        let notes_holds = keeping_holds == KEEPING_TRIGGERS_OF_HOLDS.len();
        Ok((is_kept && !versions.is_own).then(|| Self {
            digest: versions.digest.finish(),
            notes_holds,
            changes_digest,
        }))
    }

    /// Whether the snapshot sees the same recorded changes of checkpoints as this state has. False if that cannot be found out
    /// without waiting for a lock.
    pub fn agrees_with(&self, snapshot: &Rc<Snapshot>, relations: &Relations) -> bool {
        let seen = changes_seen_by(snapshot, relations).ok().flatten();
        seen.is_some_and(|seen| seen.digest.finish() == self.changes_digest)
    }
}

/// A digest of versions of rows, in the making.
#[derive(Default)]
struct Versions {
    digest: DefaultHasher,
    /// Whether this transaction itself has made one of them.
    is_own: bool,
}

impl Versions {
    fn add(&mut self, row: &pg_sys::HeapTupleData) {
        let (xmin, tid) = (system_catalog::xmin(row), row.t_self);
        self.is_own |= system_catalog::is_of_this_transaction(row);
        (xmin.into_inner(), tid.ip_blkid.bi_hi, tid.ip_blkid.bi_lo, tid.ip_posid).hash(&mut self.digest);
    }
}

/// The versions of the rows of `checkpoint_changes`; `None` if there is no such table.
fn changes_seen_by(snapshot: &Rc<Snapshot>, relations: &Relations) -> Result<Option<Versions>, NotFree> {
    let Some(changes) = relations.changes else { return Ok(None) };
    let table = Table::open_if_free(changes, Access::Read)?;
    let mut versions = Versions::default();
    system_catalog::visit_all(&table, &Sight::without_siread(snapshot), |row| versions.add(row));
    Ok(Some(versions))
}

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

/// The name in a row of `pg_trigger`, of a trigger that fires in every session.
///
/// # Safety
/// A row of `pg_trigger`, as long as the name is used.
unsafe fn name_if_it_fires_always(row: &pg_sys::HeapTupleData) -> Option<&CStr> {
    // SAFETY: the caller's promise. After its header such a row begins with these columns, none of which can be NULL, and a name is
    // NUL-terminated.
    unsafe {
        let columns = row.t_data.byte_add((*row.t_data).t_hoff.into()).cast::<pg_sys::FormData_pg_trigger>();
        ((*columns).tgenabled == pg_sys::TRIGGER_FIRES_ALWAYS.cast_signed())
            .then(|| CStr::from_ptr((*columns).tgname.data.as_ptr()))
    }
}
