//! What the sessions of a server publish to each other about users: the layout of dynamic shared memory, and the protocol of each
//! of its parts.
//!
//! What is published is true of one state of a ledger. An owner may change the ledger on purpose, and an operator may repair a
//! checkpoint by hand: then the ledger is in another state. So everything is published under the name of a state, and a look-up
//! under another name finds nothing. No session has to be informed in time: one that still takes an old state for the current
//! one publishes under the old name, where no session that has determined the new state looks.
//!
//! A user belongs to one of many [`set`]s, which users share. There is room in it for the headroom and the folds of a few: what is
//! published for one displaces what was published for another, and can be derived again. The counts belong to the set and not to
//! its users, so nothing of them is ever displaced. They are those of all users who count there: too high, never too low.
//!
//! Memory grows by parts. With another number of sets a user has another set, and other counts. So growth is one more name: what
//! was published before is not found any more. Why no count is missed by that is said in [`memory`].
//!
//! Everything is made of atomics, begins as zeros, and needs no lock.

mod fold_words;
pub mod folds;
pub mod headroom;
pub mod headroom_slots;
#[cfg(test)]
mod hit_rates;
pub mod memory;
mod place;
mod seqlock;
mod set;
mod straggler_sets;
mod ways;

use std::sync::atomic;

pub use memory::{Base, Parts, Segment};
pub use set::Set;

use place::Place;
use straggler_sets::StragglerSets;

use crate::id::UserId;

/// What shared memory has of a user.
#[derive(Clone, Copy, Debug)]
pub struct Account<'a> {
    set: &'a Set,
    place: Place,
    user: &'a UserId,
    straggler_sets: &'a StragglerSets,
}

/// The name of a state of a ledger. What is published under one name is not found under another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateName {
    /// Oid of the database.
    pub database: u32,
    /// Oid of the table that is the ledger.
    pub ledger: u32,
    /// Digest of what defines the state. No later state of the ledger has the same.
    pub digest: u64,
}

impl StateName {
    /// The name in one word, which is not 0. Ledgers that have the same digest have other words.
    #[inline]
    fn word(&self) -> u64 {
        let ledger = u64::from(self.database) << 32 | u64::from(self.ledger);
        // Multiplied by an odd number, each has a product of its own.
        self.digest.wrapping_add(ledger.wrapping_mul(0xFF51_AFD7_ED55_8CCD)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ledger_has_names_of_its_own() {
        let name = |database, ledger, digest| StateName { database, ledger, digest }.word();
        let words: std::collections::HashSet<u64> = (1..50)
            .flat_map(|database| (16384..16400).map(move |ledger| (database, ledger)))
            .flat_map(|(database, ledger)| (0..20).map(move |digest| name(database, ledger, digest)))
            .collect();
        assert_eq!(words.len(), 49 * 16 * 20);
        assert!(!words.contains(&0));
    }
}
