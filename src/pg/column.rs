//! Columns of the extension's tables: each has a number and the type that its values have in Rust.
//!
//! A [`Layout`] lists the columns of a table, and a [`Column`] is made from that list by the compiler. A scan compares the table
//! that it opens with the layout. So a row has every column that it can be asked for, and of the type that is expected.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use ledger::credits::Credits;
use ledger::id::{BatchId, LedgerId, UserId};
use ledger::transaction_type::TransactionType;
use pgrx::prelude::*;
use pgrx::{pg_sys, varlena};

use super::definition::Definition;
use super::relation::Table;
use super::row::Row;
use super::{array, description, numeric};
use crate::error::LedgerError;

/// The columns of a table, as a type.
pub trait Layout: 'static {
    /// What the extension has made of it.
    const DEFINITION: &'static Definition;
}

/// A column of a table with the layout `L`, whose values are read as `T`.
pub struct Column<L, T> {
    number: usize,
    of: PhantomData<(L, T)>,
}

/// A column of a table with the layout `L`, of whatever type.
pub struct AnyColumn<L> {
    number: usize,
    of: PhantomData<L>,
}

impl<L: Layout, T: ColumnType> Column<L, T> {
    /// The column with this number, from 1, and this name. The compiler refuses one that the layout does not have so.
    pub const fn new(number: usize, name: &str) -> Self {
        let Definition { columns, names, .. } = L::DEFINITION;
        assert!(number >= 1 && columns[number - 1].to_u32() == T::OID.to_u32(), "a column of another type");
        assert!(equal(names[number - 1].as_bytes(), name.as_bytes()), "a column of another name");
        Self { number, of: PhantomData }
    }

    /// The column with this number, which the layout does not list.
    ///
    /// # Safety
    /// The table that rows of the layout come from has this column, of the type [`ColumnType::OID`].
    pub(super) const unsafe fn found(number: usize) -> Self {
        Self { number, of: PhantomData }
    }

    /// Its number, from 1.
    pub const fn number(self) -> usize {
        self.number
    }

    /// The column without its type.
    pub const fn any(self) -> AnyColumn<L> {
        AnyColumn { number: self.number, of: PhantomData }
    }
}

impl<L: Layout> AnyColumn<L> {
    /// Its number, from 1.
    pub const fn number(self) -> usize {
        self.number
    }

    /// The one of the two that comes later in a row.
    pub const fn or_further(self, other: Self) -> Self {
        if self.number < other.number { other } else { self }
    }

    /// Its number as the catalog has it.
    pub(super) fn attribute_number(self) -> pg_sys::AttrNumber {
        pg_sys::AttrNumber::try_from(self.number).unwrap_or_default()
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        L::DEFINITION.names[self.number - 1]
    }
}

/// The names of columns with commas between them, for SQL.
pub fn names<L: Layout>(columns: &[AnyColumn<L>]) -> String {
    let names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
    names.join(", ")
}

const fn equal(left: &[u8], right: &[u8]) -> bool {
    let mut place = 0;
    while place < left.len() && place < right.len() && left[place] == right[place] {
        place += 1;
    }
    place == left.len() && place == right.len()
}

/// Raises 55000 unless the table has the columns of the layout.
pub(super) fn require<L: Layout>(table: &Table) {
    let Definition { columns, .. } = L::DEFINITION;
    // SAFETY: the table is open.
    let (count, other) = unsafe {
        let description = (*table.as_raw()).rd_att;
        (description::count(description), description::first_of_other_type(description, columns))
    };
    if let Some(number) = other.or_else(|| (count < columns.len()).then_some(count)) {
        LedgerError::OtherColumn { table: L::DEFINITION.display_name(), number: number + 1 }.raise();
    }
}

/// How a column is read.
pub trait ColumnType {
    /// Its type in the server.
    const OID: pg_sys::Oid;

    /// What a row has in it, which may borrow from the row.
    type Value<'row>;

    /// What the row has in the column.
    ///
    /// # Safety
    /// The row has a column of this number, of the type [`OID`](Self::OID).
    #[doc(hidden)]
    unsafe fn read<'row, L: Layout>(row: &Row<'row, L>, number: usize) -> Self::Value<'row>;
}

/// A type of stored values that are not NULL. A column of type `T` is one that the extension declares NOT NULL: reading it raises
/// 22004 where somebody has dropped that and stored a NULL. A column that may be NULL is of type `Option<T>`.
pub trait StoredType {
    /// Its type in the server.
    const OID: pg_sys::Oid;

    /// What it is in Rust.
    type Value<'row>;

    /// The value.
    ///
    /// # Safety
    /// The datum is of the type [`OID`](Self::OID), not NULL, and stays as long as `'row`.
    #[doc(hidden)]
    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row>;
}

impl<T: StoredType> ColumnType for T {
    const OID: pg_sys::Oid = T::OID;
    type Value<'row> = T::Value<'row>;

    #[inline]
    unsafe fn read<'row, L: Layout>(row: &Row<'row, L>, number: usize) -> Self::Value<'row> {
        // SAFETY: the caller's promise; the row has what its datums point to.
        unsafe { T::from_datum(row.datum(number)) }
    }
}

impl<T: StoredType> ColumnType for Option<T> {
    const OID: pg_sys::Oid = T::OID;
    type Value<'row> = Option<T::Value<'row>>;

    #[inline]
    unsafe fn read<'row, L: Layout>(row: &Row<'row, L>, number: usize) -> Self::Value<'row> {
        // SAFETY: the caller's promise; the row has what its datums point to.
        unsafe { row.datum_unless_null(number).map(|datum| T::from_datum(datum)) }
    }
}

/// A `uuid` that is the id of something; its layout is that of the 16 bytes.
macro_rules! uuid {
    ($($id:ty),*) => {
        $(impl StoredType for $id {
            const OID: pg_sys::Oid = pg_sys::UUIDOID;
            type Value<'row> = Self;

            #[inline]
            unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
                // SAFETY: a uuid is 16 bytes, passed by reference, and the type is laid out as they are.
                unsafe { *datum.cast_mut_ptr::<Self>() }
            }
        })*
    };
}

uuid!([u8; 16], UserId, BatchId, LedgerId);

/// A `text` that names a transaction type; `None` for any other text.
impl StoredType for TransactionType {
    const OID: pg_sys::Oid = pg_sys::TEXTOID;
    type Value<'row> = Option<Self>;

    #[inline]
    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        let stored = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: a text. The names are too short for the server to compress one or to move it out of line.
        unsafe { (!is_toasted(stored)).then(|| Self::from_name(varlena::varlena_to_byte_slice(stored)))? }
    }
}

/// A `text`: its bytes, in the encoding of the database. They are copied where they are compressed or out of line.
pub enum Text {}

impl StoredType for Text {
    const OID: pg_sys::Oid = pg_sys::TEXTOID;
    type Value<'row> = Cow<'row, [u8]>;

    #[inline]
    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        let stored = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: a text.
        unsafe {
            if is_toasted(stored) {
                Cow::Owned(detoasted(stored))
            } else {
                Cow::Borrowed(varlena::varlena_to_byte_slice(stored))
            }
        }
    }
}

/// Whether it is compressed or out of line.
///
/// # Safety
/// A varlena.
unsafe fn is_toasted(stored: *mut pg_sys::varlena) -> bool {
    // SAFETY: the caller's promise.
    unsafe { varlena::varatt_is_4b_c(stored) || varlena::varatt_is_1b_e(stored) }
}

/// # Safety
/// A varlena that is compressed or out of line.
#[cold]
unsafe fn detoasted(stored: *mut pg_sys::varlena) -> Vec<u8> {
    // SAFETY: the caller's promise; what the server has made of it is given back when it is copied.
    unsafe {
        let whole = pg_sys::pg_detoast_datum_packed(stored);
        let bytes = varlena::varlena_to_byte_slice(whole).to_vec();
        pg_sys::pfree(whole.cast());
        bytes
    }
}

/// A `jsonb`, as it is stored.
#[derive(Clone, Copy)]
pub struct Jsonb<'row> {
    datum: pg_sys::Datum,
    row: PhantomData<&'row ()>,
}

impl Jsonb<'_> {
    /// Whether it is an object. More than its first bytes is not decompressed or fetched.
    pub fn is_object(self) -> bool {
        // SAFETY: a jsonb begins with the header of its root, a `JsonbContainer`. The slice is always a copy.
        let header = unsafe {
            let start = pg_sys::pg_detoast_datum_slice(self.datum.cast_mut_ptr(), 0, 4);
            varlena::varlena_to_byte_slice(start).first_chunk().map(|&header| u32::from_ne_bytes(header))
        };
        header.is_some_and(|header| header & pg_sys::JB_FOBJECT != 0)
    }
}

impl StoredType for Jsonb<'static> {
    const OID: pg_sys::Oid = pg_sys::JSONBOID;
    type Value<'row> = Jsonb<'row>;

    #[inline]
    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        Jsonb { datum, row: PhantomData }
    }
}

/// A `numeric` that is a sum of credits. Reading it raises an error if it is none.
impl StoredType for Credits {
    const OID: pg_sys::Oid = pg_sys::NUMERICOID;
    type Value<'row> = Self;

    #[inline]
    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        // SAFETY: a numeric.
        unsafe { numeric::from_datum(datum) }
            .unwrap_or_else(|error| error!("a stored amount is no number of credits: {error}"))
    }
}

/// A `bigint`.
impl StoredType for i64 {
    const OID: pg_sys::Oid = pg_sys::INT8OID;
    type Value<'row> = Self;

    #[inline]
    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        // SAFETY: passed by value.
        unsafe { Self::from_polymorphic_datum(datum, false, pg_sys::INT8OID) }.unwrap_or_default()
    }
}

/// A `timestamptz`, in microseconds since the server's epoch; the infinities are the ends of the range.
pub enum Timestamptz {}

impl StoredType for Timestamptz {
    const OID: pg_sys::Oid = pg_sys::TIMESTAMPTZOID;
    type Value<'row> = i64;

    #[inline]
    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        // SAFETY: passed by value, as a bigint.
        unsafe { <i64 as StoredType>::from_datum(datum) }
    }
}

/// An `xid8`.
impl StoredType for u64 {
    const OID: pg_sys::Oid = pg_sys::XID8OID;
    type Value<'row> = Self;

    #[inline]
    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        // SAFETY: passed by value, as a bigint.
        unsafe { <i64 as StoredType>::from_datum(datum) }.cast_unsigned()
    }
}

/// A `boolean`.
impl StoredType for bool {
    const OID: pg_sys::Oid = pg_sys::BOOLOID;
    type Value<'row> = Self;

    #[inline]
    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        datum.value() != 0
    }
}

/// An `xid8[]`, without NULLs.
impl StoredType for Vec<u64> {
    const OID: pg_sys::Oid = pg_sys::XID8ARRAYOID;
    type Value<'row> = Self;

    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        // SAFETY: an array of this type.
        unsafe { array::xid8s(datum) }
    }
}

impl<L, T> Clone for Column<L, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L, T> Copy for Column<L, T> {}

impl<L, T> PartialEq for Column<L, T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<L, T> Eq for Column<L, T> {}

impl<L, T> fmt::Debug for Column<L, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Column({})", self.number)
    }
}

impl<L> Clone for AnyColumn<L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L> Copy for AnyColumn<L> {}
