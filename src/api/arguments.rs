//! Checks of arguments.

use std::ffi::CStr;

use ledger::credits::{Amount, AmountError, Credits};
use ledger::numeric::DecodeError;
use ledger::transaction_type::TransactionType;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::given::Given;
use crate::engine::inserted;
use crate::error::LedgerError;
use crate::pg::call::{Argument, Call};
use crate::pg::raised::{self, Raised};
use crate::pg::text::{self, Text};
use crate::pg::value::Value;

/// Most bytes of a `source_id` that its index holds for certain: a third of a page. What can be compressed may be longer.
const LONGEST_SOURCE_ID: usize = 2692;

/// The transaction type that an argument names.
pub fn transaction_type(argument: &'static str, value: Text) -> Result<TransactionType, LedgerError> {
    TransactionType::from_name(value.as_bytes())
        .ok_or_else(|| LedgerError::UnknownType { name: argument, value: value.to_string() })
}

/// A required argument.
pub fn required<T>(name: &'static str, argument: Option<T>) -> Result<T, LedgerError> {
    argument.ok_or(LedgerError::NullArgument(name))
}

/// The moment that lies this interval, an argument, before another.
pub fn that_long_before(
    argument: &'static str,
    interval: Interval,
    moment: TimestampWithTimeZone,
) -> Result<TimestampWithTimeZone, LedgerError> {
    PgTryBuilder::new(|| Ok(moment - interval))
        .catch_when(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, |_| {
            Err(LedgerError::IntervalOutOfRange { name: argument, value: interval.to_string() })
        })
        .execute()
}

/// What a row is to say besides its account, amount and `source_id`: the arguments from this place on, which are `description`,
/// `fusillade_batch_id`, `api_key_id`, `category` and `metadata`. Refuses what the row trigger would.
pub fn details<'call>(call: &Call<'call>, first: usize) -> Result<[Given<'call>; 5], LedgerError> {
    let argument = |place, name| Argument(first + place, name);
    let category = call.content(argument(3, "category"));
    category.map_or(Ok(()), |category| inserted::require_category(category.as_bytes()))?;
    let metadata = call.jsonb(argument(4, "metadata"));
    inserted::require_object(metadata.is_none_or(|(_, is_object)| is_object))?;
    let uuid = |place, name| Given::optional(name, pg_sys::UUIDOID, call.uuid(argument(place, name)));
    Ok([
        Given::optional("description", pg_sys::TEXTOID, call.text(argument(0, "description"))),
        uuid(1, "fusillade_batch_id"),
        uuid(2, "api_key_id"),
        Given::optional("category", pg_sys::TEXTOID, category.map(Value::text)),
        Given::optional("metadata", pg_sys::JSONBOID, metadata.map(|(value, _)| value)),
    ])
}

/// The amount of a transaction or of a hold: above zero and exact.
pub fn exact_amount(credits: Result<Credits, DecodeError>) -> Result<Amount, LedgerError> {
    let credits = credits.map_err(|error| match error {
        DecodeError::Value(error) => LedgerError::Amount { value: None, error },
        DecodeError::Malformed => LedgerError::Amount { value: None, error: AmountError::NotANumber },
    })?;
    Amount::try_from(credits).map_err(|error| LedgerError::Amount { value: Some(credits.to_string()), error })
}

/// Refuses a `source_id` that is empty or nothing but white space.
pub fn require_source_id(source_id: Text) -> Result<(), LedgerError> {
    if text::is_blank(source_id.as_bytes()) {
        return Err(LedgerError::BlankSourceId { what: "argument source_id", value: source_id.to_string() });
    }
    Ok(())
}

/// Whether the `source_id` fits into its index for certain.
pub fn source_id_fits(source_id: Text) -> bool {
    source_id.as_bytes().len() <= LONGEST_SOURCE_ID
}

/// Runs `work`. If it fails since this `source_id` does not fit into the index of this constraint, the error says so; it must be raised.
pub fn unless_source_id_too_long<T>(
    source_id: Text,
    key: &CStr,
    work: impl FnOnce() -> T,
) -> Result<T, LedgerError> {
    let is_too_long = |error: &Raised| {
        error.sqlstate() == PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED as i32
            && !source_id_fits(source_id)
            // One that is longer than a page fails before its index is named.
            && error.constraint().is_none_or(|index| index.as_bytes() == key.to_bytes())
    };
    let too_long =
        || LedgerError::SourceIdTooLong { bytes: source_id.as_bytes().len(), longest: LONGEST_SOURCE_ID };
    raised::unless(is_too_long, work).ok_or_else(too_long)
}
