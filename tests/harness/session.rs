//! A connection, with the statements that every test needs.

use std::ops::{Deref, DerefMut};

use postgres::types::{FromSql, ToSql};
use postgres::{Client, Config, Error, NoTls};
use rust_decimal::Decimal;
use uuid::Uuid;

/// The test's user of this number: always the same id, so that a failure repeats.
#[must_use]
pub fn user(number: u32) -> Uuid {
    Uuid::from_u128(0x1000_0000_0000_4000_8000_0000_0000_0000 + u128::from(number))
}

/// The stripe that settles a user.
#[must_use]
pub fn stripe_of(user: Uuid) -> u8 {
    ledger::stripe::of_user(&ledger::id::UserId::from_bytes(user.into_bytes()))
}

/// How the owner of a ledger changes its rows all the same, in three statements.
#[must_use]
pub fn correction(change: &str) -> [String; 3] {
    [
        "ALTER TABLE credits.credits_transactions DISABLE TRIGGER append_only, DISABLE TRIGGER append_only_applied".to_owned(),
        change.to_owned(),
        "ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER append_only_applied"
            .to_owned(),
    ]
}

/// Deletes a user's checkpoint and has it made anew, as the manual says, in one statement.
#[must_use]
pub fn rebuild(user: Uuid) -> String {
    format!(
        "WITH deleted AS (
             DELETE FROM credits.user_balance_checkpoints WHERE user_id = '{user}' RETURNING user_id)
         SELECT credits.refresh_checkpoint(user_id) FROM deleted"
    )
}

/// Statements that the guard does not see, as a superuser has it.
#[must_use]
pub fn unguarded(statements: &str) -> String {
    format!(
        "ALTER EVENT TRIGGER credits_ledger_guard DISABLE; {statements}; ALTER EVENT TRIGGER credits_ledger_guard ENABLE ALWAYS"
    )
}

/// A connection. Everything that [`Client`] does, and shorthands that panic with the statement that failed.
pub struct Session {
    client: Client,
    pid: i32,
}

impl Deref for Session {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Session {
    /// A new connection.
    ///
    /// # Panics
    /// If there is none to be had.
    #[must_use]
    pub fn connect(config: &Config) -> Self {
        let mut client = config.connect(NoTls).unwrap_or_else(|e| panic!("connect: {e:?}"));
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).expect("ask for the pid").get(0);
        Self { client, pid }
    }

    /// Process id of its backend.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Runs statements that must succeed.
    #[track_caller]
    pub fn run(&mut self, sql: &str) {
        self.client.batch_execute(sql).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    }

    /// Runs statements that may be refused.
    ///
    /// # Errors
    /// If they are.
    pub fn try_run(&mut self, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql)
    }

    /// The one value that a query returns.
    #[track_caller]
    pub fn value<T>(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> T
    where
        T: for<'a> FromSql<'a>,
    {
        self.client.query_one(sql, parameters).unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
    }

    /// The first column of every row that a query returns.
    #[track_caller]
    pub fn values<T>(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<T>
    where
        T: for<'a> FromSql<'a>,
    {
        let rows = self.client.query(sql, parameters).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Inserts one transaction, with a source_id of its own.
    ///
    /// # Errors
    /// If it is refused.
    pub fn insert(&mut self, user: Uuid, kind: &str, amount: Decimal) -> Result<(), Error> {
        let statement =
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                         VALUES ($1, $2, $3, gen_random_uuid()::text)";
        self.client.execute(statement, &[&user, &kind, &amount]).map(|_| ())
    }

    /// Adds credits to a user's balance.
    #[track_caller]
    pub fn grant(&mut self, user: Uuid, amount: Decimal) {
        self.insert(user, "admin_grant", amount)
            .unwrap_or_else(|e| panic!("grant {amount} to {user}: {e:?}"));
    }

    /// Takes credits from a user's balance.
    #[track_caller]
    pub fn charge(&mut self, user: Uuid, amount: Decimal) {
        self.insert(user, "usage", amount).unwrap_or_else(|e| panic!("charge {user} {amount}: {e:?}"));
    }

    /// Takes credits from a user's balance for a request of a batch.
    #[track_caller]
    pub fn charge_batch(&mut self, user: Uuid, batch: Uuid, amount: Decimal) {
        let statement = "INSERT INTO credits.credits_transactions
                             (user_id, transaction_type, amount, source_id, fusillade_batch_id)
                         VALUES ($1, 'usage', $2, gen_random_uuid()::text, $3)";
        self.client
            .execute(statement, &[&user, &amount, &batch])
            .unwrap_or_else(|e| panic!("charge {user} {amount}: {e:?}"));
    }

    /// Writes so many rows of a user that a settlement reads them for long enough to be stopped there. They sum up to nothing.
    #[track_caller]
    pub fn write_many(&mut self, user: Uuid) {
        let statement = "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                         SELECT $1, CASE n % 2 WHEN 0 THEN 'usage' ELSE 'purchase' END, 1, gen_random_uuid()::text
                         FROM generate_series(1, 60000) n";
        self.client.execute(statement, &[&user]).unwrap_or_else(|e| panic!("write many of {user}: {e:?}"));
    }

    /// The version of the server, as `150019`.
    #[track_caller]
    pub fn server_version(&mut self) -> i32 {
        self.value("SELECT current_setting('server_version_num')::int", &[])
    }

    /// The balance as the ledger answers it.
    #[track_caller]
    pub fn balance(&mut self, user: Uuid) -> Decimal {
        self.value("SELECT credits.get_user_balance($1)", &[&user])
    }

    /// What the feed has behind a position, a few rows at a time: where it ends, and the `source_id`s.
    #[track_caller]
    pub fn read_feed(&mut self, after: Option<&str>, limit: i64) -> (Option<String>, Vec<String>) {
        let (mut after, mut read) = (after.map(str::to_owned), Vec::new());
        loop {
            let rows = self
                .query(
                    "SELECT feed_position, source_id FROM credits.transactions_after($1, $2)",
                    &[&after, &limit],
                )
                .unwrap();
            read.extend(rows.iter().map(|row| row.get::<_, String>(1)));
            let Some(last) = rows.last() else { return (after, read) };
            after = Some(last.get(0));
        }
    }

    /// Deletes checkpoints by this statement, and sees to it that the commit does not make them anew.
    #[track_caller]
    pub fn lose_checkpoints(&mut self, deletion: &str) {
        let triggers = |change: &str| {
            let [row, all] =
                ["keep_announced", "keep_all_announced"].map(|name| format!("{change} TRIGGER {name}"));
            format!("ALTER TABLE credits.user_balance_checkpoints {row}, {all}")
        };
        self.run(&[&triggers("DISABLE"), deletion, &triggers("ENABLE ALWAYS")].join(";"));
    }

    /// How many stripes the sessions of this database hold or wait for, and locks of refreshes.
    #[track_caller]
    pub fn stripe_locks(&mut self) -> i64 {
        self.value(
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
             WHERE locktype = 'advisory' AND datname = current_database()",
            &[],
        )
    }

    /// Has the user's checkpoint refreshed.
    #[track_caller]
    pub fn refresh(&mut self, user: Uuid) {
        self.run(&format!("SELECT credits.refresh_checkpoint('{user}')"));
    }
}
