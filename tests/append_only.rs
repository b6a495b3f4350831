//! Ledger rows are never changed.

use credits_ledger_tests::{Database, Refused, dec, unguarded, user};

/// A statement for each event that triggers know, which reaches a row. All columns that may be are NULL.
fn events(table: &str) -> [(&'static str, String); 4] {
    let insert = match table {
        "credits.credits_transactions" => {
            "(user_id, transaction_type, amount, source_id) VALUES (NULL, NULL, NULL, NULL)"
        }
        "credits.user_balance_checkpoints" => {
            "VALUES (gen_random_uuid(), 1, 1, now(), 1, pg_current_xact_id(), '{}', true, NULL)"
        }
        "credits.batch_aggregates" => "VALUES (gen_random_uuid(), gen_random_uuid(), 1, 1, 1, now(), now())",
        "credits.daily_totals" => "VALUES (gen_random_uuid(), '2026-01-02', NULL, NULL, 'usage', 1, 1)",
        "credits.checkpoint_changes" => "VALUES (pg_current_xact_id(), now())",
        "credits.holds" => {
            "VALUES (gen_random_uuid(), gen_random_uuid(), 1, NULL, NULL, NULL, NULL, NULL, now(), now())"
        }
        "credits.spend_caps" => "(user_id, amount) VALUES (gen_random_uuid(), 1)",
        _ => "VALUES (gen_random_uuid())",
    };
    let column = if table == "credits.checkpoint_changes" { "xact_id" } else { "user_id" };
    [
        ("INSERT", format!("INSERT INTO {table} {insert}")),
        ("UPDATE", format!("UPDATE {table} SET {column} = {column}")),
        ("DELETE", format!("DELETE FROM {table}")),
        ("TRUNCATE", format!("TRUNCATE {table}")),
    ]
}

/// The SQLSTATE that a function of ours gives as a trigger of this kind; `None` if it is made for it, and does not refuse.
fn refusal(function: &str, table: &str, kind: (&str, &str), event: &str) -> Option<&'static str> {
    let made_for = match function {
        "note_transaction" => {
            table == "credits.credits_transactions" && kind == ("AFTER", "ROW") && event == "INSERT"
        }
        "refuse_change" if table == "credits.credits_transactions" && event != "INSERT" => {
            return Some("55000");
        }
        "leave_out" => {
            let derived = [
                "credits.user_balance_checkpoints",
                "credits.batch_aggregates",
                "credits.daily_totals",
                "credits.checkpoint_changes",
            ];
            derived.contains(&table) && kind == ("BEFORE", "ROW")
        }
        "announce_change" => {
            ["credits.user_balance_checkpoints", "credits.checkpoint_changes"].contains(&table)
                && kind == ("AFTER", "STATEMENT")
        }
        "note_hold" => table == "credits.holds" && kind == ("AFTER", "ROW"),
        "note_caps" if event == "TRUNCATE" => {
            table == "credits.spend_caps" && kind == ("BEFORE", "STATEMENT")
        }
        "note_caps" => table == "credits.spend_caps" && kind == ("AFTER", "ROW"),
        "note_limits" if event == "TRUNCATE" => {
            table == "credits.spending_limits" && kind == ("BEFORE", "STATEMENT")
        }
        "note_limits" => table == "credits.spending_limits" && kind == ("AFTER", "ROW"),
        "refuse_hold_change" if table == "credits.holds" && event == "TRUNCATE" => {
            return Some(if kind == ("BEFORE", "STATEMENT") { "55000" } else { "39P01" });
        }
        // The UPDATE that it is tried with changes nothing.
        "refuse_hold_change" => table == "credits.holds" && kind == ("AFTER", "ROW") && event == "UPDATE",
        _ => false,
    };
    (!made_for).then_some("39P01")
}

/// Attached to whatever an owner may attach them to, the functions behind the triggers refuse what they are not made for. None
/// of them takes NULL for a value.
#[test]
fn trigger_functions_refuse_what_they_are_not_made_for() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(5));
    session.run(
        "CREATE TABLE other (user_id uuid); INSERT INTO other VALUES (NULL);
         INSERT INTO credits.batch_aggregates VALUES (gen_random_uuid(), gen_random_uuid(), 1, 1, 1, now(), now());
         INSERT INTO credits.daily_totals VALUES (gen_random_uuid(), '2026-01-02', NULL, NULL, 'usage', 1, 1);
         INSERT INTO credits.checkpoint_changes VALUES (pg_current_xact_id(), now());
         INSERT INTO credits.spending_limits VALUES (gen_random_uuid());
         INSERT INTO credits.spend_caps (user_id, amount) VALUES (gen_random_uuid(), 1);
         INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('h', gen_random_uuid(), 1, now())",
    );
    for function in [
        "note_transaction",
        "refuse_change",
        "leave_out",
        "announce_change",
        "note_caps",
        "note_hold",
        "note_limits",
        "refuse_hold_change",
    ] {
        for table in [
            "credits.credits_transactions",
            "credits.user_balance_checkpoints",
            "credits.batch_aggregates",
            "credits.daily_totals",
            "credits.checkpoint_changes",
            "credits.holds",
            "credits.spending_limits",
            "credits.spend_caps",
            "other",
        ] {
            for (event, statement) in events(table) {
                for kind in
                    [("BEFORE", "ROW"), ("AFTER", "ROW"), ("BEFORE", "STATEMENT"), ("AFTER", "STATEMENT")]
                {
                    let (timing, level) = kind;
                    if event == "TRUNCATE" && level == "ROW" {
                        continue;
                    }
                    session.run(&format!(
                        "BEGIN; ALTER EVENT TRIGGER credits_ledger_guard DISABLE;
                         ALTER TABLE {table} DISABLE TRIGGER USER;
                         CREATE TRIGGER other {timing} {event} ON {table} FOR EACH {level}
                         EXECUTE FUNCTION credits.{function}()"
                    ));
                    let what = format!("{function} {timing} {event} {level} {table}");
                    match (refusal(function, table, kind, event), session.try_run(&statement)) {
                        // A row of nothing but NULL comes that far only where a trigger sees it first.
                        (Some(sqlstate), Err(error)) => {
                            let state = error.as_db_error().map(|error| error.code().code().to_owned());
                            let is_null = state.as_deref() == Some("23502") && timing == "AFTER";
                            assert!(state.as_deref() == Some(sqlstate) || is_null, "{what}: {error:?}");
                        }
                        (None, Err(error)) => {
                            assert_eq!(
                                error.code().map(|code| code.code()),
                                Some("23502"),
                                "{what}: {error:?}"
                            );
                        }
                        (Some(_), Ok(())) => panic!("{what} is not refused"),
                        (None, Ok(())) => {}
                    }
                    session.run("ROLLBACK");
                }
            }
        }
    }
    session
        .run("TRUNCATE credits.batch_aggregates; DELETE FROM credits.daily_totals WHERE day = '2026-01-02'");
    assert_eq!(session.balance(user(1)), dec!(5));
    session.assert_sound();
}

/// How a table gets the ledger's rows, if the guard does not look.
const ATTACHMENTS: [&str; 2] = [
    "CREATE TABLE parent (user_id uuid NOT NULL, transaction_type text NOT NULL, amount numeric NOT NULL, source_id text NOT NULL);
     ALTER TABLE credits.credits_transactions INHERIT parent",
    "CREATE TABLE parent (LIKE credits.credits_transactions INCLUDING DEFAULTS INCLUDING GENERATED)
     PARTITION BY RANGE (created_at);
     ALTER TABLE parent ATTACH PARTITION credits.credits_transactions FOR VALUES FROM (MINVALUE) TO (MAXVALUE)",
];

/// The triggers of a table that is reached through another fire for rows alone.
#[test]
fn changes_through_another_table_are_refused() {
    for attach in ATTACHMENTS {
        let db = Database::create();
        let mut session = db.connect();
        session.grant(user(1), dec!(10));
        let version: i32 = session.server_version();
        // From there on the server has no partitions with an identity column.
        if version >= 170_000 && attach.contains("PARTITION") {
            continue;
        }
        session.run(&unguarded(attach));
        let mut changes = vec![
            "UPDATE parent SET amount = amount + 5",
            "DELETE FROM parent",
            "TRUNCATE parent",
            "TRUNCATE parent CASCADE",
            "SET LOCAL session_replication_role = replica; UPDATE parent SET amount = 1",
            "SET LOCAL session_replication_role = replica; DELETE FROM parent",
            "WITH gone AS (DELETE FROM parent RETURNING 1) SELECT FROM gone",
        ];
        if version >= 150_000 {
            changes.push("MERGE INTO parent USING (SELECT 1) x ON true WHEN MATCHED THEN DELETE");
            changes
                .push("MERGE INTO parent USING (SELECT 1) x ON true WHEN MATCHED THEN UPDATE SET amount = 1");
        }
        for change in changes {
            session.run("BEGIN");
            let error = session.try_run(change).refused("55000");
            assert!(error.message().contains("append-only"), "{change}: {error:?}");
            session.run("ROLLBACK");
        }
        // What is inserted that way into a partition is a row of the ledger like any other.
        if attach.contains("PARTITION") {
            session.run(&format!(
                "INSERT INTO parent (user_id, transaction_type, amount, source_id, created_at, id, seq)
                 VALUES ('{}', 'usage', 12, 'routed', now(), gen_random_uuid(), 1000)",
                user(1)
            ));
            assert_eq!(session.balance(user(1)), dec!(-2));
            session.run("ALTER TABLE parent DETACH PARTITION credits.credits_transactions CONCURRENTLY");
        } else {
            session.run("ALTER TABLE credits.credits_transactions NO INHERIT parent");
        }
        session.assert_sound();
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
