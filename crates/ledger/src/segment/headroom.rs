//! How much users can spend before anybody needs to look at their balance.
//!
//! Most settlements find a balance far above zero. One that has looked tells the others how far. From then on settlements
//! count what they charge, and while all that is counted stays below that limit, the balance stays above zero, whatever
//! commits and whatever rolls back: nobody needs to read anything. Those who reach the limit look again. This is the
//! escrow method (O'Neil, "The Escrow Transactional Method", ACM TODS 11, 1986) with its lower bound alone, and not for
//! deciding who may spend, only for knowing that there is nothing to decide.
//!
//! A charge is counted after its row was inserted, while its transaction shares the stripe, and before anything is looked
//! at. A pass over the delta that begins after that meets the row; so of every charge that a pass does not meet, the count
//! comes after the one that the pass has begun with. What the pass leaves above zero if all that it has met in flight is
//! charged, and nothing granted, is what those others may take: the limit is the count before the pass plus that. Counts
//! only grow, a charge that is rolled back stays counted, and so a limit holds for good. `models/settlement.pml` has it
//! explored.
//!
//! The counts of a slot are those of all users that share it, which makes them too high, never too low.

use std::sync::atomic::{AtomicU64, Ordering};

use super::StateName;
use super::slots::{self, KEY_WORDS, SLOTS, SeqLock};
use crate::credits::{Credits, UNITS_PER_CREDIT};
use crate::crossing::Outlook;
use crate::id::UserId;

/// Limits and charges are counted in millionths of a credit.
const UNITS_PER_STEP: i128 = UNITS_PER_CREDIT / 1_000_000;

/// What a transaction has written of a user: no less than it has, for rows of savepoints that were rolled back are in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    rows: u64,
    charged: u64,
    granted: u64,
}

impl Written {
    /// Whether there is nothing to count.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a row with this signed amount.
    pub fn add(&mut self, amount: Credits) {
        self.rows += 1;
        let side = if amount < Credits::ZERO { &mut self.charged } else { &mut self.granted };
        // Rounded up; what is too much for the count is as good as endless.
        let steps = amount.units().unsigned_abs().div_ceil(UNITS_PER_STEP.unsigned_abs());
        *side = side.saturating_add(steps.try_into().unwrap_or(u64::MAX));
    }
}

/// What has been counted of a user when a settlement had counted its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    charged: u64,
    rows_before: u64,
}

impl Counted {
    /// So many charges, in millionths of a credit, and so many rows without the settlement's own.
    #[must_use]
    pub const fn new(charged: u64, rows_before: u64) -> Self {
        Self { charged, rows_before }
    }
}

/// Up to where settlements need not look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// While fewer charges have been counted, the balance is above zero.
    charged_until: u64,
    /// With so many rows counted, the checkpoint was level with the rows.
    rows_folded: u64,
}

impl Headroom {
    /// What a pass leaves whose settlement has `written` and then `counted`; `lag` is how many rows the checkpoint is
    /// behind. `None` if it may be nothing.
    #[must_use]
    pub fn left_by(outlook: &Outlook, written: &Written, counted: &Counted, lag: u64) -> Option<Self> {
        let lowest = outlook.lowest().ok()?.units().div_euclid(UNITS_PER_STEP);
        // Our own grants may be rolled back yet.
        let left = lowest.checked_sub(written.granted.into()).filter(|&left| left > 0)?;
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        Some(Self {
            charged_until: counted.charged.saturating_add(left),
            rows_folded: counted.rows_before.saturating_sub(lag),
        })
    }

    /// Whether there is nothing to look at for a settlement that has counted this: the balance stays above zero, and fewer
    /// than `interval` rows have come since the checkpoint was refreshed.
    #[must_use]
    pub const fn suffices(&self, counted: &Counted, interval: u64) -> bool {
        counted.charged < self.charged_until
            && counted.rows_before.saturating_sub(self.rows_folded) < interval
    }
}

/// The counts and the headroom of all users.
#[derive(Debug)]
pub struct HeadroomSlots([HeadroomSlot; SLOTS]);

/// 128 bytes: 4 MB in all.
#[derive(Debug)]
#[repr(align(64))]
struct HeadroomSlot {
    charged: AtomicU64,
    rows: AtomicU64,
    headroom: SeqLock<WORDS>,
}

/// Key and headroom.
const WORDS: usize = KEY_WORDS + 2;

impl HeadroomSlots {
    /// Counts what a transaction has written of the user, in whatever digest.
    #[must_use]
    pub fn count(&self, database: u32, user: &UserId, written: &Written) -> Counted {
        let slot = self.slot(database, user);
        let rows_before = slot.rows.fetch_add(written.rows, Ordering::SeqCst);
        let add = |charged: u64| Some(charged.saturating_add(written.charged));
        let before = slot.charged.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).unwrap_or(u64::MAX);
        Counted::new(before.saturating_add(written.charged), rows_before)
    }

    /// How many rows of the user have been counted.
    #[must_use]
    pub fn counted_rows(&self, database: u32, user: &UserId) -> u64 {
        self.slot(database, user).rows.load(Ordering::SeqCst)
    }

    /// What the user is known to have.
    #[must_use]
    pub fn get(&self, state: &StateName, user: &UserId) -> Option<Headroom> {
        let (_, words) = self.slot(state.database, user).headroom.read(WORDS, |_| 0)?;
        headroom_of(&words, state, user)
    }

    /// Tells what the user has. All that is known is true, so the highest counts.
    pub fn publish(&self, state: &StateName, user: &UserId, headroom: &Headroom) {
        let slot = self.slot(state.database, user);
        let Some((version, words)) = slot.headroom.read(WORDS, |_| 0) else { return };
        let published = headroom_of(&words, state, user).unwrap_or(*headroom);
        let charged_until = headroom.charged_until.max(published.charged_until);
        let rows_folded = headroom.rows_folded.max(published.rows_folded);
        let [ledger, digest, user_high, user_low] = slots::key(state, user);
        _ = slot.headroom.write(version, &[ledger, digest, user_high, user_low, charged_until, rows_folded]);
    }

    fn slot(&self, database: u32, user: &UserId) -> &HeadroomSlot {
        &self.0[slots::slot_of(database, user)]
    }
}

fn headroom_of(words: &[u64; WORDS], state: &StateName, user: &UserId) -> Option<Headroom> {
    let (key, &[charged_until, rows_folded]) = words.split_at(KEY_WORDS) else { return None };
    (key == slots::key(state, user)).then_some(Headroom { charged_until, rows_folded })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const STATE: StateName = StateName { database: 5, ledger: 16384, digest: 0 };
    const USER: UserId = UserId::from_bytes([7; 16]);
    const INTERVAL: u64 = 64;

    impl HeadroomSlots {
        const fn empty() -> Self {
            Self(
                [const {
                    HeadroomSlot {
                        charged: AtomicU64::new(0),
                        rows: AtomicU64::new(0),
                        headroom: SeqLock::new(),
                    }
                }; SLOTS],
            )
        }
    }

    fn credits(millionths: i128) -> Credits {
        Credits::from_units(millionths * UNITS_PER_STEP)
    }

    fn written(amounts: &[i128]) -> Written {
        let mut written = Written::default();
        for &amount in amounts {
            written.add(credits(amount));
        }
        written
    }

    fn left_by(balance: i128, written: &Written, counted: &Counted) -> Option<Headroom> {
        Headroom::left_by(&Outlook::new(credits(balance)), written, counted, 0)
    }

    #[test]
    fn bounds_err_to_the_safe_side() {
        let finest = Credits::from_units(-1);
        let mut written = Written::default();
        written.add(finest);
        assert_eq!(written, Written { rows: 1, charged: 1, granted: 0 });
        // Just short of two steps: only one can be taken.
        let balance = credits(2).checked_add(finest).unwrap();
        let left = Headroom::left_by(&Outlook::new(balance), &written, &Counted::default(), 0).unwrap();
        assert_eq!(left.charged_until, 1);
        for nothing in [Credits::ZERO, finest, credits(1).checked_add(finest).unwrap(), credits(-5)] {
            let left = Headroom::left_by(&Outlook::new(nothing), &written, &Counted::default(), 0);
            assert_eq!(left, None, "{nothing}");
        }
    }

    #[test]
    fn what_may_roll_back_is_not_there_to_spend() {
        let mut outlook = Outlook::new(credits(100));
        outlook.add_in_flight(credits(-30)).unwrap();
        outlook.add_in_flight(credits(500)).unwrap();
        let counted = Counted { charged: 1000, rows_before: 8 };
        let left = Headroom::left_by(&outlook, &written(&[25, -5]), &counted, 3).unwrap();
        assert_eq!(left, Headroom { charged_until: 1045, rows_folded: 5 });
        assert_eq!(left_by(25, &written(&[25]), &counted), None);
    }

    /// A limit is reached by charges alone, one step before zero.
    #[test]
    fn suffices_until_the_balance_could_be_zero() {
        static SLOTS_OF_TEST: HeadroomSlots = HeadroomSlots::empty();
        let first = written(&[-1]);
        let counted = SLOTS_OF_TEST.count(STATE.database, &USER, &first);
        SLOTS_OF_TEST.publish(&STATE, &USER, &left_by(10, &first, &counted).unwrap());
        let suffices = |amounts: &[i128]| {
            let counted = SLOTS_OF_TEST.count(STATE.database, &USER, &written(amounts));
            SLOTS_OF_TEST.get(&STATE, &USER).unwrap().suffices(&counted, INTERVAL)
        };
        assert!(suffices(&[-5]) && suffices(&[20]) && suffices(&[-3, -1]));
        assert!(!suffices(&[-1]));
        assert!(!suffices(&[20]), "a grant is not counted before somebody looks");
    }

    #[test]
    fn suffices_until_the_checkpoint_lags() {
        static SLOTS_OF_TEST: HeadroomSlots = HeadroomSlots::empty();
        let one = written(&[-1]);
        let counted = SLOTS_OF_TEST.count(STATE.database, &USER, &one);
        let headroom = Headroom::left_by(&Outlook::new(credits(1000)), &one, &counted, 0).unwrap();
        SLOTS_OF_TEST.publish(&STATE, &USER, &headroom);
        // Its own row, and those of the next ones.
        for row in 1..=INTERVAL {
            let counted = SLOTS_OF_TEST.count(STATE.database, &USER, &one);
            assert_eq!(headroom.suffices(&counted, INTERVAL), row < INTERVAL, "row {row}");
        }
    }

    #[test]
    fn the_farthest_limit_counts() {
        static SLOTS_OF_TEST: HeadroomSlots = HeadroomSlots::empty();
        let (far, near) =
            (Headroom { charged_until: 9, rows_folded: 1 }, Headroom { charged_until: 5, rows_folded: 3 });
        for headroom in [&far, &near, &far] {
            SLOTS_OF_TEST.publish(&STATE, &USER, headroom);
        }
        assert_eq!(SLOTS_OF_TEST.get(&STATE, &USER), Some(Headroom { charged_until: 9, rows_folded: 3 }));
        let later = StateName { digest: 1, ..STATE };
        assert_eq!(SLOTS_OF_TEST.get(&later, &USER), None);
        SLOTS_OF_TEST.publish(&later, &USER, &near);
        assert_eq!(SLOTS_OF_TEST.get(&later, &USER), Some(near));
        assert_eq!(SLOTS_OF_TEST.get(&STATE, &USER), None);
    }

    #[test]
    fn what_is_too_much_to_count_never_suffices() {
        static SLOTS_OF_TEST: HeadroomSlots = HeadroomSlots::empty();
        let mut endless = Written::default();
        endless.add(Credits::from_units(i128::MIN));
        let counted = SLOTS_OF_TEST.count(STATE.database, &USER, &endless);
        let limit = Headroom::left_by(&Outlook::new(Credits::from_units(i128::MAX)), &endless, &counted, 0);
        assert!(!limit.unwrap().suffices(&counted, INTERVAL));
        assert!(
            !limit.unwrap().suffices(&SLOTS_OF_TEST.count(STATE.database, &USER, &written(&[-1])), INTERVAL)
        );
    }

    /// Of charges that come at once, no more are let through than the limit allows.
    #[test]
    fn charges_at_once_do_not_pass_the_limit() {
        static SLOTS_OF_TEST: HeadroomSlots = HeadroomSlots::empty();
        SLOTS_OF_TEST.publish(&STATE, &USER, &Headroom { charged_until: 10_000, rows_folded: 0 });
        let passed: usize = thread::scope(|scope| {
            let sessions: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let charges = (0..10_000).filter(|_| {
                            let counted = SLOTS_OF_TEST.count(STATE.database, &USER, &written(&[-1]));
                            SLOTS_OF_TEST.get(&STATE, &USER).unwrap().suffices(&counted, u64::MAX)
                        });
                        charges.count()
                    })
                })
                .collect();
            sessions.into_iter().map(|session| session.join().unwrap()).sum()
        });
        assert_eq!(passed, 9_999);
    }
}
