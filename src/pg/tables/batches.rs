//! `batch_aggregates`

use ledger::credits::Credits;
use ledger::id::{BatchId, UserId};

use super::table;
use crate::pg::column_type::Timestamptz;
use crate::pg::definition::Role;

table! {
    /// What is folded of batches, one row for each user and batch.
    Batches is c"batch_aggregates", Role::Derived, with keys &[c"batch_aggregates_pkey"];
    1 BATCH "fusillade_batch_id": BatchId,
    2 USER_ID "user_id": UserId,
    3 TOTAL_AMOUNT "total_amount": Credits,
    4 TRANSACTION_COUNT "transaction_count": i64,
    5 MAX_SEQ "max_seq": i64,
    6 CREATED_AT "created_at": Timestamptz,
    7 UPDATED_AT "updated_at": Timestamptz,
}
