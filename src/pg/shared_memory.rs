//! Memory that all backends of the server share: the statistics and the directory in the main segment, and the dynamic segment
//! that the directory leads to.

use std::ffi::CStr;
use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ledger::segment::Segment;
use ledger::statistics::Statistics;
use pgrx::pg_sys;

use super::xact;

/// Names carry the version of the layout: what a library has made stays until the server restarts, and an updated library
/// with another layout must not take it for its own.
const STATISTICS: &CStr = c"credits_ledger statistics 3";
const DIRECTORY: &CStr = c"credits_ledger directory 5";

/// `DSM_HANDLE_INVALID`, a macro of the server's: no segment has been made yet.
const NO_SEGMENT: pg_sys::dsm_handle = 0;

/// The statistics of this server, made by the first backend that asks; `None` if there is no room for them.
///
/// They come out of the 100 kB that the server's main segment has to spare, of which they need 7. Those are there on every
/// major, whether the library is preloaded or loaded by the first call of a session. Space that a library requests at start
/// would be there only where it is preloaded, and named segments of dynamic shared memory only from Postgres 17 on. Runs a
/// subtransaction: not for parallel workers, nor for the end of a transaction.
pub fn statistics() -> Option<&'static Statistics> {
    xact::attempt("counting settlements", || {
        // SAFETY: statistics are atomics, so backends may use them at once; the closure writes a whole value.
        unsafe { in_main_segment(STATISTICS, |place: *mut Statistics| place.write(Statistics::default())) }
    })
}

/// Leads all backends to the one dynamic segment that they publish in.
#[derive(Debug)]
#[repr(C)]
pub struct Directory {
    /// The handle of the segment, or [`NO_SEGMENT`].
    handle: AtomicU32,
    lost_counts: AtomicU64,
}

const _: () = assert!(
    offset_of!(Directory, lost_counts) == 8 && size_of::<Directory>() == 16,
    "a change of the layout needs a name with the next version"
);

impl Directory {
    /// The directory of this server, made by the first backend that asks; `None` if there is no room for it. Then no backend
    /// has one, because no room comes free before the server restarts. Raises any other error: another backend may have found
    /// the directory. Runs a subtransaction: not for parallel workers, nor for the end of a transaction.
    pub fn find() -> Option<&'static Self> {
        xact::attempt_if_room("sharing folds", || {
            let empty = Self { handle: AtomicU32::new(NO_SEGMENT), lost_counts: AtomicU64::new(0) };
            // SAFETY: a directory is atomics, so backends may use it at once; the closure writes a whole value.
            unsafe { in_main_segment(DIRECTORY, |place: *mut Self| place.write(empty)) }
        })
    }

    /// Attaches this backend to the segment until it exits. The first backend makes the segment, which stays until the server
    /// stops. `None` if that fails. Runs a subtransaction: not for parallel workers, nor for the end of a transaction.
    pub fn attach(&self) -> Option<&'static Segment> {
        xact::attempt("sharing folds", || {
            // SAFETY: the lock is released with the subtransaction if something fails. The segment is as large as asked for,
            // aligned to a cache line, mapped as long as this backend lives, and zeroed before its handle is stored for others.
            // Zeros are a valid value of each of its atomics.
            unsafe {
                let lock = init_lock();
                pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
                let handle = self.handle.load(Ordering::Relaxed);
                let segment = if handle == NO_SEGMENT {
                    let segment = pg_sys::dsm_create(size_of::<Segment>(), 0);
                    pg_sys::dsm_segment_address(segment).cast::<Segment>().write_bytes(0, 1);
                    pg_sys::dsm_pin_segment(segment);
                    self.handle.store(pg_sys::dsm_segment_handle(segment), Ordering::Relaxed);
                    segment
                } else {
                    pg_sys::dsm_attach(handle)
                };
                pg_sys::LWLockRelease(lock);
                assert!(!segment.is_null(), "the segment of the handle is gone");
                pg_sys::dsm_pin_mapping(segment);
                &*pg_sys::dsm_segment_address(segment).cast::<Segment>()
            }
        })
    }

    /// Records that this backend, not being attached, has written rows that are not counted in the segment.
    pub fn record_lost_count(&self) {
        self.lost_counts.fetch_add(1, Ordering::SeqCst);
    }

    /// How many counts have been lost, of all backends and databases.
    pub fn lost_counts(&self) -> u64 {
        self.lost_counts.load(Ordering::SeqCst)
    }
}

/// A value in the server's main segment, made by the first backend that asks; an error if there is no room for it.
///
/// # Safety
/// Several processes must be able to use a `T` at once, and `init` must write a whole one.
unsafe fn in_main_segment<T>(name: &CStr, init: impl FnOnce(*mut T)) -> &'static T {
    let mut found = false;
    // SAFETY: the lock is released with the transaction or subtransaction if there is no room. The memory is as large as
    // asked for, aligned to a cache line, never given back, and other backends find it only after the lock is released.
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

/// `AddinShmemInitLock`, the server's own lock for this: the 21st on every major.
fn init_lock() -> *mut pg_sys::LWLock {
    // SAFETY: the array of the server's fixed locks is longer than this.
    unsafe { &raw mut (*pg_sys::MainLWLockArray.add(21)).lock }
}
