//! Erasing what people have written into an account's rows.

use credits_ledger_tests::{Database, Refused, Session, Uuid, dec, user};

/// Rows of two users, with texts of every length: short, compressed and out of line.
fn fill(session: &mut Session) {
    for number in [1, 2] {
        session.run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, description, metadata,
                                                       fusillade_batch_id, category)
             SELECT '{0}', CASE n % 3 WHEN 0 THEN 'purchase' ELSE 'usage' END, n * CASE n % 3 WHEN 0 THEN 10 ELSE 1.10 END, '{0} ' || n,
                    CASE WHEN n % 4 > 0 THEN (SELECT string_agg(md5(n || '-' || i), '') FROM generate_series(0, (n % 4) * 40) i) END,
                    CASE WHEN n % 5 > 0 THEN jsonb_build_object('name', repeat('x', n * 100)) END,
                    CASE WHEN n % 3 = 1 THEN '{0}'::uuid END, repeat('c', n)
             FROM generate_series(1, 60) n",
            user(number)
        ));
    }
}

/// All that must stay as it is, of every row.
const KEPT: &str = "SELECT md5(string_agg(concat_ws('|', id, user_id, transaction_type, amount, source_id, fusillade_batch_id, api_key_id,
                               created_at, seq, xact_id, category, reverses), ',' ORDER BY seq)) FROM credits.credits_transactions";

fn redact(session: &mut Session, number: u32) -> i64 {
    session.value("SELECT credits.redact_account($1)", &[&user(number)])
}

fn left(session: &mut Session, number: u32) -> i64 {
    session.value(
        "SELECT count(*) FROM credits.credits_transactions WHERE user_id = $1 AND (description IS NOT NULL OR metadata IS NOT NULL)",
        &[&user(number)],
    )
}

#[test]
fn description_and_metadata_go_and_nothing_else() {
    let db = Database::create();
    let mut session = db.connect();
    fill(&mut session);
    session.refresh(user(1));
    let kept: String = session.value(KEPT, &[]);
    let other: String =
        session.value("SELECT md5(string_agg(t::text, ',' ORDER BY seq)) FROM credits.credits_transactions t WHERE user_id = $1", &[&user(2)]);
    let checkpoints: String = session.value(
        "SELECT string_agg(c::text, ',' ORDER BY user_id) FROM credits.user_balance_checkpoints c",
        &[],
    );
    let balance = session.balance(user(1));
    let with_text = left(&mut session, 1);
    assert!(with_text > 50);
    assert_eq!(redact(&mut session, 1), with_text);
    assert_eq!(left(&mut session, 1), 0);
    assert_eq!(redact(&mut session, 1), 0);
    assert_eq!(redact(&mut session, 9), 0);
    assert_eq!(session.value::<String>(KEPT, &[]), kept);
    let after: String =
        session.value("SELECT md5(string_agg(t::text, ',' ORDER BY seq)) FROM credits.credits_transactions t WHERE user_id = $1", &[&user(2)]);
    assert_eq!(after, other);
    let after: String = session.value(
        "SELECT string_agg(c::text, ',' ORDER BY user_id) FROM credits.user_balance_checkpoints c",
        &[],
    );
    assert_eq!(after, checkpoints);
    assert_eq!(session.balance(user(1)), balance);
    // Every index leads to the new rows: each of these is another one.
    session.run("SET enable_seqscan = off; SET enable_bitmapscan = on");
    for (condition, count) in [
        (
            "source_id LIKE '%' AND source_id = ANY (ARRAY(SELECT $1 || ' ' || n FROM generate_series(1, 60) n))",
            60_i64,
        ),
        ("user_id::text = $1 AND fusillade_batch_id IS NOT NULL AND seq > 0", 20),
        ("user_id::text = $1 AND seq >= '-9223372036854775808'", 60),
    ] {
        let found: i64 = session.value(
            &format!("SELECT count(*) FROM credits.credits_transactions WHERE {condition}"),
            &[&user(1).to_string()],
        );
        assert_eq!(found, count, "{condition}");
    }
    assert_eq!(
        session
            .values::<String>(
                "SELECT source_id FROM credits.list_user_transactions($1, 0, NULL)",
                &[&user(1)]
            )
            .len(),
        60
    );
    for _ in 0..70 {
        session.charge(user(1), dec!(0.01));
    }
    session.assert_sound();
    session.run("VACUUM credits.credits_transactions");
    session.assert_sound();
}

/// Whatever the owner has hung on the ledger: triggers, and indexes of every kind.
#[test]
fn triggers_do_not_fire_and_indexes_are_kept() {
    let db = Database::create();
    let mut session = db.connect();
    fill(&mut session);
    session.run(
        "CREATE FUNCTION app() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$;
         CREATE TRIGGER app_row BEFORE UPDATE ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION app();
         CREATE TRIGGER app_after AFTER UPDATE ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION app();
         CREATE TRIGGER app_statement AFTER UPDATE ON credits.credits_transactions FOR EACH STATEMENT EXECUTE FUNCTION app();
         CREATE INDEX app_metadata ON credits.credits_transactions USING gin (metadata);
         CREATE INDEX app_expression ON credits.credits_transactions (lower(left(description, 10))) WHERE transaction_type = 'usage';
         CREATE INDEX app_null ON credits.credits_transactions (user_id) WHERE description IS NULL AND metadata IS NULL;
         CREATE INDEX app_hash ON credits.credits_transactions USING hash (category)",
    );
    let kept: String = session.value(KEPT, &[]);
    redact(&mut session, 1);
    assert_eq!(session.value::<String>(KEPT, &[]), kept);
    assert_eq!(left(&mut session, 1), 0);
    session.run("SET enable_seqscan = off");
    let found: i64 = session.value(
        "SELECT count(*) FROM credits.credits_transactions WHERE user_id = $1 AND description IS NULL AND metadata IS NULL",
        &[&user(1)],
    );
    assert_eq!(found, 60);
    let found: Vec<Uuid> = session
        .values("SELECT DISTINCT user_id FROM credits.credits_transactions WHERE metadata ? 'name'", &[]);
    assert_eq!(found, [user(2)]);
    session.try_run("UPDATE credits.credits_transactions SET description = NULL").refused("55000");
    session.assert_sound();
}

/// Whoever was granted EXECUTE needs nothing else, and no policy hides a row.
#[test]
fn execute_suffices() {
    let db = Database::create();
    let mut admin = db.connect();
    fill(&mut admin);
    let role = db.create_role("eraser");
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY"
    ));
    let mut eraser = db.connect_as(&role);
    let call = format!("SELECT credits.redact_account('{}')", user(1));
    eraser.try_run(&call).refused("42501");
    admin.run(&format!("GRANT EXECUTE ON FUNCTION credits.redact_account TO {role}"));
    eraser.run(&call);
    assert_eq!(left(&mut admin, 1), 0);
    eraser.try_run("SELECT FROM credits.credits_transactions").refused("42501");
    let error = eraser.try_run("SELECT credits.redact_account(NULL)").refused("22004");
    assert_eq!(error.message(), "argument user_id must not be NULL");
    eraser.try_run(&format!("BEGIN READ ONLY; {call}")).refused("25006");
}

/// Commits of the account wait, so that none sees a row twice; inserts and reads go on.
#[test]
fn commits_of_the_account_wait_and_reads_do_not() {
    let db = Database::create();
    let (mut eraser, mut writer, mut reader) = (db.connect(), db.connect(), db.connect());
    fill(&mut eraser);
    let balance = reader.balance(user(1));
    eraser.run(&format!("BEGIN; SELECT credits.redact_account('{}')", user(1)));
    assert_eq!(reader.balance(user(1)), balance);
    assert!(left(&mut reader, 1) > 50);
    // All that is there, so that the settlement would cross if it saw any row twice.
    writer.run("BEGIN");
    writer.charge(user(1), balance - dec!(1));
    let writer = writer.background(|session| session.try_run("COMMIT"));
    db.until_blocked(writer.pid());
    assert_eq!(reader.balance(user(1)), balance);
    eraser.run("COMMIT");
    let (_, committed) = writer.finish();
    committed.unwrap();
    assert_eq!(reader.balance(user(1)), dec!(1));
    assert_eq!(left(&mut reader, 1), 0);
    reader.assert_sound();
}

/// Rolled back whole or to a savepoint it has done nothing, and what the transaction has written itself is redacted, too.
#[test]
fn it_is_part_of_its_transaction() {
    let db = Database::create();
    let (mut session, mut old) = (db.connect(), db.connect());
    fill(&mut session);
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM credits.balances");
    let before = left(&mut session, 1);
    session.run("BEGIN; SAVEPOINT s");
    redact(&mut session, 1);
    session.run("ROLLBACK TO s");
    assert_eq!(left(&mut session, 1), before);
    session.run(&format!(
        "SELECT credits.create_transaction('{0}', 'usage', 1, 'own', 'secret');
         SELECT credits.redact_account('{0}'), credits.redact_account('{0}')",
        user(1)
    ));
    assert_eq!(left(&mut session, 1), 0);
    session.run("COMMIT");
    assert_eq!(left(&mut old, 1), before);
    old.run("COMMIT");
    assert_eq!(left(&mut old, 1), 0);
    session.assert_sound();
    session.run(&format!("BEGIN; SELECT credits.redact_account('{}')", user(2)));
    let error = session.try_run("PREPARE TRANSACTION 'redacted'").refused("0A000");
    assert_eq!(error.message(), "a transaction that has redacted an account cannot be prepared");
    assert!(error.hint().is_some_and(|hint| hint.contains("COMMIT")), "{:?}", error.hint());
    session.run("BEGIN");
    session.charge(user(2), dec!(1));
    session.run("PREPARE TRANSACTION 'charged'");
    session.run("COMMIT PREPARED 'charged'");
}

/// The feed gives each row once, before and after.
#[test]
fn the_feed_goes_on() {
    let db = Database::create_alone();
    let mut session = db.connect();
    fill(&mut session);
    let sources = |session: &mut Session, after: Option<&str>, limit: i64| -> Vec<(String, String)> {
        let rows = session
            .query(
                "SELECT feed_position, source_id FROM credits.transactions_after($1, $2)",
                &[&after, &limit],
            )
            .unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let all = sources(&mut session, None, 1000);
    assert_eq!(all.len(), 120);
    let position = all[29].0.as_str();
    redact(&mut session, 1);
    assert_eq!(sources(&mut session, None, 1000), all);
    assert_eq!(sources(&mut session, Some(position), 1000), all[30..]);
    session.run("VACUUM credits.credits_transactions");
    assert_eq!(sources(&mut session, Some(position), 1000), all[30..]);
}

/// The server checks a foreign key, and a deferrable unique one, at the end of the statement or of the transaction, and passes over
/// versions of rows that have been replaced by then. So where the owner has such keys, a row is redacted by a later transaction than
/// the one that inserted it.
#[test]
fn rows_whose_keys_may_be_unchecked_are_not_redacted() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(&format!(
        "CREATE TABLE app_keys (id uuid PRIMARY KEY); INSERT INTO app_keys VALUES ('{}')",
        user(7)
    ));
    let insert = |key: u32| {
        format!(
            "INSERT INTO credits.credits_transactions
                 (user_id, transaction_type, amount, source_id, description, api_key_id)
             VALUES ('{}', 'usage', 1, gen_random_uuid()::text, 'secret', '{}')",
            user(1),
            user(key)
        )
    };
    for when in ["NOT DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"] {
        session.run(&format!(
            "ALTER TABLE credits.credits_transactions
                 ADD CONSTRAINT app_key FOREIGN KEY (api_key_id) REFERENCES app_keys {when}"
        ));
        session.try_run(&insert(8)).refused("23503");
        for key in [7, 8] {
            let at_once = format!(
                "WITH inserted AS ({} RETURNING user_id) SELECT credits.redact_account(user_id) FROM inserted",
                insert(key)
            );
            let error = session.try_run(&at_once).refused("55000");
            let message = format!(
                "the transaction has inserted rows of user {} whose foreign or unique keys may be unchecked",
                user(1)
            );
            assert_eq!(error.message(), message);
        }
        session.run("BEGIN");
        session.run(&insert(7));
        let redaction = format!("SELECT credits.redact_account('{}')", user(1));
        session.try_run(&redaction).refused("55000");
        session.run(&format!("ROLLBACK; {}", insert(7)));
        assert_eq!(redact(&mut session, 1), 1);
        session.run("ALTER TABLE credits.credits_transactions DROP CONSTRAINT app_key");
    }
    session.run(
        "ALTER TABLE credits.credits_transactions
             ADD CONSTRAINT app_unique UNIQUE (description) DEFERRABLE INITIALLY DEFERRED",
    );
    session.run(&format!("BEGIN; {}; {}", insert(7), insert(7)));
    session.try_run(&format!("SELECT credits.redact_account('{}')", user(1))).refused("55000");
    session.run("ROLLBACK");
    session.assert_sound();
}

/// The server takes a value of a column that is NOT NULL for granted.
#[test]
fn what_is_not_null_is_not_cleared() {
    let db = Database::create();
    let mut session = db.connect();
    for (table, insert) in [
        (
            "credits_transactions",
            "(user_id, transaction_type, amount, source_id, description) SELECT $1, 'usage', 1, 'one', 'secret'",
        ),
        (
            "holds",
            "(user_id, amount, source_id, description, expires_at) SELECT $1, 1, 'two', 'secret', now() + interval '1 hour'",
        ),
    ] {
        session.run(&format!("ALTER TABLE credits.{table} ALTER COLUMN description SET NOT NULL"));
        session.run(&format!(
            "INSERT INTO credits.{table} {}",
            insert.replace("$1", &format!("'{}'::uuid", user(1)))
        ));
        let error =
            session.try_run(&format!("SELECT credits.redact_account('{}')", user(1))).refused("23502");
        assert_eq!(error.message(), "column description is NOT NULL, so it cannot be cleared");
        session.run(&format!("ALTER TABLE credits.{table} ALTER COLUMN description DROP NOT NULL"));
    }
    assert_eq!(redact(&mut session, 1), 2);
    session.assert_sound();
}
