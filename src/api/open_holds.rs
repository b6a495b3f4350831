//! Lists of open holds, and the job that removes those that have expired.

use pgrx::datum::Interval;
use pgrx::datum::datetime_support::statement_timestamp;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::arguments::{required, that_long_before};
use super::filters::{Page, not_negative};
use super::nodes::and_here;
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::catalog::Relations;
use crate::pg::statement::Statement;
use crate::pg::tables::holds::CREDIT_HOLD_NAMES;
use crate::pg::value::Value;
use crate::pg::xact;

/// `list_holds(user_id, skip, limit)`
pub fn list_holds(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let mut statement = Statement::new();
    let user = statement.bind(call.account(Argument(0, "user_id"))?);
    let page = Page::without_cursor(call, 1)?;
    let cut = page.cut(&mut statement);
    Ok(statement.answer_rows(
        &format!(
            "SELECT {} FROM credits.holds WHERE user_id = {user} AND expires_at > pg_catalog.statement_timestamp() \
             ORDER BY expires_at, source_id{cut}",
            *CREDIT_HOLD_NAMES
        ),
        call,
    ))
}

/// `credits.release_expired_holds`
#[pg_extern(volatile, parallel_unsafe)]
fn release_expired_holds(
    grace: default!(Option<Interval>, "'1 day'"),
    limit: default!(Option<i64>, "1000"),
) -> Result<i64, ErrorReport> {
    let grace = required("grace", grace)?;
    let now = statement_timestamp();
    let expired = that_long_before("grace", grace, now)?;
    if pg_sys::TimestampTz::from(expired) > pg_sys::TimestampTz::from(now) {
        return Err(LedgerError::NegativeInterval { name: "grace", value: grace.to_string() }.into());
    }
    let limit = limit.map(|limit| not_negative("limit", limit)).transpose()?;
    xact::refuse_if_read_only(c"release_expired_holds()");
    Relations::locked().ok_or(LedgerError::NotInstalled)?;
    let mut statement = Statement::of_caller();
    let expired = statement.bind(Value::timestamptz(expired));
    let limit = statement.bind_optional(pg_sys::INT8OID, limit.map(Value::bigint));
    // Asked of each row again when it is deleted: another session may have extended it meanwhile.
    let sql = format!(
        "WITH released AS ( \
           DELETE FROM credits.holds h \
           WHERE h.expires_at OPERATOR(pg_catalog.<) {expired} \
             AND h.source_id OPERATOR(pg_catalog.=) ANY (ARRAY( \
                   SELECT e.source_id FROM credits.holds e \
                   WHERE e.expires_at OPERATOR(pg_catalog.<) {expired}{} LIMIT {limit})) \
           RETURNING 1 \
         ) SELECT pg_catalog.count(*) FROM released",
        and_here("e.user_id")
    );
    Ok(statement.first_row(&sql, |row| row.value(1)).flatten().unwrap_or_default())
}
