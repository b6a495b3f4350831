//! Folds that sessions publish to each other.
//!
//! What a coverage covers never changes, so a fold that one session has computed serves all of them. The latest fold of a user
//! is published, and the next settlement of the user reads only the rows that came after it.
//!
//! Often none came after it. Every row is counted ([`super::headroom`]) before it is committed. So if a session reads the
//! count of a user's rows, and finds afterwards no row that the fold does not cover, neither committed nor in flight, the fold
//! is *complete* as long as the count stays the same: a snapshot that sees a row which the fold does not cover finds a higher
//! count.

use std::cmp::Reverse;

use super::fold_words::{FIXED_WORDS, WORDS, Words, decode, encode, straggler_words};
use super::seqlock::SeqLock;
use super::{Account, StateName, place};
use crate::fold::Fold;

/// How many folds a set has room for.
pub const FOLDS: usize = 3;

/// Room for a fold.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct FoldSlot(SeqLock<WORDS>);

const _: () = {
    assert!(size_of::<FoldSlot>() == 128, "a slot takes two cache lines");
    assert!(size_of::<SeqLock<WORDS>>() == 128, "and leaves no byte of them unused");
};

/// A fold as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedFold {
    /// The fold.
    pub fold: Fold,
    /// The fold has every row of the user while this is the count of the user's rows; `None` if no session has found out.
    pub complete_at: Option<u64>,
}

impl FoldSlot {
    #[cfg(test)]
    pub(super) const fn empty() -> Self {
        Self(SeqLock::new())
    }

    fn read(&self) -> Option<(u64, Words)> {
        self.0.read(FIXED_WORDS, straggler_words)
    }
}

impl Account<'_> {
    /// The fold of the user that was published last, if it has not been displaced.
    #[must_use]
    pub fn fold(&self, state: &StateName) -> Option<PublishedFold> {
        let (ways, slots) = self.set.folds();
        let found = self.tagged_folds().find_map(|way| {
            let (_, words) = slots[way].read()?;
            Some((way, decode(&words, state, self.user, self.straggler_sets)?))
        });
        found.map(|(way, published)| {
            ways.use_again(way);
            published
        })
    }

    /// Publishes a fold of the user, unless the published one has more rows, or as many and no more stragglers. Gives up if
    /// another session is writing the slot. Returns whether another user's fold of the same ledger has given way.
    pub fn publish_fold(&self, state: &StateName, fold: &Fold) -> bool {
        let worth = |fold: &Fold| (fold.transaction_count, Reverse(fold.coverage.stragglers().len()));
        self.replace_fold(state, fold, None, |published| {
            published.is_none_or(|published| worth(&published.fold) < worth(fold))
        })
    }

    /// Publishes that the fold is complete while `counted` is the count of the user's rows, if it is still the published one.
    pub fn mark_fold_complete(&self, state: &StateName, fold: &Fold, counted: u64) {
        self.replace_fold(state, fold, Some(counted), |published| {
            published.is_some_and(|published| published.fold == *fold)
        });
    }

    fn replace_fold(
        &self,
        state: &StateName,
        fold: &Fold,
        complete_at: Option<u64>,
        may_replace: impl FnOnce(Option<PublishedFold>) -> bool,
    ) -> bool {
        let (ways, slots) = self.set.folds();
        let own = self.tagged_folds().find_map(|way| {
            let (version, words) = slots[way].read()?;
            place::is_of(&words, self.user).then_some((way, version, words))
        });
        let published =
            own.as_ref().and_then(|(_, _, words)| decode(words, state, self.user, self.straggler_sets));
        if !may_replace(published) {
            return false;
        }
        let found = own.or_else(|| {
            let way = ways.make_room(FOLDS);
            slots[way].read().map(|(version, words)| (way, version, words))
        });
        let Some((way, version, before)) = found else { return false };
        let Some(words) = encode(fold, complete_at, state, self.user, self.straggler_sets) else {
            return false;
        };
        if slots[way].0.write(version, &words[..FIXED_WORDS + straggler_words(&words)]).is_none()
            || own.is_some()
        {
            return false;
        }
        ways.take(way, self.place.tag);
        place::is_of_state(&before, state)
    }

    fn tagged_folds(&self) -> impl Iterator<Item = usize> + use<> {
        let (ways, _) = self.set.folds();
        ways.tagged(self.place.tag).filter(|&way| way < FOLDS)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::fold_words::INLINE_STRAGGLERS;
    use super::super::memory::{BASE_SETS, Base, Parts};
    use super::*;
    use crate::coverage::{Coverage, MAX_STRAGGLERS};
    use crate::credits::Credits;
    use crate::id::UserId;

    impl Account<'_> {
        fn fold_alone(&self, state: &StateName) -> Option<Fold> {
            self.fold(state).map(|published| published.fold)
        }
    }

    /// Memory of one part of its own.
    macro_rules! segment {
        () => {{
            static BASE: Base = Base::empty();
            static PARTS: Parts<'static> = Parts::new();
            PARTS.add_base(&BASE);
            PARTS.first(1).unwrap()
        }};
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
        let segment = segment!();
        assert_eq!(segment.account(STATE.database, &USER).fold_alone(&STATE), None);
        for rows in 1..100 {
            assert_ne!(segment.account(STATE.database, &USER).fold_alone(&STATE), Some(fold(rows)));
            segment.account(STATE.database, &USER).publish_fold(&STATE, &fold(rows));
            assert_eq!(segment.account(STATE.database, &USER).fold_alone(&STATE), Some(fold(rows)));
        }
    }

    #[test]
    fn a_fold_gives_way_to_a_further_one_only() {
        let segment = segment!();
        for rows in [5, 3, 5] {
            segment.account(STATE.database, &USER).publish_fold(&STATE, &fold(rows));
            assert_eq!(segment.account(STATE.database, &USER).fold_alone(&STATE), Some(fold(5)));
        }
    }

    /// A reader that has found no row of stragglers that have ended spares the others a probe for each.
    #[test]
    fn a_fold_gives_way_to_one_with_fewer_stragglers() {
        let segment = segment!();
        let with = |stragglers: u64| Fold {
            coverage: Coverage::from_parts(1000, 1..=stragglers).unwrap(),
            ..fold(5)
        };
        for (published, found) in [(2, 2), (3, 2), (1, 1), (0, 0), (1, 0)] {
            segment.account(STATE.database, &USER).publish_fold(&STATE, &with(published));
            assert_eq!(segment.account(STATE.database, &USER).fold_alone(&STATE), Some(with(found)));
        }
    }

    /// Where more stragglers are open than a slot has room for, all folds of a moment have the same ones.
    #[test]
    fn folds_of_a_moment_share_their_stragglers() {
        let segment = segment!();
        let many = |rows: i64| Fold {
            coverage: Coverage::from_parts(1000, (1..=100).map(|id| 3 * id)).unwrap(),
            ..fold(rows)
        };
        for number in 0..1000_u32 {
            segment.account(STATE.database, &user(number.into())).publish_fold(&STATE, &many(number.into()));
        }
        let found = (0..1000_u32).filter_map(|number| {
            let found = segment.account(STATE.database, &user(number.into())).fold_alone(&STATE)?;
            assert_eq!(found, many(number.into()));
            Some(())
        });
        assert!(found.count() > 950);
    }

    #[test]
    fn only_the_fold_that_is_there_can_be_complete() {
        let segment = segment!();
        let complete_at = || segment.account(STATE.database, &USER).fold(&STATE).unwrap().complete_at;
        segment.account(STATE.database, &USER).publish_fold(&STATE, &fold(5));
        assert_eq!(complete_at(), None);
        segment.account(STATE.database, &USER).mark_fold_complete(&STATE, &fold(4), 7);
        assert_eq!(complete_at(), None);
        for counted in [0, 7] {
            segment.account(STATE.database, &USER).mark_fold_complete(&STATE, &fold(5), counted);
            assert_eq!(complete_at(), Some(counted));
        }
        segment.account(STATE.database, &USER).publish_fold(&STATE, &fold(5));
        assert_eq!(complete_at(), Some(7));
        segment.account(STATE.database, &USER).publish_fold(&STATE, &fold(6));
        assert_eq!(complete_at(), None);
    }

    #[test]
    fn a_fold_is_not_taken_for_another_ones() {
        let segment = segment!();
        segment.account(STATE.database, &USER).publish_fold(&STATE, &fold(1));
        for other in [
            StateName { database: 6, ..STATE },
            StateName { ledger: 16385, ..STATE },
            StateName { digest: 1, ..STATE },
        ] {
            assert_eq!(segment.account(other.database, &USER).fold_alone(&other), None, "{other:?}");
        }
        let most = BASE_SETS * FOLDS;
        // More users than there are slots: each finds its own or none.
        for number in 0..4 * most as u128 {
            segment
                .account(STATE.database, &user(number))
                .publish_fold(&STATE, &fold(i64::try_from(number).unwrap()));
        }
        let found = (0..4 * most as u128).filter_map(|number| {
            let found = segment.account(STATE.database, &user(number)).fold_alone(&STATE)?;
            assert_eq!(found, fold(i64::try_from(number).unwrap()));
            Some(())
        });
        assert!(found.count() > most / 2);
    }

    #[test]
    fn a_fold_of_another_state_is_not_found() {
        let segment = segment!();
        segment.account(STATE.database, &USER).publish_fold(&STATE, &fold(2));
        let state = StateName { digest: STATE.digest + 1, ..STATE };
        assert_eq!(segment.account(state.database, &USER).fold_alone(&state), None);
        segment.account(state.database, &USER).publish_fold(&state, &fold(1));
        assert_eq!(segment.account(state.database, &USER).fold_alone(&state), Some(fold(1)));
    }

    /// More users share a set than it has room for. Some threads publish folds of both while others read: each fold is whole, and its user's.
    #[test]
    fn a_fold_is_read_whole_or_not_at_all() {
        let segment = segment!();
        let set = |number: u128| std::ptr::from_ref(segment.account(STATE.database, &user(number)).set);
        let of_a_set: Vec<u128> = (0..).filter(|&number| set(number) == set(0)).take(FOLDS + 2).collect();
        let users: Vec<UserId> = of_a_set.into_iter().map(user).collect();
        let count = i64::try_from(users.len()).unwrap();
        let reads = thread::scope(|scope| {
            for (user, number) in users.iter().zip(0..) {
                scope.spawn(move || {
                    for rows in 1..50_000 {
                        segment
                            .account(STATE.database, user)
                            .publish_fold(&STATE, &fold(count * rows + number));
                    }
                });
            }
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut reads = 0;
                        for _ in 0..50_000 {
                            for (user, number) in users.iter().zip(0..) {
                                let account = segment.account(STATE.database, user);
                                if let Some(found) = account.fold_alone(&STATE) {
                                    assert_eq!(found, fold(found.transaction_count));
                                    assert_eq!(found.transaction_count % count, number);
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
