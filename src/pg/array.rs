//! Arrays of the server, made and read. What is made is in the current memory context, which for a parameter is that of the call.

use std::slice;

use ledger::credits::Credits;
use ledger::numeric::DecodeError;
use pgrx::varlena::varlena_to_byte_slice;
use pgrx::{FromDatum, pg_sys};

use super::numeric;
use super::text::Text;
use super::toast::is_toasted;
use super::value::{Type, Value};

/// A type of elements, as `construct_array` wants it described.
struct Elements {
    oid: pg_sys::Oid,
    array_oid: pg_sys::Oid,
    length: i32,
    by_value: bool,
    alignment: u8,
}

const UUID: Elements = Elements {
    oid: pg_sys::UUIDOID,
    array_oid: pg_sys::UUIDARRAYOID,
    length: 16,
    by_value: false,
    alignment: pg_sys::TYPALIGN_CHAR,
};

const NUMERIC: Elements = Elements {
    oid: pg_sys::NUMERICOID,
    array_oid: pg_sys::NUMERICARRAYOID,
    length: -1,
    by_value: false,
    alignment: pg_sys::TYPALIGN_INT,
};

const BIGINT: Elements = Elements {
    oid: pg_sys::INT8OID,
    array_oid: pg_sys::INT8ARRAYOID,
    length: 8,
    by_value: true,
    alignment: pg_sys::TYPALIGN_DOUBLE,
};

const TIMESTAMPTZ: Elements =
    Elements { oid: pg_sys::TIMESTAMPTZOID, array_oid: pg_sys::TIMESTAMPTZARRAYOID, ..BIGINT };

const XID8: Elements = Elements { oid: pg_sys::XID8OID, array_oid: pg_sys::XID8ARRAYOID, ..BIGINT };

const TEXT: Elements = Elements { oid: pg_sys::TEXTOID, array_oid: pg_sys::TEXTARRAYOID, ..NUMERIC };

const JSONB: Elements = Elements { oid: pg_sys::JSONBOID, array_oid: pg_sys::JSONBARRAYOID, ..NUMERIC };

impl Value<'_> {
    /// A `uuid[]`.
    pub fn uuids<'a>(uuids: impl Iterator<Item = &'a [u8; 16]>) -> Self {
        array_of(&UUID, uuids.map(|uuid| pg_sys::Datum::from(std::ptr::from_ref(uuid))))
    }

    /// A `numeric[]`.
    pub fn numerics(credits: impl Iterator<Item = Credits>) -> Self {
        array_of(&NUMERIC, credits.map(numeric::into_datum))
    }

    /// A `bigint[]`.
    pub fn bigints(numbers: impl Iterator<Item = i64>) -> Self {
        array_of(&BIGINT, numbers.map(pg_sys::Datum::from))
    }

    /// An `xid8[]`.
    pub fn xid8s(ids: impl Iterator<Item = u64>) -> Self {
        array_of(&XID8, ids.map(pg_sys::Datum::from))
    }

    /// A `timestamptz[]`, from microseconds since the server's epoch.
    pub fn timestamptzs(dates: impl Iterator<Item = i64>) -> Self {
        array_of(&TIMESTAMPTZ, dates.map(pg_sys::Datum::from))
    }

    /// An array of values that are all of this type, or NULL.
    pub fn array_with_nulls<'a>(element_type: Type, values: impl Iterator<Item = Option<Value<'a>>>) -> Self {
        let elements = match element_type {
            Type::Uuid => &UUID,
            Type::Text => &TEXT,
            Type::Numeric => &NUMERIC,
            Type::Timestamptz => &TIMESTAMPTZ,
            Type::Jsonb => &JSONB,
        };
        array_with_nulls_of(elements, values.map(|value| value.map(|value| value.datum)))
    }
}

fn array_with_nulls_of<'call>(
    elements: &Elements,
    values: impl Iterator<Item = Option<pg_sys::Datum>>,
) -> Value<'call> {
    let (mut datums, mut nulls): (Vec<_>, Vec<_>) =
        values.map(|value| (value.unwrap_or_else(pg_sys::Datum::null), value.is_none())).unzip();
    let (mut length, mut first) = (i32::try_from(datums.len()).unwrap_or(i32::MAX), 1);
    // SAFETY: the values are of the type that is described, and there are as many NULL flags; the array is a copy of them.
    let array = unsafe {
        pg_sys::construct_md_array(
            datums.as_mut_ptr(),
            nulls.as_mut_ptr(),
            1,
            &raw mut length,
            &raw mut first,
            elements.oid,
            elements.length,
            elements.by_value,
            elements.alignment.cast_signed(),
        )
    };
    Value::array(elements.array_oid, array)
}

fn array_of<'call>(elements: &Elements, datums: impl Iterator<Item = pg_sys::Datum>) -> Value<'call> {
    let mut datums: Vec<pg_sys::Datum> = datums.collect();
    // SAFETY: the datums are of the type that is described; the array is a copy of them.
    let array = unsafe {
        pg_sys::construct_array(
            datums.as_mut_ptr(),
            i32::try_from(datums.len()).unwrap_or(i32::MAX),
            elements.oid,
            elements.length,
            elements.by_value,
            elements.alignment.cast_signed(),
        )
    };
    Value::array(elements.array_oid, array)
}

/// The elements of an `xid8[]`.
///
/// # Safety
/// `datum` is an `xid8[]` without NULLs.
pub(super) unsafe fn xid8s(datum: pg_sys::Datum) -> Vec<u64> {
    // SAFETY: the caller's promise.
    unsafe {
        elements(datum, &XID8, |element| element.map(|element| element.value() as u64).unwrap_or_default())
    }
}

/// The elements of a `numeric[]`, each a number of credits. A NULL is no number.
///
/// # Safety
/// `datum` is a `numeric[]`.
pub(super) unsafe fn credits(datum: pg_sys::Datum) -> Result<Vec<Credits>, DecodeError> {
    // SAFETY: the caller's promise: the elements are numerics.
    let credits = unsafe {
        elements(datum, &NUMERIC, |element| {
            element.map_or(Err(DecodeError::Malformed), |element| numeric::from_datum(element))
        })
    };
    credits.into_iter().collect()
}

/// The elements of a `uuid[]`, without NULLs.
///
/// # Safety
/// `datum` is a `uuid[]`.
pub(super) unsafe fn uuids(datum: pg_sys::Datum) -> Vec<[u8; 16]> {
    // SAFETY: the caller's promise: an element is 16 bytes, passed by reference.
    unsafe {
        let read =
            |element: Option<pg_sys::Datum>| element.map(|element| *element.cast_mut_ptr::<[u8; 16]>());
        elements(datum, &UUID, read).into_iter().flatten().collect()
    }
}

/// The elements of a `text[]`, without NULLs. They lie in the array.
///
/// # Safety
/// `datum` is a `text[]` that is neither compressed nor out of line.
pub(super) unsafe fn texts(datum: pg_sys::Datum) -> Vec<Text> {
    // SAFETY: the caller's promise: an element is a text.
    unsafe {
        let read = |element: Option<pg_sys::Datum>| Text::from_polymorphic_datum(element?, false, TEXT.oid);
        elements(datum, &TEXT, read).into_iter().flatten().collect()
    }
}

/// The elements of a `timestamptz[]`.
///
/// # Safety
/// `datum` is a `timestamptz[]`.
pub(super) unsafe fn timestamptzs(datum: pg_sys::Datum) -> Vec<Option<i64>> {
    // SAFETY: the caller's promise.
    unsafe {
        elements(datum, &TIMESTAMPTZ, |element| element.map(|element| element.value().cast_signed() as i64))
    }
}

/// What `read` makes of the elements of an array, of which it is given `None` for NULL. The array is detoasted if need be.
///
/// # Safety
/// `datum` is an array of these elements. `read` keeps none of them, unless the array is neither compressed nor out of line.
unsafe fn elements<T>(
    datum: pg_sys::Datum,
    elements: &Elements,
    read: impl Fn(Option<pg_sys::Datum>) -> T,
) -> Vec<T> {
    let stored: *mut pg_sys::varlena = datum.cast_mut_ptr();
    // SAFETY: the caller's promise. Behind its length, which may be a short one, an array has the number of its dimensions.
    unsafe {
        if !is_toasted(stored) && varlena_to_byte_slice(stored).starts_with(&[0; 4]) {
            return Vec::new();
        }
    }
    let (mut datums, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
    // SAFETY: the caller's promise. The server's lists have as many elements as it says; they, and a detoasted copy of the array, are freed
    // when the elements have been read.
    unsafe {
        let array = pg_sys::pg_detoast_datum(stored);
        let mut values = Vec::new();
        if (*array.cast::<pg_sys::ArrayType>()).ndim > 0 {
            pg_sys::deconstruct_array(
                array.cast(),
                elements.oid,
                elements.length,
                elements.by_value,
                elements.alignment.cast_signed(),
                &raw mut datums,
                &raw mut nulls,
                &raw mut count,
            );
            let count = usize::try_from(count).unwrap_or_default();
            let nulls_read = slice::from_raw_parts(nulls.cast_const(), count);
            let datums_read = slice::from_raw_parts(datums.cast_const(), count);
            values.extend(
                datums_read
                    .iter()
                    .zip(nulls_read)
                    .map(|(&datum, &is_null)| read((!is_null).then_some(datum))),
            );
            pg_sys::pfree(datums.cast());
            pg_sys::pfree(nulls.cast());
        }
        if array != stored {
            pg_sys::pfree(array.cast());
        }
        values
    }
}

/// An `xid8[]` in the current memory context.
pub(super) fn of_xid8s(ids: &[u64]) -> pg_sys::Datum {
    array_of(&XID8, ids.iter().map(|&id| pg_sys::Datum::from(id))).datum
}

/// A `uuid[]` in the current memory context.
pub(super) fn of_uuids<'a>(uuids: impl Iterator<Item = &'a [u8; 16]>) -> pg_sys::Datum {
    Value::uuids(uuids).datum
}

/// A `numeric[]` in the current memory context.
pub(super) fn of_credits(credits: &[Credits]) -> pg_sys::Datum {
    array_of(&NUMERIC, credits.iter().map(|&credits| numeric::into_datum(credits))).datum
}

/// A `timestamptz[]` in the current memory context.
pub(super) fn of_timestamptzs(dates: &[Option<i64>]) -> pg_sys::Datum {
    array_with_nulls_of(&TIMESTAMPTZ, dates.iter().map(|date| date.map(pg_sys::Datum::from))).datum
}
