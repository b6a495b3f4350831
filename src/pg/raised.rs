//! Errors of SQL that is not ours, the application's triggers, policies and functions, reach the client as they were raised.
//!
//! pgrx turns an error of the server's into a panic and the panic into a new error, which has no constraint, table or context
//! and only those SQLSTATEs that Postgres has itself. So SQL is run by [`call_out`], which keeps the error as it is while Rust
//! unwinds, and functions that run SQL are entered through [`guard`], which raises it again.

use std::any::Any;
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pgrx::pg_sys;
use pgrx::pg_sys::panic::{CaughtError, ErrorReport};
use pgrx::prelude::*;

// As in utils/elog.h, without pgrx's guard: the error is to leave Rust. It does not return, though 18 does not say so.
unsafe extern "C-unwind" {
    fn ReThrowError(error: *mut pg_sys::ErrorData) -> !;
    fn ThrowErrorData(error: *mut pg_sys::ErrorData);
}

thread_local! {
    /// Where the function that was entered through `guard` keeps an error: the memory that it was called with. NULL inside of
    /// functions that pgrx guards.
    static MEMORY: Cell<pg_sys::MemoryContext> = const { Cell::new(std::ptr::null_mut()) };
}

/// An error of the server's, in memory of the function that runs.
#[derive(Debug)]
pub struct Raised(*mut pg_sys::ErrorData);

// SAFETY: a panic's payload must be able to go to another thread; a backend has one.
unsafe impl Send for Raised {}

impl Raised {
    /// The SQLSTATE of the error, as the server packs it.
    pub fn sqlstate(&self) -> i32 {
        // SAFETY: the error is whole as long as the function runs.
        unsafe { (*self.0).sqlerrcode }
    }

    /// The message of the error.
    pub fn message(&self) -> String {
        // SAFETY: the error is whole as long as the function runs; its message is NULL or ends with a zero byte.
        unsafe { text((*self.0).message) }.unwrap_or_default()
    }

    /// The name of the constraint that the error is about.
    pub fn constraint(&self) -> Option<String> {
        // SAFETY: the error is whole as long as the function runs; the name is NULL or ends with a zero byte.
        unsafe { text((*self.0).constraint_name) }
    }

    /// The error that a panic carries, if it is one of these.
    fn from_panic(payload: Box<dyn Any + Send>) -> Result<Self, Box<dyn Any + Send>> {
        match payload.downcast::<Self>() {
            Ok(raised) => Ok(*raised),
            // Caught and thrown again by pgrx.
            Err(payload) => match payload.downcast::<CaughtError>() {
                Ok(caught) => match *caught {
                    CaughtError::RustPanic { payload, .. } if payload.is::<Self>() => {
                        Self::from_panic(payload)
                    }
                    caught => Err(Box::new(caught)),
                },
                Err(payload) => Err(payload),
            },
        }
    }
}

/// Runs the body of a function that the server has called. Nothing with a destructor may be left in the frames above.
///
/// # Safety
/// Called by an `extern "C-unwind"` function that does nothing else.
#[expect(ffi_unwind_calls, reason = "raises on purpose: nothing with a destructor is left in any frame")]
pub(super) unsafe fn guard(body: impl FnOnce() -> pg_sys::Datum) -> pg_sys::Datum {
    // SAFETY: a plain read; there is always a current context.
    let outer = MEMORY.replace(unsafe { pg_sys::CurrentMemoryContext });
    let result = catch_unwind(AssertUnwindSafe(body));
    MEMORY.set(outer);
    match result.map_err(Raised::from_panic) {
        Ok(datum) => datum,
        // SAFETY: everything that the body held is dropped; the caller's promise.
        Err(Ok(Raised(error))) => unsafe { ReThrowError(error) },
        // SAFETY: the caller's promise.
        Err(Err(payload)) => unsafe { pg_sys::panic::pgrx_extern_c_guard(|| resume_unwind(payload)) },
    }
}

/// Calls the server where it may run anybody's SQL.
///
/// # Safety
/// `call` only calls a function of the server's, one that pgrx puts no guard around, and holds nothing with a destructor.
pub(super) unsafe fn call_out<T>(call: impl FnOnce() -> T) -> T {
    let entered = MEMORY.replace(std::ptr::null_mut());
    // SAFETY: what PG_TRY and PG_CATCH do. The frames that an error passes are the server's and that of `call`.
    unsafe {
        let current = pg_sys::CurrentMemoryContext;
        let (handler, callbacks) = (pg_sys::PG_exception_stack, pg_sys::error_context_stack);
        let mut result = MaybeUninit::uninit();
        let raised = cee_scape::call_with_sigsetjmp(false, |buffer| {
            pg_sys::PG_exception_stack = std::ptr::from_ref(buffer).cast_mut().cast();
            result.write(call());
            0
        });
        pg_sys::PG_exception_stack = handler;
        pg_sys::error_context_stack = callbacks;
        MEMORY.set(entered);
        if raised == 0 {
            return result.assume_init();
        }
        pg_sys::CurrentMemoryContext = if entered.is_null() { current } else { entered };
        let error = pg_sys::CopyErrorData();
        pg_sys::FlushErrorState();
        pg_sys::CurrentMemoryContext = current;
        if entered.is_null() {
            report(error)
        }
        resume_unwind(Box::new(Raised(error)))
    }
}

/// Runs `work`; `None` if it has raised an error that is `expected`. The caller must then raise another one in its place: no
/// subtransaction has cleaned up behind the first.
pub fn unless<T>(expected: impl FnOnce(&Raised) -> bool, work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)).map_err(Raised::from_panic) {
        Ok(result) => Some(result),
        Err(Ok(raised)) if expected(&raised) => None,
        Err(Ok(raised)) => resume_unwind(Box::new(raised)),
        Err(Err(payload)) => resume_unwind(payload),
    }
}

/// Raises an error with an SQLSTATE that Postgres has not. The function that runs must have been entered through [`guard`]: any
/// other makes it an internal error.
#[expect(ffi_unwind_calls, reason = "`call_out` stands around the call")]
pub fn raise(sqlstate: [u8; 5], message: &str, detail: Option<&str>, hint: Option<&str>) -> ! {
    let text = |text: &str| CString::new(text).unwrap_or_default();
    let (message, detail, hint) = (text(message), detail.map(text), hint.map(text));
    let pointer =
        |text: &Option<CString>| text.as_ref().map_or(std::ptr::null_mut(), |text| text.as_ptr().cast_mut());
    let mut error = pg_sys::ErrorData {
        elevel: PgLogLevel::ERROR as i32,
        sqlerrcode: packed(sqlstate),
        message: message.as_ptr().cast_mut(),
        detail: pointer(&detail),
        hint: pointer(&hint),
        ..pg_sys::ErrorData::default()
    };
    let error = &raw mut error;
    // SAFETY: the server copies the parts of the error, which are NULL or end with a zero byte, and stay until it has.
    unsafe { call_out(|| ThrowErrorData(error)) }
    unreachable!("an error does not return")
}

/// An SQLSTATE as the server has it: six bits for each character.
fn packed(sqlstate: [u8; 5]) -> i32 {
    (0..).step_by(6).zip(sqlstate).map(|(place, character)| i32::from(character - b'0') << place).sum()
}

/// Has errors say nothing of where in Rust they come from: pgrx gives a backtrace to the client, if the server's environment has
/// RUST_BACKTRACE. A panic, which is a fault of ours, goes to the server's log, with its place and its backtrace. Called once,
/// when the library is loaded.
pub fn init() {
    // The hook of pgrx, and below it the one that every program has.
    drop(std::panic::take_hook());
    let log = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str().is_some() {
            log(panic);
        }
    }));
}

/// Raises as much of the error as pgrx does.
///
/// # Safety
/// The error is whole.
unsafe fn report(error: *mut pg_sys::ErrorData) -> ! {
    // SAFETY: the caller's promise: its texts are NULL or end with a zero byte.
    let (code, [message, detail, hint]) = unsafe {
        ((*error).sqlerrcode, [(*error).message, (*error).detail, (*error).hint].map(|part| text(part)))
    };
    let mut report =
        ErrorReport::new(PgSqlErrorCode::from(code), message.unwrap_or_default(), "credits_ledger");
    if let Some(detail) = detail {
        report = report.set_detail(detail);
    }
    if let Some(hint) = hint {
        report = report.set_hint(hint);
    }
    report.report(PgLogLevel::ERROR);
    unreachable!("an error report does not return")
}

/// A part of an error.
///
/// # Safety
/// It is NULL or ends with a zero byte.
unsafe fn text(part: *mut std::ffi::c_char) -> Option<String> {
    // SAFETY: the caller's promise.
    (!part.is_null()).then(|| unsafe { CStr::from_ptr(part) }.to_string_lossy().into_owned())
}
