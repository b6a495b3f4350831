//! Settlement as a decision: what a commit has to do for a user, given what it has read of it.
//!
//! Locks, snapshots and scans are the server's part (`src/engine/settlement.rs`). What follows from the rows that they return is
//! computed here, without side effects. `models/settlement.pml` uses the same names:
//!
//! | here | in the model |
//! |---|---|
//! | [`assess`], under the shared stripe | `assess`, after `scan_dirty` |
//! | [`Assessment::Doubt`] | `straddles` |
//! | [`Assessment::Agrees::headroom`] | `publish` |
//! | [`Assessment::Agrees::lags`] | `counted`: the delta has become long |
//! | [`decide`], under the exclusive stripe | `decide`, after `sum_snapshot` |
//! | [`Decision::Write`] | `write_row`: its arguments `extend`, `state` and `announces` |

use crate::credits::SumOutOfRange;
use crate::crossing::Direction;
use crate::fold::{DeltaPass, Fold};
use crate::segment::headroom::{Counted, Headroom, Written};

/// What the last notification about a user said. The user's rows do not tell; only its checkpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Whether the balance was above zero.
    pub is_positive: bool,
    /// When that last changed, in microseconds since 2000-01-01 UTC; `None` if it never has.
    pub crossed_at: Option<i64>,
}

/// A user's checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The rows folded so far.
    pub fold: Fold,
    /// The side of zero announced last.
    pub announced: Announced,
}

/// What a transaction asks its commit to do for a user. Where it asks twice, the request that comes last in this order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Request {
    /// Announce a crossing; refresh the checkpoint if it lags by a whole interval.
    Settle,
    /// Announce a crossing; refresh the checkpoint if it lags at all, unless another transaction is refreshing it.
    RefreshIfFree,
    /// Announce a crossing; refresh the checkpoint if it lags at all, after waiting for the stripe.
    Refresh,
}

/// What a commit has read of a user under the shared stripe.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// The checkpoint, and a pass over its delta that has met the rows in flight.
    Checkpoint(&'a Checkpoint, &'a DeltaPass),
    /// No checkpoint, so no side has been announced yet.
    NoCheckpoint {
        /// Whether the user has any row, committed, in flight or the transaction's own.
        has_rows: bool,
    },
}

/// What a commit does for a user while it shares the stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assessment {
    /// The user has no row: a savepoint that was rolled back inserted one, or a function was called for the user.
    Nothing,
    /// Whatever commits or rolls back, the balance stays on the announced side of zero.
    Agrees {
        /// What may be charged before a settlement has to look again, to be published; `None` if that is nothing.
        headroom: Option<Headroom>,
        /// Whether the checkpoint is to be refreshed.
        lags: bool,
    },
    /// The balance may come to lie on the other side, or no side has been announced: the commit needs the stripe
    /// exclusively to [`decide`].
    Doubt,
}

/// Says what a commit does for a user under the shared stripe, given what it `found`. `written` is what the transaction has
/// inserted, `counted` what had been counted of the user before the pass began, `interval` how many rows a checkpoint may lag
/// behind.
///
/// # Errors
/// [`SumOutOfRange`] if the lowest or the highest possible balance is out of range.
pub fn assess(
    found: Found<'_>,
    request: Request,
    written: &Written,
    counted: &Counted,
    interval: i64,
) -> Result<Assessment, SumOutOfRange> {
    let (checkpoint, pass) = match found {
        Found::Checkpoint(checkpoint, pass) => (checkpoint, pass),
        Found::NoCheckpoint { has_rows: true } => return Ok(Assessment::Doubt),
        Found::NoCheckpoint { has_rows: false } => return Ok(Assessment::Nothing),
    };
    if !pass.outlook().agrees_with(checkpoint.announced.is_positive)? {
        return Ok(Assessment::Doubt);
    }
    let lags = lags(&checkpoint.fold, pass, request, interval);
    // A checkpoint that lags is refreshed now, by this transaction or by the one that has the right to.
    let rows_behind = if lags { 0 } else { rows_behind(&checkpoint.fold, pass).unsigned_abs() };
    // Of a balance that is announced to be at zero or below, the lowest outcome leaves nothing.
    let headroom = Headroom::left_by(pass.outlook(), written, counted, rows_behind);
    Ok(Assessment::Agrees { headroom, lags })
}

/// What a commit does for a user while it has the stripe exclusively.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: the checkpoint is right as it is, or the user has no row.
    Nothing,
    /// Write the checkpoint.
    Write {
        /// Whether the checkpoint gets a new fold; otherwise it keeps the stored one.
        refreshes: bool,
        /// The announced side that the checkpoint gets.
        announced: Announced,
        /// The crossing to notify of.
        crossing: Option<Direction>,
    },
}

/// Decides under the exclusive stripe. `stored` is the user's checkpoint, `pass` one over the delta of it, or over all
/// the user's rows if there is none, on one snapshot: committed rows and the transaction's own. `deleted` is what the
/// checkpoint said that the transaction has deleted; `now` is the time in microseconds.
///
/// # Errors
/// [`SumOutOfRange`] if the balance without the transaction's own rows is out of range.
pub fn decide(
    stored: Option<&Checkpoint>,
    pass: &DeltaPass,
    request: Request,
    deleted: Option<Announced>,
    interval: i64,
    now: i64,
) -> Result<Decision, SumOutOfRange> {
    let (before, refreshes) = match (stored, deleted) {
        (Some(checkpoint), _) => (checkpoint.announced, lags(&checkpoint.fold, pass, request, interval)),
        (None, _) if pass.transaction_count() == 0 => return Ok(Decision::Nothing),
        (None, Some(deleted)) => (deleted, true),
        // No side has been announced. If there are rows, they came by `COMMIT PREPARED`, say, which settles nothing, or the
        // checkpoint is lost. So a balance above zero is announced, and so is one that has just come down from there: it may be
        // announced a second time where a checkpoint is lost, and is never missed.
        (None, None) => {
            let is_positive = !pass.balance().is_positive() && pass.balance_before()?.is_positive();
            (Announced { is_positive, crossed_at: None }, true)
        }
    };
    let crossing = Direction::between(before.is_positive, pass.balance());
    if !refreshes && crossing.is_none() {
        return Ok(Decision::Nothing);
    }
    let announced = match crossing {
        Some(direction) => Announced { is_positive: direction == Direction::Up, crossed_at: Some(now) },
        None => before,
    };
    Ok(Decision::Write { refreshes, announced, crossing })
}

/// Whether a checkpoint is to be refreshed. Where that is requested, one row that it could cover and does not is enough,
/// and so is a straggler that has ended: each reader probes the index for it.
fn lags(stored: &Fold, pass: &DeltaPass, request: Request, interval: i64) -> bool {
    let rows_behind = rows_behind(stored, pass);
    match request {
        Request::Settle => rows_behind >= interval,
        Request::RefreshIfFree | Request::Refresh => {
            rows_behind > 0 || pass.advanced().coverage.stragglers() != stored.coverage.stragglers()
        }
    }
}

/// How many rows a refresh would fold.
const fn rows_behind(stored: &Fold, pass: &DeltaPass) -> i64 {
    pass.advanced().transaction_count - stored.transaction_count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coverage::Coverage;
    use crate::credits::Credits;
    use crate::fold::DeltaRow;

    const INTERVAL: i64 = 3;
    const NOW: i64 = 1_000;
    const OWN: u64 = 50;

    fn coverage(watermark: u64, stragglers: &[u64]) -> Coverage {
        Coverage::from_parts(watermark, stragglers.iter().copied()).unwrap()
    }

    /// 100 rows that sum up to `units`.
    fn checkpoint(units: i128, is_positive: bool) -> Checkpoint {
        let fold = Fold {
            coverage: coverage(10, &[5]),
            balance: Credits::from_units(units),
            transaction_count: 100,
            latest_seq: 100,
            unbatched_since: 100,
        };
        Checkpoint { fold, announced: Announced { is_positive, crossed_at: Some(7) } }
    }

    /// Rows of these transactions on top of the fold; a refresh may cover transactions 10 to 19.
    fn pass(base: &Fold, rows: &[(u64, i128)], in_flight: &[i128]) -> DeltaPass {
        let mut pass = DeltaPass::new(base.clone(), coverage(20, &[5]), Some(OWN));
        for (seq, &(transaction, units)) in (101..).zip(rows) {
            let amount = Credits::from_units(units);
            pass.add(&DeltaRow { transaction, amount, seq, is_batched: false }).unwrap();
        }
        for &units in in_flight {
            pass.add_in_flight(Credits::from_units(units)).unwrap();
        }
        pass
    }

    fn assess_with(stored: &Checkpoint, pass: &DeltaPass, request: Request) -> Assessment {
        let (written, counted) = (Written::default(), Counted::default());
        assess(Found::Checkpoint(stored, pass), request, &written, &counted, INTERVAL).unwrap()
    }

    fn decide_with(stored: Option<&Checkpoint>, pass: &DeltaPass, deleted: Option<Announced>) -> Decision {
        decide(stored, pass, Request::Settle, deleted, INTERVAL, NOW).unwrap()
    }

    #[test]
    fn a_user_without_rows_has_nothing_to_decide() {
        let found = |has_rows| Found::NoCheckpoint { has_rows };
        for request in [Request::Settle, Request::RefreshIfFree, Request::Refresh] {
            let of = |found| assess(found, request, &Written::default(), &Counted::default(), INTERVAL);
            assert_eq!(of(found(false)), Ok(Assessment::Nothing));
            assert_eq!(of(found(true)), Ok(Assessment::Doubt));
        }
        let nobody = pass(&Fold::default(), &[], &[]);
        let deleted = Announced { is_positive: true, crossed_at: None };
        assert_eq!(decide_with(None, &nobody, None), Decision::Nothing);
        assert_eq!(decide_with(None, &nobody, Some(deleted)), Decision::Nothing);
    }

    #[test]
    fn any_outcome_on_the_other_side_is_doubt() {
        let stored = checkpoint(100, true);
        for (rows, in_flight) in [(&[][..], &[-100][..]), (&[(OWN, -60)], &[-40, 90]), (&[(12, -100)], &[])] {
            assert_eq!(
                assess_with(&stored, &pass(&stored.fold, rows, in_flight), Request::Settle),
                Assessment::Doubt
            );
        }
        let below = checkpoint(-5, false);
        assert_eq!(assess_with(&below, &pass(&below.fold, &[], &[6]), Request::Settle), Assessment::Doubt);
        let agrees = assess_with(&below, &pass(&below.fold, &[], &[5]), Request::Settle);
        assert_eq!(agrees, Assessment::Agrees { headroom: None, lags: false });
    }

    #[test]
    fn headroom_knows_how_far_the_checkpoint_is_behind() {
        let stored = checkpoint(i128::from(u32::MAX) << 64, true);
        let two = pass(&stored.fold, &[(11, -1), (12, -1), (30, -1)], &[-1]);
        let counted = Counted::new(500, 40);
        let assess_counted = |pass, request| {
            assess(Found::Checkpoint(&stored, pass), request, &Written::default(), &counted, INTERVAL)
                .unwrap()
        };
        let suffices = |assessment, rows| {
            let Assessment::Agrees { headroom: Some(headroom), .. } = assessment else { return false };
            headroom.suffices(&Counted::new(500, rows), 10)
        };
        let behind = assess_counted(&two, Request::Settle);
        assert!(matches!(behind, Assessment::Agrees { lags: false, .. }), "{behind:?}");
        assert!(suffices(behind, 47) && !suffices(behind, 48));
        let three = pass(&stored.fold, &[(11, -1), (12, -1), (13, -1)], &[-1]);
        for lagging in [assess_counted(&three, Request::Settle), assess_counted(&two, Request::RefreshIfFree)]
        {
            assert!(matches!(lagging, Assessment::Agrees { lags: true, .. }), "{lagging:?}");
            assert!(suffices(lagging, 49) && !suffices(lagging, 50));
        }
    }

    #[test]
    fn a_crossing_is_announced_with_its_time() {
        let stored = checkpoint(3, true);
        let crossing = pass(&stored.fold, &[(12, -2), (OWN, -1)], &[]);
        assert_eq!(
            decide_with(Some(&stored), &crossing, None),
            Decision::Write {
                refreshes: false,
                announced: Announced { is_positive: false, crossed_at: Some(NOW) },
                crossing: Some(Direction::Down),
            }
        );
        let near = pass(&stored.fold, &[(12, -2)], &[]);
        assert_eq!(decide_with(Some(&stored), &near, None), Decision::Nothing);
    }

    #[test]
    fn a_refresh_without_a_crossing_keeps_what_was_announced() {
        let stored = checkpoint(100, true);
        let three = pass(&stored.fold, &[(11, -1), (12, -1), (13, -1)], &[]);
        let refresh = Decision::Write { refreshes: true, announced: stored.announced, crossing: None };
        assert_eq!(decide_with(Some(&stored), &three, None), refresh);
        let one = pass(&stored.fold, &[(11, -1)], &[]);
        assert_eq!(decide_with(Some(&stored), &one, None), Decision::Nothing);
        let forced =
            |pass: &DeltaPass| decide(Some(&stored), pass, Request::Refresh, None, INTERVAL, NOW).unwrap();
        assert_eq!(forced(&one), refresh);
        assert_eq!(forced(&pass(&stored.fold, &[(OWN, -1)], &[])), Decision::Nothing);
        // The straggler has ended, and had no row.
        let ended = DeltaPass::new(stored.fold.clone(), coverage(20, &[]), None);
        assert_eq!(forced(&ended), refresh);
        assert_eq!(decide_with(Some(&stored), &ended, None), Decision::Nothing);
    }

    #[test]
    fn of_a_user_without_a_checkpoint_no_crossing_is_missed() {
        let made = |rows: &[(u64, i128)], deleted| {
            let Decision::Write { refreshes: true, announced, crossing } =
                decide_with(None, &pass(&Fold::default(), rows, &[]), deleted)
            else {
                panic!("a checkpoint is made")
            };
            (announced.is_positive, announced.crossed_at, crossing)
        };
        assert_eq!(made(&[(OWN, 5)], None), (true, Some(NOW), Some(Direction::Up)));
        assert_eq!(made(&[(OWN, -5)], None), (false, None, None));
        assert_eq!(made(&[(12, -5)], None), (false, None, None));
        // Committed rows that no settlement has announced anything of.
        assert_eq!(made(&[(12, 5)], None), (true, Some(NOW), Some(Direction::Up)));
        assert_eq!(made(&[(12, 5), (OWN, -1)], None), (true, Some(NOW), Some(Direction::Up)));
        assert_eq!(made(&[(12, -5), (OWN, 6)], None), (true, Some(NOW), Some(Direction::Up)));
        assert_eq!(made(&[(12, 5), (OWN, -5)], None), (false, Some(NOW), Some(Direction::Down)));
        // One whose checkpoint was deleted is no new one.
        let deleted = |is_positive| Some(Announced { is_positive, crossed_at: Some(7) });
        assert_eq!(made(&[(12, 5)], deleted(true)), (true, Some(7), None));
        assert_eq!(made(&[(12, 5)], deleted(false)), (true, Some(NOW), Some(Direction::Up)));
    }
}
