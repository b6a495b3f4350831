//! Functions for operators: statistics of settlements, idle checkpoints, the sequence, and redaction.

use ledger::coverage::Coverage;
use ledger::id::UserId;
use ledger::settlement::Request;
use ledger::statistics::Event;
use pgrx::Uuid;
use pgrx::datum::datetime_support::now;
use pgrx::datum::{Interval, TimestampWithTimeZone};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::arguments::{required, that_long_before};
use super::filters::not_negative;
use super::nodes::and_here;
use crate::engine::{days_fill, noted, redaction, statistics};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::snapshot::Snapshot;
use crate::pg::statement::Statement;
use crate::pg::value::Value;
use crate::pg::{stamp, xact};

/// `credits.settlement_statistics`
#[pg_extern(volatile, parallel_unsafe)]
fn settlement_statistics() -> TableIterator<
    'static,
    (
        name!(exclusive_sections, i64),
        name!(crossings_up, i64),
        name!(crossings_down, i64),
        name!(refreshes, i64),
        name!(refreshes_skipped, i64),
        name!(refreshes_failed, i64),
    ),
> {
    let counts = statistics::read().map(|counts| {
        let of = |event| i64::try_from(counts.of(event)).unwrap_or(i64::MAX);
        (
            of(Event::ExclusiveSection),
            of(Event::CrossingUp),
            of(Event::CrossingDown),
            of(Event::Refresh),
            of(Event::RefreshSkipped),
            of(Event::RefreshFailed),
        )
    });
    TableIterator::new(counts)
}

/// `credits.advance_seq`
#[pg_extern(volatile, parallel_unsafe)]
fn advance_seq(past: Option<i64>) -> Result<(), ErrorReport> {
    let past = required("past", past)?;
    let relations = Relations::lookup().ok_or(LedgerError::NotInstalled)?;
    xact::refuse_if_read_only(c"advance_seq()");
    stamp::advance(&relations, past)?;
    Ok(())
}

/// `credits.refresh_idle_checkpoints`
#[pg_extern(volatile, parallel_unsafe)]
fn refresh_idle_checkpoints(
    idle: default!(Option<Interval>, "'1 hour'"),
    limit: default!(Option<i64>, "1000"),
) -> Result<i64, ErrorReport> {
    let last_written = that_long_before("idle", required("idle", idle)?, now())?;
    let limit = limit.map(|limit| not_negative("limit", limit)).transpose()?;
    xact::refuse_if_read_only(c"refresh_idle_checkpoints()");
    Relations::locked().ok_or(LedgerError::NotInstalled)?;
    let users = users_with_idle_checkpoints(last_written, limit);
    noted::request(&users, Request::RefreshIfFree)?;
    Ok(i64::try_from(users.len()).unwrap_or(i64::MAX))
}

/// Users whose checkpoint was last written before this and could cover more than it does.
fn users_with_idle_checkpoints(last_written: TimestampWithTimeZone, limit: Option<i64>) -> Vec<UserId> {
    let mut idle = Statement::new();
    let last_written = idle.bind(Value::timestamptz(last_written));
    let limit = idle.bind_optional(pg_sys::INT8OID, limit.map(Value::bigint));
    let watermark = Coverage::up_to(&Snapshot::active().open_transactions()).watermark();
    let watermark = idle.bind(Value::xid8(watermark));
    // A checkpoint could cover more if a straggler has ended, or a row lies below what a watermark can be now.
    let sql = format!(
        "WITH now AS MATERIALIZED (SELECT pg_catalog.pg_current_snapshot() AS snapshot) \
         SELECT pg_catalog.array_agg(c.user_id) FROM ( \
           SELECT c.user_id FROM credits.checkpoints c \
           WHERE c.updated_at < {last_written}{} \
             AND (EXISTS (SELECT FROM pg_catalog.unnest(c.stragglers) AS s (xact_id) \
                          WHERE pg_catalog.pg_visible_in_snapshot(s.xact_id, (SELECT n.snapshot FROM now n))) \
                  OR EXISTS (SELECT FROM credits.credits_transactions t WHERE t.user_id = c.user_id \
                               AND t.xact_id >= c.watermark AND t.xact_id < {watermark})) \
           LIMIT {limit} \
         ) c",
        and_here("c.user_id")
    );
    let users = idle.first_row(&sql, |row| row.value::<Vec<Uuid>>(1)).flatten().unwrap_or_default();
    users.iter().map(|user| UserId::from_bytes(*user.as_bytes())).collect()
}

/// `credits.add_up_days`
#[pg_extern(volatile, parallel_unsafe)]
fn add_up_days(user_ids: Option<Vec<Option<Uuid>>>) -> Result<i64, ErrorReport> {
    let users = required("user_ids", user_ids)?;
    let users: Option<Vec<UserId>> =
        users.iter().map(|user| user.map(|user| UserId::from_bytes(*user.as_bytes()))).collect();
    let users = users.ok_or(LedgerError::NullElement("user_ids"))?;
    xact::refuse_if_read_only(c"add_up_days()");
    if xact::is_in_block() {
        return Err(LedgerError::InTransactionBlock("add_up_days()").into());
    }
    Ok(days_fill::fill(&users)?)
}

/// `credits.redact_account`
#[pg_extern(volatile, parallel_unsafe)]
fn redact_account(user_id: Option<Uuid>) -> Result<i64, ErrorReport> {
    let user = UserId::from_bytes(*required("user_id", user_id)?.as_bytes());
    xact::refuse_if_read_only(c"redact_account()");
    Ok(redaction::redact(&user)?)
}
