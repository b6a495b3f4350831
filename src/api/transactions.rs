//! Reads of ledger rows: one, a page, how many, and the signed sum of the newest.

use std::array;

use ledger::id::UserId;
use ledger::transaction_type::effect_sql;

use super::filters::{Filters, Page, Period, count};
use super::newest::{Scope, page_of_rows};
use crate::engine::newest::{self, RowsBySeq};
use crate::engine::running::{self, RunningBalances};
use crate::engine::{balance, dated};
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::column_value::ColumnValue;
use crate::pg::definition;
use crate::pg::memory::Scratch;
use crate::pg::statement::Statement;
use crate::pg::tables::transactions::{self, CREDIT_TRANSACTION, CREDIT_TRANSACTION_NAMES};
use crate::pg::value::Value;

const USER_ID: Argument = Argument(0, "user_id");

/// `get_transaction_by_id(transaction_id)`
pub fn get_transaction_by_id(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let mut statement = Statement::new();
    let id = statement.bind(call.required_uuid(Argument(0, "transaction_id"))?);
    Ok(statement.answer_rows(
        &format!(
            "SELECT {} FROM credits.credits_transactions WHERE id = {id} AND {}",
            *CREDIT_TRANSACTION_NAMES,
            Scope::all().condition()
        ),
        call,
    ))
}

/// `transaction_exists_by_source_id(source_id)`
pub fn transaction_exists_by_source_id(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let mut statement = Statement::new();
    let source_id = statement.bind(call.required_text(Argument(0, "source_id"))?);
    Ok(statement.answer_value(&format!(
        "SELECT EXISTS (SELECT FROM credits.credits_transactions WHERE source_id = {source_id})"
    )))
}

/// `list_user_transactions(user_id, skip, limit, FILTERS, before_seq)`
pub fn list_user_transactions(call: &Call<'_>) -> Result<Answer, LedgerError> {
    Ok(list(call, Some(call.user_id(USER_ID)?), &Page::read(call, 1, 7)?, &Filters::read(call, 3)?))
}

/// `list_all_transactions(skip, limit, FILTERS, before_seq)`
pub fn list_all_transactions(call: &Call<'_>) -> Result<Answer, LedgerError> {
    Ok(list(call, None, &Page::read(call, 0, 6)?, &Filters::read(call, 2)?))
}

fn list<'call>(
    call: &Call<'call>,
    user: Option<&'call UserId>,
    page: &Page,
    filters: &Filters<'call>,
) -> Answer {
    if filters.admit_all()
        && let Some(rows) = RowsBySeq::newest(user, page.before_seq, &CREDIT_TRANSACTION)
    {
        return list_unfiltered(call, rows, page);
    }
    let mut statement = Statement::new();
    let scope =
        user.map_or_else(Scope::all, |user| Scope::User(statement.bind(Value::uuid(user.as_bytes()))));
    let sql = page_of_rows(&mut statement, |_| CREDIT_TRANSACTION_NAMES.clone(), scope, filters, page);
    statement.answer_rows(&sql, call)
}

/// `list_user_transactions_with_balance(user_id, skip, limit, FILTERS, before_seq)`
pub fn list_user_transactions_with_balance(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let (user, page, filters) = (call.user_id(USER_ID)?, Page::read(call, 1, 7)?, Filters::read(call, 3)?);
    if !running::may_be_read()? {
        return Ok(list_visible_with_balance(call, user, &filters, &page));
    }
    if filters.admit_all() {
        let Some(rows) = RunningBalances::open(user, page.before_seq)? else {
            return Ok(list_visible_with_balance(call, user, &filters, &page));
        };
        let mut places = page.places();
        return put_with_balance(call, rows, |_| places.next());
    }
    let shown = seqs_of_page(user, &filters, &page);
    let Some(newest) = shown.first() else {
        call.result_rows(definition::TRANSACTION_WITH_BALANCE.columns);
        return Ok(Answer::rows());
    };
    let Some(rows) = RunningBalances::open(user, newest.checked_add(1))? else {
        return Ok(list_visible_with_balance(call, user, &filters, &page));
    };
    let mut shown = shown.into_iter().peekable();
    put_with_balance(call, rows, |seq| {
        shown.peek()?;
        Some(shown.next_if_eq(&seq).is_some())
    })
}

/// The `seq`s of the rows on the page, in its order.
fn seqs_of_page<'call>(user: &'call UserId, filters: &Filters<'call>, page: &Page) -> Vec<i64> {
    let mut statement = Statement::new();
    let scope = Scope::User(statement.bind(Value::uuid(user.as_bytes())));
    let sql = page_of_rows(&mut statement, |_| "seq".into(), scope, filters, page);
    statement.rows(&sql, |row| row.value(1)).into_iter().flatten().collect()
}

/// Puts the rows into the result for which `is_shown` says so, given a row's `seq`. Ends with the first row about which it says nothing.
fn put_with_balance(
    call: &Call<'_>,
    mut rows: RunningBalances,
    mut is_shown: impl FnMut(i64) -> Option<bool>,
) -> Result<Answer, LedgerError> {
    let result = call.result_rows(definition::TRANSACTION_WITH_BALANCE.columns);
    let mut memory = Scratch::new("credits_ledger running balances");
    while let Some((row, balance)) = rows.next()? {
        match is_shown(row.get(transactions::SEQ)) {
            None => break,
            Some(false) => {}
            Some(true) => memory.step(|| {
                let mut values = row.values(CREDIT_TRANSACTION).into_iter();
                result.put::<11>(array::from_fn(|_| values.next().unwrap_or(ColumnValue::Credits(balance))));
            }),
        }
    }
    Ok(Answer::rows())
}

/// The page by a query over the rows that the caller sees.
fn list_visible_with_balance<'call>(
    call: &Call<'call>,
    user: &'call UserId,
    filters: &Filters<'call>,
    page: &Page,
) -> Answer {
    let mut statement = Statement::new();
    let user = statement.bind(Value::uuid(user.as_bytes()));
    let rows =
        page_of_rows(&mut statement, |_| CREDIT_TRANSACTION_NAMES.clone(), Scope::User(user), filters, page);
    // The rows up to the oldest of the page, and one by one those from there to the newest of it.
    let sql = format!(
        "WITH page AS MATERIALIZED ({rows}), \
         since AS (SELECT seq, sum({effect}) OVER (ORDER BY seq) AS credits FROM credits.credits_transactions \
         WHERE user_id = {user} AND seq > (SELECT min(seq) FROM page) AND seq <= (SELECT max(seq) FROM page)) \
         SELECT page.*, trim_scale(until.credits + coalesce(since.credits, 0)) FROM page \
         CROSS JOIN (SELECT coalesce(sum({effect}), 0) AS credits FROM credits.credits_transactions \
         WHERE user_id = {user} AND seq <= (SELECT min(seq) FROM page)) until \
         LEFT JOIN since ON since.seq = page.seq ORDER BY page.seq DESC",
        effect = effect_sql("transaction_type"),
    );
    statement.answer_rows(&sql, call)
}

fn list_unfiltered(call: &Call<'_>, mut rows: RowsBySeq, page: &Page) -> Answer {
    let result = call.result_rows(definition::CREDIT_TRANSACTION.columns);
    for is_shown in page.places() {
        let Some(row) = rows.next() else { break };
        if is_shown {
            result.put(row.values(CREDIT_TRANSACTION));
        }
    }
    Answer::rows()
}

/// `count_user_transactions(user_id, FILTERS)`
pub fn count_user_transactions(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let (user, filters) = (call.user_id(USER_ID)?, Filters::read(call, 1)?);
    if let Some(count) = count_by_totals(user, &filters)? {
        return Ok(Answer::bigint(count));
    }
    let mut statement = Statement::new();
    let scope = Scope::User(statement.bind(Value::uuid(user.as_bytes())));
    Ok(count_rows(statement, scope, &filters))
}

/// How many of the user's rows pass, by its checkpoint and daily totals; `None` if a query must count them.
fn count_by_totals(user: &UserId, filters: &Filters<'_>) -> Result<Option<i64>, LedgerError> {
    if filters.admit_all() {
        return balance::transaction_count(user);
    }
    let Some((start, end)) = filters.period_without_search() else { return Ok(None) };
    let sums = dated::sums(user, start, end)?;
    Ok(sums.map(|sums| sums.transaction_count(|of_rows| filters.admit_type(of_rows))))
}

/// `count_all_transactions(FILTERS)`
pub fn count_all_transactions(call: &Call<'_>) -> Result<Answer, LedgerError> {
    Ok(count_rows(Statement::new(), Scope::all(), &Filters::read(call, 0)?))
}

fn count_rows<'call>(mut statement: Statement<'call>, scope: Scope, filters: &Filters<'call>) -> Answer {
    let passing = scope.passing(filters, &mut statement);
    statement.answer_value(&format!("SELECT count(*) FROM credits.credits_transactions WHERE {passing}"))
}

/// `sum_recent_transactions(user_id, count, start_date, end_date)`
pub fn sum_recent_transactions(call: &Call<'_>) -> Result<Answer, LedgerError> {
    let (user, count) = (call.user_id(USER_ID)?, count(call, Argument(1, "count"))?);
    let filters = Filters::in_period(Period::read(call, 2));
    if filters.admit_all()
        && let Some(sum) = newest::sum(user, count)?
    {
        return Ok(Answer::credits(sum));
    }
    let mut statement = Statement::new();
    let scope = Scope::User(statement.bind(Value::uuid(user.as_bytes())));
    let page = Page::newest(count);
    let columns = |kind: &str| format!("{} AS effect, seq", effect_sql(kind));
    let rows = page_of_rows(&mut statement, columns, scope, &filters, &page);
    Ok(statement.answer_value(&format!("SELECT trim_scale(coalesce(sum(effect), 0)) FROM ({rows}) newest")))
}
