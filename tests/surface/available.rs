//! What is available: the balance less the open holds, exact in the caller's snapshot.

use credits_ledger_tests::{Database, Decimal, Refused, Session, Uuid, dec, seed, user};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Makes a hold by hand, which expires so far from now.
#[track_caller]
fn hold(session: &mut Session, number: u32, amount: Decimal, source_id: &str, expires_in: &str) {
    session
        .execute(
            "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ($1, $2, $3, now() + $4::text::interval)",
            &[&source_id, &user(number), &amount, &expires_in],
        )
        .unwrap_or_else(|error| panic!("hold {source_id}: {error:?}"));
}

#[track_caller]
fn available(session: &mut Session, number: u32) -> Decimal {
    session.value("SELECT credits.get_available_balance($1)", &[&user(number)])
}

/// User, balance, held and available, from a query that returns these.
type Line = (Uuid, Decimal, Decimal, Decimal);

fn lines(session: &mut Session, query: &str, users: &[Uuid]) -> Vec<Line> {
    let rows = session.query(query, &[&users]).unwrap_or_else(|error| panic!("{query}: {error:?}"));
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

const BULK: &str = "SELECT user_id, balance, held, available FROM credits.get_available_balances_bulk($1)";

const VIEW: &str = "SELECT user_id, balance, held, available FROM credits.balances WHERE user_id = ANY ($1) ORDER BY user_id";

/// The same by plain SQL.
const PLAIN: &str = "
    SELECT u, balance, held, balance - held
    FROM unnest($1::uuid[]) u
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(CASE WHEN transaction_type IN ('purchase', 'admin_grant') THEN amount ELSE -amount END), 0) AS balance
        FROM credits.credits_transactions WHERE user_id = u) b
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(amount), 0) AS held FROM credits.holds
        WHERE user_id = u AND expires_at > statement_timestamp()) h
    ORDER BY u";

/// The sources of a user's open holds, as they are listed.
fn listed(session: &mut Session, arguments: &str) -> Vec<String> {
    session.values(&format!("SELECT source_id FROM credits.list_holds('{}'{arguments})", user(1)), &[])
}

#[test]
fn what_open_holds_hold_is_not_available() {
    let db = Database::create();
    let mut session = db.connect();
    assert_eq!(available(&mut session, 1), Decimal::ZERO, "of an unknown user");
    session.grant(user(1), dec!(10));
    hold(&mut session, 1, dec!(2.5), "open", "10 minutes");
    hold(&mut session, 1, dec!(0.000000000000001), "open, too", "1 hour");
    hold(&mut session, 1, dec!(100), "expired", "-1 second");
    hold(&mut session, 2, dec!(3), "of another", "1 hour");
    assert_eq!(available(&mut session, 1), dec!(7.499999999999999));
    assert_eq!(available(&mut session, 2), dec!(-3), "what is held of nothing");
    assert_eq!(session.balance(user(1)), dec!(10), "a hold does not change the balance");
    // What is not committed is seen by its transaction alone, and what is rolled back by none.
    let mut other = db.connect();
    session.run("BEGIN");
    hold(&mut session, 1, dec!(1), "in flight", "1 hour");
    session.run("DELETE FROM credits.holds WHERE source_id = 'open'");
    assert_eq!(available(&mut session, 1), dec!(8.999999999999999));
    assert_eq!(available(&mut other, 1), dec!(7.499999999999999));
    session.run("ROLLBACK");
    assert_eq!(available(&mut session, 1), dec!(7.499999999999999));
}

/// A hold is open if it expires after the statement has begun. Statements that are sent together have begun together.
#[test]
fn a_hold_is_open_until_the_moment_at_which_it_expires() {
    let db = Database::create();
    let mut session = db.connect();
    let answers = |query: &str| {
        format!(
            "INSERT INTO credits.holds (source_id, user_id, amount, expires_at)
             VALUES ('at', '{user}', 1, statement_timestamp()),
                    ('after', '{user}', 2, statement_timestamp() + interval '1 microsecond');
             SELECT {query};
             DELETE FROM credits.holds",
            user = user(1)
        )
    };
    for (query, expected) in [
        (format!("credits.get_available_balance('{}')::text", user(1)), "-2"),
        (format!("held::text FROM credits.get_available_balances_bulk(ARRAY['{}']::uuid[])", user(1)), "2"),
        (format!("source_id FROM credits.list_holds('{}')", user(1)), "after"),
    ] {
        let messages =
            session.simple_query(&answers(&query)).unwrap_or_else(|error| panic!("{query}: {error:?}"));
        let answer = messages.iter().find_map(|message| match message {
            postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        assert_eq!(answer.as_deref(), Some(expected), "{query}");
    }
}

/// What a snapshot sees stays as it was, whatever becomes of the holds.
#[test]
fn an_old_snapshot_keeps_its_holds() {
    let db = Database::create();
    let (mut session, mut reader) = (db.connect(), db.connect());
    session.grant(user(1), dec!(10));
    hold(&mut session, 1, dec!(2), "deleted later", "1 hour");
    hold(&mut session, 1, dec!(3), "extended later", "1 hour");
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(available(&mut reader, 1), dec!(5));
    session.run("DELETE FROM credits.holds WHERE source_id = 'deleted later'");
    session.run("UPDATE credits.holds SET expires_at = expires_at - interval '2 hours'");
    hold(&mut session, 1, dec!(4), "new", "1 hour");
    session.charge(user(1), dec!(1));
    assert_eq!(available(&mut reader, 1), dec!(5));
    assert_eq!(lines(&mut reader, VIEW, &[user(1)]), [(user(1), dec!(10), dec!(5), dec!(5))]);
    assert_eq!(listed(&mut reader, ""), ["deleted later", "extended later"]);
    reader.run("COMMIT");
    assert_eq!(available(&mut reader, 1), dec!(5), "9 less 4");
    assert_eq!(listed(&mut reader, ""), ["new"]);
}

/// A transaction that read what is available, and one that took it, cannot both have been alone.
#[test]
fn a_serializable_reader_conflicts_with_a_hold() {
    let db = Database::create();
    let mut sessions = [db.connect(), db.connect()];
    sessions[0].grant(user(1), dec!(10));
    for (number, session) in sessions.iter_mut().enumerate() {
        session.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
        assert_eq!(available(session, 1), dec!(10));
        hold(session, 1, dec!(6), &format!("hold-{number}"), "1 hour");
    }
    sessions[0].run("COMMIT");
    sessions[1].try_run("COMMIT").refused("40001");
}

#[test]
fn many_accounts_are_answered_once_each_in_their_order() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    session.grant(user(2), dec!(1));
    hold(&mut session, 1, dec!(0.5), "a", "1 hour");
    hold(&mut session, 3, dec!(2), "b", "1 hour");
    let zero = Decimal::ZERO;
    assert_eq!(
        lines(&mut session, BULK, &[user(3), user(1), user(9), user(3), user(2), user(1)]),
        [
            (user(3), zero, dec!(2), dec!(-2)),
            (user(1), dec!(10), dec!(0.5), dec!(9.5)),
            (user(9), zero, zero, zero),
            (user(2), dec!(1), zero, dec!(1)),
        ]
    );
    assert_eq!(lines(&mut session, BULK, &[]), []);
    let text: Vec<String> = session.values(
        "SELECT concat_ws(' ', balance, held, available) FROM credits.get_available_balances_bulk($1)",
        &[&vec![user(1)]],
    );
    assert_eq!(text, ["10 0.5 9.5"], "without trailing zeros");
}

#[test]
fn open_holds_are_listed_by_expiry() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("BEGIN");
    for (source_id, expires_in) in
        [("late", "3 hours"), ("z", "1 hour"), ("a", "1 hour"), ("soon", "1 minute"), ("gone", "-1 second")]
    {
        hold(&mut session, 1, dec!(1), source_id, expires_in);
    }
    hold(&mut session, 2, dec!(1), "of another", "1 minute");
    session.run("COMMIT");
    let all = ["soon", "a", "z", "late"];
    assert_eq!(listed(&mut session, ""), all);
    assert_eq!(listed(&mut session, ", 1, 2"), all[1..3]);
    assert_eq!(listed(&mut session, ", skip => 3"), all[3..]);
    assert_eq!(listed(&mut session, ", \"limit\" => NULL"), all);
    assert_eq!(listed(&mut session, ", \"limit\" => 0"), [""; 0]);
    let rows: i64 = session.value(
        "SELECT count(*) FROM credits.list_holds($1) l JOIN credits.holds h USING (source_id)
         WHERE l::text = (h.*)::text",
        &[&user(1)],
    );
    assert_eq!(rows, 4, "a row of the list is the row of the table");
    // The 50 next, unless asked for more.
    let user_id = user(3);
    session.run(&format!(
        "INSERT INTO credits.holds (source_id, user_id, amount, expires_at)
         SELECT 'many-' || n, '{user_id}', 1, now() + n * interval '1 minute' FROM generate_series(1, 60) n"
    ));
    let shown: i64 = session.value("SELECT count(*) FROM credits.list_holds($1)", &[&user_id]);
    assert_eq!(shown, 50);
}

#[test]
fn what_is_asked_wrongly_is_refused_by_name() {
    let db = Database::create();
    let mut session = db.connect();
    let user = format!("'{}'", user(1));
    for (call, sqlstate, message) in [
        ("get_available_balance(NULL)", "22004", "argument user_id must not be NULL"),
        ("get_available_balances_bulk(NULL)", "22004", "argument user_ids must not be NULL"),
        ("get_available_balances_bulk('{NULL}')", "22004", "argument user_ids must not contain NULL"),
        ("visible_held(NULL)", "22004", "argument user_id must not be NULL"),
        ("list_holds(NULL)", "22004", "argument user_id must not be NULL"),
        ("list_holds({user}, NULL)", "22004", "argument skip must not be NULL"),
        ("list_holds({user}, -1)", "22023", "argument skip must not be negative, but is -1"),
        ("list_holds({user}, 0, -2)", "22023", "argument limit must not be negative, but is -2"),
        ("release_expired_holds(NULL)", "22004", "argument grace must not be NULL"),
        (
            "release_expired_holds('-1 second')",
            "22023",
            "argument grace must not be negative, but is -00:00:01",
        ),
        ("release_expired_holds('1 day', -1)", "22023", "argument limit must not be negative, but is -1"),
        (
            "release_expired_holds('100000 years')",
            "22008",
            "argument grace reaches back further than timestamps do: 100000 years",
        ),
    ] {
        let error = session
            .try_run(&format!("SELECT * FROM credits.{}", call.replace("{user}", &user)))
            .refused(sqlstate);
        assert_eq!(error.message(), message, "{call}");
    }
}

#[test]
fn the_job_removes_what_has_expired_for_longer_than_the_grace() {
    let db = Database::create();
    let mut session = db.connect();
    for (source_id, expires_in) in [
        ("open", "1 hour"),
        ("just now", "-1 second"),
        ("an hour ago", "-1 hour"),
        ("a day ago", "-25 hours"),
        ("two days ago", "-2 days"),
        ("three days ago", "-3 days"),
    ] {
        hold(&mut session, 1, dec!(1), source_id, expires_in);
    }
    let mut release = |arguments: &str| -> (i64, i64) {
        let released = session.value(&format!("SELECT credits.release_expired_holds({arguments})"), &[]);
        (released, session.value("SELECT count(*) FROM credits.holds", &[]))
    };
    assert_eq!(release("\"limit\" => 0"), (0, 6));
    assert_eq!(release("\"limit\" => 1"), (1, 5));
    assert_eq!(release(""), (2, 3), "longer than a day ago");
    assert_eq!(release("'30 minutes', NULL"), (1, 2));
    assert_eq!(release("grace => '0'"), (1, 1));
    assert_eq!(release("grace => '0'"), (0, 1), "an open one stays");
    assert_eq!(listed(&mut session, ""), ["open"]);
    session.run("BEGIN READ ONLY");
    session.try_run("SELECT credits.release_expired_holds()").refused("25006");
    session.run("ROLLBACK");
}

/// Who extends a hold while the job waits for its row keeps it.
#[test]
fn a_hold_that_is_extended_meanwhile_stays() {
    let db = Database::create();
    let mut session = db.connect();
    hold(&mut session, 1, dec!(1), "extended", "-2 days");
    hold(&mut session, 1, dec!(1), "expired", "-2 days");
    session.run(
        "BEGIN; UPDATE credits.holds SET expires_at = now() + interval '1 hour' WHERE source_id = 'extended'",
    );
    let job = db.connect();
    let pid = job.pid();
    let job = job.background(|job| job.value::<i64>("SELECT credits.release_expired_holds()", &[]));
    db.until_blocked(pid);
    session.run("COMMIT");
    let (_, released) = job.finish();
    assert_eq!(released, 1);
    assert_eq!(session.values::<String>("SELECT source_id FROM credits.holds", &[]), ["extended"]);
}

#[test]
fn the_caller_needs_select_on_the_ledger_and_on_holds() {
    let db = Database::create();
    let mut admin = db.connect();
    admin.grant(user(1), dec!(10));
    hold(&mut admin, 1, dec!(4), "a", "1 hour");
    hold(&mut admin, 1, dec!(4), "expired", "-2 days");
    let role = db.create_role("reader");
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role};
         GRANT SELECT ON credits.balances TO {role}"
    ));
    let mut reader = db.connect_as(&role);
    let id = user(1);
    let calls = [
        format!("get_available_balance('{id}')"),
        format!("get_available_balances_bulk(ARRAY['{id}']::uuid[])"),
    ];
    let try_all = |reader: &mut Session, grants: &[&str], allowed: bool| {
        for call in &calls {
            let answer = reader.try_run(&format!("SELECT * FROM credits.{call}"));
            if allowed {
                answer.unwrap_or_else(|error| panic!("{call} with {grants:?}: {error:?}"));
            } else {
                answer.refused("42501");
            }
        }
    };
    for (grants, allowed) in [
        (&[][..], false),
        (&["SELECT ON credits.credits_transactions"], false),
        (&["SELECT ON credits.holds"], false),
        (&["SELECT ON credits.credits_transactions", "SELECT (user_id, amount) ON credits.holds"], false),
        (
            &[
                "SELECT ON credits.credits_transactions",
                "SELECT (user_id, amount, expires_at) ON credits.holds",
            ],
            true,
        ),
        (&["SELECT ON credits.credits_transactions", "SELECT ON credits.holds"], true),
    ] {
        grants.iter().for_each(|grant| admin.run(&format!("GRANT {grant} TO {role}")));
        try_all(&mut reader, grants, allowed);
        admin.run(&format!("REVOKE ALL ON credits.credits_transactions, credits.holds FROM {role}"));
    }
    // The columns that the view had before can be read as before.
    admin.run(&format!("GRANT SELECT ON credits.credits_transactions TO {role}"));
    let balance: Decimal = reader.value("SELECT balance FROM credits.balances WHERE user_id = $1", &[&id]);
    assert_eq!(balance, dec!(10));
    reader.run("SELECT user_id, balance, is_positive, crossed_at FROM credits.balances");
    for column in ["held", "available", "*"] {
        let error = reader.try_run(&format!("SELECT {column} FROM credits.balances")).refused("42501");
        assert_eq!(error.message(), "permission denied for table holds", "{column}");
    }
    let error = reader.try_run(&format!("SELECT * FROM credits.list_holds('{id}')")).refused("42501");
    assert_eq!(error.message(), "permission denied for table holds");
    admin.run(&format!("GRANT SELECT ON credits.holds TO {role}"));
    reader.try_run("SELECT credits.release_expired_holds()").refused("42501");
    admin.run(&format!("GRANT DELETE ON credits.holds TO {role}"));
    assert_eq!(reader.value::<i64>("SELECT credits.release_expired_holds()", &[]), 1);
    admin.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// Policies of the ledger hide rows from the balance, those of holds from what is held, each by itself.
#[test]
fn row_level_security_of_each_table_is_the_callers() {
    let db = Database::create();
    let mut admin = db.connect();
    let role = db.create_role("tenant");
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role};
         GRANT SELECT ON credits.balances, credits.credits_transactions TO {role}; GRANT SELECT, DELETE ON credits.holds TO {role}"
    ));
    for number in [1, 2] {
        admin.grant(user(number), dec!(10));
        hold(&mut admin, number, dec!(4), &format!("hold-{number}"), "1 hour");
        hold(&mut admin, number, dec!(4), &format!("expired-{number}"), "-2 days");
    }
    let users = [user(1), user(2)];
    let mut tenant = db.connect_as(&role);
    let policy = |table: &str| {
        format!(
            "ALTER TABLE credits.{table} ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON credits.{table} TO {role} USING (user_id = '{}')",
            user(1)
        )
    };
    let line = |number: u32, balance: Decimal, held: Decimal| (user(number), balance, held, balance - held);
    let (ten, four, zero) = (dec!(10), dec!(4), Decimal::ZERO);
    let assert_seen = |tenant: &mut Session, balance: Decimal, held: Decimal| {
        assert_eq!(lines(tenant, BULK, &users), [line(1, ten, four), line(2, balance, held)]);
        assert_eq!(available(tenant, 2), balance - held);
        let mut seen = vec![line(1, ten, four)];
        seen.extend((balance > zero).then(|| line(2, balance, held)));
        assert_eq!(lines(tenant, VIEW, &users), seen);
    };
    assert_seen(&mut tenant, ten, four);
    admin.run(&policy("holds"));
    assert_seen(&mut tenant, ten, zero);
    admin.run(&policy("credits_transactions"));
    assert_seen(&mut tenant, zero, zero);
    admin.run("DROP POLICY own ON credits.holds; ALTER TABLE credits.holds DISABLE ROW LEVEL SECURITY");
    assert_seen(&mut tenant, zero, four);
    admin.run(&policy("holds"));
    let listed: Vec<String> = tenant.values("SELECT source_id FROM credits.list_holds($1)", &[&user(2)]);
    assert_eq!(listed, [""; 0]);
    assert_eq!(tenant.value::<i64>("SELECT credits.release_expired_holds()", &[]), 1, "its own");
    assert_eq!(
        lines(&mut admin, VIEW, &users),
        [line(1, ten, four), line(2, ten, four)],
        "the owner sees all"
    );
    admin.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// Whatever has happened, all ways to ask answer what plain SQL does.
#[test]
fn every_answer_is_that_of_plain_sql() {
    let db = Database::create();
    let mut session = db.connect();
    let mut random = StdRng::seed_from_u64(seed());
    let users: Vec<Uuid> = (0..4).map(user).collect();
    for step in 0..300 {
        let id = user(random.random_range(0..4));
        let amount = Decimal::new(random.random_range(1..10_000_000), random.random_range(0..15));
        let minutes: i64 = random.random_range(-3..4);
        let statement = match random.random_range(0..8) {
            0 => format!("SELECT credits.create_transaction('{id}', 'purchase', {amount}, 'bought-{step}')"),
            1 => format!("SELECT credits.create_transaction('{id}', 'usage', {amount}, 'used-{step}')"),
            2..=4 => format!(
                "INSERT INTO credits.holds (source_id, user_id, amount, expires_at)
                 VALUES ('hold-{step}', '{id}', {amount}, clock_timestamp() + {minutes} * interval '1 minute')"
            ),
            5 => format!(
                "UPDATE credits.holds SET expires_at = clock_timestamp() + {minutes} * interval '1 minute'
                 WHERE source_id = (SELECT min(source_id) FROM credits.holds WHERE user_id = '{id}')"
            ),
            6 => format!(
                "DELETE FROM credits.holds WHERE source_id = (SELECT max(source_id) FROM credits.holds WHERE user_id = '{id}')"
            ),
            _ => format!("SELECT credits.refresh_checkpoint('{id}'), credits.release_expired_holds('1 minute', 2)"),
        };
        if step % 5 == 4 {
            session.run(&format!("BEGIN; {statement}; ROLLBACK"));
        } else {
            session.run(&statement);
        }
        let expected = lines(&mut session, PLAIN, &users);
        assert_eq!(lines(&mut session, BULK, &users), expected, "step {step}: {statement}");
        for line in &expected {
            let available: Decimal = session.value("SELECT credits.get_available_balance($1)", &[&line.0]);
            assert_eq!(available, line.3, "step {step}: {statement}");
        }
        let with_rows: Vec<Line> = lines(&mut session, VIEW, &users);
        assert!(
            with_rows.iter().all(|line| expected.contains(line)),
            "step {step}: {statement}: {with_rows:?}"
        );
    }
}

/// Without its index, or with one that is not valid, held sums are read by a query.
#[test]
fn the_index_of_holds_may_be_missing() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    hold(&mut session, 1, dec!(4), "a", "1 hour");
    assert_eq!(available(&mut session, 1), dec!(6));
    session.run(&credits_ledger_tests::unguarded("DROP INDEX credits.holds_user_idx"));
    assert_eq!(available(&mut session, 1), dec!(6));
    assert_eq!(listed(&mut session, ""), ["a"]);
    session.run("CREATE INDEX holds_user_idx ON credits.holds (user_id, expires_at)");
    assert_eq!(available(&mut session, 1), dec!(6));
    session
        .run("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'credits.holds_user_idx'::regclass");
    assert_eq!(available(&mut session, 1), dec!(6));
}

/// Holds that have expired, or are gone and vacuumed, cost the sum of the open ones nothing.
#[test]
fn what_is_not_open_is_not_read() {
    let db = Database::create_alone();
    let mut session = db.connect();
    let insert = |count: u32, kind: &str, from: &str| {
        format!(
            "INSERT INTO credits.holds (source_id, user_id, amount, expires_at)
             SELECT '{kind}-' || n, '{}', 1, now() + {from} + n * interval '1 millisecond' FROM generate_series(1, {count}) n",
            user(1)
        )
    };
    session.run(&insert(20_000, "expired", "interval '-2 hours'"));
    // Before and behind the open ones.
    session.run(&insert(10_000, "gone", "interval '1 minute'"));
    session.run(&insert(1_000, "open", "interval '1 hour'"));
    session.run(&insert(10_000, "gone later", "interval '2 hours'"));
    session.run("DELETE FROM credits.holds WHERE source_id LIKE 'gone%'");
    session.run("VACUUM credits.holds");
    assert_eq!(available(&mut session, 1), dec!(-1000));
    // Within a transaction, for the counters start again at the end of one.
    session.run("BEGIN");
    let pages = "SELECT sum(pg_stat_get_xact_blocks_fetched(oid))::bigint FROM pg_class
                 WHERE oid IN ('credits.holds'::regclass, 'credits.holds_user_idx'::regclass)";
    let before: i64 = session.value(pages, &[]);
    assert_eq!(available(&mut session, 1), dec!(-1000));
    let read: i64 = session.value::<i64>(pages, &[]) - before;
    session.run("COMMIT");
    // A visit for each row, as the server counts it, and some pages of the index.
    assert!(read < 1_100, "{read} pages for 1,000 open holds");
}
