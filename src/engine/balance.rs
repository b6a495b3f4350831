//! Balances under the caller's snapshot: a fold that the snapshot sees all of, plus the rows that it does not cover.
//!
//! A read of a balance writes nothing to the database. It publishes the fold that it has advanced.

use std::rc::Rc;

use ledger::coverage::{Coverage, OpenTransactions};
use ledger::credits::Credits;
use ledger::fold::{DeltaPass, Fold};
use ledger::id::UserId;
use ledger::segment::folds::PublishedFold;
use ledger::transaction_type::effect_sql;

use super::checkpoint::CheckpointScan;
use super::delta::DeltaScan;
use super::published::Published;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::numeric::Numeric;
use crate::pg::privilege::{self, View};
use crate::pg::snapshot::{DirtySnapshot, Sight, Snapshot};
use crate::pg::statement::{ResultRow, Statement};
use crate::pg::tables::transactions;
use crate::pg::value::Value;
use crate::pg::xact;

/// A user's balance as the caller's snapshot has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Balance {
    /// Signed sum of the user's visible rows.
    pub balance: Credits,
    /// The highest `seq` among them; `None` if there are none.
    pub latest_seq: Option<i64>,
    /// How many they are.
    pub transaction_count: i64,
}

/// Balances of these users, in their order. Raises 42501 if the caller may not read the ledger.
pub fn read(users: &[UserId]) -> Result<Vec<Balance>, LedgerError> {
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    privilege::require_select(&relations, &transactions::BALANCE);
    match privilege::view(&relations) {
        View::Whole => {
            let mut reader = Reader::open(&relations, Rc::new(Snapshot::active()));
            users.iter().map(|user| reader.balance(user)).collect()
        }
        View::Filtered => Ok(users.iter().map(visible_balance).collect()),
    }
}

/// How many rows of the user's the caller's snapshot sees. `None` if a query must count them: the caller may not read the whole ledger.
pub fn transaction_count(user: &UserId) -> Result<Option<i64>, LedgerError> {
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    if !privilege::may_see_folded(&relations) {
        return Ok(None);
    }
    let mut reader = Reader::open(&relations, Rc::new(Snapshot::active()));
    Ok(Some(reader.balance(user)?.transaction_count))
}

/// Whose rows a balance has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum RowsOf {
    /// All that the snapshot sees.
    All,
    /// Those but the transaction's own, which are not read.
    Others,
}

/// The user's balance as this snapshot has it, which is as of now. The transaction is not taken to have read it. The ledger is locked.
pub fn as_of(
    relations: &Relations,
    user: &UserId,
    snapshot: &Rc<Snapshot>,
    rows: RowsOf,
) -> Result<Credits, LedgerError> {
    let mut reader = Reader::open(relations, Rc::clone(snapshot));
    reader.is_aside = true;
    reader.rows = rows;
    Ok(reader.balance(user)?.balance)
}

/// The balance of the rows that row-level security shows to the caller. Costs a query over all of them.
fn visible_balance(user: &UserId) -> Balance {
    let mut sums = Statement::new();
    let user = sums.bind(Value::uuid(user.as_bytes()));
    let sql = format!(
        "SELECT pg_catalog.sum({}), pg_catalog.max(seq), pg_catalog.count(*) FROM credits.credits_transactions \
         WHERE user_id = {user}",
        effect_sql("transaction_type")
    );
    let read = |row: &ResultRow<'_>| Balance {
        balance: row.value(1).map_or(Credits::ZERO, |Numeric(sum)| sum),
        latest_seq: row.value(2),
        transaction_count: row.value(3).unwrap_or_default(),
    };
    sums.first_row(&sql, read).unwrap_or_default()
}

impl From<&Fold> for Balance {
    fn from(fold: &Fold) -> Self {
        Self {
            balance: fold.balance,
            latest_seq: fold.latest_seq_if_any(),
            transaction_count: fold.transaction_count,
        }
    }
}

impl From<&DeltaPass> for Balance {
    fn from(pass: &DeltaPass) -> Self {
        Self {
            balance: pass.balance(),
            latest_seq: pass.latest_seq(),
            transaction_count: pass.transaction_count(),
        }
    }
}

struct Reader {
    relations: Relations,
    snapshot: Rc<Snapshot>,
    /// Whether the transaction is not taken to have read the rows that it sees.
    is_aside: bool,
    rows: RowsOf,
    /// The transactions that have not ended for the snapshot.
    open: OpenTransactions,
    /// The most that a fold may cover for it.
    target: Coverage,
    published: Published,
    /// Whether the transaction sees no rows but those of others, so that a complete fold has every row that it sees.
    only_reads_others: bool,
    /// Opened for the first user without a published fold.
    checkpoints: Option<CheckpointScan>,
    /// Opened for the first user without a complete fold.
    delta: Option<DeltaScan>,
    /// Meets rows in flight; opened for the first user whose published fold may be complete.
    dirty: Option<DeltaScan>,
}

/// The fold that a balance starts from. The snapshot sees every row that it covers.
enum Base {
    /// Published, and has every row of the user.
    Complete(Fold),
    /// Published.
    Published(Fold),
    /// Of the checkpoint.
    Stored(Fold),
}

impl Reader {
    fn open(relations: &Relations, snapshot: Rc<Snapshot>) -> Self {
        let open = snapshot.open_transactions();
        Self {
            relations: *relations,
            target: Coverage::up_to(&open),
            published: Published::open_for_reader(relations, &open),
            open,
            only_reads_others: xact::only_reads_others(),
            checkpoints: None,
            delta: None,
            dirty: None,
            snapshot,
            is_aside: false,
            rows: RowsOf::All,
        }
    }

    fn balance(&mut self, user: &UserId) -> Result<Balance, LedgerError> {
        xact::check_for_interrupts();
        match self.base(user)? {
            Base::Complete(fold) => Ok(Balance::from(&fold)),
            Base::Stored(fold) => Ok(Balance::from(&self.pass(user, fold)?)),
            Base::Published(fold) => {
                let rows = fold.transaction_count;
                let pass = self.pass(user, fold)?;
                if pass.transaction_count() == rows {
                    self.mark_fold_if_complete(user);
                }
                Ok(Balance::from(&pass))
            }
        }
    }

    /// What to start from: a published fold that serves the snapshot, or else the checkpoint's.
    fn base(&mut self, user: &UserId) -> Result<Base, LedgerError> {
        match self.published.fold(user).filter(|published| published.fold.coverage.serves(&self.open)) {
            Some(PublishedFold { fold, complete_at: Some(rows) })
                if self.only_reads_others && self.published.counted_rows(user) == Some(rows) =>
            {
                Ok(Base::Complete(fold))
            }
            Some(PublishedFold { fold, .. }) => Ok(Base::Published(fold)),
            None => {
                // Its pass needs the index of deltas, which is locked before the checkpoints.
                self.delta();
                Ok(Base::Stored(self.stored_fold(user)?))
            }
        }
    }

    /// The fold of the checkpoint that the snapshot sees. It serves the snapshot: the transaction that wrote it had ended before
    /// the snapshot was taken, and everything that it covers before that.
    fn stored_fold(&mut self, user: &UserId) -> Result<Fold, LedgerError> {
        let scan = self.checkpoints.get_or_insert_with(|| CheckpointScan::open(&self.relations));
        Ok(scan.find(user, &self.snapshot)?.map_or_else(Fold::default, |stored| stored.checkpoint.fold))
    }

    /// Adds up the user's visible rows that the fold does not cover, and publishes the fold as far as it has been advanced.
    fn pass(&mut self, user: &UserId, fold: Fold) -> Result<DeltaPass, LedgerError> {
        let coverage = fold.coverage.clone();
        let mut pass = DeltaPass::new(fold, self.target.clone(), None);
        self.delta().add_to(&mut pass, user, &coverage, |_| Ok(()))?;
        self.published.publish_fold(user, pass.advanced());
        Ok(pass)
    }

    fn delta(&mut self) -> &mut DeltaScan {
        self.delta.get_or_insert_with(|| {
            let sight = if self.is_aside {
                Sight::without_siread(&self.snapshot)
            } else {
                Sight::AsOf(Rc::clone(&self.snapshot))
            };
            let scan = DeltaScan::open(&self.relations, sight);
            match self.rows {
                RowsOf::All => scan,
                RowsOf::Others => scan.passing_by(xact::current_id_if_any()),
            }
        })
    }

    /// Publishes that the user's published fold is complete, if no other row of the user exists, in flight or not.
    fn mark_fold_if_complete(&mut self, user: &UserId) {
        if !self.only_reads_others {
            return;
        }
        // Read before the rows are looked for: a row that is counted later makes the mark untrue by its count.
        let Some(rows) = self.published.counted_rows(user) else { return };
        let Some(PublishedFold { fold, .. }) = self.published.fold(user) else { return };
        let dirty = self
            .dirty
            .get_or_insert_with(|| DeltaScan::open(&self.relations, Sight::Dirty(DirtySnapshot::new())));
        if dirty.is_empty(user, &fold.coverage) {
            self.published.mark_fold_complete(user, &fold, rows);
        }
    }
}
