//! Where in shared memory an account belongs, and how the contents of a slot name their account.

use super::StateName;
use super::set::COUNTS;
use crate::id::UserId;
use crate::stripe;

/// Where an account of a database belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The number of its set.
    pub set: usize,
    /// Tells accounts of a set apart; not 0.
    pub tag: u8,
    /// Which counts of its set are the account's, below [`COUNTS`].
    pub counts: usize,
}

impl Place {
    /// Of the user, where there are so many sets.
    #[inline]
    #[must_use]
    pub fn of(database: u32, user: &UserId, sets: usize) -> Self {
        let hash = stripe::hash(user).wrapping_add(u64::from(database).wrapping_mul(0xC2B2_AE3D_27D4_EB4F));
        // Sets divide the range of hashes among them (Lemire, "Fast Random Integer Generation in an Interval", 2019). What is left of a
        // hash says where within its set's share it lies.
        let [set, rest] = halves(u128::from(hash) * sets as u128);
        let [tag, counts, ..] = rest.to_be_bytes();
        Self {
            set: usize::try_from(set).unwrap_or_default(),
            tag: tag.max(1),
            counts: usize::from(counts) % COUNTS,
        }
    }
}

/// How many words a [`key`] has.
pub const KEY_WORDS: usize = 3;

/// The first words of a slot: whose contents they are, and of which state of which ledger. No key is all zeros.
#[inline]
pub fn key(state: &StateName, user: &UserId) -> [u64; KEY_WORDS] {
    let [high, low] = halves(u128::from_be_bytes(*user.as_bytes()));
    [high, low, state.word()]
}

/// Whether the [`key`] at the beginning of the words is one of the user, in whichever state.
pub fn is_of(words: &[u64], user: &UserId) -> bool {
    let user = halves(u128::from_be_bytes(*user.as_bytes()));
    matches!(*words, [high, low, state, ..] if [high, low] == user && state != 0)
}

/// Whether the [`key`] at the beginning of the words is one of this state.
pub fn is_of_state(words: &[u64], state: &StateName) -> bool {
    words.get(KEY_WORDS - 1) == Some(&state.word())
}

/// The high and the low word.
#[inline]
pub fn halves(value: u128) -> [u64; 2] {
    #[allow(clippy::cast_possible_truncation, reason = "what is cut off is the other half")]
    [(value >> 64) as u64, value as u64]
}
