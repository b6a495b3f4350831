//! What was spent by day, category and key.

use std::collections::HashMap;
use std::ops::Bound;

use ledger::daily::{DailyTotal, DailyTotals, TotalOf};
use ledger::day::Day;
use ledger::transaction_type::TransactionType;
use pgrx::pg_sys;

use super::filters::{Filters, Period};
use super::newest::Scope;
use crate::engine::dated;
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::column_value::ColumnValue;
use crate::pg::statement::Statement;
use crate::pg::text;
use crate::pg::value::Value;

/// `usage_by_day(user_id, start_date, end_date)`
pub fn usage_by_day(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let user = call.user_id(Argument(0, "user_id"))?;
    let first = call.date(Argument(1, "start_date"));
    let last = call.date(Argument(2, "end_date"));
    let (from, to) = (first.unwrap_or(Day::NEVER_BEGUN), last.map_or(Bound::Unbounded, Bound::Included));
    if let Some(totals) = dated::totals(user, from, to)? {
        return Ok(put(call, &totals));
    }
    let from = first.map_or(Bound::Unbounded, |day| Bound::Included(day.start()));
    let until = last.map_or(Bound::Unbounded, up_to);
    let mut statement = Statement::new();
    let scope = Scope::User(statement.bind(Value::uuid(user.as_bytes())));
    let filters = Filters::in_period(Period::between(from, until));
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
fn up_to(day: Day) -> Bound<i64> {
    if day == Day::NEVER_BEGUN {
        Bound::Included(day.start())
    } else {
        day.end().map_or(Bound::Unbounded, Bound::Excluded)
    }
}

/// Puts the totals into the result, in the order in which the query has them.
fn put(call: &Call<'_>, totals: &DailyTotals) -> Answer {
    let (uuid, text) = (pg_sys::UUIDOID, pg_sys::TEXTOID);
    let result = call.result_rows(&[pg_sys::DATEOID, text, uuid, text, pg_sys::NUMERICOID, pg_sys::INT8OID]);
    let mut totals: Vec<(&TotalOf, &DailyTotal)> = totals.iter().collect();
    let places = places(totals.iter().filter_map(|(of, _)| of.category.as_deref()));
    totals.sort_unstable_by_key(|(of, _)| {
        let category = of.category.as_deref().map_or(usize::MAX, |category| places[category]);
        let without_key = of.api_key_id.is_none();
        (of.day, of.transaction_type.map(TransactionType::name), category, without_key, of.api_key_id)
    });
    for (of, total) in totals {
        result.put([
            ColumnValue::Date(of.day),
            of.category.as_deref().map_or(ColumnValue::Null, ColumnValue::TextBytes),
            of.api_key_id.as_ref().map_or(ColumnValue::Null, ColumnValue::Uuid),
            ColumnValue::Text(of.transaction_type.map_or("", TransactionType::name)),
            ColumnValue::Credits(total.amount),
            ColumnValue::Int8(total.transaction_count),
        ]);
    }
    Answer::rows()
}

/// The place of each text in the server's order. Comparing texts costs more than the rest of the work, and there are few of them.
fn places<'totals>(texts: impl Iterator<Item = &'totals [u8]>) -> HashMap<&'totals [u8], usize> {
    let mut texts: Vec<&[u8]> = texts.collect();
    texts.sort_unstable();
    texts.dedup();
    texts.sort_by(|one, other| text::compare(one, other));
    texts.into_iter().zip(0..).collect()
}
