//! Recording many transactions with one call.
//!
//! All that look right are inserted by one statement, in an order that every call keeps, so that two calls with the same
//! items wait for each other one way only. It passes by what is stored already, which is looked up afterwards. Should it
//! raise an error, each half is inserted by itself, down to the item that cannot be. What looks wrong is inserted alone:
//! the server says what is wrong with it.

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

use ledger::credits::Amount;
use ledger::transaction_type::TransactionType;
use pgrx::Uuid;
use pgrx::pg_sys::panic::CaughtError;

use crate::error::LedgerError;
use crate::pg::answer::Answer;
use crate::pg::call::{Argument, Call};
use crate::pg::catalog::Relations;
use crate::pg::column::AnyColumn;
use crate::pg::column_value::ColumnValue;
use crate::pg::failure::Failure;
use crate::pg::json::{Json, Scalar};
use crate::pg::privilege::View;
use crate::pg::statement::{ResultRow, Statement};
use crate::pg::tables::columns;
use crate::pg::tables::transactions::{self, LaterColumns, Ledger};
use crate::pg::text;
use crate::pg::value::{Type, Value};
use crate::pg::{definition, privilege, xact};

/// Most items of a call.
const MOST: usize = 10_000;

/// A key of an item: the column of the ledger with the same name.
struct Key {
    name: &'static str,
    value_type: Type,
    column: fn(&LaterColumns) -> AnyColumn<Ledger>,
    /// What the ledger has in its place if an item does not give it, as SQL.
    default: Option<&'static str>,
}

const fn key(name: &'static str, value_type: Type, column: fn(&LaterColumns) -> AnyColumn<Ledger>) -> Key {
    Key { name, value_type, column, default: None }
}

const USER_ID: usize = 0;
const TRANSACTION_TYPE: usize = 1;
const AMOUNT: usize = 2;
const SOURCE_ID: usize = 3;
/// Those from here on are named in a statement only if an item has them: a writer may not have been granted the others.
const FIRST_OPTIONAL: usize = 7;
const ID: usize = 7;

const KEYS: [Key; 11] = [
    key("user_id", Type::Uuid, |_| transactions::USER_ID.any()),
    key("transaction_type", Type::Text, |_| transactions::TRANSACTION_TYPE.any()),
    key("amount", Type::Numeric, |_| transactions::AMOUNT.any()),
    key("source_id", Type::Text, |_| transactions::SOURCE_ID.any()),
    key("description", Type::Text, |_| transactions::DESCRIPTION.any()),
    key("fusillade_batch_id", Type::Uuid, |_| transactions::BATCH.any()),
    key("api_key_id", Type::Uuid, |_| transactions::API_KEY_ID.any()),
    Key {
        default: Some("pg_catalog.gen_random_uuid()"),
        ..key("id", Type::Uuid, |_| transactions::ID.any())
    },
    Key {
        default: Some("pg_catalog.clock_timestamp()"),
        ..key("created_at", Type::Timestamptz, |_| transactions::CREATED_AT.any())
    },
    key("category", Type::Text, |later| later.category.any()),
    key("metadata", Type::Jsonb, |later| later.metadata.any()),
];

/// Columns that stored rows are compared by and returned with.
const READ_COLUMNS: [AnyColumn<Ledger>; 6] = columns![
    transactions::ID,
    transactions::USER_ID,
    transactions::TRANSACTION_TYPE,
    transactions::AMOUNT,
    transactions::SOURCE_ID,
    transactions::SEQ
];

/// What became of an item.
enum Outcome {
    Recorded(Stored),
    Exists(Stored),
    Conflict(String),
    Refused(String),
}

/// Where a transaction is.
#[derive(Clone, Copy)]
struct Stored {
    id: Uuid,
    seq: i64,
}

/// An element of the array.
#[derive(Default)]
struct Item<'call> {
    values: [Option<Value<'call>>; KEYS.len()],
    /// Strings that the server has to read, by the place of their key.
    unread: Vec<(usize, &'call [u8])>,
    outcome: Option<Outcome>,
}

/// `record_transactions(transactions)`
pub fn record_transactions(call: &Call<'_>) -> Result<Answer, LedgerError> {
    const TRANSACTIONS: Argument = Argument(0, "transactions");
    let array = call.json_array(TRANSACTIONS)?;
    if array.len() > MOST {
        return Err(LedgerError::TooManyElements { name: TRANSACTIONS.1, most: MOST, count: array.len() });
    }
    let relations = Relations::lookup().ok_or(LedgerError::NotInstalled)?;
    // As in create_transaction().
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
        // The first is hidden from the caller, or a trigger has given it another source_id: it says nothing about these.
        for item in without_outcome(&mut duplicates) {
            insert(&mut [item], recorder);
        }
        groups = refused.into_iter().map(|(_, others)| others).filter(|others| !others.is_empty()).collect();
    }
}

/// Those that have no outcome yet.
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
    let refusal = match xact::in_subtransaction(AssertUnwindSafe(|| work(items))) {
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

/// Inserts those that are not stored yet. `None` if a trigger has made it unclear which of them they are.
fn insert_unless_stored(items: &mut [&mut Item<'_>], recorder: &Recorder) -> Option<()> {
    let recorded = recorder.insert(items, " ON CONFLICT DO NOTHING");
    let mut places = items.iter_mut();
    let mut found = Vec::with_capacity(recorded.len());
    for (source_id, stored) in recorded {
        let item = places.find(|item| item.source_id() == Some(&source_id))?;
        found.push((item, stored));
    }
    for (item, stored) in found {
        item.outcome = Some(Outcome::Recorded(stored));
    }
    Some(())
}

/// Inserts an item as an INSERT does, so that the server says what is wrong with it.
fn insert_alone(item: &mut Item<'_>, recorder: &Recorder) {
    let inserted = xact::in_subtransaction(AssertUnwindSafe(|| Some(recorder.insert(&[&mut *item], ""))));
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

/// Decides about those that are stored, or whose keys are another's.
fn compare_with_stored(items: &mut [&mut Item<'_>]) {
    if items.is_empty() {
        return;
    }
    let mut statement = Statement::of_caller();
    let parameters = [SOURCE_ID, USER_ID, TRANSACTION_TYPE, AMOUNT, ID].map(|place| {
        let value_type = KEYS[place].value_type;
        statement
            .bind(Value::array_with_nulls(value_type, items.iter().map(|item| item.values[place])))
            .to_string()
    });
    let found = statement.rows(
        &format!(
            "SELECT u.item, s.id, s.seq, s.user_id OPERATOR(pg_catalog.=) u.user_id AND s.transaction_type OPERATOR(pg_catalog.=) u.transaction_type \
               AND s.amount OPERATOR(pg_catalog.=) u.amount, \
               pg_catalog.format('%s of %s for user %s', s.transaction_type, s.amount, s.user_id), i.source_id \
             FROM unnest({}) WITH ORDINALITY AS u (source_id, user_id, transaction_type, amount, id, item) \
             LEFT JOIN credits.credits_transactions s ON s.source_id OPERATOR(pg_catalog.=) u.source_id \
             LEFT JOIN credits.credits_transactions i ON i.id OPERATOR(pg_catalog.=) u.id \
             WHERE s.id IS NOT NULL OR i.id IS NOT NULL",
            parameters.join(", ")
        ),
        Found::read,
    );
    for found in found {
        let item = &mut *items[found.item];
        item.outcome = Some(item.compared_with(found));
    }
}

/// What is stored under the keys of an item.
struct Found {
    /// Its place among those that were looked up.
    item: usize,
    /// The transaction with its source_id.
    stored: Option<Stored>,
    is_same: bool,
    summary: Option<String>,
    /// The source_id of the transaction with its id.
    has_id: Option<Vec<u8>>,
}

impl Found {
    fn read(row: &ResultRow<'_>) -> Self {
        Self {
            item: row.value::<i64>(1).and_then(|item| usize::try_from(item - 1).ok()).unwrap_or_default(),
            stored: row.value(2).zip(row.value(3)).map(|(id, seq)| Stored { id, seq }),
            is_same: row.value(4).unwrap_or_default(),
            summary: row.value::<text::Text>(5).map(|summary| summary.to_string()),
            has_id: row.value::<text::Text>(6).map(|source_id| source_id.as_bytes().to_vec()),
        }
    }
}

/// Inserts items into the ledger, by statements that all name the same columns.
struct Recorder {
    relations: Relations,
    /// The places of the keys whose columns the statements name: those that any of the items has, and all that are not optional.
    places: Vec<usize>,
}

impl Recorder {
    fn for_items(items: &[Item<'_>], relations: Relations) -> Self {
        let is_given = |place: usize| items.iter().any(|item| item.has(place));
        let places = (0..KEYS.len()).filter(|&place| place < FIRST_OPTIONAL || is_given(place)).collect();
        Self { relations, places }
    }

    /// These columns.
    fn columns(&self) -> Result<Vec<AnyColumn<Ledger>>, LedgerError> {
        let later = self.relations.later_columns()?;
        Ok(self.places.iter().map(|&place| (KEYS[place].column)(&later)).collect())
    }

    /// Inserts the items, in this order; returns which rows came to be. Triggers run with the caller's search_path, so
    /// everything is named by its schema; `unnest` of several arrays is the server's by its syntax.
    fn insert(&self, items: &[&mut Item<'_>], on_conflict: &str) -> Vec<(Vec<u8>, Stored)> {
        let mut statement = Statement::of_caller();
        let (mut columns, mut values, mut arrays) = (Vec::new(), Vec::new(), Vec::new());
        for &place in &self.places {
            let Key { name, value_type, default, .. } = KEYS[place];
            let array = Value::array_with_nulls(value_type, items.iter().map(|item| item.values[place]));
            arrays.push(statement.bind(array).to_string());
            columns.push(name);
            values.push(
                default
                    .map_or_else(|| format!("u.{name}"), |default| format!("coalesce(u.{name}, {default})")),
            );
        }
        let (columns, values, arrays) = (columns.join(", "), values.join(", "), arrays.join(", "));
        let sql = format!(
            "INSERT INTO credits.credits_transactions ({columns}) SELECT {values} FROM unnest({arrays}) AS u ({columns})\
             {on_conflict} RETURNING source_id, id, seq"
        );
        let row = |row: &ResultRow<'_>| {
            let source_id = row.value::<text::Text>(1)?.as_bytes().to_vec();
            Some((source_id, Stored { id: row.value(2)?, seq: row.value(3)? }))
        };
        statement.rows(&sql, row).into_iter().flatten().collect()
    }
}

impl<'call> Item<'call> {
    fn read(element: &Json<'call>) -> Self {
        let mut item = Self::default();
        if let Err(message) = item.take(element) {
            item.outcome = Some(Outcome::Refused(message));
        }
        item
    }

    fn take(&mut self, element: &Json<'call>) -> Result<(), String> {
        let pairs =
            element.object().ok_or_else(|| format!("an item must be an object, not {}", element.kind()))?;
        let mut unknown = None;
        for (name, value) in pairs {
            match KEYS.iter().position(|key| key.name.as_bytes() == name) {
                Some(place) => self.take_value(place, &value)?,
                None => unknown = Some(name),
            }
        }
        unknown.map_or(Ok(()), |name| Err(format!("an item has no key \"{}\"", text::shown(name))))
    }

    fn take_value(&mut self, place: usize, value: &Json<'call>) -> Result<(), String> {
        let Key { name, value_type, .. } = KEYS[place];
        self.values[place] = match (value_type, value.scalar()) {
            (_, Scalar::Null) => None,
            (Type::Jsonb, _) => Some(value.as_jsonb()),
            (Type::Text, Scalar::Text(bytes)) => Some(Value::text_of(bytes)),
            (Type::Text, Scalar::Number(number)) => Some(Value::text_of(&number.written())),
            (Type::Text, Scalar::Bool(value)) => Some(Value::text_of(if value { b"true" } else { b"false" })),
            (Type::Numeric, Scalar::Number(number)) => Some(number),
            (Type::Uuid | Type::Numeric | Type::Timestamptz, Scalar::Text(bytes)) => {
                self.unread.push((place, bytes));
                None
            }
            _ => {
                return Err(format!(
                    "{name} is of type {}, but the item has {}",
                    value_type.name(),
                    value.kind()
                ));
            }
        };
        Ok(())
    }

    /// Reads what the server has to; raises its error for a string that it cannot read.
    fn read_strings(&mut self) {
        for &(place, bytes) in &self.unread {
            self.values[place] = Some(Value::read(KEYS[place].value_type, bytes));
        }
    }

    fn has(&self, place: usize) -> bool {
        self.values[place].is_some() || self.unread.iter().any(|&(unread, _)| unread == place)
    }

    fn source_id(&self) -> Option<&[u8]> {
        self.values[SOURCE_ID].as_ref().map(Value::as_text)
    }

    /// Whether it has all that it needs, exact. What else may be wrong turns up when it is inserted.
    fn looks_right(&self) -> bool {
        let [user, kind, amount, source_id, _, batch, ..] = &self.values;
        let (Some(_), Some(kind), Some(amount), Some(source_id)) = (user, kind, amount, source_id) else {
            return false;
        };
        if text::is_blank(source_id.as_text()) {
            return false;
        }
        let is_exact = amount.as_credits().is_ok_and(|credits| Amount::try_from(credits).is_ok());
        is_exact
            && TransactionType::from_name(kind.as_text())
                .is_some_and(|known| batch.is_none() || known == TransactionType::Usage)
    }

    /// Whether a transaction has its keys, its own or another.
    const fn is_settled(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Recorded(_) | Outcome::Exists(_) | Outcome::Conflict(_)))
    }

    fn compared_with(&self, found: Found) -> Outcome {
        match found {
            Found { stored: Some(stored), is_same: true, has_id, .. }
                if has_id.as_deref().is_none_or(|other| Some(other) == self.source_id()) =>
            {
                Outcome::Exists(stored)
            }
            Found { stored: Some(_), is_same: false, summary, .. } => {
                Outcome::Conflict(self.source_id_conflict(summary))
            }
            Found { has_id, .. } => Outcome::Conflict(self.id_conflict(has_id.as_deref())),
        }
    }

    fn source_id_conflict(&self, stored: Option<String>) -> String {
        let [user, kind, amount, source_id, ..] = &self.values;
        let shown = |value: &Option<Value<'_>>| value.as_ref().map_or_else(String::new, Value::shown);
        LedgerError::SourceIdConflict {
            source_id: shown(source_id),
            asked: format!("{} of {} for user {}", shown(kind), shown(amount), shown(user)),
            stored,
        }
        .to_string()
    }

    fn id_conflict(&self, stored: Option<&[u8]>) -> String {
        let id = self.values[ID].as_ref().map_or_else(String::new, Value::shown);
        LedgerError::IdConflict { id, stored: stored.map(text::shown) }.to_string()
    }

    /// The detail for an item whose row has met another one with the same key, though none is found under the item's own keys: the
    /// caller does not see that row, or a trigger has changed the key.
    fn conflict_with_unseen(&self, key: &CStr, view: View) -> String {
        match (view, key == transactions::ID_KEY) {
            (View::Filtered, true) if self.has(ID) => self.id_conflict(None),
            (View::Filtered, false) => self.source_id_conflict(None),
            _ => {
                let source_id = text::shown(self.source_id().unwrap_or_default());
                LedgerError::KeyChangedToTaken(source_id).to_string()
            }
        }
    }

    /// Its row in the result.
    fn shown(&self, number: i32) -> [ColumnValue<'_>; 6] {
        let (outcome, stored, detail) = match &self.outcome {
            Some(Outcome::Recorded(stored)) => ("recorded", Some(stored), None),
            Some(Outcome::Exists(stored)) => ("exists", Some(stored), None),
            Some(Outcome::Conflict(detail)) => ("conflict", None, Some(detail)),
            Some(Outcome::Refused(detail)) => ("refused", None, Some(detail)),
            None => unreachable!("every item has an outcome"),
        };
        [
            ColumnValue::Int4(number),
            self.source_id().map_or(ColumnValue::Null, ColumnValue::TextBytes),
            ColumnValue::Text(outcome),
            stored.map_or(ColumnValue::Null, |stored| ColumnValue::Uuid(stored.id.as_bytes())),
            stored.map_or(ColumnValue::Null, |stored| ColumnValue::Int8(stored.seq)),
            detail.map_or(ColumnValue::Null, |detail| ColumnValue::Message(detail)),
        ]
    }
}
