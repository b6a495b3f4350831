//! Folds that backends hand to each other, in memory that they share.
//!
//! What one backend has folded serves all of them, for what a coverage covers never changes. So the latest fold of a user is
//! published, and whoever settles the user next reads only the rows that came after it.
//!
//! Nobody waits here, and nothing is promised: a fold may be overwritten by one of another user, a publisher gives way to
//! another one, and who reads while a fold is being written finds none. Each slot is a sequence lock over atomic words
//! (Boehm, "Can seqlocks get along with programming language memory models?", 2012), so that a fold is read whole or not
//! at all.
//!
//! A fold is forgotten when its ledger is changed other than by inserting. Every backend learns of that on its own, in its
//! own time, so folds belong to an epoch: who learns of a change begins a new one, and so does who has just come and may
//! have missed one. [`SharedFolds::epoch`] says how an epoch is entered.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::coverage::{Coverage, MAX_STRAGGLERS};
use crate::credits::Credits;
use crate::fold::Fold;
use crate::stripe;

/// Folds that there is room for: 2 MB.
const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 13;

/// Where folds come from: none is taken for one of another ledger, or of another epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Oid of the database.
    pub database: u32,
    /// Oid of the ledger.
    pub ledger: u32,
    /// The epoch.
    pub epoch: u64,
}

/// The folds of all ledgers of a server. As zeros it is empty.
#[derive(Debug)]
pub struct SharedFolds {
    epoch: AtomicU64,
    slots: [Slot; SLOTS],
}

impl SharedFolds {
    /// Without any fold.
    #[must_use]
    pub const fn empty() -> Self {
        Self { epoch: AtomicU64::new(0), slots: [const { Slot::new() }; SLOTS] }
    }

    /// The current epoch. Whoever then makes sure to have learnt of all changes of the ledger so far, and finds none since it
    /// entered an epoch before, may read and publish in this one. Otherwise it begins a new one.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Begins a new epoch: what was published before is forgotten.
    pub fn begin_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// The fold of the user that was published last, if it is still there.
    #[must_use]
    pub fn get(&self, origin: &Origin, user: &[u8; 16]) -> Option<Fold> {
        let (_, words) = self.slot(origin, user).read()?;
        fold_of(&words, origin, user)
    }

    /// Publishes a fold of the user, unless one with as many rows is there.
    pub fn publish(&self, origin: &Origin, user: &[u8; 16], fold: &Fold) {
        let slot = self.slot(origin, user);
        let Some((version, words)) = slot.read() else { return };
        let known = fold_of(&words, origin, user);
        if known.is_none_or(|known| known.transaction_count < fold.transaction_count) {
            slot.write(version, &words_of(fold, origin, user));
        }
    }

    fn slot(&self, origin: &Origin, user: &[u8; 16]) -> &Slot {
        let hash = stripe::hash(user).wrapping_add(u64::from(origin.database) << (u64::BITS - SLOT_BITS));
        // The highest bits, so many that they number the slots.
        &self.slots[usize::try_from(hash >> (u64::BITS - SLOT_BITS)).unwrap_or_default()]
    }
}

/// Origin, user and what is fixed of a fold, before its stragglers.
const FIXED: usize = 11;
const WORDS: usize = FIXED + MAX_STRAGGLERS;
/// Which word is the number of stragglers.
const STRAGGLERS: usize = 5;

type Words = [u64; WORDS];

fn words_of(fold: &Fold, origin: &Origin, user: &[u8; 16]) -> Words {
    let [user_high, user_low] = halves(u128::from_be_bytes(*user));
    let [balance_high, balance_low] = halves(fold.balance.units().cast_unsigned());
    let stragglers = fold.coverage.stragglers();
    let mut words = [0; WORDS];
    words[..FIXED].copy_from_slice(&[
        ledger_word(origin),
        origin.epoch,
        user_high,
        user_low,
        fold.coverage.watermark(),
        stragglers.len() as u64,
        balance_high,
        balance_low,
        fold.transaction_count.cast_unsigned(),
        fold.latest_seq.cast_unsigned(),
        fold.unbatched_since.cast_unsigned(),
    ]);
    words[FIXED..FIXED + stragglers.len()].copy_from_slice(stragglers);
    words
}

/// The fold that the words are, if it is this one's.
fn fold_of(words: &Words, origin: &Origin, user: &[u8; 16]) -> Option<Fold> {
    let [user_high, user_low] = halves(u128::from_be_bytes(*user));
    let (fixed, stragglers) = words.split_at(FIXED);
    let &[ledger, epoch, high, low, watermark, _, balance_high, balance_low, count, seq, unbatched_since] =
        fixed
    else {
        return None;
    };
    if [ledger, epoch, high, low] != [ledger_word(origin), origin.epoch, user_high, user_low] {
        return None;
    }
    let balance = u128::from(balance_high) << 64 | u128::from(balance_low);
    Some(Fold {
        coverage: Coverage::from_parts(watermark, stragglers[..straggler_count(words)].iter().copied())?,
        balance: Credits::from_units(balance.cast_signed()),
        transaction_count: count.cast_signed(),
        latest_seq: seq.cast_signed(),
        unbatched_since: unbatched_since.cast_signed(),
    })
}

/// How many of the words behind the fixed ones are stragglers.
fn straggler_count(words: &Words) -> usize {
    usize::try_from(words[STRAGGLERS]).unwrap_or_default().min(MAX_STRAGGLERS)
}

fn ledger_word(origin: &Origin) -> u64 {
    u64::from(origin.database) << 32 | u64::from(origin.ledger)
}

fn halves(value: u128) -> [u64; 2] {
    // What is cut off is the other half.
    #[allow(clippy::cast_possible_truncation)]
    [(value >> 64) as u64, value as u64]
}

/// Room for a fold.
#[derive(Debug)]
#[repr(align(64))]
struct Slot {
    /// Odd while the words are being written.
    version: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Slot {
    const fn new() -> Self {
        Self { version: AtomicU64::new(0), words: [const { AtomicU64::new(0) }; WORDS] }
    }

    /// The words and their version; `None` while they are being written.
    fn read(&self) -> Option<(u64, Words)> {
        let version = self.version.load(Ordering::Acquire);
        let mut words = [0; WORDS];
        let mut copy = |from: usize, to: usize| {
            for (word, shared) in words[from..to].iter_mut().zip(&self.words[from..to]) {
                *word = shared.load(Ordering::Relaxed);
            }
            straggler_count(&words)
        };
        let stragglers = copy(0, FIXED);
        copy(FIXED, FIXED + stragglers);
        fence(Ordering::Acquire);
        let whole = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        whole.then_some((version, words))
    }

    /// Writes the words in place of those of this version, unless someone else was faster.
    fn write(&self, version: u64, words: &Words) {
        let taken = self.version.compare_exchange(version, version + 1, Ordering::Acquire, Ordering::Relaxed);
        if taken.is_err() {
            return;
        }
        fence(Ordering::Release);
        for (shared, &word) in self.words.iter().zip(&words[..FIXED + straggler_count(words)]) {
            shared.store(word, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const ORIGIN: Origin = Origin { database: 5, ledger: 16384, epoch: 0 };
    const USER: [u8; 16] = [7; 16];

    /// All of its parts follow from the number of rows.
    fn fold(rows: i64) -> Fold {
        let watermark = rows.cast_unsigned() * 100;
        let stragglers = (0..watermark % 17).map(|n| watermark - 1 - n);
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
        static FOLDS: SharedFolds = SharedFolds::empty();
        assert_eq!(FOLDS.get(&ORIGIN, &USER), None);
        for rows in 1..100 {
            assert_ne!(FOLDS.get(&ORIGIN, &USER), Some(fold(rows)));
            FOLDS.publish(&ORIGIN, &USER, &fold(rows));
            assert_eq!(FOLDS.get(&ORIGIN, &USER), Some(fold(rows)));
        }
    }

    #[test]
    fn a_fold_gives_way_to_a_further_one_only() {
        static FOLDS: SharedFolds = SharedFolds::empty();
        for rows in [5, 3, 5] {
            FOLDS.publish(&ORIGIN, &USER, &fold(rows));
            assert_eq!(FOLDS.get(&ORIGIN, &USER), Some(fold(5)));
        }
    }

    #[test]
    fn a_fold_is_not_taken_for_another_ones() {
        static FOLDS: SharedFolds = SharedFolds::empty();
        FOLDS.publish(&ORIGIN, &USER, &fold(1));
        for other in [
            Origin { database: 6, ..ORIGIN },
            Origin { ledger: 16385, ..ORIGIN },
            Origin { epoch: 1, ..ORIGIN },
        ] {
            assert_eq!(FOLDS.get(&other, &USER), None, "{other:?}");
        }
        // More users than there are slots: each finds its own or none.
        for number in 0..20_000_u128 {
            FOLDS.publish(&ORIGIN, &number.to_be_bytes(), &fold(i64::try_from(number).unwrap()));
        }
        let found = (0..20_000_u128).filter_map(|number| {
            let found = FOLDS.get(&ORIGIN, &number.to_be_bytes())?;
            assert_eq!(found, fold(i64::try_from(number).unwrap()));
            Some(())
        });
        assert!(found.count() > SLOTS / 2);
    }

    #[test]
    fn a_new_epoch_forgets() {
        static FOLDS: SharedFolds = SharedFolds::empty();
        FOLDS.publish(&ORIGIN, &USER, &fold(2));
        FOLDS.begin_epoch();
        let origin = Origin { epoch: FOLDS.epoch(), ..ORIGIN };
        assert_eq!(FOLDS.get(&origin, &USER), None);
        FOLDS.publish(&origin, &USER, &fold(1));
        assert_eq!(FOLDS.get(&origin, &USER), Some(fold(1)));
    }

    /// Two users on one slot, written by some while others read: every fold is whole, and its user's.
    #[test]
    fn a_fold_is_read_whole_or_not_at_all() {
        static FOLDS: SharedFolds = SharedFolds::empty();
        let slot = |number: u128| std::ptr::from_ref(FOLDS.slot(&ORIGIN, &number.to_be_bytes()));
        let other = (1..).find(|&number| slot(number) == slot(0)).unwrap();
        let users = [0, other].map(u128::to_be_bytes);
        let reads = thread::scope(|scope| {
            for parity in 0..2 {
                let user = &users[usize::try_from(parity).unwrap()];
                scope.spawn(move || {
                    for rows in 1..100_000 {
                        FOLDS.publish(&ORIGIN, user, &fold(2 * rows + parity));
                    }
                });
            }
            let readers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        let mut reads = 0;
                        for _ in 0..200_000 {
                            for (user, parity) in users.iter().zip(0..) {
                                if let Some(found) = FOLDS.get(&ORIGIN, user) {
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
