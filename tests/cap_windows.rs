//! The windows of spend caps: when they end, and which one a row counts in.

use std::sync::Arc;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::{Database, Listener, Refused, Session, dec, user};

use crate::spend_caps::{heard, set, spend, spend_at, states, with_plenty};

/// A database whose clock is set to this time.
fn database_at(time: &str) -> (Arc<Cluster>, Database, Session, Listener) {
    let cluster = Cluster::start_with_clock("");
    cluster.set_clock(time);
    let (db, session, listener) = with_plenty(Database::create_in(&cluster));
    (cluster, db, session, listener)
}

/// Each period ends when the calendar says so, in UTC whatever the session's zone, and is announced anew in the next one.
#[test]
fn a_window_ends_with_its_period() {
    let (cluster, db, mut session, mut listener) = database_at("2026-12-30 10:00+00");
    set(&mut session, 1, "NULL", "'daily'", dec!(10));
    set(&mut session, 2, "NULL", "'weekly'", dec!(15));
    set(&mut session, 3, "NULL", "'monthly'", dec!(20));
    set(&mut session, 4, "NULL", "NULL", dec!(45));
    let mut elsewhere = db.connect();
    for (time, zone, amount, expected, spent) in [
        ("2026-12-30 23:59:00+00", "UTC", 10, &["1 2026-12-31T00:00:00Z"][..], [10, 10, 10, 10]),
        // Nothing is written at the boundary: the view says so, and the cap is reached anew.
        ("2026-12-31 00:00:00+00", "Asia/Tokyo", 0, &[], [0, 10, 10, 10]),
        ("2026-12-31 00:00:01+00", "America/Los_Angeles", 5, &["2 2027-01-04T00:00:00Z"], [5, 15, 15, 15]),
        (
            "2026-12-31 23:59:00+00",
            "Pacific/Kiritimati",
            5,
            &["1 2027-01-01T00:00:00Z", "3 2027-01-01T00:00:00Z"],
            [10, 20, 20, 20],
        ),
        // The year ends within a week.
        ("2027-01-01 00:00:00+00", "Europe/Berlin", 0, &[], [0, 20, 0, 20]),
        ("2027-01-03 23:59:00+00", "Europe/Berlin", 9, &[], [9, 29, 9, 29]),
        ("2027-01-04 00:00:00+00", "Europe/Berlin", 0, &[], [0, 0, 9, 29]),
        (
            "2027-01-31 23:30:00+00",
            "Europe/Berlin",
            16,
            &["1 2027-02-01T00:00:00Z", "2 2027-02-01T00:00:00Z", "3 2027-02-01T00:00:00Z", "4 null"],
            [16, 16, 25, 45],
        ),
        ("2027-02-01 00:00:00+00", "Europe/Berlin", 0, &[], [0, 0, 0, 45]),
        // Daylight saving time begins and ends.
        ("2027-03-27 23:30:00+00", "Europe/Berlin", 10, &["1 2027-03-28T00:00:00Z"], [10, 10, 10, 55]),
        ("2027-03-28 00:00:00+00", "Europe/Berlin", 1, &[], [1, 11, 11, 56]),
        ("2027-10-30 23:59:00+00", "Europe/Berlin", 10, &["1 2027-10-31T00:00:00Z"], [10, 10, 10, 66]),
        (
            "2027-10-31 23:30:00+00",
            "Europe/Berlin",
            10,
            &["1 2027-11-01T00:00:00Z", "2 2027-11-01T00:00:00Z", "3 2027-11-01T00:00:00Z"],
            [10, 20, 20, 76],
        ),
        ("2028-02-28 23:30:00+00", "UTC", 10, &["1 2028-02-29T00:00:00Z"], [10, 10, 10, 86]),
        (
            "2028-02-29 23:30:00+00",
            "UTC",
            10,
            &["1 2028-03-01T00:00:00Z", "2 2028-03-06T00:00:00Z", "3 2028-03-01T00:00:00Z"],
            [10, 20, 20, 96],
        ),
        ("2028-03-01 00:00:00+00", "UTC", 10, &["1 2028-03-02T00:00:00Z"], [10, 30, 10, 106]),
    ] {
        cluster.set_clock(time);
        session.run(&format!("SET timezone = '{zone}'"));
        elsewhere.run(&format!("SET timezone = '{zone}'"));
        if amount > 0 {
            spend(&mut session, "NULL", amount.into());
        }
        assert_eq!(heard(&mut listener), expected, "{time}");
        let found: Vec<i64> = elsewhere.values(
            "SELECT spent::bigint FROM credits.spend_cap_states WHERE user_id = $1 ORDER BY cap_id",
            &[&user(1)],
        );
        assert_eq!(found, spent, "{time}");
        session.assert_sound();
    }
    let windows: Vec<String> = session.values(
        "SELECT concat_ws(' ', window_start AT TIME ZONE 'UTC', resets_at AT TIME ZONE 'UTC') FROM credits.spend_cap_states ORDER BY cap_id",
        &[],
    );
    assert_eq!(
        windows,
        [
            "2028-03-01 00:00:00 2028-03-02 00:00:00",
            "2028-02-28 00:00:00 2028-03-06 00:00:00",
            "2028-03-01 00:00:00 2028-04-01 00:00:00",
            "2000-01-01 00:00:00"
        ]
    );
}

/// A row counts in the window that it is dated in, and reaches the cap when that has come.
#[test]
fn usage_may_be_dated_otherwise() {
    let (cluster, _db, mut session, mut listener) = database_at("2026-11-30 12:00+00");
    set(&mut session, 1, "NULL", "'daily'", dec!(10));
    spend_at(&mut session, "NULL", dec!(50), "'2026-11-29 23:59:59.999999+00'");
    spend_at(&mut session, "NULL", dec!(9), "'2026-12-01 00:00+00'");
    spend_at(&mut session, "NULL", dec!(5), "'2026-11-30 23:59:59.999999+00'");
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    spend_at(&mut session, "NULL", dec!(5), "'2026-11-30 00:00+00'");
    assert_eq!(heard(&mut listener), ["1 2026-12-01T00:00:00Z"]);
    // While it is reached, the next day fills up unnoticed.
    spend_at(&mut session, "NULL", dec!(0.5), "'2026-12-01 20:00+00'");
    spend(&mut session, "NULL", dec!(3));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    cluster.set_clock("2026-12-01 00:00+00");
    assert_eq!(states(&mut session), ["9.5 of 10, 0.5 left"]);
    spend(&mut session, "NULL", dec!(0.4));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    spend(&mut session, "NULL", dec!(0.1));
    assert_eq!(heard(&mut listener), ["1 2026-12-02T00:00:00Z"]);
    // The day after is full before it has come: whoever commits then announces it, if only on another key.
    spend_at(&mut session, "NULL", dec!(10), "'2026-12-02 12:00+00'");
    spend_at(&mut session, "NULL", dec!(10), "'2026-12-04 12:00+00'");
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    cluster.set_clock("2026-12-02 00:00+00");
    session.grant(user(1), dec!(1));
    assert_eq!(heard(&mut listener), ["1 2026-12-03T00:00:00Z"]);
    cluster.set_clock("2026-12-03 00:00+00");
    session.grant(user(1), dec!(1));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    cluster.set_clock("2026-12-04 00:00+00");
    session.grant(user(1), dec!(1));
    assert_eq!(heard(&mut listener), ["1 2026-12-05T00:00:00Z"]);
    session.assert_sound();
}

/// A clock that goes back over a boundary takes nothing back, and what was announced is not announced again.
#[test]
fn the_clock_may_go_back() {
    let (cluster, _db, mut session, mut listener) = database_at("2026-11-29 23:59+00");
    set(&mut session, 1, "NULL", "'daily'", dec!(10));
    spend(&mut session, "NULL", dec!(4));
    cluster.set_clock("2026-11-30 00:00+00");
    spend(&mut session, "NULL", dec!(10));
    assert_eq!(heard(&mut listener), ["1 2026-12-01T00:00:00Z"]);
    cluster.set_clock("2026-11-29 23:59+00");
    spend(&mut session, "NULL", dec!(1));
    session.refresh(user(1));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    cluster.set_clock("2026-11-30 00:10+00");
    spend(&mut session, "NULL", dec!(1));
    session.refresh(user(1));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
}

/// What was reached in a window that has ended is open. A change of the period begins another window.
#[test]
fn a_period_may_be_changed() {
    let (cluster, _db, mut session, mut listener) = database_at("2026-11-29 12:00+00");
    set(&mut session, 1, "NULL", "'daily'", dec!(10));
    spend(&mut session, "NULL", dec!(10));
    assert_eq!(heard(&mut listener), ["1 2026-11-30T00:00:00Z"]);
    cluster.set_clock("2026-11-30 12:00+00");
    let mut change = |period: &str| {
        session.run(&format!("UPDATE credits.spend_caps SET period = {period}"));
        heard(&mut listener)
    };
    // Open since midnight, so that no change announces it to be.
    assert_eq!(change("'weekly'"), Vec::<String>::new());
    assert_eq!(change("'monthly'"), ["1 2026-12-01T00:00:00Z"]);
    assert_eq!(change("NULL"), ["1 null"]);
    assert_eq!(change("'daily'"), ["1 open"]);
    assert_eq!(change("NULL"), ["1 null"]);
    assert_eq!(change("'monthly'"), ["1 2026-12-01T00:00:00Z"]);
    session.run("DELETE FROM credits.spend_caps");
    assert_eq!(heard(&mut listener), ["1 open"]);
    set(&mut session, 1, "NULL", "'monthly'", dec!(10));
    assert_eq!(heard(&mut listener), ["1 2026-12-01T00:00:00Z"]);
    // One that has expired is open already.
    cluster.set_clock("2026-12-01 12:00+00");
    session.run("UPDATE credits.spend_caps SET amount = 20");
    session.run("DELETE FROM credits.spend_caps");
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    session.assert_sound();
}

/// Also a window that is still to come begins with `since`.
#[test]
fn of_a_cap_that_begins_later_usage_that_is_dated_ahead_is_spent() {
    let (_cluster, _db, mut session, mut listener) = database_at("2026-11-29 12:00+00");
    set(&mut session, 1, "NULL", "'daily'", dec!(10));
    session.run("UPDATE credits.spend_caps SET since = '2026-11-29 18:00+00', is_enforced = true");
    spend(&mut session, "NULL", dec!(20));
    spend_at(&mut session, "NULL", dec!(4), "'2026-11-29 20:00+00'");
    assert_eq!(states(&mut session), ["4 of 10, 6 left"]);
    let mut charge = |amount, source_id| {
        session.try_run(&format!("SELECT credits.charge('{}', {amount}, '{source_id}')", user(1)))
    };
    charge(dec!(6.1), "more").refused("LC002");
    charge(dec!(6), "all").unwrap();
    assert_eq!(states(&mut session), ["4 of 10, 6 left"], "what was charged is dated before");
    spend_at(&mut session, "NULL", dec!(6), "'2026-11-29 20:00+00'");
    assert_eq!(states(&mut session), ["10 of 10, 0 left, reached"]);
    assert_eq!(heard(&mut listener), ["1 2026-11-30T00:00:00Z"]);
    session.assert_sound();
}

/// Of the day on which several caps begin, the rows since the first of them are read, whichever cap comes last.
#[test]
fn caps_that_begin_on_one_day() {
    let db = Database::create_alone();
    let mut session = db.connect();
    for (account, sinces) in [(1, ["03:00", "08:00"]), (2, ["08:00", "03:00"])] {
        session.run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at)
             SELECT '{}', 'usage', 5, '{account} at ' || hour, timestamptz '2026-01-01 00:00+00' + hour * interval '1 hour'
             FROM unnest('{{5, 10}}'::int[]) hour",
            user(account)
        ));
        session.refresh(user(account));
        let cap = |number: u32, since: &str| {
            format!("('{}', '{}', 10, '2026-01-01 {since}+00')", user(100 * account + number), user(account))
        };
        session.run(&format!(
            "INSERT INTO credits.spend_caps (id, user_id, amount, since) VALUES {}, {}",
            cap(1, sinces[0]),
            cap(2, sinces[1])
        ));
    }
    // What was announced is what the rows say.
    session.assert_sound();
    let reached: i64 = session.value("SELECT count(*) FROM credits.spend_cap_states WHERE is_reached", &[]);
    assert_eq!(reached, 2);
}
