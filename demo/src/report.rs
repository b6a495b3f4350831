//! What came of it: figures, the largest balances and batches, and the checks that decide the exit status.

use std::collections::HashMap;
use std::time::Duration;

use postgres::{Client, Error, SimpleQueryMessage};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::accounts::{Accounts, LOW};
use crate::progress::{Counters, per_second};
use crate::terminal::{Align, Style, Terminal, grouped};

const TOP_BALANCES: &str =
    "SELECT user_id, balance, held, available FROM credits.balances ORDER BY balance DESC LIMIT 5";

const AT_THEIR_LIMITS: &str = "SELECT user_id, available, overdraft_limit \
                               FROM credits.balances JOIN credits.spending_limits USING (user_id) \
                               ORDER BY available LIMIT 5";

const TOP_BATCHES: &str = "SELECT fusillade_batch_id, transaction_count, total_amount \
                           FROM credits.batches ORDER BY total_amount DESC LIMIT 5";

const DEAREST_MODELS: &str = "SELECT category AS model, sum(transaction_count) AS requests, sum(total_amount) AS credits \
                              FROM credits.balances CROSS JOIN LATERAL credits.usage_by_day(user_id) \
                              WHERE transaction_type = 'usage' GROUP BY category ORDER BY credits DESC LIMIT 5";

const DEAREST_KEYS: &str = "SELECT user_id, api_key_id, sum(transaction_count) AS requests, sum(total_amount) AS credits \
                            FROM credits.balances CROSS JOIN LATERAL credits.usage_by_day(user_id) \
                            WHERE transaction_type = 'usage' GROUP BY user_id, api_key_id ORDER BY credits DESC LIMIT 5";

/// Accounts whose statements do not close with their balances.
const WRONG_STATEMENTS: &str = "
    SELECT count(*) FROM credits.balances
    CROSS JOIN LATERAL credits.account_statement(user_id, now() - interval '1 day', 'infinity')
    WHERE line = 'closing' AND amount <> balance";

const DISCREPANCIES: &str = "SELECT check_name, user_id, detail FROM credits.verify_ledger()";

/// Rows of the accounts that a node has.
const OWN_ROWS: &str = "SELECT credits.count_all_transactions()";

/// Users whose balance is not the plain sum of their rows.
const WRONG_SUMS: &str = "
    WITH sums AS (
        SELECT user_id, sum(CASE WHEN transaction_type IN ('purchase', 'admin_grant') THEN amount ELSE -amount END)
          FROM credits.credits_transactions GROUP BY user_id)
    SELECT count(*) FROM sums FULL JOIN credits.balances USING (user_id) WHERE sum IS DISTINCT FROM balance";

/// Holds that are left, and what the view says of them.
const LEFT_HOLDS: &str =
    "SELECT (SELECT count(*) FROM credits.holds), (SELECT coalesce(sum(held), 0) FROM credits.balances)";

/// Accounts whose holds took them below their limits.
const OVERSPENT: &str = "SELECT count(*) FROM credits.balances JOIN credits.spending_limits USING (user_id) \
                         WHERE available < -overdraft_limit";

/// Reads the finished demo's database.
pub struct Report<'a> {
    pub client: Client,
    /// The servers behind it, if it is a router's.
    pub nodes: Vec<Client>,
    pub terminal: Terminal,
    pub accounts: &'a Accounts,
    pub counters: &'a Counters,
}

impl Report<'_> {
    /// Prints everything, and answers whether every check holds.
    pub fn print(&mut self, elapsed: Duration) -> Result<bool, Error> {
        self.figures(elapsed);
        self.query(
            "Largest balances",
            TOP_BALANCES,
            &[Align::Left, Align::Right, Align::Right, Align::Right],
        )?;
        self.query("Closest to their limits", AT_THEIR_LIMITS, &[Align::Left, Align::Right, Align::Right])?;
        self.query("Largest batches", TOP_BATCHES, &[Align::Left, Align::Right, Align::Right])?;
        self.query("Dearest models", DEAREST_MODELS, &[Align::Left, Align::Right, Align::Right])?;
        self.query("Dearest keys", DEAREST_KEYS, &[Align::Left, Align::Left, Align::Right, Align::Right])?;
        let statement = self.statement();
        self.query(
            "This month of the busiest account",
            &statement,
            &[Align::Left, Align::Right, Align::Right],
        )?;
        self.checks()
    }

    fn statement(&self) -> String {
        format!(
            "SELECT * FROM credits.account_statement('{}', date_trunc('month', now(), 'UTC'), now())",
            self.accounts.id(0)
        )
    }

    fn figures(&self, elapsed: Duration) {
        let counters = self.counters;
        let rows = counters.rows.get();
        let figures = [
            ("ledger rows", grouped(rows)),
            ("transactions", grouped(counters.transactions.get())),
            ("seconds", format!("{:.1}", elapsed.as_secs_f64())),
            ("rows per second", grouped(per_second(rows, elapsed))),
            ("accounts", grouped(self.accounts.len() as u64)),
            ("purchases", grouped(counters.purchases.get())),
            ("crossings up", grouped(counters.up.get())),
            ("crossings down", grouped(counters.down.get())),
            ("thresholds up", grouped(counters.low_up.get())),
            ("thresholds down", grouped(counters.low_down.get())),
            ("requests turned away", grouped(counters.turned_away.get())),
            ("requests refused", grouped(counters.refused.get())),
            ("buckets moved", grouped(counters.moved.get())),
        ];
        self.terminal.heading("Summary");
        let width = figures.iter().map(|(_, figure)| figure.len()).max().unwrap_or(0);
        for (name, figure) in figures {
            println!("  {name:<20}  {figure:>width$}");
        }
    }

    /// Runs a query and prints it with its result.
    fn query(&mut self, heading: &str, query: &str, aligns: &[Align]) -> Result<(), Error> {
        self.terminal.heading(heading);
        println!("  {}", self.terminal.paint(Style::Quiet, &format!("{query};")));
        let mut table: Vec<Vec<String>> = Vec::new();
        for message in self.client.simple_query(query)? {
            match message {
                SimpleQueryMessage::RowDescription(columns) => {
                    table.push(columns.iter().map(|column| column.name().to_owned()).collect());
                }
                SimpleQueryMessage::Row(row) => {
                    table.push(
                        (0..row.len()).map(|column| row.get(column).unwrap_or("").to_owned()).collect(),
                    );
                }
                _ => {}
            }
        }
        self.terminal.table(aligns, &table);
        Ok(())
    }

    fn checks(&mut self) -> Result<bool, Error> {
        self.terminal.heading("Checks");
        let is_sound = self.is_sound()?;
        let wrong_statements: i64 = self.client.query_one(WRONG_STATEMENTS, &[])?.get(0);
        let wrong_sums: i64 = self.client.query_one(WRONG_SUMS, &[])?.get(0);
        let balances = self.balances()?;
        let above_zero = balances.values().filter(|&&balance| balance > Decimal::ZERO).count() as u64;
        let (up, down) = (self.counters.up.get(), self.counters.down.get());
        let well_off = self.accounts.limits().filter(|(user, _)| balances[user] > LOW).count() as u64;
        let (low_up, low_down) = (self.counters.low_up.get(), self.counters.low_down.get());
        let left = self.client.query_one(LEFT_HOLDS, &[])?;
        let (holds, held): (i64, Decimal) = (left.get(0), left.get(1));
        let overspent: i64 = self.client.query_one(OVERSPENT, &[])?.get(0);

        let crossings = format!(
            "every crossing was announced once: {} up, {} down, {} accounts above zero",
            grouped(up),
            grouped(down),
            grouped(above_zero)
        );
        let thresholds = format!(
            "every crossing of a threshold was announced once: {} up, {} down, {} accounts above theirs",
            grouped(low_up),
            grouped(low_down),
            grouped(well_off)
        );
        let mut checks = vec![
            ("verify_ledger() finds nothing", is_sound),
            ("every balance is the plain SQL sum of its rows", wrong_sums == 0),
            ("every statement closes with the balance", wrong_statements == 0),
            ("every balance is what the clients counted", balances == self.accounts.expected()),
            // All accounts begin at zero, and the two directions alternate.
            (&crossings, up == down + above_zero),
            (&thresholds, low_up == low_down + well_off),
            ("nothing is held any more", holds == 0 && held.is_zero()),
            ("no account that holds is below its limit", overspent == 0),
        ];
        if !self.nodes.is_empty() {
            let mut on_nodes = 0;
            for node in &mut self.nodes {
                on_nodes += node.query_one(OWN_ROWS, &[])?.get::<_, i64>(0);
            }
            checks.push((
                "every row is counted by one node",
                u64::try_from(on_nodes) == Ok(self.counters.rows.get()),
            ));
        }
        for &(what, holds) in &checks {
            let verdict = if holds {
                self.terminal.paint(Style::Good, "ok    ")
            } else {
                self.terminal.paint(Style::Bad, "FAILED")
            };
            println!("  {verdict}  {what}");
        }
        Ok(checks.iter().all(|&(_, holds)| holds))
    }

    /// Whether `verify_ledger()` finds nothing, also when each node is asked by itself. Prints what it finds.
    fn is_sound(&mut self) -> Result<bool, Error> {
        let mut discrepancies = self.client.query(DISCREPANCIES, &[])?;
        for node in &mut self.nodes {
            discrepancies.extend(node.query(DISCREPANCIES, &[])?);
        }
        for row in &discrepancies {
            println!(
                "  {}: {:?}: {}",
                row.get::<_, &str>(0),
                row.get::<_, Option<Uuid>>(1),
                row.get::<_, &str>(2)
            );
        }
        Ok(discrepancies.is_empty())
    }

    fn balances(&mut self) -> Result<HashMap<Uuid, Decimal>, Error> {
        let users: Vec<Uuid> = (0..self.accounts.len()).map(|account| self.accounts.id(account)).collect();
        let rows = self.client.query(
            "SELECT user_id, balance FROM credits.get_users_balances_bulk(user_ids => $1)",
            &[&users],
        )?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}
