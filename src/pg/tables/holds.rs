//! `holds`

use std::ffi::CStr;
use std::sync::LazyLock;

use ledger::credits::Credits;
use ledger::id::UserId;

use super::{columns, table};
use crate::pg::column::{AnyColumn, Layout};
use crate::pg::column_type::{Jsonb, Text, Timestamptz};
use crate::pg::definition::Role;

table! {
    /// The holds, open and expired ones.
    Holds is c"holds", Role::Dumped, with keys &[HOLDS_KEY], checks ["amount_is_positive_and_exact"];
    1 SOURCE_ID "source_id": Text,
    2 USER_ID "user_id": UserId,
    3 AMOUNT "amount": Credits,
    4 DESCRIPTION "description": Option<Text>,
    5 BATCH "fusillade_batch_id": Option<[u8; 16]>,
    6 API_KEY_ID "api_key_id": Option<[u8; 16]>,
    7 CATEGORY "category": Option<Text>,
    8 METADATA "metadata": Option<Jsonb<'static>>,
    9 CREATED_AT "created_at": Timestamptz,
    10 EXPIRES_AT "expires_at": Timestamptz,
}

/// Columns that a held sum is computed from.
pub const HELD: [AnyColumn<Holds>; 3] = columns![USER_ID, AMOUNT, EXPIRES_AT];

/// The names of the columns, those of the type `credit_hold`, for SQL.
pub static CREDIT_HOLD_NAMES: LazyLock<String> = LazyLock::new(|| Holds::DEFINITION.names.join(", "));

/// All columns.
pub const ALL: [AnyColumn<Holds>; 10] = columns![
    SOURCE_ID,
    USER_ID,
    AMOUNT,
    DESCRIPTION,
    BATCH,
    API_KEY_ID,
    CATEGORY,
    METADATA,
    CREATED_AT,
    EXPIRES_AT
];

/// The primary key, on `source_id`.
pub const HOLDS_KEY: &CStr = c"holds_pkey";
