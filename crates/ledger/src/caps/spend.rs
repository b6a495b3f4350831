//! What was spent of a cap, added up row by row, and what is left of it.

use std::collections::BTreeMap;

use super::{AnnouncedCap, Cap, Window};
use crate::credits::{Credits, SumOutOfRange};
use crate::id::{ApiKeyId, CapId};

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
    pub(super) cap: Cap,
    /// Until when it was announced to be reached, if that has not ended.
    pub(super) announced: Option<i64>,
    pub(super) window: Window,
    /// What is dated in the current window.
    pub(super) spent: Credits,
    /// What is dated in later windows, by their ends.
    later: BTreeMap<i64, Credits>,
    /// What is held for these keys.
    held: Credits,
    /// What a transaction asks for with these keys, if it does.
    pub(super) asked: Option<Credits>,
    /// What of that is usage with a date outside of the current window, where it counts all the same.
    asked_elsewhere: Credits,
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
            spent: Credits::ZERO,
            later: BTreeMap::new(),
            held: Credits::ZERO,
            asked: None,
            asked_elsewhere: Credits::ZERO,
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

    /// Whether both are of the same cap and the same window, and so add up the same rows.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.cap == other.cap && self.window == other.window
    }

    /// Begins with the usage that another one [like](Self::is_like) this has added up.
    pub fn go_on_from(&mut self, other: &Self) {
        self.spent = other.spent;
        self.later.clone_from(&other.later);
    }

    /// Adds usage with this key and date, if it counts: to what is dated in the current window, or in a later one.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn add(
        &mut self,
        key: Option<ApiKeyId>,
        created_at: i64,
        amount: Credits,
    ) -> Result<(), SumOutOfRange> {
        if created_at < self.window.start || !self.cap.has_key(key) {
            return Ok(());
        }
        let sum = match (self.cap.period, self.window.end) {
            (Some(period), Some(end)) if created_at >= end => match period.end(created_at) {
                // A row of `infinity` lies in no window.
                i64::MAX => return Ok(()),
                end => self.later.entry(end).or_insert(Credits::ZERO),
            },
            _ => &mut self.spent,
        };
        *sum = sum.checked_add(amount)?;
        Ok(())
    }

    /// Adds an open hold of this amount with this key.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn add_held(&mut self, key: Option<ApiKeyId>, amount: Credits) -> Result<(), SumOutOfRange> {
        if self.cap.has_key(key) {
            self.held = self.held.checked_add(amount)?;
        }
        Ok(())
    }

    /// Adds what a transaction asks for with this key: a hold, which is among those held, or usage with this date, which is among what
    /// was spent.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn add_asked(&mut self, asked: &Asked) -> Result<(), SumOutOfRange> {
        if !self.cap.has_key(asked.key) {
            return Ok(());
        }
        self.asked = Some(self.asked.unwrap_or(Credits::ZERO).checked_add(asked.amount)?);
        let is_elsewhere = |created_at| {
            created_at < self.window.start || self.window.end.is_some_and(|end| created_at >= end)
        };
        if asked.created_at.is_some_and(is_elsewhere) {
            self.asked_elsewhere = self.asked_elsewhere.checked_add(asked.amount)?;
        }
        Ok(())
    }

    /// What an enforced cap refuses a transaction that asks for something, if it does. Nothing is in flight.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn refusal(&self) -> Result<Option<CapRefusal>, SumOutOfRange> {
        let Some(asked) = self.asked.filter(|_| self.cap.is_enforced) else { return Ok(None) };
        let left = self.left_of(self.spent)?;
        if left >= Credits::ZERO {
            return Ok(None);
        }
        let remaining = left.checked_add(asked)?.max(Credits::ZERO);
        Ok(Some(CapRefusal { id: self.cap.id, asked, remaining }))
    }

    /// What is left of the cap where so much was spent, and what is held and asked for is taken away.
    pub(super) fn left_of(&self, spent: Credits) -> Result<Credits, SumOutOfRange> {
        self.cap.amount.checked_sub(spent)?.checked_sub(self.held)?.checked_sub(self.asked_elsewhere)
    }

    /// What is dated in the fullest of the later windows.
    pub(super) fn fullest_later(&self) -> Credits {
        self.later.values().copied().max().unwrap_or(Credits::ZERO)
    }

    /// What was spent in the current window: the most that can have been, where the pass has met rows in flight.
    #[must_use]
    pub const fn spent(&self) -> Credits {
        self.spent
    }

    /// What is left to spend before the cap is reached in any window from the current one on; from the next one on if it was announced to
    /// be reached in the current one. `None`: it may be reached in the current window, which has not been announced.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn left(&self) -> Result<Option<Left>, SumOutOfRange> {
        let fullest = self.fullest_later();
        let fullest = match self.announced {
            // Its only window, or one that ends with the announcement.
            Some(_) if self.cap.period.is_none() => return Ok(Some(Left::Everything)),
            Some(_) => fullest,
            None => {
                if self.spent >= self.cap.amount {
                    return Ok(None);
                }
                fullest.max(self.spent)
            }
        };
        Ok(Some(Left::UpTo(self.cap.amount.checked_sub(fullest)?)))
    }
}

/// What a transaction asks for: one of its holds, or of its charges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// With which key.
    pub key: Option<ApiKeyId>,
    /// How much.
    pub amount: Credits,
    /// What a charge is dated; `None` of a hold.
    pub created_at: Option<i64>,
}

/// Why an enforced cap refuses a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapRefusal {
    /// The cap.
    pub id: CapId,
    /// What the transaction asks for with its keys.
    pub asked: Credits,
    /// What is there for it, never below 0.
    pub remaining: Credits,
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
