//! Shared memory as a whole: parts of it that were made one after the other, and the sets in them.
//!
//! A transaction asks how many parts there are after it has inserted its rows, while it shares the stripe or has it exclusively,
//! and counts in the sets of those. If more were there by then than another transaction has found, that one's rows were there
//! before they were: its counts are missed, but every pass that leaves headroom in the larger memory has met its rows. And that other
//! one uses headroom of the smaller memory alone, of whose name nothing is found in the larger. `models/settlement.pml` and
//! `models/holds.pml` explore this.

use std::mem::offset_of;
use std::sync::OnceLock;

use super::Account;
use super::place::Place;
use super::set::Set;
use super::straggler_sets::StragglerSets;
use crate::id::UserId;

/// The first part of shared memory, which is there as long as the server runs.
#[derive(Debug)]
#[repr(C)]
pub struct Base {
    straggler_sets: StragglerSets,
    sets: [Set; BASE_SETS],
}

/// How many sets the first part has.
pub const BASE_SETS: usize = 1024;
/// How many parts there can be.
pub const MOST_PARTS: usize = 32;
/// A part that adds less than this share of the sets that are there is not worth it that everybody looks again.
const SMALLEST_SHARE: usize = 8;

// Sessions of one server may run libraries of different builds. A change of a number here needs a name with the next
// version for the directory that leads to the parts.
const _: () = {
    assert!(align_of::<Base>() == 64, "it is aligned to a cache line, as its parts are");
    assert!(offset_of!(Base, sets) == 208 << 10, "the sets of stragglers come first");
    assert!(size_of::<Base>() == (1024 + 208) << 10, "1.2 MB");
};

/// How many sets the next part has, if all parts together may have so many bytes: as many as there are, or those that there is still room
/// for. `None` if those are not worth it.
#[must_use]
pub fn next_part(sets: usize, parts: usize, most_bytes: usize) -> Option<usize> {
    let taken = size_of::<Base>() + (sets - BASE_SETS) * size_of::<Set>();
    let room = most_bytes.saturating_sub(taken) / size_of::<Set>();
    let more = room.min(sets);
    (parts < MOST_PARTS && more >= sets / SMALLEST_SHARE).then_some(more)
}

/// The parts that a session is attached to.
#[derive(Debug)]
pub struct Parts<'a> {
    base: OnceLock<&'a Base>,
    sets: [OnceLock<&'a [Set]>; MOST_PARTS],
}

impl<'a> Parts<'a> {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { base: OnceLock::new(), sets: [const { OnceLock::new() }; MOST_PARTS] }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sets.iter().take_while(|part| part.get().is_some()).count()
    }

    /// Adds the first part. Nothing happens if it is there.
    pub fn add_base(&self, base: &'a Base) {
        _ = self.base.set(base);
        _ = self.sets[0].set(&base.sets);
    }

    /// Adds the part that follows those that are there.
    pub fn add(&self, sets: &'a [Set]) {
        if let Some(part) = self.sets.get(self.count()) {
            _ = part.set(sets);
        }
    }

    /// Memory of the first parts, so many; `None` if not all of them are there.
    #[must_use]
    pub fn first(&'a self, parts: usize) -> Option<Segment<'a>> {
        let base = *self.base.get()?;
        let sets = self.sets.get(..parts)?.iter().map(|part| part.get().map(|sets| sets.len()));
        Some(Segment { parts: self, base, sets: sets.sum::<Option<usize>>()? })
    }
}

impl Default for Parts<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// Shared memory as it was at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    parts: &'a Parts<'a>,
    base: &'a Base,
    /// How many sets its parts have.
    sets: usize,
}

impl<'a> Segment<'a> {
    /// How many sets it has.
    #[must_use]
    pub const fn sets(&self) -> usize {
        self.sets
    }

    /// What it has of the user.
    #[inline]
    #[must_use]
    pub fn account<'b>(&self, database: u32, user: &'b UserId) -> Account<'b>
    where
        'a: 'b,
    {
        let place = Place::of(database, user, self.sets);
        Account { set: self.set(place.set), place, user, straggler_sets: &self.base.straggler_sets }
    }

    #[inline]
    fn set(&self, number: usize) -> &'a Set {
        let mut number = number;
        for part in &self.parts.sets {
            let sets = part.get().copied().unwrap_or_default();
            match sets.get(number) {
                Some(set) => return set,
                None => number -= sets.len(),
            }
        }
        unreachable!("the number is below the number of sets")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    impl Base {
        pub(in super::super) const fn empty() -> Self {
            Self { straggler_sets: StragglerSets::empty(), sets: [const { Set::empty() }; BASE_SETS] }
        }
    }

    /// So many sets, in parts of these sizes.
    pub fn parts(sizes: &[usize]) -> &'static Parts<'static> {
        let parts: &Parts<'static> = Box::leak(Box::default());
        static ONE: Base = Base::empty();
        parts.add_base(&ONE);
        for &size in sizes {
            parts.add(Vec::leak((0..size).map(|_| Set::empty()).collect()));
        }
        parts
    }

    #[test]
    fn parts_double_until_there_is_no_room() {
        let mebibytes = |n: usize| n << 20;
        let grown = |most_bytes| {
            let mut sizes = vec![BASE_SETS];
            while let Some(more) = next_part(sizes.iter().sum(), sizes.len(), most_bytes) {
                sizes.push(more);
            }
            let bytes = (sizes.iter().sum::<usize>() - BASE_SETS) * size_of::<Set>() + size_of::<Base>();
            assert!(bytes <= most_bytes, "{bytes} bytes of {most_bytes}");
            sizes
        };
        assert_eq!(grown(mebibytes(12)), [1024, 1024, 2048, 4096, 3888]);
        assert_eq!(grown(mebibytes(2)), [1024, 816]);
        assert_eq!(grown(mebibytes(3)), [1024, 1024, 816]);
        let large = grown(mebibytes(64 << 10));
        assert!(large.len() < 20 && large.iter().sum::<usize>() > 60 << 20, "{large:?}");
        // Nothing for less than an eighth.
        assert_eq!(next_part(1024, 1, size_of::<Base>() + 127 * size_of::<Set>()), None);
        assert_eq!(next_part(1024, 1, size_of::<Base>() + 128 * size_of::<Set>()), Some(128));
        assert_eq!(next_part(1024, 1, 0), None);
        assert_eq!(next_part(1024, MOST_PARTS, usize::MAX), None);
    }

    /// Whatever the sizes of the parts, each set is one, and users spread over all of them.
    #[test]
    fn users_spread_over_the_sets_of_all_parts() {
        for sizes in [&[][..], &[1024], &[1024, 2048], &[816], &[128, 300, 1452, 77]] {
            let parts = parts(sizes);
            assert_eq!(parts.count(), sizes.len() + 1);
            assert!(parts.first(sizes.len() + 2).is_none());
            let segment = parts.first(sizes.len() + 1).unwrap();
            assert_eq!(segment.sets(), 1024 + sizes.iter().sum::<usize>());
            let distinct: std::collections::HashSet<*const Set> =
                (0..segment.sets()).map(|number| std::ptr::from_ref(segment.set(number))).collect();
            assert_eq!(distinct.len(), segment.sets());
            for shift in [0, 64] {
                let mut users = vec![0_u32; segment.sets()];
                for number in 0..16 * segment.sets() as u128 {
                    let user = UserId::from_bytes((number << shift).to_be_bytes());
                    users[Place::of(5, &user, segment.sets()).set] += 1;
                }
                assert!(users.iter().all(|&count| (2..=64).contains(&count)), "{sizes:?} {shift}: {users:?}");
            }
        }
    }

    /// The accounts of a set have tags and counts that are theirs as far as they go.
    #[test]
    fn accounts_of_a_set_have_different_tags_and_counts() {
        let place = |number: u128| Place::of(5, &UserId::from_bytes(number.to_be_bytes()), 64);
        for shift in [0, 64] {
            let (mut tags, mut counts) = ([0_u32; 256], [0_u32; 4]);
            for place in
                (0..1 << 20).map(|number: u128| place(number << shift)).filter(|place| place.set == 7)
            {
                tags[usize::from(place.tag)] += 1;
                counts[place.counts] += 1;
            }
            assert!(tags[0] == 0 && tags[2..].iter().all(|&count| (16..256).contains(&count)), "{tags:?}");
            assert!(counts.iter().all(|&count| (2048..8192).contains(&count)), "{counts:?}");
        }
    }
}
