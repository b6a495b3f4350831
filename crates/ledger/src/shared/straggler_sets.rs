//! Sets of stragglers, each kept once for the folds of all users.
//!
//! A fold has room for the few stragglers of an ordinary moment. When a pool of sessions is left open there are many, and they are
//! the same for all users: so a fold names the set instead. A set is named by its place and the version of what is there: what is
//! named differs from what it was only in being there no more.

use super::slots::Slot;
use crate::coverage::MAX_STRAGGLERS;

/// The sets of the latest moments, of all databases.
#[derive(Debug)]
pub struct StragglerSets([SetSlot; SETS]);

/// 1,664 bytes: 104 kB in all.
#[derive(Debug)]
#[repr(align(64))]
struct SetSlot(Slot<WORDS>);

const SETS: usize = 1 << SET_BITS;
const SET_BITS: u32 = 6;
/// How many there are, and their ids.
const WORDS: usize = 1 + MAX_STRAGGLERS;

impl StragglerSets {
    /// The set of this name, if it is still there.
    #[must_use]
    pub fn get(&self, name: u64) -> Option<Vec<u64>> {
        let place = usize::try_from(name % SETS as u64).unwrap_or_default();
        let (version, words) = self.0[place].0.read(1, count)?;
        (version == name / SETS as u64).then(|| words[1..=count(&words)].to_vec())
    }

    /// The name of the set, which is put there if it is not; `None` if somebody else is writing there. No more than
    /// [`MAX_STRAGGLERS`].
    #[must_use]
    pub fn name(&self, stragglers: &[u64]) -> Option<u64> {
        let place = place_of(stragglers);
        let slot = &self.0[place].0;
        let (version, words) = slot.read(1, count)?;
        let name = |version: u64| version * SETS as u64 + place as u64;
        if words[1..=count(&words)] == *stragglers {
            return Some(name(version));
        }
        let mut words = [0; WORDS];
        words[0] = stragglers.len() as u64;
        words.get_mut(1..=stragglers.len())?.copy_from_slice(stragglers);
        slot.write(version, &words[..=stragglers.len()]).map(name)
    }
}

fn place_of(stragglers: &[u64]) -> usize {
    let hash = stragglers.iter().fold(0_u64, |hash, &id| (hash ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    usize::try_from(hash >> (u64::BITS - SET_BITS)).unwrap_or_default()
}

fn count(words: &[u64; WORDS]) -> usize {
    usize::try_from(words[0]).unwrap_or_default().min(MAX_STRAGGLERS)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    impl StragglerSets {
        pub const fn empty() -> Self {
            Self([const { SetSlot(Slot::new()) }; SETS])
        }
    }

    /// All of it follows from the number.
    fn set(number: u64) -> Vec<u64> {
        (0..=number % MAX_STRAGGLERS as u64).map(|id| number + id).collect()
    }

    #[test]
    fn a_set_has_one_name_for_as_long_as_it_is_there() {
        static SETS_OF_TEST: StragglerSets = StragglerSets::empty();
        let names: Vec<u64> = (0..1000).map(|number| SETS_OF_TEST.name(&set(number)).unwrap()).collect();
        let there = (0..1000).zip(&names).filter(|&(number, &name)| {
            let found = SETS_OF_TEST.get(name);
            assert!(found.as_ref().is_none_or(|found| *found == set(number)), "{number}: {found:?}");
            found.is_some()
        });
        assert!((SETS / 2..=SETS).contains(&there.count()));
        let again = SETS_OF_TEST.name(&set(7)).unwrap();
        assert_eq!(SETS_OF_TEST.name(&set(7)), Some(again));
        assert_eq!(SETS_OF_TEST.get(again), Some(set(7)));
    }

    /// Sets that displace each other, put there by some while others look for them by their names.
    #[test]
    fn a_name_is_never_that_of_another_set() {
        static SETS_OF_TEST: StragglerSets = StragglerSets::empty();
        let found = thread::scope(|scope| {
            let sessions: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut found = 0;
                        for number in 0..50_000 {
                            let Some(name) = SETS_OF_TEST.name(&set(number)) else { continue };
                            if let Some(there) = SETS_OF_TEST.get(name) {
                                assert_eq!(there, set(number));
                                found += 1;
                            }
                        }
                        found
                    })
                })
                .collect();
            sessions.into_iter().map(|session| session.join().unwrap()).sum::<u32>()
        });
        assert!(found > 0);
    }
}
