//! What a `source_id` must be: not blank, and not too long for the index that keeps them apart.

use std::ffi::CStr;

use pgrx::PgSqlErrorCode;

use crate::error::LedgerError;
use crate::pg::raised::{self, Raised};
use crate::pg::text::{self, Text};

/// Most bytes of a `source_id` that its index holds for certain: a third of a page. What can be compressed may be longer.
const LONGEST: usize = 2692;

/// Refuses a `source_id` that is empty or nothing but white space.
pub(super) fn require_not_blank(source_id: Text) -> Result<(), LedgerError> {
    if text::is_blank(source_id.as_bytes()) {
        return Err(LedgerError::BlankSourceId { what: "argument source_id", value: source_id.to_string() });
    }
    Ok(())
}

/// Whether the `source_id` fits into its index for certain.
pub(super) fn fits(source_id: Text) -> bool {
    source_id.as_bytes().len() <= LONGEST
}

/// Runs `work`. If it fails since this `source_id` does not fit into the index of this constraint, the error says so; it must be raised.
pub(super) fn unless_too_long<T>(
    source_id: Text,
    key: &CStr,
    work: impl FnOnce() -> T,
) -> Result<T, LedgerError> {
    let is_too_long = |error: &Raised| {
        error.sqlstate() == PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED as i32
            && !fits(source_id)
            // One that is longer than a page fails before its index is named.
            && error.constraint().is_none_or(|index| index.as_bytes() == key.to_bytes())
    };
    let too_long = || LedgerError::SourceIdTooLong { bytes: source_id.as_bytes().len(), longest: LONGEST };
    raised::unless(is_too_long, work).ok_or_else(too_long)
}
