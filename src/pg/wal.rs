//! The write-ahead log.

use pgrx::pg_sys;

/// Has all that is in the log by now on disk: whatever this session can see outlives a crash then, and no transaction id that it can see is
/// given out again. Commits under `synchronous_commit = off` are seen before they are. On a standby nothing has to be done: it sees what it
/// has replayed, which is on its disk.
pub fn flush() {
    // SAFETY: both may be called at any time outside of a critical section. XLogFlush() is not for standbys, and waits for the lock of
    // writers of the log, which no backend holds while it runs other code.
    unsafe {
        if !pg_sys::RecoveryInProgress() {
            pg_sys::XLogFlush(pg_sys::GetXLogInsertRecPtr());
        }
    }
}
