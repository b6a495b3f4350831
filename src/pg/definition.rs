//! The tables and types of the extension as it made them.

use std::ffi::CStr;

use pgrx::pg_sys::{
    BOOLOID, INT4OID, INT8OID, JSONBOID, NUMERICOID, Oid, TEXTOID, TIMESTAMPTZOID, UUIDOID, XID8ARRAYOID,
    XID8OID,
};

/// A table or type that the engine reads, writes or returns by the places of its columns.
#[derive(Debug)]
pub struct Definition {
    /// Its name in the schema `credits`.
    pub name: &'static CStr,
    /// What it is to the engine.
    pub role: Role,
    /// The types of its columns, in their order. A table may have columns of somebody's own behind them.
    pub columns: &'static [Oid],
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
pub static LEDGER: Definition = Definition {
    name: c"credits_transactions",
    role: Role::Ledger,
    columns: &[
        UUIDOID,
        UUIDOID,
        TEXTOID,
        NUMERICOID,
        TEXTOID,
        TEXTOID,
        UUIDOID,
        UUIDOID,
        TIMESTAMPTZOID,
        INT8OID,
        XID8OID,
        TEXTOID,
        JSONBOID,
        UUIDOID,
    ],
};

/// `user_balance_checkpoints`
pub static CHECKPOINTS: Definition = Definition {
    name: c"user_balance_checkpoints",
    role: Role::Derived,
    columns: &[
        UUIDOID,
        INT8OID,
        NUMERICOID,
        TIMESTAMPTZOID,
        INT8OID,
        XID8OID,
        XID8ARRAYOID,
        BOOLOID,
        TIMESTAMPTZOID,
    ],
};

/// `batch_aggregates`
pub static BATCHES: Definition = Definition {
    name: c"batch_aggregates",
    role: Role::Derived,
    columns: &[UUIDOID, UUIDOID, NUMERICOID, INT8OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID],
};

/// `credit_transaction`
pub static CREDIT_TRANSACTION: Definition = Definition {
    name: c"credit_transaction",
    role: Role::ResultType,
    columns: &[
        UUIDOID,
        UUIDOID,
        TEXTOID,
        NUMERICOID,
        TEXTOID,
        TEXTOID,
        TIMESTAMPTZOID,
        INT8OID,
        UUIDOID,
        UUIDOID,
    ],
};

/// `transaction_with_category`
pub static TRANSACTION_WITH_CATEGORY: Definition = Definition {
    name: c"transaction_with_category",
    role: Role::ResultType,
    columns: &[
        UUIDOID,
        UUIDOID,
        TEXTOID,
        NUMERICOID,
        TEXTOID,
        TEXTOID,
        TIMESTAMPTZOID,
        INT8OID,
        UUIDOID,
        TEXTOID,
        TEXTOID,
        INT4OID,
    ],
};

/// `recorded_transaction`
pub static RECORDED_TRANSACTION: Definition = Definition {
    name: c"recorded_transaction",
    role: Role::ResultType,
    columns: &[INT4OID, TEXTOID, TEXTOID, UUIDOID, INT8OID, TEXTOID],
};

/// All of them.
pub static ALL: [&Definition; 6] =
    [&LEDGER, &CHECKPOINTS, &BATCHES, &CREDIT_TRANSACTION, &TRANSACTION_WITH_CATEGORY, &RECORDED_TRANSACTION];

/// The checks of the ledger. Rows that do not pass one of them would not be restored.
pub const CHECKS: [&str; 5] = [
    "transaction_type_is_known",
    "amount_is_positive_and_exact",
    "batch_is_usage",
    "category_is_short",
    "metadata_is_object",
];

impl Definition {
    /// Its name, for messages.
    pub fn display_name(&self) -> &'static str {
        self.name.to_str().unwrap_or_default()
    }
}
