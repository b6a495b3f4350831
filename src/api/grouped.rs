//! Reads of a user's history with each batch as one item.
//!
//! A batch's totals are in two places: the rows that the user's checkpoint covers are folded into `batch_aggregates`, and the
//! other rows are in the delta. The engine adds up the batches that have rows in the delta and binds their totals to the query; the
//! query reads all other batches and the single rows itself. Engine and query use the caller's snapshot, so no row is counted twice
//! or left out, whichever checkpoint is refreshed meanwhile. The query reads as many folded batches and single rows as the page can
//! show, and skips the stored totals of batches that the engine has added up.
//!
//! The items of a list without filters and labels are found by the engine, too: see [`NewestItems`].
//!
//! If row-level security hides rows from the caller, folded totals would reveal them: its batches are grouped from the rows
//! that it sees.

use std::ops::Bound;

use ledger::id::UserId;
use ledger::transaction_type::{TransactionType, effect_sql};

use super::analytics::{DEFAULT_ORIGIN, DEFAULT_SLA, Labels};
use super::filters::{Filters, Page, Period, count};
use super::newest::{Scope, newest_rows};
use crate::engine::batches::{self, BatchTotals};
use crate::engine::items::{Item, NewestItems};
use crate::error::LedgerError;
use crate::pg::answer::{Answer, Rows};
use crate::pg::call::{Argument, Call};
use crate::pg::column_value::ColumnValue;
use crate::pg::definition;
use crate::pg::memory::Scratch;
use crate::pg::statement::{Parameter, Statement};
use crate::pg::tables::transactions::TRANSACTION_WITH_CATEGORY;
use crate::pg::value::Value;

const USER_ID: Argument = Argument(0, "user_id");

/// What is read of the rows that belong to no batch.
const SINGLE_COLUMNS: &str = "id, transaction_type, amount, source_id, description, created_at, seq";

/// `list_transactions_with_batches(user_id, skip, limit, FILTERS, before_seq)`
pub fn list_transactions_with_batches(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let user = call.user_id(USER_ID)?;
    let (page, filters) = (Page::read(call, 1, 7)?, Filters::read(call, 3)?);
    let labels = Labels::find();
    if filters.admit_all()
        && labels.is_none()
        && let Some(items) = NewestItems::open(user, page.before_seq)?
    {
        return Ok(list_unfiltered(call, user, items, &page));
    }
    let mut statement = Statement::new();
    let items = Items::new(&mut statement, user, &filters, &page)?;
    let labels = labels.unwrap_or_else(Labels::defaults);
    let sql = format!(
        "SELECT page.id, {user}, page.transaction_type, page.amount, page.source_id, page.description, \
         page.created_at, page.seq, page.batch_id, {origin}, {sla}, least(page.batch_count, 2147483647)::int \
         FROM (SELECT * FROM ({union}) items ORDER BY seq DESC{cut}) page{joins} ORDER BY page.seq DESC",
        user = items.user,
        union = items.union,
        cut = page.cut(&mut statement),
        origin = labels.request_origin,
        sla = labels.batch_sla,
        joins = labels.joins,
    );
    Ok(statement.answer_rows(&sql, call))
}

fn list_unfiltered(call: &Call<'_>, user: &UserId, mut items: NewestItems, page: &Page) -> Answer {
    let result = call.result_rows(definition::TRANSACTION_WITH_CATEGORY.columns);
    let mut memory = Scratch::new("credits_ledger items");
    for is_shown in page.places() {
        let Some(item) = items.next() else { break };
        if is_shown {
            memory.step(|| put(&result, user, &item));
        }
    }
    Answer::rows()
}

/// Adds an item without labels of its own to a result of type `credits.transaction_with_category`.
fn put(result: &Rows, user: &UserId, item: &Item<'_>) {
    match item {
        Item::Single(row) => {
            let [id, user_id, kind, amount, source_id, description, created_at, seq] =
                row.values(TRANSACTION_WITH_CATEGORY);
            result.put([
                id,
                user_id,
                kind,
                amount,
                source_id,
                description,
                created_at,
                seq,
                ColumnValue::Null,
                ColumnValue::Null,
                ColumnValue::Null,
                ColumnValue::Int4(1),
            ]);
        }
        Item::Batch(batch, total) => result.put([
            ColumnValue::Uuid(batch.as_bytes()),
            ColumnValue::Uuid(user.as_bytes()),
            ColumnValue::Text(TransactionType::Usage.name()),
            ColumnValue::Credits(total.amount),
            ColumnValue::Text(&batch.to_string()),
            ColumnValue::Text("Batch"),
            ColumnValue::Timestamptz(total.created_at),
            ColumnValue::Int8(total.max_seq),
            ColumnValue::Uuid(batch.as_bytes()),
            ColumnValue::Text(DEFAULT_ORIGIN),
            ColumnValue::Text(DEFAULT_SLA),
            ColumnValue::Int4(total.transaction_count.try_into().unwrap_or(i32::MAX)),
        ]),
    }
}

/// `count_transactions_with_batches(user_id, FILTERS)`
pub fn count_transactions_with_batches(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let mut statement = Statement::new();
    let user = call.user_id(USER_ID)?;
    let items = Items::new(&mut statement, user, &Filters::read(call, 1)?, &Page::default())?;
    Ok(statement.answer_value(&format!("SELECT count(*) FROM ({}) items", items.union)))
}

/// `sum_recent_transactions_grouped(user_id, count, start_date, end_date)`
pub fn sum_recent_transactions_grouped(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let mut statement = Statement::new();
    let user = call.user_id(USER_ID)?;
    let page = Page::newest(count(call, Argument(1, "count"))?);
    let items = Items::new(&mut statement, user, &Filters::in_period(Period::read(call, 2)), &page)?;
    let sql = format!(
        "SELECT coalesce(sum({}), 0) \
         FROM (SELECT transaction_type, amount FROM ({}) items ORDER BY seq DESC{}) newest",
        effect_sql("transaction_type"),
        items.union,
        page.cut(&mut statement),
    );
    Ok(statement.answer_value(&sql))
}

/// `sum_transactions_after_date_grouped(user_id, after_date)`
pub fn sum_transactions_after_date_grouped(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let mut statement = Statement::new();
    let user = call.user_id(USER_ID)?;
    let after = call.required_time(Argument(1, "after_date"))?;
    let filters = Filters::in_period(Period::between(Bound::Excluded(after), Bound::Unbounded));
    let items = Items::new(&mut statement, user, &filters, &Page::default())?;
    let sql =
        format!("SELECT coalesce(sum({}), 0) FROM ({}) items", effect_sql("transaction_type"), items.union);
    Ok(statement.answer_value(&sql))
}

/// The items of a user that pass the filters and that a page can need, unsorted, with the columns id,
/// transaction_type, amount, source_id, description, created_at, seq, batch_id and batch_count.
struct Items {
    user: Parameter,
    union: String,
}

impl Items {
    fn new<'call>(
        statement: &mut Statement<'call>,
        user_id: &'call UserId,
        filters: &Filters<'call>,
        page: &Page,
    ) -> Result<Self, LedgerError> {
        let user = statement.bind(Value::uuid(user_id.as_bytes()));
        let singles = format!(
            "SELECT {SINGLE_COLUMNS}, NULL::uuid AS batch_id, 1::bigint AS batch_count FROM ({}) singles",
            newest_rows(statement, |_| SINGLE_COLUMNS.into(), Scope::Singles(user), filters, page),
        );
        if !filters.admit_batches() {
            return Ok(Self { user, union: singles });
        }
        let batches = match batches::touched(user_id)? {
            Some(touched) => folded_and_touched(statement, user, &touched, filters, page),
            None => visible(statement, user, filters, page),
        };
        let union = format!(
            "{singles} UNION ALL SELECT fusillade_batch_id, 'usage', amount, fusillade_batch_id::text, 'Batch', \
             created_at, seq, fusillade_batch_id, batch_count FROM ({batches}) batches"
        );
        Ok(Self { user, union })
    }
}

/// The batches among the items, with the columns fusillade_batch_id, amount, batch_count, seq and created_at: the totals of those that
/// have rows in the delta, and the stored totals of the others.
fn folded_and_touched<'call>(
    statement: &mut Statement<'call>,
    user: Parameter,
    touched: &BatchTotals,
    filters: &Filters<'call>,
    page: &Page,
) -> String {
    let ids = statement.bind(Value::uuids(touched.iter().map(|(id, _)| id.as_bytes())));
    let amounts = statement.bind(Value::numerics(touched.iter().map(|(_, total)| total.amount)));
    let counts = statement.bind(Value::bigints(touched.iter().map(|(_, total)| total.transaction_count)));
    let seqs = statement.bind(Value::bigints(touched.iter().map(|(_, total)| total.max_seq)));
    let dates = statement.bind(Value::timestamptzs(touched.iter().map(|(_, total)| total.created_at)));
    let newest = page
        .reach(statement)
        .map_or_else(String::new, |reach| format!(" ORDER BY max_seq DESC LIMIT {reach}"));
    // NOT IN a sub-select is looked up in a hash table; an array would be compared element by element.
    format!(
        "(SELECT fusillade_batch_id, total_amount AS amount, transaction_count AS batch_count, max_seq AS seq, created_at \
         FROM credits.folded_batches WHERE user_id = {user} \
         AND fusillade_batch_id NOT IN (SELECT unnest({ids})){}{}{newest}) \
         UNION ALL SELECT * FROM unnest({ids}, {amounts}, {counts}, {seqs}, {dates}) \
         AS touched (fusillade_batch_id, amount, batch_count, seq, created_at) WHERE true{}{}",
        page.after_cursor("max_seq", statement),
        filters.on_batches("created_at", statement),
        page.after_cursor("seq", statement),
        filters.on_batches("created_at", statement),
    )
}

/// The batches among the items, with the columns of [`folded_and_touched`], grouped from the rows that the caller sees.
fn visible<'call>(
    statement: &mut Statement<'call>,
    user: Parameter,
    filters: &Filters<'call>,
    page: &Page,
) -> String {
    format!(
        "SELECT * FROM (SELECT fusillade_batch_id, sum(amount) AS amount, count(*) AS batch_count, max(seq) AS seq, \
         min(created_at) AS created_at FROM credits.credits_transactions WHERE user_id = {user} \
         AND fusillade_batch_id IS NOT NULL GROUP BY fusillade_batch_id) visible WHERE true{}{}",
        page.after_cursor("seq", statement),
        filters.on_batches("created_at", statement),
    )
}
