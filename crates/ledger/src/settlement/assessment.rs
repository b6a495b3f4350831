//! What a commit does for a user while it shares the stripe.

use super::{Checkpoint, Request, lags, rows_behind};
use crate::caps::{self, CapSpend, Left};
use crate::credits::SumOutOfRange;
use crate::crossing::Outlook;
use crate::fold::DeltaPass;
use crate::segment::headroom::{Counted, Cover, Headroom, Written};

/// What a commit has found of a user under the shared stripe.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Of its rows.
    pub rows: FoundRows<'a>,
    /// Of what must be covered, if anything must.
    pub cover: Option<&'a Cover>,
    /// What was spent of its spend caps, rows in flight included.
    pub caps: &'a [CapSpend],
}

/// What a commit has found of a user's rows under the shared stripe.
#[derive(Clone, Copy, Debug)]
pub enum FoundRows<'a> {
    /// The checkpoint, and a pass over its delta that has met the rows in flight.
    Checkpoint(&'a Checkpoint, &'a DeltaPass),
    /// No checkpoint, so nothing has been announced yet.
    NoCheckpoint {
        /// Whether the user has any row, committed, in flight or the transaction's own.
        has_rows: bool,
    },
}

/// What the committing transaction itself has done to a user.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// What it asks for.
    pub request: Request,
    /// What it has written.
    pub written: Written,
    /// What had been counted of the user, this included, before anything was read.
    pub counted: Counted,
}

/// What a commit does for a user while it shares the stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assessment {
    /// The user has no row: a savepoint that was rolled back inserted one, or a function was called for the user.
    Nothing,
    /// Whatever commits or rolls back, the balance stays on the announced level, and a user that must be covered is.
    Agrees {
        /// What may be charged and granted before a settlement has to look again, to be published; `None` if that is nothing.
        headroom: Option<Headroom>,
        /// Whether the checkpoint is to be refreshed.
        lags: bool,
    },
    /// The balance may come to lie on another level, nothing has been announced, or the user may not be covered: the commit needs the
    /// stripe exclusively to [`decide`](super::decide).
    Doubt,
}

/// Says what a commit does for a user under the shared stripe. A checkpoint may lag behind by less than `interval` rows.
///
/// # Errors
/// [`SumOutOfRange`] if the lowest or the highest possible balance, or what may have been spent, is out of range.
pub fn assess(found: &Found<'_>, own: &Own, interval: i64) -> Result<Assessment, SumOutOfRange> {
    let (checkpoint, pass) = match found.rows {
        FoundRows::Checkpoint(checkpoint, pass) => (checkpoint, pass),
        FoundRows::NoCheckpoint { has_rows } if has_rows || found.cover.is_some() => {
            return Ok(Assessment::Doubt);
        }
        FoundRows::NoCheckpoint { .. } => return Ok(Assessment::Nothing),
    };
    let (outlook, announced) = (pass.outlook(), &checkpoint.announced);
    if !outlook.agrees_with(announced)? {
        return Ok(Assessment::Doubt);
    }
    let lags = lags(&checkpoint.fold, pass, own.request, interval);
    // A checkpoint that lags is refreshed now, by this transaction or by the one that has the right to.
    let rows_behind = if lags { 0 } else { rows_behind(&checkpoint.fold, pass).unsigned_abs() };
    let Some(left) = caps::left_of(found.caps, &announced.caps)? else { return Ok(Assessment::Doubt) };
    let mut headroom = Headroom::left_by(outlook, announced, &own.written, &own.counted, rows_behind)?
        .capped(left, &own.counted);
    if let Some(cover) = found.cover {
        let Some(left) = left_to_charge(checkpoint, outlook, cover, found.caps)? else {
            return Ok(Assessment::Doubt);
        };
        headroom = headroom.covering(left, &own.written, &own.counted, cover);
    }
    Ok(Assessment::Agrees { headroom: headroom.says_something().then_some(headroom), lags })
}

/// How much more may be charged to a user that must be covered before its limit or an enforced spend cap stops that. `None` if the
/// user may not be covered already.
fn left_to_charge(
    checkpoint: &Checkpoint,
    outlook: &Outlook,
    cover: &Cover,
    caps: &[CapSpend],
) -> Result<Option<Left>, SumOutOfRange> {
    let above_limit = match checkpoint.overdraft.lowest_available() {
        None => Left::Everything,
        Some(limit) => match cover.left(outlook.lowest()?, limit)? {
            None => return Ok(None),
            Some(left) => Left::UpTo(left),
        },
    };
    let of_caps = caps::covered(caps, |left| cover.allows(left))?;
    Ok(of_caps.map(|of_caps| of_caps.or_less(above_limit)))
}
