//! Oids of the extension's relations, cached per session and dropped when one of them changes.
//!
//! A lookup first compares the version of the library with that of the SQL objects: a library does not know the tables of another
//! version. The result is cached with the oids. So an update must invalidate one of the relations, and must wait for sessions that use
//! them: every update script begins with a statement that does both.

use std::cell::Cell;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::Relations;
use crate::error::LedgerError;
use crate::pg::extension;
use crate::pg::relation::{self, Access};

thread_local! {
    static CACHED: Cell<Option<Relations>> = const { Cell::new(None) };
    /// The tables of the ledger's state that were looked up last. They outlive `CACHED`, which an invalidation of any of the
    /// relations clears.
    static STATE_TABLES: Cell<[pg_sys::Oid; 6]> = const { Cell::new([pg_sys::InvalidOid; 6]) };
    /// Counts invalidations of `STATE_TABLES` and of databases.
    static GENERATION: Cell<u64> = const { Cell::new(0) };
    /// Counts all invalidations of relations: what was looked up while one arrived may be out of date.
    static INVALIDATIONS: Cell<u64> = const { Cell::new(0) };
}

impl Relations {
    /// The relations as they are now; `None` where the extension is not installed (or not any more). The ledger stays so for
    /// those who hold a lock on it. Raises 55000 if they are of another version than the library, or one of those that it
    /// cannot do without is missing.
    pub fn lookup() -> Option<Self> {
        if let Some(relations) = CACHED.get() {
            return Some(relations);
        }
        let before = INVALIDATIONS.get();
        let objects = extension::installed_version()?;
        if objects != extension::LIBRARY_VERSION {
            LedgerError::OtherVersion { library: extension::LIBRARY_VERSION, objects }.raise();
        }
        let relations = Self::find();
        if relations.have_their_columns() && INVALIDATIONS.get() == before {
            CACHED.set(Some(relations));
        }
        STATE_TABLES.set(relations.tables_of_state());
        Some(relations)
    }

    /// The relations as they are now; `None` where the extension is not installed or has another version than the library.
    pub fn lookup_own_version() -> Option<Self> {
        CACHED.get().or_else(|| {
            (extension::installed_version()? == extension::LIBRARY_VERSION).then(Self::lookup).flatten()
        })
    }

    /// The relations, with a lock on the ledger that keeps it so to the end of the transaction.
    pub fn locked() -> Option<Self> {
        Self::locked_for(Access::Read)
    }

    /// The relations, with a lock on the ledger for writing.
    pub fn locked_for_writing() -> Option<Self> {
        Self::locked_for(Access::Write)
    }

    fn locked_for(access: Access) -> Option<Self> {
        loop {
            let relations = Self::lookup()?;
            relation::lock(relations.ledger, access);
            // An update of the extension may have committed before this had the lock.
            if Self::lookup()? == relations {
                return Some(relations);
            }
        }
    }

    /// The relations, with the ledger locked to the end of the transaction. At a commit that is so already if the transaction has
    /// inserted into the ledger.
    pub fn locked_at_commit() -> Option<Self> {
        let relations = Self::lookup()?;
        if relation::is_locked(relations.ledger, Access::Write) { Some(relations) } else { Self::locked() }
    }
}

/// A number that changes with each invalidation after which the ledger may have another state.
pub fn ledger_generation() -> u64 {
    GENERATION.get()
}

/// Sends an invalidation of the ledger when the transaction commits: every session then looks the ledger's state up again.
pub fn invalidate_ledger(ledger: pg_sys::Oid) {
    // SAFETY: raises an error if there is no such table.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(ledger) }
}

/// Processes the invalidations of all transactions that have committed.
pub fn accept_invalidations() {
    // SAFETY: every lock of a relation calls this, too. Callbacks only set flags, ours among them.
    unsafe { pg_sys::AcceptInvalidationMessages() }
}

/// Registers for invalidations of tables and databases; called once, when the library is loaded.
pub fn init() {
    let nothing = pg_sys::Datum::from(0_usize);
    // SAFETY: the callbacks stay valid for the life of the process.
    unsafe {
        pg_sys::CacheRegisterRelcacheCallback(Some(on_invalidation), nothing);
        let database = pg_sys::SysCacheIdentifier::DATABASEOID.cast_signed();
        pg_sys::CacheRegisterSyscacheCallback(database, Some(on_database_change), nothing);
    }
}

/// Runs in the middle of anything, so it only sets flags. `InvalidOid` stands for every relation.
#[pg_guard]
extern "C-unwind" fn on_invalidation(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    INVALIDATIONS.set(INVALIDATIONS.get().wrapping_add(1));
    let every = relation == pg_sys::InvalidOid;
    if every || CACHED.get().is_some_and(|cached| cached.contains(relation)) {
        CACHED.set(None);
    }
    if every || STATE_TABLES.get().contains(&relation) {
        GENERATION.set(GENERATION.get() + 1);
    }
}

/// Runs for a change of any row of `pg_database`, and in the middle of anything, so it only sets a flag.
#[pg_guard]
extern "C-unwind" fn on_database_change(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    GENERATION.set(GENERATION.get() + 1);
}
