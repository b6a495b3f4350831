//! `holds`

use ledger::credits::Credits;
use ledger::id::UserId;

use super::table;
use crate::pg::column_type::{Jsonb, Text, Timestamptz};
use crate::pg::definition::Role;

table! {
    /// The holds, open and expired ones.
    Holds is c"holds", Role::Dumped, with keys &[c"holds_pkey"], checks ["amount_is_positive_and_exact"];
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
