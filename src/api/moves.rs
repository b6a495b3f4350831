//! What moves buckets of accounts from one node to another: the parts of `sql/schema/moves.sql` and `arrivals.sql` that SQL cannot express.

use ledger::bucket::BUCKETS;

use super::arguments::required;
use crate::engine::lock_order;
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::catalog::Relations;
use crate::pg::{privilege, transfer, xact};

/// `begin_transfer(bucket)`
pub fn begin_transfer(call: &Call<'_>) -> Result<Answer, LedgerError> {
    require_owner()?;
    let bucket = bucket(call)?;
    xact::refuse_if_read_only(c"begin_transfer()");
    transfer::begin(bucket);
    Ok(Answer::void())
}

/// `wait_for_transaction(xact_id)`
pub fn wait_for_transaction(call: &Call<'_>) -> Result<Answer, LedgerError> {
    require_owner()?;
    // No other number is the id of a transaction.
    if let Ok(id) = u32::try_from(call.required_bigint(Argument(0, "xact_id"))?) {
        xact::wait_for_id(id.into());
    }
    Ok(Answer::void())
}

/// `hold_stripes(bucket)`
pub fn hold_stripes(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let relations = require_owner()?;
    let bucket = bucket(call)?;
    xact::refuse_if_read_only(c"hold_stripes()");
    lock_order::wait_for_everything(&relations);
    transfer::hold(bucket);
    Ok(Answer::void())
}

/// `holds_stripes(bucket)`
pub fn holds_stripes(call: &Call<'_>) -> Result<Answer, LedgerError> {
    require_owner()?;
    Ok(Answer::bool(transfer::is_held(bucket(call)?)))
}

fn require_owner() -> Result<Relations, LedgerError> {
    let relations = Relations::lookup().ok_or(LedgerError::NotInstalled)?;
    if privilege::is_owner(&relations) { Ok(relations) } else { Err(LedgerError::NotOwner) }
}

fn bucket(call: &Call<'_>) -> Result<u64, LedgerError> {
    let number = required("bucket", call.integer(Argument(0, "bucket")))?;
    u64::try_from(number).ok().filter(|&bucket| bucket < BUCKETS).ok_or(LedgerError::NoBucket(number))
}
