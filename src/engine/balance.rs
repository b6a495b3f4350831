//! What a reader sees: a checkpoint plus its delta, under the reader's own snapshot.

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
use crate::pg::relation::Table;
use crate::pg::snapshot::{DirtySnapshot, Sight, Snapshot};
use crate::pg::statement::Statement;
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
}

/// Balances of these users, in their order. Raises 42501 if the caller may not read the ledger.
pub fn read(users: &[UserId]) -> Result<Vec<Balance>, LedgerError> {
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    privilege::require_select(&relations, &transactions::BALANCE);
    match privilege::view(&relations) {
        View::Whole => {
            let mut reader = Reader::open(&relations, Snapshot::active());
            users.iter().map(|user| reader.balance(user)).collect()
        }
        View::Filtered => Ok(users.iter().map(visible_balance).collect()),
    }
}

/// The balance of the rows that row-level security shows to the caller. Costs a query over all of them.
fn visible_balance(user: &UserId) -> Balance {
    let mut sums = Statement::new();
    let user = sums.bind(Value::uuid(user.as_bytes()));
    let (sum, latest_seq) = sums.two_values::<Numeric, i64>(&format!(
        "SELECT pg_catalog.sum({}), pg_catalog.max(seq) FROM credits.credits_transactions WHERE user_id = {user}",
        effect_sql("transaction_type")
    ));
    Balance { balance: sum.map_or(Credits::ZERO, |Numeric(sum)| sum), latest_seq }
}

struct Reader {
    relations: Relations,
    snapshot: Rc<Snapshot>,
    open: OpenTransactions,
    published: Published,
    /// Whether a complete fold tells this reader all.
    only_reads_others: bool,
    /// Opened for the first user that there is no fold of.
    checkpoints: Option<CheckpointScan>,
    /// Opened for the first user whose fold may not be complete.
    delta: Option<DeltaScan>,
    /// The same for what is in flight.
    in_flight: Option<DeltaScan>,
    target: Coverage,
}

/// What a reader starts from.
struct Base {
    fold: Fold,
    is_published: bool,
    is_complete: bool,
}

impl Reader {
    fn open(relations: &Relations, snapshot: Snapshot) -> Self {
        let open = snapshot.open_transactions();
        let ledger = Table::open_locked(relations.ledger);
        Self {
            relations: *relations,
            target: Coverage::up_to(&open),
            published: Published::open_for_reader(relations, &ledger, &open),
            open,
            only_reads_others: xact::only_reads_others(),
            checkpoints: None,
            delta: None,
            in_flight: None,
            snapshot: Rc::new(snapshot),
        }
    }

    fn balance(&mut self, user: &UserId) -> Result<Balance, LedgerError> {
        xact::check_for_interrupts();
        let base = self.base(user)?;
        let coverage = base.fold.coverage.clone();
        let known = base.fold.transaction_count;
        let mut pass = DeltaPass::new(base.fold, self.target.clone(), None);
        if !base.is_complete {
            self.delta().add_to(&mut pass, user, &coverage, |_| Ok(()))?;
            self.published.publish_fold(user, pass.advanced());
            if base.is_published && pass.transaction_count() == known {
                self.look_for_more(user);
            }
        }
        Ok(Balance { balance: pass.balance(), latest_seq: pass.latest_seq() })
    }

    fn delta(&mut self) -> &mut DeltaScan {
        let sight = || Sight::AsOf(Rc::clone(&self.snapshot));
        self.delta.get_or_insert_with(|| DeltaScan::open(&self.relations, sight()))
    }

    /// A fold that serves the reader: what it has to read is what came after.
    fn base(&mut self, user: &UserId) -> Result<Base, LedgerError> {
        let published = self.published.fold(user).filter(|known| known.fold.coverage.serves(&self.open));
        match published {
            Some(PublishedFold { fold, complete_at }) => {
                let is_complete = self.only_reads_others
                    && complete_at.is_some_and(|counted| self.published.counted_rows(user) == Some(counted));
                Ok(Base { fold, is_published: true, is_complete })
            }
            None => {
                // The delta follows, and its index is locked before the checkpoints.
                self.delta();
                Ok(Base { fold: self.stored_fold(user)?, is_published: false, is_complete: false })
            }
        }
    }

    /// Tells the others that the user's published fold is complete, if that is so.
    fn look_for_more(&mut self, user: &UserId) {
        // Counted first: a row that is counted later will tell for itself.
        let (true, Some(rows)) = (self.only_reads_others, self.published.counted_rows(user)) else { return };
        let Some(PublishedFold { fold, .. }) = self.published.fold(user) else { return };
        let in_flight = self
            .in_flight
            .get_or_insert_with(|| DeltaScan::open(&self.relations, Sight::Dirty(DirtySnapshot::new())));
        if in_flight.is_empty(user, &fold.coverage) {
            self.published.mark_fold_complete(user, &fold, rows);
        }
    }

    /// The stored fold that the reader's snapshot sees. Whoever wrote it had ended before the snapshot was taken, and all
    /// that it covers before that, so it needs no further check.
    fn stored_fold(&mut self, user: &UserId) -> Result<Fold, LedgerError> {
        let scan = self.checkpoints.get_or_insert_with(|| CheckpointScan::open(&self.relations));
        Ok(scan.find(user, &self.snapshot)?.map_or_else(Fold::default, |(_, checkpoint)| checkpoint.fold))
    }
}
