//! `user_balance_checkpoints`

use ledger::credits::Credits;
use ledger::id::UserId;

use super::table;
use crate::pg::column_type::Timestamptz;
use crate::pg::definition::Role;

table! {
    /// The checkpoints, one row for each user that has one.
    Checkpoints is c"user_balance_checkpoints", Role::Derived, with keys &[c"user_balance_checkpoints_pkey"];
    1 USER_ID "user_id": UserId,
    2 CHECKPOINT_SEQ "checkpoint_seq": i64,
    3 BALANCE "balance": Credits,
    4 UPDATED_AT "updated_at": Timestamptz,
    5 TRANSACTION_COUNT "transaction_count": i64,
    6 WATERMARK "watermark": u64,
    7 STRAGGLERS "stragglers": Vec<u64>,
    8 IS_POSITIVE "is_positive": bool,
    9 CROSSED_AT "crossed_at": Option<Timestamptz>,
}
