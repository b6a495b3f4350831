//! Totals of batches: the folded ones in `batch_aggregates`, those of the rows of a delta, and their sum for a reader.
//!
//! A row of `batch_aggregates` adds up the rows of a batch that the user's checkpoint covers. It is written by the transaction that
//! writes the checkpoint.

use std::collections::BTreeMap;
use std::rc::Rc;

use ledger::credits::{Credits, SumOutOfRange};
use ledger::id::{BatchId, UserId};

use super::checkpoint::{CheckpointScan, Stored};
use super::delta::{BatchedRow, DeltaScan};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::fetch::Tid;
use crate::pg::privilege;
use crate::pg::relation::{Access, Index, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::batches::{self, Batches};
use crate::pg::write::TableWriter;
use crate::pg::xact;

/// The totals of rows of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchTotal {
    /// Sum of their amounts, positive.
    pub amount: Credits,
    /// How many there are.
    pub transaction_count: i64,
    /// The highest `seq` among them.
    pub max_seq: i64,
    /// The smallest `created_at` among them, in microseconds.
    pub created_at: i64,
}

impl BatchTotal {
    const EMPTY: Self =
        Self { amount: Credits::ZERO, transaction_count: 0, max_seq: i64::MIN, created_at: i64::MAX };

    fn merge(&mut self, other: &Self) -> Result<(), SumOutOfRange> {
        self.amount = self.amount.checked_add(other.amount)?;
        self.transaction_count += other.transaction_count;
        self.max_seq = self.max_seq.max(other.max_seq);
        self.created_at = self.created_at.min(other.created_at);
        Ok(())
    }
}

impl From<BatchedRow> for BatchTotal {
    fn from(row: BatchedRow) -> Self {
        Self { amount: row.amount, transaction_count: 1, max_seq: row.seq, created_at: row.created_at }
    }
}

/// What rows of a user add to its batches, in the order of the batches' ids.
#[derive(Clone, Debug, Default)]
pub struct BatchTotals(BTreeMap<BatchId, BatchTotal>);

/// Adds rows up to totals. Most rows follow another one of their batch, and need no look-up of it.
#[derive(Debug, Default)]
pub struct BatchRuns {
    run: Option<(BatchId, BatchTotal)>,
    totals: BatchTotals,
}

impl BatchRuns {
    /// Adds a row.
    pub fn add(&mut self, row: BatchedRow) -> Result<(), SumOutOfRange> {
        match &mut self.run {
            Some((batch, total)) if *batch == row.batch => total.merge(&row.into()),
            _ => {
                let before = self.run.replace((row.batch, row.into()));
                self.totals.merge(before)
            }
        }
    }

    /// The totals of all rows.
    pub fn totals(mut self) -> Result<BatchTotals, SumOutOfRange> {
        self.totals.merge(self.run)?;
        Ok(self.totals)
    }
}

impl BatchTotals {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn merge(&mut self, run: Option<(BatchId, BatchTotal)>) -> Result<(), SumOutOfRange> {
        run.map_or(Ok(()), |(batch, total)| self.0.entry(batch).or_insert(BatchTotal::EMPTY).merge(&total))
    }

    /// Adds the folded totals of these batches that the snapshot sees.
    pub fn add_folded(
        &mut self,
        relations: &Relations,
        user: &UserId,
        snapshot: &Rc<Snapshot>,
    ) -> Result<(), SumOutOfRange> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut scan = scan_of(relations, snapshot, 2);
        for (batch, total) in &mut self.0 {
            if let Some((_, folded)) = find(&mut scan, user, batch) {
                total.merge(&folded)?;
            }
        }
        Ok(())
    }

    /// Whether the batch is one of them.
    pub fn contains(&self, batch: &BatchId) -> bool {
        self.0.contains_key(batch)
    }

    /// Each batch with its total.
    pub fn iter(&self) -> impl Iterator<Item = (&BatchId, &BatchTotal)> {
        self.0.iter()
    }
}

/// The whole totals of the batches that have rows in the user's delta, under the caller's snapshot. Of all other batches the folded
/// total is the whole one. `None` if the caller may not read folded totals, or if the user has no checkpoint and so none of them.
pub fn touched(user: &UserId) -> Result<Option<BatchTotals>, LedgerError> {
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    if !privilege::may_see_folded(&relations) {
        return Ok(None);
    }
    let snapshot = Rc::new(Snapshot::active());
    // Opened in the order of locks.
    let mut delta = DeltaScan::open(&relations, Sight::AsOf(Rc::clone(&snapshot)));
    let Some(Stored { checkpoint, .. }) = CheckpointScan::open(&relations).find(user, &snapshot)? else {
        return Ok(None);
    };
    let mut batches = BatchRuns::default();
    delta.batched(user, &checkpoint.fold.coverage, |row| batches.add(row))?;
    let mut totals = batches.totals()?;
    totals.add_folded(&relations, user, &snapshot)?;
    Ok(Some(totals))
}

/// Adds the totals to the user's rows of `batch_aggregates`.
pub fn write(writer: &TableWriter<Batches>, user: &UserId, totals: &BatchTotals) -> Result<(), LedgerError> {
    let mut scan = written(writer, 2);
    for (batch, added) in &totals.0 {
        let mut total = *added;
        let stored = find(&mut scan, user, batch);
        if let Some((_, folded)) = &stored {
            total.merge(folded)?;
        }
        let values = [
            batches::BATCH.set(batch),
            batches::USER_ID.set(user),
            batches::TOTAL_AMOUNT.set(total.amount),
            batches::TRANSACTION_COUNT.set(total.transaction_count),
            batches::MAX_SEQ.set(total.max_seq),
            batches::CREATED_AT.set(total.created_at),
            batches::UPDATED_AT.set(xact::now()),
        ];
        match stored {
            Some((tid, _)) => writer.update(tid, values),
            None => writer.insert(values),
        }
    }
    Ok(())
}

/// Deletes the user's rows of `batch_aggregates`, which a deleted checkpoint has left behind. The caller has that seen.
pub fn discard(writer: &TableWriter<Batches>, user: &UserId) {
    let mut scan = written(writer, 1);
    scan.seek(&[batches::USER_ID.equal(user)]);
    let mut left = Vec::new();
    while let Some(row) = scan.next() {
        left.push(row.tid());
    }
    for tid in left {
        writer.delete(tid);
    }
}

fn scan_of(relations: &Relations, snapshot: &Rc<Snapshot>, key_columns: usize) -> IndexScan<Batches> {
    let table = Table::open(relations.batches, Access::Read);
    let index = Index::primary_key_of(&table);
    scan_by(table, index, snapshot, key_columns)
}

/// What is stored now, for who writes it: nothing is locked.
fn written(writer: &TableWriter<Batches>, key_columns: usize) -> IndexScan<Batches> {
    scan_by(writer.table(), writer.primary_key(), &Rc::new(Snapshot::latest()), key_columns)
}

fn scan_by(table: Table, index: Index, snapshot: &Rc<Snapshot>, key_columns: usize) -> IndexScan<Batches> {
    IndexScan::new(table, index, Sight::without_siread(snapshot), key_columns, batches::CREATED_AT)
}

/// The folded total of a batch, and the tuple id of its row.
fn find(scan: &mut IndexScan<Batches>, user: &UserId, batch: &BatchId) -> Option<(Tid, BatchTotal)> {
    scan.seek(&[batches::USER_ID.equal(user), batches::BATCH.equal(batch)]);
    scan.next().map(|row| (row.tid(), decode(&row).1))
}

/// The batch of a row of `batch_aggregates`, and its folded total.
pub fn decode(row: &Row<'_, Batches>) -> (BatchId, BatchTotal) {
    row.deform_to(batches::CREATED_AT.any());
    let folded = BatchTotal {
        amount: row.get(batches::TOTAL_AMOUNT),
        transaction_count: row.get(batches::TRANSACTION_COUNT),
        max_seq: row.get(batches::MAX_SEQ),
        created_at: row.get(batches::CREATED_AT),
    };
    (row.get(batches::BATCH), folded)
}
