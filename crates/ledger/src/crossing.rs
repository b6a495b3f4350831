//! The sides of zero that a balance can come to lie on, and crossings from one to the other.

use crate::credits::{Credits, SumOutOfRange};

/// Which way a balance crossed zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From zero or less to above zero: the user may spend again.
    Up,
    /// From above zero to zero or less: the user is cut off.
    Down,
}

impl Direction {
    /// The crossing from the announced side to that of the balance; `None` if it is the same side.
    #[must_use]
    pub fn between(announced_positive: bool, balance: Credits) -> Option<Self> {
        match (announced_positive, balance.is_positive()) {
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

    /// Whether every outcome lies on the announced side of zero.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn agrees_with(&self, announced_positive: bool) -> Result<bool, SumOutOfRange> {
        let lowest = self.lowest()?;
        let highest = self.settled.checked_add(self.positive)?;
        Ok(lowest.is_positive() == announced_positive && highest.is_positive() == announced_positive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlook(settled: i128, in_flight: &[i128]) -> Outlook {
        let mut outlook = Outlook::new(Credits::from_units(settled));
        for &amount in in_flight {
            outlook.add_in_flight(Credits::from_units(amount)).unwrap();
        }
        outlook
    }

    #[test]
    fn far_from_zero_agrees() {
        assert!(outlook(100, &[-20, 30, -79]).agrees_with(true).unwrap());
        assert!(outlook(-100, &[-20, 100]).agrees_with(false).unwrap());
    }

    #[test]
    fn every_outcome_counts() {
        // all charges commit, all grants roll back
        assert!(!outlook(100, &[-50, 300, -50]).agrees_with(true).unwrap());
        // the two grants of +10 on a balance of -15
        assert!(!outlook(-5, &[10]).agrees_with(false).unwrap());
        // zero is not positive
        assert!(outlook(0, &[]).agrees_with(false).unwrap());
    }

    #[test]
    fn agreement_is_that_of_every_subset() {
        let amounts = [-7, 3, -2, 5];
        for settled in -15..=15 {
            for announced in [false, true] {
                let every_subset = (0..16).all(|subset| {
                    let sum: i128 = amounts
                        .iter()
                        .enumerate()
                        .filter(|(i, _)| subset >> i & 1 == 1)
                        .map(|(_, a)| a)
                        .sum();
                    (settled + sum > 0) == announced
                });
                assert_eq!(outlook(settled, &amounts).agrees_with(announced).unwrap(), every_subset);
            }
        }
    }

    #[test]
    fn directions() {
        let balance = Credits::from_units;
        assert_eq!(Direction::between(false, balance(1)), Some(Direction::Up));
        assert_eq!(Direction::between(true, balance(0)), Some(Direction::Down));
        assert_eq!(Direction::between(true, balance(1)), None);
        assert_eq!(Direction::between(false, balance(-1)), None);
    }
}
