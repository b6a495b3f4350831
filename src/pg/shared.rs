//! Memory that all backends of the server share.

use std::ffi::CStr;

use std::sync::atomic::{AtomicU32, Ordering};

use ledger::shared_folds::SharedFolds;
use ledger::statistics::Statistics;
use pgrx::pg_sys;

use super::xact;

/// Names carry the version of the layout: a server keeps what an older library made until it restarts.
const STATISTICS: &CStr = c"credits_ledger statistics 1";
const FOLDS: &CStr = c"credits_ledger folds 1";

/// DSM_HANDLE_INVALID
const NO_SEGMENT: pg_sys::dsm_handle = 0;

/// The statistics of this server, made by the first backend that asks; `None` if there is no room for them.
///
/// They come out of the 100 kB that the server's main segment has to spare, of which they need 7: that is there on every
/// major, whether the library is preloaded or loaded by the first call of a session. Space that is asked for at start
/// would be there only where the library is preloaded, and named segments of dynamic shared memory from Postgres 17 on
/// only. Runs a subtransaction: not for parallel workers, nor for the end of a transaction.
pub fn statistics() -> Option<&'static Statistics> {
    xact::attempt("counting settlements", || {
        // SAFETY: all of it is atomics, and no more than the first backend writes before others can see it.
        unsafe { in_main_segment(STATISTICS, |place: *mut Statistics| place.write(Statistics::default())) }
    })
}

/// The folds that the backends of this server share, made by the first backend that asks; `None` if there is no room for
/// them. They are a segment of their own, which lives as long as the server; its handle is in the main segment, as above.
/// Runs a subtransaction, likewise.
pub fn folds() -> Option<&'static SharedFolds> {
    xact::attempt("sharing folds", || {
        // SAFETY: as above. The segment is as large as asked for, aligned to a page, mapped as long as this backend lives,
        // and zeroed before anybody learns its handle; zeros are no folds.
        unsafe {
            let handle = in_main_segment(FOLDS, |place: *mut AtomicU32| place.write(AtomicU32::new(0)));
            let lock = init_lock();
            pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let known = handle.load(Ordering::Relaxed);
            let segment = if known == NO_SEGMENT {
                let segment = pg_sys::dsm_create(size_of::<SharedFolds>(), 0);
                pg_sys::dsm_segment_address(segment).cast::<SharedFolds>().write_bytes(0, 1);
                pg_sys::dsm_pin_segment(segment);
                handle.store(pg_sys::dsm_segment_handle(segment), Ordering::Relaxed);
                segment
            } else {
                pg_sys::dsm_attach(known)
            };
            pg_sys::LWLockRelease(lock);
            assert!(!segment.is_null(), "the segment of the handle is gone");
            pg_sys::dsm_pin_mapping(segment);
            &*pg_sys::dsm_segment_address(segment).cast::<SharedFolds>()
        }
    })
}

/// A value in the server's main segment, made by the first backend that asks; an error if there is no room for it.
///
/// # Safety
/// `T` must be fit to be used by several processes at once, and `init` must write one.
unsafe fn in_main_segment<T>(name: &CStr, init: impl FnOnce(*mut T)) -> &'static T {
    let mut found = false;
    // SAFETY: the lock is released with the transaction or subtransaction if there is no room. The memory is as large as
    // asked for, aligned to a cache line, never given back, and read by others only when the lock is released.
    unsafe {
        let lock = init_lock();
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let place = pg_sys::ShmemInitStruct(name.as_ptr(), size_of::<T>(), &raw mut found).cast::<T>();
        if !found {
            init(place);
        }
        pg_sys::LWLockRelease(lock);
        &*place
    }
}

/// The server's own lock for this: AddinShmemInitLock, the 21st on every major.
fn init_lock() -> *mut pg_sys::LWLock {
    // SAFETY: the array of the server's fixed locks is longer than this.
    unsafe { &raw mut (*pg_sys::MainLWLockArray.add(21)).lock }
}

/// Oid of the database of this backend.
pub fn database() -> u32 {
    // SAFETY: set before any transaction runs, never changed.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}
