//! Adding up the days of accounts whose checkpoints were made before there were daily totals.
//!
//! Until that is done, a refresh of such a checkpoint writes no days. Its rows are many, and commits of the account must not wait for
//! them to be read. So they are read without a lock, by the checkpoint that one snapshot sees:
//!
//! 1. What that checkpoint covers never changes. It is added up in memory.
//! 2. The totals are inserted. Nobody else writes days of the account, since its checkpoint has none, and nobody sees these. What
//!    others have left there stays until step 3.
//! 3. The stripe is shared and the lock for its refreshes taken: nobody writes checkpoints of the stripe until this transaction has
//!    ended. What the checkpoint has come to cover since is added, and it is marked as one that has days.
//!
//! In between somebody may have deleted the checkpoint by hand, and a commit made it anew, with days, or another fill may have added them: they
//! give way. If the checkpoint is gone, or was set back by hand, those of step 2 are deleted.

use std::rc::Rc;

use ledger::coverage::Coverage;
use ledger::daily::{DailyRuns, DailyTotals};
use ledger::id::UserId;
use ledger::stripe;

use super::checkpoint::{self, CheckpointScan, Stored, StoredRow};
use super::days;
use super::delta::{self, DeltaScan};
use super::lock_order::{self, Writers};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::transactions;
use crate::pg::{lock, xact};

/// A user, and what its checkpoint covered when that was added up.
struct AddedUp {
    user: UserId,
    coverage: Coverage,
}

/// Adds up the days of these users as far as their checkpoints have none; returns of how many. The transaction keeps stripes, shared, to
/// its end, so it may have no other work.
pub fn fill(users: &[UserId]) -> Result<i64, LedgerError> {
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    let totals = add_up(&relations, users)?;
    lock_order::wait_for_relations(&relations);
    let writers = Writers::open(&relations)?;
    writers.require_plain_indexes();
    let mut added_up = Vec::with_capacity(totals.len());
    for (user, totals) in totals {
        xact::check_for_interrupts();
        // Not added to what is there: this transaction must not change rows that a commit may want to delete.
        days::insert(&writers.days, &user.user, &totals);
        added_up.push(user);
    }
    stripe::sort_for_settlement(&mut added_up, |added_up| added_up.user);
    let mut filled = 0;
    for users in added_up.chunk_by(|a, b| stripe::of_user(&a.user) == stripe::of_user(&b.user)) {
        filled += complete(&relations, &writers, users)?;
    }
    Ok(filled)
}

/// The totals of what the checkpoints of these users cover, of those that have no days.
fn add_up(relations: &Relations, users: &[UserId]) -> Result<Vec<(AddedUp, DailyTotals)>, LedgerError> {
    let snapshot = Rc::new(Snapshot::latest());
    // Opened in the order of locks.
    let mut rows = DeltaScan::open(relations, Sight::without_siread(&snapshot));
    let mut checkpoints = CheckpointScan::open(relations);
    let mut totals = Vec::new();
    for user in users {
        let Some(stored) = checkpoints.find(user, &snapshot)?.filter(|stored| !stored.row.has_days) else {
            continue;
        };
        let coverage = stored.checkpoint.fold.coverage;
        let covered = add_up_covered(&mut rows, user, &Coverage::default(), &coverage)?;
        totals.push((AddedUp { user: *user, coverage }, covered));
    }
    Ok(totals)
}

/// The totals of the user's rows that `upto` covers and `from` does not.
fn add_up_covered(
    rows: &mut DeltaScan,
    user: &UserId,
    from: &Coverage,
    upto: &Coverage,
) -> Result<DailyTotals, LedgerError> {
    let (mut days, category) = (DailyRuns::default(), rows.category());
    rows.each(user, from, |row| {
        xact::check_for_interrupts();
        if upto.covers(row.get(transactions::XACT_ID)) {
            days.add(delta::dated_row(row, category))?;
        }
        Ok(())
    })?;
    Ok(days.totals()?)
}

/// Completes the days of users of one stripe, and says in their checkpoints that they have them. Returns of how many users.
fn complete(relations: &Relations, writers: &Writers, users: &[AddedUp]) -> Result<i64, LedgerError> {
    let stripe = stripe::of_user(&users[0].user);
    lock::share_stripe(stripe);
    lock::lock_refresh(stripe);
    // What was inserted is found from here on.
    xact::see_own_changes();
    let snapshot = Rc::new(Snapshot::latest());
    let mut rows = DeltaScan::open(relations, Sight::without_siread(&snapshot));
    let mut checkpoints = CheckpointScan::open(relations);
    let mut filled = 0;
    for AddedUp { user, coverage } in users {
        xact::check_for_interrupts();
        let stored = checkpoints
            .find(user, &snapshot)?
            .filter(|stored| stored.checkpoint.fold.coverage.contains(coverage));
        let Some(Stored { row, checkpoint }) = stored else {
            days::discard_if(relations, &writers.days, user, |row| xact::is_own(row.stored_by()));
            continue;
        };
        // Whatever somebody else has written there.
        days::discard_if(relations, &writers.days, user, |row| !xact::is_own(row.stored_by()));
        xact::see_own_changes();
        let since = add_up_covered(&mut rows, user, coverage, &checkpoint.fold.coverage)?;
        days::write(relations, &writers.days, user, &since)?;
        checkpoint::write(writers, user, Some(StoredRow { has_days: true, ..row }), &checkpoint)?;
        filled += 1;
    }
    Ok(filled)
}
