//! Recording transactions.

use ledger::credits::{Amount, AmountError, Credits};
use ledger::numeric::DecodeError;
use ledger::transaction_type::TransactionType;

use super::arguments::transaction_type;
use crate::error::LedgerError;
use crate::pg::call::{Answer, Argument, Call, Value};
use crate::pg::catalog::Relations;
use crate::pg::privilege::{View, view};
use crate::pg::query::{self, Inserted, NewTransaction};
use crate::pg::{text, xact};

const USER_ID: Argument = Argument(0, "user_id");
const TRANSACTION_TYPE: Argument = Argument(1, "transaction_type");

/// `create_transaction(user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id)`
pub fn create_transaction(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let user_id = call.uuid(USER_ID)?;
    let type_name = call.required_content(TRANSACTION_TYPE)?;
    let known_type = transaction_type(TRANSACTION_TYPE.1, type_name)?;
    let (amount, credits) = call.required_numeric(Argument(2, "amount"))?;
    let source_id = call.required_content(Argument(3, "source_id"))?;
    let credits = exact_amount(credits)?;
    if text::is_blank(source_id.as_bytes()) {
        return Err(LedgerError::BlankSourceId { what: "argument source_id", value: source_id.to_string() });
    }
    let new = NewTransaction {
        user_id,
        transaction_type: Value::text(type_name),
        amount,
        source_id: Value::text(source_id),
        description: call.text(Argument(4, "description")),
        fusillade_batch_id: call.uuid_if_given(Argument(5, "fusillade_batch_id")),
        api_key_id: call.uuid_if_given(Argument(6, "api_key_id")),
    };
    if new.fusillade_batch_id.is_some() && known_type != TransactionType::Usage {
        return Err(LedgerError::BatchOnNonUsage(known_type));
    }
    let relations = Relations::lookup().ok_or(LedgerError::NotInstalled)?;
    // The server would notice, too, but not before it has taken a transaction id, which a standby has none of.
    xact::refuse_if_read_only(c"create_transaction()");
    let is_left_out = match query::insert(&new) {
        Inserted::TooLong => {
            return Err(LedgerError::SourceIdTooLong {
                bytes: source_id.as_bytes().len(),
                longest: query::LONGEST_SOURCE_ID,
            });
        }
        Inserted::Recorded(transaction) => return Ok(transaction),
        Inserted::Taken => false,
        Inserted::LeftOut => true,
    };
    match query::find(&new) {
        Some(existing) if existing.is_same => Ok(existing.transaction),
        // A trigger may also have given the row another source_id, which is taken.
        None if is_left_out || view(&relations) == View::Whole => {
            Err(LedgerError::LeftOut(source_id.to_string()))
        }
        existing => Err(LedgerError::SourceIdConflict {
            source_id: source_id.to_string(),
            asked: format!("{known_type} of {} for user {}", credits.as_decimal(), call.user_id(USER_ID)?),
            stored: existing.map(|existing| existing.summary),
        }),
    }
}

fn exact_amount(credits: Result<Credits, DecodeError>) -> Result<Amount, LedgerError> {
    let credits = credits.map_err(|error| match error {
        DecodeError::Value(error) => LedgerError::Amount { value: None, error },
        DecodeError::Malformed => LedgerError::Amount { value: None, error: AmountError::NotANumber },
    })?;
    Amount::try_from(credits).map_err(|error| LedgerError::Amount { value: Some(credits.to_string()), error })
}
