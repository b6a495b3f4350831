//! Conditions on columns, by which index scans are started.

use std::borrow::Cow;

use ledger::day::Day;
use ledger::id::{BatchId, TransactionId, UserId};
use ledger::transaction_type::TransactionType;
use pgrx::pg_sys;

use super::column::{AnyColumn, Column, Layout};
use super::column_type::{self, Timestamptz};
use super::tables::transactions::Ledger;
use super::text::Text;

/// A condition on a column. The first key of a scan is for the first column of its index, and so on.
pub struct Key<L> {
    pub(super) column: AnyColumn<L>,
    /// The number of the operator in the operator classes of B-trees.
    pub(super) strategy: u32,
    /// The function of the operator, which compares two values of the column's type.
    pub(super) procedure: u32,
    pub(super) argument: Argument,
}

/// What the column is compared with.
pub(super) enum Argument {
    /// Passed by reference.
    Uuid([u8; 16]),
    /// A text of these bytes, passed by reference.
    Text(Cow<'static, [u8]>),
    /// `IS NULL`, which needs no operator.
    Null,
    /// Passed by value, or in memory that stays as long as the call.
    Value(pg_sys::Datum),
}

impl<L: Layout> Column<L, UserId> {
    /// The rows of this user.
    pub fn equal(self, user: &UserId) -> Key<L> {
        uuid_equal(self.any(), user.as_bytes())
    }
}

impl<L: Layout> Column<L, BatchId> {
    /// The rows of this batch.
    pub fn equal(self, batch: &BatchId) -> Key<L> {
        uuid_equal(self.any(), batch.as_bytes())
    }
}

impl<L: Layout> Column<L, TransactionId> {
    /// The row of this transaction.
    pub fn equal(self, id: &TransactionId) -> Key<L> {
        uuid_equal(self.any(), id.as_bytes())
    }
}

impl<L: Layout> Column<L, Option<TransactionId>> {
    /// The rows that name this transaction.
    pub fn equal(self, id: &TransactionId) -> Key<L> {
        uuid_equal(self.any(), id.as_bytes())
    }
}

impl<L: Layout> Column<L, u64> {
    /// The rows with this transaction id.
    pub fn equal(self, id: u64) -> Key<L> {
        by_value(self.any(), pg_sys::BTEqualStrategyNumber, pg_sys::F_XID8EQ, id.into())
    }

    /// The rows with this transaction id or a later one.
    pub fn at_least(self, id: u64) -> Key<L> {
        by_value(self.any(), pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_XID8GE, id.into())
    }
}

impl<L: Layout> Column<L, i64> {
    /// The rows below this number.
    pub fn below(self, number: i64) -> Key<L> {
        by_value(self.any(), pg_sys::BTLessStrategyNumber, pg_sys::F_INT8LT, number.into())
    }

    /// The rows above this number.
    pub fn above(self, number: i64) -> Key<L> {
        by_value(self.any(), pg_sys::BTGreaterStrategyNumber, pg_sys::F_INT8GT, number.into())
    }
}

impl<L: Layout> Column<L, Timestamptz> {
    /// The rows with a later time than this, in microseconds since the server's epoch.
    pub fn after(self, time: i64) -> Key<L> {
        by_value(self.any(), pg_sys::BTGreaterStrategyNumber, pg_sys::F_TIMESTAMPTZ_GT, time.into())
    }
}

/// The column `created_at` to the second, which an index has in its place.
pub struct ToTheSecond;

impl ToTheSecond {
    /// The rows of this second or of a later one. The time, in microseconds since the server's epoch, is that of a second.
    pub fn at_least(self, second: i64) -> Key<Ledger> {
        let expression = AnyColumn::expression(pg_sys::TIMESTAMPTZOID);
        by_value(expression, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_TIMESTAMPTZ_GE, second.into())
    }
}

impl<L: Layout> Column<L, Day> {
    /// The rows of this day.
    pub fn equal(self, day: Day) -> Key<L> {
        by_value(self.any(), pg_sys::BTEqualStrategyNumber, pg_sys::F_DATE_EQ, day.date().into())
    }

    /// The rows of this day or of a later one.
    pub fn at_least(self, day: Day) -> Key<L> {
        by_value(self.any(), pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_DATE_GE, day.date().into())
    }
}

impl<L: Layout> Column<L, TransactionType> {
    /// The rows of this type; `None`: those with an empty name in its place.
    pub fn equal(self, known: Option<TransactionType>) -> Key<L> {
        text_equal(self.any(), Cow::Borrowed(known.map_or("", TransactionType::name).as_bytes()))
    }
}

impl<L: Layout> Column<L, Option<column_type::Text>> {
    /// The rows with a text of these bytes, or with NULL.
    pub fn same(self, text: Option<&[u8]>) -> Key<L> {
        text.map_or_else(|| is_null(self.any()), |text| text_equal(self.any(), Cow::Owned(text.to_vec())))
    }
}

impl<L: Layout> Column<L, Option<[u8; 16]>> {
    /// The rows with this uuid, or with NULL.
    pub fn same(self, uuid: Option<&[u8; 16]>) -> Key<L> {
        uuid.map_or_else(|| is_null(self.any()), |uuid| uuid_equal(self.any(), uuid))
    }
}

impl<L: Layout> Column<L, column_type::Text> {
    /// The rows with this text. It stays as long as the call, so a scan that is sought with it must not outlive that.
    pub fn equal(self, text: Text) -> Key<L> {
        by_value(self.any(), pg_sys::BTEqualStrategyNumber, pg_sys::F_TEXTEQ, text.as_datum())
    }
}

const fn uuid_equal<L>(column: AnyColumn<L>, uuid: &[u8; 16]) -> Key<L> {
    Key {
        column,
        strategy: pg_sys::BTEqualStrategyNumber,
        procedure: pg_sys::F_UUID_EQ,
        argument: Argument::Uuid(*uuid),
    }
}

const fn text_equal<L>(column: AnyColumn<L>, text: Cow<'static, [u8]>) -> Key<L> {
    Key {
        column,
        strategy: pg_sys::BTEqualStrategyNumber,
        procedure: pg_sys::F_TEXTEQ,
        argument: Argument::Text(text),
    }
}

const fn is_null<L>(column: AnyColumn<L>) -> Key<L> {
    Key { column, strategy: 0, procedure: 0, argument: Argument::Null }
}

const fn by_value<L>(column: AnyColumn<L>, strategy: u32, procedure: u32, argument: pg_sys::Datum) -> Key<L> {
    Key { column, strategy, procedure, argument: Argument::Value(argument) }
}
