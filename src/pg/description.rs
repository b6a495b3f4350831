//! Descriptions of rows: which columns there are.

use std::ffi::{CStr, c_char};

use pgrx::pg_sys;

/// A column, counted from 0.
///
/// # Safety
/// The description is valid and has so many columns.
pub(super) unsafe fn column<'a>(
    description: pg_sys::TupleDesc,
    number: usize,
) -> &'a pg_sys::FormData_pg_attribute {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return &*(*description).attrs.as_ptr().add(number);
        #[cfg(feature = "pg18")]
        return &*pg_sys::TupleDescAttr(description, i32::try_from(number).unwrap_or_default());
    }
}

/// The number of columns, dropped ones included.
///
/// # Safety
/// The description is valid.
pub(super) unsafe fn count(description: pg_sys::TupleDesc) -> usize {
    // SAFETY: the caller's promise.
    usize::try_from(unsafe { (*description).natts }).unwrap_or_default()
}

/// The first column that is not of the type that it should be, if there is one, among those that are in both.
///
/// # Safety
/// The description is valid.
pub(super) unsafe fn first_of_other_type(
    description: pg_sys::TupleDesc,
    types: &[pg_sys::Oid],
) -> Option<usize> {
    // SAFETY: the caller's promise; no column past the last is asked for. A dropped one has no type.
    unsafe {
        (0..count(description).min(types.len()))
            .find(|&number| column(description, number).atttypid != types[number])
    }
}

/// A copy of a text of the server's; empty for NULL.
///
/// # Safety
/// NULL or a text that ends with NUL.
pub(super) unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
