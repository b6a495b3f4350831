//! The trigger functions of the ledger, of the tables derived from it, and of holds, limits and caps. Each refuses to be the trigger of
//! another table, or to fire at another moment, than `sql/schema` makes it for.

use ledger::id::UserId;

use crate::engine::{boundaries, caps, changes, checkpoint, holds as engine_holds, inserted};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::column::Column;
use crate::pg::definition::Role;
use crate::pg::entry_point::entry_points;
use crate::pg::row::Row;
use crate::pg::tables::checkpoints::{self, Checkpoints};
use crate::pg::tables::holds::{self, Holds};
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::tables::{caps as spend_caps, columns, limits};
use crate::pg::trigger::{Event, Moment, Outcome, TriggerCall, Triggered, refuse};
use crate::pg::{buckets, names, stamp, transfer, xact};

entry_points! { triggers:
    note_row => note_transaction;
    // The name of note_row in 0.1.0, for databases that are not updated yet, where it refuses to work. The function of 0.1.0 noted no
    // amounts: a session that still has that library loaded does not find the new name.
    note_transaction => note_transaction;
    refuse_change => refuse_change;
    leave_out => leave_out;
    announce_change => announce_change;
    announce_buckets => announce_buckets;
    keep_announced => keep_announced;
    note_limits => note_limits;
    note_caps => note_caps;
    note_hold => note_hold;
    refuse_hold_change => refuse_hold_change;
}

/// `credits.note_transaction()`: row trigger that notes whose balance the transaction changes, and by how much. Runs for every row.
fn note_transaction(call: &TriggerCall<'_>) {
    let relations = Relations::lookup();
    let row = relations.as_ref().and_then(|relations| call.row::<Ledger>(relations));
    match (&relations, row) {
        (Some(relations), Some(row))
            if call.event() == Event::Insert && call.moment() == Moment::AfterRow =>
        {
            row.deform_to(inserted::furthest_read(relations));
            stamp::require_own(row.get(transactions::XACT_ID));
            inserted::note(&row, relations);
            stamp::follow_inserted(relations, || row.get(transactions::SEQ));
        }
        _ => refuse("note_transaction() is an AFTER INSERT row trigger of credits.credits_transactions only"),
    }
}

/// `credits.refuse_change()`: trigger that keeps the ledger append-only. Rows of a bucket that has left this node may be deleted by a
/// transaction that says so.
fn refuse_change(call: &TriggerCall<'_>) -> Outcome {
    if call.event() == Event::Delete
        && transfer::is_any()
        && let Some(relations) = Relations::lookup().filter(|found| found.ledger == call.table())
    {
        match (call.moment(), call.row::<Ledger>(&relations)) {
            (Moment::BeforeRow, Some(row))
                if buckets::is_left_behind(&relations, &row.get(transactions::USER_ID)) =>
            {
                return Outcome::Delete;
            }
            (Moment::BeforeStatement, _) if buckets::any_left_behind(&relations) => return Outcome::Nothing,
            _ => {}
        }
    }
    let event = match call.event() {
        Event::Update => Some("UPDATE"),
        Event::Delete => Some("DELETE"),
        Event::Truncate => Some("TRUNCATE"),
        Event::Insert => None,
    };
    match event {
        Some(event) if names::find_ledger() == Some(call.table()) => LedgerError::AppendOnly(event).raise(),
        _ => refuse(
            "refuse_change() is an UPDATE, DELETE or TRUNCATE trigger of credits.credits_transactions only",
        ),
    }
}

/// `credits.leave_out()`: row trigger that has the server skip a row of a derived table, which replication brings.
fn leave_out(call: &TriggerCall<'_>) {
    let is_derived =
        names::defined().any(|(oid, definition)| oid == call.table() && definition.role == Role::Derived);
    if call.moment() != Moment::BeforeRow || !is_derived {
        refuse("leave_out() is a BEFORE row trigger of derived tables only");
    }
}

/// `credits.announce_change()`: statement trigger behind changes of the checkpoints by hand, and of what is noted of them.
fn announce_change(call: &TriggerCall<'_>) {
    let table = call.table();
    match Relations::lookup() {
        Some(relations)
            if (relations.checkpoints == table || relations.changes == Some(table))
                && call.moment() == Moment::AfterStatement =>
        {
            changes::record(&relations);
        }
        _ => refuse(
            "announce_change() is an AFTER statement trigger of credits.user_balance_checkpoints and \
             credits.checkpoint_changes only",
        ),
    }
}

/// `credits.announce_buckets()`: statement trigger behind changes of the table that says which buckets this node has.
fn announce_buckets(call: &TriggerCall<'_>) {
    match Relations::lookup() {
        Some(relations)
            if buckets::is_table(&relations, call.table()) && call.moment() == Moment::AfterStatement =>
        {
            buckets::announce_change(&relations);
        }
        _ => refuse("announce_buckets() is an AFTER statement trigger of credits.bucket_states only"),
    }
}

/// `credits.keep_announced()`: trigger of checkpoints that are deleted by hand, row by row, or all at once.
fn keep_announced(call: &TriggerCall<'_>) {
    let relations = Relations::lookup().filter(|found| found.checkpoints == call.table());
    let row = relations.as_ref().and_then(|relations| call.row::<Checkpoints>(relations));
    match (relations, call.moment(), call.event(), row) {
        (Some(relations), Moment::AfterRow, Event::Delete, Some(row))
            if buckets::is_left_behind(&relations, &row.get(checkpoints::USER_ID)) =>
        {
            Ok(())
        }
        (Some(relations), Moment::AfterRow, Event::Delete | Event::Update, Some(row)) => {
            checkpoint::note_deleted(&row, &relations)
        }
        (Some(relations), Moment::BeforeStatement, Event::Truncate, _) => {
            checkpoint::note_truncated(&relations)
        }
        _ => refuse(
            "keep_announced() is an AFTER DELETE or UPDATE row trigger, and a BEFORE TRUNCATE trigger, of \
             credits.user_balance_checkpoints only",
        ),
    }
    .unwrap_or_else(|error| error.raise());
}

/// `credits.note_limits()`: trigger of changes of boundaries, row by row, or before all are gone at once.
fn note_limits(call: &TriggerCall<'_>) {
    note_bounds(call, limits::USER_ID, boundaries::note_changed, boundaries::note_truncated, "note_limits");
}

/// `credits.note_caps()`: trigger of changes of spend caps, row by row, or before all are gone at once.
fn note_caps(call: &TriggerCall<'_>) {
    note_bounds(call, spend_caps::USER_ID, caps::note_changed, caps::note_truncated, "note_caps");
}

/// The trigger of this name, of a table in which users bound accounts.
fn note_bounds<L: Triggered>(
    call: &TriggerCall<'_>,
    user: Column<L, UserId>,
    note_changed: impl Fn(&Row<'_, L>, Option<&Row<'_, L>>) -> Result<(), LedgerError>,
    note_truncated: impl Fn(&Relations) -> Result<(), LedgerError>,
    name: &str,
) {
    let relations = Relations::lookup().filter(|found| L::oid(found) == Some(call.table()));
    let row = relations.as_ref().and_then(|relations| call.row::<L>(relations));
    match (relations, call.moment(), call.event(), row) {
        (Some(relations), Moment::AfterRow, Event::Delete, Some(row))
            if buckets::is_left_behind(&relations, &row.get(user)) =>
        {
            Ok(())
        }
        (Some(relations), Moment::AfterRow, Event::Insert | Event::Update | Event::Delete, Some(row)) => {
            note_changed(&row, call.new_row(&relations).as_ref())
        }
        (Some(relations), Moment::BeforeStatement, Event::Truncate, _) => note_truncated(&relations),
        _ => refuse(format!(
            "{name}() is an AFTER INSERT, UPDATE or DELETE row trigger, and a BEFORE TRUNCATE trigger, of \
             credits.{} only",
            L::DEFINITION.display_name()
        )),
    }
    .unwrap_or_else(|error| error.raise());
}

/// `credits.note_hold()`: row trigger behind holds that are made, extended or deleted.
fn note_hold(call: &TriggerCall<'_>) {
    let relations = Relations::lookup();
    let [hold, new] = match &relations {
        Some(relations) => [call.row::<Holds>(relations), call.new_row::<Holds>(relations)],
        None => [None, None],
    };
    match (call.moment(), call.event(), hold, new) {
        (Moment::AfterRow, Event::Insert, Some(hold), _) => engine_holds::note_made(&hold),
        (Moment::AfterRow, Event::Update, Some(old), Some(new)) => engine_holds::note_update(&old, &new),
        (Moment::AfterRow, Event::Delete, Some(hold), _) => {
            let is_left = |found: &Relations| buckets::is_left_behind(found, &hold.get(holds::USER_ID));
            if !relations.as_ref().is_some_and(is_left) {
                engine_holds::note_deleted(&hold);
            }
        }
        _ => refuse("note_hold() is an AFTER INSERT, UPDATE or DELETE row trigger of credits.holds only"),
    }
}

/// `credits.refuse_hold_change()`: trigger that refuses to change anything of a hold but when it expires.
fn refuse_hold_change(call: &TriggerCall<'_>) {
    let Some(relations) = Relations::lookup().filter(|found| found.holds().ok() == Some(call.table())) else {
        refuse_other_trigger()
    };
    match (call.moment(), call.event(), call.row::<Holds>(&relations), call.new_row::<Holds>(&relations)) {
        (Moment::AfterRow, Event::Update, Some(old), Some(new)) => {
            // What a publisher's UPDATE tells of: an expired hold that is extended is made anew, and a redaction clears both texts.
            let is_cleared = || new.is_null(holds::DESCRIPTION) && new.is_null(holds::METADATA);
            let may_change: &[_] = if !xact::replicates() {
                &columns![holds::EXPIRES_AT]
            } else if is_cleared() {
                &columns![holds::EXPIRES_AT, holds::CREATED_AT, holds::DESCRIPTION, holds::METADATA]
            } else {
                &columns![holds::EXPIRES_AT, holds::CREATED_AT]
            };
            if let Some(column) = old.first_difference(&new, may_change) {
                LedgerError::HoldChanged { column }.raise();
            }
        }
        (Moment::BeforeStatement, Event::Truncate, ..) => LedgerError::HoldsTruncated.raise(),
        _ => refuse_other_trigger(),
    }
}

fn refuse_other_trigger() -> ! {
    refuse(
        "refuse_hold_change() is an AFTER UPDATE row trigger, and a BEFORE TRUNCATE trigger, of credits.holds only",
    )
}
