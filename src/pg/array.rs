//! Arrays of the server, made and read. What is made is in the current memory context, which for a parameter is that of the call.

use std::slice;

use ledger::credits::Credits;
use pgrx::pg_sys;

use super::numeric;
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
        let (mut datums, mut nulls): (Vec<_>, Vec<_>) = values
            .map(|value| value.map_or((pg_sys::Datum::null(), true), |value| (value.datum, false)))
            .unzip();
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

/// The elements of an `xid8[]`, which is detoasted if need be.
///
/// # Safety
/// `datum` is an `xid8[]` without NULLs.
pub(super) unsafe fn xid8s(datum: pg_sys::Datum) -> Vec<u64> {
    let stored = datum.cast_mut_ptr();
    // SAFETY: the caller's promise. A detoasted copy is freed when its elements have been read.
    unsafe {
        let array = pg_sys::pg_detoast_datum(stored);
        let ids = elements_of_xid8s(array.cast());
        if array != stored {
            pg_sys::pfree(array.cast());
        }
        ids
    }
}

/// # Safety
/// `array` is a detoasted `xid8[]` without NULLs.
unsafe fn elements_of_xid8s(array: *mut pg_sys::ArrayType) -> Vec<u64> {
    let (mut elements, mut count) = (std::ptr::null_mut(), 0);
    // SAFETY: the caller's promise. The elements are passed by value, and copied before the server's list of them is freed.
    unsafe {
        if (*array).ndim == 0 {
            return Vec::new();
        }
        pg_sys::deconstruct_array(
            array,
            pg_sys::XID8OID,
            XID8.length,
            XID8.by_value,
            XID8.alignment.cast_signed(),
            &raw mut elements,
            std::ptr::null_mut(),
            &raw mut count,
        );
        let ids = slice::from_raw_parts(elements.cast_const(), usize::try_from(count).unwrap_or_default())
            .iter()
            .map(|element| element.value() as u64)
            .collect();
        pg_sys::pfree(elements.cast());
        ids
    }
}

/// An `xid8[]` in the current memory context.
pub(super) fn of_xid8s(ids: &[u64]) -> pg_sys::Datum {
    array_of(&XID8, ids.iter().map(|&id| pg_sys::Datum::from(id))).datum
}
