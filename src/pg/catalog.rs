//! Oids of the extension's relations, cached per backend and dropped when one of them changes.
//!
//! Whoever looks them up has the library and the SQL objects compared first: those of different versions do not know each
//! other's tables. The answer is cached with the oids, so an update must change one of the relations, and must wait for
//! those who have looked: every update script begins with a statement that does both.
//!
//! A lock on a table keeps an oid of one of its indexes in use, not in place. REINDEX CONCURRENTLY and DROP INDEX
//! CONCURRENTLY take no lock that keeps readers or writers out: an index may stop being valid at any time. It stays as
//! complete as it was until everyone has ended who held a lock on its table by then. On a standby nobody waits for that:
//! there an index may be gone when it is opened.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::pg_sys;
use pgrx::prelude::*;

use super::column::{Column, Layout};
use super::column_type::ColumnType;
use super::definition::{self, Definition};
use super::description;
use super::extension;
use super::relation::{self, Access, Index};
use super::system_catalog::{self, Lookup};
use super::tables::batches::Batches;
use super::tables::changes::Changes;
use super::tables::checkpoints::Checkpoints;
use super::tables::identity::Identity;
use super::tables::transactions::{self, LaterColumns, Ledger};
use crate::error::LedgerError;

const SCHEMA: &CStr = c"credits";
const DELTA_INDEX_NAME: &CStr = c"credits_transactions_delta_idx";

/// The relations that are read and written directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relations {
    /// `credits_transactions`
    pub ledger: pg_sys::Oid,
    /// its index on `(user_id, xact_id)`
    pub delta_index: pg_sys::Oid,
    /// `user_balance_checkpoints`
    pub checkpoints: pg_sys::Oid,
    /// `batch_aggregates`
    pub batches: pg_sys::Oid,
    /// `checkpoint_changes`: without it nothing is published
    pub changes: Option<pg_sys::Oid>,
    /// `credits_transactions_single_idx`, unless somebody has dropped it: pages can do without, as without the next three
    pub single_index: Option<pg_sys::Oid>,
    /// `credits_transactions_batched_idx`
    pub batched_index: Option<pg_sys::Oid>,
    /// `credits_transactions_seq_idx`
    pub seq_index: Option<pg_sys::Oid>,
    /// `batch_aggregates_user_seq_idx`
    pub folded_index: Option<pg_sys::Oid>,
    /// `credits_transactions_stamp_idx`
    pub stamp_index: Option<pg_sys::Oid>,
    /// `ledger_identity`
    pub identity: Option<pg_sys::Oid>,
    /// The ledger's columns `category`, `metadata` and `reverses`; `None` if one of them is missing.
    later_columns: Option<LaterColumns>,
}

thread_local! {
    static CACHED: Cell<Option<Relations>> = const { Cell::new(None) };
    /// Those that were looked up last; outlive `CACHED`, which a change of any of the relations clears.
    static STATE_TABLES: Cell<[pg_sys::Oid; 3]> = const { Cell::new([pg_sys::InvalidOid; 3]) };
    static GENERATION: Cell<u64> = const { Cell::new(0) };
    /// Counts invalidations: what was looked up while one came may be out of date.
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

    /// The same where they are of the library's version; `None` where they are not, too.
    pub fn lookup_own_version() -> Option<Self> {
        CACHED.get().or_else(|| {
            (extension::installed_version()? == extension::LIBRARY_VERSION).then(Self::lookup).flatten()
        })
    }

    /// The relations, with a lock on the ledger that keeps it so to the end of the transaction.
    pub fn locked() -> Option<Self> {
        loop {
            let relations = Self::lookup()?;
            relation::lock(relations.ledger, Access::Read);
            // An update may have come before the lock.
            if Self::lookup()? == relations {
                return Some(relations);
            }
        }
    }

    /// The same at the end of a transaction, where the ledger is locked already if it has rows of the transaction.
    pub fn locked_at_commit() -> Option<Self> {
        let relations = Self::lookup()?;
        if relation::is_locked(relations.ledger, Access::Write) { Some(relations) } else { Self::locked() }
    }

    /// Opens the index of deltas with `open`. The ledger is locked. Raises 55000 if the index does not have every row.
    pub fn open_delta_index<E>(
        &self,
        open: impl Fn(pg_sys::Oid) -> Result<Option<Index>, E>,
    ) -> Result<Index, E> {
        if let Some(index) = open(self.delta_index)?
            && index.is_valid()
        {
            return Ok(index);
        }
        // Another may have taken its place, whose transaction has committed but not told of it yet: what this backend has cached
        // says nothing then. That one is in use as long as the ledger is locked, even if a third follows.
        let current = find_index_now(self.ledger, DELTA_INDEX_NAME);
        match current.filter(|index| index.is_valid).map(|index| open(index.oid)).transpose()?.flatten() {
            Some(index) => Ok(index),
            None if current.is_some() => LedgerError::InvalidDeltaIndex.raise(),
            None => missing(DELTA_INDEX_NAME),
        }
    }

    /// Rows are read and written by the places of their columns: raises 55000 if one of a table's own is of another type. False if
    /// that cannot be told: somebody is changing a table, and whoever goes on will wait for that.
    fn have_their_columns(&self) -> bool {
        [
            (Some(self.ledger), Ledger::DEFINITION),
            (Some(self.checkpoints), Checkpoints::DEFINITION),
            (Some(self.batches), Batches::DEFINITION),
            (self.changes, Changes::DEFINITION),
            (self.identity, Identity::DEFINITION),
        ]
        .into_iter()
        .filter_map(|(oid, definition)| Some((oid?, definition)))
        .all(|(oid, definition)| {
            // SAFETY: only looks.
            let other = unsafe {
                relation::with_settled_description(oid, |relation| {
                    description::first_of_other_type((*relation).rd_att, definition.columns)
                })
            };
            if let Some(Some(number)) = other {
                LedgerError::OtherColumn { table: definition.display_name(), number: number + 1 }.raise();
            }
            other.is_some()
        })
    }

    fn find() -> Self {
        let ledger = find_needed(Ledger::DEFINITION.name);
        Self {
            ledger,
            delta_index: find_needed(DELTA_INDEX_NAME),
            checkpoints: find_needed(Checkpoints::DEFINITION.name),
            batches: find_needed(Batches::DEFINITION.name),
            changes: find(Changes::DEFINITION.name),
            single_index: find(c"credits_transactions_single_idx"),
            batched_index: find(c"credits_transactions_batched_idx"),
            seq_index: find(c"credits_transactions_seq_idx"),
            folded_index: find(c"batch_aggregates_user_seq_idx"),
            stamp_index: find(c"credits_transactions_stamp_idx"),
            identity: find(Identity::DEFINITION.name),
            later_columns: find_later_columns(ledger),
        }
    }

    /// The ledger's columns `category`, `metadata` and `reverses`. An error if one of them is missing or of another type.
    pub fn later_columns(&self) -> Result<LaterColumns, LedgerError> {
        self.later_columns.ok_or_else(|| {
            LedgerError::Missing(
                "column category, metadata or reverses of credits_transactions, or its type".to_owned(),
            )
        })
    }

    /// The tables whose definitions are part of the ledger's state.
    pub fn tables_of_state(&self) -> [pg_sys::Oid; 3] {
        [self.ledger, self.checkpoints, self.changes.unwrap_or(pg_sys::InvalidOid)]
    }

    fn contains(&self, oid: pg_sys::Oid) -> bool {
        let needed = [self.ledger, self.delta_index, self.checkpoints, self.batches];
        let useful = [
            self.changes,
            self.single_index,
            self.batched_index,
            self.seq_index,
            self.folded_index,
            self.stamp_index,
            self.identity,
        ];
        needed.contains(&oid) || useful.contains(&Some(oid))
    }
}

fn find(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: the names are NUL-terminated; both calls are plain syscache lookups.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(SCHEMA.as_ptr(), true);
        if schema == pg_sys::InvalidOid { schema } else { pg_sys::get_relname_relid(name.as_ptr(), schema) }
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
}

fn find_later_columns(ledger: pg_sys::Oid) -> Option<LaterColumns> {
    Some(LaterColumns {
        category: find_column(ledger, transactions::CATEGORY)?,
        metadata: find_column(ledger, transactions::METADATA)?,
        reverses: find_column(ledger, transactions::REVERSES)?,
    })
}

/// A column of the ledger, if it is there and of its type.
fn find_column<T: ColumnType>(ledger: pg_sys::Oid, name: &CStr) -> Option<Column<Ledger, T>> {
    // SAFETY: catalog lookups; the name is NUL-terminated.
    let (number, found) = unsafe {
        let number = pg_sys::get_attnum(ledger, name.as_ptr());
        (number, pg_sys::get_atttype(ledger, number))
    };
    let number = usize::try_from(number).ok().filter(|&number| number > 0 && found == T::OID)?;
    // SAFETY: the catalog says so. The relations are looked up again when that has changed.
    Some(unsafe { Column::found(number) })
}

fn find_needed(name: &CStr) -> pg_sys::Oid {
    find(name).unwrap_or_else(|| missing(name))
}

fn missing(name: &CStr) -> ! {
    LedgerError::Missing(format!("credits.{}", name.to_string_lossy())).raise()
}

/// An index as the catalog has it.
#[derive(Clone, Copy)]
struct CatalogIndex {
    oid: pg_sys::Oid,
    is_valid: bool,
}

/// The index of the table that bears the name, as of now, past all caches.
fn find_index_now(table: pg_sys::Oid, name: &CStr) -> Option<CatalogIndex> {
    let by_name = Lookup {
        catalog: pg_sys::RelationRelationId,
        index: pg_sys::ClassNameNspIndexId,
        column: pg_sys::Anum_pg_class_relname,
        equal: pg_sys::F_NAMEEQ,
    };
    let by_oid = Lookup {
        catalog: pg_sys::IndexRelationId,
        index: pg_sys::IndexRelidIndexId,
        column: pg_sys::Anum_pg_index_indexrelid,
        equal: pg_sys::F_OIDEQ,
    };
    let (mut named, mut found) = (Vec::new(), None);
    // SAFETY: the columns are a name, which the static text is long enough for, and an oid. A row begins as its catalog's
    // structure says, and is valid while it is looked at.
    unsafe {
        pg_sys::InvalidateCatalogSnapshot();
        system_catalog::visit(by_name, pg_sys::Datum::from(name.as_ptr()), None, |_, row| {
            named.push((*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_class>()).oid);
        });
        for oid in named {
            system_catalog::visit(by_oid, pg_sys::Datum::from(oid), None, |_, row| {
                let index = &*pg_sys::GETSTRUCT(row).cast::<pg_sys::FormData_pg_index>();
                if index.indrelid == table {
                    found = Some(CatalogIndex { oid, is_valid: index.indisvalid });
                }
            });
        }
    }
    found
}

/// The ledger, of whatever version of the extension.
pub fn find_ledger() -> Option<pg_sys::Oid> {
    let ledger = find(Ledger::DEFINITION.name)?;
    extension::installed_version().map(|_| ledger)
}

/// Whether the extension's schema has a relation of this name.
pub fn exists(name: &CStr) -> bool {
    find(name).is_some()
}

/// The tables and types of the extension, as far as they are there.
pub fn defined() -> impl Iterator<Item = (pg_sys::Oid, &'static Definition)> {
    definition::ALL.into_iter().filter_map(|definition| Some((find(definition.name)?, definition)))
}

/// Changes whenever something derived from the ledger's rows outside the database must be forgotten.
pub fn ledger_generation() -> u64 {
    GENERATION.get()
}

/// Has every session forget what it derived from the ledger's rows, as soon as the transaction has committed.
pub fn invalidate_ledger(ledger: pg_sys::Oid) {
    // SAFETY: raises an error if there is no such table.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(ledger) }
}

/// Learns of all changes of tables that have been committed.
pub fn accept_invalidations() {
    // SAFETY: as every lock of a relation does; the callbacks only set flags, ours among them.
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

/// Likewise; of whichever database.
#[pg_guard]
extern "C-unwind" fn on_database_change(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    GENERATION.set(GENERATION.get() + 1);
}
