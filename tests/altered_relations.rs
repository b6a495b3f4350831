//! Tables and indexes that their owner has altered: the ledger goes on or says what is wrong, and is never wrong itself.

use credits_ledger_tests::{Database, Direction, Refused, Session, dec, unguarded, user};

use Direction::{Down, Up};

/// Whatever writes or reads a delta says so, and nothing is kept of what it tried.
fn assert_refused(session: &mut Session, what: &str) {
    let errors = [
        session.insert(user(1), "usage", dec!(7)).refused("55000"),
        session.try_run(&format!("SELECT credits.refresh_checkpoint('{}')", user(1))).refused("55000"),
    ];
    for error in errors {
        assert!(error.message().contains(what), "{error:?}");
        assert!(error.hint().is_some(), "{error:?}");
    }
}

fn with_a_delta(session: &mut Session) {
    session.grant(user(1), dec!(5));
    session.charge_batch(user(1), user(1), dec!(2));
}

/// A session that has inserted holds the ledger in place, but not the derived tables before it settles.
#[test]
fn primary_keys_may_be_made_anew_under_a_transaction() {
    let db = Database::create();
    let mut admin = db.connect();
    let mut listener = db.listen();
    with_a_delta(&mut admin);
    assert_eq!(listener.crossings(), [(user(1), Up)]);
    // One that has the tables at hand, but has not met the user.
    let mut session = db.connect();
    session.charge(user(2), dec!(1));
    session.run("BEGIN");
    session.charge_batch(user(1), user(1), dec!(7));
    admin.run("REINDEX TABLE CONCURRENTLY credits.user_balance_checkpoints");
    admin.run("REINDEX TABLE CONCURRENTLY credits.batch_aggregates");
    session.run("COMMIT");
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    session.assert_sound();
}

#[test]
fn without_the_index_of_deltas_nothing_is_settled() {
    let db = Database::create();
    let (mut session, mut admin) = (db.connect(), db.connect());
    with_a_delta(&mut session);
    admin.run("ALTER INDEX credits.credits_transactions_delta_idx RENAME TO elsewhere");
    assert_refused(&mut session, "credits.credits_transactions_delta_idx is missing");
    admin.run("ALTER INDEX credits.elsewhere RENAME TO credits_transactions_delta_idx");
    assert_eq!(session.balance(user(1)), dec!(3));
    session.assert_sound();
}

/// A concurrent build that has failed leaves an index which lacks the rows that came while it was built.
#[test]
fn an_index_of_deltas_that_is_not_valid_is_not_used() {
    let db = Database::create();
    let (mut session, mut admin) = (db.connect(), db.connect());
    with_a_delta(&mut session);
    admin.run(
        "DROP INDEX credits.credits_transactions_delta_idx;
         CREATE INDEX credits_transactions_delta_idx ON credits.credits_transactions (user_id, xact_id);
         UPDATE pg_index SET indisvalid = false
         WHERE indexrelid = 'credits.credits_transactions_delta_idx'::regclass",
    );
    assert_refused(&mut session, "credits.credits_transactions_delta_idx is not valid");
    let mut fresh = db.connect();
    fresh.try_run(&format!("SELECT credits.get_user_balance('{}')", user(1))).refused("55000");
    fresh.try_run(&format!("SELECT credits.list_transactions_with_batches('{}')", user(1))).refused("55000");
    admin.run("REINDEX INDEX credits.credits_transactions_delta_idx");
    assert_eq!(session.balance(user(1)), dec!(3));
    session.assert_sound();
}

/// The session has written when the table goes: its commit must not pass for a settled one.
#[test]
fn a_derived_table_that_is_missing_stops_commits() {
    let db = Database::create();
    let (mut session, mut admin) = (db.connect(), db.connect());
    with_a_delta(&mut session);
    for table in ["user_balance_checkpoints", "batch_aggregates"] {
        session.run("BEGIN");
        session.charge(user(1), dec!(7));
        admin.run(&unguarded(&format!("ALTER TABLE credits.{table} RENAME TO elsewhere")));
        // Learns of it.
        session.run("CREATE TEMPORARY TABLE unrelated ()");
        let error = session.try_run("COMMIT").refused("55000");
        assert!(error.message().contains(&format!("credits.{table} is missing")), "{error:?}");
        assert_refused(&mut session, &format!("credits.{table} is missing"));
        admin.run(&unguarded(&format!("ALTER TABLE credits.elsewhere RENAME TO {table}")));
        assert_eq!(session.balance(user(1)), dec!(3));
    }
    session.assert_sound();
}

/// The engine writes derived tables as the server writes its catalog, which has plain indexes only.
#[test]
fn indexes_on_derived_tables_must_be_plain() {
    // Alone: the refreshes must have rows to fold.
    let db = Database::create_alone();
    let (mut session, mut admin) = (db.connect(), db.connect());
    with_a_delta(&mut session);
    for definition in ["(user_id) WHERE NOT is_positive", "((balance * 2))"] {
        session.charge(user(1), dec!(1));
        session.grant(user(1), dec!(1));
        let create = format!("CREATE INDEX odd ON credits.user_balance_checkpoints {definition}");
        admin.try_run(&create).refused("55000");
        admin.run(&unguarded(&create));
        assert_refused(&mut session, "index odd");
        admin.run(
            "DROP INDEX credits.odd; CREATE INDEX plain ON credits.user_balance_checkpoints (updated_at)",
        );
        session.charge_batch(user(1), user(2), dec!(7));
        session.grant(user(1), dec!(7));
        session.refresh(user(1));
        assert_eq!(session.balance(user(1)), dec!(3));
        session.assert_sound();
        admin.run("DROP INDEX credits.plain");
    }
    admin.run(&unguarded(
        "CREATE INDEX odd ON credits.batch_aggregates (user_id, ((created_at AT TIME ZONE 'UTC')::date))",
    ));
    session.charge_batch(user(1), user(3), dec!(1));
    session.try_run(&format!("SELECT credits.refresh_checkpoint('{}')", user(1))).refused("55000");
    admin.run("DROP INDEX credits.odd");
    session.refresh(user(1));
    session.assert_sound();
}
