//! The items of a call: what each has, and what became of it.

use std::ffi::CStr;

use ledger::transaction_type::TransactionType;
use pgrx::Uuid;

use super::statements::Found;
use crate::error::LedgerError;
use crate::pg::column::AnyColumn;
use crate::pg::column_value::ColumnValue;
use crate::pg::json::{Json, Scalar};
use crate::pg::privilege::View;
use crate::pg::tables::transactions::{self, LaterColumns, Ledger};
use crate::pg::text;
use crate::pg::value::{Type, Value};

/// A key of an item: the column of the ledger with the same name.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) value_type: Type,
    pub(super) column: fn(&LaterColumns) -> AnyColumn<Ledger>,
    /// What the ledger has in its place if an item does not give it, as SQL; `None` for NULL.
    pub(super) default: Option<&'static str>,
}

const fn key(name: &'static str, value_type: Type, column: fn(&LaterColumns) -> AnyColumn<Ledger>) -> Key {
    Key { name, value_type, column, default: None }
}

pub(super) const USER_ID: usize = 0;
pub(super) const TRANSACTION_TYPE: usize = 1;
pub(super) const AMOUNT: usize = 2;
pub(super) const SOURCE_ID: usize = 3;
/// Keys from this one on are optional: a statement names their columns only if an item has them, since a writer may have no
/// privilege on the others.
pub(super) const FIRST_OPTIONAL: usize = 7;
pub(super) const ID: usize = 7;

pub(super) const KEYS: [Key; 11] = [
    key("user_id", Type::Uuid, |_| transactions::USER_ID.any()),
    key("transaction_type", Type::Text, |_| transactions::TRANSACTION_TYPE.any()),
    key("amount", Type::Numeric, |_| transactions::AMOUNT.any()),
    key("source_id", Type::Text, |_| transactions::SOURCE_ID.any()),
    key("description", Type::Text, |_| transactions::DESCRIPTION.any()),
    key("fusillade_batch_id", Type::Uuid, |_| transactions::BATCH.any()),
    key("api_key_id", Type::Uuid, |_| transactions::API_KEY_ID.any()),
    Key { default: Some("credits.uuid_v7()"), ..key("id", Type::Uuid, |_| transactions::ID.any()) },
    Key {
        default: Some("pg_catalog.clock_timestamp()"),
        ..key("created_at", Type::Timestamptz, |_| transactions::CREATED_AT.any())
    },
    key("category", Type::Text, |later| later.category.any()),
    key("metadata", Type::Jsonb, |later| later.metadata.any()),
];

/// What became of an item.
pub(super) enum Outcome {
    Recorded(Stored),
    Exists(Stored),
    Conflict(String),
    Refused(String),
}

/// The id and seq under which a transaction is stored.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub(super) id: Uuid,
    pub(super) seq: i64,
}

/// An element of the array.
#[derive(Default)]
pub(super) struct Item<'call> {
    pub(super) values: [Option<Value<'call>>; KEYS.len()],
    /// Strings that the server has to read, by the place of their key.
    pub(super) unread: Vec<(usize, &'call [u8])>,
    pub(super) outcome: Option<Outcome>,
}

impl<'call> Item<'call> {
    pub(super) fn read(element: &Json<'call>) -> Self {
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
    pub(super) fn read_strings(&mut self) {
        for &(place, bytes) in &self.unread {
            self.values[place] = Some(Value::read(KEYS[place].value_type, bytes));
        }
    }

    pub(super) fn has(&self, place: usize) -> bool {
        self.values[place].is_some() || self.unread.iter().any(|&(unread, _)| unread == place)
    }

    pub(super) fn source_id(&self) -> Option<&[u8]> {
        self.values[SOURCE_ID].as_ref().map(Value::as_text)
    }

    /// Whether it has all that it needs, exact. What else may be wrong turns up when it is inserted.
    pub(super) fn looks_right(&self) -> bool {
        let [user, kind, amount, source_id, _, batch, ..] = &self.values;
        let (Some(_), Some(kind), Some(amount), Some(source_id)) = (user, kind, amount, source_id) else {
            return false;
        };
        if text::is_blank(source_id.as_text()) {
            return false;
        }
        let is_exact = amount.as_credits().is_ok_and(|credits| credits.require_amount().is_ok());
        is_exact
            && TransactionType::from_name(kind.as_text())
                .is_some_and(|known| batch.is_none() || known.may_have_batch())
    }

    /// Whether a transaction with its source_id is stored now, as far as its outcome tells.
    pub(super) const fn is_settled(&self) -> bool {
        matches!(self.outcome, Some(Outcome::Recorded(_) | Outcome::Exists(_) | Outcome::Conflict(_)))
    }

    pub(super) fn compared_with(&self, found: Found) -> Outcome {
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
    pub(super) fn conflict_with_unseen(&self, key: &CStr, view: View) -> String {
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
    pub(super) fn shown(&self, number: i32) -> [ColumnValue<'_>; 6] {
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
