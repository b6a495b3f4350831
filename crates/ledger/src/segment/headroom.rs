//! How much users can be charged before a settlement needs to look at their balance.
//!
//! Most settlements find a balance far above zero, and publish how far. From then on settlements count what they charge. While
//! all that is counted stays below that limit, the balance stays above zero, whatever commits and whatever rolls back: a
//! settlement needs to read nothing. One whose count reaches the limit looks again. This is the escrow method (O'Neil, "The
//! Escrow Transactional Method", ACM TODS 11, 1986) with its lower bound alone. It does not decide who may spend; it says
//! that there is nothing to decide.
//!
//! A transaction counts a charge after it has inserted the row, while it shares the stripe, and before it looks at anything. A
//! pass over the delta that begins after that meets the row. So a charge that a pass does not meet is counted after the count
//! that the pass has begun with. Those charges may take what is left above zero if all charges that the pass has met in flight
//! commit, and no grant does: the limit is the count before the pass plus that. Counts only grow, and a charge that is rolled
//! back stays counted, so a limit holds for good. `models/settlement.pml` explores this.
//!
//! The counts of a slot are those of all users that share it. That makes them too high, never too low.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StateName;
use super::seqlock::SeqLock;
use super::slots::{self, KEY_WORDS, SLOTS};
use crate::credits::{Credits, UNITS_PER_CREDIT};
use crate::crossing::Outlook;
use crate::id::UserId;

/// Amounts are counted in steps of a millionth of a credit.
const UNITS_PER_STEP: i128 = UNITS_PER_CREDIT / 1_000_000;

/// What a transaction has written of a user. Rows of savepoints that were rolled back are in it, so it may be more than there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    rows: u64,
    /// The charges in steps, each rounded up.
    charged: u64,
    /// The grants in steps, each rounded up.
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
        // An amount that the count has no room for makes it endless, and then no headroom suffices.
        let steps = amount.units().unsigned_abs().div_ceil(UNITS_PER_STEP.unsigned_abs());
        *side = side.saturating_add(steps.try_into().unwrap_or(u64::MAX));
    }
}

/// The counts of a user when a settlement had added its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// All charges so far in steps, those of the settlement included.
    charged: u64,
    /// All rows so far without those of the settlement.
    rows_before: u64,
}

impl Counted {
    /// `charged` is in millionths of a credit.
    #[must_use]
    pub const fn new(charged: u64, rows_before: u64) -> Self {
        Self { charged, rows_before }
    }
}

/// The limits up to which settlements need not look at a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headroom {
    /// The balance is above zero while the count of charges is below this.
    charged_until: u64,
    /// The count of rows at which the checkpoint covered every row.
    rows_folded: u64,
}

impl Headroom {
    /// The headroom that a pass over the delta leaves, whose settlement has `written` rows and then `counted` them. `lag` is how
    /// many rows the checkpoint is behind. `None` if the balance may be zero or less.
    #[must_use]
    pub fn left_by(outlook: &Outlook, written: &Written, counted: &Counted, lag: u64) -> Option<Self> {
        let lowest = outlook.lowest().ok()?.units().div_euclid(UNITS_PER_STEP);
        // The settlement's own grants are in the outlook as settled, and may be rolled back yet.
        let left = lowest.checked_sub(written.granted.into()).filter(|&left| left > 0)?;
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        Some(Self {
            charged_until: counted.charged.saturating_add(left),
            rows_folded: counted.rows_before.saturating_sub(lag),
        })
    }

    /// Whether a settlement with these counts need not look: the balance stays above zero, and fewer than `interval` rows have
    /// come since the checkpoint covered every row.
    #[must_use]
    pub const fn suffices(&self, counted: &Counted, interval: u64) -> bool {
        counted.charged < self.charged_until
            && counted.rows_before.saturating_sub(self.rows_folded) < interval
    }
}

/// The counts and the headroom of all users.
#[derive(Debug)]
#[repr(C)]
pub struct HeadroomSlots([HeadroomSlot; SLOTS]);

#[derive(Debug)]
#[repr(C, align(64))]
struct HeadroomSlot {
    /// The count of charges of all users on the slot, in steps.
    charged: AtomicU64,
    /// The count of rows of all users on the slot.
    rows: AtomicU64,
    /// The headroom of one user.
    headroom: SeqLock<WORDS>,
}

/// The key and the two words of [`Headroom`].
const WORDS: usize = KEY_WORDS + 2;

const _: () = {
    assert!(
        offset_of!(HeadroomSlot, rows) == 8 && offset_of!(HeadroomSlot, headroom) == 16,
        "counts come first"
    );
    assert!(size_of::<SeqLock<WORDS>>() == 56, "72 bytes of a slot are used");
    assert!(size_of::<HeadroomSlot>() == 128, "a slot takes two cache lines");
    assert!(size_of::<HeadroomSlots>() == 4 << 20, "the slots take 4 MB");
};

impl HeadroomSlots {
    /// Adds what a transaction has written of the user to the counts, which are the same in every state, and returns them.
    #[must_use]
    pub fn count(&self, database: u32, user: &UserId, written: &Written) -> Counted {
        let slot = self.slot(database, user);
        let rows_before = slot.rows.fetch_add(written.rows, Ordering::SeqCst);
        let add = |charged: u64| Some(charged.saturating_add(written.charged));
        let before = slot.charged.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).unwrap_or(u64::MAX);
        Counted::new(before.saturating_add(written.charged), rows_before)
    }

    /// The count of the user's rows.
    #[must_use]
    pub fn counted_rows(&self, database: u32, user: &UserId) -> u64 {
        self.slot(database, user).rows.load(Ordering::SeqCst)
    }

    /// The headroom of the user that was published last, if it has not been displaced.
    #[must_use]
    pub fn get(&self, state: &StateName, user: &UserId) -> Option<Headroom> {
        let (_, words) = self.slot(state.database, user).headroom.read(WORDS, |_| 0)?;
        decode(&words, state, user)
    }

    /// Publishes headroom of the user. What was published for the user before in the same state is true as well, so the higher
    /// limits stay. Gives up if another backend is writing the slot.
    pub fn publish(&self, state: &StateName, user: &UserId, headroom: &Headroom) {
        let slot = self.slot(state.database, user);
        let Some((version, words)) = slot.headroom.read(WORDS, |_| 0) else { return };
        let published = decode(&words, state, user).unwrap_or(*headroom);
        let charged_until = headroom.charged_until.max(published.charged_until);
        let rows_folded = headroom.rows_folded.max(published.rows_folded);
        let [ledger, digest, user_high, user_low] = slots::key(state, user);
        _ = slot.headroom.write(version, &[ledger, digest, user_high, user_low, charged_until, rows_folded]);
    }

    fn slot(&self, database: u32, user: &UserId) -> &HeadroomSlot {
        &self.0[slots::slot_of(database, user)]
    }
}

/// The headroom that the words are; `None` if they are another user's or of another state.
fn decode(words: &[u64; WORDS], state: &StateName, user: &UserId) -> Option<Headroom> {
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

    /// Only charges reach a limit, and they do so one step before zero.
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
        assert!(!suffices(&[20]), "a grant adds no headroom before a settlement looks");
    }

    #[test]
    fn suffices_until_the_checkpoint_lags() {
        static SLOTS_OF_TEST: HeadroomSlots = HeadroomSlots::empty();
        let one = written(&[-1]);
        let counted = SLOTS_OF_TEST.count(STATE.database, &USER, &one);
        let headroom = Headroom::left_by(&Outlook::new(credits(1000)), &one, &counted, 0).unwrap();
        SLOTS_OF_TEST.publish(&STATE, &USER, &headroom);
        // The row that this settlement counts, and the rows of the next settlements.
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

    /// Of charges that several sessions make at once, headroom suffices for no more than the limit allows.
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
