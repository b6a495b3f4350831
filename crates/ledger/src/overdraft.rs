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

impl Overdraft {
    /// The limit: the least that may be available after a hold or a charge; `None` if there is none.
    #[must_use]
    pub const fn lowest_available(self) -> Option<Credits> {
        match self {
            // No account can be overdrawn so far as to come near the end of the range.
            Self::UpTo(most) => Some(Credits::from_units(most.units().saturating_neg())),
            Self::Unlimited => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overdraft_lies_below_zero() {
        let limit_of = |units| Overdraft::UpTo(Credits::from_units(units)).lowest_available();
        assert_eq!(limit_of(5), Some(Credits::from_units(-5)));
        assert_eq!(limit_of(0), Some(Credits::ZERO));
        assert_eq!(Overdraft::Unlimited.lowest_available(), None);
    }
}
