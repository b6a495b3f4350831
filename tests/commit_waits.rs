//! A commit that waits for a stripe can be given up, and leaves nothing behind.

use credits_ledger_tests::{
    Background, Database, Direction, HeldCommit, Listener, Refused, Session, dec, user,
};
use postgres::Error;

use Direction::{Down, Up};

/// Someone is inside a commit that takes user 1 from 10 to below zero.
fn crossing_commit(db: &Database) -> HeldCommit<'_> {
    let mut session = db.connect();
    session.run("BEGIN");
    session.charge(user(1), dec!(20));
    db.hold_commit(session)
}

/// A commit that grants user 1 a credit, and waits for the one that holds the stripe.
fn waiting_commit(db: &Database) -> Background<Result<(), Error>> {
    let mut session = db.connect();
    session.run("BEGIN");
    session.grant(user(1), dec!(1));
    let committing = session.background(|session| session.try_run("COMMIT"));
    db.until_blocked(committing.pid());
    committing
}

fn database() -> (Database, Listener) {
    // A held commit makes the notifications of the whole cluster wait.
    let db = Database::create_alone();
    db.connect().grant(user(1), dec!(10));
    let listener = db.listen();
    (db, listener)
}

/// The holder's commit goes on as if the other had never been; the other can try again.
fn assert_only_the_holder_committed(db: &Database, listener: &mut Listener, held: HeldCommit<'_>) {
    let mut session = held.release();
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    assert_eq!(session.balance(user(1)), dec!(-10));
    assert_eq!(session.stripe_locks(), 0);
    let mut again = db.connect();
    again.grant(user(1), dec!(100));
    assert_eq!(listener.crossings(), [(user(1), Up)]);
    again.assert_sound();
}

#[test]
fn a_lock_timeout_ends_the_wait() {
    let (db, mut listener) = database();
    let held = crossing_commit(&db);
    let mut session = db.connect();
    session.run("BEGIN");
    session.grant(user(1), dec!(1));
    session.run("SET LOCAL lock_timeout = '50ms'");
    session.try_run("COMMIT").refused("55P03");
    // The transaction is over: there is nothing to roll back, and the session goes on.
    assert_eq!(session.balance(user(1)), dec!(10));
    assert_only_the_holder_committed(&db, &mut listener, held);
    session.charge(user(1), dec!(1));
    session.assert_sound();
}

/// Postgres ends statement_timeout where the commit begins.
#[test]
fn a_statement_timeout_does_not_reach_the_commit() {
    let (db, mut listener) = database();
    let held = crossing_commit(&db);
    let mut session = db.connect();
    session.run("BEGIN");
    session.grant(user(1), dec!(1));
    session.run("SET LOCAL statement_timeout = '20ms'");
    let committing = session.background(|session| session.try_run("COMMIT"));
    db.until_blocked(committing.pid());
    held.release();
    let (mut session, committed) = committing.finish();
    committed.unwrap();
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    assert_eq!(session.balance(user(1)), dec!(-9));
    session.assert_sound();
}

/// `transaction_timeout` does, and takes the session with it.
#[test]
fn a_transaction_timeout_ends_the_wait_and_the_session() {
    let (db, mut listener) = database();
    let mut session = db.connect();
    if session.server_version() < 170_000 {
        return;
    }
    let held = crossing_commit(&db);
    session.run("BEGIN");
    session.grant(user(1), dec!(1));
    // One message: a session that ends before it reads the next one resets the connection.
    session.try_run("SET LOCAL transaction_timeout = '50ms'; COMMIT").ended("25P04");
    db.until_gone(session.pid());
    assert_only_the_holder_committed(&db, &mut listener, held);
}

#[test]
fn a_cancel_ends_the_wait() {
    let (db, mut listener) = database();
    let held = crossing_commit(&db);
    let committing = waiting_commit(&db);
    let pid = committing.pid();
    db.observe(|observer| observer.value::<bool>("SELECT pg_cancel_backend($1)", &[&pid]));
    let (mut session, committed) = committing.finish();
    committed.refused("57014");
    assert_only_the_holder_committed(&db, &mut listener, held);
    session.charge(user(1), dec!(1));
    session.assert_sound();
}

#[test]
fn a_terminated_backend_ends_the_wait() {
    let (db, mut listener) = database();
    let held = crossing_commit(&db);
    let committing = waiting_commit(&db);
    let pid = committing.pid();
    db.observe(|observer| observer.value::<bool>("SELECT pg_terminate_backend($1)", &[&pid]));
    committing.finish().1.ended("57P01");
    db.until_gone(pid);
    assert_only_the_holder_committed(&db, &mut listener, held);
}

/// An autocommitted statement waits and gives up as a COMMIT does.
#[test]
fn a_single_statement_gives_up_too() {
    let (db, mut listener) = database();
    let held = crossing_commit(&db);
    let mut session = db.connect();
    session.run("SET lock_timeout = '50ms'");
    session.insert(user(1), "purchase", dec!(1)).refused("55P03");
    session.run("RESET lock_timeout");
    assert_only_the_holder_committed(&db, &mut listener, held);
}

/// Reads wait for no one's commit.
#[test]
fn reads_do_not_wait() {
    let (db, _listener) = database();
    let held = crossing_commit(&db);
    let mut session = db.connect();
    session.run("SET lock_timeout = '50s'");
    assert_eq!(session.balance(user(1)), dec!(10));
    session.assert_sound();
    held.release();
    assert_eq!(session.balance(user(1)), dec!(-10));
}

/// A transaction that has settled some users and gives up at another undoes what it settled.
#[test]
fn users_settled_before_the_wait_are_undone() {
    let (db, mut listener) = database();
    let mut session = db.connect();
    for number in 2..42 {
        session.grant(user(number), dec!(10));
    }
    listener.drain();
    let held = crossing_commit(&db);
    session.run("SET lock_timeout = '50ms'; BEGIN");
    for number in 1..42 {
        session.charge(user(number), dec!(10));
    }
    session.try_run("COMMIT").refused("55P03");
    session.run("RESET lock_timeout");
    held.release();
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    for number in 2..42 {
        let is_positive: bool =
            session.value("SELECT is_positive FROM credits.balances WHERE user_id = $1", &[&user(number)]);
        assert!(is_positive, "user {number}");
        session.charge(user(number), dec!(10));
        assert_eq!(listener.crossings(), [(user(number), Down)]);
    }
    session.assert_sound();
}

/// A refresh is a favour: if someone else is refreshing, a commit goes on without.
#[test]
fn a_lock_on_the_checkpoints_delays_commits_near_zero_only() {
    let (db, mut listener) = database();
    let (mut session, mut locker) = (db.connect(), db.connect());
    session.grant(user(1), dec!(1000));
    locker.run("BEGIN; LOCK TABLE credits.user_balance_checkpoints IN EXCLUSIVE MODE");
    session.charge(user(1), dec!(1));
    assert_eq!(session.balance(user(1)), dec!(1009));
    let committing = session.background(|session| session.insert(user(1), "usage", dec!(2000)));
    db.until_blocked(committing.pid());
    locker.run("COMMIT");
    let (mut session, committed) = committing.finish();
    committed.unwrap();
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    session.assert_sound();
}

#[test]
fn no_lock_outlives_its_transaction() {
    let (db, _listener) = database();
    let mut session = db.connect();
    for number in 0..300 {
        session.grant(user(number), dec!(1));
        session.charge(user(number), dec!(1));
        assert_eq!(session.stripe_locks(), 0);
    }
    session.run("BEGIN");
    session.charge(user(1), dec!(1));
    assert_eq!(session.stripe_locks(), 0, "no stripe is held while the application works");
    session.run("COMMIT");
    assert_eq!(session.stripe_locks(), 0);
}

/// Another commit that has the stripe for itself would wait for this one, which would wait for the stripe.
#[test]
fn a_commit_that_has_refreshed_a_checkpoint_waits_for_no_table() {
    let (db, mut listener) = database();
    let (mut session, mut locker) = (db.connect(), db.connect());
    for number in 1..=16 {
        session.grant(user(number), dec!(1000));
    }
    listener.crossings();
    locker.run("BEGIN; LOCK TABLE credits.spending_limits IN ACCESS EXCLUSIVE MODE");
    session.run("SET credits_ledger.checkpoint_interval = 1; BEGIN");
    for number in 1..=16 {
        session.charge(user(number), dec!(1));
    }
    // A new account: its stripe is above that of one of the others at least.
    session.grant(user(100), dec!(1));
    let committing = session.background(|session| session.try_run("COMMIT"));
    db.until_blocked(committing.pid());
    assert_eq!(db.connect().stripe_locks(), 0, "neither stripes nor refreshes");
    locker.run("COMMIT");
    let (mut session, committed) = committing.finish();
    committed.unwrap();
    assert_eq!(listener.crossings(), [(user(100), Up)]);
    let refreshed: i64 = session
        .value("SELECT count(*) FROM credits.user_balance_checkpoints WHERE transaction_count = 1", &[]);
    assert!(refreshed >= 15, "{refreshed}");
    session.assert_sound();
}

/// Of two commits that find the same checkpoint behind, one refreshes it; the other neither waits nor writes the same row.
#[test]
fn a_checkpoint_that_another_commit_is_refreshing_is_left_to_it() {
    let db = Database::create_alone();
    let (mut first, mut second) = (db.connect(), db.connect());
    first.grant(user(1), dec!(1000));
    for session in [&mut first, &mut second] {
        session.charge(user(1), dec!(1));
        session.run("SET credits_ledger.checkpoint_interval = 1");
    }
    let statistics =
        "SELECT format('%s %s', refreshes_skipped, refreshes_failed) FROM credits.settlement_statistics()";
    let before: String = second.value(statistics, &[]);
    assert_eq!(before, "0 0");
    first.run("BEGIN");
    first.charge(user(1), dec!(1));
    let held = db.hold_commit(first);
    second.run("SET lock_timeout = '1s'");
    second.charge(user(1), dec!(1));
    assert_eq!(second.value::<String>(statistics, &[]), "1 0");
    held.release();
    second.charge(user(1), dec!(1));
    assert_eq!(second.balance(user(1)), dec!(995));
    second.assert_sound();
}

/// A refresh of the last stripe needs the tables that it writes, and no others.
#[test]
fn a_checkpoint_is_refreshed_beside_locks_of_tables_that_gain_nothing() {
    let db = Database::create_alone();
    let (mut session, mut locker) = (db.connect(), db.connect());
    session.grant(user(1), dec!(1000));
    session.refresh(user(1));
    session.run("SET credits_ledger.checkpoint_interval = 1; SET lock_timeout = '1s'");
    // Finds nothing to fold, and says from when on there is.
    session.charge(user(1), dec!(1));
    let statistics =
        "SELECT ARRAY[refreshes, refreshes_skipped, refreshes_failed] FROM credits.settlement_statistics()";
    let mut expected: Vec<i64> = session.value(statistics, &[]);
    // Each folds what the one before has left, which ended before the locks were taken.
    let ways: [fn(&mut Session); 2] = [
        |session| session.charge(user(1), dec!(1)),
        |session| {
            session
                .run("RESET credits_ledger.checkpoint_interval; SELECT credits.refresh_idle_checkpoints('0')")
        },
    ];
    for way in ways {
        locker.run(
            "BEGIN; LOCK TABLE credits.batch_aggregates, credits.holds, credits.spending_limits, credits.spend_caps
                        IN ACCESS EXCLUSIVE MODE",
        );
        way(&mut session);
        expected[0] += 1;
        assert_eq!(session.value::<Vec<i64>>(statistics, &[]), expected);
        locker.run("COMMIT");
    }
    session.assert_sound();
}
