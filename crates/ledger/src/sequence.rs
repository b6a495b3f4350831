//! How a sequence follows rows that come with a number of their own, so that it never gives out a number that is taken.

/// The sequence does not follow a row with this number or a higher one: one row must not use up the numbers of all later rows.
pub const BOUND: i64 = 1 << 62;

/// How far beyond its last number the sequence follows a row all the same, at [`BOUND`] and above: the numbers of a ledger may
/// have got there, and the rows of its copy come with them.
const STEP_BEYOND: i128 = 1 << 32;

/// The state of a sequence, as its page has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The last number that was given out, or the first that will be given out.
    pub last_value: i64,
    /// Whether `last_value` was given out.
    pub is_called: bool,
}

/// The parameters of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// From one number to the next.
    pub increment: i64,
    /// The highest number.
    pub max: i64,
}

impl Sequence {
    /// Whether the sequence has yet to give out this number or a higher one.
    #[must_use]
    pub const fn is_behind(self, number: i64) -> bool {
        number > self.last_value || (number == self.last_value && !self.is_called)
    }

    /// Whether rows may come with this number: it is not so high that the sequence would not follow it.
    #[must_use]
    pub fn may_follow(self, number: i64) -> bool {
        number < BOUND || i128::from(number) - i128::from(self.last_value) <= STEP_BEYOND
    }

    /// The state from which the sequence goes on behind a row with this number, a whole number of increments further. `None` if the
    /// sequence is past the number, may not follow it, or counts down.
    #[must_use]
    pub fn following(self, number: i64, definition: Definition) -> Option<Self> {
        let increment = i128::from(definition.increment);
        if !self.is_behind(number) || !self.may_follow(number) || increment <= 0 {
            return None;
        }
        let last = i128::from(self.last_value);
        let whole = |distance: i128| distance.div_euclid(increment) * increment;
        let behind = last + whole(i128::from(number) - last + increment - 1);
        let highest = last + whole(i128::from(definition.max) - last).max(0);
        let last_value = i64::try_from(behind.min(highest)).unwrap_or(self.last_value);
        Some(Self { last_value, is_called: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BY_ONE: Definition = Definition { increment: 1, max: i64::MAX };

    fn at(last_value: i64, is_called: bool) -> Sequence {
        Sequence { last_value, is_called }
    }

    #[test]
    fn it_goes_on_behind_the_row() {
        for (from, number, to) in [
            (at(1, false), 1, Some(1)),
            (at(1, false), 3, Some(3)),
            (at(1, true), 1, None),
            (at(5, true), 5, None),
            (at(5, true), 4, None),
            (at(5, true), -3, None),
            (at(5, true), 6, Some(6)),
            (at(5, false), 5, Some(5)),
            (at(5, true), BOUND - 1, Some(BOUND - 1)),
        ] {
            assert_eq!(from.following(number, BY_ONE), to.map(|last| at(last, true)), "{from:?} {number}");
        }
    }

    #[test]
    fn whole_increments_keep_the_residue() {
        let by_1024 = Definition { increment: 1024, max: i64::MAX };
        for (number, last) in [(8, 1031), (1031, 1031), (1032, 2055), (2055, 2055)] {
            assert_eq!(at(7, true).following(number, by_1024), Some(at(last, true)), "{number}");
        }
    }

    #[test]
    fn it_does_not_leave_its_range() {
        let up_to_100 = Definition { increment: 3, max: 100 };
        assert_eq!(at(2, true).following(1000, up_to_100), Some(at(98, true)));
        // A sequence whose maximum was set below the number that it had reached stays where it is.
        assert_eq!(at(200, true).following(300, up_to_100), Some(at(200, true)));
    }

    #[test]
    fn one_that_counts_down_follows_nothing() {
        assert_eq!(at(5, true).following(9, Definition { increment: -1, max: -1 }), None);
    }

    #[test]
    fn no_row_uses_up_the_numbers() {
        for number in [BOUND, i64::MAX] {
            assert!(!at(5, true).may_follow(number));
            assert_eq!(at(5, true).following(number, BY_ONE), None);
        }
        // But where the numbers themselves have got there, rows are followed.
        let high = at(BOUND - 1, true);
        assert_eq!(high.following(BOUND + 10, BY_ONE), Some(at(BOUND + 10, true)));
        assert_eq!(high.following(BOUND + (1 << 33), BY_ONE), None);
    }
}
