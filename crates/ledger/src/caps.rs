//! Spend caps of an account: what some of its API keys have spent in a window, and when that reaches what a cap allows.
//!
//! Spending is gross: it only grows, but for what rolls back. So a cap is a boundary that only charges can reach. A row counts in the window
//! of its `created_at` alone, which may be a window to come. A window ends with its period, in UTC, and the next one begins with what is
//! dated in it: nothing is announced by that.

use std::collections::BTreeMap;

use time::Date;

use crate::credits::{Credits, SumOutOfRange};
use crate::day::Day;
use crate::id::{ApiKeyId, CapId};
use crate::period::Period;

/// The Julian day of 2000-01-01, from which days are counted here.
const JULIAN_DAY_OF_2000: i32 = 2_451_545;

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
    let date = Day::of(at).date().checked_add(JULIAN_DAY_OF_2000).map(Date::from_julian_day);
    date.and_then(Result::ok).map_or_else(String::new, |date| {
        format!("{:04}-{:02}-{:02}T00:00:00Z", date.year(), u8::from(date.month()), date.day())
    })
}

/// Which window of a cap is the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The one that the moment lies in, or the one that was announced to be reached, if that has not ended then: the clock may have gone
    /// back.
    From(i64),
    /// The one that the moment lies in: the caps have changed, and what was announced was of another window perhaps.
    At(i64),
}

impl Clock {
    const fn moment(self) -> i64 {
        match self {
            Self::From(moment) | Self::At(moment) => moment,
        }
    }
}

/// What a pass over usage has found of a cap.
#[derive(Clone, Debug)]
pub struct CapSpend {
    cap: Cap,
    announced: Option<i64>,
    window: Window,
    /// What is committed or the transaction's own, in the current window.
    settled: Credits,
    /// What other transactions have in flight there.
    in_flight: Credits,
    /// What is dated in later windows, in flight included, by their ends.
    later: BTreeMap<i64, Credits>,
}

impl CapSpend {
    /// Nothing yet. `announced` is what was last announced of the cap.
    #[must_use]
    pub fn new(cap: Cap, announced: Option<&AnnouncedCap>, clock: Clock) -> Self {
        let moment = clock.moment();
        let announced = announced.and_then(|announced| announced.reached_at(moment));
        let window = match (clock, announced) {
            (Clock::From(_), Some(until)) => cap.window_at(moment.max(until.saturating_sub(1))),
            _ => cap.window_at(moment),
        };
        Self {
            cap,
            announced,
            window,
            settled: Credits::ZERO,
            in_flight: Credits::ZERO,
            later: BTreeMap::new(),
        }
    }

    /// The cap.
    #[must_use]
    pub const fn cap(&self) -> &Cap {
        &self.cap
    }

    /// The current window.
    #[must_use]
    pub const fn window(&self) -> Window {
        self.window
    }

    /// Adds usage with this key and date, committed or the transaction's own.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn add_settled(
        &mut self,
        key: Option<ApiKeyId>,
        created_at: i64,
        amount: Credits,
    ) -> Result<(), SumOutOfRange> {
        if let Some(sum) = self.sum_of(key, created_at, false) {
            *sum = sum.checked_add(amount)?;
        }
        Ok(())
    }

    /// Adds another transaction's usage in flight.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn add_in_flight(
        &mut self,
        key: Option<ApiKeyId>,
        created_at: i64,
        amount: Credits,
    ) -> Result<(), SumOutOfRange> {
        if let Some(sum) = self.sum_of(key, created_at, true) {
            *sum = sum.checked_add(amount)?;
        }
        Ok(())
    }

    /// Where usage with this key and date is added; `None` if it does not count.
    fn sum_of(&mut self, key: Option<ApiKeyId>, created_at: i64, is_in_flight: bool) -> Option<&mut Credits> {
        if created_at < self.window.start || !self.cap.has_key(key) {
            return None;
        }
        match (self.cap.period, self.window.end) {
            (Some(period), Some(end)) if created_at >= end => match period.end(created_at) {
                // A row of `infinity` lies in no window.
                i64::MAX => None,
                end => Some(self.later.entry(end).or_insert(Credits::ZERO)),
            },
            _ if is_in_flight => Some(&mut self.in_flight),
            _ => Some(&mut self.settled),
        }
    }

    /// What was spent in the current window, in flight left out.
    #[must_use]
    pub const fn spent(&self) -> Credits {
        self.settled
    }

    /// The most that can have been spent in the current window once everything in flight has ended.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn highest(&self) -> Result<Credits, SumOutOfRange> {
        self.settled.checked_add(self.in_flight)
    }

    /// What is left to spend before the cap is reached in any window from the current one on; from the next one on if it was announced to
    /// be reached in the current one. `None`: it may be reached in the current window, which has not been announced.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn left(&self) -> Result<Option<Left>, SumOutOfRange> {
        let fullest = self.later.values().copied().max().unwrap_or(Credits::ZERO);
        let fullest = match self.announced {
            // Its only window, or one that ends with the announcement.
            Some(_) if self.cap.period.is_none() => return Ok(Some(Left::Everything)),
            Some(_) => fullest,
            None => {
                let highest = self.highest()?;
                if highest >= self.cap.amount {
                    return Ok(None);
                }
                fullest.max(highest)
            }
        };
        Ok(Some(Left::UpTo(self.cap.amount.checked_sub(fullest)?)))
    }
}

/// How much more may be spent until a cap can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// As much as this; nothing if it is not above 0.
    UpTo(Credits),
    /// Any amount.
    Everything,
}

impl Left {
    /// The less of two.
    #[must_use]
    pub fn or_less(self, other: Self) -> Self {
        match (self, other) {
            (Self::UpTo(one), Self::UpTo(other)) => Self::UpTo(one.min(other)),
            (Self::UpTo(left), Self::Everything) | (Self::Everything, Self::UpTo(left)) => Self::UpTo(left),
            (Self::Everything, Self::Everything) => Self::Everything,
        }
    }
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
        let is_reached = spend.settled >= spend.cap.amount;
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
