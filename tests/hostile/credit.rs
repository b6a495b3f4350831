//! Bad holds, charges and limits, each by itself: refused with its SQLSTATE, and nothing is left of it.

use credits_ledger_tests::{Database, Refused, Session, dec, user};

/// Amounts that are none.
pub const NO_AMOUNTS: [&str; 9] = [
    "'NaN'",
    "'Infinity'",
    "'-Infinity'",
    "0",
    "-1",
    "-0.000000000000001",
    "10000000000000",
    "0.0000000000000001",
    "1e131071",
];

/// `source_id`s that are blank.
const BLANK: [&str; 3] = ["''", "E' \\t\\n'", "U&'\\00a0\\2003'"];

/// A `source_id` of 10,010 characters that no index has room for.
const LONG: &str = "(SELECT string_agg(sha512(n::text::bytea)::text, '') FROM generate_series(1, 77) n)";

/// Spans that are too short or too long.
const SPANS: [&str; 7] = [
    "'0'",
    "'-1 microsecond'",
    "'1 day -25:00'",
    "'30 days 0.000001 seconds'",
    "'2 months -29 days 1 microsecond'",
    "'178000000 years'",
    "'-178000000 years'",
];

/// Thresholds that are refused.
const NO_THRESHOLDS: [&str; 14] = [
    "{0}",
    "{-0.000}",
    "{NULL}",
    "{1,NULL,2}",
    "{NaN}",
    "{Infinity}",
    "{-Infinity}",
    "{1.0,1.00}",
    "{-3,2,-3}",
    "{{1,2}}",
    "{{1},{2}}",
    "{10000000000000}",
    "{-0.0000000000000001}",
    "{1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17}",
];

/// A database with credits of user 1, a hold `held` and limits.
pub fn database() -> (Database, Session) {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(100));
    session.run(&format!(
        "SELECT credits.create_hold('{0}', 1, 'held');
         INSERT INTO credits.spending_limits VALUES ('{0}', 5, '{{-2,50}}')",
        user(1)
    ));
    (db, session)
}

/// All that there is.
pub fn everything(session: &mut Session) -> String {
    let tables = [
        "credits_transactions",
        "holds",
        "spending_limits",
        "spend_caps",
        "user_balance_checkpoints",
        "batch_aggregates",
        "daily_totals",
    ];
    let each: Vec<String> = tables
        .iter()
        .map(|table| format!("(SELECT string_agg(t::text, ',' ORDER BY t::text) FROM credits.{table} t)"))
        .collect();
    session.value(&format!("SELECT concat_ws(' / ', {})", each.join(", ")), &[])
}

/// Runs each of these for user 1 and expects this SQLSTATE, at once or in a savepoint of a transaction that goes on and commits.
pub fn refuse(session: &mut Session, statements: &[(String, &str)]) {
    let before = everything(session);
    for (statement, sqlstate) in statements {
        let statement = statement.replace("USER", &format!("'{}'", user(1)));
        session.try_run(&statement).refused(sqlstate);
        session.run("BEGIN; SAVEPOINT s");
        session.try_run(&statement).refused(sqlstate);
        session.run("ROLLBACK TO s; COMMIT");
        assert_eq!(everything(session), before, "{statement}");
    }
    session.assert_sound();
    // Not in memory either: all that is available can be had, and no more.
    let left = "SELECT credits.charge($1, credits.get_available_balance($1) + 5, 'all that is left')";
    session.run(&left.replace("$1", &format!("'{}'", user(1))));
    let call = format!("SELECT credits.create_hold('{}', 0.000000000000001, 'more')", user(1));
    session.try_run(&call).refused("LC001");
    session.assert_sound();
}

#[test]
fn what_is_no_hold_and_no_charge_is_refused() {
    let (_db, mut session) = database();
    let mut statements: Vec<(String, &str)> = Vec::new();
    for amount in NO_AMOUNTS {
        statements.push((format!("SELECT credits.create_hold(USER, {amount}, 'new')"), "23514"));
        statements.push((format!("SELECT credits.charge(USER, {amount}, 'new')"), "23514"));
        statements.push((format!("SELECT credits.capture_hold('held', {amount})"), "23514"));
    }
    for source_id in BLANK {
        statements.push((format!("SELECT credits.create_hold(USER, 1, {source_id})"), "23514"));
        statements.push((format!("SELECT credits.charge(USER, 1, {source_id})"), "23514"));
        statements.push((format!("SELECT credits.capture_hold({source_id})"), "P0002"));
        statements.push((format!("SELECT credits.extend_hold({source_id}, '1 hour')"), "P0002"));
    }
    for function in ["create_hold", "charge"] {
        statements.push((format!("SELECT credits.{function}(USER, 1, {LONG})"), "54000"));
        statements.push((format!("SELECT credits.{function}(NULL, 1, 'new')"), "22004"));
        statements.push((format!("SELECT credits.{function}(USER, NULL, 'new')"), "22004"));
        statements.push((format!("SELECT credits.{function}(USER, 1, NULL)"), "22004"));
        statements.push((
            format!("SELECT credits.{function}(USER, 1, 'new', category => repeat('ö', 201))"),
            "23514",
        ));
        for metadata in ["[]", "1", "null", "\"{}\""] {
            statements.push((
                format!("SELECT credits.{function}(USER, 1, 'new', metadata => '{metadata}')"),
                "23514",
            ));
        }
    }
    statements.push((format!("SELECT credits.capture_hold({LONG})"), "P0002"));
    statements.push((format!("SELECT credits.extend_hold({LONG}, '1 hour')"), "P0002"));
    for function in [
        "capture_hold(NULL)",
        "release_hold(NULL)",
        "extend_hold(NULL, '1 hour')",
        "extend_hold('held', NULL)",
    ] {
        statements.push((format!("SELECT credits.{function}"), "22004"));
    }
    statements.push(("SELECT credits.create_hold(USER, 1, 'new', NULL)".to_owned(), "22004"));
    for span in SPANS {
        statements.push((format!("SELECT credits.create_hold(USER, 1, 'new', {span})"), "22023"));
        statements.push((format!("SELECT credits.extend_hold('held', {span})"), "22023"));
    }
    refuse(&mut session, &statements);
}

#[test]
fn rows_that_are_no_holds_are_refused() {
    let (_db, mut session) = database();
    let mut statements: Vec<(String, &str)> = Vec::new();
    let mut insert = |values: &str, sqlstate| {
        statements.push((
            format!(
                "INSERT INTO credits.holds (source_id, user_id, amount, expires_at, category, metadata) VALUES ('good', USER, 1, 'infinity', NULL, NULL), ({values})"
            ),
            sqlstate,
        ));
    };
    for amount in NO_AMOUNTS {
        insert(&format!("'new', USER, {amount}, 'infinity', NULL, NULL"), "23514");
    }
    for source_id in BLANK {
        insert(&format!("{source_id}, USER, 1, 'infinity', NULL, NULL"), "23514");
    }
    insert(&format!("{LONG}, USER, 1, 'infinity', NULL, NULL"), "54000");
    insert("NULL, USER, 1, 'infinity', NULL, NULL", "23502");
    insert("'new', NULL, 1, 'infinity', NULL, NULL", "23502");
    insert("'new', USER, NULL, 'infinity', NULL, NULL", "23502");
    insert("'new', USER, 1, NULL, NULL, NULL", "23502");
    insert("'new', USER, 1, 'infinity', repeat('c', 201), NULL", "23514");
    insert("'new', USER, 1, 'infinity', NULL, '[]'", "23514");
    insert("'new', USER, 1, 'infinity', NULL, 'null'", "23514");
    insert("'held', USER, 1, 'infinity', NULL, NULL", "23505");
    for change in [
        "amount = 2",
        "source_id = 'other'",
        "user_id = gen_random_uuid()",
        "metadata = '{}'",
        "created_at = 'infinity'",
    ] {
        statements.push((format!("UPDATE credits.holds SET expires_at = 'infinity', {change}"), "55000"));
    }
    statements.push(("UPDATE credits.holds SET expires_at = NULL".to_owned(), "23502"));
    statements.push(("TRUNCATE credits.holds".to_owned(), "55000"));
    refuse(&mut session, &statements);
}

/// By hand, a hold may be open for ever, or never.
#[test]
fn holds_may_last_for_ever() {
    let (_db, mut session) = database();
    session.run(&format!(
        "INSERT INTO credits.holds (source_id, user_id, amount, created_at, expires_at)
         VALUES ('always', '{0}', 2, '-infinity', 'infinity'), ('never', '{0}', 4, 'infinity', '-infinity'),
                (repeat('x', 10000), '{0}', 8, 'infinity', 'infinity')",
        user(1)
    ));
    let available = |session: &mut Session, expected| {
        let sql = "SELECT format('%s %s', credits.get_available_balance($1), (SELECT count(*) FROM credits.list_holds($1)))";
        assert_eq!(session.value::<String>(sql, &[&user(1)]), expected);
        session.assert_sound();
    };
    available(&mut session, "89 3");
    session.run("SELECT credits.extend_hold('always', '1 hour'), credits.extend_hold('never', '30 days')");
    available(&mut session, "85 4");
    session.run("UPDATE credits.holds SET expires_at = '-infinity' WHERE source_id = 'always'");
    session.run("SELECT credits.capture_hold('always'), credits.capture_hold('never'), credits.capture_hold(repeat('x', 10000))");
    let released: i64 = session.value("SELECT credits.release_expired_holds('0', NULL)", &[]);
    assert_eq!(released, 0);
    available(&mut session, "85 1");
}

#[test]
fn what_is_no_limit_is_refused() {
    let (_db, mut session) = database();
    let mut statements: Vec<(String, &str)> = Vec::new();
    for limit in [
        "'NaN'",
        "'Infinity'",
        "'-Infinity'",
        "-1",
        "-0.000000000000001",
        "10000000000000",
        "0.0000000000000001",
        "1e131071",
    ] {
        statements.push((format!("UPDATE credits.spending_limits SET overdraft_limit = {limit}"), "23514"));
        statements.push((
            format!("INSERT INTO credits.spending_limits VALUES (gen_random_uuid(), 7), (gen_random_uuid(), {limit})"),
            "23514",
        ));
    }
    for thresholds in NO_THRESHOLDS {
        statements.push((format!("UPDATE credits.spending_limits SET thresholds = '{thresholds}'"), "23514"));
        statements.push((
            format!("INSERT INTO credits.spending_limits (user_id, thresholds) VALUES (gen_random_uuid(), '{{1}}'), (gen_random_uuid(), '{thresholds}')"),
            "23514",
        ));
    }
    for (change, sqlstate) in [
        ("thresholds = NULL", "23502"),
        ("user_id = NULL", "23502"),
        ("thresholds = '{{1},{2,3}}'", "22P02"),
        ("thresholds = '[3:1]={1}'", "2202E"),
    ] {
        statements.push((format!("UPDATE credits.spending_limits SET {change}"), sqlstate));
    }
    statements.push(("INSERT INTO credits.spending_limits VALUES (USER)".to_owned(), "23505"));
    refuse(&mut session, &statements);
}

/// In whatever form the server reads them.
#[test]
fn odd_limits_are_what_they_say() {
    let (_db, mut session) = database();
    for (limit, thresholds, expected) in [
        ("-0", "{}", "0: 0"),
        ("0.000", "[7:9]={3.000,-1,2}", "0: -1 0 2 3"),
        (
            "9999999999999.999999999999999",
            "{9999999999999.999999999999999,-9999999999999.999999999999999,1e-15}",
            "9999999999999.999999999999999: -9999999999999.999999999999999 0 0.000000000000001 9999999999999.999999999999999",
        ),
        (
            "NULL",
            "{16,15,14,13,12,11,10,9,8,7,6,5,4,3,2,1}",
            "none: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
        ),
    ] {
        session.run(&format!(
            "UPDATE credits.spending_limits SET overdraft_limit = {limit}, thresholds = '{thresholds}'"
        ));
        let found: String = session.value(
            "SELECT format('%s: %s', coalesce(trim_scale(overdraft_limit)::text, 'none'),
                           (SELECT string_agg(trim_scale(threshold)::text, ' ' ORDER BY threshold) FROM credits.thresholds t
                            WHERE t.user_id = l.user_id))
             FROM credits.spending_limits l",
            &[],
        );
        assert_eq!(found, expected);
        session.assert_sound();
    }
}
