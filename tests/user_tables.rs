//! The tables that users fill besides the ledger: what `holds` and `spending_limits` take, and what they refuse.

use credits_ledger_tests::{Database, Refused, user};

#[test]
fn only_the_expiry_of_a_hold_changes() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(&format!(
        "INSERT INTO credits.holds (source_id, user_id, amount, description, metadata, expires_at)
         VALUES ('h', '{0}', 1.5, repeat('long ', 5000), '{{\"a\": 1}}', now()), ('other', '{0}', 1, NULL, NULL, now())",
        user(1)
    ));
    // Whether values are the same is found out of what is compressed or out of line, too.
    session.run(
        "UPDATE credits.holds SET expires_at = now() + interval '1 hour', source_id = source_id, amount = 1.5,
                description = repeat('long ', 5000), metadata = '{\"a\": 1}' WHERE source_id = 'h';
         UPDATE credits.holds SET category = NULL",
    );
    for (column, value) in [
        ("source_id", "'another'"),
        ("user_id", "gen_random_uuid()"),
        ("amount", "2"),
        ("description", "'short'"),
        ("description", "NULL"),
        ("fusillade_batch_id", "gen_random_uuid()"),
        ("api_key_id", "gen_random_uuid()"),
        ("category", "'model'"),
        ("metadata", "'{\"a\": 2}'"),
        ("created_at", "created_at + interval '1 second'"),
    ] {
        for setting in ["origin", "replica"] {
            session.run(&format!("SET session_replication_role = {setting}"));
            // A publisher's hold that was made anew.
            if (column, setting) == ("created_at", "replica") {
                session.run(&format!("UPDATE credits.holds SET {column} = {value}"));
                continue;
            }
            let error = session
                .try_run(&format!("UPDATE credits.holds SET {column} = {value} WHERE source_id = 'h'"))
                .refused("55000");
            assert!(error.message().contains(column), "{error:?}");
            session.try_run("TRUNCATE credits.holds").refused("55000");
        }
    }
    session.run("SET session_replication_role = origin");
    // Whatever makes the change.
    session.run(
        "CREATE FUNCTION public.raise_amount() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.amount := 3; RETURN NEW; END $$;
         CREATE TRIGGER zz BEFORE UPDATE ON credits.holds FOR EACH ROW EXECUTE FUNCTION public.raise_amount()",
    );
    session.try_run("UPDATE credits.holds SET expires_at = now()").refused("55000");
    session.run("DROP TRIGGER zz ON credits.holds; DELETE FROM credits.holds WHERE source_id = 'h'");
    let rest: i64 = session.value("SELECT count(*) FROM credits.holds", &[]);
    assert_eq!(rest, 1);
}

#[test]
fn a_hold_is_complete_and_exact() {
    let db = Database::create();
    let mut session = db.connect();
    let row = |source_id: &str, amount: &str| {
        format!(
            "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ({source_id}, '{}', {amount}, now())",
            user(1)
        )
    };
    session.run(&row("'most'", "9999999999999.999999999999999"));
    session.run(&row("'least'", "0.0000000000000010"));
    for amount in ["0", "-1", "10000000000000", "0.0000000000000001", "'NaN'", "'Infinity'"] {
        session.try_run(&row("'x'", amount)).refused("23514");
    }
    session.try_run(&row("'most'", "1")).refused("23505");
    for column in ["source_id", "user_id", "amount", "created_at", "expires_at"] {
        let columns = ["source_id", "user_id", "amount", "created_at", "expires_at"]
            .map(|each| if each == column { "NULL" } else { each });
        let insert = format!(
            "INSERT INTO credits.holds (source_id, user_id, amount, created_at, expires_at)
             SELECT {} FROM (SELECT 'x'::text, gen_random_uuid(), 1::numeric, now(), now())
                AS given (source_id, user_id, amount, created_at, expires_at)",
            columns.join(", ")
        );
        session.try_run(&insert).refused("23502");
    }
}

#[test]
fn limits_and_thresholds_are_exact() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(&format!("INSERT INTO credits.spending_limits (user_id) VALUES ('{}')", user(1)));
    let defaults: bool = session.value(
        "SELECT overdraft_limit = 0 AND thresholds = '{}' AND updated_at > now() - interval '1 hour'
         FROM credits.spending_limits",
        &[],
    );
    assert!(defaults);
    let mut set = |column: &str, value: &str| {
        session.try_run(&format!("UPDATE credits.spending_limits SET {column} = {value}"))
    };
    for limit in ["0", "NULL", "0.000000000000001", "9999999999999.9999999999999990"] {
        set("overdraft_limit", limit).unwrap();
    }
    for limit in ["-0.1", "10000000000000", "0.0000000000000001", "'NaN'", "'Infinity'", "'-Infinity'"] {
        set("overdraft_limit", limit).refused("23514");
    }
    for thresholds in [
        "'{}'",
        "'{5, -5, 0.5}'",
        "'[3:4]={1,2}'",
        "'{-9999999999999.999999999999999}'",
        "ARRAY(SELECT generate_series(1, 16))",
    ] {
        set("thresholds", thresholds).unwrap();
    }
    for thresholds in [
        "ARRAY(SELECT generate_series(1, 17))",
        "'{0}'",
        "'{1, 0.00}'",
        "'{5, 5.0}'",
        "'{NULL}'",
        "'{1, NULL}'",
        "'{NaN}'",
        "'{Infinity}'",
        "'{-Infinity}'",
        "'{10000000000000}'",
        "'{0.0000000000000001}'",
        "'{{1, 2}, {3, 4}}'",
    ] {
        set("thresholds", thresholds).refused("23514");
    }
    set("thresholds", "NULL").refused("23502");
}

/// Each `UPDATE` says when it was, and an `INSERT` may say otherwise. What replication applies keeps the publisher's time.
#[test]
fn a_limit_says_when_it_was_changed() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(&format!(
        "INSERT INTO credits.spending_limits (user_id, updated_at) VALUES ('{}', '2020-01-01')",
        user(1)
    ));
    let is_given = "SELECT updated_at = '2020-01-01' FROM credits.spending_limits";
    assert!(session.value::<bool>(is_given, &[]));
    let update = "UPDATE credits.spending_limits SET thresholds = '{1}', updated_at = '2020-01-01'";
    session.run(&format!("SET session_replication_role = replica; {update}"));
    assert!(session.value::<bool>(is_given, &[]));
    session.run(&format!("SET session_replication_role = origin; {update}"));
    let is_now = "SELECT updated_at > now() - interval '1 hour' FROM credits.spending_limits";
    assert!(session.value::<bool>(is_now, &[]));
    session.run("TRUNCATE credits.spending_limits");
}

/// Whoever may write limits needs nothing else for their checks.
#[test]
fn thresholds_are_checked_for_whoever_writes_them() {
    let db = Database::create();
    let role = db.create_role("limiter");
    db.connect().run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT INSERT ON credits.spending_limits TO {role}"
    ));
    let mut limiter = db.connect_as(&role);
    let insert = |thresholds: &str| {
        format!(
            "INSERT INTO credits.spending_limits (user_id, thresholds) VALUES ('{}', '{thresholds}')",
            user(1)
        )
    };
    limiter.try_run(&insert("{1, 1}")).refused("23514");
    limiter.run(&insert("{1, 2}"));
}
