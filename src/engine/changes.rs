//! Changes of checkpoints by other hands than the engine's, as they are noted in `checkpoint_changes`.
//!
//! What sessions have told each other came from checkpoints, and is not used any more when one of them was changed. The change
//! itself says so to whoever comes later, on a standby too: it commits with a row here, which is part of the name of the
//! ledger's state. Invalidations have the sessions look that are connected, and leave no trace.
//!
//! A row is only ever inserted, so that no change waits for another one. Each removes those of earlier ones if nobody else is at
//! it: any set of rows that there has not been before will do.

use std::rc::Rc;

use pgrx::pg_sys;

use crate::pg::catalog::{self, Relations};
use crate::pg::column_value::ColumnValue;
use crate::pg::fetch::Tid;
use crate::pg::relation::{Access, Table};
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::write::TableWriter;
use crate::pg::{lock, system_catalog, xact};

/// Notes that the transaction changes checkpoints, and has all sessions learn of it when it has committed.
pub fn record(relations: &Relations) {
    catalog::invalidate_ledger(relations.ledger);
    // Without the table nobody has been told anything, nor will what is told once it is back have a name of before.
    let Some(changes) = relations.changes else { return };
    let writer = TableWriter::open(changes);
    if lock::try_lock_changes() {
        for tid in earlier(changes) {
            writer.delete(tid);
        }
    }
    writer.insert([ColumnValue::Xid8(xact::current_id()), ColumnValue::Timestamptz(xact::now())]);
}

/// Where the rows are that others have committed, or this transaction has made before.
fn earlier(changes: pg_sys::Oid) -> Vec<Tid> {
    let table = Table::open(changes, Access::Read);
    let mut tids = Vec::new();
    system_catalog::visit_all(&table, &Sight::without_siread(&Rc::new(Snapshot::latest())), |row| {
        if !system_catalog::is_being_deleted(row) {
            tids.push(row.t_self);
        }
    });
    tids
}
