//! The ledger rows of a user that a checkpoint does not cover.

use std::cell::OnceCell;
use std::convert::Infallible;

use ledger::coverage::{Coverage, OpenTransactions};
use ledger::credits::{Credits, SumOutOfRange};
use ledger::fold::{DeltaPass, DeltaRow};
use ledger::id::{BatchId, UserId};
use ledger::transaction_type::effect;

use super::noted;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::column::AnyColumn;
use crate::pg::relation::{Index, NotFree, Table};
use crate::pg::row::Row;
use crate::pg::scan::{IndexScan, Key};
use crate::pg::snapshot::Sight;
use crate::pg::tables::transactions::{self, LaterColumns, Ledger};
use crate::pg::text;
use crate::pg::xact;

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
    scan: IndexScan<Ledger>,
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
        let ledger = Table::open_locked(relations.ledger);
        let scan = IndexScan::new(ledger, index, sight, 2, transactions::XACT_ID);
        Self { scan, unseen: OnceCell::new() }
    }

    /// Whether there is no row of the user that `from` does not cover.
    pub fn is_empty(&mut self, user: &UserId, from: &Coverage) -> bool {
        self.ranges(user, from).all(|transactions| {
            self.scan.seek(&[transactions::USER_ID.equal(user), transactions]);
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
                transaction: row.get(transactions::XACT_ID),
                amount: signed_amount(row),
                seq: row.get(transactions::SEQ),
                is_batched: !row.is_null(transactions::BATCH),
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
        mut visit: impl FnMut(&Row<'_, Ledger>) -> Result<(), SumOutOfRange>,
    ) -> Result<(), SumOutOfRange> {
        for transactions in self.ranges(user, from) {
            self.scan.seek(&[transactions::USER_ID.equal(user), transactions]);
            while let Some(row) = self.scan.next() {
                visit(&row)?;
            }
        }
        Ok(())
    }

    /// Where the rows of a user lie that `from` does not cover: one range of the index, and one probe for each straggler that
    /// could have rows which are seen.
    fn ranges(&mut self, user: &UserId, from: &Coverage) -> impl Iterator<Item = Key<Ledger>> + use<> {
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
        let above = transactions::XACT_ID.at_least(from.watermark());
        stragglers.into_iter().map(|straggler| transactions::XACT_ID.equal(straggler)).chain([above])
    }

    /// Whether the user has a row of a transaction from the first one to the one before the last.
    fn has_row_between(&mut self, user: &UserId, first: u64, last: u64) -> bool {
        self.scan.seek(&[transactions::USER_ID.equal(user), transactions::XACT_ID.at_least(first)]);
        self.scan.next().is_some_and(|row| row.get(transactions::XACT_ID) < last)
    }
}

fn batched_row(row: &Row<'_, Ledger>) -> Option<BatchedRow> {
    row.get(transactions::BATCH).map(|batch| BatchedRow {
        batch,
        amount: row.get(transactions::AMOUNT),
        seq: row.get(transactions::SEQ),
        created_at: row.get(transactions::CREATED_AT),
    })
}

/// The furthest of the columns that [`note`] reads, and all that the row trigger reads besides.
pub fn furthest_noted(relations: &Relations) -> AnyColumn<Ledger> {
    let xact_id = transactions::XACT_ID.any();
    relations
        .later_columns()
        .map_or(xact_id, |later| xact_id.or_further(later.category.any()).or_further(later.metadata.any()))
}

/// Notes a row that the transaction has inserted; raises 23514 for one that no new row may be like.
pub fn note(row: &Row<'_, Ledger>, relations: &Relations) {
    require_category_and_metadata(row, relations).unwrap_or_else(|error| error.raise());
    let source_id = row.get(transactions::SOURCE_ID);
    let is_infinite = matches!(row.get(transactions::CREATED_AT), i64::MIN | i64::MAX);
    // Ledgers of before have such rows, and must be restored and followed all the same.
    if (is_infinite || text::is_blank(&source_id)) && !xact::restores_or_replicates() {
        if is_infinite {
            LedgerError::InfiniteDate.raise()
        }
        LedgerError::BlankSourceId { what: "source_id", value: text::shown(&source_id) }.raise()
    }
    noted::note_row(row.get(transactions::USER_ID), signed_amount(row));
}

/// What CHECK constraints would say: the server would read and plan each of them anew for every statement, which takes 25,000
/// instructions, though nearly all rows have neither.
fn require_category_and_metadata(row: &Row<'_, Ledger>, relations: &Relations) -> Result<(), LedgerError> {
    let LaterColumns { category, metadata, .. } = relations.later_columns()?;
    if row.get(metadata).is_some_and(|metadata| !metadata.is_object()) {
        return Err(LedgerError::MetadataIsNoObject);
    }
    if let Some(category) = row.get(category) {
        let characters = text::characters(&category);
        if characters > LONGEST_CATEGORY {
            return Err(LedgerError::CategoryTooLong { characters, longest: LONGEST_CATEGORY });
        }
    }
    Ok(())
}

fn signed_amount(row: &Row<'_, Ledger>) -> Credits {
    effect(row.get(transactions::TRANSACTION_TYPE), row.get(transactions::AMOUNT))
}
