//! A balance is that of the caller's snapshot, whatever has been settled and folded since.

use credits_ledger_tests::{Database, Decimal, Refused, Session, Uuid, dec, user};

/// The balance by every way of asking, which must agree.
#[track_caller]
fn balance_by_every_way(session: &mut Session, user: Uuid) -> Decimal {
    let row = session
        .query_one(
            "SELECT credits.get_user_balance($1),
                    (SELECT balance FROM credits.calculate_balance_with_seq($1)),
                    (SELECT balance FROM credits.get_users_balances_bulk(ARRAY[$1])),
                    coalesce((SELECT balance FROM credits.balances WHERE user_id = $1), 0),
                    coalesce((SELECT sum(CASE WHEN transaction_type IN ('purchase', 'admin_grant') THEN amount ELSE -amount END)
                              FROM credits.credits_transactions WHERE user_id = $1), 0)",
            &[&user],
        )
        .unwrap();
    let answers: Vec<Decimal> = (0..5).map(|column| row.get(column)).collect();
    assert!(
        answers.iter().all(|answer| *answer == answers[4]),
        "function, with seq, bulk, view, sum: {answers:?}"
    );
    answers[4]
}

#[test]
fn own_rows_are_seen_before_the_commit() {
    let db = Database::create();
    let (mut session, mut other) = (db.connect(), db.connect());
    session.grant(user(1), dec!(10));
    session.run("BEGIN");
    session.charge(user(1), dec!(3));
    assert_eq!(balance_by_every_way(&mut session, user(1)), dec!(7));
    assert_eq!(balance_by_every_way(&mut other, user(1)), dec!(10));
    session.refresh(user(1));
    session.charge(user(1), dec!(1));
    assert_eq!(balance_by_every_way(&mut session, user(1)), dec!(6));
    assert_eq!(balance_by_every_way(&mut other, user(1)), dec!(10));
    session.run("COMMIT");
    assert_eq!(balance_by_every_way(&mut other, user(1)), dec!(6));
    session.run("BEGIN");
    session.grant(user(1), dec!(100));
    session.run("ROLLBACK");
    assert_eq!(balance_by_every_way(&mut session, user(1)), dec!(6));
    session.assert_sound();
}

#[test]
fn a_rolled_back_savepoint_does_not_count() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    session.run("BEGIN");
    session.charge(user(1), dec!(1));
    session.run("SAVEPOINT a");
    session.charge(user(1), dec!(2));
    session.run("SAVEPOINT b");
    session.charge(user(1), dec!(4));
    assert_eq!(balance_by_every_way(&mut session, user(1)), dec!(3));
    session.run("RELEASE b");
    assert_eq!(balance_by_every_way(&mut session, user(1)), dec!(3));
    session.run("ROLLBACK TO a");
    assert_eq!(balance_by_every_way(&mut session, user(1)), dec!(9));
    session.charge(user(1), dec!(8));
    session.run("RELEASE a");
    assert_eq!(balance_by_every_way(&mut session, user(1)), dec!(1));
    session.run("COMMIT");
    assert_eq!(balance_by_every_way(&mut session, user(1)), dec!(1));
    session.refresh(user(1));
    assert_eq!(balance_by_every_way(&mut session, user(1)), dec!(1));
    session.assert_sound();
}

#[test]
fn rows_of_earlier_commands_only() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    // All parts of one statement have its snapshot, as for any query.
    let within: Decimal = session.value(
        "WITH written AS (INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                          VALUES ($1, 'usage', 4, 'x') RETURNING user_id)
         SELECT credits.get_user_balance(user_id) FROM written",
        &[&user(1)],
    );
    let sum_within: Decimal = session.value(
        "WITH written AS (INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                          VALUES ($1, 'usage', 4, 'y') RETURNING user_id)
         SELECT (SELECT sum(CASE transaction_type WHEN 'admin_grant' THEN amount ELSE -amount END)
                 FROM credits.credits_transactions t WHERE t.user_id = written.user_id) FROM written",
        &[&user(1)],
    );
    assert_eq!((within, sum_within), (dec!(10), dec!(6)));
    assert_eq!(balance_by_every_way(&mut session, user(1)), dec!(2));
    // A function that the planner may not keep from seeing later commands sees them.
    session.run(
        "CREATE FUNCTION spend(u uuid) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN
                     INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                     VALUES (u, 'usage', 1, gen_random_uuid()::text);
                     RETURN credits.get_user_balance(u);
                 END $$",
    );
    let spent: Vec<Decimal> = session.values("SELECT spend($1) FROM generate_series(1, 3)", &[&user(1)]);
    assert_eq!(spent, [dec!(1), dec!(0), dec!(-1)]);
}

#[test]
fn reads_work_in_read_only_transactions_and_never_write() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    session.charge_batch(user(1), Uuid::from_u128(1), dec!(4));
    session.run("BEGIN READ ONLY");
    assert_eq!(balance_by_every_way(&mut session, user(1)), dec!(6));
    session.run("SELECT * FROM credits.batches");
    session.run("SELECT * FROM credits.verify_ledger()");
    session.run(&format!("SELECT * FROM credits.get_users_balances_bulk(ARRAY['{}'::uuid], 1)", user(1)));
    let assigned: bool = session.value("SELECT pg_current_xact_id_if_assigned() IS NOT NULL", &[]);
    assert!(!assigned, "a read took a transaction id");
    session.run("COMMIT");
    session.run("BEGIN");
    balance_by_every_way(&mut session, user(1));
    let assigned: bool = session.value("SELECT pg_current_xact_id_if_assigned() IS NOT NULL", &[]);
    assert!(!assigned, "a read took a transaction id");
    session.run("COMMIT");
    session.run("BEGIN READ ONLY");
    session.try_run(&format!("SELECT credits.refresh_checkpoint('{}')", user(1))).refused("25006");
    session.run("ROLLBACK");
}

/// A reader of the past keeps it, while other sessions, and its own, see, settle and fold what comes after.
#[test]
fn repeatable_read_keeps_its_past() {
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        let db = Database::create();
        let (mut reader, mut writer) = (db.connect(), db.connect());
        writer.grant(user(1), dec!(100));
        // The session has met the user before.
        assert_eq!(balance_by_every_way(&mut reader, user(1)), dec!(100));
        reader.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
        assert_eq!(balance_by_every_way(&mut reader, user(1)), dec!(100));
        for round in 0..300 {
            writer.charge(user(1), dec!(1));
            if round % 50 == 0 {
                writer.refresh(user(1));
                assert_eq!(
                    balance_by_every_way(&mut reader, user(1)),
                    dec!(100),
                    "{isolation}, round {round}"
                );
            }
        }
        assert_eq!(balance_by_every_way(&mut reader, user(1)), dec!(100), "{isolation}");
        assert_eq!(balance_by_every_way(&mut reader, user(2)), dec!(0), "{isolation}");
        reader.run("COMMIT");
        assert_eq!(balance_by_every_way(&mut reader, user(1)), dec!(-200), "{isolation}");
    }
}

/// A cursor's snapshot is older than what its own session reads between two fetches.
#[test]
fn a_cursor_keeps_its_past() {
    let db = Database::create();
    let (mut reader, mut writer) = (db.connect(), db.connect());
    writer.grant(user(1), dec!(10));
    reader.run(&format!(
        "BEGIN;
         DECLARE past CURSOR FOR SELECT credits.get_user_balance('{}') FROM generate_series(1, 10)",
        user(1)
    ));
    for round in 1..=4 {
        for _ in 0..100 {
            writer.grant(user(1), dec!(1));
        }
        writer.refresh(user(1));
        assert_eq!(balance_by_every_way(&mut reader, user(1)), dec!(10) + Decimal::from(100 * round));
        assert_eq!(reader.value::<Decimal>("FETCH 1 FROM past", &[]), dec!(10));
    }
    reader.run("COMMIT");
}

/// Own rows are written while a cursor is open: the cursor does not see them, the session does.
#[test]
fn a_cursor_does_not_see_later_own_rows() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    session.run(&format!(
        "BEGIN;
         DECLARE past CURSOR FOR SELECT credits.get_user_balance('{}') FROM generate_series(1, 10)",
        user(1)
    ));
    for round in 1..=3 {
        session.charge(user(1), dec!(1));
        assert_eq!(balance_by_every_way(&mut session, user(1)), dec!(10) - Decimal::from(round));
        assert_eq!(session.value::<Decimal>("FETCH 1 FROM past", &[]), dec!(10));
    }
    session.run("COMMIT");
    session.assert_sound();
}

/// An exported snapshot may be far older than anything the importing session has read.
#[test]
fn an_imported_snapshot_is_served() {
    let db = Database::create();
    let (mut exporter, mut importer, mut writer) = (db.connect(), db.connect(), db.connect());
    writer.grant(user(1), dec!(10));
    exporter.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    let snapshot: String = exporter.value("SELECT pg_export_snapshot()", &[]);
    for _ in 0..200 {
        writer.grant(user(1), dec!(1));
        writer.refresh(user(1));
    }
    assert_eq!(balance_by_every_way(&mut importer, user(1)), dec!(210));
    importer.run(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{snapshot}'"));
    assert_eq!(balance_by_every_way(&mut importer, user(1)), dec!(10));
    importer.run("COMMIT");
    assert_eq!(balance_by_every_way(&mut importer, user(1)), dec!(210));
}

/// Rows of a transaction that has a snapshot's future id but was open when it was taken do not count, whether it
/// committed before or after the checkpoint.
#[test]
fn an_open_transaction_of_the_past_stays_open() {
    let db = Database::create();
    let (mut reader, mut slow, mut writer) = (db.connect(), db.connect(), db.connect());
    writer.grant(user(1), dec!(10));
    slow.run("BEGIN");
    slow.grant(user(1), dec!(1000));
    writer.grant(user(1), dec!(1));
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(balance_by_every_way(&mut reader, user(1)), dec!(11));
    slow.run("COMMIT");
    for _ in 0..200 {
        writer.grant(user(1), dec!(1));
        writer.refresh(user(1));
    }
    assert_eq!(balance_by_every_way(&mut writer, user(1)), dec!(1211));
    assert_eq!(balance_by_every_way(&mut reader, user(1)), dec!(11));
    reader.run("COMMIT");
    assert_eq!(balance_by_every_way(&mut reader, user(1)), dec!(1211));
}
