//! `text` arguments of the SQL surface.
//!
//! A text is in the encoding of the database, which need not be UTF-8. So it is compared by its bytes, and converted for error
//! messages only.

use std::cmp::Ordering;
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
        // SAFETY: the datum is a detoasted text, which stays as long as the call.
        unsafe { varlena::varlena_to_byte_slice(self.0.cast_mut_ptr()) }
    }
}

/// A `text` in memory of Rust's.
#[derive(Default)]
pub(super) struct OwnedText(Vec<u32>);

impl OwnedText {
    /// Replaces the text by one of these bytes. It stays until that is done again.
    pub(super) fn set(&mut self, bytes: &[u8]) -> pg_sys::Datum {
        let size = size_of::<u32>() + bytes.len();
        self.0.clear();
        self.0.resize(size.div_ceil(size_of::<u32>()), 0);
        // SAFETY: the vector has room for the header, one word, and the bytes behind it, and is aligned as a text is.
        unsafe {
            let text = self.0.as_mut_ptr().cast::<pg_sys::varlena>();
            varlena::set_varsize_4b(text, i32::try_from(size).unwrap_or(i32::MAX));
            bytes.as_ptr().copy_to_nonoverlapping(text.cast::<u8>().add(size_of::<u32>()), bytes.len());
            text.into()
        }
    }
}

/// How the server orders two texts, which are in the encoding of the database, by its default collation.
pub fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let length = |text: &[u8]| i32::try_from(text.len()).unwrap_or(i32::MAX);
    // SAFETY: so many bytes of each are read.
    let order = unsafe {
        pg_sys::varstr_cmp(
            one.as_ptr().cast(),
            length(one),
            other.as_ptr().cast(),
            length(other),
            pg_sys::DEFAULT_COLLATION_OID,
        )
    };
    order.cmp(&0)
}

/// For an error message. In a database that is not UTF-8, bytes that are not ASCII are escaped.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(self.as_bytes()))
    }
}

/// A text in the encoding of the database, for an error message. In a database that is not UTF-8, bytes that are not ASCII are
/// escaped.
pub fn shown(bytes: &[u8]) -> String {
    if database_is_utf8() {
        String::from_utf8_lossy(bytes).into_owned()
    } else {
        bytes.escape_ascii().to_string()
    }
}

/// How many characters a text in the encoding of the database has.
pub fn characters(bytes: &[u8]) -> usize {
    let length = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
    // SAFETY: reads no further than the length.
    let characters = unsafe { pg_sys::pg_mbstrlen_with_len(bytes.as_ptr().cast(), length) };
    usize::try_from(characters).unwrap_or_default()
}

/// Whether a text in the encoding of the database is empty or nothing but white space.
pub fn is_blank(bytes: &[u8]) -> bool {
    match bytes.first() {
        None => true,
        // Nearly every text.
        Some(first) if first.is_ascii_graphic() => false,
        Some(_) if database_is_utf8() => std::str::from_utf8(bytes).is_ok_and(|text| text.trim().is_empty()),
        Some(_) => bytes.iter().all(u8::is_ascii_whitespace),
    }
}

fn database_is_utf8() -> bool {
    // SAFETY: reads a global of the server.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8.cast_signed() }
}

/// A message as a `text` in the current memory context. In a database that is not UTF-8, `?` stands for what is not ASCII.
pub(super) fn message(message: &str) -> pg_sys::Datum {
    let ascii;
    let bytes = if database_is_utf8() {
        message.as_bytes()
    } else {
        ascii = message.replace(|character: char| !character.is_ascii(), "?");
        ascii.as_bytes()
    };
    datum(bytes)
}

/// A `text` of these bytes, which are in the encoding of the database, in the current memory context.
pub(super) fn datum(bytes: &[u8]) -> pg_sys::Datum {
    let length = i32::try_from(bytes.len()).unwrap_or_default();
    // SAFETY: copies as many bytes as there are.
    unsafe { pg_sys::cstring_to_text_with_len(bytes.as_ptr().cast(), length) }.into()
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
