//! The extension's relations and columns by their names, as the catalogs have them now.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::column::{Column, Layout};
use super::column_type::ColumnType;
use super::definition::{self, Definition, Role};
use super::extension;
use super::system_catalog::{self, Lookup};
use super::tables::transactions::{Ledger, SEQUENCE};
use crate::error::LedgerError;

const SCHEMA: &CStr = c"credits";

/// The relation of this name in the extension's schema, if there is one.
pub(super) fn find(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: the names are NUL-terminated; both calls are plain syscache lookups.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(SCHEMA.as_ptr(), true);
        if schema == pg_sys::InvalidOid { schema } else { pg_sys::get_relname_relid(name.as_ptr(), schema) }
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

/// A column of the table with the layout `L`, if it is there and of its type.
pub(super) fn find_column<L: Layout, T: ColumnType>(table: pg_sys::Oid, name: &CStr) -> Option<Column<L, T>> {
    // SAFETY: catalog lookups; the name is NUL-terminated.
    let (number, found) = unsafe {
        let number = pg_sys::get_attnum(table, name.as_ptr());
        (number, pg_sys::get_atttype(table, number))
    };
    let number = usize::try_from(number).ok().filter(|&number| number > 0 && found == T::OID)?;
    // SAFETY: the catalog says that the column is of this type. When that changes, an invalidation has it looked up again.
    Some(unsafe { Column::found(number) })
}

/// The relation of this name in the extension's schema; raises 55000 if there is none.
pub(super) fn find_needed(name: &CStr) -> pg_sys::Oid {
    find(name).unwrap_or_else(|| missing(name))
}

/// Raises 55000: the extension's schema has no relation of this name.
pub(super) fn missing(name: &CStr) -> ! {
    LedgerError::Missing(format!("credits.{}", name.to_string_lossy())).raise()
}

/// An index as the catalog has it.
#[derive(Clone, Copy)]
pub(super) struct CatalogIndex {
    pub oid: pg_sys::Oid,
    pub is_valid: bool,
}

/// The index of the table that has this name, read from the catalogs with a new snapshot and not from caches.
pub(super) fn find_index_now(table: pg_sys::Oid, name: &CStr) -> Option<CatalogIndex> {
    let by_name = Lookup {
        catalog: pg_sys::RelationRelationId,
        index: pg_sys::ClassNameNspIndexId,
        column: pg_sys::Anum_pg_class_relname,
        equal: pg_sys::F_NAMEEQ,
    };
    let by_oid = Lookup {
        catalog: pg_sys::IndexRelationId,
        index: pg_sys::IndexRelidIndexId,
        column: pg_sys::Anum_pg_index_indexrelid,
        equal: pg_sys::F_OIDEQ,
    };
    let (mut named, mut found) = (Vec::new(), None);
    // SAFETY: the columns are a name, which is compared up to its NUL, and an oid. A row begins as its catalog's structure says, and is
    // valid while it is looked at.
    unsafe {
        pg_sys::InvalidateCatalogSnapshot();
        system_catalog::visit(by_name, pg_sys::Datum::from(name.as_ptr()), None, |_, row| {
            named.push((*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_class>()).oid);
        });
        for oid in named {
            system_catalog::visit(by_oid, pg_sys::Datum::from(oid), None, |_, row| {
                let index = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_index>();
                if index.indrelid == table {
                    found = Some(CatalogIndex { oid, is_valid: index.indisvalid });
                }
            });
        }
    }
    found
}

/// The ledger, of whatever version of the extension.
pub fn find_ledger() -> Option<pg_sys::Oid> {
    let ledger = find(Ledger::DEFINITION.name)?;
    extension::installed_version().map(|_| ledger)
}

/// Whether the extension's schema has a relation of this name.
pub fn exists(name: &CStr) -> bool {
    find(name).is_some()
}

/// The tables and types of the extension, as far as they are there.
pub fn defined() -> impl Iterator<Item = (pg_sys::Oid, &'static Definition)> {
    definition::ALL.into_iter().filter_map(|definition| Some((find(definition.name)?, definition)))
}

/// The relations beside a table that keep their names, as far as they are there: its keys, and the sequence that numbers the ledger.
pub fn beside(definition: &Definition) -> impl Iterator<Item = (pg_sys::Oid, &'static CStr)> {
    let sequence = (definition.role == Role::Ledger).then_some(SEQUENCE);
    definition.keys.iter().copied().chain(sequence).filter_map(|name| Some((find(name)?, name)))
}
