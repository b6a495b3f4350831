//! Columns of the extension's tables: each has a number and the type that its values have in Rust.
//!
//! A [`Layout`] lists the columns of a table, and a [`Column`] is made from that list by the compiler. A scan compares the table
//! that it opens with the layout. So a row has every column that it can be asked for, and of the type that is expected.

use std::fmt;
use std::marker::PhantomData;

use pgrx::pg_sys;

use super::column_type::ColumnType;
use super::column_value::NewValue;
use super::definition::Definition;
use super::description;
use super::relation::Table;
use super::written_type::WrittenType;
use crate::error::LedgerError;

/// The columns of a table, as a type.
pub trait Layout: 'static {
    /// What the extension has made of it.
    const DEFINITION: &'static Definition;
}

/// A column of a table with the layout `L`, whose values are read as `T`.
pub struct Column<L, T> {
    number: usize,
    of: PhantomData<(L, T)>,
}

/// A column of a table with the layout `L`, of whatever type.
pub struct AnyColumn<L> {
    number: usize,
    oid: pg_sys::Oid,
    of: PhantomData<L>,
}

impl<L: Layout, T: ColumnType> Column<L, T> {
    /// The column with this number, from 1, and this name. The compiler refuses one that the layout does not have so.
    pub const fn new(number: usize, name: &str) -> Self {
        let Definition { columns, names, .. } = L::DEFINITION;
        assert!(number >= 1 && columns[number - 1].to_u32() == T::OID.to_u32(), "a column of another type");
        assert!(equal(names[number - 1].as_bytes(), name.as_bytes()), "a column of another name");
        Self { number, of: PhantomData }
    }

    /// The column with this number, which the layout does not list.
    ///
    /// # Safety
    /// The table that rows of the layout come from has this column, of the type [`ColumnType::OID`].
    pub(super) const unsafe fn found(number: usize) -> Self {
        Self { number, of: PhantomData }
    }

    /// Its number, from 1.
    pub const fn number(self) -> usize {
        self.number
    }

    /// The column without its type.
    pub const fn any(self) -> AnyColumn<L> {
        AnyColumn { number: self.number, oid: T::OID, of: PhantomData }
    }
}

impl<L: Layout, T: ColumnType> From<Column<L, T>> for AnyColumn<L> {
    fn from(column: Column<L, T>) -> Self {
        column.any()
    }
}

impl<L: Layout, T: ColumnType + WrittenType> Column<L, T> {
    /// This value in the column, for a row that is written.
    pub fn set(self, value: T::Given<'_>) -> NewValue<'_, L> {
        NewValue::new(self.any(), T::to_column_value(value))
    }
}

impl<L: Layout> AnyColumn<L> {
    /// What an index has in the place of a column: an expression of this type.
    pub(super) const fn expression(oid: pg_sys::Oid) -> Self {
        Self { number: 0, oid, of: PhantomData }
    }

    /// Its number, from 1.
    pub const fn number(self) -> usize {
        self.number
    }

    /// The one of the two that comes later in a row.
    pub const fn or_further(self, other: Self) -> Self {
        if self.number < other.number { other } else { self }
    }

    /// Its number as the catalog has it.
    pub(super) fn attribute_number(self) -> pg_sys::AttrNumber {
        pg_sys::AttrNumber::try_from(self.number).unwrap_or_default()
    }

    /// Its type in the server.
    pub(super) const fn oid(self) -> pg_sys::Oid {
        self.oid
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        L::DEFINITION.names[self.number - 1]
    }
}

/// The names of columns with commas between them, for SQL.
pub fn names<L: Layout>(columns: &[AnyColumn<L>]) -> String {
    let names: Vec<&str> = columns.iter().map(|column| column.name()).collect();
    names.join(", ")
}

const fn equal(left: &[u8], right: &[u8]) -> bool {
    let mut place = 0;
    while place < left.len() && place < right.len() && left[place] == right[place] {
        place += 1;
    }
    place == left.len() && place == right.len()
}

/// Raises 55000 unless the table has the columns of the layout.
pub(super) fn require<L: Layout>(table: &Table) {
    let Definition { columns, .. } = L::DEFINITION;
    // SAFETY: the table is open.
    let (count, other) = unsafe {
        let description = (*table.as_raw()).rd_att;
        (description::count(description), description::first_of_other_type(description, columns))
    };
    if let Some(number) = other.or_else(|| (count < columns.len()).then_some(count)) {
        LedgerError::OtherColumn { table: L::DEFINITION.display_name(), number: number + 1 }.raise();
    }
}

impl<L, T> Clone for Column<L, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L, T> Copy for Column<L, T> {}

impl<L, T> PartialEq for Column<L, T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<L, T> Eq for Column<L, T> {}

impl<L, T> fmt::Debug for Column<L, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Column({})", self.number)
    }
}

impl<L> Clone for AnyColumn<L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L> Copy for AnyColumn<L> {}
