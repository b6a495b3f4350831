//! Reversals: what may take back a transaction, and how much of it.

use thiserror::Error;

use crate::credits::{Credits, SumOutOfRange};
use crate::id::UserId;
use crate::transaction_type::TransactionType;

/// A transaction that others may take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Original {
    /// Its account.
    pub user: UserId,
    /// Its type; `None` for one that is not known, which only a ledger without its checks can have.
    pub kind: Option<TransactionType>,
    /// Its amount, positive.
    pub amount: Credits,
    /// Whether it takes back a transaction itself.
    pub is_reversal: bool,
}

/// Why a row cannot take back the transaction that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It would be the reversal of a reversal.
    #[error("it is a reversal itself")]
    OfReversal,
    /// The two are of different accounts.
    #[error("it is of another account")]
    OtherAccount,
    /// It does not do the opposite.
    #[error("it is of type {original}, which {} takes back", original.of_reversal())]
    OtherType {
        /// The type of the original.
        original: TransactionType,
    },
    /// The type of the original is not known, so nothing is its opposite.
    #[error("its type is unknown")]
    UnknownType,
    /// All reversals together would take back more than there was.
    #[error("{left} is left of it, less than {asked}")]
    Exceeds {
        /// What other transactions' reversals have left.
        left: Credits,
        /// What the transaction's own reversals take back together.
        asked: Credits,
    },
}

/// The reversals of one transaction that an account has.
#[derive(Clone, Debug)]
pub struct Reversals {
    original: Original,
    account: UserId,
    /// What those of other transactions take back.
    earlier: Credits,
    /// What those that the transaction has recorded itself take back; `None` if there is none.
    own: Option<Credits>,
    /// Whether one of its own is not of the opposite type.
    is_of_other_type: bool,
}

impl Reversals {
    /// Those in this account, none so far.
    #[must_use]
    pub const fn new(original: Original, account: UserId) -> Self {
        Self { original, account, earlier: Credits::ZERO, own: None, is_of_other_type: false }
    }

    /// Adds a row of another transaction's that names the original.
    ///
    /// # Errors
    /// [`SumOutOfRange`] if the sum is out of range.
    pub fn add_earlier(&mut self, amount: Credits) -> Result<(), SumOutOfRange> {
        self.earlier = self.earlier.checked_add(amount)?;
        Ok(())
    }

    /// Adds a row that the transaction has recorded itself and that names the original.
    ///
    /// # Errors
    /// [`SumOutOfRange`] if the sum is out of range.
    pub fn add_own(&mut self, kind: Option<TransactionType>, amount: Credits) -> Result<(), SumOutOfRange> {
        self.own = Some(self.own.unwrap_or_default().checked_add(amount)?);
        self.is_of_other_type |= kind != self.original.kind.map(TransactionType::of_reversal);
        Ok(())
    }

    /// What can be taken back besides what is added as another transaction's; never below zero.
    ///
    /// # Errors
    /// [`SumOutOfRange`] if the difference is out of range.
    pub fn left(&self) -> Result<Credits, SumOutOfRange> {
        Ok(self.original.amount.checked_sub(self.earlier)?.max(Credits::ZERO))
    }

    /// Whether the transaction's own rows may take back what they do. Where it has none, there is nothing to refuse.
    ///
    /// # Errors
    /// [`SumOutOfRange`] if what is left is out of range.
    pub fn verdict(&self) -> Result<Result<(), Refusal>, SumOutOfRange> {
        let Some(asked) = self.own else { return Ok(Ok(())) };
        if self.original.is_reversal {
            return Ok(Err(Refusal::OfReversal));
        }
        if self.original.user != self.account {
            return Ok(Err(Refusal::OtherAccount));
        }
        let Some(original) = self.original.kind else { return Ok(Err(Refusal::UnknownType)) };
        if self.is_of_other_type {
            return Ok(Err(Refusal::OtherType { original }));
        }
        let left = self.left()?;
        Ok(if asked > left { Err(Refusal::Exceeds { left, asked }) } else { Ok(()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCOUNT: UserId = UserId::from_bytes([1; 16]);

    fn reversals_of(kind: Option<TransactionType>, units: i128) -> Reversals {
        let amount = Credits::from_units(units);
        Reversals::new(Original { user: ACCOUNT, kind, amount, is_reversal: false }, ACCOUNT)
    }

    /// A usage of 10 with these reversals of other transactions and of the own one.
    fn usage_of_10(earlier: &[i128], own: &[i128]) -> Reversals {
        let mut reversals = reversals_of(Some(TransactionType::Usage), 10);
        for &units in earlier {
            reversals.add_earlier(Credits::from_units(units)).unwrap();
        }
        for &units in own {
            reversals.add_own(Some(TransactionType::AdminGrant), Credits::from_units(units)).unwrap();
        }
        reversals
    }

    fn exceeds(left: i128, asked: i128) -> Result<Result<(), Refusal>, SumOutOfRange> {
        Ok(Err(Refusal::Exceeds { left: Credits::from_units(left), asked: Credits::from_units(asked) }))
    }

    #[test]
    fn all_together_take_back_no_more_than_there_was() {
        assert_eq!(usage_of_10(&[], &[10]).verdict(), Ok(Ok(())));
        assert_eq!(usage_of_10(&[4, 3], &[2, 1]).verdict(), Ok(Ok(())));
        assert_eq!(usage_of_10(&[], &[11]).verdict(), exceeds(10, 11));
        assert_eq!(usage_of_10(&[], &[6, 5]).verdict(), exceeds(10, 11));
        assert_eq!(usage_of_10(&[4, 3], &[2, 2]).verdict(), exceeds(3, 4));
        assert_eq!(usage_of_10(&[10], &[1]).verdict(), exceeds(0, 1));
    }

    #[test]
    fn what_is_taken_back_too_much_already_leaves_nothing() {
        assert_eq!(usage_of_10(&[14], &[]).left(), Ok(Credits::ZERO));
        assert_eq!(usage_of_10(&[14], &[1]).verdict(), exceeds(0, 1));
        assert_eq!(usage_of_10(&[14], &[]).verdict(), Ok(Ok(())));
    }

    #[test]
    fn the_opposite_type_takes_back() {
        use TransactionType::{AdminGrant, AdminRemoval, Purchase, Usage};
        for (original, opposite) in [
            (Purchase, AdminRemoval),
            (AdminGrant, AdminRemoval),
            (Usage, AdminGrant),
            (AdminRemoval, AdminGrant),
        ] {
            for kind in TransactionType::ALL {
                let mut reversals = reversals_of(Some(original), 10);
                reversals.add_own(Some(kind), Credits::from_units(1)).unwrap();
                let expected = if kind == opposite { Ok(()) } else { Err(Refusal::OtherType { original }) };
                assert_eq!(reversals.verdict(), Ok(expected), "{kind} for {original}");
            }
        }
        let mut unknown = reversals_of(None, 10);
        unknown.add_own(None, Credits::from_units(1)).unwrap();
        assert_eq!(unknown.verdict(), Ok(Err(Refusal::UnknownType)));
    }

    #[test]
    fn a_reversal_and_another_account_s_transaction_are_not_taken_back() {
        let original = Original {
            user: ACCOUNT,
            kind: Some(TransactionType::Usage),
            amount: Credits::from_units(10),
            is_reversal: false,
        };
        let verdict = |original, account| {
            let mut reversals = Reversals::new(original, account);
            reversals.add_own(Some(TransactionType::AdminGrant), Credits::from_units(1)).unwrap();
            reversals.verdict()
        };
        assert_eq!(verdict(original, ACCOUNT), Ok(Ok(())));
        assert_eq!(verdict(original, UserId::from_bytes([2; 16])), Ok(Err(Refusal::OtherAccount)));
        assert_eq!(
            verdict(Original { is_reversal: true, ..original }, ACCOUNT),
            Ok(Err(Refusal::OfReversal))
        );
    }

    #[test]
    fn a_refusal_names_what_is_left() {
        let exceeds =
            Refusal::Exceeds { left: Credits::ZERO, asked: Credits::from_units(25_000_000_000_000_000) };
        assert_eq!(exceeds.to_string(), "0 is left of it, less than 2.5");
        let other = Refusal::OtherType { original: TransactionType::Usage };
        assert_eq!(other.to_string(), "it is of type usage, which admin_grant takes back");
    }

    #[test]
    fn sums_are_checked() {
        let mut reversals = reversals_of(Some(TransactionType::Usage), 10);
        let kind = Some(TransactionType::AdminGrant);
        reversals.add_own(kind, Credits::from_units(i128::MAX)).unwrap();
        assert_eq!(reversals.add_own(kind, Credits::from_units(1)), Err(SumOutOfRange));
        reversals.add_earlier(Credits::from_units(i128::MAX)).unwrap();
        assert_eq!(reversals.add_earlier(Credits::from_units(1)), Err(SumOutOfRange));
    }
}
