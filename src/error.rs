//! The one error type: SQLSTATE, message and hint of everything that this extension refuses.

use ledger::credits::AmountError;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use thiserror::Error;

/// What can be wrong with a call. Every message names the offending argument or value.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// A required argument is NULL, or an array argument holds a NULL.
    #[error("argument {0} must not be NULL")]
    NullArgument(&'static str),
    /// An array argument holds a NULL.
    #[error("argument {0} must not contain NULL")]
    NullElement(&'static str),
    /// A count, limit, offset or probability is below zero.
    #[error("argument {name} must not be negative, but is {value}")]
    NegativeArgument {
        /// The argument.
        name: &'static str,
        /// Its value.
        value: i64,
    },
    /// A name that is not one of the four transaction types.
    #[error("argument {name} has an unknown transaction type: \"{value}\"")]
    UnknownType {
        /// The argument.
        name: &'static str,
        /// The name given.
        value: String,
    },
    /// An amount that cannot be kept exactly.
    #[error("argument amount is not a valid amount: {0}")]
    Amount(AmountError),
    /// A batch on a row that is not usage.
    #[error("argument fusillade_batch_id is allowed on usage only, not on {0}")]
    BatchOnNonUsage(String),
    /// The source_id is taken by a transaction with another content.
    #[error("source_id \"{source_id}\" is already used by another transaction")]
    SourceIdConflict {
        /// The idempotency key.
        source_id: String,
        /// What was asked for and what is stored; `None` if the caller may not see the stored row.
        detail: Option<String>,
    },
    /// A sum that does not fit the engine's 128-bit arithmetic.
    #[error("the sum of credits is out of range")]
    SumOutOfRange,
    /// A ledger row is about to be changed.
    #[error("credits_transactions is append-only: {0} is refused")]
    AppendOnly(&'static str),
}

impl LedgerError {
    fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::NullArgument(_) | Self::NullElement(_) => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Self::NegativeArgument { .. } | Self::UnknownType { .. } => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::Amount(_) | Self::BatchOnNonUsage(_) => PgSqlErrorCode::ERRCODE_CHECK_VIOLATION,
            Self::SourceIdConflict { .. } => PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
            Self::SumOutOfRange => PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            Self::AppendOnly(_) => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Self::SourceIdConflict { detail, .. } => detail.clone(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NullElement(_) => Some("Remove the NULLs from the array."),
            Self::UnknownType { .. } => {
                Some("The transaction types are purchase, admin_grant, admin_removal and usage.")
            }
            Self::Amount(_) => {
                Some("An amount is above 0 and has at most 13 integer and 15 fractional digits; it is never rounded.")
            }
            Self::BatchOnNonUsage(_) => Some("Leave fusillade_batch_id NULL for purchases, grants and removals."),
            Self::SourceIdConflict { .. } => {
                Some("A retry must repeat user_id, transaction_type and amount; a new transaction needs its own source_id.")
            }
            Self::AppendOnly(_) => {
                Some("Record a correcting transaction instead: admin_grant adds credits, admin_removal takes them.")
            }
            _ => None,
        }
    }
}

impl From<LedgerError> for ErrorReport {
    fn from(error: LedgerError) -> Self {
        let mut report = ErrorReport::new(error.sqlstate(), error.to_string(), "credits_ledger");
        if let Some(detail) = error.detail() {
            report = report.set_detail(detail);
        }
        if let Some(hint) = error.hint() {
            report = report.set_hint(hint);
        }
        report
    }
}
