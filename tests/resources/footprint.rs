//! What a backend holds, and what it leaves behind.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use credits_ledger_tests::{Database, Session, unguarded};

/// Memory of the backend that is its own, in bytes: that of the server's memory contexts, and all of the process.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub contexts: i64,
    pub process: i64,
}

impl Memory {
    pub fn of(session: &mut Session) -> Self {
        let contexts = session.value("SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts", &[]);
        Self { contexts, process: process_memory(session.pid()) }
    }
}

/// Without what is shared with other processes.
fn process_memory(pid: i32) -> i64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the backend lives");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux says so");
    let kilobytes = line.split_whitespace().nth(1).and_then(|number| number.parse::<i64>().ok());
    kilobytes.expect("a number of kB") * 1024
}

/// The most memory that the backend takes while it does something.
pub fn most_memory_during<T>(session: &mut Session, work: impl FnOnce(&mut Session) -> T) -> (i64, T) {
    let (pid, done) = (session.pid(), AtomicBool::new(false));
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(process_memory(pid));
                thread::sleep(Duration::from_millis(2));
            }
            most
        });
        // The scope waits for the watcher, also for one that nobody has told that the work has failed.
        let result = catch_unwind(AssertUnwindSafe(|| work(session)));
        done.store(true, Ordering::Relaxed);
        let most = watcher.join().expect("the backend lives");
        (most, result.unwrap_or_else(|failure| resume_unwind(failure)))
    })
}

/// Between transactions a session holds no lock and no temporary file.
#[track_caller]
pub fn assert_nothing_held(db: &Database, session: &Session) {
    db.observe(|observer| {
        let locks: Vec<String> =
            observer.values("SELECT format('%s', l) FROM pg_locks l WHERE pid = $1", &[&session.pid()]);
        assert_eq!(locks, [""; 0]);
        assert_eq!(observer.value::<i64>("SELECT count(*) FROM pg_ls_tmpdir()", &[]), 0, "temporary files");
    });
}

/// Nothing is left of all that sessions have done: no pin on a page, no reference to a table, no word in the log.
#[track_caller]
pub fn assert_nothing_left(db: &Database) {
    let mut other = db.connect();
    let tables =
        ["credits_transactions", "user_balance_checkpoints", "batch_aggregates", "daily_totals", "holds"];
    for table in tables {
        // It waits for whoever has a page pinned, and passes none by.
        other.run("SET statement_timeout = '60s'");
        other.run(&format!("VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) credits.{table}"));
        let frozen: bool = other.value(
            &format!(
                "SELECT age(relfrozenxid) <= 1 AND relallvisible = relpages FROM pg_class
                 WHERE oid = 'credits.{table}'::regclass"
            ),
            &[],
        );
        assert!(frozen, "a page of {table} was passed by");
        other.run(&format!("BEGIN; LOCK TABLE credits.{table} IN ACCESS EXCLUSIVE MODE NOWAIT"));
        // The guard would warn of it, in the log.
        other.run(&unguarded(&format!("ALTER TABLE credits.{table} SET (fillfactor = 90)")));
        other.run("ROLLBACK");
    }
    db.cluster().assert_quiet_log();
}

/// A database in a cluster of its own, where only its sessions do anything.
pub fn quiet_database() -> Database {
    let db = Database::create_alone();
    db.cluster().execute("postgres", "ALTER SYSTEM SET autovacuum = off");
    db.cluster().execute("postgres", "SELECT pg_reload_conf()");
    db.until("SELECT current_setting('autovacuum') = 'off'", &[]);
    db
}
