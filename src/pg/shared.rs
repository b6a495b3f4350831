//! Memory that all backends of the server share.

use std::ffi::CStr;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ledger::shared::Shared;
use ledger::statistics::Statistics;
use pgrx::pg_sys;

use super::xact;

/// Names carry the version of the layout: a server keeps what an older library made until it restarts.
const STATISTICS: &CStr = c"credits_ledger statistics 2";
const DIRECTORY: &CStr = c"credits_ledger shared 4";

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

/// What everyone knows of the segment that backends share.
#[derive(Debug)]
pub struct Directory {
    handle: AtomicU32,
    /// How often somebody had something to count and could not, not being attached to it.
    misses: AtomicU64,
}

impl Directory {
    /// The directory of this server, made by the first backend that asks, likewise; `None` if there is no room for it. Then
    /// nobody has one: there will be no more room until the server restarts. Raises whatever else is wrong: others may have one.
    pub fn find() -> Option<&'static Self> {
        xact::attempt_if_room("sharing folds", || {
            let empty = Self { handle: AtomicU32::new(NO_SEGMENT), misses: AtomicU64::new(0) };
            // SAFETY: all of it is atomics.
            unsafe { in_main_segment(DIRECTORY, |place: *mut Self| place.write(empty)) }
        })
    }

    /// Attaches to the segment for as long as this backend lives, or makes it, to last as long as the server; `None` if it
    /// cannot. Runs a subtransaction, likewise.
    pub fn attach(&self) -> Option<&'static Shared> {
        xact::attempt("sharing folds", || {
            // SAFETY: the lock is released with the subtransaction if something fails. The segment is as large as asked for,
            // aligned to a cache line, mapped as long as this backend lives, and zeroed before anybody learns its handle; as zeros
            // it says nothing.
            unsafe {
                let lock = init_lock();
                pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
                let known = self.handle.load(Ordering::Relaxed);
                let segment = if known == NO_SEGMENT {
                    let segment = pg_sys::dsm_create(size_of::<Shared>(), 0);
                    pg_sys::dsm_segment_address(segment).cast::<Shared>().write_bytes(0, 1);
                    pg_sys::dsm_pin_segment(segment);
                    self.handle.store(pg_sys::dsm_segment_handle(segment), Ordering::Relaxed);
                    segment
                } else {
                    pg_sys::dsm_attach(known)
                };
                pg_sys::LWLockRelease(lock);
                assert!(!segment.is_null(), "the segment of the handle is gone");
                pg_sys::dsm_pin_mapping(segment);
                &*pg_sys::dsm_segment_address(segment).cast::<Shared>()
            }
        })
    }

    /// Tells everyone that this backend has something to count and is not attached.
    pub fn miss(&self) {
        self.misses.fetch_add(1, Ordering::SeqCst);
    }

    /// How often somebody has told so.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::SeqCst)
    }
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
