//! Capturing, releasing and extending holds. Making them is in [`new_hold`](super::new_hold).
//!
//! Each function runs its statements as the caller's, with the caller's privileges, triggers and policies. What a statement does not
//! tell is looked up by the engine: whether the ledger has a `source_id`, and whether another hold has come in place of one that was
//! deleted while the statement waited for it.

use ledger::credits::{Amount, Credits};
use ledger::id::{ApiKeyId, UserId};
use pgrx::Uuid;

use super::arguments::exact_amount;
use super::given::Given;
use super::nodes::and_here;
use super::recording::{self, Existing};
use crate::engine::claims;
use crate::engine::direct::{self, Captured};
use crate::engine::early_refusal::{self, Taking};
use crate::engine::{holds, source_ids};
use crate::error::LedgerError;
use crate::pg::answer::{Answer, RowType};
use crate::pg::call::{Argument, Call, Interval};
use crate::pg::catalog::Relations;
use crate::pg::fetch::Tid;
use crate::pg::numeric::Numeric;
use crate::pg::privilege::{self, View};
use crate::pg::statement::{Parameter, Statement};
use crate::pg::tables::holds::CREDIT_HOLD_NAMES;
use crate::pg::tables::transactions::CREDIT_TRANSACTION_NAMES;
use crate::pg::text::Text;
use crate::pg::value::Value;
use crate::pg::xact;

/// The longest time that credits are held for, in microseconds: 30 days.
const LONGEST: i64 = 30 * 86_400_000_000;

/// How often a statement is run again that has missed a hold.
pub(super) const ATTEMPTS: u8 = 10;

/// `capture_hold(source_id, amount)`
pub fn capture_hold(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let source_id = call.required_content(Argument(0, "source_id"))?;
    let amount = match call.numeric(Argument(1, "amount")) {
        Some((value, credits)) => Some((value, exact_amount(credits)?)),
        None => None,
    };
    xact::refuse_if_read_only(c"capture_hold()");
    let relations = Relations::locked_for_writing().ok_or(LedgerError::NotInstalled)?;
    until_met(&relations, source_id, || {
        match captured(&relations, source_id, amount.map(|(value, _)| value), call.row_type()) {
            Some(Captured { hold, user, recorded: Some((transaction, tid)) }) => {
                claims::note_capture(hold, user, (tid, xact::current_subtransaction()));
                Ok(Some(transaction))
            }
            // Deleted, but not recorded: the ledger has the source_id already.
            Some(Captured { user, .. }) => recorded_before(&relations, source_id, amount, Some(user)),
            None => recorded_before(&relations, source_id, amount, None),
        }
    })
}

/// `release_hold(source_id)`
pub fn release_hold(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let source_id = call.required_content(Argument(0, "source_id"))?;
    xact::refuse_if_read_only(c"release_hold()");
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    let released = until_met(&relations, source_id, || {
        let mut release = Statement::of_caller();
        let key = release.bind(Value::text(source_id));
        Ok(release.first_row(
            &format!(
                "DELETE FROM credits.holds WHERE source_id OPERATOR(pg_catalog.=) {key}{} RETURNING source_id",
                and_here("user_id")
            ),
            |_| (),
        ))
    });
    match released {
        Ok(()) => Ok(Answer::bool(true)),
        Err(LedgerError::NoHold(_)) => Ok(Answer::bool(false)),
        Err(error) => Err(error),
    }
}

/// `extend_hold(source_id, expires_in)`
pub fn extend_hold(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let source_id = call.required_content(Argument(0, "source_id"))?;
    let span = span(call.required_interval(Argument(1, "expires_in"))?)?;
    xact::refuse_if_read_only(c"extend_hold()");
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    let extended = until_met(&relations, source_id, || Ok(extended(source_id, span)))?;
    let now = xact::now();
    if claims::guard_extension((extended.tid, xact::current_subtransaction()), now) {
        return Ok(extended.hold);
    }
    // It had expired: it is held anew, from the moment on that its time is counted from.
    early_refusal::refuse_early(&relations, &extended.user, extended.amount, extended.key, Taking::Written)?;
    holds::make_anew(&relations, source_id, extended.from.min(now))?;
    let mut read = Statement::of_caller();
    let key = read.bind(Value::text(source_id));
    let hold = read.first_row(
        &format!(
            "SELECT ROW({})::credits.credit_hold FROM credits.holds WHERE source_id OPERATOR(pg_catalog.=) {key}",
            *CREDIT_HOLD_NAMES
        ),
        |row| row.answer(1),
    );
    Ok(hold.unwrap_or(extended.hold))
}

/// A span of time to hold credits for, in microseconds.
pub(super) fn span(interval: Interval) -> Result<i64, LedgerError> {
    i64::try_from(interval.microseconds)
        .ok()
        .filter(|&span| 0 < span && span <= LONGEST)
        .ok_or_else(|| LedgerError::ExpiresIn(interval.shown()))
}

/// Runs `attempt` until it has met the hold with this `source_id`. A hold may have been deleted while the statement waited for it, and
/// another come in its place, which a further attempt sees, unless the transaction's snapshot is older. P0002 if there is none.
fn until_met<T>(
    relations: &Relations,
    source_id: Text,
    attempt: impl Fn() -> Result<Option<T>, LedgerError>,
) -> Result<T, LedgerError> {
    for _ in 0..ATTEMPTS {
        if let Some(met) = attempt()? {
            return Ok(met);
        }
        if !source_ids::has_hold_here(relations, source_id)?
            || privilege::view_of(relations.holds()?) == View::Filtered
        {
            return Err(LedgerError::NoHold(source_id.to_string()));
        }
        if xact::has_one_snapshot() {
            return Err(LedgerError::HoldOfLater(source_id.to_string()));
        }
    }
    Err(LedgerError::HoldLeftOut(source_id.to_string()))
}

/// A hold that was extended.
struct Extended {
    hold: Answer,
    /// Where its new version is stored.
    tid: Tid,
    user: UserId,
    amount: Credits,
    key: Option<ApiKeyId>,
    /// When its time began to count.
    from: i64,
}

/// Has the hold expire after this span of time from now on. `None` if there is no hold to be seen.
fn extended(source_id: Text, span: i64) -> Option<Extended> {
    let mut extend = Statement::of_caller();
    let (key, span) = (extend.bind(Value::text(source_id)), extend.bind(Value::interval(span)));
    extend.first_row(
        &format!(
            "UPDATE credits.holds SET expires_at = pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) {span} \
             WHERE source_id OPERATOR(pg_catalog.=) {key}{} \
             RETURNING ROW({})::credits.credit_hold, ctid, user_id, amount, api_key_id, expires_at OPERATOR(pg_catalog.-) {span}",
            and_here("user_id"),
            *CREDIT_HOLD_NAMES
        ),
        |row| Extended {
            hold: row.answer(1),
            tid: row.value(2).unwrap_or_default(),
            user: row.user(3),
            amount: row.value(4).map_or(Credits::ZERO, |Numeric(amount)| amount),
            key: row.value(5).map(|key: Uuid| ApiKeyId::from_bytes(*key.as_bytes())),
            from: row.value(6).unwrap_or(i64::MAX),
        },
    )
}

/// Deletes the hold and records usage of what it held, or of this amount. `None` if there is no hold to be seen.
fn captured(
    relations: &Relations,
    source_id: Text,
    amount: Option<Value<'_>>,
    returns: RowType,
) -> Option<Captured> {
    let captured = direct::capture(relations, source_id, amount, returns);
    if captured.is_some() {
        return captured;
    }
    let mut capture = Statement::of_caller();
    let key = capture.bind(Value::text(source_id));
    let amount: Parameter = capture.bind_optional(pgrx::pg_sys::NUMERICOID, amount);
    capture.first_row(
        &format!(
            "WITH hold AS (DELETE FROM credits.holds WHERE source_id OPERATOR(pg_catalog.=) {key}{} RETURNING ctid AS tid, xmin AS stored_by, *), \
             recorded AS (INSERT INTO credits.credits_transactions \
               (user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id, category, metadata) \
               SELECT h.user_id, 'usage', coalesce({amount}, h.amount), h.source_id, h.description, h.fusillade_batch_id, \
                 h.api_key_id, h.category, h.metadata FROM hold h \
               ON CONFLICT (source_id) DO NOTHING RETURNING ROW({})::credits.credit_transaction AS transaction, ctid AS tid, user_id) \
             SELECT h.tid, h.stored_by, coalesce(r.user_id, h.user_id), r.transaction, r.tid FROM hold h LEFT JOIN recorded r ON true",
            and_here("user_id"),
            *CREDIT_TRANSACTION_NAMES
        ),
        |row| {
            let tid: Option<Tid> = row.value(5);
            Captured {
                hold: (row.value(1).unwrap_or_default(), row.value(2).unwrap_or_default()),
                user: row.user(3),
                recorded: tid.map(|tid| (row.answer(4), tid)),
            }
        },
    )
}

/// The usage that the ledger has with this `source_id`, if it is of this account and amount; `None` if the ledger has none.
fn recorded_before(
    relations: &Relations,
    source_id: Text,
    amount: Option<(Value<'_>, Amount)>,
    user: Option<UserId>,
) -> Result<Option<Answer>, LedgerError> {
    let mut same = vec![Given::new("transaction_type", Value::text_of(b"usage"))];
    same.extend(amount.map(|(value, _)| Given::new("amount", value)));
    same.extend(user.as_ref().map(|user| Given::new("user_id", Value::uuid(user.as_bytes()))));
    match recording::find(source_id, &same) {
        Some(Existing { transaction, is_same: true, .. }) => Ok(Some(transaction)),
        None if user.is_none() && !source_ids::has_transaction(relations, source_id) => Ok(None),
        None if user.is_none() && xact::has_one_snapshot() && privilege::view(relations) == View::Whole => {
            Err(LedgerError::HoldOfLater(source_id.to_string()))
        }
        None if user.is_some() && privilege::view(relations) == View::Whole => {
            Err(LedgerError::LeftOut(source_id.to_string()))
        }
        existing => Err(LedgerError::SourceIdConflict {
            source_id: source_id.to_string(),
            asked: match amount {
                Some((_, amount)) => format!("usage of {}", amount.as_decimal()),
                None => "usage of what is held".to_owned(),
            },
            stored: existing.map(|existing| existing.summary),
        }),
    }
}
