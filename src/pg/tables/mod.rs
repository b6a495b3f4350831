//! The tables of the extension: their columns in order, and the lists of columns that are read and written.
//!
//! `sql/schema` makes them. Before rows are read, a table is compared with its layout: see [`column`](super::column).

use std::ffi::CStr;

pub mod batches;
pub mod bucket_states;
pub mod caps;
pub mod changes;
pub mod checkpoints;
pub mod copies;
pub mod days;
pub mod holds;
pub mod identity;
pub mod limits;
pub mod transactions;

/// Declares the layout of a table, and a constant for each of its columns. `later` are the names of columns that an update has
/// added, which may have others before them.
macro_rules! table {
    (
        $(#[$documentation:meta])*
        $layout:ident is $name:literal, $role:expr, with keys $keys:expr $(, checks [$($check:expr),*])?;
        $($number:literal $column:ident $column_name:literal: $of:ty,)*
        $(later: $($later:expr),*;)?
    ) => {
        $(#[$documentation])*
        #[derive(Debug)]
        pub enum $layout {}

        impl $crate::pg::column::Layout for $layout {
            const DEFINITION: &'static $crate::pg::definition::Definition = &$crate::pg::definition::Definition {
                name: $name,
                role: $role,
                columns: &[$(<$of as $crate::pg::column_type::ColumnType>::OID),*],
                may_be_null: &[$(<$of as $crate::pg::column_type::ColumnType>::MAY_BE_NULL),*],
                names: &[$($column_name,)* $($($later),*)?],
                keys: $keys,
                checks: &[$($($check),*)?],
            };
        }

        $(
            #[doc = concat!("`", $column_name, "`")]
            #[allow(dead_code, reason = "the engine writes whole rows, and reads some of their columns")]
            pub const $column: $crate::pg::column::Column<$layout, $of> =
                $crate::pg::column::Column::new($number, $column_name);
        )*
    };
}

/// Columns of one table, without their types.
macro_rules! columns {
    ($($column:expr),* $(,)?) => {
        [$($column.any()),*]
    };
}

/// A name as the layouts list it.
const fn utf8(name: &CStr) -> &str {
    match name.to_str() {
        Ok(name) => name,
        Err(_) => panic!("the names of columns are ASCII"),
    }
}

pub(crate) use columns;
use table;
