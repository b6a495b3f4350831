//! Balances against plain SQL sums, in random sessions with random snapshots, savepoints and command ids.
//!
//! One thread steps all the sessions, so a seed repeats a run exactly, but for the moments at which autovacuum comes.

use credits_ledger_tests::{Database, Session, seed};
use postgres::Error;
use postgres::error::SqlState;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

const STEPS: u32 = 600;
const SESSIONS: usize = 5;

/// Users and batches are few, so that everything meets everything.
const SETUP: &str = "
CREATE TABLE users AS SELECT md5(n::text)::uuid AS id FROM generate_series(1, 4) n;

CREATE VIEW answers AS
SELECT u.id,
       coalesce((SELECT sum(CASE WHEN transaction_type IN ('purchase', 'admin_grant') THEN amount ELSE -amount END)
                 FROM credits.credits_transactions WHERE user_id = u.id), 0) AS sum,
       (SELECT max(seq) FROM credits.credits_transactions WHERE user_id = u.id) AS seq,
       credits.get_user_balance(u.id) AS balance,
       (SELECT balance FROM credits.calculate_balance_with_seq(u.id)) AS balance_with_seq,
       (SELECT latest_seq FROM credits.calculate_balance_with_seq(u.id)) AS latest_seq,
       (SELECT balance FROM credits.get_users_balances_bulk(ARRAY[u.id])) AS bulk,
       coalesce((SELECT balance FROM credits.balances WHERE user_id = u.id), 0) AS view,
       (SELECT sum(amount) FROM credits.credits_transactions
        WHERE user_id = u.id AND fusillade_batch_id IS NOT NULL) AS batch_sum,
       (SELECT sum(total_amount) FROM credits.batches WHERE user_id = u.id) AS batch_view
FROM users u;

CREATE VIEW differences AS
SELECT answers::text AS difference FROM answers
WHERE (balance, balance_with_seq, latest_seq, bulk, view, batch_view)
      IS DISTINCT FROM (sum, sum, seq, sum, sum, batch_sum);
";

/// One session and what it has open.
struct Stepped {
    session: Session,
    in_transaction: bool,
    /// How many cursors were open before each savepoint.
    savepoints: Vec<usize>,
    cursors: usize,
}

impl Stepped {
    fn new(session: Session) -> Self {
        Self { session, in_transaction: false, savepoints: Vec::new(), cursors: 0 }
    }

    fn step(&mut self, random: &mut StdRng, may_vacuum: bool) -> Result<(), Error> {
        match random.random_range(0..100) {
            0..30 => self.session.try_run(&insert(random)),
            30..38 => self.session.try_run(&insert_and_compare(random)),
            38..48 if !self.in_transaction => {
                let isolation = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"].choose(random).unwrap();
                self.in_transaction = true;
                self.session.try_run(&format!("BEGIN ISOLATION LEVEL {isolation}"))
            }
            48..51 if may_vacuum && !self.in_transaction => {
                let table =
                    ["credits_transactions", "user_balance_checkpoints", "batch_aggregates", "daily_totals"]
                        .choose(random);
                // It waits for a page that a cursor of another session, hence this test, holds.
                self.session.run("SET statement_timeout = '200ms'");
                let vacuumed = self.session.try_run(&format!("VACUUM (ANALYZE) credits.{}", table.unwrap()));
                self.session.run("RESET statement_timeout");
                match vacuumed {
                    Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Ok(()),
                    vacuumed => vacuumed,
                }
            }
            51..61 => self.session.try_run(&format!(
                "SELECT credits.refresh_checkpoint(id) FROM users WHERE random() < {}",
                random.random_range(0.2..1.0)
            )),
            61..71 if self.in_transaction => {
                self.savepoints.push(self.cursors);
                self.session.try_run(&format!("SAVEPOINT s{}", self.savepoints.len()))
            }
            71..77 if !self.savepoints.is_empty() => {
                let savepoint = random.random_range(1..=self.savepoints.len());
                self.savepoints.truncate(savepoint);
                self.cursors = self.savepoints[savepoint - 1];
                self.session.try_run(&format!("ROLLBACK TO s{savepoint}"))
            }
            77..81 if !self.savepoints.is_empty() => {
                let savepoint = random.random_range(1..=self.savepoints.len());
                self.savepoints.truncate(savepoint - 1);
                self.session.try_run(&format!("RELEASE s{savepoint}"))
            }
            81..85 if self.in_transaction => {
                self.cursors += 1;
                let answers = "SELECT (SELECT difference FROM differences LIMIT 1 OFFSET n * 0) FROM generate_series(1, 1000) n";
                self.session.try_run(&format!("DECLARE c{} CURSOR FOR {answers}", self.cursors))
            }
            85..92 if self.cursors > 0 => {
                let cursor = random.random_range(1..=self.cursors);
                let difference = self.session.query(&format!("FETCH 1 FROM c{cursor}"), &[])?;
                let difference: Option<String> = difference[0].get(0);
                assert_eq!(difference, None, "in cursor c{cursor}");
                Ok(())
            }
            92..100 if self.in_transaction => {
                let end = if random.random_bool(0.6) { "COMMIT" } else { "ROLLBACK" };
                self.session.try_run(end)?;
                self.ended();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn compare(&mut self) -> Result<(), Error> {
        let differences = self.session.query("SELECT difference FROM differences", &[])?;
        let differences: Vec<String> = differences.iter().map(|row| row.get(0)).collect();
        assert!(differences.is_empty(), "{differences:#?}");
        Ok(())
    }

    /// A serializable transaction may be refused; it is then rolled back, as applications do.
    fn tolerate(&mut self, result: Result<(), Error>) {
        if let Err(error) = result {
            assert_eq!(error.code().map(|code| code.code()), Some("40001"), "{error:?}");
            self.session.run("ROLLBACK");
            self.ended();
        }
    }

    fn ended(&mut self) {
        (self.in_transaction, self.cursors) = (false, 0);
        self.savepoints.clear();
    }
}

/// A few rows, or more than a checkpoint waits for.
fn insert(random: &mut StdRng) -> String {
    let rows = if random.random_bool(0.03) { 300 } else { random.random_range(1..6) };
    let rows: Vec<String> = (0..rows)
        .map(|_| {
            let kind = ["purchase", "admin_grant", "admin_removal", "usage", "usage"].choose(random).unwrap();
            let batch = if *kind == "usage" && random.random_bool(0.7) {
                format!("md5('{}')::uuid", random.random_range(0..3))
            } else {
                "NULL".to_owned()
            };
            let (user, amount) = (random.random_range(1..=4), random.random_range(1..3_000_000_000_u64));
            format!(
                "(md5('{user}')::uuid, '{kind}', {amount} * 0.000000001, gen_random_uuid()::text, {batch})"
            )
        })
        .collect();
    format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
         VALUES {}",
        rows.join(", ")
    )
}

/// Commands of one transaction, each followed by a comparison that must see it, inside one statement of the client.
fn insert_and_compare(random: &mut StdRng) -> String {
    let inserts: Vec<String> = (0..3)
        .map(|_| {
            format!(
                "{}; IF EXISTS (SELECT FROM differences) THEN
                     RAISE 'within a block: %', (SELECT array_agg(difference) FROM differences);
                 END IF;",
                insert(random)
            )
        })
        .collect();
    format!("DO $$ BEGIN {} END $$", inserts.join("\n"))
}

#[test]
fn balances_are_sums_under_any_snapshot() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let db = Database::create();
    db.connect().run(SETUP);
    let mut sessions: Vec<Stepped> = (0..SESSIONS).map(|_| Stepped::new(db.connect())).collect();
    for step in 0..STEPS {
        println!("step {step} of seed {seed}");
        if random.random_bool(0.005) {
            let session = random.random_range(0..SESSIONS);
            sessions[session] = Stepped::new(db.connect());
        }
        // An open cursor pins pages that vacuum would wait for.
        let may_vacuum = sessions.iter().all(|session| session.cursors == 0);
        let session = &mut sessions[random.random_range(0..SESSIONS)];
        let result = session.step(&mut random, may_vacuum);
        session.tolerate(result);
        let reader = &mut sessions[random.random_range(0..SESSIONS)];
        let result = reader.compare();
        reader.tolerate(result);
    }
    drop(sessions);
    db.connect().assert_sound();
}
