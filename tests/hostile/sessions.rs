//! Several sessions on the same accounts, and what must be left when they are done: the rows that were accepted, and
//! nothing else, in every list, count, sum and balance.
//!
//! `CREDITS_LEDGER_HOSTILE_CALLS` sets the number of calls, for hours of them. A seed repeats what each session does.

use std::thread;

use credits_ledger_tests::functions::OF_A_MOVE;
use credits_ledger_tests::{Database, Session, Uuid, asked_for, seed, user};
use postgres::types::ToSql;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::amounts::decimal;
use crate::functions::{CREATE, Function, SHAPE_THE_NODE};
use crate::rows::{self, Row, Rows};
use crate::settings::{self, Tolerated};
use crate::verdict::{Expected, Fault};

const SESSIONS: u32 = 4;

/// Changes of the ledger that are refused, whatever is in it.
const CHANGES: [(&str, &[&str]); 10] = [
    // Waits for whoever has written, so it comes first: it is not for a transaction that others may wait for.
    ("TRUNCATE credits.credits_transactions", &["55000"]),
    ("UPDATE credits.credits_transactions SET amount = 'NaN'", &["55000"]),
    ("UPDATE credits.credits_transactions SET xact_id = DEFAULT WHERE false", &["55000"]),
    ("DELETE FROM credits.credits_transactions WHERE amount < 0", &["55000"]),
    (
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         VALUES (gen_random_uuid(), 'usage', 1, '') ON CONFLICT (source_id) DO UPDATE SET amount = 2",
        &["55000"],
    ),
    (
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, seq)
         VALUES (gen_random_uuid(), 'usage', 1, '', 1)",
        &["428C9"],
    ),
    (
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, xact_id)
         VALUES (gen_random_uuid(), 'usage', 1, '', '1')",
        &["428C9"],
    ),
    ("INSERT INTO credits.credits_transactions DEFAULT VALUES", &["23502"]),
    ("INSERT INTO credits.balances VALUES (gen_random_uuid(), 1)", &["55000"]),
    ("SELECT credits.create_transaction(gen_random_uuid(), 'usage')", &["42883"]),
];

/// The number of calls, over all sessions.
fn calls() -> u32 {
    asked_for("CREDITS_LEDGER_HOSTILE_CALLS", 10_000)
}

/// A session and what it has recorded.
struct Hostile {
    session: Session,
    random: StdRng,
    functions: Vec<Function>,
    /// The last of them is this session's own: nobody else records anything for it.
    users: Vec<Uuid>,
    accepted: Rows,
    /// By savepoint; empty outside of a transaction.
    pending: Vec<Rows>,
    /// Of the tables that labels come from.
    labels: Tolerated,
    serializable: bool,
    calls: u32,
}

impl Hostile {
    /// What the session has recorded and not rolled back so far.
    fn known(&self) -> impl Iterator<Item = (&String, &Row)> {
        self.pending.iter().chain([&self.accepted]).flatten()
    }

    fn any_known(&mut self) -> Option<(String, Row)> {
        let count = self.known().count();
        let which = self.random.random_range(0..count.max(1));
        self.known().nth(which).map(|(source_id, row)| (source_id.clone(), row.clone()))
    }

    fn tolerated(&self) -> Vec<&'static str> {
        let serialization: &[&str] = if self.serializable { &["40001"] } else { &[] };
        self.labels.iter().chain(serialization).copied().collect()
    }

    /// One call; whether the transaction is still good.
    fn call(&mut self) -> bool {
        self.calls += 1;
        let tolerated = self.tolerated();
        match self.random.random_range(0..100) {
            0..30 => {
                let known = self.any_known();
                let recorded = rows::record(
                    &mut self.session,
                    &mut self.random,
                    &self.users,
                    known.as_ref(),
                    &tolerated,
                );
                self.pending.last_mut().unwrap_or(&mut self.accepted).extend(recorded);
            }
            30..35 => {
                let first = usize::from(!self.pending.is_empty());
                let (sql, sqlstates) = *CHANGES[first..].choose(&mut self.random).unwrap();
                let fault = Fault { sqlstates, names: None };
                Expected { faults: vec![fault], tolerated }.judge(self.session.try_run(sql), &sql);
            }
            35..40 => self.look_at_own(),
            40..45 => {
                if let Some(known) = self.any_known() {
                    let recorded = rows::reverse(&mut self.session, &mut self.random, &known, &tolerated);
                    self.pending.last_mut().unwrap_or(&mut self.accepted).extend(recorded);
                }
            }
            _ => {
                let function = loop {
                    let function = self.functions.choose(&mut self.random).unwrap();
                    // These go through the whole ledger.
                    let name = function.name.as_str();
                    let long = name == "verify_ledger" || name.starts_with("visible_");
                    // And this one changes rows that others compare with what they have sent.
                    let is_left_out = [CREATE, "redact_account"].contains(&name)
                        || SHAPE_THE_NODE.contains(&name)
                        || OF_A_MOVE.contains(&name);
                    if !is_left_out && (!long || self.random.random_bool(0.03)) {
                        break function;
                    }
                };
                function.call(&mut self.session, &mut self.random, &self.users, &tolerated);
            }
        }
        self.is_good()
    }

    /// In a transaction that has failed every statement does.
    fn is_good(&mut self) -> bool {
        let error = match self.session.try_run("SELECT 1") {
            Ok(()) => return true,
            Err(error) => error,
        };
        assert_eq!(error.code().map(|code| code.code()), Some("25P02"), "{error:?}");
        false
    }

    /// The balance of the session's own user is that of the rows that it has recorded so far.
    fn look_at_own(&mut self) {
        let own = *self.users.last().expect("its own user");
        let own_rows = self.known().filter(|(_, row)| row.user == own);
        let sum: i128 = own_rows.map(|(_, row)| row.signed()).sum();
        let result = self.session.query_one("SELECT trim_scale(credits.get_user_balance($1))::text", &[&own]);
        let expected = Expected { faults: Vec::new(), tolerated: self.tolerated() };
        if let Some(row) = expected.judge(result, &own) {
            assert_eq!(row.get::<_, &str>(0), decimal(sum), "the balance of {own}");
        }
    }

    /// A few calls in a transaction, some of them in savepoints.
    fn transaction(&mut self) {
        let level = *["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
            .choose(&mut self.random)
            .unwrap();
        self.session.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        self.serializable = level == "SERIALIZABLE";
        self.pending.push(Rows::new());
        let mut good = true;
        for _ in 0..self.random.random_range(1..10) {
            let savepoint = self.random.random_bool(0.6);
            if savepoint {
                self.session.run("SAVEPOINT s");
                self.pending.push(Rows::new());
            }
            good = self.call();
            if savepoint {
                let rows = self.pending.pop().expect("pushed above");
                if good && self.random.random_bool(0.8) {
                    self.session.run("RELEASE s");
                    self.pending.last_mut().expect("in a transaction").extend(rows);
                } else {
                    self.session.run("ROLLBACK TO s; RELEASE s");
                    good = true;
                }
            }
            if !good {
                break;
            }
        }
        let rows = self.pending.pop().expect("pushed above");
        if good && self.random.random_bool(0.8) {
            // Others may have taken meanwhile what this transaction has held or charged.
            let tolerated = [self.tolerated(), vec!["LC001"]].concat();
            let expected = Expected { faults: Vec::new(), tolerated };
            if expected.judge(self.session.try_run("COMMIT"), &"COMMIT").is_some() {
                self.accepted.extend(rows);
            }
        } else {
            // Also what COMMIT does with a transaction that has failed.
            self.session.run(if good { "ROLLBACK" } else { "COMMIT" });
        }
        self.serializable = false;
        assert!(self.pending.is_empty());
    }

    fn run(mut self, calls: u32) -> Rows {
        while self.calls < calls {
            match self.random.random_range(0..10) {
                0 => settings::change(&mut self.session, &mut self.random, &mut self.labels),
                1..6 => self.transaction(),
                _ => assert!(self.call(), "a call outside of a transaction leaves nothing behind"),
            }
        }
        self.accepted
    }
}

#[test]
fn nothing_hostile_gets_through() {
    let seed = seed();
    let db = Database::create_alone();
    let mut observer = db.connect();
    observer.run(settings::RELATIONS);
    let functions = Function::all(&mut observer);
    let create = functions.iter().find(|function| function.name == CREATE).expect("it is there");
    let arguments: Vec<&str> = create.arguments.iter().map(|argument| argument.name.as_str()).collect();
    assert_eq!(arguments, rows::COLUMNS);
    let users: Vec<Uuid> = (1..=4).map(user).chain([Uuid::nil(), Uuid::max()]).collect();
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|n| {
            let mut session = db.connect();
            // Megabytes of refused statements are of no use in the log.
            session.run("SET log_min_error_statement = panic; SET TimeZone = 'UTC'");
            // Settings are checked from then on.
            session.run("LOAD 'credits_ledger'");
            let hostile = Hostile {
                session,
                random: StdRng::seed_from_u64(seed.wrapping_add(n.into())),
                functions: functions.clone(),
                users: users.iter().copied().chain([user(100 + n)]).collect(),
                accepted: Rows::new(),
                pending: Vec::new(),
                labels: &[],
                serializable: false,
                calls: 0,
            };
            thread::spawn(move || hostile.run(calls() / SESSIONS))
        })
        .collect();
    let accepted: Rows = sessions
        .into_iter()
        .flat_map(|session| session.join().expect("every answer is as it must be"))
        .collect();
    println!("{} rows were accepted", accepted.len());
    assert!(accepted.len() > 100, "hardly anything was good");

    let users = users.into_iter().chain((0..SESSIONS).map(|n| user(100 + n)));
    is_what_was_accepted(&mut observer, &accepted, users);
    db.cluster().assert_quiet_log();
}

/// The ledger has these rows, whole, and everything that is derived from them agrees.
fn is_what_was_accepted(session: &mut Session, accepted: &Rows, users: impl Iterator<Item = Uuid>) {
    session.assert_sound();
    let rows = session
        .query(
            "SELECT source_id, user_id, transaction_type, trim_scale(amount)::text, description, fusillade_batch_id,
                    api_key_id
             FROM credits.list_all_transactions(\"limit\" => NULL)",
            &[],
        )
        .expect("all rows");
    assert_eq!(rows.len(), accepted.len());
    for stored in &rows {
        let source_id: &str = stored.get(0);
        let row = accepted.get(source_id).unwrap_or_else(|| panic!("nobody recorded {source_id:?}"));
        assert_eq!(stored.get::<_, Uuid>(1), row.user, "{source_id}");
        assert_eq!(stored.get::<_, &str>(2), row.kind, "{source_id}");
        assert_eq!(stored.get::<_, &str>(3), decimal(row.units), "{source_id}");
        assert!(stored.get::<_, Option<&str>>(4) == row.description.as_deref(), "{source_id}");
        assert_eq!(stored.get::<_, Option<Uuid>>(5), row.batch, "{source_id}");
        assert_eq!(stored.get::<_, Option<Uuid>>(6), row.api_key, "{source_id}");
    }
    for user in users {
        let rows: Vec<_> = accepted.values().filter(|row| row.user == user).collect();
        let sum = decimal(rows.iter().map(|row| row.signed()).sum());
        let mut batches: Vec<Uuid> = rows.iter().filter_map(|row| row.batch).collect();
        batches.sort_unstable();
        batches.dedup();
        let items = rows.iter().filter(|row| row.batch.is_none()).count() + batches.len();
        let mut is = |sql: &str, expected: &str| {
            let parameters: [&(dyn ToSql + Sync); 1] = [&user];
            let found: String = session.value(&format!("SELECT ({sql})::text"), &parameters);
            assert_eq!(found, expected, "{sql} of {user}");
        };
        is("trim_scale(credits.get_user_balance($1))", &sum);
        is("SELECT trim_scale(balance) FROM credits.calculate_balance_with_seq($1)", &sum);
        is("SELECT trim_scale(balance) FROM credits.get_users_balances_bulk(ARRAY[$1::uuid])", &sum);
        is("trim_scale(credits.sum_recent_transactions($1, 9223372036854775807))", &sum);
        is("trim_scale(credits.sum_recent_transactions_grouped($1, 9223372036854775807))", &sum);
        is("credits.count_user_transactions($1)", &rows.len().to_string());
        is("credits.count_transactions_with_batches($1)", &items.to_string());
        is("SELECT count(*) FROM credits.list_user_transactions($1, 0, NULL)", &rows.len().to_string());
        is("SELECT count(*) FROM credits.list_transactions_with_batches($1, 0, NULL)", &items.to_string());
    }
}
