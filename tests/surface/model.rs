//! A naive ledger: a list of rows, and answers made by going through all of them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use credits_ledger_tests::{Decimal, Uuid};

use crate::calls::{Filters, Item, Page, Transaction};

/// The rows that a caller sees.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub rows: Vec<Transaction>,
}

fn passes(filters: &Filters, description: Option<&str>, kind: &str, date: SystemTime) -> bool {
    let found = |search: &String| {
        description.is_some_and(|text| text.to_lowercase().contains(&search.to_lowercase()))
    };
    filters.search.as_ref().is_none_or(found)
        && filters.types.as_ref().is_none_or(|types| types.iter().any(|name| name == kind))
        && filters.start.is_none_or(|start| date >= start)
        && filters.end.is_none_or(|end| date <= end)
}

/// The page of a list that is sorted from the newest to the oldest.
pub fn cut<T: Clone>(all: &[T], seq: impl Fn(&T) -> i64, page: &Page) -> Vec<T> {
    all.iter()
        .filter(|entry| page.before_seq.is_none_or(|before| seq(entry) < before))
        .skip(usize::try_from(page.skip).expect("skip is not negative"))
        .take(page.limit.map_or(usize::MAX, |limit| usize::try_from(limit).expect("limit is not negative")))
        .cloned()
        .collect()
}

fn signed(kind: &str, amount: Decimal) -> Decimal {
    if matches!(kind, "purchase" | "admin_grant") { amount } else { -amount }
}

/// The filters' dates alone.
fn period(filters: &Filters) -> Filters {
    Filters { search: None, types: None, ..filters.clone() }
}

impl Model {
    /// The list of a user's rows, or of all.
    pub fn list(&self, user: Option<Uuid>, filters: &Filters) -> Vec<Transaction> {
        let passing = self.rows.iter().filter(|row| {
            user.is_none_or(|user| row.user_id == user)
                && passes(filters, row.description.as_deref(), &row.transaction_type, row.created_at)
        });
        let mut all: Vec<Transaction> = passing.cloned().collect();
        all.sort_by_key(|row| -row.seq);
        all
    }

    /// The grouped list where there is no analytics table.
    pub fn list_grouped(&self, user: Uuid, filters: &Filters) -> Vec<Item> {
        let mut all = self.items(user);
        all.retain(|item| {
            passes(filters, item.description.as_deref(), &item.transaction_type, item.created_at)
        });
        all.sort_by_key(|item| -item.seq);
        all
    }

    fn items(&self, user: Uuid) -> Vec<Item> {
        let mut items = Vec::new();
        let mut batches: BTreeMap<Uuid, Item> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.user_id == user) {
            let id = row.fusillade_batch_id.unwrap_or(row.id);
            let item = Item {
                id,
                user_id: user,
                transaction_type: row.transaction_type.clone(),
                amount: row.amount,
                source_id: row.source_id.clone(),
                description: row.description.clone(),
                created_at: row.created_at,
                seq: row.seq,
                batch_id: row.fusillade_batch_id,
                request_origin: None,
                batch_sla: None,
                batch_count: 1,
            };
            if row.fusillade_batch_id.is_none() {
                items.push(item);
                continue;
            }
            batches
                .entry(id)
                .and_modify(|batch| {
                    batch.amount += row.amount;
                    batch.created_at = batch.created_at.min(row.created_at);
                    batch.seq = batch.seq.max(row.seq);
                    batch.batch_count += 1;
                })
                .or_insert(Item {
                    source_id: id.to_string(),
                    description: Some("Batch".into()),
                    request_origin: Some("fusillade".into()),
                    batch_sla: Some(String::new()),
                    ..item
                });
        }
        items.extend(batches.into_values());
        items
    }

    pub fn sum_recent(&self, user: Uuid, count: usize, filters: &Filters) -> Decimal {
        let rows = self.list(Some(user), &period(filters));
        rows.iter().take(count).map(|row| signed(&row.transaction_type, row.amount)).sum()
    }

    pub fn sum_recent_grouped(&self, user: Uuid, count: usize, filters: &Filters) -> Decimal {
        let items = self.list_grouped(user, &period(filters));
        items.iter().take(count).map(|item| signed(&item.transaction_type, item.amount)).sum()
    }

    pub fn sum_after(&self, user: Uuid, date: SystemTime) -> Decimal {
        let rows = self.rows.iter().filter(|row| row.user_id == user && row.created_at > date);
        rows.map(|row| signed(&row.transaction_type, row.amount)).sum()
    }

    pub fn sum_after_grouped(&self, user: Uuid, date: SystemTime) -> Decimal {
        let items = self.items(user).into_iter().filter(|item| item.created_at > date);
        items.map(|item| signed(&item.transaction_type, item.amount)).sum()
    }

    /// What the users topped up automatically in a month, by user; those without are not there.
    pub fn topups(&self, month: &std::ops::Range<SystemTime>) -> BTreeMap<Uuid, Decimal> {
        let mut totals = BTreeMap::new();
        for row in &self.rows {
            if row.source_id.starts_with("auto_topup_") && month.contains(&row.created_at) {
                *totals.entry(row.user_id).or_default() += row.amount;
            }
        }
        totals
    }
}
