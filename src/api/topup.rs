//! What automatic top-ups have bought this month.

use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::statement::Statement;

/// The rows in question; the first condition is the predicate of `credits_transactions_auto_topup_idx`.
const THIS_MONTH: &str = "starts_with(source_id, 'auto_topup_') \
     AND created_at >= date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' \
     AND created_at < (date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC'";

/// `get_monthly_auto_topup_spend(user_id)`
pub fn get_monthly_auto_topup_spend(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let mut statement = Statement::new();
    let user = statement.bind(call.account(Argument(0, "user_id"))?);
    Ok(statement.answer_value(&format!(
        "SELECT coalesce(sum(amount), 0) FROM credits.credits_transactions WHERE user_id = {user} AND {THIS_MONTH}"
    )))
}

/// `get_monthly_auto_topup_spend_bulk(user_ids)`
pub fn get_monthly_auto_topup_spend_bulk(call: &Call<'_>) -> Result<Answer, LedgerError> {
    const USER_IDS: Argument = Argument(0, "user_ids");
    let mut statement = Statement::new();
    call.user_ids(USER_IDS)?;
    let users = statement.bind(call.required_uuid_array(USER_IDS)?);
    let sql = format!(
        "SELECT users.user_id, spend.total FROM (SELECT DISTINCT user_id FROM unnest({users}) AS user_id) users \
         CROSS JOIN LATERAL (SELECT sum(amount) AS total FROM credits.credits_transactions t \
         WHERE t.user_id = users.user_id AND {THIS_MONTH}) spend WHERE spend.total IS NOT NULL"
    );
    Ok(statement.answer_rows(&sql, call))
}
