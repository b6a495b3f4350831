//! What of a cap is read from daily totals, from the day on which its window begins, and from the delta, is what its rows add up to: by
//! commits, and by the view.

use std::collections::BTreeMap;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::{Database, Decimal, Listener, Session, Uuid, dec, seed, user};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

const STEPS: u32 = 400;
const CAPS: u32 = 8;
const NOW: &str = "2026-12-16 10:00:00+00";

fn cap(number: u32) -> Uuid {
    Uuid::from_u128(0xCA9_0000 + u128::from(number))
}

/// Dates around the beginnings of windows, and in windows to come.
fn date(random: &mut StdRng) -> String {
    let dates = [
        "2026-12-16 09:30:00+00",
        "2026-12-16 09:30:00+00",
        "2026-12-16 00:00:00+00",
        "2026-12-15 13:37:00+00",
        "2026-12-14 00:00:00+00",
        "2026-12-01 00:00:00+00",
        "2026-11-07 07:00:00.5+00",
        "2026-12-17 00:00:00+00",
        "2026-12-21 00:00:00+00",
        "2027-01-01 00:00:00+00",
    ];
    let micros = ["0", "0", "1", "-1", "500000", "-500000", "3600000000"].choose(random).unwrap();
    format!("timestamptz '{}' + {micros} * interval '1 microsecond'", dates.choose(random).unwrap())
}

fn key(random: &mut StdRng) -> String {
    ["NULL", "md5('1')::uuid", "md5('2')::uuid", "md5('3')::uuid"].choose(random).unwrap().to_string()
}

/// One of the caps, made or changed.
fn set(random: &mut StdRng) -> String {
    let keys =
        ["NULL", "ARRAY[md5('1')::uuid]", "ARRAY[md5('1')::uuid, md5('2')::uuid]", "ARRAY[md5('3')::uuid]"];
    let periods = ["NULL", "'daily'", "'weekly'", "'monthly'"];
    format!(
        "INSERT INTO credits.spend_caps (id, user_id, api_key_ids, period, amount, since)
         VALUES ('{}', '{}', {}, {}, {}, {})
         ON CONFLICT (id) DO UPDATE SET api_key_ids = excluded.api_key_ids, period = excluded.period, amount = excluded.amount, since = excluded.since",
        cap(random.random_range(0..CAPS)),
        user(1),
        keys.choose(random).unwrap(),
        periods.choose(random).unwrap(),
        random.random_range(1..400),
        date(random)
    )
}

fn usage(random: &mut StdRng) -> String {
    format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, api_key_id, created_at)
         SELECT '{}', '{}', n * 0.5, gen_random_uuid()::text, {}, {} FROM generate_series(1, {}) n",
        user(1),
        ["usage", "usage", "usage", "usage", "admin_removal"].choose(random).unwrap(),
        key(random),
        date(random),
        random.random_range(1..5)
    )
}

/// The caps that have been announced to be reached, and not to be open since.
fn hear(listener: &mut Listener, reached: &mut BTreeMap<Uuid, String>) {
    for notification in listener.drain().iter().filter(|heard| heard.channel == "credits_spend_cap") {
        let payload = &notification.payload;
        let cap =
            (0..CAPS).map(cap).find(|cap| payload.contains(&format!("{{\"cap_id\":\"{cap}\""))).unwrap();
        if payload.contains("\"state\":\"open\"") {
            assert!(reached.remove(&cap).is_some(), "{payload}");
        } else {
            // Again only where another window is reached: its period has changed.
            assert_ne!(reached.insert(cap, payload.clone()).as_ref(), Some(payload));
        }
    }
}

/// After each transaction, the caps that are announced are those that a query over the rows finds reached.
/// A session of a role that does not see the rows of one key.
fn limited(db: &Database, session: &mut Session) -> Session {
    let role = db.create_role("limited");
    session.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role};
         GRANT SELECT ON credits.credits_transactions, credits.spend_caps, credits.spend_cap_states TO {role};
         GRANT EXECUTE ON ALL ROUTINES IN SCHEMA credits TO {role};
         ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY not_of_one_key ON credits.credits_transactions TO {role} USING (api_key_id IS DISTINCT FROM md5('2')::uuid)"
    ));
    db.connect_as(&role)
}

/// Caps of which the view does not say what a query over the rows says that was spent, and what the function behind it does not of a window
/// between two dates.
fn differing(session: &mut Session, from: &str, until: &str) -> Vec<String> {
    let spent = |start: &str, end: &str| {
        format!(
            "SELECT coalesce(sum(t.amount), 0) FROM credits.credits_transactions t
             WHERE t.user_id = c.user_id AND t.transaction_type = 'usage' AND t.created_at >= {start}
               AND (t.created_at < {end} OR {end} IS NULL) AND (t.api_key_id = ANY (c.api_key_ids) OR c.api_key_ids IS NULL)"
        )
    };
    let (of_view, of_window) = (spent("s.window_start", "s.resets_at"), spent("w.start", "w.until"));
    session.values(
        &format!(
            "SELECT format('%s: %s, %s', c, s.spent, p.spent)
             FROM credits.spend_caps c JOIN credits.spend_cap_states s ON s.cap_id = c.id CROSS JOIN LATERAL ({of_view}) p (spent)
             WHERE s.spent <> p.spent
             UNION ALL
             SELECT format('%s from %s until %s: %s, %s', c, w.start, w.until, f.spent, p.spent)
             FROM credits.spend_caps c
             CROSS JOIN (VALUES ({from}, {until}), ({until}, NULL), ('-infinity', {from}), ('294276-12-31 12:00+00', 'infinity')) w (start, until)
             CROSS JOIN LATERAL (SELECT credits.visible_spend(c.user_id, c.api_key_ids, w.start, w.until)) f (spent)
             CROSS JOIN LATERAL ({of_window}) p (spent)
             WHERE f.spent <> p.spent"
        ),
        &[],
    )
}

#[test]
fn announced_is_what_a_query_finds() {
    let cluster = Cluster::start_with_clock("");
    cluster.set_clock(NOW);
    let db = Database::create_in(&cluster);
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut session, mut listener) = (db.connect(), db.listen());
    let mut other: Session = db.connect();
    session.grant(user(1), dec!(1_000_000));
    let mut limited = limited(&db, &mut session);
    let mut reached = BTreeMap::new();
    let (mut announced, mut by_days) = (0, 0);
    for step in 0..STEPS {
        let statement = match random.random_range(0..100) {
            0..12 => set(&mut random),
            12..75 => usage(&mut random),
            75..80 => format!("BEGIN; {}; ROLLBACK", usage(&mut random)),
            80..83 => format!("SET credits_ledger.checkpoint_interval = {}", random.random_range(1..30)),
            83..85 => crate::days_fill::FORGET.to_owned(),
            85..88 => "CALL credits.fill_daily_totals()".to_owned(),
            88..90 => {
                format!("DELETE FROM credits.spend_caps WHERE id = '{}'", cap(random.random_range(0..CAPS)))
            }
            // Rows that another transaction has in flight meanwhile, and rolls back.
            90..93 => {
                other.run(&format!("BEGIN; {}", usage(&mut random)));
                let statement = usage(&mut random);
                session.run(&statement);
                other.run("ROLLBACK");
                statement
            }
            _ => format!("SELECT credits.refresh_checkpoint('{}')", user(1)),
        };
        session
            .try_run(&statement)
            .unwrap_or_else(|error| panic!("seed {seed}, step {step}: {statement}: {error:?}"));
        hear(&mut listener, &mut reached);
        let found: Vec<Uuid> = session
            .values("SELECT cap_id FROM credits.spend_cap_states WHERE is_reached ORDER BY cap_id", &[]);
        let heard: Vec<Uuid> = reached.keys().copied().collect();
        assert_eq!(heard, found, "seed {seed}, step {step}: {statement}");
        for session in [&mut session, &mut limited] {
            let differing = differing(session, &date(&mut random), &date(&mut random));
            assert!(differing.is_empty(), "seed {seed}, step {step}: {statement}: {differing:#?}");
        }
        announced += heard.len();
        let has_days: i64 = session.value(
            "SELECT count(*) FROM credits.user_balance_checkpoints WHERE has_days AND cardinality(cap_ids) > 0",
            &[],
        );
        by_days += has_days;
    }
    assert!(announced > 0 && by_days > 20, "seed {seed}: {announced}, {by_days}");
    session.assert_sound();
}

/// The day before it would be out of range.
#[test]
fn a_window_that_ends_on_the_first_day_of_all_is_empty() {
    let db = Database::create();
    let mut session = db.connect();
    session.charge(user(1), dec!(1));
    for end in
        ["4714-11-24 00:00:00+00 BC", "4714-11-24 12:00:00+00 BC", "4714-11-25 00:00:00+00 BC", "-infinity"]
    {
        let spent = format!("SELECT credits.visible_spend('{}', NULL, '-infinity', '{end}')", user(1));
        assert_eq!(session.value::<Decimal>(&spent, &[]), dec!(0), "{end}");
    }
    let spent = format!("SELECT credits.visible_spend('{}', NULL, '-infinity', NULL)", user(1));
    assert_eq!(session.value::<Decimal>(&spent, &[]), dec!(1));
}
