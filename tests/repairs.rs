//! Checkpoints that are changed or deleted by hand: what is rebuilt, and what goes on beside it.

use credits_ledger_tests::{
    Database, Decimal, Direction, Refused, Session, Uuid, dec, rebuild, stripe_of, user,
};

use Direction::{Down, Up};

const TRUNCATE: &str = "TRUNCATE credits.user_balance_checkpoints";

/// A damaged checkpoint is rebuilt while a charge waits for its stripe, the only one or a later one: what was published
/// from it before must not decide.
#[test]
fn a_charge_that_waited_for_a_repair_does_not_use_what_was_published_before() {
    let stripe = |number| stripe_of(user(number));
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
            assert_eq!(reader.balance(user(1)), dec!(999), "as published");
        }
        repairing.run("BEGIN");
        repairing.run(&rebuild(user(1)));
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

/// User 1 has 100 credits, its checkpoint says 999, and so does the fold that sessions have published.
fn with_a_wrong_checkpoint(db: &Database, session: &mut Session) {
    session.grant(user(1), dec!(100));
    session.refresh(user(1));
    db.connect().run("UPDATE credits.user_balance_checkpoints SET balance = 999");
    for _ in 0..3 {
        assert_eq!(session.balance(user(1)), dec!(999), "as published");
    }
}

/// A settlement waits for the lock of the checkpoints while an owner changes one. It settles anew then: it must not store a fold
/// that was published from the old checkpoint.
#[test]
fn a_settlement_that_waited_for_a_change_does_not_store_what_was_published_before() {
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

/// An owner's correction is visible before the sessions have been told of it, and so is a checkpoint that is gone for good. A settlement
/// that sees that does not go by what was published before, whether it decides at once or looks first: its own charge takes the account
/// to zero.
#[test]
fn a_settlement_that_sees_a_change_before_it_is_told_does_not_use_what_was_published_before() {
    const UPDATE: &str = "UPDATE credits.user_balance_checkpoints SET balance = 100";
    const DELETE: &str = "DELETE FROM credits.user_balance_checkpoints";
    for (change, decides_at_once) in [(UPDATE, true), (UPDATE, false), (DELETE, true), (DELETE, false)] {
        let db = Database::create_alone();
        let (mut session, mut owner) = (db.connect(), db.connect());
        // The commit of a deletion does not make the checkpoint anew.
        owner.run("ALTER TABLE credits.user_balance_checkpoints DISABLE TRIGGER keep_announced");
        with_a_wrong_checkpoint(&db, &mut session);
        let mut listener = db.listen();
        owner.run(&format!("BEGIN; {change}"));
        let stopped = db.stop_commit(owner);
        assert_eq!(session.balance(user(1)), dec!(999), "it has not been told");
        session.run("BEGIN");
        session.charge(user(1), dec!(100));
        if decides_at_once {
            session.refresh(user(1));
        }
        session.run("COMMIT");
        stopped.release();
        assert_eq!(listener.crossings(), [(user(1), Down)], "{change}, at once: {decides_at_once}");
        assert_eq!(session.balance(user(1)), dec!(0));
        session.assert_sound();
    }
}

fn noted(session: &mut Session) -> i64 {
    session.value("SELECT count(*) FROM credits.checkpoint_changes", &[])
}

/// No change waits for another one, whatever rows of `checkpoint_changes` each inserts and deletes.
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
        sessions[0].run(&rebuild(user(number)));
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

/// What was published in the state before the changes must not come back with it.
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
        owner.run(&rebuild(user(1)));
        owner.run("UPDATE credits.user_balance_checkpoints SET balance = 50");
        assert_eq!(db.connect().balance(user(1)), dec!(50), "{remove}");
        owner.run(remove);
        assert_eq!(db.connect().balance(user(1)), dec!(50), "{remove}");
        assert_eq!(session.balance(user(1)), dec!(50), "{remove}");
    }
}

/// With the trigger off, changes would leave no row: nothing is published then, and nothing published before is used later.
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
        owner.run(&format!("ALTER TABLE credits.user_balance_checkpoints {alter}"));
        for _ in 0..3 {
            session.balance(user(1));
        }
        owner.run(&format!("UPDATE credits.user_balance_checkpoints SET balance = {balance}"));
        for session in [&mut db.connect(), &mut session] {
            assert_eq!(session.balance(user(1)), balance, "{alter}");
        }
    }
    owner.run(&rebuild(user(1)));
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

/// User 1 was announced above zero last, and is at -10: COMMIT PREPARED announces nothing.
fn cross_in_two_phases(db: &Database, session: &mut Session) {
    let balance = session.balance(user(1));
    session.run("BEGIN");
    session.charge(user(1), balance + dec!(10));
    for two_phases in ["PREPARE TRANSACTION", "COMMIT PREPARED"] {
        session.run(&format!("{two_phases} '{}'", db.name()));
    }
}

/// The side of zero that was announced is not in the ledger's rows: a checkpoint that is made anew keeps it, however the old one
/// went, so that what is not announced yet is announced once.
#[test]
fn a_crossing_that_is_not_announced_survives_a_rebuild() {
    let delete = "DELETE FROM credits.user_balance_checkpoints";
    let recheck = format!("SELECT credits.refresh_checkpoint('{}')", user(1));
    for lost in [
        rebuild(user(1)),
        delete.to_owned(),
        "TRUNCATE credits.user_balance_checkpoints".to_owned(),
        "SET LOCAL session_replication_role = replica; TRUNCATE credits.user_balance_checkpoints".to_owned(),
        format!("UPDATE credits.user_balance_checkpoints SET user_id = '{}'; {delete}", user(2)),
        format!("SAVEPOINT a; {delete}; RELEASE a"),
        format!("SAVEPOINT a; {delete}; ROLLBACK TO a; {delete}"),
        format!("SAVEPOINT a; {delete}; ROLLBACK TO a; {recheck}"),
        format!("{delete}; {recheck}; {delete}"),
        // Nothing is deleted: replication brings the checkpoints of others.
        format!("SET LOCAL session_replication_role = replica; {delete}; {recheck}"),
    ] {
        let db = Database::create();
        let (mut session, mut owner) = (db.connect(), db.connect());
        session.grant(user(1), dec!(10));
        cross_in_two_phases(&db, &mut session);
        let mut listener = db.listen();
        owner.run(&format!("BEGIN; {lost}; COMMIT"));
        assert_eq!(listener.crossings(), [(user(1), Down)], "{lost}");
        session.refresh(user(1));
        assert_eq!(listener.drain(), [], "{lost}");
        session.grant(user(1), dec!(11));
        assert_eq!(listener.crossings(), [(user(1), Up)], "{lost}");
        session.assert_sound();
    }
}

/// What was announced, and when.
fn announced(session: &mut Session) -> Vec<String> {
    session.values(
        "SELECT concat_ws(' ', user_id, is_positive, crossed_at) FROM credits.user_balance_checkpoints ORDER BY 1",
        &[],
    )
}

#[test]
fn what_is_made_anew_tells_nothing_new() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    session.charge(user(2), dec!(10));
    session.run("ALTER TABLE credits.credits_transactions DISABLE TRIGGER note_transaction");
    session.grant(user(3), dec!(10));
    session.run("ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER note_transaction");
    session.refresh(user(3));
    session.charge(user(3), dec!(5));
    let before = announced(&mut session);
    assert_eq!(before.len(), 3);
    let mut listener = db.listen();
    for lost in ["DELETE FROM", "TRUNCATE"] {
        session.run(&format!("{lost} credits.user_balance_checkpoints"));
        assert_eq!(announced(&mut session), before, "{lost}");
        session.run(&format!("BEGIN; {lost} credits.user_balance_checkpoints; ROLLBACK"));
        assert_eq!(announced(&mut session), before, "{lost}, taken back");
    }
    // Of one that is put back, changed, and deleted again by the same transaction, what it said at first counts.
    session.run(
        "BEGIN; CREATE TEMPORARY TABLE other AS SELECT * FROM credits.user_balance_checkpoints;
         UPDATE other SET is_positive = NOT is_positive;
         DELETE FROM credits.user_balance_checkpoints;
         INSERT INTO credits.user_balance_checkpoints SELECT * FROM other;
         DELETE FROM credits.user_balance_checkpoints; COMMIT",
    );
    assert_eq!(announced(&mut session), before);
    assert_eq!(listener.drain(), []);
    session.assert_sound();
}

/// An account without rows has nothing to be made from.
#[test]
fn a_checkpoint_of_nobody_is_gone() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(1));
    session.run(&format!(
        "INSERT INTO credits.user_balance_checkpoints
         SELECT '{}', 0, 0, now(), 0, watermark, '{{}}', true FROM credits.user_balance_checkpoints",
        user(2)
    ));
    session.run("DELETE FROM credits.user_balance_checkpoints");
    assert_eq!(announced(&mut session).len(), 1);
    session.assert_sound();
}

/// The session that commits a prepared transaction does not know what its checkpoints said.
#[test]
fn a_deletion_cannot_be_prepared() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    for lost in ["DELETE FROM", "TRUNCATE"] {
        session.run(&format!("BEGIN; {lost} credits.user_balance_checkpoints"));
        session.try_run(&format!("PREPARE TRANSACTION '{}'", db.name())).refused("0A000");
        assert_eq!(announced(&mut session).len(), 1);
        session.assert_sound();
    }
}

/// The batches of user 1, by every way of asking: with labels and without, with filters and without.
fn batches(session: &mut Session) -> Vec<Vec<String>> {
    let mut answers = Vec::new();
    for path in ["pg_catalog", "public"] {
        session.run(&format!("SET search_path = {path}"));
        for question in [
            "SELECT concat_ws(' ', fusillade_batch_id, trim_scale(total_amount), transaction_count, max_seq, created_at)
             FROM credits.batches WHERE user_id = U ORDER BY 1",
            "SELECT l::text FROM credits.list_transactions_with_batches(U) l",
            "SELECT l::text FROM credits.list_transactions_with_batches(U, 1, 2) l",
            "SELECT l::text FROM credits.list_transactions_with_batches(U, start_date => '2020-01-01') l",
            "SELECT credits.count_transactions_with_batches(U)::text",
            "SELECT credits.count_transactions_with_batches(U, end_date => '2100-01-01')::text",
            "SELECT credits.sum_recent_transactions_grouped(U, 2)::text",
            "SELECT credits.sum_transactions_after_date_grouped(U, '2020-01-01')::text",
        ] {
            answers.push(session.values(&question.replace('U', &format!("'{}'", user(1))), &[]));
        }
    }
    answers
}

/// What is folded of batches counts only beside a checkpoint: before the commit that makes it anew, and where the owner has seen to
/// it that none does. The user's next settlement tidies up.
#[test]
fn without_a_checkpoint_nothing_is_folded() {
    // What other tests leave open would keep rows from being folded.
    let db = Database::create_alone();
    let mut session = db.connect();
    let tenant = db.create_role("tenant");
    session.run(&format!(
        "CREATE TABLE http_analytics (id bigint PRIMARY KEY, fusillade_batch_id uuid, request_origin text,
                                      batch_request_source text, batch_sla text);
         GRANT SELECT ON http_analytics TO {tenant};
         GRANT USAGE ON SCHEMA credits TO {tenant}; GRANT SELECT ON ALL TABLES IN SCHEMA credits TO {tenant};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {tenant};
         ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON credits.credits_transactions TO {tenant} USING (user_id = '{}')",
        user(1)
    ));
    let mut tenant = db.connect_as(&tenant);
    for round in 0..2 {
        for number in [1, 2] {
            for batch in 1..=3 {
                session.charge_batch(user(number), Uuid::from_u128(batch), Decimal::from(number + round));
            }
            session.charge(user(number), dec!(1));
        }
        if round == 0 {
            (1..=2).for_each(|number| session.refresh(user(number)));
        }
    }
    let expected = batches(&mut session);
    assert_eq!(batches(&mut tenant), expected);
    let folded = "SELECT count(*) FROM credits.batch_aggregates WHERE user_id = $1";
    for lost in [
        format!("DELETE FROM credits.user_balance_checkpoints WHERE user_id = '{}'", user(1)),
        TRUNCATE.to_owned(),
    ] {
        session.run(&format!("BEGIN; {lost}"));
        assert_eq!(session.value::<i64>(folded, &[&user(1)]), 3, "left behind");
        assert_eq!(batches(&mut session), expected, "{lost}");
        session.run("COMMIT");
        assert_eq!(batches(&mut session), expected, "{lost}");
        session.assert_sound();

        session.lose_checkpoints(&lost);
        assert_eq!(session.value::<i64>(folded, &[&user(1)]), 3, "left behind");
        assert_eq!(batches(&mut session), expected, "{lost}, not made anew");
        assert_eq!(batches(&mut tenant), expected, "{lost}, not made anew");
        let found: Vec<String> =
            session.values("SELECT DISTINCT check_name FROM credits.verify_ledger() ORDER BY 1", &[]);
        assert_eq!(found, ["batch", "daily total"], "it says that they are there");
        for number in [1, 2] {
            session.refresh(user(number));
        }
        assert_eq!(batches(&mut session), expected, "{lost}, made anew");
        session.assert_sound();
    }
}
