//! Sets of stragglers, each kept once for the folds of all users.
//!
//! A slot has room for the few stragglers that a fold has at most times. When a pool of sessions leaves transactions open, there
//! are many, and they are the same for all users: so a fold refers to their set by an id instead. The id is made of the number of
//! the slot and the version of its contents. So an id never refers to another set than at first; the set may be gone.

use super::seqlock::SeqLock;
use crate::coverage::MAX_STRAGGLERS;

/// The sets that were used last, of all databases.
#[derive(Debug)]
#[repr(C)]
pub struct StragglerSets([SetSlot; SETS]);

#[derive(Debug)]
#[repr(C, align(64))]
struct SetSlot(SeqLock<WORDS>);

// The set of the most stragglers takes 1,616 of the bytes.
const _: () =
    assert!(size_of::<SetSlot>() == 1664 && size_of::<StragglerSets>() == 208 << 10, "the sets take 208 kB");

const SETS: usize = 1 << SET_BITS;
const SET_BITS: u32 = 7;
/// The number of stragglers, and their transaction ids.
const WORDS: usize = 1 + MAX_STRAGGLERS;

impl StragglerSets {
    /// The set with this id, if it has not been displaced.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Vec<u64>> {
        let number = usize::try_from(id % SETS as u64).unwrap_or_default();
        let (version, words) = self.0[number].0.read(1, count)?;
        (version == id / SETS as u64).then(|| words[1..=count(&words)].to_vec())
    }

    /// Puts the set there unless it is there, and returns its id. `None` if another session is writing the slot, or if there are
    /// more than [`MAX_STRAGGLERS`].
    #[must_use]
    pub fn intern(&self, stragglers: &[u64]) -> Option<u64> {
        let number = slot_of(stragglers);
        let slot = &self.0[number].0;
        let (version, words) = slot.read(1, count)?;
        let id = |version: u64| version * SETS as u64 + number as u64;
        if words[1..=count(&words)] == *stragglers {
            return Some(id(version));
        }
        let mut words = [0; WORDS];
        words[0] = stragglers.len() as u64;
        words.get_mut(1..=stragglers.len())?.copy_from_slice(stragglers);
        slot.write(version, &words[..=stragglers.len()]).map(id)
    }
}

fn slot_of(stragglers: &[u64]) -> usize {
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
            Self([const { SetSlot(SeqLock::new()) }; SETS])
        }
    }

    /// The set of this number.
    fn set(number: u64) -> Vec<u64> {
        (0..=number % MAX_STRAGGLERS as u64).map(|id| number + id).collect()
    }

    #[test]
    fn a_set_keeps_its_id_as_long_as_it_is_there() {
        static SETS_OF_TEST: StragglerSets = StragglerSets::empty();
        let ids: Vec<u64> = (0..1000).map(|number| SETS_OF_TEST.intern(&set(number)).unwrap()).collect();
        let there = (0..1000).zip(&ids).filter(|&(number, &id)| {
            let found = SETS_OF_TEST.get(id);
            assert!(found.as_ref().is_none_or(|found| *found == set(number)), "{number}: {found:?}");
            found.is_some()
        });
        assert!((SETS / 2..=SETS).contains(&there.count()));
        let again = SETS_OF_TEST.intern(&set(7)).unwrap();
        assert_eq!(SETS_OF_TEST.intern(&set(7)), Some(again));
        assert_eq!(SETS_OF_TEST.get(again), Some(set(7)));
    }

    /// Sets displace each other: some threads put them there while others look them up by their ids.
    #[test]
    fn an_id_is_never_that_of_another_set() {
        static SETS_OF_TEST: StragglerSets = StragglerSets::empty();
        let found = thread::scope(|scope| {
            let sessions: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut found = 0;
                        for number in 0..50_000 {
                            let Some(id) = SETS_OF_TEST.intern(&set(number)) else { continue };
                            if let Some(there) = SETS_OF_TEST.get(id) {
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
