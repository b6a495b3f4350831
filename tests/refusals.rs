//! What may not be recorded, by INSERT or by `create_transaction`.

use credits_ledger_tests::{Database, Refused, Session, unguarded};
use postgres::Error;

const USER: &str = "00000000-0000-4000-8000-000000000001";

fn insert(session: &mut Session, amount: &str) -> Result<(), Error> {
    session.try_run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         VALUES ('{USER}', 'purchase', {amount}, gen_random_uuid()::text)"
    ))
}

fn create(session: &mut Session, amount: &str) -> Result<(), Error> {
    session.try_run(&format!(
        "SELECT credits.create_transaction('{USER}', 'purchase', {amount}, gen_random_uuid()::text)"
    ))
}

#[test]
fn amounts_are_exact_or_refused() {
    let db = Database::create();
    let mut session = db.connect();
    let fine = [
        "1",
        "0.000000000000001",
        "9999999999999",
        "9999999999999.999999999999999",
        // Trailing zeros are not counted.
        "1.50000000000000000000000000",
        "12.000000000000000000",
        "0000000000000000000001",
    ];
    for amount in fine {
        insert(&mut session, amount).unwrap_or_else(|e| panic!("INSERT of {amount}: {e:?}"));
        create(&mut session, amount).unwrap_or_else(|e| panic!("create_transaction of {amount}: {e:?}"));
        let kept: bool = session.value(
            &format!(
                "SELECT count(*) = 2 AND bool_and(amount = {amount}) FROM
                      (SELECT amount FROM credits.credits_transactions ORDER BY seq DESC LIMIT 2) newest"
            ),
            &[],
        );
        assert!(kept, "{amount} is kept exactly");
    }
    let refused = [
        "0",
        "0.000",
        "-1",
        "-0.000000000000001",
        "0.0000000000000001",
        "1.2345678901234567",
        "10000000000000",
        "99999999999999",
        "9999999999999.9999999999999999",
        "1e100",
        "1e-100",
        "1e131071",
        "'NaN'",
        "'Infinity'",
        "'-Infinity'",
    ];
    let rows: i64 = session.value("SELECT count(*) FROM credits.credits_transactions", &[]);
    for amount in refused {
        insert(&mut session, amount).refused("23514");
        create(&mut session, amount).refused("23514");
    }
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.credits_transactions", &[]), rows);
}

#[test]
fn the_reason_is_the_one_that_holds() {
    let db = Database::create();
    let mut session = db.connect();
    let many = "1234567890".repeat(6);
    for (amount, reason) in [
        ("0.0000000000000001".to_owned(), "15 fractional digits"),
        (format!("0.{many}"), "15 fractional digits"),
        (format!("1.{many}"), "15 fractional digits"),
        ("1e-16383".to_owned(), "15 fractional digits"),
        ("10000000000000".to_owned(), "13 integer digits"),
        (many, "13 integer digits"),
        ("1e131071".to_owned(), "13 integer digits"),
        ("-0.0".to_owned(), "not above 0"),
        ("-1".to_owned(), "not above 0"),
        ("'NaN'".to_owned(), "NaN"),
        ("'-Infinity'".to_owned(), "infinity"),
    ] {
        let error = create(&mut session, &format!("{amount}::numeric")).refused("23514");
        assert!(error.message().contains(reason), "{amount}: {}", error.message());
    }
}

#[test]
fn only_usage_belongs_to_a_batch() {
    let db = Database::create();
    let mut session = db.connect();
    for kind in ["purchase", "admin_grant", "admin_removal"] {
        session
            .try_run(&format!(
                "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
                 VALUES ('{USER}', '{kind}', 1, '{kind}', '{USER}')"
            ))
            .refused("23514");
        let error = session
            .try_run(&format!(
                "SELECT credits.create_transaction('{USER}', '{kind}', 1, '{kind}', fusillade_batch_id => '{USER}')"
            ))
            .refused("23514");
        assert!(
            error.message().contains("fusillade_batch_id") && error.message().contains(kind),
            "{error:?}"
        );
    }
    session.run(&format!("SELECT credits.create_transaction('{USER}', 'usage', 1, 'usage', NULL, '{USER}')"));
}

#[test]
fn there_are_four_types() {
    let db = Database::create();
    let mut session = db.connect();
    for kind in ["refund", "Usage", "usage ", ""] {
        session
            .try_run(&format!(
                "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                 VALUES ('{USER}', '{kind}', 1, 'x')"
            ))
            .refused("23514");
        let error = session
            .try_run(&format!("SELECT credits.create_transaction('{USER}', '{kind}', 1, 'x')"))
            .refused("22023");
        assert!(error.message().contains("transaction_type"), "{error:?}");
        assert!(error.message().contains(&format!("\"{kind}\"")), "{error:?}");
    }
}

#[test]
fn a_missing_argument_is_named() {
    let db = Database::create();
    let mut session = db.connect();
    for (argument, call) in [
        ("user_id", "NULL, 'usage', 1, 'x'"),
        ("transaction_type", "gen_random_uuid(), NULL, 1, 'x'"),
        ("amount", "gen_random_uuid(), 'usage', NULL, 'x'"),
        ("source_id", "gen_random_uuid(), 'usage', 1, NULL"),
    ] {
        let error = session.try_run(&format!("SELECT credits.create_transaction({call})")).refused("22004");
        assert!(error.message().contains(&format!("argument {argument} ")), "{error:?}");
    }
    session
        .try_run(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
             VALUES (gen_random_uuid(), 'usage', 1, NULL)",
        )
        .refused("23502");
}

/// A row that no other may be told from by its key, or that has no date. Ledgers of before may have such.
#[test]
fn what_tells_a_row_from_others_is_no_blank() {
    let db = Database::create();
    let mut session = db.connect();
    let long = " ".repeat(100_000);
    for blank in ["", " ", "\t\n \r", "\u{a0}\u{2003}", &long] {
        let insert = format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) VALUES ('{USER}', 'usage', 1, '{blank}')"
        );
        let error = session.try_run(&insert).refused("23514");
        assert!(
            error.message().contains("source_id must not be blank") && error.hint().is_some(),
            "{error:?}"
        );
        let create = format!("SELECT credits.create_transaction('{USER}', 'usage', 1, '{blank}')");
        let error = session.try_run(&create).refused("23514");
        assert!(error.message().contains("argument source_id must not be blank"), "{error:?}");
    }
    for fine in [" x", "\u{a0}x", "-", "é"] {
        session.run(&format!("SELECT credits.create_transaction('{USER}', 'usage', 1, '{fine}')"));
    }
    for date in ["infinity", "-infinity"] {
        let insert = format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at)
             VALUES ('{USER}', 'usage', 1, 'x', '{date}')"
        );
        let error = session.try_run(&insert).refused("23514");
        assert!(error.message().contains("created_at"), "{error:?}");
        // As pg_dump begins what it writes.
        session.run(&format!(
            "SET check_function_bodies = false; BEGIN; {insert}; ROLLBACK; SET check_function_bodies = true"
        ));
    }
    let outcomes: Vec<String> = session.values(
        "SELECT outcome FROM credits.record_transactions(
            '[{\"user_id\": \"00000000-0000-4000-8000-000000000001\", \"transaction_type\": \"usage\", \"amount\": 1, \"source_id\": \" \"},
              {\"user_id\": \"00000000-0000-4000-8000-000000000001\", \"transaction_type\": \"usage\", \"amount\": 1, \"source_id\": \"y\", \"created_at\": \"infinity\"},
              {\"user_id\": \"00000000-0000-4000-8000-000000000001\", \"transaction_type\": \"usage\", \"amount\": 1, \"source_id\": \"z\"}]')",
        &[],
    );
    assert_eq!(outcomes, ["refused", "refused", "recorded"]);
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.credits_transactions", &[]), 5);
}

#[test]
fn a_source_id_is_never_truncated() {
    let db = Database::create();
    let mut session = db.connect();
    // Hardly compressible: 32 digits for every number.
    let long = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 400) n)";
    session
        .try_run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
             VALUES (gen_random_uuid(), 'usage', 1, {long})"
        ))
        .refused("54000");
    let error = session
        .try_run(&format!("SELECT credits.create_transaction(gen_random_uuid(), 'usage', 1, {long})"))
        .refused("54000");
    assert!(error.message().contains("12800 bytes") && error.message().contains("2692"), "{error:?}");
    assert!(error.hint().is_some(), "{error:?}");
    session.run(&format!(
        "SELECT credits.create_transaction(gen_random_uuid(), 'usage', 1, left({long}, 2000))"
    ));
    let length: i32 = session.value("SELECT length(source_id) FROM credits.credits_transactions", &[]);
    assert_eq!(length, 2000);
    // What does not fit into an index of the owner's is another matter, whether the index is named or not, and whatever the source_id.
    session.run(
        "CREATE FUNCTION public.pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER pass BEFORE INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION public.pass();
         CREATE INDEX by_description ON credits.credits_transactions (description)",
    );
    for (source_id, bytes, told) in
        [("'short'", 12_800, "index row"), ("repeat('x', 5000)", 3000, "by_description")]
    {
        let error = session
            .try_run(&format!(
                "SELECT credits.create_transaction(gen_random_uuid(), 'usage', 1, {source_id}, left({long}, {bytes}))"
            ))
            .refused("54000");
        assert!(error.message().contains(told), "{error:?}");
    }
}

/// Some tools write rows past the executor, with every column as the publisher has it.
#[test]
fn a_row_with_the_stamp_of_another_transaction_is_refused() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(&unguarded("ALTER TABLE credits.credits_transactions ALTER COLUMN xact_id DROP EXPRESSION"));
    let mut insert = |stamp: &str, role: &str| {
        session.try_run(&format!(
            "SET session_replication_role = {role};
             INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, xact_id)
             VALUES ('{USER}', 'purchase', 1, gen_random_uuid()::text, {stamp})"
        ))
    };
    for role in ["origin", "replica"] {
        for stamp in ["'3'", "(pg_current_xact_id()::text::bigint + 1)::text::xid8"] {
            let error = insert(stamp, role).refused("55000");
            assert!(error.message().contains("xact_id is"), "{error:?}");
            assert!(error.hint().is_some(), "{error:?}");
        }
        insert("pg_current_xact_id()", role).unwrap();
    }
    session.assert_sound();
}

/// In characters, whatever they take in bytes; and however the value is stored.
#[test]
fn a_category_is_short_and_metadata_has_keys() {
    let db = Database::create();
    let mut session = db.connect();
    let mut insert = |category: &str, metadata: &str| {
        session.try_run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, category, metadata)
             VALUES ('{USER}', 'purchase', 1, gen_random_uuid()::text, {category}, {metadata})"
        ))
    };
    let object = "jsonb_build_object('text', repeat('x', 100000))";
    for (category, metadata) in [
        ("NULL", "NULL"),
        ("''", "'{}'"),
        ("repeat('\u{e9}', 200)", object),
        ("repeat('c', 200)", "'{\"a\": [1, 2]}'"),
    ] {
        insert(category, metadata).unwrap();
    }
    for (category, metadata, told) in [
        ("repeat('c', 201)", "NULL", "category must not have more than 200 characters, but has 201"),
        ("repeat('\u{e9}', 10000)", object, "category must not have more than 200 characters, but has 10000"),
        ("NULL", "'[]'", "metadata must be a JSON object"),
        ("NULL", "'null'", "metadata must be a JSON object"),
        ("NULL", "'\"text\"'", "metadata must be a JSON object"),
        ("NULL", "'7'", "metadata must be a JSON object"),
        ("'c'", "jsonb_build_array(repeat('x', 100000))", "metadata must be a JSON object"),
    ] {
        let error = insert(category, metadata).refused("23514");
        assert_eq!(error.message(), told);
        assert!(error.hint().is_some(), "{error:?}");
    }
    session.assert_sound();
}
