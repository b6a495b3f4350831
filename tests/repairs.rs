//! Checkpoints that are changed or deleted by hand: what is rebuilt, and what goes on beside it.

use credits_ledger_tests::{Database, Direction, Refused, Session, dec, user};

use Direction::Down;

/// Deletes a user's checkpoint and has it made anew, as the manual says.
fn rebuild(number: u32) -> String {
    format!(
        "WITH deleted AS (
             DELETE FROM credits.user_balance_checkpoints WHERE user_id = '{}' RETURNING user_id)
         SELECT credits.refresh_checkpoint(user_id) FROM deleted",
        user(number)
    )
}

/// A damaged checkpoint is rebuilt while a charge waits for its stripe, the only one or a later one: what was told of it
/// before must not decide.
#[test]
fn a_charge_that_waited_for_a_repair_does_not_use_what_was_told_before() {
    let stripe = |number| ledger::stripe::of_user(user(number).as_bytes());
    let earlier = (2..).find(|&number| stripe(number) < stripe(1)).unwrap();
    for beside in [None, Some(earlier)] {
        let db = Database::create_alone();
        let [mut owner, mut charging, mut reader, mut repairing] = std::array::from_fn(|_| db.connect());
        for number in [1, earlier] {
            owner.grant(user(number), dec!(100));
            owner.refresh(user(number));
        }
        let mut listener = db.listen();
        let attach = |session: &mut Session| {
            session.balance(user(1));
            session.charge(user(90), dec!(1));
        };
        attach(&mut charging);
        owner.run(&format!(
            "UPDATE credits.user_balance_checkpoints SET balance = 999 WHERE user_id = '{}'",
            user(1)
        ));
        charging.charge(user(90), dec!(1));
        charging.run("BEGIN");
        charging.charge(user(1), dec!(100));
        if let Some(number) = beside {
            charging.charge(user(number), dec!(1));
        }
        for _ in 0..3 {
            assert_eq!(reader.balance(user(1)), dec!(999), "as told");
        }
        repairing.run("BEGIN");
        repairing.run(&rebuild(1));
        let held = db.hold_commit(repairing);
        let committing = charging.background(|session| session.try_run("COMMIT"));
        db.until_blocked(committing.pid());
        held.release();
        let (mut charging, committed) = committing.finish();
        committed.unwrap();
        assert_eq!(listener.crossings(), [(user(1), Down)], "beside {beside:?}");
        assert_eq!(reader.balance(user(1)), dec!(0));
        charging.assert_sound();
    }
}

/// User 1 has 100 credits, its checkpoint says 999, and so do those who have told each other.
fn with_a_wrong_checkpoint(db: &Database, session: &mut Session) {
    session.grant(user(1), dec!(100));
    session.refresh(user(1));
    db.connect().run("UPDATE credits.user_balance_checkpoints SET balance = 999");
    for _ in 0..3 {
        assert_eq!(session.balance(user(1)), dec!(999), "as told");
    }
}

/// A change is visible before anybody is told of it. A settlement that has found out what is told by then looks again when it
/// sees the change: it would store what came of the old checkpoint.
#[test]
fn a_settlement_that_sees_a_change_does_not_store_what_was_told_before() {
    let db = Database::create_alone();
    let (mut session, mut owner) = (db.connect(), db.connect());
    session.run("SET credits_ledger.checkpoint_interval = 1");
    with_a_wrong_checkpoint(&db, &mut session);
    owner.run("BEGIN; LOCK TABLE credits.user_balance_checkpoints IN ACCESS EXCLUSIVE MODE");
    let charging = session.background(|session| session.insert(user(1), "usage", dec!(1)));
    db.until_blocked(charging.pid());
    owner.run("UPDATE credits.user_balance_checkpoints SET balance = 100; COMMIT");
    let (mut session, charged) = charging.finish();
    charged.unwrap();
    assert_eq!(session.balance(user(1)), dec!(99));
    session.assert_sound();
}

fn noted(session: &mut Session) -> i64 {
    session.value("SELECT count(*) FROM credits.checkpoint_changes", &[])
}

/// Nobody waits for another one, whatever each has noted and removed of what others had.
#[test]
fn changes_at_once_do_not_wait_for_each_other() {
    let db = Database::create_alone();
    let mut sessions: [Session; 3] = std::array::from_fn(|_| db.connect());
    for number in 0..4 {
        sessions[0].grant(user(number), dec!(100));
        sessions[0].refresh(user(number));
    }
    let damage = |number| {
        format!(
            "UPDATE credits.user_balance_checkpoints SET balance = 999 WHERE user_id = '{}'",
            user(number)
        )
    };
    sessions[0].run(&damage(3));
    for (session, number) in sessions.iter_mut().zip(0..) {
        session.run(&format!("SET lock_timeout = '10s'; BEGIN; {}", damage(number)));
    }
    sessions[1].run("ROLLBACK");
    for session in [0, 2] {
        sessions[session].run("COMMIT");
    }
    let mut reader = db.connect();
    for (number, balance) in (0..).zip([999, 100, 999, 999]) {
        assert_eq!(reader.balance(user(number)), balance.into(), "user {number}");
    }
    for number in 0..4 {
        sessions[0].run(&rebuild(number));
    }
    assert!(noted(&mut reader) <= 2, "those of before are removed");
    reader.assert_sound();
}

/// Of a change that was rolled back nothing is noted, and something of the one that follows.
#[test]
fn a_change_behind_one_that_was_rolled_back_is_noted() {
    let db = Database::create_alone();
    let (mut owner, mut reader) = (db.connect(), db.connect());
    with_a_wrong_checkpoint(&db, &mut reader);
    owner.run(
        "BEGIN;
         SAVEPOINT a; UPDATE credits.user_balance_checkpoints SET balance = 5; ROLLBACK TO a;
         SAVEPOINT b; UPDATE credits.user_balance_checkpoints SET balance = 6; ROLLBACK TO b",
    );
    assert_eq!(owner.balance(user(1)), dec!(999));
    owner.run("UPDATE credits.user_balance_checkpoints SET balance = 100; COMMIT");
    for session in [&mut db.connect(), &mut owner, &mut reader] {
        assert_eq!(session.balance(user(1)), dec!(100));
    }
    reader.assert_sound();
}

/// What was told in the state before the changes must not come back with it.
#[test]
fn what_is_noted_cannot_be_taken_back() {
    for remove in [
        "DELETE FROM credits.checkpoint_changes",
        "TRUNCATE credits.checkpoint_changes",
        "SET session_replication_role = replica; TRUNCATE credits.checkpoint_changes",
        "ALTER TABLE credits.checkpoint_changes DISABLE TRIGGER announce_change;
         DELETE FROM credits.checkpoint_changes;
         ALTER TABLE credits.checkpoint_changes ENABLE ALWAYS TRIGGER announce_change",
    ] {
        let db = Database::create_alone();
        let (mut session, mut owner) = (db.connect(), db.connect());
        // Told before anything was noted.
        session.grant(user(1), dec!(100));
        for _ in 0..3 {
            session.balance(user(1));
        }
        owner.run(
            "UPDATE credits.user_balance_checkpoints SET balance = 7, watermark = '3', transaction_count = 0",
        );
        owner.run(&rebuild(1));
        owner.run("UPDATE credits.user_balance_checkpoints SET balance = 50");
        assert_eq!(db.connect().balance(user(1)), dec!(50), "{remove}");
        owner.run(remove);
        assert_eq!(db.connect().balance(user(1)), dec!(50), "{remove}");
        assert_eq!(session.balance(user(1)), dec!(50), "{remove}");
    }
}

/// With the trigger off, changes would leave no mark: nothing is told then, and nothing of before is told behind it.
#[test]
fn where_changes_are_not_noted_nothing_is_told() {
    let db = Database::create_alone();
    let (mut session, mut owner) = (db.connect(), db.connect());
    session.grant(user(1), dec!(100));
    session.refresh(user(1));
    for (alter, balance) in [
        ("DISABLE TRIGGER announce_change", dec!(40)),
        ("ENABLE TRIGGER announce_change", dec!(41)),
        ("ENABLE ALWAYS TRIGGER announce_change", dec!(42)),
    ] {
        for _ in 0..3 {
            session.balance(user(1));
        }
        owner.run(&format!("ALTER TABLE credits.user_balance_checkpoints {alter}"));
        owner.run(&format!("UPDATE credits.user_balance_checkpoints SET balance = {balance}"));
        for session in [&mut db.connect(), &mut session] {
            assert_eq!(session.balance(user(1)), balance, "{alter}");
        }
    }
    owner.run(&rebuild(1));
    session.assert_sound();
    assert_eq!(session.balance(user(1)), dec!(100));
}

#[test]
fn what_is_noted_is_not_for_clients() {
    let db = Database::create();
    let role = db.create_role("client");
    let mut client = db.connect_as(&role);
    client.try_run("SELECT * FROM credits.checkpoint_changes").refused("42501");
    db.connect().run(&format!("GRANT USAGE ON SCHEMA credits TO {role}"));
    client.try_run("SELECT * FROM credits.checkpoint_changes").refused("42501");
    client.try_run("INSERT INTO credits.checkpoint_changes VALUES ('1', now())").refused("42501");
}
