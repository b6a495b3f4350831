//! Ledger rows are never changed.

use credits_ledger_tests::{Database, Refused, dec, user};

/// The functions behind the triggers know no other table.
#[test]
fn triggers_belong_to_their_tables() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("CREATE TABLE other (id uuid, user_id uuid)");
    for (when, timing, function, table) in [
        ("ROW", "AFTER", "note_transaction", "credits_transactions"),
        ("ROW", "BEFORE", "note_transaction", "credits_transactions"),
        ("STATEMENT", "AFTER", "note_transaction", "credits_transactions"),
        ("STATEMENT", "AFTER", "announce_change", "user_balance_checkpoints"),
    ] {
        session.run(&format!(
            "CREATE TRIGGER other {timing} INSERT ON other FOR EACH {when} EXECUTE FUNCTION credits.{function}()"
        ));
        let error = session
            .try_run("INSERT INTO other VALUES (gen_random_uuid(), gen_random_uuid())")
            .refused("39P01");
        assert!(error.message().ends_with(&format!("credits.{table} only")), "{error:?}");
        session.run("DROP TRIGGER other ON other");
    }
}

#[test]
fn every_change_is_refused() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    for (operation, change) in [
        ("UPDATE", "UPDATE credits.credits_transactions SET amount = 1"),
        ("UPDATE", "UPDATE credits.credits_transactions SET description = 'other' WHERE seq = 1"),
        ("UPDATE", "UPDATE credits.credits_transactions SET amount = 1 WHERE false"),
        ("DELETE", "DELETE FROM credits.credits_transactions"),
        ("DELETE", "DELETE FROM credits.credits_transactions WHERE false"),
        ("TRUNCATE", "TRUNCATE credits.credits_transactions"),
        ("TRUNCATE", "TRUNCATE credits.credits_transactions CASCADE"),
    ] {
        let error = session.try_run(change).refused("55000");
        assert!(
            error.message().contains(&format!("append-only: {operation}")),
            "{change}: {}",
            error.message()
        );
        assert!(error.hint().is_some(), "{change} is refused without a hint");
    }
    assert_eq!(
        session.value::<i64>("SELECT count(*) FROM credits.credits_transactions WHERE amount = 10", &[]),
        1
    );
}

#[test]
fn on_conflict_do_update_is_refused() {
    let db = Database::create();
    let mut session = db.connect();
    let upsert = "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                  VALUES (gen_random_uuid(), 'purchase', 10, 'invoice')
                  ON CONFLICT (source_id) DO UPDATE SET amount = excluded.amount";
    // Refused also where there is no conflict: whether a client works must not depend on the data.
    session.try_run(upsert).refused("55000");
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.credits_transactions", &[]), 0);
}

#[test]
fn changes_are_refused_to_replication_too() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    session.run("SET session_replication_role = replica");
    session.try_run("DELETE FROM credits.credits_transactions").refused("55000");
    session.try_run("UPDATE credits.credits_transactions SET amount = 1").refused("55000");
}
