//! Values of the server's types, as queries take them for parameters.

use std::ffi::CStr;
use std::marker::PhantomData;

use ledger::credits::Credits;
use ledger::numeric::DecodeError;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use pgrx::{pg_sys, varlena};

use super::numeric;
use super::text::{self, Text};

/// A value that a query takes as a parameter.
#[derive(Clone, Copy)]
pub struct Value<'call> {
    pub(super) oid: pg_sys::Oid,
    pub(super) datum: pg_sys::Datum,
    lifetime: PhantomData<&'call ()>,
}

/// A type of the values that clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `uuid`
    Uuid,
    /// `text`
    Text,
    /// `numeric`
    Numeric,
    /// `timestamptz`
    Timestamptz,
    /// `jsonb`
    Jsonb,
}

impl Type {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uuid => "uuid",
            Self::Text => "text",
            Self::Numeric => "numeric",
            Self::Timestamptz => "timestamptz",
            Self::Jsonb => "jsonb",
        }
    }
}

impl<'call> Value<'call> {
    /// A `uuid`.
    pub fn uuid(bytes: &'call [u8; 16]) -> Self {
        Self { oid: pg_sys::UUIDOID, datum: pg_sys::Datum::from(bytes.as_ptr()), lifetime: PhantomData }
    }

    /// A `numeric`.
    pub fn credits(credits: Credits) -> Self {
        Self::of(pg_sys::NUMERICOID, numeric::into_datum(credits))
    }

    /// A `bigint`.
    pub fn bigint(number: i64) -> Self {
        Self { oid: pg_sys::INT8OID, datum: pg_sys::Datum::from(number), lifetime: PhantomData }
    }

    /// An `xid8`.
    pub fn xid8(id: u64) -> Self {
        Self { oid: pg_sys::XID8OID, datum: pg_sys::Datum::from(id), lifetime: PhantomData }
    }

    /// A `timestamptz`, in microseconds since the server's epoch.
    pub fn time(microseconds: i64) -> Self {
        Self { oid: pg_sys::TIMESTAMPTZOID, datum: pg_sys::Datum::from(microseconds), lifetime: PhantomData }
    }

    /// An `interval`, in memory of the call's.
    pub fn interval(microseconds: i64) -> Self {
        // SAFETY: allocates what is written.
        let datum = unsafe {
            let interval = pg_sys::palloc0(size_of::<pg_sys::Interval>()).cast::<pg_sys::Interval>();
            (*interval).time = microseconds;
            pg_sys::Datum::from(interval)
        };
        Self { oid: pg_sys::INTERVALOID, datum, lifetime: PhantomData }
    }

    /// A `text`.
    pub fn text(text: Text) -> Self {
        Self { oid: pg_sys::TEXTOID, datum: text.as_datum(), lifetime: PhantomData }
    }

    /// A `timestamptz`.
    pub fn timestamptz(time: TimestampWithTimeZone) -> Self {
        Self {
            oid: pg_sys::TIMESTAMPTZOID,
            datum: time.into_datum().expect("a time is not NULL"),
            lifetime: PhantomData,
        }
    }

    /// A `text` of these bytes, which are in the encoding of the database.
    pub fn text_of(bytes: &[u8]) -> Self {
        Self::of(pg_sys::TEXTOID, text::datum(bytes))
    }

    /// What the server reads these bytes as, which are in the encoding of the database. Raises its error if it cannot.
    pub fn read(as_type: Type, bytes: &[u8]) -> Self {
        let (oid, input) = match as_type {
            Type::Text => return Self::text_of(bytes),
            Type::Uuid => (pg_sys::UUIDOID, pg_sys::F_UUID_IN),
            Type::Numeric => (pg_sys::NUMERICOID, pg_sys::F_NUMERIC_IN),
            Type::Timestamptz => (pg_sys::TIMESTAMPTZOID, pg_sys::F_TIMESTAMPTZ_IN),
            Type::Jsonb => (pg_sys::JSONBOID, pg_sys::F_JSONB_IN),
        };
        // SAFETY: the copy ends with a zero byte; the function is the input function of the type.
        let datum = unsafe {
            let string = pg_sys::pnstrdup(bytes.as_ptr().cast(), bytes.len());
            pg_sys::OidInputFunctionCall(input.into(), string, oid, -1)
        };
        Self::of(oid, datum)
    }

    /// What the server writes it as, in the encoding of the database.
    pub fn written(&self) -> Vec<u8> {
        let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
        // SAFETY: the function that is looked up takes this type; the result ends with a zero byte.
        unsafe {
            pg_sys::getTypeOutputInfo(self.oid, &raw mut output, &raw mut is_varlena);
            CStr::from_ptr(pg_sys::OidOutputFunctionCall(output, self.datum)).to_bytes().to_vec()
        }
    }

    /// What the server writes it as, for a message.
    pub fn shown(&self) -> String {
        text::shown(&self.written())
    }

    /// The bytes of a `text`.
    pub fn as_text(&self) -> &'call [u8] {
        assert_eq!(self.oid, pg_sys::TEXTOID, "the value is a text");
        // SAFETY: of this type; what is compressed or out of line is copied to memory of the call's.
        unsafe { varlena::varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(self.datum.cast_mut_ptr())) }
    }

    /// A `numeric` as a number of credits, where it is one that a sum could hold.
    pub fn as_credits(&self) -> Result<Credits, DecodeError> {
        assert_eq!(self.oid, pg_sys::NUMERICOID, "the value is a numeric");
        // SAFETY: of this type.
        unsafe { numeric::from_datum(self.datum) }
    }

    /// Its type in the server.
    pub const fn oid(&self) -> pg_sys::Oid {
        self.oid
    }

    pub(super) const fn of(oid: pg_sys::Oid, datum: pg_sys::Datum) -> Self {
        Self { oid, datum, lifetime: PhantomData }
    }

    /// An array, in memory of the call's.
    pub(super) fn array(oid: pg_sys::Oid, array: *mut pg_sys::ArrayType) -> Self {
        Self { oid, datum: pg_sys::Datum::from(array), lifetime: PhantomData }
    }
}
