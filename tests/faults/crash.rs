//! Servers that die under load: what was acknowledged is there, and of every other transaction all or nothing.
//!
//! `CREDITS_LEDGER_CRASH_ROUNDS` sets the number of rounds. A seed repeats what the writers do; where the crash hits them
//! depends on the moment.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::database::PATIENCE;
use credits_ledger_tests::lifecycle::Paused;
use credits_ledger_tests::{
    Database, Decimal, Direction, Session, Shutdown, Uuid, asked_for, dec, seed, user,
};
use postgres::Error;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

const WRITERS: u32 = 6;
const USERS: u32 = 4;

/// Checkpoints are refreshed all the time, and an acknowledged commit is on disk.
const SETTINGS: &str = "\
fsync = on
synchronous_commit = on
synchronous_standby_names = ''
credits_ledger.checkpoint_interval = 4
";

fn rounds() -> u32 {
    asked_for("CREDITS_LEDGER_CRASH_ROUNDS", 4)
}

/// A transaction of a writer.
struct Work {
    statements: Vec<String>,
    /// The rows that are there if it commits, by their `source_id`.
    rows: Vec<String>,
    commits: bool,
}

fn work(random: &mut StdRng, name: &str) -> Work {
    let (mut statements, mut rows) = (vec!["BEGIN".to_owned()], Vec::new());
    for number in 0..random.random_range(1..=4) {
        let source = format!("{name}-{number}");
        let (user, amount) = (user(random.random_range(0..USERS)), random.random_range(1..=6));
        let kind = ["purchase", "admin_grant", "usage", "usage"].choose(random).unwrap();
        let batch = if *kind == "usage" { format!("'{user}'") } else { "NULL".to_owned() };
        let insert = format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
             VALUES ('{user}', '{kind}', {amount}, '{source}', {batch})"
        );
        match random.random_range(0..10) {
            0..2 => {
                statements.extend(["SAVEPOINT s".to_owned(), insert, "ROLLBACK TO s".to_owned()]);
                continue;
            }
            2..4 => statements.extend(["SAVEPOINT s".to_owned(), insert, "RELEASE s".to_owned()]),
            4 => statements.extend([insert, format!("SELECT credits.refresh_checkpoint('{user}')")]),
            _ => statements.push(insert),
        }
        rows.push(source);
    }
    Work { statements, rows, commits: random.random_bool(0.9) }
}

/// What a writer knows of its transactions when the server is gone.
#[derive(Default)]
struct Memory {
    acknowledged: BTreeSet<String>,
    /// Of the transaction whose commit was not answered: all of them are there, or none.
    unanswered: Vec<String>,
}

/// Writes until the server is gone, reporting each commit that is acknowledged.
fn write(mut session: Session, mut random: StdRng, name: &str, report: &Sender<()>) -> Memory {
    let mut memory = Memory::default();
    for number in 0.. {
        let work = work(&mut random, &format!("{name}-{number}"));
        let written: Result<(), Error> = work.statements.iter().try_for_each(|sql| session.try_run(sql));
        let ended = written.map(|()| session.try_run(if work.commits { "COMMIT" } else { "ROLLBACK" }));
        match ended {
            Ok(Ok(())) if work.commits => {
                memory.acknowledged.extend(work.rows);
                // The test has heard enough when it crashes the server.
                let _ = report.send(());
            }
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                assert_gone(&session, &error);
                if work.commits {
                    memory.unanswered = work.rows;
                }
                break;
            }
            Err(error) => {
                assert_gone(&session, &error);
                break;
            }
        }
    }
    memory
}

/// Nothing is refused, but for the server's end.
fn assert_gone(session: &Session, error: &Error) {
    let is_end = error.code().is_none_or(|code| code.code().starts_with("57P"));
    assert!(session.is_closed() || is_end, "{error:?}");
}

/// How a round ends.
#[derive(Clone, Copy, Debug)]
enum Crash {
    /// A backend in the middle of something is killed: all others are sent away.
    Backend,
    /// The whole server stops where it is.
    Server,
}

struct Test {
    cluster: Arc<Cluster>,
    database: String,
    random: StdRng,
}

impl Test {
    fn open(&self) -> Database {
        Database::open(&self.cluster, &self.database)
    }

    /// Has writers at work, and crashes the server after some commits. A transaction prepared before stays so.
    fn crash(&mut self, round: u32, crash: Crash) -> Vec<Memory> {
        let db = self.open();
        let mut preparing = db.connect();
        preparing.run("BEGIN");
        preparing.charge(user(round % USERS), dec!(20));
        preparing.run(&format!("PREPARE TRANSACTION 'round-{round}'"));

        let (report, acknowledged) = channel();
        let mut victims = Vec::new();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (session, random) = (db.connect(), StdRng::seed_from_u64(self.random.random()));
                victims.push(session.pid());
                let (name, report) = (format!("round-{round}-{writer}"), report.clone());
                thread::spawn(move || write(session, random, &name, &report))
            })
            .collect();
        let (enough, flush) = (self.random.random_range(10..120), self.random.random_range(0..240));
        for number in 0..enough {
            acknowledged.recv_timeout(PATIENCE).expect("the writers commit");
            if number == flush {
                preparing.run("CHECKPOINT");
            }
        }
        match crash {
            Crash::Backend => self.cluster.kill(*victims.choose(&mut self.random).unwrap()),
            Crash::Server => self.cluster.stop(Shutdown::Immediate),
        }
        let memories = writers.into_iter().map(|writer| writer.join().expect("a writer knows what it did"));
        let memories = memories.collect();
        match crash {
            Crash::Backend => self.cluster.until_open(),
            Crash::Server => self.cluster.resume(),
        }
        memories
    }

    /// The rows of a round are those that were acknowledged, and of the commits not answered all or nothing.
    fn check_rows(&self, round: u32, memories: &[Memory]) {
        let mut session = self.open().connect();
        let stored = session.values(
            "SELECT source_id FROM credits.credits_transactions WHERE source_id LIKE $1 || '-%'",
            &[&format!("round-{round}")],
        );
        let mut stored: BTreeSet<String> = stored.into_iter().collect();
        for memory in memories {
            let lost: Vec<_> = memory.acknowledged.iter().filter(|row| !stored.remove(*row)).collect();
            assert!(lost.is_empty(), "acknowledged, and lost: {lost:?}");
            let kept = memory.unanswered.iter().filter(|row| stored.remove(*row)).count();
            assert!(
                kept == 0 || kept == memory.unanswered.len(),
                "{kept} rows are there of {:?}",
                memory.unanswered
            );
        }
        assert!(stored.is_empty(), "never committed, and there: {stored:?}");
        session.assert_sound();
    }

    /// What was prepared is resolved, and every user is brought to zero: by a crossing, if it was above.
    fn go_on(&mut self, round: u32) {
        let db = self.open();
        let (mut session, mut listener) = (db.connect(), db.listen());
        let resolution = if self.random.random() { "COMMIT" } else { "ROLLBACK" };
        session.run(&format!("{resolution} PREPARED 'round-{round}'"));
        (0..USERS).for_each(|number| session.refresh(user(number)));
        session.assert_sound();
        listener.drain();
        for number in 0..USERS {
            let balance = session.balance(user(number));
            let kind = if balance > Decimal::ZERO { "admin_removal" } else { "admin_grant" };
            if balance != Decimal::ZERO {
                session.insert(user(number), kind, balance.abs()).expect("the ledger is written to");
            }
            let expected: Vec<(Uuid, Direction)> =
                (balance > Decimal::ZERO).then_some((user(number), Direction::Down)).into_iter().collect();
            assert_eq!(listener.crossings(), expected, "from a balance of {balance}");
        }
        session.assert_sound();
    }
}

#[test]
fn what_was_acknowledged_survives_and_nothing_is_half_there() {
    let seed = seed();
    let cluster = Cluster::start_with(SETTINGS);
    let database = Database::create_in(&cluster).name().to_owned();
    let mut test = Test { cluster, database, random: StdRng::seed_from_u64(seed) };
    for round in 0..rounds() {
        let crash = if round % 2 == 0 { Crash::Backend } else { Crash::Server };
        let memories = test.crash(round, crash);
        test.check_rows(round, &memories);
        test.go_on(round);
    }
    let log = test.cluster.log();
    assert!(!log.contains("PANIC") && !log.contains("terminated by signal 11"), "{log}");
}

/// The numbering goes on behind rows that have brought their numbers, wherever it was logged last.
#[test]
fn numbering_goes_on_behind_what_was_there() {
    let cluster = Cluster::start_with(SETTINGS);
    let db = Database::create_in(&cluster);
    let name = db.name().to_owned();
    let numbered = |session: &mut Session, number: i64| {
        session.run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, seq)
             OVERRIDING SYSTEM VALUE VALUES ('{}', 'usage', 1, 'numbered {number}', {number})",
            user(1)
        ));
    };
    let mut next = 1;
    // Each is far from the last, near it, or the first since a checkpoint.
    for (steps, checkpoint) in
        [(&[500][..], false), (&[500, 1, 1, 1, 40, 3], false), (&[500, 2], true), (&[100, 2], true)]
    {
        let mut session = Database::open(&cluster, &name).connect();
        for (place, step) in steps.iter().enumerate() {
            if checkpoint && place > 0 {
                session.run("CHECKPOINT");
            }
            next += step;
            numbered(&mut session, next);
        }
        cluster.stop(Shutdown::Immediate);
        cluster.resume();
        let drawn: i64 = Database::open(&cluster, &name).connect().value(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
             VALUES ($1, 'usage', 1, gen_random_uuid()::text) RETURNING seq",
            &[&user(1)],
        );
        assert!(drawn > next, "{drawn} is given out after {next}: {steps:?}");
        next = drawn;
    }
    drop(db);
}

/// A ledger whose commits are on disk only if they see to it themselves: the process that writes the log by the way stands still.
struct NotOnDisk {
    cluster: Arc<Cluster>,
    db: Database,
    writer: Paused,
}

impl NotOnDisk {
    fn create() -> Self {
        let cluster =
            Cluster::start_with("synchronous_commit = off\nautovacuum = off\nbgwriter_lru_maxpages = 0\n");
        let db = Database::create_in(&cluster);
        let writer =
            db.connect().value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'", &[]);
        let writer = cluster.pause(writer);
        Self { cluster, db, writer }
    }

    /// The same ledger after a crash.
    fn crash(self) -> Database {
        let name = self.db.name().to_owned();
        self.cluster.stop(Shutdown::Immediate);
        drop(self.writer);
        self.cluster.resume();
        Database::open(&self.cluster, &name)
    }
}

/// A commit that is not on disk is gone after a crash, and its id is given out again. Whoever reads forward has kept a position by then.
#[test]
fn what_the_feed_has_shown_is_on_disk() {
    let server = NotOnDisk::create();
    let mut session = server.db.connect();
    for _ in 0..5 {
        session.charge(user(1), dec!(1));
    }
    let read = "SELECT feed_position FROM credits.transactions_after(NULL, NULL)";
    let shown: Vec<String> = session.values(read, &[]);
    let last = shown.last().expect("the feed has rows").clone();
    let db = server.crash();
    let mut session = db.connect();
    assert_eq!(session.values::<String>(read, &[]), shown);
    session.charge(user(1), dec!(1));
    let next: Vec<String> =
        session.values("SELECT feed_position FROM credits.transactions_after($1, NULL)", &[&last]);
    assert_eq!(next.len(), 1, "after {last}");
}

/// A server that archives its log by the clock begins a new file though nothing is written: the log then ends behind the header of a page that
/// is not there yet.
#[test]
fn the_feed_is_read_where_the_log_ends_with_a_file() {
    let cluster = Cluster::start_with("autovacuum = off\nbgwriter_lru_maxpages = 0\n");
    let db = Database::create_in(&cluster);
    let mut session = db.connect();
    session.charge(user(1), dec!(1));
    let read = "SELECT feed_position FROM credits.transactions_after()";
    let shown: Vec<String> = session.values(read, &[]);
    for _ in 0..3 {
        session.run("SELECT pg_switch_wal()");
        assert_eq!(session.values::<String>(read, &[]), shown);
    }
}

/// Another node acts on what this one has said of a bucket.
#[test]
fn what_a_node_says_of_its_buckets_is_on_disk() {
    let server = NotOnDisk::create();
    let mut session = server.db.connect();
    session.run("SELECT credits.disown_buckets('{7}')");
    let db = server.crash();
    let state: String = db.connect().value("SELECT credits.bucket_state(7)", &[]);
    assert_eq!(state, "elsewhere");
}
