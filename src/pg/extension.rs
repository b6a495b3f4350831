//! The extension as the catalog of this database has it.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::relation::{Access, Table};

/// The extension's name, and the prefix of its settings.
pub const NAME: &CStr = c"credits_ledger";

/// Version of this library.
pub const LIBRARY_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Version of the SQL objects in this database; `None` where there are none.
pub fn installed_version() -> Option<String> {
    let table = Table::open(pg_sys::ExtensionRelationId, Access::Read);
    let mut key = pg_sys::ScanKeyData::default();
    // SAFETY: an index scan of an open catalog, ended before the catalog is closed; the key's text is static, and the
    // version is copied while the scan stands on its row.
    unsafe {
        pg_sys::ScanKeyInit(
            &raw mut key,
            i16::try_from(pg_sys::Anum_pg_extension_extname).unwrap_or_default(),
            u16::try_from(pg_sys::BTEqualStrategyNumber).unwrap_or_default(),
            pg_sys::F_NAMEEQ.into(),
            pg_sys::Datum::from(NAME.as_ptr()),
        );
        let scan = pg_sys::systable_beginscan(
            table.as_raw(),
            pg_sys::ExtensionNameIndexId.into(),
            true,
            std::ptr::null_mut(),
            1,
            &raw mut key,
        );
        let row = pg_sys::systable_getnext(scan);
        let version = (!row.is_null()).then(|| {
            let column = pg_sys::Anum_pg_extension_extversion.cast_signed();
            let text = pg_sys::SPI_getvalue(row, (*table.as_raw()).rd_att, column);
            CStr::from_ptr(text).to_string_lossy().into_owned()
        });
        pg_sys::systable_endscan(scan);
        version
    }
}
