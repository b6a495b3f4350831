//! What a commit does for a user while it has the stripe exclusively.

use super::{Checkpoint, Request, lags};
use crate::boundaries::Boundaries;
use crate::caps::{self, CapChange, CapRefusal, CapSpend};
use crate::credits::{Credits, SumOutOfRange};
use crate::crossing::{Announced, Crossing};
use crate::fold::DeltaPass;
use crate::overdraft::Overdraft;

/// What a decision about a user goes by besides its rows.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// What the transaction asks for.
    pub request: Request,
    /// What the checkpoint said that the transaction has deleted.
    pub deleted: Option<&'a Announced>,
    /// The user's boundaries, where they were read again: without a checkpoint they always are.
    pub boundaries: Option<&'a Boundaries>,
    /// What is held of the balance, for a user that must be covered: open holds, committed and the transaction's own.
    pub held: Option<Credits>,
    /// What was spent of the user's spend caps, committed and by the transaction itself; for a user that must be covered with what is held and
    /// what the transaction asks for.
    pub caps: &'a [CapSpend],
}

/// What a commit does for a user while it has the stripe exclusively.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: the checkpoint is right as it is, or there is nothing that it would have to say.
    Nothing,
    /// Roll back: the user must be covered, and is not.
    Refuse {
        /// What would be available, the transaction's own rows included.
        available: Credits,
        /// The least that may be.
        limit: Credits,
    },
    /// Roll back: it would exceed an enforced spend cap.
    Exceed(CapRefusal),
    /// Write the checkpoint.
    Write(Change),
}

/// What a decision changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whether the checkpoint gets a new fold; otherwise it keeps the stored one.
    pub refreshes: bool,
    /// Whether its boundaries are others than before, or may be: headroom that was published is not true of them.
    pub rebounds: bool,
    /// The announced level that the checkpoint gets.
    pub announced: Announced,
    /// How far the user may be overdrawn from now on.
    pub overdraft: Overdraft,
    /// The crossings to notify of, in order.
    pub crossings: Vec<Crossing>,
    /// What caps became, to notify of.
    pub cap_changes: Vec<CapChange>,
}

/// Decides under the exclusive stripe. `stored` is the user's checkpoint, `pass` one over the delta of it, or over all
/// the user's rows if there is none, on one snapshot: committed rows and the transaction's own. A checkpoint may lag behind by less than
/// `interval` rows; `now` is the time in microseconds.
///
/// # Errors
/// [`SumOutOfRange`] if the balance without the transaction's own rows, or what is available, is out of range.
pub fn decide(
    stored: Option<&Checkpoint>,
    pass: &DeltaPass,
    terms: &Terms<'_>,
    interval: i64,
    now: i64,
) -> Result<Decision, SumOutOfRange> {
    let before = stored.map_or(Overdraft::default(), |checkpoint| checkpoint.overdraft);
    let overdraft = terms.boundaries.map_or(before, |boundaries| boundaries.overdraft);
    if let (Some(held), Some(limit)) = (terms.held, overdraft.lowest_available()) {
        let available = pass.balance().checked_sub(held)?;
        if available < limit {
            return Ok(Decision::Refuse { available, limit });
        }
    }
    for spend in terms.caps {
        if let Some(refusal) = spend.refusal()? {
            return Ok(Decision::Exceed(refusal));
        }
    }
    let (refreshes, rebounds) = match stored {
        Some(Checkpoint { fold, announced: before, overdraft: overdraft_before }) => (
            lags(fold, pass, terms.request, interval),
            overdraft != *overdraft_before
                || terms.boundaries.is_some_and(|boundaries| !before.has_thresholds_of(boundaries)),
        ),
        // A checkpoint is made of a user that has rows or boundaries.
        None if pass.transaction_count() > 0
            || !terms.caps.is_empty()
            || terms.boundaries.is_some_and(|new| !new.are_default()) =>
        {
            (true, true)
        }
        None => return Ok(Decision::Nothing),
    };
    let announced = announced_before(stored, pass, terms)?;
    let crossings = announced.crossings_to(pass.balance());
    let (caps, cap_changes) = caps::announce(terms.caps, &announced.caps, now);
    if !refreshes && !rebounds && crossings.is_empty() && caps == announced.caps {
        return Ok(Decision::Nothing);
    }
    let announced = Announced { caps, ..announced.moved_to(pass.balance(), now) };
    Ok(Decision::Write(Change { refreshes, rebounds, announced, overdraft, crossings, cap_changes }))
}

/// What counts as announced before a decision, of each boundary that the user has now.
fn announced_before(
    stored: Option<&Checkpoint>,
    pass: &DeltaPass,
    terms: &Terms<'_>,
) -> Result<Announced, SumOutOfRange> {
    let balance = pass.balance();
    let known = stored.map(|checkpoint| &checkpoint.announced).or(terms.deleted);
    let (announced, is_silent) = match known {
        Some(known) => (known.clone(), true),
        None => {
            let is_positive = unannounced_side(Credits::ZERO, balance, pass.balance_before()?);
            (Announced { is_positive, ..Announced::default() }, terms.request == Request::Rebound)
        }
    };
    let Some(boundaries) = terms.boundaries else { return Ok(announced) };
    // A threshold that was set now is announced from the next crossing on.
    let balance_before = pass.balance_before()?;
    Ok(announced.with_thresholds_of(boundaries, |threshold| {
        if is_silent { balance > threshold } else { unannounced_side(threshold, balance, balance_before) }
    }))
}

/// The side of a boundary that counts as announced where nothing has been. If there are rows, they came by `COMMIT PREPARED`, say,
/// which settles nothing, or the checkpoint is lost. So a balance on the other side than that of an account without rows is
/// announced, and so is one that has just come back from there: it may be announced a second time where a checkpoint is lost, and
/// is never missed.
fn unannounced_side(boundary: Credits, balance: Credits, balance_before: Credits) -> bool {
    let at_first = Credits::ZERO > boundary;
    if (balance > boundary) == at_first { balance_before > boundary } else { at_first }
}
