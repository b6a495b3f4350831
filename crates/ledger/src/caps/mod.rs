//! Spend caps of an account: what some of its API keys have spent in a window, and when that reaches what a cap allows.
//!
//! Spending is gross: it only grows, but for what rolls back. So a cap is a boundary that only charges can reach. A row counts in the window
//! of its `created_at` alone, which may be a window to come. A window ends with its period, in UTC, and the next one begins with what is
//! dated in it: nothing is announced by that.

mod spend;

pub use self::spend::{Asked, CapRefusal, CapSpend, Clock, Left};

use crate::credits::{Credits, SumOutOfRange};
use crate::day::Day;
use crate::id::{ApiKeyId, CapId};
use crate::period::Period;

/// The most caps that an account may have.
pub const MOST_CAPS: usize = 16;

/// A cap, as its row in `spend_caps` says. Times are in microseconds since 2000-01-01 UTC; the ends of the range are the infinities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cap {
    /// Its id.
    pub id: CapId,
    /// The keys whose usage counts; `None`: all usage, also without a key.
    pub keys: Option<Vec<ApiKeyId>>,
    /// After what spending begins anew; `None`: never.
    pub period: Option<Period>,
    /// Spending that reaches it reaches the cap.
    pub amount: Credits,
    /// Usage from before does not count.
    pub since: i64,
    /// Whether holds and charges that would exceed it are refused.
    pub is_enforced: bool,
}

impl Cap {
    /// Whether usage with this key, or without one, counts.
    #[must_use]
    pub fn has_key(&self, key: Option<ApiKeyId>) -> bool {
        match &self.keys {
            None => true,
            Some(keys) => key.is_some_and(|key| keys.contains(&key)),
        }
    }

    /// The window that a moment lies in.
    #[must_use]
    pub fn window_at(&self, moment: i64) -> Window {
        let (start, end) = match self.period {
            None => (i64::MIN, None),
            Some(period) => (period.start(moment), Some(period.end(moment))),
        };
        Window { start: self.since.max(start), end }
    }
}

/// The time in which usage counts for a cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first moment of it.
    pub start: i64,
    /// The first moment after it; `None` if it does not end.
    pub end: Option<i64>,
}

/// What the last notification about a cap said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnouncedCap {
    /// The cap.
    pub id: CapId,
    /// Until when it was announced to be reached: the end of that window, `i64::MAX` if it does not end. `None`: it was not, or it was
    /// announced not to be any more.
    pub reached_until: Option<i64>,
}

impl AnnouncedCap {
    /// Until when the cap counts as announced to be reached, if it does at this moment.
    #[must_use]
    pub fn reached_at(&self, moment: i64) -> Option<i64> {
        self.reached_until.filter(|&until| moment < until)
    }
}

/// What a cap became, to be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapChange {
    /// The cap.
    pub id: CapId,
    /// What it became.
    pub state: CapState,
}

/// What was spent in the current window, compared with what a cap allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapState {
    /// As much as the cap allows, or more.
    Reached {
        /// When spending begins anew; `None`: never.
        resets_at: Option<i64>,
    },
    /// Less.
    Open,
}

impl CapState {
    /// The word for it in notifications.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reached { .. } => "reached",
            Self::Open => "open",
        }
    }
}

/// A midnight, as notifications have it: `2026-12-01T00:00:00Z`.
#[must_use]
pub fn iso_midnight(at: i64) -> String {
    Day::of(at).calendar().map_or_else(String::new, |date| {
        format!("{:04}-{:02}-{:02}T00:00:00Z", date.year(), u8::from(date.month()), date.day())
    })
}

/// What is left to spend before any of an account's caps may be reached. `None`: one may be reached already that has not been announced, or
/// what was announced is of other caps.
///
/// # Errors
/// [`SumOutOfRange`].
pub fn left_of(spends: &[CapSpend], announced: &[AnnouncedCap]) -> Result<Option<Left>, SumOutOfRange> {
    if !spends.iter().map(|spend| spend.cap.id).eq(announced.iter().map(|announced| announced.id)) {
        return Ok(None);
    }
    let mut left = Left::Everything;
    for spend in spends {
        match spend.left()? {
            None => return Ok(None),
            Some(of_one) => left = left.or_less(of_one),
        }
    }
    Ok(Some(left))
}

/// How much more an account may be charged before one of its enforced caps can be exceeded, in whatever window. `None` where the transaction
/// may exceed one that it asks something of, unless `suffices` says that so much is left.
///
/// # Errors
/// [`SumOutOfRange`].
pub fn covered(
    spends: &[CapSpend],
    suffices: impl Fn(Credits) -> bool,
) -> Result<Option<Left>, SumOutOfRange> {
    let mut covered = Left::Everything;
    for spend in spends.iter().filter(|spend| spend.cap.is_enforced) {
        if spend.asked.is_some() && !suffices(spend.left_of(spend.spent)?) {
            return Ok(None);
        }
        covered = covered.or_less(Left::UpTo(spend.left_of(spend.spent.max(spend.fullest_later()))?));
    }
    Ok(Some(covered))
}

/// What is announced of an account's caps from now on, and the changes from what was. `spends` are of all the account's caps, in the order of
/// their ids, without usage in flight; `before` is what was announced, also of caps that are gone.
#[must_use]
pub fn announce(
    spends: &[CapSpend],
    before: &[AnnouncedCap],
    now: i64,
) -> (Vec<AnnouncedCap>, Vec<CapChange>) {
    let gone = before.iter().filter(|known| spends.iter().all(|spend| spend.cap.id != known.id));
    let mut changes: Vec<CapChange> = gone
        .filter(|known| known.reached_at(now).is_some())
        .map(|known| CapChange { id: known.id, state: CapState::Open })
        .collect();
    let after = spends.iter().map(|spend| {
        let id = spend.cap.id;
        let is_reached = spend.spent >= spend.cap.amount;
        let until = spend.window.end.unwrap_or(i64::MAX);
        let reached_until = match (is_reached, spend.announced) {
            (true, known) if known != Some(until) => {
                changes.push(CapChange { id, state: CapState::Reached { resets_at: spend.window.end } });
                Some(until)
            }
            (false, Some(_)) => {
                changes.push(CapChange { id, state: CapState::Open });
                None
            }
            // An announcement that has expired stays, in case the clock goes back.
            _ => before.iter().find(|known| known.id == id).and_then(|known| known.reached_until),
        };
        AnnouncedCap { id, reached_until }
    });
    (after.collect(), changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A microsecond of this day and hour of November 2026.
    fn at(day: i64, hour: i64) -> i64 {
        (9_800 + day) * 86_400_000_000 + hour * 3_600_000_000
    }

    fn credits(units: i128) -> Credits {
        Credits::from_units(units)
    }

    fn key(number: u8) -> ApiKeyId {
        ApiKeyId::from_bytes([number; 16])
    }

    fn cap(period: Option<Period>, amount: i128) -> Cap {
        Cap {
            id: CapId::from_bytes([1; 16]),
            keys: None,
            period,
            amount: credits(amount),
            since: i64::MIN,
            is_enforced: true,
        }
    }

    fn spend(cap: &Cap, reached_until: Option<i64>, clock: Clock) -> CapSpend {
        CapSpend::new(cap.clone(), Some(&AnnouncedCap { id: cap.id, reached_until }), clock)
    }

    fn reached(until: i64) -> CapState {
        CapState::Reached { resets_at: Some(until) }
    }

    fn changes(spend: &CapSpend, reached_until: Option<i64>, now: i64) -> (Option<i64>, Vec<CapState>) {
        let before = AnnouncedCap { id: spend.cap.id, reached_until };
        let (after, changes) = announce(std::slice::from_ref(spend), &[before], now);
        (after[0].reached_until, changes.iter().map(|change| change.state).collect())
    }

    #[test]
    fn the_days_are_those_of_november() {
        assert_eq!(iso_midnight(at(1, 0)), "2026-11-01T00:00:00Z");
        assert_eq!(iso_midnight(at(31, 0)), "2026-12-01T00:00:00Z");
        assert_eq!(cap(Some(Period::Weekly), 1).window_at(at(29, 5)).start, at(23, 0));
    }

    #[test]
    fn usage_counts_in_its_window_and_with_its_key() {
        let cap = Cap { keys: Some(vec![key(1), key(2)]), since: at(29, 6), ..cap(Some(Period::Daily), 10) };
        let mut spend = spend(&cap, None, Clock::From(at(29, 12)));
        for (of, created_at, amount) in [
            (Some(key(1)), at(29, 6) - 1, 100),
            (Some(key(1)), at(29, 6), 1),
            (Some(key(2)), at(30, 0) - 1, 2),
            (Some(key(3)), at(29, 12), 100),
            (None, at(29, 12), 100),
            (Some(key(1)), at(30, 0), 5),
            (Some(key(1)), at(31, 0), 4),
            (Some(key(1)), at(31, 0) - 1, 2),
            (Some(key(1)), i64::MAX, 1000),
        ] {
            spend.add(of, created_at, credits(amount)).unwrap();
        }
        assert_eq!(spend.spent(), credits(3));
        assert_eq!(spend.left(), Ok(Some(Left::UpTo(credits(3)))), "of the day after, 7 are spent");
        spend.add(Some(key(1)), at(29, 23), credits(6)).unwrap();
        assert_eq!(spend.left(), Ok(Some(Left::UpTo(credits(1)))));
        spend.add(Some(key(1)), at(29, 23), credits(1)).unwrap();
        assert_eq!(spend.left(), Ok(None));
        assert_eq!(spend.spent(), credits(10));
    }

    #[test]
    fn without_a_period_all_from_since_on_counts() {
        let cap = Cap { since: at(2, 0), ..cap(None, 10) };
        let mut spend = spend(&cap, None, Clock::From(at(29, 12)));
        for created_at in [at(2, 0) - 1, at(2, 0), at(29, 12), at(400, 0), i64::MAX] {
            spend.add(None, created_at, credits(2)).unwrap();
        }
        assert_eq!(spend.spent(), credits(8));
        assert_eq!(spend.window(), Window { start: at(2, 0), end: None });
    }

    #[test]
    fn a_reached_cap_leaves_what_later_windows_do() {
        let until = at(30, 0);
        let mut today = spend(&cap(Some(Period::Daily), 10), Some(until), Clock::From(at(29, 1)));
        today.add(None, at(29, 0), credits(50)).unwrap();
        today.add(None, at(30, 0), credits(4)).unwrap();
        assert_eq!(today.left(), Ok(Some(Left::UpTo(credits(6)))));
        today.add(None, at(30, 0), credits(7)).unwrap();
        assert_eq!(today.left(), Ok(Some(Left::UpTo(credits(-1)))));
        let mut endless = spend(&cap(None, 10), Some(i64::MAX), Clock::From(at(29, 1)));
        endless.add(None, at(29, 0), credits(50)).unwrap();
        assert_eq!(endless.left(), Ok(Some(Left::Everything)));
        // The announcement has expired.
        let tomorrow = spend(&cap(Some(Period::Daily), 10), Some(until), Clock::From(until));
        assert_eq!(tomorrow.left(), Ok(Some(Left::UpTo(credits(10)))));
    }

    #[test]
    fn reaching_is_announced_once_in_a_window() {
        let (now, until) = (at(29, 12), at(30, 0));
        let cap = cap(Some(Period::Daily), 10);
        let with = |known, clock, amount| {
            let mut spend = spend(&cap, known, clock);
            spend.add(None, spend.window.start, credits(amount)).unwrap();
            spend
        };
        let today = |known, amount| changes(&with(known, Clock::From(now), amount), known, now);
        assert_eq!(today(None, 9), (None, vec![]));
        assert_eq!(today(None, 10), (Some(until), vec![reached(until)]));
        assert_eq!(today(Some(until), 11), (Some(until), vec![]));
        assert_eq!(today(Some(until), 9), (None, vec![CapState::Open]));
        // Yesterday's announcement.
        assert_eq!(today(Some(at(29, 0)), 9), (Some(at(29, 0)), vec![]));
        assert_eq!(today(Some(at(29, 0)), 10), (Some(until), vec![reached(until)]));
        // The clock has gone back over midnight, where what was announced is still the current window.
        let before = at(28, 23);
        assert_eq!(
            changes(&with(Some(until), Clock::From(before), 10), Some(until), before),
            (Some(until), vec![])
        );
        // Another window, since the period was changed.
        let month = at(31, 0);
        let changed = with(Some(month), Clock::At(now), 10);
        assert_eq!(changes(&changed, Some(month), now), (Some(until), vec![reached(until)]));
        let gone = AnnouncedCap { id: cap.id, reached_until: Some(until) };
        assert_eq!(announce(&[], &[gone], now).1, [CapChange { id: cap.id, state: CapState::Open }]);
        assert_eq!(announce(&[], &[gone], until).1, []);
    }

    #[test]
    fn other_caps_than_those_announced_need_a_decision() {
        let cap = cap(None, 10);
        let spends = [spend(&cap, None, Clock::From(0))];
        let announced = |id| AnnouncedCap { id, reached_until: None };
        assert_eq!(left_of(&spends, &[announced(cap.id)]), Ok(Some(Left::UpTo(credits(10)))));
        assert_eq!(left_of(&spends, &[]), Ok(None));
        assert_eq!(left_of(&[], &[announced(cap.id)]), Ok(None));
        assert_eq!(left_of(&spends, &[announced(CapId::from_bytes([2; 16]))]), Ok(None));
        assert_eq!(left_of(&[], &[]), Ok(Some(Left::Everything)));
    }

    #[test]
    fn an_enforced_cap_refuses_what_exceeds_it() {
        let asked = |amount, created_at| Asked { key: None, amount: credits(amount), created_at };
        let with = |cap: &Cap, asked: &[Asked]| {
            let mut spend = spend(cap, None, Clock::From(at(29, 12)));
            spend.add(None, at(29, 1), credits(3)).unwrap();
            spend.add_held(None, credits(4)).unwrap();
            asked.iter().for_each(|asked| spend.add_asked(asked).unwrap());
            spend
        };
        let (of_7, of_6) = (cap(Some(Period::Daily), 7), cap(Some(Period::Daily), 6));
        assert_eq!(with(&of_7, &[asked(4, None)]).refusal(), Ok(None));
        let refusal = CapRefusal { id: of_6.id, asked: credits(4), remaining: credits(3) };
        assert_eq!(with(&of_6, &[asked(4, None)]).refusal(), Ok(Some(refusal)));
        assert_eq!(with(&of_6, &[]).refusal(), Ok(None), "of nobody who asks");
        assert_eq!(with(&Cap { is_enforced: false, ..of_6.clone() }, &[asked(4, None)]).refusal(), Ok(None));
        // Dated in the window it is among what was spent, otherwise it is added.
        for inside in [at(29, 0), at(30, 0) - 1] {
            assert_eq!(with(&of_7, &[asked(3, Some(inside))]).refusal(), Ok(None));
        }
        assert_eq!(with(&cap(None, 7), &[asked(3, Some(at(30, 0)))]).refusal(), Ok(None), "it has no end");
        for elsewhere in [at(29, 0) - 1, at(30, 0)] {
            let refusal = CapRefusal { id: of_7.id, asked: credits(1), remaining: credits(0) };
            assert_eq!(with(&of_7, &[asked(1, Some(elsewhere))]).refusal(), Ok(Some(refusal)));
        }
        // Nothing of another key counts.
        let other = Asked { key: Some(key(9)), ..asked(7, Some(at(30, 0))) };
        let of_key = Cap { keys: Some(vec![key(1)]), ..of_6 };
        assert_eq!(with(&of_key, &[other]).refusal(), Ok(None));
        let mut full = with(&of_key, &[Asked { key: Some(key(1)), ..asked(6, Some(at(30, 0))) }]);
        assert_eq!(full.refusal(), Ok(None));
        full.add_held(Some(key(9)), credits(1)).unwrap();
        assert_eq!(full.refusal(), Ok(None));
        full.add_held(Some(key(1)), credits(1)).unwrap();
        assert!(matches!(full.refusal(), Ok(Some(_))));
    }

    #[test]
    fn what_was_added_up_goes_on_for_the_same_cap_and_window() {
        let daily = cap(Some(Period::Daily), 10);
        let mut kept = spend(&daily, None, Clock::From(at(29, 12)));
        kept.add(None, at(29, 1), credits(3)).unwrap();
        kept.add(None, at(30, 1), credits(4)).unwrap();
        let mut later = spend(&daily, Some(at(30, 0)), Clock::From(at(29, 13)));
        assert!(later.is_like(&kept));
        later.go_on_from(&kept);
        assert_eq!((later.spent(), later.left()), (credits(3), Ok(Some(Left::UpTo(credits(6))))));
        let of_a_key = Cap { keys: Some(vec![key(1)]), ..daily.clone() };
        for other in
            [spend(&daily, None, Clock::From(at(30, 0))), spend(&of_a_key, None, Clock::From(at(29, 12)))]
        {
            assert!(!other.is_like(&kept), "{other:?}");
        }
    }

    #[test]
    fn of_two_caps_the_less_is_left() {
        let (one, two) = (Left::UpTo(credits(1)), Left::UpTo(credits(2)));
        for (left, other) in [(one, two), (two, one), (one, Left::Everything), (Left::Everything, one)] {
            assert_eq!(left.or_less(other), one);
        }
    }

    #[test]
    fn cover_lasts_in_every_window() {
        let cap = cap(Some(Period::Daily), 20);
        let mut spend = spend(&cap, None, Clock::From(at(29, 12)));
        spend.add(None, at(29, 1), credits(3)).unwrap();
        spend.add(None, at(29, 1), credits(2)).unwrap();
        spend.add_held(None, credits(4)).unwrap();
        let all = |spend: &CapSpend| covered(std::slice::from_ref(spend), |left| left >= credits(11));
        assert_eq!(all(&spend), Ok(Some(Left::UpTo(credits(11)))));
        spend.add(None, at(30, 1), credits(9)).unwrap();
        assert_eq!(all(&spend), Ok(Some(Left::UpTo(credits(7)))), "tomorrow is fuller");
        spend.add_asked(&Asked { key: None, amount: credits(1), created_at: None }).unwrap();
        assert_eq!(all(&spend), Ok(Some(Left::UpTo(credits(7)))), "and does not matter today");
        let mut of_nobody = spend.clone();
        of_nobody.asked = None;
        for spend in [&mut spend, &mut of_nobody] {
            spend.add(None, at(29, 1), credits(1)).unwrap();
        }
        assert_eq!(all(&spend), Ok(None));
        assert_eq!(all(&of_nobody), Ok(Some(Left::UpTo(credits(7)))), "who asks nothing is covered");
        let mut unenforced = spend;
        unenforced.cap.is_enforced = false;
        assert_eq!(all(&unenforced), Ok(Some(Left::Everything)));
    }
}
