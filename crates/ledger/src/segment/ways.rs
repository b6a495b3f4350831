//! Which of the few places of a set has an account, and which of them another account may have.
//!
//! Each place has a tag, some bits of the hash of its account, so that a look-up reads no other place. And it has an age (Jaleel
//! and others, "High Performance Cache Replacement Using Re-Reference Interval Prediction", ISCA 2010): 0 from the moment that its
//! account was looked up again, 3 when it is the next to give way. An account that comes has an age of 2: one that is never seen
//! again gives way before those that are. Ages grow only where an account comes for whom there is no place.
//!
//! Nothing depends on tags and ages but what is found: who reads a place compares whose it is. So neither is a part of a sequence
//! lock, and sessions that change them at once may undo each other's changes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Most places of a set.
pub const MOST_WAYS: usize = 8;

/// The tags and ages of a set. As zeros no place is in use.
#[derive(Debug)]
#[repr(C)]
pub struct Ways {
    /// A byte for each place; 0: it was never used.
    tags: AtomicU64,
    /// Two bits for each place.
    ages: AtomicU64,
}

const _: () =
    assert!(size_of::<Ways>() == 16, "a change of the layout needs a directory with the next version");

/// A byte of 1 for each place.
const ONES: u64 = 0x0101_0101_0101_0101;
/// The highest bit of each byte.
const HIGH: u64 = ONES << 7;
/// The low bit of each age.
const LOW_BITS: u64 = 0x5555;
/// The age of an account that gives way next.
const OLDEST: u64 = 3;
/// The age of an account that comes.
const NEW: u64 = 2;

impl Ways {
    #[cfg(test)]
    pub(super) const fn empty() -> Self {
        Self { tags: AtomicU64::new(0), ages: AtomicU64::new(0) }
    }

    /// The places that have this tag, which is not 0, and perhaps some others.
    #[inline]
    pub fn tagged(&self, tag: u8) -> Tagged {
        // A byte that is equal becomes 0, and one that was 0 becomes negative (Mycroft's test, Warren, "Hacker's Delight", 6-1).
        let differences = self.tags.load(Ordering::Relaxed) ^ (ONES * u64::from(tag));
        Tagged(differences.wrapping_sub(ONES) & !differences & HIGH)
    }

    /// Keeps the account of the place for longer: it has been looked up.
    #[inline]
    pub fn use_again(&self, way: usize) {
        let bits = OLDEST << (2 * way);
        // The line stays with the others that read it, as long as no account gives way.
        if self.ages.load(Ordering::Relaxed) & bits != 0 {
            self.ages.fetch_and(!bits, Ordering::Relaxed);
        }
    }

    /// The place among the first so many that an account may take, after the others have aged.
    pub fn make_room(&self, ways: usize) -> usize {
        let tags = self.tags.load(Ordering::Relaxed);
        if let Some(unused) = (0..ways).find(|way| tags >> (8 * way) & 0xFF == 0) {
            return unused;
        }
        let ages = self.ages.load(Ordering::Relaxed);
        let (way, aged) = oldest(ages, ways);
        // Somebody else may have aged them meanwhile.
        _ = self.ages.compare_exchange(ages, aged, Ordering::Relaxed, Ordering::Relaxed);
        way
    }

    /// Records whose place it is.
    pub fn take(&self, way: usize, tag: u8) {
        let (shift, tag) = (8 * way, u64::from(tag));
        let replace = |tags: u64| Some(tags & !(0xFF << shift) | tag << shift);
        _ = self.tags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, replace);
        let replace = |ages: u64| Some(ages & !(OLDEST << (2 * way)) | NEW << (2 * way));
        _ = self.ages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, replace);
    }
}

/// The oldest of so many places, and the ages of all when that one has become [`OLDEST`] and the others by as much older.
fn oldest(ages: u64, ways: usize) -> (usize, u64) {
    let age = |way: usize| ages >> (2 * way) & OLDEST;
    // The first of those that are as old.
    let way = (0..ways).rev().max_by_key(|&way| age(way)).unwrap_or_default();
    let older = OLDEST - age(way);
    (way, ages + (LOW_BITS & ((1 << (2 * ways)) - 1)) * older)
}

/// Places, in ascending order.
#[derive(Clone, Copy, Debug)]
pub struct Tagged(u64);

impl Iterator for Tagged {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let way = self.0.trailing_zeros() / 8;
        (self.0 != 0).then(|| {
            self.0 &= self.0 - 1;
            way as usize
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_a_tag_are_found() {
        let ways = Ways::empty();
        for (way, tag) in [1, 2, 255, 1, 128, 127, 2, 1].into_iter().enumerate() {
            assert_eq!(ways.make_room(MOST_WAYS), way);
            ways.take(way, tag);
        }
        for (tag, found) in
            [(1, vec![0, 3, 7]), (2, vec![1, 6]), (255, vec![2]), (128, vec![4]), (127, vec![5])]
        {
            let all: Vec<usize> = ways.tagged(tag).collect();
            assert!(found.iter().all(|way| all.contains(way)), "{tag}: {all:?}");
        }
        assert_eq!(ways.tagged(77).count(), 0);
    }

    #[test]
    fn an_account_that_was_looked_up_outlives_those_that_were_not() {
        let ways = Ways::empty();
        for way in 0..4 {
            ways.take(ways.make_room(4), 10 + u8::try_from(way).unwrap());
        }
        ways.use_again(1);
        // Each of the others gives way before it, and so do those that come.
        let gone: Vec<usize> = (0..3)
            .map(|n| {
                let way = ways.make_room(4);
                ways.take(way, 20 + n);
                way
            })
            .collect();
        assert!(!gone.contains(&1), "{gone:?}");
        // Not for ever.
        let gone: Vec<usize> = (0..20)
            .map(|n| {
                let way = ways.make_room(4);
                ways.take(way, 30 + n);
                way
            })
            .collect();
        assert!(gone.contains(&1), "{gone:?}");
    }

    #[test]
    fn ages_of_every_kind_stay_ages() {
        for ways in 1..=4 {
            for ages in 0..1_u64 << (2 * ways) {
                let (way, aged) = oldest(ages, ways);
                let age = |ages: u64, way: usize| ages >> (2 * way) & 3;
                assert_eq!(age(aged, way), OLDEST);
                let older = OLDEST - age(ages, way);
                assert!((0..ways).all(|way| age(aged, way) == age(ages, way) + older), "{ages:b}: {aged:b}");
                assert!(aged < 1 << (2 * ways));
            }
        }
    }
}
