//! The rows before a moment, as days that are added up already and a part of one that is not.

use std::ops::Range;

use crate::day::Day;

/// The rows with a `created_at` before a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Before {
    /// All of the days before this one.
    pub day: Day,
    /// And the rows between these moments, the first of them included: of the day in which the moment lies.
    pub part: Option<Part>,
}

/// Rows of a part of a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Their times.
    pub times: Range<i64>,
    /// Whether they are to be added to the days; otherwise they are among those, and to be taken away.
    pub is_added: bool,
}

impl Before {
    /// The rows before a moment. It cuts its day in two; `part` is the one that is likely to have fewer rows: the shorter one, of which what
    /// comes after `now` is not counted. With the same `now`, a later moment has no earlier `day`.
    #[must_use]
    pub fn moment(moment: i64, now: i64) -> Self {
        let day = Day::of(moment);
        // The only moment that ends a day without being in the next one is that after `-infinity`.
        if Day::NEVER_BEGUN.end() == Some(moment) {
            return Self { day: Day::from_date(Day::NEVER_BEGUN.date() + 1), part: None };
        }
        let start = day.start();
        let Some(end) = day.end().filter(|_| start < moment) else { return Self { day, part: None } };
        let (earlier, later) = (moment - start, end.min(now.max(moment)) - moment);
        if earlier <= later {
            Self { day, part: Some(Part { times: start..moment, is_added: true }) }
        } else {
            Self { day: Day::of(end), part: Some(Part { times: moment..end, is_added: false }) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;
    const DAY: i64 = 24 * HOUR;

    /// What a time counts for: once if it is before the moment, else not at all.
    fn count(before: &Before, time: i64) -> i32 {
        let part = before.part.as_ref().filter(|part| part.times.contains(&time));
        i32::from(Day::of(time) < before.day) + part.map_or(0, |part| if part.is_added { 1 } else { -1 })
    }

    #[test]
    fn each_time_before_the_moment_counts_once() {
        let mut times = vec![i64::MIN, i64::MAX];
        for day in [-3, -1, 0, 1, 9000] {
            for offset in [0, 1, HOUR, 12 * HOUR - 1, 12 * HOUR, 12 * HOUR + 1, 20 * HOUR, DAY - 1] {
                times.push(day * DAY + offset);
            }
        }
        let moments = [times.clone(), vec![i64::MIN + 1]].concat();
        for &moment in &moments {
            for &now in &times {
                let before = Before::moment(moment, now);
                for &time in &times {
                    assert_eq!(
                        count(&before, time),
                        i32::from(time < moment),
                        "{time} before {moment} at {now}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_later_moment_has_no_earlier_day() {
        let times = || (-2 * DAY..=2 * DAY).step_by(usize::try_from(HOUR / 2).unwrap());
        for now in times() {
            let days = [i64::MIN, i64::MIN + 1].into_iter().chain(times()).chain([i64::MAX]);
            assert!(days.map(|moment| Before::moment(moment, now).day).is_sorted(), "{now}");
        }
    }

    #[test]
    fn the_part_is_the_one_with_fewer_rows() {
        let part = |moment, now| Before::moment(moment, now).part.map(|part| (part.times, part.is_added));
        let long_after = 100 * DAY;
        assert_eq!(part(5 * DAY, long_after), None);
        assert_eq!(part(5 * DAY + HOUR, long_after), Some((5 * DAY..5 * DAY + HOUR, true)));
        assert_eq!(part(6 * DAY - HOUR, long_after), Some((6 * DAY - HOUR..6 * DAY, false)));
        // What is to come is hardly there.
        let moment = 5 * DAY + HOUR;
        assert_eq!(part(moment, moment), Some((moment..6 * DAY, false)));
        assert_eq!(part(moment, 0), Some((moment..6 * DAY, false)));
        assert_eq!(part(moment, moment + 2 * HOUR), Some((5 * DAY..moment, true)));
    }

    #[test]
    fn the_infinities_cut_no_day() {
        assert_eq!(Before::moment(i64::MIN, 0), Before { day: Day::NEVER_BEGUN, part: None });
        assert_eq!(Before::moment(i64::MAX, 0), Before { day: Day::NEVER_ENDING, part: None });
    }
}
