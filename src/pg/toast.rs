//! Values of variable length, which the server may have compressed or stored out of line.

use std::borrow::Cow;

use pgrx::{pg_sys, varlena};

/// Whether the value is compressed or out of line.
///
/// # Safety
/// A varlena.
#[inline]
pub(super) unsafe fn is_toasted(stored: *mut pg_sys::varlena) -> bool {
    // SAFETY: the caller's promise.
    unsafe { varlena::varatt_is_4b_c(stored) || varlena::varatt_is_1b_e(stored) }
}

/// What is behind the length word. It is copied only where it is compressed or out of line.
///
/// # Safety
/// A varlena that stays as long as `'stored`.
#[inline]
pub(super) unsafe fn bytes<'stored>(stored: *mut pg_sys::varlena) -> Cow<'stored, [u8]> {
    // SAFETY: the caller's promise.
    unsafe {
        if is_toasted(stored) {
            Cow::Owned(detoasted(stored))
        } else {
            Cow::Borrowed(varlena::varlena_to_byte_slice(stored))
        }
    }
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
