//! What a reader sees: a checkpoint plus its delta, under the reader's own snapshot.

use std::rc::Rc;

use ledger::coverage::{Coverage, OpenTransactions};
use ledger::credits::Credits;
use ledger::fold::{DeltaPass, Fold};

use super::Id;
use super::checkpoint::CheckpointScan;
use super::delta::{BALANCE_COLUMNS, DeltaScan};
use super::shared::Shared;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::privilege::{self, View};
use crate::pg::query;
use crate::pg::relation::{Access, Table};
use crate::pg::snapshot::{Sight, Snapshot};
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
pub fn read(users: &[Id]) -> Result<Vec<Balance>, LedgerError> {
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    privilege::require_select(&relations, BALANCE_COLUMNS);
    match privilege::view(&relations) {
        View::Whole => {
            let mut reader = Reader::open(&relations, Snapshot::active());
            users.iter().map(|user| reader.balance(user)).collect()
        }
        View::Filtered => Ok(users.iter().map(query::visible_balance).collect()),
    }
}

struct Reader {
    relations: Relations,
    snapshot: Rc<Snapshot>,
    open: OpenTransactions,
    shared: Shared,
    /// Opened for the first user that there is no fold of.
    checkpoints: Option<CheckpointScan>,
    delta: DeltaScan,
    target: Coverage,
}

impl Reader {
    fn open(relations: &Relations, snapshot: Snapshot) -> Self {
        let open = snapshot.open_transactions();
        let snapshot = Rc::new(snapshot);
        let ledger = Table::open(relations.ledger, Access::Read);
        Self {
            relations: *relations,
            target: Coverage::up_to(&open),
            open,
            shared: Shared::open(relations, &ledger),
            checkpoints: None,
            delta: DeltaScan::open(relations, ledger, Access::Read, Sight::AsOf(Rc::clone(&snapshot))),
            snapshot,
        }
    }

    fn balance(&mut self, user: &Id) -> Result<Balance, LedgerError> {
        xact::check_for_interrupts();
        let base = self.base(user)?;
        let coverage = base.coverage.clone();
        let mut pass = DeltaPass::new(base, self.target.clone(), None);
        self.delta.add_to(&mut pass, user, &coverage, |_| Ok(()))?;
        self.shared.publish_fold(user, pass.advanced());
        Ok(Balance { balance: pass.balance(), latest_seq: pass.latest_seq() })
    }

    /// A fold that serves the reader: what it has to read is what came after.
    fn base(&mut self, user: &Id) -> Result<Fold, LedgerError> {
        let published = self.shared.fold(user);
        match published.filter(|fold| fold.coverage.serves(&self.open)) {
            Some(fold) => Ok(fold),
            None => self.stored_fold(user),
        }
    }

    /// The stored fold that the reader's snapshot sees. Whoever wrote it had ended before the snapshot was taken, and all
    /// that it covers before that, so it needs no further check.
    fn stored_fold(&mut self, user: &Id) -> Result<Fold, LedgerError> {
        let scan = self.checkpoints.get_or_insert_with(|| CheckpointScan::open(&self.relations));
        Ok(scan.find(user, &self.snapshot)?.map_or_else(Fold::default, |(_, checkpoint)| checkpoint.fold))
    }
}
