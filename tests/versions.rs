//! A library and SQL objects of different versions refuse to work together, and every version leads to the newest.

use credits_ledger_tests::{Database, Direction, Refused, Session, dec, user};
use postgres::error::DbError;

/// The first release.
const OLDEST: &str = "0.1.0";

/// This version, and that of the library.
fn newest(session: &mut Session) -> String {
    session.value("SELECT default_version FROM pg_available_extensions WHERE name = 'credits_ledger'", &[])
}

/// What every function of the library does first, and what else reaches it.
fn calls(session: &mut Session) -> Vec<String> {
    let mut calls: Vec<String> = session.values(
        "SELECT format('SELECT credits.%I(%s)', proname,
                       (SELECT string_agg(CASE type WHEN 'uuid' THEN quote_literal(gen_random_uuid()) || '::uuid'
                                                    WHEN 'uuid[]' THEN 'ARRAY[gen_random_uuid()]'
                                                    WHEN 'interval' THEN quote_literal('1 hour') WHEN 'bigint' THEN '1::bigint' WHEN 'integer' THEN '1' WHEN 'numeric' THEN '1'
                                                    WHEN 'timestamptz' THEN 'now()' WHEN 'jsonb' THEN quote_literal('[]') ELSE quote_literal('usage') END, ', ' ORDER BY n)
                        FROM unnest(proargtypes[0:pronargs - pronargdefaults - 1]) WITH ORDINALITY a (oid, n),
                             replace(format_type(a.oid, NULL), 'timestamp with time zone', 'timestamptz') type))
         FROM pg_proc
         WHERE pronamespace = 'credits'::regnamespace AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'c')
           AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype)
           -- None of these looks at anything of the extension's.
           AND proname NOT IN ('current_xact_id', 'is_amount', 'is_transaction_type', 'may_have_batch', 'settlement_statistics', 'uuid_v7')
         ORDER BY 1",
        &[],
    );
    assert!(calls.len() >= 20, "{calls:#?}");
    calls.push(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         VALUES (gen_random_uuid(), 'purchase', 1, 'x')"
            .into(),
    );
    calls
}

fn assert_refusal(error: &DbError, library: &str, objects: &str, hint: &str) {
    let versions = format!(
        "the library of credits_ledger is version {library}, but its SQL objects are version {objects}"
    );
    assert_eq!(error.message(), versions);
    let told = error.hint().unwrap_or_default();
    assert!(told.contains(hint), "{told}");
}

/// Pretends that the extension was updated: the catalog says another version, and the ledger was touched.
fn pretend(session: &mut Session, version: &str) {
    session.run(&format!(
        "BEGIN;
         ALTER TABLE credits.credits_transactions ALTER COLUMN seq SET GENERATED ALWAYS;
         UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'credits_ledger';
         COMMIT"
    ));
}

#[test]
fn a_new_library_refuses_old_objects() {
    let db = Database::create_empty();
    let mut session = db.connect();
    session.run(&format!("CREATE EXTENSION credits_ledger VERSION '{OLDEST}'"));
    let library = newest(&mut session);
    for call in calls(&mut session) {
        let error = session.try_run(&call).refused("55000");
        assert_refusal(&error, &library, OLDEST, "ALTER EXTENSION credits_ledger UPDATE");
    }
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.credits_transactions", &[]), 0);
    // Nothing of it is remembered.
    session.run("ALTER EXTENSION credits_ledger UPDATE");
    let mut listener = db.listen();
    session.grant(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Direction::Up)]);
    session.assert_sound();
}

/// Versions are compared as numbers: 0.10.0 is newer than 0.2.0.
#[test]
fn an_old_library_refuses_new_objects() {
    let db = Database::create();
    let mut session = db.connect();
    let library = newest(&mut session);
    session.grant(user(1), dec!(1));
    for objects in ["0.10.0", "1.0.0"] {
        pretend(&mut db.connect(), objects);
        for call in calls(&mut session) {
            let error = session.try_run(&call).refused("55000");
            assert_refusal(&error, &library, objects, "Reconnect");
        }
    }
    pretend(&mut db.connect(), &library);
    assert_eq!(session.balance(user(1)), dec!(1));
    session.assert_sound();
}

/// A transaction that was begun before an update is settled before it, or not at all.
#[test]
fn an_update_waits_for_whoever_is_to_be_settled() {
    let db = Database::create();
    let mut admin = db.connect();
    let library = newest(&mut admin);
    admin.grant(user(1), dec!(1));
    for begin in [
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         VALUES (gen_random_uuid(), 'purchase', 1, gen_random_uuid()::text)"
            .to_owned(),
        format!("SELECT credits.refresh_checkpoint('{}')", user(1)),
        format!("SELECT credits.get_users_balances_bulk(ARRAY['{}'::uuid], 1)", user(1)),
        format!("SELECT credits.get_user_balance('{}')", user(1)),
    ] {
        let mut open = db.connect();
        open.run(&format!("BEGIN; {begin}"));
        let mut updater = db.connect();
        let pid = updater.pid();
        let update = std::thread::spawn(move || pretend(&mut updater, "0.10.0"));
        db.until_blocked(pid);
        open.run("COMMIT");
        update.join().unwrap();
        open.try_run(&begin).refused("55000");
        pretend(&mut admin, &library);
        open.run(&begin);
    }
    admin.assert_sound();
}

#[test]
fn an_update_in_the_middle_of_a_transaction_rolls_it_back() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("BEGIN");
    session.grant(user(1), dec!(1));
    session.run(
        "ALTER TABLE credits.credits_transactions ALTER COLUMN seq SET GENERATED ALWAYS;
         UPDATE pg_extension SET extversion = '0.10.0' WHERE extname = 'credits_ledger'",
    );
    session.try_run("COMMIT").refused("55000");
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.credits_transactions", &[]), 0);
    session.grant(user(1), dec!(1));
    session.assert_sound();
}

#[test]
fn every_version_leads_to_every_later_one() {
    let db = Database::create();
    let mut session = db.connect();
    let versions: Vec<String> = session.values(
        "SELECT version FROM pg_available_extension_versions WHERE name = 'credits_ledger'
         ORDER BY string_to_array(version, '.')::int[]",
        &[],
    );
    assert_eq!(versions.first().map(String::as_str), Some(OLDEST));
    assert_eq!(versions.last(), Some(&newest(&mut session)));
    let missing: Vec<String> = session.values(
        "SELECT source || ' to ' || target FROM pg_extension_update_paths('credits_ledger')
         WHERE path IS NULL AND string_to_array(source, '.')::int[] < string_to_array(target, '.')::int[]",
        &[],
    );
    assert_eq!(missing, [""; 0]);
}

/// Every update script makes the sessions that are under way look again. The catalog alone would not tell them.
#[test]
fn sessions_under_way_notice_every_update() {
    let db = Database::create_empty();
    let mut admin = db.connect();
    let library = newest(&mut admin);
    let sources: Vec<String> = admin.values(
        "SELECT source FROM pg_extension_update_paths('credits_ledger')
         WHERE target = $1 AND path IS NOT NULL AND string_to_array(source, '.')::int[] < string_to_array(target, '.')::int[]",
        &[&library],
    );
    assert!(!sources.is_empty());
    for source in sources {
        admin.run(&format!("CREATE EXTENSION credits_ledger VERSION '{source}'"));
        // A session with a library that fits these objects.
        pretend(&mut admin, &library);
        let mut session = db.connect();
        assert_eq!(session.balance(user(1)), dec!(0));
        let version = |version: &str| {
            format!("UPDATE pg_extension SET extversion = '{version}' WHERE extname = 'credits_ledger'")
        };
        admin.run(&version(&source));
        admin.run(&format!("BEGIN; ALTER EXTENSION credits_ledger UPDATE; {}; COMMIT", version("0.10.0")));
        let error = session.insert(user(1), "purchase", dec!(1)).refused("55000");
        assert_refusal(&error, &library, "0.10.0", "Reconnect");
        admin.run("DROP EXTENSION credits_ledger");
    }
}
