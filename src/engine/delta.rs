//! Deltas: the ledger rows of a user that a checkpoint does not cover.

use std::cell::OnceCell;
use std::rc::Rc;

use ledger::coverage::{Coverage, OpenTransactions};
use ledger::credits::{Credits, SumOutOfRange};
use ledger::daily::DatedRow;
use ledger::fold::{DeltaPass, DeltaRow};
use ledger::id::{BatchId, UserId};
use ledger::transaction_type::effect;

use crate::pg::catalog::{self, Relations};
use crate::pg::column::Column;
use crate::pg::column_type::Text;
use crate::pg::relation::{Index, NotFree, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::scan_key::Key;
use crate::pg::snapshot::Sight;
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::xact;

/// What a row adds to the total of its batch.
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

/// An index scan that reads deltas, of one user after the other.
pub struct DeltaScan {
    scan: IndexScan<Ledger>,
    /// The transactions whose rows the snapshot does not see; computed for the first straggler.
    unseen: OnceCell<OpenTransactions>,
    /// The transaction whose rows are passed by.
    passed_by: Option<u64>,
    /// The ledger's column for what a transaction was for; `None` if it is missing.
    category: Option<Column<Ledger, Option<Text>>>,
}

impl DeltaScan {
    /// Opens the index on `(user_id, xact_id)`, waiting for its lock. The caller has locked the ledger. Raises 55000 if the index
    /// is not valid.
    pub fn open(relations: &Relations, sight: Sight) -> Self {
        let Ok(index) = relations.open_delta_index(Index::waited_for);
        Self::with(relations, Table::open_locked(relations.ledger).into(), index, sight)
    }

    /// Opens the index if its lock is free. The caller has locked the ledger. Raises 55000 if the index is not valid.
    pub fn open_if_free(relations: &Relations, sight: Sight) -> Result<Self, NotFree> {
        let index = relations.open_delta_index(Index::open_if_free)?;
        Ok(Self::with(relations, Table::open_locked(relations.ledger).into(), index, sight))
    }

    /// Another scan of the same index, with another snapshot. It waits for no lock.
    pub fn again(&self, relations: &Relations, sight: Sight) -> Self {
        Self::with(relations, Rc::clone(self.scan.table()), self.scan.index().again(), sight)
    }

    fn with(relations: &Relations, ledger: Rc<Table>, index: Index, sight: Sight) -> Self {
        let scan = IndexScan::new(ledger, index, sight, 2, transactions::XACT_ID);
        let category = relations.later_columns().ok().map(|later| later.category);
        Self { scan, unseen: OnceCell::new(), passed_by: None, category }
    }

    /// Passes by the rows of this transaction, if any: however many they are, they are not read.
    pub fn passing_by(self, transaction: Option<u64>) -> Self {
        Self { passed_by: transaction, ..self }
    }

    /// Keeps the lock of the index to the end of the transaction.
    pub fn keep_lock(&self) {
        self.scan.index().keep_lock();
    }

    /// The ledger's column `category`. Raises 55000 if it is missing.
    pub fn category(&self) -> Column<Ledger, Option<Text>> {
        self.category.unwrap_or_else(|| catalog::missing_later_column().raise())
    }

    /// Whether `from` covers every row of the user that the scan sees.
    pub fn is_empty(&mut self, user: &UserId, from: &Coverage) -> bool {
        self.ranges(user, from).all(|transactions| {
            self.scan.seek(&[transactions::USER_ID.equal(user), transactions]);
            self.scan.next().is_none()
        })
    }

    /// Adds the user's rows that `from` does not cover to the pass. Calls `folded` with each row that the pass folds.
    pub fn add_to(
        &mut self,
        pass: &mut DeltaPass,
        user: &UserId,
        from: &Coverage,
        mut folded: impl FnMut(&Row<'_, Ledger>) -> Result<(), SumOutOfRange>,
    ) -> Result<(), SumOutOfRange> {
        self.each(user, from, |row| {
            // It may roll back: of such a row only the amount counts.
            if row.in_flight() {
                return pass.add_in_flight(signed_amount(row));
            }
            let delta_row = DeltaRow {
                transaction: row.get(transactions::XACT_ID),
                amount: signed_amount(row),
                seq: row.get(transactions::SEQ),
            };
            if pass.add(&delta_row)? { folded(row) } else { Ok(()) }
        })
    }

    /// Calls `batched` with each row of the user that `from` does not cover and that belongs to a batch.
    pub fn batched(
        &mut self,
        user: &UserId,
        from: &Coverage,
        mut batched: impl FnMut(BatchedRow) -> Result<(), SumOutOfRange>,
    ) -> Result<(), SumOutOfRange> {
        self.each(user, from, |row| batched_row(row).map_or(Ok(()), &mut batched))
    }

    /// Calls `visit` with each row of the user that `from` does not cover.
    pub fn each(
        &mut self,
        user: &UserId,
        from: &Coverage,
        mut visit: impl FnMut(&Row<'_, Ledger>) -> Result<(), SumOutOfRange>,
    ) -> Result<(), SumOutOfRange> {
        for transactions in self.ranges(user, from) {
            self.scan.seek(&[transactions::USER_ID.equal(user), transactions]);
            while let Some(row) = self.scan.next() {
                match self.passed_by {
                    Some(own) if row.get(transactions::XACT_ID) == own => {
                        self.scan.seek(&[
                            transactions::USER_ID.equal(user),
                            transactions::XACT_ID.at_least(own + 1),
                        ]);
                    }
                    _ => visit(&row)?,
                }
            }
        }
        Ok(())
    }

    /// The index keys of the rows that `from` does not cover: one range from its watermark on, and one probe for each straggler
    /// whose rows the snapshot may see.
    fn ranges(&mut self, user: &UserId, from: &Coverage) -> impl Iterator<Item = Key<Ledger>> + use<> {
        let mut stragglers = Vec::new();
        if !from.stragglers().is_empty() {
            let unseen = self.unseen.get_or_init(|| self.scan.sight().unseen_transactions());
            let seen = from.stragglers_seen_by(unseen, xact::current_id_if_any());
            stragglers.extend(seen.filter(|&straggler| self.passed_by != Some(straggler)));
        }
        // With several stragglers, one probe often replaces them all: most users have no row between the first straggler and the
        // watermark. A row that is inserted there after this probe would also have been missed by probes made now. The probe is not
        // made if some stragglers are still running for this snapshot: it could walk over very many rows of theirs.
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

    /// Whether the user has a row whose stamp is at least `first` and below `last`.
    fn has_row_between(&mut self, user: &UserId, first: u64, last: u64) -> bool {
        self.scan.seek(&[transactions::USER_ID.equal(user), transactions::XACT_ID.at_least(first)]);
        self.scan.next().is_some_and(|row| row.get(transactions::XACT_ID) < last)
    }
}

/// What the row adds to its batch, if it belongs to one.
pub fn batched_row(row: &Row<'_, Ledger>) -> Option<BatchedRow> {
    row.get(transactions::BATCH).map(|batch| BatchedRow {
        batch,
        amount: row.get(transactions::AMOUNT),
        seq: row.get(transactions::SEQ),
        created_at: row.get(transactions::CREATED_AT),
    })
}

/// What the row adds to the total of its day. `category` is the ledger's column.
pub fn dated_row<'row>(row: &Row<'row, Ledger>, category: Column<Ledger, Option<Text>>) -> DatedRow<'row> {
    DatedRow {
        created_at: row.get(transactions::CREATED_AT),
        transaction_type: row.get(transactions::TRANSACTION_TYPE),
        category: row.get(category),
        api_key_id: row.get(transactions::API_KEY_ID),
        amount: row.get(transactions::AMOUNT),
    }
}

/// What the row adds to the balance.
pub(super) fn signed_amount(row: &Row<'_, Ledger>) -> Credits {
    effect(row.get(transactions::TRANSACTION_TYPE), row.get(transactions::AMOUNT))
}
