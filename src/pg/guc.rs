//! Settings that are checked when they are set.

use std::ffi::{CStr, CString, c_char, c_void};

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::analytics;

/// Defines a setting that names a notification channel; superusers only.
pub fn define_channel(
    name: &'static CStr,
    description: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    define_checked(name, description, setting, check_channel);
}

/// Defines a setting that names a table, optionally with its schema; superusers only.
pub fn define_table_name(
    name: &'static CStr,
    description: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    define_checked(name, description, setting, check_table_name);
}

type CheckHook =
    unsafe extern "C-unwind" fn(*mut *mut c_char, *mut *mut c_void, pg_sys::GucSource::Type) -> bool;

fn define_checked(
    name: &'static CStr,
    description: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    check: CheckHook,
) {
    // SAFETY: the hook has the signature that the server calls, and stays valid for the life of the process.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            description,
            c"",
            setting,
            GucContext::Suset,
            GucFlags::default(),
            Some(check),
            None,
            None,
        );
    }
}

/// Reserves the prefix: setting a name below it that is not defined is an error from now on.
pub fn reserve_prefix(prefix: &'static CStr) {
    // SAFETY: the name is NUL-terminated.
    unsafe {
        #[cfg(feature = "pg14")]
        pg_sys::EmitWarningsOnPlaceholders(prefix.as_ptr());
        #[cfg(not(feature = "pg14"))]
        pg_sys::MarkGUCPrefixReserved(prefix.as_ptr());
    }
}

/// # Safety
/// `value` points to a C string or to NULL, as the server passes it.
unsafe fn text<'a>(value: *mut *mut c_char) -> &'a CStr {
    // SAFETY: the caller's promise.
    unsafe { if (*value).is_null() { c"" } else { CStr::from_ptr(*value) } }
}

/// Sets the DETAIL of the error that the server raises for a refused value (22023).
fn explain(detail: &CStr) {
    // SAFETY: what the macro GUC_check_errdetail does: the text is copied.
    unsafe {
        pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(detail.as_ptr());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_channel(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the server passes where the new value is, a C string or NULL.
    let channel = unsafe { text(value) };
    let fits = channel.count_bytes() < pg_sys::NAMEDATALEN as usize;
    if !fits {
        explain(c"The name of a channel has at most 63 bytes.");
    }
    fits
}

#[pg_guard]
unsafe extern "C-unwind" fn check_table_name(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the server passes where the new value is, a C string or NULL.
    let parts = analytics::identifiers(unsafe { text(value) });
    let well_formed = parts.is_some_and(|parts| parts.len() <= 2);
    if !well_formed {
        explain(c"It must be a table's name, optionally with its schema: table or schema.table.");
    }
    well_formed
}
