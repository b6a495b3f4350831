//! Daily totals are what a GROUP BY over the covered rows gives, whoever wrote these when, in whatever order and time zone.

use credits_ledger_tests::{Database, Session, dec, seed, user};
use rand::rngs::StdRng;
use rand::seq::{IndexedMutRandom, IndexedRandom};
use rand::{RngExt, SeedableRng};

const STEPS: u32 = 400;
const SESSIONS: usize = 4;

/// What `daily_totals` has, and what the covered rows of the accounts that have days make, each without the other. The day is computed
/// from the microseconds since an epoch: the server's own way is that of `verify_ledger`.
const DIFFERENCES: &str = "
    WITH made AS (
        SELECT t.user_id,
               CASE WHEN isfinite(t.created_at)
                    THEN date '2000-01-01' + floor((extract(epoch FROM t.created_at)::numeric - 946684800) / 86400)::int
                    ELSE t.created_at::text::date END AS day,
               t.category, t.api_key_id, t.transaction_type, sum(t.amount), count(*)
        FROM credits.credits_transactions t
        JOIN credits.user_balance_checkpoints c USING (user_id)
        WHERE c.has_days AND t.xact_id < c.watermark AND t.xact_id <> ALL (c.stragglers)
        GROUP BY 1, 2, 3, 4, 5
    )
    (SELECT 'stored'::text AS part, d::text AS total
     FROM (SELECT * FROM credits.daily_totals EXCEPT ALL SELECT * FROM made) d)
    UNION ALL
    (SELECT 'missing', d::text FROM (SELECT * FROM made EXCEPT ALL SELECT * FROM credits.daily_totals) d)
    ORDER BY 1 DESC, 2";

/// Fails where a daily total is not that of the covered rows.
#[track_caller]
pub fn assert_exact(session: &mut Session) {
    let differences: Vec<(String, String)> =
        session.query(DIFFERENCES, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    assert!(differences.is_empty(), "{differences:#?}");
}

fn count(session: &mut Session) -> i64 {
    session.value("SELECT count(*) FROM credits.daily_totals", &[])
}

/// An INSERT of some rows, dated around the ends of days, long ago, long ahead, or now.
fn insert(random: &mut StdRng) -> String {
    let mut one = |options: &[&str]| (*options.choose(random).unwrap()).to_owned();
    let date = one(&[
        "now()",
        "now()",
        "timestamptz '2026-03-29 00:30:00+00' + n * interval '15 minutes'",
        "timestamptz '2024-02-29 23:59:59.999999+00' + n * interval '1 microsecond'",
        "timestamptz '1999-12-31 23:59:59.999999+00' + n * interval '1 microsecond'",
        "timestamptz '4713-01-01 BC 00:00+00' + n * interval '7 hours'",
        "timestamptz '0044-03-15 BC 23:59:59.999999+00' + n * interval '1 microsecond'",
        "timestamptz '294276-12-31 20:00+00' + n * interval '1 minute'",
        "now() + n * interval '8 hours'",
    ]);
    let kind = one(&["purchase", "admin_grant", "admin_removal", "usage", "usage", "usage"]);
    let category =
        one(&["NULL", "''", "'a'", "'A'", "'größer'", "repeat('ü', 200)", "CASE n % 3 WHEN 0 THEN 'a' END"]);
    let key = one(&["NULL", "NULL", "md5('one')::uuid", "md5((n % 2)::text)::uuid"]);
    let rows: u32 = random.random_range(1..8);
    format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at, category, api_key_id)
         SELECT md5(((n + {}) % 3)::text)::uuid, '{kind}', n + 0.000000000000001, gen_random_uuid()::text, {date}, {category}, {key}
         FROM generate_series(1, {rows}) n",
        random.random_range(0..3)
    )
}

#[test]
fn random_transactions_in_odd_time_zones() {
    let db = Database::create_alone();
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let zones =
        ["UTC", "Asia/Kathmandu", "Pacific/Kiritimati", "America/St_Johns", "<odd>-13:37", "Europe/Berlin"];
    let mut sessions: Vec<(Session, u32)> = (0..SESSIONS).map(|_| (db.connect(), 0)).collect();
    let mut look = db.connect();
    for step in 0..STEPS {
        let (session, depth) = sessions.choose_mut(&mut random).unwrap();
        let statement = match random.random_range(0..100) {
            0..50 => insert(&mut random),
            50..60 if *depth == 0 => {
                *depth = 1;
                "BEGIN".to_owned()
            }
            50..60 => {
                *depth += 1;
                "SAVEPOINT s".to_owned()
            }
            60..65 if *depth > 1 => {
                *depth -= 1;
                "ROLLBACK TO s; RELEASE s".to_owned()
            }
            60..70 if *depth > 0 => {
                *depth = 0;
                if random.random_ratio(1, 4) { "ROLLBACK" } else { "COMMIT" }.to_owned()
            }
            70..75 if *depth == 0 => format!("SET TimeZone = '{}'", zones.choose(&mut random).unwrap()),
            75..80 if *depth == 0 => {
                format!("SET credits_ledger.checkpoint_interval = {}", random.random_range(1..20))
            }
            80..83 if *depth == 0 => {
                "DELETE FROM credits.user_balance_checkpoints WHERE random() < 0.5".to_owned()
            }
            _ => format!("SELECT credits.refresh_checkpoint(md5('{}')::uuid)", random.random_range(0..3)),
        };
        session
            .try_run(&statement)
            .unwrap_or_else(|error| panic!("seed {seed}, step {step}: {statement}: {error}"));
        assert_exact(&mut look);
    }
    for (session, depth) in &mut sessions {
        if *depth > 0 {
            session.run("COMMIT");
        }
    }
    for number in 0..3 {
        look.run(&format!("SELECT credits.refresh_checkpoint(md5('{number}')::uuid)"));
    }
    assert_exact(&mut look);
    assert!(count(&mut look) > 50, "seed {seed}");
    look.assert_sound();
}

/// 64 rows of one day, type and key change one row, in place.
#[test]
fn a_refresh_updates_one_row_of_a_day_in_place() {
    let db = Database::create_alone();
    let mut session = db.connect();
    session.run(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at)
         VALUES (md5('u')::uuid, 'purchase', 1000000, 'p', '2026-01-01 12:00+00')",
    );
    for n in 0..2048 {
        session.run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, category, api_key_id, created_at)
             VALUES (md5('u')::uuid, 'usage', 1, 'u{n}', 'model', md5('key')::uuid, '2026-01-02 12:00+00')"
        ));
    }
    assert_eq!(count(&mut session), 2);
    let refreshes: i64 = session.value("SELECT refreshes FROM credits.settlement_statistics()", &[]);
    assert!((30..=40).contains(&refreshes), "{refreshes}");
    let written =
        "SELECT (n_tup_ins, n_tup_upd, n_tup_del) = (2, $1::bigint - 2, 0) AND n_tup_hot_upd = n_tup_upd
                   FROM pg_stat_user_tables WHERE relid = 'credits.daily_totals'::regclass";
    // Postgres 14 learns of it when the session ends.
    drop(session);
    db.until(written, &[&refreshes]);
    let mut session = db.connect();
    let pages: i64 = session.value("SELECT pg_relation_size('credits.daily_totals') / 8192", &[]);
    assert_eq!(pages, 1);
    assert_exact(&mut session);
}

/// A restore and a subscriber take rows that earlier versions accepted.
#[test]
fn infinite_dates_are_days_of_their_own() {
    // What another test has open would keep the refresh from folding all.
    let db = Database::create_alone();
    let mut session = db.connect();
    session.grant(user(1), dec!(5));
    session.run(
        "SET session_replication_role = replica;
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at)
         SELECT user_id, 'usage', n, 'late' || n, CASE n % 2 WHEN 0 THEN '-infinity' ELSE 'infinity' END::timestamptz
         FROM credits.credits_transactions, generate_series(1, 4) n;
         RESET session_replication_role",
    );
    session.refresh(user(1));
    db.until(
        "SELECT count(*) = 2 AND min(total_amount) = 4 AND max(total_amount) = 6 FROM credits.daily_totals
         WHERE user_id = $1 AND NOT isfinite(day)",
        &[&user(1)],
    );
    assert_exact(&mut session);
    session.assert_sound();
}

/// What a deleted checkpoint has left is not added to what is made anew.
#[test]
fn a_checkpoint_made_anew_has_its_days_anew() {
    let db = Database::create_alone();
    let mut session = db.connect();
    for _ in 0..3 {
        session.grant(user(1), dec!(2));
    }
    session.refresh(user(1));
    session.lose_checkpoints("DELETE FROM credits.user_balance_checkpoints");
    assert_eq!(count(&mut session), 1);
    session.refresh(user(1));
    assert_exact(&mut session);
    session.assert_sound();
}
