//! The on-disk form of Postgres' `numeric`, to and from [`Credits`].
//!
//! The form is `NumericData` in `src/backend/utils/adt/numeric.c`, unchanged since Postgres 9.1: a header with sign,
//! display scale and weight, in a short or a long layout, then base-10000 digits, most significant first. The length
//! word in front of it is the caller's. Digits and header words are in the machine's byte order.

use thiserror::Error;

use crate::credits::{AmountError, Credits, SCALE};

const SIGN_MASK: u16 = 0xC000;
const NEGATIVE: u16 = 0x4000;
const SHORT: u16 = 0x8000;
const SPECIAL: u16 = 0xC000;
const NAN: u16 = 0xC000;
const INFINITY: u16 = 0xD000;
const SHORT_NEGATIVE: u16 = 0x2000;
const SHORT_SCALE_SHIFT: u16 = 7;
const SHORT_WEIGHT_NEGATIVE: u16 = 0x0040;
const SHORT_WEIGHT_MASK: u16 = 0x003F;

const BASE: i128 = 10_000;
/// 10000^n, as far as 128 bits reach.
const POWERS: [i128; MAX_GROUPS] = {
    let mut powers = [1; MAX_GROUPS];
    let mut n = 1;
    while n < MAX_GROUPS {
        powers[n] = powers[n - 1] * BASE;
        n += 1;
    }
    powers
};
/// Base-10000 digits after the decimal point in a unit of [`Credits`].
const FRACTION_GROUPS: i32 = 4;
const _: () = assert!(SCALE == 4 * FRACTION_GROUPS.unsigned_abs());
/// Base-10000 digits of the largest [`Credits`]: 39 decimal digits.
const MAX_GROUPS: usize = 10;

/// Bytes that are not a `numeric`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Not a number of credits that a sum could hold.
    #[error(transparent)]
    Value(#[from] AmountError),
    /// Cut short, of an odd length, or with a digit above 9999.
    #[error("these bytes are not a numeric")]
    Malformed,
}

/// The value of a `numeric`, without its length word.
///
/// # Errors
/// [`AmountError::TooPrecise`] if it has a significant digit below 10^-16, [`AmountError::TooLarge`] if it does not fit
/// 128 bits; NaN and the infinities have their own.
pub fn decode(bytes: &[u8]) -> Result<Credits, DecodeError> {
    if bytes.len() < 2 || !bytes.len().is_multiple_of(2) {
        return Err(DecodeError::Malformed);
    }
    let word = |index: usize| u16::from_ne_bytes([bytes[2 * index], bytes[2 * index + 1]]);
    let words = bytes.len() / 2;
    let header = word(0);
    let (negative, weight, first) = match header & SIGN_MASK {
        SPECIAL if header == NAN => return Err(AmountError::NotANumber.into()),
        SPECIAL => return Err(AmountError::Infinite.into()),
        SHORT => {
            let magnitude = i32::from(header & SHORT_WEIGHT_MASK);
            // Seven bits of two's complement.
            let weight = if header & SHORT_WEIGHT_NEGATIVE == 0 { magnitude } else { magnitude - 64 };
            (header & SHORT_NEGATIVE != 0, weight, 1)
        }
        sign => {
            if words < 2 {
                return Err(DecodeError::Malformed);
            }
            (sign == NEGATIVE, i32::from(i16::from_ne_bytes([bytes[2], bytes[3]])), 2)
        }
    };

    let mut groups = first..words;
    while groups.end > first && word(groups.end - 1) == 0 {
        groups.end -= 1;
    }
    if groups.is_empty() {
        return Ok(Credits::ZERO);
    }
    // The last digit, which is not zero, counts units of 10000^(weight + 1 - digits); a unit of Credits is 10000^-4.
    let digits = i32::try_from(groups.len()).map_err(|_| AmountError::TooLarge)?;
    let shift =
        usize::try_from(weight + 1 - digits + FRACTION_GROUPS).map_err(|_| AmountError::TooPrecise)?;
    let digit = |index| if word(index) < 10_000 { Ok(word(index)) } else { Err(DecodeError::Malformed) };
    // Counted below zero, where there is room for one more. Four digits fit 64 bits, and most amounts have no more.
    let head = first..groups.end.min(first + 4);
    let tail = head.end..groups.end;
    let mut units: i64 = 0;
    for index in head {
        units = units * 10_000 - i64::from(digit(index)?);
    }
    let mut units = i128::from(units);
    for index in tail {
        let digit = i128::from(digit(index)?);
        units = units
            .checked_mul(BASE)
            .and_then(|units| units.checked_sub(digit))
            .ok_or(AmountError::TooLarge)?;
    }
    let units = POWERS.get(shift).and_then(|factor| units.checked_mul(*factor));
    let units = if negative { units } else { units.and_then(i128::checked_neg) };
    Ok(Credits::from_units(units.ok_or(AmountError::TooLarge)?))
}

/// Whether a `numeric`, without its length word, is `Infinity`.
#[must_use]
pub fn is_infinity(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(|&header| u16::from_ne_bytes(header) == INFINITY)
}

/// `Infinity` as a `numeric`.
#[must_use]
pub fn infinity() -> Encoded {
    let mut encoded = Encoded { bytes: [0; 2 + 2 * MAX_GROUPS], len: 2 };
    encoded.bytes[..2].copy_from_slice(&INFINITY.to_ne_bytes());
    encoded
}

/// A `numeric` without its length word, as [`encode`] makes it.
#[derive(Clone, Copy, Debug)]
pub struct Encoded {
    bytes: [u8; 2 + 2 * MAX_GROUPS],
    len: usize,
}

impl Encoded {
    /// The bytes to store behind a length word.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The sum as a `numeric` in the short layout, with no more decimal places than it needs.
#[must_use]
pub fn encode(credits: Credits) -> Encoded {
    let mut groups = [0_u16; MAX_GROUPS];
    let mut rest = credits.units().unsigned_abs();
    for group in groups.iter_mut().rev() {
        // Below 10000 by construction.
        *group = u16::try_from(rest % BASE.unsigned_abs()).unwrap_or_default();
        rest /= BASE.unsigned_abs();
    }
    let mut encoded = Encoded { bytes: [0; 2 + 2 * MAX_GROUPS], len: 2 };
    let (Some(first), Some(last)) =
        (groups.iter().position(|&group| group != 0), groups.iter().rposition(|&group| group != 0))
    else {
        encoded.bytes[..2].copy_from_slice(&SHORT.to_ne_bytes());
        return encoded;
    };

    let point = MAX_GROUPS - 4;
    let display_scale = if last < point {
        0
    } else {
        let places = (last + 1 - point) * 4;
        let zeros = [1000, 100, 10].iter().filter(|&&power| groups[last] % power == 0).count();
        // 1000 divides only what 100 and 10 divide too, so the count is the number of trailing zeros.
        places - zeros
    };
    let weight_magnitude = if first < point { point - 1 - first } else { first + 1 - point };
    let small = |value: usize| u16::try_from(value).unwrap_or_default();
    let weight = if first < point {
        small(weight_magnitude)
    } else {
        SHORT_WEIGHT_NEGATIVE | (64 - small(weight_magnitude)) & SHORT_WEIGHT_MASK
    };
    let sign = if credits.units() < 0 { SHORT_NEGATIVE } else { 0 };
    let header = SHORT | sign | (small(display_scale) << SHORT_SCALE_SHIFT) | weight;

    encoded.bytes[..2].copy_from_slice(&header.to_ne_bytes());
    for group in &groups[first..=last] {
        encoded.bytes[encoded.len..encoded.len + 2].copy_from_slice(&group.to_ne_bytes());
        encoded.len += 2;
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credits::UNITS_PER_CREDIT;

    fn bytes(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn decodes_both_layouts() {
        // 110: short, weight 0
        assert_eq!(decode(&bytes(&[0x8000, 110])), Ok(Credits::from_units(110 * UNITS_PER_CREDIT)));
        // -12345.6: short, weight 1, scale 1
        assert_eq!(
            decode(&bytes(&[0x8000 | 0x2000 | (1 << 7) | 1, 1, 2345, 6000])),
            Ok(Credits::from_units(-123_456 * UNITS_PER_CREDIT / 10))
        );
        // 0.000000000000001: short, weight -4
        assert_eq!(decode(&bytes(&[0x8000 | (15 << 7) | 0x40 | 60, 10])), Ok(Credits::from_units(10)));
        // 110 in the long layout, with 70 decimal places displayed
        assert_eq!(decode(&bytes(&[70, 0, 110])), Ok(Credits::from_units(110 * UNITS_PER_CREDIT)));
        assert_eq!(decode(&bytes(&[0x8000])), Ok(Credits::ZERO));
    }

    #[test]
    fn knows_infinity() {
        assert!(is_infinity(infinity().as_bytes()));
        assert_eq!(infinity().as_bytes(), bytes(&[0xD000]));
        for other in [&[0xF000][..], &[0xC000], &[0x8000], &[0x8000, 110], &[]] {
            assert!(!is_infinity(&bytes(other)), "{other:?}");
        }
    }

    #[test]
    fn refuses_what_is_no_exact_sum() {
        let value = |words: &[u16]| match decode(&bytes(words)) {
            Err(DecodeError::Value(error)) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(value(&[0xC000]), AmountError::NotANumber);
        assert_eq!(value(&[0xD000]), AmountError::Infinite);
        assert_eq!(value(&[0xF000]), AmountError::Infinite);
        assert_eq!(value(&[0x8000 | 40, 1]), AmountError::TooLarge);
        assert_eq!(value(&[0, 30000, 1]), AmountError::TooLarge);
        assert_eq!(value(&[0x8000 | (17 << 7) | 0x40 | 59, 1000]), AmountError::TooPrecise);
        // 1.2345 and so on, 60 decimal places: too precise, not too large, though its digits do not fit.
        assert_eq!(value(&[&[0x8000 | (60 << 7), 1][..], &[2345; 15]].concat()), AmountError::TooPrecise);
        assert_eq!(decode(&bytes(&[0x8000, 10_000])), Err(DecodeError::Malformed));
        assert_eq!(decode(&[1]), Err(DecodeError::Malformed));
        assert_eq!(decode(&[]), Err(DecodeError::Malformed));
        assert_eq!(decode(&bytes(&[0])), Err(DecodeError::Malformed));
    }

    #[test]
    fn encodes_what_it_decodes() {
        let mut samples: Vec<i128> = vec![0, 1, 10, i128::MAX, -i128::MAX, i128::MIN];
        for power in 0..38 {
            let value = 10_i128.pow(power);
            samples.extend([value, -value, value * 7, value - 1, value / 3 + 1]);
        }
        for units in samples {
            let credits = Credits::from_units(units);
            assert_eq!(decode(encode(credits).as_bytes()), Ok(credits), "{units}");
        }
    }

    #[test]
    fn encodes_no_more_decimal_places_than_needed() {
        let scale = |units: i128| {
            let encoded = encode(Credits::from_units(units));
            let header = u16::from_ne_bytes([encoded.as_bytes()[0], encoded.as_bytes()[1]]);
            (header >> SHORT_SCALE_SHIFT) & 0x3F
        };
        assert_eq!(scale(110 * UNITS_PER_CREDIT), 0);
        assert_eq!(scale(UNITS_PER_CREDIT / 2), 1);
        assert_eq!(scale(UNITS_PER_CREDIT / 1000), 3);
        assert_eq!(scale(10), 15);
    }
}
