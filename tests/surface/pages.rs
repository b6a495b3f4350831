//! Pages without filters, which are read without a query: like the pages of a query in every respect.

use credits_ledger_tests::{Database, Refused, Session, Uuid, dec, user};

use crate::calls::{Calls, Filters, Page};

/// Two users, rows of batches and of none in turns.
fn history(session: &mut Session) {
    for number in 0..30 {
        match number % 3 {
            0 => session.charge(user(1), dec!(1)),
            1 => session.charge_batch(user(1), Uuid::from_u128(number / 10), dec!(1)),
            _ => session.charge(user(2), dec!(1)),
        }
    }
}

/// The pages of a user and of everybody, as far as they show which rows they have.
fn pages(session: &mut Session) -> Vec<Vec<i64>> {
    let mut pages = Vec::new();
    for (skip, limit, before_seq) in [
        (0, Some(50), None),
        (2, Some(5), None),
        (3, None, Some(20)),
        (0, Some(4), Some(11)),
        (99, Some(1), None),
    ] {
        let page = Page { skip, limit, before_seq };
        for listed in [
            session.list_user(user(1), &Filters::default(), &page),
            session.list_all(&Filters::default(), &page),
        ] {
            pages.push(listed.into_iter().map(|row| row.seq).collect());
        }
    }
    pages
}

#[test]
fn a_page_does_without_its_indexes() {
    let db = Database::create();
    let mut session = db.connect();
    history(&mut session);
    let expected = pages(&mut session);
    assert_eq!(expected[0].len(), 20);
    for (name, unique) in
        [("single", "user_id, (seq * 0)"), ("batched", "user_id, (seq * 0)"), ("seq", "(seq * 0)")]
    {
        let (mut owner, index) = (db.connect(), format!("credits_transactions_{name}_idx"));
        owner.run(&format!("DROP INDEX credits.{index}"));
        assert_eq!(pages(&mut session), expected, "without the index {name}");
        session.run("BEGIN");
        session.charge(user(2), dec!(1));
        session.try_run("DELETE FROM credits.credits_transactions").refused("55000");
        session.run("ROLLBACK");
        // What fails leaves an invalid index behind.
        let create = "CREATE UNIQUE INDEX CONCURRENTLY";
        owner
            .try_run(&format!("{create} {index} ON credits.credits_transactions ({unique})"))
            .refused("23505");
        assert_eq!(pages(&mut session), expected, "with an invalid index {name}");
    }
}

#[test]
fn a_page_is_of_the_snapshot_of_its_query() {
    let db = Database::create();
    let (mut session, mut other) = (db.connect(), db.connect());
    history(&mut session);
    let listed = |session: &mut Session| pages(session)[0].len();
    let sql = "WITH inserted AS (
                   INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                   VALUES ($1, 'usage', 1, 'at the same time') RETURNING 1)
               SELECT (SELECT count(*) FROM credits.list_user_transactions($1)) + 0 * (SELECT count(*) FROM inserted)";
    assert_eq!(session.value::<i64>(sql, &[&user(1)]), 20);
    assert_eq!(listed(&mut session), 21);

    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(listed(&mut session), 21);
    other.charge(user(1), dec!(1));
    session.charge(user(1), dec!(1));
    session.run("SAVEPOINT s");
    session.charge(user(1), dec!(1));
    assert_eq!(listed(&mut session), 23, "the own rows, not those of others");
    session.run("ROLLBACK TO s");
    assert_eq!(listed(&mut session), 22);
    assert_eq!(listed(&mut other), 22);
    session.run("COMMIT");
    assert_eq!(listed(&mut session), 23);
}

/// A serializable reader has looked where a later row belongs, on the page or not.
#[test]
fn a_page_does_not_hide_a_conflict() {
    let db = Database::create();
    let (mut first, mut second) = (db.connect(), db.connect());
    history(&mut first);
    first.run("CREATE TABLE notes (note text); INSERT INTO notes VALUES ('zero')");
    for looks in [false, true] {
        for session in [&mut first, &mut second] {
            session.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
        }
        if looks {
            first.list_user(
                user(1),
                &Filters::default(),
                &Page { skip: 0, limit: Some(1), before_seq: None },
            );
        }
        second.run("SELECT * FROM notes");
        first.run("INSERT INTO notes VALUES ('one')");
        second.charge(user(1), dec!(1));
        first.run("COMMIT");
        let committed = second.try_run("COMMIT");
        if looks {
            committed.refused("40001");
        } else {
            committed.expect("nobody has looked");
        }
    }
}

#[test]
fn a_page_of_another_type_is_refused() {
    let db = Database::create();
    let mut session = db.connect();
    history(&mut session);
    session.run("ALTER TYPE credits.credit_transaction ADD ATTRIBUTE more integer");
    session.try_run("SELECT * FROM credits.list_all_transactions()").refused("42804");
    session.run("ALTER TYPE credits.credit_transaction DROP ATTRIBUTE more");
    session.try_run("SELECT * FROM credits.list_all_transactions()").refused("42804");
}

#[test]
fn a_page_needs_the_privileges_that_a_query_needs() {
    let db = Database::create();
    let mut session = db.connect();
    history(&mut session);
    let role = db.create_role("reader");
    session.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role};
         GRANT SELECT (id, user_id, transaction_type, amount, source_id, description, created_at, seq, fusillade_batch_id)
         ON credits.credits_transactions TO {role}"
    ));
    let mut reader = db.connect_as(&role);
    reader.try_run("SELECT * FROM credits.list_all_transactions()").refused("42501");
    session.run(&format!("GRANT SELECT (api_key_id) ON credits.credits_transactions TO {role}"));
    assert_eq!(pages(&mut reader), pages(&mut session));
}
