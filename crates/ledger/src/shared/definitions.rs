//! Digests of the definitions of ledgers, as those have found them who came last.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const SLOTS: usize = 64;

/// The digest of a ledger's definition, by database. Databases that share a slot displace each other's: then each comes new.
#[derive(Debug)]
pub struct SeenDefinitions {
    digests: [AtomicU64; SLOTS],
    /// A change may have left no mark.
    is_void: AtomicBool,
}

impl SeenDefinitions {
    /// Whether this is what was seen last. Who then looks up the epoch finds it no older than the one that it was seen in.
    #[must_use]
    pub fn contains(&self, database: u32, digest: u64) -> bool {
        self.slot(database).load(Ordering::SeqCst) == marked(digest) && !self.is_void.load(Ordering::SeqCst)
    }

    /// Notes what was seen by whoever has begun a new epoch after looking.
    pub fn note(&self, database: u32, digest: u64) {
        self.slot(database).store(marked(digest), Ordering::SeqCst);
    }

    /// From here on nothing counts as seen.
    pub fn void(&self) {
        self.is_void.store(true, Ordering::SeqCst);
    }

    fn slot(&self, database: u32) -> &AtomicU64 {
        &self.digests[database as usize % SLOTS]
    }
}

/// Zeros say that nothing was seen.
const fn marked(digest: u64) -> u64 {
    digest | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_noted_last_is_seen() {
        let seen = SeenDefinitions {
            digests: [const { AtomicU64::new(0) }; SLOTS],
            is_void: AtomicBool::new(false),
        };
        assert!(!seen.contains(5, 0));
        seen.note(5, 20);
        seen.note(6, 30);
        assert!(seen.contains(5, 20) && seen.contains(6, 30));
        assert!(!seen.contains(5, 30) && !seen.contains(7, 20));
        seen.note(5, 40);
        assert!(seen.contains(5, 40) && !seen.contains(5, 20));
        seen.void();
        assert!(!seen.contains(5, 40));
    }
}
