//! Transaction callbacks: ours is registered so that it runs after all others.
//!
//! Before a commit, the callback of postgres_fdw commits remote transactions, and other libraries send or prepare something. A remote
//! commit may need a stripe. If the local transaction held that stripe already, the remote one would wait for it while it waits for
//! the remote one, and the deadlock detector sees one server only. So stripes are taken after all other callbacks have run.
//!
//! `RegisterXactCallback` puts a callback in front of the server's list, which is called from the front; there is no function
//! that appends to it, and the list is static. But each registration is a list entry from `MemoryContextAlloc`: once one entry
//! is found, its `next` pointers lead to the end of the list. If the entry is not found where it is expected, the registration stays as
//! it is, in front.

use std::ffi::c_void;

use pgrx::pg_sys;

/// `XactCallbackItem` of access/transam/xact.c, the same on every major.
#[repr(C)]
struct Entry {
    next: *mut Self,
    callback: pg_sys::XactCallback,
    argument: *mut c_void,
}

/// Its address is the argument of our entry and of no other.
static MARK: u8 = 0;

/// Has `callback` called at the end of transactions, after all callbacks that are registered now, and after those that register
/// later, which the server puts in front.
///
/// # Safety
/// The callback stays valid for the life of the process.
pub unsafe fn register_last(callback: pg_sys::XactCallback) {
    let argument = (&raw const MARK).cast_mut().cast::<c_void>();
    // SAFETY: a chunk that was freed a moment ago lies in a block that its context keeps, so that it can be read. If the chunk
    // now holds our argument, the registration has been given it: it is the first entry of the list, whose entries stay as long as they
    // are registered.
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
        // If the server is just walking the list, it reaches this entry, too.
        (*last).next = own;
        // Removes the first entry that it finds: the one in front.
        pg_sys::UnregisterXactCallback(callback, argument);
    }
}

/// Memory of the kind that the server takes for an entry, zeroed.
unsafe fn allocate() -> *mut Entry {
    // SAFETY: the context lives as long as the process.
    unsafe { pg_sys::MemoryContextAllocZero(pg_sys::TopMemoryContext, size_of::<Entry>()).cast() }
}
