//! The arguments that the reading functions share: filters and pages, checked, and what they add to a query.

use std::fmt::Write;
use std::ops::Bound;

use ledger::transaction_type::TransactionType;

use super::arguments::transaction_type;
use crate::error::LedgerError;
use crate::pg::call::{Argument, Call};
use crate::pg::statement::Statement;
use crate::pg::value::Value;

/// More items than any list has; a query can add to it without an overflow.
const LONGEST_LIST: i64 = i64::MAX / 2;

/// Which rows or items a function looks at.
#[derive(Default)]
pub struct Filters<'call> {
    search: Option<Value<'call>>,
    types: Option<Types<'call>>,
    period: Period,
}

struct Types<'call> {
    names: Value<'call>,
    known: Vec<TransactionType>,
}

/// The bounds of `created_at`, in microseconds since the server's epoch.
#[derive(Clone, Copy)]
pub struct Period {
    start: Bound<i64>,
    end: Bound<i64>,
}

/// Which part of a list is asked for.
#[derive(Default)]
pub struct Page {
    /// The cursor: only items below this `seq` are in the list.
    pub before_seq: Option<i64>,
    /// How many items of the list come before the page.
    pub skip: i64,
    /// The most items on the page.
    pub limit: Option<i64>,
}

/// `value`, unless it is below zero.
pub fn not_negative(name: &'static str, value: i64) -> Result<i64, LedgerError> {
    if value < 0 { Err(LedgerError::NegativeArgument { name, value }) } else { Ok(value) }
}

/// The number of rows or items that a sum is over.
pub fn count(call: &Call<'_>, argument: Argument) -> Result<i64, LedgerError> {
    not_negative(argument.name(), call.required_bigint(argument)?)
}

impl<'call> Filters<'call> {
    /// The four filter arguments: search, transaction_types, start_date, end_date. `first` is the place of search.
    pub fn read(call: &Call<'call>, first: usize) -> Result<Self, LedgerError> {
        Ok(Self {
            search: call.text(Argument(first, "search")),
            types: Types::read(call, Argument(first + 1, "transaction_types"))?,
            period: Period::read(call, first + 2),
        })
    }

    /// Rows of any kind in a period.
    pub fn in_period(period: Period) -> Self {
        Self { period, ..Self::default() }
    }

    /// Whether every row passes.
    pub fn admit_all(&self) -> bool {
        self.search.is_none() && self.types.is_none() && !self.have_period()
    }

    /// Whether batches can be among the items: a batch is usage, so not if other types alone are asked for.
    pub fn admit_batches(&self) -> bool {
        self.admit_type(Some(TransactionType::Usage))
    }

    /// Whether rows of this type can pass; `None` is a type that is not known.
    pub fn admit_type(&self, of_row: Option<TransactionType>) -> bool {
        let Some(types) = &self.types else { return true };
        of_row.is_some_and(|of_row| types.known.contains(&of_row))
    }

    /// Whether only rows of a period pass.
    pub fn have_period(&self) -> bool {
        self.period.is_bounded()
    }

    /// The period in which rows pass, if their types and dates alone decide that.
    pub fn period_without_search(&self) -> Option<(Bound<i64>, Bound<i64>)> {
        self.search.is_none().then_some((self.period.start, self.period.end))
    }

    /// The conditions on ledger rows, each with its AND; `compared` gives a date the form in which an index has it.
    pub fn on_rows(&self, compared: impl Fn(&str) -> String, statement: &mut Statement<'call>) -> String {
        let mut sql = self.on_description("description", statement);
        if let Some(types) = &self.types {
            let _ = write!(sql, " AND transaction_type = ANY ({})", statement.bind(types.names));
        }
        sql + &self.period.on("created_at", compared, statement)
    }

    /// The conditions on batches, whose date is `created_at`, each with its AND.
    pub fn on_batches(&self, created_at: &str, statement: &mut Statement<'call>) -> String {
        self.on_description("'Batch'", statement) + &self.period.on(created_at, str::to_owned, statement)
    }

    /// ILIKE folds case by the collation of the database, and finds its pattern faster than `position` in a lowered
    /// copy of every description. The sub-select has the escaping done once, not for each row.
    fn on_description(&self, description: &str, statement: &mut Statement<'call>) -> String {
        let Some(search) = self.search else { return String::new() };
        format!(
            r" AND {description} ILIKE (SELECT '%' || replace(replace(replace({search}, E'\\', E'\\\\'), '%', E'\\%'), '_', E'\\_') || '%')",
            search = statement.bind(search)
        )
    }
}

impl<'call> Types<'call> {
    fn read(call: &Call<'call>, argument: Argument) -> Result<Option<Self>, LedgerError> {
        let Some((names, elements)) = call.text_array(argument)? else { return Ok(None) };
        let known = elements
            .into_iter()
            .map(|name| transaction_type(argument.name(), name))
            .collect::<Result<_, _>>()?;
        Ok(Some(Self { names, known }))
    }
}

impl Default for Period {
    /// All times.
    fn default() -> Self {
        Self { start: Bound::Unbounded, end: Bound::Unbounded }
    }
}

impl Period {
    /// The arguments start_date, at the place `first`, and end_date behind it. Both dates are part of the period.
    pub fn read(call: &Call<'_>, first: usize) -> Self {
        let bound = |argument| call.time(argument).map_or(Bound::Unbounded, Bound::Included);
        Self { start: bound(Argument(first, "start_date")), end: bound(Argument(first + 1, "end_date")) }
    }

    /// The times from one bound to the other.
    pub fn between(start: Bound<i64>, end: Bound<i64>) -> Self {
        Self { start, end }
    }

    fn is_bounded(self) -> bool {
        (self.start, self.end) != (Bound::Unbounded, Bound::Unbounded)
    }

    /// Each bound as an operator and a time.
    fn comparisons(self) -> impl Iterator<Item = (&'static str, i64)> {
        let compared = |bound, at_bound, beyond| match bound {
            Bound::Unbounded => None,
            Bound::Included(time) => Some((at_bound, time)),
            Bound::Excluded(time) => Some((beyond, time)),
        };
        [compared(self.start, ">=", ">"), compared(self.end, "<=", "<")].into_iter().flatten()
    }

    /// The conditions on what is dated `created_at`, in the form in which dates are compared. A period decides whether
    /// rows are best found by date or by seq, so the query is planned for it.
    fn on(
        self,
        created_at: &str,
        compared: impl Fn(&str) -> String,
        statement: &mut Statement<'_>,
    ) -> String {
        let mut sql = String::new();
        for (operator, time) in self.comparisons() {
            statement.plan_each_time();
            let date = statement.bind(Value::time(time)).to_string();
            let _ = write!(sql, " AND {} {operator} {}", compared(created_at), compared(&date));
        }
        sql
    }
}

impl Page {
    /// The arguments skip, at the place `first`, limit behind it, and before_seq.
    pub fn read(call: &Call<'_>, first: usize, before_seq: usize) -> Result<Self, LedgerError> {
        let before_seq = call.bigint(Argument(before_seq, "before_seq"));
        Ok(Self { before_seq, ..Self::without_cursor(call, first)? })
    }

    /// The arguments skip, at the place `first`, and limit behind it.
    pub fn without_cursor(call: &Call<'_>, first: usize) -> Result<Self, LedgerError> {
        Ok(Self {
            before_seq: None,
            skip: not_negative("skip", call.required_bigint(Argument(first, "skip"))?)?,
            limit: call
                .bigint(Argument(first + 1, "limit"))
                .map(|limit| not_negative("limit", limit))
                .transpose()?,
        })
    }

    /// The newest `count` items of the list.
    pub fn newest(count: i64) -> Self {
        Self { limit: Some(count), ..Self::default() }
    }

    /// For each item of the list in turn, whether it is on the page. Ends with the page's last item.
    pub fn places(&self) -> impl Iterator<Item = bool> {
        let limit = self.limit.unwrap_or(LONGEST_LIST);
        let skip = if limit > 0 { self.skip } else { 0 };
        (0..skip).map(|_| false).chain((0..limit).map(|_| true))
    }

    /// The condition that keeps what is older than the cursor, with its AND.
    pub fn after_cursor(&self, seq: &str, statement: &mut Statement<'_>) -> String {
        self.before_seq.map_or_else(String::new, |before| {
            format!(" AND {seq} < {}", statement.bind(Value::bigint(before)))
        })
    }

    /// The LIMIT and OFFSET that cut the page out of a sorted list.
    pub fn cut(&self, statement: &mut Statement<'_>) -> String {
        let mut sql = String::new();
        if let Some(limit) = self.limit {
            let _ = write!(sql, " LIMIT {}", statement.bind(Value::bigint(limit)));
        }
        if self.skip > 0 {
            let _ = write!(sql, " OFFSET {}", statement.bind(Value::bigint(self.skip)));
        }
        sql
    }

    /// How many items of a sorted source the page can need, as SQL; `None` without a limit.
    pub fn reach<'call>(&self, statement: &mut Statement<'call>) -> Option<String> {
        let reach = |limit| self.skip.saturating_add(limit).min(LONGEST_LIST);
        self.limit.map(|limit| statement.bind(Value::bigint(reach(limit))).to_string())
    }
}
