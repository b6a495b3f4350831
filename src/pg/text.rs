//! `text` arguments of the SQL surface.
//!
//! A text is in the encoding of the database, which need not be UTF-8. It is passed on as it came: only its bytes are
//! compared, and only errors show it.

use std::fmt;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::{FromDatum, IntoDatum, pg_sys, varlena};

/// A `text` argument, valid while the function runs.
#[derive(Clone, Copy)]
pub struct Text(pg_sys::Datum);

impl Text {
    /// Its bytes, in the encoding of the database.
    pub fn as_bytes(&self) -> &[u8] {
        // SAFETY: the datum is a text that is whole, and outlives the argument.
        unsafe { varlena::varlena_to_byte_slice(self.0.cast_mut_ptr()) }
    }
}

/// For an error. Where it may not be UTF-8, what is not ASCII is escaped.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: a plain read of backend state.
        let encoding = unsafe { pg_sys::GetDatabaseEncoding() };
        if encoding == pg_sys::pg_enc::PG_UTF8.cast_signed() {
            String::from_utf8_lossy(self.as_bytes()).fmt(f)
        } else {
            self.as_bytes().escape_ascii().fmt(f)
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

impl FromDatum for Text {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _type: pg_sys::Oid,
    ) -> Option<Self> {
        // SAFETY: the function is declared to take a text; detoasting copies only what is compressed or out of line.
        (!is_null).then(|| Self(unsafe { pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr()) }.into()))
    }
}

impl IntoDatum for Text {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::TEXTOID
    }
}

// SAFETY: as for any type that is read from its datum.
unsafe impl<'fcx> ArgAbi<'fcx> for Text {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the caller has checked that the argument is not NULL.
        unsafe { arg.unbox_arg_using_from_datum() }.expect("the argument is not NULL")
    }
}

// SAFETY: names the SQL type that the implementations above convert.
unsafe impl SqlTranslatable for Text {
    const TYPE_IDENT: &'static str = pgrx::pgrx_resolved_type!(Text);
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("TEXT"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("TEXT")));
}
