//! The boundaries of a balance, on which side of each it lies, and crossings from one side to the other.
//!
//! Zero is a boundary of every account, and an account may have thresholds besides. They divide the balances into levels. What was
//! announced last of an account is a level: the side of each boundary.

use crate::boundaries::Boundaries;
use crate::caps::AnnouncedCap;
use crate::credits::{Credits, SumOutOfRange};

/// Which way a balance crossed a boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the boundary or below to above it. Of zero: the user may spend again.
    Up,
    /// From above the boundary to it or below. Of zero: the user is cut off.
    Down,
}

impl Direction {
    /// The crossing from the announced side of a boundary to that of the balance; `None` if it is the same side.
    #[must_use]
    pub fn between(announced_above: bool, boundary: Credits, balance: Credits) -> Option<Self> {
        match (announced_above, balance > boundary) {
            (false, true) => Some(Self::Up),
            (true, false) => Some(Self::Down),
            _ => None,
        }
    }

    /// The word for it in notifications.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// A balance that crossed one of its boundaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// Zero or a threshold.
    pub boundary: Credits,
    /// Which way.
    pub direction: Direction,
}

/// A threshold, and what the last notification about it said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// Where it is.
    pub balance: Credits,
    /// Whether the balance was above it.
    pub is_above: bool,
    /// When that last changed, in microseconds since 2000-01-01 UTC; `None` if it never has.
    pub crossed_at: Option<i64>,
}

/// What the last notifications about a user said. The user's rows do not tell; only its checkpoint does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Whether the balance was above zero.
    pub is_positive: bool,
    /// When that last changed, in microseconds since 2000-01-01 UTC; `None` if it never has.
    pub crossed_at: Option<i64>,
    /// The user's thresholds, ascending.
    pub thresholds: Vec<Threshold>,
    /// The user's spend caps, in the order of their ids.
    pub caps: Vec<AnnouncedCap>,
}

impl Announced {
    /// Whether the balance is on the announced side of every boundary.
    #[must_use]
    pub fn agrees_with(&self, balance: Credits) -> bool {
        self.is_positive == balance.is_positive()
            && self.thresholds.iter().all(|threshold| threshold.is_above == (balance > threshold.balance))
    }

    /// The nearest boundary that the balance was announced to be above, and the nearest one that it was announced not to be above.
    #[must_use]
    pub fn nearest(&self) -> (Option<Credits>, Option<Credits>) {
        let (mut below, mut above) = (None, None);
        for (boundary, is_above) in self.sides() {
            if is_above {
                below = Some(boundary);
            } else {
                above = above.or(Some(boundary));
            }
        }
        (below, above)
    }

    /// Every boundary, ascending, with whether the balance was announced to be above it.
    fn sides(&self) -> impl DoubleEndedIterator<Item = (Credits, bool)> {
        let negative = self.thresholds.partition_point(|threshold| threshold.balance < Credits::ZERO);
        let (below, above) = self.thresholds.split_at(negative);
        let side = |threshold: &Threshold| (threshold.balance, threshold.is_above);
        let zero = std::iter::once((Credits::ZERO, self.is_positive));
        below.iter().map(side).chain(zero).chain(above.iter().map(side))
    }

    /// The crossings from what was announced to this balance, in the order in which it passes the boundaries: those downwards from high
    /// to low, those upwards from low to high.
    #[must_use]
    pub fn crossings_to(&self, balance: Credits) -> Vec<Crossing> {
        let crossing = |(boundary, is_above)| {
            Direction::between(is_above, boundary, balance).map(|direction| Crossing { boundary, direction })
        };
        let leads = |to| move |crossing: &Crossing| crossing.direction == to;
        let down = self.sides().rev().filter_map(crossing).filter(leads(Direction::Down));
        down.chain(self.sides().filter_map(crossing).filter(leads(Direction::Up))).collect()
    }

    /// What is announced once the crossings to this balance are, which are made `now`.
    #[must_use]
    pub fn moved_to(mut self, balance: Credits, now: i64) -> Self {
        if self.is_positive != balance.is_positive() {
            (self.is_positive, self.crossed_at) = (balance.is_positive(), Some(now));
        }
        for threshold in &mut self.thresholds {
            let is_above = balance > threshold.balance;
            if threshold.is_above != is_above {
                (threshold.is_above, threshold.crossed_at) = (is_above, Some(now));
            }
        }
        self
    }

    /// What is announced where the account has these boundaries. A threshold that it had keeps what was announced of it; `side` says of a
    /// new one whether the balance counts as announced to be above it.
    #[must_use]
    pub fn with_thresholds_of(self, boundaries: &Boundaries, side: impl Fn(Credits) -> bool) -> Self {
        let announced =
            |balance| self.thresholds.iter().copied().find(|threshold| threshold.balance == balance);
        let new = |balance| Threshold { balance, is_above: side(balance), crossed_at: None };
        let thresholds = boundaries.thresholds().iter();
        let thresholds =
            thresholds.map(|&balance| announced(balance).unwrap_or_else(|| new(balance))).collect();
        Self { thresholds, ..self }
    }

    /// Whether these are the thresholds that were announced.
    #[must_use]
    pub fn has_thresholds_of(&self, boundaries: &Boundaries) -> bool {
        let balances = self.thresholds.iter().map(|threshold| threshold.balance);
        balances.eq(boundaries.thresholds().iter().copied())
    }
}

/// What a balance can become: the sum of the rows that are committed or the transaction's own, and the sums by sign of rows in flight.
///
/// Each row in flight will commit or roll back, so every outcome lies between `settled + negative` and `settled + positive`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    settled: Credits,
    negative: Credits,
    positive: Credits,
}

impl Outlook {
    /// A balance without rows in flight.
    #[must_use]
    pub const fn new(settled: Credits) -> Self {
        Self { settled, negative: Credits::ZERO, positive: Credits::ZERO }
    }

    /// Adds a row that is committed or the transaction's own.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn add_settled(&mut self, amount: Credits) -> Result<(), SumOutOfRange> {
        self.settled = self.settled.checked_add(amount)?;
        Ok(())
    }

    /// Adds another transaction's row in flight.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn add_in_flight(&mut self, amount: Credits) -> Result<(), SumOutOfRange> {
        let side = if amount < Credits::ZERO { &mut self.negative } else { &mut self.positive };
        *side = side.checked_add(amount)?;
        Ok(())
    }

    /// The balance if every row in flight rolls back.
    #[must_use]
    pub const fn settled(&self) -> Credits {
        self.settled
    }

    /// The balance if every charge in flight commits and every grant in flight rolls back.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn lowest(&self) -> Result<Credits, SumOutOfRange> {
        self.settled.checked_add(self.negative)
    }

    /// The balance if every grant in flight commits and every charge in flight rolls back.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn highest(&self) -> Result<Credits, SumOutOfRange> {
        self.settled.checked_add(self.positive)
    }

    /// Whether every outcome lies on the announced side of every boundary.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn agrees_with(&self, announced: &Announced) -> Result<bool, SumOutOfRange> {
        // What lies between two balances on one side of a boundary lies on that side, too.
        Ok(announced.agrees_with(self.lowest()?) && announced.agrees_with(self.highest()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overdraft::Overdraft;

    fn outlook(settled: i128, in_flight: &[i128]) -> Outlook {
        let mut outlook = Outlook::new(Credits::from_units(settled));
        for &amount in in_flight {
            outlook.add_in_flight(Credits::from_units(amount)).unwrap();
        }
        outlook
    }

    /// Announced at this balance, with these thresholds.
    fn announced(balance: i128, thresholds: &[i128]) -> Announced {
        let boundaries = Boundaries::new(
            Overdraft::default(),
            thresholds.iter().copied().map(Credits::from_units).collect(),
        );
        Announced { is_positive: balance > 0, ..Announced::default() }
            .with_thresholds_of(&boundaries, |threshold| balance > threshold.units())
    }

    fn crossings(from: i128, to: i128, thresholds: &[i128]) -> Vec<(i128, Direction)> {
        let crossings = announced(from, thresholds).crossings_to(Credits::from_units(to));
        crossings.iter().map(|crossing| (crossing.boundary.units(), crossing.direction)).collect()
    }

    #[test]
    fn far_from_zero_agrees() {
        assert!(outlook(100, &[-20, 30, -79]).agrees_with(&announced(1, &[])).unwrap());
        assert!(outlook(-100, &[-20, 100]).agrees_with(&announced(0, &[])).unwrap());
    }

    #[test]
    fn every_outcome_counts() {
        // all charges commit, all grants roll back
        assert!(!outlook(100, &[-50, 300, -50]).agrees_with(&announced(1, &[])).unwrap());
        // the two grants of +10 on a balance of -15
        assert!(!outlook(-5, &[10]).agrees_with(&announced(0, &[])).unwrap());
        // zero is not positive
        assert!(outlook(0, &[]).agrees_with(&announced(0, &[])).unwrap());
    }

    #[test]
    fn agreement_is_that_of_every_subset() {
        let amounts = [-7, 3, -2, 5];
        for thresholds in [&[][..], &[4], &[-3, 2, 9]] {
            for settled in -15..=15 {
                for level in -15..=15 {
                    let announced = announced(level, thresholds);
                    let every_subset = (0..16).all(|subset| {
                        let sum: i128 = amounts
                            .iter()
                            .enumerate()
                            .filter(|(i, _)| subset >> i & 1 == 1)
                            .map(|(_, a)| a)
                            .sum();
                        announced.agrees_with(Credits::from_units(settled + sum))
                    });
                    assert_eq!(outlook(settled, &amounts).agrees_with(&announced).unwrap(), every_subset);
                }
            }
        }
    }

    #[test]
    fn boundaries_are_crossed_in_the_order_of_the_balance() {
        use Direction::{Down, Up};
        assert_eq!(crossings(0, 1, &[]), [(0, Up)]);
        assert_eq!(crossings(1, 0, &[]), [(0, Down)]);
        assert_eq!(crossings(1, 1, &[]), []);
        assert_eq!(crossings(0, -1, &[]), []);
        // At a boundary is below it.
        assert_eq!(crossings(6, 5, &[5]), [(5, Down)]);
        assert_eq!(crossings(5, 6, &[5]), [(5, Up)]);
        assert_eq!(crossings(4, 5, &[5]), []);
        assert_eq!(crossings(9, -9, &[8, -4, 2]), [(8, Down), (2, Down), (0, Down), (-4, Down)]);
        assert_eq!(crossings(-9, 9, &[8, -4, 2]), [(-4, Up), (0, Up), (2, Up), (8, Up)]);
        assert_eq!(crossings(3, -4, &[8, -4, 2]), [(2, Down), (0, Down), (-4, Down)]);
    }

    #[test]
    fn the_nearest_boundaries_are_those_about_the_level() {
        let nearest = |balance, thresholds: &[i128]| {
            let (below, above) = announced(balance, thresholds).nearest();
            (below.map(Credits::units), above.map(Credits::units))
        };
        assert_eq!(nearest(7, &[]), (Some(0), None));
        assert_eq!(nearest(-7, &[]), (None, Some(0)));
        assert_eq!(nearest(7, &[5, 9, -3]), (Some(5), Some(9)));
        assert_eq!(nearest(3, &[5, 9, -3]), (Some(0), Some(5)));
        assert_eq!(nearest(0, &[5, 9, -3]), (Some(-3), Some(0)));
        assert_eq!(nearest(-3, &[5, 9, -3]), (None, Some(-3)));
        assert_eq!(nearest(10, &[5, 9, -3]), (Some(9), None));
    }

    #[test]
    fn what_moves_is_what_was_crossed() {
        let before = Announced { crossed_at: Some(3), ..announced(9, &[-5, 5]) };
        let after = before.clone().moved_to(Credits::from_units(2), 7);
        let threshold = |units, is_above, crossed_at| {
            let balance = Credits::from_units(units);
            Threshold { balance, is_above, crossed_at }
        };
        assert_eq!((after.is_positive, after.crossed_at), (true, Some(3)));
        assert_eq!(after.thresholds, [threshold(-5, true, None), threshold(5, false, Some(7))]);
        let after = after.moved_to(Credits::from_units(-5), 8);
        assert_eq!((after.is_positive, after.crossed_at), (false, Some(8)));
        assert_eq!(after.thresholds, [threshold(-5, false, Some(8)), threshold(5, false, Some(7))]);
        assert!(after.agrees_with(Credits::from_units(-6)) && !after.agrees_with(Credits::from_units(-4)));
    }

    #[test]
    fn a_threshold_that_stays_keeps_what_was_announced_of_it() {
        let balances = |thresholds: &[i128]| thresholds.iter().copied().map(Credits::from_units).collect();
        let boundaries = Boundaries::new(Overdraft::default(), balances(&[7, 5, 1]));
        let before = announced(9, &[-5, 5]).moved_to(Credits::from_units(2), 4);
        assert!(!before.has_thresholds_of(&boundaries));
        let after = before.with_thresholds_of(&boundaries, |threshold| threshold == Credits::from_units(7));
        let threshold = |units, is_above, crossed_at| Threshold {
            balance: Credits::from_units(units),
            is_above,
            crossed_at,
        };
        let expected = [threshold(1, false, None), threshold(5, false, Some(4)), threshold(7, true, None)];
        assert_eq!(after.thresholds, expected);
        assert!(after.has_thresholds_of(&boundaries));
    }
}
