//! How far an account may be overdrawn.

use crate::credits::Credits;

/// How far below zero holds and charges may take what is available to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdraft {
    /// By this much, which is not negative.
    UpTo(Credits),
    /// Without end.
    Unlimited,
}

impl Default for Overdraft {
    /// That of an account without a limit of its own: not at all.
    fn default() -> Self {
        Self::UpTo(Credits::ZERO)
    }
}
