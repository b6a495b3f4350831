//! Sums of a user's rows by their dates: balances of the past, and statements.
//!
//! A sum has no trailing zeros, whichever way it was added up.

use std::ops::Bound;

use ledger::id::UserId;
use ledger::sums::Sum;
use ledger::transaction_type::{TransactionType, effect_sql};
use pgrx::pg_sys;

use super::filters::{Filters, Period};
use super::newest::Scope;
use crate::engine::dated::{self, AccountStatement};
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::column_value::ColumnValue;
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
    let (user, date) = (call.user_id(USER_ID)?, call.required_time(Argument(1, "after_date"))?);
    let (_, later) = split_after(user, date)?.unzip();
    let is_later = Period::between(Bound::Excluded(date), Bound::Unbounded);
    Ok(later.map_or_else(|| sum(user, is_later), |later| Answer::credits(later.credits)))
}

/// `get_user_balance_at(user_id, at)`
pub fn get_user_balance_at(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let (user, at) = (call.user_id(USER_ID)?, call.required_time(Argument(1, "at"))?);
    let (until, _) = split_after(user, at)?.unzip();
    let is_until = Period::between(Bound::Unbounded, Bound::Included(at));
    Ok(until.map_or_else(|| sum(user, is_until), |until| Answer::credits(until.credits)))
}

/// The signed sums of the user's rows up to and including a time, and of those after it, if daily totals have them.
fn split_after(user: &UserId, time: i64) -> Result<Option<(Sum, Sum)>, LedgerError> {
    // Nothing comes after `infinity`.
    dated::split(user, time.checked_add(1))
}

/// The signed sum of the user's rows in a period.
fn sum(user: &UserId, period: Period) -> Answer {
    let mut statement = Statement::new();
    let scope = Scope::User(statement.bind(Value::uuid(user.as_bytes())));
    let filters = Filters::in_period(period);
    let passing = scope.passing(&filters, &mut statement);
    statement.answer_value(&format!(
        "SELECT trim_scale(coalesce(sum({}), 0)) FROM credits.credits_transactions WHERE {passing}",
        effect_sql("transaction_type")
    ))
}

/// `account_statement(user_id, period_start, period_end)`
pub fn account_statement(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let user = call.user_id(USER_ID)?;
    let start = call.required_time(Argument(1, "period_start"))?;
    let end = call.required_time(Argument(2, "period_end"))?;
    if end <= start {
        let [start, end] = [start, end].map(|time| Value::time(time).shown());
        return Err(LedgerError::EmptyPeriod { start, end });
    }
    match dated::statement(user, start, end)? {
        Some(statement) => Ok(put(call, &statement)),
        None => Ok(visible_statement(call, user, start, end)),
    }
}

/// Puts the lines of a statement into the result.
fn put(call: &Call<'_>, statement: &AccountStatement) -> Answer {
    let result = call.result_rows(&[pg_sys::TEXTOID, pg_sys::NUMERICOID, pg_sys::INT8OID]);
    let put = |line: &str, sum: Sum| {
        let count = ColumnValue::Int8(sum.transaction_count);
        result.put([ColumnValue::Text(line), ColumnValue::Credits(sum.credits), count]);
    };
    put("opening", statement.opening);
    for line in LINES {
        put(line.name(), statement.lines.of(line));
    }
    put("closing", statement.closing);
    Answer::rows()
}

/// The statement by a query over the rows that the caller sees.
fn visible_statement<'call>(call: &Call<'call>, user: &'call UserId, start: i64, end: i64) -> Answer {
    let mut statement = Statement::new();
    let scope = Scope::User(statement.bind(Value::uuid(user.as_bytes())));
    let filters = Filters::in_period(Period::between(Bound::Unbounded, Bound::Excluded(end)));
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
    statement.answer_rows(&sql, call)
}
