//! Folds: the sums of the rows that a coverage covers, and how a pass over a delta advances them.

use crate::coverage::Coverage;
use crate::credits::{Credits, SumOutOfRange};
use crate::crossing::Outlook;

/// The rows of one user that a coverage covers, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fold {
    /// Which transactions' rows are in it.
    pub coverage: Coverage,
    /// Their signed sum.
    pub balance: Credits,
    /// How many there are.
    pub transaction_count: i64,
    /// The highest `seq` among them; 0 if there are none.
    pub latest_seq: i64,
}

impl Fold {
    /// The highest `seq` among its rows; `None` if there are none.
    #[must_use]
    pub fn latest_seq_if_any(&self) -> Option<i64> {
        (self.transaction_count > 0).then_some(self.latest_seq)
    }

    /// Whether this has no row that `older` has not. This must cover all that `older` covers, so it has all of its rows.
    #[must_use]
    pub const fn gained_nothing_since(&self, older: &Self) -> bool {
        self.transaction_count == older.transaction_count
    }
}

/// What a pass needs of a ledger row that is committed or of the reader's own transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaRow {
    /// Transaction that inserted it.
    pub transaction: u64,
    /// Its credits, signed.
    pub amount: Credits,
    /// Its place in the order of insertion.
    pub seq: i64,
}

/// One pass over a user's delta: adds up the rows, and advances the fold that it starts from.
#[derive(Clone, Debug)]
pub struct DeltaPass {
    own_transaction: Option<u64>,
    advanced: Fold,
    outlook: Outlook,
    own: Credits,
    transaction_count: i64,
    latest_seq: i64,
}

impl DeltaPass {
    /// Starts from `base`, which is advanced to cover what `target` covers. It stays as it is if `target` does not cover all that
    /// `base` does: coverage only grows. `own_transaction` is the reader's, if it has an id.
    #[must_use]
    pub fn new(base: Fold, target: Coverage, own_transaction: Option<u64>) -> Self {
        let outlook = Outlook::new(base.balance);
        let (transaction_count, latest_seq) = (base.transaction_count, base.latest_seq);
        let coverage = if target.contains(&base.coverage) { target } else { base.coverage.clone() };
        let advanced = Fold { coverage, ..base };
        let own = Credits::ZERO;
        Self { own_transaction, advanced, outlook, own, transaction_count, latest_seq }
    }

    /// Adds a row that `base` does not cover; returns whether it was folded.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn add(&mut self, row: &DeltaRow) -> Result<bool, SumOutOfRange> {
        self.outlook.add_settled(row.amount)?;
        self.latest_seq = later(self.latest_seq, self.transaction_count, row.seq);
        self.transaction_count += 1;
        if self.own_transaction == Some(row.transaction) {
            self.own = self.own.checked_add(row.amount)?;
        }
        let covered = self.advanced.coverage.covers(row.transaction);
        if covered {
            let advanced = &mut self.advanced;
            advanced.balance = advanced.balance.checked_add(row.amount)?;
            advanced.latest_seq = later(advanced.latest_seq, advanced.transaction_count, row.seq);
            advanced.transaction_count += 1;
        }
        Ok(covered)
    }

    /// Adds the signed amount of another transaction's row in flight.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn add_in_flight(&mut self, amount: Credits) -> Result<(), SumOutOfRange> {
        self.outlook.add_in_flight(amount)
    }

    /// What the balance is and can become.
    #[must_use]
    pub const fn outlook(&self) -> &Outlook {
        &self.outlook
    }

    /// The sum of the rows of `base` and of those added, rows in flight left out.
    #[must_use]
    pub const fn balance(&self) -> Credits {
        self.outlook.settled()
    }

    /// The [`balance`](Self::balance) without the rows of the reader's own transaction.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn balance_before(&self) -> Result<Credits, SumOutOfRange> {
        self.balance().checked_sub(self.own)
    }

    /// How many rows these are.
    #[must_use]
    pub const fn transaction_count(&self) -> i64 {
        self.transaction_count
    }

    /// The highest `seq` among them; `None` if there are none.
    #[must_use]
    pub fn latest_seq(&self) -> Option<i64> {
        (self.transaction_count > 0).then_some(self.latest_seq)
    }

    /// The fold as far as it could be advanced.
    #[must_use]
    pub const fn advanced(&self) -> &Fold {
        &self.advanced
    }

    /// The fold as far as it could be advanced, when the pass is over.
    #[must_use]
    pub fn into_advanced(self) -> Fold {
        self.advanced
    }
}

/// The highest `seq` when one more row joins `count` others. It may be 0 or less, since a restored row brings its own.
fn later(latest_seq: i64, count: i64, seq: i64) -> i64 {
    if count == 0 { seq } else { latest_seq.max(seq) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(transaction: u64, units: i128, seq: i64) -> DeltaRow {
        DeltaRow { transaction, amount: Credits::from_units(units), seq }
    }

    fn coverage(watermark: u64, stragglers: &[u64]) -> Coverage {
        Coverage::from_parts(watermark, stragglers.iter().copied()).unwrap()
    }

    #[test]
    fn folds_what_the_target_covers_and_sums_all() {
        let base = Fold {
            coverage: coverage(10, &[5]),
            balance: Credits::from_units(100),
            transaction_count: 4,
            latest_seq: 9,
        };
        assert_eq!((base.latest_seq_if_any(), Fold::default().latest_seq_if_any()), (Some(9), None));
        let mut pass = DeltaPass::new(base, coverage(20, &[]), Some(30));
        assert!(pass.add(&row(5, 1, 3)).unwrap());
        assert!(pass.add(&row(19, 2, 12)).unwrap());
        assert!(!pass.add(&row(20, 4, 11)).unwrap());
        assert!(!pass.add(&row(30, 8, 13)).unwrap());
        pass.add_in_flight(Credits::from_units(-1000)).unwrap();

        assert_eq!(pass.balance(), Credits::from_units(115));
        assert_eq!(pass.balance_before().unwrap(), Credits::from_units(107));
        assert_eq!(pass.latest_seq(), Some(13));
        assert_eq!(pass.outlook().lowest(), Ok(Credits::from_units(-885)));
        let advanced = pass.into_advanced();
        assert_eq!(
            (advanced.balance, advanced.transaction_count, advanced.latest_seq),
            (Credits::from_units(103), 6, 12)
        );
        assert_eq!(advanced.coverage, coverage(20, &[]));
    }

    #[test]
    fn a_fold_that_covers_more_may_have_gained_nothing() {
        let stored = Fold { coverage: coverage(10, &[5]), transaction_count: 4, ..Fold::default() };
        let further = DeltaPass::new(stored.clone(), coverage(20, &[]), None).into_advanced();
        assert!(further.gained_nothing_since(&stored));
        let mut pass = DeltaPass::new(further.clone(), coverage(30, &[]), None);
        assert!(!pass.add(&row(30, 1, 1)).unwrap());
        assert!(pass.advanced().gained_nothing_since(&stored));
        assert!(pass.add(&row(20, 1, 2)).unwrap());
        assert!(!pass.advanced().gained_nothing_since(&stored));
    }

    #[test]
    fn coverage_never_shrinks() {
        let base = Fold { coverage: coverage(10, &[]), ..Fold::default() };
        let mut pass = DeltaPass::new(base.clone(), coverage(9, &[]), None);
        assert!(!pass.add(&row(10, 1, 1)).unwrap());
        assert_eq!(pass.into_advanced(), base);
    }

    #[test]
    fn a_seq_may_be_below_zero() {
        let mut pass = DeltaPass::new(Fold::default(), coverage(20, &[]), None);
        for seq in [-9, -5, -7] {
            assert!(pass.add(&row(10, 1, seq)).unwrap());
        }
        assert_eq!(pass.latest_seq(), Some(-5));
        assert_eq!(pass.into_advanced().latest_seq, -5);
    }

    #[test]
    fn without_rows_there_is_no_latest_seq() {
        assert_eq!(DeltaPass::new(Fold::default(), coverage(10, &[]), None).latest_seq(), None);
    }
}
