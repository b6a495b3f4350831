//! The ledger rows of a user that a checkpoint does not cover.

use ledger::id::{BatchId, UserId};
use std::cell::OnceCell;
use std::convert::Infallible;

use ledger::coverage::{Coverage, OpenTransactions};
use ledger::credits::{Credits, SumOutOfRange};
use ledger::fold::{DeltaPass, DeltaRow};
use ledger::transaction_type::effect;

use super::noted;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{Index, NotFree, Table};
use crate::pg::row::{Column, Row};
use crate::pg::scan::{IndexScan, Key};
use crate::pg::snapshot::Sight;
use crate::pg::text;
use crate::pg::xact;

/// Columns of `credits_transactions`.
pub mod column {
    use crate::pg::row::Column;

    pub const USER_ID: Column = 2;
    pub const TRANSACTION_TYPE: Column = 3;
    pub const AMOUNT: Column = 4;
    pub const SOURCE_ID: Column = 5;
    pub const BATCH: Column = 7;
    pub const CREATED_AT: Column = 9;
    pub const SEQ: Column = 10;
    pub const XACT_ID: Column = 11;
}

/// Columns that a balance is computed from, for checking privileges.
pub const BALANCE_COLUMNS: &[Column] = &[2, 3, 4, 10, 11];

/// Most characters of a category.
const LONGEST_CATEGORY: usize = 200;

/// What a batch total takes from a row.
#[derive(Clone, Copy, Debug)]
pub struct BatchedRow {
    /// The batch.
    pub batch: BatchId,
    /// The row's amount, positive.
    pub amount: Credits,
    /// Its `seq`.
    pub seq: i64,
    /// Its `created_at`, in microseconds.
    pub created_at: i64,
}

/// A scan over deltas, one user after the other.
pub struct DeltaScan {
    scan: IndexScan,
    /// Transactions whose rows it does not see, looked up for the first straggler.
    unseen: OnceCell<OpenTransactions>,
}

impl DeltaScan {
    /// Opens the index of the ledger, which is locked. Raises 55000 while the index does not have all rows.
    pub fn open(relations: &Relations, sight: Sight) -> Self {
        let Ok(index) = relations.open_delta_index(|oid| Ok::<_, Infallible>(Index::open(oid)));
        Self::with(relations, index, sight)
    }

    /// The same if the lock of the index is free.
    pub fn open_if_free(relations: &Relations, sight: Sight) -> Result<Self, NotFree> {
        let index = relations.open_delta_index(Index::open_if_free)?;
        Ok(Self::with(relations, index, sight))
    }

    /// A further scan of the same index, for which nothing is waited for.
    pub fn again(&self, relations: &Relations, sight: Sight) -> Self {
        Self::with(relations, self.scan.index().again(), sight)
    }

    fn with(relations: &Relations, index: Index, sight: Sight) -> Self {
        let scan = IndexScan::new(Table::open_locked(relations.ledger), index, sight, 2);
        Self { scan, unseen: OnceCell::new() }
    }

    /// Whether there is no row of the user that `from` does not cover.
    pub fn is_empty(&mut self, user: &UserId, from: &Coverage) -> bool {
        self.ranges(user, from).all(|transactions| {
            self.scan.seek(&[Key::UuidEqual(*user.as_bytes()), transactions]);
            self.scan.next().is_none()
        })
    }

    /// Adds the user's rows that `from` does not cover to the pass, and shows those that it folds and that belong to a
    /// batch to `batched`.
    pub fn add_to(
        &mut self,
        pass: &mut DeltaPass,
        user: &UserId,
        from: &Coverage,
        mut batched: impl FnMut(BatchedRow) -> Result<(), SumOutOfRange>,
    ) -> Result<(), SumOutOfRange> {
        self.each(user, from, |row| {
            // What else it says may never come to be.
            if row.in_flight() {
                return pass.add_in_flight(signed_amount(row));
            }
            let delta_row = DeltaRow {
                // The last column first: the row is taken apart once.
                transaction: row.xid8(column::XACT_ID),
                amount: signed_amount(row),
                seq: row.int8(column::SEQ),
                is_batched: !row.is_null(column::BATCH),
            };
            if pass.add(&delta_row)? { batched_row(row).map_or(Ok(()), &mut batched) } else { Ok(()) }
        })
    }

    /// Shows the user's rows that `from` does not cover and that belong to a batch.
    pub fn batched(
        &mut self,
        user: &UserId,
        from: &Coverage,
        mut batched: impl FnMut(BatchedRow) -> Result<(), SumOutOfRange>,
    ) -> Result<(), SumOutOfRange> {
        self.each(user, from, |row| batched_row(row).map_or(Ok(()), &mut batched))
    }

    fn each(
        &mut self,
        user: &UserId,
        from: &Coverage,
        mut visit: impl FnMut(&Row<'_>) -> Result<(), SumOutOfRange>,
    ) -> Result<(), SumOutOfRange> {
        for transactions in self.ranges(user, from) {
            self.scan.seek(&[Key::UuidEqual(*user.as_bytes()), transactions]);
            while let Some(row) = self.scan.next() {
                visit(&row)?;
            }
        }
        Ok(())
    }

    /// Where the rows of a user lie that `from` does not cover: one range of the index, and one probe for each straggler that
    /// could have rows which are seen.
    fn ranges(&mut self, user: &UserId, from: &Coverage) -> impl Iterator<Item = Key> + use<> {
        let mut stragglers = Vec::new();
        if !from.stragglers().is_empty() {
            let unseen = self.unseen.get_or_init(|| self.scan.sight().unseen_transactions());
            stragglers.extend(from.stragglers_seen_by(unseen, xact::current_id_if_any()));
        }
        // Where many are left open, most users have written nothing since the first: then one look tells. A row that comes
        // there after it comes as after any look. Where some are not looked for, it could pass over very many rows of theirs.
        let all_are_looked_for = stragglers.len() == from.stragglers().len();
        if let [first, _, ..] = stragglers[..]
            && all_are_looked_for
            && !self.has_row_between(user, first, from.watermark())
        {
            stragglers.clear();
        }
        stragglers.into_iter().map(Key::Xid8Equal).chain([Key::Xid8AtLeast(from.watermark())])
    }

    /// Whether the user has a row of a transaction from the first one to the one before the last.
    fn has_row_between(&mut self, user: &UserId, first: u64, last: u64) -> bool {
        self.scan.seek(&[Key::UuidEqual(*user.as_bytes()), Key::Xid8AtLeast(first)]);
        self.scan.next().is_some_and(|row| row.xid8(column::XACT_ID) < last)
    }
}

fn batched_row(row: &Row<'_>) -> Option<BatchedRow> {
    // The last column first, as above: nearly all rows that are asked belong to a batch.
    let seq = row.int8(column::SEQ);
    (!row.is_null(column::BATCH)).then(|| BatchedRow {
        batch: BatchId::from_bytes(row.uuid(column::BATCH)),
        amount: row.credits(column::AMOUNT),
        seq,
        created_at: row.int8(column::CREATED_AT),
    })
}

/// Notes a row that the transaction has inserted; raises 23514 for one that no new row may be like.
pub fn note(row: &Row<'_>, relations: &Relations) {
    require_category_and_metadata(row, relations).unwrap_or_else(|error| error.raise());
    // The last column first: the row is taken apart once.
    let created_at = row.int8(column::CREATED_AT);
    let source_id = row.long_text(column::SOURCE_ID);
    let is_infinite = matches!(created_at, i64::MIN | i64::MAX);
    // Ledgers of before have such rows, and must be restored and followed all the same.
    if (is_infinite || text::is_blank(source_id)) && !xact::restores_or_replicates() {
        if is_infinite {
            LedgerError::InfiniteDate.raise()
        }
        LedgerError::BlankSourceId { what: "source_id", value: text::shown(source_id) }.raise()
    }
    noted::note_row(UserId::from_bytes(row.uuid(column::USER_ID)), signed_amount(row));
}

/// What CHECK constraints would say: the server would read and plan each of them anew for every statement, which takes 25,000
/// instructions, though nearly all rows have neither.
fn require_category_and_metadata(row: &Row<'_>, relations: &Relations) -> Result<(), LedgerError> {
    let [category, metadata, _] = relations.later_columns()?;
    if !row.is_null(metadata) && !row.is_json_object(metadata) {
        return Err(LedgerError::MetadataIsNoObject);
    }
    if !row.is_null(category) {
        let characters = text::characters(row.long_text(category));
        if characters > LONGEST_CATEGORY {
            return Err(LedgerError::CategoryTooLong { characters, longest: LONGEST_CATEGORY });
        }
    }
    Ok(())
}

fn signed_amount(row: &Row<'_>) -> Credits {
    effect(row.text(column::TRANSACTION_TYPE), row.credits(column::AMOUNT))
}
