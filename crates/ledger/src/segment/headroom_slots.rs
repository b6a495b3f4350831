//! Where backends count what they write of users, and publish [`headroom`](super::headroom).
//!
//! The counts of a slot are those of all users that share it. That makes them too high, never too low.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

use super::StateName;
use super::headroom::{Counted, Headroom, Written};
use super::seqlock::SeqLock;
use super::slots::{self, KEY_WORDS, SLOTS};
use crate::id::UserId;

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

    use super::super::headroom::tests::{credits, left_by, written};
    use super::*;
    use crate::credits::Credits;
    use crate::crossing::Outlook;

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
