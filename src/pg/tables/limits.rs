//! `spending_limits`

use ledger::credits::Credits;
use ledger::id::UserId;

use super::table;
use crate::pg::column_type::Timestamptz;
use crate::pg::definition::Role;

table! {
    /// The boundaries that users have given accounts.
    Limits is c"spending_limits", Role::Dumped,
        with keys &[c"spending_limits_pkey"],
        checks ["overdraft_limit_is_exact", "thresholds_are_distinct_balances"];
    1 USER_ID "user_id": UserId,
    2 OVERDRAFT_LIMIT "overdraft_limit": Option<Credits>,
    3 THRESHOLDS "thresholds": Vec<Credits>,
    4 UPDATED_AT "updated_at": Timestamptz,
}
