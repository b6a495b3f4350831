//! A transaction left open anywhere in the cluster does not stop checkpoints.

use credits_ledger_tests::{Database, Session, Uuid, dec, user};

/// Rows that the user's checkpoint does not cover.
fn uncovered(session: &mut Session, user: Uuid) -> i64 {
    session.value(
        "SELECT count(*) FROM credits.credits_transactions t JOIN credits.user_balance_checkpoints c USING (user_id)
         WHERE user_id = $1 AND (t.xact_id >= c.watermark OR t.xact_id = ANY (c.stragglers))",
        &[&user],
    )
}

fn is_straggler(session: &mut Session, user: Uuid, xact_id: &str) -> bool {
    session.value(
        "SELECT $2::text::xid8 = ANY (stragglers) FROM credits.user_balance_checkpoints WHERE user_id = $1",
        &[&user, &xact_id],
    )
}

fn xact_id(session: &mut Session) -> String {
    session.value("SELECT pg_current_xact_id()::text", &[])
}

#[test]
fn a_writer_left_idle_is_passed_by() {
    let db = Database::create();
    let (mut idle, mut writer) = (db.connect(), db.connect());
    writer.grant(user(1), dec!(10000));
    idle.run("BEGIN");
    idle.grant(user(1), dec!(7));
    idle.run("SAVEPOINT s");
    idle.charge_batch(user(1), Uuid::from_u128(1), dec!(0.5));
    let left_open = xact_id(&mut idle);
    let mut most = 0;
    for round in 0..3000 {
        if round % 2 == 0 {
            writer.charge_batch(user(1), Uuid::from_u128(round % 7), dec!(1));
        } else {
            writer.charge(user(1), dec!(1));
        }
        if round % 100 == 99 {
            most = most.max(uncovered(&mut writer, user(1)));
        }
    }
    // Twice the interval, and as many ids as an open transaction of another test may hold a watermark back.
    let interval: i64 =
        writer.value("SELECT current_setting('credits_ledger.checkpoint_interval')::bigint", &[]);
    assert!(most <= 2 * interval + 512, "{most} rows were not covered");
    writer.refresh(user(1));
    assert!(is_straggler(&mut writer, user(1), &left_open));
    assert_eq!(writer.balance(user(1)), dec!(7000));
    assert_eq!(idle.balance(user(1)), dec!(7006.5));
    writer.assert_sound();

    idle.run("COMMIT");
    // Covered by no checkpoint yet, and counted.
    assert!(is_straggler(&mut writer, user(1), &left_open));
    assert_eq!(writer.balance(user(1)), dec!(7006.5));
    writer.assert_sound();

    writer.refresh(user(1));
    assert!(!is_straggler(&mut writer, user(1), &left_open));
    assert_eq!(writer.balance(user(1)), dec!(7006.5));
    writer.assert_sound();
}

#[test]
fn a_straggler_that_rolls_back_leaves_nothing() {
    let db = Database::create();
    let (mut idle, mut writer) = (db.connect(), db.connect());
    idle.run("BEGIN");
    idle.grant(user(1), dec!(1000));
    let left_open = xact_id(&mut idle);
    for _ in 0..300 {
        writer.grant(user(1), dec!(1));
    }
    writer.refresh(user(1));
    assert!(is_straggler(&mut writer, user(1), &left_open));
    idle.run("ROLLBACK");
    assert_eq!(writer.balance(user(1)), dec!(300));
    // Forgotten with the next row that is folded.
    writer.grant(user(1), dec!(1));
    writer.refresh(user(1));
    assert!(!is_straggler(&mut writer, user(1), &left_open));
    assert_eq!(writer.balance(user(1)), dec!(301));
    writer.assert_sound();
}

/// More open transactions than may be listed: checkpoints stop at the seventeenth, balances stay exact.
#[test]
fn more_open_transactions_than_may_be_listed() {
    let db = Database::create_alone();
    let mut writer = db.connect();
    writer.grant(user(1), dec!(1));
    let mut idle: Vec<Session> = (0..20).map(|_| db.connect()).collect();
    for session in &mut idle {
        session.run("BEGIN");
        session.grant(user(1), dec!(10));
    }
    for _ in 0..300 {
        writer.grant(user(1), dec!(1));
    }
    writer.refresh(user(1));
    assert_eq!(writer.balance(user(1)), dec!(301));
    let listed: i32 = writer.value(
        "SELECT cardinality(stragglers) FROM credits.user_balance_checkpoints WHERE user_id = $1",
        &[&user(1)],
    );
    assert_eq!(listed, 16);
    writer.assert_sound();
    // Those that were listed end in another order than they began.
    for session in idle.iter_mut().rev().step_by(2) {
        session.run("COMMIT");
        writer.refresh(user(1));
        writer.assert_sound();
    }
    drop(idle);
    db.until("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'", &[]);
    assert_eq!(writer.balance(user(1)), dec!(401));
    writer.refresh(user(1));
    writer.assert_sound();
}

/// A new user's first checkpoint may be made while its first writers are open.
#[test]
fn a_straggler_older_than_the_user() {
    let db = Database::create();
    let (mut idle, mut writer) = (db.connect(), db.connect());
    idle.run("BEGIN");
    let left_open = xact_id(&mut idle);
    for number in 0..200 {
        writer.grant(user(100 + number), dec!(1));
    }
    writer.grant(user(1), dec!(1));
    writer.refresh(user(1));
    assert!(is_straggler(&mut writer, user(1), &left_open));
    idle.grant(user(1), dec!(5));
    assert_eq!(writer.balance(user(1)), dec!(1));
    assert_eq!(idle.balance(user(1)), dec!(6));
    idle.run("COMMIT");
    assert_eq!(writer.balance(user(1)), dec!(6));
    writer.assert_sound();
}
