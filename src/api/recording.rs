//! Recording transactions.

use ledger::id::UserId;
use pgrx::pg_sys;

use super::arguments::{
    exact_amount, require_source_id, source_id_fits, transaction_type, unless_source_id_too_long,
};
use super::given::{self, Given};
use crate::engine::direct;
use crate::error::LedgerError;
use crate::pg::answer::{Answer, RowType};
use crate::pg::call::{Argument, Call};
use crate::pg::catalog::Relations;
use crate::pg::fetch::Tid;
use crate::pg::privilege::{View, view};
use crate::pg::statement::Statement;
use crate::pg::tables::transactions::{self, CREDIT_TRANSACTION_NAMES};
use crate::pg::text::Text;
use crate::pg::value::Value;
use crate::pg::{stamp, xact};

const USER_ID: Argument = Argument(0, "user_id");
const TRANSACTION_TYPE: Argument = Argument(1, "transaction_type");

/// A transaction to record.
pub(super) struct Recording<'a, 'call> {
    /// The idempotency key, which is among the columns.
    pub(super) source_id: Text,
    /// The columns that the row is given.
    pub(super) columns: &'a [Given<'call>],
    /// What a stored transaction with this `source_id` must have for this one to be a retry.
    pub(super) same: &'a [Given<'call>],
    /// The type of the result, where the row has passed the checks of the ledger and may be written without a statement.
    pub(super) directly: Option<RowType>,
}

/// A transaction that is stored.
pub(super) struct Recorded {
    /// Its row.
    pub(super) transaction: Answer,
    /// Where that is stored; `None` if it was stored before.
    pub(super) tid: Option<Tid>,
    /// Of which account it is, if a trigger may have changed that.
    pub(super) user: Option<UserId>,
}

/// What a statement returns of a row that it inserts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Returned {
    /// The columns of `credit_transaction`.
    Row,
    /// Where it is stored and of which account it is, too. That takes SELECT on the whole ledger.
    RowAndPlace,
}

/// The outcome of inserting a transaction.
enum Inserted {
    /// The transaction is stored.
    Recorded(Recorded),
    /// Its `source_id` is taken.
    Taken,
    /// A BEFORE ROW trigger has left the row out.
    LeftOut,
}

/// The stored transaction that has a `source_id`.
pub(super) struct Existing {
    /// The row.
    pub(super) transaction: Answer,
    /// Whether it is the one asked for.
    pub(super) is_same: bool,
    /// User, type and amount, for people.
    pub(super) summary: String,
}

/// `create_transaction(user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id)`
pub fn create_transaction(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let user_id = call.required_uuid(USER_ID)?;
    let type_name = call.required_content(TRANSACTION_TYPE)?;
    let known_type = transaction_type(TRANSACTION_TYPE.name(), type_name)?;
    let (amount, credits) = call.required_numeric(Argument(2, "amount"))?;
    let source_id = call.required_content(Argument(3, "source_id"))?;
    let credits = exact_amount(credits)?;
    require_source_id(source_id)?;
    let batch = call.uuid(Argument(5, "fusillade_batch_id"));
    if batch.is_some() && !known_type.may_have_batch() {
        return Err(LedgerError::BatchOnNonUsage(known_type));
    }
    let relations = Relations::lookup().ok_or(LedgerError::NotInstalled)?;
    // The server would notice, too, but not before it has taken a transaction id, which a standby has none of.
    xact::refuse_if_read_only(c"create_transaction()");
    let columns = [
        Given::new("user_id", user_id),
        Given::new("transaction_type", Value::text(type_name)),
        Given::new("amount", amount),
        Given::new("source_id", Value::text(source_id)),
        Given::optional("description", pg_sys::TEXTOID, call.text(Argument(4, "description"))),
        Given::optional("fusillade_batch_id", pg_sys::UUIDOID, batch),
        Given::optional("api_key_id", pg_sys::UUIDOID, call.uuid(Argument(6, "api_key_id"))),
    ];
    let user_id = call.user_id(USER_ID)?;
    let asked = || format!("{known_type} of {} for user {user_id}", credits.as_decimal());
    let recording =
        Recording { source_id, columns: &columns, same: &columns[..3], directly: Some(call.row_type()) };
    record(&relations, &recording, asked)
}

/// Records a transaction, or finds the one that is stored with its `source_id` if it is the same. `asked` says what was to be
/// recorded, for people.
pub(super) fn record(
    relations: &Relations,
    recording: &Recording<'_, '_>,
    asked: impl FnOnce() -> String,
) -> Result<Answer, LedgerError> {
    record_returning(relations, recording, Returned::Row, asked).map(|recorded| recorded.transaction)
}

/// Does what [`record`] does, and says where a new row is stored and of which account it is, which a trigger may have changed. That takes
/// SELECT on the whole ledger.
pub(super) fn record_and_locate(
    relations: &Relations,
    recording: &Recording<'_, '_>,
    asked: impl FnOnce() -> String,
) -> Result<Recorded, LedgerError> {
    record_returning(relations, recording, Returned::RowAndPlace, asked)
}

fn record_returning(
    relations: &Relations,
    recording: &Recording<'_, '_>,
    returned: Returned,
    asked: impl FnOnce() -> String,
) -> Result<Recorded, LedgerError> {
    let source_id = recording.source_id;
    let is_left_out = match insert(relations, recording, returned)? {
        Inserted::Recorded(recorded) => return Ok(recorded),
        Inserted::Taken => false,
        Inserted::LeftOut => true,
    };
    match find(source_id, recording.same) {
        Some(existing) if existing.is_same => {
            Ok(Recorded { transaction: existing.transaction, tid: None, user: None })
        }
        // A trigger may also have given the row another source_id, which is taken.
        None if is_left_out || view(relations) == View::Whole => {
            Err(LedgerError::LeftOut(source_id.to_string()))
        }
        existing => Err(LedgerError::SourceIdConflict {
            source_id: source_id.to_string(),
            asked: asked(),
            stored: existing.map(|existing| existing.summary),
        }),
    }
}

/// Inserts the transaction, unless its `source_id` is taken; waits for a transaction that is about to take it.
fn insert(
    relations: &Relations,
    recording: &Recording<'_, '_>,
    returned: Returned,
) -> Result<Inserted, LedgerError> {
    if let Some(returns) = recording.directly
        && source_id_fits(recording.source_id)
        && let Some(recorded) = direct::record(relations, &given::values(recording.columns), returns)
    {
        return Ok(match recorded {
            direct::Recorded::Written((transaction, tid)) => {
                Inserted::Recorded(Recorded { transaction, tid: Some(tid), user: None })
            }
            direct::Recorded::Taken => Inserted::Taken,
        });
    }
    let locates = returned == Returned::RowAndPlace;
    let mut insert = Statement::of_caller();
    let (names, values) =
        (given::names(recording.columns), given::parameters(recording.columns, &mut insert));
    let sql = format!(
        "INSERT INTO credits.credits_transactions ({names}) \
         VALUES ({values}) ON CONFLICT (source_id) DO NOTHING RETURNING ROW({})::credits.credit_transaction{}",
        *CREDIT_TRANSACTION_NAMES,
        if locates { ", ctid, user_id" } else { "" }
    );
    let stamps = stamp::given();
    let row = unless_source_id_too_long(recording.source_id, transactions::SOURCE_ID_KEY, || {
        insert.first_row(&sql, |row| Recorded {
            transaction: row.answer(1),
            tid: locates.then(|| row.value(2)).flatten(),
            user: locates.then(|| row.user(3)),
        })
    })?;
    Ok(match row {
        Some(recorded) => Inserted::Recorded(recorded),
        // A row is stamped behind the triggers that could leave it out, and before its keys are compared.
        None if stamp::given() == stamps => Inserted::LeftOut,
        None => Inserted::Taken,
    })
}

/// The stored transaction that has this `source_id`, and whether it has these values; `None` if the caller may not see it.
pub(super) fn find<'call>(source_id: Text, same: &[Given<'call>]) -> Option<Existing> {
    let mut find = Statement::of_caller();
    let source_id = find.bind(Value::text(source_id));
    let sql = format!(
        "SELECT ROW({})::credits.credit_transaction, {}, \
           pg_catalog.format('%s of %s for user %s', transaction_type, amount, user_id) \
         FROM credits.credits_transactions WHERE source_id OPERATOR(pg_catalog.=) {source_id}",
        *CREDIT_TRANSACTION_NAMES,
        given::equals(same, &mut find)
    );
    find.first_row(&sql, |row| Existing {
        transaction: row.answer(1),
        is_same: row.value(2).unwrap_or_default(),
        summary: row.value(3).unwrap_or_default(),
    })
}
