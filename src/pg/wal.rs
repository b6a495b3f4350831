//! The write-ahead log.

use std::mem::size_of;

use pgrx::pg_sys;

/// Has all that is in the log by now on disk: whatever this session can see outlives a crash then, and no transaction id that it can see is
/// given out again. Commits under `synchronous_commit = off` are seen before they are. On a standby nothing has to be done: it sees what it
/// has replayed, which is on its disk.
pub fn flush() {
    // SAFETY: both may be called at any time outside of a critical section. XLogFlush() is not for standbys, and waits for the lock of
    // writers of the log, which no backend holds while it runs other code.
    unsafe {
        if !pg_sys::RecoveryInProgress() {
            pg_sys::XLogFlush(end_of_last_record());
        }
    }
}

/// Where the last record ends. The server says only where the next one begins: on a page without a record, as after a switch to a new
/// file, that is behind the page's header, up to which there is nothing to flush, and XLogFlush() refuses to. (GetXLogInsertEndRecPtr()
/// says where the last one ends, but this library also runs on minor releases that do not have it yet.)
fn end_of_last_record() -> pg_sys::XLogRecPtr {
    // SAFETY: the position may be read at any time, and the size of a file is set once, when the server starts.
    let (next, file) = unsafe { (pg_sys::GetXLogInsertRecPtr(), pg_sys::wal_segment_size) };
    let header = if next % u64::from(file.unsigned_abs()) < u64::from(pg_sys::XLOG_BLCKSZ) {
        size_of::<pg_sys::XLogLongPageHeaderData>()
    } else {
        size_of::<pg_sys::XLogPageHeaderData>()
    } as u64;
    if next % u64::from(pg_sys::XLOG_BLCKSZ) == header { next - header } else { next }
}
