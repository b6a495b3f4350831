//! What is available to users under the caller's snapshot: their balances less what their open holds hold.

use std::rc::Rc;

use ledger::credits::Credits;
use ledger::id::UserId;

use super::balance;
use super::holds::HoldScan;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::numeric::Numeric;
use crate::pg::privilege::{self, View};
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::statement::Statement;
use crate::pg::tables::holds;
use crate::pg::value::Value;
use crate::pg::xact;

/// A user's balance, and how much of it is held.
#[derive(Clone, Copy, Debug, Default)]
pub struct Available {
    /// Signed sum of the user's visible rows.
    pub balance: Credits,
    /// Sum of the user's visible holds that were open when the client's statement began.
    pub held: Credits,
    /// What is left of the balance.
    pub available: Credits,
}

/// What is available to these users, in their order. Raises 42501 if the caller may not read the ledger and holds.
pub fn read(users: &[UserId]) -> Result<Vec<Available>, LedgerError> {
    let balances = balance::read(users)?;
    let held = held(users)?;
    let both = balances.iter().zip(held);
    both.map(|(&balance::Balance { balance, .. }, held)| {
        Ok(Available { balance, held, available: balance.checked_sub(held)? })
    })
    .collect()
}

/// How much is held of each of these users, in their order. Raises 42501 if the caller may not read holds.
pub fn held(users: &[UserId]) -> Result<Vec<Credits>, LedgerError> {
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    let table = relations.holds()?;
    privilege::require_select_on(table, &holds::HELD);
    if privilege::view_of(table) == View::Whole {
        let sight = Sight::AsOf(Rc::new(Snapshot::active()));
        if let Some(mut scan) = HoldScan::open(&relations, sight) {
            let now = xact::statement_began_at();
            return users
                .iter()
                .map(|user| {
                    xact::check_for_interrupts();
                    Ok(scan.held(user, now)?)
                })
                .collect();
        }
    }
    Ok(users.iter().map(visibly_held).collect())
}

/// How much is held by the holds that row-level security shows to the caller.
fn visibly_held(user: &UserId) -> Credits {
    let mut sum = Statement::new();
    let user = sum.bind(Value::uuid(user.as_bytes()));
    sum.first_row(
        &format!(
            "SELECT pg_catalog.sum(amount) FROM credits.holds \
             WHERE user_id = {user} AND expires_at > pg_catalog.statement_timestamp()"
        ),
        |row| row.value(1),
    )
    .flatten()
    .map_or(Credits::ZERO, |Numeric(sum)| sum)
}
