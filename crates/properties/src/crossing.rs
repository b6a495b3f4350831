//! What a balance can become against every outcome of the rows in flight.

use arbitrary::{Result, Unstructured};
use ledger::boundaries::Boundaries;
use ledger::credits::{Credits, SumOutOfRange};
use ledger::crossing::{Announced, Crossing, Direction, Outlook};
use ledger::overdraft::Overdraft;
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

/// Up to four thresholds about where sums come to lie.
///
/// # Errors
/// If there are too few bytes.
pub fn boundaries(input: &mut Unstructured<'_>) -> Result<Boundaries> {
    let thresholds: Result<Vec<Credits>> = (0..input.int_in_range(0..=4)?).map(|_| amount(input)).collect();
    let overdraft = match input.int_in_range(0..=3)? {
        0 => Overdraft::Unlimited,
        1 => Overdraft::UpTo(Credits::from_units(input.int_in_range(1..=9)?)),
        _ => Overdraft::default(),
    };
    Ok(Boundaries::new(overdraft, thresholds?))
}

/// What is announced at this balance.
#[must_use]
pub fn announced_at(balance: Credits, boundaries: &Boundaries) -> Announced {
    Announced { is_positive: balance > Credits::ZERO, ..Announced::default() }
        .with_thresholds_of(boundaries, |threshold| balance > threshold)
}

/// There is nothing to decide exactly if every outcome, tried one by one, is on the announced level. A sum out of range is an error.
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
    let boundaries = boundaries(input)?;
    let announced = announced_at(amount(input)?, &boundaries);
    match outlook.agrees_with(&announced) {
        Ok(agrees) => {
            let is_on_level =
                |balance: &BigInt| levels(&announced).all(|(at, above)| (balance > &at) == above);
            assert_eq!(agrees, outcomes.iter().all(is_on_level), "{outlook:?} at {announced:?}");
        }
        Err(SumOutOfRange) => {
            assert!(outcomes.iter().any(|balance| i128::try_from(balance).is_err()), "{outlook:?}");
        }
    }
    for balance in outcomes.iter().filter_map(|balance| i128::try_from(balance).ok()) {
        passes_each_boundary(&announced, &boundaries, Credits::from_units(balance));
    }
    Ok(())
}

/// Each boundary and whether the balance was announced to be above it, in any order.
fn levels(announced: &Announced) -> impl Iterator<Item = (BigInt, bool)> {
    let thresholds =
        announced.thresholds.iter().map(|threshold| (big(threshold.balance), threshold.is_above));
    thresholds.chain([(BigInt::ZERO, announced.is_positive)])
}

/// A crossing for each boundary that lies between, in the order in which a balance on its way passes them; the nearest
/// boundaries are the last that it can go without.
fn passes_each_boundary(announced: &Announced, boundaries: &Boundaries, balance: Credits) {
    let crossings = announced.crossings_to(balance);
    let mut expected: Vec<Crossing> = Vec::new();
    for (boundary, is_above) in levels(announced) {
        let boundary = Credits::from_units(i128::try_from(boundary).expect("it was one"));
        match (is_above, balance > boundary) {
            (false, true) => expected.push(Crossing { boundary, direction: Direction::Up }),
            (true, false) => expected.push(Crossing { boundary, direction: Direction::Down }),
            _ => {}
        }
    }
    expected.sort_by_key(|crossing| match crossing.direction {
        Direction::Down => -big(crossing.boundary),
        Direction::Up => big(crossing.boundary),
    });
    assert_eq!(crossings, expected, "from {announced:?} to {balance:?}");

    let after = announced.clone().moved_to(balance, 1);
    assert_eq!(after.crossings_to(balance), []);
    assert!(after.agrees_with(balance));
    let (below, above) = after.nearest();
    let all = || boundaries.thresholds().iter().copied().chain([Credits::ZERO]);
    assert_eq!(below, all().filter(|&boundary| balance > boundary).max());
    assert_eq!(above, all().filter(|&boundary| balance <= boundary).min());
}

fn big(credits: Credits) -> BigInt {
    credits.units().into()
}

fn is_below(amount: &BigInt) -> bool {
    amount < &BigInt::ZERO
}
