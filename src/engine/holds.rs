//! Open holds: how much of a user's balance they hold.

use ledger::credits::{Credits, SumOutOfRange};
use ledger::id::UserId;

use crate::pg::catalog::Relations;
use crate::pg::relation::{Access, Index, Table};
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::Sight;
use crate::pg::tables::holds::{self, Holds};

/// An index scan that reads the open holds of one user after the other. They are one range of the index: holds that have expired lie
/// before it and cost nothing.
pub struct HoldScan(IndexScan<Holds>);

impl HoldScan {
    /// Opens holds and their index, waiting for the locks. `None` if the index is missing, or cannot be relied on to have every row.
    pub fn open(relations: &Relations, sight: Sight) -> Option<Self> {
        let table = Table::open(relations.holds().ok()?, Access::Read);
        let index = Index::open(relations.holds_index()?).filter(Index::is_complete)?;
        Some(Self(IndexScan::new(table, index, sight, 2, holds::EXPIRES_AT)))
    }

    /// The sum of the user's holds that are open at this moment.
    pub fn held(&mut self, user: &UserId, now: i64) -> Result<Credits, SumOutOfRange> {
        let mut held = Credits::ZERO;
        self.0.seek(&[holds::USER_ID.equal(user), holds::EXPIRES_AT.after(now)]);
        while let Some(hold) = self.0.next() {
            held = held.checked_add(hold.get(holds::AMOUNT))?;
        }
        Ok(held)
    }
}
