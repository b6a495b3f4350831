//! Daily totals of accounts whose checkpoints an earlier version has made are added up later, beside everything else.

use std::thread;

use credits_ledger_tests::{Background, Database, Refused, Session, dec, seed, stripe_of, user};
use postgres::Error;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::days::assert_exact;

const FILL: &str = "CALL credits.fill_daily_totals()";

/// Makes it so as if an earlier version had made all checkpoints.
pub const FORGET: &str = "
    BEGIN;
    LOCK TABLE credits.user_balance_checkpoints IN SHARE ROW EXCLUSIVE MODE;
    DELETE FROM credits.daily_totals;
    UPDATE credits.user_balance_checkpoints SET has_days = NULL;
    COMMIT";

/// Rows of some days, categories and keys.
fn record(session: &mut Session, rows: u32) {
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, category, api_key_id, created_at)
         SELECT '{}', CASE n % 4 WHEN 0 THEN 'purchase' ELSE 'usage' END, n, gen_random_uuid()::text,
                CASE n % 3 WHEN 0 THEN 'a' END, CASE n % 2 WHEN 0 THEN md5('key')::uuid END,
                timestamptz '2026-01-01 00:00+00' + n * interval '5 hours'
         FROM generate_series(1, {rows}) n",
        user(1)
    ));
}

fn stored(session: &mut Session) -> i64 {
    session.value("SELECT count(*) FROM credits.daily_totals", &[])
}

fn unfilled(session: &mut Session) -> i64 {
    session.value("SELECT count(*) FROM credits.user_balance_checkpoints WHERE has_days IS NOT TRUE", &[])
}

/// A database with an account whose rows are folded, and its days not.
fn database() -> (Database, Session) {
    let db = Database::create_alone();
    let mut session = db.connect();
    record(&mut session, 100);
    session.refresh(user(1));
    session.run(FORGET);
    (db, session)
}

/// Fills in the background, until it waits for a lock.
fn blocked_fill(db: &Database) -> Background<Result<(), Error>> {
    let fill = db.connect().background(|session| session.try_run(FILL));
    db.until_blocked(fill.pid());
    fill
}

fn assert_filled(db: &Database) {
    let mut session = db.connect();
    assert_eq!(unfilled(&mut session), 0);
    assert!(stored(&mut session) > 20);
    assert_exact(&mut session);
    record(&mut session, 10);
    session.refresh(user(1));
    assert_exact(&mut session);
    session.assert_sound();
}

#[test]
fn accounts_are_added_up_once() {
    let (db, mut session) = database();
    for number in 2..30 {
        session.grant(user(number), dec!(1));
    }
    session.run("BEGIN");
    session.grant(user(30), dec!(1));
    session.run(&format!("COMMIT; {FORGET}"));
    // Refreshes write no days until then.
    record(&mut session, 200);
    session.refresh(user(1));
    assert_eq!((stored(&mut session), unfilled(&mut session)), (0, 30));
    session.assert_sound();
    // As many transactions as there are accounts.
    session.run("CALL credits.fill_daily_totals(1)");
    assert_filled(&db);
    let before: String =
        session.value("SELECT string_agg(d.ctid::text, '') FROM credits.daily_totals d", &[]);
    session.run(FILL);
    let again: i64 = session.value(&format!("SELECT credits.add_up_days(ARRAY['{}'::uuid])", user(1)), &[]);
    assert_eq!(again, 0, "nobody was left");
    let after: String = session.value("SELECT string_agg(d.ctid::text, '') FROM credits.daily_totals d", &[]);
    assert_eq!(before, after, "nothing was left to do");
}

/// The checkpoint that the fill has added up covers more by the time that it has the stripe, to itself or shared.
#[test]
fn a_refresh_in_between() {
    for refresh in ["refresh_checkpoint($1)", "get_users_balances_bulk(ARRAY[$1], 1)"] {
        let (db, mut session) = database();
        record(&mut session, 50);
        session.run("BEGIN");
        session.run(&format!("SELECT credits.{}", refresh.replace("$1", &format!("'{}'::uuid", user(1)))));
        let held = db.hold_commit(session);
        let fill = blocked_fill(&db);
        assert_eq!(db.has_a_stripe(fill.pid(), "ShareLock"), refresh.starts_with("get"));
        held.release();
        fill.finish().1.unwrap();
        assert_filled(&db);
    }
}

/// Somebody deletes the checkpoint by hand, and the commit makes it anew, with days.
#[test]
fn a_checkpoint_made_anew_in_between() {
    let (db, mut session) = database();
    session.run("BEGIN; DELETE FROM credits.user_balance_checkpoints");
    let held = db.hold_commit(session);
    let fill = blocked_fill(&db);
    held.release();
    fill.finish().1.unwrap();
    assert_filled(&db);
}

#[test]
fn a_killed_fill_leaves_nothing_and_goes_on() {
    let (db, mut session) = database();
    record(&mut session, 150);
    session.run("BEGIN");
    session.refresh(user(1));
    let held = db.hold_commit(session);
    let fill = blocked_fill(&db);
    let mut other = db.connect();
    other.run(&format!("SELECT pg_terminate_backend({})", fill.pid()));
    fill.finish().1.ended("57P01");
    held.release();
    assert_eq!((stored(&mut other), unfilled(&mut other)), (0, 1));
    other.run(FILL);
    assert_filled(&db);
}

/// What is there already of an account without days, it should not be.
#[test]
fn leftovers_are_not_added_to() {
    let (db, mut session) = database();
    session.run(&format!(
        "INSERT INTO credits.daily_totals VALUES ('{0}', '2026-01-02', NULL, NULL, 'usage', 7, 1), ('{0}', '1999-01-02', NULL, NULL, 'usage', 7, 1)",
        user(1)
    ));
    let found: i64 = session.value(
        "SELECT count(*) FROM credits.verify_ledger() WHERE check_name = 'daily total' AND user_id = $1",
        &[&user(1)],
    );
    assert_eq!(found, 2);
    session.run(FILL);
    assert_filled(&db);
}

/// Nor where the checkpoint has come to cover more of the same days meanwhile.
#[test]
fn leftovers_are_not_added_to_by_what_comes_in_between() {
    let (db, mut session) = database();
    session.run(&format!(
        "INSERT INTO credits.daily_totals
         SELECT '{}', day, NULL, NULL, 'usage', 7, 1 FROM generate_series('2026-01-01', '2026-01-20', interval '1 day') day",
        user(1)
    ));
    record(&mut session, 50);
    session.run("BEGIN");
    session.refresh(user(1));
    let held = db.hold_commit(session);
    let fill = blocked_fill(&db);
    held.release();
    fill.finish().1.unwrap();
    assert_filled(&db);
}

/// It takes stripes in the order of all others, and has what it reads by before the first of them.
#[test]
fn a_fill_waits_in_the_order_of_locks() {
    let (db, mut session) = database();
    let other = user((2..).find(|&number| stripe_of(user(number)) > stripe_of(user(1))).unwrap());
    session.run("BEGIN");
    session.grant(other, dec!(1));
    session.run(&format!("COMMIT; {FORGET}"));
    record(&mut session, 5);
    session.run("BEGIN");
    session.refresh(user(1));
    let held = db.hold_commit(session);
    let fill = db.connect().background(move |session| {
        let add_up = format!("SELECT credits.add_up_days(ARRAY['{other}'::uuid, '{}'])", user(1));
        session.value::<i64>(&add_up, &[])
    });
    db.until_blocked(fill.pid());
    assert!(!db.has_a_stripe(fill.pid(), "ShareLock"));
    let missing: Vec<String> = db.observe(|observer| {
        observer.values(
            "SELECT r::text FROM unnest(ARRAY['credits_transactions_delta_idx', 'user_balance_checkpoints', 'user_balance_checkpoints_pkey',
                                              'daily_totals', 'daily_totals_user_day_idx']) n, LATERAL (SELECT ('credits.' || n)::regclass) c (r)
             WHERE NOT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND relation = r AND mode = 'AccessShareLock' AND granted)",
            &[&fill.pid()],
        )
    });
    assert_eq!(missing, [""; 0]);
    held.release();
    assert_eq!(fill.finish().1, 2);
    assert_filled(&db);
}

/// The second one finds the days that the first one has written.
#[test]
fn two_at_once() {
    let (db, mut session) = database();
    record(&mut session, 5);
    session.run("BEGIN");
    session.refresh(user(1));
    let held = db.hold_commit(session);
    let fills = [blocked_fill(&db), blocked_fill(&db)];
    held.release();
    for fill in fills {
        fill.finish().1.unwrap();
    }
    assert_filled(&db);
}

/// Rows are read before any stripe is taken, and before the derived tables are locked.
#[test]
fn commits_do_not_wait_for_rows_to_be_read() {
    let (db, mut session) = database();
    session.grant(user(1), dec!(1_000_000));
    session.run("BEGIN; LOCK TABLE credits.user_balance_checkpoints IN SHARE ROW EXCLUSIVE MODE");
    let fill = blocked_fill(&db);
    for mode in ["ShareLock", "ExclusiveLock"] {
        assert!(!db.has_a_stripe(fill.pid(), mode));
    }
    let mut writer = db.connect();
    writer.run("SET lock_timeout = '1s'");
    writer.charge(user(1), dec!(1));
    session.run("COMMIT");
    fill.finish().1.unwrap();
    assert_filled(&db);
}

#[test]
fn what_is_refused() {
    let (db, mut session) = database();
    session.try_run(&format!("BEGIN; {FILL}")).refused("2D000");
    session.run("ROLLBACK");
    session.try_run("BEGIN; SELECT credits.add_up_days('{}')").refused("25001");
    session.run("ROLLBACK");
    session.try_run("SELECT credits.add_up_days(NULL)").refused("22004");
    for chunk_size in ["0", "-1", "NULL"] {
        session.try_run(&format!("CALL credits.fill_daily_totals({chunk_size})")).refused("22023");
    }
    session.run("SET default_transaction_read_only = on");
    session.try_run(FILL).refused("25006");
    session.try_run("SELECT credits.add_up_days('{}')").refused("25006");
    session.run("RESET default_transaction_read_only");

    let role = db.create_role("filler");
    session.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA credits TO {role}"
    ));
    let mut other = db.connect_as(&role);
    other.try_run(FILL).refused("42501");
    session.run(&format!("GRANT EXECUTE ON ALL ROUTINES IN SCHEMA credits TO {role}"));
    other.try_run(FILL).refused("42501");
    assert_eq!(stored(&mut session), 0);
}

/// Writers, refreshes, deletions by hand and fills at once; then a look at the ledger at rest.
#[test]
fn fills_beside_everything() {
    let db = Database::create_alone();
    let seed = seed();
    let work = move |mut session: Session, place: u64| {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(place));
        session.run("SET credits_ledger.checkpoint_interval = 5");
        for _ in 0..150 {
            let user = user(random.random_range(1..=4));
            let statement = match (place, random.random_range(0..100)) {
                (0, 0..40) => FORGET.to_owned(),
                (0, _) => format!("CALL credits.fill_daily_totals({})", random.random_range(1..50)),
                (1, 0..10) => format!(
                    "BEGIN; LOCK TABLE credits.user_balance_checkpoints IN SHARE ROW EXCLUSIVE MODE;
                     DELETE FROM credits.user_balance_checkpoints WHERE user_id = '{user}'; COMMIT"
                ),
                (_, 10..20) => format!("SELECT credits.refresh_checkpoint('{user}')"),
                (_, chance) => format!(
                    "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, category, created_at)
                     SELECT '{user}', CASE WHEN random() < 0.5 THEN 'usage' ELSE 'purchase' END, n, gen_random_uuid()::text,
                            CASE n % 2 WHEN 0 THEN 'c{chance}' END, timestamptz '2026-02-03 22:00+00' + n * interval '1 hour'
                     FROM generate_series(1, {}) n",
                    random.random_range(1..5)
                ),
            };
            session.try_run(&statement).unwrap_or_else(|error| panic!("seed {seed}: {statement}: {error:?}"));
        }
    };
    thread::scope(|scope| {
        for place in 0..5 {
            let session = db.connect();
            scope.spawn(move || work(session, place));
        }
    });
    let mut session = db.connect();
    session.run(FILL);
    for number in 1..=4 {
        session.refresh(user(number));
    }
    assert_eq!(unfilled(&mut session), 0);
    assert!(stored(&mut session) > 20);
    assert_exact(&mut session);
    session.assert_sound();
}

/// Its checkpoint covers less than what was added up: somebody has set it back by hand.
#[test]
fn a_checkpoint_set_back_in_between() {
    let (db, mut session) = database();
    session.run("BEGIN; LOCK TABLE credits.user_balance_checkpoints IN SHARE ROW EXCLUSIVE MODE");
    let fill = blocked_fill(&db);
    session.run(
        "UPDATE credits.user_balance_checkpoints SET watermark = '3', balance = 0, transaction_count = 0, checkpoint_seq = 0; COMMIT",
    );
    fill.finish().1.unwrap();
    assert_eq!((stored(&mut session), unfilled(&mut session)), (0, 1));
    session.refresh(user(1));
    session.run(FILL);
    assert_filled(&db);
}
