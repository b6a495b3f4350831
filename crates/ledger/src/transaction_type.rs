//! The types of transactions, and which of them add to the balance.

use std::fmt;

use crate::credits::Credits;

/// What a row of the ledger records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransactionType {
    /// Credits that were bought.
    Purchase,
    /// Credits that an operator gave.
    AdminGrant,
    /// Credits that an operator took.
    AdminRemoval,
    /// Credits that were used. Only rows of this type belong to batches.
    Usage,
}

impl TransactionType {
    /// Each of them once, in the order in which they are listed to people.
    pub const ALL: [Self; 4] = [Self::Purchase, Self::AdminGrant, Self::AdminRemoval, Self::Usage];

    /// Its name in the column `transaction_type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Purchase => "purchase",
            Self::AdminGrant => "admin_grant",
            Self::AdminRemoval => "admin_removal",
            Self::Usage => "usage",
        }
    }

    /// The type of this name, whose bytes are compared as they are; `None` if there is no such type.
    #[inline]
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.name().as_bytes() == name)
    }

    /// The type of a transaction that takes back one of this type.
    #[must_use]
    pub const fn of_reversal(self) -> Self {
        if self.adds() { Self::AdminRemoval } else { Self::AdminGrant }
    }

    /// Whether a transaction of this type may belong to a batch.
    #[inline]
    #[must_use]
    pub const fn may_have_batch(self) -> bool {
        matches!(self, Self::Usage)
    }

    /// Whether an amount of this type adds to the balance. All others take from it.
    #[inline]
    #[must_use]
    pub const fn adds(self) -> bool {
        matches!(self, Self::Purchase | Self::AdminGrant)
    }
}

/// Its name in the column `transaction_type`.
impl fmt::Display for TransactionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a row of this type does to the balance. The amount is positive, as the ledger's rows have it. A row whose type is not
/// known, which only a ledger without its checks can have, takes from the balance, as it does for SQL.
#[inline]
#[must_use]
pub fn effect(known: Option<TransactionType>, amount: Credits) -> Credits {
    if known.is_some_and(TransactionType::adds) { amount } else { Credits::from_units(-amount.units()) }
}

/// The signed amount as [`effect`] has it, as an SQL expression over a column `amount`. `type_name` is an SQL expression for the name of
/// the type.
#[must_use]
pub fn effect_sql(type_name: &str) -> String {
    let adding: Vec<String> = TransactionType::ALL
        .into_iter()
        .filter(|known| known.adds())
        .map(|known| format!("'{}'", known.name()))
        .collect();
    format!("CASE WHEN {type_name} IN ({}) THEN amount ELSE -amount END", adding.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_name_alone() {
        for known in TransactionType::ALL {
            assert_eq!(TransactionType::from_name(known.name().as_bytes()), Some(known));
        }
        for other in ["", "Usage", "usage ", "usag", "admin", "refund"] {
            assert_eq!(TransactionType::from_name(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn purchases_and_grants_add_and_all_else_takes() {
        let amount = Credits::from_units(7);
        for (name, units) in
            [("purchase", 7), ("admin_grant", 7), ("admin_removal", -7), ("usage", -7), ("unknown", -7)]
        {
            assert_eq!(
                effect(TransactionType::from_name(name.as_bytes()), amount),
                Credits::from_units(units),
                "{name}"
            );
        }
    }

    #[test]
    fn sql_says_the_same() {
        assert_eq!(
            effect_sql("t.transaction_type"),
            "CASE WHEN t.transaction_type IN ('purchase', 'admin_grant') THEN amount ELSE -amount END"
        );
    }
}
