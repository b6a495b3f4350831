//! A call of one of our trigger functions.

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::catalog::Relations;
use super::column::Layout;
use super::description;
use super::row::Row;
use super::tables::caps::Caps;
use super::tables::checkpoints::Checkpoints;
use super::tables::holds::Holds;
use super::tables::limits::Limits;
use super::tables::transactions::Ledger;

/// The trigger that fires: for which table, on what, when, and for which row.
#[derive(Clone, Copy)]
pub struct TriggerCall<'call>(&'call pg_sys::TriggerData);

/// What a trigger fires on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `INSERT`
    Insert,
    /// `DELETE`
    Delete,
    /// `UPDATE`
    Update,
    /// `TRUNCATE`
    Truncate,
}

/// When a trigger fires, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// `BEFORE`, for each row
    BeforeRow,
    /// `AFTER`, for each row
    AfterRow,
    /// `INSTEAD OF`, for each row of a view
    InsteadOfRow,
    /// `BEFORE`, once for a statement
    BeforeStatement,
    /// `AFTER`, once for a statement
    AfterStatement,
}

impl<'call> TriggerCall<'call> {
    /// The table that the trigger is on.
    pub const fn table(&self) -> pg_sys::Oid {
        // SAFETY: the server holds the table open while its trigger runs.
        unsafe { (*self.0.tg_relation).rd_id }
    }

    /// What the trigger fires on.
    pub const fn event(&self) -> Event {
        match self.0.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
            pg_sys::TRIGGER_EVENT_INSERT => Event::Insert,
            pg_sys::TRIGGER_EVENT_DELETE => Event::Delete,
            pg_sys::TRIGGER_EVENT_UPDATE => Event::Update,
            // Two bits: there is no fifth.
            _ => Event::Truncate,
        }
    }

    /// When it fires.
    pub const fn moment(&self) -> Moment {
        let is_for_row = self.0.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0;
        match self.0.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK {
            pg_sys::TRIGGER_EVENT_BEFORE if is_for_row => Moment::BeforeRow,
            pg_sys::TRIGGER_EVENT_BEFORE => Moment::BeforeStatement,
            pg_sys::TRIGGER_EVENT_INSTEAD => Moment::InsteadOfRow,
            _ if is_for_row => Moment::AfterRow,
            _ => Moment::AfterStatement,
        }
    }

    /// The row that the trigger fires for, of an `UPDATE` the old one; `None` for a trigger of another table, or one that fires once for a
    /// statement.
    pub fn row<L: Triggered>(&self, relations: &Relations) -> Option<Row<'call, L>> {
        // SAFETY: the slot is the trigger's.
        unsafe { self.row_in(self.0.tg_trigslot, relations) }
    }

    /// What an `UPDATE` makes of the row; `None` for any other trigger.
    pub fn new_row<L: Triggered>(&self, relations: &Relations) -> Option<Row<'call, L>> {
        // The server sets this slot for an UPDATE only.
        let slot = if self.event() == Event::Update { self.0.tg_newslot } else { std::ptr::null_mut() };
        // SAFETY: the slot is the trigger's.
        unsafe { self.row_in(slot, relations) }
    }

    /// # Safety
    /// The slot is one of the trigger's.
    unsafe fn row_in<L: Triggered>(
        &self,
        slot: *mut pg_sys::TupleTableSlot,
        relations: &Relations,
    ) -> Option<Row<'call, L>> {
        // SAFETY: the server holds the row in this slot while the trigger runs; no session inserted it but this one. The table was
        // compared with the layout when it was looked up, and is locked since before.
        (L::oid(relations) == Some(self.table()) && !slot.is_null()).then(|| unsafe { Row::new(slot) })
    }
}

/// A table with triggers of ours that look at its rows.
///
/// # Safety
/// The oid is that of the table with this layout, which [`Relations::lookup`] has compared.
pub unsafe trait Triggered: Layout {
    /// Its oid; `None` if it is missing.
    fn oid(relations: &Relations) -> Option<pg_sys::Oid>;
}

// SAFETY: its own table.
unsafe impl Triggered for Ledger {
    fn oid(relations: &Relations) -> Option<pg_sys::Oid> {
        Some(relations.ledger)
    }
}

// SAFETY: its own table.
unsafe impl Triggered for Checkpoints {
    fn oid(relations: &Relations) -> Option<pg_sys::Oid> {
        Some(relations.checkpoints)
    }
}

// SAFETY: its own table.
unsafe impl Triggered for Holds {
    fn oid(relations: &Relations) -> Option<pg_sys::Oid> {
        relations.holds().ok()
    }
}

// SAFETY: its own table.
unsafe impl Triggered for Limits {
    fn oid(relations: &Relations) -> Option<pg_sys::Oid> {
        relations.limits().ok()
    }
}

// SAFETY: its own table.
unsafe impl Triggered for Caps {
    fn oid(relations: &Relations) -> Option<pg_sys::Oid> {
        relations.caps().ok()
    }
}

/// What a trigger has the server do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Before a row: leave it out. Otherwise nothing.
    Nothing,
    /// Before a row that is deleted: delete it.
    Delete,
}

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Self::Nothing
    }
}

/// Raises 39P01: the function is the trigger of another table, event or moment than it is made for.
pub fn refuse(reason: impl Into<String>) -> ! {
    ereport!(ERROR, PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, reason.into());
}

/// Runs `body` on the trigger that the server has called the function as; raises 39P01 if it is not called as one. Unless `body` says
/// otherwise, the function returns a null pointer: where it runs before a row, that leaves the row out.
///
/// # Safety
/// `call` is what the server passed to the function that is running, which does nothing else.
pub unsafe fn answer<R: Into<Outcome>>(
    call: pg_sys::FunctionCallInfo,
    body: impl FnOnce(&TriggerCall<'_>) -> R,
) -> pg_sys::Datum {
    // SAFETY: the caller's promise. The server marks a trigger's call by the type of its context, which lives as long as the call.
    unsafe {
        pg_sys::panic::pgrx_extern_c_guard(|| {
            let context = (*call).context;
            if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
                refuse(format!("{}() must be called as a trigger", function_name(call)));
            }
            let trigger: &pg_sys::TriggerData = &*context.cast();
            match body(&TriggerCall(trigger)).into() {
                Outcome::Nothing => pg_sys::Datum::from(0_usize),
                Outcome::Delete => pg_sys::Datum::from(trigger.tg_trigtuple),
            }
        })
    }
}

/// The name that SQL has for the function that is called.
///
/// # Safety
/// The call is the server's own.
pub(super) unsafe fn function_name(call: pg_sys::FunctionCallInfo) -> String {
    // SAFETY: the caller's promise; a name is NULL if the function is gone, or ends with a zero byte.
    unsafe { description::text(pg_sys::get_func_name((*(*call).flinfo).fn_oid)) }
}
