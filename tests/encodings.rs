//! Databases whose encoding is not UTF-8: texts are kept and found as they came.

use credits_ledger_tests::{Database, Refused, dec, user};

#[test]
fn texts_in_the_encoding_of_the_database() {
    for encoding in ["LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII"] {
        let db = Database::create_encoded(encoding);
        let mut session = db.connect();
        let text = if encoding == "EUC_JP" { "残高" } else { "Guthaben für Zoë" };
        let create = "SELECT (credits.create_transaction($1, 'purchase', $2, $3, $4)).description";
        let arguments: [&(dyn postgres::types::ToSql + Sync); 4] = [&user(1), &dec!(5), &text, &text];
        assert_eq!(session.value::<String>(create, &arguments), text, "{encoding}");
        // The same again is a retry, another amount is not.
        assert_eq!(session.value::<String>(create, &arguments), text, "{encoding}");
        let error = session.query(create, &[&user(1), &dec!(6), &text, &text]).refused("23505");
        assert!(error.message().starts_with("source_id "), "{encoding}: {error:?}");

        let list = "SELECT source_id FROM credits.list_all_transactions(search => $1)";
        assert_eq!(session.values::<String>(list, &[&text]), [text], "{encoding}");
        assert!(
            session.value::<bool>("SELECT credits.transaction_exists_by_source_id($1)", &[&text]),
            "{encoding}"
        );
        let unknown = "SELECT credits.create_transaction($1, $2, 1, 'x')";
        session.query(unknown, &[&user(1), &text]).refused("22023");
        let unknown = "SELECT credits.count_all_transactions(transaction_types => ARRAY['usage', $1])";
        session.query(unknown, &[&text]).refused("22023");
        session.assert_sound();
    }
}

/// Where any byte is a character, none of them is a mistake.
#[test]
fn bytes_that_are_no_text_of_any_encoding() {
    let db = Database::create_encoded("SQL_ASCII");
    let mut session = db.connect();
    session.run("SET client_encoding = 'SQL_ASCII'");
    session
        .run(r"SELECT credits.create_transaction(gen_random_uuid(), 'purchase', 5, E'\xff\xfe', E'\x80%')");
    let found: i64 = session.value(r"SELECT credits.count_all_transactions(E'\x80%')", &[]);
    assert_eq!(found, 1);
    let error = session
        .try_run(r"SELECT credits.create_transaction(gen_random_uuid(), E'us\xffage', 5, 'x')")
        .refused("22023");
    assert!(error.message().contains(r#""us\xffage""#), "{}", error.message());
}
