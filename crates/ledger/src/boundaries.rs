//! What bounds an account, as its row in `spending_limits` says: how far it may be overdrawn, and at which balances besides zero a
//! crossing is announced.

use crate::credits::Credits;
use crate::overdraft::Overdraft;

/// The boundaries of an account besides zero. As default those of an account without a row in `spending_limits`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boundaries {
    /// How far it may be overdrawn.
    pub overdraft: Overdraft,
    /// The balances at which a crossing is announced, ascending, zero left out.
    thresholds: Vec<Credits>,
}

impl Boundaries {
    /// With these thresholds, in any order. Zero is one of every account, and left out.
    #[must_use]
    pub fn new(overdraft: Overdraft, mut thresholds: Vec<Credits>) -> Self {
        thresholds.retain(|&threshold| threshold != Credits::ZERO);
        thresholds.sort_unstable();
        thresholds.dedup();
        Self { overdraft, thresholds }
    }

    /// The thresholds, ascending, without zero.
    #[must_use]
    pub fn thresholds(&self) -> &[Credits] {
        &self.thresholds
    }

    /// Whether these are the boundaries of every account that has none of its own.
    #[must_use]
    pub fn are_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_ascend_and_leave_out_zero() {
        let balance = Credits::from_units;
        let boundaries = Boundaries::new(Overdraft::Unlimited, [5, 0, -3, 5, 2].map(balance).to_vec());
        assert_eq!(boundaries.thresholds(), [-3, 2, 5].map(balance));
        assert!(!boundaries.are_default());
        assert!(Boundaries::new(Overdraft::UpTo(Credits::ZERO), vec![Credits::ZERO]).are_default());
    }
}
