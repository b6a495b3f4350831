//! Signed sums of rows, by type.

use crate::credits::{Credits, SumOutOfRange};
use crate::transaction_type::{TransactionType, effect};

/// A signed sum of rows, and how many they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// What they add to the balance, or take from it.
    pub credits: Credits,
    /// How many there are.
    pub transaction_count: i64,
}

impl Sum {
    /// With the rows of another sum.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn with(self, other: Self) -> Result<Self, SumOutOfRange> {
        Ok(Self {
            credits: self.credits.checked_add(other.credits)?,
            transaction_count: self.transaction_count + other.transaction_count,
        })
    }

    /// Without the rows of another sum, which are among its own.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn without(self, other: Self) -> Result<Self, SumOutOfRange> {
        Ok(Self {
            credits: self.credits.checked_sub(other.credits)?,
            transaction_count: self.transaction_count - other.transaction_count,
        })
    }
}

/// The signed sums of some rows of each type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SumsByType {
    of_types: [Sum; TransactionType::ALL.len()],
    /// Of rows whose type is not known: see [`effect`].
    of_others: Sum,
}

impl SumsByType {
    /// The sum of the rows of a type.
    #[must_use]
    pub fn of(&self, wanted: TransactionType) -> Sum {
        let all = TransactionType::ALL.iter().zip(self.of_types);
        all.filter(|(known, _)| **known == wanted).map(|(_, sum)| sum).next().unwrap_or_default()
    }

    /// How many rows of the wanted types there are; `None` is the type of those whose type is not known.
    #[must_use]
    pub fn transaction_count(&self, is_wanted: impl Fn(Option<TransactionType>) -> bool) -> i64 {
        let known = TransactionType::ALL.into_iter().map(Some).zip(self.of_types);
        let all = known.chain([(None, self.of_others)]);
        all.filter(|(of_rows, _)| is_wanted(*of_rows)).map(|(_, sum)| sum.transaction_count).sum()
    }

    /// Adds rows of one type: their amounts, positive, and their number.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn add(
        &mut self,
        known: Option<TransactionType>,
        amount: Credits,
        transaction_count: i64,
    ) -> Result<(), SumOutOfRange> {
        let place = known.and_then(|known| TransactionType::ALL.iter().position(|each| *each == known));
        let sum = place.map_or(&mut self.of_others, |place| &mut self.of_types[place]);
        *sum = sum.with(Sum { credits: effect(known, amount), transaction_count })?;
        Ok(())
    }

    /// With the rows of others.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn with(self, other: &Self) -> Result<Self, SumOutOfRange> {
        self.combined(other, Sum::with)
    }

    /// Without the rows of others, which are among its own.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn without(self, other: &Self) -> Result<Self, SumOutOfRange> {
        self.combined(other, Sum::without)
    }

    fn combined(
        mut self,
        other: &Self,
        combine: impl Fn(Sum, Sum) -> Result<Sum, SumOutOfRange>,
    ) -> Result<Self, SumOutOfRange> {
        for (sum, other) in self.of_types.iter_mut().zip(other.of_types) {
            *sum = combine(*sum, other)?;
        }
        self.of_others = combine(self.of_others, other.of_others)?;
        Ok(self)
    }

    /// The sum of the rows of all types.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn all(&self) -> Result<Sum, SumOutOfRange> {
        self.of_types.into_iter().try_fold(self.of_others, Sum::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(units: i128, transaction_count: i64) -> Sum {
        Sum { credits: Credits::from_units(units), transaction_count }
    }

    #[test]
    fn each_type_has_its_sign_and_its_own_sum() {
        let mut sums = SumsByType::default();
        for (known, units) in [
            (Some(TransactionType::Purchase), 100),
            (Some(TransactionType::AdminGrant), 20),
            (Some(TransactionType::Usage), 3),
            (Some(TransactionType::Usage), 4),
            (Some(TransactionType::AdminRemoval), 5),
            (None, 1000),
        ] {
            sums.add(known, Credits::from_units(units), 2).unwrap();
        }
        assert_eq!(sums.of(TransactionType::Purchase), sum(100, 2));
        assert_eq!(sums.of(TransactionType::AdminGrant), sum(20, 2));
        assert_eq!(sums.of(TransactionType::Usage), sum(-7, 4));
        assert_eq!(sums.of(TransactionType::AdminRemoval), sum(-5, 2));
        assert_eq!(sums.all().unwrap(), sum(100 + 20 - 7 - 5 - 1000, 12));
        assert_eq!(sums.transaction_count(|_| true), 12);
        assert_eq!(sums.transaction_count(|wanted| wanted == Some(TransactionType::Usage)), 4);
        assert_eq!(sums.transaction_count(|wanted| wanted.is_none()), 2);
        let twice = sums.with(&sums).unwrap();
        assert_eq!(twice.of(TransactionType::Usage), sum(-14, 8));
        assert_eq!(twice.without(&sums).unwrap(), sums);
        assert_eq!(sums.without(&sums).unwrap(), SumsByType::default());
    }

    #[test]
    fn a_sum_out_of_range_is_an_error() {
        let mut most = SumsByType::default();
        most.add(Some(TransactionType::Purchase), Credits::from_units(i128::MAX), 1).unwrap();
        assert!(most.with(&most).is_err());
        assert!(SumsByType::default().without(&most).unwrap().without(&most).is_err());
        most.add(Some(TransactionType::AdminGrant), Credits::from_units(1), 1).unwrap();
        assert!(most.all().is_err());
    }
}
