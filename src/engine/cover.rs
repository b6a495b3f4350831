//! What a transaction must have covered by what is available to an account: what its [`claims`] ask for that are still
//! there, with what the account holds.

use ledger::caps::{Asked, CapSpend};
use ledger::credits::{Credits, SumOutOfRange};
use ledger::id::{ApiKeyId, UserId};

use super::claims::{self, Asking, Version};
use super::holds::HoldScan;
use super::lock_order::OpenIfFree;
use super::moment::Moment;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::column::Layout;
use crate::pg::fetch::RowFetch;
use crate::pg::relation::{Access, NotFree, Table};
use crate::pg::row::Row;
use crate::pg::snapshot::{DirtySnapshot, Sight, Snapshot};
use crate::pg::tables::holds::{self, Holds};
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::xact;

/// Raises 0A000 if the transaction, which is about to be prepared, has rows that ask for cover: `COMMIT PREPARED` could not refuse
/// them. An extension asks, whenever the hold would have expired: nobody knows when the transaction commits.
pub fn refuse_to_prepare() -> Result<(), LedgerError> {
    let users = claims::users();
    if users.is_empty() {
        return Ok(());
    }
    // Gone if the transaction has dropped the extension.
    let Some(relations) = Relations::locked_at_commit() else { return Ok(()) };
    xact::see_own_changes();
    let mut standing = Standing::with(&relations, Table::open(relations.holds()?, Access::Read));
    let now = Snapshot::latest();
    for user in &users {
        if standing.asked(user, &now, i64::MAX).is_some() {
            return Err(LedgerError::PreparedHold);
        }
    }
    Ok(())
}

/// What an account must have covered.
#[derive(Clone, Debug)]
pub struct Covered {
    /// What the rows that are there ask for, each.
    asked: Vec<Asked>,
    /// What is held of the account's balance, those rows included.
    pub held: Credits,
    /// What is held, in runs of holds for the same API key.
    held_by_key: Vec<(Option<ApiKeyId>, Credits)>,
}

impl Covered {
    /// What these rows ask for, with what the account holds at this time as the scan sees it.
    pub(super) fn new(
        asked: Vec<Asked>,
        holds: &mut HoldScan,
        user: &UserId,
        clock: i64,
    ) -> Result<Self, SumOutOfRange> {
        let mut runs: Vec<(Option<ApiKeyId>, Credits)> = Vec::new();
        let held = holds.held_by_key(user, clock, |key, amount| {
            match runs.last_mut() {
                Some((last, sum)) if *last == key => *sum = sum.checked_add(amount)?,
                _ => runs.push((key, amount)),
            }
            Ok(())
        })?;
        Ok(Self { asked, held, held_by_key: runs })
    }

    /// What the rows that are there ask for, in sum.
    pub fn asked(&self) -> Result<Credits, SumOutOfRange> {
        self.asked.iter().try_fold(Credits::ZERO, |sum, asked| sum.checked_add(asked.amount))
    }

    /// Adds what is asked for and what is held to what was spent of spend caps.
    pub fn add_to(&self, spends: &mut [CapSpend]) -> Result<(), SumOutOfRange> {
        for spend in spends {
            for asked in &self.asked {
                spend.add_asked(asked)?;
            }
            for &(key, amount) in &self.held_by_key {
                spend.add_held(key, amount)?;
            }
        }
        Ok(())
    }
}

/// Looks at the rows that may ask for cover, and at holds.
pub struct CoverScans {
    standing: Standing,
    /// Meets holds in flight.
    dirty: HoldScan,
}

impl OpenIfFree for CoverScans {
    fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        let holds = relations.holds().unwrap_or_else(|error| error.raise());
        let standing = Standing::with(relations, Table::open_if_free(holds, Access::Read)?);
        let dirty = HoldScan::open_if_free(relations, Sight::Dirty(DirtySnapshot::new()))?;
        Ok(Self { standing, dirty })
    }
}

impl CoverScans {
    /// What the account must have covered, with the most that it can come to hold of the holds that there are, whatever commits and
    /// whatever rolls back; `None` if no row asks. The moment's snapshot sees what the transaction has done. `clock` tells which holds
    /// would have expired: the caller has the stripe, and has counted what it wrote.
    pub fn cover_at_most(
        &mut self,
        user: &UserId,
        now: &Moment,
        clock: i64,
    ) -> Result<Option<Covered>, SumOutOfRange> {
        let asked = self.standing.asked(user, now.snapshot(), clock);
        asked.map(|asked| Covered::new(asked, &mut self.dirty, user, clock)).transpose()
    }

    /// What the account must have covered at a moment; `None` if no row asks.
    pub fn cover(
        &mut self,
        user: &UserId,
        now: &Moment,
        clock: i64,
        relations: &Relations,
    ) -> Result<Option<Covered>, SumOutOfRange> {
        let Some(asked) = self.standing.asked(user, now.snapshot(), clock) else { return Ok(None) };
        let mut holds = self.dirty.again(relations, now.sight());
        Covered::new(asked, &mut holds, user, clock).map(Some)
    }
}

/// Looks at the rows that may ask for cover.
struct Standing {
    holds: RowFetch<Holds>,
    charges: RowFetch<Ledger>,
}

impl Standing {
    /// The ledger is locked. Raises 55000 if the transaction has rewritten one of the tables: nobody knows then where its rows are.
    fn with(relations: &Relations, holds: Table) -> Self {
        let ledger = Table::open_locked(relations.ledger);
        for (table, name) in [(&holds, "holds"), (&ledger, "credits_transactions")] {
            if table.has_own_file() {
                LedgerError::RewrittenWithHold(name).raise();
            }
        }
        Self {
            holds: RowFetch::new(holds, holds::USER_ID),
            charges: RowFetch::new(ledger, transactions::USER_ID),
        }
    }

    /// What the account's rows that are there ask to be covered, each; `None` if none asks.
    fn asked(&mut self, user: &UserId, snapshot: &Snapshot, clock: i64) -> Option<Vec<Asked>> {
        let mut asked = Vec::new();
        claims::each_asking(user, clock, |claim| match claim {
            Asking::Hold(version) => {
                if let Some(hold) = standing(&mut self.holds, version, snapshot) {
                    let key = hold.get(holds::API_KEY_ID).map(ApiKeyId::from_bytes);
                    asked.push(Asked { key, amount: hold.get(holds::AMOUNT), created_at: None });
                }
            }
            Asking::Charge(version) => {
                if let Some(charge) = standing(&mut self.charges, version, snapshot) {
                    let key = charge.get(transactions::API_KEY_ID).map(ApiKeyId::from_bytes);
                    let created_at = Some(charge.get(transactions::CREATED_AT));
                    asked.push(Asked { key, amount: charge.get(transactions::AMOUNT), created_at });
                }
            }
        });
        (!asked.is_empty()).then_some(asked)
    }
}

/// The row, if the snapshot sees it where it was stored, in this version.
fn standing<'rows, L: Layout>(
    rows: &'rows mut RowFetch<L>,
    (tid, stored_by): Version,
    snapshot: &Snapshot,
) -> Option<Row<'rows, L>> {
    rows.version_at(tid, snapshot).filter(|row| row.stored_by() == stored_by)
}
