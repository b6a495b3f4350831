//! What must hold of the crate `ledger` for any input.
//!
//! A property makes its input from bytes and compares what `ledger` answers with a reference that is too slow or too
//! large for the server: big integers, every transaction one by one, every outcome of the rows in flight, what listeners have
//! heard. The bytes come from a generator of random numbers in this crate's tests, and from a fuzzer in the folder `fuzz`.

pub mod caps;
pub mod commits;
pub mod coverage;
pub mod crossing;
pub mod fold;
pub mod numeric;
pub mod period;
pub mod reversal;
pub mod settlement;

use arbitrary::Unstructured;

/// A property: panics if it does not hold for the input that the bytes make. Too few bytes make no input.
pub type Property = fn(&mut Unstructured<'_>) -> arbitrary::Result<()>;

/// Every property with its name, that of its fuzz target.
pub const ALL: [(&str, Property); 12] = [
    ("decode", numeric::decodes_what_it_should),
    ("encode", numeric::encodes_what_it_decodes),
    ("coverage", coverage::covers_what_has_ended),
    ("crossing", crossing::agrees_with_every_outcome),
    ("fold", fold::folds_what_is_covered),
    ("period", period::periods_are_those_of_the_calendar),
    ("reversal", reversal::take_back_what_there_was),
    ("settlement", settlement::weighs_every_outcome),
    ("windows", caps::windows_are_sums_over_rows),
    ("caps", caps::listeners_know_what_is_reached),
    ("enforced_caps", caps::enforced_caps_are_not_exceeded),
    ("commits", commits::announce_every_crossing),
];
