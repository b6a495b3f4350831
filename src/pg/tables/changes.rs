//! `checkpoint_changes`

use super::table;
use crate::pg::column_type::Timestamptz;
use crate::pg::definition::Role;

table! {
    /// Changes of checkpoints by other hands than the engine's.
    Changes is c"checkpoint_changes", Role::Derived, with keys &[];
    1 XACT_ID "xact_id": u64,
    2 CHANGED_AT "changed_at": Timestamptz,
}
