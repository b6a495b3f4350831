//! Making holds.

use ledger::credits::Credits;
use ledger::id::{ApiKeyId, UserId};

use super::arguments::{details, exact_amount, require_source_id, unless_source_id_too_long};
use super::given::{self, Given};
use super::holds::{ATTEMPTS, span};
use crate::engine::early_refusal::{self, Taking};
use crate::engine::{claims, direct, holds, source_ids};
use crate::error::LedgerError;
use crate::pg::answer::{Answer, RowType};
use crate::pg::call::{Argument, Call};
use crate::pg::catalog::Relations;
use crate::pg::fetch::Tid;
use crate::pg::privilege::{self, View};
use crate::pg::statement::Statement;
use crate::pg::tables::holds::{ALL, CREDIT_HOLD_NAMES, HOLDS_KEY};
use crate::pg::text::Text;
use crate::pg::value::Value;
use crate::pg::xact;

/// `create_hold(user_id, amount, source_id, expires_in, description, fusillade_batch_id, api_key_id, category, metadata)`
pub fn create_hold(call: &Call<'_>) -> Result<Answer, LedgerError> {
    const USER_ID: Argument = Argument(0, "user_id");
    let (user_id, user) = (call.required_uuid(USER_ID)?, *call.user_id(USER_ID)?);
    let (amount, credits) = call.required_numeric(Argument(1, "amount"))?;
    let source_id = call.required_content(Argument(2, "source_id"))?;
    let span = span(call.required_interval(Argument(3, "expires_in"))?)?;
    let credits = exact_amount(credits)?.into();
    require_source_id(source_id)?;
    let details = details(call, 4)?;
    let key = call.api_key(Argument(6, "api_key_id"));
    let returns = call.row_type();
    xact::refuse_if_read_only(c"create_hold()");
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    NewHold { user, user_id, credits, amount, source_id, span, key, details, returns }.make(&relations)
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
        // Before anything is written, unless a privilege or a policy might refuse the row: that error comes first.
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
        if source_ids::has_transaction(relations, self.source_id) {
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
        Ok(source_ids::has_hold(relations, self.source_id)?
            || source_ids::has_transaction(relations, self.source_id))
    }

    /// Makes the hold, unless it is there. One of the same account that has expired gives way.
    fn insert(&self, relations: &Relations) -> Result<Held, LedgerError> {
        for _ in 0..ATTEMPTS {
            let inserted =
                unless_source_id_too_long(self.source_id, HOLDS_KEY, || self.try_insert(relations))?;
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
                    && source_ids::has_hold(relations, self.source_id)? =>
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
        if let Some((hold, tid)) = direct::hold(relations, &given::values(&columns), self.returns) {
            return Some(New { hold, tid, user: self.user });
        }
        let mut insert = Statement::of_caller();
        let (names, values) = (given::names(&columns), given::parameters(&columns, &mut insert));
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
