//! Reads of a user's history with each batch as one item.
//!
//! A batch's totals are in two places: the rows that the user's checkpoint covers are folded into `batch_aggregates`,
//! the rest (the delta) is grouped here. One statement, hence one snapshot, reads the checkpoint, both places and the
//! single rows, so no row is counted twice or left out, whatever is refreshed meanwhile. Of folded batches and single
//! rows no more are read than the page can show: a batch with rows in the delta replaces its folded part, so the
//! delta's number of batches is fetched on top.
//!
//! For a caller that row-level security keeps from seeing every row, folded totals would tell of rows it may not see.
//! Its batches are grouped from the rows it sees.

use super::analytics::Labels;
use super::filters::{Filters, Page, Period, count};
use super::newest::{Scope, newest_rows};
use super::transactions::SIGNED_AMOUNT;
use crate::error::LedgerError;
use crate::pg::call::{Answer, Argument, Call};
use crate::pg::catalog::Relations;
use crate::pg::privilege::{self, View};
use crate::pg::statement::{Parameter, Statement};

const USER_ID: Argument = Argument(0, "user_id");

/// What is read of the rows that belong to no batch.
const SINGLE_COLUMNS: &str = "id, transaction_type, amount, source_id, description, created_at, seq";

/// A row grouped by batch, before the totals are one.
const BATCH_TOTALS: &str = "fusillade_batch_id, sum(amount) AS amount, count(*) AS batch_count, max(seq) AS seq, \
     min(created_at) AS created_at";

/// `list_transactions_with_batches(user_id, skip, limit, FILTERS, before_seq)`
pub fn list_transactions_with_batches(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let mut statement = Statement::new();
    let user = statement.bind(call.uuid(USER_ID)?);
    let page = Page::read(call, 1, 7)?;
    let items = Items::new(&mut statement, user, &Filters::read(call, 3)?, &page)?;
    let labels = Labels::find();
    let sql = format!(
        "{with} SELECT page.id, {user}, page.transaction_type, page.amount, page.source_id, page.description, \
         page.created_at, page.seq, page.batch_id, {origin}, {sla}, least(page.batch_count, 2147483647)::int \
         FROM (SELECT * FROM ({union}) items ORDER BY seq DESC{cut}) page{joins} ORDER BY page.seq DESC",
        with = items.with,
        union = items.union,
        cut = page.cut(&mut statement),
        origin = labels.request_origin,
        sla = labels.batch_sla,
        joins = labels.joins,
    );
    Ok(statement.answer_rows(&sql, call))
}

/// `count_transactions_with_batches(user_id, FILTERS)`
pub fn count_transactions_with_batches(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let mut statement = Statement::new();
    let user = statement.bind(call.uuid(USER_ID)?);
    let items = Items::new(&mut statement, user, &Filters::read(call, 1)?, &Page::default())?;
    Ok(statement.answer_value(&format!("{} SELECT count(*) FROM ({}) items", items.with, items.union)))
}

/// `sum_recent_transactions_grouped(user_id, count, start_date, end_date)`
pub fn sum_recent_transactions_grouped(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let mut statement = Statement::new();
    let user = statement.bind(call.uuid(USER_ID)?);
    let page = Page::newest(count(call, Argument(1, "count"))?);
    let items = Items::new(&mut statement, user, &Filters::in_period(Period::read(call, 2)), &page)?;
    let sql = format!(
        "{} SELECT coalesce(sum({SIGNED_AMOUNT}), 0) \
         FROM (SELECT transaction_type, amount FROM ({}) items ORDER BY seq DESC{}) newest",
        items.with,
        items.union,
        page.cut(&mut statement),
    );
    Ok(statement.answer_value(&sql))
}

/// `sum_transactions_after_date_grouped(user_id, after_date)`
pub fn sum_transactions_after_date_grouped(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let mut statement = Statement::new();
    let user = statement.bind(call.uuid(USER_ID)?);
    let filters = Filters::in_period(Period::after(call.required_timestamptz(Argument(1, "after_date"))?));
    let items = Items::new(&mut statement, user, &filters, &Page::default())?;
    Ok(statement.answer_value(&format!(
        "{} SELECT coalesce(sum({SIGNED_AMOUNT}), 0) FROM ({}) items",
        items.with, items.union
    )))
}

/// The items of a user that pass the filters and that a page can need, unsorted, with the columns id,
/// transaction_type, amount, source_id, description, created_at, seq, batch_id and batch_count.
struct Items {
    with: String,
    union: String,
}

impl Items {
    fn new<'call>(
        statement: &mut Statement<'call>,
        user: Parameter,
        filters: &Filters<'call>,
        page: &Page,
    ) -> Result<Self, LedgerError> {
        let singles = format!(
            "SELECT id, transaction_type, amount, source_id, description, created_at, seq, NULL::uuid AS batch_id, \
             1::bigint AS batch_count FROM ({}) singles",
            newest_rows(statement, SINGLE_COLUMNS, Scope::Singles(user), filters, page),
        );
        if !filters.admit_batches() {
            return Ok(Self { with: String::new(), union: singles });
        }
        let relations = Relations::lookup().ok_or(LedgerError::NotInstalled)?;
        let batches = match privilege::view(&relations) {
            View::Whole => Batches::folded_and_delta(statement, user, filters, page),
            View::Filtered => Batches::visible(statement, user, filters, page),
        };
        let union = format!(
            "{singles} UNION ALL SELECT fusillade_batch_id, 'usage', amount, fusillade_batch_id::text, 'Batch', \
             created_at, seq, fusillade_batch_id, batch_count FROM ({}) batches",
            batches.union
        );
        Ok(Self { with: batches.with, union })
    }
}

/// The batches among the items, with the columns of [`BATCH_TOTALS`].
struct Batches {
    with: String,
    union: String,
}

impl Batches {
    fn folded_and_delta<'call>(
        statement: &mut Statement<'call>,
        user: Parameter,
        filters: &Filters<'call>,
        page: &Page,
    ) -> Self {
        // A lower bound that is not known when planning passes for a third of the rows, and the planner reads the whole
        // ledger; a range passes for a two-hundredth, whatever its upper end. No transaction has the highest id.
        // Rows below the watermark that are not covered belong to the stragglers, so no row is read twice. Without a
        // checkpoint no row is covered. OFFSET 0 has each straggler looked up by itself.
        let uncovered = format!(
            "SELECT fusillade_batch_id, amount, seq, created_at FROM credits.credits_transactions \
             WHERE user_id = {user} AND fusillade_batch_id IS NOT NULL AND xact_id"
        );
        let with = format!(
            "WITH checkpoint AS MATERIALIZED (SELECT watermark, stragglers FROM credits.checkpoints \
             WHERE user_id = {user}), \
             delta AS MATERIALIZED (SELECT {BATCH_TOTALS} FROM (\
             {uncovered} >= coalesce((SELECT watermark FROM checkpoint), '0') AND xact_id < '18446744073709551615' \
             UNION ALL SELECT late.* \
             FROM (SELECT unnest(stragglers) AS xact_id FROM checkpoint) straggler \
             CROSS JOIN LATERAL ({uncovered} = straggler.xact_id OFFSET 0) late\
             ) uncovered GROUP BY fusillade_batch_id)",
        );
        let reach = page.reach(statement).map_or_else(String::new, |reach| {
            format!(" ORDER BY max_seq DESC LIMIT {reach} + (SELECT count(*) FROM delta)")
        });
        let untouched = format!(
            "SELECT * FROM (SELECT fusillade_batch_id, total_amount AS amount, transaction_count AS batch_count, \
             max_seq AS seq, created_at FROM credits.folded_batches WHERE user_id = {user}{}{}{reach}) folded \
             WHERE NOT EXISTS (SELECT FROM delta WHERE delta.fusillade_batch_id = folded.fusillade_batch_id)",
            page.after_cursor("max_seq", statement),
            filters.on_batches("created_at", statement),
        );
        // LIMIT 1 changes nothing of a lookup by primary key; it keeps the planner from reading all batches instead.
        let touched = format!(
            "SELECT * FROM (SELECT delta.fusillade_batch_id, delta.amount + coalesce(folded.total_amount, 0) AS amount, \
             delta.batch_count + coalesce(folded.transaction_count, 0) AS batch_count, \
             greatest(delta.seq, folded.max_seq) AS seq, least(delta.created_at, folded.created_at) AS created_at \
             FROM delta LEFT JOIN LATERAL (SELECT total_amount, transaction_count, max_seq, created_at \
             FROM credits.folded_batches b WHERE b.user_id = {user} \
             AND b.fusillade_batch_id = delta.fusillade_batch_id LIMIT 1) folded ON true) touched WHERE true{}{}",
            page.after_cursor("seq", statement),
            filters.on_batches("created_at", statement),
        );
        Self { with, union: format!("{untouched} UNION ALL {touched}") }
    }

    fn visible<'call>(
        statement: &mut Statement<'call>,
        user: Parameter,
        filters: &Filters<'call>,
        page: &Page,
    ) -> Self {
        let union = format!(
            "SELECT * FROM (SELECT {BATCH_TOTALS} FROM credits.credits_transactions WHERE user_id = {user} \
             AND fusillade_batch_id IS NOT NULL GROUP BY fusillade_batch_id) visible WHERE true{}{}",
            page.after_cursor("seq", statement),
            filters.on_batches("created_at", statement),
        );
        Self { with: String::new(), union }
    }
}
