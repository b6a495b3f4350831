//! Checks of arguments.

use crate::error::LedgerError;
use crate::pg::text::Text;

/// The type of the rows that make up batches.
pub const USAGE: &[u8] = b"usage";
const TRANSACTION_TYPES: [&[u8]; 4] = [b"purchase", b"admin_grant", b"admin_removal", USAGE];

/// Whether this is the name of a transaction type.
pub fn is_known_type(name: &[u8]) -> bool {
    TRANSACTION_TYPES.contains(&name)
}

/// The name of a transaction type.
pub fn known_type(name: &'static str, value: Text) -> Result<Text, LedgerError> {
    if is_known_type(value.as_bytes()) {
        Ok(value)
    } else {
        Err(LedgerError::UnknownType { name, value: value.to_string() })
    }
}

/// A required argument.
pub fn required<T>(name: &'static str, argument: Option<T>) -> Result<T, LedgerError> {
    argument.ok_or(LedgerError::NullArgument(name))
}
