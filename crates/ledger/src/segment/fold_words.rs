//! A published fold as the words of a slot: the key, what every fold has, and its stragglers or the id of their set.

use super::StateName;
use super::folds::PublishedFold;
use super::place::{self, KEY_WORDS, halves};
use super::straggler_sets::StragglerSets;
use crate::coverage::Coverage;
use crate::credits::Credits;
use crate::fold::Fold;
use crate::id::UserId;

/// How many words come before the stragglers: the key, and seven that every fold has.
pub const FIXED_WORDS: usize = KEY_WORDS + 7;
/// How many stragglers a slot has room for. Where a fold has more, the first word in their place is the id of their set.
pub const INLINE_STRAGGLERS: usize = 5;
/// How many words a slot has.
pub const WORDS: usize = FIXED_WORDS + INLINE_STRAGGLERS;
/// Which word is the number of stragglers.
const STRAGGLER_COUNT: usize = KEY_WORDS + 1;

/// The words of a slot.
pub type Words = [u64; WORDS];

/// How many words after the fixed ones are in use; of torn words, some number that does not exceed the slot.
pub fn straggler_words(words: &Words) -> usize {
    usize::try_from(words[STRAGGLER_COUNT]).ok().filter(|&count| count <= INLINE_STRAGGLERS).unwrap_or(1)
}

/// The words of a fold; `None` if another session is writing the set of its stragglers.
pub fn encode(
    fold: &Fold,
    complete_at: Option<u64>,
    state: &StateName,
    user: &UserId,
    sets: &StragglerSets,
) -> Option<Words> {
    let [user_high, user_low, state] = place::key(state, user);
    let [balance_high, balance_low] = halves(fold.balance.units().cast_unsigned());
    let stragglers = fold.coverage.stragglers();
    let mut words = [0; WORDS];
    words[..FIXED_WORDS].copy_from_slice(&[
        user_high,
        user_low,
        state,
        fold.coverage.watermark(),
        stragglers.len() as u64,
        balance_high,
        balance_low,
        fold.transaction_count.cast_unsigned(),
        fold.latest_seq.cast_unsigned(),
        complete_at.map_or(0, |counted| counted + 1),
    ]);
    match words[FIXED_WORDS..].get_mut(..stragglers.len()) {
        Some(few) => few.copy_from_slice(stragglers),
        None => words[FIXED_WORDS] = sets.intern(stragglers)?,
    }
    Some(words)
}

/// The fold that the words are; `None` if they are another user's or of another state, or if the set of the stragglers has
/// been displaced.
pub fn decode(
    words: &Words,
    state: &StateName,
    user: &UserId,
    sets: &StragglerSets,
) -> Option<PublishedFold> {
    let (fixed, stragglers) = words.split_at(FIXED_WORDS);
    let (key, fold) = fixed.split_at(KEY_WORDS);
    if key != place::key(state, user) {
        return None;
    }
    let &[watermark, straggler_count, balance_high, balance_low, rows, seq, complete_at] = fold else {
        return None;
    };
    let coverage = match usize::try_from(straggler_count).ok().and_then(|count| stragglers.get(..count)) {
        Some(few) => Coverage::from_parts(watermark, few.iter().copied()),
        None => Coverage::from_parts(watermark, sets.get(stragglers[0])?),
    };
    let balance = u128::from(balance_high) << 64 | u128::from(balance_low);
    let fold = Fold {
        coverage: coverage?,
        balance: Credits::from_units(balance.cast_signed()),
        transaction_count: rows.cast_signed(),
        latest_seq: seq.cast_signed(),
    };
    Some(PublishedFold { fold, complete_at: complete_at.checked_sub(1) })
}
