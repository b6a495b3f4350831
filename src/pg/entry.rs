//! Entry points that the server calls for each row or statement, without the argument handling of `#[pg_extern]`.

use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::catalog::{self, Relations};
use super::command::Command;
use super::definition;
use super::function_info::function_info_v1;
use super::row::Row;
use super::{guard, stamp};
use crate::engine::{changes, checkpoint, delta};
use crate::error::LedgerError;

function_info_v1!(
    pg_finfo_announce_change,
    pg_finfo_current_xact_id,
    pg_finfo_current_xact_id_support,
    pg_finfo_guard_ledger,
    pg_finfo_keep_announced,
    pg_finfo_note_row,
    pg_finfo_note_transaction,
    pg_finfo_refuse_change,
    pg_finfo_leave_out
);

/// `credits.current_xact_id(bigint)`: the id that stamps a ledger row with this `seq`. See `sql/schema/ledger.sql`, and [`stamp`].
#[unsafe(no_mangle)]
#[pg_guard]
unsafe extern "C-unwind" fn current_xact_id(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: called by the server with a valid call, of one argument: a bigint.
    let seq = unsafe {
        let argument = &(*call).args.as_slice(1)[0];
        i64::from_polymorphic_datum(argument.value, argument.isnull, pg_sys::INT8OID)
    };
    pg_sys::Datum::from(stamp::give(seq))
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
        let fires = trigger.tg_event & (pg_sys::TRIGGER_EVENT_OPMASK | LEVEL_AND_TIME);
        let relations = Relations::lookup().filter(|relations| relations.ledger == table_of(trigger));
        match relations {
            Some(relations) if fires == AFTER_ROW | pg_sys::TRIGGER_EVENT_INSERT => {
                let row = Row::new(trigger.tg_trigslot, false);
                stamp::require_own(row.xid8(delta::column::XACT_ID));
                delta::note(&row, &relations);
                stamp::follow_inserted(&relations, || row.int8(delta::column::SEQ));
            }
            _ => refuse_trigger(
                "note_transaction() is an AFTER INSERT row trigger of credits.credits_transactions only",
            ),
        }
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
    let (event, table) = unsafe {
        let trigger = trigger_data(call, c"refuse_change");
        (trigger.tg_event & pg_sys::TRIGGER_EVENT_OPMASK, table_of(trigger))
    };
    let event = match event {
        pg_sys::TRIGGER_EVENT_UPDATE => Some("UPDATE"),
        pg_sys::TRIGGER_EVENT_DELETE => Some("DELETE"),
        pg_sys::TRIGGER_EVENT_TRUNCATE => Some("TRUNCATE"),
        _ => None,
    };
    match event {
        Some(event) if catalog::find_ledger() == Some(table) => LedgerError::AppendOnly(event).raise(),
        _ => refuse_trigger(
            "refuse_change() is an UPDATE, DELETE or TRUNCATE trigger of credits.credits_transactions only",
        ),
    }
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
    let (fires, table) = unsafe {
        let trigger = trigger_data(call, c"leave_out");
        (trigger.tg_event & LEVEL_AND_TIME, table_of(trigger))
    };
    let is_derived = catalog::defined()
        .any(|(oid, definition)| oid == table && definition.role == definition::Role::Derived);
    if fires != BEFORE_ROW || !is_derived {
        refuse_trigger("leave_out() is a BEFORE row trigger of derived tables only");
    }
    pg_sys::Datum::from(0_usize)
}

/// `credits.announce_change()`: statement trigger behind changes of the checkpoints by hand, and of what is noted of them.
#[unsafe(no_mangle)]
#[pg_guard]
unsafe extern "C-unwind" fn announce_change(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above.
    let (fires, table) = unsafe {
        let trigger = trigger_data(call, c"announce_change");
        (trigger.tg_event & LEVEL_AND_TIME, table_of(trigger))
    };
    match Relations::lookup() {
        Some(relations)
            if (relations.checkpoints == table || relations.changes == Some(table))
                && fires == pg_sys::TRIGGER_EVENT_AFTER =>
        {
            changes::announce(&relations);
        }
        _ => refuse_trigger(
            "announce_change() is an AFTER statement trigger of credits.user_balance_checkpoints and \
             credits.checkpoint_changes only",
        ),
    }
    pg_sys::Datum::from(0_usize)
}

/// `credits.keep_announced()`: trigger of checkpoints that are deleted by hand, row by row, or all at once.
#[unsafe(no_mangle)]
#[pg_guard]
unsafe extern "C-unwind" fn keep_announced(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: as above; a row's trigger has the row, of an UPDATE the old one.
    unsafe {
        let trigger = trigger_data(call, c"keep_announced");
        let relations = Relations::lookup().filter(|found| found.checkpoints == table_of(trigger));
        match (relations, trigger.tg_event & (pg_sys::TRIGGER_EVENT_OPMASK | LEVEL_AND_TIME)) {
            (Some(_), AFTER_DELETE_OF_ROW | AFTER_UPDATE_OF_ROW) => {
                checkpoint::note_deleted(&Row::new(trigger.tg_trigslot, false));
            }
            (Some(relations), BEFORE_TRUNCATE) => checkpoint::note_truncated(&relations),
            _ => refuse_trigger(
                "keep_announced() is an AFTER DELETE or UPDATE row trigger, and a BEFORE TRUNCATE trigger, of \
                 credits.user_balance_checkpoints only",
            ),
        }
    }
    pg_sys::Datum::from(0_usize)
}

/// For rows or for statements, and when: a statement's trigger after the event has none of these bits.
const LEVEL_AND_TIME: u32 = pg_sys::TRIGGER_EVENT_ROW | pg_sys::TRIGGER_EVENT_TIMINGMASK;
const AFTER_ROW: u32 = pg_sys::TRIGGER_EVENT_AFTER | pg_sys::TRIGGER_EVENT_ROW;
const BEFORE_ROW: u32 = pg_sys::TRIGGER_EVENT_BEFORE | pg_sys::TRIGGER_EVENT_ROW;
const AFTER_DELETE_OF_ROW: u32 = AFTER_ROW | pg_sys::TRIGGER_EVENT_DELETE;
const AFTER_UPDATE_OF_ROW: u32 = AFTER_ROW | pg_sys::TRIGGER_EVENT_UPDATE;
const BEFORE_TRUNCATE: u32 = pg_sys::TRIGGER_EVENT_BEFORE | pg_sys::TRIGGER_EVENT_TRUNCATE;

fn refuse_trigger(reason: impl Into<String>) -> ! {
    ereport!(ERROR, PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, reason.into());
}

/// # Safety
/// `call` is valid; what is returned is as long.
unsafe fn trigger_data<'a>(call: pg_sys::FunctionCallInfo, function: &CStr) -> &'a pg_sys::TriggerData {
    // SAFETY: the caller's promise; the server marks a trigger's call by the type of its context.
    unsafe {
        let context = (*call).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            refuse_trigger(format!("{}() must be called as a trigger", function.to_string_lossy()));
        }
        &*context.cast()
    }
}

/// # Safety
/// The trigger's data are valid.
const unsafe fn table_of(trigger: &pg_sys::TriggerData) -> pg_sys::Oid {
    // SAFETY: the caller's promise: the table is open.
    unsafe { (*trigger.tg_relation).rd_id }
}
