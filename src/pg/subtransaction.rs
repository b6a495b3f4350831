//! Subtransactions: work that may fail without failing the transaction.

use std::panic::UnwindSafe;

use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use pgrx::{PgTryBuilder, pg_sys};

/// Runs `work` in a subtransaction, which is rolled back if it raises an error or returns `None`. Then the memory that it has taken from the
/// server is given back, too; otherwise that stays as long as the memory context that is current outside.
pub fn run<R>(work: impl FnOnce() -> Option<R> + UnwindSafe) -> Result<Option<R>, Box<CaughtError>> {
    // SAFETY: the documented way to use an internal subtransaction; memory context and resource owner are put back. An error that was
    // caught is in memory of Rust's, or of the function that runs, which is further out.
    unsafe {
        let context = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        let memory = own_memory(context);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
        let result = PgTryBuilder::new(|| Ok(work())).catch_others(|error| Err(Box::new(error))).execute();
        pg_sys::MemoryContextSwitchTo(context);
        let is_released = matches!(result, Ok(Some(_)));
        if is_released {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
        if !is_released {
            pg_sys::MemoryContextDelete(memory);
        }
        result
    }
}

/// A memory context for the work of a subtransaction, small at first: a call can have very many of them.
///
/// # Safety
/// The context outside is there.
unsafe fn own_memory(outside: pg_sys::MemoryContext) -> pg_sys::MemoryContext {
    // SAFETY: the caller's promise; the name is a constant.
    unsafe {
        pg_sys::AllocSetContextCreateInternal(
            outside,
            c"credits_ledger subtransaction".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
        )
    }
}

/// Runs `work` in a subtransaction. If it fails the subtransaction is rolled back, the failure is logged, and the
/// transaction goes on without a result; a cancel or a shutdown still ends it.
pub fn attempt<R>(what: &str, work: impl FnOnce() -> R + UnwindSafe) -> Option<R> {
    attempt_bearing(is_no_request_to_stop, what, work)
}

/// Runs `work` in a subtransaction as [`attempt`] does, but swallows no other error than that memory is exhausted.
pub fn attempt_if_room<R>(what: &str, work: impl FnOnce() -> R + UnwindSafe) -> Option<R> {
    attempt_bearing(|code| code == PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, what, work)
}

/// Runs `work` in a subtransaction. An error whose SQLSTATE `is_borne` is logged, and the transaction goes on; others are raised.
fn attempt_bearing<R>(
    is_borne: fn(PgSqlErrorCode) -> bool,
    what: &str,
    work: impl FnOnce() -> R + UnwindSafe,
) -> Option<R> {
    match run(|| Some(work())) {
        Ok(result) => result,
        Err(error) if code(&error).is_some_and(is_borne) => {
            log!("{what} is put off: {error:?}");
            None
        }
        Err(error) => error.rethrow(),
    }
}

fn is_no_request_to_stop(code: PgSqlErrorCode) -> bool {
    !matches!(
        code,
        PgSqlErrorCode::ERRCODE_QUERY_CANCELED
            | PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN
            | PgSqlErrorCode::ERRCODE_CRASH_SHUTDOWN
    )
}

/// The SQLSTATE of an error; `None` for a panic of Rust's.
fn code(error: &CaughtError) -> Option<PgSqlErrorCode> {
    match error {
        CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
            Some(report.sql_error_code())
        }
        CaughtError::RustPanic { .. } => None,
    }
}
