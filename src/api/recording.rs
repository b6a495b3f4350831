//! Recording transactions.

use ledger::credits::{Amount, AmountError, Credits};
use ledger::numeric::DecodeError;
use ledger::transaction_type::TransactionType;
use pgrx::{PgSqlErrorCode, pg_sys};

use super::arguments::transaction_type;
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::catalog::Relations;
use crate::pg::privilege::{View, view};
use crate::pg::raised::{self, Raised};
use crate::pg::statement::Statement;
use crate::pg::tables::transactions::{self, CREDIT_TRANSACTION_NAMES};
use crate::pg::value::Value;
use crate::pg::{stamp, text, xact};

const USER_ID: Argument = Argument(0, "user_id");
const TRANSACTION_TYPE: Argument = Argument(1, "transaction_type");

/// The content of a transaction to record.
struct NewTransaction<'call> {
    /// Account.
    user_id: Value<'call>,
    /// One of the four types.
    transaction_type: Value<'call>,
    /// Checked amount, with the decimal places that the client wrote.
    amount: Value<'call>,
    /// Idempotency key.
    source_id: Value<'call>,
    /// Free text.
    description: Option<Value<'call>>,
    /// Batch of a usage row.
    fusillade_batch_id: Option<Value<'call>>,
    /// Causing API key.
    api_key_id: Option<Value<'call>>,
}

/// The outcome of inserting a transaction.
enum Inserted {
    /// The transaction is stored: its row.
    Recorded(Answer),
    /// Its `source_id` is taken.
    Taken,
    /// Its `source_id` does not fit into the index, and the transaction must be given up.
    TooLong,
    /// A BEFORE ROW trigger has left the row out.
    LeftOut,
}

/// The stored transaction that has a `source_id`.
struct Existing {
    /// The row.
    transaction: Answer,
    /// Whether user, type and amount are those asked for.
    is_same: bool,
    /// User, type and amount, for people.
    summary: String,
}

/// Most bytes of a `source_id` that its index holds for certain: a third of a page. What can be compressed may be longer.
const LONGEST_SOURCE_ID: usize = 2692;

/// `create_transaction(user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id)`
pub fn create_transaction(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let user_id = call.uuid(USER_ID)?;
    let type_name = call.required_content(TRANSACTION_TYPE)?;
    let known_type = transaction_type(TRANSACTION_TYPE.1, type_name)?;
    let (amount, credits) = call.required_numeric(Argument(2, "amount"))?;
    let source_id = call.required_content(Argument(3, "source_id"))?;
    let credits = exact_amount(credits)?;
    if text::is_blank(source_id.as_bytes()) {
        return Err(LedgerError::BlankSourceId { what: "argument source_id", value: source_id.to_string() });
    }
    let new = NewTransaction {
        user_id,
        transaction_type: Value::text(type_name),
        amount,
        source_id: Value::text(source_id),
        description: call.text(Argument(4, "description")),
        fusillade_batch_id: call.uuid_if_given(Argument(5, "fusillade_batch_id")),
        api_key_id: call.uuid_if_given(Argument(6, "api_key_id")),
    };
    if new.fusillade_batch_id.is_some() && known_type != TransactionType::Usage {
        return Err(LedgerError::BatchOnNonUsage(known_type));
    }
    let relations = Relations::lookup().ok_or(LedgerError::NotInstalled)?;
    // The server would notice, too, but not before it has taken a transaction id, which a standby has none of.
    xact::refuse_if_read_only(c"create_transaction()");
    let is_left_out = match insert(&new) {
        Inserted::TooLong => {
            return Err(LedgerError::SourceIdTooLong {
                bytes: source_id.as_bytes().len(),
                longest: LONGEST_SOURCE_ID,
            });
        }
        Inserted::Recorded(transaction) => return Ok(transaction),
        Inserted::Taken => false,
        Inserted::LeftOut => true,
    };
    match find(&new) {
        Some(existing) if existing.is_same => Ok(existing.transaction),
        // A trigger may also have given the row another source_id, which is taken.
        None if is_left_out || view(&relations) == View::Whole => {
            Err(LedgerError::LeftOut(source_id.to_string()))
        }
        existing => Err(LedgerError::SourceIdConflict {
            source_id: source_id.to_string(),
            asked: format!("{known_type} of {} for user {}", credits.as_decimal(), call.user_id(USER_ID)?),
            stored: existing.map(|existing| existing.summary),
        }),
    }
}

/// Inserts the transaction, unless its `source_id` is taken; waits for a transaction that is about to take it.
fn insert(new: &NewTransaction<'_>) -> Inserted {
    let mut insert = Statement::of_caller();
    let values = [
        insert.bind(new.user_id),
        insert.bind(new.transaction_type),
        insert.bind(new.amount),
        insert.bind(new.source_id),
        insert.bind_optional(pg_sys::TEXTOID, new.description),
        insert.bind_optional(pg_sys::UUIDOID, new.fusillade_batch_id),
        insert.bind_optional(pg_sys::UUIDOID, new.api_key_id),
    ];
    let sql = format!(
        "INSERT INTO credits.credits_transactions \
           (user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id) \
         VALUES ({}) ON CONFLICT (source_id) DO NOTHING RETURNING ROW({})::credits.credit_transaction",
        values.map(|value| value.to_string()).join(", "),
        *CREDIT_TRANSACTION_NAMES
    );
    let stamps = stamp::given();
    let is_too_long = |error: &Raised| {
        error.sqlstate() == PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED as i32
            && new.source_id.as_text().len() > LONGEST_SOURCE_ID
            // One that is longer than a page fails before its index is named.
            && error.constraint().is_none_or(|index| index.as_bytes() == transactions::SOURCE_ID_KEY.to_bytes())
    };
    match raised::unless(is_too_long, || insert.first_row(&sql, |row| row.answer(1))) {
        None => Inserted::TooLong,
        Some(Some(transaction)) => Inserted::Recorded(transaction),
        // A row is stamped behind the triggers that could leave it out, and before its keys are compared.
        Some(None) if stamp::given() == stamps => Inserted::LeftOut,
        Some(None) => Inserted::Taken,
    }
}

/// The stored transaction that has the `source_id` of this one; `None` if the caller may not see it.
fn find(new: &NewTransaction<'_>) -> Option<Existing> {
    let mut find = Statement::of_caller();
    let source_id = find.bind(new.source_id);
    let [user, kind, amount] = [new.user_id, new.transaction_type, new.amount].map(|value| find.bind(value));
    let sql = format!(
        "SELECT ROW({})::credits.credit_transaction, \
           user_id OPERATOR(pg_catalog.=) {user} AND transaction_type OPERATOR(pg_catalog.=) {kind} \
             AND amount OPERATOR(pg_catalog.=) {amount}, \
           pg_catalog.format('%s of %s for user %s', transaction_type, amount, user_id) \
         FROM credits.credits_transactions WHERE source_id OPERATOR(pg_catalog.=) {source_id}",
        *CREDIT_TRANSACTION_NAMES
    );
    find.first_row(&sql, |row| Existing {
        transaction: row.answer(1),
        is_same: row.value(2).unwrap_or_default(),
        summary: row.value(3).unwrap_or_default(),
    })
}

fn exact_amount(credits: Result<Credits, DecodeError>) -> Result<Amount, LedgerError> {
    let credits = credits.map_err(|error| match error {
        DecodeError::Value(error) => LedgerError::Amount { value: None, error },
        DecodeError::Malformed => LedgerError::Amount { value: None, error: AmountError::NotANumber },
    })?;
    Amount::try_from(credits).map_err(|error| LedgerError::Amount { value: Some(credits.to_string()), error })
}
