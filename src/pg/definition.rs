//! The tables and types of the extension as it made them.

use std::ffi::CStr;

use pgrx::pg_sys::{
    BOOLOID, INT4OID, INT8OID, JSONBOID, NUMERICOID, Oid, TEXTARRAYOID, TEXTOID, TIMESTAMPTZOID, UUIDOID,
    XID8ARRAYOID, XID8OID,
};

/// A table or type that the engine reads, writes or returns by the places of its columns.
#[derive(Debug)]
pub struct Definition {
    /// Its name in the schema `credits`.
    pub name: &'static CStr,
    /// What it is to the engine.
    pub role: Role,
    /// The types of the columns that are read and written by their places. There may be others behind them.
    pub columns: &'static [Oid],
    /// The names of a table's columns. A type has none that could be somebody's own.
    pub names: &'static [&'static str],
    /// The indexes that keep its rows apart.
    pub keys: &'static [&'static CStr],
}

/// What a relation of the extension is to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Holds the rows.
    Ledger,
    /// Written by the engine alone.
    Derived,
    /// A type that functions return.
    ResultType,
}

/// `credits_transactions`
#[rustfmt::skip]
pub static LEDGER: Definition = Definition {
    name: c"credits_transactions",
    role: Role::Ledger,
    columns: &[
        UUIDOID, UUIDOID, TEXTOID, NUMERICOID, TEXTOID, TEXTOID, UUIDOID, UUIDOID, TIMESTAMPTZOID, INT8OID, XID8OID,
    ],
    names: &[
        "id", "user_id", "transaction_type", "amount", "source_id", "description", "fusillade_batch_id", "api_key_id",
        "created_at", "seq", "xact_id", "category", "metadata", "reverses",
    ],
    keys: &[c"credits_transactions_pkey", c"credits_transactions_source_id_key"],
};

/// `user_balance_checkpoints`
#[rustfmt::skip]
pub static CHECKPOINTS: Definition = Definition {
    name: c"user_balance_checkpoints",
    role: Role::Derived,
    columns: &[
        UUIDOID, INT8OID, NUMERICOID, TIMESTAMPTZOID, INT8OID, XID8OID, XID8ARRAYOID, BOOLOID, TIMESTAMPTZOID,
    ],
    names: &[
        "user_id", "checkpoint_seq", "balance", "updated_at", "transaction_count", "watermark", "stragglers", "is_positive",
        "crossed_at",
    ],
    keys: &[c"user_balance_checkpoints_pkey"],
};

/// `batch_aggregates`
#[rustfmt::skip]
pub static BATCHES: Definition = Definition {
    name: c"batch_aggregates",
    role: Role::Derived,
    columns: &[UUIDOID, UUIDOID, NUMERICOID, INT8OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID],
    names: &[
        "fusillade_batch_id", "user_id", "total_amount", "transaction_count", "max_seq", "created_at", "updated_at",
    ],
    keys: &[c"batch_aggregates_pkey"],
};

/// `checkpoint_changes`
pub static CHANGES: Definition = Definition {
    name: c"checkpoint_changes",
    role: Role::Derived,
    columns: &[XID8OID, TIMESTAMPTZOID],
    names: &["xact_id", "changed_at"],
    keys: &[],
};

/// `credit_transaction`
#[rustfmt::skip]
pub static CREDIT_TRANSACTION: Definition = Definition {
    name: c"credit_transaction",
    role: Role::ResultType,
    columns: &[
        UUIDOID, UUIDOID, TEXTOID, NUMERICOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT8OID, UUIDOID, UUIDOID,
    ],
    names: &[],
    keys: &[],
};

/// `transaction_with_category`
#[rustfmt::skip]
pub static TRANSACTION_WITH_CATEGORY: Definition = Definition {
    name: c"transaction_with_category",
    role: Role::ResultType,
    columns: &[
        UUIDOID, UUIDOID, TEXTOID, NUMERICOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT8OID, UUIDOID, TEXTOID, TEXTOID, INT4OID,
    ],
    names: &[],
    keys: &[],
};

/// `recorded_transaction`
pub static RECORDED_TRANSACTION: Definition = Definition {
    name: c"recorded_transaction",
    role: Role::ResultType,
    columns: &[INT4OID, TEXTOID, TEXTOID, UUIDOID, INT8OID, TEXTOID],
    names: &[],
    keys: &[],
};

/// `feed_item`
#[rustfmt::skip]
pub static FEED_ITEM: Definition = Definition {
    name: c"feed_item",
    role: Role::ResultType,
    columns: &[
        TEXTOID, UUIDOID, UUIDOID, TEXTOID, NUMERICOID, TEXTOID, TEXTOID, TIMESTAMPTZOID, INT8OID, UUIDOID, UUIDOID, TEXTOID,
        JSONBOID, UUIDOID,
    ],
    names: &[],
    keys: &[],
};

/// `ledger_identity`
pub static IDENTITY: Definition = Definition {
    name: c"ledger_identity",
    role: Role::Derived,
    columns: &[BOOLOID, UUIDOID],
    names: &["is_only", "ledger_id"],
    keys: &[c"ledger_identity_pkey"],
};

/// `dumped_row_security`, whose row type a function returns for dumps to read
#[rustfmt::skip]
pub static DUMPED_ROW_SECURITY: Definition = Definition {
    name: c"dumped_row_security",
    role: Role::Derived,
    columns: &[TEXTOID, TEXTOID, TEXTOID, BOOLOID, TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID],
    names: &[
        "table_name", "kind", "policy", "is_permissive", "command", "roles", "using_expression", "check_expression", "problem",
    ],
    keys: &[c"dumped_row_security_pkey"],
};

/// All of them.
pub static ALL: [&Definition; 10] = [
    &LEDGER,
    &CHECKPOINTS,
    &BATCHES,
    &CHANGES,
    &CREDIT_TRANSACTION,
    &TRANSACTION_WITH_CATEGORY,
    &RECORDED_TRANSACTION,
    &FEED_ITEM,
    &IDENTITY,
    &DUMPED_ROW_SECURITY,
];

/// The triggers that keep the ledger append-only and have every insert noted: `append_only` and `append_only_applied` refuse all
/// changes but inserts (for statements, and row by row where replication applies them), `note_transaction` notes inserted rows.
pub const KEEPING_TRIGGERS: [&CStr; 3] = [c"append_only", c"append_only_applied", c"note_transaction"];

/// The checks of the ledger. Rows that do not pass one of them would not be restored.
pub const CHECKS: [&str; 3] = ["transaction_type_is_known", "amount_is_positive_and_exact", "batch_is_usage"];

impl Definition {
    /// Its name, for messages.
    pub fn display_name(&self) -> &'static str {
        self.name.to_str().unwrap_or_default()
    }
}
