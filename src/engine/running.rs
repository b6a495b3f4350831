//! Running balances: what each row of a user has left of its balance, in the order of `seq`.
//!
//! No row says what came before it, so the sum up to a page is looked for from both ends at once: from the balance downwards, and from
//! the first row upwards. Whichever reaches the page first has it. So it costs at most twice the rows on the shorter way.

use ledger::credits::Credits;
use ledger::id::UserId;

use super::balance;
use super::delta::signed_amount;
use super::newest::RowsBySeq;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::privilege;
use crate::pg::row::Row;
use crate::pg::tables::transactions::{self, Ledger};

/// Rows of a user with the highest `seq` first, as the running query's snapshot sees them, each with the sum up to it.
pub struct RunningBalances {
    rows: RowsBySeq,
    /// The signed sum of the rows that are left.
    balance: Credits,
}

/// Whether the caller may read a user's balance and all of its rows, as [`RunningBalances`] does.
pub fn may_be_read() -> Result<bool, LedgerError> {
    Ok(privilege::may_see_folded(&Relations::locked().ok_or(LedgerError::NotInstalled)?))
}

impl RunningBalances {
    /// The rows with a `seq` below `before_seq`. `None` if a query must read them: an index is missing. The caller may read all rows.
    pub fn open(user: &UserId, before_seq: Option<i64>) -> Result<Option<Self>, LedgerError> {
        let balance = balance::read(&[*user])?.into_iter().next().unwrap_or_default().balance;
        let balance = match before_seq {
            None => Some(balance),
            Some(before) => sum_below(user, before, balance)?,
        };
        let rows = RowsBySeq::newest(Some(user), before_seq, &transactions::CREDIT_TRANSACTION);
        Ok(rows.zip(balance).map(|(rows, balance)| Self { rows, balance }))
    }

    /// The row with the next lower `seq`, and the signed sum of the rows up to and including it.
    pub fn next(&mut self) -> Result<Option<(Row<'_, Ledger>, Credits)>, LedgerError> {
        let Some(row) = self.rows.next() else { return Ok(None) };
        let balance = self.balance;
        self.balance = balance.checked_sub(signed_amount(&row))?;
        Ok(Some((row, balance)))
    }
}

/// The signed sum of the user's rows with a `seq` below this; `balance` is that of all. `None` if an index is missing.
fn sum_below(user: &UserId, before: i64, balance: Credits) -> Result<Option<Credits>, LedgerError> {
    let (Some(mut newest), Some(mut oldest)) =
        (RowsBySeq::newest(Some(user), None, &transactions::CREDIT_TRANSACTION), RowsBySeq::oldest(user))
    else {
        return Ok(None);
    };
    let (mut left, mut below) = (balance, Credits::ZERO);
    loop {
        match newest.next() {
            Some(row) if row.get(transactions::SEQ) >= before => {
                left = left.checked_sub(signed_amount(&row))?
            }
            _ => return Ok(Some(left)),
        }
        match oldest.next() {
            Some(row) if row.get(transactions::SEQ) < before => {
                below = below.checked_add(signed_amount(&row))?
            }
            _ => return Ok(Some(below)),
        }
    }
}
