//! Slots for what is told of users.
//!
//! Nobody waits here, and nothing is promised: what is in a slot may be overwritten by what is told of another user, a
//! writer gives way to another one, and who reads while a slot is being written finds nothing. Each slot is a sequence lock
//! over atomic words (Boehm, "Can seqlocks get along with programming language memory models?", 2012), so that it is read
//! whole or not at all.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::StateName;
use crate::id::UserId;
use crate::stripe;

/// Slots of each kind.
pub const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 15;

/// The user's slot, which is that of some others, too.
pub fn slot_of(database: u32, user: &UserId) -> usize {
    let hash = stripe::hash(user).wrapping_add(u64::from(database) << (u64::BITS - SLOT_BITS));
    // The highest bits, so many that they number the slots.
    usize::try_from(hash >> (u64::BITS - SLOT_BITS)).unwrap_or_default()
}

/// Words of a [`key`].
pub const KEY_WORDS: usize = 4;

/// What tells words of a user from all others.
pub fn key(state: &StateName, user: &UserId) -> [u64; KEY_WORDS] {
    let ledger = u64::from(state.database) << 32 | u64::from(state.ledger);
    let [user_high, user_low] = halves(u128::from_be_bytes(*user.as_bytes()));
    [ledger, state.digest, user_high, user_low]
}

/// The high and the low word.
pub fn halves(value: u128) -> [u64; 2] {
    // What is cut off is the other half.
    #[allow(clippy::cast_possible_truncation)]
    [(value >> 64) as u64, value as u64]
}

/// Words that are read whole or not at all.
#[derive(Debug)]
pub struct SeqLock<const WORDS: usize> {
    /// Odd while the words are being written.
    version: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> SeqLock<WORDS> {
    /// All zeros.
    #[cfg(test)]
    pub const fn new() -> Self {
        Self { version: AtomicU64::new(0), words: [const { AtomicU64::new(0) }; WORDS] }
    }

    /// The first words, as many more as those call for, and their version; `None` while they are being written.
    pub fn read(
        &self,
        first: usize,
        more: impl FnOnce(&[u64; WORDS]) -> usize,
    ) -> Option<(u64, [u64; WORDS])> {
        let version = self.version.load(Ordering::Acquire);
        let mut words = [0; WORDS];
        self.copy(&mut words[..first], 0);
        let last = first + more(&words);
        self.copy(&mut words[first..last], first);
        fence(Ordering::Acquire);
        let whole = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        whole.then_some((version, words))
    }

    fn copy(&self, words: &mut [u64], from: usize) {
        for (word, shared) in words.iter_mut().zip(&self.words[from..]) {
            *word = shared.load(Ordering::Relaxed);
        }
    }

    /// Writes the words in place of those of this version, and tells theirs; `None` if someone else was faster.
    pub fn write(&self, version: u64, words: &[u64]) -> Option<u64> {
        self.version.compare_exchange(version, version + 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
        fence(Ordering::Release);
        for (shared, &word) in self.words.iter().zip(words) {
            shared.store(word, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
        Some(version + 2)
    }
}
