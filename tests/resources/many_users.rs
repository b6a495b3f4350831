//! Very many users in one transaction and in one call; calls that are stopped half way.

use std::collections::HashSet;

use credits_ledger_tests::{Database, Direction, Refused, Session, Uuid};

use crate::footprint::{
    Memory, assert_nothing_held, assert_nothing_left, most_memory_during, quiet_database,
};

const USERS: u32 = 100_000;
const MEGABYTE: i64 = 1024 * 1024;

/// One statement for all of them.
fn record(session: &mut Session, kind: &str, amount: &str) {
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         SELECT md5(n::text)::uuid, '{kind}', {amount}, '{kind}-' || n FROM generate_series(1, {USERS}) n"
    ));
}

/// In the default number of locks, and with nobody left out.
fn the_first_credits_of_all(db: &Database, session: &mut Session) {
    let per_transaction: String = session.value("SHOW max_locks_per_transaction", &[]);
    assert_eq!(per_transaction, "64");
    let mut listener = db.listen();
    record(session, "purchase", "n");
    let crossings = listener.crossings();
    assert!(crossings.iter().all(|(_, direction)| *direction == Direction::Up));
    let users: HashSet<Uuid> = crossings.iter().map(|(user, _)| *user).collect();
    assert_eq!((crossings.len(), users.len()), (USERS as usize, USERS as usize));
    let unread: f64 = session.value("SELECT pg_notification_queue_usage()", &[]);
    assert!(unread < 0.01, "{unread} of the queue are still taken");
}

/// A million users of which few are different, and very many different ones, whether the session has met them or not.
fn bulk_reads_in_bounded_memory(session: &mut Session) {
    for (ids, distinct) in [("n % 1000", 1000), ("n % 100000", USERS)] {
        session.run(&format!(
            "CREATE TEMPORARY TABLE asked AS SELECT array_agg(md5(({ids} + 1)::text)::uuid) AS ids
             FROM generate_series(1, 1000000) n"
        ));
        for function in ["get_users_balances_bulk", "refresh_checkpoints_bulk"] {
            let before = Memory::of(session);
            let sql = format!(
                "SELECT format('%s %s', count(*), sum(balance)) FROM credits.{function}((SELECT ids FROM asked))"
            );
            let (most, found) = most_memory_during(session, |session| session.value::<String>(&sql, &[]));
            println!("{function} of {distinct}: {before:?}, {most} at most");
            let sum = u64::from(distinct) * u64::from(distinct + 1) / 2;
            assert_eq!(found, format!("{distinct} {sum}"));
            assert!(most - before.process < 200 * MEGABYTE, "{function}: {most} is far more than {before:?}");
        }
        session.run("DROP TABLE asked");
    }
}

/// Cancels the call while it runs. On a machine that has much else to do, it may be over before it is cancelled.
fn cancelled_during(db: &Database, mut session: Session, call: &str) -> Session {
    for attempt in 0..20 {
        let sql = format!("SELECT FROM credits.{call} -- {attempt}");
        let run = sql.clone();
        let busy = session.background(move |session| session.try_run(&run));
        let pid = busy.pid();
        db.until("SELECT query = $2 FROM pg_stat_activity WHERE pid = $1", &[&pid, &sql]);
        db.observe(|observer| observer.value::<bool>("SELECT pg_cancel_backend($1)", &[&pid]));
        let (again, result) = busy.finish();
        session = again;
        if result.is_err() {
            result.refused("57014");
            return session;
        }
    }
    panic!("{call} goes on after it is cancelled");
}

/// Each is cancelled while it runs; the session goes on, and nothing is left of it.
fn calls_are_cancelled(db: &Database, mut session: Session) -> Session {
    session.run("CREATE TEMPORARY TABLE asked AS SELECT array_agg(md5(n::text)::uuid) AS ids FROM generate_series(1, 1000000) n");
    for call in [
        "get_users_balances_bulk((SELECT ids FROM asked))",
        "refresh_checkpoints_bulk((SELECT ids FROM asked))",
        "get_monthly_auto_topup_spend_bulk((SELECT ids FROM asked))",
        "list_all_transactions(\"limit\" => NULL, search => '%')",
        "list_all_transactions(\"limit\" => NULL)",
        "verify_ledger()",
    ] {
        session = cancelled_during(db, session, call);
        let balance: bool = session.value("SELECT credits.get_user_balance(md5('7')::uuid) = 7", &[]);
        assert!(balance, "after {call}");
        assert_nothing_held(db, &session);
    }
    session.run("DROP TABLE asked");
    session
}

/// A list is left before its end, by closing the cursor and by each end of its transaction.
fn cursors_are_abandoned(db: &Database, session: &mut Session) {
    let list = "list_all_transactions(\"limit\" => NULL)";
    let balances = "get_users_balances_bulk((SELECT array_agg(user_id) FROM credits.balances))";
    for (call, end) in
        [(list, "CLOSE c; COMMIT"), (balances, "COMMIT"), (list, "ROLLBACK"), (balances, "SELECT 1 / 0")]
    {
        session.run(&format!("BEGIN; DECLARE c CURSOR FOR SELECT * FROM credits.{call}; MOVE 1000 IN c"));
        if session.try_run(end).is_err() {
            session.run("ROLLBACK");
        }
        assert_nothing_held(db, session);
    }
}

#[test]
fn very_many_users() {
    let db = quiet_database();
    let mut session = db.connect();
    the_first_credits_of_all(&db, &mut session);
    bulk_reads_in_bounded_memory(&mut session);
    cursors_are_abandoned(&db, &mut session);
    let mut session = calls_are_cancelled(&db, session);
    session.assert_sound();
    assert_nothing_held(&db, &session);
    assert_nothing_left(&db);
}
