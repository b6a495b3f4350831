//! Sums of a user's rows by their dates: balances of the past, and statements.
//!
//! A sum has no trailing zeros, whichever way it was added up.

use ledger::transaction_type::{TransactionType, effect_sql};

use super::filters::{Filters, Period};
use super::newest::Scope;
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::statement::Statement;
use crate::pg::value::Value;

const USER_ID: Argument = Argument(0, "user_id");

/// The types of transactions, in the order of the lines of a statement.
const LINES: [TransactionType; 4] = [
    TransactionType::Purchase,
    TransactionType::AdminGrant,
    TransactionType::Usage,
    TransactionType::AdminRemoval,
];

/// `sum_transactions_after_date(user_id, after_date)`
pub fn sum_transactions_after_date(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let user = call.uuid(USER_ID)?;
    Ok(sum(user, (">", call.required_time(Argument(1, "after_date"))?)))
}

/// `get_user_balance_at(user_id, at)`
pub fn get_user_balance_at(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let user = call.uuid(USER_ID)?;
    Ok(sum(user, ("<=", call.required_time(Argument(1, "at"))?)))
}

/// The signed sum of the user's rows whose dates compare so to a time.
fn sum(user: Value<'_>, bound: (&'static str, i64)) -> Answer {
    let mut statement = Statement::new();
    let scope = Scope::User(statement.bind(user));
    let filters = Filters::in_period(Period::of_times([bound]));
    let passing = scope.passing(&filters, &mut statement);
    statement.answer_value(&format!(
        "SELECT trim_scale(coalesce(sum({}), 0)) FROM credits.credits_transactions WHERE {passing}",
        effect_sql("transaction_type")
    ))
}

/// `account_statement(user_id, period_start, period_end)`
pub fn account_statement(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let user = call.uuid(USER_ID)?;
    let start = call.required_time(Argument(1, "period_start"))?;
    let end = call.required_time(Argument(2, "period_end"))?;
    if end <= start {
        let [start, end] = [start, end].map(|time| Value::time(time).shown());
        return Err(LedgerError::EmptyPeriod { start, end });
    }
    let mut statement = Statement::new();
    let scope = Scope::User(statement.bind(user));
    let filters = Filters::in_period(Period::of_times([("<", end)]));
    let before_end = scope.passing(&filters, &mut statement);
    let start = statement.bind(Value::time(start));
    // A line is of the rows before the period or in it, and of one type; each of these may be left open.
    let mut lines = vec!["(0, 'opening', true, NULL)".to_owned()];
    let types = LINES.iter().zip(1..);
    lines.extend(types.map(|(kind, place)| format!("({place}, '{kind}', false, '{kind}')")));
    lines.push(format!("({}, 'closing', NULL, NULL)", lines.len()));
    let sql = format!(
        "WITH sums AS (SELECT created_at < {start} AS is_before, transaction_type, sum({effect}) AS amount, \
         count(*) AS transaction_count FROM credits.credits_transactions WHERE {before_end} GROUP BY 1, 2) \
         SELECT line, trim_scale(coalesce(sum(amount), 0)), coalesce(sum(transaction_count), 0)::bigint \
         FROM (VALUES {lines}) lines (place, line, is_before, transaction_type) LEFT JOIN sums \
         ON coalesce(lines.is_before = sums.is_before, true) \
         AND coalesce(lines.transaction_type = sums.transaction_type, true) \
         GROUP BY place, line ORDER BY place",
        effect = effect_sql("transaction_type"),
        lines = lines.join(", "),
    );
    Ok(statement.answer_rows(&sql, call))
}
