//! Which slot of a part of the segment belongs to a user, and how its contents name their user.
//!
//! There are fewer slots than there may be users. Users whose ids hash alike share a slot, and what is published for one of
//! them displaces what was published for another: everything in a slot can be derived again.

use super::StateName;
use crate::id::UserId;
use crate::stripe;

/// How many slots each part of the segment has for users.
pub const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 15;

/// The number of the user's slot, below [`SLOTS`].
pub fn slot_of(database: u32, user: &UserId) -> usize {
    let hash = stripe::hash(user).wrapping_add(u64::from(database) << (u64::BITS - SLOT_BITS));
    // The highest bits, so many that they number the slots.
    usize::try_from(hash >> (u64::BITS - SLOT_BITS)).unwrap_or_default()
}

/// How many words a [`key`] has.
pub const KEY_WORDS: usize = 4;

/// The first words of a slot: whose contents they are, and of which state of which ledger.
pub fn key(state: &StateName, user: &UserId) -> [u64; KEY_WORDS] {
    let ledger = u64::from(state.database) << 32 | u64::from(state.ledger);
    let [user_high, user_low] = halves(u128::from_be_bytes(*user.as_bytes()));
    [ledger, state.digest, user_high, user_low]
}

/// Whether the [`key`] at the beginning of the words is one of the user in this database, in whichever state.
pub fn is_of(words: &[u64], database: u32, user: &UserId) -> bool {
    let [user_high, user_low] = halves(u128::from_be_bytes(*user.as_bytes()));
    matches!(*words, [ledger, _, high, low, ..] if ledger >> 32 == u64::from(database) && [high, low] == [user_high, user_low])
}

/// The high and the low word.
pub fn halves(value: u128) -> [u64; 2] {
    // What is cut off is the other half.
    #[allow(clippy::cast_possible_truncation)]
    [(value >> 64) as u64, value as u64]
}
