//! A call of one of our event trigger functions.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::command::Command;
use super::trigger::function_name;

/// The event that an event trigger fires for.
pub struct EventTriggerCall<'call> {
    /// Its name: `ddl_command_start`, `ddl_command_end`, `table_rewrite`.
    pub event: &'call CStr,
    /// The command that it happens in.
    pub command: Command,
}

/// Runs `body` on the event that the server has called the function for; raises 39P03 if it is not called as an event trigger.
///
/// # Safety
/// `call` is what the server passed to the function that is running, which does nothing else.
pub unsafe fn answer(
    call: pg_sys::FunctionCallInfo,
    body: impl FnOnce(&EventTriggerCall<'_>),
) -> pg_sys::Datum {
    // SAFETY: the caller's promise. The server marks the call of an event trigger by the type of its context, which lives as long
    // as the call, and so does the command.
    unsafe {
        pg_sys::panic::pgrx_extern_c_guard(|| {
            let context = (*call).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
                let name = function_name(call);
                ereport!(
                    ERROR,
                    PgSqlErrorCode::ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED,
                    format!("{name}() must be called as an event trigger")
                );
            }
            let data = &*context.cast::<pg_sys::EventTriggerData>();
            let (event, command) = (CStr::from_ptr(data.event), Command::new(data.parsetree));
            body(&EventTriggerCall { event, command });
            pg_sys::Datum::from(0_usize)
        })
    }
}
