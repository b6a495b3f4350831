//! The boundaries of accounts: what users have written into `spending_limits`.
//!
//! A settlement needs them at every commit, and finds them in the account's checkpoint. They are copied there under the exclusive
//! stripe: by the commit of a transaction that has changed them, and whenever a checkpoint is made or refreshed by request. So
//! nobody else looks at `spending_limits`, and an account without boundaries pays nothing.

use ledger::boundaries::Boundaries;
use ledger::id::UserId;
use ledger::overdraft::Overdraft;

use super::lock_order::OpenIfFree;
use super::moment::Moment;
use super::noted;
use super::user_rows::{self, UserRows};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{Access, Index, NotFree, Table};
use crate::pg::row::Row;
use crate::pg::tables::limits::{self, Limits};

/// Reads boundaries, of one user after the other.
pub struct LimitsScan(UserRows<Limits>);

impl OpenIfFree for LimitsScan {
    fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        let limits = relations.limits().unwrap_or_else(|error| error.raise());
        let table = Table::open_if_free(limits, Access::Read)?;
        let key = Index::primary_key_if_free(&table)?;
        Ok(Self(UserRows::new(table, key)))
    }
}

impl LimitsScan {
    /// Keeps the locks of its relations to the end of the transaction.
    pub fn keep_locks(&self) {
        self.0.keep_locks();
    }

    /// The user's boundaries, those of every account where it has none of its own.
    pub fn find(&mut self, user: &UserId, now: &Moment) -> Boundaries {
        let rows = self.0.seek(limits::USER_ID.equal(user), now, limits::THRESHOLDS);
        rows.next().map_or_else(Boundaries::default, |row| decode(&row))
    }
}

fn decode(row: &Row<'_, Limits>) -> Boundaries {
    let overdraft = row.get(limits::OVERDRAFT_LIMIT).map_or(Overdraft::Unlimited, Overdraft::UpTo);
    let refuse = |error| row.refuse_number(limits::THRESHOLDS.number(), error);
    Boundaries::new(overdraft, row.get(limits::THRESHOLDS).unwrap_or_else(refuse))
}

/// Notes that the transaction changes the boundaries of the user of this row of `spending_limits`, and those of the user that an
/// UPDATE makes it the row of.
pub fn note_changed(row: &Row<'_, Limits>, new: Option<&Row<'_, Limits>>) -> Result<(), LedgerError> {
    noted::note_rebound([Some(row), new].map(|row| row.map(|row| row.get(limits::USER_ID))))
}

/// Notes that the transaction takes all boundaries away.
pub fn note_truncated(relations: &Relations) -> Result<(), LedgerError> {
    user_rows::each(relations.limits()?, limits::USER_ID, |row| note_changed(row, None))
}
