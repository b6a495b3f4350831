//! Checks of arguments.

use ledger::transaction_type::TransactionType;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::prelude::*;

use crate::error::LedgerError;
use crate::pg::text::Text;

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
