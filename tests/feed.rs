//! The ledger read forward.

use credits_ledger_tests::{Database, Refused, Session, dec, user};

/// What the feed must have: the rows of transactions that are older than every open one.
fn expected(session: &mut Session) -> Vec<String> {
    session.values(
        "SELECT source_id FROM credits.credits_transactions WHERE xact_id < pg_snapshot_xmin(pg_current_snapshot())
         ORDER BY xact_id, seq",
        &[],
    )
}

fn charge(session: &mut Session, source_id: &str) {
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         VALUES ('{}', 'usage', 1, '{source_id}')",
        user(1)
    ));
}

#[test]
fn every_column_is_shown() {
    let db = Database::create_alone();
    let mut session = db.connect();
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (id, user_id, transaction_type, amount, source_id, description, fusillade_batch_id,
                                                   api_key_id, created_at, category, metadata, reverses)
         VALUES ('{0}', '{1}', 'usage', 1.50, 'a', 'd', '{2}', '{3}', '2026-01-01', 'c', '{{\"m\": 1}}', '{4}'),
                (DEFAULT, '{1}', 'usage', 1, 'b', NULL, NULL, NULL, DEFAULT, NULL, NULL, NULL)",
        user(1), user(2), user(3), user(4), user(5)
    ));
    let different: Vec<String> = session.values(
        "SELECT f::text FROM (SELECT (f).* FROM credits.transactions_after() f) f
         FULL JOIN credits.credits_transactions t USING (id)
         WHERE (f.user_id, f.transaction_type, f.amount::text, f.source_id, f.description, f.created_at, f.seq, f.fusillade_batch_id,
                f.api_key_id, f.category, f.metadata, f.reverses)
               IS DISTINCT FROM
               (t.user_id, t.transaction_type, t.amount::text, t.source_id, t.description, t.created_at, t.seq, t.fusillade_batch_id,
                t.api_key_id, t.category, t.metadata, t.reverses)",
        &[],
    );
    assert_eq!(different, [""; 0]);
    assert_eq!(session.read_feed(None, 1).1, ["a", "b"]);
}

#[test]
fn arguments_are_checked() {
    let db = Database::create_alone();
    let mut session = db.connect();
    charge(&mut session, "a");
    let position: String = session.value("SELECT feed_position FROM credits.transactions_after()", &[]);
    let [name, rest] = [&position[..36], &position[36..]];
    for (arguments, expected) in [
        ("NULL, -1".to_owned(), "argument limit must not be negative, but is -1".to_owned()),
        ("''".to_owned(), "argument feed_position is no position of a feed: \"\"".to_owned()),
        ("'1'".to_owned(), "argument feed_position is no position of a feed: \"1\"".to_owned()),
        (format!("'{name}'"), format!("argument feed_position is no position of a feed: \"{name}\"")),
        (
            format!("'{position} '"),
            format!("argument feed_position is no position of a feed: \"{position} \""),
        ),
        (
            format!("'{name}:01:1'"),
            format!("argument feed_position is no position of a feed: \"{name}:01:1\""),
        ),
        (
            format!("'{name}:-1:1'"),
            format!("argument feed_position is no position of a feed: \"{name}:-1:1\""),
        ),
        (
            format!("upper('{position}')"),
            format!("argument feed_position is no position of a feed: \"{}\"", position.to_uppercase()),
        ),
        (
            format!("'{}{rest}'", user(1)),
            format!("argument feed_position is of another ledger: \"{}{rest}\"", user(1)),
        ),
    ] {
        let error = session
            .try_run(&format!("SELECT * FROM credits.transactions_after({arguments})"))
            .refused("22023");
        assert_eq!(error.message(), expected);
    }
    for (limit, count) in [("0", 0_i64), ("1", 1), ("NULL", 1), ("9223372036854775807", 1)] {
        let rows = format!("SELECT count(*) FROM credits.transactions_after(NULL, {limit})");
        assert_eq!(session.value::<i64>(&rows, &[]), count, "{limit}");
    }
    // Further than anything there is.
    let beyond =
        format!("SELECT count(*) FROM credits.transactions_after('{name}:{}:{}')", u64::MAX, i64::MAX);
    assert_eq!(session.value::<i64>(&beyond, &[]), 0);
}

/// A transaction that is older than others but commits later is still behind every position that was given out.
#[test]
fn nothing_comes_before_a_position_that_was_given_out() {
    let db = Database::create_alone();
    let (mut reader, mut old, mut young) = (db.connect(), db.connect(), db.connect());
    charge(&mut reader, "before");
    old.run("BEGIN");
    charge(&mut old, "old");
    charge(&mut young, "young");
    let (position, first) = reader.read_feed(None, 1);
    assert_eq!(first, ["before"]);
    // Neither does a savepoint's number count, nor a reader.
    old.run("SAVEPOINT s");
    charge(&mut old, "old, in a savepoint");
    old.run("RELEASE s");
    let mut idle = db.connect();
    idle.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM credits.balances");
    assert_eq!(reader.read_feed(position.as_deref(), 1).1, [""; 0]);
    old.run("COMMIT");
    let (_, then) = reader.read_feed(position.as_deref(), 1);
    assert_eq!(then, ["old", "old, in a savepoint", "young"]);
    // An old snapshot goes on as it was.
    assert_eq!(idle.read_feed(None, 10).1, ["before"]);
    idle.run("COMMIT");
    assert_eq!(idle.read_feed(None, 1).1, expected(&mut reader));
}

/// One of another database counts, too: its id was given out by the same server.
#[test]
fn prepared_transactions_are_open() {
    let db = Database::create_alone();
    let other = db.create_beside();
    let (mut reader, mut writer) = (db.connect(), db.connect());
    for (database, is_here) in [(&db, true), (&other, false)] {
        let mut session = database.connect();
        session.run("BEGIN");
        charge(&mut session, "prepared");
        session.run("PREPARE TRANSACTION 'p'");
        charge(&mut writer, &format!("after, {is_here}"));
        let (position, before) = reader.read_feed(None, 100);
        assert!(!before.contains(&format!("after, {is_here}")));
        database.connect().run("COMMIT PREPARED 'p'");
        let (_, then) = reader.read_feed(position.as_deref(), 100);
        let own = if is_here { vec!["prepared".to_owned()] } else { Vec::new() };
        assert_eq!(then, [own, vec![format!("after, {is_here}")]].concat());
    }
}

#[test]
fn own_rows_come_when_they_are_committed() {
    let db = Database::create_alone();
    let mut session = db.connect();
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let (position, _) = session.read_feed(None, 10);
        session.run(&format!("BEGIN ISOLATION LEVEL {level}"));
        charge(&mut session, level);
        assert_eq!(session.read_feed(position.as_deref(), 10).1, [""; 0]);
        session.run("COMMIT");
        assert_eq!(session.read_feed(position.as_deref(), 10).1, [level]);
    }
}

/// One row by one, by few and all at once: each once, in the same order, whatever lies where.
#[test]
fn pages_of_any_size_have_each_row_once() {
    let db = Database::create_alone();
    let mut session = db.connect();
    // One transaction with very many rows, rows in the order of many, some by hand with seqs of their own, and holes.
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, seq) OVERRIDING SYSTEM VALUE
         SELECT '{0}', 'usage', 1, 'many ' || n, -3 * n FROM generate_series(1, 40000) n",
        user(1)
    ));
    session.run(&format!(
        "DO $$ BEGIN FOR n IN 1..200 LOOP
             INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) VALUES ('{}', 'usage', 1, 'one ' || n);
             IF n % 3 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
         END LOOP; END $$",
        user(1)
    ));
    // A transaction that goes on for long: its rows lie among those of others, also by seq.
    let mut long = db.connect();
    long.run("BEGIN");
    for round in 0..20 {
        charge(&mut long, &format!("long {round}"));
        session.run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
             SELECT '{}', 'usage', 1, 'round {round}, ' || n FROM generate_series(1, 300) n",
            user(2)
        ));
    }
    long.run("COMMIT");
    let expected = expected(&mut session);
    assert_eq!(expected.len(), 40_000 + 134 + 20 * 301);
    let in_pages = |session: &mut Session, expected: &[String], limits: &[i64]| {
        for &limit in limits {
            assert!(session.read_feed(None, limit).1 == expected, "in pages of {limit}");
        }
        let all: Vec<String> =
            session.values("SELECT source_id FROM credits.transactions_after(NULL, NULL)", &[]);
        assert!(all == expected, "all at once");
    };
    in_pages(&mut session, &expected, &[997, 20_000, 1_000_000]);
    session.run("VACUUM credits.credits_transactions");
    in_pages(&mut session, &expected, &[97, 997, 1_000_000]);
    // Without its indexes it costs more and says the same.
    session.run("BEGIN; DROP INDEX credits.credits_transactions_stamp_idx");
    in_pages(&mut session, &expected, &[5000]);
    session.run("DROP INDEX credits.credits_transactions_seq_idx");
    in_pages(&mut session, &expected, &[20_000]);
    session.run("ROLLBACK");
    // Those that have copied their rows from another node, be they many or few, are left out.
    session.run(
        "INSERT INTO credits.copies SELECT xact_id FROM credits.credits_transactions
         WHERE source_id IN ('many 1', 'long 1', 'one 1')",
    );
    let copied = |row: &String| row.starts_with("many") || row.starts_with("long") || row == "one 1";
    let left: Vec<String> = expected.into_iter().filter(|row| !copied(row)).collect();
    in_pages(&mut session, &left, &[97, 997, 1_000_000]);
}

#[test]
fn privileges_and_policies_are_the_callers() {
    let db = Database::create_alone();
    let role = db.create_role("tenant");
    let (mut admin, mut tenant) = (db.connect(), db.connect_as(&role));
    for number in [1, 2, 1] {
        admin.charge(user(number), dec!(1));
    }
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT EXECUTE ON FUNCTION credits.transactions_after TO {role}"
    ));
    let error = tenant.try_run("SELECT * FROM credits.transactions_after()").refused("42501");
    assert_eq!(error.message(), "permission denied for table credits_transactions");
    admin.run(&format!("GRANT SELECT ON credits.credits_transactions TO {role}"));
    assert_eq!(tenant.read_feed(None, 1).1.len(), 3);
    admin.run(&format!(
        "ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON credits.credits_transactions USING (user_id = '{}')",
        user(1)
    ));
    let (position, own) = tenant.read_feed(None, 1);
    assert_eq!(own.len(), 2);
    assert_eq!(tenant.read_feed(None, 10).1, own);
    admin.charge(user(2), dec!(1));
    admin.charge(user(1), dec!(1));
    assert_eq!(tenant.read_feed(position.as_deref(), 10).1.len(), 1);
    // The same position serves whoever sees more.
    assert_eq!(admin.read_feed(position.as_deref(), 10).1.len(), 2);
    // Nor does it pass an open transaction.
    let mut open = db.connect();
    open.run("BEGIN");
    charge(&mut open, "open");
    admin.charge(user(1), dec!(1));
    assert_eq!(tenant.read_feed(None, 10).1.len(), 3);
}

/// A serializable transaction that reads the feed fails nobody's insert.
#[test]
fn readers_do_not_get_in_the_way_of_serializable_inserts() {
    let db = Database::create_alone();
    let (mut reader, mut writer) = (db.connect(), db.connect());
    charge(&mut writer, "a");
    reader.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    writer.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(reader.read_feed(None, 10).1, ["a"]);
    charge(&mut writer, "b");
    charge(&mut reader, "c");
    assert_eq!(writer.read_feed(None, 10).1, ["a"]);
    writer.run("COMMIT");
    reader.run("COMMIT");
    assert_eq!(reader.read_feed(None, 10).1, expected(&mut writer));
}

/// The owner may make a ledger anew; its positions are not the old one's.
#[test]
fn an_extension_made_anew_has_positions_of_its_own() {
    let db = Database::create_alone();
    let mut session = db.connect();
    charge(&mut session, "a");
    let (position, _) = session.read_feed(None, 10);
    session.run(
        "SET credits_ledger.allow_drop = on; DROP EXTENSION credits_ledger; CREATE EXTENSION credits_ledger",
    );
    charge(&mut session, "a");
    let after = format!("SELECT * FROM credits.transactions_after('{}')", position.unwrap());
    session.try_run(&after).refused("22023");
    assert_eq!(session.read_feed(None, 10).1, ["a"]);
}

/// A copy of a ledger takes its positions, until its owner says that it is another.
#[test]
fn a_ledger_that_is_given_another_name_has_positions_of_its_own() {
    let db = Database::create_alone();
    let (mut session, mut other) = (db.connect(), db.connect());
    charge(&mut session, "a");
    charge(&mut session, "b");
    let position: String =
        session.value("SELECT feed_position FROM credits.transactions_after(\"limit\" => 1)", &[]);
    assert_eq!(other.read_feed(Some(&position), 10).1, ["b"]);
    session.run("UPDATE credits.ledger_identity SET ledger_id = gen_random_uuid()");
    for session in [&mut session, &mut other] {
        session.try_run(&format!("SELECT * FROM credits.transactions_after('{position}')")).refused("22023");
        assert_eq!(session.read_feed(None, 10).1, ["a", "b"]);
    }
    session.assert_sound();
    session.assert_as_made();
}
