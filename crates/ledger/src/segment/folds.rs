//! Folds that backends publish to each other.
//!
//! What a coverage covers never changes, so a fold that one backend has computed serves all of them. The latest fold of a user
//! is published, and the next settlement of the user reads only the rows that came after it.
//!
//! Often none came after it. Every row is counted ([`super::headroom`]) before it is committed. So if a backend reads the
//! count of a user's rows, and finds afterwards no row that the fold does not cover, neither committed nor in flight, the fold
//! is *complete* as long as the count stays the same: a snapshot that sees a row which the fold does not cover finds a higher
//! count.

use std::cmp::Reverse;
use std::mem::offset_of;

use super::StateName;
use super::fold_words::{FIXED_WORDS, WORDS, decode, encode, straggler_words};
use super::seqlock::SeqLock;
use super::slots::{self, SLOTS};
use super::straggler_sets::StragglerSets;
use crate::fold::Fold;
use crate::id::UserId;

/// The latest folds of all users.
#[derive(Debug)]
#[repr(C)]
pub struct FoldSlots {
    slots: [FoldSlot; SLOTS],
    straggler_sets: StragglerSets,
}

#[derive(Debug)]
#[repr(C, align(64))]
struct FoldSlot(SeqLock<WORDS>);

const _: () = {
    assert!(size_of::<FoldSlot>() == 256, "a slot takes four cache lines");
    assert!(size_of::<SeqLock<WORDS>>() == 256, "and leaves no byte of them unused");
    assert!(offset_of!(FoldSlots, straggler_sets) == 8 << 20, "the slots take 8 MB");
};

/// A fold as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedFold {
    /// The fold.
    pub fold: Fold,
    /// The fold has every row of the user while this is the count of the user's rows; `None` if no backend has found out.
    pub complete_at: Option<u64>,
}

impl FoldSlots {
    /// The fold of the user that was published last, if it has not been displaced.
    #[must_use]
    pub fn get(&self, state: &StateName, user: &UserId) -> Option<PublishedFold> {
        let (_, words) = self.slot(state, user).read(FIXED_WORDS, straggler_words)?;
        decode(&words, state, user, &self.straggler_sets)
    }

    /// Publishes a fold of the user, unless the published one has more rows, or as many and no more stragglers. Gives up if
    /// another backend is writing the slot.
    pub fn publish(&self, state: &StateName, user: &UserId, fold: &Fold) {
        let worth = |fold: &Fold| (fold.transaction_count, Reverse(fold.coverage.stragglers().len()));
        self.replace(state, user, fold, None, |published| worth(&published.fold) < worth(fold));
    }

    /// Publishes that the fold is complete while `counted` is the count of the user's rows, if it is still the published one.
    pub fn mark_complete(&self, state: &StateName, user: &UserId, fold: &Fold, counted: u64) {
        self.replace(state, user, fold, Some(counted), |published| published.fold == *fold);
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
        if decode(&words, state, user, &self.straggler_sets).is_none_or(may_replace)
            && let Some(words) = encode(fold, complete_at, state, user, &self.straggler_sets)
        {
            slot.write(version, &words[..FIXED_WORDS + straggler_words(&words)]);
        }
    }

    fn slot(&self, state: &StateName, user: &UserId) -> &SeqLock<WORDS> {
        &self.slots[slots::slot_of(state.database, user)].0
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::fold_words::INLINE_STRAGGLERS;
    use super::*;
    use crate::coverage::{Coverage, MAX_STRAGGLERS};
    use crate::credits::Credits;

    impl FoldSlots {
        const fn empty() -> Self {
            Self {
                slots: [const { FoldSlot(SeqLock::new()) }; SLOTS],
                straggler_sets: StragglerSets::empty(),
            }
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

    /// A reader that has found no row of stragglers that have ended spares the others a probe for each.
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

    /// Where more stragglers are open than a slot has room for, all folds of a moment have the same ones.
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
    fn a_fold_of_another_state_is_not_found() {
        static FOLDS: FoldSlots = FoldSlots::empty();
        FOLDS.publish(&STATE, &USER, &fold(2));
        let state = StateName { digest: STATE.digest + 1, ..STATE };
        assert_eq!(FOLDS.fold(&state, &USER), None);
        FOLDS.publish(&state, &USER, &fold(1));
        assert_eq!(FOLDS.fold(&state, &USER), Some(fold(1)));
    }

    /// Two users share a slot. Some threads publish folds of both while others read: each fold is whole, and its user's.
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
