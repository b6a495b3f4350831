//! Bad spend caps, each by itself, and caps that are odd and good.

use credits_ledger_tests::listener::CAP_CHANNEL;
use credits_ledger_tests::{Refused, user};

use crate::credit::{NO_AMOUNTS, database, refuse};

/// Lists of keys that are none.
const NO_KEYS: [&str; 7] = [
    "'{}'",
    "'{NULL}'",
    "ARRAY[md5('1')::uuid, NULL]",
    "ARRAY[NULL, md5('1')::uuid]",
    "ARRAY[[md5('1')::uuid], [md5('2')::uuid]]",
    "ARRAY[[md5('1')::uuid]]",
    "ARRAY[[[NULL::uuid]]]",
];

const NO_PERIODS: [&str; 9] = [
    "''",
    "'hourly'",
    "'Daily'",
    "' daily'",
    "'monthly '",
    "'yearly'",
    "'1 day'",
    "'dailyé'",
    "repeat('daily', 100000)",
];

#[test]
fn what_is_no_cap_is_refused() {
    let (_db, mut session) = database();
    session.run(&format!(
        "INSERT INTO credits.spend_caps (id, user_id, api_key_ids, period, amount) VALUES
         (md5('cap')::uuid, '{0}', ARRAY[md5('1')::uuid], 'daily', 50)",
        user(1)
    ));
    let good = [
        ("id", "md5('new')::uuid"),
        ("user_id", "USER"),
        ("api_key_ids", "NULL"),
        ("period", "'daily'"),
        ("amount", "1"),
        ("since", "now()"),
        ("is_enforced", "false"),
    ];
    let mut bad: Vec<(&str, &str, &str)> = Vec::new();
    bad.extend(NO_AMOUNTS.map(|amount| ("amount", amount, "23514")));
    bad.extend(NO_KEYS.map(|keys| ("api_key_ids", keys, "23514")));
    bad.extend(NO_PERIODS.map(|period| ("period", period, "23514")));
    bad.extend(["id", "user_id", "amount", "since", "is_enforced"].map(|column| (column, "NULL", "23502")));
    bad.extend([
        ("api_key_ids", "'{x}'", "22P02"),
        ("api_key_ids", "'x'", "22P02"),
        ("amount", "'one'", "22P02"),
        ("since", "'yesterweek'", "22007"),
        ("since", "'294277-01-01'", "22008"),
        ("is_enforced", "'perhaps'", "22P02"),
        ("user_id", "'1'", "22P02"),
        ("id", "md5('cap')::uuid", "23505"),
    ]);
    let mut statements: Vec<(String, &str)> = Vec::new();
    for (column, value, sqlstate) in bad {
        let values = good.map(|(name, good)| if name == column { value } else { good }).join(", ");
        // Behind one that is good.
        statements.push((
            format!("INSERT INTO credits.spend_caps VALUES (gen_random_uuid(), USER, NULL, NULL, 3, now(), false), ({values})"),
            sqlstate,
        ));
        if sqlstate != "23505" {
            statements.push((format!("UPDATE credits.spend_caps SET {column} = {value}"), sqlstate));
        }
    }
    refuse(&mut session, &statements);
}

/// What a session says when a transaction commits that leaves more than 16 caps, whichever way they came.
#[test]
fn too_many_caps_are_refused_however_they_come() {
    let (db, mut session) = database();
    let caps = |of: u32, count: u32| {
        format!(
            "INSERT INTO credits.spend_caps (user_id, amount) SELECT '{}', n FROM generate_series(1, {count}) n",
            user(of)
        )
    };
    session.try_run(&caps(1, 17)).refused("54000");
    session.run(&caps(1, 16));
    session.run(&caps(2, 1));
    session.try_run(&caps(1, 1)).refused("54000");
    session.try_run(&format!("UPDATE credits.spend_caps SET user_id = '{}'", user(1))).refused("54000");
    session.run(&format!("BEGIN; {}; DELETE FROM credits.spend_caps WHERE amount > 8; COMMIT", caps(1, 17)));
    session.run("BEGIN; DELETE FROM credits.spend_caps");
    session.run(&caps(1, 17));
    session.try_run("COMMIT").refused("54000");
    // A savepoint that is rolled back has set none.
    session.run(&format!("BEGIN; SAVEPOINT s; {}; ROLLBACK TO s; COMMIT", caps(1, 17)));
    session.assert_sound();
    drop(db);
}

/// In whatever form the server reads them, caps count what they say.
#[test]
fn odd_caps_are_what_they_say() {
    let (db, mut session) = database();
    let mut listener = db.listen();
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, api_key_id)
         SELECT '{}', 'usage', 0.5, 'odd-' || n, md5((n % 3)::text)::uuid FROM generate_series(1, 6) n",
        user(1)
    ));
    for (keys, period, amount, since, expected) in [
        ("NULL", "NULL", "1e-15", "'-infinity'", "3 reached"),
        ("NULL", "NULL", "9999999999999.999999999999999", "'-infinity'", "3"),
        ("NULL", "NULL", "3.000000000000000", "'4713-01-01 00:00+00 BC'", "3 reached"),
        ("NULL", "'daily'", "2", "'infinity'", "0"),
        ("NULL", "NULL", "2", "'infinity'", "0"),
        ("NULL", "'monthly'", "2", "'294276-12-31 23:59:59+00'", "0"),
        ("NULL", "'monthly'", "3", "'4713-01-01 00:00+00 BC'", "3 reached"),
        ("ARRAY[md5('1')::uuid, md5('1')::uuid]", "NULL", "1.5", "'-infinity'", "1"),
        (
            "('[7:8]={' || md5('1')::uuid || ',' || md5('2')::uuid || '}')::uuid[]",
            "NULL",
            "2",
            "'-infinity'",
            "2 reached",
        ),
        ("'{00000000-0000-0000-0000-000000000000}'", "NULL", "1", "'-infinity'", "0"),
        // So many that the row is not stored in one piece.
        (
            "(SELECT array_agg(md5(n::text)::uuid) FROM generate_series(2, 10000) n)",
            "'weekly'",
            "1",
            "'-infinity'",
            "1 reached",
        ),
    ] {
        session.run(&format!(
            "INSERT INTO credits.spend_caps VALUES (md5('odd')::uuid, '{}', {keys}, {period}, {amount}, {since}, true)",
            user(1)
        ));
        let found: String = session.value(
            "SELECT concat_ws(' ', trim_scale(spent), CASE WHEN is_reached THEN 'reached' END) FROM credits.spend_cap_states",
            &[],
        );
        assert_eq!(found, expected, "{keys}, {period}, {amount}, {since}");
        let states = |state: &str, heard: &[credits_ledger_tests::Notification]| {
            let says = |payload: &str| payload.contains(&format!("\"state\":\"{state}\""));
            heard.iter().filter(|heard| heard.channel == CAP_CHANNEL && says(&heard.payload)).count()
        };
        let is_reached = expected.ends_with("reached");
        assert_eq!(
            states("reached", &listener.drain()),
            usize::from(is_reached),
            "{keys}, {period}, {amount}, {since}"
        );
        // Enforced for holds with the last key: refused where it is reached, and by nothing else.
        let held = session.try_run(&format!(
            "BEGIN; SELECT credits.create_hold('{}', 0.000000000000001, 'odd', api_key_id => md5('2')::uuid); ROLLBACK",
            user(1)
        ));
        if is_reached {
            held.refused("LC002");
            session.run("ROLLBACK");
        } else {
            held.expect("the cap leaves enough");
        }
        session.assert_sound();
        session.run("DELETE FROM credits.spend_caps");
        assert_eq!(
            states("open", &listener.drain()),
            usize::from(is_reached),
            "{keys}, {period}, {amount}, {since}"
        );
        session.assert_sound();
    }
}
