//! Columns of a row that a scan stands on.

use std::marker::PhantomData;
use std::slice;

use ledger::credits::Credits;
use pgrx::prelude::*;
use pgrx::{pg_sys, varlena};

use super::column_value::{ColumnValue, Stored};
use super::{description, numeric};
use crate::error::LedgerError;

// As in executor/tuptable.h, without the guard that pgrx puts around the call: it fails for a column past the last only.
unsafe extern "C-unwind" {
    fn slot_getsomeattrs_int(slot: *mut pg_sys::TupleTableSlot, columns: i32);
}

/// A column's place in its table, from 1.
pub type Column = usize;

/// A row, valid until the scan moves on. Its columns are taken apart as far as they are asked for. Asking for a column of
/// another type or past the last is a mistake of the caller's that the table definitions rule out.
pub struct Row<'a> {
    slot: *mut pg_sys::TupleTableSlot,
    in_flight: bool,
    scan: PhantomData<&'a pg_sys::TupleTableSlot>,
}

impl Row<'_> {
    /// # Safety
    /// The slot must hold a row for as long as this value lives.
    pub(super) const unsafe fn new(slot: *mut pg_sys::TupleTableSlot, in_flight: bool) -> Self {
        Self { slot, in_flight, scan: PhantomData }
    }

    /// Inserted by another transaction that has not ended; only a dirty snapshot shows such rows.
    pub const fn in_flight(&self) -> bool {
        self.in_flight
    }

    /// Where the row is stored.
    pub const fn tid(&self) -> pg_sys::ItemPointerData {
        // SAFETY: the slot holds a row.
        unsafe { (*self.slot).tts_tid }
    }

    /// Whether the column is NULL.
    pub fn is_null(&self, column: Column) -> bool {
        self.take_apart(column);
        // SAFETY: the row is taken apart that far.
        unsafe { *(*self.slot).tts_isnull.add(column - 1) }
    }

    /// Raises 22004 for NULL: a pointer to nothing, in a column that the ledger's own constraints keep free of it, unless
    /// somebody has dropped them.
    fn datum(&self, column: Column) -> pg_sys::Datum {
        self.take_apart(column);
        // SAFETY: the row is taken apart that far.
        unsafe {
            if *(*self.slot).tts_isnull.add(column - 1) {
                self.refuse_null(column);
            }
            *(*self.slot).tts_values.add(column - 1)
        }
    }

    #[cold]
    fn refuse_null(&self, column: Column) -> ! {
        // SAFETY: the slot has a description with this column, whose name ends with NUL.
        let column = unsafe {
            let column = description::column((*self.slot).tts_tupleDescriptor, column - 1);
            description::text(column.attname.data.as_ptr())
        };
        LedgerError::NullColumn { column }.raise()
    }

    /// These columns.
    pub fn values<const N: usize>(&self, columns: [Column; N]) -> [ColumnValue<'_>; N] {
        self.take_apart(columns.into_iter().max().unwrap_or_default());
        columns.map(|column| {
            if self.is_null(column) {
                ColumnValue::Null
            } else {
                ColumnValue::Of(Stored { datum: self.datum(column), row: PhantomData })
            }
        })
    }

    /// So many columns from the first on: the values, and which of them are NULL.
    pub(super) fn all(&self, count: usize) -> (&[pg_sys::Datum], &[bool]) {
        self.take_apart(count);
        // SAFETY: the row is taken apart that far.
        unsafe {
            (
                slice::from_raw_parts((*self.slot).tts_values, count),
                slice::from_raw_parts((*self.slot).tts_isnull, count),
            )
        }
    }

    /// Takes the row apart up to this column.
    #[expect(ffi_unwind_calls, reason = "raises an error only for a column that the table does not have")]
    fn take_apart(&self, column: Column) {
        // SAFETY: the slot holds a row, of a table with this column.
        unsafe {
            if usize::try_from((*self.slot).tts_nvalid).unwrap_or_default() < column {
                slot_getsomeattrs_int(self.slot, i32::try_from(column).unwrap_or_default());
            }
        }
    }

    /// A `uuid`.
    pub fn uuid(&self, column: Column) -> [u8; 16] {
        // SAFETY: a uuid is 16 bytes, passed by reference.
        unsafe { *self.datum(column).cast_mut_ptr::<[u8; 16]>() }
    }

    /// The bytes of a short `text`.
    pub fn text(&self, column: Column) -> &[u8] {
        // SAFETY: the types of transactions are far too short to be compressed or moved out of line.
        unsafe { varlena::varlena_to_byte_slice(self.datum(column).cast_mut_ptr()) }
    }

    /// The bytes of a `text` of any length, which is copied where it is compressed or out of line.
    pub fn long_text(&self, column: Column) -> &[u8] {
        let mut stored = self.datum(column).cast_mut_ptr::<pg_sys::varlena>();
        // SAFETY: the column is a text; a copy is in the current memory context, which outlives the visit of the row.
        unsafe {
            if varlena::varatt_is_4b_c(stored) || varlena::varatt_is_1b_e(stored) {
                stored = pg_sys::pg_detoast_datum_packed(stored);
            }
            varlena::varlena_to_byte_slice(stored)
        }
    }

    /// Whether a `jsonb` is an object.
    pub fn is_json_object(&self, column: Column) -> bool {
        // SAFETY: the column is a jsonb, and more than its first bytes is not copied. They are the header of its root, a
        // `JsonbContainer`.
        let header = unsafe {
            let start = pg_sys::pg_detoast_datum_slice(self.datum(column).cast_mut_ptr(), 0, 4);
            varlena::varlena_to_byte_slice(start).first_chunk().map(|&header| u32::from_ne_bytes(header))
        };
        header.is_some_and(|header| header & pg_sys::JB_FOBJECT != 0)
    }

    /// A `numeric`.
    pub fn credits(&self, column: Column) -> Credits {
        // SAFETY: the column is a numeric.
        unsafe { numeric::from_datum(self.datum(column)) }
            .unwrap_or_else(|error| error!("a stored amount is no number of credits: {error}"))
    }

    /// A `bigint`, or a `timestamptz` in microseconds.
    pub fn int8(&self, column: Column) -> i64 {
        // SAFETY: passed by value.
        unsafe { i64::from_polymorphic_datum(self.datum(column), false, pg_sys::INT8OID) }.unwrap_or_default()
    }

    /// An `xid8`.
    pub fn xid8(&self, column: Column) -> u64 {
        self.int8(column).cast_unsigned()
    }

    /// A `boolean`.
    pub fn bool(&self, column: Column) -> bool {
        self.datum(column).value() != 0
    }

    /// An `xid8[]`.
    pub fn xid8_array(&self, column: Column) -> Vec<u64> {
        // SAFETY: the column is an array of 8-byte values, which is copied where it is packed or compressed.
        unsafe {
            let stored = self.datum(column).cast_mut_ptr();
            let array = pg_sys::pg_detoast_datum(stored);
            let ids = Self::elements(array.cast());
            if array != stored {
                pg_sys::pfree(array.cast());
            }
            ids
        }
    }

    /// # Safety
    /// `array` is a whole array of `xid8`.
    unsafe fn elements(array: *mut pg_sys::ArrayType) -> Vec<u64> {
        // SAFETY: the caller's promise; the elements are copied out before they are given back.
        unsafe {
            if (*array).ndim == 0 {
                return Vec::new();
            }
            let (mut elements, mut count) = (std::ptr::null_mut(), 0);
            pg_sys::deconstruct_array(
                array,
                pg_sys::XID8OID,
                8,
                true,
                pg_sys::TYPALIGN_DOUBLE.cast_signed(),
                &raw mut elements,
                std::ptr::null_mut(),
                &raw mut count,
            );
            let ids =
                std::slice::from_raw_parts(elements.cast_const(), usize::try_from(count).unwrap_or_default())
                    .iter()
                    .map(|element| element.value() as u64)
                    .collect();
            pg_sys::pfree(elements.cast());
            ids
        }
    }
}
