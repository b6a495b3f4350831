//! The transaction: its id, its end, and what it sends when it commits.

use std::ffi::{CStr, CString, c_char, c_void};

use pgrx::pg_sys;

use super::snapshot::Writer;
use super::{callbacks, raised};

/// What happens at the end of a transaction.
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// Before the commit; may raise an error, which rolls the transaction back.
    pub before_commit: fn(),
    /// Before it is prepared; may raise an error, which rolls the transaction back.
    pub before_prepare: fn(),
    /// When it has committed; must not fail.
    pub committed: fn(),
    /// When the transaction is over or prepared; must not fail.
    pub forget: fn(),
}

static HOOKS: std::sync::OnceLock<Hooks> = std::sync::OnceLock::new();

/// Registers for the ends of transactions; called once, when the library is loaded.
pub fn init(hooks: Hooks) {
    if HOOKS.set(hooks).is_ok() {
        // SAFETY: the callback stays valid for the life of the process.
        unsafe { callbacks::register_last(Some(on_transaction_event)) }
    }
}

/// Only the events before the commit may raise an error: the server panics on one that comes later. No settlement runs for a
/// transaction that is prepared: its locks would outlive the session, and it cannot notify.
unsafe extern "C-unwind" fn on_transaction_event(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    // SAFETY: this function does nothing else.
    unsafe {
        raised::guard(|| {
            run_hooks(event);
            pg_sys::Datum::null()
        });
    }
}

fn run_hooks(event: pg_sys::XactEvent::Type) {
    let Some(hooks) = HOOKS.get() else { return };
    match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT => in_memory_of_transaction(hooks.before_commit),
        pg_sys::XactEvent::XACT_EVENT_COMMIT => {
            (hooks.committed)();
            (hooks.forget)();
        }
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => in_memory_of_transaction(hooks.before_prepare),
        pg_sys::XactEvent::XACT_EVENT_ABORT | pg_sys::XactEvent::XACT_EVENT_PREPARE => (hooks.forget)(),
        _ => {}
    }
}

/// Runs `work` in memory that the end of the transaction frees. When a procedure commits, the current context is the procedure's own,
/// which would keep the memory of each of its transactions until it returns.
fn in_memory_of_transaction(work: fn()) {
    // SAFETY: the context is there as long as the transaction, which an error ends, and with it the need to switch back.
    unsafe {
        let current = pg_sys::MemoryContextSwitchTo(pg_sys::TopTransactionContext);
        work();
        pg_sys::MemoryContextSwitchTo(current);
    }
}

// From access/xact.h and utils/timestamp.h, without the guard that pgrx puts around each call: neither raises an error.
unsafe extern "C" {
    safe fn GetTopFullTransactionIdIfAny() -> pg_sys::FullTransactionId;
    safe fn GetCurrentTimestamp() -> pg_sys::TimestampTz;
}

/// The full id of the current top-level transaction, assigned if it has none yet.
pub fn current_id() -> u64 {
    // SAFETY: may assign an id, which takes a running transaction: SQL and the hooks before the commit have one.
    current_id_if_any().unwrap_or_else(|| unsafe { pg_sys::GetTopFullTransactionId() }.value)
}

/// The full id of the current top-level transaction, if it has one.
pub fn current_id_if_any() -> Option<u64> {
    let id = GetTopFullTransactionIdIfAny().value;
    (id != 0).then_some(id)
}

/// The full id of a transaction or of one of its subtransactions, which must not be one of those that the server has special ids for.
pub fn full_id(id: SubtransactionId) -> u64 {
    ledger::coverage::widen(id.into_inner(), latest_possible_id())
}

/// No id in use is later. To know the id that is assigned next takes a lock that every session wants, so that is asked for only where
/// the transaction has no id of its own: ids in use never span more than half of the circle.
pub(super) fn latest_possible_id() -> u64 {
    const HALF: u64 = (1 << 31) - 1;
    // SAFETY: reads shared memory under a lock.
    current_id_if_any().map_or_else(|| unsafe { pg_sys::ReadNextFullTransactionId() }.value, |own| own + HALF)
}

/// Whether the transaction has written anything.
pub fn has_written() -> bool {
    current_id_if_any().is_some()
}

/// Whether a published count of a user's rows can tell the transaction that it need not read them. That takes
/// a transaction that has written nothing, since its own rows are not counted before its commit; that is not
/// SERIALIZABLE, since only by reading does it take SIREAD locks; and not on a standby, where rows arrive
/// without being counted.
pub fn only_reads_others() -> bool {
    // SAFETY: a plain read of the session's state.
    !has_written() && !is_serializable() && unsafe { !pg_sys::RecoveryInProgress() }
}

/// The id of a transaction or of one of its subtransactions.
pub type SubtransactionId = pg_sys::TransactionId;

/// The id of the subtransaction that is running, or of the transaction if none is; assigned if it has none yet. It is stored with each row
/// version, and never recurs.
pub fn current_subtransaction() -> SubtransactionId {
    // SAFETY: may assign an id, which takes a running transaction: SQL and the hooks before the commit have one.
    unsafe { pg_sys::GetCurrentTransactionId() }
}

/// Whether a row version that has this id was stored by the transaction or one of its subtransactions that have not been rolled back.
pub fn is_own(stored_by: SubtransactionId) -> bool {
    // SAFETY: a look into the session's state.
    unsafe { pg_sys::TransactionIdIsCurrentTransactionId(stored_by) }
}

/// Whether the transaction runs under SERIALIZABLE.
pub fn is_serializable() -> bool {
    // SAFETY: a plain read of the session's state.
    unsafe { pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE.cast_signed() }
}

/// Whether all statements of the transaction see what its first one saw: whether it runs under REPEATABLE READ or SERIALIZABLE.
pub fn has_one_snapshot() -> bool {
    // SAFETY: a plain read of the session's state.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ.cast_signed() }
}

/// Makes what the transaction has done so far visible to snapshots that it takes from here on.
pub fn see_own_changes() {
    // SAFETY: called between commands.
    unsafe { pg_sys::CommandCounterIncrement() }
}

/// The time now, in microseconds since the server's epoch (2000-01-01 UTC), as `timestamptz` stores it.
pub fn now() -> i64 {
    GetCurrentTimestamp()
}

/// When the transaction began, in microseconds since the server's epoch.
pub fn began_at() -> i64 {
    // SAFETY: a plain read of the session's state.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

/// When the client's statement began, in microseconds since the server's epoch: `statement_timestamp()`.
pub fn statement_began_at() -> i64 {
    // SAFETY: a plain read of the session's state.
    unsafe { pg_sys::GetCurrentStatementStartTimestamp() }
}

/// Whether the transaction may not write: it was started READ ONLY, or the server is a standby.
pub fn is_read_only() -> bool {
    // SAFETY: plain reads of the session's state.
    unsafe { pg_sys::XactReadOnly || pg_sys::RecoveryInProgress() }
}

/// Whether the transaction is one of several statements, begun by `BEGIN` or by a query of several.
pub fn is_in_block() -> bool {
    // SAFETY: a plain read of the session's state.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// Waits for a transaction to end.
pub fn wait_for(writer: Writer) {
    // SAFETY: without a relation there is nothing to say of what is waited for.
    unsafe {
        pg_sys::XactLockTableWait(
            writer.0,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            pg_sys::XLTW_Oper::XLTW_None,
        );
    }
}

/// Has the commit wait until it is on disk, whatever `synchronous_commit` says.
pub fn commit_to_disk() {
    // SAFETY: sets a flag of the transaction.
    unsafe { pg_sys::ForceSyncCommit() };
}

/// Waits for the transaction with this id to end, also for one that is prepared. Not for the caller's own.
pub fn wait_for_id(id: SubtransactionId) {
    // SAFETY: the id is compared only.
    if unsafe { pg_sys::TransactionIdIsInProgress(id) } && !is_own(id) {
        wait_for(Writer(id));
    }
}

/// Whether workers of a parallel query run or may run: subtransactions are out of the question then.
pub fn is_parallel() -> bool {
    // SAFETY: a plain read of the session's state.
    unsafe { pg_sys::IsInParallelMode() }
}

/// Whether the session restores a dump or applies replication, so that its rows are stored elsewhere already. A script of `pg_dump`
/// begins by switching `check_function_bodies` off; replication sets `session_replication_role`.
pub fn restores_or_replicates() -> bool {
    // SAFETY: a plain read of the session's state.
    replicates() || unsafe { !pg_sys::check_function_bodies }
}

/// Whether the session applies replication.
pub fn replicates() -> bool {
    // SAFETY: a plain read of the session's state.
    unsafe { pg_sys::SessionReplicationRole == pg_sys::SESSION_REPLICATION_ROLE_REPLICA.cast_signed() }
}

/// Raises 25006 where the transaction may not write.
pub fn refuse_if_read_only(command: &'static CStr) {
    // SAFETY: the name is NUL-terminated.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(command.as_ptr());
        pg_sys::PreventCommandDuringRecovery(command.as_ptr());
    }
}

/// Lets a cancel or termination request take effect.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

// As in commands/async.h, which pgrx has no bindings for.
unsafe extern "C-unwind" {
    fn Async_Notify(channel: *const c_char, payload: *const c_char);
}

/// Sends a notification when the transaction commits. `channel` must not be empty.
#[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
pub fn notify(channel: &CStr, payload: &str) {
    let payload = CString::new(payload).unwrap_or_default();
    // SAFETY: both strings are NUL-terminated and copied by the server; its errors become ours at the boundary.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| Async_Notify(channel.as_ptr(), payload.as_ptr())) }
}
