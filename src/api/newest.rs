//! The newest ledger rows that pass the filters: the source of every page.
//!
//! Rows are listed by `seq`, and the indexes by (user and) `seq` give them in order. A user's rows are in two of those:
//! the rows of no batch, and the rows of batches, which are all usage. A list of both merges the newest of each.
//!
//! A period is another matter: the rows of last March are far from the end of those indexes, and an index by date gives
//! them in another order. Dates follow `seq` closely, but not always, for a client may date its rows; so neither order
//! may stand in for the other. Hence two steps. The newest rows are looked through first: a page of a period that has
//! not ended is found among them, as is a page after a cursor. Only if they do not fill the page, the older rows of the
//! period are collected by date and sorted. A page costs its rows or those of the period, and never those of the history
//! around it.

use super::filters::{Filters, Page};
use crate::pg::buckets;
use crate::pg::statement::{Parameter, Statement};

const LEDGER: &str = "credits.credits_transactions";

/// Of a row of the ledger, whether its account is on this node.
pub const HERE: &str = "credits.is_here(user_id)";

/// Rows that are looked through before an index by date is used.
const LOOKED_THROUGH: u32 = 1000;

/// Whose rows.
#[derive(Clone, Copy)]
pub enum Scope {
    /// Every user's. The condition is that of `credits_transactions_seq_idx`, and true of every row.
    All,
    /// Those of accounts that are on this node.
    Here,
    /// A user's, bound as this parameter.
    User(Parameter),
    /// A user's that belong to no batch.
    Singles(Parameter),
}

impl Scope {
    /// Every row of the ledger; of a node that keeps or receives rows of other accounts, those of accounts that are there.
    pub fn all() -> Self {
        if buckets::not_here().is_some() { Self::Here } else { Self::All }
    }

    /// The condition on a row.
    pub fn condition(self) -> String {
        match self {
            Self::All => "seq >= '-9223372036854775808'".into(),
            Self::Here => format!("{} AND {HERE}", Self::All.condition()),
            Self::User(user) => format!("user_id = {user}"),
            Self::Singles(user) => format!("user_id = {user} AND fusillade_batch_id IS NULL"),
        }
    }

    /// The parts that are each in one index by `seq`, without those of which no row passes the filters.
    fn parts(self, filters: &Filters<'_>) -> Vec<Part> {
        let whole = |scope: Self| Part { condition: scope.condition(), kind: "transaction_type" };
        match self {
            Self::User(user) if filters.admit_batches() => vec![
                whole(Self::Singles(user)),
                Part {
                    condition: format!("user_id = {user} AND fusillade_batch_id IS NOT NULL"),
                    kind: "'usage'",
                },
            ],
            Self::User(user) => vec![whole(Self::Singles(user))],
            Self::All | Self::Here | Self::Singles(_) => vec![whole(self)],
        }
    }

    /// The condition on a row that passes the filters.
    pub fn passing<'call>(self, filters: &Filters<'call>, statement: &mut Statement<'call>) -> String {
        self.condition() + &self.filtered(filters, statement)
    }

    /// The conditions of the filters, each with its AND. The index of a user's dates has them to the second. Rounding
    /// keeps dates in order, so that a comparison of dates may well begin with that of their seconds.
    fn filtered<'call>(self, filters: &Filters<'call>, statement: &mut Statement<'call>) -> String {
        match self {
            Self::All | Self::Here => filters.on_rows(str::to_owned, statement),
            Self::User(_) | Self::Singles(_) => {
                filters.on_rows(|date| format!("({date}::timestamptz(0), {date})"), statement)
            }
        }
    }
}

/// Rows that an index has in the order of `seq`.
struct Part {
    condition: String,
    /// The type of each of them, as SQL.
    kind: &'static str,
}

/// A query for the rows of a page, in its order. `columns` must have `seq`; it is given the expression for a row's type.
pub fn page_of_rows<'call>(
    statement: &mut Statement<'call>,
    columns: impl Fn(&str) -> String,
    scope: Scope,
    filters: &Filters<'call>,
    page: &Page,
) -> String {
    let rows = newest_rows(statement, columns, scope, filters, page);
    format!("SELECT * FROM ({rows}) rows ORDER BY seq DESC{}", page.cut(statement))
}

/// A query for the newest rows that a page can need, not sorted. `columns` must have `seq`; it is given the expression for a row's
/// type.
pub fn newest_rows<'call>(
    statement: &mut Statement<'call>,
    columns: impl Fn(&str) -> String,
    scope: Scope,
    filters: &Filters<'call>,
    page: &Page,
) -> String {
    let whose = scope.condition();
    let cursor = page.after_cursor("seq", statement);
    let passes = scope.filtered(filters, statement);
    let any_row = columns("transaction_type");
    let Some(reach) = page.reach(statement) else {
        return format!("SELECT {any_row} FROM {LEDGER} WHERE {whose}{cursor}{passes}");
    };
    let parts = scope.parts(filters);
    if !filters.have_period() {
        return newest_of(&parts, columns, &format!("{cursor}{passes}"), &reach);
    }
    let newest = newest_of(&parts, |_| "*".into(), &cursor, &LOOKED_THROUGH.to_string());
    let by_date = match scope {
        Scope::All => "true",
        Scope::Here => HERE,
        Scope::User(_) | Scope::Singles(_) => &whose,
    };
    // OFFSET 0: the older rows are collected whole, so the LIMIT around them must not tempt the planner to walk them.
    format!(
        "(WITH newest AS MATERIALIZED (\
         SELECT * FROM ({newest}) parts ORDER BY seq DESC LIMIT {LOOKED_THROUGH}), \
         passed AS MATERIALIZED (SELECT {any_row} FROM newest WHERE true{passes}) \
         SELECT * FROM passed UNION ALL SELECT * FROM (\
         SELECT {any_row} FROM {LEDGER} WHERE {by_date}{passes} AND seq < (SELECT min(seq) FROM newest) \
         AND (SELECT count(*) FROM newest) = {LOOKED_THROUGH} AND (SELECT count(*) FROM passed) < {reach} OFFSET 0) older)"
    )
}

/// A query for the `limit` newest rows of each part that meet the conditions, each with its AND.
fn newest_of(parts: &[Part], columns: impl Fn(&str) -> String, conditions: &str, limit: &str) -> String {
    let newest = |Part { condition, kind }: &Part| {
        format!(
            "(SELECT {} FROM {LEDGER} WHERE {condition}{conditions} ORDER BY seq DESC LIMIT {limit})",
            columns(kind)
        )
    };
    parts.iter().map(newest).collect::<Vec<_>>().join(" UNION ALL ")
}
