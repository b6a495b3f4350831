//! A retry with the same source_id is safe, also when it races with the first attempt.

use credits_ledger_tests::{Database, Direction, Refused, Session, dec, user};
use postgres::Error;

/// The stored row as text, whatever `create_transaction` is asked to describe it as.
fn create(session: &mut Session, kind: &str, amount: &str, description: &str) -> Result<String, Error> {
    session
        .query_one(
            &format!("SELECT t::text FROM credits.create_transaction('{}', '{kind}', {amount}, 'key', '{description}') t", user(1)),
            &[],
        )
        .map(|row| row.get(0))
}

fn rows(session: &mut Session) -> i64 {
    session.value("SELECT count(*) FROM credits.credits_transactions", &[])
}

#[test]
fn a_retry_returns_the_stored_row() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    let stored = create(&mut session, "purchase", "10", "first").unwrap();
    assert!(stored.contains("first"));
    assert_eq!(listener.crossings(), [(user(1), Direction::Up)]);

    assert_eq!(create(&mut session, "purchase", "10", "first").unwrap(), stored);
    assert_eq!(create(&mut session, "purchase", "10.000", "second").unwrap(), stored);
    session.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(create(&mut session, "purchase", "10", "third").unwrap(), stored);
    session.run("COMMIT");

    assert_eq!(rows(&mut session), 1);
    assert_eq!(session.balance(user(1)), dec!(10));
    assert_eq!(listener.drain(), []);
}

#[test]
fn another_content_is_refused() {
    let db = Database::create();
    let mut session = db.connect();
    create(&mut session, "purchase", "10", "first").unwrap();
    let other_user = format!("SELECT credits.create_transaction('{}', 'purchase', 10, 'key')", user(2));
    let refusals = [
        create(&mut session, "purchase", "11", "first").refused("23505"),
        create(&mut session, "admin_grant", "10", "first").refused("23505"),
        session.try_run(&other_user).refused("23505"),
    ];
    let given = [("11", "10"), ("admin_grant", "purchase"), (&user(2).to_string(), &user(1).to_string())];
    for (error, (asked, stored)) in refusals.iter().zip(given) {
        let message = error.message();
        assert!([asked, stored, "\"key\""].iter().all(|part| message.contains(part)), "{message}");
        assert!(error.hint().is_some(), "{error:?}");
    }
    assert_eq!(rows(&mut session), 1);
    // An invalid request is invalid, also as a retry.
    create(&mut session, "purchase", "0", "first").refused("23514");
    create(&mut session, "refund", "10", "first").refused("22023");
}

#[test]
fn a_retry_in_the_same_transaction() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("BEGIN");
    let stored = create(&mut session, "purchase", "10", "first").unwrap();
    assert_eq!(create(&mut session, "purchase", "10", "second").unwrap(), stored);
    session.run("SAVEPOINT s");
    create(&mut session, "purchase", "11", "first").refused("23505");
    session.run("ROLLBACK TO s; COMMIT");
    assert_eq!(rows(&mut session), 1);
    assert_eq!(session.balance(user(1)), dec!(10));
}

#[test]
fn a_racing_retry_waits_and_returns_the_first_row() {
    let db = Database::create();
    let (mut first, second) = (db.connect(), db.connect());
    let mut listener = db.listen();
    first.run("BEGIN");
    let stored = create(&mut first, "purchase", "10", "first").unwrap();
    let retry = second.background(|session| create(session, "purchase", "10", "second"));
    db.until_blocked(retry.pid());
    first.run("COMMIT");
    assert_eq!(retry.finish().1.unwrap(), stored);
    assert_eq!(rows(&mut first), 1);
    assert_eq!(listener.crossings(), [(user(1), Direction::Up)]);
    first.assert_sound();
}

#[test]
fn a_racing_retry_inserts_if_the_first_attempt_fails() {
    let db = Database::create();
    let (mut first, second) = (db.connect(), db.connect());
    let mut listener = db.listen();
    first.run("BEGIN");
    create(&mut first, "purchase", "10", "first").unwrap();
    let retry = second.background(|session| create(session, "purchase", "10", "second"));
    db.until_blocked(retry.pid());
    first.run("ROLLBACK");
    assert!(retry.finish().1.unwrap().contains("second"));
    assert_eq!(rows(&mut first), 1);
    assert_eq!(listener.crossings(), [(user(1), Direction::Up)]);
}

#[test]
fn a_racing_attempt_with_another_content_is_refused() {
    let db = Database::create();
    let (mut first, second) = (db.connect(), db.connect());
    first.run("BEGIN");
    create(&mut first, "purchase", "10", "first").unwrap();
    let other = second.background(|session| create(session, "purchase", "11", "second"));
    db.until_blocked(other.pid());
    first.run("COMMIT");
    other.finish().1.refused("23505");
    assert_eq!(first.balance(user(1)), dec!(10));
}

/// The row is committed, but after the snapshot of the transaction that retries.
#[test]
fn a_retry_under_an_older_snapshot() {
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        let db = Database::create();
        let (mut first, mut second) = (db.connect(), db.connect());
        second.run(&format!(
            "BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM credits.credits_transactions"
        ));
        create(&mut first, "purchase", "10", "first").unwrap();
        // It cannot be shown a row from its future: whoever asks for these levels retries the transaction.
        create(&mut second, "purchase", "10", "second").refused("40001");
        second.run("ROLLBACK");
        assert_eq!(rows(&mut first), 1, "{isolation}");
    }
}
