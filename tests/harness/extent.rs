//! How much a test does.

/// The number that this environment variable asks for, or what the test does without it.
///
/// # Panics
/// If the variable is not a number.
#[must_use]
pub fn asked_for(variable: &str, otherwise: u32) -> u32 {
    std::env::var(variable).map_or(otherwise, |number| {
        number.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {number}"))
    })
}
