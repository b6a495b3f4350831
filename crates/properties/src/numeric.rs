//! Numbers on disk against big integers.

use arbitrary::{Result, Unstructured};
use ledger::credits::{Amount, AmountError, Credits, MAX_FRACTIONAL_DIGITS, MAX_INTEGER_DIGITS, SCALE};
use ledger::numeric::{DecodeError, decode, encode};
use num_bigint::{BigInt, BigUint};
use rust_decimal::Decimal;

/// A digit this many groups before the point is not multiplied out: the number is too large anyway.
const MANY_GROUPS: i32 = 64;

/// Any bytes are decoded to the number that they are, or refused for the reason that keeps it from being one.
///
/// # Errors
/// If there are too few bytes.
pub fn decodes_what_it_should(input: &mut Unstructured<'_>) -> Result<()> {
    let bytes = if input.ratio(1, 4)? {
        input.bytes(input.len().min(40))?.to_vec()
    } else {
        numeric(input)?.iter().flat_map(|word| word.to_ne_bytes()).collect()
    };
    let (decoded, expected) = (decode(&bytes).map_err(Refusal::from), reference(&bytes));
    // What is malformed may be refused for more than one reason.
    if expected == Err(Refusal::Malformed) {
        assert!(decoded.is_err(), "{bytes:?}");
    } else {
        assert_eq!(decoded, expected, "{bytes:?}");
    }
    Ok(())
}

/// Words that are laid out as a `numeric`, more often than not with the digits of one.
fn numeric(input: &mut Unstructured<'_>) -> Result<Vec<u16>> {
    let mut words = if input.ratio(3, 4)? {
        let weight = input.int_in_range(0..=0x7F)?;
        vec![0x8000 | u16::from(input.arbitrary::<bool>()?) << 13 | weight]
    } else {
        let weight: i16 =
            if input.ratio(1, 4)? { input.arbitrary()? } else { input.int_in_range(-8..=12)? };
        vec![input.int_in_range(0..=0x7FFF)?, weight.cast_unsigned()]
    };
    for _ in 0..input.int_in_range(0..=14)? {
        words.push(match input.int_in_range(0..=9)? {
            0..3 => 0,
            3 => 9999,
            4 => input.arbitrary()?,
            _ => input.int_in_range(0..=9999)?,
        });
    }
    Ok(words)
}

/// Why bytes are refused. A number that is both too large and too precise is too precise.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    Malformed,
    NotANumber,
    Infinite,
    TooPrecise,
    TooLarge,
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Malformed => Self::Malformed,
            DecodeError::Value(AmountError::NotANumber) => Self::NotANumber,
            DecodeError::Value(AmountError::Infinite) => Self::Infinite,
            DecodeError::Value(AmountError::TooPrecise) => Self::TooPrecise,
            DecodeError::Value(AmountError::TooLarge) => Self::TooLarge,
            DecodeError::Value(AmountError::NotPositive) => panic!("decode refuses no sign"),
        }
    }
}

/// As the server's source describes the format, digit by digit.
fn reference(bytes: &[u8]) -> std::result::Result<Credits, Refusal> {
    if bytes.is_empty() || bytes.len() % 2 == 1 {
        return Err(Refusal::Malformed);
    }
    let words: Vec<u16> = bytes.chunks(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]])).collect();
    let header = words[0];
    if header >> 14 == 3 {
        return Err(if header == 0xC000 { Refusal::NotANumber } else { Refusal::Infinite });
    }
    let (negative, weight, digits) = if header >> 14 == 2 {
        let weight = i32::from(header & 0x3F) - if header & 0x40 == 0 { 0 } else { 64 };
        (header & 0x2000 != 0, weight, &words[1..])
    } else {
        let Some(weight) = words.get(1) else { return Err(Refusal::Malformed) };
        (header >> 14 == 1, i32::from(weight.cast_signed()), &words[2..])
    };

    if digits.iter().any(|&digit| digit > 9999) {
        return Err(Refusal::Malformed);
    }
    let mut units = BigInt::ZERO;
    // From the last digit on: whether a number is too precise is known before how large it is.
    for (index, &digit) in digits.iter().enumerate().rev().filter(|(_, digit)| **digit > 0) {
        let place = weight - i32::try_from(index).expect("a few");
        if place < -4 {
            return Err(Refusal::TooPrecise);
        }
        if place > MANY_GROUPS {
            return Err(Refusal::TooLarge);
        }
        units += BigInt::from(digit) * BigInt::from(10_000).pow((place + 4).unsigned_abs());
    }
    i128::try_from(if negative { -units } else { units })
        .map(Credits::from_units)
        .map_err(|_| Refusal::TooLarge)
}

/// Every sum is encoded so that it is decoded again, written as rust_decimal writes it, and an amount if it is one.
///
/// # Errors
/// If there are too few bytes.
pub fn encodes_what_it_decodes(input: &mut Unstructured<'_>) -> Result<()> {
    // As many digits as it happens: most numbers of 128 bits have 39.
    let units = input.arbitrary::<i128>()? >> input.int_in_range(0..=127)?;
    let power = 10_i128.pow(input.int_in_range(0..=38)?);
    let units = match input.int_in_range(0..=9)? {
        0 => i128::MIN,
        1..5 => units / power * power,
        _ => units,
    };
    let credits = Credits::from_units(units);
    assert_eq!(decode(encode(credits).as_bytes()), Ok(credits), "{units}");
    assert_eq!(reference(encode(credits).as_bytes()), Ok(credits), "{units}");
    if units < 0 {
        // The same digits above zero: there is one number less.
        let mut bytes = encode(credits).as_bytes().to_vec();
        let header = u16::from_ne_bytes([bytes[0], bytes[1]]) & !0x2000;
        bytes[..2].copy_from_slice(&header.to_ne_bytes());
        let positive = units.checked_neg().map(Credits::from_units);
        assert_eq!(decode(&bytes), positive.ok_or(AmountError::TooLarge.into()), "{units}");
    }
    if let Ok(decimal) = Decimal::try_from_i128_with_scale(units, SCALE) {
        assert_eq!(credits.to_string(), decimal.normalize().to_string());
    }

    let digits = BigUint::from(10_u8);
    let fits = units > 0
        && BigUint::from(units.unsigned_abs()) < digits.pow(MAX_INTEGER_DIGITS + SCALE)
        && units % 10_i128.pow(SCALE - MAX_FRACTIONAL_DIGITS) == 0;
    let amount = Amount::try_from(credits);
    assert_eq!(amount.is_ok(), fits, "{units}: {amount:?}");
    if let Ok(amount) = amount {
        assert_eq!(Credits::from(amount), credits);
        assert_eq!(amount.as_decimal().to_string(), credits.to_string());
    }
    Ok(())
}
