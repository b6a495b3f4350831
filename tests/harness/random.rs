//! Seeds of the random tests.

use std::hash::{BuildHasher, RandomState};

/// The seed of `CREDITS_LEDGER_SEED`, or a new one. It is printed, and shown if the test fails.
///
/// # Panics
/// If the variable is not a number.
#[must_use]
pub fn seed() -> u64 {
    let seed = std::env::var("CREDITS_LEDGER_SEED").map_or_else(
        |_| RandomState::new().hash_one(0),
        |seed| seed.parse().expect("CREDITS_LEDGER_SEED is a number"),
    );
    println!("CREDITS_LEDGER_SEED={seed}");
    seed
}
