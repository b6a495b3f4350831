//! What a reader sees of the batches that its user's delta touches, under the reader's own snapshot.

use ledger::id::UserId;
use std::rc::Rc;

use super::checkpoint::{BatchRuns, BatchTotals, CheckpointScan};
use super::delta::DeltaScan;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::privilege;
use crate::pg::snapshot::{Sight, Snapshot};

/// The whole totals of the batches that have rows in the user's delta; what is folded of all others is true as it is. `None`
/// if the caller may not be told what is folded, or nothing is: a user without a checkpoint has no folded batches.
pub fn touched(user: &UserId) -> Result<Option<BatchTotals>, LedgerError> {
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    if !privilege::may_see_folded(&relations) {
        return Ok(None);
    }
    let snapshot = Rc::new(Snapshot::active());
    // Locked in this order.
    let mut delta = DeltaScan::open(&relations, Sight::AsOf(Rc::clone(&snapshot)));
    let Some((_, checkpoint)) = CheckpointScan::open(&relations).find(user, &snapshot)? else {
        return Ok(None);
    };
    let mut batches = BatchRuns::default();
    delta.batched(user, &checkpoint.fold.coverage, |row| batches.add(row))?;
    let mut totals = batches.totals()?;
    totals.add_folded(&relations, user, &snapshot)?;
    Ok(Some(totals))
}
