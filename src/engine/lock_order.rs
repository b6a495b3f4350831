//! The order in which locks are waited for.
//!
//! 1. the ledger, then its indexes
//! 2. `user_balance_checkpoints`, then its indexes
//! 3. `batch_aggregates`, then its indexes
//! 4. the stripes, ascending
//!
//! Indexes of a table follow each other by oid, as the server locks them for REINDEX TABLE and for queries. A maintenance
//! command locks a table before its indexes, and takes no stripe.
//!
//! A commit learns only while it shares a stripe that it has to look at a user, and only by looking that it has to
//! decide. It takes a lock of a relation then if it is free, and does not wait: another commit may have that relation and
//! wait for the stripe, with a maintenance command in the queue between them. If the lock is not free, the commit lets all
//! its stripes go, [waits](wait_for_relations) for whatever a settlement can need, and settles anew. By then it may have
//! shared stripes only: before the first stripe is taken exclusively, the settlement has all locks of relations that it
//! will use.
//!
//! `checkpoint_changes` is waited for by those who change checkpoints by hand, after the checkpoints. Others read it while they
//! have a stripe: only if its lock is free.
//!
//! What the transaction itself has locked before, by queries of its own, comes in the order of its queries.

use pgrx::pg_sys;

use crate::pg::catalog::Relations;
use crate::pg::relation::{self, Access, Index, NotFree, Table};
use crate::pg::tables::batches::Batches;
use crate::pg::tables::checkpoints::Checkpoints;
use crate::pg::write::TableWriter;

/// The derived tables, open for writing.
pub struct Writers {
    /// `user_balance_checkpoints`
    pub checkpoints: TableWriter<Checkpoints>,
    /// `batch_aggregates`
    pub batches: TableWriter<Batches>,
}

impl Writers {
    /// Opens them if their locks are free.
    pub fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        Ok(Self {
            checkpoints: TableWriter::open_if_free(relations.checkpoints)?,
            batches: TableWriter::open_if_free(relations.batches)?,
        })
    }

    /// Raises 55000 if a table has an index that cannot be maintained.
    pub fn require_plain_indexes(&self) {
        self.checkpoints.require_plain_indexes();
        self.batches.require_plain_indexes();
    }
}

/// Has the index of deltas locked to the end of the transaction: its commit reads it, and then need not wait for a REINDEX
/// that has come meanwhile.
pub fn keep_delta_index(relations: &Relations) {
    let Ok(index) = relations.open_delta_index(|oid| Ok::<_, std::convert::Infallible>(Index::open(oid)));
    relation::lock(index.oid(), Access::Read);
}

/// Waits for all locks that a settlement can need, the ledger being locked. They are held to the end of the transaction.
/// Holds no stripe.
pub fn wait_for_relations(relations: &Relations) {
    keep_delta_index(relations);
    for table in [relations.checkpoints, relations.batches] {
        lock_for_both(table);
        Table::open_locked(table).indexes().into_iter().for_each(lock_for_both);
    }
}

/// Whoever has one of the locks does not wait behind others for the other one; but a settlement does not wait at all.
fn lock_for_both(oid: pg_sys::Oid) {
    relation::lock(oid, Access::Write);
    relation::lock(oid, Access::Read);
}
