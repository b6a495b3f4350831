//! How much a user can be charged and granted before a settlement needs to look at its balance.
//!
//! Most settlements find a balance far from every boundary, and publish how far, as a ceiling for each of two counts. From then on
//! settlements count what they charge and what they grant. While both counts stay below their ceilings, the balance stays on its
//! level, whatever commits and whatever rolls back: a settlement needs to read nothing. One whose counts reach a ceiling looks again.
//! This is the escrow method (O'Neil, "The Escrow Transactional Method", ACM TODS 11, 1986). It does not decide who may spend; it
//! says that there is nothing to decide.
//!
//! A transaction counts after it has inserted its rows, while it shares the stripe, and before it looks at anything. A pass over the
//! delta that begins after that meets the rows. So a charge that a pass does not meet is counted after the count that the pass has
//! begun with, and so is a grant. At worst all charges that the pass has met in flight commit, and no grant does: what is then left
//! above the boundary below is for charges that the pass has not met. What is left under the boundary above, if all grants in flight
//! commit and no charge does, is for grants that it has not met. The settlement's own rows are not in flight, and may roll back as
//! well: its grants are taken out of the one, its charges out of the other. Counts only grow, and what is rolled back stays counted,
//! so a ceiling is true for good on its level.
//!
//! Everyone compares both counts, whichever side it wrote: a crossing takes one of them to its ceiling, and then neither ceiling is
//! true any more. So a crossing ends both, and nobody has to void them. For the same reason the two are replaced together and never
//! merged: a ceiling of grants that was published on one level is not true of the next one.
//!
//! A third ceiling is for users that must be covered: until the count of charges reaches it, what is available cannot fall below the limit. A
//! crossing changes nothing about it, and so it stays while the other two are replaced. It is the highest that was published.
//!
//! `models/levels.pml` explores the first two, `models/holds.pml` the third, `models/caps.pml` what spend caps leave of each.

use crate::caps::Left;
use crate::credits::{Credits, SumOutOfRange, UNITS_PER_CREDIT};
use crate::crossing::{Announced, Outlook};

/// Amounts are counted in steps of a millionth of a credit.
const UNITS_PER_STEP: i128 = UNITS_PER_CREDIT / 1_000_000;

/// What a transaction has written of a user. Rows of savepoints that were rolled back are in it, so it may be more than there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub(super) rows: u64,
    /// The charges in steps, each rounded up.
    pub(super) charged: u64,
    /// The grants in steps, each rounded up.
    pub(super) granted: u64,
}

impl Written {
    /// Whether there is nothing to count.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows == 0 && self.charged == 0
    }

    /// Adds a row with this signed amount.
    pub fn add(&mut self, amount: Credits) {
        self.rows += 1;
        let side = if amount < Credits::ZERO { &mut self.charged } else { &mut self.granted };
        *side = side.saturating_add(steps(amount));
    }

    /// The charges in steps, those that are held included.
    #[must_use]
    pub const fn charged(&self) -> u64 {
        self.charged
    }

    /// Adds a hold of this amount, which is positive. It is charged for as long as it is held, and is no row of the ledger.
    pub fn hold(&mut self, amount: Credits) {
        self.charged = self.charged.saturating_add(steps(amount));
    }
}

/// An amount in steps, rounded up. One that a count has no room for makes it endless, and then no headroom suffices.
#[must_use]
pub fn steps(amount: Credits) -> u64 {
    amount.units().unsigned_abs().div_ceil(UNITS_PER_STEP.unsigned_abs()).try_into().unwrap_or(u64::MAX)
}

/// Whether that many steps are at most this amount. [`u64::MAX`] of them never are: it is not known how many they are.
#[must_use]
pub fn has_room_for(amount: Credits, steps: u64) -> bool {
    steps < u64::MAX && i128::from(steps) <= amount.units().div_euclid(UNITS_PER_STEP)
}

/// The counts of a user when a settlement had added its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// All charges so far in steps, those of the settlement included.
    charged: u64,
    /// All grants so far in steps, those of the settlement included.
    granted: u64,
    /// All rows so far without those of the settlement.
    rows_before: u64,
}

impl Counted {
    /// `charged` and `granted` are in [`steps`].
    #[must_use]
    pub const fn new(charged: u64, granted: u64, rows_before: u64) -> Self {
        Self { charged, granted, rows_before }
    }

    /// What has been charged since, in steps, when the count of charges is at `now`: without end if it has no room for more.
    #[must_use]
    pub const fn charged_since(&self, now: u64) -> u64 {
        if now == u64::MAX { u64::MAX } else { now.saturating_sub(self.charged) }
    }
}

/// What a settlement of a user that must be covered has found under the shared stripe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cover {
    /// The most that can be held: the open holds that the pass has met, committed, in flight or the transaction's own, without those
    /// that the transaction has deleted.
    pub held: Credits,
    /// The holds that the transaction has deleted, in [`steps`]: they may come back if it rolls back.
    pub released: u64,
    /// What has been charged since the settlement had counted, in steps, as of the end of its passes; [`u64::MAX`] if that is not known.
    /// A pass over two tables is no snapshot: a capture that commits between them is met in neither, but has been counted.
    pub charged_since: u64,
}

impl Cover {
    /// What could be charged without what is available going below `limit`: the lowest balance less what is held. `None` if it may be
    /// below that already.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn left(&self, lowest_balance: Credits, limit: Credits) -> Result<Option<Credits>, SumOutOfRange> {
        let left = lowest_balance.checked_sub(self.held)?.checked_sub(limit)?;
        Ok(self.allows(left).then_some(left))
    }

    /// Whether so much is left when all that was charged since the settlement had counted is taken away.
    #[must_use]
    pub fn allows(&self, left: Credits) -> bool {
        has_room_for(left, self.charged_since)
    }
}

/// The ceilings below which settlements need not look at a user. A ceiling of 0 says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headroom {
    /// While the count of charges is below this, the balance is above the nearest boundary below, and every spend cap that is reached has
    /// been announced.
    pub(super) charged_until: u64,
    /// While the count of grants is below this, the balance is not above the nearest boundary above.
    pub(super) granted_until: u64,
    /// While the count of charges is below this, what is available is at or above the limit.
    pub(super) covered_until: u64,
    /// The count of rows at which the checkpoint covered every row.
    pub(super) rows_folded: u64,
}

impl Headroom {
    /// The headroom that a pass over the delta leaves, whose settlement has `written` rows and then `counted` them. Every outcome is on
    /// the level that is `announced`. `lag` is how many rows the checkpoint is behind. It says nothing where the balance may come to lie
    /// next to a boundary.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn left_by(
        outlook: &Outlook,
        announced: &Announced,
        written: &Written,
        counted: &Counted,
        lag: u64,
    ) -> Result<Self, SumOutOfRange> {
        let (below, above) = announced.nearest();
        // The settlement's own rows are in the outlook as settled, and may be rolled back yet.
        let down = distance(below, |boundary| outlook.lowest()?.checked_sub(boundary), written.granted)?;
        let up = distance(above, |boundary| boundary.checked_sub(outlook.highest()?), written.charged)?;
        let rows_folded = counted.rows_before.saturating_sub(lag);
        Ok(match down.zip(up) {
            Some((down, up)) => Self {
                charged_until: counted.charged.saturating_add(down),
                granted_until: counted.granted.saturating_add(up),
                covered_until: 0,
                rows_folded,
            },
            None => Self { rows_folded, ..Self::default() },
        })
    }

    /// This headroom, with no more to charge than is `left` of the user's spend caps, when the settlement had `counted`.
    #[must_use]
    pub fn capped(self, left: Left, counted: &Counted) -> Self {
        let Left::UpTo(left) = left else { return self };
        match steps_left(left, 0) {
            Some(steps) => {
                let charged_until = self.charged_until.min(counted.charged.saturating_add(steps));
                Self { charged_until, ..self }
            }
            None => Self { charged_until: 0, granted_until: 0, ..self },
        }
    }

    /// This headroom, with `covered_until` for a user that must be covered: a pass over the holds and the delta has found that so much may
    /// be `left` to charge.
    #[must_use]
    pub fn covering(self, left: Left, written: &Written, counted: &Counted, cover: &Cover) -> Self {
        let may_roll_back = written.granted.saturating_add(cover.released);
        let steps = match left {
            Left::UpTo(left) => steps_left(left, may_roll_back),
            Left::Everything => Some(u64::MAX),
        };
        let covered_until = steps.map_or(0, |steps| counted.charged.saturating_add(steps));
        Self { covered_until, ..self }
    }

    /// Whether it says anything.
    #[must_use]
    pub const fn says_something(&self) -> bool {
        self.charged_until > 0 || self.covered_until > 0
    }

    /// Whether a settlement with these counts need not look at the balance: it stays on its level, and fewer than `interval` rows have
    /// come since the checkpoint covered every row.
    #[must_use]
    pub const fn suffices(&self, counted: &Counted, interval: u64) -> bool {
        counted.charged < self.charged_until
            && counted.granted < self.granted_until
            && !self.lags(counted, interval)
    }

    /// Whether `interval` rows or more have come since the checkpoint covered every row.
    #[must_use]
    pub const fn lags(&self, counted: &Counted, interval: u64) -> bool {
        counted.rows_before.saturating_sub(self.rows_folded) >= interval
    }

    /// Whether a user with these counts is covered.
    #[must_use]
    pub const fn covers(&self, counted: &Counted) -> bool {
        counted.charged < self.covered_until
    }
}

/// How many steps the balance may go towards the boundary: the distance less what may roll back. Without end if there is none, `None`
/// if there are none left.
fn distance(
    boundary: Option<Credits>,
    to: impl FnOnce(Credits) -> Result<Credits, SumOutOfRange>,
    may_roll_back: u64,
) -> Result<Option<u64>, SumOutOfRange> {
    boundary.map_or(Ok(Some(u64::MAX)), |boundary| Ok(steps_left(to(boundary)?, may_roll_back)))
}

/// How many whole steps are left of a distance besides those that may roll back; `None` if there are none.
fn steps_left(distance: Credits, may_roll_back: u64) -> Option<u64> {
    let left = distance.units().div_euclid(UNITS_PER_STEP) - i128::from(may_roll_back);
    (left > 0).then(|| u64::try_from(left).unwrap_or(u64::MAX))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::boundaries::Boundaries;
    use crate::overdraft::Overdraft;

    pub fn credits(millionths: i128) -> Credits {
        Credits::from_units(millionths * UNITS_PER_STEP)
    }

    pub fn written(amounts: &[i128]) -> Written {
        let mut written = Written::default();
        for &amount in amounts {
            written.add(credits(amount));
        }
        written
    }

    /// The level of this balance between these thresholds.
    pub fn announced(balance: Credits, thresholds: &[i128]) -> Announced {
        let thresholds = thresholds.iter().copied().map(credits).collect();
        Announced { is_positive: balance.is_positive(), ..Announced::default() }
            .with_thresholds_of(&Boundaries::new(Overdraft::default(), thresholds), |threshold| {
                balance > threshold
            })
    }

    pub fn left_by(balance: i128, written: &Written, counted: &Counted) -> Headroom {
        left_between(credits(balance), &[], written, counted)
    }

    fn left_between(balance: Credits, thresholds: &[i128], written: &Written, counted: &Counted) -> Headroom {
        let announced = announced(balance, thresholds);
        Headroom::left_by(&Outlook::new(balance), &announced, written, counted, 0).unwrap()
    }

    fn until(headroom: &Headroom) -> (u64, u64) {
        (headroom.charged_until, headroom.granted_until)
    }

    #[test]
    fn bounds_err_to_the_safe_side() {
        let finest = Credits::from_units(-1);
        let mut written = Written::default();
        written.add(finest);
        assert_eq!(written, Written { rows: 1, charged: 1, granted: 0 });
        // Just short of two steps: only one can be taken.
        let balance = credits(2).checked_add(finest).unwrap();
        assert_eq!(until(&left_between(balance, &[], &written, &Counted::default())), (1, u64::MAX));
        for nothing in [finest, credits(1).checked_add(finest).unwrap()] {
            let left = left_between(nothing, &[], &Written::default(), &Counted::default());
            assert!(!left.says_something(), "{nothing}");
        }
        // Below zero it is the way up that counts, from which the own charge is taken out.
        let below = credits(-3).checked_add(finest).unwrap();
        assert_eq!(until(&left_between(below, &[], &written, &Counted::default())), (u64::MAX, 2));
        assert_eq!(until(&left_between(credits(-3), &[], &written, &Counted::default())), (u64::MAX, 2));
        assert!(!left_between(credits(-1), &[], &written, &Counted::default()).says_something());
        assert!(!left_between(Credits::ZERO, &[], &Written::default(), &Counted::default()).says_something());
    }

    #[test]
    fn what_may_roll_back_is_not_there_to_spend() {
        let mut outlook = Outlook::new(credits(100));
        outlook.add_in_flight(credits(-30)).unwrap();
        outlook.add_in_flight(credits(500)).unwrap();
        let counted = Counted { charged: 1000, granted: 300, rows_before: 8 };
        let announced = announced(credits(100), &[1000, 20]);
        let left = Headroom::left_by(&outlook, &announced, &written(&[25, -5]), &counted, 3).unwrap();
        // Down 100 - 30 - 25 to 20, up 100 + 500 + 5 to 1000.
        let expected = Headroom { charged_until: 1025, granted_until: 695, covered_until: 0, rows_folded: 5 };
        assert_eq!(left, expected);
        assert!(!left_by(25, &written(&[25]), &counted).says_something());
    }

    /// With room on one side alone nothing is published: who writes the other side compares both, too.
    #[test]
    fn both_sides_need_room() {
        let nobody = Written::default();
        assert!(!left_between(credits(10), &[10], &nobody, &Counted::default()).says_something());
        assert_eq!(until(&left_between(credits(9), &[10], &nobody, &Counted::default())), (9, 1));
        assert_eq!(until(&left_between(credits(11), &[10], &nobody, &Counted::default())), (1, u64::MAX));
        assert_eq!(until(&left_between(credits(-4), &[-5, 10], &nobody, &Counted::default())), (1, 4));
    }

    #[test]
    fn what_is_covered_is_the_lowest_that_is_available() {
        let cover = Cover { held: credits(30), released: 0, charged_since: 0 };
        let left = |cover: &Cover, balance, limit| cover.left(credits(balance), credits(limit)).unwrap();
        assert_eq!(left(&cover, 100, 0), Some(credits(70)));
        assert_eq!(left(&cover, 30, 0), Some(Credits::ZERO));
        assert_eq!(left(&cover, 29, 0), None);
        assert_eq!(left(&cover, 29, -1), Some(Credits::ZERO));
        // Another has been charged meanwhile, and may be met nowhere.
        let since = Cover { charged_since: 5, ..cover };
        assert_eq!(left(&since, 35, 0), Some(credits(5)));
        assert_eq!(left(&since, 34, 0), None);
        let finest = Credits::from_units(-1);
        assert_eq!(since.left(credits(35).checked_add(finest).unwrap(), Credits::ZERO), Ok(None));
        let lost = Cover { charged_since: u64::MAX, ..cover };
        assert_eq!(left(&lost, 1 << 40, 0), None);
        assert_eq!(left(&lost, 1 << 80, 0), None, "what is not known is more than any balance");
    }

    #[test]
    fn a_cover_lasts_until_the_limit_could_be_reached() {
        let counted = Counted { charged: 1000, granted: 0, rows_before: 0 };
        let covered = |left: Option<i128>, own: &[i128], released| {
            let cover = Cover { released, ..Cover::default() };
            let left = left.map_or(Left::Everything, |left| Left::UpTo(credits(left)));
            let headroom = Headroom::default().covering(left, &written(own), &counted, &cover);
            headroom.covered_until
        };
        assert_eq!(covered(Some(70), &[], 0), 1070);
        assert_eq!(covered(Some(70), &[20, -3], 8), 1042);
        assert_eq!(covered(Some(28), &[20], 8), 0);
        assert_eq!(covered(None, &[20], 8), u64::MAX);
        let headroom = Headroom { covered_until: 1070, ..Headroom::default() };
        assert!(headroom.covers(&Counted { charged: 1069, ..counted }));
        assert!(!headroom.covers(&Counted { charged: 1070, ..counted }));
    }

    #[test]
    fn a_hold_is_charged_and_no_row() {
        let mut written = Written::default();
        written.hold(credits(7));
        assert_eq!(written, Written { rows: 0, charged: 7, granted: 0 });
        assert!(!written.is_empty() && Written::default().is_empty());
    }

    #[test]
    fn rows_and_holds_alike_are_something_to_count() {
        assert!(Written::default().is_empty());
        assert!(!written(&[1]).is_empty() && !written(&[-1]).is_empty());
        let mut holding = Written::default();
        holding.hold(credits(1));
        assert!(!holding.is_empty());
    }

    /// A cap ends the headroom for charges earlier, and never later.
    #[test]
    fn headroom_ends_at_a_cap() {
        let counted = Counted::new(1000, 0, 0);
        let headroom = left_by(100, &Written::default(), &counted);
        let capped = |left| headroom.capped(Left::UpTo(credits(left)), &counted);
        assert_eq!(until(&capped(7)), (1007, until(&headroom).1));
        assert_eq!(until(&capped(500)), until(&headroom));
        assert_eq!(until(&headroom.capped(Left::Everything, &counted)), until(&headroom));
        assert_eq!(until(&capped(0)), (0, 0));
    }

    #[test]
    fn rows_are_counted_from_the_checkpoint_on() {
        let headroom = Headroom { rows_folded: 40, ..Headroom::default() };
        let lags = |rows_before| headroom.lags(&Counted::new(0, 0, rows_before), 10);
        assert!(!lags(49) && lags(50) && !lags(0));
    }

    #[test]
    fn headroom_suffices_below_both_ceilings() {
        let headroom = Headroom { charged_until: 10, granted_until: 20, ..Headroom::default() };
        let suffices = |charged, granted| headroom.suffices(&Counted::new(charged, granted, 0), 1);
        assert!(suffices(9, 19) && !suffices(10, 19) && !suffices(9, 20));
    }

    #[test]
    fn headroom_of_either_kind_says_something() {
        let of =
            |charged_until, covered_until| Headroom { charged_until, covered_until, ..Headroom::default() };
        let said = [of(0, 0), of(1, 0), of(0, 1)].map(|headroom| headroom.says_something());
        assert_eq!(said, [false, true, true]);
    }

    #[test]
    fn a_count_without_room_is_charged_without_end() {
        assert_eq!(Counted::new(5, 0, 0).charged_since(9), 4);
        assert_eq!(Counted::new(u64::MAX, 0, 0).charged_since(u64::MAX), u64::MAX);
    }
}
