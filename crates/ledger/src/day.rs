//! Days of the UTC calendar, by which rows are added up.

use time::Date;

/// The Julian day of 2000-01-01, from which days are counted here.
const JULIAN_DAY_OF_2000: i32 = 2_451_545;

/// Microseconds of a day. A leap second has no place in a `timestamptz`.
const LENGTH: i64 = 86_400_000_000;

/// A day of the UTC calendar, as a `date` has it: counted from 2000-01-01. The `date`s `-infinity` and `infinity` are days, too: those of
/// the `timestamptz`s of these names, and of no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i32);

impl Day {
    /// `-infinity`, before every other day.
    pub const NEVER_BEGUN: Self = Self(i32::MIN);
    /// `infinity`, after every other day.
    pub const NEVER_ENDING: Self = Self(i32::MAX);

    /// The day of a `date`, in days since 2000-01-01.
    #[inline]
    #[must_use]
    pub const fn from_date(date: i32) -> Self {
        Self(date)
    }

    /// The day of a `timestamptz`, in microseconds since 2000-01-01.
    #[inline]
    #[must_use]
    pub fn of(time: i64) -> Self {
        match time {
            i64::MIN => Self::NEVER_BEGUN,
            i64::MAX => Self::NEVER_ENDING,
            // The quotient of any time is below 2^27.
            _ => Self(i32::try_from(time.div_euclid(LENGTH)).unwrap_or(i32::MAX)),
        }
    }

    /// The `date`, in days since 2000-01-01.
    #[inline]
    #[must_use]
    pub const fn date(self) -> i32 {
        self.0
    }

    /// Its year, month and day of the month; `None` of the infinities, and where the calendar ends before: it has years of six digits, as
    /// `timestamptz`s have.
    pub(crate) fn calendar(self) -> Option<Date> {
        self.0.checked_add(JULIAN_DAY_OF_2000).and_then(|day| Date::from_julian_day(day).ok())
    }

    /// The earliest time of the day, in microseconds since 2000-01-01. For a day after the last one that a `timestamptz` can lie on:
    /// `infinity`.
    #[must_use]
    pub fn start(self) -> i64 {
        match self {
            Self::NEVER_BEGUN => i64::MIN,
            Self::NEVER_ENDING => i64::MAX,
            Self(date) => i64::from(date).saturating_mul(LENGTH),
        }
    }

    /// The earliest time after the day; `None` if there is none.
    #[must_use]
    pub fn end(self) -> Option<i64> {
        match self {
            Self::NEVER_BEGUN => Some(i64::MIN + 1),
            Self::NEVER_ENDING => None,
            Self(date) => Some((i64::from(date) + 1).saturating_mul(LENGTH)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight_and_ends_before_the_next() {
        for date in [-2_451_545, -1, 0, 1, 9_131, 106_751_991, 1_000_000_000] {
            let day = Day::from_date(date);
            assert_eq!(day.date(), date);
            assert_eq!(day.end(), Some(Day::from_date(date + 1).start()));
            if date <= 106_751_990 {
                assert_eq!(Day::of(day.start()), day);
                assert_eq!(Day::of(day.start() + LENGTH - 1), day);
                assert_eq!(Day::of(day.start() - 1), Day::from_date(date - 1));
            }
        }
    }

    #[test]
    fn the_infinities_are_days_of_their_own() {
        assert_eq!(Day::of(i64::MIN), Day::NEVER_BEGUN);
        assert_eq!(Day::of(i64::MAX), Day::NEVER_ENDING);
        assert_eq!((Day::NEVER_BEGUN.start(), Day::NEVER_BEGUN.end()), (i64::MIN, Some(i64::MIN + 1)));
        assert_eq!((Day::NEVER_ENDING.start(), Day::NEVER_ENDING.end()), (i64::MAX, None));
        // The last date that there is, long after the last timestamp, ends before infinity.
        assert_eq!(Day::from_date(2_145_031_948).end(), Some(i64::MAX));
    }

    #[test]
    fn days_are_in_the_order_of_their_times() {
        let times = [i64::MIN, -LENGTH - 1, -LENGTH, -1, 0, LENGTH - 1, LENGTH, i64::MAX];
        assert!(times.map(Day::of).is_sorted());
        assert_eq!(times.map(Day::of).map(Day::date), [i32::MIN, -2, -1, -1, 0, 0, 1, i32::MAX]);
    }
}
