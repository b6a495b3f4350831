//! The newest ledger rows that pass the filters: the source of every page.
//!
//! Rows are listed by `seq`, and the index by (user and) `seq` gives them in order. A period is another matter: the rows
//! of last March are far from the end of that index, and an index by date gives them in another order. Dates follow
//! `seq` closely, but not always, for a client may date its rows; so neither order may stand in for the other. Hence
//! two steps. The newest rows are looked through first: a page of a period that has not ended is found among them, as
//! is a page after a cursor. Only if they do not fill the page, the older rows of the period are collected by date and
//! sorted. A page costs its rows or those of the period, and never those of the history around it.

use super::filters::{Filters, Page};
use crate::pg::statement::{Parameter, Statement};

/// Rows that are looked through before an index by date is used.
const LOOKED_THROUGH: u32 = 1000;

/// Whose rows.
#[derive(Clone, Copy)]
pub enum Scope {
    /// Every user's. The condition is that of `credits_transactions_seq_idx`, and true of every row.
    All,
    /// A user's, bound as this parameter.
    User(Parameter),
    /// A user's that belong to no batch.
    Singles(Parameter),
}

impl Scope {
    /// The condition on a row.
    pub fn condition(self) -> String {
        match self {
            Self::All => "seq >= '-9223372036854775808'".into(),
            Self::User(user) => format!("user_id = {user}"),
            Self::Singles(user) => format!("user_id = {user} AND fusillade_batch_id IS NULL"),
        }
    }
}

/// A query for the rows of a page, in its order. `columns` must have `seq`.
pub fn page_of_rows<'call>(
    statement: &mut Statement<'call>,
    columns: &str,
    scope: Scope,
    filters: &Filters<'call>,
    page: &Page,
) -> String {
    let rows = if filters.have_period() {
        format!("SELECT * FROM ({}) rows", newest_rows(statement, columns, scope, filters, page))
    } else {
        passing_rows(statement, columns, scope, filters, page)
    };
    format!("{rows} ORDER BY seq DESC{}", page.cut(statement))
}

/// A query for the newest rows that a page can need, not sorted. `columns` must have `seq`.
pub fn newest_rows<'call>(
    statement: &mut Statement<'call>,
    columns: &str,
    scope: Scope,
    filters: &Filters<'call>,
    page: &Page,
) -> String {
    let Some(reach) = page.reach(statement) else {
        return passing_rows(statement, columns, scope, filters, page);
    };
    if !filters.have_period() {
        let rows = passing_rows(statement, columns, scope, filters, page);
        return format!("({rows} ORDER BY seq DESC LIMIT {reach})");
    }
    let whose = scope.condition();
    let cursor = page.after_cursor("seq", statement);
    let passes = filters.on_rows(statement);
    let by_date = match scope {
        Scope::All => "true",
        Scope::User(_) | Scope::Singles(_) => &whose,
    };
    // OFFSET 0: the older rows are collected whole, so the LIMIT around them must not tempt the planner to walk them.
    format!(
        "(WITH newest AS MATERIALIZED (\
         SELECT * FROM credits.credits_transactions WHERE {whose}{cursor} ORDER BY seq DESC LIMIT {LOOKED_THROUGH}), \
         passed AS MATERIALIZED (SELECT {columns} FROM newest WHERE true{passes}) \
         SELECT * FROM passed UNION ALL SELECT * FROM (\
         SELECT {columns} FROM credits.credits_transactions WHERE {by_date}{passes} AND seq < (SELECT min(seq) FROM newest) \
         AND (SELECT count(*) FROM newest) = {LOOKED_THROUGH} AND (SELECT count(*) FROM passed) < {reach} OFFSET 0) older)"
    )
}

/// A query for all rows after the cursor that pass the filters.
fn passing_rows<'call>(
    statement: &mut Statement<'call>,
    columns: &str,
    scope: Scope,
    filters: &Filters<'call>,
    page: &Page,
) -> String {
    format!(
        "SELECT {columns} FROM credits.credits_transactions WHERE {}{}{}",
        scope.condition(),
        page.after_cursor("seq", statement),
        filters.on_rows(statement)
    )
}
