//! Spend caps against sums over all rows, with the calendar that goes through the days one by one.

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use ledger::caps::{AnnouncedCap, Asked, Cap, CapSpend, CapState, Clock, Left, announce, covered, left_of};
use ledger::credits::Credits;
use ledger::id::{ApiKeyId, CapId};
use ledger::period::Period;

use crate::period::{days, moment};

const DAY: i64 = 86_400_000_000;

/// Usage as it was recorded.
#[derive(Clone, Copy, Debug)]
struct Usage {
    key: Option<ApiKeyId>,
    created_at: i64,
    units: i128,
}

fn key(input: &mut Unstructured<'_>) -> Result<ApiKeyId> {
    Ok(ApiKeyId::from_bytes([input.int_in_range(1..=3)?; 16]))
}

/// A moment within some days of another, at or about midnight as often as not.
fn near(input: &mut Unstructured<'_>, now: i64) -> Result<i64> {
    if input.ratio(1, 12)? {
        return moment(input);
    }
    let days = match input.int_in_range(0..=5)? {
        0 | 1 => 0,
        2 | 3 => input.int_in_range(-2..=2)?,
        4 => input.int_in_range(-9..=9)?,
        _ => input.int_in_range(-70..=70)?,
    };
    let at = now.saturating_add(days * DAY);
    let midnight = at.div_euclid(DAY).saturating_mul(DAY);
    Ok(if input.arbitrary()? { at } else { midnight.saturating_add(input.int_in_range(-1..=1)?) })
}

/// The moment, or the nearest one that a `timestamptz` has.
fn timestamp(at: i64) -> i64 {
    match at {
        i64::MIN | i64::MAX => at,
        _ => at.clamp(-211_813_488_000_000_000, 9_223_371_331_199_999_999),
    }
}

fn usage(input: &mut Unstructured<'_>, now: i64) -> Result<Usage> {
    Ok(Usage {
        key: if input.ratio(3, 4)? { Some(key(input)?) } else { None },
        created_at: timestamp(near(input, now)?),
        units: input.int_in_range(1..=12)?,
    })
}

fn cap(input: &mut Unstructured<'_>, id: u8, now: i64) -> Result<Cap> {
    let keys: Option<Result<Vec<ApiKeyId>>> = if input.arbitrary()? {
        let count = input.int_in_range(1..=3)?;
        Some((0..count).map(|_| key(input)).collect())
    } else {
        None
    };
    Ok(Cap {
        id: CapId::from_bytes([id; 16]),
        keys: keys.transpose()?,
        period: *input.choose(&[None, Some(Period::Daily), Some(Period::Weekly), Some(Period::Monthly)])?,
        amount: Credits::from_units(input.int_in_range(1..=30)?),
        since: if input.ratio(1, 3)? { i64::MIN } else { near(input, now)? },
        is_enforced: input.arbitrary()?,
    })
}

/// The caps of an account, in the order of their ids.
fn caps(input: &mut Unstructured<'_>, now: i64) -> Result<Vec<Cap>> {
    let mut caps = Vec::new();
    for id in 1..=4 {
        if input.arbitrary()? {
            caps.push(cap(input, id, now)?);
        }
    }
    Ok(caps)
}

/// The first moment of a cap's period that a moment lies in, and the first one after it; `None` of an infinity. Without a period, all time is
/// one.
fn period_of(cap: &Cap, at: i64) -> Option<(i64, Option<i64>)> {
    let Some(period) = cap.period else { return Some((i64::MIN, None)) };
    if at == i64::MIN || at == i64::MAX {
        return None;
    }
    let (first, next) = days(period, at.div_euclid(DAY));
    Some((first.saturating_mul(DAY), Some(next.saturating_mul(DAY))))
}

/// What a cap has in a window, as plain SQL would add it up.
fn spent(cap: &Cap, rows: &[Usage], window: (i64, Option<i64>)) -> i128 {
    let counts = |row: &&Usage| {
        row.created_at >= window.0
            && window.1.is_none_or(|end| row.created_at < end)
            && row.created_at >= cap.since
            && cap.keys.as_ref().is_none_or(|keys| row.key.is_some_and(|key| keys.contains(&key)))
    };
    rows.iter().filter(counts).map(|row| row.units).sum()
}

/// The fullest of the windows that begin at this moment or later.
fn fullest_from(cap: &Cap, rows: &[Usage], from: i64) -> i128 {
    let periods = rows.iter().filter_map(|row| period_of(cap, row.created_at));
    let later = periods.filter(|&(start, end)| start >= from && end.is_some());
    later.map(|window| spent(cap, rows, window)).max().unwrap_or(0)
}

fn spends_of(caps: &[Cap], rows: &[Usage], announced: &[AnnouncedCap], clock: Clock) -> Vec<CapSpend> {
    let mut spends = Vec::new();
    for cap in caps {
        let known = announced.iter().find(|announced| announced.id == cap.id);
        let mut spend = CapSpend::new(cap.clone(), known, clock);
        for row in rows {
            let amount = Credits::from_units(row.units);
            spend.add(row.key, row.created_at, amount).expect("few and small");
        }
        spends.push(spend);
    }
    spends
}

/// What was spent in the current window, and what is left until the fullest window reaches the cap, are those of sums over all rows.
///
/// # Errors
/// If there are too few bytes.
pub fn windows_are_sums_over_rows(input: &mut Unstructured<'_>) -> Result<()> {
    let now = finite_moment(input)?;
    let caps = caps(input, now)?;
    let rows: Result<Vec<Usage>> = (0..input.int_in_range(0..=20)?).map(|_| usage(input, now)).collect();
    let rows = rows?;
    let mut announced = Vec::new();
    for cap in &caps {
        // As an announcement could be that was made at this moment or another one, in a window of the cap.
        let made_at = finite(near(input, now)?);
        let end = period_of(cap, made_at).and_then(|(_, end)| end).unwrap_or(i64::MAX);
        let reached_until = if input.arbitrary()? { Some(end) } else { None };
        announced.push(AnnouncedCap { id: cap.id, reached_until });
    }
    let spends = spends_of(&caps, &rows, &announced, Clock::From(now));
    let mut least = Left::Everything;
    let mut may_be_reached = false;
    for ((cap, spend), announced) in caps.iter().zip(&spends).zip(&announced) {
        let until = announced.reached_until.filter(|&until| until > now);
        // A clock that has gone back has left the window that was announced.
        let current = until.map_or(now, |until| if until == i64::MAX { now } else { now.max(until - 1) });
        let period = period_of(cap, current).expect("a finite moment");
        assert_eq!(spend.window().start, period.0.max(cap.since), "{cap:?} at {now}");
        assert_eq!(spend.window().end, period.1, "{cap:?} at {now}");
        let spent = spent(cap, &rows, period);
        assert_eq!(spend.spent().units(), spent, "{cap:?} at {now} of {rows:?}");

        let later = period.1.map_or(0, |end| fullest_from(cap, &rows, end));
        let amount = cap.amount.units();
        let expected = match (until, cap.period) {
            (None, _) if spent >= amount => None,
            (None, _) => Some(Left::UpTo(Credits::from_units(amount - spent.max(later)))),
            (Some(_), None) => Some(Left::Everything),
            (Some(_), Some(_)) => Some(Left::UpTo(Credits::from_units(amount - later))),
        };
        assert_eq!(spend.left(), Ok(expected), "{cap:?} at {now}, announced until {until:?}, of {rows:?}");
        may_be_reached |= expected.is_none();
        least = least.or_less(expected.unwrap_or(Left::Everything));
    }
    assert_eq!(left_of(&spends, &announced), Ok((!may_be_reached).then_some(least)));
    if let Some(last) = announced.pop() {
        assert_eq!(left_of(&spends, &announced), Ok(None), "nothing was announced of {last:?}");
    }
    Ok(())
}

/// A moment that a server's clock can have, if this is none.
fn finite(at: i64) -> i64 {
    at.clamp(-100_000 * DAY, 100_000 * DAY)
}

/// A moment that a server's clock can have.
fn finite_moment(input: &mut Unstructured<'_>) -> Result<i64> {
    Ok(input.int_in_range(-50_000..=50_000)? * DAY + input.int_in_range(0..=DAY - 1)?)
}

/// An enforced cap refuses whoever asks something of it if what was spent in the current window, what is held, and what is asked for exceed
/// it. What covers an account is true of the windows to come, too.
///
/// # Errors
/// If there are too few bytes.
pub fn enforced_caps_are_not_exceeded(input: &mut Unstructured<'_>) -> Result<()> {
    let now = finite_moment(input)?;
    let caps = caps(input, now)?;
    let rows: Result<Vec<Usage>> = (0..input.int_in_range(0..=10)?).map(|_| usage(input, now)).collect();
    let mut rows = rows?;
    let mut holds: Vec<(Option<ApiKeyId>, i128)> = Vec::new();
    for _ in 0..input.int_in_range(0..=4)? {
        let row = usage(input, now)?;
        holds.push((row.key, row.units));
    }
    let mut asked = Vec::new();
    for _ in 0..input.int_in_range(0..=3)? {
        let row = usage(input, now)?;
        let created_at = if input.arbitrary()? {
            rows.push(row);
            Some(row.created_at)
        } else {
            holds.push((row.key, row.units));
            None
        };
        asked.push(Asked { key: row.key, amount: Credits::from_units(row.units), created_at });
    }
    let mut spends = spends_of(&caps, &rows, &[], Clock::From(now));
    for spend in &mut spends {
        for &(key, units) in &holds {
            spend.add_held(key, Credits::from_units(units)).expect("few and small");
        }
        for asked in &asked {
            spend.add_asked(asked).expect("few and small");
        }
    }
    let charged_since: i128 = input.int_in_range(0..=5)?;
    let mut expected = Some(Left::Everything);
    for (cap, spend) in caps.iter().zip(&spends) {
        let has_key = |key: &Option<ApiKeyId>| {
            cap.keys.as_ref().is_none_or(|keys| key.is_some_and(|key| keys.contains(&key)))
        };
        let window = period_of(cap, now).expect("a finite moment");
        let counts = |at: i64| at >= window.0 && at >= cap.since && window.1.is_none_or(|end| at < end);
        let held: i128 = holds.iter().filter(|(key, _)| has_key(key)).map(|(_, units)| units).sum();
        let asked_of: Vec<&Asked> = asked.iter().filter(|asked| has_key(&asked.key)).collect();
        let elsewhere = asked_of.iter().filter(|asked| asked.created_at.is_some_and(|at| !counts(at)));
        let taken = held + elsewhere.map(|asked| asked.amount.units()).sum::<i128>();
        let amount = cap.amount.units();
        let spent = spent(cap, &rows, window);
        let left = amount - spent - taken;
        let refusal = spend.refusal().expect("small");
        let is_refused = cap.is_enforced && !asked_of.is_empty() && left < 0;
        assert_eq!(refusal.is_some(), is_refused, "{cap:?} at {now} of {rows:?}, {holds:?}, asked {asked:?}");
        if let Some(refusal) = refusal {
            let sum: i128 = asked_of.iter().map(|asked| asked.amount.units()).sum();
            assert_eq!((refusal.id, refusal.asked.units()), (cap.id, sum));
            assert_eq!(refusal.remaining.units(), (left + sum).max(0));
        }
        if !cap.is_enforced {
            continue;
        }
        if !asked_of.is_empty() && left < charged_since {
            expected = None;
        }
        let fullest = window.1.map_or(0, |end| fullest_from(cap, &rows, end)).max(spent);
        let of_one = Left::UpTo(Credits::from_units(amount - fullest - taken));
        expected = expected.map(|least| least.or_less(of_one));
    }
    let found = covered(&spends, |left| left.units() >= charged_since).expect("small");
    assert_eq!(found, expected, "{caps:?} at {now} of {rows:?}, {holds:?}, asked {asked:?}");
    Ok(())
}

/// An account whose commits settle one after the other, and somebody who listens.
struct Account {
    now: i64,
    caps: Vec<Cap>,
    rows: Vec<Usage>,
    announced: Vec<AnnouncedCap>,
    /// Until when listeners take a cap for reached.
    heard: BTreeMap<CapId, i64>,
    /// What may be charged before somebody has to look.
    left: Option<i128>,
}

/// What a transaction has done that decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Decides {
    Charges,
    Changes,
}

impl Account {
    fn heard_at(&self, id: CapId) -> Option<i64> {
        self.heard.get(&id).copied().filter(|&until| self.now < until)
    }

    /// Decides, and compares what is announced with what listeners do not know yet.
    fn decide(&mut self, decides: Decides) {
        let clock = match decides {
            Decides::Charges => Clock::From(self.now),
            Decides::Changes => Clock::At(self.now),
        };
        let spends = spends_of(&self.caps, &self.rows, &self.announced, clock);
        let (announced, changes) = announce(&spends, &self.announced, self.now);
        let mut expected = Vec::new();
        for id in (1..=4).map(|id| CapId::from_bytes([id; 16])) {
            let heard = self.heard_at(id);
            let Some(cap) = self.caps.iter().find(|cap| cap.id == id) else {
                expected.extend(heard.map(|_| (id, CapState::Open)));
                continue;
            };
            let current = match (decides, heard) {
                (Decides::Charges, Some(until)) if until != i64::MAX => self.now.max(until - 1),
                _ => self.now,
            };
            let window = period_of(cap, current).expect("a finite moment");
            let is_reached = spent(cap, &self.rows, window) >= cap.amount.units();
            match (is_reached, heard) {
                (true, heard) if heard != Some(window.1.unwrap_or(i64::MAX)) => {
                    expected.push((id, CapState::Reached { resets_at: window.1 }));
                }
                (false, Some(_)) => expected.push((id, CapState::Open)),
                _ => {}
            }
        }
        let mut found: Vec<(CapId, CapState)> =
            changes.iter().map(|change| (change.id, change.state)).collect();
        found.sort_by_key(|&(id, _)| id);
        assert_eq!(found, expected, "at {} of {:?}, {:?}", self.now, self.caps, self.rows);
        for (id, state) in found {
            match state {
                CapState::Reached { resets_at } => self.heard.insert(id, resets_at.unwrap_or(i64::MAX)),
                CapState::Open => self.heard.remove(&id),
            };
        }
        self.announced = announced;
        // What a cap was that is gone concerns nobody, also where the clock goes back to when it was reached.
        self.heard.retain(|id, _| self.caps.iter().any(|cap| cap.id == *id));
        // Nothing is announced a second time.
        let again = spends_of(&self.caps, &self.rows, &self.announced, Clock::From(self.now));
        let (still, changes) = announce(&again, &self.announced, self.now);
        assert_eq!((still, changes), (self.announced.clone(), Vec::new()));
    }

    /// Looks at what is left, as a settlement does that shares the stripe: whether it agrees.
    fn look(&mut self) -> bool {
        let spends = spends_of(&self.caps, &self.rows, &self.announced, Clock::From(self.now));
        let left = left_of(&spends, &self.announced).expect("few and small");
        self.left = match left {
            Some(Left::UpTo(left)) => Some(left.units()),
            Some(Left::Everything) => Some(i128::MAX),
            None => None,
        };
        left.is_some()
    }

    /// Commits usage: nobody looks as long as what is left suffices.
    fn charge(&mut self, row: Usage) {
        let left = self.left.take().unwrap_or(0);
        self.rows.push(row);
        if left > row.units {
            self.left = Some(left - row.units);
        } else if !self.look() {
            self.decide(Decides::Charges);
        }
    }
}

/// A listener knows the state of each cap, as soon as somebody has settled who had to look, and is told nothing twice, whatever the clock does
/// and however the caps are changed. While there is something left of a cap, it does not come to be reached.
///
/// # Errors
/// If there are too few bytes.
pub fn listeners_know_what_is_reached(input: &mut Unstructured<'_>) -> Result<()> {
    let now = finite_moment(input)?;
    let mut account = Account {
        now,
        caps: Vec::new(),
        rows: Vec::new(),
        announced: Vec::new(),
        heard: BTreeMap::new(),
        left: None,
    };
    for _ in 0..input.int_in_range(0..=25)? {
        match input.int_in_range(0..=9)? {
            0 | 1 => {
                let caps = caps(input, account.now)?;
                // Some stay as they are.
                let stays = |cap: &&Cap| caps.iter().all(|new| new.id != cap.id);
                let mut after: Vec<Cap> = if input.arbitrary()? {
                    account.caps.iter().filter(stays).cloned().collect()
                } else {
                    Vec::new()
                };
                after.extend(caps);
                after.sort_by_key(|cap| cap.id);
                account.caps = after;
                account.left = None;
                account.decide(Decides::Changes);
            }
            2 => account.now = account.now.max(finite(near(input, account.now)?)),
            3 if input.ratio(1, 4)? => {
                // The clock goes back; what is left is not true of windows that were over.
                account.now = account.now.min(finite(near(input, account.now)?));
                account.left = None;
            }
            _ => {
                let row = usage(input, account.now)?;
                account.charge(row);
                let is_known = account.left.is_some_and(|left| left > 0);
                for cap in account.caps.iter().filter(|_| is_known) {
                    let window = period_of(cap, account.now).expect("a finite moment");
                    let is_reached = spent(cap, &account.rows, window) >= cap.amount.units();
                    let heard = account.heard_at(cap.id);
                    assert!(
                        !is_reached || heard.is_some(),
                        "{cap:?} at {} of {:?}",
                        account.now,
                        account.rows
                    );
                }
            }
        }
    }
    Ok(())
}
