//! The types of columns that the engine writes, and how it gives the server a value of each.

use ledger::credits::Credits;
use ledger::day::Day;
use ledger::id::{BatchId, CapId, UserId};
use ledger::overdraft::Overdraft;
use ledger::transaction_type::TransactionType;

use super::column_type::{Text, Timestamptz};
use super::column_value::ColumnValue;

/// A type of values that the engine writes.
pub trait WrittenType {
    /// The type in Rust that a value is written from.
    type Given<'a>;

    /// The value as the server is given it.
    fn to_column_value(given: Self::Given<'_>) -> ColumnValue<'_>;
}

/// `TYPE: GIVEN = |given| VALUE` has columns of the type written from what is given.
macro_rules! written {
    ($($of:ty: $given:ty = |$value:ident| $column_value:expr;)*) => {
        $(impl WrittenType for $of {
            type Given<'a> = $given;

            fn to_column_value($value: Self::Given<'_>) -> ColumnValue<'_> {
                $column_value
            }
        })*
    };
}

written! {
    UserId: &'a Self = |user| ColumnValue::Uuid(user.as_bytes());
    BatchId: &'a Self = |batch| ColumnValue::Uuid(batch.as_bytes());
    [u8; 16]: &'a Self = |uuid| ColumnValue::Uuid(uuid);
    Day: Self = |day| ColumnValue::Date(day);
    Text: &'a [u8] = |text| ColumnValue::TextBytes(text);
    TransactionType: Option<Self> = |known| ColumnValue::Text(known.map_or("", Self::name));
    Overdraft: Self = |overdraft| ColumnValue::Overdraft(overdraft);
    Vec<CapId>: &'a [CapId] = |caps| ColumnValue::Caps(caps);
    Vec<Credits>: &'a [Credits] = |credits| ColumnValue::CreditsArray(credits);
    Vec<Option<Timestamptz>>: &'a [Option<i64>] = |dates| ColumnValue::TimestamptzArray(dates);
    i16: Self = |number| ColumnValue::Int2(number);
    Credits: Self = |credits| ColumnValue::Credits(credits);
    i64: Self = |number| ColumnValue::Int8(number);
    u64: Self = |id| ColumnValue::Xid8(id);
    Vec<u64>: &'a [u64] = |ids| ColumnValue::Xid8Array(ids);
    bool: Self = |value| ColumnValue::Bool(value);
    Timestamptz: i64 = |micros| ColumnValue::Timestamptz(micros);
}

impl<T: WrittenType> WrittenType for Option<T> {
    type Given<'a> = Option<T::Given<'a>>;

    fn to_column_value(given: Self::Given<'_>) -> ColumnValue<'_> {
        given.map_or(ColumnValue::Null, T::to_column_value)
    }
}
