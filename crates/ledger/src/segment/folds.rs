//! Folds that backends hand to each other, in memory that they share.
//!
//! What one backend has folded serves all of them, for what a coverage covers never changes. So the latest fold of a user is
//! published, and whoever settles the user next reads only the rows that came after it.
//!
//! Often nothing came after it. Every row is counted ([`super::headroom`]) before it is committed: so if somebody took the
//! count, and then found no row that the fold does not cover, neither committed nor in flight, the fold is all there is as
//! long as the count stays the same. Who sees a row that it does not cover sees a higher count.

use std::cmp::Reverse;

use super::StateName;
use super::slots::{self, KEY_WORDS, SLOTS, SeqLock, halves};
use super::straggler_sets::StragglerSets;
use crate::coverage::Coverage;
use crate::credits::Credits;
use crate::fold::Fold;
use crate::id::UserId;

/// The latest folds of all users.
#[derive(Debug)]
pub struct FoldSlots {
    slots: [FoldSlot; SLOTS],
    sets: StragglerSets,
}

/// 256 bytes: 8 MB in all.
#[derive(Debug)]
#[repr(align(64))]
struct FoldSlot(SeqLock<WORDS>);

const _: () = assert!(size_of::<FoldSlot>() == 256, "a slot is four cache lines, all of which are used");

/// A fold as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedFold {
    /// The fold.
    pub fold: Fold,
    /// With so many rows counted it is all there is of the user.
    pub complete_at: Option<u64>,
}

impl FoldSlots {
    /// The fold of the user that was published last, if it is still there.
    #[must_use]
    pub fn get(&self, state: &StateName, user: &UserId) -> Option<PublishedFold> {
        let (_, words) = self.slot(state, user).read(FIXED_WORDS, straggler_words)?;
        self.decode(&words, state, user)
    }

    /// Publishes a fold of the user, unless one with as many rows is there that has whoever uses it look for no more stragglers.
    pub fn publish(&self, state: &StateName, user: &UserId, fold: &Fold) {
        let worth = |fold: &Fold| (fold.transaction_count, Reverse(fold.coverage.stragglers().len()));
        self.replace(state, user, fold, None, |known| worth(&known.fold) < worth(fold));
    }

    /// Tells of a fold that was published that it is complete.
    pub fn mark_complete(&self, state: &StateName, user: &UserId, fold: &Fold, counted: u64) {
        self.replace(state, user, fold, Some(counted), |known| known.fold == *fold);
    }

    fn replace(
        &self,
        state: &StateName,
        user: &UserId,
        fold: &Fold,
        complete_at: Option<u64>,
        may_replace: impl FnOnce(PublishedFold) -> bool,
    ) {
        let slot = self.slot(state, user);
        let Some((version, words)) = slot.read(FIXED_WORDS, straggler_words) else { return };
        if self.decode(&words, state, user).is_none_or(may_replace)
            && let Some(words) = self.encode(fold, complete_at, state, user)
        {
            slot.write(version, &words[..FIXED_WORDS + straggler_words(&words)]);
        }
    }

    /// `None` if its stragglers cannot be told.
    fn encode(
        &self,
        fold: &Fold,
        complete_at: Option<u64>,
        state: &StateName,
        user: &UserId,
    ) -> Option<Words> {
        let [ledger, digest, user_high, user_low] = slots::key(state, user);
        let [balance_high, balance_low] = halves(fold.balance.units().cast_unsigned());
        let stragglers = fold.coverage.stragglers();
        let mut words = [0; WORDS];
        words[..FIXED_WORDS].copy_from_slice(&[
            ledger,
            digest,
            user_high,
            user_low,
            fold.coverage.watermark(),
            stragglers.len() as u64,
            balance_high,
            balance_low,
            fold.transaction_count.cast_unsigned(),
            fold.latest_seq.cast_unsigned(),
            fold.unbatched_since.cast_unsigned(),
            complete_at.map_or(0, |counted| counted + 1),
        ]);
        match words[FIXED_WORDS..].get_mut(..stragglers.len()) {
            Some(few) => few.copy_from_slice(stragglers),
            None => words[FIXED_WORDS] = self.sets.intern(stragglers)?,
        }
        Some(words)
    }

    /// What the words say, if it is this one's.
    fn decode(&self, words: &Words, state: &StateName, user: &UserId) -> Option<PublishedFold> {
        let (fixed, stragglers) = words.split_at(FIXED_WORDS);
        let (key, fold) = fixed.split_at(KEY_WORDS);
        if key != slots::key(state, user) {
            return None;
        }
        let &[
            watermark,
            count_of_stragglers,
            balance_high,
            balance_low,
            count,
            seq,
            unbatched_since,
            complete_at,
        ] = fold
        else {
            return None;
        };
        let coverage =
            match usize::try_from(count_of_stragglers).ok().and_then(|count| stragglers.get(..count)) {
                Some(few) => Coverage::from_parts(watermark, few.iter().copied()),
                None => Coverage::from_parts(watermark, self.sets.get(stragglers[0])?),
            };
        let balance = u128::from(balance_high) << 64 | u128::from(balance_low);
        let fold = Fold {
            coverage: coverage?,
            balance: Credits::from_units(balance.cast_signed()),
            transaction_count: count.cast_signed(),
            latest_seq: seq.cast_signed(),
            unbatched_since: unbatched_since.cast_signed(),
        };
        Some(PublishedFold { fold, complete_at: complete_at.checked_sub(1) })
    }

    fn slot(&self, state: &StateName, user: &UserId) -> &SeqLock<WORDS> {
        &self.slots[slots::slot_of(state.database, user)].0
    }
}

/// The key and what is fixed of a fold, before its stragglers.
const FIXED_WORDS: usize = KEY_WORDS + 8;
/// Stragglers that a fold has room for. Where there are more, the first word names their set.
const INLINE_STRAGGLERS: usize = 19;
const WORDS: usize = FIXED_WORDS + INLINE_STRAGGLERS;
/// Which word is the number of stragglers.
const STRAGGLER_COUNT: usize = 5;

type Words = [u64; WORDS];

/// How many words behind the fixed ones tell the stragglers.
fn straggler_words(words: &Words) -> usize {
    usize::try_from(words[STRAGGLER_COUNT]).ok().filter(|&count| count <= INLINE_STRAGGLERS).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::coverage::MAX_STRAGGLERS;

    impl FoldSlots {
        const fn empty() -> Self {
            Self { slots: [const { FoldSlot(SeqLock::new()) }; SLOTS], sets: StragglerSets::empty() }
        }

        fn fold(&self, state: &StateName, user: &UserId) -> Option<Fold> {
            self.get(state, user).map(|published| published.fold)
        }
    }

    const STATE: StateName = StateName { database: 5, ledger: 16384, digest: 0 };
    const USER: UserId = UserId::from_bytes([7; 16]);

    fn user(number: u128) -> UserId {
        UserId::from_bytes(number.to_be_bytes())
    }

    /// All of its parts follow from the number of rows.
    fn fold(rows: i64) -> Fold {
        let watermark = rows.cast_unsigned() * 100;
        let most = if rows % 16 == 0 { MAX_STRAGGLERS } else { INLINE_STRAGGLERS };
        let stragglers = (0..watermark % (most as u64 + 1)).map(|n| watermark - 1 - n);
        Fold {
            coverage: Coverage::from_parts(watermark, stragglers).unwrap(),
            balance: Credits::from_units(i128::from(-rows) << 70),
            transaction_count: rows,
            latest_seq: -3 * rows,
            unbatched_since: rows / 2,
        }
    }

    #[test]
    fn a_fold_is_found_as_it_was_published() {
        static FOLDS: FoldSlots = FoldSlots::empty();
        assert_eq!(FOLDS.fold(&STATE, &USER), None);
        for rows in 1..100 {
            assert_ne!(FOLDS.fold(&STATE, &USER), Some(fold(rows)));
            FOLDS.publish(&STATE, &USER, &fold(rows));
            assert_eq!(FOLDS.fold(&STATE, &USER), Some(fold(rows)));
        }
    }

    #[test]
    fn a_fold_gives_way_to_a_further_one_only() {
        static FOLDS: FoldSlots = FoldSlots::empty();
        for rows in [5, 3, 5] {
            FOLDS.publish(&STATE, &USER, &fold(rows));
            assert_eq!(FOLDS.fold(&STATE, &USER), Some(fold(5)));
        }
    }

    /// A reader that finds the stragglers ended, and no row of theirs, spares the others looking for them.
    #[test]
    fn a_fold_gives_way_to_one_with_fewer_stragglers() {
        static FOLDS: FoldSlots = FoldSlots::empty();
        let with = |stragglers: u64| Fold {
            coverage: Coverage::from_parts(1000, 1..=stragglers).unwrap(),
            ..fold(5)
        };
        for (published, found) in [(2, 2), (3, 2), (1, 1), (0, 0), (1, 0)] {
            FOLDS.publish(&STATE, &USER, &with(published));
            assert_eq!(FOLDS.fold(&STATE, &USER), Some(with(found)));
        }
    }

    /// Where more stragglers are open than a slot has room for, they are the same for everybody.
    #[test]
    fn folds_of_a_moment_share_their_stragglers() {
        static FOLDS: FoldSlots = FoldSlots::empty();
        let many = |rows: i64| Fold {
            coverage: Coverage::from_parts(1000, (1..=100).map(|id| 3 * id)).unwrap(),
            ..fold(rows)
        };
        for number in 0..1000_u32 {
            FOLDS.publish(&STATE, &user(number.into()), &many(number.into()));
        }
        let found = (0..1000_u32).filter_map(|number| {
            let found = FOLDS.fold(&STATE, &user(number.into()))?;
            assert_eq!(found, many(number.into()));
            Some(())
        });
        assert!(found.count() > 950);
    }

    #[test]
    fn only_the_fold_that_is_there_can_be_complete() {
        static FOLDS: FoldSlots = FoldSlots::empty();
        let complete_at = || FOLDS.get(&STATE, &USER).unwrap().complete_at;
        FOLDS.publish(&STATE, &USER, &fold(5));
        assert_eq!(complete_at(), None);
        FOLDS.mark_complete(&STATE, &USER, &fold(4), 7);
        assert_eq!(complete_at(), None);
        for counted in [0, 7] {
            FOLDS.mark_complete(&STATE, &USER, &fold(5), counted);
            assert_eq!(complete_at(), Some(counted));
        }
        FOLDS.publish(&STATE, &USER, &fold(5));
        assert_eq!(complete_at(), Some(7));
        FOLDS.publish(&STATE, &USER, &fold(6));
        assert_eq!(complete_at(), None);
    }

    #[test]
    fn a_fold_is_not_taken_for_another_ones() {
        static FOLDS: FoldSlots = FoldSlots::empty();
        FOLDS.publish(&STATE, &USER, &fold(1));
        for other in [
            StateName { database: 6, ..STATE },
            StateName { ledger: 16385, ..STATE },
            StateName { digest: 1, ..STATE },
        ] {
            assert_eq!(FOLDS.fold(&other, &USER), None, "{other:?}");
        }
        // More users than there are slots: each finds its own or none.
        for number in 0..4 * SLOTS as u128 {
            FOLDS.publish(&STATE, &user(number), &fold(i64::try_from(number).unwrap()));
        }
        let found = (0..4 * SLOTS as u128).filter_map(|number| {
            let found = FOLDS.fold(&STATE, &user(number))?;
            assert_eq!(found, fold(i64::try_from(number).unwrap()));
            Some(())
        });
        assert!(found.count() > SLOTS / 2);
    }

    #[test]
    fn a_new_epoch_forgets() {
        static FOLDS: FoldSlots = FoldSlots::empty();
        FOLDS.publish(&STATE, &USER, &fold(2));
        let state = StateName { digest: STATE.digest + 1, ..STATE };
        assert_eq!(FOLDS.fold(&state, &USER), None);
        FOLDS.publish(&state, &USER, &fold(1));
        assert_eq!(FOLDS.fold(&state, &USER), Some(fold(1)));
    }

    /// Two users on one slot, written by some while others read: every fold is whole, and its user's.
    #[test]
    fn a_fold_is_read_whole_or_not_at_all() {
        static FOLDS: FoldSlots = FoldSlots::empty();
        let slot = |number: u128| std::ptr::from_ref(FOLDS.slot(&STATE, &user(number)));
        let other = (1..).find(|&number| slot(number) == slot(0)).unwrap();
        let users = [0, other].map(user);
        let reads = thread::scope(|scope| {
            for parity in 0..2 {
                let user = &users[usize::try_from(parity).unwrap()];
                scope.spawn(move || {
                    for rows in 1..100_000 {
                        FOLDS.publish(&STATE, user, &fold(2 * rows + parity));
                    }
                });
            }
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut reads = 0;
                        for _ in 0..200_000 {
                            for (user, parity) in users.iter().zip(0..) {
                                if let Some(found) = FOLDS.fold(&STATE, user) {
                                    assert_eq!(found, fold(found.transaction_count));
                                    assert_eq!(found.transaction_count % 2, parity);
                                    reads += 1;
                                }
                            }
                        }
                        reads
                    })
                })
                .collect();
            readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u32>()
        });
        assert!(reads > 0);
    }
}
