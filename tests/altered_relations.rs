//! Tables and indexes that their owner has altered: the ledger goes on or says what is wrong, and is never wrong itself.

use credits_ledger_tests::{Database, Decimal, Direction, Refused, Session, Uuid, dec, unguarded, user};

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
    admin.run("REINDEX TABLE CONCURRENTLY credits.daily_totals");
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

/// A concurrent build that has failed leaves an index that lacks rows. Reads find them all the same.
#[test]
fn an_index_that_lacks_rows_is_not_read_by() {
    // Alone: the feed ends at the oldest transaction of the cluster.
    let db = Database::create_alone();
    let mut session = db.connect();
    session.grant(user(1), dec!(5));
    session.refresh(user(1));
    let indexes: Vec<String> = session.values(
        "SELECT indexrelid::regclass::text FROM pg_index
         WHERE indrelid IN ('credits.credits_transactions'::regclass, 'credits.holds'::regclass) AND NOT indisprimary
           AND indexrelid NOT IN ('credits.credits_transactions_delta_idx'::regclass, 'credits.credits_transactions_source_id_key'::regclass)",
        &[],
    );
    assert!(indexes.len() > 5, "{indexes:?}");
    let answers = |db: &Database| -> String {
        db.connect().value(
            "SELECT concat_ws(' ', (SELECT count(*) FROM credits.transactions_after()),
                (SELECT count(*) FROM credits.list_all_transactions(\"limit\" => NULL)),
                (SELECT count(*) FROM credits.list_user_transactions($1, \"limit\" => NULL)),
                (SELECT count(*) FROM credits.list_transactions_with_batches($1, \"limit\" => NULL)),
                credits.get_user_balance_at($1, '2026-01-01 06:00+00'), credits.get_available_balance($1))",
            &[&user(1)],
        )
    };
    // Of such an index it is said that it is not valid; or that it is, but not for snapshots which see rows of before it.
    let ways = ["indisvalid = false", "indcheckxmin = true"]
        .map(|way| indexes.iter().map(move |index| (index, way)));
    for (index, way) in ways.into_iter().flatten() {
        let set =
            |columns: &str| format!("UPDATE pg_index SET {columns} WHERE indexrelid = '{index}'::regclass");
        let mut older = db.connect();
        if way == "indcheckxmin = true" {
            older.run("BEGIN; SELECT pg_current_xact_id()");
        }
        session.run("SELECT brin_summarize_new_values('credits.credits_transactions_stamp_idx')");
        session.run(&set(&format!("indisready = false, {way}")));
        session.run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at)
             VALUES ('{}', 'purchase', 1, gen_random_uuid()::text, '2026-01-01 05:00+00');
             INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES (gen_random_uuid()::text, '{0}', 1, 'tomorrow')",
            user(1)
        ));
        session.charge_batch(user(1), Uuid::nil(), dec!(0.5));
        session.run(&set("indisready = true"));
        let without = answers(&db);
        session.run(&format!(
            "REINDEX INDEX {index}; UPDATE pg_index SET indcheckxmin = false WHERE indcheckxmin"
        ));
        assert_eq!(without, answers(&db), "{index}, {way}");
    }
    session.assert_sound();
}

/// The session has written when the table goes: its commit must not pass for a settled one.
#[test]
fn a_derived_table_that_is_missing_stops_commits() {
    let db = Database::create();
    let (mut session, mut admin) = (db.connect(), db.connect());
    with_a_delta(&mut session);
    for table in ["user_balance_checkpoints", "batch_aggregates", "daily_totals"] {
        session.run("BEGIN");
        session.charge(user(1), dec!(7));
        admin.run(&unguarded(&format!("ALTER TABLE credits.{table} RENAME TO elsewhere")));
        // Learns of it.
        session.run("CREATE TEMPORARY TABLE unrelated ()");
        let error = session.try_run("COMMIT").refused("55000");
        assert!(error.message().contains(&format!("credits.{table} is missing")), "{error:?}");
        assert_refused(&mut session, &format!("credits.{table} is missing"));
        if table == "daily_totals" {
            let past = "SELECT credits.get_user_balance_at($1, '2026-01-01 06:00+00')";
            assert_eq!(session.value::<Decimal>(past, &[&user(1)]), dec!(0));
        }
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
    // A refresh that is no more than a favour is put off, and days are not filled.
    admin.run(&unguarded("CREATE INDEX odd ON credits.daily_totals ((total_amount * 2))"));
    session.charge(user(1), dec!(1));
    let folded = "SELECT sum(transaction_count)::bigint FROM credits.user_balance_checkpoints";
    let before: i64 = session.value(folded, &[]);
    let favour = format!("SELECT * FROM credits.get_users_balances_bulk(ARRAY['{}'::uuid], 1)", user(1));
    session.run(&favour);
    assert_eq!(session.value::<i64>(folded, &[]), before);
    admin.run(crate::days_fill::FORGET);
    admin.try_run("CALL credits.fill_daily_totals()").refused("55000");
    admin.run("DROP INDEX credits.odd");
    admin.run("CALL credits.fill_daily_totals()");
    session.run(&favour);
    assert_eq!(session.value::<i64>(folded, &[]), before + 1);
    session.assert_sound();
}

/// Columns of somebody's own on a derived table, from before the guard refused them.
#[test]
fn derived_tables_with_more_columns_are_written_all_the_same() {
    let db = Database::create_alone();
    let mut session = db.connect();
    with_a_delta(&mut session);
    for table in ["user_balance_checkpoints", "batch_aggregates", "daily_totals"] {
        let fold = |session: &mut Session| {
            session.charge_batch(user(1), user(1), dec!(1));
            session.charge_batch(user(1), user(2), dec!(1));
            session.grant(user(1), dec!(2));
            session.refresh(user(1));
            assert_eq!(session.balance(user(1)), dec!(3));
            session.assert_sound();
        };
        session.run(&unguarded(&format!("ALTER TABLE credits.{table} ADD COLUMN note text DEFAULT 'x'")));
        fold(&mut session);
        // What is not the extension's may go.
        session.run(&format!("ALTER TABLE credits.{table} RENAME COLUMN note TO remark"));
        session.run(&format!("ALTER TABLE credits.{table} DROP COLUMN remark"));
        fold(&mut session);
        session.run(&unguarded(&format!("ALTER TABLE credits.{table} ADD COLUMN n int NOT NULL DEFAULT 1")));
        session.charge_batch(user(1), user(1), dec!(0.5));
        let refresh = format!("SELECT credits.refresh_checkpoint('{}')", user(1));
        let error = session.try_run(&refresh).refused("55000");
        assert_eq!(
            error.message(),
            format!("column n of {table} must not be NULL, and the engine knows no value for it")
        );
        session.run(&format!("ALTER TABLE credits.{table} ALTER COLUMN n DROP NOT NULL"));
        session.grant(user(1), dec!(0.5));
        fold(&mut session);
    }
}

/// Views, and functions that are bound to columns, stand in the way of such a change, as long as they are there.
#[test]
fn a_column_of_another_type_is_not_read() {
    let db = Database::create();
    let mut session = db.connect();
    with_a_delta(&mut session);
    let views: Vec<String> = session.values(
        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'credits'::regnamespace AND relkind = 'v'",
        &[],
    );
    for view in &views {
        session.run(&format!("ALTER EXTENSION credits_ledger DROP VIEW {view}"));
    }
    for view in &views {
        session.run(&format!("DROP VIEW IF EXISTS {view} CASCADE"));
    }
    let bound: Vec<String> = session.values(
        "SELECT DISTINCT objid::regprocedure::text FROM pg_depend
         WHERE classid = 'pg_proc'::regclass AND refobjid = 'credits.credits_transactions'::regclass AND refobjsubid > 0",
        &[],
    );
    for function in &bound {
        session.run(&format!("ALTER EXTENSION credits_ledger DROP FUNCTION {function}"));
        session.run(&format!("DROP FUNCTION {function}"));
    }
    for (table, column, other) in [
        ("credits_transactions", "user_id", "text"),
        ("credits_transactions", "api_key_id", "text"),
        ("user_balance_checkpoints", "balance", "float8"),
        ("user_balance_checkpoints", "watermark", "text"),
        ("batch_aggregates", "total_amount", "int USING 1"),
        ("daily_totals", "day", "timestamp"),
    ] {
        let change = format!("ALTER TABLE credits.{table} ALTER COLUMN {column} TYPE {other}");
        session.run("BEGIN");
        session.run(&unguarded(&change));
        for call in [
            format!("SELECT credits.get_user_balance('{}')", user(1)),
            format!("SELECT credits.list_transactions_with_batches('{}')", user(1)),
            format!("SELECT credits.refresh_checkpoint('{}')", user(1)),
        ] {
            session.run("SAVEPOINT before");
            let error = session.try_run(&call).refused("55000");
            assert!(
                error.message().ends_with(&format!("of {table} is not of the type that it was made with")),
                "{change}; {call}: {error:?}"
            );
            session.run("ROLLBACK TO before");
        }
        let insert = format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
             VALUES ('{}', 'usage', '1', 's')",
            user(1)
        );
        session.try_run(&insert).refused("55000");
        session.run("ROLLBACK");
    }
    assert_eq!(session.balance(user(1)), dec!(3));
}

/// Where the constraints that rule NULL out are gone.
#[test]
fn a_null_is_no_value() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(&unguarded(
        "ALTER TABLE credits.credits_transactions ALTER COLUMN user_id DROP NOT NULL, ALTER COLUMN amount DROP NOT NULL,
             ALTER COLUMN transaction_type DROP NOT NULL",
    ));
    for column in ["user_id", "amount", "transaction_type"] {
        let values = ["user_id", "amount", "transaction_type"].map(|other| {
            let value = match other {
                _ if other == column => "NULL",
                "user_id" => "gen_random_uuid()",
                "amount" => "1",
                _ => "'usage'",
            };
            format!("{value} AS {other}")
        });
        let error = session
            .try_run(&format!(
                "INSERT INTO credits.credits_transactions (source_id, user_id, amount, transaction_type)
                 SELECT 'null', {}",
                values.join(", ")
            ))
            .refused("22004");
        assert_eq!(
            error.message(),
            format!("column {column} of credits_transactions is NULL, which the ledger cannot read")
        );
        assert!(error.hint().is_some(), "{error:?}");
    }
    session.grant(user(1), dec!(1));
    session.assert_sound();
}

/// Where the owner has let other types of transactions in, days have them as the rows do.
#[test]
fn a_type_that_the_ledger_does_not_know_is_listed_by_day() {
    let db = Database::create();
    let mut session = db.connect();
    with_a_delta(&mut session);
    session.run(&unguarded(
        "ALTER TABLE credits.credits_transactions DROP CONSTRAINT transaction_type_is_known",
    ));
    for is_folded in [false, true] {
        session.insert(user(1), "refund", dec!(1)).unwrap();
        if is_folded {
            session.refresh(user(1));
        }
        let types: Vec<String> =
            session.values("SELECT transaction_type FROM credits.usage_by_day($1)", &[&user(1)]);
        assert_eq!(types, ["admin_grant", "refund", "usage"], "{is_folded}");
    }
}

/// Calls of every function that returns rows of a type of the extension's, by the arguments that they must be given.
fn calls_that_return(session: &mut Session, kind: &str) -> Vec<String> {
    let functions = session
        .query(
            "SELECT proname::text, (proargnames[1:pronargs])[1:pronargs - pronargdefaults]
             FROM pg_proc WHERE pronamespace = 'credits'::regnamespace AND prorettype = ('credits.' || $1)::regtype",
            &[&kind],
        )
        .expect("read the catalog");
    let call = |name: String, arguments: Vec<String>| {
        let arguments: Vec<String> = arguments
            .iter()
            .map(|argument| match argument.as_str() {
                "user_id" => format!("'{}'", user(1)),
                "transaction_id" => "(SELECT id FROM credits.credits_transactions LIMIT 1)".to_owned(),
                "transaction_type" => "'usage'".to_owned(),
                "amount" => "1".to_owned(),
                "source_id" if name == "capture_hold" => "'held'".to_owned(),
                "source_id" => "gen_random_uuid()::text".to_owned(),
                _ => "NULL".to_owned(),
            })
            .collect();
        format!("credits.{name}({})", arguments.join(", "))
    };
    functions.iter().map(|row| call(row.get(0), row.get(1))).collect()
}

/// What a function returns is read as its type says.
#[test]
fn result_types_that_were_altered_are_refused() {
    let db = Database::create();
    let mut session = db.connect();
    with_a_delta(&mut session);
    session.run(&format!(
        "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('held', '{}', 1, now() + interval '1 hour')",
        user(1)
    ));
    for kind in ["credit_transaction", "transaction_with_category"] {
        let calls = calls_that_return(&mut session, kind);
        assert!(!calls.is_empty());
        for change in [
            "ALTER ATTRIBUTE seq TYPE text",
            "ALTER ATTRIBUTE amount TYPE float8",
            "ALTER ATTRIBUTE user_id TYPE text",
            "ADD ATTRIBUTE note text",
            "DROP ATTRIBUTE description",
            "RENAME ATTRIBUTE description TO note",
        ] {
            // The server keeps a plan with such a type, whatever becomes of the type.
            let mut session = db.connect();
            session.run("BEGIN");
            session.run(&unguarded(&format!("ALTER TYPE credits.{kind} {change}")));
            for call in &calls {
                for select in
                    [format!("SELECT * FROM {call}"), format!("SELECT {call}"), format!("SELECT ({call}).*")]
                {
                    session.run("SAVEPOINT before");
                    let result = session.try_run(&select);
                    session.run("ROLLBACK TO before");
                    // Their values are made by a cast, which may do; the others are read by place.
                    let is_cast = ["create_transaction(", "capture_hold(", "charge(", "reverse_transaction("]
                        .iter()
                        .any(|name| call.contains(name));
                    if is_cast || change.starts_with("RENAME") {
                        continue;
                    }
                    let error = result.refused("42804");
                    assert!(error.message().contains("result type"), "{change}; {select}: {error:?}");
                }
            }
            session.run("ROLLBACK");
        }
        for call in &calls {
            session.run(&format!("BEGIN; SELECT * FROM {call}; ROLLBACK"));
        }
    }
}
