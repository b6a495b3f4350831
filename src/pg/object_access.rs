//! The server's object access hook: it names every object that is about to be dropped, whatever the command and however far that
//! cascades.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use pgrx::pg_sys;
use pgrx::prelude::*;

/// The function that the hook calls.
static BEFORE_DROP: OnceLock<fn(pg_sys::Oid)> = OnceLock::new();

/// The hook of a library that hooked in before.
static PREVIOUS: OnceLock<pg_sys::object_access_hook_type> = OnceLock::new();

/// Has `before_drop` called from here on with every relation that this session is about to drop. It may raise an error, which
/// keeps the relation. A later call of this function has no effect.
pub fn hook_in(before_drop: fn(pg_sys::Oid)) {
    if BEFORE_DROP.set(before_drop).is_ok() {
        // SAFETY: a backend has one thread, which sets the hook; the hook stays valid for the life of the process.
        unsafe {
            PREVIOUS.get_or_init(|| pg_sys::object_access_hook);
            pg_sys::object_access_hook = Some(on_object_access);
        }
    }
}

#[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
#[pg_guard]
unsafe extern "C-unwind" fn on_object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: c_int,
    argument: *mut c_void,
) {
    if let Some(Some(previous)) = PREVIOUS.get() {
        // SAFETY: what the server passes is passed on; an error of the other library's becomes ours at the boundary.
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| previous(access, class, object, part, argument));
        }
    }
    let drops_relation = access == pg_sys::ObjectAccessType::OAT_DROP
        && class == pg_sys::RelationRelationId
        // Not one of its columns.
        && part == 0;
    if let (true, Some(before_drop)) = (drops_relation, BEFORE_DROP.get()) {
        before_drop(object);
    }
}
