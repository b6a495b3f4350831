//! The record of changes of checkpoints by hand: the table `checkpoint_changes`.
//!
//! Published folds and headroom are derived from checkpoints, so a change of a checkpoint by hand invalidates them. It does so
//! twice. An invalidation message has the sessions that are connected determine the ledger's state again; it leaves no trace.
//! And the change commits together with a row of this table, which is part of the state: a session that connects later, or one
//! on a standby, sees the row and finds itself in another state than the one that was published in.
//!
//! A change inserts its row and updates none, so that no change waits for another one. It deletes the rows of earlier changes
//! unless another transaction is doing that: any set of rows names a new state if there has not been the same set before.

use std::rc::Rc;

use pgrx::pg_sys;

use crate::pg::catalog::{self, Relations};
use crate::pg::fetch::Tid;
use crate::pg::relation::{Access, Table};
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::changes;
use crate::pg::write::TableWriter;
use crate::pg::{lock, system_catalog, xact};

/// Records that the transaction changes checkpoints, and has the server send invalidations to all sessions when it has committed.
pub fn record(relations: &Relations) {
    catalog::invalidate_ledger(relations.ledger);
    // Without the table nothing has been published. Once it is back, the state has a name that it has not had before.
    let Some(table) = relations.changes else { return };
    let writer = TableWriter::open(table);
    if lock::try_lock_changes() {
        for tid in earlier(table) {
            writer.delete(tid);
        }
    }
    writer.insert([changes::XACT_ID.set(xact::current_id()), changes::CHANGED_AT.set(xact::now())]);
}

/// The tuple ids of the rows that other transactions have committed, or this one has inserted before.
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
