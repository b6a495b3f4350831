//! C entry points that run once per row, without the argument handling of `#[pg_extern]`.

use pgrx::pg_sys;
use pgrx::prelude::*;

/// Declares the calling convention of a C function, as PG_FUNCTION_INFO_V1 does.
macro_rules! function_info_v1 {
    ($($finfo:ident),*) => {$(
        #[unsafe(no_mangle)]
        #[doc(hidden)]
        pub extern "C-unwind" fn $finfo() -> *const pg_sys::Pg_finfo_record {
            const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }
    )*};
}

function_info_v1!(pg_finfo_current_xact_id, pg_finfo_note_transaction, pg_finfo_refuse_change);

#[unsafe(no_mangle)]
#[pg_guard]
extern "C-unwind" fn current_xact_id(_fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    pg_sys::Datum::from(unsafe { pg_sys::GetTopFullTransactionId().value })
}
#[unsafe(no_mangle)]
#[pg_guard]
extern "C-unwind" fn note_transaction(_fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    pg_sys::Datum::from(0usize)
}
#[unsafe(no_mangle)]
#[pg_guard]
extern "C-unwind" fn refuse_change(_fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    ereport!(
        ERROR,
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "credits_transactions is append-only"
    );
}
