//! Checks of arguments.

use std::collections::HashSet;

use pgrx::Uuid;

use crate::engine::Id;
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

/// A required array without NULLs.
pub fn required_array<T>(
    name: &'static str,
    argument: Option<Vec<Option<T>>>,
) -> Result<Vec<T>, LedgerError> {
    required(name, argument)?
        .into_iter()
        .map(|element| element.ok_or(LedgerError::NullElement(name)))
        .collect()
}

/// A required array of users, each once, in the order of their first appearance.
pub fn distinct_users(
    name: &'static str,
    argument: Option<Vec<Option<Uuid>>>,
) -> Result<Vec<Id>, LedgerError> {
    let mut seen = HashSet::new();
    let users = required_array(name, argument)?.into_iter().map(|user| *user.as_bytes());
    Ok(users.filter(|user| seen.insert(*user)).collect())
}
