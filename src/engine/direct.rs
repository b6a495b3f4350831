//! Rows that are written without a statement, for the functions that record and hold.
//!
//! A statement reads and plans the constraints of its table each time, opens it, checks privileges, and queues its trigger. If the table is
//! as the extension has made it, the caller may insert any row, and no library oversees statements, then all that comes of it is that the
//! row is stored and noted: these functions do just that. Otherwise, or if a row cannot be stored, they return without having done anything
//! that could be seen, and a statement does the work or says what is wrong.

use std::rc::Rc;

use ledger::id::UserId;
use pgrx::pg_sys;

use super::claims::Version;
use super::{holds, inserted, source_ids};
use crate::pg::answer::{Answer, RowType};
use crate::pg::buckets;
use crate::pg::catalog::Relations;
use crate::pg::column::{AnyColumn, Layout};
use crate::pg::column_value::ColumnValue;
use crate::pg::fetch::Tid;
use crate::pg::insert::Inserter;
use crate::pg::plain;
use crate::pg::privilege;
use crate::pg::relation::{Access, Table};
use crate::pg::replace;
use crate::pg::row::Row;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::stamp;
use crate::pg::tables::columns;
use crate::pg::tables::holds::{self as held, ALL, Holds};
use crate::pg::tables::transactions::{self, CREDIT_TRANSACTION, Ledger};
use crate::pg::text::Text;
use crate::pg::uuid_v7;
use crate::pg::value::Value;
use crate::pg::xact;

/// A row that was written: what the function returns of it, and where it is stored.
pub type Written = (Answer, Tid);

/// A row to store: values for some of its columns.
pub type NewRow<'a> = Vec<(AnyColumn<Ledger>, ColumnValue<'a>)>;

/// A value that a client has given for the column of this name.
pub type GivenValue<'a> = (&'static str, Option<Value<'a>>);

/// The ledger, open for a row of a transaction.
struct OpenLedger {
    inserter: Inserter<Ledger>,
    key: pg_sys::Oid,
}

/// A transaction that no statement has to record.
pub enum Recorded {
    /// It is there.
    Written(Written),
    /// Its `source_id` is taken. A number was drawn for it, as a statement would have.
    Taken,
}

/// Records a transaction that has passed the checks of the ledger, unless its `source_id` is taken. `None` if a statement is to do so.
pub fn record(relations: &Relations, given: &[GivenValue<'_>], returns: RowType) -> Option<Recorded> {
    let values = given_values(relations, given)?;
    let columns: Vec<_> = values.iter().map(|&(column, _)| column).collect();
    match open_ledger(relations, &columns)?.record(relations, values, returns) {
        Some(written) => {
            xact::see_own_changes();
            Some(Recorded::Written(written))
        }
        // A statement says whether the row that has it came after the snapshot.
        None if xact::has_one_snapshot() => None,
        None => Some(Recorded::Taken),
    }
}

/// Where and under which id a transaction is stored.
pub struct Stored {
    /// Its `id`.
    pub id: [u8; 16],
    /// Its `seq`.
    pub seq: i64,
}

/// Records transactions that have passed the checks of the ledger, one after the other. Each is a row with values for these columns, `id` not
/// among them. Returns what was stored of each, `None` if its `source_id` is taken. Returns `None` for all, and has done nothing, if a
/// statement is to record them.
pub fn record_all<'a>(
    relations: &Relations,
    columns: &[AnyColumn<Ledger>],
    rows: impl ExactSizeIterator<Item = NewRow<'a>>,
) -> Option<Vec<Option<Stored>>> {
    // A statement says whether the row that has a `source_id` came after the snapshot.
    if xact::has_one_snapshot() {
        return None;
    }
    let mut ledger = open_ledger(relations, columns)?;
    let mut stored = Vec::with_capacity(rows.len());
    for row in rows {
        xact::check_for_interrupts();
        stored.push(ledger.store(relations, row).map(|(_, stored)| stored));
    }
    drop(ledger);
    xact::see_own_changes();
    Some(stored)
}

/// Makes a hold that has passed the checks, with all its columns given, unless its `source_id` is taken. `None` if a statement is to do so.
pub fn hold(relations: &Relations, given: &[GivenValue<'_>], returns: RowType) -> Option<Written> {
    let oid = relations.holds().ok()?;
    let value = |column: AnyColumn<Holds>| {
        let (_, value) = given.iter().find(|(name, _)| *name == column.name())?;
        Some((column, ColumnValue::of(*value)))
    };
    let values: Vec<_> = ALL.iter().map(|&column| value(column)).collect::<Option<_>>()?;
    if privilege::is_overseen() || !may_insert(oid, &ALL) {
        return None;
    }
    let table = Table::open(oid, Access::Write);
    if !plain::is_plain::<Holds>(&table) {
        return None;
    }
    let key = relations.holds_key?;
    let mut inserter = Inserter::new(table);
    if !inserter.is_keyed_by(key, &[]) {
        return None;
    }
    let hold = inserter.insert(&values, key)?;
    holds::note_made(&hold);
    let written = (hold.composite(returns, &ALL), hold.tid());
    drop(inserter);
    xact::see_own_changes();
    Some(written)
}

/// A hold that was deleted to be captured.
pub struct Captured {
    /// Where it was stored.
    pub hold: Version,
    /// Its account; where usage was recorded, the account of that, which a trigger may have changed.
    pub user: UserId,
    /// The usage that was recorded in its place; `None` if its `source_id` is taken in the ledger.
    pub recorded: Option<Written>,
}

/// Deletes the hold with this `source_id` and records usage of what it held, or of this amount, which has passed the checks of the ledger.
/// `None` if a statement is to do so, or to find out that there is no hold.
pub fn capture(
    relations: &Relations,
    source_id: Text,
    amount: Option<Value<'_>>,
    returns: RowType,
) -> Option<Captured> {
    let oid = relations.holds().ok()?;
    let later = relations.later_columns().ok()?;
    // Where all statements see the same, one that meets a `source_id` that it does not see fails.
    if xact::has_one_snapshot() || !privilege::may_delete_and_return_any(oid) {
        return None;
    }
    let into = later.of_usage();
    let table = Table::open(oid, Access::Write);
    if !plain::is_plain::<Holds>(&table) {
        return None;
    }
    let mut ledger = open_ledger(relations, &into)?;
    xact::see_own_changes();
    let snapshot = Rc::new(Snapshot::latest());
    let mut rows = source_ids::scan_holds(oid, Access::Write, Sight::AsOf(Rc::clone(&snapshot)));
    rows.seek(&[held::SOURCE_ID.equal(source_id)]);
    let hold = rows.next().filter(|hold| buckets::is_here(&hold.get(held::USER_ID)))?;
    if !replace::delete_unless_changed(&table, hold.tid(), &snapshot) {
        return None;
    }
    holds::note_deleted(&hold);
    let (version, user) = (hold.version(), hold.get(held::USER_ID));
    let [user_id, held_amount, source_id, description, batch, api_key, category, metadata] =
        hold.values(columns![
            held::USER_ID,
            held::AMOUNT,
            held::SOURCE_ID,
            held::DESCRIPTION,
            held::BATCH,
            held::API_KEY_ID,
            held::CATEGORY,
            held::METADATA
        ]);
    let amount = amount.map_or(held_amount, |amount| ColumnValue::of(Some(amount)));
    let usage = ColumnValue::Text("usage");
    let values = [user_id, usage, amount, source_id, description, batch, api_key, category, metadata];
    let recorded = ledger.record(relations, into.into_iter().zip(values).collect(), returns);
    xact::see_own_changes();
    Some(Captured { hold: version, user, recorded })
}

/// The columns of these names, with their values.
fn given_values<'a>(relations: &Relations, given: &[GivenValue<'a>]) -> Option<NewRow<'a>> {
    let later = relations.later_columns().ok()?;
    let column = |&(name, value): &GivenValue<'a>| {
        transactions::named(name, &later).map(|column| (column, ColumnValue::of(value)))
    };
    given.iter().map(column).collect()
}

/// Opens the ledger for rows with values for these columns, if no statement is needed.
fn open_ledger(relations: &Relations, columns: &[AnyColumn<Ledger>]) -> Option<OpenLedger> {
    let ledger = relations.ledger;
    if privilege::is_overseen()
        || !may_insert(ledger, columns)
        // An update of the extension may have committed before the lock.
        || Relations::locked_for_writing() != Some(*relations)
    {
        return None;
    }
    let table = Table::open_locked(ledger);
    if !plain::is_plain::<Ledger>(&table) {
        return None;
    }
    let key = relations.source_id_key?;
    let inserter = Inserter::new(table);
    inserter.is_keyed_by(key, &[relations.seq_index]).then_some(OpenLedger { inserter, key })
}

/// Whether a statement of the caller's may name the table, insert any row that has these columns, and return it.
fn may_insert<L: Layout>(table: pg_sys::Oid, columns: &[AnyColumn<L>]) -> bool {
    privilege::may_name(table) && privilege::may_insert_and_return_any(table, columns)
}

impl OpenLedger {
    /// Inserts the row, and returns it as a function does.
    fn record(&mut self, relations: &Relations, given: NewRow<'_>, returns: RowType) -> Option<Written> {
        let (row, _) = self.store(relations, given)?;
        Some((row.composite(returns, &CREDIT_TRANSACTION), row.tid()))
    }

    /// Inserts the row, with those values that the server gives a row, and has it noted. `None` if its `source_id` is taken.
    fn store(&mut self, relations: &Relations, given: NewRow<'_>) -> Option<(Row<'_, Ledger>, Stored)> {
        let id = uuid_v7::next();
        let (seq, stamp) = stamp::draw(relations).expect("a plain ledger numbers its rows");
        let mut values = given;
        if !values.iter().any(|(column, _)| column.number() == transactions::CREATED_AT.any().number()) {
            values.push((transactions::CREATED_AT.any(), ColumnValue::Timestamptz(xact::now())));
        }
        values.extend([
            (transactions::ID.any(), ColumnValue::Uuid(&id)),
            (transactions::SEQ.any(), ColumnValue::Int8(seq)),
            (transactions::XACT_ID.any(), ColumnValue::Xid8(stamp)),
        ]);
        let row = self.inserter.insert(&values, self.key)?;
        row.deform_to(inserted::furthest_read(relations));
        inserted::note(&row, relations);
        Some((row, Stored { id, seq }))
    }
}
