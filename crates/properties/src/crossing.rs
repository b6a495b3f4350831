//! What a balance can become against every outcome of the rows in flight.

use arbitrary::{Result, Unstructured};
use ledger::credits::{Credits, SumOutOfRange};
use ledger::crossing::{Direction, Outlook};
use num_bigint::BigInt;

/// An amount: mostly small, so that sums come to lie about zero, at times as large as can be.
///
/// # Errors
/// If there are too few bytes.
pub fn amount(input: &mut Unstructured<'_>) -> Result<Credits> {
    let units =
        if input.ratio(1, 16)? { input.arbitrary::<i128>()? } else { input.int_in_range(-20..=20)? };
    Ok(Credits::from_units(units))
}

/// There is nothing to decide exactly if every outcome, tried one by one, is on the announced side. A sum out of range is an error.
///
/// # Errors
/// If there are too few bytes.
pub fn agrees_with_every_outcome(input: &mut Unstructured<'_>) -> Result<()> {
    let start = amount(input)?;
    let (mut outlook, mut settled, mut in_flight) = (Outlook::new(start), big(start), Vec::new());
    for _ in 0..input.int_in_range(0..=10)? {
        let amount = amount(input)?;
        if input.arbitrary()? {
            settled += big(amount);
            if outlook.add_settled(amount) == Err(SumOutOfRange) {
                assert!(i128::try_from(settled).is_err());
                return Ok(());
            }
            assert_eq!(big(outlook.settled()), settled);
        } else if outlook.add_in_flight(amount).is_ok() {
            in_flight.push(big(amount));
        } else {
            let side: BigInt = in_flight
                .iter()
                .chain([&big(amount)])
                .filter(|row| is_below(row) == is_below(&big(amount)))
                .sum();
            assert!(i128::try_from(side).is_err(), "{amount:?} does not fit");
            return Ok(());
        }
    }
    let outcomes: Vec<BigInt> = (0..1_u32 << in_flight.len())
        .map(|outcome| {
            let commits = in_flight.iter().enumerate().filter(|(row, _)| outcome >> row & 1 == 1);
            &settled + commits.map(|(_, amount)| amount).sum::<BigInt>()
        })
        .collect();
    for announced in [false, true] {
        match outlook.agrees_with(announced) {
            Ok(agrees) => {
                let all = outcomes.iter().all(|balance| (balance > &BigInt::ZERO) == announced);
                assert_eq!(agrees, all, "{outlook:?}");
            }
            Err(SumOutOfRange) => {
                assert!(outcomes.iter().any(|balance| i128::try_from(balance).is_err()), "{outlook:?}");
            }
        }
    }
    for balance in outcomes.iter().filter_map(|balance| i128::try_from(balance).ok()) {
        for announced in [false, true] {
            let crossing = Direction::between(announced, Credits::from_units(balance));
            let expected = match (announced, balance > 0) {
                (false, true) => Some(Direction::Up),
                (true, false) => Some(Direction::Down),
                _ => None,
            };
            assert_eq!(crossing, expected);
        }
    }
    Ok(())
}

fn big(credits: Credits) -> BigInt {
    credits.units().into()
}

fn is_below(amount: &BigInt) -> bool {
    amount < &BigInt::ZERO
}
