//! How much users can be charged before a settlement needs to look at their balance.
//!
//! Most settlements find a balance far above zero, and publish how far. From then on settlements count what they charge. While
//! all that is counted stays below that limit, the balance stays above zero, whatever commits and whatever rolls back: a
//! settlement needs to read nothing. One whose count reaches the limit looks again. This is the escrow method (O'Neil, "The
//! Escrow Transactional Method", ACM TODS 11, 1986) with its lower bound alone. It does not decide who may spend; it says
//! that there is nothing to decide.
//!
//! A transaction counts a charge after it has inserted the row, while it shares the stripe, and before it looks at anything. A
//! pass over the delta that begins after that meets the row. So a charge that a pass does not meet is counted after the count
//! that the pass has begun with. Those charges may take what is left above zero if all charges that the pass has met in flight
//! commit, and no grant does: the limit is the count before the pass plus that. Counts only grow, and a charge that is rolled
//! back stays counted, so a limit holds for good. `models/settlement.pml` explores this.

use crate::credits::{Credits, UNITS_PER_CREDIT};
use crate::crossing::Outlook;

/// Amounts are counted in steps of a millionth of a credit.
const UNITS_PER_STEP: i128 = UNITS_PER_CREDIT / 1_000_000;

/// What a transaction has written of a user. Rows of savepoints that were rolled back are in it, so it may be more than there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub(super) rows: u64,
    /// The charges in steps, each rounded up.
    pub(super) charged: u64,
    /// The grants in steps, each rounded up.
    granted: u64,
}

impl Written {
    /// Whether there is nothing to count.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a row with this signed amount.
    pub fn add(&mut self, amount: Credits) {
        self.rows += 1;
        let side = if amount < Credits::ZERO { &mut self.charged } else { &mut self.granted };
        // An amount that the count has no room for makes it endless, and then no headroom suffices.
        let steps = amount.units().unsigned_abs().div_ceil(UNITS_PER_STEP.unsigned_abs());
        *side = side.saturating_add(steps.try_into().unwrap_or(u64::MAX));
    }
}

/// The counts of a user when a settlement had added its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// All charges so far in steps, those of the settlement included.
    charged: u64,
    /// All rows so far without those of the settlement.
    rows_before: u64,
}

impl Counted {
    /// `charged` is in millionths of a credit.
    #[must_use]
    pub const fn new(charged: u64, rows_before: u64) -> Self {
        Self { charged, rows_before }
    }
}

/// The limits up to which settlements need not look at a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// The balance is above zero while the count of charges is below this.
    pub(super) charged_until: u64,
    /// The count of rows at which the checkpoint covered every row.
    pub(super) rows_folded: u64,
}

impl Headroom {
    /// The headroom that a pass over the delta leaves, whose settlement has `written` rows and then `counted` them. `lag` is how
    /// many rows the checkpoint is behind. `None` if the balance may be zero or less.
    #[must_use]
    pub fn left_by(outlook: &Outlook, written: &Written, counted: &Counted, lag: u64) -> Option<Self> {
        let lowest = outlook.lowest().ok()?.units().div_euclid(UNITS_PER_STEP);
        // The settlement's own grants are in the outlook as settled, and may be rolled back yet.
        let left = lowest.checked_sub(written.granted.into()).filter(|&left| left > 0)?;
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        Some(Self {
            charged_until: counted.charged.saturating_add(left),
            rows_folded: counted.rows_before.saturating_sub(lag),
        })
    }

    /// Whether a settlement with these counts need not look: the balance stays above zero, and fewer than `interval` rows have
    /// come since the checkpoint covered every row.
    #[must_use]
    pub const fn suffices(&self, counted: &Counted, interval: u64) -> bool {
        counted.charged < self.charged_until
            && counted.rows_before.saturating_sub(self.rows_folded) < interval
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

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

    pub fn left_by(balance: i128, written: &Written, counted: &Counted) -> Option<Headroom> {
        Headroom::left_by(&Outlook::new(credits(balance)), written, counted, 0)
    }

    #[test]
    fn bounds_err_to_the_safe_side() {
        let finest = Credits::from_units(-1);
        let mut written = Written::default();
        written.add(finest);
        assert_eq!(written, Written { rows: 1, charged: 1, granted: 0 });
        // Just short of two steps: only one can be taken.
        let balance = credits(2).checked_add(finest).unwrap();
        let left = Headroom::left_by(&Outlook::new(balance), &written, &Counted::default(), 0).unwrap();
        assert_eq!(left.charged_until, 1);
        for nothing in [Credits::ZERO, finest, credits(1).checked_add(finest).unwrap(), credits(-5)] {
            let left = Headroom::left_by(&Outlook::new(nothing), &written, &Counted::default(), 0);
            assert_eq!(left, None, "{nothing}");
        }
    }

    #[test]
    fn what_may_roll_back_is_not_there_to_spend() {
        let mut outlook = Outlook::new(credits(100));
        outlook.add_in_flight(credits(-30)).unwrap();
        outlook.add_in_flight(credits(500)).unwrap();
        let counted = Counted { charged: 1000, rows_before: 8 };
        let left = Headroom::left_by(&outlook, &written(&[25, -5]), &counted, 3).unwrap();
        assert_eq!(left, Headroom { charged_until: 1045, rows_folded: 5 });
        assert_eq!(left_by(25, &written(&[25]), &counted), None);
    }
}
