//! `credits_transactions`

use std::ffi::CStr;
use std::sync::LazyLock;

use ledger::credits::Credits;
use ledger::id::{BatchId, TransactionId, UserId};
use ledger::transaction_type::TransactionType;

use super::{columns, table, utf8};
use crate::pg::column::{self, AnyColumn, Column};
use crate::pg::column_type::{Jsonb, Text, Timestamptz};
use crate::pg::definition::Role;

table! {
    /// The ledger. The columns that have come later are found by their names: see [`LaterColumns`].
    Ledger is c"credits_transactions", Role::Ledger,
        with keys &[ID_KEY, SOURCE_ID_KEY],
        checks ["transaction_type_is_known", "amount_is_positive_and_exact", "batch_is_usage"];
    1 ID "id": TransactionId,
    2 USER_ID "user_id": UserId,
    3 TRANSACTION_TYPE "transaction_type": TransactionType,
    4 AMOUNT "amount": Credits,
    5 SOURCE_ID "source_id": Text,
    6 DESCRIPTION "description": Option<Text>,
    7 BATCH "fusillade_batch_id": Option<BatchId>,
    8 API_KEY_ID "api_key_id": Option<[u8; 16]>,
    9 CREATED_AT "created_at": Timestamptz,
    10 SEQ "seq": i64,
    11 XACT_ID "xact_id": u64,
    later: utf8(CATEGORY), utf8(METADATA), utf8(REVERSES);
}

/// The primary key, on `id`.
pub const ID_KEY: &CStr = c"credits_transactions_pkey";
/// The unique constraint on `source_id`.
pub const SOURCE_ID_KEY: &CStr = c"credits_transactions_source_id_key";
/// The sequence of `seq`. A dump names it.
pub const SEQUENCE: &CStr = c"credits_transactions_seq_seq";

/// The name of the column for what a transaction was for.
pub const CATEGORY: &CStr = c"category";
/// The name of the column for what the application adds.
pub const METADATA: &CStr = c"metadata";
/// The name of the column for the transaction that is taken back.
pub const REVERSES: &CStr = c"reverses";

/// Columns that an update has added. An owner may have added others before, so their numbers differ from database to database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaterColumns {
    /// What the transaction was for.
    pub category: Column<Ledger, Option<Text>>,
    /// What the application adds.
    pub metadata: Column<Ledger, Option<Jsonb<'static>>>,
    /// The transaction that is taken back.
    pub reverses: Column<Ledger, Option<TransactionId>>,
}

impl LaterColumns {
    /// The columns that `charge` and `capture_hold` give a value.
    pub fn of_usage(&self) -> [AnyColumn<Ledger>; 9] {
        let [user, kind, amount, source_id, description, batch, api_key] = GIVEN;
        let (category, metadata) = (self.category.any(), self.metadata.any());
        [user, kind, amount, source_id, description, batch, api_key, category, metadata]
    }
}

/// The column of this name, of those that a client may give a value.
pub fn named(name: &str, later: &LaterColumns) -> Option<AnyColumn<Ledger>> {
    let later_columns = [
        (utf8(CATEGORY), later.category.any()),
        (utf8(METADATA), later.metadata.any()),
        (utf8(REVERSES), later.reverses.any()),
    ];
    let listed = GIVEN.iter().copied().find(|column| column.name() == name);
    listed.or_else(|| later_columns.into_iter().find(|(known, _)| *known == name).map(|(_, column)| column))
}

/// Those of the first columns that a client may give a value.
const GIVEN: [AnyColumn<Ledger>; 7] =
    columns![USER_ID, TRANSACTION_TYPE, AMOUNT, SOURCE_ID, DESCRIPTION, BATCH, API_KEY_ID];

/// Columns that a balance is computed from, with `seq` for the latest one.
pub const BALANCE: [AnyColumn<Ledger>; 5] = columns![USER_ID, TRANSACTION_TYPE, AMOUNT, SEQ, XACT_ID];

/// Columns that sums of the newest rows are computed from.
pub const SUMMED: [AnyColumn<Ledger>; 5] = columns![USER_ID, TRANSACTION_TYPE, AMOUNT, BATCH, SEQ];

/// The columns of the type `credit_transaction`, in its order.
pub const CREDIT_TRANSACTION: [AnyColumn<Ledger>; 10] = columns![
    ID,
    USER_ID,
    TRANSACTION_TYPE,
    AMOUNT,
    SOURCE_ID,
    DESCRIPTION,
    CREATED_AT,
    SEQ,
    BATCH,
    API_KEY_ID
];

/// The columns of the type `transaction_with_category` that a row which belongs to no batch gives, in its order.
pub const TRANSACTION_WITH_CATEGORY: [AnyColumn<Ledger>; 8] =
    columns![ID, USER_ID, TRANSACTION_TYPE, AMOUNT, SOURCE_ID, DESCRIPTION, CREATED_AT, SEQ];

/// The names of [`CREDIT_TRANSACTION`], for SQL.
pub static CREDIT_TRANSACTION_NAMES: LazyLock<String> = LazyLock::new(|| column::names(&CREDIT_TRANSACTION));
