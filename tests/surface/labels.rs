//! Labels from the application's analytics table.

use credits_ledger_tests::{Database, Refused, Session, Uuid, dec, user};

const BATCH: Uuid = Uuid::from_u128(0xb1);

/// What an item is labelled with, by source_id.
type Label = (String, Option<String>, Option<String>);

/// One usage row per source_id, and a batch; newest first, the batch is the first item.
fn ledger(db: &Database, source_ids: &[&str]) -> Session {
    let mut session = db.connect();
    // As a restore says: rows from before may have a blank source_id.
    session.run("SET check_function_bodies = off");
    for source_id in source_ids {
        session
            .execute(
                "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                 VALUES ($1, 'usage', 1, $2)",
                &[&user(1), source_id],
            )
            .expect("insert");
    }
    session.run("RESET check_function_bodies");
    session.charge_batch(user(1), BATCH, dec!(1));
    session
}

#[track_caller]
fn labels(session: &mut Session) -> Vec<Label> {
    let sql = "SELECT source_id, request_origin, batch_sla FROM credits.list_transactions_with_batches($1)";
    let rows = session.query(sql, &[&user(1)]).unwrap_or_else(|e| panic!("{e:?}"));
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

fn label(source_id: &str, origin: Option<&str>, sla: Option<&str>) -> Label {
    (source_id.into(), origin.map(Into::into), sla.map(Into::into))
}

fn of_batch(origin: &str, sla: &str) -> Label {
    label(&BATCH.to_string(), Some(origin), Some(sla))
}

const TABLE: &str = "CREATE TABLE http_analytics (
    id bigint PRIMARY KEY, fusillade_batch_id uuid, request_origin text, batch_request_source text, batch_sla text);
    CREATE INDEX ON http_analytics (fusillade_batch_id);";

#[test]
fn defaults_without_a_table() {
    let db = Database::create();
    let mut session = ledger(&db, &["1"]);
    assert_eq!(labels(&mut session), [of_batch("fusillade", ""), label("1", None, None)]);
}

#[test]
fn labels_of_single_rows_and_batches() {
    let db = Database::create();
    let mut session = ledger(&db, &["1", "2", "3", "manual"]);
    session.run(TABLE);
    session.run(&format!(
        "INSERT INTO http_analytics VALUES (1, NULL, 'frontend', 'unused', 'fast'), (2, NULL, NULL, NULL, NULL),
             (9, '{BATCH}', 'unused', 'api', '24h')"
    ));
    let expected = [
        of_batch("api", "24h"),
        label("manual", None, None),
        label("3", None, None),
        label("2", None, None),
        label("1", Some("frontend"), Some("fast")),
    ];
    assert_eq!(labels(&mut session), expected);
    session.run("UPDATE http_analytics SET batch_request_source = '', batch_sla = NULL WHERE id = 9");
    assert_eq!(labels(&mut session)[0], of_batch("fusillade", ""));
    session.run("UPDATE http_analytics SET batch_request_source = NULL WHERE id = 9");
    assert_eq!(labels(&mut session)[0], of_batch("fusillade", ""));
    // What the plan was made for may go and come back.
    session.run("DROP TABLE http_analytics");
    assert_eq!(labels(&mut session)[4], label("1", None, None));
    session.run(TABLE);
    session.run("INSERT INTO http_analytics VALUES (1, NULL, 'again', NULL, NULL)");
    assert_eq!(labels(&mut session)[4], label("1", Some("again"), None));
}

/// A source_id has to be the very text of a key: what would merely convert to one is another transaction's.
#[test]
fn keys_of_several_types() {
    let db = Database::create();
    let id = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let odd = [
        "1",
        "01",
        " 1",
        "+1",
        "1.0",
        "-1",
        "-0",
        "0",
        "9223372036854775808",
        "99999999999999999999",
        "-9223372036854775808",
        "70000",
        id,
        "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
        "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}",
        "x",
        "",
    ];
    let mut session = ledger(&db, &odd);
    for (key_type, keys, found) in [
        (
            "bigint",
            "(1), (-1), (0), (-9223372036854775808), (70000)",
            &["70000", "-9223372036854775808", "0", "-1", "1"][..],
        ),
        ("integer", "(1), (-1), (0), (70000)", &["70000", "0", "-1", "1"]),
        ("smallint", "(1), (-1), (0)", &["0", "-1", "1"]),
        ("uuid", "('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11')", &[id]),
        ("text", "('x'), ('01'), ('')", &["", "x", "01"]),
        ("text COLLATE \"C\"", "('x'), ('01')", &["x", "01"]),
        ("varchar(40)", "('x'), ('01')", &["x", "01"]),
        // Cannot be asked without casting every key: as if it were not there.
        ("numeric", "(1), (0)", &[]),
    ] {
        session.run(&format!(
            "CREATE TABLE http_analytics (id {key_type} PRIMARY KEY, request_origin text DEFAULT 'found');
             INSERT INTO http_analytics (id) VALUES {keys}"
        ));
        let labelled: Vec<String> = labels(&mut session)
            .into_iter()
            .filter(|l| l.1.as_deref() == Some("found"))
            .map(|l| l.0)
            .collect();
        assert_eq!(labelled, found, "{key_type}");
        session.run("DROP TABLE http_analytics");
    }
}

#[test]
fn keys_of_batches_of_several_types() {
    let db = Database::create();
    let mut session = ledger(&db, &[]);
    session.run("CREATE DOMAIN batch_id AS uuid");
    for (key_type, key, origin) in [
        ("uuid", BATCH.to_string(), "api"),
        ("batch_id", BATCH.to_string(), "api"),
        ("text", BATCH.to_string(), "api"),
        ("text", BATCH.to_string().to_uppercase(), "fusillade"),
        ("bigint", "177".into(), "fusillade"),
        ("numeric", "177".into(), "fusillade"),
    ] {
        session.run(&format!(
            "CREATE TABLE http_analytics (fusillade_batch_id {key_type}, batch_request_source text);
             INSERT INTO http_analytics VALUES ('{key}', 'api')"
        ));
        assert_eq!(labels(&mut session), [of_batch(origin, "")], "{key_type} {key}");
        session.run("DROP TABLE http_analytics");
    }
}

#[test]
fn a_missing_column_counts_as_absent() {
    let db = Database::create();
    let mut session = ledger(&db, &["1"]);
    for (column, expected) in [
        ("id", [of_batch("api", "24h"), label("1", None, None)]),
        ("fusillade_batch_id", [of_batch("fusillade", ""), label("1", Some("web"), Some("fast"))]),
        ("request_origin", [of_batch("api", "24h"), label("1", None, Some("fast"))]),
        ("batch_request_source", [of_batch("fusillade", "24h"), label("1", Some("web"), Some("fast"))]),
        ("batch_sla", [of_batch("api", ""), label("1", Some("web"), None)]),
    ] {
        session.run(TABLE);
        session.run(&format!(
            "INSERT INTO http_analytics VALUES (1, NULL, 'web', NULL, 'fast'), (9, '{BATCH}', NULL, 'api', '24h');
             ALTER TABLE http_analytics DROP COLUMN {column}"
        ));
        assert_eq!(labels(&mut session), expected, "without {column}");
        session.run("DROP TABLE http_analytics");
    }
}

/// The query runs under a search_path of its own; the table is looked for in the caller's.
#[test]
fn the_callers_search_path_finds_the_table() {
    let db = Database::create();
    let mut session = ledger(&db, &["1"]);
    for schema in ["public", "app", "\"Other App\""] {
        session.run(&format!("CREATE SCHEMA IF NOT EXISTS {schema}; SET search_path = {schema}"));
        session.run(TABLE);
        session
            .execute("INSERT INTO http_analytics VALUES (1, NULL, current_schema(), NULL, NULL)", &[])
            .expect("insert");
    }
    let found = |session: &mut Session| labels(session)[1].1.clone().unwrap_or_default();
    assert_eq!(found(&mut session), "Other App");
    session.run("SET search_path = app, public");
    assert_eq!(found(&mut session), "app");
    session.run("SET search_path = nowhere");
    assert_eq!(found(&mut session), "");
    session.run("RESET search_path");
    assert_eq!(found(&mut session), "public");
    session.run("BEGIN; SET LOCAL search_path = app");
    assert_eq!(found(&mut session), "app");
    session.run("SAVEPOINT s; SET LOCAL search_path = \"Other App\"");
    assert_eq!(found(&mut session), "Other App");
    session.run("ROLLBACK TO s");
    assert_eq!(found(&mut session), "app");
    session.run("COMMIT");
    assert_eq!(found(&mut session), "public");
    // A function of the application with a path of its own.
    session.run(&format!(
        "CREATE FUNCTION origin() RETURNS text LANGUAGE sql SET search_path = app
         AS $$ SELECT max(request_origin) FROM credits.list_transactions_with_batches('{}') WHERE source_id = '1' $$",
        user(1)
    ));
    assert_eq!(session.value::<String>("SELECT origin()", &[]), "app");
    assert_eq!(session.value::<String>("SHOW search_path", &[]), "\"$user\", public");
    // A table of the session's own comes first, as for any query.
    session.run(&TABLE.replace("CREATE TABLE", "CREATE TEMP TABLE"));
    assert_eq!(found(&mut session), "");
}

/// The query names the collation as it finds it, not as the caller does.
#[test]
fn a_key_may_have_a_collation_of_the_callers_search_path() {
    let db = Database::create();
    let mut session = ledger(&db, &["x"]);
    session.run(
        "CREATE SCHEMA app; CREATE COLLATION app.own FROM \"C\"; SET search_path = app;
         CREATE TABLE http_analytics (id text COLLATE own PRIMARY KEY, request_origin text);
         INSERT INTO http_analytics VALUES ('x', 'web')",
    );
    assert_eq!(labels(&mut session)[1], label("x", Some("web"), None));
}

#[test]
fn the_setting_names_the_table() {
    let db = Database::create();
    let mut session = ledger(&db, &["1"]);
    session.run("CREATE SCHEMA app; SET search_path = app");
    for name in ["plain", "\"We\"\"ird; DROP TABLE x --\"", "\"Dotted.name\""] {
        session.run(&format!(
            "CREATE TABLE {name} (id bigint PRIMARY KEY, request_origin text);
             INSERT INTO {name} VALUES (1, $${name}$$)"
        ));
        for setting in [name.to_owned(), format!("app.{name}"), format!("APP.{name}")] {
            session.run(&format!("SET credits_ledger.analytics_table = $${setting}$$").replace("$$", "'"));
            assert_eq!(labels(&mut session)[1].1.as_deref(), Some(name), "{setting}");
        }
    }
    for absent in ["nowhere", "a;b", "nowhere.plain", "app.nothing"] {
        session.run(&format!("SET credits_ledger.analytics_table = '{absent}'"));
        assert_eq!(labels(&mut session), [of_batch("fusillade", ""), label("1", None, None)], "{absent}");
    }
    for malformed in ["", "\"\"", "a.\"\"", "a.b.c", "a b", "a.", ".a", "\"a", "1 OR true"] {
        session.try_run(&format!("SET credits_ledger.analytics_table = '{malformed}'")).refused("22023");
    }
}

#[test]
fn what_is_no_table_is_no_table() {
    let db = Database::create();
    let mut session = ledger(&db, &["1"]);
    session.run("CREATE SEQUENCE http_analytics");
    assert_eq!(labels(&mut session)[1], label("1", None, None));
    session.run(
        "DROP SEQUENCE http_analytics;
         CREATE VIEW http_analytics AS SELECT 1::bigint AS id, 'a view'::name AS request_origin, 5 AS batch_sla",
    );
    assert_eq!(labels(&mut session)[1], label("1", Some("a view"), Some("5")));
}

#[test]
fn without_privilege_it_is_an_error() {
    let db = Database::create();
    let role = db.create_role("reader");
    let mut owner = ledger(&db, &["1"]);
    owner.run(TABLE);
    owner.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA credits TO {role};"
    ));
    let mut session = db.connect_as(&role);
    let call = format!("SELECT FROM credits.list_transactions_with_batches('{}')", user(1));
    let error = session.try_run(&call).refused("42501");
    assert!(error.message().contains("http_analytics"), "{}", error.message());
    session.try_run("SET credits_ledger.analytics_table = 'pg_class'").refused("42501");
    owner.run(&format!("GRANT SELECT ON http_analytics TO {role}"));
    assert_eq!(labels(&mut session)[1], label("1", None, None));
    // Counts and sums need no labels, hence no privilege.
    owner.run(&format!("REVOKE SELECT ON http_analytics FROM {role}"));
    assert_eq!(session.value::<i64>("SELECT credits.count_transactions_with_batches($1)", &[&user(1)]), 2);
}
