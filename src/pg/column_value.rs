//! Values for the columns of rows that are written or returned.

use std::marker::PhantomData;

use ledger::credits::Credits;
use ledger::day::Day;
use ledger::id::CapId;
use ledger::overdraft::Overdraft;
use pgrx::pg_sys;

use super::column::{AnyColumn, Layout};
use super::value::Value;
use super::{array, numeric, text};

/// A value, and what type the server has for it.
#[derive(Clone, Copy, Debug)]
pub enum ColumnValue<'a> {
    /// NULL
    Null,
    /// `uuid`
    Uuid(&'a [u8; 16]),
    /// `smallint`
    Int2(i16),
    /// `integer`
    Int4(i32),
    /// `bigint`
    Int8(i64),
    /// `text`, of nothing but ASCII
    Text(&'a str),
    /// `text`, in the encoding of the database
    TextBytes(&'a [u8]),
    /// `text` that may not be ASCII: in a database that is not UTF-8, `?` stands for what is not
    Message(&'a str),
    /// `numeric`
    Credits(Credits),
    /// `numeric`
    Overdraft(Overdraft),
    /// `uuid[]`
    Caps(&'a [CapId]),
    /// `numeric[]`
    CreditsArray(&'a [Credits]),
    /// `date`
    Date(Day),
    /// `timestamptz`, in microseconds since the server's epoch
    Timestamptz(i64),
    /// `timestamptz[]`, in the same
    TimestamptzArray(&'a [Option<i64>]),
    /// `boolean`
    Bool(bool),
    /// `xid8`
    Xid8(u64),
    /// `xid8[]`
    Xid8Array(&'a [u64]),
    /// What a stored row has in a column: see [`Row::values`](super::row::Row::values)
    Of(Stored<'a>),
}

/// A value that belongs to a row and is not NULL.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    pub(super) datum: pg_sys::Datum,
    pub(super) oid: pg_sys::Oid,
    pub(super) row: PhantomData<&'a ()>,
}

/// A value for a column of a table with the layout `L`.
pub struct NewValue<'a, L> {
    column: AnyColumn<L>,
    value: ColumnValue<'a>,
}

impl<'a, L: Layout> NewValue<'a, L> {
    /// The value must be of the column's type.
    pub(super) const fn new(column: AnyColumn<L>, value: ColumnValue<'a>) -> Self {
        Self { column, value }
    }

    /// The values of a row, and the numbers of their columns: all of the layout, in order, and then others.
    pub(super) fn row<const N: usize>(values: [Self; N]) -> ([ColumnValue<'a>; N], [usize; N]) {
        let numbers = std::array::from_fn(|place| values[place].column.number());
        let listed = L::DEFINITION.columns.len();
        let is_ordered = numbers.iter().copied().take(listed).eq(1..=listed)
            && numbers.iter().skip(listed).all(|&number| number > listed);
        assert!(is_ordered, "one value for each column, in order");
        (values.map(|value| value.value), numbers)
    }
}

/// The datums of the values, and which of them are NULL. What is passed by reference is in the current memory context, or borrowed.
pub(super) fn datums<const N: usize>(values: [ColumnValue<'_>; N]) -> ([pg_sys::Datum; N], [bool; N]) {
    (values.map(ColumnValue::to_datum), values.map(|value| value.is_null()))
}

impl<'a> ColumnValue<'a> {
    /// A value that a client has given, or NULL.
    pub fn of(value: Option<Value<'a>>) -> Self {
        value.map_or(Self::Null, |value| {
            Self::Of(Stored { datum: value.datum, oid: value.oid, row: PhantomData })
        })
    }
}

impl ColumnValue<'_> {
    /// Whether it is NULL.
    pub(super) const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether a column of this type can have it.
    pub(super) fn is_of(&self, oid: pg_sys::Oid) -> bool {
        match self {
            Self::Null => true,
            Self::Uuid(_) => oid == pg_sys::UUIDOID,
            Self::Int2(_) => oid == pg_sys::INT2OID,
            Self::Int4(_) => oid == pg_sys::INT4OID,
            Self::Int8(_) => oid == pg_sys::INT8OID,
            Self::Text(_) | Self::TextBytes(_) | Self::Message(_) => oid == pg_sys::TEXTOID,
            Self::Caps(_) => oid == pg_sys::UUIDARRAYOID,
            Self::CreditsArray(_) => oid == pg_sys::NUMERICARRAYOID,
            Self::TimestamptzArray(_) => oid == pg_sys::TIMESTAMPTZARRAYOID,
            Self::Credits(_) | Self::Overdraft(_) => oid == pg_sys::NUMERICOID,
            Self::Date(_) => oid == pg_sys::DATEOID,
            Self::Timestamptz(_) => oid == pg_sys::TIMESTAMPTZOID,
            Self::Bool(_) => oid == pg_sys::BOOLOID,
            Self::Xid8(_) => oid == pg_sys::XID8OID,
            Self::Xid8Array(_) => oid == pg_sys::XID8ARRAYOID,
            Self::Of(stored) => oid == stored.oid,
        }
    }

    /// Its datum. What is passed by reference is in the current memory context, or borrowed.
    pub(super) fn to_datum(self) -> pg_sys::Datum {
        match self {
            Self::Null => pg_sys::Datum::from(0_usize),
            Self::Uuid(bytes) => pg_sys::Datum::from(std::ptr::from_ref(bytes)),
            Self::Int2(value) => pg_sys::Datum::from(value),
            Self::Int4(value) => pg_sys::Datum::from(value),
            Self::Int8(value) | Self::Timestamptz(value) => pg_sys::Datum::from(value),
            Self::Date(day) => pg_sys::Datum::from(day.date()),
            Self::Credits(credits) => numeric::into_datum(credits),
            Self::Overdraft(overdraft) => numeric::from_overdraft(overdraft),
            Self::Caps(caps) => array::of_uuids(caps.iter().map(CapId::as_bytes)),
            Self::CreditsArray(credits) => array::of_credits(credits),
            Self::TimestamptzArray(dates) => array::of_timestamptzs(dates),
            Self::Text(text) => text::datum(text.as_bytes()),
            Self::TextBytes(bytes) => text::datum(bytes),
            Self::Message(message) => text::message(message),
            Self::Of(stored) => stored.datum,
            Self::Bool(value) => pg_sys::Datum::from(value),
            Self::Xid8(id) => pg_sys::Datum::from(id),
            Self::Xid8Array(ids) => array::of_xid8s(ids),
        }
    }
}
