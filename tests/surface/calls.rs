//! The functions as a client calls them, with what they return.

use std::time::SystemTime;

use credits_ledger_tests::{Decimal, Session, Uuid};
use postgres::Row;
use postgres::types::ToSql;

/// The four filters; `None` is left to its default.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    pub search: Option<String>,
    pub types: Option<Vec<String>>,
    pub start: Option<SystemTime>,
    pub end: Option<SystemTime>,
}

/// Which part of a list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page {
    pub skip: i64,
    pub limit: Option<i64>,
    pub before_seq: Option<i64>,
}

impl Page {
    pub const ALL: Self = Self { skip: 0, limit: None, before_seq: None };
}

/// A `credits.credit_transaction`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub id: Uuid,
    pub user_id: Uuid,
    pub transaction_type: String,
    pub amount: Decimal,
    pub source_id: String,
    pub description: Option<String>,
    pub created_at: SystemTime,
    pub seq: i64,
    pub fusillade_batch_id: Option<Uuid>,
    pub api_key_id: Option<Uuid>,
}

impl From<&Row> for Transaction {
    fn from(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            user_id: row.get("user_id"),
            transaction_type: row.get("transaction_type"),
            amount: row.get("amount"),
            source_id: row.get("source_id"),
            description: row.get("description"),
            created_at: row.get("created_at"),
            seq: row.get("seq"),
            fusillade_batch_id: row.get("fusillade_batch_id"),
            api_key_id: row.get("api_key_id"),
        }
    }
}

/// A `credits.transaction_with_category`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub id: Uuid,
    pub user_id: Uuid,
    pub transaction_type: String,
    pub amount: Decimal,
    pub source_id: String,
    pub description: Option<String>,
    pub created_at: SystemTime,
    pub seq: i64,
    pub batch_id: Option<Uuid>,
    pub request_origin: Option<String>,
    pub batch_sla: Option<String>,
    pub batch_count: i32,
}

impl From<&Row> for Item {
    fn from(row: &Row) -> Self {
        Self {
            id: row.get("id"),
            user_id: row.get("user_id"),
            transaction_type: row.get("transaction_type"),
            amount: row.get("amount"),
            source_id: row.get("source_id"),
            description: row.get("description"),
            created_at: row.get("created_at"),
            seq: row.get("seq"),
            batch_id: row.get("batch_id"),
            request_origin: row.get("request_origin"),
            batch_sla: row.get("batch_sla"),
            batch_count: row.get("batch_count"),
        }
    }
}

/// Named arguments of a call.
#[derive(Default)]
struct Arguments<'a> {
    names: Vec<&'static str>,
    values: Vec<&'a (dyn ToSql + Sync)>,
}

impl<'a> Arguments<'a> {
    fn give(&mut self, name: &'static str, value: &'a (dyn ToSql + Sync)) {
        self.names.push(name);
        self.values.push(value);
    }

    fn filters(&mut self, filters: &'a Filters) {
        if filters.search.is_some() {
            self.give("search", &filters.search);
        }
        if filters.types.is_some() {
            self.give("transaction_types", &filters.types);
        }
        self.period(filters);
    }

    fn period(&mut self, filters: &'a Filters) {
        if filters.start.is_some() {
            self.give("start_date", &filters.start);
        }
        if filters.end.is_some() {
            self.give("end_date", &filters.end);
        }
    }

    fn page(&mut self, page: &'a Page) {
        self.give("skip", &page.skip);
        self.give("\"limit\"", &page.limit);
        if page.before_seq.is_some() {
            self.give("before_seq", &page.before_seq);
        }
    }

    fn call(&self, function: &str) -> String {
        let arguments: Vec<String> =
            self.names.iter().zip(1..).map(|(name, n)| format!("{name} => ${n}")).collect();
        format!("credits.{function}({})", arguments.join(", "))
    }

    #[track_caller]
    fn rows(&self, session: &mut Session, function: &str) -> Vec<Row> {
        let sql = format!("SELECT * FROM {}", self.call(function));
        session.query(&sql, &self.values).unwrap_or_else(|e| panic!("{sql}: {e:?}"))
    }

    #[track_caller]
    fn value<T: for<'f> postgres::types::FromSql<'f>>(&self, session: &mut Session, function: &str) -> T {
        session.value(&format!("SELECT {}", self.call(function)), &self.values)
    }
}

/// The functions, by their names.
pub trait Calls {
    fn list_user(&mut self, user: Uuid, filters: &Filters, page: &Page) -> Vec<Transaction>;
    fn list_all(&mut self, filters: &Filters, page: &Page) -> Vec<Transaction>;
    fn list_grouped(&mut self, user: Uuid, filters: &Filters, page: &Page) -> Vec<Item>;
    fn count_user(&mut self, user: Uuid, filters: &Filters) -> i64;
    fn count_all(&mut self, filters: &Filters) -> i64;
    fn count_grouped(&mut self, user: Uuid, filters: &Filters) -> i64;
    fn sum_recent(&mut self, user: Uuid, count: i64, period: &Filters) -> Decimal;
    fn sum_recent_grouped(&mut self, user: Uuid, count: i64, period: &Filters) -> Decimal;
    fn sum_after(&mut self, user: Uuid, date: SystemTime) -> Decimal;
    fn sum_after_grouped(&mut self, user: Uuid, date: SystemTime) -> Decimal;
    fn topups(&mut self, user: Uuid) -> Decimal;
    fn topups_bulk(&mut self, users: &[Uuid]) -> Vec<(Uuid, Decimal)>;
}

impl Calls for Session {
    #[track_caller]
    fn list_user(&mut self, user: Uuid, filters: &Filters, page: &Page) -> Vec<Transaction> {
        let mut arguments = Arguments::default();
        arguments.give("user_id", &user);
        arguments.filters(filters);
        arguments.page(page);
        arguments.rows(self, "list_user_transactions").iter().map(Transaction::from).collect()
    }

    #[track_caller]
    fn list_all(&mut self, filters: &Filters, page: &Page) -> Vec<Transaction> {
        let mut arguments = Arguments::default();
        arguments.filters(filters);
        arguments.page(page);
        arguments.rows(self, "list_all_transactions").iter().map(Transaction::from).collect()
    }

    #[track_caller]
    fn list_grouped(&mut self, user: Uuid, filters: &Filters, page: &Page) -> Vec<Item> {
        let mut arguments = Arguments::default();
        arguments.give("user_id", &user);
        arguments.filters(filters);
        arguments.page(page);
        arguments.rows(self, "list_transactions_with_batches").iter().map(Item::from).collect()
    }

    #[track_caller]
    fn count_user(&mut self, user: Uuid, filters: &Filters) -> i64 {
        let mut arguments = Arguments::default();
        arguments.give("user_id", &user);
        arguments.filters(filters);
        arguments.value(self, "count_user_transactions")
    }

    #[track_caller]
    fn count_all(&mut self, filters: &Filters) -> i64 {
        let mut arguments = Arguments::default();
        arguments.filters(filters);
        arguments.value(self, "count_all_transactions")
    }

    #[track_caller]
    fn count_grouped(&mut self, user: Uuid, filters: &Filters) -> i64 {
        let mut arguments = Arguments::default();
        arguments.give("user_id", &user);
        arguments.filters(filters);
        arguments.value(self, "count_transactions_with_batches")
    }

    #[track_caller]
    fn sum_recent(&mut self, user: Uuid, count: i64, period: &Filters) -> Decimal {
        let mut arguments = Arguments::default();
        arguments.give("user_id", &user);
        arguments.give("count", &count);
        arguments.period(period);
        arguments.value(self, "sum_recent_transactions")
    }

    #[track_caller]
    fn sum_recent_grouped(&mut self, user: Uuid, count: i64, period: &Filters) -> Decimal {
        let mut arguments = Arguments::default();
        arguments.give("user_id", &user);
        arguments.give("count", &count);
        arguments.period(period);
        arguments.value(self, "sum_recent_transactions_grouped")
    }

    #[track_caller]
    fn sum_after(&mut self, user: Uuid, date: SystemTime) -> Decimal {
        self.value("SELECT credits.sum_transactions_after_date($1, $2)", &[&user, &date])
    }

    #[track_caller]
    fn sum_after_grouped(&mut self, user: Uuid, date: SystemTime) -> Decimal {
        self.value("SELECT credits.sum_transactions_after_date_grouped($1, $2)", &[&user, &date])
    }

    #[track_caller]
    fn topups(&mut self, user: Uuid) -> Decimal {
        self.value("SELECT credits.get_monthly_auto_topup_spend($1)", &[&user])
    }

    #[track_caller]
    fn topups_bulk(&mut self, users: &[Uuid]) -> Vec<(Uuid, Decimal)> {
        let sql = "SELECT user_id, total FROM credits.get_monthly_auto_topup_spend_bulk($1) ORDER BY user_id";
        let rows = self.query(sql, &[&users]).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}
