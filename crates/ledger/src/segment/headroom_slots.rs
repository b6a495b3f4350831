//! Where backends count what they write of users, and publish [`headroom`](super::headroom).
//!
//! The counts of a slot are those of all users that share it. That makes them too high, never too low.

use std::hint;
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
    /// The count of grants of all users on the slot, in steps.
    granted: AtomicU64,
    /// The count of rows of all users on the slot.
    rows: AtomicU64,
    /// The headroom of one user.
    headroom: SeqLock<WORDS>,
}

/// The key and the words of [`Headroom`].
const WORDS: usize = KEY_WORDS + 4;

/// The last word is for users that must be covered: others do not read it.
const WORDS_OF_ALL: usize = WORDS - 1;

/// How often a slot is tried to be cleared while others are writing it.
const MOST_TRIES: usize = 1000;

const _: () = {
    assert!(
        offset_of!(HeadroomSlot, granted) == 8
            && offset_of!(HeadroomSlot, rows) == 16
            && offset_of!(HeadroomSlot, headroom) == 24,
        "counts come first"
    );
    assert!(
        size_of::<SeqLock<WORDS>>() == 72,
        "96 bytes of a slot are used: counts and key of the first cache line"
    );
    assert!(size_of::<HeadroomSlot>() == 128, "a slot takes two cache lines");
    assert!(size_of::<HeadroomSlots>() == 4 << 20, "the slots take 4 MB");
};

impl HeadroomSlots {
    /// Adds what a transaction has written of the user to the counts, which are the same in every state, and returns them.
    #[must_use]
    pub fn count(&self, database: u32, user: &UserId, written: &Written) -> Counted {
        let slot = self.slot(database, user);
        let rows_before = slot.rows.fetch_add(written.rows, Ordering::SeqCst);
        let charged = add(&slot.charged, written.charged);
        let granted = add(&slot.granted, written.granted);
        Counted::new(charged, granted, rows_before)
    }

    /// The count of the user's rows.
    #[must_use]
    pub fn counted_rows(&self, database: u32, user: &UserId) -> u64 {
        self.slot(database, user).rows.load(Ordering::SeqCst)
    }

    /// The count of the user's charges, in steps.
    #[must_use]
    pub fn counted_charges(&self, database: u32, user: &UserId) -> u64 {
        self.slot(database, user).charged.load(Ordering::SeqCst)
    }

    /// The headroom of the user that was published last, if it has not been displaced, without what is for users that must be covered.
    #[must_use]
    pub fn get(&self, state: &StateName, user: &UserId) -> Option<Headroom> {
        self.read(state, user, WORDS_OF_ALL)
    }

    /// The headroom of the user that was published last, if it has not been displaced.
    #[must_use]
    pub fn get_with_cover(&self, state: &StateName, user: &UserId) -> Option<Headroom> {
        self.read(state, user, WORDS)
    }

    #[inline]
    fn read(&self, state: &StateName, user: &UserId, count: usize) -> Option<Headroom> {
        let (_, words) = self.slot(state.database, user).headroom.read(count, |_| 0)?;
        decode(&words, state, user)
    }

    /// Publishes headroom of the user. The limits of its level replace those that were published before in the same state, which may
    /// be of another level; where they say nothing, those stay, true as ever. The highest of the others stays. Gives up if another
    /// backend is writing the slot.
    pub fn publish(&self, state: &StateName, user: &UserId, headroom: &Headroom) {
        let slot = self.slot(state.database, user);
        let Some((version, words)) = slot.headroom.read(WORDS, |_| 0) else { return };
        let published = decode(&words, state, user).unwrap_or_default();
        let level = if headroom.charged_until > 0 { headroom } else { &published };
        let rows_folded = headroom.rows_folded.max(published.rows_folded);
        let covered_until = headroom.covered_until.max(published.covered_until);
        let Headroom { charged_until, granted_until, .. } = *level;
        let mut words = [0; WORDS];
        words[..KEY_WORDS].copy_from_slice(&slots::key(state, user));
        words[KEY_WORDS..].copy_from_slice(&[charged_until, granted_until, rows_folded, covered_until]);
        _ = slot.headroom.write(version, &words);
    }

    /// Clears what is published of the user in any state of the database. The caller has its stripe exclusively, so nobody publishes of
    /// it meanwhile; others write the slot for users of other databases. False if they did not leave off.
    #[must_use]
    pub fn void(&self, database: u32, user: &UserId) -> bool {
        let slot = self.slot(database, user);
        (0..MOST_TRIES).any(|_| match slot.headroom.read(KEY_WORDS, |_| 0) {
            None => {
                hint::spin_loop();
                false
            }
            Some((_, words)) if !slots::is_of(&words, database, user) => true,
            Some((version, _)) => slot.headroom.write(version, &[0; WORDS]).is_some(),
        })
    }

    fn slot(&self, database: u32, user: &UserId) -> &HeadroomSlot {
        &self.0[slots::slot_of(database, user)]
    }
}

/// Adds to a count that stays at the end of its range once it is there, and returns it.
fn add(count: &AtomicU64, steps: u64) -> u64 {
    if steps == 0 {
        // The same in the one order that all these operations have, and the line stays with others that read it.
        return count.load(Ordering::SeqCst);
    }
    let add = |before: u64| Some(before.saturating_add(steps));
    let before = count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).unwrap_or(u64::MAX);
    before.saturating_add(steps)
}

/// The headroom that the words are; `None` if they are another user's or of another state.
fn decode(words: &[u64; WORDS], state: &StateName, user: &UserId) -> Option<Headroom> {
    let (key, &[charged_until, granted_until, rows_folded, covered_until]) = words.split_at(KEY_WORDS) else {
        return None;
    };
    (key == slots::key(state, user)).then_some(Headroom {
        charged_until,
        granted_until,
        covered_until,
        rows_folded,
    })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::headroom::tests::{announced, left_by, written};
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
                        granted: AtomicU64::new(0),
                        rows: AtomicU64::new(0),
                        headroom: SeqLock::new(),
                    }
                }; SLOTS],
            )
        }
    }

    /// Counts these amounts, and whether the headroom that is published suffices for them.
    fn suffices(slots: &HeadroomSlots, amounts: &[i128]) -> bool {
        let counted = slots.count(STATE.database, &USER, &written(amounts));
        slots.get(&STATE, &USER).is_some_and(|headroom| headroom.suffices(&counted, INTERVAL))
    }

    /// Above zero only charges reach a limit, and they do so one step before zero.
    #[test]
    fn suffices_until_the_balance_could_be_zero() {
        static SLOTS_OF_TEST: HeadroomSlots = HeadroomSlots::empty();
        let first = written(&[-1]);
        let counted = SLOTS_OF_TEST.count(STATE.database, &USER, &first);
        SLOTS_OF_TEST.publish(&STATE, &USER, &left_by(10, &first, &counted));
        let suffices = |amounts: &[i128]| suffices(&SLOTS_OF_TEST, amounts);
        assert!(suffices(&[-5]) && suffices(&[20]) && suffices(&[-3, -1]));
        assert!(!suffices(&[-1]));
        assert!(!suffices(&[20]), "a grant adds no headroom before a settlement looks");
    }

    /// Below zero only grants do.
    #[test]
    fn suffices_until_the_balance_could_be_above_zero() {
        static SLOTS_OF_TEST: HeadroomSlots = HeadroomSlots::empty();
        let first = written(&[2]);
        let counted = SLOTS_OF_TEST.count(STATE.database, &USER, &first);
        SLOTS_OF_TEST.publish(&STATE, &USER, &left_by(-10, &first, &counted));
        let suffices = |amounts: &[i128]| suffices(&SLOTS_OF_TEST, amounts);
        assert!(suffices(&[5]) && suffices(&[-20]) && suffices(&[3, 1]));
        assert!(!suffices(&[1]));
        assert!(!suffices(&[-20]), "a charge adds no headroom before a settlement looks");
    }

    #[test]
    fn suffices_until_the_checkpoint_lags() {
        static SLOTS_OF_TEST: HeadroomSlots = HeadroomSlots::empty();
        let one = written(&[-1]);
        let counted = SLOTS_OF_TEST.count(STATE.database, &USER, &one);
        let headroom = left_by(1000, &one, &counted);
        SLOTS_OF_TEST.publish(&STATE, &USER, &headroom);
        // The row that this settlement counts, and the rows of the next settlements.
        for row in 1..=INTERVAL {
            let counted = SLOTS_OF_TEST.count(STATE.database, &USER, &one);
            assert_eq!(headroom.suffices(&counted, INTERVAL), row < INTERVAL, "row {row}");
        }
    }

    /// A threshold at 50 was crossed upwards: a farther limit that was published below it is not true any more.
    #[test]
    fn the_limits_of_a_level_replace_each_other() {
        static SLOTS_OF_TEST: HeadroomSlots = HeadroomSlots::empty();
        let publish = |charged_until, granted_until, covered_until, rows_folded| {
            let headroom = Headroom { charged_until, granted_until, covered_until, rows_folded };
            SLOTS_OF_TEST.publish(&STATE, &USER, &headroom);
        };
        let published = || {
            let Headroom { charged_until, granted_until, covered_until, rows_folded } =
                SLOTS_OF_TEST.get_with_cover(&STATE, &USER).unwrap();
            (charged_until, granted_until, covered_until, rows_folded)
        };
        publish(9, 90, 0, 1);
        publish(5, 100, 0, 3);
        assert_eq!(published(), (5, 100, 0, 3));
        publish(9, 60, 7, 2);
        assert_eq!(published(), (9, 60, 7, 3));
        // A pass that has found no room, or has not looked at holds.
        publish(0, 0, 6, 1);
        publish(10, 70, 0, 1);
        assert_eq!(published(), (10, 70, 7, 3));
        assert_eq!(SLOTS_OF_TEST.get(&STATE, &USER).unwrap().covered_until, 0, "not read for all");

        let later = StateName { digest: 1, ..STATE };
        assert_eq!(SLOTS_OF_TEST.get(&later, &USER), None);
        let near = Headroom { charged_until: 5, granted_until: 1, covered_until: 2, rows_folded: 3 };
        SLOTS_OF_TEST.publish(&later, &USER, &near);
        assert_eq!(SLOTS_OF_TEST.get_with_cover(&later, &USER), Some(near));
        assert_eq!(SLOTS_OF_TEST.get(&STATE, &USER), None);
    }

    #[test]
    fn what_is_void_is_void_in_every_state() {
        static SLOTS_OF_TEST: HeadroomSlots = HeadroomSlots::empty();
        let later = StateName { digest: 1, ..STATE };
        let far = Headroom { charged_until: 9, granted_until: 9, covered_until: 9, rows_folded: 1 };
        for state in [STATE, later] {
            SLOTS_OF_TEST.publish(&state, &USER, &far);
            assert!(SLOTS_OF_TEST.void(STATE.database, &USER));
            assert_eq!(SLOTS_OF_TEST.get(&state, &USER), None);
            assert!(SLOTS_OF_TEST.void(STATE.database, &USER));
        }
        SLOTS_OF_TEST.publish(
            &STATE,
            &USER,
            &Headroom { charged_until: 1, granted_until: 1, ..Headroom::default() },
        );
        let published = SLOTS_OF_TEST.get_with_cover(&STATE, &USER).unwrap();
        assert_eq!((published.covered_until, published.rows_folded), (0, 0), "of before nothing is left");
        // Those of another database stay, whose user is on the same slot.
        let other = StateName { database: STATE.database + u32::try_from(SLOTS).unwrap(), ..STATE };
        SLOTS_OF_TEST.publish(&other, &USER, &far);
        assert!(SLOTS_OF_TEST.void(STATE.database, &USER));
        assert_eq!(SLOTS_OF_TEST.get_with_cover(&other, &USER), Some(far));
    }

    #[test]
    fn what_is_too_much_to_count_never_suffices() {
        static SLOTS_OF_TEST: HeadroomSlots = HeadroomSlots::empty();
        for (endless, balance) in [(i128::MIN, i128::MAX), (i128::MAX, -i128::MAX)] {
            let mut written = Written::default();
            written.add(Credits::from_units(endless));
            let counted = SLOTS_OF_TEST.count(STATE.database, &USER, &written);
            let balance = Credits::from_units(balance);
            let announced = announced(balance, &[]);
            let limit =
                Headroom::left_by(&Outlook::new(balance), &announced, &Written::default(), &counted, 0)
                    .unwrap();
            assert!(!limit.suffices(&counted, INTERVAL));
            let next = SLOTS_OF_TEST.count(STATE.database, &USER, &self::written(&[-1, 1]));
            assert!(!limit.suffices(&next, INTERVAL));
        }
    }

    /// Of charges that several sessions make at once, headroom suffices for no more than the limit allows, whatever they grant.
    #[test]
    fn charges_at_once_do_not_pass_the_limit() {
        static SLOTS_OF_TEST: HeadroomSlots = HeadroomSlots::empty();
        let limits =
            Headroom { charged_until: 10_000, granted_until: u64::MAX, covered_until: 0, rows_folded: 0 };
        SLOTS_OF_TEST.publish(&STATE, &USER, &limits);
        let passed: usize = thread::scope(|scope| {
            let sessions: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let charges = (0..10_000).filter(|_| {
                            let counted = SLOTS_OF_TEST.count(STATE.database, &USER, &written(&[-1, 2]));
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
