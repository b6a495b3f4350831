//! Taking over the ledger that an application has kept in a table of its own.

use std::sync::{Arc, Mutex};

use credits_ledger_tests::listener::{CAP_CHANNEL, CROSSING_CHANNEL, crossing};
use credits_ledger_tests::{Database, Direction, Refused, Session, Uuid, dec, user};
use postgres::error::DbError;

/// A table of the application's own, with columns that the ledger does not know.
const SOURCE: &str = "
    CREATE TYPE public.credit_transaction_type AS ENUM ('purchase', 'admin_grant', 'admin_removal', 'usage');
    CREATE TABLE public.credits_transactions (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        user_id uuid NOT NULL,
        transaction_type public.credit_transaction_type NOT NULL,
        amount numeric(24, 9) NOT NULL,
        description text,
        source_id text NOT NULL UNIQUE,
        created_at timestamptz NOT NULL DEFAULT now(),
        seq bigserial UNIQUE,
        fusillade_batch_id uuid,
        api_key_id uuid,
        is_aggregated boolean NOT NULL DEFAULT false
    )";

/// The columns that both tables have, with the amounts as they are written.
const ROWS: &str =
    "SELECT md5(string_agg(concat_ws('|', id, user_id, transaction_type, trim_scale(amount), source_id, description,
                                     fusillade_batch_id, api_key_id, created_at, seq), ',' ORDER BY seq)) FROM ";

/// Rows of five users, in an order that is neither that of the ids nor that of the dates, with gaps in seq.
fn fill(session: &mut Session, rows: i32) {
    session.run(SOURCE);
    session.run(&format!(
        "INSERT INTO public.credits_transactions
             (id, user_id, transaction_type, amount, description, source_id, created_at, seq, fusillade_batch_id, api_key_id)
         SELECT md5('id' || n)::uuid, ('10000000-0000-4000-8000-00000000000' || n % 5)::uuid,
                (CASE WHEN n % 10 < 5 THEN 'purchase' ELSE 'usage' END)::public.credit_transaction_type,
                CASE WHEN n % 10 < 5 THEN 2 ELSE 1.000000001 * (n % 3 + 1) END,
                CASE WHEN n % 4 = 0 THEN 'row ' || n END, 'source-' || n,
                timestamptz '2025-03-01 00:00:00+00' - n * interval '1 minute', n * 3,
                CASE WHEN n % 10 >= 8 THEN md5('batch' || n % 7)::uuid END, CASE WHEN n % 2 = 0 THEN md5('key')::uuid END
         FROM generate_series(1, {rows}) n"
    ));
}

fn import(session: &mut Session, chunk_size: i32) -> Result<(), postgres::Error> {
    session.try_run(&format!("CALL credits.import_transactions('public.credits_transactions', {chunk_size})"))
}

fn imported(session: &mut Session) -> i64 {
    session.value("SELECT count(*) FROM credits.credits_transactions", &[])
}

fn told(error: &DbError) -> String {
    format!(
        "{} / {} / {}",
        error.message(),
        error.detail().unwrap_or_default(),
        error.hint().unwrap_or_default()
    )
}

/// A session that keeps the notices it is sent.
fn with_notices(db: &Database) -> (Session, Arc<Mutex<Vec<String>>>) {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&notices);
    let mut config = db.cluster().config(db.name(), "postgres");
    config.notice_callback(move |notice| kept.lock().unwrap().push(notice.message().to_owned()));
    (Session::connect(&config), notices)
}

/// Gives each account of the source a cap that its usage reaches.
const CAPS: &str = "INSERT INTO credits.spend_caps (user_id, amount, since)
    SELECT DISTINCT user_id, 0.000000000000001, timestamptz '2000-01-01' FROM public.credits_transactions
    WHERE transaction_type = 'usage'";

/// Nothing but the ledger's own is added to what the source has, and nothing is lost.
#[test]
fn every_row_is_taken_over_as_it_is() {
    let db = Database::create();
    let (mut session, notices) = with_notices(&db);
    fill(&mut session, 250);
    session.run(CAPS);
    let mut listener = db.listen();
    import(&mut session, 100).unwrap();
    let source: String = session.value(&format!("{ROWS} public.credits_transactions"), &[]);
    assert_eq!(session.value::<String>(&format!("{ROWS} credits.credits_transactions"), &[]), source);
    session.assert_sound();
    assert_eq!(listener.drain(), [], "an import is no news");

    let notices = notices.lock().unwrap();
    let shown: Vec<&str> = notices.iter().map(|notice| notice.split(", ").next().unwrap()).collect();
    assert_eq!(
        shown,
        [
            "checking public.credits_transactions",
            "imported 100 of 250 rows",
            "imported 200 of 250 rows",
            "imported 250 of 250 rows",
            "250 rows of public.credits_transactions are in the ledger",
        ]
    );

    // What comes after it is behind it in the order, and announced again.
    let balance = session.balance(user(1));
    session.charge(user(1), balance);
    assert_eq!(listener.crossings(), [(user(1), Direction::Down)]);
    let last: bool = session.value(
        "SELECT seq > (SELECT max(seq) FROM public.credits_transactions) FROM credits.credits_transactions
         ORDER BY xact_id DESC LIMIT 1",
        &[],
    );
    assert!(last);
    session.assert_sound();
}

#[test]
fn crossings_are_announced_if_asked() {
    let db = Database::create();
    let mut session = db.connect();
    fill(&mut session, 50);
    session.run(CAPS);
    let mut listener = db.listen();
    session.run("CALL credits.import_transactions('public.credits_transactions', announce => true)");
    let heard = listener.drain();
    let on = |channel: &'static str| heard.iter().filter(move |heard| heard.channel == channel);
    let caps: i64 = session.value("SELECT count(*) FROM credits.spend_caps", &[]);
    assert!(caps > 0 && on(CAP_CHANNEL).count() == usize::try_from(caps).unwrap(), "{caps}: {heard:?}");
    let mut up: Vec<Uuid> = on(CROSSING_CHANNEL).map(|heard| crossing(&heard.payload).0).collect();
    up.sort_unstable();
    assert_eq!(
        up,
        session.values::<Uuid>("SELECT user_id FROM credits.balances WHERE is_positive ORDER BY 1", &[])
    );
    assert!(!up.is_empty());
}

#[test]
fn a_table_of_text_with_the_needed_columns_alone() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "CREATE TABLE public.plain (seq bigint, source_id varchar COLLATE \"C\", amount integer, created_at timestamptz,
                                    transaction_type text, user_id uuid, id uuid);
         INSERT INTO public.plain SELECT n, 's' || n, n, now(), 'admin_grant', gen_random_uuid(), gen_random_uuid()
         FROM generate_series(1, 20) n",
    );
    session.run("CALL credits.import_transactions('public.plain', 7)");
    let sum: i64 = session.value("SELECT sum(amount)::bigint FROM credits.credits_transactions", &[]);
    assert_eq!(sum, 210);
    session.assert_sound();
}

/// Killed in the middle of a chunk: that chunk is not there, the ones before are, and the next call goes on from there.
#[test]
fn an_import_that_is_killed_goes_on_where_it_stopped() {
    let db = Database::create();
    let mut session = db.connect();
    fill(&mut session, 500);
    // Someone is about to record row 250 with the same content: the third chunk waits to see what becomes of it.
    let mut slow = db.connect();
    slow.run("BEGIN");
    slow.run(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         SELECT user_id, transaction_type::text, amount, source_id FROM public.credits_transactions WHERE source_id = 'source-250'",
    );
    let importer = db.connect().background(|session| import(session, 100));
    db.until_blocked(importer.pid());
    db.observe(|observer| observer.value::<bool>("SELECT pg_terminate_backend($1)", &[&importer.pid()]));
    importer.finish().1.ended("57P01");
    assert_eq!(imported(&mut session), 200);
    session.assert_sound();
    slow.run("ROLLBACK");

    let (mut session, notices) = with_notices(&db);
    import(&mut session, 100).unwrap();
    let first = notices.lock().unwrap()[1].clone();
    assert!(first.starts_with("imported 300 of 500 rows"), "{first}");
    let source: String = session.value(&format!("{ROWS} public.credits_transactions"), &[]);
    assert_eq!(session.value::<String>(&format!("{ROWS} credits.credits_transactions"), &[]), source);
    session.assert_sound();

    // Once more: nothing is left to do. Then the source grows, and only the new row is taken over.
    import(&mut session, 100).unwrap();
    assert_eq!(imported(&mut session), 500);
    session.run(
        "INSERT INTO public.credits_transactions (user_id, transaction_type, amount, source_id, seq)
         VALUES (gen_random_uuid(), 'purchase', 5, 'later', 5000)",
    );
    import(&mut session, 100).unwrap();
    assert_eq!(imported(&mut session), 501);
    session.assert_sound();
}

/// The same transaction, recorded on both sides, is one.
#[test]
fn what_is_there_already_is_skipped() {
    let db = Database::create();
    let mut session = db.connect();
    fill(&mut session, 100);
    session.run(
        "SELECT setval('credits.credits_transactions_seq_seq', 1000);
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         SELECT user_id, transaction_type::text, amount, source_id FROM public.credits_transactions WHERE seq % 4 = 0",
    );
    import(&mut session, 30).unwrap();
    assert_eq!(imported(&mut session), 100);
    session.assert_sound();
}

/// A conflict takes its chunk along, and nothing before it; taken out of the way, the rest follows.
#[test]
fn a_source_id_of_another_transaction_stops_it() {
    let db = Database::create();
    let mut session = db.connect();
    fill(&mut session, 100);
    session.run(&format!(
        "SELECT setval('credits.credits_transactions_seq_seq', 1000);
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         VALUES ('{}', 'usage', 77, 'source-65')",
        user(9)
    ));
    let error = told(&import(&mut session, 20).refused("23505"));
    assert!(
        error.contains("\"source-65\"") && error.contains("usage of 77") && error.contains("before seq 181"),
        "{error}"
    );
    assert_eq!(imported(&mut session), 1 + 60);
    session.assert_sound();
    session.run(
        "CREATE VIEW public.rest AS SELECT * FROM public.credits_transactions WHERE source_id <> 'source-65'",
    );
    session.run("CALL credits.import_transactions('public.rest', 20)");
    assert_eq!(imported(&mut session), 100);
    session.assert_sound();
}

#[test]
fn a_seq_of_another_transaction_is_found_before() {
    let db = Database::create();
    let mut session = db.connect();
    for _ in 0..4 {
        session.charge(user(1), dec!(1));
    }
    fill(&mut session, 100);
    let error = told(&import(&mut session, 20).refused("23505"));
    assert!(error.contains("seq 3 is") && error.contains("view"), "{error}");
    assert_eq!(imported(&mut session), 4);
    session.run(
        "CREATE VIEW public.moved AS SELECT id, user_id, transaction_type, amount, description, source_id, created_at,
                fusillade_batch_id, seq + 100 AS seq FROM public.credits_transactions",
    );
    session.run("CALL credits.import_transactions('public.moved')");
    assert_eq!(imported(&mut session), 104);
    session.assert_sound();
}

/// Every row that the ledger cannot keep is named, with the reason, before one is imported.
#[test]
fn rows_that_cannot_be_kept_are_found_before() {
    const BAD: [(&str, &str, &str); 17] = [
        ("amount", "0", "amount 0 is not above 0"),
        ("amount", "-3.5", "amount -3.5 is not above 0"),
        ("amount", "'NaN'", "amount NaN has more than 13 integer digits"),
        ("amount", "'Infinity'", "amount Infinity has more than 13 integer digits"),
        ("amount", "10000000000000", "amount 10000000000000 has more than 13 integer digits"),
        ("amount", "0.1234567890123456", "amount 0.1234567890123456 has more than 15 fractional digits"),
        ("amount", "NULL", "amount is NULL"),
        ("id", "NULL", "id is NULL"),
        ("user_id", "NULL", "user_id is NULL"),
        ("created_at", "NULL", "created_at is NULL"),
        ("created_at", "'infinity'", "created_at is infinity"),
        ("source_id", "NULL", "source_id is NULL"),
        ("source_id", "E' \\t'", "source_id \" \t\" is blank"),
        ("source_id", "''", "source_id \"\" is blank"),
        ("source_id", "repeat('x', 2693)", "source_id has 2693 bytes, more than the 2692 that fit its index"),
        ("transaction_type", "'refund'", "transaction_type \"refund\" is unknown"),
        ("transaction_type", "NULL", "transaction_type is NULL"),
    ];
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "CREATE TABLE public.credits_transactions (id uuid, user_id uuid, transaction_type text, amount numeric, source_id text,
             description text, created_at timestamptz, seq bigint, fusillade_batch_id uuid);
         INSERT INTO public.credits_transactions
         SELECT md5(n::text)::uuid, gen_random_uuid(), 'usage', 0.1234567890123450, 's' || n, NULL, now(), n, NULL
         FROM generate_series(1, 60) n",
    );
    let mut expected = Vec::new();
    for (seq, (column, value, reason)) in (1_i64..).zip(BAD) {
        session.run(&format!("UPDATE public.credits_transactions SET {column} = {value} WHERE seq = {seq}"));
        expected.push((seq, reason.to_owned()));
    }
    let batch = user(7);
    session.run(&format!(
        "UPDATE public.credits_transactions SET transaction_type = 'purchase', fusillade_batch_id = '{batch}' WHERE seq = 20;
         UPDATE public.credits_transactions SET source_id = 'twice' WHERE seq IN (30, 40);
         UPDATE public.credits_transactions SET id = '{batch}' WHERE seq IN (31, 41);
         UPDATE public.credits_transactions SET user_id = NULL, amount = 0 WHERE seq = 50"
    ));
    expected.push((20, format!("fusillade_batch_id {batch} on a row that is not usage")));
    for seq in [30, 40] {
        expected.push((seq, "source_id twice occurs 2 times".to_owned()));
        expected.push((seq + 1, format!("id {batch} occurs 2 times")));
    }
    expected.push((50, "user_id is NULL; amount 0 is not above 0".to_owned()));
    expected.sort();
    // A backslash in a string means something else to a session that is not standard conforming.
    for strings in ["on", "off"] {
        session.run(&format!("SET standard_conforming_strings = {strings}"));
        let found: Vec<(i64, String)> = session
            .query("SELECT seq, reason FROM credits.unimportable_transactions('public.credits_transactions') ORDER BY 1, 2", &[])
            .unwrap()
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        assert_eq!(found, expected, "{strings}");
    }
    session.run("RESET standard_conforming_strings");

    let error = told(&import(&mut session, 5).refused("23514"));
    assert!(error.contains("23 problems") && error.contains("seq 5: amount 10000000000000"), "{error}");
    assert_eq!(imported(&mut session), 0);
    // What is left is just what the ledger keeps.
    session.run(
        "CREATE VIEW public.rest AS SELECT * FROM public.credits_transactions s
         WHERE NOT EXISTS (SELECT FROM credits.unimportable_transactions('public.credits_transactions') u WHERE u.seq = s.seq)",
    );
    session.run("CALL credits.import_transactions('public.rest', 5)");
    assert_eq!(imported(&mut session), 37);
    // The longest source_id fits, however little it can be compressed.
    session.run(
        "CREATE VIEW public.long AS
         SELECT id, user_id, transaction_type, amount, created_at, seq + 100 AS seq,
                (SELECT left(string_agg(md5(n::text), ''), 2692) FROM generate_series(1, 100) n) AS source_id
         FROM public.credits_transactions WHERE seq = 1;
         UPDATE public.credits_transactions SET amount = 1 WHERE seq = 1",
    );
    session.run("CALL credits.import_transactions('public.long')");
    assert_eq!(imported(&mut session), 38);
    session.assert_sound();
}

#[test]
fn columns_that_do_not_fit_are_named() {
    let db = Database::create();
    let mut session = db.connect();
    fill(&mut session, 3);
    for (change, sqlstate, named) in [
        ("DROP COLUMN created_at", "42703", "created_at"),
        ("ALTER COLUMN created_at TYPE timestamp", "42804", "created_at"),
        ("ALTER COLUMN amount TYPE double precision", "42804", "double precision"),
        ("DROP COLUMN seq", "42703", "seq"),
    ] {
        let mut other = db.connect();
        other.run(&format!(
            "CREATE TABLE public.changed (LIKE public.credits_transactions); ALTER TABLE public.changed {change}"
        ));
        let error = other.try_run("CALL credits.import_transactions('public.changed')").refused(sqlstate);
        assert!(error.message().contains(named) && error.hint().is_some(), "{error:?}");
        other.run("DROP TABLE public.changed");
    }
    session.try_run("CALL credits.import_transactions(NULL)").refused("22004");
    let error = session
        .try_run("CALL credits.import_transactions('public.credits_transactions', chunk_size => 0)")
        .refused("22023");
    assert!(error.message().contains("chunk_size"), "{error:?}");
    session.run("BEGIN");
    import(&mut session, 1).refused("2D000");
    session.run("ROLLBACK");
    assert_eq!(imported(&mut session), 0);
}

/// The users of the source go on writing while it is imported, and nobody waits for the other.
#[test]
fn users_may_write_meanwhile() {
    let db = Database::create();
    let mut session = db.connect();
    fill(&mut session, 500);
    let mut slow = db.connect();
    slow.run("SELECT setval('credits.credits_transactions_seq_seq', 2000); BEGIN");
    slow.run(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         SELECT user_id, transaction_type::text, amount, source_id FROM public.credits_transactions WHERE source_id = 'source-250'",
    );
    let importer = db.connect().background(|session| import(session, 100));
    db.until_blocked(importer.pid());
    // Between two chunks, and in the middle of the third.
    for number in 0..10 {
        session.charge(user(number), dec!(0.5));
        session.charge_batch(user(number), Uuid::nil(), dec!(0.25));
    }
    let writers: Vec<_> = (0..3)
        .map(|number| {
            db.connect().background(move |session| {
                for _ in 0..100 {
                    session.charge(user(number), dec!(0.01));
                    session.grant(user(number + 1), dec!(0.01));
                }
            })
        })
        .collect();
    slow.run("COMMIT");
    importer.finish().1.unwrap();
    for writer in writers {
        let _ = writer.finish();
    }
    assert_eq!(imported(&mut session), 500 + 20 + 600);
    session.assert_sound();
    let above: bool = session.value(
        "SELECT min(t.seq) > (SELECT max(s.seq) FROM public.credits_transactions s) FROM credits.credits_transactions t
         WHERE t.source_id NOT LIKE 'source-%'",
        &[],
    );
    assert!(above, "new rows come after the old ones");
}

/// Rows of the source that turn up below what was imported already are missed, and said to be.
#[test]
fn users_who_differ_in_the_end_are_named() {
    let db = Database::create();
    let mut session = db.connect();
    fill(&mut session, 200);
    // A trigger of the administrator's that swallows a row stands for anything that loses one.
    session.run(
        "CREATE FUNCTION public.swallow() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN IF NEW.source_id = 'source-42' THEN RETURN NULL; END IF; RETURN NEW; END $$;
         CREATE TRIGGER swallow BEFORE INSERT ON credits.credits_transactions
         FOR EACH ROW EXECUTE FUNCTION public.swallow()",
    );
    let error = told(&import(&mut session, 100).refused("55000"));
    let harmed = format!("user {}: the source has 40 rows", user(2));
    assert!(
        error.contains("1 users differ") && error.contains(&harmed) && error.contains("39 of them"),
        "{error}"
    );
    session.run("DROP TRIGGER swallow ON credits.credits_transactions");
    import(&mut session, 100).unwrap();
    assert_eq!(imported(&mut session), 200);
    session.assert_sound();
}

/// What an importer who is no superuser needs, and what it may not do.
#[test]
fn an_importer_needs_no_superuser() {
    let db = Database::create();
    let role = db.create_role("importer");
    let mut admin = db.connect();
    fill(&mut admin, 20);
    let mut importer = db.connect_as(&role);
    let silent = "CALL credits.import_transactions('public.credits_transactions')";
    let announcing = "CALL credits.import_transactions('public.credits_transactions', announce => true)";
    importer.try_run(announcing).refused("42501");
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role};
         GRANT EXECUTE ON ALL ROUTINES IN SCHEMA credits TO {role};
         GRANT SELECT ON public.credits_transactions TO {role};
         GRANT SELECT, INSERT ON credits.credits_transactions TO {role}"
    ));
    // In a new session, whose library is not loaded yet.
    let error = db.connect_as(&role).try_run(silent).refused("42501");
    assert!(error.message().contains("channel") && error.hint().unwrap().contains("announce"), "{error:?}");
    assert_eq!(imported(&mut admin), 0);
    importer.run(announcing);
    assert_eq!(imported(&mut admin), 20);
    admin.assert_sound();
    // Of a part of the rows there is no saying what has been imported.
    admin.run("ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY");
    importer.try_run(announcing).refused("42501");
}

/// Operators and functions of whoever may create some are not run by the importer.
#[test]
fn a_hostile_search_path_is_not_followed() {
    let db = Database::create();
    let mut session = db.connect();
    fill(&mut session, 30);
    session.run(
        "CREATE SCHEMA hostile;
         CREATE TABLE public.ran (what text);
         CREATE FUNCTION hostile.less(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.ran VALUES ('operator'); RETURN $1 OPERATOR(pg_catalog.<) $2; END $$;
         CREATE OPERATOR hostile.< (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.less);
         CREATE OPERATOR hostile.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.less);
         CREATE FUNCTION hostile.add(bigint, bigint) RETURNS bigint LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.ran VALUES ('operator'); RETURN 0; END $$;
         CREATE OPERATOR hostile.+ (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.add);
         CREATE OPERATOR hostile.- (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.add);
         CREATE FUNCTION hostile.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.ran VALUES ('function'); RETURN pg_catalog.now(); END $$;
         CREATE FUNCTION hostile.round(numeric) RETURNS numeric LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.ran VALUES ('function'); RETURN 0; END $$;
         CREATE FUNCTION hostile.set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO public.ran VALUES ('function'); RETURN ''; END $$;
         SET search_path = hostile, pg_catalog",
    );
    import(&mut session, 10).unwrap();
    let path: String = session.value("SELECT pg_catalog.current_setting('search_path')", &[]);
    assert_eq!(path, "hostile, pg_catalog", "the caller's is put back");
    session.run("RESET search_path");
    assert_eq!(session.values::<String>("SELECT what FROM public.ran", &[]), [""; 0]);
    assert_eq!(imported(&mut session), 30);
}

/// An application that has columns which others do without.
#[test]
fn optional_columns_are_taken_over() {
    let db = Database::create();
    let mut session = db.connect();
    fill(&mut session, 4);
    session.run(
        "ALTER TABLE public.credits_transactions ADD category varchar, ADD metadata jsonb, ADD reverses uuid;
         UPDATE public.credits_transactions SET category = 'card', metadata = '{\"a\": 1.10}', reverses = md5('id1')::uuid,
                user_id = '10000000-0000-4000-8000-000000000001', transaction_type = 'admin_removal' WHERE seq = 6",
    );
    import(&mut session, 100).unwrap();
    let optional: Vec<String> = session.values(
        "SELECT format('%s %s %s', category, metadata, reverses = md5('id1')::uuid) FROM credits.credits_transactions ORDER BY seq",
        &[],
    );
    assert_eq!(optional, ["  ", "card {\"a\": 1.10} t", "  ", "  "]);
    for (change, sqlstate, expected) in [
        (
            "UPDATE public.credits_transactions SET category = repeat('c', 201)",
            "23514",
            "category has 201 characters, more than 200",
        ),
        (
            "UPDATE public.credits_transactions SET category = NULL, metadata = '[]'",
            "23514",
            "metadata is not an object but of type array",
        ),
        ("ALTER TABLE public.credits_transactions ALTER metadata TYPE json", "42804", "column metadata of"),
        (
            "ALTER TABLE public.credits_transactions DROP metadata, ALTER reverses TYPE text",
            "42804",
            "column reverses of",
        ),
    ] {
        session.run(change);
        let error = import(&mut session, 100).refused(sqlstate);
        assert!(told(&error).contains(expected), "{error:?}");
    }
}

/// What the commit of a chunk would refuse is found before anything is imported, whichever of the two tables the original is in.
#[test]
fn reversals_that_do_not_fit_are_listed() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(SOURCE);
    session.run("ALTER TABLE public.credits_transactions ADD reverses uuid");
    let row = |session: &mut Session, number: u32, kind: &str, amount: i32, name: &str, reverses: &str| {
        session.run(&format!(
            "INSERT INTO public.credits_transactions (id, user_id, transaction_type, amount, source_id, reverses)
             VALUES (md5('{name}')::uuid, '{}', '{kind}', {amount}, '{name}', md5(nullif('{reverses}', ''))::uuid)",
            user(number)
        ));
    };
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (id, user_id, transaction_type, amount, source_id, seq)
         OVERRIDING SYSTEM VALUE VALUES (md5('stored')::uuid, '{0}', 'usage', 10, 'stored', 1000);
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, reverses, seq)
         OVERRIDING SYSTEM VALUE VALUES ('{0}', 'admin_grant', 7, 'stored back', md5('stored')::uuid, 1001)",
        user(1)
    ));
    for (kind, amount, name, reverses) in [
        ("purchase", 5, "bought", ""),
        ("usage", 5, "used", ""),
        ("usage", 5, "used in parts", ""),
        ("admin_removal", 5, "fits", "bought"),
        ("admin_grant", 3, "a part", "used in parts"),
        ("admin_grant", 3, "another part", "used in parts"),
        ("admin_grant", 3, "fits in the ledger", "stored"),
        ("admin_grant", 3, "of nothing", "unknown"),
        ("admin_grant", 1, "of a reversal", "fits"),
        ("admin_removal", 1, "of usage by removal", "used"),
    ] {
        row(&mut session, 1, kind, amount, name, reverses);
    }
    row(&mut session, 2, "admin_grant", 1, "of another", "used");
    let listed = |session: &mut Session| -> Vec<String> {
        session.values(
            "SELECT format('%s: %s', s.source_id, regexp_replace(u.reason, '.*, but ', ''))
             FROM credits.unimportable_transactions('public.credits_transactions') u
             JOIN public.credits_transactions s USING (id) ORDER BY s.seq",
            &[],
        )
    };
    let expected = [
        "a part: all reversals take back 6 of its 5".to_owned(),
        "another part: all reversals take back 6 of its 5".to_owned(),
        "of a reversal: that is a reversal itself".to_owned(),
        "of usage by removal: that is of type usage".to_owned(),
        format!("of another: that is of user {}", user(1)),
    ];
    assert_eq!(listed(&mut session), expected);
    import(&mut session, 100).refused("23514");
    assert_eq!(imported(&mut session), 2);
    // The commit would refuse each of them.
    for name in ["another part", "of a reversal", "of usage by removal", "of another"] {
        session.run(&format!(
            "BEGIN;
             INSERT INTO credits.credits_transactions (id, user_id, transaction_type, amount, source_id, seq, reverses)
             OVERRIDING SYSTEM VALUE
             SELECT id, user_id, transaction_type::text, amount, source_id, seq, reverses
             FROM public.credits_transactions WHERE reverses IS NULL OR source_id IN ('fits', 'a part', '{name}')"
        ));
        session.try_run("COMMIT").refused("23514");
    }
    // One more than the ledger has left of it.
    session.run(
        "DELETE FROM public.credits_transactions WHERE source_id = ANY ('{another part,of a reversal,of usage by removal,of another}');
         UPDATE public.credits_transactions SET amount = 4 WHERE source_id = 'fits in the ledger'",
    );
    assert_eq!(listed(&mut session), ["fits in the ledger: all reversals take back 11 of its 10"]);
    session.run("UPDATE public.credits_transactions SET amount = 3 WHERE source_id = 'fits in the ledger'");
    // Called again, it passes over what is there.
    for _ in 0..2 {
        import(&mut session, 3).unwrap();
        assert_eq!(listed(&mut session), [""; 0]);
    }
    assert_eq!(imported(&mut session), 9);
}
