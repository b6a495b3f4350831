//! `copies`

use super::table;
use crate::pg::definition::Role;

table! {
    /// The transactions that have copied rows of another node into the ledger.
    Copies is c"copies", Role::Derived, with keys &[c"copies_pkey"];
    1 XACT_ID "xact_id": u64,
}
