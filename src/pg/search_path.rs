//! The search_path that our SQL is parsed, planned and run under, whatever the caller has set.
//!
//! Functions that resolve no name need none. So it is set where SQL runs and not in the definition of each function, which
//! costs every call more than many of them do.

use std::thread::panicking;

use pgrx::pg_sys;

/// Puts the caller's search_path back when it is dropped.
pub(super) struct SearchPath {
    level: i32,
}

impl SearchPath {
    /// Has names looked up among the server's own only, and temporary tables last, as `SET search_path = pg_catalog, pg_temp`
    /// of a function does. A function that is called meanwhile may set one of its own.
    ///
    /// On 14 to 16 `PushOverrideSearchPath` would cost less, but it overrules those, too: a trigger or a policy would run
    /// under a search_path that is not the one it says, and trust names that it must not trust.
    pub(super) fn pinned() -> Self {
        // SAFETY: what the server does for a function with a SET clause: the value is valid, and the abort of the
        // transaction or subtransaction puts the old one back after an error.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            pg_sys::set_config_option(
                c"search_path".as_ptr(),
                c"pg_catalog, pg_temp".as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
            Self { level }
        }
    }
}

impl Drop for SearchPath {
    fn drop(&mut self) {
        if !panicking() {
            // SAFETY: the level that `pinned` has opened; those above it have been closed by their own owners.
            unsafe { pg_sys::AtEOXact_GUC(true, self.level) }
        }
    }
}
