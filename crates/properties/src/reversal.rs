//! What reversals may take back against transactions that take back one after the other.

use arbitrary::{Result, Unstructured};
use ledger::credits::Credits;
use ledger::id::UserId;
use ledger::reversal::{Original, Refusal, Reversals};
use ledger::transaction_type::TransactionType;
use num_bigint::BigInt;

use crate::crossing::amount;

/// A row that names the original, of a type and an amount.
type Row = (Option<TransactionType>, Credits);

/// What a transaction brings is refused exactly if it may not take back the original, or more than what those that have committed
/// have left. So all together never exceed it, but for what a restore has brought. A sum out of range is an error.
///
/// # Errors
/// If there are too few bytes.
pub fn take_back_what_there_was(input: &mut Unstructured<'_>) -> Result<()> {
    const ACCOUNTS: [UserId; 2] = [UserId::from_bytes([1; 16]), UserId::from_bytes([2; 16])];
    let original = Original {
        user: ACCOUNTS[0],
        kind: kind(input)?,
        amount: positive(input)?,
        is_reversal: input.ratio(1, 16)?,
    };
    let account = ACCOUNTS[usize::from(input.ratio(1, 16)?)];
    // A restore brings what was let in where it comes from.
    let mut committed = rows(input, original, 0..=3)?;
    let restored = sum(&committed);
    for _ in 0..input.int_in_range(1..=6)? {
        let own = rows(input, original, 0..=3)?;
        let mut reversals = Reversals::new(original, account);
        // They are met in any order.
        let (mut others, mut mine) = (committed.iter(), own.iter());
        let (mut earlier, mut asked) = (BigInt::ZERO, BigInt::ZERO);
        loop {
            let is_own = input.arbitrary()?;
            let (first, second) =
                if is_own { (mine.next(), &mut others) } else { (others.next(), &mut mine) };
            let (is_own, row) = match first {
                Some(row) => (is_own, row),
                None => match second.next() {
                    Some(row) => (!is_own, row),
                    None => break,
                },
            };
            let total = if is_own { &mut asked } else { &mut earlier };
            *total += big(row.1);
            let (kind, amount) = *row;
            let added = if is_own { reversals.add_own(kind, amount) } else { reversals.add_earlier(amount) };
            if added.is_err() {
                assert!(i128::try_from(&*total).is_err(), "{total} fits");
                return Ok(());
            }
        }
        let left = (big(original.amount) - &earlier).max(BigInt::ZERO);
        assert_eq!(reversals.left().map(big), Ok(left.clone()), "{reversals:?}");
        let verdict = reversals.verdict().expect("what is left fits");
        let opposite = original.kind.map(TransactionType::of_reversal);
        let expected = if own.is_empty() {
            Ok(())
        } else if original.is_reversal {
            Err(Refusal::OfReversal)
        } else if account != original.user {
            Err(Refusal::OtherAccount)
        } else {
            match original.kind {
                None => Err(Refusal::UnknownType),
                Some(kind) if own.iter().any(|row| row.0 != opposite) => {
                    Err(Refusal::OtherType { original: kind })
                }
                Some(_) if asked > left => Err(Refusal::Exceeds { left: small(left), asked: small(asked) }),
                Some(_) => Ok(()),
            }
        };
        assert_eq!(verdict, expected, "{reversals:?}");
        if verdict.is_ok() {
            committed.extend(own);
        }
        let taken = sum(&committed);
        assert!(taken <= restored.clone().max(big(original.amount)), "{taken} of {original:?}");
    }
    Ok(())
}

/// Some rows, mostly of the opposite type.
fn rows(
    input: &mut Unstructured<'_>,
    original: Original,
    count: std::ops::RangeInclusive<u8>,
) -> Result<Vec<Row>> {
    (0..input.int_in_range(count)?)
        .map(|_| {
            let opposite = original.kind.map(TransactionType::of_reversal);
            Ok((if input.ratio(1, 8)? { kind(input)? } else { opposite }, positive(input)?))
        })
        .collect()
}

fn kind(input: &mut Unstructured<'_>) -> Result<Option<TransactionType>> {
    Ok(if input.ratio(1, 16)? { None } else { Some(*input.choose(&TransactionType::ALL)?) })
}

fn positive(input: &mut Unstructured<'_>) -> Result<Credits> {
    Ok(Credits::from_units(amount(input)?.units().checked_abs().unwrap_or(i128::MAX).max(1)))
}

fn sum(rows: &[Row]) -> BigInt {
    rows.iter().map(|row| big(row.1)).sum()
}

fn big(credits: Credits) -> BigInt {
    credits.units().into()
}

fn small(sum: BigInt) -> Credits {
    Credits::from_units(i128::try_from(sum).expect("it fits"))
}
