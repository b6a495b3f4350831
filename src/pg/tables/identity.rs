//! `ledger_identity`

use ledger::id::LedgerId;

use super::table;
use crate::pg::definition::Role;

table! {
    /// The name of the database's ledger, in its only row.
    Identity is c"ledger_identity", Role::Derived, with keys &[c"ledger_identity_pkey"];
    1 IS_ONLY "is_only": bool,
    2 LEDGER_ID "ledger_id": LedgerId,
}
