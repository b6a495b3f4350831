//! Recording transactions.

use ledger::credits::{Amount, AmountError};
use ledger::numeric::DecodeError;
use pgrx::Uuid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::arguments::{USAGE, known_type, required};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::numeric::NumericArgument;
use crate::pg::query::{self, NewTransaction};
use crate::pg::text::Text;
use crate::pg::xact;

/// `credits.create_transaction`
#[pg_extern(volatile, parallel_unsafe)]
fn create_transaction(
    user_id: Option<Uuid>,
    transaction_type: Option<Text>,
    amount: Option<NumericArgument>,
    source_id: Option<Text>,
    description: default!(Option<Text>, "NULL"),
    fusillade_batch_id: default!(Option<Uuid>, "NULL"),
    api_key_id: default!(Option<Uuid>, "NULL"),
) -> Result<pgrx::composite_type!('static, "credits.credit_transaction"), ErrorReport> {
    let new = NewTransaction {
        user_id: required("user_id", user_id)?,
        transaction_type: known_type("transaction_type", required("transaction_type", transaction_type)?)?,
        amount: required("amount", amount)?,
        source_id: required("source_id", source_id)?,
        description,
        fusillade_batch_id,
        api_key_id,
    };
    let amount = exact_amount(new.amount)?;
    if new.fusillade_batch_id.is_some() && new.transaction_type.as_bytes() != USAGE {
        return Err(LedgerError::BatchOnNonUsage(new.transaction_type.to_string()).into());
    }
    Relations::lookup().ok_or(LedgerError::NotInstalled)?;
    // The server would notice, too, but not before it has taken a transaction id, which a standby has none of.
    xact::refuse_if_read_only(c"create_transaction()");
    if let Some(recorded) = query::insert(&new) {
        return Ok(recorded);
    }
    match query::find(&new) {
        Some(existing) if existing.is_same => Ok(existing.transaction),
        existing => Err(LedgerError::SourceIdConflict {
            source_id: new.source_id.to_string(),
            asked: format!("{} of {} for user {}", new.transaction_type, amount.as_decimal(), new.user_id),
            stored: existing.map(|existing| existing.summary),
        }
        .into()),
    }
}

fn exact_amount(argument: NumericArgument) -> Result<Amount, LedgerError> {
    let credits = argument.credits.map_err(|error| match error {
        DecodeError::Value(error) => LedgerError::Amount { value: None, error },
        DecodeError::Malformed => LedgerError::Amount { value: None, error: AmountError::NotANumber },
    })?;
    Amount::try_from(credits).map_err(|error| LedgerError::Amount { value: Some(credits.to_string()), error })
}
