//! `text` arguments of the SQL surface.
//!
//! A text is in the encoding of the database, which need not be UTF-8. It is passed on as it came: only its bytes are
//! compared, and only errors show it.

use std::fmt;

use pgrx::{FromDatum, pg_sys, varlena};

/// A `text` argument, valid while the function runs.
#[derive(Clone, Copy)]
pub struct Text(pg_sys::Datum);

impl Text {
    pub(super) const fn as_datum(self) -> pg_sys::Datum {
        self.0
    }

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
