//! The statements of a call: one inserts items, where a statement has to, and one looks up what is stored under their keys.
//!
//! They run as statements of the caller's, so that triggers find its search_path. So everything is named with its schema, except `unnest` of
//! several arrays, which is the server's by its syntax.

use pgrx::Uuid;

use super::item::{
    AMOUNT, FIRST_OPTIONAL, ID, Item, KEYS, Key, SOURCE_ID, Stored, TRANSACTION_TYPE, USER_ID,
};
use crate::engine::direct::{self, NewRow};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::column::AnyColumn;
use crate::pg::column_value::ColumnValue;
use crate::pg::statement::{ResultRow, Statement};
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::text;
use crate::pg::value::Value;

/// Inserts items into the ledger, all with the same columns.
pub(super) struct Recorder {
    pub(super) relations: Relations,
    /// The places of the keys whose columns the statements name: those that any of the items has, and all that are not optional.
    places: Vec<usize>,
}

impl Recorder {
    pub(super) fn for_items(items: &[Item<'_>], relations: Relations) -> Self {
        let is_given = |place: usize| items.iter().any(|item| item.has(place));
        let places = (0..KEYS.len()).filter(|&place| place < FIRST_OPTIONAL || is_given(place)).collect();
        Self { relations, places }
    }

    /// Inserts the items in this order without a statement: those that look right, where none has an id. Returns what was stored of each,
    /// `None` where its `source_id` is taken. `None` if a statement is to insert them. The server's errors are raised.
    pub(super) fn insert_directly<'call>(&self, items: &[&mut Item<'call>]) -> Option<Vec<Option<Stored>>> {
        if self.places.contains(&ID) {
            return None;
        }
        let columns = self.columns().ok()?;
        let row = |item: &&mut Item<'call>| -> NewRow<'call> {
            let values = self.places.iter().map(|&place| item.values[place]);
            // Without a value, the server gives it one.
            let is_given = |&(column, value): &(AnyColumn<Ledger>, Option<Value<'_>>)| {
                value.is_some() || column.number() != transactions::CREATED_AT.any().number()
            };
            let given = columns.iter().copied().zip(values).filter(is_given);
            given.map(|(column, value)| (column, ColumnValue::of(value))).collect()
        };
        let stored = direct::record_all(&self.relations, &columns, items.iter().map(row))?;
        let of_item = |stored: direct::Stored| Stored { id: Uuid::from_bytes(stored.id), seq: stored.seq };
        Some(stored.into_iter().map(|stored| stored.map(of_item)).collect())
    }

    /// The columns that rows are given values for.
    pub(super) fn columns(&self) -> Result<Vec<AnyColumn<Ledger>>, LedgerError> {
        let later = self.relations.later_columns()?;
        Ok(self.places.iter().map(|&place| (KEYS[place].column)(&later)).collect())
    }

    /// Inserts the items in this order by one statement. `on_conflict` is empty, or its ON CONFLICT clause
    /// with a space before it. Returns the source_id of each row that was inserted, as triggers have left it,
    /// with its id and seq. The server's errors are raised.
    pub(super) fn insert(&self, items: &[&mut Item<'_>], on_conflict: &str) -> Vec<(Vec<u8>, Stored)> {
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

/// Looks the items up by their source_ids and ids, and gives an outcome to each whose source_id or id the caller sees stored.
pub(super) fn compare_with_stored(items: &mut [&mut Item<'_>]) {
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

/// What a look-up has found under the keys of an item.
pub(super) struct Found {
    /// Its place among those that were looked up.
    pub(super) item: usize,
    /// The transaction that has the item's source_id.
    pub(super) stored: Option<Stored>,
    pub(super) is_same: bool,
    pub(super) summary: Option<String>,
    /// The source_id of the transaction that has the item's id.
    pub(super) has_id: Option<Vec<u8>>,
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
