//! A call of one of our SQL functions that are written against the server's own calling convention.
//!
//! Functions that read or record rows hand their arguments on to a query as they are and let its rows go straight into the
//! result, so they take a [`Call`] instead of Rust values: nothing is converted, and a list of a million rows is never held in
//! memory twice. Their entry points are in `src/entry/functions.rs`; their SQL declarations, and with them the types of the
//! arguments, in `sql/schema`.

use std::marker::PhantomData;

use ledger::credits::Credits;
use ledger::day::Day;
use ledger::id::{ApiKeyId, TransactionId, UserId};
use ledger::numeric::DecodeError;
use pgrx::prelude::*;
use pgrx::{PgMemoryContexts, pg_sys};

use super::answer::{Answer, RowType, Rows};
use super::catalog::Relations;
use super::column_type::{Jsonb, StoredType};
use super::raised::guard;
use super::text::Text;
use super::value::Value;
use super::{array, buckets, description, json, numeric};
use crate::error::LedgerError;

/// The arguments of the running call and the place where its result goes.
pub struct Call<'call> {
    fcinfo: pg_sys::FunctionCallInfo,
    lifetime: PhantomData<&'call ()>,
}

/// The argument of a function: its place in the declaration, counted from 0, and its name.
#[derive(Clone, Copy)]
pub struct Argument(pub usize, pub &'static str);

impl Argument {
    /// Its name.
    pub const fn name(self) -> &'static str {
        self.1
    }

    /// The error for an argument that is needed and NULL.
    fn missing(self) -> LedgerError {
        LedgerError::NullArgument(self.name())
    }
}

/// A span of time, as the server compares it: a day has 24 hours and a month 30 days.
#[derive(Clone, Copy)]
pub struct Interval {
    /// Its length.
    pub microseconds: i128,
    datum: pg_sys::Datum,
}

impl Interval {
    /// What the server writes it as, for a message.
    pub fn shown(&self) -> String {
        Value::of(pg_sys::INTERVALOID, self.datum).shown()
    }
}

/// A `numeric` as the client wrote it, and its value where it is one that a sum could hold.
pub type GivenNumeric<'call> = (Value<'call>, Result<Credits, DecodeError>);

/// A method that returns no `Option` refuses an argument that is NULL (22004).
impl<'call> Call<'call> {
    fn datum(&self, argument: Argument) -> Option<pg_sys::Datum> {
        // SAFETY: the server passes as many arguments as the function is declared with, and they outlive the call.
        let arguments =
            unsafe { (*self.fcinfo).args.as_slice(usize::try_from((*self.fcinfo).nargs).unwrap_or(0)) };
        let value = arguments.get(argument.0)?;
        (!value.isnull).then_some(value.value)
    }

    fn value(&self, argument: Argument, oid: pg_sys::Oid) -> Option<Value<'call>> {
        self.datum(argument).map(|datum| Value::of(oid, datum))
    }

    /// A `uuid`.
    pub fn uuid(&self, argument: Argument) -> Option<Value<'call>> {
        self.value(argument, pg_sys::UUIDOID)
    }

    /// A `uuid`.
    pub fn required_uuid(&self, argument: Argument) -> Result<Value<'call>, LedgerError> {
        self.uuid(argument).ok_or_else(|| argument.missing())
    }

    /// The account that a `uuid` names. LC003 for one that is not on this node.
    pub fn user_id(&self, argument: Argument) -> Result<&'call UserId, LedgerError> {
        let user = self.any_user_id(argument)?;
        buckets::require_for_reader(std::slice::from_ref(user))?;
        Ok(user)
    }

    /// The account that a `uuid` names, on whatever node it is.
    pub fn any_user_id(&self, argument: Argument) -> Result<&'call UserId, LedgerError> {
        // SAFETY: a uuid is 16 bytes, passed by reference, and a `UserId` is laid out as they are; arguments outlive the call.
        self.required_uuid(argument).map(|value| unsafe { &*value.datum.cast_mut_ptr() })
    }

    /// The account that a `uuid` names, to be bound. LC003 for one that is not on this node.
    pub fn account(&self, argument: Argument) -> Result<Value<'call>, LedgerError> {
        self.user_id(argument)?;
        self.required_uuid(argument)
    }

    /// The transaction that a `uuid` names.
    pub fn transaction_id(&self, argument: Argument) -> Result<&'call TransactionId, LedgerError> {
        // SAFETY: a uuid is 16 bytes, passed by reference, and a `TransactionId` is laid out as they are; arguments outlive the call.
        self.required_uuid(argument).map(|value| unsafe { &*value.datum.cast_mut_ptr() })
    }

    /// The API key that a `uuid` names.
    pub fn api_key(&self, argument: Argument) -> Option<ApiKeyId> {
        // SAFETY: a uuid is 16 bytes, passed by reference.
        self.uuid(argument).map(|value| ApiKeyId::from_bytes(unsafe { *value.datum.cast_mut_ptr() }))
    }

    /// A `text`, to be bound.
    pub fn text(&self, argument: Argument) -> Option<Value<'call>> {
        self.value(argument, pg_sys::TEXTOID)
    }

    /// A `text`, to be bound.
    pub fn required_text(&self, argument: Argument) -> Result<Value<'call>, LedgerError> {
        self.text(argument).ok_or_else(|| argument.missing())
    }

    /// A `text`, to be looked at. It is fetched and decompressed if need be.
    pub fn content(&self, argument: Argument) -> Option<Text> {
        let datum = self.datum(argument)?;
        // SAFETY: the declaration says text.
        unsafe { Text::from_polymorphic_datum(datum, false, pg_sys::TEXTOID) }
    }

    /// A `text`, to be looked at. It is fetched and decompressed if need be.
    pub fn required_content(&self, argument: Argument) -> Result<Text, LedgerError> {
        self.content(argument).ok_or_else(|| argument.missing())
    }

    /// A `numeric`, to be bound and to be looked at.
    pub fn numeric(&self, argument: Argument) -> Option<GivenNumeric<'call>> {
        let value = self.value(argument, pg_sys::NUMERICOID)?;
        // SAFETY: the declaration says numeric.
        Some((value, unsafe { numeric::from_datum(value.datum) }))
    }

    /// A `numeric`, to be bound and to be looked at.
    pub fn required_numeric(&self, argument: Argument) -> Result<GivenNumeric<'call>, LedgerError> {
        self.numeric(argument).ok_or_else(|| argument.missing())
    }

    /// An `interval`.
    pub fn required_interval(&self, argument: Argument) -> Result<Interval, LedgerError> {
        let datum = self.datum(argument).ok_or_else(|| argument.missing())?;
        // SAFETY: the declaration says interval, which is passed by reference; arguments outlive the call.
        let &pg_sys::Interval { time, day, month } = unsafe { &*datum.cast_mut_ptr::<pg_sys::Interval>() };
        const DAY: i128 = 86_400_000_000;
        Ok(Interval {
            microseconds: i128::from(time) + i128::from(day) * DAY + i128::from(month) * 30 * DAY,
            datum,
        })
    }

    /// A `jsonb`, and whether it is an object.
    pub fn jsonb(&self, argument: Argument) -> Option<(Value<'call>, bool)> {
        let value = self.value(argument, pg_sys::JSONBOID)?;
        // SAFETY: the declaration says jsonb.
        Some((value, unsafe { Jsonb::from_datum(value.datum) }.is_object()))
    }

    /// A `jsonb`, which must be an array.
    pub fn required_json_array(&self, argument: Argument) -> Result<json::Array<'call>, LedgerError> {
        let datum = self.datum(argument).ok_or_else(|| argument.missing())?;
        // SAFETY: the declaration says jsonb; arguments outlive the call.
        unsafe { json::Array::from_datum(datum) }.ok_or(LedgerError::NotAnArray(argument.name()))
    }

    /// A `timestamptz`, in microseconds since the server's epoch; the infinities are the ends of the range.
    pub fn time(&self, argument: Argument) -> Option<i64> {
        self.datum(argument).map(|datum| datum.value().cast_signed() as i64)
    }

    /// A `timestamptz`, in microseconds since the server's epoch; the infinities are the ends of the range.
    pub fn required_time(&self, argument: Argument) -> Result<i64, LedgerError> {
        self.time(argument).ok_or_else(|| argument.missing())
    }

    /// A `date`.
    pub fn date(&self, argument: Argument) -> Option<Day> {
        // SAFETY: the declaration says date, which is an integer.
        unsafe { i32::from_polymorphic_datum(self.datum(argument)?, false, pg_sys::INT4OID) }
            .map(Day::from_date)
    }

    /// A `bigint`.
    pub fn bigint(&self, argument: Argument) -> Option<i64> {
        // SAFETY: the declaration says bigint.
        unsafe { i64::from_polymorphic_datum(self.datum(argument)?, false, pg_sys::INT8OID) }
    }

    /// A `bigint`.
    pub fn required_bigint(&self, argument: Argument) -> Result<i64, LedgerError> {
        self.bigint(argument).ok_or_else(|| argument.missing())
    }

    /// An `integer`.
    pub fn integer(&self, argument: Argument) -> Option<i32> {
        // SAFETY: the declaration says integer.
        unsafe { i32::from_polymorphic_datum(self.datum(argument)?, false, pg_sys::INT4OID) }
    }

    /// A `uuid[]`, to be bound, which must not have NULLs in it.
    pub fn required_uuid_array(&self, argument: Argument) -> Result<Value<'call>, LedgerError> {
        let array = self.value(argument, pg_sys::UUIDARRAYOID).ok_or_else(|| argument.missing())?;
        without_nulls(argument, array)
    }

    /// The accounts that a `uuid[]` names, which must not have NULLs in it. LC003 for one that is not on this node.
    pub fn user_ids(&self, argument: Argument) -> Result<Vec<UserId>, LedgerError> {
        let array = self.required_uuid_array(argument)?;
        // SAFETY: the declaration says uuid[].
        let users: Vec<UserId> =
            unsafe { array::uuids(array.datum) }.into_iter().map(UserId::from_bytes).collect();
        buckets::require_for_reader(&users)?;
        Ok(users)
    }

    /// A `text[]`, to be bound and to be looked at, which must not have NULLs in it.
    pub fn text_array(&self, argument: Argument) -> Result<Option<(Value<'call>, Vec<Text>)>, LedgerError> {
        let Some(value) = self.value(argument, pg_sys::TEXTARRAYOID) else { return Ok(None) };
        let value = without_nulls(argument, value)?;
        // SAFETY: the declaration says text[], and the value is neither compressed nor out of line.
        Ok(Some((value, unsafe { array::texts(value.datum) })))
    }

    /// The composite type that the function is declared to return.
    pub fn row_type(&self) -> RowType {
        // SAFETY: the server calls functions with what it has looked up of them.
        RowType(unsafe { pg_sys::get_func_rettype((*(*self.fcinfo).flinfo).fn_oid) })
    }

    /// Where the rows of the result go: the caller reads them when the function has returned, with the columns that the
    /// function is declared to have. Raises 42804 unless they are of these types.
    pub fn result_rows(&self, types: &[pg_sys::Oid]) -> Rows {
        let rows = self.open_result();
        // SAFETY: a description, if there is one, is valid as long as the call.
        let is_as_made = unsafe {
            !rows.columns.is_null()
                && description::count(rows.columns) == types.len()
                && description::first_of_other_type(rows.columns, types).is_none()
        };
        if !is_as_made {
            LedgerError::OtherResultType.raise();
        }
        rows
    }

    /// Where the rows of the result go, whatever the types of its columns.
    pub(super) fn open_result(&self) -> Rows {
        // SAFETY: fcinfo is the running call's; resultinfo is NULL or a node, and its tag says which.
        unsafe {
            let result = (*self.fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>();
            let materialize = pg_sys::SetFunctionReturnMode::SFRM_Materialize.cast_signed();
            if result.is_null()
                || (*result).type_ != pg_sys::NodeTag::T_ReturnSetInfo
                || (*result).allowedModes & materialize == 0
            {
                ereport!(
                    ERROR,
                    PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                    "a set of rows is not accepted where this function is called"
                );
            }
            let context = (*(*result).econtext).ecxt_per_query_memory;
            let random =
                (*result).allowedModes & pg_sys::SetFunctionReturnMode::SFRM_Materialize_Random.cast_signed();
            let store = PgMemoryContexts::For(context)
                .switch_to(|_| pg_sys::tuplestore_begin_heap(random != 0, false, pg_sys::work_mem));
            (*result).returnMode = pg_sys::SetFunctionReturnMode::SFRM_Materialize;
            (*result).setResult = store;
            Rows { store, context, columns: (*result).expectedDesc }
        }
    }
}

/// The array, neither compressed nor out of line. An error if it has a NULL in it.
fn without_nulls(argument: Argument, value: Value<'_>) -> Result<Value<'_>, LedgerError> {
    // SAFETY: the argument is declared as an array.
    let array = unsafe { pg_sys::pg_detoast_datum(value.datum.cast_mut_ptr()) };
    // SAFETY: the array is whole now.
    if unsafe { pg_sys::array_contains_nulls(array.cast()) } {
        return Err(LedgerError::NullElement(argument.name()));
    }
    Ok(Value::of(value.oid, pg_sys::Datum::from(array)))
}

/// Runs `body` on the call that the server made of a function, and reports its error.
///
/// # Safety
/// `fcinfo` is what the server passed to the function that is running, which does nothing else.
pub unsafe fn answer(
    fcinfo: pg_sys::FunctionCallInfo,
    body: impl FnOnce(&Call<'_>) -> Result<Answer, LedgerError>,
) -> pg_sys::Datum {
    let call = Call { fcinfo, lifetime: PhantomData };
    // SAFETY: the caller's promise.
    unsafe { guard(|| body(&call).unwrap_or_else(|error| error.raise()).0) }
}

/// Runs `body` on the call of a function that reads: with a lock on the ledger, taken before its arguments are looked at.
///
/// # Safety
/// `fcinfo` is what the server passed to the function that is running, which does nothing else.
pub unsafe fn answer_read(
    fcinfo: pg_sys::FunctionCallInfo,
    body: impl FnOnce(&Call<'_>) -> Result<Answer, LedgerError>,
) -> pg_sys::Datum {
    // SAFETY: the caller's promise.
    unsafe {
        answer(fcinfo, |call| Relations::locked().ok_or(LedgerError::NotInstalled).and_then(|_| body(call)))
    }
}
