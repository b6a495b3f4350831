//! A ledger that holds transactions is not dropped by accident.

use std::process::{Output, Stdio};

use credits_ledger_tests::{Database, Refused, Session, dec, unguarded, user};

/// Whatever drops the ledger. Each is said by a session that has never used it.
fn drops() -> Vec<String> {
    let mut drops: Vec<String> = [
        "DROP EXTENSION credits_ledger",
        "DROP EXTENSION credits_ledger CASCADE",
        "DROP SCHEMA credits CASCADE",
        "ALTER EXTENSION credits_ledger DROP TABLE credits.credits_transactions; DROP TABLE credits.credits_transactions CASCADE",
        "ALTER EXTENSION credits_ledger DROP TABLE credits.credits_transactions; DROP SCHEMA credits CASCADE",
        "DO 'BEGIN EXECUTE ''DROP EXTENSION credits_ledger''; END'",
        "SET session_replication_role = replica; DROP EXTENSION credits_ledger",
    ]
    .map(str::to_owned)
    .into();
    // Through what it was made to depend on while the guard did not look.
    for (attach, drop) in [
        (
            "CREATE TABLE public.parent (user_id uuid NOT NULL);
             ALTER TABLE credits.credits_transactions INHERIT public.parent",
            "DROP TABLE public.parent CASCADE",
        ),
        (FOREIGN_PARENT, "DROP FOREIGN TABLE public.remote CASCADE"),
        (FOREIGN_PARENT, "DROP SERVER server CASCADE"),
        (FOREIGN_PARENT, "DROP FOREIGN DATA WRAPPER wrapper CASCADE"),
        (
            "CREATE TYPE public.shape AS (id uuid, user_id uuid, transaction_type text, amount numeric, source_id text,
                                          description text, fusillade_batch_id uuid, api_key_id uuid, created_at timestamptz,
                                          seq bigint, xact_id xid8, category text, metadata jsonb, reverses uuid);
             ALTER TABLE credits.credits_transactions OF public.shape",
            "DROP TYPE public.shape CASCADE",
        ),
    ] {
        drops.push(format!("{}; {drop}", unguarded(attach)));
    }
    drops
}

const FOREIGN_PARENT: &str =
    "CREATE FOREIGN DATA WRAPPER wrapper; CREATE SERVER server FOREIGN DATA WRAPPER wrapper;
    CREATE FOREIGN TABLE public.remote (user_id uuid NOT NULL) SERVER server;
    ALTER TABLE credits.credits_transactions INHERIT public.remote";

fn count(session: &mut Session) -> i64 {
    session.value("SELECT count(*) FROM credits.credits_transactions", &[])
}

#[test]
fn a_ledger_with_transactions_is_not_dropped() {
    let db = Database::create();
    let mut admin = db.connect();
    admin.grant(user(1), dec!(1));
    for drop in drops() {
        let error = db.connect().try_run(&drop).refused("55000");
        assert_eq!(error.message(), "credits_transactions holds transactions: dropping it is refused");
        assert!(error.hint().unwrap().contains("SET credits_ledger.allow_drop = on"), "{error:?}");
        assert_eq!(count(&mut admin), 1, "{drop}");
    }
    admin.grant(user(1), dec!(1));
    assert_eq!(admin.balance(user(1)), dec!(2));
    admin.assert_sound();
}

/// An owner that is no superuser owns what it creates, and the ledger if that is given to it.
#[test]
fn dropping_what_a_role_owns_is_no_way_around() {
    let db = Database::create();
    let owner = db.create_role("owner");
    let mut admin = db.connect();
    admin.grant(user(1), dec!(1));
    admin.run(&format!("ALTER TABLE credits.credits_transactions OWNER TO {owner}"));
    // A part of an extension alone is spared by DROP OWNED, which complains.
    db.connect().try_run(&format!("DROP OWNED BY {owner} CASCADE")).refused("2BP01");
    db.connect().try_run(&format!("DROP ROLE {owner}")).refused("2BP01");
    admin.run(&format!(
        "ALTER EXTENSION credits_ledger DROP TABLE credits.credits_transactions; GRANT USAGE ON SCHEMA credits TO {owner}"
    ));
    db.connect().try_run(&format!("DROP OWNED BY {owner} CASCADE")).refused("55000");
    let mut session = db.connect_as(&owner);
    session.try_run("DROP TABLE credits.credits_transactions CASCADE").refused("55000");
    session.try_run("SET credits_ledger.allow_drop = on").refused("42501");
    assert_eq!(count(&mut admin), 1);
    // The role outlives the database.
    admin.run(&format!(
        "ALTER TABLE credits.credits_transactions OWNER TO postgres; DROP OWNED BY {owner}; DROP ROLE {owner}"
    ));
}

/// Set before the library is loaded, the setting is a word that nobody has checked yet.
#[test]
fn only_a_superuser_allows_it() {
    let db = Database::create();
    let owner = db.create_role("owner");
    let mut admin = db.connect();
    admin.grant(user(1), dec!(1));
    admin.run(&format!(
        "ALTER EXTENSION credits_ledger DROP TABLE credits.credits_transactions;
         GRANT USAGE ON SCHEMA credits TO {owner}; ALTER TABLE credits.credits_transactions OWNER TO {owner}"
    ));
    let mut early = db.connect_as(&owner);
    early.run("SET credits_ledger.allow_drop = on");
    early.try_run("DROP TABLE credits.credits_transactions CASCADE").refused("55000");
    assert_eq!(early.value::<String>("SHOW credits_ledger.allow_drop", &[]), "off");
    assert_eq!(count(&mut admin), 1);
    let mut superuser = db.connect();
    superuser.run("SET credits_ledger.allow_drop = on; DROP TABLE credits.credits_transactions CASCADE");
    admin.run(&format!("DROP OWNED BY {owner}; DROP ROLE {owner}"));
}

#[test]
fn a_superuser_drops_what_it_means_to_drop() {
    for drop in drops() {
        let db = Database::create();
        db.connect().grant(user(1), dec!(1));
        db.connect().run(&format!("SET credits_ledger.allow_drop = on; {drop}"));
        let gone: bool =
            db.connect().value("SELECT to_regclass('credits.credits_transactions') IS NULL", &[]);
        assert!(gone, "{drop}");
    }
}

#[test]
fn an_empty_ledger_is_dropped_as_anything_is() {
    let db = Database::create();
    let mut session = db.connect();
    for _ in 0..2 {
        // Rows of the transaction that drops the ledger are nobody's money yet; rolled back ones never were.
        session.run("BEGIN");
        session.grant(user(1), dec!(1));
        session.run("ROLLBACK; BEGIN");
        session.grant(user(1), dec!(1));
        session.run("SAVEPOINT s");
        session.charge(user(2), dec!(1));
        session.run("RELEASE s; DROP EXTENSION credits_ledger; COMMIT");
        session.run("CREATE EXTENSION credits_ledger");
    }
    // One row of another transaction is enough, wherever it lies, and however old the snapshot is.
    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
    db.connect().grant(user(3), dec!(1));
    for number in 0..1000 {
        session.grant(user(number), dec!(1));
    }
    session.try_run("DROP EXTENSION credits_ledger").refused("55000");
    session.run("ROLLBACK");
    assert_eq!(count(&mut session), 1);
}

/// Holds, limits and caps are nobody else's either.
#[test]
fn holds_limits_and_caps_are_not_dropped() {
    let tables = [
        (
            "holds",
            "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('h', gen_random_uuid(), 1, now())",
        ),
        ("spending_limits", "INSERT INTO credits.spending_limits VALUES (gen_random_uuid())"),
        ("spend_caps", "INSERT INTO credits.spend_caps (user_id, amount) VALUES (gen_random_uuid(), 1)"),
    ];
    for (table, insert) in tables {
        let db = Database::create();
        let mut admin = db.connect();
        admin.run(insert);
        let drops = [
            "DROP EXTENSION credits_ledger".to_owned(),
            "DROP SCHEMA credits CASCADE".to_owned(),
            format!(
                "ALTER EXTENSION credits_ledger DROP TABLE credits.{table}; DROP TABLE credits.{table} CASCADE"
            ),
        ];
        for drop in &drops {
            let error = db.connect().try_run(drop).refused("55000");
            assert_eq!(error.message(), format!("{table} has rows: dropping it is refused"));
            assert!(error.hint().unwrap().contains("SET credits_ledger.allow_drop = on"), "{error:?}");
        }
        for (change, drop) in [("", &drops[0]), ("SET credits_ledger.allow_drop = on;", &drops[2])] {
            admin.run("BEGIN");
            if change.is_empty() {
                admin.run(&format!("DELETE FROM credits.{table}; {insert}"));
            }
            admin.run(&format!("{change} {drop}; ROLLBACK"));
        }
    }
}

/// What is not the ledger is dropped as ever.
#[test]
fn nothing_else_is_guarded() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(1));
    session.run(
        "CREATE SCHEMA app; CREATE TABLE app.credits_transactions AS SELECT 1 AS n;
         CREATE TEMPORARY TABLE credits_transactions AS SELECT 1 AS n; CREATE TYPE app.kind AS ENUM ('a');
         DROP TABLE pg_temp.credits_transactions; DROP TYPE app.kind; DROP SCHEMA app CASCADE;
         CREATE TABLE public.credits_transactions (n int); INSERT INTO public.credits_transactions VALUES (1);
         DROP TABLE public.credits_transactions",
    );
    session.run("VACUUM FULL credits.credits_transactions");
    // Deliberate acts of the owner's.
    session.run(
        "DROP INDEX credits.credits_transactions_created_idx;
         ALTER TABLE credits.credits_transactions DISABLE TRIGGER append_only;
         DELETE FROM credits.credits_transactions WHERE false",
    );
    // A table of that name where the extension is not.
    Database::create_empty().connect().run(
        "LOAD '$libdir/credits_ledger'; CREATE SCHEMA credits;
         CREATE TABLE credits.credits_transactions (n int); INSERT INTO credits.credits_transactions VALUES (1);
         DROP SCHEMA credits CASCADE",
    );
    assert_eq!(count(&mut session), 1);
}

/// A creation that fails leaves nothing, and drops nothing.
#[test]
fn a_failed_creation_is_rolled_back() {
    let db = Database::create_empty();
    let mut session = db.connect();
    session.run("BEGIN; CREATE EXTENSION credits_ledger");
    session.grant(user(1), dec!(1));
    session.run("ROLLBACK; CREATE EXTENSION credits_ledger");
    session.grant(user(1), dec!(1));
    session.assert_sound();
}

/// A restore that begins by dropping what is there is refused at its first word, and goes through where it is allowed.
#[test]
fn a_restore_does_not_clean_a_ledger_away() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(1));
    let restore = |options: &str| -> Output {
        let mut dump = db
            .cluster()
            .program("pg_dump")
            .args(["--clean", db.name()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let restored = db
            .cluster()
            .program("psql")
            .env("PGOPTIONS", options)
            .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction", db.name()])
            .stdin(dump.stdout.take().unwrap())
            .output()
            .unwrap();
        drop(dump.wait());
        restored
    };
    let refused = restore("");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("holds transactions"), "{refused:?}");
    assert_eq!(session.balance(user(1)), dec!(1));
    let allowed = restore("-c credits_ledger.allow_drop=on");
    assert!(allowed.status.success(), "{allowed:?}");
    assert_eq!(session.balance(user(1)), dec!(1));
    session.assert_sound();
}
