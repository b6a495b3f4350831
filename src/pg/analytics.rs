//! The application's analytics table, looked up under the caller's own search_path, before that is pinned for the query.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use pgrx::pg_sys;

use super::ownership::is_trusted;
use super::search_path::SearchPath;

/// A table or view and the ways to name it.
#[derive(Clone, Copy, Debug)]
pub struct Table(pg_sys::Oid);

/// The table or view with this name; `None` if there is none. A name without a schema is looked up in the caller's search_path, where
/// relations are skipped whose owner the caller need not trust otherwise ([`is_trusted`]). A qualified name is taken as it is: only a
/// superuser can set it.
pub fn find_table(name: &CStr) -> Option<Table> {
    let parts = identifiers(name)?;
    // SAFETY: catalog lookups by C strings. An error for a schema that the caller may not use unwinds through here.
    let relation = unsafe {
        match parts.as_slice() {
            [table] => find_in_path(table),
            [schema, table] => match pg_sys::LookupExplicitNamespace(schema.as_ptr(), true) {
                pg_sys::InvalidOid => pg_sys::InvalidOid,
                schema => pg_sys::get_relname_relid(table.as_ptr(), schema),
            },
            _ => return None,
        }
    };
    // SAFETY: a catalog lookup by oid; one that is not there has no kind.
    let kind = u8::try_from(unsafe { pg_sys::get_rel_relkind(relation) }).unwrap_or(0);
    b"rpvmf".contains(&kind).then_some(Table(relation))
}

/// The first relation of this name in the search_path that is trusted; `InvalidOid` if there is none.
///
/// # Safety
/// As every catalog lookup.
unsafe fn find_in_path(name: &CStr) -> pg_sys::Oid {
    // SAFETY: the list is ours, of oids; the name is NUL-terminated.
    unsafe {
        let path = pg_sys::fetch_search_path(true);
        if path.is_null() {
            return pg_sys::InvalidOid;
        }
        let schemas =
            std::slice::from_raw_parts((*path).elements, usize::try_from((*path).length).unwrap_or(0));
        let found = schemas
            .iter()
            .map(|schema| pg_sys::get_relname_relid(name.as_ptr(), schema.oid_value))
            .find(|&relation| relation != pg_sys::InvalidOid && is_trusted(relation));
        pg_sys::list_free(path);
        found.unwrap_or(pg_sys::InvalidOid)
    }
}

/// Splits at the dot and folds case as the server does for a name in SQL; `None` if it is no name.
pub(super) fn identifiers(name: &CStr) -> Option<Vec<CString>> {
    let separator = c_char::try_from(b'.').unwrap_or_default();
    // SAFETY: SplitIdentifierString writes into the copy, and the list points into it; both are in the call's memory.
    unsafe {
        let mut list: *mut pg_sys::List = ptr::null_mut();
        if !pg_sys::SplitIdentifierString(pg_sys::pstrdup(name.as_ptr()), separator, &raw mut list)
            || list.is_null()
        {
            return None;
        }
        let cells =
            std::slice::from_raw_parts((*list).elements, usize::try_from((*list).length).unwrap_or(0));
        let parts: Vec<_> =
            cells.iter().map(|cell| CStr::from_ptr(cell.ptr_value.cast()).to_owned()).collect();
        // The server refuses "" in SQL, but not here.
        parts.iter().all(|part| !part.is_empty()).then_some(parts)
    }
}

impl Table {
    /// The qualified name, quoted.
    pub fn quoted(self) -> Option<String> {
        // SAFETY: catalog lookups that return palloc'd strings or NULL.
        unsafe {
            let table = pg_sys::get_rel_name(self.0);
            let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(self.0));
            if table.is_null() || schema.is_null() {
                return None;
            }
            CStr::from_ptr(pg_sys::quote_qualified_identifier(schema, table)).to_str().ok().map(str::to_owned)
        }
    }

    /// The column of this name, if there is one.
    pub fn column(self, name: &CStr) -> Option<Column> {
        let (mut oid, mut modifier, mut collation) = (pg_sys::InvalidOid, 0, pg_sys::InvalidOid);
        // SAFETY: catalog lookups; 0 is no column and a negative number a system column.
        unsafe {
            let number = pg_sys::get_attnum(self.0, name.as_ptr());
            if number <= 0 {
                return None;
            }
            pg_sys::get_atttypetypmodcoll(
                self.0,
                number,
                &raw mut oid,
                &raw mut modifier,
                &raw mut collation,
            );
            Some(Column { base_type: pg_sys::getBaseType(oid), collation })
        }
    }
}

/// What a query must know of a column to look a value up in it.
pub struct Column {
    /// Its type, or the type that its domain is over.
    pub base_type: pg_sys::Oid,
    collation: pg_sys::Oid,
}

impl Column {
    /// The clause that gives a text the collation of the column, so that the two can be compared.
    pub fn collate(&self) -> String {
        // The name is qualified where the query would not find it otherwise.
        let _path = SearchPath::pinned();
        // SAFETY: the server formats the name of the collation; NULL if it is gone.
        unsafe {
            let name = pg_sys::get_collation_name(self.collation);
            if self.collation == pg_sys::DEFAULT_COLLATION_OID || name.is_null() {
                return String::new();
            }
            let quoted = pg_sys::generate_collation_name(self.collation);
            CStr::from_ptr(quoted).to_str().map_or_else(|_| String::new(), |name| format!(" COLLATE {name}"))
        }
    }
}
