//! Erasing what people have written into an account's holds.

use credits_ledger_tests::{Database, Refused, Session, dec, user};

fn redact(session: &mut Session, number: u32) -> i64 {
    session.value("SELECT credits.redact_account($1)", &[&user(number)])
}

/// Two users with 100 credits each, and holds of 1 with texts: `a` to `d` of the first, `e` of the other.
fn database() -> (Database, Session) {
    let db = Database::create();
    let mut session = db.connect();
    for number in [1, 2] {
        session.grant(user(number), dec!(100));
    }
    for (number, source_id) in [(1, "a"), (1, "b"), (1, "c"), (1, "d"), (2, "e")] {
        session.run(&format!(
            "SELECT credits.create_hold('{}', 1, '{source_id}', description => 'secret',
                                        fusillade_batch_id => '{0}', category => 'model', metadata => '{{\"name\": \"x\"}}')",
            user(number)
        ));
    }
    (db, session)
}

/// The holds whose texts are left.
fn left(session: &mut Session) -> String {
    session.value(
        "SELECT coalesce(string_agg(source_id, ' ' ORDER BY source_id), '') FROM credits.holds
         WHERE description IS NOT NULL OR metadata IS NOT NULL",
        &[],
    )
}

/// All that must stay as it is, of every hold.
const KEPT: &str = "SELECT string_agg(concat_ws('|', source_id, user_id, amount, fusillade_batch_id, api_key_id, category, created_at,
                               expires_at), ',' ORDER BY source_id) FROM credits.holds";

#[test]
fn the_texts_of_holds_go_and_nothing_else() {
    let (_db, mut session) = database();
    // One has no texts, one only one, one has expired.
    session.run(&format!(
        "SELECT credits.create_hold('{0}', 1, 'bare'), credits.create_hold('{0}', 1, 'half', metadata => '{{}}');
         UPDATE credits.holds SET expires_at = clock_timestamp() - interval '1 minute' WHERE source_id = 'd';
         CREATE FUNCTION app() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'fired'; END $$;
         CREATE TRIGGER app_row BEFORE UPDATE OR DELETE ON credits.holds FOR EACH ROW EXECUTE FUNCTION app();
         CREATE TRIGGER app_statement AFTER UPDATE ON credits.holds FOR EACH STATEMENT EXECUTE FUNCTION app()",
        user(1)
    ));
    let kept: String = session.value(KEPT, &[]);
    let available = "SELECT concat_ws(' ', credits.get_available_balance($1), credits.get_user_balance($1))";
    let before: String = session.value(available, &[&user(1)]);
    let with_texts: i64 = session.value(
        "SELECT count(*) FROM credits.credits_transactions WHERE user_id = $1 AND (description IS NOT NULL OR metadata IS NOT NULL)",
        &[&user(1)],
    );
    assert_eq!(redact(&mut session, 1), with_texts + 5);
    assert_eq!(left(&mut session), "e");
    assert_eq!(redact(&mut session, 1), 0);
    assert_eq!(session.value::<String>(KEPT, &[]), kept);
    assert_eq!(session.value::<String>(available, &[&user(1)]), before);
    // Everything else keeps being refused.
    session.run("DROP FUNCTION app CASCADE");
    session.try_run("UPDATE credits.holds SET description = NULL WHERE source_id = 'e'").refused("55000");
    session.assert_sound();
    // Each can still be extended, captured and released, and is found by its account.
    session.run("SELECT credits.extend_hold('a', '1 hour'), credits.capture_hold('b'), credits.release_hold('c'), credits.extend_hold('d', '1 hour')");
    let found: String = session.value(
        "SELECT string_agg(source_id, ' ' ORDER BY source_id) FROM credits.list_holds($1)",
        &[&user(1)],
    );
    assert_eq!(found, "a bare d half");
    session.assert_sound();
}

#[test]
fn it_is_part_of_its_transaction() {
    let (_db, mut session) = database();
    session.run("BEGIN; SAVEPOINT s");
    redact(&mut session, 1);
    session.run("ROLLBACK TO s");
    assert_eq!(left(&mut session), "a b c d e");
    session.run(&format!(
        "SELECT credits.create_hold('{0}', 1, 'own', description => 'secret');
         SELECT credits.extend_hold('a', '1 hour');
         SELECT credits.redact_account('{0}'), credits.redact_account('{0}')",
        user(1)
    ));
    assert_eq!(left(&mut session), "e");
    session.run("ROLLBACK");
    assert_eq!(left(&mut session), "a b c d e");
    session.assert_sound();
}

/// Somebody is extending, capturing or releasing a hold: the redaction waits until that is over, without the stripe that the other's
/// commit may need. What has become of the hold is redacted, too.
#[test]
fn a_hold_that_another_is_writing_is_waited_for() {
    // What the other does, how it ends, which holds have texts then but for user 2's, and how many rows and holds are redacted.
    for (what, end, texts) in [
        ("SELECT credits.extend_hold('b', '1 hour')", "COMMIT", 4),
        ("SELECT credits.extend_hold('b', '1 hour')", "ROLLBACK", 4),
        ("SELECT credits.release_hold('b')", "COMMIT", 3),
        ("SELECT credits.release_hold('b')", "ROLLBACK", 4),
        // Its description and metadata are those of the row of the ledger now.
        ("SELECT credits.capture_hold('b')", "COMMIT", 4),
        ("SELECT credits.capture_hold('b')", "ROLLBACK", 4),
        ("UPDATE credits.holds SET expires_at = clock_timestamp() WHERE source_id = 'b'", "COMMIT", 4),
    ] {
        let (db, mut other) = database();
        redact(&mut other, 2);
        let granted: i64 = other.value(
            "SELECT count(*) FROM credits.credits_transactions WHERE user_id = $1 AND description IS NOT NULL",
            &[&user(1)],
        );
        // All that is there, so that the commit decides under the exclusive stripe.
        other.run(&format!(
            "BEGIN; {what}; SELECT credits.create_transaction('{}', 'usage', 100, 'all')",
            user(1)
        ));
        let eraser = db.connect().background(|session| redact(session, 1));
        db.until_blocked(eraser.pid());
        other.run(end);
        let (mut eraser, redacted) = eraser.finish();
        assert_eq!(redacted, granted + texts, "{what}; {end}");
        assert_eq!(left(&mut eraser), "", "{what}; {end}");
        let in_ledger: i64 = eraser.value(
            "SELECT count(*) FROM credits.credits_transactions WHERE user_id = $1 AND (description IS NOT NULL OR metadata IS NOT NULL)",
            &[&user(1)],
        );
        assert_eq!(in_ledger, 0, "{what}; {end}");
        eraser.assert_sound();
    }
}

/// Whoever comes later waits for the redaction, and captures what is left of the hold.
#[test]
fn who_writes_a_hold_that_is_redacted_waits() {
    let (db, mut eraser) = database();
    eraser.run("BEGIN");
    redact(&mut eraser, 1);
    let capture = db.connect().background(|session| session.run("SELECT credits.capture_hold('b')"));
    db.until_blocked(capture.pid());
    eraser.run("COMMIT");
    let (mut session, ()) = capture.finish();
    let texts: Option<String> = session.value(
        "SELECT concat(description, metadata) FROM credits.credits_transactions WHERE source_id = 'b'",
        &[],
    );
    assert_eq!(texts.as_deref(), Some(""));
    session.assert_sound();
}

/// A hold that its own transaction has redacted must be covered as before, and so must one that it has extended after it expired.
#[test]
fn a_hold_that_is_redacted_must_still_be_covered() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    session.run(&format!(
        "SELECT credits.create_hold('{}', 6, 'old', description => 'secret');
         UPDATE credits.holds SET expires_at = clock_timestamp() - interval '1 minute'",
        user(1)
    ));
    let create = format!("SELECT credits.create_hold('{}', 6, 'new', description => 'secret')", user(1));
    let redaction = format!("SELECT credits.redact_account('{}')", user(1));
    for asks in [create.as_str(), "SELECT credits.extend_hold('old', '1 hour')"] {
        for redacts in [redaction.clone(), format!("SAVEPOINT s; {redaction}; RELEASE s")] {
            session.run(&format!("BEGIN; {asks}; {redacts}"));
            // Written by hand, so not counted before the commit, and never refused.
            session.run(&format!("SELECT credits.create_transaction('{}', 'usage', 5, 'plain')", user(1)));
            session.try_run("COMMIT").refused("LC001");
        }
    }
    // The row trigger of the extension fires after the redaction.
    session.run(&format!(
        "BEGIN; {create};
         WITH extended AS (UPDATE credits.holds SET expires_at = 'infinity' WHERE source_id = 'new' RETURNING user_id)
         SELECT credits.redact_account(user_id) FROM extended;
         SELECT credits.create_transaction('{}', 'usage', 5, 'plain')",
        user(1)
    ));
    session.try_run("COMMIT").refused("LC001");
    session.run(&format!("BEGIN; {create}; {redaction}; COMMIT"));
    assert_eq!(left(&mut session), "");
    session.assert_sound();
}

/// As with rows of the ledger: a check that comes later passes over versions that have been replaced by then.
#[test]
fn holds_whose_keys_may_be_unchecked_are_not_redacted() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(&format!(
        "CREATE TABLE app_keys (id uuid PRIMARY KEY); INSERT INTO app_keys VALUES ('{}');
         ALTER TABLE credits.holds ADD CONSTRAINT app_key FOREIGN KEY (api_key_id) REFERENCES app_keys DEFERRABLE INITIALLY DEFERRED",
        user(7)
    ));
    session.grant(user(1), dec!(10));
    let create = |source_id: &str| {
        format!(
            "SELECT credits.create_hold('{}', 1, '{source_id}', description => 'secret', api_key_id => '{}')",
            user(1),
            user(7)
        )
    };
    let redaction = format!("SELECT credits.redact_account('{}')", user(1));
    session.run(&format!("BEGIN; {}", create("a")));
    session.try_run(&redaction).refused("55000");
    session.run("ROLLBACK");
    session.run(&create("a"));
    session.run(&redaction);
    assert_eq!(left(&mut session), "");
    session.assert_sound();
}
