//! Which SQLSTATE each error has.

use pgrx::prelude::*;

use super::LedgerError;

/// Of the class of our own: what an account has does not cover what was asked for.
const INSUFFICIENT_CREDITS: [u8; 5] = *b"LC001";
/// Of the same class: what was asked for would exceed an enforced spend cap.
const SPEND_CAP_REACHED: [u8; 5] = *b"LC002";
/// Of the same class: another node has the account, or will have it.
const NOT_HERE: [u8; 5] = *b"LC003";

impl LedgerError {
    /// The SQLSTATE of an error that has one of our own class. pgrx reports only those that the server knows.
    pub(super) const fn own_sqlstate(&self) -> Option<[u8; 5]> {
        match self {
            Self::InsufficientCredits { .. } => Some(INSUFFICIENT_CREDITS),
            Self::SpendCapReached { .. } => Some(SPEND_CAP_REACHED),
            Self::NotHere { .. } | Self::BucketNotHere(_) => Some(NOT_HERE),
            _ => None,
        }
    }

    /// The SQLSTATE; for an error with an [own one](Self::own_sqlstate), the nearest of the server's.
    pub(super) fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::NullArgument(_) | Self::NullElement(_) | Self::NullColumn { .. } => {
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED
            }
            Self::NegativeArgument { .. }
            | Self::EmptyPeriod { .. }
            | Self::NegativeInterval { .. }
            | Self::UnknownType { .. }
            | Self::NotAnArray(_)
            | Self::MalformedPosition(_)
            | Self::OtherLedgersPosition(_)
            | Self::ReversalOfReversal(_)
            | Self::ExpiresIn(_)
            | Self::NoClass { .. }
            | Self::NoBucket(_)
            | Self::TooManyElements { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            Self::IntervalOutOfRange { .. } => PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW,
            Self::Amount { .. }
            | Self::BatchOnNonUsage(_)
            | Self::BlankSourceId { .. }
            | Self::InfiniteDate
            | Self::CategoryTooLong { .. }
            | Self::MetadataIsNoObject
            | Self::Reversal { .. }
            | Self::SeqTooHigh(_) => PgSqlErrorCode::ERRCODE_CHECK_VIOLATION,
            Self::SourceIdTooLong { .. } | Self::TooManyCaps { .. } => {
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED
            }
            Self::InTransactionBlock(_) => PgSqlErrorCode::ERRCODE_ACTIVE_SQL_TRANSACTION,
            Self::PreparedRedaction
            | Self::PreparedTransfer
            | Self::PreparedHold
            | Self::PreparedDeletion
            | Self::PreparedReversal
            | Self::PreparedLimits
            | Self::PreparedMove { .. } => PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            Self::LeftOut(_) | Self::HoldLeftOut(_) => PgSqlErrorCode::ERRCODE_TRIGGERED_ACTION_EXCEPTION,
            Self::SourceIdConflict { .. }
            | Self::IdConflict { .. }
            | Self::KeyChangedToTaken(_)
            | Self::HoldConflict { .. }
            | Self::CapturedAlready(_)
            | Self::Held(_) => PgSqlErrorCode::ERRCODE_UNIQUE_VIOLATION,
            Self::ClearedNotNull(_) => PgSqlErrorCode::ERRCODE_NOT_NULL_VIOLATION,
            Self::NoHold(_) => PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            Self::HoldOfLater(_) => PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
            Self::InsufficientCredits { .. } | Self::SpendCapReached { .. } => {
                PgSqlErrorCode::ERRCODE_CHECK_VIOLATION
            }
            Self::SumOutOfRange => PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
            Self::MalformedCheckpoint(_) | Self::StoredNumber { .. } => {
                PgSqlErrorCode::ERRCODE_DATA_CORRUPTED
            }
            Self::NotOwner => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            Self::NotInstalled => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            Self::OtherResultType => PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            Self::Committing => PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_STATE,
            Self::UnknownTransaction(_) => PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            Self::NotHere { .. }
            | Self::BucketNotHere(_)
            | Self::OtherVersion { .. }
            | Self::Missing(_)
            | Self::InvalidIndex(_)
            | Self::IndexNotPlain(_)
            | Self::HoldsTransactions
            | Self::HasRows(_)
            | Self::KeepsItsShape { .. }
            | Self::OtherColumn { .. }
            | Self::NoValue { .. }
            | Self::UnknownPeriod(_)
            | Self::AppendOnly(_)
            | Self::HoldChanged { .. }
            | Self::HoldsTruncated
            | Self::RewrittenWithHold(_)
            | Self::ForeignStamp { .. }
            | Self::UncheckedRows(_) => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        }
    }
}
