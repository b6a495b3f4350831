//! Queries that run with the caller's privileges: recording a transaction, sums where row-level security filters, and which
//! checkpoints have fallen behind.

use ledger::coverage::Coverage;
use ledger::credits::Credits;
use ledger::id::UserId;
use ledger::transaction_type::effect_sql;
use pgrx::Uuid;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::{PgSqlErrorCode, pg_sys};

use super::call::{Answer, Value};
use super::numeric::Numeric;
use super::raised::{self, Raised};
use super::snapshot::Snapshot;
use super::stamp;
use super::statement::Statement;
use crate::engine::balance::Balance;

/// The content of a transaction to record.
pub struct NewTransaction<'call> {
    /// Account.
    pub user_id: Value<'call>,
    /// One of the four types.
    pub transaction_type: Value<'call>,
    /// Checked amount, with the decimal places that the client wrote.
    pub amount: Value<'call>,
    /// Idempotency key.
    pub source_id: Value<'call>,
    /// Free text.
    pub description: Option<Value<'call>>,
    /// Batch of a usage row.
    pub fusillade_batch_id: Option<Value<'call>>,
    /// Causing API key.
    pub api_key_id: Option<Value<'call>>,
}

/// What has become of a transaction to record.
pub enum Inserted {
    /// It is there: its row.
    Recorded(Answer),
    /// Its `source_id` is taken.
    Taken,
    /// Its `source_id` does not fit into the index, and the transaction must be given up.
    TooLong,
    /// A trigger that comes before the row has left it out.
    LeftOut,
}

/// The stored transaction that has a `source_id`.
pub struct Existing {
    /// The row.
    pub transaction: Answer,
    /// Whether user, type and amount are those asked for.
    pub is_same: bool,
    /// User, type and amount, for people.
    pub summary: String,
}

/// Most bytes of a `source_id` that its index holds for certain: a third of a page. What can be compressed may be longer.
pub const LONGEST_SOURCE_ID: usize = 2692;

/// Columns of a stored row in the order of `credits.credit_transaction`.
const AS_CREDIT_TRANSACTION: &str = "ROW(id, user_id, transaction_type, amount, source_id, description, created_at, seq, \
     fusillade_batch_id, api_key_id)::credits.credit_transaction";

/// Inserts the transaction, unless its `source_id` is taken; waits for a transaction that is about to take it.
pub fn insert(new: &NewTransaction<'_>) -> Inserted {
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
         VALUES ({}) ON CONFLICT (source_id) DO NOTHING RETURNING {AS_CREDIT_TRANSACTION}",
        values.map(|value| value.to_string()).join(", ")
    );
    let stamps = stamp::given();
    let is_too_long = |error: &Raised| {
        error.sqlstate() == PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED as i32
            && new.source_id.as_text().len() > LONGEST_SOURCE_ID
            // One that is longer than a page fails before its index is named.
            && error.constraint().is_none_or(|index| index == "credits_transactions_source_id_key")
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
pub fn find(new: &NewTransaction<'_>) -> Option<Existing> {
    let mut find = Statement::of_caller();
    let source_id = find.bind(new.source_id);
    let [user, kind, amount] = [new.user_id, new.transaction_type, new.amount].map(|value| find.bind(value));
    let sql = format!(
        "SELECT {AS_CREDIT_TRANSACTION}, \
           user_id OPERATOR(pg_catalog.=) {user} AND transaction_type OPERATOR(pg_catalog.=) {kind} \
             AND amount OPERATOR(pg_catalog.=) {amount}, \
           pg_catalog.format('%s of %s for user %s', transaction_type, amount, user_id) \
         FROM credits.credits_transactions WHERE source_id OPERATOR(pg_catalog.=) {source_id}"
    );
    find.first_row(&sql, |row| Existing {
        transaction: row.answer(1),
        is_same: row.value(2).unwrap_or_default(),
        summary: row.value(3).unwrap_or_default(),
    })
}

/// The balance of the rows that row-level security shows to the caller. Costs a query over all of them.
pub fn visible_balance(user: &UserId) -> Balance {
    let mut sums = Statement::new();
    let user = sums.bind(Value::uuid(user.as_bytes()));
    let (sum, latest_seq) = sums.two_values::<Numeric, i64>(&format!(
        "SELECT pg_catalog.sum({}), pg_catalog.max(seq) FROM credits.credits_transactions WHERE user_id = {user}",
        effect_sql("transaction_type")
    ));
    Balance { balance: sum.map_or(Credits::ZERO, |Numeric(sum)| sum), latest_seq }
}

/// Users whose checkpoint was last written before this and could cover more than it does.
pub fn users_with_idle_checkpoints(last_written: TimestampWithTimeZone, limit: Option<i64>) -> Vec<UserId> {
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
           WHERE c.updated_at < {last_written} \
             AND (EXISTS (SELECT FROM pg_catalog.unnest(c.stragglers) AS s (xact_id) \
                          WHERE pg_catalog.pg_visible_in_snapshot(s.xact_id, (SELECT n.snapshot FROM now n))) \
                  OR EXISTS (SELECT FROM credits.credits_transactions t WHERE t.user_id = c.user_id \
                               AND t.xact_id >= c.watermark AND t.xact_id < {watermark})) \
           LIMIT {limit} \
         ) c"
    );
    let users = idle.first_row(&sql, |row| row.value::<Vec<Uuid>>(1)).flatten().unwrap_or_default();
    users.iter().map(|user| UserId::from_bytes(*user.as_bytes())).collect()
}
