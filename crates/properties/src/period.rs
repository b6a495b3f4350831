//! Days, weeks and months against a calendar that goes through the days one by one.

use arbitrary::{Result, Unstructured};
use ledger::day::Day;
use ledger::period::Period;

const DAY: i64 = 86_400_000_000;
/// The days after which the calendar repeats itself, whole weeks.
const FOUR_CENTURIES: i64 = 146_097;

/// A moment: any, or one about the end of a day of these centuries.
///
/// # Errors
/// If there are too few bytes.
pub fn moment(input: &mut Unstructured<'_>) -> Result<i64> {
    if input.ratio(1, 4)? {
        return Ok(match input.int_in_range(0..=9)? {
            0 => i64::MIN,
            1 => i64::MAX,
            2 => i64::MIN + input.int_in_range(0..=40 * 86_400_000_000)?,
            3 => i64::MAX - input.int_in_range(0..=40 * 86_400_000_000)?,
            _ => input.arbitrary()?,
        });
    }
    let midnight = Day::from_date(input.int_in_range(-50_000..=50_000)?).start();
    Ok(midnight
        + if input.arbitrary()? {
            input.int_in_range(-2..=2)?
        } else {
            input.int_in_range(0..=86_399_999_999)?
        })
}

/// The first days of the period that a day lies in and of the next one, going back and forth day by day.
#[must_use]
pub fn days(period: Period, day: i64) -> (i64, i64) {
    let begins = |day: i64| match period {
        Period::Daily => true,
        // 2000-01-01 was a Saturday.
        Period::Weekly => (day - 2).rem_euclid(7) == 0,
        Period::Monthly => is_first_of_month(day),
    };
    let first = (0..).map(|back| day - back).find(|&day| begins(day)).expect("each period begins");
    let next = (1..).map(|ahead| day + ahead).find(|&day| begins(day)).expect("each period ends");
    (first, next)
}

/// Whether a month begins on this day, counted from 2000-01-01.
fn is_first_of_month(day: i64) -> bool {
    let mut left = day.rem_euclid(FOUR_CENTURIES);
    for year in 2000..2400 {
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = 365 + i64::from(is_leap);
        if left >= length {
            left -= length;
            continue;
        }
        for month in [31, 28 + i64::from(is_leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
            if left < month {
                return left == 0;
            }
            left -= month;
        }
    }
    unreachable!("the centuries have as many days")
}

/// The period of a moment is the one that the slow calendar finds, and so is that of its first and its last moment. What no number holds is
/// infinite, and the infinities lie in no period.
///
/// # Errors
/// If there are too few bytes.
pub fn periods_are_those_of_the_calendar(input: &mut Unstructured<'_>) -> Result<()> {
    let at = moment(input)?;
    for period in Period::ALL {
        let (start, end) = (period.start(at), period.end(at));
        if at == i64::MIN || at == i64::MAX {
            assert_eq!((start, end), (at, at), "{period:?} of an infinity");
            continue;
        }
        let (first, next) = days(period, at.div_euclid(DAY));
        assert_eq!((start, end), (first.saturating_mul(DAY), next.saturating_mul(DAY)), "{period:?} of {at}");
        assert!(start <= at && at < end, "{period:?} of {at}");
        if start > i64::MIN {
            assert_eq!((period.start(start), period.end(start)), (start, end), "{period:?} of {at}");
            assert_eq!(period.end(start - 1), start, "{period:?} before {at}");
        }
        if end < i64::MAX {
            assert_eq!((period.start(end - 1), period.end(end - 1)), (start, end), "{period:?} of {at}");
            assert_eq!(period.start(end), end, "{period:?} after {at}");
        }
    }
    Ok(())
}
