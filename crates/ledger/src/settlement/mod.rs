//! Settlement as a decision: what a commit has to do for a user, given what it has read of it.
//!
//! Locks, snapshots and scans are the server's part (`src/engine/settlement`). What follows from the rows that they return is
//! computed here, without side effects. `models/settlement.pml` uses the same names, and `models/levels.pml` those of thresholds:
//!
//! | here | in the model |
//! |---|---|
//! | [`assess`], under the shared stripe | `assess`, after `scan_dirty` |
//! | [`Assessment::Doubt`] | `straddles` |
//! | [`Assessment::Agrees::headroom`] | `publish` |
//! | [`Assessment::Agrees::lags`] | `counted`: the delta has become long |
//! | [`decide`], under the exclusive stripe | `decide`, after `sum_snapshot` |
//! | [`Decision::Write`] | `write_row`: its arguments `extend`, `state` and `announces` |

mod assessment;
mod decision;
#[cfg(test)]
mod tests;

pub use self::assessment::{Assessment, Found, FoundRows, Own, assess};
pub use self::decision::{Change, Decision, Terms, decide};
use crate::crossing::Announced;
use crate::fold::{DeltaPass, Fold};
use crate::overdraft::Overdraft;

/// A user's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The rows folded so far.
    pub fold: Fold,
    /// The level announced last, with the user's thresholds.
    pub announced: Announced,
    /// How far the user may be overdrawn.
    pub overdraft: Overdraft,
}

/// What a transaction asks its commit to do for a user. Where it asks twice, the request that comes last in this order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// Announce crossings; refresh the checkpoint if it lags by a whole interval.
    Settle,
    /// Announce crossings; refresh the checkpoint if it lags at all, unless another transaction is refreshing it.
    RefreshIfFree,
    /// Announce crossings; refresh the checkpoint if it lags at all, after waiting for the stripe. Read the user's boundaries again.
    Refresh,
    /// All of that: the transaction has changed the user's boundaries.
    Rebound,
}

impl Request {
    /// Whether the commit waits for the stripe first, and decides.
    #[must_use]
    pub fn is_forced(self) -> bool {
        self >= Self::Refresh
    }
}

/// Whether a checkpoint is to be refreshed. Where that is requested, one row that it could cover and does not is enough,
/// and so is a straggler that has ended: each reader probes the index for it.
fn lags(stored: &Fold, pass: &DeltaPass, request: Request, interval: i64) -> bool {
    let rows_behind = rows_behind(stored, pass);
    match request {
        Request::Settle => rows_behind >= interval,
        Request::RefreshIfFree | Request::Refresh | Request::Rebound => {
            rows_behind > 0 || pass.advanced().coverage.stragglers() != stored.coverage.stragglers()
        }
    }
}

/// How many rows a refresh would fold.
const fn rows_behind(stored: &Fold, pass: &DeltaPass) -> i64 {
    pass.advanced().transaction_count - stored.transaction_count
}
