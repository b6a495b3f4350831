//! Exact sums of credits, and the amounts that a transaction may have.

use std::fmt;

use rust_decimal::Decimal;
use thiserror::Error;

/// Decimal places of a [`Credits`] unit: one more than an amount may have, because `numeric` keeps its digits in
/// groups of four and a whole number of groups converts without a division.
pub const SCALE: u32 = 16;

/// Units in one credit.
pub const UNITS_PER_CREDIT: i128 = 10_i128.pow(SCALE);

/// Most digits that an amount may have before the decimal point.
pub const MAX_INTEGER_DIGITS: u32 = 13;

/// Most digits that an amount may have after the decimal point, trailing zeros not counted.
pub const MAX_FRACTIONAL_DIGITS: u32 = 15;

/// Units of the last decimal place of an amount.
const FINEST: i128 = 10_i128.pow(SCALE - MAX_FRACTIONAL_DIGITS);

/// A signed sum of credits, exact: a 128-bit count of units of 10^-16.
///
/// A single amount takes at most 10^29 units, so more than a billion of the largest fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credits(i128);

/// A sum left the range of 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the sum of credits is out of range")]
pub struct SumOutOfRange;

impl Credits {
    /// No credits.
    pub const ZERO: Self = Self(0);

    /// The sum of this many units of 10^-16.
    #[must_use]
    pub const fn from_units(units: i128) -> Self {
        Self(units)
    }

    /// How many units of 10^-16 this is.
    #[must_use]
    pub const fn units(self) -> i128 {
        self.0
    }

    /// Whether the user may spend: above zero.
    #[must_use]
    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// Refuses what is not the amount of a transaction.
    ///
    /// # Errors
    /// What keeps it from being one.
    pub const fn require_amount(self) -> Result<(), AmountError> {
        if self.0 <= 0 {
            Err(AmountError::NotPositive)
        } else if self.0 >= 10_i128.pow(MAX_INTEGER_DIGITS + SCALE) {
            Err(AmountError::TooLarge)
        } else if self.0 % FINEST != 0 {
            Err(AmountError::TooPrecise)
        } else {
            Ok(())
        }
    }

    /// The sum, if it is in range.
    ///
    /// # Errors
    /// [`SumOutOfRange`] if it is not.
    pub fn checked_add(self, other: Self) -> Result<Self, SumOutOfRange> {
        self.0.checked_add(other.0).map(Self).ok_or(SumOutOfRange)
    }

    /// The difference, if it is in range.
    ///
    /// # Errors
    /// [`SumOutOfRange`] if it is not.
    pub fn checked_sub(self, other: Self) -> Result<Self, SumOutOfRange> {
        self.0.checked_sub(other.0).map(Self).ok_or(SumOutOfRange)
    }
}

/// Without trailing zeros.
impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (
            self.0.unsigned_abs() / UNITS_PER_CREDIT.unsigned_abs(),
            self.0.unsigned_abs() % UNITS_PER_CREDIT.unsigned_abs(),
        );
        let sign = if self.0 < 0 { "-" } else { "" };
        if fraction == 0 {
            return write!(f, "{sign}{whole}");
        }
        let digits = format!("{fraction:016}");
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// What keeps a number from being the amount of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AmountError {
    /// `NaN`.
    #[error("NaN is not a number of credits")]
    NotANumber,
    /// Plus or minus infinity.
    #[error("infinity is not a number of credits")]
    Infinite,
    /// Zero or less: the sign of a transaction follows from its type.
    #[error("it is not above 0")]
    NotPositive,
    /// 10^13 or more.
    #[error("it has more than {MAX_INTEGER_DIGITS} integer digits")]
    TooLarge,
    /// A significant digit after the 15th decimal place.
    #[error("it has more than {MAX_FRACTIONAL_DIGITS} fractional digits")]
    TooPrecise,
}

/// The amount of one transaction: above zero, at most 13 integer and 15 fractional digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount(Decimal);

impl Amount {
    /// The amount as a decimal number, without trailing zeros.
    #[must_use]
    pub const fn as_decimal(self) -> Decimal {
        self.0
    }
}

impl TryFrom<Credits> for Amount {
    type Error = AmountError;

    fn try_from(credits: Credits) -> Result<Self, AmountError> {
        credits.require_amount()?;
        // 28 digits are what a Decimal holds.
        Decimal::try_from_i128_with_scale(credits.0 / FINEST, MAX_FRACTIONAL_DIGITS)
            .map(|decimal| Self(decimal.normalize()))
            .map_err(|_| AmountError::TooLarge)
    }
}

impl From<Amount> for Credits {
    fn from(amount: Amount) -> Self {
        // 28 digits at no more than 15 decimal places: both fit.
        Self(amount.0.mantissa() * 10_i128.pow(SCALE - amount.0.scale()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_without_trailing_zeros() {
        assert_eq!(Credits::ZERO.to_string(), "0");
        assert_eq!(Credits::from_units(UNITS_PER_CREDIT * 110).to_string(), "110");
        assert_eq!(Credits::from_units(-5_000_000_000_000_000).to_string(), "-0.5");
        assert_eq!(Credits::from_units(10).to_string(), "0.000000000000001");
    }

    #[test]
    fn sums_are_checked() {
        let max = Credits::from_units(i128::MAX);
        assert_eq!(max.checked_add(Credits::from_units(1)), Err(SumOutOfRange));
        assert_eq!(Credits::from_units(i128::MIN).checked_sub(Credits::from_units(1)), Err(SumOutOfRange));
        assert_eq!(max.checked_sub(max), Ok(Credits::ZERO));
    }

    #[test]
    fn an_amount_is_exact_or_refused() {
        let largest = Credits::from_units(10_i128.pow(29) - 10);
        assert_eq!(
            Amount::try_from(largest).unwrap().as_decimal().to_string(),
            "9999999999999.999999999999999"
        );
        assert_eq!(Credits::from(Amount::try_from(largest).unwrap()), largest);
        assert_eq!(Amount::try_from(Credits::from_units(10_i128.pow(29))), Err(AmountError::TooLarge));
        assert_eq!(Amount::try_from(Credits::from_units(11)), Err(AmountError::TooPrecise));
        assert_eq!(Amount::try_from(Credits::ZERO), Err(AmountError::NotPositive));
        assert_eq!(Amount::try_from(Credits::from_units(-10)), Err(AmountError::NotPositive));
        assert_eq!(
            Amount::try_from(Credits::from_units(UNITS_PER_CREDIT * 5 / 2)).unwrap().as_decimal().to_string(),
            "2.5"
        );
    }
}
