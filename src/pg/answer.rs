//! What a function returns: a value, or rows that the server reads when the function has returned.

use ledger::credits::Credits;
use pgrx::pg_sys;

use super::column_value::{self, ColumnValue};
use super::{description, numeric};

/// What a function returns: a value, or rows that are in the result already.
pub struct Answer(pub(super) pg_sys::Datum);

/// The store that the rows of a result are collected in.
pub struct Rows {
    pub(super) store: *mut pg_sys::Tuplestorestate,
    pub(super) context: pg_sys::MemoryContext,
    /// The columns of the result; NULL where the calling query does not say.
    pub(super) columns: pg_sys::TupleDesc,
}

impl Rows {
    /// Adds a row of these values. Panics unless the result has as many columns, of their types.
    pub fn put<const N: usize>(&self, values: [ColumnValue<'_>; N]) {
        // SAFETY: the description is valid as long as the call, and has a column for each number below its count.
        let fits = unsafe {
            description::count(self.columns) == N
                && values
                    .iter()
                    .enumerate()
                    .all(|(number, value)| value.is_of(description::column(self.columns, number).atttypid))
        };
        assert!(fits, "a value for each column, of its type");
        let (mut datums, mut nulls) = column_value::datums(values);
        // SAFETY: as many values as the description says, of its types; the store copies them.
        unsafe {
            pg_sys::tuplestore_putvalues(self.store, self.columns, datums.as_mut_ptr(), nulls.as_mut_ptr());
        }
    }
}

impl Answer {
    /// A value of the type that the function is declared to return.
    pub(super) fn value(datum: pg_sys::Datum) -> Self {
        Self(datum)
    }

    /// A `numeric`.
    pub fn credits(credits: Credits) -> Self {
        Self(numeric::into_datum(credits))
    }

    /// A `boolean`.
    pub fn bool(value: bool) -> Self {
        Self(pg_sys::Datum::from(value))
    }

    /// Rows, in the result already.
    pub fn rows() -> Self {
        Self(pg_sys::Datum::null())
    }
}
