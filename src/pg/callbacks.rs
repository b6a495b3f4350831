//! Our place among those who are called at the end of a transaction: the last one.
//!
//! Before a commit, postgres_fdw commits what it has done elsewhere, and others prepare or send something. Whoever is there may
//! need a stripe: if the transaction had it already, it would wait for one that waits for it, and no detector of deadlocks sees
//! across two servers, or two sessions of one. So stripes are taken when all others are through.
//!
//! The server puts who registers in front of its list, and begins there. It has no way to be put at its end, nor to see the
//! list. But a registration is an entry of the list, in memory that the server hands out like any other; once an entry is found,
//! the way from it to the end of the list is plain. One that is not found as expected leaves the registration as it is.

use std::ffi::c_void;

use pgrx::pg_sys;

/// A callback as the server has it in its list (access/transam/xact.c), the same on every major.
#[repr(C)]
struct Entry {
    next: *mut Self,
    callback: pg_sys::XactCallback,
    argument: *mut c_void,
}

/// Tells our entry from all others.
static MARK: u8 = 0;

/// Has `callback` called at the end of transactions, behind all who are registered now, and in practice those who come
/// later, as they are put in front.
///
/// # Safety
/// The callback stays valid for the life of the process.
pub unsafe fn register_last(callback: pg_sys::XactCallback) {
    let argument = (&raw const MARK).cast_mut().cast::<c_void>();
    // SAFETY: memory that was given back a moment ago can be read, whoever has it now: it lies in a block that is kept. If it
    // has become an entry with our argument, then it is the first of a list whose entries stay as long as they are registered.
    unsafe {
        let expected = allocate();
        pg_sys::pfree(expected.cast());
        pg_sys::RegisterXactCallback(callback, argument);
        if (*expected).argument != argument || (*expected).next.is_null() {
            return;
        }
        let mut last = (*expected).next;
        while !(*last).next.is_null() {
            last = (*last).next;
        }
        let own = allocate();
        own.write(Entry { next: std::ptr::null_mut(), callback, argument });
        // If the server is going through the list just now, it comes to this one, too.
        (*last).next = own;
        // Takes away the first that it finds.
        pg_sys::UnregisterXactCallback(callback, argument);
    }
}

/// Memory of the kind that the server takes for an entry, zeroed.
unsafe fn allocate() -> *mut Entry {
    // SAFETY: the context lives as long as the process.
    unsafe { pg_sys::MemoryContextAllocZero(pg_sys::TopMemoryContext, size_of::<Entry>()).cast() }
}
