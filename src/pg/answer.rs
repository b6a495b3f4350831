//! What a function returns: a value, or rows that the server reads when the function has returned.

use ledger::credits::Credits;
use pgrx::pg_sys;

use super::column_value::{self, ColumnValue};
use super::{description, numeric};
use crate::error::LedgerError;

/// What a function returns: a value, or rows that are in the result already.
pub struct Answer(pub(super) pg_sys::Datum);

/// `VarBit` of utils/varbit.h, which the bits follow.
#[repr(C)]
struct BitString {
    size: i32,
    count: i32,
}

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

/// The composite type that a function is declared to return.
#[derive(Clone, Copy, Debug)]
pub struct RowType(pub(super) pg_sys::Oid);

impl RowType {
    /// A value of the type with these columns. Raises 42804 unless its columns are of these types.
    pub(super) fn form<const N: usize>(
        self,
        types: &[pg_sys::Oid; N],
        datums: &mut [pg_sys::Datum; N],
        nulls: &mut [bool; N],
    ) -> Answer {
        // SAFETY: raises an error if there is no such type; its description is released once. It has as many columns as there are values,
        // of their types, which are copied.
        unsafe {
            let columns = pg_sys::lookup_rowtype_tupdesc(self.0, -1);
            if description::count(columns) != N || description::first_of_other_type(columns, types).is_some()
            {
                LedgerError::OtherResultType.raise();
            }
            let row = pg_sys::heap_form_tuple(columns, datums.as_mut_ptr(), nulls.as_mut_ptr());
            if (*columns).tdrefcount >= 0 {
                pg_sys::DecrTupleDescRefCount(columns);
            }
            Answer(pg_sys::HeapTupleHeaderGetDatum((*row).t_data))
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

    /// A `bigint`.
    pub fn bigint(number: i64) -> Self {
        Self(pg_sys::Datum::from(number))
    }

    /// A `bit` string.
    pub fn bits(bits: &[bool]) -> Self {
        let length = size_of::<BitString>() + bits.len().div_ceil(8);
        // SAFETY: the memory is zeroed and has room for the header and for each byte of bits, the highest first.
        unsafe {
            let string = pg_sys::palloc0(length).cast::<BitString>();
            pgrx::set_varsize_4b(string.cast(), i32::try_from(length).unwrap_or(i32::MAX));
            (*string).count = i32::try_from(bits.len()).unwrap_or(i32::MAX);
            let bytes = string.add(1).cast::<u8>();
            for (number, _) in bits.iter().enumerate().filter(|(_, is_set)| **is_set) {
                *bytes.add(number / 8) |= 0x80 >> (number % 8);
            }
            Self(pg_sys::Datum::from(string))
        }
    }

    /// A `boolean`.
    pub fn bool(value: bool) -> Self {
        Self(pg_sys::Datum::from(value))
    }

    /// Of a function that returns `void`.
    pub fn void() -> Self {
        Self(pg_sys::Datum::null())
    }

    /// Rows, in the result already.
    pub fn rows() -> Self {
        Self(pg_sys::Datum::null())
    }
}
