//! What was spent by day, category and key.

use ledger::day::Day;

use super::filters::{Filters, Period};
use super::newest::Scope;
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::statement::Statement;

/// `usage_by_day(user_id, start_date, end_date)`
pub fn usage_by_day(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let user = call.uuid(Argument(0, "user_id"))?;
    let first = call.date(Argument(1, "start_date"));
    let last = call.date(Argument(2, "end_date"));
    let from = first.map(|day| (">=", day.start()));
    let until = last.and_then(up_to);
    let mut statement = Statement::new();
    let scope = Scope::User(statement.bind(user));
    let filters = Filters::in_period(Period::of_times(from.into_iter().chain(until)));
    let passing = scope.passing(&filters, &mut statement);
    // Not by the session's time zone.
    let sql = format!(
        "SELECT day, category, api_key_id, transaction_type, trim_scale(sum(amount)), count(*) \
         FROM (SELECT (created_at AT TIME ZONE 'UTC')::date AS day, category, api_key_id, transaction_type, amount \
         FROM credits.credits_transactions WHERE {passing}) rows \
         GROUP BY day, transaction_type, category, api_key_id \
         ORDER BY day, transaction_type, category, api_key_id"
    );
    Ok(statement.answer_rows(&sql, call))
}

/// The times up to the end of a day. No time is computed from `-infinity`: the server rounds what is compared with dates.
fn up_to(day: Day) -> Option<(&'static str, i64)> {
    if day == Day::NEVER_BEGUN { Some(("<=", day.start())) } else { day.end().map(|end| ("<", end)) }
}
