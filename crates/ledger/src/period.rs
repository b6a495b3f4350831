//! Days, weeks and months of the UTC calendar, after each of which a spend cap begins anew.

use crate::day::Day;

/// The Monday after 2000-01-01, a Saturday.
const A_MONDAY: i32 = 2;

/// How often a spend cap begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Each midnight.
    Daily,
    /// Each midnight from Sunday to Monday.
    Weekly,
    /// At the first midnight of each month.
    Monthly,
}

impl Period {
    /// All of them, the shortest first.
    pub const ALL: [Self; 3] = [Self::Daily, Self::Weekly, Self::Monthly];

    /// The period with this name; `None` if there is none.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|period| period.as_str().as_bytes() == name)
    }

    /// Its name in `spend_caps`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }

    /// When the period began that a moment lies in. Moments are in microseconds since 2000-01-01 UTC; `-infinity` and `infinity` lie in no
    /// period, and are returned as they are. A start that no `i64` holds is `-infinity`: no `timestamptz` is that early.
    #[must_use]
    pub fn start(self, at: i64) -> i64 {
        self.days(at).map_or(at, |(first, _)| Day::from_date(first).start())
    }

    /// The first moment after the period that a moment lies in, as [`Self::start`] has it. An end that no `i64` holds is `infinity`: no
    /// `timestamptz` is that late.
    #[must_use]
    pub fn end(self, at: i64) -> i64 {
        self.days(at).map_or(at, |(_, next)| Day::from_date(next).start())
    }

    /// The first day of the period that a moment lies in, and the first one after it. `None` of an infinity.
    fn days(self, at: i64) -> Option<(i32, i32)> {
        let day = match Day::of(at) {
            Day::NEVER_BEGUN | Day::NEVER_ENDING => return None,
            day => day.date(),
        };
        Some(match self {
            Self::Daily => (day, day + 1),
            Self::Weekly => {
                let monday = day - (day - A_MONDAY).rem_euclid(7);
                (monday, monday + 7)
            }
            Self::Monthly => {
                // The calendar has the day of any moment.
                let date = Day::of(at).calendar()?;
                let first = day - i32::from(date.day()) + 1;
                (first, first + i32::from(date.month().length(date.year())))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use time::{Date, Month, Time};

    use super::*;

    /// The moment with this date and time, in microseconds since 2000-01-01.
    fn at(year: i32, month: u8, day: u8, (hour, minute, second, microsecond): (u8, u8, u8, u32)) -> i64 {
        let date = Date::from_calendar_date(year, Month::try_from(month).unwrap(), day).unwrap();
        let time = Time::from_hms_micro(hour, minute, second, microsecond).unwrap();
        let epoch = Date::from_calendar_date(2000, Month::January, 1).unwrap().midnight();
        i64::try_from((date.with_time(time) - epoch).whole_microseconds()).unwrap()
    }

    fn midnight(year: i32, month: u8, day: u8) -> i64 {
        at(year, month, day, (0, 0, 0, 0))
    }

    #[test]
    fn names_are_those_of_the_table() {
        assert_eq!(Period::ALL.map(Period::as_str), ["daily", "weekly", "monthly"]);
        for period in Period::ALL {
            assert_eq!(Period::parse(period.as_str().as_bytes()), Some(period));
        }
        assert_eq!(Period::parse(b"Daily"), None);
        assert_eq!(Period::parse(b"yearly"), None);
        assert_eq!(Period::parse(b""), None);
    }

    #[test]
    fn a_moment_lies_in_its_day_week_and_month() {
        use Period::{Daily, Monthly, Weekly};
        // a Sunday
        let last = at(2026, 11, 29, (23, 59, 59, 999_999));
        for now in [midnight(2026, 11, 29), last] {
            assert_eq!((Daily.start(now), Daily.end(now)), (midnight(2026, 11, 29), midnight(2026, 11, 30)));
            assert_eq!(
                (Weekly.start(now), Weekly.end(now)),
                (midnight(2026, 11, 23), midnight(2026, 11, 30))
            );
            assert_eq!(
                (Monthly.start(now), Monthly.end(now)),
                (midnight(2026, 11, 1), midnight(2026, 12, 1))
            );
        }
        let next = last + 1;
        assert_eq!(Daily.start(next), next);
        assert_eq!((Weekly.start(next), Weekly.end(next)), (next, midnight(2026, 12, 7)));
        assert_eq!(Monthly.start(next), midnight(2026, 11, 1));
        // The year ends within a week.
        let now = midnight(2027, 1, 1);
        assert_eq!((Weekly.start(now), Weekly.end(now)), (midnight(2026, 12, 28), midnight(2027, 1, 4)));
        assert_eq!((Monthly.start(now), Monthly.end(now)), (now, midnight(2027, 2, 1)));
    }

    #[test]
    fn months_are_as_long_as_the_calendar_has_them() {
        for (year, days) in [(1900, 28), (1999, 28), (2000, 29), (2023, 28), (2024, 29), (2100, 28), (-4, 29)]
        {
            let (february, march) = (midnight(year, 2, 1), midnight(year, 3, 1));
            assert_eq!(march - february, days * 86_400_000_000);
            assert_eq!((Period::Monthly.start(february), Period::Monthly.end(march - 1)), (february, march));
        }
        let december = at(2026, 12, 31, (12, 0, 0, 0));
        assert_eq!(Period::Monthly.start(december), midnight(2026, 12, 1));
        assert_eq!(Period::Monthly.end(december), midnight(2027, 1, 1));
    }

    #[test]
    fn before_2000_is_as_after() {
        use Period::{Daily, Monthly, Weekly};
        let now = at(1999, 12, 31, (23, 59, 59, 999_999));
        assert_eq!(now, -1);
        assert_eq!((Daily.start(now), Daily.end(now)), (midnight(1999, 12, 31), 0));
        assert_eq!((Weekly.start(now), Weekly.end(now)), (midnight(1999, 12, 27), midnight(2000, 1, 3)));
        assert_eq!((Monthly.start(now), Monthly.end(now)), (midnight(1999, 12, 1), 0));
    }

    #[test]
    fn every_timestamp_has_its_period() {
        // The first and the last that Postgres has: 4714-11-24 BC, a Monday, and the end of 294276.
        let (first, last) = (midnight(-4713, 11, 24), midnight(294_277, 1, 1) - 1);
        assert_eq!((first, last), (-211_813_488_000_000_000, 9_223_371_331_199_999_999));
        assert_eq!(Period::Daily.start(first), first);
        assert_eq!(Period::Weekly.start(first), first);
        assert_eq!(Period::Monthly.start(first), midnight(-4713, 11, 1));
        assert_eq!((Period::Daily.end(last), Period::Monthly.end(last)), (last + 1, last + 1));
        assert_eq!(Period::Monthly.start(last), midnight(294_276, 12, 1));
        assert!(Period::ALL.iter().all(|period| period.end(last) < i64::MAX));
    }

    #[test]
    fn what_no_number_holds_is_infinite() {
        for period in Period::ALL {
            for infinity in [i64::MIN, i64::MAX] {
                assert_eq!((period.start(infinity), period.end(infinity)), (infinity, infinity));
            }
            assert_eq!(period.start(i64::MIN + 1), i64::MIN);
            assert!(period.end(i64::MIN + 1) > i64::MIN + 1);
            assert_eq!(period.end(i64::MAX - 1), i64::MAX);
            assert!(period.start(i64::MAX - 1) < i64::MAX - 1);
        }
    }
}
