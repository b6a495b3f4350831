//! `checkpoint_changes`

use super::table;
use crate::pg::column_type::Timestamptz;
use crate::pg::definition::Role;

table! {
    /// The record of changes of checkpoints by hand.
    Changes is c"checkpoint_changes", Role::Derived, with keys &[];
    1 XACT_ID "xact_id": u64,
    2 CHANGED_AT "changed_at": Timestamptz,
}
