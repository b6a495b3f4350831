//! Entry points that the server calls for each row or statement, without the argument handling of `#[pg_extern]`.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::catalog::Relations;
use super::command::Command;
use super::function_info::function_info_v1;
use super::row::Row;
use super::{guard, stamp};
use crate::engine::{delta, shared};
use crate::error::LedgerError;

function_info_v1!(
    pg_finfo_announce_change,
    pg_finfo_current_xact_id,
    pg_finfo_current_xact_id_support,
    pg_finfo_guard_ledger,
    pg_finfo_note_row,
    pg_finfo_note_transaction,
    pg_finfo_refuse_change,
    pg_finfo_leave_out
);

/// `credits.current_xact_id(bigint)`: the id that stamps a ledger row. See `sql/schema/ledger.sql` for why it takes an
/// argument that it does not read.
#[unsafe(no_mangle)]
#[pg_guard]
extern "C-unwind" fn current_xact_id(_call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    pg_sys::Datum::from(stamp::give())
}

/// `credits.current_xact_id_support(internal)`: a planner support function of 0.1.0, for databases that are not updated yet.
/// NULL says that it has no support to give.
#[unsafe(no_mangle)]
extern "C-unwind" fn current_xact_id_support(_call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    pg_sys::Datum::from(0_usize)
}

/// `credits.note_transaction()`: row trigger that notes whose balance the transaction changes, and by how much.
#[unsafe(no_mangle)]
#[pg_guard]
unsafe extern "C-unwind" fn note_row(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: called by the server with a valid call; the trigger's data live as long as the call.
    unsafe {
        let trigger = trigger_data(call, c"note_transaction");
        let slot = (*trigger).tg_trigslot;
        let ledger = Relations::lookup().map(|relations| relations.ledger);
        if slot.is_null() || ledger != Some((*(*trigger).tg_relation).rd_id) {
            refuse_trigger(
                "note_transaction() is a row trigger of credits.credits_transactions only".to_owned(),
            );
        }
        delta::note(&Row::new(slot, false));
    }
    pg_sys::Datum::from(0_usize)
}

/// `credits.note_transaction()` of 0.1.0, for databases that are not updated yet, where it is refused. Of the library of then,
/// it noted no amounts: a session that has that one loaded does not find the function of today.
#[unsafe(no_mangle)]
#[pg_guard]
unsafe extern "C-unwind" fn note_transaction(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: called as that one.
    unsafe { note_row(call) }
}

/// `credits.refuse_change()`: trigger that keeps the ledger append-only.
#[unsafe(no_mangle)]
#[pg_guard]
unsafe extern "C-unwind" fn refuse_change(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above.
    let event = unsafe { (*trigger_data(call, c"refuse_change")).tg_event } & pg_sys::TRIGGER_EVENT_OPMASK;
    LedgerError::AppendOnly(match event {
        pg_sys::TRIGGER_EVENT_UPDATE => "UPDATE",
        pg_sys::TRIGGER_EVENT_DELETE => "DELETE",
        _ => "TRUNCATE",
    })
    .raise()
}

/// `credits.guard_ledger()`: event trigger before and after commands, and before tables are rewritten. See [`guard`].
#[unsafe(no_mangle)]
#[pg_guard]
unsafe extern "C-unwind" fn guard_ledger(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: called by the server with a valid call, which it marks as an event trigger's by the type of its context; the
    // command is valid as long as the call.
    unsafe {
        let context = (*call).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_EventTriggerData {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED,
                "guard_ledger() must be called as an event trigger"
            );
        }
        let event = &*context.cast::<pg_sys::EventTriggerData>();
        guard::on_event(CStr::from_ptr(event.event), Command::new(event.parsetree));
    }
    pg_sys::Datum::from(0_usize)
}

/// `credits.leave_out()`: row trigger that has the server go on without the row.
#[unsafe(no_mangle)]
#[pg_guard]
unsafe extern "C-unwind" fn leave_out(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above. To a trigger before the row, a null pointer in place of a tuple says that there is none.
    unsafe { trigger_data(call, c"leave_out") };
    pg_sys::Datum::from(0_usize)
}

/// `credits.announce_change()`: statement trigger behind changes of the checkpoints by hand.
#[unsafe(no_mangle)]
#[pg_guard]
unsafe extern "C-unwind" fn announce_change(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above.
    let table = unsafe { (*(*trigger_data(call, c"announce_change")).tg_relation).rd_id };
    match Relations::lookup() {
        Some(relations) if relations.checkpoints == table => shared::announce_change(&relations),
        _ => refuse_trigger(
            "announce_change() is a trigger of credits.user_balance_checkpoints only".to_owned(),
        ),
    }
    pg_sys::Datum::from(0_usize)
}

fn refuse_trigger(reason: String) -> ! {
    ereport!(ERROR, PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, reason);
}

/// # Safety
/// `call` is valid.
unsafe fn trigger_data(call: pg_sys::FunctionCallInfo, function: &CStr) -> *mut pg_sys::TriggerData {
    // SAFETY: the caller's promise; the server marks a trigger's call by the type of its context.
    unsafe {
        let context = (*call).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            refuse_trigger(format!("{}() must be called as a trigger", function.to_string_lossy()));
        }
        context.cast()
    }
}
