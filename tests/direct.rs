//! Rows that functions write without a statement, and everything that has them use one: then an INSERT or a DELETE does what it always
//! does, triggers, constraints, rules and policies included.

use credits_ledger_tests::{Database, Refused, Session, correction, dec, unguarded, user};
use postgres::Error;

/// How many statements that write the session has planned for the functions.
fn planned(session: &mut Session) -> i64 {
    session.value(
        "SELECT count(*) FROM pg_backend_memory_contexts
         WHERE name = 'CachedPlanSource' AND ident ~ '^(INSERT INTO|WITH hold AS)'",
        &[],
    )
}

/// Records a transaction, charges, holds and captures, and records an array, each under a key that begins with `prefix`.
fn write(session: &mut Session, prefix: &str) -> Result<(), Error> {
    for call in [
        "create_transaction('USER', 'usage', 1, 'PREFIX recorded')",
        "charge('USER', 2, 'PREFIX charged')",
        "create_hold('USER', 3, 'PREFIX held')",
        "capture_hold('PREFIX held', 2.5)",
        r#"record_transactions('[
            {"user_id": "USER", "transaction_type": "usage", "amount": 4, "source_id": "PREFIX item"},
            {"user_id": "USER", "transaction_type": "usage", "amount": 0.5, "source_id": "PREFIX item more"}]')"#,
    ] {
        let call = call.replace("USER", &user(1).to_string()).replace("PREFIX", prefix);
        session.try_run(&format!("SELECT credits.{call}"))?;
    }
    Ok(())
}

/// What the ledger has under such keys.
fn written(session: &mut Session, prefix: &str) -> Vec<String> {
    session.values(
        "SELECT concat_ws(' ', substr(source_id, length($1) + 2), transaction_type, amount, description, created_at = 'epoch')
         FROM credits.credits_transactions WHERE starts_with(source_id, $1) ORDER BY seq",
        &[&prefix],
    )
}

const WRITTEN: [&str; 5] = [
    "recorded usage 1 f",
    "charged usage 2 f",
    "held usage 2.5 f",
    "item usage 4 f",
    "item more usage 0.5 f",
];

#[test]
fn no_statement_is_planned() {
    let (db, mut session) = Database::create_with(dec!(1000));
    let mut fresh = db.connect();
    write(&mut fresh, "plain").unwrap();
    assert_eq!(planned(&mut fresh), 0);
    assert_eq!(written(&mut fresh, "plain"), WRITTEN);
    // The values that the server gives a row.
    let as_given: bool = session.value(
        "SELECT count(DISTINCT id) = 6 AND count(DISTINCT seq) = 6 AND count(DISTINCT xact_id) = 5
            AND bool_and(substr(id::text, 15, 1) = '7' AND substr(id::text, 20, 1) ~ '[89ab]' OR source_id NOT LIKE 'plain%')
            AND bool_and(created_at BETWEEN now() - interval '1 hour' AND clock_timestamp())
            AND max(seq) = (SELECT last_value FROM credits.credits_transactions_seq_seq)
         FROM credits.credits_transactions",
        &[],
    );
    assert!(as_given);
    // Every index has the rows, and nothing is left of the hold.
    for index in ["user_id", "seq", "xact_id", "created_at", "source_id"] {
        let found: i64 = session.value(
            &format!(
                "SELECT count(*) FROM (SELECT {index} FROM credits.credits_transactions WHERE user_id = $1 ORDER BY {index}) r"
            ),
            &[&user(1)],
        );
        assert_eq!(found, 6, "{index}");
    }
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.holds", &[]), 0);
    assert_eq!(session.balance(user(1)), dec!(990));
    session.assert_sound();
}

/// What a function returns is the row as it is stored, to the last column.
#[test]
fn the_stored_rows_are_returned() {
    let (_db, mut session) = Database::create_with(dec!(1000));
    let all = "description => 'chat', fusillade_batch_id => 'bbbbbbbb-0000-4000-8000-000000000000',
               api_key_id => 'aaaaaaaa-0000-4000-8000-000000000000'";
    let later = "category => 'model', metadata => '{\"n\": [1, 2]}'";
    let transaction = "id, user_id, transaction_type, amount, source_id, description, created_at, seq, fusillade_batch_id, api_key_id";
    let is_stored = |session: &mut Session, call: &str, table: &str, columns: &str| -> bool {
        let returned: String = session.value(
            &format!("SELECT r::text FROM credits.{} r", call.replace("USER", &user(1).to_string())),
            &[],
        );
        session.value(
            &format!(
                "SELECT ROW({columns})::text = $1 FROM credits.{table} ORDER BY created_at DESC LIMIT 1"
            ),
            &[&returned],
        )
    };
    for (call, table, columns) in [
        (
            format!("create_transaction('USER', 'usage', 1.50, 'a', {all})"),
            "credits_transactions",
            transaction,
        ),
        (format!("charge('USER', 1.50, 'b', {all}, {later})"), "credits_transactions", transaction),
        ("charge('USER', 1.50, 'c')".to_owned(), "credits_transactions", transaction),
        (format!("create_hold('USER', 1.50, 'd', {all}, {later})"), "holds", "holds.*"),
        ("capture_hold('d')".to_owned(), "credits_transactions", transaction),
    ] {
        assert!(is_stored(&mut session, &call, table, columns), "{call}");
    }
    // Also where it is long enough to be stored out of line, and moved from one table to another.
    let long = "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 3000) i)";
    session.run(&format!(
        "SELECT credits.create_hold('{0}', 1, 'long', description => {long});
         SELECT credits.capture_hold('long')",
        user(1)
    ));
    let same: bool = session.value(
        &format!("SELECT description = {long} AND category IS NULL FROM credits.credits_transactions WHERE source_id = 'long'"),
        &[],
    );
    assert!(same);
    assert_eq!(planned(&mut session), 0);
    let later: Vec<String> = session.values(
        "SELECT concat_ws(' ', source_id, category, metadata) FROM credits.credits_transactions
         WHERE category IS NOT NULL ORDER BY seq",
        &[],
    );
    assert_eq!(later, ["b model {\"n\": [1, 2]}", "d model {\"n\": [1, 2]}"]);
    session.assert_sound();
}

/// Of an array, each item keeps what it brings, and is given what it does not.
#[test]
fn items_of_an_array_keep_their_values() {
    let (_db, mut session) = Database::create_with(dec!(1000));
    let item = |source_id: &str, more: &str| {
        format!(
            r#"{{"user_id": "{}", "transaction_type": "usage", "amount": "1.50", "source_id": "{source_id}"{more}}}"#,
            user(1)
        )
    };
    let more = r#", "created_at": "2026-01-02 03:04:05Z", "category": "model", "metadata": {"n": [1, 2]}, "description": "chat""#;
    let items = [item("b", more), item("a", ""), item("c", r#", "created_at": null, "category": "other""#)];
    let outcomes: Vec<String> = session.values(
        &format!("SELECT outcome FROM credits.record_transactions('[{}]') ORDER BY item", items.join(",")),
        &[],
    );
    assert_eq!(outcomes, ["recorded"; 3]);
    let stored: Vec<String> = session.values(
        "SELECT concat_ws(' ', source_id, amount, description, category, metadata,
                          CASE WHEN created_at < now() - interval '1 hour' THEN created_at AT TIME ZONE 'UTC' END)
         FROM credits.credits_transactions WHERE transaction_type = 'usage' ORDER BY seq",
        &[],
    );
    assert_eq!(stored, ["a 1.50", r#"b 1.50 chat model {"n": [1, 2]} 2026-01-02 03:04:05"#, "c 1.50 other"]);
    assert_eq!(planned(&mut session), 0);
    session.assert_sound();
}

/// What an owner may do to the tables, how it is undone, and what comes of a write then.
struct Change {
    made_by: &'static str,
    undone_by: &'static str,
    /// An SQLSTATE, or what is left out of `WRITTEN` and written in its place.
    outcome: Result<[&'static str; 5], &'static str>,
}

const LOG: &str = "
    CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY, what text);
    CREATE TABLE accounts (id uuid PRIMARY KEY);
    CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO log (what) VALUES (concat_ws(' ', tg_table_name, tg_when, tg_level, tg_op));
        RETURN coalesce(NEW, OLD);
    END $$;
    CREATE FUNCTION discount() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.description = 'seen'; RETURN NEW; END $$;";

#[test]
fn constraints_defaults_and_rules_of_the_owner_hold() {
    let (db, mut admin) = Database::create_with(dec!(1000));
    admin.run(LOG);
    let ledger = "credits.credits_transactions";
    let seen = [
        "recorded usage 1 seen f",
        "charged usage 2 seen f",
        "held usage 2.5 seen f",
        "item usage 4 seen f",
        "item more usage 0.5 seen f",
    ];
    let epoch = [
        "recorded usage 1 t",
        "charged usage 2 t",
        "held usage 2.5 t",
        "item usage 4 t",
        "item more usage 0.5 t",
    ];
    let changes = [
        Change {
            made_by: "ALTER TABLE LEDGER ADD CONSTRAINT small CHECK (amount < 2) NOT VALID",
            undone_by: "ALTER TABLE LEDGER DROP CONSTRAINT small",
            outcome: Err("23514"),
        },
        // Under the name of ours.
        Change {
            made_by: "ALTER TABLE LEDGER DROP CONSTRAINT batch_is_usage, ADD CONSTRAINT batch_is_usage CHECK (amount < 2) NOT VALID",
            undone_by: "ALTER TABLE LEDGER DROP CONSTRAINT batch_is_usage, ADD CONSTRAINT batch_is_usage
                        CHECK (credits.may_have_batch(transaction_type, fusillade_batch_id))",
            outcome: Err("23514"),
        },
        Change {
            made_by: "ALTER TABLE LEDGER ALTER id SET DEFAULT gen_random_uuid()",
            undone_by: "ALTER TABLE LEDGER ALTER id SET DEFAULT credits.uuid_v7()",
            outcome: Ok(WRITTEN),
        },
        Change {
            made_by: "ALTER TABLE LEDGER ALTER created_at SET DEFAULT 'epoch'",
            undone_by: "ALTER TABLE LEDGER ALTER created_at SET DEFAULT clock_timestamp()",
            outcome: Ok(epoch),
        },
        Change {
            made_by: "ALTER TABLE LEDGER DISABLE TRIGGER append_only, DISABLE TRIGGER append_only_applied;
                UPDATE LEDGER SET description = '' WHERE description IS NULL;
                ALTER TABLE LEDGER ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER append_only_applied;
                ALTER TABLE LEDGER ALTER description SET NOT NULL",
            undone_by: "ALTER TABLE LEDGER ALTER description DROP NOT NULL",
            outcome: Err("23502"),
        },
        Change {
            made_by: "CREATE RULE quiet AS ON INSERT TO LEDGER WHERE new.amount > 1000 DO INSTEAD NOTHING",
            undone_by: "DROP RULE quiet ON LEDGER",
            outcome: Err("0A000"),
        },
        Change {
            made_by: "ALTER TABLE LEDGER ADD CONSTRAINT account_is_known FOREIGN KEY (user_id) REFERENCES accounts NOT VALID",
            undone_by: "ALTER TABLE LEDGER DROP CONSTRAINT account_is_known",
            outcome: Err("23503"),
        },
        Change {
            made_by: "CREATE TRIGGER seen BEFORE INSERT ON LEDGER FOR EACH ROW EXECUTE FUNCTION discount()",
            undone_by: "DROP TRIGGER seen ON LEDGER",
            outcome: Ok(seen),
        },
    ];
    for (number, Change { made_by, undone_by, outcome }) in changes.into_iter().enumerate() {
        let [made_by, undone_by] = [made_by, undone_by].map(|sql| sql.replace("LEDGER", ledger));
        // A session that has found the table plain, and one that has not looked.
        let mut before = db.connect();
        write(&mut before, &format!("before {number}")).unwrap();
        assert_eq!(planned(&mut before), 0, "before {made_by}");
        let kept = format!("kept {number}");
        before.run(&format!("SELECT credits.create_hold('{}', 3, '{kept}')", user(1)));
        admin.run(&unguarded(&made_by));
        let mut capturing = db.connect();
        let captured = capturing.try_run(&format!("SELECT credits.capture_hold('{kept}')"));
        if let Err(sqlstate) = outcome {
            captured.refused(sqlstate);
            assert_eq!(
                admin.value::<i64>("SELECT count(*) FROM credits.holds WHERE source_id = $1", &[&kept]),
                1
            );
        } else {
            captured.unwrap();
        }
        let fresh = db.connect();
        for (place, mut session) in [before, fresh].into_iter().enumerate() {
            let prefix = format!("change {number} {place}");
            match outcome {
                Ok(rows) => {
                    write(&mut session, &prefix).unwrap();
                    assert_eq!(written(&mut session, &prefix), rows, "{made_by}");
                }
                Err(sqlstate) => {
                    write(&mut session, &prefix).refused(sqlstate);
                }
            }
            // With a rule, ON CONFLICT fails to be planned.
            assert!(outcome == Err("0A000") || planned(&mut session) > 0, "{made_by}");
        }
        admin.run(&unguarded(&undone_by));
        admin.run(&format!("SELECT credits.release_hold('{kept}')"));
    }
    let mut after = db.connect();
    write(&mut after, "after").unwrap();
    assert_eq!(written(&mut after, "after"), WRITTEN);
    assert_eq!(planned(&mut after), 0);
    admin.assert_sound();
}

#[test]
fn keys_of_the_owner_hold() {
    let (db, mut admin) = Database::create_with(dec!(1000));
    let ledger = "credits.credits_transactions";
    for (number, (key, sqlstate)) in [
        (format!("CREATE UNIQUE INDEX key ON {ledger} (api_key_id)"), "23505"),
        (
            format!(
                "ALTER TABLE {ledger} ADD CONSTRAINT key UNIQUE (api_key_id) DEFERRABLE INITIALLY DEFERRED"
            ),
            "23505",
        ),
        (format!("ALTER TABLE {ledger} ADD CONSTRAINT key EXCLUDE USING btree (api_key_id WITH =)"), "23P01"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut session = db.connect();
        write(&mut session, &format!("before {number}")).unwrap();
        admin.run(&unguarded(&key));
        let mut charge = |source_id: &str| {
            session.try_run(&format!(
                "SELECT credits.charge('{}', 1, '{number} {source_id}', api_key_id => '{}')",
                user(1),
                user(2)
            ))
        };
        charge("first").unwrap();
        charge("second").refused(sqlstate);
        assert!(planned(&mut session) > 0, "{key}");
        let undo = if number == 0 {
            "DROP INDEX credits.key".to_owned()
        } else {
            format!("ALTER TABLE {ledger} DROP CONSTRAINT key")
        };
        admin.run(&unguarded(&undo));
        for statement in correction(&format!("DELETE FROM {ledger} WHERE api_key_id IS NOT NULL")) {
            admin.run(&statement);
        }
    }
}

/// Of holds, deletions are the owner's to see as well.
#[test]
fn triggers_and_constraints_of_holds_hold() {
    let (db, mut admin) = Database::create_with(dec!(1000));
    admin.run(LOG);
    let changes = [
        (
            "ALTER TABLE credits.holds ADD CONSTRAINT small CHECK (amount < 3)",
            "DROP CONSTRAINT small",
            Err("23514"),
        ),
        (
            "ALTER TABLE credits.holds ALTER description SET NOT NULL",
            "ALTER description DROP NOT NULL",
            Err("23502"),
        ),
        (
            "ALTER TABLE credits.holds ADD CONSTRAINT account_is_known FOREIGN KEY (user_id) REFERENCES accounts",
            "DROP CONSTRAINT account_is_known",
            Err("23503"),
        ),
        (
            "CREATE TRIGGER log AFTER DELETE ON credits.holds FOR EACH ROW EXECUTE FUNCTION log()",
            "DISABLE TRIGGER log",
            Ok("holds AFTER ROW DELETE"),
        ),
        (
            "CREATE TRIGGER log2 BEFORE INSERT ON credits.holds FOR EACH STATEMENT EXECUTE FUNCTION log()",
            "DISABLE TRIGGER log2",
            Ok("holds BEFORE STATEMENT INSERT"),
        ),
    ];
    for (number, (made_by, undone_by, outcome)) in changes.into_iter().enumerate() {
        let mut session = db.connect();
        write(&mut session, &format!("before {number}")).unwrap();
        assert_eq!(planned(&mut session), 0);
        admin.run(&unguarded(made_by));
        let prefix = format!("change {number}");
        match outcome {
            Ok(logged) => {
                write(&mut session, &prefix).unwrap();
                assert_eq!(session.values::<String>("SELECT what FROM log", &[]), [logged], "{made_by}");
                admin.run("TRUNCATE log");
            }
            Err(sqlstate) => {
                write(&mut session, &prefix).refused(sqlstate);
            }
        }
        assert!(planned(&mut session) > 0, "{made_by}");
        admin.run(&unguarded(&format!("ALTER TABLE credits.holds {undone_by}")));
        if undone_by.starts_with("DISABLE") {
            admin.run(&unguarded(&format!(
                "DROP TRIGGER {} ON credits.holds",
                &undone_by["DISABLE TRIGGER ".len()..]
            )));
        }
    }
    admin.assert_sound();
}

/// One that the caller may not have done by a statement is not done without one.
#[test]
fn privileges_are_those_of_a_statement() {
    let (db, mut admin) = Database::create_with(dec!(1000));
    let role = db.create_role("limited");
    let all = "INSERT, SELECT, DELETE ON credits.credits_transactions, credits.holds";
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT {all} TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role}"
    ));
    let mut may = db.connect_as(&role);
    write(&mut may, "may").unwrap();
    for (number, missing) in [
        "INSERT ON credits.credits_transactions",
        "SELECT ON credits.credits_transactions",
        "INSERT ON credits.holds",
        "DELETE ON credits.holds",
        "SELECT ON credits.holds",
    ]
    .into_iter()
    .enumerate()
    {
        admin.run(&format!("REVOKE {missing} FROM {role}"));
        write(&mut may, &format!("missing {number}")).refused("42501");
        admin.run(&format!("GRANT {missing} TO {role}"));
    }
    write(&mut may, "again").unwrap();
    // What a view of somebody else's lets be called still names the tables as the caller.
    admin.run(&format!(
        "CREATE VIEW public.charging AS SELECT credits.charge('{}', 1, 'by a view') AS charged;
         GRANT SELECT ON public.charging TO {role}; REVOKE USAGE ON SCHEMA credits FROM {role}",
        user(1)
    ));
    let mut fresh = db.connect_as(&role);
    fresh.try_run("SELECT charged FROM public.charging").refused("42501");
    // Policies.
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role};
         ALTER TABLE credits.holds ENABLE ROW LEVEL SECURITY;
         CREATE POLICY small ON credits.holds USING (amount < 3)"
    ));
    write(&mut may, "policy").refused("42501");
    assert_eq!(written(&mut admin, "policy"), WRITTEN[..2]);
}

/// Where the key is taken, a statement waits, finds out and says so.
#[test]
fn keys_that_are_taken_meanwhile_are_found_out() {
    let (db, mut admin) = Database::create_with(dec!(1000));
    let charge = format!("SELECT credits.charge('{}', 2, 'key')", user(1));
    let mut first = db.connect();
    first.run("BEGIN");
    first.run(&charge);
    let (second, third) = (db.connect(), db.connect());
    let (pid, sql) = (second.pid(), charge.clone());
    let retry = second.background(move |session| session.try_run(&sql));
    db.until_blocked(pid);
    let (pid, user_id) = (third.pid(), user(1));
    let other = third
        .background(move |session| session.try_run(&format!("SELECT credits.charge('{user_id}', 3, 'key')")));
    db.until_blocked(pid);
    first.run("COMMIT");
    let (_, outcome) = retry.finish();
    outcome.unwrap();
    let (_, outcome) = other.finish();
    outcome.refused("23505");
    assert_eq!(session_rows(&mut admin), 1);
    // Of a transaction that rolls back, nothing is left, and one that waits records its own.
    first.run("BEGIN");
    first.run(&charge.replace("'key'", "'other'"));
    let second = db.connect();
    let (pid, sql) = (second.pid(), charge.replace("'key'", "'other'"));
    let waits = second.background(move |session| session.try_run(&sql));
    db.until_blocked(pid);
    first.run("ROLLBACK");
    let (mut second, outcome) = waits.finish();
    outcome.unwrap();
    assert_eq!(session_rows(&mut admin), 2);
    assert_eq!(second.balance(user(1)), dec!(996));
    admin.assert_sound();
}

fn session_rows(session: &mut Session) -> i64 {
    session.value("SELECT count(*) FROM credits.credits_transactions WHERE transaction_type = 'usage'", &[])
}

/// A capture finds the key taken once it has deleted the hold.
#[test]
fn a_capture_beside_a_row_of_its_key_records_nothing() {
    let (db, mut session) = Database::create_with(dec!(1000));
    session.run(&format!("SELECT credits.create_hold('{}', 3, 'key')", user(1)));
    session.charge(user(1), dec!(1));
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         VALUES ('{}', 'usage', 3, 'key')",
        user(1)
    ));
    // The same usage: taken for this capture, recorded before. The hold is gone.
    session.run("SELECT credits.capture_hold('key', 3)");
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.holds", &[]), 0);
    assert_eq!(session.balance(user(1)), dec!(996));
    assert_eq!(planned(&mut session), 0);
    let _ = &db;
    session.assert_sound();
}

/// A session that looks at the triggers of a table for the first time learns only meanwhile that the table has changed. The server then
/// makes its description of the table anew and frees the one that is being looked at.
#[test]
fn a_change_of_the_table_may_arrive_while_its_triggers_are_looked_at() {
    let (db, mut admin) = Database::create_with(dec!(1000));
    admin.run(&format!("SELECT credits.create_hold('{}', 3, 'held')", user(1)));
    let mut fresh = db.connect();
    // From here on the session knows all that the capture asks of the server's catalogs, but for the function of the trigger, and has
    // the locks: neither has it process invalidations before.
    fresh.try_run("SELECT credits.capture_hold(NULL::text)").refused("22004");
    fresh.run("BEGIN; LOCK TABLE credits.holds, credits.credits_transactions IN ROW EXCLUSIVE MODE");
    fresh.run(&format!("SELECT credits.get_user_balance('{}')", user(1)));
    admin.run("ALTER TABLE credits.holds SET (autovacuum_vacuum_threshold = 1000)");
    fresh.run("SELECT credits.capture_hold('held'::text); COMMIT");
    assert_eq!(planned(&mut fresh), 0);
    assert_eq!(fresh.balance(user(1)), dec!(997));
}
