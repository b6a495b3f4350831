//! Stored rows, as a scan or a trigger has them in a slot.

use std::marker::PhantomData;
use std::slice;

use ledger::id::UserId;
use ledger::numeric::DecodeError;
use pgrx::pg_sys;

use super::answer::{Answer, RowType};
use super::column::{AnyColumn, Column, Layout};
use super::column_type::{ColumnType, StoredType};
use super::column_value::{ColumnValue, Stored};
use super::definition::Definition;
use super::description;
use super::fetch::Tid;
use super::xact::SubtransactionId;
use crate::error::LedgerError;

// From executor/tuptable.h, without the guard that pgrx puts around the call: it raises an error only for a column past the last.
unsafe extern "C-unwind" {
    fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, columns: i32);
}

// From utils/datum.h, which pgrx has no bindings for.
unsafe extern "C-unwind" {
    fn datum_image_eq(one: pg_sys::Datum, other: pg_sys::Datum, by_value: bool, length: i32) -> bool;
}

/// A row of a table with the layout `L`, valid until the scan moves on. A scan deforms it up to the furthest column
/// that the scan was opened for; reading a column beyond that deforms it further.
pub struct Row<'row, L> {
    slot: *mut pg_sys::TupleTableSlot,
    in_flight: bool,
    scan: PhantomData<&'row pg_sys::TupleTableSlot>,
    layout: PhantomData<L>,
}

impl<'row, L: Layout> Row<'row, L> {
    /// # Safety
    /// The slot holds a row, of a table that has the columns of the layout, and as long as `'row`.
    pub(super) const unsafe fn new(slot: *mut pg_sys::TupleTableSlot) -> Self {
        Self { slot, in_flight: false, scan: PhantomData, layout: PhantomData }
    }

    /// The row of a scan, which says whether it is in flight.
    pub(super) const fn seen_in_flight(self, in_flight: bool) -> Self {
        Self { in_flight, ..self }
    }

    /// Inserted by another transaction that has not ended; only a dirty snapshot sees such rows.
    pub const fn in_flight(&self) -> bool {
        self.in_flight
    }

    /// Where the row is stored.
    pub const fn tid(&self) -> Tid {
        // SAFETY: the slot holds a row.
        unsafe { (*self.slot).tts_tid }
    }

    /// Where this version is stored, and who has stored it.
    pub fn version(&self) -> (Tid, SubtransactionId) {
        (self.tid(), self.stored_by())
    }

    /// The id of the transaction, or of its subtransaction, that has stored this version of the row.
    #[expect(ffi_unwind_calls, reason = "a row of a table has this column")]
    pub fn stored_by(&self) -> SubtransactionId {
        let number = pg_sys::MinTransactionIdAttributeNumber;
        // SAFETY: the slot holds a row of a table.
        let id = unsafe {
            let read = (*(*self.slot).tts_ops).getsysattr.expect("every kind of slot has one");
            read(self.slot, number, &mut false)
        };
        pg_sys::TransactionId::from(id.value().try_into().unwrap_or(0_u32))
    }

    /// What the row has in the column. Raises 22004 for NULL in a column that is declared NOT NULL, which its owner may have
    /// changed.
    #[inline]
    pub fn get<T: ColumnType>(&self, column: Column<L, T>) -> T::Value<'row> {
        // SAFETY: the row has the columns of its layout.
        unsafe { T::read(self, column.number()) }
    }

    /// Whether the column is NULL.
    #[inline]
    pub fn is_null<T: ColumnType>(&self, column: Column<L, T>) -> bool {
        self.datum_unless_null(column.number()).is_none()
    }

    /// What the row has in these columns, whatever their types.
    pub fn values<const N: usize>(&self, columns: [AnyColumn<L>; N]) -> [ColumnValue<'row>; N] {
        columns.map(|column| match self.datum_unless_null(column.number()) {
            None => ColumnValue::Null,
            Some(datum) => ColumnValue::Of(Stored { datum, oid: column.oid(), row: PhantomData }),
        })
    }

    /// These columns as a value of a composite type. Raises 42804 unless they are those of the type.
    pub fn composite<const N: usize>(&self, of_type: RowType, columns: &[AnyColumn<L>; N]) -> Answer {
        let (mut datums, mut nulls) = ([pg_sys::Datum::null(); N], [true; N]);
        for (place, column) in columns.iter().enumerate() {
            if let Some(datum) = self.datum_unless_null(column.number()) {
                (datums[place], nulls[place]) = (datum, false);
            }
        }
        of_type.form(&columns.map(AnyColumn::oid), &mut datums, &mut nulls)
    }

    /// The name of the first column, but for these, that differs from what another row of the same table has in it.
    pub fn first_difference(&self, other: &Self, except: &[AnyColumn<L>]) -> Option<String> {
        // SAFETY: the slot has a description.
        let (description, count) = unsafe {
            let description = (*self.slot).tts_tupleDescriptor;
            (description, description::count(description))
        };
        let is_compared = |number: &usize| except.iter().all(|column| column.number() != *number);
        (1..=count).filter(is_compared).find_map(|number| {
            // SAFETY: both rows have this column.
            let column = unsafe { description::column(description, number - 1) };
            let is_same = match (self.datum_unless_null(number), other.datum_unless_null(number)) {
                (None, None) => true,
                // SAFETY: values of this column's type.
                (Some(old), Some(new)) => unsafe { is_same(old, new, column) },
                _ => false,
            };
            // SAFETY: a name ends with NUL.
            (!is_same).then(|| unsafe { description::text(column.attname.data.as_ptr()) })
        })
    }

    /// Deforms the row up to this column in one pass. Columns up to it can then be read in any order.
    #[inline]
    pub fn deform_to(&self, furthest: AnyColumn<L>) {
        self.deform(furthest.number());
    }

    /// So many columns from the first on: the values, and which of them are NULL.
    pub(super) fn all(&self, count: usize) -> (&[pg_sys::Datum], &[bool]) {
        self.deform(count);
        // SAFETY: the slot has the values of as many columns as it is deformed to.
        unsafe {
            (
                slice::from_raw_parts((*self.slot).tts_values, count),
                slice::from_raw_parts((*self.slot).tts_isnull, count),
            )
        }
    }

    /// Deforms the row up to the column of this number, which its table has; of 0 nothing.
    #[inline]
    #[expect(ffi_unwind_calls, reason = "raises an error only for a column that the table does not have")]
    pub(super) fn deform(&self, number: usize) {
        // SAFETY: the slot holds a row, of a table with this column.
        unsafe {
            if usize::try_from((*self.slot).tts_nvalid).unwrap_or_default() < number {
                slot_getsomeattrs_int(self.slot, i32::try_from(number).unwrap_or_default());
            }
        }
    }

    /// The value of the column of this number, which its table has.
    #[inline]
    pub(super) fn datum_unless_null(&self, number: usize) -> Option<pg_sys::Datum> {
        self.deform(number);
        // SAFETY: the slot has the values of as many columns as it is deformed to.
        unsafe {
            if *(*self.slot).tts_isnull.add(number - 1) {
                None
            } else {
                Some(*(*self.slot).tts_values.add(number - 1))
            }
        }
    }

    /// The datum of this column. Raises 22004 for NULL.
    #[inline]
    pub(super) fn datum(&self, number: usize) -> pg_sys::Datum {
        self.datum_unless_null(number).unwrap_or_else(|| self.refuse_null(number))
    }

    #[cold]
    fn refuse_null(&self, number: usize) -> ! {
        LedgerError::NullColumn { table: Self::table_name(), column: self.column_name(number) }.raise()
    }

    /// Raises XX001: what the column of this number has cannot be a number of the ledger's.
    #[cold]
    pub fn refuse_number(&self, number: usize, error: DecodeError) -> ! {
        let Definition { role, names, .. } = *L::DEFINITION;
        let place = names.iter().position(|name| *name == "user_id");
        let datum = self.datum(1 + place.expect("every table with such numbers has accounts"));
        // SAFETY: a column of this name is a uuid.
        let user = unsafe { UserId::from_datum(datum) };
        let column = self.column_name(number);
        LedgerError::StoredNumber { table: Self::table_name(), role, column, user, error }.raise()
    }

    fn table_name() -> String {
        L::DEFINITION.name.to_string_lossy().into_owned()
    }

    fn column_name(&self, number: usize) -> String {
        // SAFETY: the slot has a description with this column, whose name ends with NUL.
        unsafe {
            let column = description::column((*self.slot).tts_tupleDescriptor, number - 1);
            description::text(column.attname.data.as_ptr())
        }
    }
}

/// Whether two values are the same to the last bit, wherever they are stored.
///
/// # Safety
/// Both are values of the column.
#[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
unsafe fn is_same(old: pg_sys::Datum, new: pg_sys::Datum, column: &pg_sys::FormData_pg_attribute) -> bool {
    // SAFETY: the caller's promise; what is out of line is fetched.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            datum_image_eq(old, new, column.attbyval, i32::from(column.attlen))
        })
    }
}
