//! Stored checkpoints: the rows of `user_balance_checkpoints`.
//!
//! They are read without SIREAD locks, so that a refresh fails no serializable transaction. What a serializable reader of a balance
//! must conflict with is a row of the ledger that it does not see, and such a row is in the delta, which it scans with its own
//! snapshot.

use std::rc::Rc;

use ledger::coverage::Coverage;
use ledger::fold::Fold;
use ledger::id::UserId;
use ledger::settlement::{Announced, Checkpoint};
use pgrx::pg_sys;

use super::{checkpoint_tids, noted};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::fetch::RowFetch;
use crate::pg::relation::{Access, Index, NotFree, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::checkpoints::{self, Checkpoints};
use crate::pg::write::TableWriter;
use crate::pg::xact;

/// A checkpoint and where it is stored.
pub type Stored = (pg_sys::ItemPointerData, Checkpoint);

/// Reads stored checkpoints, one user after the other.
pub struct CheckpointScan {
    checkpoints: pg_sys::Oid,
    /// Opened for the first checkpoint that is not at its cached tuple id.
    index: Option<IndexScan<Checkpoints>>,
    /// The primary key, if it was opened before the scan of it.
    key: Option<Index>,
    /// Holds the lock of the table, so it is closed last.
    fetch: RowFetch<Checkpoints>,
}

impl CheckpointScan {
    /// Opens the checkpoints.
    pub fn open(relations: &Relations) -> Self {
        Self::with(relations, Table::open(relations.checkpoints, Access::Read), None)
    }

    /// Opens the checkpoints if the locks of the table and of its primary key are free.
    pub fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        let table = Table::open_if_free(relations.checkpoints, Access::Read)?;
        let key = Index::primary_key_if_free(&table)?;
        Ok(Self::with(relations, table, Some(key)))
    }

    fn with(relations: &Relations, table: Table, key: Option<Index>) -> Self {
        Self {
            checkpoints: relations.checkpoints,
            index: None,
            key,
            fetch: RowFetch::new(table, checkpoints::CROSSED_AT),
        }
    }

    /// The user's checkpoint as the snapshot sees it.
    pub fn find(&mut self, user: &UserId, snapshot: &Rc<Snapshot>) -> Result<Option<Stored>, LedgerError> {
        let sight = Sight::without_siread(snapshot);
        // Nearly every new version of the row is a HOT update, by which the tuple id in the index stays the same.
        let again = checkpoint_tids::get(user).and_then(|tid| self.fetch.at(tid, &sight));
        if let Some(row) = again.filter(|row| row.get(checkpoints::USER_ID) == *user) {
            return decode(user, &row).map(Some);
        }
        let scan = self.index.get_or_insert_with(|| {
            let table = Table::open_locked(self.checkpoints);
            let index = self.key.take().unwrap_or_else(|| Index::primary_key_of(&table));
            IndexScan::new(table, index, Sight::without_siread(snapshot), 1, checkpoints::CROSSED_AT)
        });
        scan.see_with(sight);
        scan.seek(&[checkpoints::USER_ID.equal(user)]);
        let Some(stored) = scan.next().map(|row| decode(user, &row)) else { return Ok(None) };
        checkpoint_tids::keep(user, scan.index_tid());
        stored.map(Some)
    }
}

fn decode(user: &UserId, row: &Row<'_, Checkpoints>) -> Result<Stored, LedgerError> {
    let stragglers = row.get(checkpoints::STRAGGLERS);
    let coverage = Coverage::from_parts(row.get(checkpoints::WATERMARK), stragglers)
        .ok_or(LedgerError::MalformedCheckpoint(*user))?;
    let transaction_count = row.get(checkpoints::TRANSACTION_COUNT);
    let fold = Fold {
        coverage,
        balance: row.get(checkpoints::BALANCE),
        transaction_count,
        latest_seq: row.get(checkpoints::CHECKPOINT_SEQ),
        unbatched_since: transaction_count,
    };
    Ok((row.tid(), Checkpoint { fold, announced: announced(row) }))
}

fn announced(row: &Row<'_, Checkpoints>) -> Announced {
    Announced { is_positive: row.get(checkpoints::IS_POSITIVE), crossed_at: row.get(checkpoints::CROSSED_AT) }
}

/// Notes what a checkpoint that is being deleted by hand says.
pub fn note_deleted(row: &Row<'_, Checkpoints>) {
    noted::note_deleted_checkpoint(row.get(checkpoints::USER_ID), announced(row));
}

/// Notes what all checkpoints say before they are truncated.
pub fn note_truncated(relations: &Relations) {
    let table = Table::open(relations.checkpoints, Access::Read);
    let index = Index::primary_key_of(&table);
    let now = Rc::new(Snapshot::latest());
    let mut scan = IndexScan::new(table, index, Sight::without_siread(&now), 0, checkpoints::CROSSED_AT);
    scan.seek(&[]);
    while let Some(row) = scan.next() {
        note_deleted(&row);
        xact::check_for_interrupts();
    }
}

/// Writes the user's checkpoint, in place of the one stored if there is one.
pub fn write(
    relations: &Relations,
    writer: &TableWriter<Checkpoints>,
    user: &UserId,
    stored: Option<&Stored>,
    fold: &Fold,
    announced: &Announced,
) -> Result<(), LedgerError> {
    let boundaries = relations.boundary_columns()?;
    let values = [
        checkpoints::USER_ID.set(user),
        checkpoints::CHECKPOINT_SEQ.set(fold.latest_seq),
        checkpoints::BALANCE.set(fold.balance),
        checkpoints::UPDATED_AT.set(xact::now()),
        checkpoints::TRANSACTION_COUNT.set(fold.transaction_count),
        checkpoints::WATERMARK.set(fold.coverage.watermark()),
        checkpoints::STRAGGLERS.set(fold.coverage.stragglers()),
        checkpoints::IS_POSITIVE.set(announced.is_positive),
        checkpoints::CROSSED_AT.set(announced.crossed_at),
        boundaries.overdraft_limit.set(None),
        boundaries.thresholds.set(None),
        boundaries.thresholds_below.set(None),
        boundaries.thresholds_crossed_at.set(None),
    ];
    match stored {
        Some((tid, _)) => writer.update(*tid, values),
        None => writer.insert(values),
    }
    Ok(())
}
