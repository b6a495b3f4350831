//! `numeric` values of the SQL surface and of stored rows.

use ledger::credits::Credits;
use ledger::numeric::{self, DecodeError, Encoded, decode, encode};
use ledger::overdraft::Overdraft;
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{FromDatum, IntoDatum, pg_sys, varlena};

use super::toast;
use crate::error::LedgerError;

/// A `numeric` result: a sum of credits.
#[derive(Clone, Copy, Debug)]
pub struct Numeric(pub Credits);

/// # Safety
/// `datum` is a `numeric`.
pub(super) unsafe fn from_datum(datum: pg_sys::Datum) -> Result<Credits, DecodeError> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { toast::bytes(datum.cast_mut_ptr()) };
    decode(&bytes)
}

/// # Safety
/// `datum` is a `numeric`.
pub(super) unsafe fn overdraft(datum: pg_sys::Datum) -> Result<Overdraft, DecodeError> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { toast::bytes(datum.cast_mut_ptr()) };
    if numeric::is_infinity(&bytes) { Ok(Overdraft::Unlimited) } else { decode(&bytes).map(Overdraft::UpTo) }
}

/// A new `numeric` in the current memory context.
pub(super) fn into_datum(credits: Credits) -> pg_sys::Datum {
    datum_of(&encode(credits))
}

/// A new `numeric` in the current memory context: `Infinity` for no end.
pub(super) fn from_overdraft(overdraft: Overdraft) -> pg_sys::Datum {
    match overdraft {
        Overdraft::UpTo(credits) => into_datum(credits),
        Overdraft::Unlimited => datum_of(&numeric::infinity()),
    }
}

fn datum_of(encoded: &Encoded) -> pg_sys::Datum {
    let bytes = encoded.as_bytes();
    let size = pg_sys::VARHDRSZ + bytes.len();
    // SAFETY: the allocation has room for the length word and the bytes behind it.
    unsafe {
        let numeric = pg_sys::palloc(size).cast::<u8>();
        varlena::set_varsize_4b(numeric.cast(), i32::try_from(size).unwrap_or_default());
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), numeric.add(pg_sys::VARHDRSZ), bytes.len());
        pg_sys::Datum::from(numeric)
    }
}

impl IntoDatum for Numeric {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(into_datum(self.0))
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::NUMERICOID
    }
}

// SAFETY: the datum is made by `into_datum` in the context that results are returned in.
unsafe impl BoxRet for Numeric {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        // SAFETY: a numeric is what the function is declared to return.
        unsafe { fcinfo.return_raw_datum(into_datum(self.0)) }
    }
}

/// A sum that a query computed; raises 22003 if it is out of range.
impl FromDatum for Numeric {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: the query is written to return a numeric.
        let credits = (!is_null).then(|| unsafe { from_datum(datum) })?;
        Some(Self(credits.unwrap_or_else(|_| LedgerError::SumOutOfRange.raise())))
    }
}

// SAFETY: names the SQL type that the implementations above convert.
unsafe impl SqlTranslatable for Numeric {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Numeric);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> =
        Ok(SqlMappingRef::Numeric { precision: None, scale: None });
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> =
        Ok(ReturnsRef::One(SqlMappingRef::Numeric { precision: None, scale: None }));
}
