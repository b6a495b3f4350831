//! Queries that are composed for a call and run through SPI, with every value bound as a parameter.
//!
//! The text of a query has no values in it, so calls that differ in values alone have the same text. It is the key under which a
//! session keeps the plan. The server replans a kept plan when a table, a privilege or a policy that it depends on changes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fmt;
use std::thread::panicking;

use ledger::id::UserId;
use pgrx::{FromDatum, Uuid, pg_sys};

use super::answer::Answer;
use super::call::Call;
use super::raised::call_out;
use super::search_path::SearchPath;
use super::value::Value;

/// The most plans that a session keeps. There are fewer texts than this as long as the analytics table keeps its name.
const KEPT_PLANS: usize = 512;

/// The server's message for a result whose columns the query does not have.
const OTHER_RESULT_TYPE: &CStr = c"the result type has other columns than it was made with";

thread_local! {
    static PLANS: RefCell<HashMap<String, pg_sys::SPIPlanPtr>> = RefCell::new(HashMap::new());
}

/// How the server plans a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planning {
    /// A generic plan: one access path is best for all values.
    Once,
    /// A custom plan for each execution: which index is best depends on the values.
    EachTime,
}

/// How a statement runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Running {
    /// Read-only, with the snapshot of the calling query, and with a pinned `search_path`.
    Reading,
    /// As a statement of the caller's: with a new snapshot and the caller's `search_path`. Every name in it must be qualified.
    AsCaller,
}

/// A query under construction.
pub struct Statement<'call> {
    parameters: Vec<Bound<'call>>,
    planning: Planning,
    running: Running,
}

/// A parameter, and its value unless it is NULL.
struct Bound<'call> {
    oid: pg_sys::Oid,
    value: Option<Value<'call>>,
}

/// A bound value, which is written into the text of a query as `$1`.
#[derive(Clone, Copy, Debug)]
pub struct Parameter(usize);

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}", self.0)
    }
}

impl<'call> Statement<'call> {
    /// A query without parameters so far.
    pub fn new() -> Self {
        Self { parameters: Vec::new(), planning: Planning::Once, running: Running::Reading }
    }

    /// A statement that runs as one of the caller's: triggers and policies see the caller's role and `search_path`. Every name in
    /// it must be qualified, those of operators, too.
    pub fn of_caller() -> Self {
        Self { running: Running::AsCaller, ..Self::new() }
    }

    /// Binds a value.
    pub fn bind(&mut self, value: Value<'call>) -> Parameter {
        self.push(Bound { oid: value.oid, value: Some(value) })
    }

    /// Binds a value of this type, or NULL.
    pub fn bind_optional(&mut self, oid: pg_sys::Oid, value: Option<Value<'call>>) -> Parameter {
        self.push(Bound { oid, value })
    }

    fn push(&mut self, bound: Bound<'call>) -> Parameter {
        self.parameters.push(bound);
        Parameter(self.parameters.len())
    }

    /// Has the query planned for its values each time it runs.
    pub fn plan_each_time(&mut self) {
        self.planning = Planning::EachTime;
    }

    /// Runs the query, and returns the one column of its one row, not NULL, as the function's result.
    pub fn answer_value(&self, sql: &str) -> Answer {
        self.first_row(sql, |row| row.answer(1)).expect("the query returns one row")
    }

    /// Runs the query and reads its first row, if it has one.
    pub fn first_row<R>(&self, sql: &str, read: impl FnOnce(&ResultRow<'_>) -> R) -> Option<R> {
        let level = self.run(sql, std::ptr::null_mut());
        // SAFETY: the query has succeeded, so its result belongs to this SPI level.
        let has_row = unsafe { pg_sys::SPI_processed > 0 && !pg_sys::SPI_tuptable.is_null() };
        has_row.then(|| read(&ResultRow { place: 0, _level: &level }))
    }

    /// Runs the statement and reads its rows.
    pub fn rows<R>(&self, sql: &str, read: impl Fn(&ResultRow<'_>) -> R) -> Vec<R> {
        let level = self.run(sql, std::ptr::null_mut());
        // SAFETY: the query has succeeded, so its result belongs to this SPI level.
        let count = unsafe { if pg_sys::SPI_tuptable.is_null() { 0 } else { pg_sys::SPI_processed } };
        let places = 0..usize::try_from(count).unwrap_or_default();
        places.map(|place| read(&ResultRow { place, _level: &level })).collect()
    }

    /// Runs the query, and has the server put its rows into the function's result. Raises 42804 if that has columns of other types.
    #[expect(
        ffi_unwind_calls,
        reason = "neither call raises an error: the one sets fields, the other frees memory"
    )]
    pub fn answer_rows(&self, sql: &str, call: &Call<'call>) -> Answer {
        let rows = call.open_result();
        // SAFETY: the store and its memory live until the caller of the function has read the rows; the receiver
        // is destroyed before this SPI level ends, or with the memory of the query if it fails.
        unsafe {
            let receiver = pg_sys::CreateDestReceiver(pg_sys::CommandDest::DestTuplestore);
            SetTuplestoreDestReceiverParams(
                receiver,
                rows.store,
                rows.context,
                false,
                rows.columns,
                OTHER_RESULT_TYPE.as_ptr(),
            );
            let _level = self.run(sql, receiver);
            if let Some(destroy) = (*receiver).rDestroy {
                destroy(receiver);
            }
        }
        Answer::rows()
    }

    /// Opens an SPI level and runs the query in it.
    #[expect(ffi_unwind_calls, reason = "`call_out` stands around the call")]
    fn run(&self, sql: &str, receiver: *mut pg_sys::DestReceiver) -> SpiLevel {
        let level = SpiLevel::open(self.running);
        // SAFETY: the plan was made for parameters of these types.
        unsafe {
            let parameters = pg_sys::makeParamList(i32::try_from(self.parameters.len()).unwrap_or(i32::MAX));
            let places = (*parameters).params.as_mut_slice(self.parameters.len());
            for (place, Bound { oid, value }) in places.iter_mut().zip(&self.parameters) {
                *place = pg_sys::ParamExternData {
                    value: value.map_or(pg_sys::Datum::null(), |value| value.datum),
                    isnull: value.is_none(),
                    pflags: u16::try_from(pg_sys::PARAM_FLAG_CONST).unwrap_or_default(),
                    ptype: *oid,
                };
            }
            let options = pg_sys::SPIExecuteOptions {
                params: parameters,
                read_only: self.running == Running::Reading,
                dest: receiver,
                ..Default::default()
            };
            let (plan, options) = (self.plan(sql), &raw const options);
            let code = call_out(|| SPI_execute_plan_extended(plan, options));
            assert!(code >= 0, "SPI_execute_plan_extended returned {code}");
        }
        level
    }

    /// The plan that is kept for this text; a new one if there is none.
    fn plan(&self, sql: &str) -> pg_sys::SPIPlanPtr {
        if let Some(plan) = PLANS.with_borrow(|plans| plans.get(sql).copied()) {
            return plan;
        }
        let text = CString::new(sql).expect("identifiers hold no zero byte");
        let mut types: Vec<pg_sys::Oid> = self.parameters.iter().map(|bound| bound.oid).collect();
        let options = pg_sys::CURSOR_OPT_PARALLEL_OK
            | match self.planning {
                Planning::Once => pg_sys::CURSOR_OPT_GENERIC_PLAN,
                Planning::EachTime => pg_sys::CURSOR_OPT_CUSTOM_PLAN,
            };
        // SAFETY: called inside an SPI level. A plan that is not kept ends with it; a kept one is never freed, for
        // a call further up may be running it.
        unsafe {
            let plan = pg_sys::SPI_prepare_cursor(
                text.as_ptr(),
                i32::try_from(types.len()).unwrap_or(i32::MAX),
                types.as_mut_ptr(),
                options.cast_signed(),
            );
            assert!(!plan.is_null(), "a query of our own making is prepared");
            PLANS.with_borrow_mut(|plans| {
                if plans.len() < KEPT_PLANS {
                    pg_sys::SPI_keepplan(plan);
                    plans.insert(sql.to_owned(), plan);
                }
            });
            plan
        }
    }
}

/// A row of a query's result.
pub struct ResultRow<'level> {
    place: usize,
    _level: &'level SpiLevel,
}

impl ResultRow<'_> {
    /// A column, counted from 1; `None` for NULL.
    fn datum(&self, column: i32) -> Option<pg_sys::Datum> {
        // SAFETY: the query has succeeded and returned so many rows, which belong to the level.
        unsafe {
            let (table, mut is_null) = (pg_sys::SPI_tuptable, false);
            let datum = pg_sys::SPI_getbinval(
                *(*table).vals.add(self.place),
                (*table).tupdesc,
                column,
                &raw mut is_null,
            );
            (!is_null).then_some(datum)
        }
    }

    /// A column, copied into a Rust type that the column's type in the query converts to; `None` for NULL.
    pub fn value<T: FromDatum>(&self, column: i32) -> Option<T> {
        // SAFETY: the value is copied, or used up, before the level ends.
        self.datum(column).and_then(|datum| unsafe { T::from_datum(datum, false) })
    }

    /// A column with the id of an account; that of nobody for NULL.
    pub fn user(&self, column: i32) -> UserId {
        UserId::from_bytes(self.value(column).map_or([0; 16], |id: Uuid| *id.as_bytes()))
    }

    /// A column that is not NULL, as the result of the function.
    pub fn answer(&self, column: i32) -> Answer {
        let datum = self.datum(column).expect("the query returns no NULL");
        // SAFETY: the query has succeeded, so its result and the description of that belong to this SPI level. The value is
        // copied to the memory context that the function was called in.
        unsafe {
            let (mut length, mut by_value) = (0, false);
            let oid = pg_sys::SPI_gettypeid((*pg_sys::SPI_tuptable).tupdesc, column);
            pg_sys::get_typlenbyval(oid, &raw mut length, &raw mut by_value);
            Answer::value(pg_sys::SPI_datumTransfer(datum, by_value, length.into()))
        }
    }
}

/// An open SPI connection: the results of its queries are freed when it is closed.
struct SpiLevel {
    _path: Option<SearchPath>,
}

impl SpiLevel {
    fn open(running: Running) -> Self {
        let path = (running == Running::Reading).then(SearchPath::pinned);
        // SAFETY: an error unwinds through here, and the abort of the transaction or subtransaction closes the connection.
        unsafe { pg_sys::SPI_connect() };
        Self { _path: path }
    }
}

impl Drop for SpiLevel {
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: `open` has opened this connection, and those opened after it are closed.
            unsafe { pg_sys::SPI_finish() };
        }
    }
}

// From executor/spi.h and executor/tstoreReceiver.h, the same from Postgres 14 on: the first without the guard that pgrx puts
// around it, the second is not bound by pgrx.
unsafe extern "C-unwind" {
    fn SPI_execute_plan_extended(
        plan: pg_sys::SPIPlanPtr,
        options: *const pg_sys::SPIExecuteOptions,
    ) -> std::ffi::c_int;

    fn SetTuplestoreDestReceiverParams(
        receiver: *mut pg_sys::DestReceiver,
        store: *mut pg_sys::Tuplestorestate,
        store_context: pg_sys::MemoryContext,
        detoast: bool,
        target_columns: pg_sys::TupleDesc,
        map_failure_message: *const std::ffi::c_char,
    );
}
