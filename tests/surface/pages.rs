//! Pages without filters, which are read without a query: like the pages of a query in every respect.

use credits_ledger_tests::{Database, Refused, Session, Uuid, dec, unguarded, user};

use crate::calls::{Calls, Filters, Page};

/// Two users, rows of batches and of none in turns. A batch is folded, one is in part, and one is not.
fn history(session: &mut Session) {
    for number in 0..30 {
        if number == 15 {
            session.refresh(user(1));
        }
        match number % 3 {
            0 => session.charge(user(1), dec!(1)),
            1 => session.charge_batch(user(1), Uuid::from_u128(number / 10), dec!(1)),
            _ => session.charge(user(2), dec!(1)),
        }
    }
}

/// The pages of a user, plain and grouped, and of everybody, as far as they show which rows they have.
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
        let grouped = session.list_grouped(user(1), &Filters::default(), &page);
        pages.push(grouped.into_iter().map(|item| item.seq).collect());
    }
    pages
}

#[test]
fn a_page_does_without_its_indexes() {
    let db = Database::create_alone();
    let mut session = db.connect();
    history(&mut session);
    let expected = pages(&mut session);
    assert_eq!([expected[0].len(), expected[2].len()], [20, 13]);
    let ledger = "credits.credits_transactions";
    for (table, index, unique) in [
        (ledger, "credits_transactions_single_idx", "user_id, (seq * 0)"),
        (ledger, "credits_transactions_batched_idx", "user_id, (seq * 0)"),
        (ledger, "credits_transactions_seq_idx", "(seq * 0)"),
        ("credits.batch_aggregates", "batch_aggregates_user_seq_idx", "user_id"),
    ] {
        let mut owner = db.connect();
        owner.run(&format!("DROP INDEX credits.{index}"));
        assert_eq!(pages(&mut session), expected, "without {index}");
        session.run("BEGIN");
        session.charge(user(2), dec!(1));
        session.try_run("DELETE FROM credits.credits_transactions").refused("55000");
        session.run("ROLLBACK");
        // What fails leaves an invalid index behind.
        let create = "CREATE UNIQUE INDEX CONCURRENTLY";
        owner.run("ALTER EVENT TRIGGER credits_ledger_guard DISABLE");
        owner.try_run(&format!("{create} {index} ON {table} ({unique})")).refused("23505");
        owner.run("ALTER EVENT TRIGGER credits_ledger_guard ENABLE ALWAYS");
        assert_eq!(pages(&mut session), expected, "with an invalid {index}");
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
    for look in ["", "list_user_transactions", "list_transactions_with_batches"] {
        for session in [&mut first, &mut second] {
            session.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
        }
        if !look.is_empty() {
            first.run(&format!("SELECT * FROM credits.{look}('{}', 0, 1)", user(1)));
        }
        second.run("SELECT * FROM notes");
        first.run("INSERT INTO notes VALUES ('one')");
        second.charge(user(1), dec!(1));
        first.run("COMMIT");
        let committed = second.try_run("COMMIT");
        if look.is_empty() {
            committed.expect("nobody has looked");
        } else {
            committed.refused("40001");
        }
    }
}

#[test]
fn a_page_of_another_type_is_refused() {
    let db = Database::create();
    let mut session = db.connect();
    history(&mut session);
    let grouped = format!("list_transactions_with_batches('{}')", user(1));
    for (kind, list) in
        [("credit_transaction", "list_all_transactions()"), ("transaction_with_category", &grouped)]
    {
        for change in ["ADD ATTRIBUTE more integer", "DROP ATTRIBUTE more"] {
            session.run(&unguarded(&format!("ALTER TYPE credits.{kind} {change}")));
            session.try_run(&format!("SELECT * FROM credits.{list}")).refused("42804");
        }
    }
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
