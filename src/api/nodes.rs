//! Which buckets of accounts this ledger has, where it is one of many nodes, for whoever reads it: each as of the snapshot of the statement.

use ledger::bucket::Class;

use super::arguments::required;
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::buckets;
use crate::pg::call::{Argument, Call};

/// `owned_buckets()`
pub fn owned_buckets(_call: &Call<'_>) -> Result<Answer, LedgerError> {
    Ok(Answer::bits(&buckets::not_here().unwrap_or_default().others()))
}

/// `has_all_buckets()`
pub fn has_all_buckets(_call: &Call<'_>) -> Result<Answer, LedgerError> {
    Ok(Answer::bool(buckets::not_here().is_none()))
}

/// `is_here(user_id)`
pub fn is_here(call: &Call<'_>) -> Result<Answer, LedgerError> {
    Ok(Answer::bool(buckets::is_here(call.any_user_id(Argument(0, "user_id"))?)))
}

/// `require_class(modulus, remainder)`
pub fn require_class(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let not_here = buckets::not_here();
    let modulus = required("modulus", call.integer(Argument(0, "modulus")))?;
    let remainder = required("remainder", call.integer(Argument(1, "remainder")))?;
    let class = Class::new(modulus, remainder).ok_or(LedgerError::NoClass { modulus, remainder })?;
    match not_here.and_then(|not_here| not_here.first_of(class)) {
        Some(bucket) => Err(LedgerError::BucketNotHere(bucket)),
        None => Ok(Answer::bool(true)),
    }
}

/// A condition, with its AND, that leaves out accounts which are not on this node: none where it has all.
pub fn and_here(user_id: &str) -> String {
    buckets::not_here().map_or_else(String::new, |_| format!(" AND credits.is_here({user_id})"))
}
