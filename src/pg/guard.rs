//! The guard of the ledger: nothing drops it by accident while it holds transactions.
//!
//! The server names every object that it is about to drop, whatever the command and however far it cascades, to a hook of
//! the library. A session that has never used the ledger has no library loaded: an event trigger calls it before any
//! command that could reach the ledger, and it looks up which table to watch for. Rows that the dropping transaction
//! itself inserted are nobody's money yet.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::catalog;
use super::relation::{Access, Table};
use super::snapshot::Snapshot;
use super::xact;
use crate::error::LedgerError;
use crate::settings;

thread_local! {
    /// The ledger when the running command began; `InvalidOid` where there is none.
    static WATCHED: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
}

/// The hook of a library that hooked in before.
static PREVIOUS: OnceLock<pg_sys::object_access_hook_type> = OnceLock::new();

/// Looks up what a command that is about to drop something must not drop. The first such command of a session hooks into
/// the server: the hook is called for much else, and sessions that never drop anything need not pay for it.
pub fn watch() {
    // SAFETY: the only thread sets the hook, which stays valid for the life of the process.
    unsafe {
        if PREVIOUS.set(pg_sys::object_access_hook).is_ok() {
            pg_sys::object_access_hook = Some(on_object_access);
        }
    }
    WATCHED.set(catalog::find_ledger().unwrap_or(pg_sys::InvalidOid));
}

#[pg_guard]
unsafe extern "C-unwind" fn on_object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: c_int,
    argument: *mut c_void,
) {
    if let Some(Some(previous)) = PREVIOUS.get() {
        // SAFETY: what the server passes is passed on; an error of the other library's becomes ours at the boundary.
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous(access, class, object, part, argument));
        }
    }
    let drops_watched = access == pg_sys::ObjectAccessType::OAT_DROP
        && object == WATCHED.get()
        && class == pg_sys::RelationRelationId
        && part == 0;
    if drops_watched && !settings::allow_drop() && !is_binary_upgrade() && holds_rows_of_others(object) {
        LedgerError::HoldsTransactions.raise();
    }
}

/// Whether pg_upgrade is at work, which moves the rows as files.
fn is_binary_upgrade() -> bool {
    // SAFETY: a plain read of backend state.
    unsafe { pg_sys::IsBinaryUpgrade }
}

/// Whether the table, which is locked against everyone, holds a row that another transaction inserted. Its indexes may be
/// dropped already, so it is read as it lies. Costs one row, but for those of this transaction before it.
fn holds_rows_of_others(table: pg_sys::Oid) -> bool {
    let (table, now) = (Table::open(table, Access::Read), Snapshot::latest());
    // SAFETY: the scan is ended before table and snapshot are released; each row is valid until the next is asked for.
    unsafe {
        let scan = pg_sys::systable_beginscan(
            table.as_raw(),
            pg_sys::InvalidOid,
            false,
            now.as_raw(),
            0,
            std::ptr::null_mut(),
        );
        let found = loop {
            xact::check_for_interrupts();
            let row = pg_sys::systable_getnext(scan);
            if row.is_null() {
                break false;
            }
            if !pg_sys::TransactionIdIsCurrentTransactionId((*(*row).t_data).t_choice.t_heap.t_xmin) {
                break true;
            }
        };
        pg_sys::systable_endscan(scan);
        found
    }
}
