//! Recording many transactions with one call.
//!
//! All items that look right are inserted in the order of their source_ids, so that two calls with the same items do not deadlock: without
//! a statement where that comes to the same, or else by one. Items that are stored already are skipped (`ON CONFLICT DO NOTHING`), and
//! looked up afterwards. If the statement raises an error, each half of the items is inserted by itself, down to the single item that
//! cannot be. An item that looks wrong is inserted alone, and the server says what is wrong with it.
//!
//! Of items with the same source_id, the first is inserted. If it is stored then, the others are compared with it, all by one
//! query; if it is refused, the next one is inserted. So no item is inserted or looked up more than a few times, whatever becomes of the
//! others.

mod item;
mod statements;

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys::panic::CaughtError;

use self::item::{Item, Outcome};
use self::statements::{Recorder, compare_with_stored};
use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::catalog::Relations;
use crate::pg::column::AnyColumn;
use crate::pg::failure::Failure;
use crate::pg::tables::columns;
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::{definition, privilege, subtransaction, text, xact};

/// Most items of a call.
const MOST: usize = 10_000;

/// Columns that stored rows are compared by and returned with.
const READ_COLUMNS: [AnyColumn<Ledger>; 6] = columns![
    transactions::ID,
    transactions::USER_ID,
    transactions::TRANSACTION_TYPE,
    transactions::AMOUNT,
    transactions::SOURCE_ID,
    transactions::SEQ
];

/// `record_transactions(transactions)`
pub fn record_transactions(call: &Call<'_>) -> Result<Answer, LedgerError> {
    const TRANSACTIONS: Argument = Argument(0, "transactions");
    let array = call.required_json_array(TRANSACTIONS)?;
    if array.len() > MOST {
        return Err(LedgerError::TooManyElements {
            name: TRANSACTIONS.name(),
            most: MOST,
            count: array.len(),
        });
    }
    let relations = Relations::lookup().ok_or(LedgerError::NotInstalled)?;
    // The server would notice, too, but not before it has taken a transaction id, which a standby has none of.
    xact::refuse_if_read_only(c"record_transactions()");
    let result = call.result_rows(definition::RECORDED_TRANSACTION.columns);
    let mut items: Vec<Item<'_>> = array.elements().iter().map(Item::read).collect();
    let recorder = Recorder::for_items(&items, relations);
    privilege::require_insert(&relations, &recorder.columns()?);
    privilege::require_select(&relations, &READ_COLUMNS);
    let mut unread: Vec<_> = items.iter_mut().filter(|item| !item.unread.is_empty()).collect();
    one_by_one_if_need_be(&mut unread, |items| {
        for item in items {
            item.read_strings();
        }
        Some(())
    });
    record(&mut items, &recorder);
    for (number, item) in (1..).zip(&items) {
        result.put(item.shown(number));
    }
    Ok(Answer::rows())
}

/// Gives an outcome to each item that has none.
fn record(items: &mut [Item<'_>], recorder: &Recorder) {
    let open = items.iter_mut().filter(|item| item.outcome.is_none());
    let (mut likely, mut doubtful): (Vec<_>, Vec<_>) = open.partition(|item| item.looks_right());
    // Stable: of those with the same source_id, the first of the array comes first, and the others wait for its outcome.
    likely.sort_by(|a, b| a.source_id().cmp(&b.source_id()));
    let mut groups: Vec<&mut [&mut Item<'_>]> =
        likely.chunk_by_mut(|a, b| a.source_id() == b.source_id()).collect();
    while !groups.is_empty() || !doubtful.is_empty() {
        let (mut firsts, others): (Vec<&mut Item<'_>>, Vec<_>) = groups
            .into_iter()
            .filter_map(|group| group.split_first_mut())
            .map(|(first, others)| (&mut **first, others))
            .unzip();
        insert(&mut firsts, recorder);
        for item in doubtful.drain(..) {
            insert_alone(item, recorder);
        }
        // Of a group whose first is not stored, the next is tried.
        let (stored, refused): (Vec<_>, Vec<_>) =
            firsts.iter().zip(others).partition(|(first, _)| first.is_settled());
        let mut duplicates: Vec<&mut Item<'_>> =
            stored.into_iter().flat_map(|(_, others)| others.iter_mut().map(|item| &mut **item)).collect();
        compare_with_stored(&mut duplicates);
        // Not found: the row is hidden from the caller, or a trigger has given it another source_id.
        for item in without_outcome(&mut duplicates) {
            insert(&mut [item], recorder);
        }
        groups = refused.into_iter().map(|(_, others)| others).filter(|others| !others.is_empty()).collect();
    }
}

/// The items that have no outcome yet.
fn without_outcome<'items, 'call>(items: &'items mut [&mut Item<'call>]) -> Vec<&'items mut Item<'call>> {
    items.iter_mut().map(|item| &mut **item).filter(|item| item.outcome.is_none()).collect()
}

/// Inserts items whose source_ids differ, and gives each its outcome.
fn insert(items: &mut [&mut Item<'_>], recorder: &Recorder) {
    one_by_one_if_need_be(items, |items| insert_unless_stored(items, recorder));
    compare_with_stored(&mut without_outcome(items));
    for item in without_outcome(items) {
        insert_alone(item, recorder);
    }
}

/// Does `work` with all the items at once, or if that raises an error or comes to nothing, with each half of them. An item that
/// fails alone is refused.
fn one_by_one_if_need_be<'call>(
    items: &mut [&mut Item<'call>],
    work: impl Fn(&mut [&mut Item<'call>]) -> Option<()> + Copy,
) {
    if items.is_empty() {
        return;
    }
    xact::check_for_interrupts();
    let refusal = match subtransaction::run(AssertUnwindSafe(|| work(items))) {
        Ok(Some(())) => return,
        Ok(None) => None,
        Err(error) => Some(refusal(error)),
    };
    if let [item] = items {
        item.outcome = refusal.map(Outcome::Refused);
        return;
    }
    let (first, second) = items.split_at_mut(items.len() / 2);
    one_by_one_if_need_be(first, work);
    one_by_one_if_need_be(second, work);
}

/// The message of an error that an item has caused; any other goes on.
fn refusal(error: Box<CaughtError>) -> String {
    let failure = Failure::of(&error);
    if failure.concerns_the_transaction() { error.rethrow() } else { failure.message }
}

/// Inserts those that are not stored yet. `None` if triggers have made it unclear which of them they are.
fn insert_unless_stored(items: &mut [&mut Item<'_>], recorder: &Recorder) -> Option<()> {
    if let Some(stored) = recorder.insert_directly(items) {
        for (item, stored) in items.iter_mut().zip(stored) {
            item.outcome = stored.map(Outcome::Recorded);
        }
        return Some(());
    }
    let rows = recorder.insert(items, " ON CONFLICT DO NOTHING");
    let some_are_stored = rows.len() < items.len();
    let mut places = items.iter_mut();
    let (mut inserted, mut inserted_at) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for (source_id, stored) in rows {
        inserted.push(&mut **places.find(|item| item.source_id() == Some(&source_id))?);
        inserted_at.push(stored);
    }
    // A trigger may have changed the source_id of an item to that of another one, which then was not inserted.
    if some_are_stored && !are_stored_as_given(&mut inserted) {
        return None;
    }
    for (item, stored) in inserted.into_iter().zip(inserted_at) {
        item.outcome = Some(Outcome::Recorded(stored));
    }
    Some(())
}

/// Whether the user, type and amount of each item are stored under its source_id.
fn are_stored_as_given(items: &mut [&mut Item<'_>]) -> bool {
    compare_with_stored(items);
    // No short cut: each outcome is taken back.
    let is_same = |item: &mut &mut Item<'_>| matches!(item.outcome.take(), Some(Outcome::Exists(_)));
    items.iter_mut().map(is_same).fold(true, |all, is_same| all & is_same)
}

/// Inserts an item as an INSERT does, so that the server says what is wrong with it.
fn insert_alone(item: &mut Item<'_>, recorder: &Recorder) {
    let inserted = subtransaction::run(AssertUnwindSafe(|| Some(recorder.insert(&[&mut *item], ""))));
    item.outcome = match inserted {
        Ok(rows) => match rows.into_iter().flatten().next() {
            Some((_, stored)) => Some(Outcome::Recorded(stored)),
            None => {
                let source_id = text::shown(item.source_id().unwrap_or_default());
                Some(Outcome::Refused(LedgerError::LeftOut(source_id).to_string()))
            }
        },
        Err(error) => match Failure::of(&error).ledger_key() {
            Some(key) => {
                compare_with_stored(&mut [&mut *item]);
                let view = privilege::view(&recorder.relations);
                item.outcome.take().or_else(|| Some(Outcome::Conflict(item.conflict_with_unseen(key, view))))
            }
            None => Some(Outcome::Refused(refusal(error))),
        },
    };
}
