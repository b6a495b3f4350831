//! The extension as the catalog of this database has it.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::description;
use super::system_catalog::{self, Lookup};

/// The extension's name, and the prefix of its settings.
pub const NAME: &CStr = c"credits_ledger";

/// Version of this library.
pub const LIBRARY_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Version of the SQL objects in this database; `None` where there are none.
pub fn installed_version() -> Option<String> {
    let lookup = Lookup {
        catalog: pg_sys::ExtensionRelationId,
        index: pg_sys::ExtensionNameIndexId,
        column: pg_sys::Anum_pg_extension_extname,
        equal: pg_sys::F_NAMEEQ,
    };
    let mut version = None;
    // SAFETY: the column is a name, which is compared up to its NUL; the version is copied.
    unsafe {
        system_catalog::visit(lookup, pg_sys::Datum::from(NAME.as_ptr()), None, |table, row| {
            let column = pg_sys::Anum_pg_extension_extversion.cast_signed();
            let text = pg_sys::SPI_getvalue(row, (*table.as_raw()).rd_att, column);
            version = Some(description::text(text));
        });
    }
    version
}

/// Whether a script of the extension's own runs: it creates or updates the objects.
pub fn runs_script() -> bool {
    // SAFETY: plain reads of the session's state, and a catalog lookup.
    unsafe {
        pg_sys::creating_extension
            && pg_sys::CurrentExtensionObject == pg_sys::get_extension_oid(NAME.as_ptr(), true)
    }
}

/// Whether pg_upgrade is at work, which moves the rows as files.
pub fn is_moved_by_pg_upgrade() -> bool {
    // SAFETY: a plain read of the session's state.
    unsafe { pg_sys::IsBinaryUpgrade }
}
