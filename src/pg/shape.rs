//! The shape of a relation: the part of its definition that the engine and dumps of its rows rely on, and how two shapes differ.

use std::ffi::{CStr, c_char};
use std::fmt;

use pgrx::pg_sys;

use super::description::{self, text};
use super::relcache::{with_entry, with_entry_if_free};

/// What a relation is made of.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    /// The name of its schema.
    schema: String,
    name: String,
    /// Its persistence (`relpersistence`) and its access method.
    storage: (c_char, pg_sys::Oid),
    /// The type that it is a table of, if it is one.
    of_type: pg_sys::Oid,
    columns: Vec<Column>,
    /// Whether it inherits from another table or is a partition of one.
    has_parent: bool,
    /// The tables that inherit from it.
    children: Vec<pg_sys::Oid>,
    has_rules: bool,
    checks: Vec<String>,
    /// Without those that the server made for a constraint.
    triggers: Vec<pg_sys::Oid>,
}

#[derive(Debug, PartialEq, Eq)]
struct Column {
    name: String,
    is_dropped: bool,
    /// The type, its modifier and its collation.
    data_type: (pg_sys::Oid, i32, pg_sys::Oid),
    not_null: bool,
    is_identity: bool,
    /// The expression that generates it, if one does.
    generated: Option<String>,
}

/// What makes one shape differ from another.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// Its name or its schema's.
    Renamed,
    /// `SET UNLOGGED`, `SET ACCESS METHOD`.
    Stored,
    /// Its rows are stamped anew.
    Stamped,
    /// `OF`
    MadeOfType,
    /// A new column.
    ColumnAdded(String),
    /// A column that is gone.
    ColumnDropped(String),
    /// A column of another name.
    ColumnRenamed(String),
    /// A column of another type or collation, generated otherwise or no identity any more.
    ColumnAltered(String),
    /// A column that is not `NOT NULL` any more.
    LostNotNull(String),
    /// A column that is `NOT NULL` from now on.
    GotNotNull(String),
    /// It inherits, or is a partition.
    GotParent,
    /// A table inherits from it.
    GotChild,
    /// A rule.
    GotRule,
    /// The primary key or a unique one is gone.
    LostKey(String),
    /// A key, or the sequence of the ledger, has another name.
    RenamedBeside(String),
    /// A constraint of any kind.
    GotConstraint,
    /// A new `CHECK`.
    GotCheck(String),
    /// A `CHECK` that is gone.
    LostCheck(String),
    /// A trigger.
    GotTrigger,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Renamed => write!(f, "another name"),
            Self::Stored => write!(f, "another way to store it"),
            Self::Stamped => write!(f, "another xact_id for each row"),
            Self::MadeOfType => write!(f, "OF a type"),
            Self::ColumnAdded(name) => write!(f, "a new column {name}"),
            Self::ColumnDropped(name) => write!(f, "dropping column {name}"),
            Self::ColumnRenamed(name) => write!(f, "another name for column {name}"),
            Self::ColumnAltered(name) | Self::LostNotNull(name) => {
                write!(f, "another definition of column {name}")
            }
            Self::GotNotNull(name) => write!(f, "NOT NULL for column {name}"),
            Self::GotParent => write!(f, "a table that it inherits from or is a partition of"),
            Self::GotChild => write!(f, "a table that inherits from it"),
            Self::GotRule => write!(f, "a rule"),
            Self::LostKey(name) => write!(f, "dropping key {name}"),
            Self::RenamedBeside(name) => write!(f, "another name for {name}"),
            Self::GotConstraint => write!(f, "a constraint"),
            Self::GotCheck(name) => write!(f, "a new constraint {name}"),
            Self::LostCheck(name) => write!(f, "dropping constraint {name}"),
            Self::GotTrigger => write!(f, "a trigger"),
        }
    }
}

// As in catalog/pg_inherits.h, which pgrx has no bindings for.
unsafe extern "C-unwind" {
    fn has_superclass(relation: pg_sys::Oid) -> bool;
    fn find_inheritance_children(parent: pg_sys::Oid, lock: pg_sys::LOCKMODE) -> *mut pg_sys::List;
}

impl Shape {
    /// The shape that the relation has now; `None` if there is no such relation. Does not wait for a lock: while another session is
    /// changing the relation, its shape before that change.
    pub fn of(oid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: `read` copies each part of the description as it fetches it.
        unsafe {
            with_entry_if_free(oid, |relation| Self::read(relation))
                .or_else(|| with_entry(oid, |relation| Self::read(relation)))
        }
    }

    /// The shape as it is now, if a command of this transaction may have changed it; `None` if none has. A command that changes the
    /// shape keeps a lock on the relation; one that renames its schema does not, so that name is compared.
    pub fn changed(&self, oid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: `read` copies each part of the relcache entry as it fetches it.
        unsafe {
            with_entry(oid, |relation| {
                (is_locked_to_change(relation) || schema_of(relation) != self.schema)
                    .then(|| Self::read(relation))
            })
        }
        .flatten()
    }

    /// # Safety
    /// The relation is open.
    #[expect(ffi_unwind_calls, reason = "the guard stands around the call")]
    unsafe fn read(relation: pg_sys::Relation) -> Self {
        // SAFETY: the caller's promise. A catalog lookup may process invalidations, which rebuild parts of the relcache entry: each part
        // is fetched from the entry right where it is copied, and copying looks nothing up. Only the row of pg_class stays where it is.
        unsafe {
            let (oid, class) = ((*relation).rd_id, (*relation).rd_rel);
            let children = pg_sys::ffi::pg_guard_ffi_boundary(|| {
                find_inheritance_children(oid, pg_sys::NoLock.cast_signed())
            });
            let children = pgrx::PgList::<pg_sys::Oid>::from_pg(children);
            Self {
                schema: schema_of(relation),
                name: text((*class).relname.data.as_ptr()),
                storage: ((*class).relpersistence, (*class).relam),
                of_type: (*class).reloftype,
                columns: columns((*relation).rd_att),
                has_parent: pg_sys::ffi::pg_guard_ffi_boundary(|| has_superclass(oid)),
                children: children.iter_oid().collect(),
                has_rules: !(*relation).rd_rules.is_null(),
                checks: checks((*relation).rd_att),
                triggers: triggers((*relation).trigdesc),
            }
        }
    }

    /// Whether a table is logged, and a heap.
    pub fn is_stored_as_made(&self) -> bool {
        self.storage == (pg_sys::RELPERSISTENCE_PERMANENT.cast_signed(), pg_sys::HEAP_TABLE_AM_OID)
    }

    /// How `after` differs from this. No difference: that it no longer inherits, has lost a child, a rule or a trigger, or is no longer
    /// OF a type; nor a change of columns that are not among `own`, unless `own` is empty.
    pub fn difference(&self, after: &Self, own: &[&str]) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut note = |differs: bool, change: Change| {
            if differs {
                changes.push(change);
            }
        };
        note((&self.schema, &self.name) != (&after.schema, &after.name), Change::Renamed);
        note(self.is_stored_as_made() && !after.is_stored_as_made(), Change::Stored);
        note(after.of_type != pg_sys::InvalidOid && after.of_type != self.of_type, Change::MadeOfType);
        note(after.has_parent && !self.has_parent, Change::GotParent);
        note(after.children.iter().any(|child| !self.children.contains(child)), Change::GotChild);
        note(after.has_rules && !self.has_rules, Change::GotRule);
        note(after.triggers.iter().any(|trigger| !self.triggers.contains(trigger)), Change::GotTrigger);
        for (old, new) in self.columns.iter().zip(&after.columns) {
            if own.is_empty() || own.contains(&old.name.as_str()) {
                changes.extend(old.change(new));
            }
        }
        let added = after.columns.iter().skip(self.columns.len()).filter(|column| !column.is_dropped);
        changes.extend(added.map(|column| Change::ColumnAdded(column.name.clone())));
        let without = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|name| !those.contains(name)).cloned().collect()
        };
        changes.extend(without(&after.checks, &self.checks).into_iter().map(Change::GotCheck));
        changes.extend(without(&self.checks, &after.checks).into_iter().map(Change::LostCheck));
        changes
    }
}

/// Whether a command of this transaction has given the relation another name than this.
pub fn is_renamed(oid: pg_sys::Oid, name: &CStr) -> bool {
    // SAFETY: the lock table is only read, and the row of pg_class stays where it is.
    unsafe {
        with_entry(oid, |relation| {
            CStr::from_ptr((*(*relation).rd_rel).relname.data.as_ptr()) != name
                && is_locked_to_change(relation)
        })
    }
    .unwrap_or(false)
}

/// Whether this transaction keeps a lock with which commands change a relation.
///
/// # Safety
/// The relation is open.
unsafe fn is_locked_to_change(relation: pg_sys::Relation) -> bool {
    // SAFETY: the caller's promise; the lock table is only read.
    unsafe { pg_sys::CheckRelationLockedByMe(relation, pg_sys::ShareUpdateExclusiveLock.cast_signed(), true) }
}

impl Column {
    fn change(&self, after: &Self) -> Option<Change> {
        let name = || self.name.clone();
        if self.is_dropped != after.is_dropped {
            Some(Change::ColumnDropped(name()))
        } else if self.name != after.name {
            Some(Change::ColumnRenamed(name()))
        } else if self.data_type != after.data_type
            || self.generated != after.generated
            || (self.is_identity && !after.is_identity)
        {
            Some(Change::ColumnAltered(name()))
        } else if self.not_null != after.not_null {
            Some(if after.not_null { Change::GotNotNull(name()) } else { Change::LostNotNull(name()) })
        } else {
            None
        }
    }
}

/// # Safety
/// The relation is open.
unsafe fn schema_of(relation: pg_sys::Relation) -> String {
    // SAFETY: the caller's promise.
    unsafe { text(pg_sys::get_namespace_name((*(*relation).rd_rel).relnamespace)) }
}

/// # Safety
/// The description is valid.
unsafe fn columns(description: pg_sys::TupleDesc) -> Vec<Column> {
    // SAFETY: the caller's promise; it has as many columns as it says.
    unsafe {
        (0..description::count(description))
            .map(|number| {
                let column = description::column(description, number);
                Column {
                    name: text(column.attname.data.as_ptr()),
                    is_dropped: column.attisdropped,
                    data_type: (column.atttypid, column.atttypmod, column.attcollation),
                    not_null: column.attnotnull,
                    is_identity: column.attidentity != 0,
                    generated: (column.attgenerated != 0).then(|| default(description, column.attnum)),
                }
            })
            .collect()
    }
}

/// The expression of a column's default, in the server's own form.
///
/// # Safety
/// The description is valid.
unsafe fn default(description: pg_sys::TupleDesc, column: i16) -> String {
    // SAFETY: the caller's promise; as many defaults as it says.
    unsafe {
        let Some(constraints) = (*description).constr.as_ref() else { return String::new() };
        (0..usize::from(constraints.num_defval))
            .map(|number| &*constraints.defval.add(number))
            .find(|default| default.adnum == column)
            .map(|default| text(default.adbin))
            .unwrap_or_default()
    }
}

/// # Safety
/// The description is valid.
unsafe fn checks(description: pg_sys::TupleDesc) -> Vec<String> {
    // SAFETY: the caller's promise; as many checks as it says.
    unsafe {
        let Some(constraints) = (*description).constr.as_ref() else { return Vec::new() };
        (0..usize::from(constraints.num_check))
            .map(|number| text((*constraints.check.add(number)).ccname))
            .collect()
    }
}

/// # Safety
/// The description is null or valid.
unsafe fn triggers(description: *const pg_sys::TriggerDesc) -> Vec<pg_sys::Oid> {
    // SAFETY: the caller's promise; as many triggers as it says.
    unsafe {
        let Some(description) = description.as_ref() else { return Vec::new() };
        (0..usize::try_from(description.numtriggers).unwrap_or_default())
            .map(|number| &*description.triggers.add(number))
            .filter(|trigger| !trigger.tgisinternal)
            .map(|trigger| trigger.tgoid)
            .collect()
    }
}
