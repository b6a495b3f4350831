//! Where sessions count what they write of users, and publish [`headroom`](super::headroom).
//!
//! Counts are those of all users that share them. That makes them too high, never too low. Headroom is of one user. If two sessions
//! publish some of the same user at once, each of them may find a place of its own for it: both are true, and both are voided.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};

use super::headroom::{Counted, Headroom, Written};
use super::place::{self, KEY_WORDS};
use super::seqlock::SeqLock;
use super::{Account, StateName};
use crate::id::UserId;

/// How many users' headroom a set has room for.
pub const HEADROOMS: usize = 8;

/// The counts of all users who share them.
#[derive(Debug)]
#[repr(C)]
pub struct Counts {
    /// Charges, in steps.
    charged: AtomicU64,
    /// Grants, in steps.
    granted: AtomicU64,
    rows: AtomicU64,
}

/// Room for the headroom of a user.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct HeadroomSlot(SeqLock<WORDS>);

/// The key and the words of [`Headroom`].
const WORDS: usize = KEY_WORDS + HEADROOM_WORDS;
const HEADROOM_WORDS: usize = 4;
type Words = [u64; WORDS];

/// How often a session tries to clear a slot that others are writing.
const MOST_TRIES: usize = 1000;

const _: () = {
    assert!(offset_of!(Counts, granted) == 8 && offset_of!(Counts, rows) == 16, "charges, grants, rows");
    assert!(size_of::<Counts>() == 24, "three words");
    assert!(size_of::<HeadroomSlot>() == 64, "a slot takes a cache line");
    assert!(size_of::<SeqLock<WORDS>>() == 64, "and leaves no byte of it unused");
};

impl Counts {
    #[cfg(test)]
    pub(super) const fn empty() -> Self {
        Self { charged: AtomicU64::new(0), granted: AtomicU64::new(0), rows: AtomicU64::new(0) }
    }
}

impl HeadroomSlot {
    #[cfg(test)]
    pub(super) const fn empty() -> Self {
        Self(SeqLock::new())
    }

    #[inline]
    fn read(&self) -> Option<(u64, Words)> {
        self.0.read(WORDS, |_| 0)
    }

    /// Clears the slot if it is the user's, of whom nobody publishes meanwhile: what is being written is of another one. False if
    /// others kept writing it.
    fn void(&self, user: &UserId) -> bool {
        (0..MOST_TRIES).any(|_| match self.0.read(KEY_WORDS, |_| 0) {
            None => self.0.is_being_written(),
            Some((_, words)) if !place::is_of(&words, user) => true,
            Some((version, _)) => self.0.write(version, &[0; WORDS]).is_some(),
        })
    }
}

impl Account<'_> {
    /// Adds what a transaction has written of the user to the counts, which are the same in every state, and returns them.
    #[must_use]
    pub fn count(&self, written: &Written) -> Counted {
        let counts = self.counts();
        let rows_before = counts.rows.fetch_add(written.rows, Ordering::SeqCst);
        let charged = add(&counts.charged, written.charged);
        let granted = add(&counts.granted, written.granted);
        Counted::new(charged, granted, rows_before)
    }

    /// The count of the user's rows.
    #[must_use]
    pub fn counted_rows(&self) -> u64 {
        self.counts().rows.load(Ordering::SeqCst)
    }

    /// The count of the user's charges, in steps.
    #[must_use]
    pub fn counted_charges(&self) -> u64 {
        self.counts().charged.load(Ordering::SeqCst)
    }

    /// The headroom of the user that was published last, if it has not been displaced.
    #[inline]
    #[must_use]
    pub fn headroom(&self, state: &StateName) -> Option<Headroom> {
        let key = place::key(state, self.user);
        let (ways, slots) = self.set.headrooms();
        for way in ways.tagged(self.place.tag) {
            if let Some(words) = slots[way].0.read_of(&key) {
                ways.use_again(way);
                return Some(headroom(words));
            }
        }
        None
    }

    /// Publishes headroom of the user. Its two ceilings for crossings replace those that were published before in the same state, which
    /// may be of another level. If it has none, the published ones stay, true as ever. Of `covered_until` and `rows_folded` the higher
    /// stays. Gives up if another session is writing the slot. Returns whether another user's headroom of the same ledger has given way.
    pub fn publish_headroom(&self, state: &StateName, headroom: &Headroom) -> bool {
        let key = place::key(state, self.user);
        let (ways, slots) = self.set.headrooms();
        let own = ways.tagged(self.place.tag).find_map(|way| {
            let (version, words) = slots[way].read()?;
            place::is_of(&words, self.user).then_some((way, version, words))
        });
        let found = own.or_else(|| {
            let way = ways.make_room(HEADROOMS);
            slots[way].read().map(|(version, words)| (way, version, words))
        });
        let Some((way, version, before)) = found else { return false };
        let published = match before {
            [high, low, state, words @ ..] if [high, low, state] == key => self::headroom(words),
            _ => Headroom::default(),
        };
        let level = if headroom.charged_until > 0 { headroom } else { &published };
        let rows_folded = headroom.rows_folded.max(published.rows_folded);
        let covered_until = headroom.covered_until.max(published.covered_until);
        let Headroom { charged_until, granted_until, .. } = *level;
        let mut words = [0; WORDS];
        words[..KEY_WORDS].copy_from_slice(&key);
        words[KEY_WORDS..].copy_from_slice(&[charged_until, granted_until, rows_folded, covered_until]);
        if slots[way].0.write(version, &words).is_none() || own.is_some() {
            return false;
        }
        ways.take(way, self.place.tag);
        place::is_of_state(&before, state)
    }

    /// Clears what is published of the user in any state. The caller has its stripe exclusively, so nobody publishes of it meanwhile;
    /// others write the slots for other users. False if they kept writing.
    #[must_use]
    pub fn void_headroom(&self) -> bool {
        // All slots: a session that has displaced something may have changed a tag late.
        let (_, slots) = self.set.headrooms();
        slots.iter().all(|slot| slot.void(self.user))
    }

    #[inline]
    fn counts(&self) -> &Counts {
        self.set.counts(self.place.counts)
    }
}

/// Adds to a count that stays at the end of its range once it is there, and returns it.
fn add(count: &AtomicU64, steps: u64) -> u64 {
    if steps == 0 {
        // In the one order that all these operations have, a read is as good, and the cache line stays with others that read it.
        return count.load(Ordering::SeqCst);
    }
    let add = |before: u64| Some(before.saturating_add(steps));
    let before = count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, add).unwrap_or(u64::MAX);
    before.saturating_add(steps)
}

/// The headroom that the words after a key are.
#[inline]
const fn headroom(words: [u64; HEADROOM_WORDS]) -> Headroom {
    let [charged_until, granted_until, rows_folded, covered_until] = words;
    Headroom { charged_until, granted_until, covered_until, rows_folded }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::headroom::tests::{announced, left_by, written};
    use super::super::place::Place;
    use super::super::set::Set;
    use super::super::straggler_sets::StragglerSets;
    use super::*;
    use crate::credits::Credits;
    use crate::crossing::Outlook;

    const STATE: StateName = StateName { database: 5, ledger: 16384, digest: 0 };
    const USER: UserId = UserId::from_bytes([7; 16]);
    const INTERVAL: u64 = 64;

    /// The account of the user in this set.
    fn account<'a>(set: &'a Set, user: &'a UserId) -> Account<'a> {
        static STRAGGLER_SETS: StragglerSets = StragglerSets::empty();
        let place = Place::of(STATE.database, user, 1);
        Account { set, place, user, straggler_sets: &STRAGGLER_SETS }
    }

    /// Counts these amounts, and whether the headroom that is published suffices for them.
    fn suffices(account: &Account<'_>, amounts: &[i128]) -> bool {
        let counted = account.count(&written(amounts));
        account.headroom(&STATE).is_some_and(|headroom| headroom.suffices(&counted, INTERVAL))
    }

    /// Above zero only charges reach a ceiling, and they do so one step before zero.
    #[test]
    fn suffices_until_the_balance_could_be_zero() {
        static SET: Set = Set::empty();
        let account = account(&SET, &USER);
        let first = written(&[-1]);
        let counted = account.count(&first);
        account.publish_headroom(&STATE, &left_by(10, &first, &counted));
        let suffices = |amounts: &[i128]| suffices(&account, amounts);
        assert!(suffices(&[-5]) && suffices(&[20]) && suffices(&[-3, -1]));
        assert!(!suffices(&[-1]));
        assert!(!suffices(&[20]), "a grant adds no headroom before a settlement looks");
    }

    /// Below zero only grants do.
    #[test]
    fn suffices_until_the_balance_could_be_above_zero() {
        static SET: Set = Set::empty();
        let account = account(&SET, &USER);
        let first = written(&[2]);
        let counted = account.count(&first);
        account.publish_headroom(&STATE, &left_by(-10, &first, &counted));
        let suffices = |amounts: &[i128]| suffices(&account, amounts);
        assert!(suffices(&[5]) && suffices(&[-20]) && suffices(&[3, 1]));
        assert!(!suffices(&[1]));
        assert!(!suffices(&[-20]), "a charge adds no headroom before a settlement looks");
    }

    #[test]
    fn suffices_until_the_checkpoint_lags() {
        static SET: Set = Set::empty();
        let account = account(&SET, &USER);
        let one = written(&[-1]);
        let counted = account.count(&one);
        let headroom = left_by(1000, &one, &counted);
        account.publish_headroom(&STATE, &headroom);
        // The row that this settlement counts, and the rows of the next settlements.
        for row in 1..=INTERVAL {
            let counted = account.count(&one);
            assert_eq!(headroom.suffices(&counted, INTERVAL), row < INTERVAL, "row {row}");
        }
    }

    /// A threshold at 50 was crossed upwards: a farther ceiling that was published below it is not true any more.
    #[test]
    fn the_ceilings_of_a_level_replace_each_other() {
        static SET: Set = Set::empty();
        let account = account(&SET, &USER);
        let publish = |charged_until, granted_until, covered_until, rows_folded| {
            let headroom = Headroom { charged_until, granted_until, covered_until, rows_folded };
            account.publish_headroom(&STATE, &headroom);
        };
        let published = || {
            let Headroom { charged_until, granted_until, covered_until, rows_folded } =
                account.headroom(&STATE).unwrap();
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

        let later = StateName { digest: 1, ..STATE };
        assert_eq!(account.headroom(&later), None);
        let near = Headroom { charged_until: 5, granted_until: 1, covered_until: 2, rows_folded: 3 };
        account.publish_headroom(&later, &near);
        assert_eq!(account.headroom(&later), Some(near));
        assert_eq!(account.headroom(&STATE), None);
    }

    #[test]
    fn what_is_void_is_void_in_every_state() {
        static SET: Set = Set::empty();
        let account = account(&SET, &USER);
        let later = StateName { digest: 1, ..STATE };
        let far = Headroom { charged_until: 9, granted_until: 9, covered_until: 9, rows_folded: 1 };
        for state in [STATE, later] {
            account.publish_headroom(&state, &far);
            assert!(account.void_headroom());
            assert_eq!(account.headroom(&state), None);
            assert!(account.void_headroom());
        }
        account.publish_headroom(
            &STATE,
            &Headroom { charged_until: 1, granted_until: 1, ..Headroom::default() },
        );
        let published = account.headroom(&STATE).unwrap();
        assert_eq!((published.covered_until, published.rows_folded), (0, 0), "of before nothing is left");
    }

    /// A tag may be another one's by the moment that it is changed: the slot is not found, and the user gets another one.
    #[test]
    fn what_is_published_twice_is_void_twice() {
        static SET: Set = Set::empty();
        let account = account(&SET, &USER);
        let far = Headroom { charged_until: 9, granted_until: 9, covered_until: 9, rows_folded: 1 };
        account.publish_headroom(&STATE, &far);
        SET.headrooms().0.take(0, account.place.tag ^ 0x70);
        assert_eq!(account.headroom(&STATE), None);
        account.publish_headroom(&STATE, &far);
        assert_eq!(account.headroom(&STATE), Some(far));
        assert!(account.void_headroom());
        SET.headrooms().0.take(0, account.place.tag);
        assert_eq!(account.headroom(&STATE), None);
    }

    /// More users than there is room for.
    #[test]
    fn headroom_gives_way_and_counts_do_not() {
        static SET: Set = Set::empty();
        let users: Vec<UserId> =
            (0..50_u128).map(|number| UserId::from_bytes(number.to_be_bytes())).collect();
        let of = |number: usize| Headroom {
            charged_until: number as u64 + 1,
            granted_until: 1,
            ..Headroom::default()
        };
        let mut displaced = 0;
        let mut counts = [0; 4];
        for (number, user) in users.iter().enumerate() {
            let account = account(&SET, user);
            let before = &mut counts[account.place.counts];
            let counted = account.count(&written(&[-1]));
            assert_eq!(counted.charged_since(*before), 0, "what others have counted stays");
            *before += 1;
            assert_eq!(account.counted_charges(), *before);
            displaced += usize::from(account.publish_headroom(&STATE, &of(number)));
            assert_eq!(account.headroom(&STATE), Some(of(number)));
            assert!(!account.publish_headroom(&STATE, &of(number)), "of the user itself");
        }
        assert_eq!(displaced, users.len() - HEADROOMS);
        let found = |state: &StateName| {
            let found = users.iter().enumerate().filter(|&(number, user)| {
                account(&SET, user).headroom(state).inspect(|found| assert_eq!(*found, of(number))).is_some()
            });
            found.count()
        };
        assert_eq!(found(&STATE), HEADROOMS);
        // What is of another state gives way without being missed.
        let later = StateName { digest: 1, ..STATE };
        assert!(
            users.iter().take(HEADROOMS).all(|user| !account(&SET, user).publish_headroom(&later, &of(0)))
        );
        assert!(account(&SET, &users[20]).publish_headroom(&later, &of(20)));
    }

    /// The users of a set publish, displace each other, and are voided: whoever reads finds what is the user's own, or nothing.
    #[test]
    fn headroom_is_never_taken_for_another_ones() {
        static SET: Set = Set::empty();
        let users: Vec<UserId> =
            (0..12_u128).map(|number| UserId::from_bytes(number.to_be_bytes())).collect();
        let found: usize = thread::scope(|scope| {
            let users = &users;
            let sessions: Vec<_> = (0..4)
                .map(|session| {
                    scope.spawn(move || {
                        let mut found = 0;
                        for round in 0..20_000_u64 {
                            let number =
                                usize::try_from(round * 7 + session).unwrap_or_default() % users.len();
                            let account = account(&SET, &users[number]);
                            let word = number as u64 + 1;
                            let own = Headroom {
                                charged_until: word,
                                granted_until: word,
                                covered_until: word,
                                rows_folded: word,
                            };
                            if let Some(headroom) = account.headroom(&STATE) {
                                assert_eq!(headroom, own);
                                found += 1;
                            } else {
                                account.publish_headroom(&STATE, &own);
                            }
                            if round % 16 == session {
                                assert!(account.void_headroom());
                            }
                        }
                        found
                    })
                })
                .collect();
            sessions.into_iter().map(|session| session.join().unwrap()).sum()
        });
        assert!(found > 0);
        // While nobody publishes, nothing is left of a user that is voided.
        for user in &users {
            assert!(account(&SET, user).void_headroom());
            assert_eq!(account(&SET, user).headroom(&STATE), None);
        }
    }

    #[test]
    fn what_is_too_much_to_count_never_suffices() {
        static SET: Set = Set::empty();
        let account = account(&SET, &USER);
        for (endless, balance) in [(i128::MIN, i128::MAX), (i128::MAX, -i128::MAX)] {
            let mut written = Written::default();
            written.add(Credits::from_units(endless));
            let counted = account.count(&written);
            let balance = Credits::from_units(balance);
            let announced = announced(balance, &[]);
            let left =
                Headroom::left_by(&Outlook::new(balance), &announced, &Written::default(), &counted, 0)
                    .unwrap();
            assert!(!left.suffices(&counted, INTERVAL));
            let next = account.count(&self::written(&[-1, 1]));
            assert!(!left.suffices(&next, INTERVAL));
        }
    }

    /// Of charges that several sessions make at once, headroom suffices for no more than are below the ceiling, whatever they grant.
    #[test]
    fn charges_at_once_do_not_pass_the_ceiling() {
        static SET: Set = Set::empty();
        let account = account(&SET, &USER);
        let headroom =
            Headroom { charged_until: 10_000, granted_until: u64::MAX, covered_until: 0, rows_folded: 0 };
        account.publish_headroom(&STATE, &headroom);
        let passed: usize = thread::scope(|scope| {
            let sessions: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let charges = (0..10_000).filter(|_| {
                            let counted = account.count(&written(&[-1, 2]));
                            account.headroom(&STATE).unwrap().suffices(&counted, u64::MAX)
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
