//! The guard of the ledger. It refuses to drop the ledger while it holds transactions, and holds and limits while there are any; and to
//! change the shape of these tables, of a derived table, or of a type that functions return.
//!
//! **Dropping.** The server calls the object access hook with every object that it is about to drop, whatever the command and
//! however far it cascades. A session that has never used the ledger has not loaded the library, and has no hook: an event trigger on
//! `ddl_command_start` loads the library before any DDL command, sets the hook and looks up the oids to watch for. Rows that the
//! dropping transaction itself inserted do not count: they are not committed.
//!
//! **Shapes.** The event trigger also copies the shape of each of these relations. On `ddl_command_end`, and on `table_rewrite`, it
//! compares the shapes with those before the command, whatever the command was. A difference is refused for one of two reasons: `pg_dump`
//! dumps the rows of an extension's table but not the change, so that a restore would lose rows; or the change breaks what the engine
//! relies on when it reads and writes by column numbers and as the only writer.
//!
//! If a dump leaves a change out without losing rows by that, the guard only warns.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::rc::Rc;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::error::LedgerError;
use crate::pg::command::{Command, CommandId, LeftOut};
use crate::pg::definition::{self, Definition, Role};
use crate::pg::entry_point::entry_points;
use crate::pg::event_trigger::{EventTriggerCall, Rewrite};
use crate::pg::relation::{Access, Table};
use crate::pg::shape::{self, Change, Shape};
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::{extension, names, object_access, system_catalog, xact};
use crate::settings;

entry_points! { event_triggers:
    guard_ledger => guard_ledger;
}

/// Most commands under way that are remembered; DDL runs inside DDL. One that failed has no end event and stays until it is pushed out.
const MAX_COMMANDS: usize = 32;

/// A relation as it was when a command began.
struct Noted {
    oid: pg_sys::Oid,
    definition: &'static Definition,
    shape: Shape,
    /// The keys, and the sequence of the ledger, that were there.
    beside: Vec<(pg_sys::Oid, &'static CStr)>,
}

impl Noted {
    fn now((oid, definition): (pg_sys::Oid, &'static Definition)) -> Option<Self> {
        Some(Self { oid, definition, shape: Shape::of(oid)?, beside: names::beside(definition).collect() })
    }

    /// What a command of this transaction has made of it.
    fn changes(&self) -> Vec<Change> {
        let after = self.shape.changed(self.oid);
        let mut changes =
            after.as_ref().map_or_else(Vec::new, |after| self.shape.difference(after, self.definition.names));
        for &(oid, name) in &self.beside {
            let told = || name.to_string_lossy().into_owned();
            // Renaming an index or a sequence does not lock its table.
            if shape::is_renamed(oid, name) {
                changes.push(Change::RenamedBeside(told()));
            } else if after.is_some() && !names::exists(name) {
                changes.push(Change::LostKey(told()));
            }
        }
        changes
    }
}

/// A command that has begun and not ended.
struct UnderWay {
    command: CommandId,
    /// When its transaction began. A command that commits in between (VACUUM, CREATE INDEX CONCURRENTLY) is not found at its end.
    transaction: i64,
    /// What was there when it began.
    shapes: Vec<Noted>,
}

/// Tables that are not dropped while they have rows.
type Watched = [Option<(pg_sys::Oid, &'static Definition)>; definition::ALL.len()];

thread_local! {
    /// The tables that users fill, when the running command began.
    static WATCHED: Cell<Watched> = const { Cell::new([None; definition::ALL.len()]) };
    static UNDER_WAY: RefCell<Vec<UnderWay>> = const { RefCell::new(Vec::new()) };
}

/// `credits.guard_ledger()`: event trigger before and after commands, and before tables are rewritten.
fn guard_ledger(call: &EventTriggerCall<'_>) {
    match call.event().to_bytes() {
        b"ddl_command_start" => begin(call.command()),
        b"ddl_command_end" => end(call.command()),
        _ => {
            let rewrite = call.rewrite();
            rewrite.iter().for_each(refuse_other_storage);
            refuse_changes(None);
            rewrite.iter().for_each(refuse_new_stamps);
        }
    }
}

/// Before a command. The first one of a session sets the hook: the server calls it for many other things, too, and sessions without
/// DDL need not pay for that.
fn begin(command: Command<'_>) {
    object_access::hook_in(before_drop);
    if command.only_makes_something_new() {
        return;
    }
    let is_installed = names::find_ledger().is_some();
    WATCHED.set(if is_installed { watched() } else { [None; definition::ALL.len()] });
    if !is_installed || extension::runs_script() || extension::is_moved_by_pg_upgrade() {
        return;
    }
    let shapes: Vec<Noted> = names::defined().filter_map(Noted::now).collect();
    refuse_what_the_engine_would_miss(command, &shapes);
    UNDER_WAY.with_borrow_mut(|commands| {
        commands.retain(|other| other.command != command.id());
        if commands.len() == MAX_COMMANDS {
            commands.remove(0);
        }
        commands.push(UnderWay { command: command.id(), transaction: xact::began_at(), shapes });
    });
}

fn watched() -> Watched {
    let mut filled_by_users =
        names::defined().filter(|(_, definition)| matches!(definition.role, Role::Ledger | Role::Dumped));
    std::array::from_fn(|_| filled_by_users.next())
}

/// The engine writes derived tables by the functions for catalogs: they maintain plain indexes only, and check no constraints.
fn refuse_what_the_engine_would_miss(command: Command<'_>, shapes: &[Noted]) {
    let derived = |table: pg_sys::Oid| {
        shapes.iter().find(|noted| noted.definition.role == Role::Derived && noted.oid == table)
    };
    if let Some((table, index)) = command.index_that_is_not_plain()
        && derived(table).is_some()
    {
        LedgerError::IndexNotPlain(index).raise();
    }
    if let Some(noted) = command.adds_constraint_to().and_then(derived) {
        refuse(noted.definition, Change::GotConstraint);
    }
}

/// After a command that has succeeded.
fn end(command: Command<'_>) {
    if !command.is_of_extension() {
        refuse_changes(Some(command.id()));
    }
    let began = UNDER_WAY.with_borrow_mut(|commands| {
        let place = commands.iter().position(|other| other.command == command.id());
        if let Some(place) = place {
            commands.truncate(place);
        }
        place.is_some()
    });
    if began {
        warn_of_what_dumps_leave_out(command);
    }
}

/// Compares with what was there when this command, or else the innermost one, began.
fn refuse_changes(command: Option<CommandId>) {
    with_beginning(command, |noted| {
        let refused = noted.changes().into_iter().find(|change| is_refused(noted.definition, change));
        if let Some(change) = refused {
            refuse(noted.definition, change);
        }
    });
}

/// Before a table is rewritten, the catalog does not say yet that it is going to be stored otherwise.
fn refuse_other_storage(rewrite: &Rewrite) {
    if rewrite.stores_otherwise {
        with_beginning(None, |noted| {
            if noted.oid == rewrite.table && noted.shape.is_stored_as_made() {
                refuse(noted.definition, Change::Stored);
            }
        });
    }
}

/// `SET EXPRESSION` has the rows stamped anew also where the expression is the one that was there, which is no change of the shape.
fn refuse_new_stamps(rewrite: &Rewrite) {
    if rewrite.computes_column {
        with_beginning(None, |noted| {
            if noted.oid == rewrite.table && noted.definition.role == Role::Ledger {
                refuse(noted.definition, Change::Stamped);
            }
        });
    }
}

/// Shows each relation as it was when this command, or else the innermost one, began.
fn with_beginning(command: Option<CommandId>, look: impl FnMut(&Noted)) {
    UNDER_WAY.with_borrow(|commands| {
        let now = xact::began_at();
        let mut ours = commands.iter().rev().filter(|other| other.transaction == now);
        if let Some(began) = ours.find(|other| command.is_none_or(|command| other.command == command)) {
            began.shapes.iter().for_each(look);
        }
    });
}

fn is_refused(definition: &Definition, change: &Change) -> bool {
    match (definition.role, change) {
        // An application's own, which it may take away again.
        (Role::Ledger | Role::Dumped, Change::GotCheck(_) | Change::GotNotNull(_) | Change::GotTrigger)
        | (Role::Derived, Change::LostCheck(_)) => false,
        (_, Change::LostNotNull(name)) => !definition.may_be_null(name),
        (Role::Ledger | Role::Dumped, Change::LostCheck(name)) => definition.checks.contains(&name.as_str()),
        _ => true,
    }
}

fn refuse(definition: &Definition, change: Change) -> ! {
    LedgerError::KeepsItsShape { name: definition.display_name(), role: definition.role, change }.raise()
}

fn warn_of_what_dumps_leave_out(command: Command<'_>) {
    let left_out = command.left_out_of_dumps();
    if left_out.is_empty() {
        return;
    }
    for change in left_out {
        let LeftOut { table, what } = change;
        let Some((_, definition)) = names::defined().find(|(oid, _)| *oid == table) else { continue };
        if matches!(definition.role, Role::Ledger | Role::Dumped) && change.is_row_security() {
            continue;
        }
        let name = definition.display_name();
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_WARNING,
            format!("pg_dump leaves this {what} of {name} out: a restored database is without it"),
            "credits_ledger",
        )
        .set_hint("Keep the command where you keep your migrations, and run it after a restore.")
        .report(PgLogLevel::WARNING);
    }
}

/// Before this session drops a relation.
fn before_drop(relation: pg_sys::Oid) {
    let watched = WATCHED.get().into_iter().flatten().find(|(table, _)| *table == relation);
    if let Some((_, definition)) = watched
        && !settings::allow_drop()
        && !extension::is_moved_by_pg_upgrade()
        && holds_rows_of_others(relation)
    {
        if definition.role == Role::Ledger {
            LedgerError::HoldsTransactions.raise()
        }
        LedgerError::HasRows(definition.display_name()).raise()
    }
}

/// Whether the table, which this transaction has locked exclusively, holds a row that another transaction inserted. Its indexes may be
/// dropped already, so it is read as it lies. Costs one row, but for those of this transaction before it.
fn holds_rows_of_others(table: pg_sys::Oid) -> bool {
    let table = Table::open(table, Access::Read);
    let now = Sight::AsOf(Rc::new(Snapshot::latest()));
    system_catalog::any(&table, &now, |row| {
        xact::check_for_interrupts();
        !system_catalog::is_of_this_transaction(row)
    })
}
