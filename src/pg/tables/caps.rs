//! `spend_caps`

use ledger::credits::Credits;
use ledger::id::{ApiKeyId, CapId, UserId};

use super::table;
use crate::pg::column_type::{Text, Timestamptz};
use crate::pg::definition::Role;

table! {
    /// The spend caps that users have given accounts.
    Caps is c"spend_caps", Role::Dumped,
        with keys &[c"spend_caps_pkey"],
        checks ["api_key_ids_has_keys", "period_is_known", "amount_is_positive_and_exact"];
    1 ID "id": CapId,
    2 USER_ID "user_id": UserId,
    3 API_KEY_IDS "api_key_ids": Option<Vec<ApiKeyId>>,
    4 PERIOD "period": Option<Text>,
    5 AMOUNT "amount": Credits,
    6 SINCE "since": Timestamptz,
    7 IS_ENFORCED "is_enforced": bool,
}
