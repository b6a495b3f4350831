//! The types of columns, and how a stored value of each is read. How one is written is in [`written_type`](super::written_type).

use std::borrow::Cow;
use std::marker::PhantomData;

use ledger::credits::Credits;
use ledger::day::Day;
use ledger::id::{ApiKeyId, BatchId, CapId, LedgerId, TransactionId, UserId};
use ledger::numeric::DecodeError;
use ledger::overdraft::Overdraft;
use ledger::transaction_type::TransactionType;
use pgrx::prelude::*;
use pgrx::{pg_sys, varlena};

use super::column::Layout;
use super::row::Row;
use super::{array, numeric, toast};

/// How a column is read.
pub trait ColumnType {
    /// Its type in the server.
    const OID: pg_sys::Oid;
    /// Whether the extension has made it without NOT NULL.
    const MAY_BE_NULL: bool;

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
/// 22004 where an owner has dropped the constraint and a NULL is stored. A column that may be NULL is of type `Option<T>`.
pub trait StoredType {
    /// Its type in the server.
    const OID: pg_sys::Oid;

    /// The type of the values in Rust.
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
    const MAY_BE_NULL: bool = false;
    type Value<'row> = T::Value<'row>;

    #[inline]
    unsafe fn read<'row, L: Layout>(row: &Row<'row, L>, number: usize) -> Self::Value<'row> {
        // SAFETY: the caller's promise; the row has what its datums point to.
        unsafe { T::from_datum(row.datum(number)) }
    }
}

impl<T: StoredType> ColumnType for Option<T> {
    const OID: pg_sys::Oid = T::OID;
    const MAY_BE_NULL: bool = true;
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

uuid!([u8; 16], UserId, TransactionId, BatchId, CapId, LedgerId);

/// A `date`.
impl StoredType for Day {
    const OID: pg_sys::Oid = pg_sys::DATEOID;
    type Value<'row> = Self;

    #[inline]
    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        // SAFETY: passed by value, as an integer.
        let date = unsafe { i32::from_polymorphic_datum(datum, false, pg_sys::INT4OID) };
        Self::from_date(date.unwrap_or_default())
    }
}

/// A `text` that names a transaction type; `None` for any other text.
impl StoredType for TransactionType {
    const OID: pg_sys::Oid = pg_sys::TEXTOID;
    type Value<'row> = Option<Self>;

    #[inline]
    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        let stored = datum.cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: a text. The names are too short for the server to compress one or to move it out of line.
        unsafe {
            (!toast::is_toasted(stored)).then(|| Self::from_name(varlena::varlena_to_byte_slice(stored)))?
        }
    }
}

/// A `text`: its bytes, in the encoding of the database. They are copied where they are compressed or out of line.
pub enum Text {}

impl StoredType for Text {
    const OID: pg_sys::Oid = pg_sys::TEXTOID;
    type Value<'row> = Cow<'row, [u8]>;

    #[inline]
    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        // SAFETY: a text, which stays as long as `'row`.
        unsafe { toast::bytes(datum.cast_mut_ptr()) }
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

/// A `numeric` that stands for such a number. Reading another one raises XX001.
macro_rules! numeric {
    ($($number:ty: $from_datum:path),*) => {
        $(
            impl ColumnType for $number {
                const OID: pg_sys::Oid = pg_sys::NUMERICOID;
                const MAY_BE_NULL: bool = false;
                type Value<'row> = Self;

                #[inline]
                unsafe fn read<'row, L: Layout>(row: &Row<'row, L>, number: usize) -> Self::Value<'row> {
                    // SAFETY: the caller's promise; the row has what its datums point to.
                    let value = unsafe { $from_datum(row.datum(number)) };
                    value.unwrap_or_else(|error| row.refuse_number(number, error))
                }
            }

            impl ColumnType for Option<$number> {
                const OID: pg_sys::Oid = pg_sys::NUMERICOID;
                const MAY_BE_NULL: bool = true;
                type Value<'row> = Self;

                #[inline]
                unsafe fn read<'row, L: Layout>(row: &Row<'row, L>, number: usize) -> Self::Value<'row> {
                    // SAFETY: the caller's promise; the row has what its datums point to.
                    let read = |datum| unsafe { $from_datum(datum) };
                    let refuse = |error| row.refuse_number(number, error);
                    row.datum_unless_null(number).map(|datum| read(datum).unwrap_or_else(refuse))
                }
            }
        )*
    };
}

// A sum of credits; how far an account may be overdrawn, which is `Infinity` for without end.
numeric!(Credits: numeric::from_datum, Overdraft: numeric::overdraft);

/// A `numeric[]` of sums of credits; the error is of one that is none.
impl StoredType for Vec<Credits> {
    const OID: pg_sys::Oid = pg_sys::NUMERICARRAYOID;
    type Value<'row> = Result<Self, DecodeError>;

    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        // SAFETY: the caller promises a value of this type: an array of such elements.
        unsafe { array::credits(datum) }
    }
}

/// A `uuid[]` of ids, those that are not NULL.
macro_rules! uuids {
    ($($id:ty),*) => {
        $(impl StoredType for Vec<$id> {
            const OID: pg_sys::Oid = pg_sys::UUIDARRAYOID;
            type Value<'row> = Self;

            unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
                // SAFETY: the caller promises a value of this type: an array of such elements.
                unsafe { array::uuids(datum) }.into_iter().map(<$id>::from_bytes).collect()
            }
        })*
    };
}

uuids!(ApiKeyId, CapId);

/// A `smallint`.
impl StoredType for i16 {
    const OID: pg_sys::Oid = pg_sys::INT2OID;
    type Value<'row> = Self;

    #[inline]
    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        // SAFETY: passed by value.
        unsafe { Self::from_polymorphic_datum(datum, false, pg_sys::INT2OID) }.unwrap_or_default()
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

/// A `timestamptz[]`, which may have NULLs in it.
impl StoredType for Vec<Option<Timestamptz>> {
    const OID: pg_sys::Oid = pg_sys::TIMESTAMPTZARRAYOID;
    type Value<'row> = Vec<Option<i64>>;

    unsafe fn from_datum<'row>(datum: pg_sys::Datum) -> Self::Value<'row> {
        // SAFETY: the caller promises a value of this type: an array of such elements.
        unsafe { array::timestamptzs(datum) }
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
        // SAFETY: the caller promises a value of this type: an array of such elements.
        unsafe { array::xid8s(datum) }
    }
}
