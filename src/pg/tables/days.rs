//! `daily_totals`

use std::ffi::CStr;

use ledger::credits::Credits;
use ledger::day::Day;
use ledger::id::UserId;
use ledger::transaction_type::TransactionType;

use super::table;
use crate::pg::column_type::Text;
use crate::pg::definition::Role;

table! {
    /// What is folded of days, one row for each user, day, type, category and key. No constraint keeps the rows apart: a category and a key
    /// may be NULL, and that is one of each.
    Days is c"daily_totals", Role::Derived, with keys &[];
    1 USER_ID "user_id": UserId,
    2 DAY "day": Day,
    3 CATEGORY "category": Option<Text>,
    4 API_KEY_ID "api_key_id": Option<[u8; 16]>,
    5 TRANSACTION_TYPE "transaction_type": TransactionType,
    6 TOTAL_AMOUNT "total_amount": Credits,
    7 TRANSACTION_COUNT "transaction_count": i64,
}

/// The index on all that a total is kept apart by: user, day, type, category and key, in this order.
pub const INDEX: &CStr = c"daily_totals_user_day_idx";
