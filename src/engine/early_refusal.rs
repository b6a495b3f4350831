//! Refuses a hold or a charge by the call, where what has committed and the transaction's own rows do not cover it. That is advice: the
//! commit decides.

use ledger::caps::{Asked, Clock};
use ledger::credits::Credits;
use ledger::id::{ApiKeyId, UserId};
use ledger::overdraft::Overdraft;
use ledger::segment::headroom::{has_room_for, steps};

use super::balance::{self, RowsOf};
use super::boundaries::LimitsScan;
use super::caps::CapsScan;
use super::cover::Covered;
use super::holds::HoldScan;
use super::lock_order::OpenIfFree;
use super::moment::Moment;
use super::noted;
use super::published::Published;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::xact;

/// Whether the row that takes an amount is there when [`refuse_early`] looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// It is still to be written.
    ToCome,
    /// It is among the transaction's own rows.
    Written,
}

/// Refuses a hold or a charge of this amount if it is not covered as of now, by what has committed and by the transaction's own rows, or
/// exceeds an enforced spend cap of this API key. It looks at the latest snapshot, whatever the caller's sees, and the transaction is not
/// taken to have read anything. Where it needs a lock that is not free, it refuses nothing, and the commit decides.
pub fn refuse_early(
    relations: &Relations,
    user: &UserId,
    amount: Credits,
    key: Option<ApiKeyId>,
    taking: Taking,
) -> Result<(), LedgerError> {
    let published = Published::open(relations);
    let own = noted::written(user).charged();
    let more = match taking {
        Taking::ToCome => own.saturating_add(steps(amount)),
        Taking::Written => own,
    };
    if published.covers_as_much_more(user, more) {
        return Ok(());
    }
    xact::see_own_changes();
    let now = Moment::now();
    let Ok(mut limits) = LimitsScan::open_if_free(relations) else { return Ok(()) };
    let overdraft = limits.find(user, &now).overdraft;
    let Ok(mut caps) = CapsScan::open_if_free(relations) else { return Ok(()) };
    let is_capped = caps.find(user, &now)?.iter().any(|cap| cap.is_enforced && cap.has_key(key));
    if overdraft == Overdraft::Unlimited && !is_capped {
        return Ok(());
    }
    let Ok(mut holds) = HoldScan::open_if_free(relations, now.sight()) else { return Ok(()) };
    // Later than the snapshot: what has expired by then is not held any more, whatever the snapshot sees of it.
    let clock = xact::now();
    let asked = Asked { key, amount, created_at: None };
    let covered = Covered::new(vec![asked], &mut holds, user, clock)?;
    if let Overdraft::UpTo(overdraft_limit) = overdraft {
        let left = |rows| -> Result<Credits, LedgerError> {
            Ok(balance::as_of(relations, user, now.snapshot(), rows)?.checked_sub(covered.held)?)
        };
        // The transaction's own rows may be very many: they are read only where what is noted of them is too coarse.
        if !has_room_for(left(RowsOf::Others)?.checked_add(overdraft_limit)?, more) {
            let left = left(RowsOf::All)?;
            let available = match taking {
                Taking::ToCome => left,
                Taking::Written => left.checked_add(amount)?,
            };
            refuse_below(user, amount, available, overdraft_limit)?;
        }
    }
    if is_capped {
        let mut spends = caps.spends(user, &[], &now, Clock::At(clock))?;
        covered.add_to(&mut spends)?;
        for spend in &mut spends {
            if taking == Taking::ToCome {
                spend.add_held(key, amount)?;
            }
            if let Some(refusal) = spend.refusal()? {
                return Err(LedgerError::SpendCapReached { user: *user, refusal });
            }
        }
    }
    Ok(())
}

/// Refuses an amount that would leave less available than the limit, which lies below zero by `overdraft_limit`.
fn refuse_below(
    user: &UserId,
    asked: Credits,
    available: Credits,
    overdraft_limit: Credits,
) -> Result<(), LedgerError> {
    if available.checked_sub(asked)?.checked_add(overdraft_limit)? < Credits::ZERO {
        return Err(LedgerError::InsufficientCredits { user: *user, asked, available, overdraft_limit });
    }
    Ok(())
}
