//! Days, balances of the past, statements, counts and running balances, against plain SQL over the rows that the session sees: in random
//! sessions with every combination of arguments, and on a walk over the ends of days, months and years in several time zones.

use std::collections::BTreeMap;
use std::process::Command;

use credits_ledger_tests::{Database, Decimal, Refused, Session, Uuid, dec, seed, user};
use postgres::Row;
use postgres::types::ToSql;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

const STEPS: u32 = 900;
const STEPS_BETWEEN_CHECKS: u32 = 30;
const SESSIONS: usize = 4;
const USERS: u32 = 3;
const ZONES: [&str; 6] = [
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Pacific/Kiritimati",
    "Asia/Kathmandu",
];

const EFFECT: &str = "CASE WHEN transaction_type IN ('purchase', 'admin_grant') THEN amount ELSE -amount END";

/// What plain SQL says of the days of user $1 from $2 to $3, either of which may be NULL.
const USAGE: &str = "
    SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, category, api_key_id, transaction_type, sum(amount), count(*)
    FROM credits.credits_transactions
    WHERE user_id = $1 AND (created_at AT TIME ZONE 'UTC')::date BETWEEN coalesce($2::text::date, '-infinity') AND coalesce($3::text::date, 'infinity')
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 4, 2, 3";

/// What plain SQL says of the rows of user $1 in a condition.
fn plain_sum(condition: &str) -> String {
    format!(
        "SELECT coalesce(sum({EFFECT}), 0), count(*) FROM credits.credits_transactions WHERE user_id = $1 AND {condition}"
    )
}

type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// Rows as tuples of what their columns hold.
type Total = (String, Option<String>, Option<Uuid>, String, Decimal, i64);

fn total(row: &Row) -> Total {
    (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5))
}

#[track_caller]
fn totals(session: &mut Session, sql: &str, parameters: &Parameters<'_>) -> Vec<Total> {
    session.query(sql, parameters).unwrap_or_else(|e| panic!("{sql}: {e:?}")).iter().map(total).collect()
}

#[track_caller]
fn sum(session: &mut Session, condition: &str, parameters: &Parameters<'_>) -> (Decimal, i64) {
    let sql = plain_sum(condition);
    let row = session.query_one(&sql, parameters).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    (row.get(0), row.get(1))
}

/// `usage_by_day`, with the arguments that are given, as [`USAGE`] has it.
#[track_caller]
fn assert_usage(session: &mut Session, user: Uuid, first: Option<&str>, last: Option<&str>) -> usize {
    let call = match (first, last) {
        (None, None) => "$1".to_owned(),
        (Some(first), None) => format!("$1, '{first}'"),
        (None, Some(last)) => format!("$1, end_date => '{last}'"),
        (Some(first), Some(last)) => format!("user_id => $1, end_date => '{last}', start_date => '{first}'"),
    };
    let answer = totals(
        session,
        &format!(
            "SELECT to_char(day, 'YYYY-MM-DD'), category, api_key_id, transaction_type, total_amount, transaction_count
             FROM credits.usage_by_day({call})"
        ),
        &[&user],
    );
    assert_eq!(answer, totals(session, USAGE, &[&user, &first, &last]), "{user} {first:?} {last:?}");
    answer.len()
}

#[track_caller]
fn assert_sums_at(session: &mut Session, user: Uuid, at: &str) {
    let (until, _) = sum(session, "created_at <= $2::text::timestamptz", &[&user, &at]);
    let answer: Decimal =
        session.value("SELECT credits.get_user_balance_at($1, $2::text::timestamptz)", &[&user, &at]);
    assert_eq!(answer, until, "{user} {at}");
    let (after, _) = sum(session, "created_at > $2::text::timestamptz", &[&user, &at]);
    let answer: Decimal =
        session.value("SELECT credits.sum_transactions_after_date($1, $2::text::timestamptz)", &[&user, &at]);
    assert_eq!(answer, after, "{user} {at}");
}

/// `count_user_transactions` with these filters, each of which may be left out.
#[track_caller]
fn assert_count(
    session: &mut Session,
    user: Uuid,
    types: Option<&str>,
    start: Option<&str>,
    end: Option<&str>,
) {
    let filters: [&(dyn ToSql + Sync); 4] = [&user, &types, &start, &end];
    let answer: i64 = session.value(
        "SELECT credits.count_user_transactions($1, transaction_types => $2::text::text[], start_date => $3::text::timestamptz,
                                                end_date => $4::text::timestamptz)",
        &filters,
    );
    let (_, count) = sum(
        session,
        "($2::text IS NULL OR transaction_type = ANY ($2::text::text[]))
         AND created_at BETWEEN coalesce($3::text::timestamptz, '-infinity') AND coalesce($4::text::timestamptz, 'infinity')",
        &filters,
    );
    assert_eq!(answer, count, "{user} {types:?} {start:?} {end:?}");
}

/// The lines of a statement, each with its sum and count.
#[track_caller]
fn statement(session: &mut Session, user: Uuid, start: &str, end: &str) -> Vec<(String, Decimal, i64)> {
    let sql = "SELECT * FROM credits.account_statement($1, $2::text::timestamptz, $3::text::timestamptz)";
    let rows = session.query(sql, &[&user, &start, &end]).unwrap_or_else(|e| panic!("{start} {end}: {e:?}"));
    rows.iter().map(|row| (row.get("line"), row.get("amount"), row.get("transaction_count"))).collect()
}

#[track_caller]
fn assert_statement(session: &mut Session, user: Uuid, start: &str, end: &str) {
    let before = "created_at < $2::text::timestamptz";
    let mut expected = Vec::new();
    let (amount, count) = sum(session, before, &[&user, &start]);
    expected.push(("opening".to_owned(), amount, count));
    for line in ["purchase", "admin_grant", "usage", "admin_removal"] {
        let condition = format!(
            "created_at >= $2::text::timestamptz AND created_at < $3::text::timestamptz AND transaction_type = '{line}'"
        );
        let (amount, count) = sum(session, &condition, &[&user, &start, &end]);
        expected.push((line.to_owned(), amount, count));
    }
    let (amount, count) = sum(session, before, &[&user, &end]);
    expected.push(("closing".to_owned(), amount, count));
    let answer = statement(session, user, start, end);
    assert_eq!(answer, expected, "{user} {start} {end}");
    let added: Decimal = answer[..5].iter().map(|(_, amount, _)| amount).sum();
    assert_eq!(added, answer[5].1, "{answer:?}");
    assert_eq!(answer[..5].iter().map(|(_, _, count)| count).sum::<i64>(), answer[5].2, "{answer:?}");
}

/// A list with running balances as `list_user_transactions` has its rows, and with balances that a window adds up. `arguments` are
/// those after the user's.
#[track_caller]
fn assert_running(session: &mut Session, user: Uuid, arguments: &str) -> usize {
    let listed = |function: &str, columns: &str, tail: &str| {
        format!("SELECT ({columns})::text, balance_after FROM credits.{function}($1{arguments}) t {tail}")
    };
    let columns = "t.id, t.user_id, t.transaction_type, t.amount, t.source_id, t.description, t.created_at, t.seq, \
                   t.fusillade_batch_id, t.api_key_id";
    let read = |session: &mut Session, sql: &str| -> Vec<(String, Decimal)> {
        let rows = session.query(sql, &[&user]).unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    let answer = read(session, &listed("list_user_transactions_with_balance", columns, ""));
    let running = format!(
        "JOIN (SELECT seq, sum({EFFECT}) OVER (ORDER BY seq) AS balance_after FROM credits.credits_transactions WHERE user_id = $1) r
         USING (seq) ORDER BY seq DESC"
    );
    assert_eq!(
        answer,
        read(session, &listed("list_user_transactions", columns, &running)),
        "{user} {arguments}"
    );
    answer.len()
}

struct World {
    random: StdRng,
    sources: u32,
}

impl World {
    /// Near the ends of days, a few of which have most of the rows.
    fn time(&mut self) -> String {
        let random = &mut self.random;
        let days = ["2025-12-30", "2025-12-31", "2026-01-01", "2026-01-31", "2026-02-01", "2026-03-29"];
        let day = if random.random_bool(0.8) {
            (*days.choose(random).unwrap()).to_owned()
        } else {
            format!("{}-{:02}-28", random.random_range(2024..2028), random.random_range(1..=12))
        };
        let times = [
            "00:00:00",
            "00:00:00.000001",
            "23:59:59.999999",
            "23:59:59.5",
            "23:59:59.499999",
            "12:00",
            "02:30",
            "17:45:10.25",
        ];
        format!("{day} {}+00", times.choose(random).unwrap())
    }

    fn date(&mut self) -> String {
        self.time()[..10].to_owned()
    }

    fn user(&mut self) -> Uuid {
        user(self.random.random_range(0..USERS))
    }

    fn insert(&mut self) -> String {
        let rows = self.random.random_range(1..6);
        let rows: Vec<String> = (0..rows).map(|_| self.row()).collect();
        format!(
            "INSERT INTO credits.credits_transactions
                 (user_id, transaction_type, amount, source_id, description, created_at, fusillade_batch_id, category, api_key_id)
             VALUES {}",
            rows.join(", ")
        )
    }

    fn row(&mut self) -> String {
        let (user, time) = (self.user(), self.time());
        let random = &mut self.random;
        self.sources += 1;
        let kind =
            *["purchase", "admin_grant", "admin_removal", "usage", "usage", "usage"].choose(random).unwrap();
        let amount = Decimal::new(random.random_range(1..10_000_000_000), random.random_range(0..=15));
        let category = *["NULL", "''", "'b'", "'a'", "'B'", "'é'", "'a b'"].choose(random).unwrap();
        let key = match random.random_range(0..4) {
            0 => "NULL".to_owned(),
            key => format!("'{}'", Uuid::from_u128(key << 120)),
        };
        let batch = match random.random_range(0..6) {
            batch @ 0..3 if kind == "usage" => format!("'{}'", Uuid::from_u128(batch)),
            _ => "NULL".to_owned(),
        };
        let description = *["NULL", "'Request'", "'batch 7'"].choose(random).unwrap();
        format!(
            "('{user}', '{kind}', {amount}, 'source {}', {description}, '{time}', {batch}, {category}, {key})",
            self.sources
        )
    }
}

struct Stepped {
    session: Session,
    in_transaction: bool,
    savepoints: u32,
}

impl Stepped {
    fn step(&mut self, world: &mut World) {
        match world.random.random_range(0..100) {
            0..50 => {
                let insert = world.insert();
                self.session.run(&insert);
            }
            50..60 => {
                let user = world.user();
                self.session.refresh(user);
            }
            60..70 if !self.in_transaction => {
                let isolation = ["READ COMMITTED", "REPEATABLE READ"].choose(&mut world.random).unwrap();
                self.session.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
                self.in_transaction = true;
            }
            70..78 if self.in_transaction => {
                self.session.run("SAVEPOINT s");
                self.savepoints += 1;
            }
            78..83 if self.savepoints > 0 => {
                self.session.run("ROLLBACK TO SAVEPOINT s; RELEASE SAVEPOINT s");
                self.savepoints -= 1;
            }
            83..98 if self.in_transaction => {
                self.end(if world.random.random_bool(0.8) { "COMMIT" } else { "ROLLBACK" });
            }
            _ => {}
        }
    }

    fn end(&mut self, end: &str) {
        self.session.run(end);
        (self.in_transaction, self.savepoints) = (false, 0);
    }

    fn check(&mut self, world: &mut World) {
        let session = &mut self.session;
        let zone = ZONES.choose(&mut world.random).unwrap();
        session.run(&format!("SET TimeZone = '{zone}'"));
        let user = user(world.random.random_range(0..=USERS));
        let mut dates = [world.date(), world.date()];
        if world.random.random_bool(0.8) {
            dates.sort();
        }
        let [first, last] = [dates[0].as_str(), dates[1].as_str()];
        for (first, last) in
            [(None, None), (Some(first), None), (None, Some(last)), (Some(first), Some(last))]
        {
            assert_usage(session, user, first, last);
        }
        for at in [world.time(), world.time(), "-infinity".into(), "infinity".into(), "now".into()] {
            assert_sums_at(session, user, &at);
        }
        let mut times = [world.time(), world.time(), world.time()];
        times.sort();
        let [first, second, third] = times;
        for (start, end) in
            [(&*first, &*second), (&second, &third), ("-infinity", &first), (&third, "infinity")]
        {
            if start < end || start == "-infinity" || end == "infinity" {
                assert_statement(session, user, start, end);
            }
        }
        let bounds =
            [None, Some("-infinity"), Some("infinity"), Some(&*first), Some(&*second), Some(&*third)];
        for types in [None, Some("{usage}"), Some("{usage,purchase,usage}"), Some("{}")] {
            for _ in 0..6 {
                let mut bound = || *bounds.choose(&mut world.random).unwrap();
                assert_count(session, user, types, bound(), bound());
            }
            assert_count(session, user, types, None, None);
        }
        let newest: i64 =
            session.value("SELECT coalesce(max(seq), 0) FROM credits.credits_transactions", &[]);
        for given in 0_u32..64 {
            let random = &mut world.random;
            let types =
                ["{usage}", "{purchase,admin_grant}", "{admin_removal}", "{}"].choose(random).unwrap();
            let limit = [0, 1, 7, 200].choose(random).unwrap();
            let all = [
                format!(", skip => {}", random.random_range(0..20)),
                format!(", \"limit\" => {limit}"),
                format!(", search => '{}'", ["req", "BATCH", "%", ""].choose(random).unwrap()),
                format!(", transaction_types => '{types}'"),
                format!(", start_date => '{first}'"),
                format!(", before_seq => {}", random.random_range(0..newest + 2)),
            ];
            let mut arguments: String = all
                .iter()
                .enumerate()
                .filter(|(place, _)| given & 1 << place != 0)
                .map(|(_, each)| each.as_str())
                .collect();
            if random.random() {
                arguments += &format!(", end_date => '{second}'");
            }
            if given & 2 == 0 && random.random() {
                arguments += ", \"limit\" => NULL";
            }
            assert_running(session, user, &arguments);
        }
    }
}

#[test]
fn days_and_statements_agree_with_plain_sql() {
    let mut world = World { random: StdRng::seed_from_u64(seed()), sources: 0 };
    let db = Database::create();
    // A short interval, so that most rows are folded and few are not.
    let role = tenant(&db);
    let mut sessions: Vec<Stepped> = (0..SESSIONS)
        .map(|number| {
            let mut session = if number == 0 { db.connect_as(&role) } else { db.connect() };
            if number > 0 {
                session.run("SET credits_ledger.checkpoint_interval = 20");
            }
            Stepped { session, in_transaction: false, savepoints: 0 }
        })
        .collect();
    for step in 1..=STEPS {
        let which = world.random.random_range(0..SESSIONS);
        sessions[which].step(&mut world);
        if step % STEPS_BETWEEN_CHECKS == 0 {
            let which = world.random.random_range(0..SESSIONS);
            sessions[which].check(&mut world);
        }
    }
    for stepped in &mut sessions {
        if stepped.in_transaction {
            stepped.end("ROLLBACK");
        }
        stepped.check(&mut world);
    }
    sessions[1].session.assert_sound();
}

/// A role that row-level security hides the rows of a key from: its answers are of the others.
fn tenant(db: &Database) -> String {
    let role = db.create_role("tenant");
    db.connect().run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role};
         GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA credits TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role};
         ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY others ON credits.credits_transactions TO {role}
             USING (api_key_id IS DISTINCT FROM '{}') WITH CHECK (true)",
        Uuid::from_u128(1 << 120)
    ));
    role
}

/// Every day around the ends of weeks, months and years, 29 February, and the days on which clocks are changed somewhere.
const WALKED: [(&str, &str); 9] = [
    ("1999-12-30", "2000-01-02"),
    ("2024-02-27", "2024-03-11"),
    ("2024-12-28", "2025-01-06"),
    ("2025-02-27", "2025-03-02"),
    ("2025-03-29", "2025-04-07"),
    ("2025-09-27", "2025-10-06"),
    ("2025-10-25", "2025-11-03"),
    ("2026-11-29", "2026-12-02"),
    ("1969-12-30", "1970-01-02"),
];

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// The days are counted here, not by the server's calendar.
#[test]
fn days_end_at_midnight_of_utc_in_every_time_zone() {
    let db = Database::create();
    let mut session = db.connect();
    // Days since 1970, and by the day its rows: how many, and what they add up to.
    let mut expected: BTreeMap<i64, (i64, Decimal)> = BTreeMap::new();
    let mut days: Vec<i64> = Vec::new();
    for (first, last) in WALKED {
        days.extend(session.values::<i64>(
            "SELECT ($1::text::date - '1970-01-01')::bigint + n FROM generate_series(0, $2::text::date - $1::text::date) n",
            &[&first, &last],
        ));
    }
    // The edges of the days, and midnight where clocks are ahead or behind.
    const HOUR: i64 = 3_600_000_000;
    let offsets = [0, 1, 499_999, 500_000, 4 * HOUR, 5 * HOUR, 10 * HOUR, 13 * HOUR, MICROS_PER_DAY - 1];
    let mut amount = dec!(0);
    for &day in &days {
        for offset in offsets {
            let micros = day * MICROS_PER_DAY + offset;
            amount += dec!(0.000000000000001);
            session
                .execute(
                    "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at)
                     VALUES ($1, 'purchase', $2, $3, timestamptz '1970-01-01 00:00:00+00' + $4::bigint * interval '1 microsecond')",
                    &[&user(1), &amount, &format!("{micros}"), &micros],
                )
                .expect("insert");
            let total = expected.entry(day).or_default();
            *total = (total.0 + 1, total.1 + amount);
        }
    }
    for fold in [false, true] {
        if fold {
            session.refresh(user(1));
        }
        for zone in ZONES {
            session.run(&format!("SET TimeZone = '{zone}'"));
            let answer: BTreeMap<i64, (i64, Decimal)> = session
                .query(
                    "SELECT (day - '1970-01-01')::bigint, transaction_count, total_amount FROM credits.usage_by_day($1)",
                    &[&user(1)],
                )
                .expect("days")
                .iter()
                .map(|row| (row.get(0), (row.get(1), row.get(2))))
                .collect();
            assert_eq!(answer, expected, "{zone}");
            for (&day, total) in &expected {
                let row = session
                    .query_one(
                        "SELECT transaction_count, total_amount
                         FROM credits.usage_by_day($1, date '1970-01-01' + $2::bigint::int, date '1970-01-01' + $2::bigint::int)",
                        &[&user(1), &day],
                    )
                    .expect("a day");
                assert_eq!((row.get(0), row.get(1)), *total, "{zone} {day}");
                let until = |inclusive: bool| {
                    expected
                        .range(..day + i64::from(inclusive))
                        .map(|(_, (_, amount))| *amount)
                        .sum::<Decimal>()
                };
                for (offset, expected) in [(-1, until(false)), (MICROS_PER_DAY - 1, until(true))] {
                    let at = day * MICROS_PER_DAY + offset;
                    let balance: Decimal = session.value(
                        "SELECT credits.get_user_balance_at($1, timestamptz '1970-01-01 00:00:00+00' + $2::bigint * interval '1 microsecond')",
                        &[&user(1), &at],
                    );
                    assert_eq!(balance, expected, "{zone} {day} {offset}");
                }
                let lines = session
                    .query(
                        "SELECT amount, transaction_count FROM credits.account_statement($1,
                             timestamptz '1970-01-01 00:00:00+00' + $2::bigint * interval '24 hours',
                             timestamptz '1970-01-01 00:00:00+00' + ($2::bigint + 1) * interval '24 hours')",
                        &[&user(1), &day],
                    )
                    .expect("a statement");
                let amounts: Vec<Decimal> = lines.iter().map(|row| row.get(0)).collect();
                assert_eq!(
                    amounts,
                    [until(false), total.1, dec!(0), dec!(0), dec!(0), until(true)],
                    "{zone} {day}"
                );
                assert_eq!(lines[1].get::<_, i64>(1), total.0);
            }
        }
    }
}

/// A month's statement opens with what the last one closed with, whatever its rows were written before or after.
#[test]
fn statements_follow_each_other() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at)
         SELECT '{}', (ARRAY['purchase', 'admin_grant', 'usage', 'admin_removal'])[1 + n % 4], (n + 1) / 8.0, n::text,
                timestamptz '2025-12-31 23:00:00+00' + n * interval '7 hours'
         FROM generate_series(0, 700) n",
        user(1)
    ));
    let months: Vec<String> = (1..=8).map(|month| format!("2026-{month:02}-01 00:00+00")).collect();
    let mut closing = None;
    for month in months.windows(2) {
        assert_statement(&mut session, user(1), &month[0], &month[1]);
        let lines = statement(&mut session, user(1), &month[0], &month[1]);
        let names: Vec<&str> = lines.iter().map(|(line, _, _)| line.as_str()).collect();
        assert_eq!(names, ["opening", "purchase", "admin_grant", "usage", "admin_removal", "closing"]);
        assert!(lines[3].1 < dec!(0) && lines[4].1 < dec!(0) && lines[1].1 > dec!(0), "signed: {lines:?}");
        if let Some(closing) = closing {
            assert_eq!((lines[0].1, lines[0].2), closing);
        }
        closing = Some((lines[5].1, lines[5].2));
    }
    for (start, end) in [("2026-01-01", "2026-01-01"), ("2026-02-01", "2026-01-01"), ("infinity", "infinity")]
    {
        let error = session
            .query(
                "SELECT * FROM credits.account_statement($1, $2::text::timestamptz, $3::text::timestamptz)",
                &[&user(1), &start, &end],
            )
            .map(|_| ())
            .refused("22023");
        assert!(
            error.message().starts_with("argument period_end must be after period_start"),
            "{}",
            error.message()
        );
    }
}

/// Nobody has rows on the days that only a `date` reaches, and an account that nobody knows has none at all.
#[test]
fn dates_at_the_ends_of_time() {
    let db = Database::create();
    let mut session = db.connect();
    let mut tenant = db.connect_as(&tenant(&db));
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at) VALUES
             ('{user}', 'purchase', 4, 'first', '4714-11-24 00:00:00+00 BC'),
             ('{user}', 'usage', 1, 'last', '294276-12-31 23:59:59.999999+00')",
        user = user(1)
    ));
    for fold in [false, true] {
        if fold {
            session.refresh(user(1));
        }
        for (first, last, expected) in [
            ("NULL", "NULL", 2),
            ("'-infinity'", "'infinity'", 2),
            ("'infinity'", "'infinity'", 0),
            ("'-infinity'", "'-infinity'", 0),
            ("'5874897-12-31'", "NULL", 0),
            ("NULL", "'5874897-12-31'", 2),
            ("'4714-11-24 BC'", "'4714-11-24 BC'", 1),
            ("'294276-12-31'", "'294276-12-31'", 1),
            ("'294277-01-01'", "'5874897-12-31'", 0),
            ("'294276-12-31'", "'294276-12-30'", 0),
        ] {
            let days = format!("SELECT count(*) FROM credits.usage_by_day('{}', {first}, {last})", user(1));
            for session in [&mut session, &mut tenant] {
                assert_eq!(session.value::<i64>(&days, &[]), expected, "{first} {last}");
            }
        }
        for (at, expected) in [
            ("-infinity", dec!(0)),
            ("4714-11-24 00:00:00+00 BC", dec!(4)),
            ("294276-12-31 23:59:59.999998+00", dec!(4)),
            ("294276-12-31 23:59:59.999999+00", dec!(3)),
            ("infinity", dec!(3)),
        ] {
            assert_sums_at(&mut session, user(1), at);
            let sql = "SELECT credits.get_user_balance_at($1, $2::text::timestamptz)";
            assert_eq!(session.value::<Decimal>(sql, &[&user(1), &at]), expected, "{at}");
        }
        assert_statement(&mut session, user(1), "-infinity", "infinity");
        assert_statement(
            &mut session,
            user(1),
            "4714-11-24 00:00:00+00 BC",
            "294276-12-31 23:59:59.999999+00",
        );
    }
    assert_eq!(assert_usage(&mut session, user(9), None, None), 0);
    assert_statement(&mut session, user(9), "2026-01-01", "2026-02-01");
    assert_sums_at(&mut session, user(9), "now");
    assert_eq!(assert_running(&mut session, user(9), ""), 0);
}

/// An index with the name of that by date may have been made for something else.
#[test]
fn the_index_by_date_is_used_as_it_was_made_alone() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at)
         SELECT '{}', 'purchase', n, n::text, timestamptz '2026-01-01 00:00+00' + n * interval '1 hour' FROM generate_series(1, 100) n;
         SELECT credits.refresh_checkpoint(user_id) FROM credits.balances",
        user(1)
    ));
    for columns in [
        "(user_id, (created_at::timestamptz(3)))",
        "(user_id, created_at)",
        "(user_id, (created_at::timestamptz(0))) WHERE amount > 50",
    ] {
        session.run(&format!(
            "DROP INDEX credits.credits_transactions_user_created_idx;
             CREATE INDEX credits_transactions_user_created_idx ON credits.credits_transactions {columns}"
        ));
        assert_sums_at(&mut session, user(1), "2026-01-02 05:00+00");
        assert_statement(&mut session, user(1), "2026-01-02 05:00+00", "2026-01-03 07:00+00");
    }
}

/// Rows are read where there are no daily totals, and both where a checkpoint has them.
#[test]
fn answers_do_not_depend_on_what_is_folded() {
    let db = Database::create();
    let mut session = db.connect();
    let insert = |session: &mut Session, from: i32| {
        session.run(&format!(
            "INSERT INTO credits.credits_transactions
                 (user_id, transaction_type, amount, source_id, category, api_key_id, created_at)
             SELECT '{}', (ARRAY['purchase', 'admin_grant', 'usage', 'admin_removal'])[1 + n % 4], (n + 1) / 8.0, n::text,
                    (ARRAY['b', 'a', 'B', NULL])[1 + n % 3], CASE WHEN n % 5 > 2 THEN md5((n % 5)::text)::uuid END,
                    timestamptz '2025-12-29 23:00:00+00' + n * interval '5 hours'
             FROM generate_series({from}, {from} + 99) n",
            user(1)
        ));
    };
    for (from, made) in [
        (0, "SELECT 1"),
        (100, "SELECT credits.refresh_checkpoint(user_id) FROM credits.balances"),
        (200, "SELECT 1"),
        // As a checkpoint of an earlier version.
        (300, "UPDATE credits.user_balance_checkpoints SET has_days = NULL"),
        (400, "SELECT credits.refresh_checkpoint(user_id) FROM credits.balances"),
        (500, "DELETE FROM credits.user_balance_checkpoints"),
        (600, "SELECT credits.refresh_checkpoint(user_id) FROM credits.balances"),
    ] {
        insert(&mut session, from);
        session.run(made);
        assert!(assert_usage(&mut session, user(1), None, None) > 30, "{made}");
        assert_usage(&mut session, user(1), Some("2026-01-02"), Some("2026-01-20"));
        for at in [
            "2026-01-01 00:00+00",
            "2026-01-10 09:00+00",
            "2026-01-10 21:00+00",
            "2025-12-31 05:00+00",
            "infinity",
        ] {
            assert_sums_at(&mut session, user(1), at);
        }
        assert_statement(&mut session, user(1), "2026-01-01 00:00+00", "2026-02-01 00:00+00");
        // Both bounds in one day, and across it.
        for (start, end) in [("02:00", "07:00"), ("02:00", "23:00"), ("20:00", "23:00"), ("20:00", "24:00")] {
            let bounds = [start, end].map(|time| format!("2026-01-10 {time}+00"));
            assert_statement(&mut session, user(1), &bounds[0], &bounds[1]);
        }
        assert_statement(&mut session, user(1), "2026-01-10 20:00+00", "2026-01-11 04:00+00");
        assert!(
            assert_running(&mut session, user(1), ", transaction_types => '{usage}', before_seq => 77") > 10
        );
    }
    session.assert_sound();
}

/// Texts are sorted as the database sorts them, not as its index of daily totals does. A machine that has no locale besides `C` cannot tell.
#[test]
fn categories_are_in_the_order_of_the_database() {
    let locales = Command::new("locale").arg("-a").output().expect("locale -a").stdout;
    let locales = String::from_utf8_lossy(&locales).into_owned();
    let is_other = |name: &&str| name.to_lowercase().ends_with(".utf8") && !name.starts_with("C.");
    let Some(locale) = locales.lines().find(is_other) else { return };
    let db = Database::create_ordered_by(locale);
    let mut session = db.connect();
    for folded in [false, true] {
        for (number, category) in ["a", "B", "b", "A", "é", "f", "E", "a-b", "ab", ""].iter().enumerate() {
            session.run(&format!(
                "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, category)
                 VALUES ('{}', 'usage', 1, '{folded} {number}', '{category}')",
                user(1)
            ));
        }
        if folded {
            session.refresh(user(1));
        }
        let bytewise: Vec<String> = session
            .values("SELECT category COLLATE \"C\" FROM credits.usage_by_day($1) ORDER BY 1", &[&user(1)]);
        let sorted: Vec<String> =
            session.values("SELECT category FROM credits.usage_by_day($1) ORDER BY category", &[&user(1)]);
        let answered: Vec<String> =
            session.values("SELECT category FROM credits.usage_by_day($1)", &[&user(1)]);
        assert_eq!(answered, sorted, "{locale}");
        assert_ne!(answered, bytewise, "{locale}");
    }
}

/// What filters leave out counts all the same, wherever the page is.
#[test]
fn running_balances_count_what_filters_leave_out() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
         SELECT '{}', CASE WHEN n % 10 = 1 THEN 'purchase' ELSE 'usage' END, 1 + n % 3, n::text,
                CASE WHEN n % 10 > 5 THEN '{}'::uuid END
         FROM generate_series(1, 2500) n",
        user(1),
        Uuid::from_u128(5)
    ));
    assert_eq!(assert_running(&mut session, user(1), ", \"limit\" => NULL"), 2500);
    for (arguments, expected) in [
        ("", 50),
        (", transaction_types => '{purchase}'", 50),
        (", transaction_types => '{purchase}', before_seq => 700", 50),
        (", transaction_types => '{purchase}', before_seq => 71", 7),
        (", skip => 2450", 50),
        (", skip => 1200", 50),
        (", before_seq => 1250", 50),
        (", before_seq => 2", 1),
        (", before_seq => 1", 0),
        (", \"limit\" => 0", 0),
        (", skip => 2499, \"limit\" => 9", 1),
        (", transaction_types => '{admin_grant}'", 0),
    ] {
        assert_eq!(assert_running(&mut session, user(1), arguments), expected, "{arguments}");
    }
}
