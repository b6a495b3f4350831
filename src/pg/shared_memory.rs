//! Memory that all sessions of the server share: the statistics and the directory in the main segment, and the parts of dynamic
//! shared memory that the directory leads to.

use std::ffi::CStr;
use std::mem::offset_of;
use std::slice;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ledger::segment::memory::{self, BASE_SETS, MOST_PARTS};
use ledger::segment::{Base, Parts, Segment, Set};
use ledger::statistics::Statistics;
use pgrx::pg_sys;

use super::subtransaction;

/// Names carry the version of the layout: what a library has made stays until the server restarts, and an updated library
/// with another layout must not take it for its own.
const STATISTICS: &CStr = c"credits_ledger statistics 3";
const DIRECTORY: &CStr = c"credits_ledger directory 6";

/// The statistics of this server, made by the first session that asks; `None` if there is no room for them.
///
/// They come out of the 100 kB that the server's main segment has to spare, of which they need 7. Those are there on every
/// major, whether the library is preloaded or loaded by the first call of a session. Space that a library requests at start
/// would be there only where it is preloaded, and named segments of dynamic shared memory only from Postgres 17 on. Runs a
/// subtransaction: not for parallel workers, nor once the transaction has committed.
pub fn statistics() -> Option<&'static Statistics> {
    subtransaction::attempt("counting settlements", || {
        // SAFETY: statistics are atomics, so sessions may use them at once; the closure writes a whole value.
        unsafe { in_main_segment(STATISTICS, |place: *mut Statistics| place.write(Statistics::default())) }
    })
}

/// Leads all sessions to the parts of dynamic shared memory that they publish in.
#[derive(Debug)]
#[repr(C)]
pub struct Directory {
    /// See [`Epoch`].
    epoch: AtomicU64,
    /// How many accounts have given way to others since the last part was made.
    displaced: AtomicU64,
    parts: [Part; MOST_PARTS],
}

/// What leads to a part. The first so many have been made as the epoch says.
#[derive(Debug)]
#[repr(C)]
struct Part {
    handle: AtomicU32,
    /// How many sets it has.
    sets: AtomicU32,
}

const _: () = assert!(
    offset_of!(Directory, displaced) == 8
        && offset_of!(Directory, parts) == 16
        && size_of::<Directory>() == 16 + 8 * 32,
    "a change of the layout needs a name with the next version"
);

/// How many parts there are, and how many counts have been lost, of all sessions and databases: in one word, so that both are
/// of one moment. What is published in one epoch is not used in another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch(u64);

impl Epoch {
    const PART: u64 = 1;
    const LOST_COUNT: u64 = 1 << 8;

    /// How many parts there are.
    fn parts(self) -> usize {
        let [parts, ..] = self.0.to_le_bytes();
        parts.into()
    }

    /// Whether there are as many parts as in the other one.
    pub fn has_parts_of(self, other: Self) -> bool {
        self.parts() == other.parts()
    }

    /// A number that no other epoch has.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// The parts that this session is attached to.
static PARTS: Parts<'static> = Parts::new();

impl Directory {
    /// The directory of this server, made by the first session that asks; `None` if there is no room for it. Then no session
    /// has one, because no room comes free before the server restarts. Raises any other error: another session may have found
    /// the directory. Runs a subtransaction: not for parallel workers, nor once the transaction has committed.
    pub fn find() -> Option<&'static Self> {
        subtransaction::attempt_if_room("sharing folds", || {
            let empty = Self {
                epoch: AtomicU64::new(0),
                displaced: AtomicU64::new(0),
                parts: [const { Part { handle: AtomicU32::new(0), sets: AtomicU32::new(0) } }; MOST_PARTS],
            };
            // SAFETY: a directory is atomics, so sessions may use it at once; the closure writes a whole value.
            unsafe { in_main_segment(DIRECTORY, |place: *mut Self| place.write(empty)) }
        })
    }

    /// The epoch as of now.
    #[inline]
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    /// Attaches this session to all parts until it exits, and returns the memory of the epoch; `None` if that fails. The first session
    /// makes the first part; parts stay until the server stops. Runs a subtransaction: not for parallel workers, nor once the
    /// transaction has committed.
    pub fn attach(&self) -> Option<(Epoch, Segment<'static>)> {
        subtransaction::attempt("sharing folds", || {
            locked(|| {
                if self.epoch().parts() == 0 {
                    // SAFETY: it is made, and recorded, under the lock.
                    unsafe { self.make_part(size_of::<Base>(), BASE_SETS) };
                }
                let epoch = self.epoch();
                for number in PARTS.count()..epoch.parts() {
                    // SAFETY: this session is not attached to that part.
                    unsafe { self.attach_to_part(number) };
                }
                epoch
            })
        })
        .and_then(|epoch| Some((epoch, PARTS.first(epoch.parts())?)))
    }

    /// Notes that an account has given way to another, in memory of so many sets. Whether so many have that it should grow.
    pub fn note_displaced(&self, sets: usize) -> bool {
        is_full(self.displaced.fetch_add(1, Ordering::Relaxed) + 1, sets)
    }

    /// Makes another part, if it is still to grow, and if all parts together then have no more than so many bytes. From then on nothing
    /// is used that was published before. Where it cannot grow, nobody is asked again before as many accounts have given way again.
    /// Runs a subtransaction: not for parallel workers, nor once the transaction has committed.
    pub fn grow(&self, most_bytes: usize) {
        _ = subtransaction::attempt("growing shared memory", || {
            locked(|| {
                let parts = self.epoch().parts();
                let sets = self.parts[..parts].iter().map(|part| part.sets.load(Ordering::Relaxed) as usize);
                let sets: usize = sets.sum();
                // Another session may have been asked at the same time.
                if !is_full(self.displaced.load(Ordering::Relaxed), sets) {
                    return;
                }
                self.displaced.store(0, Ordering::Relaxed);
                if let Some(more) = memory::next_part(sets, parts, most_bytes) {
                    // SAFETY: it is made, and recorded, under the lock.
                    unsafe { self.make_part(more * size_of::<Set>(), more) };
                }
            });
        });
    }

    /// Makes the next part, and begins an epoch that has it.
    ///
    /// # Safety
    /// The caller has the lock, and there are fewer than [`MOST_PARTS`].
    unsafe fn make_part(&self, bytes: usize, sets: usize) {
        let part = &self.parts[self.epoch().parts()];
        // SAFETY: the segment is as large as asked for, aligned to a cache line, and zeroed before its handle is stored for others:
        // zeros are a valid value of each of its atomics. The mapping goes with the resource owner, the segment stays.
        unsafe {
            let segment = pg_sys::dsm_create(bytes, 0);
            pg_sys::dsm_segment_address(segment).cast::<u8>().write_bytes(0, bytes);
            pg_sys::dsm_pin_segment(segment);
            part.handle.store(pg_sys::dsm_segment_handle(segment), Ordering::Relaxed);
            pg_sys::dsm_detach(segment);
        }
        part.sets.store(u32::try_from(sets).unwrap_or_default(), Ordering::Relaxed);
        self.epoch.fetch_add(Epoch::PART, Ordering::SeqCst);
    }

    /// Attaches this session to the part of this number until it exits.
    ///
    /// # Safety
    /// It is made, and this session is attached to all before it, and not to it.
    unsafe fn attach_to_part(&self, number: usize) {
        let part = &self.parts[number];
        // SAFETY: the segment is pinned, has so many sets, and stays mapped as long as this backend lives. Its address is aligned to a
        // cache line, and sessions use its atomics at once.
        unsafe {
            let segment = pg_sys::dsm_attach(part.handle.load(Ordering::Relaxed));
            assert!(!segment.is_null(), "the segment of the handle is gone");
            pg_sys::dsm_pin_mapping(segment);
            let address = pg_sys::dsm_segment_address(segment);
            if number == 0 {
                PARTS.add_base(&*address.cast::<Base>());
            } else {
                let sets = part.sets.load(Ordering::Relaxed) as usize;
                PARTS.add(slice::from_raw_parts(address.cast::<Set>(), sets));
            }
        }
    }

    /// Records that this session, not being attached, has written rows that are not counted in shared memory.
    pub fn record_lost_count(&self) {
        self.epoch.fetch_add(Epoch::LOST_COUNT, Ordering::SeqCst);
    }
}

/// Whether memory of so many sets should grow when so many accounts have given way: one for each set, which has room for a few.
fn is_full(displaced: u64, sets: usize) -> bool {
    displaced >= sets as u64
}

/// Does something while no other session makes parts, or attaches to them.
fn locked<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: the lock is released with the subtransaction if the work fails.
    unsafe {
        let lock = init_lock();
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let result = work();
        pg_sys::LWLockRelease(lock);
        result
    }
}

/// A value in the server's main segment, made by the first session that asks; an error if there is no room for it.
///
/// # Safety
/// Several processes must be able to use a `T` at once, and `init` must write a whole one.
unsafe fn in_main_segment<T>(name: &CStr, init: impl FnOnce(*mut T)) -> &'static T {
    let mut found = false;
    // SAFETY: the lock is released with the transaction or subtransaction if there is no room. The memory is as large as
    // asked for, aligned to a cache line, never given back, and other sessions find it only after the lock is released.
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
