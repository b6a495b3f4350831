//! Many transactions with one call: what becomes of each item.

use credits_ledger_tests::{Database, Decimal, Direction, Refused, Session, Uuid, dec, user};

/// A row of the result.
#[derive(Debug, PartialEq)]
struct Recorded {
    item: i32,
    source_id: Option<String>,
    outcome: String,
    id: Option<Uuid>,
    seq: Option<i64>,
    detail: Option<String>,
}

fn try_record(session: &mut Session, items: &str) -> Result<Vec<Recorded>, postgres::Error> {
    let rows = session.query(
        "SELECT item, source_id, outcome, transaction_id, seq, detail FROM credits.record_transactions($1::text::jsonb)",
        &[&items],
    )?;
    let recorded = |row: &postgres::Row| Recorded {
        item: row.get(0),
        source_id: row.get(1),
        outcome: row.get(2),
        id: row.get(3),
        seq: row.get(4),
        detail: row.get(5),
    };
    Ok(rows.iter().map(recorded).collect())
}

#[track_caller]
fn record(session: &mut Session, items: &[String]) -> Vec<Recorded> {
    let rows = try_record(session, &format!("[{}]", items.join(", "))).unwrap();
    let numbers: Vec<i32> = rows.iter().map(|row| row.item).collect();
    assert_eq!(
        numbers,
        (1..).take(items.len()).collect::<Vec<i32>>(),
        "one row each, in the order of the array"
    );
    for row in &rows {
        let is_stored = ["recorded", "exists"].contains(&row.outcome.as_str());
        assert_eq!(
            (row.id.is_some(), row.seq.is_some(), row.detail.is_some()),
            (is_stored, is_stored, !is_stored),
            "{row:?}"
        );
    }
    rows
}

#[track_caller]
fn outcomes(session: &mut Session, items: &[String]) -> Vec<String> {
    record(session, items).into_iter().map(|row| row.outcome).collect()
}

/// An item with these keys besides.
fn item(number: u32, source_id: &str, more: &str) -> String {
    format!(
        r#"{{"user_id": "{}", "transaction_type": "usage", "source_id": "{source_id}", "amount": 1{more}}}"#,
        user(number)
    )
}

/// The message of the item, alone in an array.
#[track_caller]
fn refusal(session: &mut Session, element: &str) -> String {
    let [row] = &record(session, &[element.to_owned()])[..] else { panic!("one row each") };
    assert_eq!(row.outcome, "refused", "{row:?}");
    row.detail.clone().unwrap()
}

#[test]
fn every_key_of_an_item_is_recorded() {
    let db = Database::create();
    let (mut session, mut listener) = (db.connect(), db.listen());
    let items = [
        format!(
            r#"{{"user_id": "{0}", "transaction_type": "purchase", "amount": "10.50", "source_id": "b", "description": "top-up",
                "api_key_id": "{1}", "id": "{2}", "created_at": "2026-01-02T03:04:05Z", "category": "card", "metadata": {{"a": [1]}}}}"#,
            user(1),
            user(2),
            user(3)
        ),
        format!(
            r#"{{"user_id": "{0}", "transaction_type": "usage", "amount": 1e-7, "source_id": "a", "fusillade_batch_id": "{{{1}}}",
                "description": null, "id": null, "created_at": null, "metadata": null}}"#,
            user(1),
            user(4).simple()
        ),
    ];
    let rows = record(&mut session, &items);
    assert_eq!((rows[0].outcome.as_str(), rows[0].id), ("recorded", Some(user(3))));
    let stored: Vec<String> = session.values(
        "SELECT concat_ws(' ', transaction_type, amount, source_id, coalesce(description, '-'), coalesce(fusillade_batch_id::text, '-'),
                          coalesce(api_key_id::text, '-'), coalesce(category, '-'), coalesce(metadata::text, '-'),
                          coalesce(reverses::text, '-'), created_at = '2026-01-02T03:04:05Z', xact_id = pg_snapshot_xmin(pg_current_snapshot()))
         FROM credits.credits_transactions WHERE id = ANY ($1) ORDER BY source_id",
        &[&vec![rows[1].id.unwrap(), user(3)]],
    );
    assert_eq!(
        stored,
        [
            format!("usage 0.0000001 a - {} - - - - f f", user(4)),
            format!("purchase 10.50 b top-up - {} card {{\"a\": [1]}} - t f", user(2)),
        ]
    );
    assert_eq!(listener.crossings(), [(user(1), Direction::Up)]);
    assert_eq!(session.balance(user(1)), dec!(10.4999999));
    session.assert_sound();
}

/// As numbers and as strings, with the digits that were sent.
#[test]
fn amounts_are_exact_or_refused() {
    let db = Database::create();
    let mut session = db.connect();
    for (number, amount) in (0..).zip([
        "1",
        "1.10",
        "1e-7",
        "1E+3",
        "0.000000000000001",
        "9999999999999.999999999999999",
        "100000000000000000000e-10",
    ]) {
        for (kind, amount) in [("number", amount.to_owned()), ("string", format!("\"{amount}\""))] {
            let source_id = format!("{number} {kind}");
            let element = item(1, &source_id, &format!(r#", "amount": {amount}"#));
            assert_eq!(outcomes(&mut session, &[element]), ["recorded"], "{amount}");
        }
    }
    let different: i64 = session.value(
        "SELECT count(*) FROM credits.credits_transactions a JOIN credits.credits_transactions b
             ON split_part(a.source_id, ' ', 1) = split_part(b.source_id, ' ', 1)
         WHERE a.amount::text <> b.amount::text",
        &[],
    );
    assert_eq!(different, 0);
    let amounts: Vec<String> = session.values(
        "SELECT amount::text FROM credits.credits_transactions WHERE source_id LIKE '%number' ORDER BY source_id",
        &[],
    );
    assert_eq!(amounts[..3], ["1", "1.10", "0.0000001"]);
    for amount in [
        "0",
        "-1",
        "\"0\"",
        "\"-0.5\"",
        "\"NaN\"",
        "\"-Infinity\"",
        "0.0000000000000001",
        "10000000000000",
        "\"1e400\"",
        "1e400",
        "0.1234567890123456789012345678901234567890",
        "\"0.1234567890123456789012345678901234567890\"",
    ] {
        let message = refusal(&mut session, &item(1, "bad", &format!(r#", "amount": {amount}"#)));
        assert!(message.contains("amount_is_positive_and_exact"), "{amount}: {message}");
    }
    for (amount, expected) in [
        ("\"\"", "invalid input syntax for type numeric: \"\""),
        ("\"1,5\"", "invalid input syntax for type numeric: \"1,5\""),
        ("true", "amount is of type numeric, but the item has a boolean"),
        ("[1]", "amount is of type numeric, but the item has an array"),
        (
            "null",
            "null value in column \"amount\" of relation \"credits_transactions\" violates not-null constraint",
        ),
    ] {
        assert_eq!(refusal(&mut session, &item(1, "bad", &format!(r#", "amount": {amount}"#))), expected);
    }
    session.assert_sound();
}

#[test]
fn a_bad_item_costs_only_itself() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "ALTER TABLE credits.credits_transactions ADD CONSTRAINT no_fives CHECK (description <> 'five') NOT VALID",
    );
    let no_kind = format!(r#"{{"user_id": "{}", "source_id": "n", "amount": 1}}"#, user(1));
    let bad: Vec<(String, &str)> = vec![
        ("7".into(), "an item must be an object, not a number"),
        ("null".into(), "an item must be an object, not null"),
        ("[]".into(), "an item must be an object, not an array"),
        ("\"x\"".into(), "an item must be an object, not a string"),
        ("{}".into(), "null value in column \"user_id\" of relation"),
        (no_kind, "null value in column \"transaction_type\" of relation"),
        (item(1, "x", r#", "reverses": null"#), "an item has no key \"reverses\""),
        (item(1, "x", r#", "größe": 1"#), "an item has no key \"größe\""),
        (item(1, "x", r#", "user_id": "nobody""#), "invalid input syntax for type uuid: \"nobody\""),
        (item(1, "x", r#", "user_id": 5"#), "user_id is of type uuid, but the item has a number"),
        (item(1, "x", r#", "transaction_type": "refund""#), "check constraint \"transaction_type_is_known\""),
        (
            item(1, "x", r#", "created_at": "soon""#),
            "invalid input syntax for type timestamp with time zone: \"soon\"",
        ),
        (item(1, "x", r#", "metadata": [1]"#), "metadata must be a JSON object"),
        (
            item(1, "x", &format!(r#", "category": "{}""#, "c".repeat(201))),
            "category must not have more than 200 characters, but has 201",
        ),
        (
            item(1, "x", r#", "description": {"a": 1}"#),
            "description is of type text, but the item has an object",
        ),
        (
            item(
                1,
                "x",
                &format!(r#", "transaction_type": "purchase", "fusillade_batch_id": "{}""#, user(1)),
            ),
            "check constraint \"batch_is_usage\"",
        ),
        (item(1, "x", r#", "description": "five""#), "check constraint \"no_fives\""),
        (item(1, "x", r#", "source_id": null"#), "null value in column \"source_id\" of relation"),
    ];
    for (element, expected) in &bad {
        let message = refusal(&mut session, element);
        assert!(message.contains(expected), "{element}: {message}");
    }
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.credits_transactions", &[]), 0);
    // Good ones between them.
    let mut items = Vec::new();
    for (number, (element, _)) in bad.iter().enumerate() {
        items.push(element.clone());
        items.push(item(1, &format!("good {number}"), ""));
    }
    let expected: Vec<&str> = bad.iter().flat_map(|_| ["refused", "recorded"]).collect();
    assert_eq!(outcomes(&mut session, &items), expected);
    let good = i64::try_from(bad.len()).unwrap();
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.credits_transactions", &[]), good);
    assert_eq!(session.balance(user(1)), -Decimal::from(good));
    session.assert_sound();
}

#[test]
fn what_is_stored_exists_or_is_in_conflict() {
    let db = Database::create();
    let mut session = db.connect();
    let with_id = |source_id: &str, id: u32| item(1, source_id, &format!(r#", "id": "{}""#, user(id)));
    let first = record(&mut session, &[with_id("a", 11), item(1, "b", "")]);
    let again = record(
        &mut session,
        &[
            item(1, "b", r#", "amount": "1.00", "description": "again""#),
            item(1, "b", r#", "amount": 2"#),
            item(2, "b", ""),
            item(1, "b", r#", "transaction_type": "admin_removal""#),
            item(1, "a", ""),
            with_id("a", 11),
            with_id("a", 12),
            with_id("c", 11),
            with_id("b", 11),
            with_id("d", 13),
            item(1, "d", ""),
            with_id("d", 14),
            item(1, "d", r#", "amount": 3"#),
            with_id("e", 13),
            item(1, "f", r#", "amount": 0"#),
            item(1, "f", ""),
        ],
    );
    let outcomes: Vec<&str> = again.iter().map(|row| row.outcome.as_str()).collect();
    assert_eq!(
        outcomes,
        [
            "exists", "conflict", "conflict", "conflict", "exists", "exists", "exists", "conflict",
            "conflict", "recorded", "exists", "exists", "conflict", "conflict", "refused", "recorded"
        ]
    );
    assert_eq!((again[0].id, again[0].seq), (first[1].id, first[1].seq));
    assert_eq!((again[4].id, again[5].id, again[6].id), (Some(user(11)), Some(user(11)), Some(user(11))));
    assert_eq!((again[10].id, again[10].seq), (Some(user(13)), again[9].seq));
    let details: Vec<&str> = again.iter().filter_map(|row| row.detail.as_deref()).collect();
    assert_eq!(
        details[0],
        format!(
            "source_id \"b\" is taken by another transaction: asked for usage of 2 for user {0}, stored is usage of 1 for user {0}",
            user(1)
        )
    );
    assert_eq!(details[3], format!("id {} is taken by another transaction, with source_id \"a\"", user(11)));
    assert_eq!(session.balance(user(1)), dec!(-4));
}

#[test]
fn arguments_are_checked_before_anything() {
    let db = Database::create();
    let mut session = db.connect();
    for (argument, sqlstate, expected) in [
        ("NULL", "22004", "argument transactions must not be NULL"),
        ("'{}'", "22023", "argument transactions must be a JSON array"),
        ("'7'", "22023", "argument transactions must be a JSON array"),
        ("'null'", "22023", "argument transactions must be a JSON array"),
        (
            "(SELECT jsonb_agg(n) FROM generate_series(1, 10001) n)",
            "22023",
            "argument transactions must have at most 10000 elements, but has 10001",
        ),
    ] {
        let error =
            session.try_run(&format!("SELECT credits.record_transactions({argument})")).refused(sqlstate);
        assert_eq!(error.message(), expected);
    }
    assert_eq!(record(&mut session, &[]), []);
    let error = session.try_run("BEGIN READ ONLY; SELECT credits.record_transactions('[]')").refused("25006");
    assert_eq!(error.message(), "cannot execute record_transactions() in a read-only transaction");
}

#[test]
fn ten_thousand_items_are_taken_at_once() {
    let db = Database::create();
    let mut session = db.connect();
    let items: Vec<String> =
        (0..10_000).map(|number| item(number % 7, &format!("s{}", number % 9_000), "")).collect();
    let outcomes = outcomes(&mut session, &items);
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "recorded").count(), 9_000);
    assert!(outcomes[..9_000].iter().all(|outcome| outcome == "recorded"));
    // The users come round at another number: the same source_id is another user's.
    assert!(outcomes[9_000..].iter().all(|outcome| outcome == "conflict"));
    session.assert_sound();
}

#[test]
fn privileges_and_policies_are_the_callers() {
    let db = Database::create();
    let mut admin = db.connect();
    let role = db.create_role("tenant");
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role};
         GRANT SELECT ON credits.credits_transactions TO {role}"
    ));
    let mut tenant = db.connect_as(&role);
    let assert_denied = |tenant: &mut Session| {
        for items in ["[]".to_owned(), format!("[{}]", item(1, "a", ""))] {
            let error = try_record(tenant, &items).refused("42501");
            assert_eq!(error.message(), "permission denied for table credits_transactions");
        }
    };
    assert_denied(&mut tenant);
    admin.run(&format!(
        "GRANT INSERT (user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id)
         ON credits.credits_transactions TO {role};
         REVOKE SELECT ON credits.credits_transactions FROM {role}"
    ));
    assert_denied(&mut tenant);
    admin.run(&format!("GRANT SELECT ON credits.credits_transactions TO {role}"));
    assert_eq!(outcomes(&mut tenant, &[item(1, "a", "")]), ["recorded"]);
    try_record(&mut tenant, &format!("[{}]", item(1, "b", r#", "category": "c""#))).refused("42501");
    // Another's row is there, and this caller does not see it.
    admin.run(&format!(
        "SELECT credits.create_transaction('{}', 'usage', 1, 'hidden');
         ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON credits.credits_transactions USING (user_id = '{}')",
        user(2),
        user(1)
    ));
    let rows = record(
        &mut tenant,
        &[item(2, "c", ""), item(1, "d", ""), item(1, "hidden", ""), item(1, "a", ""), item(2, "hidden", "")],
    );
    let outcomes: Vec<&str> = rows.iter().map(|row| row.outcome.as_str()).collect();
    assert_eq!(outcomes, ["refused", "recorded", "conflict", "exists", "refused"]);
    let detail = rows[0].detail.as_deref().unwrap();
    assert_eq!(detail, "new row violates row-level security policy for table \"credits_transactions\"");
    let detail = rows[2].detail.as_deref().unwrap();
    assert!(detail.ends_with("stored is one that the caller may not see"), "{detail}");
}

/// Triggers fire as by an INSERT, find what the caller finds, and stand in the way of their own rows alone.
#[test]
fn triggers_are_met_as_by_an_insert() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "CREATE SCHEMA app; CREATE TABLE app.seen (source_id text, rows bigint);
         CREATE FUNCTION app.row_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             CASE NEW.description
                 WHEN 'raise' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = 'CR001';
                 WHEN 'skip' THEN RETURN NULL;
                 WHEN 'rename' THEN NEW.source_id = 'renamed ' || NEW.source_id;
                 ELSE NULL;
             END CASE;
             RETURN NEW;
         END $$;
         CREATE TRIGGER app_row BEFORE INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION app.row_trigger();
         CREATE FUNCTION app.statement_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO seen SELECT min(source_id), count(*) FROM new_rows;
             RETURN NULL;
         END $$;
         CREATE TRIGGER app_statement AFTER INSERT ON credits.credits_transactions REFERENCING NEW TABLE AS new_rows
             FOR EACH STATEMENT EXECUTE FUNCTION app.statement_trigger();
         SET search_path = app",
    );
    let of = |source_id: &str, description: &str| {
        item(1, source_id, &format!(r#", "description": "{description}""#))
    };
    assert_eq!(outcomes(&mut session, &[of("a", ""), of("b", ""), of("c", "")]), ["recorded"; 3]);
    let seen: Vec<(String, i64)> = session
        .query("SELECT * FROM seen", &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert_eq!(seen, [("a".to_owned(), 3)]);
    let items: Vec<String> = ["raise", "fine", "skip", "rename", "fine", "raise"]
        .iter()
        .zip(0..)
        .map(|(description, number)| of(&format!("d{number}"), description))
        .collect();
    let rows = record(&mut session, &items);
    let outcomes: Vec<&str> = rows.iter().map(|row| row.outcome.as_str()).collect();
    assert_eq!(outcomes, ["refused", "recorded", "refused", "recorded", "recorded", "refused"]);
    assert_eq!(rows[0].detail.as_deref(), Some("not this one"));
    assert_eq!(
        rows[2].detail.as_deref(),
        Some("a trigger on credits_transactions left out the transaction with source_id \"d2\"")
    );
    let renamed: String =
        session.value("SELECT source_id FROM credits.credits_transactions WHERE id = $1", &[&rows[3].id]);
    assert_eq!(renamed, "renamed d3");
    session.assert_sound();
}

/// What an application's triggers and policies do to items that share a source_id must not have each looked at again and again.
#[test]
fn each_item_is_tried_and_looked_up_a_few_times_at_most() {
    const COUNT: i64 = 300;
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "CREATE SCHEMA app; CREATE SEQUENCE app.tries;
         CREATE FUNCTION app.row_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM nextval('app.tries');
             CASE NEW.description
                 WHEN 'raise' THEN RAISE EXCEPTION 'not this one';
                 WHEN 'rename' THEN NEW.source_id = gen_random_uuid();
                 ELSE NULL;
             END CASE;
             RETURN NEW;
         END $$;
         CREATE TRIGGER app_row BEFORE INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION app.row_trigger();
         SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_seqscan = off",
    );
    for (description, outcome) in [("raise", "refused"), ("rename", "recorded")] {
        let element = item(1, "shared", &format!(r#", "description": "{description}""#));
        session.run("SELECT setval('app.tries', 1, false); BEGIN");
        assert_eq!(outcomes(&mut session, &[&element; 300].map(String::clone)), [outcome; 300]);
        let tries: i64 = session.value("SELECT last_value FROM app.tries", &[]);
        let lookups: i64 = session.value(
            "SELECT idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'credits_transactions'",
            &[],
        );
        session.run("ROLLBACK");
        assert!((COUNT..=2 * COUNT).contains(&tries), "{description}: {tries} tries");
        assert!(lookups <= 10 * COUNT, "{description}: {lookups} lookups");
    }
}

/// Whatever the table would refuse is refused, written without a statement or with one.
#[test]
fn only_usage_has_a_batch() {
    let db = Database::create();
    let mut session = db.connect();
    let batch = format!(r#", "fusillade_batch_id": "{}""#, user(1));
    assert_eq!(outcomes(&mut session, &[item(1, "usage", &batch)]), ["recorded"]);
    for kind in ["purchase", "admin_grant", "admin_removal"] {
        let element = item(1, kind, &format!(r#"{batch}, "transaction_type": "{kind}""#));
        let message = refusal(&mut session, &element);
        assert!(message.contains("batch_is_usage"), "{message}");
    }
}

/// What a trigger makes fit is compared with what is stored as it was given.
#[test]
fn an_item_that_a_trigger_makes_fit_is_compared_as_it_was_given() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.amount = round(NEW.amount, 15); RETURN NEW; END $$;
         CREATE TRIGGER cut BEFORE INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION cut()",
    );
    let element = item(1, "a", r#", "amount": 1.0000000000000001"#);
    assert_eq!(outcomes(&mut session, std::slice::from_ref(&element)), ["recorded"]);
    let [row] = &record(&mut session, &[element])[..] else { panic!("one row each") };
    let detail = row.detail.as_deref().unwrap();
    assert!(detail.contains("stored is usage of 1"), "{detail}");
    session.assert_sound();
}

/// The keys of an item that is not recorded may be free: then the detail does not say that they are taken.
#[test]
fn a_detail_names_the_key_that_is_taken() {
    let db = Database::create();
    let mut admin = db.connect();
    let role = db.create_role("tenant");
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role};
         GRANT SELECT, INSERT ON credits.credits_transactions TO {role};
         CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.description = 'other source_id' THEN NEW.source_id = 'taken'; END IF;
             IF NEW.description = 'other id' THEN NEW.id = '{0}'; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER change BEFORE INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION change();
         INSERT INTO credits.credits_transactions (id, user_id, transaction_type, amount, source_id) VALUES
             ('{0}', '{0}', 'usage', 1, 'taken')",
        user(2)
    ));
    let with_id = item(1, "free", &format!(r#", "id": "{}""#, user(2)));
    let described = |source_id: &str, description: &str| {
        item(1, source_id, &format!(r#", "description": "{description}""#))
    };
    let items = [with_id, described("a", "other source_id"), described("b", "other id")];
    let details = |session: &mut Session| -> Vec<String> {
        let rows = record(session, &items);
        assert!(rows.iter().all(|row| row.outcome == "conflict"), "{rows:?}");
        rows.into_iter().filter_map(|row| row.detail).collect()
    };
    let by_trigger = |source_id: &str| {
        format!(
            "a trigger on credits_transactions gave the transaction with source_id \"{source_id}\" a source_id or id that is taken"
        )
    };
    let id_is_taken = format!("id {} is taken by another transaction, ", user(2));
    let of_whole = details(&mut admin);
    assert_eq!(
        of_whole,
        [format!("{id_is_taken}with source_id \"taken\""), by_trigger("a"), by_trigger("b")]
    );
    // The caller does not see the row any more.
    admin.run(&format!(
        "ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON credits.credits_transactions USING (user_id = '{}')",
        user(1)
    ));
    let of_filtered = details(&mut db.connect_as(&role));
    assert_eq!(of_filtered[0], format!("{id_is_taken}which the caller may not see"));
    assert_eq!(of_filtered[2], by_trigger("b"));
}

/// An item is said to be recorded only if the row has its content.
#[test]
fn a_row_is_not_taken_for_that_of_another_item() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "CREATE FUNCTION lower() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.source_id = lower(NEW.source_id); RETURN NEW; END $$;
         CREATE TRIGGER lower BEFORE INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION lower()",
    );
    let items = [item(1, "X", r#", "amount": 1"#), item(1, "x", r#", "amount": 2"#)];
    let rows = record(&mut session, &items);
    let stored: Vec<String> =
        session.values("SELECT concat_ws(' ', id, source_id, amount) FROM credits.credits_transactions", &[]);
    let recorded: Vec<String> = rows
        .iter()
        .zip(1..)
        .filter(|(row, _)| row.outcome == "recorded")
        .map(|(row, amount)| format!("{} x {amount}", row.id.unwrap()))
        .collect();
    assert_eq!(recorded, stored);
    assert_eq!(rows.iter().filter(|row| row.outcome == "conflict").count(), 1, "{rows:?}");
}

/// Each call inserts in the same order, whatever the order of its items.
#[test]
fn calls_with_the_same_items_do_not_deadlock() {
    let db = Database::create();
    let (mut first, second) = (db.connect(), db.connect());
    let items: Vec<String> = (0..100)
        .map(|number| item(number, &format!("s{number}"), &format!(r#", "id": "{}""#, user(number))))
        .collect();
    let mut reversed = items.clone();
    reversed.reverse();
    // The first stops in the middle of its call.
    let mut gate = db.connect();
    first.run(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.source_id = 's50' AND current_setting('application_name') = 'first' THEN
                 PERFORM pg_advisory_xact_lock(1);
             END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER wait BEFORE INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION wait();
         SET application_name = 'first'",
    );
    gate.run("SELECT pg_advisory_lock(1)");
    let first = first.background(move |session| outcomes(session, &items));
    db.until_blocked(first.pid());
    let second = second.background(move |session| outcomes(session, &reversed));
    db.until_blocked(second.pid());
    gate.run("SELECT pg_advisory_unlock(1)");
    let ((mut session, first), (_, second)) = (first.finish(), second.finish());
    assert_eq!((first, second), (vec!["recorded".to_owned(); 100], vec!["exists".to_owned(); 100]));
    session.assert_sound();
}

/// An error that is about the transaction ends the call: no item has caused it.
#[test]
fn what_ends_a_transaction_is_raised() {
    let db = Database::create();
    let (mut holder, mut session) = (db.connect(), db.connect());
    holder.run(&format!("BEGIN; SELECT credits.create_transaction('{}', 'usage', 1, 'a')", user(1)));
    session.run("SET lock_timeout = 1");
    try_record(&mut session, &format!("[{}, {}]", item(1, "a", ""), item(1, "b", ""))).refused("55P03");
    session.run("SET lock_timeout = 0; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM credits.balances");
    holder.run("COMMIT");
    try_record(&mut session, &format!("[{}, {}]", item(1, "a", ""), item(1, "b", ""))).refused("40001");
    session.run("ROLLBACK");
    assert_eq!(outcomes(&mut session, &[item(1, "a", ""), item(1, "b", "")]), ["exists", "recorded"]);
}

/// Within a savepoint, a prepared transaction, and with rows of its own before.
#[test]
fn a_call_is_part_of_its_transaction() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("BEGIN");
    assert_eq!(outcomes(&mut session, &[item(1, "a", "")]), ["recorded"]);
    session.run("SAVEPOINT s");
    assert_eq!(outcomes(&mut session, &[item(1, "a", ""), item(1, "b", "")]), ["exists", "recorded"]);
    session.run("ROLLBACK TO s");
    assert_eq!(outcomes(&mut session, &[item(1, "b", r#", "amount": 5"#)]), ["recorded"]);
    session.run("COMMIT");
    assert_eq!(session.balance(user(1)), dec!(-6));
    session.run("BEGIN");
    assert_eq!(outcomes(&mut session, &[item(1, "c", "")]), ["recorded"]);
    session.run("ROLLBACK");
    assert_eq!(session.balance(user(1)), dec!(-6));
    session.assert_sound();
}
