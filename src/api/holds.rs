//! Holds: credits that are reserved for usage to come.
//!
//! Each function runs its statements as the caller's, with the caller's privileges, triggers and policies. What a statement does not
//! tell is looked up by the engine: whether the ledger has a `source_id`, and whether another hold has come in place of one that was
//! deleted while the statement waited for it.

use ledger::credits::{Amount, Credits};
use ledger::id::{ApiKeyId, UserId};
use pgrx::Uuid;

use super::arguments::details;
use super::nodes::and_here;
use super::recording::{self, Existing, Given};
use crate::engine::claims;
use crate::engine::direct::{self, Captured};
use crate::engine::early_refusal::{self, Taking};
use crate::engine::holds;
use crate::error::LedgerError;
use crate::pg::answer::{Answer, RowType};
use crate::pg::call::{Argument, Call, Interval};
use crate::pg::catalog::Relations;
use crate::pg::fetch::Tid;
use crate::pg::numeric::Numeric;
use crate::pg::privilege::{self, View};
use crate::pg::statement::{Parameter, Statement};
use crate::pg::tables::holds::{ALL, CREDIT_HOLD_NAMES, HOLDS_KEY};
use crate::pg::tables::transactions::CREDIT_TRANSACTION_NAMES;
use crate::pg::text::Text;
use crate::pg::value::Value;
use crate::pg::xact;

/// The longest time that credits are held for, in microseconds: 30 days.
const LONGEST: i64 = 30 * 86_400_000_000;

/// How often a statement is run again that has missed a hold.
const ATTEMPTS: u8 = 10;

/// `create_hold(user_id, amount, source_id, expires_in, description, fusillade_batch_id, api_key_id, category, metadata)`
pub fn create_hold(call: &Call<'_>) -> Result<Answer, LedgerError> {
    const USER_ID: Argument = Argument(0, "user_id");
    let (user_id, user) = (call.uuid(USER_ID)?, *call.user_id(USER_ID)?);
    let (amount, credits) = call.required_numeric(Argument(1, "amount"))?;
    let source_id = call.required_content(Argument(2, "source_id"))?;
    let span = span(call.required_interval(Argument(3, "expires_in"))?)?;
    let credits = recording::exact_amount(credits)?.into();
    recording::require_source_id(source_id)?;
    let details = details(call, 4)?;
    let key = call.api_key(Argument(6, "api_key_id"));
    let returns = call.row_type();
    xact::refuse_if_read_only(c"create_hold()");
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    NewHold { user, user_id, credits, amount, source_id, span, key, details, returns }.make(&relations)
}

/// `capture_hold(source_id, amount)`
pub fn capture_hold(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let source_id = call.required_content(Argument(0, "source_id"))?;
    let amount = match call.numeric(Argument(1, "amount")) {
        Some((value, credits)) => Some((value, recording::exact_amount(credits)?)),
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
fn span(interval: Interval) -> Result<i64, LedgerError> {
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
        if !holds::exists_here(relations, source_id)?
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

/// A hold to make.
struct NewHold<'call> {
    user: UserId,
    user_id: Value<'call>,
    credits: Credits,
    /// As the client wrote it.
    amount: Value<'call>,
    source_id: Text,
    span: i64,
    /// The API key, which is among the details.
    key: Option<ApiKeyId>,
    details: [Given<'call>; 5],
    /// The type of the result.
    returns: RowType,
}

/// A hold that is there.
enum Held {
    /// Made now.
    Anew(New),
    /// Made before: this is a retry.
    Before(Answer),
}

/// A hold that was made.
struct New {
    hold: Answer,
    /// Where it is stored.
    tid: Tid,
    /// Of which account it is: a trigger may have changed that.
    user: UserId,
}

/// The stored hold that has a `source_id`.
struct Stored {
    hold: Answer,
    is_of_user: bool,
    is_of_amount: bool,
    is_open: bool,
    /// For people.
    summary: String,
}

impl NewHold<'_> {
    /// Makes the hold, which the commit then requires to be covered; returns the one that is there if this is a retry.
    fn make(&self, relations: &Relations) -> Result<Answer, LedgerError> {
        // Before anything is written, where nothing but this could refuse it.
        let looks_first = privilege::may_insert_and_return_any(relations.holds()?, &ALL);
        let refusal =
            if looks_first { self.refuse_early(relations, &self.user, Taking::ToCome).err() } else { None };
        // A retry is not refused, nor is a `source_id` that is taken: that has an error of its own.
        let refusal = match refusal {
            Some(refusal) if !self.is_taken(relations)? => return Err(refusal),
            refusal => refusal,
        };
        let New { hold, tid, user: held } = match self.insert(relations)? {
            Held::Before(hold) => return Ok(hold),
            Held::Anew(hold) => hold,
        };
        // After the row is there: if this has waited for a capture of an earlier hold, it sees what that has recorded.
        if holds::is_recorded(relations, self.source_id) {
            return Err(LedgerError::CapturedAlready(self.source_id.to_string()));
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        claims::guard_hold(held, (tid, xact::current_subtransaction()));
        if !looks_first || held != self.user {
            self.refuse_early(relations, &held, Taking::Written)?;
        }
        Ok(hold)
    }

    /// Refuses the hold for this account if what has committed does not cover it.
    fn refuse_early(&self, relations: &Relations, user: &UserId, taking: Taking) -> Result<(), LedgerError> {
        early_refusal::refuse_early(relations, user, self.credits, self.key, taking)
    }

    /// Whether a hold or a transaction has the `source_id`.
    fn is_taken(&self, relations: &Relations) -> Result<bool, LedgerError> {
        Ok(holds::exists(relations, self.source_id)? || holds::is_recorded(relations, self.source_id))
    }

    /// Makes the hold, unless it is there. One of the same account that has expired gives way.
    fn insert(&self, relations: &Relations) -> Result<Held, LedgerError> {
        for _ in 0..ATTEMPTS {
            let inserted =
                recording::unless_too_long(self.source_id, HOLDS_KEY, || self.try_insert(relations))
                    .ok_or_else(|| recording::too_long(self.source_id))?;
            if let Some(new) = inserted {
                return Ok(Held::Anew(new));
            }
            match self.find() {
                Some(stored) if stored.is_of_user && !stored.is_open => {
                    holds::give_way(relations, self.source_id, &self.user)?;
                }
                Some(stored) if stored.is_of_user && stored.is_of_amount => {
                    return Ok(Held::Before(stored.hold));
                }
                Some(stored) => return Err(self.conflict(Some(stored.summary))),
                None if privilege::view_of(relations.holds()?) == View::Filtered
                    && holds::exists(relations, self.source_id)? =>
                {
                    return Err(self.conflict(None));
                }
                // Deleted meanwhile, or left out by a trigger.
                None => {}
            }
        }
        Err(LedgerError::HoldLeftOut(self.source_id.to_string()))
    }

    fn try_insert(&self, relations: &Relations) -> Option<New> {
        let [description, batch, api_key, category, metadata] = self.details;
        let now = xact::now();
        let columns = [
            Given::new("source_id", Value::text(self.source_id)),
            Given::new("user_id", self.user_id),
            Given::new("amount", self.amount),
            description,
            batch,
            api_key,
            category,
            metadata,
            Given::new("created_at", Value::time(now)),
            Given::new("expires_at", Value::time(now.saturating_add(self.span))),
        ];
        if recording::fits(self.source_id)
            && let Some((hold, tid)) =
                direct::hold(relations, &recording::given_values(&columns), self.returns)
        {
            return Some(New { hold, tid, user: self.user });
        }
        let mut insert = Statement::of_caller();
        let (names, values) = (recording::columns(&columns), recording::parameters(&columns, &mut insert));
        insert.first_row(
            &format!(
                "INSERT INTO credits.holds ({names}) VALUES ({values}) ON CONFLICT (source_id) DO NOTHING \
                 RETURNING ROW({})::credits.credit_hold, ctid, user_id",
                *CREDIT_HOLD_NAMES
            ),
            |row| New { hold: row.answer(1), tid: row.value(2).unwrap_or_default(), user: row.user(3) },
        )
    }

    /// The stored hold with this `source_id`; `None` if the caller does not see one.
    fn find(&self) -> Option<Stored> {
        let mut find = Statement::of_caller();
        let [key, user, amount] =
            [Value::text(self.source_id), self.user_id, self.amount].map(|value| find.bind(value));
        find.first_row(
            &format!(
                "SELECT ROW({})::credits.credit_hold, user_id OPERATOR(pg_catalog.=) {user}, \
                   amount OPERATOR(pg_catalog.=) {amount}, expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp(), \
                   pg_catalog.format('%s for user %s until %s', amount, user_id, expires_at) \
                 FROM credits.holds WHERE source_id OPERATOR(pg_catalog.=) {key}",
                *CREDIT_HOLD_NAMES
            ),
            |row| Stored {
                hold: row.answer(1),
                is_of_user: row.value(2).unwrap_or_default(),
                is_of_amount: row.value(3).unwrap_or_default(),
                is_open: row.value(4).unwrap_or_default(),
                summary: row.value(5).unwrap_or_default(),
            },
        )
    }

    fn conflict(&self, stored: Option<String>) -> LedgerError {
        LedgerError::HoldConflict {
            source_id: self.source_id.to_string(),
            asked: format!("{} for user {}", self.credits, self.user),
            stored,
        }
    }
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
        None if user.is_none() && !holds::is_recorded(relations, source_id) => Ok(None),
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
