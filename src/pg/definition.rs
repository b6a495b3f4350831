//! The tables and types of the extension as it made them. Those that it reads and writes by the places of their columns are in
//! [`tables`](super::tables).

use std::ffi::CStr;

use pgrx::pg_sys::{
    BOOLOID, INT2OID, INT4OID, INT8OID, JSONBOID, NUMERICOID, Oid, TEXTARRAYOID, TEXTOID, TIMESTAMPTZOID,
    UUIDOID,
};

use super::column::Layout;
use super::tables::batches::Batches;
use super::tables::bucket_states::BucketStates;
use super::tables::caps::Caps;
use super::tables::changes::Changes;
use super::tables::checkpoints::Checkpoints;
use super::tables::copies::Copies;
use super::tables::days::Days;
use super::tables::holds::Holds;
use super::tables::identity::Identity;
use super::tables::limits::Limits;
use super::tables::transactions::Ledger;

/// A table or type that the engine reads, writes or returns by the places of its columns.
#[derive(Debug)]
pub struct Definition {
    /// Its name in the schema `credits`.
    pub name: &'static CStr,
    /// What it is to the engine.
    pub role: Role,
    /// The types of the columns that are read and written by number. An owner may have added others after them.
    pub columns: &'static [Oid],
    /// Which of them the extension has made without NOT NULL. Empty for a type, whose columns have none.
    pub may_be_null: &'static [bool],
    /// The names of a table's columns, without those that an application has added. Empty for a type, which cannot get any.
    pub names: &'static [&'static str],
    /// The indexes that keep its rows apart.
    pub keys: &'static [&'static CStr],
    /// Its checks, where users write its rows: those that do not pass one of them would not be restored.
    pub checks: &'static [&'static str],
}

/// What a relation of the extension is to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Holds the rows.
    Ledger,
    /// Holds other rows that users write, and dumps have.
    Dumped,
    /// Written by the engine alone.
    Derived,
    /// A type that functions return.
    ResultType,
}

/// `credit_transaction`
#[rustfmt::skip]
pub static CREDIT_TRANSACTION: Definition = Definition::of_result(c"credit_transaction", &[
    UUIDOID, UUIDOID, TEXTOID, NUMERICOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT8OID, UUIDOID, UUIDOID,
]);

/// `transaction_with_category`
#[rustfmt::skip]
pub static TRANSACTION_WITH_CATEGORY: Definition = Definition::of_result(c"transaction_with_category", &[
    UUIDOID, UUIDOID, TEXTOID, NUMERICOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT8OID, UUIDOID, TEXTOID, TEXTOID, INT4OID,
]);

/// `transaction_with_balance`
#[rustfmt::skip]
pub static TRANSACTION_WITH_BALANCE: Definition = Definition::of_result(c"transaction_with_balance", &[
    UUIDOID, UUIDOID, TEXTOID, NUMERICOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT8OID, UUIDOID, UUIDOID, NUMERICOID,
]);

/// `credit_hold`
#[rustfmt::skip]
pub static CREDIT_HOLD: Definition = Definition::of_result(c"credit_hold", &[
    TEXTOID, UUIDOID, NUMERICOID, TEXTOID, UUIDOID, UUIDOID, TEXTOID, JSONBOID, TIMESTAMPTZOID, TIMESTAMPTZOID,
]);

/// `recorded_transaction`
pub static RECORDED_TRANSACTION: Definition =
    Definition::of_result(c"recorded_transaction", &[INT4OID, TEXTOID, TEXTOID, UUIDOID, INT8OID, TEXTOID]);

/// `feed_item`
#[rustfmt::skip]
pub static FEED_ITEM: Definition = Definition::of_result(c"feed_item", &[
    TEXTOID, UUIDOID, UUIDOID, TEXTOID, NUMERICOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT8OID, UUIDOID, UUIDOID, TEXTOID,
    JSONBOID, UUIDOID,
]);

/// `dumped_row_security`, whose row type a function returns for dumps to read
#[rustfmt::skip]
pub static DUMPED_ROW_SECURITY: Definition = Definition {
    name: c"dumped_row_security",
    role: Role::Derived,
    columns: &[TEXTOID, TEXTOID, TEXTOID, BOOLOID, TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID],
    may_be_null: &[false, false, false, true, true, true, true, true, true],
    names: &[
        "table_name", "kind", "policy", "is_permissive", "command", "roles", "using_expression", "check_expression", "problem",
    ],
    keys: &[c"dumped_row_security_pkey"],
    checks: &[],
};

/// `node`, which says how the ledger numbers its rows
pub static NODE: Definition = Definition {
    name: c"node",
    role: Role::Derived,
    columns: &[BOOLOID, INT4OID],
    may_be_null: &[false; 2],
    names: &["is_only", "node_number"],
    keys: &[c"node_pkey"],
    checks: &[],
};

/// `purged_buckets`
pub static PURGED_BUCKETS: Definition = Definition {
    name: c"purged_buckets",
    role: Role::Derived,
    columns: &[INT2OID, TIMESTAMPTZOID, INT8OID, NUMERICOID, TEXTOID],
    may_be_null: &[false; 5],
    names: &["bucket", "purged_at", "transaction_count", "balance", "digest"],
    keys: &[c"purged_buckets_pkey"],
    checks: &[],
};

/// `taken_buckets`
pub static TAKEN_BUCKETS: Definition = Definition {
    name: c"taken_buckets",
    role: Role::Derived,
    columns: &[INT2OID, INT8OID],
    may_be_null: &[false; 2],
    names: &["bucket", "seq"],
    keys: &[c"taken_buckets_pkey"],
    checks: &[],
};

/// All of them.
pub static ALL: [&Definition; 21] = [
    Ledger::DEFINITION,
    Holds::DEFINITION,
    Limits::DEFINITION,
    Caps::DEFINITION,
    Checkpoints::DEFINITION,
    Batches::DEFINITION,
    Days::DEFINITION,
    Changes::DEFINITION,
    &CREDIT_TRANSACTION,
    &TRANSACTION_WITH_CATEGORY,
    &TRANSACTION_WITH_BALANCE,
    &CREDIT_HOLD,
    &RECORDED_TRANSACTION,
    &FEED_ITEM,
    Identity::DEFINITION,
    &DUMPED_ROW_SECURITY,
    &NODE,
    BucketStates::DEFINITION,
    Copies::DEFINITION,
    &PURGED_BUCKETS,
    &TAKEN_BUCKETS,
];

/// The triggers that keep the ledger append-only and have every insert noted: `append_only` and `append_only_applied` refuse all
/// changes but inserts (for statements, and row by row where replication applies them), `note_transaction` notes inserted rows.
pub const KEEPING_TRIGGERS: [&CStr; 3] = [c"append_only", c"append_only_applied", c"note_transaction"];

/// The triggers of holds that have every hold noted, and keep what it was made of.
pub const KEEPING_TRIGGERS_OF_HOLDS: [&CStr; 2] = [c"note_hold", c"only_extended"];

impl Definition {
    /// A type with these columns.
    const fn of_result(name: &'static CStr, columns: &'static [Oid]) -> Self {
        Self { name, role: Role::ResultType, columns, may_be_null: &[], names: &[], keys: &[], checks: &[] }
    }

    /// Its name, for messages.
    pub fn display_name(&self) -> &'static str {
        self.name.to_str().unwrap_or_default()
    }

    /// Whether the extension has made a table's column without NOT NULL, as those that an update has added.
    pub fn may_be_null(&self, column: &str) -> bool {
        let place = self.names.iter().position(|name| *name == column);
        place.is_none_or(|place| self.may_be_null.get(place).copied().unwrap_or(true))
    }
}
