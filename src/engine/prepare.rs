//! What happens to the users that a transaction has noted when it is prepared: they are counted, and not settled.
//!
//! A settlement takes locks, writes checkpoints and queues notifications. Locks and writes would stay until the prepared
//! transaction ends, and Postgres refuses to prepare one that has queued a notification. So its rows are in flight for all other
//! transactions, and a crossing that `COMMIT PREPARED` makes is announced by the user's next settlement.

use ledger::settlement::Request;

use super::published::Published;
use super::{cover, noted, redaction, reversals};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::{buckets, transfer};

/// Counts what the transaction has written, so that no settlement takes headroom for larger than it is (`count_charges` of a
/// transaction that goes to `prepared`, in `models/settlement.pml`). Raises 0A000 for a transaction that cannot be prepared:
///
/// - one that has redacted, or transferred a bucket, holds stripes
/// - one that has deleted checkpoints keeps what they announced in this session's memory
/// - one with reversals would commit without the check that its settlement makes
/// - one that has changed boundaries would leave them out of the checkpoints
pub fn count_noted() -> Result<(), LedgerError> {
    redaction::refuse_to_prepare()?;
    transfer::refuse_to_prepare()?;
    cover::refuse_to_prepare()?;
    reversals::refuse_to_prepare()?;
    let users = noted::take();
    if users.is_empty() {
        return Ok(());
    }
    // Gone if the transaction dropped the extension, or if another one did and this one has no rows.
    let Some(relations) = Relations::locked_at_commit() else { return Ok(()) };
    buckets::require_to_prepare(&relations, users.keys())?;
    let published = Published::open(&relations);
    for (user, noted) in &users {
        if noted.deleted.is_some() {
            return Err(LedgerError::PreparedDeletion);
        }
        if noted.request == Request::Rebound {
            return Err(LedgerError::PreparedLimits);
        }
        published.count(user, &noted.written);
    }
    Ok(())
}
