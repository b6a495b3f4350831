//! Memory that all backends of the server share.

use std::ffi::CStr;

use ledger::statistics::Statistics;
use pgrx::pg_sys;

use super::xact;

/// Carries the version of the layout: a server keeps what an older library made until it restarts.
const NAME: &CStr = c"credits_ledger statistics 1";

/// The statistics of this server, made by the first backend that asks; `None` if there is no room for them.
///
/// They come out of the 100 kB that the server's main segment has to spare, of which they need 7: that is there on every
/// major, whether the library is preloaded or loaded by the first call of a session. Space that is asked for at start
/// would be there only where the library is preloaded, and named segments of dynamic shared memory from Postgres 17 on
/// only. Runs a subtransaction: not for parallel workers, nor for the end of a transaction.
pub fn statistics() -> Option<&'static Statistics> {
    xact::attempt("counting settlements", || {
        let mut found = false;
        // SAFETY: the lock is the server's own for this (AddinShmemInitLock, the 21st on every major) and is released with
        // the subtransaction if there is no room. The memory is as large as asked for, aligned to a cache line, never
        // given back, and read by others only when the lock is released; all of it is atomics.
        unsafe {
            let lock = &raw mut (*pg_sys::MainLWLockArray.add(21)).lock;
            pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let place = pg_sys::ShmemInitStruct(NAME.as_ptr(), size_of::<Statistics>(), &raw mut found)
                .cast::<Statistics>();
            if !found {
                place.write(Statistics::default());
            }
            pg_sys::LWLockRelease(lock);
            &*place
        }
    })
}

/// Oid of the database of this backend.
pub fn database() -> u32 {
    // SAFETY: set before any transaction runs, never changed.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}
