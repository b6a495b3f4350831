//! Values that a call gives the columns of a new row, and what they are in SQL.

use pgrx::pg_sys;

use crate::engine::direct::GivenValue;
use crate::pg::statement::{Parameter, Statement};
use crate::pg::value::Value;

/// A value for a column of a new row.
#[derive(Clone, Copy)]
pub(super) struct Given<'call> {
    /// The name of the column.
    pub(super) column: &'static str,
    /// Its type.
    oid: pg_sys::Oid,
    value: Option<Value<'call>>,
}

impl<'call> Given<'call> {
    pub(super) const fn new(column: &'static str, value: Value<'call>) -> Self {
        Self { column, oid: value.oid(), value: Some(value) }
    }

    /// A value of this type, or NULL.
    pub(super) const fn optional(
        column: &'static str,
        oid: pg_sys::Oid,
        value: Option<Value<'call>>,
    ) -> Self {
        Self { column, oid, value }
    }

    pub(super) fn bind(&self, statement: &mut Statement<'call>) -> Parameter {
        statement.bind_optional(self.oid, self.value)
    }
}

/// The values, each with the name of its column.
pub(super) fn values<'call>(given: &[Given<'call>]) -> Vec<GivenValue<'call>> {
    given.iter().map(|given| (given.column, given.value)).collect()
}

/// The names of their columns, for SQL.
pub(super) fn names(given: &[Given<'_>]) -> String {
    given.iter().map(|given| given.column).collect::<Vec<_>>().join(", ")
}

/// The parameters of a statement for these, for SQL.
pub(super) fn parameters<'call>(given: &[Given<'call>], statement: &mut Statement<'call>) -> String {
    given.iter().map(|given| given.bind(statement).to_string()).collect::<Vec<_>>().join(", ")
}

/// The condition that a row has these values, for SQL.
pub(super) fn equals<'call>(given: &[Given<'call>], statement: &mut Statement<'call>) -> String {
    let equal =
        |given: &Given<'call>| format!("{} OPERATOR(pg_catalog.=) {}", given.column, given.bind(statement));
    given.iter().map(equal).collect::<Vec<_>>().join(" AND ")
}
