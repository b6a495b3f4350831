//! Queries that run with the caller's privileges: recording a transaction, sums where row-level security filters, and which
//! checkpoints have fallen behind. Sums must not take a transaction id, as the others do before they run, so they are
//! [`Statement`]s.

use std::cell::OnceCell;

use ledger::coverage::MAX_STRAGGLERS;
use ledger::credits::Credits;
use pgrx::Uuid;
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone};
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiTupleTable};

use super::call::Value;
use super::numeric::{Numeric, NumericArgument};
use super::search_path::SearchPath;
use super::statement::Statement;
use super::text::Text;
use crate::engine::balance::Balance;

/// A value of type `credits.credit_transaction`.
pub type CreditTransaction = PgHeapTuple<'static, AllocatedByRust>;

/// The content of a transaction to record.
#[derive(Debug)]
pub struct NewTransaction {
    /// Account.
    pub user_id: Uuid,
    /// One of the four types.
    pub transaction_type: Text,
    /// Checked amount, with the decimal places that the client wrote.
    pub amount: NumericArgument,
    /// Idempotency key.
    pub source_id: Text,
    /// Free text.
    pub description: Option<Text>,
    /// Batch of a usage row.
    pub fusillade_batch_id: Option<Uuid>,
    /// Causing API key.
    pub api_key_id: Option<Uuid>,
}

/// The stored transaction that has a `source_id`.
pub struct Existing {
    /// The row.
    pub transaction: CreditTransaction,
    /// Whether user, type and amount are those asked for.
    pub is_same: bool,
    /// User, type and amount, for people.
    pub summary: String,
}

/// Columns of a stored row in the order of `credits.credit_transaction`.
macro_rules! as_credit_transaction {
    () => {
        "ROW(id, user_id, transaction_type, amount, source_id, description, created_at, seq, fusillade_batch_id, \
         api_key_id)::credits.credit_transaction"
    };
}

thread_local! {
    static INSERT: Plan = const { Plan::new(concat!(
        "INSERT INTO credits.credits_transactions \
         (user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (source_id) DO NOTHING RETURNING ",
        as_credit_transaction!()
    ), &[
        pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::NUMERICOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::UUIDOID,
        pg_sys::UUIDOID,
    ]) };
    static FIND: Plan = const { Plan::new(concat!(
        "SELECT ", as_credit_transaction!(),
        ", user_id = $2 AND transaction_type = $3 AND amount = $4, \
           pg_catalog.format('%s of %s for user %s', transaction_type, amount, user_id) \
         FROM credits.credits_transactions WHERE source_id = $1"
    ), &[pg_sys::TEXTOID, pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::NUMERICOID]) };
    // A checkpoint could cover more if a straggler has ended, or a row lies below the first open transaction that no
    // watermark passes by: the one after as many as may be listed.
    static IDLE_CHECKPOINTS: Plan = const { Plan::new(
        "WITH open AS MATERIALIZED ( \
           SELECT coalesce(pg_catalog.array_agg(x ORDER BY x), '{}') AS ids \
           FROM pg_catalog.pg_snapshot_xip(pg_catalog.pg_current_snapshot()) x \
         ), reach AS MATERIALIZED ( \
           SELECT coalesce(o.ids[$3], pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())) AS xact_id FROM open o \
         ) \
         SELECT pg_catalog.array_agg(c.user_id) FROM ( \
           SELECT c.user_id FROM credits.checkpoints c \
           WHERE c.updated_at < $1 \
             AND (NOT c.stragglers <@ (SELECT o.ids FROM open o) \
                  OR EXISTS (SELECT FROM credits.credits_transactions t WHERE t.user_id = c.user_id \
                               AND t.xact_id >= c.watermark AND t.xact_id < (SELECT r.xact_id FROM reach r))) \
           LIMIT $2 \
         ) c",
        &[pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID, pg_sys::INT4OID],
    ) };
}

/// Inserts the transaction, unless its `source_id` is taken; waits for a transaction that is about to take it.
pub fn insert(new: &NewTransaction) -> Option<CreditTransaction> {
    let arguments = [
        new.user_id.into(),
        new.transaction_type.into(),
        new.amount.into(),
        new.source_id.into(),
        new.description.into(),
        new.fusillade_batch_id.into(),
        new.api_key_id.into(),
    ];
    INSERT.with(|plan| plan.first_row(&arguments, |row| row.get_one())).flatten()
}

/// The stored transaction that has the `source_id` of this one; `None` if the caller may not see it.
pub fn find(new: &NewTransaction) -> Option<Existing> {
    let arguments =
        [new.source_id.into(), new.user_id.into(), new.transaction_type.into(), new.amount.into()];
    let row = FIND.with(|plan| plan.first_row(&arguments, |row| row.get_three()));
    match row {
        Some((Some(transaction), Some(is_same), Some(summary))) => {
            Some(Existing { transaction, is_same, summary })
        }
        _ => None,
    }
}

/// The balance of the rows that row-level security shows to the caller. Costs a query over all of them.
pub fn visible_balance(user: &[u8; 16]) -> Balance {
    let mut sums = Statement::new();
    let user = sums.bind(Value::uuid(user));
    let (sum, latest_seq) = sums.two_values::<Numeric, i64>(&format!(
        "SELECT pg_catalog.sum(CASE WHEN transaction_type IN ('purchase', 'admin_grant') THEN amount ELSE -amount END), \
           pg_catalog.max(seq) FROM credits.credits_transactions WHERE user_id = {user}"
    ));
    Balance { balance: sum.map_or(Credits::ZERO, |Numeric(sum)| sum), latest_seq }
}

/// Users whose checkpoint was last written before this and could cover more than it does.
pub fn users_with_idle_checkpoints(last_written: TimestampWithTimeZone, limit: Option<i64>) -> Vec<Uuid> {
    let first_not_passed = i32::try_from(MAX_STRAGGLERS + 1).unwrap_or(i32::MAX);
    let arguments = [last_written.into(), limit.into(), first_not_passed.into()];
    let users = IDLE_CHECKPOINTS.with(|plan| plan.first_row(&arguments, |row| row.get_one()));
    users.flatten().unwrap_or_default()
}

/// A statement prepared at its first use and kept for the session; the server plans it anew when a table changes.
struct Plan {
    sql: &'static str,
    arguments: &'static [pg_sys::Oid],
    prepared: OnceCell<OwnedPreparedStatement>,
}

impl Plan {
    const fn new(sql: &'static str, arguments: &'static [pg_sys::Oid]) -> Self {
        Self { sql, arguments, prepared: OnceCell::new() }
    }

    /// Runs the statement and reads its first row, if there is one.
    fn first_row<R>(
        &self,
        arguments: &[DatumWithOid<'_>],
        read: impl FnOnce(SpiTupleTable<'_>) -> pgrx::spi::SpiResult<R>,
    ) -> Option<R> {
        let _path = SearchPath::pinned();
        let result = Spi::connect_mut(|client| {
            if self.prepared.get().is_none() {
                let types: Vec<PgOid> = self.arguments.iter().map(|&oid| PgOid::from(oid)).collect();
                // A trigger of the user's may have run the same statement meanwhile: then that one is kept.
                let _ = self.prepared.set(client.prepare_mut(self.sql, &types)?.keep());
            }
            let rows = client.update(self.prepared.get().expect("prepared above"), Some(1), arguments)?;
            if rows.is_empty() { Ok(None) } else { read(rows.first()).map(Some) }
        });
        result.unwrap_or_else(|error: pgrx::spi::Error| error!("{}: {error}", self.sql))
    }
}
