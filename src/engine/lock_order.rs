//! The order in which locks are waited for.
//!
//! 1. the ledger, then its indexes
//! 2. `user_balance_checkpoints`, then its indexes
//! 3. `batch_aggregates`, then its indexes
//! 4. `daily_totals`, then its indexes
//! 5. `holds`, then its indexes, where the transaction has made holds or charges that must be covered, or redacts an account
//! 6. `spending_limits`, then its indexes
//! 7. `spend_caps`, then its indexes
//! 8. the stripes, ascending
//!
//! Indexes of a table follow each other by oid, as the server locks them for REINDEX TABLE and for queries. A maintenance
//! command locks a table before its indexes, and takes no stripe.
//!
//! While a commit shares a stripe it finds that it has to read a user, and by reading, that it has to decide. So it may need the
//! lock of a relation while it has a stripe. It takes that lock if it is free and does not wait for it: another commit may have
//! the relation and wait for the stripe, with a maintenance command in the queue between them. If the lock is not free, the
//! commit lets all its stripes go, [waits](wait_for_relations) for every lock that a settlement can need, and settles anew. It
//! has shared stripes only until then: before a settlement takes its first stripe exclusively, it has the locks of all
//! relations that it will use.
//!
//! A session that changes checkpoints by hand waits for `checkpoint_changes` after the checkpoints. A settlement reads that table
//! while it has a stripe, and only if its lock is free.
//!
//! Locks that the application's own queries took earlier in the transaction come in the order of those queries.

use pgrx::pg_sys;

use super::claims;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{self, Access, Index, NotFree, Table};
use crate::pg::tables::batches::Batches;
use crate::pg::tables::checkpoints::Checkpoints;
use crate::pg::tables::days::Days;
use crate::pg::write::TableWriter;

/// Opens two indexes of a table, each by its oid, in the order in which they are waited for.
pub fn open_by_oid<A, B>(
    (first, open_first): (pg_sys::Oid, impl FnOnce() -> A),
    (second, open_second): (pg_sys::Oid, impl FnOnce() -> B),
) -> (A, B) {
    if first.to_u32() < second.to_u32() {
        let first = open_first();
        (first, open_second())
    } else {
        let second = open_second();
        (open_first(), second)
    }
}

/// What a settlement opens when it needs it first, if the locks of all its relations are free.
pub trait OpenIfFree: Sized {
    /// Opens it.
    fn open_if_free(relations: &Relations) -> Result<Self, NotFree>;

    /// What is in `opened`; opens it if there is nothing.
    fn get_or_open<'a>(opened: &'a mut Option<Self>, relations: &Relations) -> Result<&'a mut Self, NotFree> {
        match opened {
            Some(opened) => Ok(opened),
            None => Ok(opened.insert(Self::open_if_free(relations)?)),
        }
    }
}

/// The derived tables, open for writing.
pub struct Writers {
    /// What they are among.
    pub relations: Relations,
    /// `user_balance_checkpoints`
    pub checkpoints: TableWriter<Checkpoints>,
    /// `batch_aggregates`; `None` for refreshes that add to no batch.
    pub batches: Option<TableWriter<Batches>>,
    /// `daily_totals`
    pub days: TableWriter<Days>,
}

impl Writers {
    /// Opens them, waiting for their locks.
    pub fn open(relations: &Relations) -> Result<Self, LedgerError> {
        Ok(Self {
            relations: *relations,
            checkpoints: TableWriter::open(relations.checkpoints),
            batches: Some(TableWriter::open(relations.batches)),
            days: TableWriter::open(relations.days()?),
        })
    }

    /// Opens all but the batches if the locks of their relations are free, for refreshes that add to no batch: a table with two indexes
    /// costs as much to open as the other two.
    pub fn without_batches_if_free(relations: &Relations) -> Result<Self, NotFree> {
        Self::with_if_free(relations, || Ok(None))
    }

    fn with_if_free(
        relations: &Relations,
        open_batches: impl FnOnce() -> Result<Option<TableWriter<Batches>>, NotFree>,
    ) -> Result<Self, NotFree> {
        let days = relations.days().unwrap_or_else(|error| error.raise());
        let checkpoints = TableWriter::open_if_free(relations.checkpoints)?;
        let batches = open_batches()?;
        Ok(Self { relations: *relations, checkpoints, batches, days: TableWriter::open_if_free(days)? })
    }

    /// Raises 55000 if a table has an index that cannot be maintained.
    pub fn require_plain_indexes(&self) {
        self.checkpoints.require_plain_indexes();
        if let Some(batches) = &self.batches {
            batches.require_plain_indexes();
        }
        self.days.require_plain_indexes();
    }
}

impl OpenIfFree for Writers {
    fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        Self::with_if_free(relations, || TableWriter::open_if_free(relations.batches).map(Some))
    }
}

/// Locks the index of deltas to the end of the transaction. The commit will read it, and need not wait then for a REINDEX that
/// began meanwhile.
pub fn keep_delta_index(relations: &Relations) {
    let Ok(index) = relations.open_delta_index(Index::waited_for);
    relation::lock(index.oid(), Access::Read);
}

/// Waits for all locks of relations that a settlement can need, and keeps them to the end of the transaction. The caller has the
/// lock of the ledger and no stripe.
pub fn wait_for_relations(relations: &Relations) {
    wait_for_derived(relations);
    if claims::any_guarded() {
        lock_all(relations.holds(), |oid| relation::lock(oid, Access::Read));
    }
    wait_for_boundaries(relations);
}

/// Waits for the locks of all tables and indexes, and keeps them to the end of the transaction, which then may read and write with any
/// statement while it has stripes.
pub fn wait_for_everything(relations: &Relations) {
    let tables = [
        Ok(relations.ledger),
        Ok(relations.checkpoints),
        Ok(relations.batches),
        relations.days(),
        relations.holds(),
        relations.limits(),
        relations.caps(),
    ];
    for table in tables {
        lock_all(table, lock_for_both);
    }
}

/// Waits for the locks that a settlement can need, and for those of `holds` for a caller that writes them.
pub fn wait_for_relations_and_holds(relations: &Relations) {
    wait_for_derived(relations);
    lock_all(relations.holds(), lock_for_both);
    wait_for_boundaries(relations);
}

fn wait_for_boundaries(relations: &Relations) {
    for table in [relations.limits(), relations.caps()] {
        lock_all(table, |oid| relation::lock(oid, Access::Read));
    }
}

fn wait_for_derived(relations: &Relations) {
    keep_delta_index(relations);
    for table in [Ok(relations.checkpoints), Ok(relations.batches), relations.days()] {
        lock_all(table, lock_for_both);
    }
}

/// Locks a table, then its indexes. Raises the error where it is missing.
fn lock_all(table: Result<pg_sys::Oid, LedgerError>, lock: impl Fn(pg_sys::Oid)) {
    let table = table.unwrap_or_else(|error| error.raise());
    lock(table);
    Table::open_locked(table).indexes().into_iter().for_each(lock);
}

/// Locks the relation in both modes that a settlement opens it in. Having one does not suffice: a request that may not wait is
/// refused while another session waits for the relation, even if the lock that the requester has keeps that session waiting.
fn lock_for_both(oid: pg_sys::Oid) {
    relation::lock(oid, Access::Write);
    relation::lock(oid, Access::Read);
}
