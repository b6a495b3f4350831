//! Stored checkpoints: the rows of `user_balance_checkpoints`.
//!
//! They are read without SIREAD locks, so that a refresh fails no serializable transaction. What a serializable reader of a balance
//! must conflict with is a row of the ledger that it does not see, and such a row is in the delta, which it scans with its own
//! snapshot.

use std::rc::Rc;

use ledger::caps::AnnouncedCap;
use ledger::coverage::Coverage;
use ledger::credits::Credits;
use ledger::crossing::{Announced, Threshold};
use ledger::fold::Fold;
use ledger::id::{CapId, UserId};
use ledger::overdraft::Overdraft;
use ledger::settlement::Checkpoint;

use super::lock_order::Writers;
use super::{checkpoint_tids, noted, user_rows};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::column::AnyColumn;
use crate::pg::fetch::{RowFetch, Tid};
use crate::pg::relation::{Access, Index, NotFree, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::checkpoints::{self, Checkpoints};
use crate::pg::xact::{self, SubtransactionId};

/// A stored checkpoint.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The row that it is stored in.
    pub row: StoredRow,
    /// What it says.
    pub checkpoint: Checkpoint,
}

/// The row that a checkpoint is stored in.
#[derive(Clone, Copy, Debug)]
pub struct StoredRow {
    /// Where it is.
    pub tid: Tid,
    /// Who has stored this version of it.
    pub stored_by: SubtransactionId,
    /// Whether `daily_totals` has what the checkpoint covers.
    pub has_days: bool,
}

/// Reads stored checkpoints, one user after the other.
pub struct CheckpointScan {
    relations: Relations,
    /// Opened for the first checkpoint of which a tuple id is cached.
    fetch: Option<RowFetch<Checkpoints>>,
    /// Opened for the first one that is not found so.
    index: Option<IndexScan<Checkpoints>>,
    /// The primary key, if it was opened before the scan of it.
    key: Option<Index>,
    /// Holds the lock of the table, so it is closed last.
    table: Rc<Table>,
}

impl CheckpointScan {
    /// Opens the checkpoints.
    pub fn open(relations: &Relations) -> Self {
        Self::with(relations, Table::open(relations.checkpoints, Access::Read))
    }

    /// Opens the checkpoints if the locks of the table and of its primary key are free.
    pub fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        let mut scan = Self::without_key_if_free(relations)?;
        scan.open_key_if_free()?;
        Ok(scan)
    }

    /// Opens the checkpoints if the lock of the table is free.
    pub fn without_key_if_free(relations: &Relations) -> Result<Self, NotFree> {
        Ok(Self::with(relations, Table::open_if_free(relations.checkpoints, Access::Read)?))
    }

    /// Reads checkpoints that are open to be written: nothing is locked.
    pub fn of_written(writers: &Writers) -> Self {
        let Writers { relations, checkpoints, .. } = writers;
        Self { key: Some(checkpoints.primary_key()), ..Self::with(relations, checkpoints.table()) }
    }

    /// Opens their primary key if its lock is free, and if it is not open already: whatever is read after that waits for no lock.
    pub fn open_key_if_free(&mut self) -> Result<(), NotFree> {
        if self.index.is_none() && self.key.is_none() {
            self.key = Some(Index::primary_key_if_free(&self.table)?);
        }
        Ok(())
    }

    /// Keeps the locks of the relations that are open to the end of the transaction.
    pub fn keep_locks(&self) {
        self.table.keep_lock();
        let key = self.index.as_ref().map(IndexScan::index).or(self.key.as_ref());
        if let Some(key) = key {
            key.keep_lock();
        }
    }

    fn with(relations: &Relations, table: Table) -> Self {
        Self { relations: *relations, fetch: None, index: None, key: None, table: Rc::new(table) }
    }

    /// The user's checkpoint as the snapshot sees it.
    pub fn find(&mut self, user: &UserId, snapshot: &Rc<Snapshot>) -> Result<Option<Stored>, LedgerError> {
        match self.find_again(user, snapshot)? {
            None => self.find_by_key(user, snapshot),
            found => Ok(found),
        }
    }

    /// The user's checkpoint, if it is where it was found last. Nearly every new version of the row is a HOT update, by which the tuple
    /// id in the index stays the same.
    pub fn find_again(
        &mut self,
        user: &UserId,
        snapshot: &Rc<Snapshot>,
    ) -> Result<Option<Stored>, LedgerError> {
        let Some(tid) = checkpoint_tids::get(user) else { return Ok(None) };
        let furthest = furthest(&self.relations);
        let fetch = self.fetch.get_or_insert_with(|| RowFetch::new(Rc::clone(&self.table), furthest));
        let found = fetch.at(tid, &Sight::without_siread(snapshot));
        let found = found.filter(|row| row.get(checkpoints::USER_ID) == *user);
        found.map(|row| decode(user, &row, &self.relations)).transpose()
    }

    /// The user's checkpoint by the primary key.
    pub fn find_by_key(
        &mut self,
        user: &UserId,
        snapshot: &Rc<Snapshot>,
    ) -> Result<Option<Stored>, LedgerError> {
        let sight = Sight::without_siread(snapshot);
        let scan = match &mut self.index {
            Some(scan) => {
                scan.see_with(sight);
                scan
            }
            None => {
                let key = self.key.take().unwrap_or_else(|| Index::primary_key_of(&self.table));
                let scan = IndexScan::new(Rc::clone(&self.table), key, sight, 1, furthest(&self.relations));
                self.index.insert(scan)
            }
        };
        scan.seek(&[checkpoints::USER_ID.equal(user)]);
        let Some(stored) = scan.next().map(|row| decode(user, &row, &self.relations)) else {
            return Ok(None);
        };
        checkpoint_tids::keep(user, scan.index_tid());
        stored.map(Some)
    }
}

/// The furthest column that is read of a checkpoint.
fn furthest(relations: &Relations) -> AnyColumn<Checkpoints> {
    let furthest =
        relations.boundary_columns().map_or(checkpoints::CROSSED_AT.any(), |columns| columns.furthest());
    relations.has_days().map_or(furthest, |has_days| furthest.or_further(has_days.any()))
}

fn decode(user: &UserId, row: &Row<'_, Checkpoints>, relations: &Relations) -> Result<Stored, LedgerError> {
    let stragglers = row.get(checkpoints::STRAGGLERS);
    let coverage = Coverage::from_parts(row.get(checkpoints::WATERMARK), stragglers)
        .ok_or(LedgerError::MalformedCheckpoint(*user))?;
    let fold = Fold {
        coverage,
        balance: row.get(checkpoints::BALANCE),
        transaction_count: row.get(checkpoints::TRANSACTION_COUNT),
        latest_seq: row.get(checkpoints::CHECKPOINT_SEQ),
    };
    let announced = announced(row, relations)?;
    let overdraft = row.get(relations.boundary_columns()?.overdraft_limit).unwrap_or_default();
    let has_days = row.get(relations.has_days()?).unwrap_or_default();
    let (tid, stored_by) = row.version();
    let row = StoredRow { tid, stored_by, has_days };
    Ok(Stored { row, checkpoint: Checkpoint { fold, announced, overdraft } })
}

fn announced(row: &Row<'_, Checkpoints>, relations: &Relations) -> Result<Announced, LedgerError> {
    let thresholds = match row.get(relations.boundary_columns()?.thresholds) {
        None => Vec::new(),
        Some(Ok(balances)) => thresholds(row, relations, &balances)?,
        Some(Err(_)) => return Err(LedgerError::MalformedCheckpoint(row.get(checkpoints::USER_ID))),
    };
    Ok(Announced {
        is_positive: row.get(checkpoints::IS_POSITIVE),
        crossed_at: row.get(checkpoints::CROSSED_AT),
        thresholds,
        caps: caps(row, relations)?,
    })
}

/// The spend caps of a checkpoint.
fn caps(row: &Row<'_, Checkpoints>, relations: &Relations) -> Result<Vec<AnnouncedCap>, LedgerError> {
    let columns = relations.boundary_columns()?;
    let Some(ids) = row.get(columns.cap_ids) else { return Ok(Vec::new()) };
    let reached_until = row.get(columns.caps_reached_until).unwrap_or_default();
    if reached_until.len() != ids.len() || !ids.is_sorted_by(|low, high| low < high) {
        return Err(LedgerError::MalformedCheckpoint(row.get(checkpoints::USER_ID)));
    }
    let caps = ids.into_iter().zip(reached_until);
    Ok(caps.map(|(id, reached_until)| AnnouncedCap { id, reached_until }).collect())
}

/// The thresholds of a checkpoint that has some.
fn thresholds(
    row: &Row<'_, Checkpoints>,
    relations: &Relations,
    balances: &[Credits],
) -> Result<Vec<Threshold>, LedgerError> {
    let columns = relations.boundary_columns()?;
    let below = row.get(columns.thresholds_below).and_then(|below| usize::try_from(below).ok());
    let crossed_at = row.get(columns.thresholds_crossed_at).unwrap_or_default();
    match below {
        Some(below)
            if below <= balances.len()
                && crossed_at.len() == balances.len()
                && balances.is_sorted_by(|low, high| low < high)
                && !balances.contains(&Credits::ZERO) =>
        {
            let thresholds =
                balances.iter().zip(crossed_at).enumerate().map(|(place, (&balance, crossed_at))| {
                    Threshold { balance, is_above: place < below, crossed_at }
                });
            Ok(thresholds.collect())
        }
        _ => Err(LedgerError::MalformedCheckpoint(row.get(checkpoints::USER_ID))),
    }
}

/// Notes what a checkpoint that is being deleted by hand says.
pub fn note_deleted(row: &Row<'_, Checkpoints>, relations: &Relations) -> Result<(), LedgerError> {
    let announced = match announced(row, relations) {
        // Whoever deletes it repairs it: the sides of its thresholds are those of now, and its caps are announced if they are reached.
        Err(LedgerError::MalformedCheckpoint(_)) => Announced {
            is_positive: row.get(checkpoints::IS_POSITIVE),
            crossed_at: row.get(checkpoints::CROSSED_AT),
            thresholds: Vec::new(),
            caps: Vec::new(),
        },
        announced => announced?,
    };
    noted::note_deleted_checkpoint(row.get(checkpoints::USER_ID), announced);
    Ok(())
}

/// Notes what all checkpoints say before they are truncated.
pub fn note_truncated(relations: &Relations) -> Result<(), LedgerError> {
    user_rows::each(relations.checkpoints, checkpoints::CROSSED_AT, |row| note_deleted(row, relations))
}

/// Writes the user's checkpoint, in place of the one stored if there is one. Where there is none, its days have been written.
pub fn write(
    writers: &Writers,
    user: &UserId,
    stored: Option<StoredRow>,
    checkpoint: &Checkpoint,
) -> Result<(), LedgerError> {
    let Checkpoint { fold, announced, overdraft } = checkpoint;
    let columns = writers.relations.boundary_columns()?;
    // Of an account without thresholds and caps nothing is allocated, and its row has NULLs.
    let thresholds = &announced.thresholds;
    let balances: Vec<Credits> = thresholds.iter().map(|threshold| threshold.balance).collect();
    let crossed_at: Vec<Option<i64>> = thresholds.iter().map(|threshold| threshold.crossed_at).collect();
    let below = thresholds.iter().filter(|threshold| threshold.is_above).count();
    let has_any = !thresholds.is_empty();
    let has_days = stored.is_none_or(|stored| stored.has_days);
    let cap_ids: Vec<CapId> = announced.caps.iter().map(|cap| cap.id).collect();
    let reached_until: Vec<Option<i64>> = announced.caps.iter().map(|cap| cap.reached_until).collect();
    let has_caps = !cap_ids.is_empty();
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
        columns.overdraft_limit.set((*overdraft != Overdraft::default()).then_some(*overdraft)),
        columns.thresholds.set(has_any.then_some(&balances)),
        columns.thresholds_below.set(has_any.then_some(i16::try_from(below).unwrap_or(i16::MAX))),
        columns.thresholds_crossed_at.set(has_any.then_some(&crossed_at)),
        writers.relations.has_days()?.set(has_days.then_some(true)),
        columns.cap_ids.set(has_caps.then_some(&cap_ids)),
        columns.caps_reached_until.set(has_caps.then_some(&reached_until)),
    ];
    match stored {
        Some(stored) => writers.checkpoints.update(stored.tid, values),
        None => writers.checkpoints.insert(values),
    }
    Ok(())
}
