//! `seq`: the ledger numbers its rows, and goes on behind rows that come with a number of their own.

use std::io::Write;

use credits_ledger_tests::{Database, Refused, Session, dec, user};
use postgres::Error;

/// The largest that there is.
const LAST: i64 = i64::MAX;

/// Inserts a row with a number of its own.
fn insert_numbered(session: &mut Session, table: &str, seq: i64) -> Result<(), Error> {
    session.try_run(&format!(
        "INSERT INTO {table} (user_id, transaction_type, amount, source_id, seq) OVERRIDING SYSTEM VALUE
         VALUES ('{}', 'admin_grant', 1, 'own {seq}', {seq})",
        user(1)
    ))
}

const LEDGER: &str = "credits.credits_transactions";

/// Inserts a row that the ledger numbers, as clients do that retry; its number, or `None` if it was not recorded.
fn insert(session: &mut Session) -> Option<i64> {
    session
        .query_opt(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
             VALUES ($1, 'admin_grant', 1, gen_random_uuid()::text) ON CONFLICT DO NOTHING RETURNING seq",
            &[&user(1)],
        )
        .expect("the row is recorded or left out")
        .map(|row| row.get(0))
}

fn numbers(session: &mut Session) -> Vec<i64> {
    session.values("SELECT seq FROM credits.credits_transactions ORDER BY seq", &[])
}

#[test]
fn the_ledger_goes_on_behind_rows_that_bring_their_numbers() {
    let db = Database::create();
    let mut session = db.connect();
    // The first number is not given out yet, and not taken for given.
    insert_numbered(&mut session, LEDGER, 1).unwrap();
    assert_eq!(insert(&mut session), Some(2));
    let mut copy = session
        .copy_in("COPY credits.credits_transactions (user_id, transaction_type, amount, source_id, seq) FROM STDIN")
        .unwrap();
    for seq in [7, 5, 200, 6] {
        writeln!(copy, "{}\tadmin_grant\t1\tcopied {seq}\t{seq}", user(1)).unwrap();
    }
    copy.finish().unwrap();
    assert_eq!(insert(&mut session), Some(201));
    session.run(&format!(
        "INSERT INTO {LEDGER} (user_id, transaction_type, amount, source_id, seq) OVERRIDING SYSTEM VALUE
         SELECT '{}', 'admin_grant', 1, 'selected ' || n, n FROM generate_series(1000, 1100) n",
        user(1)
    ));
    assert_eq!(insert(&mut session), Some(1101));
    session.assert_sound();
}

#[test]
fn it_is_never_set_back() {
    let db = Database::create();
    let mut session = db.connect();
    insert_numbered(&mut session, LEDGER, 100).unwrap();
    for seq in [-5, 0, 50, 99] {
        insert_numbered(&mut session, LEDGER, seq).unwrap();
    }
    assert_eq!(insert(&mut session), Some(101));
    // As a number that is drawn is not given back.
    session.run("BEGIN");
    insert_numbered(&mut session, LEDGER, 500).unwrap();
    session.run("SAVEPOINT s");
    insert_numbered(&mut session, LEDGER, 600).unwrap();
    session.run("ROLLBACK TO s");
    insert_numbered(&mut session, LEDGER, 550).unwrap();
    session.run("ROLLBACK");
    assert_eq!(insert(&mut session), Some(601));
}

/// Whoever draws a number meanwhile neither waits for such a row nor meets it.
#[test]
fn rows_that_are_not_committed_are_met_by_nobody() {
    let db = Database::create();
    let (mut copying, mut other) = (db.connect(), db.connect());
    copying.run("BEGIN");
    insert_numbered(&mut copying, LEDGER, 3).unwrap();
    assert_eq!(insert(&mut other), Some(4));
    // In the middle of a statement, too: it stops before its second row.
    copying.run(
        "COMMIT;
         CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.source_id = 'selected 21' THEN PERFORM pg_advisory_xact_lock(1); END IF; RETURN NEW; END $$;
         CREATE TRIGGER stop BEFORE INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION stop()",
    );
    let mut holding = db.connect();
    holding.run("BEGIN; SELECT pg_advisory_xact_lock(1)");
    let statement = copying.background(|session| {
        session.try_run(&format!(
            "INSERT INTO {LEDGER} (user_id, transaction_type, amount, source_id, seq) OVERRIDING SYSTEM VALUE
             SELECT '{}', 'admin_grant', 1, 'selected ' || n, n FROM unnest(ARRAY[5, 6, 7, 8, 20, 21]) n",
            user(1)
        ))
    });
    db.until_blocked(statement.pid());
    assert_eq!((insert(&mut other), insert(&mut other)), (Some(21), Some(22)));
    holding.run("COMMIT");
    // The number that the statement itself had yet to come to is another's: that is its own fault.
    statement.finish().1.refused("23505");
    other.assert_sound();
}

/// Rows of many at once, with numbers and without.
#[test]
fn nobody_is_given_a_number_that_is_taken() {
    let db = Database::create();
    let clients: Vec<_> = (0..4_i64)
        .map(|client| {
            db.connect().background(move |session| {
                for step in 0..100 {
                    if client == 0 {
                        insert_numbered(session, LEDGER, 1_000_000 + step * 1000).unwrap();
                    } else {
                        assert!(insert(session).is_some());
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.finish().0.run("SELECT 1");
    }
    let mut session = db.connect();
    assert_eq!(numbers(&mut session).len(), 400);
    assert_eq!(session.balance(user(1)), dec!(400));
}

#[test]
fn the_owners_definition_of_the_sequence_holds() {
    let db = Database::create();
    let (mut session, mut other) = (db.connect(), db.connect());
    let alter = |session: &mut Session, how: &str| {
        session.run(&format!("ALTER TABLE credits.credits_transactions ALTER COLUMN seq {how}"));
    };
    // Every node of several draws numbers of its own.
    alter(&mut session, "SET INCREMENT BY 1024 RESTART WITH 7");
    assert_eq!(insert(&mut session), Some(7));
    insert_numbered(&mut session, LEDGER, 2000).unwrap();
    assert_eq!(insert(&mut session), Some(7 + 1024 * 3));
    // Numbers that sessions have drawn ahead stay theirs.
    alter(&mut session, "SET INCREMENT BY 1 SET CACHE 20 RESTART WITH 10000");
    assert_eq!((insert(&mut session), insert(&mut other)), (Some(10000), Some(10020)));
    insert_numbered(&mut session, LEDGER, 10050).unwrap();
    assert_eq!((insert(&mut session), insert(&mut other)), (Some(10001), Some(10021)));
    assert_eq!(insert(&mut db.connect()), Some(10051));
    // It does not leave its range.
    alter(&mut session, "SET CACHE 1 SET MAXVALUE 20000");
    insert_numbered(&mut session, LEDGER, 30000).unwrap();
    session.insert(user(1), "usage", dec!(1)).refused("2200H");
    alter(&mut session, "SET NO MAXVALUE");
    assert_eq!(insert(&mut session), Some(20001));
}

/// Whoever may insert a number may have it followed; nobody else, though everybody may call the function that stamps.
#[test]
fn only_who_may_insert_a_number_moves_the_sequence() {
    let db = Database::create();
    let [nobody, writer, chooser] = ["nobody", "writer", "chooser"].map(|name| db.create_role(name));
    let mut admin = db.connect();
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {nobody}, {writer}, {chooser};
         GRANT INSERT (user_id, transaction_type, amount, source_id) ON {LEDGER} TO {writer}, {chooser};
         GRANT INSERT (seq) ON {LEDGER} TO {chooser};
         CREATE SCHEMA own AUTHORIZATION {nobody}; GRANT ALL ON SCHEMA own TO {writer}"
    ));
    for role in [&nobody, &writer] {
        let mut session = db.connect_as(role);
        session.run("SELECT credits.current_xact_id(1000)");
        session.run(&format!("SELECT credits.current_xact_id({LAST})"));
        session.run(
            "CREATE TABLE own.t (a int, b int, c int, d int, e int, f int, g int, h int, i int, seq bigint,
                                 x xid8 GENERATED ALWAYS AS (credits.current_xact_id(seq)) STORED);
             INSERT INTO own.t (seq) VALUES (1000); DROP TABLE own.t",
        );
        session.try_run("SELECT credits.advance_seq(1000)").refused("42501");
        assert_eq!(insert(&mut admin), Some(if role == &nobody { 1 } else { 2 }));
    }
    insert_numbered(&mut db.connect_as(&writer), LEDGER, 1000).refused("42501");
    insert_numbered(&mut db.connect_as(&chooser), LEDGER, 1000).unwrap();
    assert_eq!(insert(&mut admin), Some(1001));
    // A transaction that may not write moves nothing.
    admin.run("BEGIN READ ONLY; SELECT credits.current_xact_id(2000); COMMIT");
    assert_eq!(insert(&mut admin), Some(1002));
}

/// Through a view, rows are inserted with the privileges of its owner.
#[test]
fn rows_that_come_through_a_view_are_followed() {
    let db = Database::create();
    let role = db.create_role("app");
    let mut admin = db.connect();
    admin.run(&format!(
        "CREATE VIEW entry AS SELECT user_id, transaction_type, amount, source_id, seq FROM {LEDGER}; GRANT INSERT ON entry TO {role}"
    ));
    let mut session = db.connect_as(&role);
    session.run("BEGIN");
    insert_numbered(&mut session, "entry", 5).unwrap();
    assert_eq!(insert(&mut admin), Some(6));
    session.run("COMMIT; SELECT 1");
    insert_numbered(&mut session, "entry", 3).unwrap();
    insert_numbered(&mut session, "entry", LAST).refused("23514");
    assert_eq!(insert(&mut admin), Some(7));
}

#[test]
fn no_row_ends_the_ledger() {
    let db = Database::create();
    let writer = db.create_role("writer");
    let mut admin = db.connect();
    admin.run(&format!("GRANT USAGE ON SCHEMA credits TO {writer}; GRANT INSERT ON {LEDGER} TO {writer}"));
    let mut session = db.connect_as(&writer);
    for seq in [1 << 62, LAST] {
        let error = insert_numbered(&mut session, LEDGER, seq).refused("23514");
        assert!(error.message().contains(&seq.to_string()) && error.hint().is_some(), "{error:?}");
    }
    admin.try_run(&format!("SELECT credits.advance_seq({LAST})")).refused("23514");
    // The owner restores what there is, but the ledger does not go on from there.
    insert_numbered(&mut admin, LEDGER, LAST).unwrap();
    assert_eq!(insert(&mut admin), Some(1));
    // The highest number that is followed leaves as many as there were.
    insert_numbered(&mut session, LEDGER, (1 << 62) - 1).unwrap();
    assert_eq!(insert(&mut admin), Some(1 << 62));
    assert_eq!(insert(&mut admin), Some((1 << 62) + 1));
    // From there on, copies are followed as closely as ever.
    insert_numbered(&mut session, LEDGER, (1 << 62) + 1000).unwrap();
    assert_eq!(insert(&mut admin), Some((1 << 62) + 1001));
    admin.assert_sound();
}

#[test]
fn advance_seq_leaves_a_gap() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("SELECT credits.advance_seq(500)");
    assert_eq!(insert(&mut session), Some(501));
    session.run("SELECT credits.advance_seq(-1), credits.advance_seq(500), credits.advance_seq(501)");
    assert_eq!(insert(&mut session), Some(502));
    session.try_run("SELECT credits.advance_seq(NULL)").refused("22004");
    session.run("BEGIN READ ONLY");
    session.try_run("SELECT credits.advance_seq(600)").refused("25006");
}
