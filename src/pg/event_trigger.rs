//! A call of one of our event trigger functions.

use std::ffi::CStr;

use pgrx::direct_function_call;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::command::Command;
use super::trigger::function_name;

/// The event that an event trigger fires for.
pub struct EventTriggerCall<'call>(&'call pg_sys::EventTriggerData);

/// A table that is about to be rewritten.
#[derive(Clone, Copy, Debug)]
pub struct Rewrite {
    /// The table.
    pub table: pg_sys::Oid,
    /// Whether it becomes logged or unlogged, or gets another access method.
    pub stores_otherwise: bool,
    /// Whether a column is computed anew for each row: a new one with a default, or one with `SET EXPRESSION`.
    pub computes_column: bool,
}

impl<'call> EventTriggerCall<'call> {
    /// The event: `ddl_command_start`, `ddl_command_end`, `table_rewrite`.
    pub const fn event(&self) -> &'call CStr {
        // SAFETY: a name that ends with a zero byte and lives as long as the call.
        unsafe { CStr::from_ptr(self.0.event) }
    }

    /// The command that it happens in.
    pub const fn command(&self) -> Command<'call> {
        // SAFETY: the server's parse tree lives as long as the call.
        unsafe { Command::new(self.0.parsetree) }
    }

    /// What is about to be rewritten; `None` at another event.
    pub fn rewrite(&self) -> Option<Rewrite> {
        // The second one is in the headers from Postgres 15 on.
        const OTHER_STORAGE: u32 = pg_sys::AT_REWRITE_ALTER_PERSISTENCE | 8;
        if self.event() != c"table_rewrite" {
            return None;
        }
        // SAFETY: asked inside an event trigger for the event that has these answers.
        let (table, reason) = unsafe {
            (
                direct_function_call::<pg_sys::Oid>(pg_sys::pg_event_trigger_table_rewrite_oid, &[])?,
                direct_function_call::<i32>(pg_sys::pg_event_trigger_table_rewrite_reason, &[])?,
            )
        };
        let has = |reasons: u32| reason.cast_unsigned() & reasons != 0;
        Some(Rewrite {
            table,
            stores_otherwise: has(OTHER_STORAGE),
            computes_column: has(pg_sys::AT_REWRITE_DEFAULT_VAL),
        })
    }
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
            body(&EventTriggerCall(&*context.cast()));
            pg_sys::Datum::from(0_usize)
        })
    }
}
