//! Functions of this library that the server calls by their names, by the convention of `PG_FUNCTION_INFO_V1`.

use pgrx::pg_sys;

/// Exports functions for `CREATE FUNCTION ... AS 'MODULE_PATHNAME', 'name'`: each `name => body` under its kind, which says what the
/// body is given and returns.
///
/// - `functions`: `Fn(&Call) -> Result<Answer, LedgerError>`
/// - `reading_functions`: the same, with the ledger locked before the arguments are looked at
/// - `triggers`: `Fn(&TriggerCall)`, or `Fn(&TriggerCall) -> Outcome`
/// - `event_triggers`: `Fn(&EventTriggerCall)`
/// - `from_bigint_to_xid8`: `Fn(Option<i64>) -> u64`
/// - `returning_uuid`: `Fn() -> [u8; 16]`
/// - `returning_null`: `Fn()`
macro_rules! entry_points {
    (functions: $($rest:tt)*) => { $crate::pg::entry_point::entry_points! { @ $crate::pg::call::answer, $($rest)* } };
    (reading_functions: $($rest:tt)*) => {
        $crate::pg::entry_point::entry_points! { @ $crate::pg::call::answer_read, $($rest)* }
    };
    (triggers: $($rest:tt)*) => { $crate::pg::entry_point::entry_points! { @ $crate::pg::trigger::answer, $($rest)* } };
    (event_triggers: $($rest:tt)*) => {
        $crate::pg::entry_point::entry_points! { @ $crate::pg::event_trigger::answer, $($rest)* }
    };
    (from_bigint_to_xid8: $($rest:tt)*) => {
        $crate::pg::entry_point::entry_points! { @ $crate::pg::entry_point::from_bigint_to_xid8, $($rest)* }
    };
    (returning_uuid: $($rest:tt)*) => {
        $crate::pg::entry_point::entry_points! { @ $crate::pg::entry_point::returning_uuid, $($rest)* }
    };
    (returning_null: $($rest:tt)*) => {
        $crate::pg::entry_point::entry_points! { @ $crate::pg::entry_point::returning_null, $($rest)* }
    };
    (@ $adapter:path, $($name:ident => $body:path;)*) => {$(
        #[allow(unsafe_code, reason = "written once, here, for all that the server calls")]
        const _: () = {
            #[unsafe(export_name = concat!("pg_finfo_", stringify!($name)))]
            extern "C-unwind" fn convention() -> *const pgrx::pg_sys::Pg_finfo_record {
                static V1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
                &raw const V1
            }

            #[unsafe(export_name = stringify!($name))]
            extern "C-unwind" fn entry_point(call: pgrx::pg_sys::FunctionCallInfo) -> pgrx::pg_sys::Datum {
                // SAFETY: the server calls this function, which does nothing else, and with its own call information.
                unsafe { $adapter(call, $body) }
            }
        };
    )*};
}

pub(crate) use entry_points;

/// Runs `body` on the `bigint` that a function of one argument is called with; `None` for NULL. The function returns an `xid8`.
///
/// # Safety
/// `call` is what the server passed to the function that is running, which does nothing else and takes one `bigint`.
pub unsafe fn from_bigint_to_xid8(
    call: pg_sys::FunctionCallInfo,
    body: impl FnOnce(Option<i64>) -> u64,
) -> pg_sys::Datum {
    // SAFETY: the caller's promise: there is one argument, of this type.
    unsafe {
        pg_sys::panic::pgrx_extern_c_guard(|| {
            let argument = &(*call).args.as_slice(1)[0];
            let number = (!argument.isnull).then(|| argument.value.value().cast_signed() as i64);
            pg_sys::Datum::from(body(number))
        })
    }
}

/// Runs `body`. The function takes no argument and returns a `uuid`.
///
/// # Safety
/// Called by an `extern "C-unwind"` function that the server has called and that does nothing else.
pub unsafe fn returning_uuid(
    _call: pg_sys::FunctionCallInfo,
    body: impl FnOnce() -> [u8; 16],
) -> pg_sys::Datum {
    // SAFETY: the caller's promise; the memory has the size of a uuid, and is freed by the server with its context.
    unsafe {
        pg_sys::panic::pgrx_extern_c_guard(|| {
            let uuid = body();
            let result = pg_sys::palloc(size_of_val(&uuid)).cast::<[u8; 16]>();
            result.write(uuid);
            pg_sys::Datum::from(result)
        })
    }
}

/// Runs `body`. The function returns a null pointer.
///
/// # Safety
/// Called by an `extern "C-unwind"` function that the server has called and that does nothing else.
pub unsafe fn returning_null(_call: pg_sys::FunctionCallInfo, body: impl FnOnce()) -> pg_sys::Datum {
    // SAFETY: the caller's promise.
    unsafe {
        pg_sys::panic::pgrx_extern_c_guard(|| {
            body();
            pg_sys::Datum::from(0_usize)
        })
    }
}
