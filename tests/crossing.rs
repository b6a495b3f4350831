//! A crossing of zero is notified once, on commit, in both directions.

use credits_ledger_tests::listener::{CONFIG_CHANNEL, CROSSING_CHANNEL, crossing};
use credits_ledger_tests::{Database, Direction, Refused, dec, user};

use Direction::{Down, Up};

#[test]
fn payloads_are_exact() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    for (amount, direction) in [(dec!(1), "up"), (dec!(-1), "down")] {
        let before: i64 = session.value(now, &[]);
        session.insert(user(1), if direction == "up" { "purchase" } else { "usage" }, amount.abs()).unwrap();
        let after: i64 = session.value(now, &[]);

        let notifications = listener.drain();
        assert_eq!(notifications.len(), 2, "{notifications:?}");
        assert!(notifications.iter().all(|n| n.pid == session.pid()));
        let on = |channel: &str| {
            let mut payloads =
                notifications.iter().filter(|n| n.channel == channel).map(|n| n.payload.as_str());
            payloads.next().unwrap_or_else(|| panic!("nothing on {channel}"))
        };
        let expected = format!("{{\"user_id\":\"{}\",\"direction\":\"{direction}\"}}", user(1));
        assert_eq!(on(CROSSING_CHANNEL), expected);
        let sent = on(CONFIG_CHANNEL)
            .strip_prefix("credits_transactions:")
            .expect("the payload begins with the table");
        assert!(
            !sent.starts_with('+') && (before..=after).contains(&sent.parse().unwrap()),
            "{before} {sent} {after}"
        );
    }
}

#[test]
fn only_a_change_of_side_is_notified() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    for (kind, amount, expected) in [
        // A new user without credit has not crossed anything.
        ("usage", dec!(5), None),
        // Exactly zero is not positive.
        ("purchase", dec!(5), None),
        ("purchase", dec!(0.000000000000001), Some(Up)),
        ("admin_grant", dec!(10), None),
        ("usage", dec!(10), None),
        ("admin_removal", dec!(0.000000000000001), Some(Down)),
        ("usage", dec!(3), None),
        ("admin_grant", dec!(3), None),
        ("admin_grant", dec!(3), Some(Up)),
        ("usage", dec!(100), Some(Down)),
    ] {
        session.insert(user(1), kind, amount).unwrap();
        let expected: Vec<_> = expected.map(|direction| (user(1), direction)).into_iter().collect();
        assert_eq!(listener.crossings(), expected, "after {kind} of {amount}");
    }
    session.assert_sound();
}

#[test]
fn a_first_credit_is_a_crossing_up() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    session.grant(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Up)]);
    // Spent within the transaction that brought it: the user was never seen above zero.
    session.run("BEGIN");
    session.grant(user(2), dec!(1));
    session.charge(user(2), dec!(1));
    session.run("COMMIT");
    assert_eq!(listener.drain(), []);
}

#[test]
fn there_and_back_in_one_transaction_is_none() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    session.charge(user(2), dec!(10));
    let mut listener = db.listen();
    session.run("BEGIN");
    session.charge(user(1), dec!(20));
    session.grant(user(2), dec!(20));
    session.grant(user(1), dec!(20));
    session.charge(user(2), dec!(20));
    session.run("COMMIT");
    assert_eq!(listener.drain(), []);
    session.assert_sound();
}

#[test]
fn many_users_in_one_transaction() {
    let db = Database::create();
    let mut session = db.connect();
    for number in 0..50 {
        session.grant(user(number), dec!(10));
        session.charge(user(100 + number), dec!(10));
    }
    let mut listener = db.listen();
    session.run("BEGIN");
    for number in (0..50).rev() {
        session.charge(user(number), dec!(10));
        session.grant(user(100 + number), dec!(10.5));
    }
    session.run("COMMIT");
    let heard = listener.drain();
    let (crossed, told): (Vec<_>, Vec<_>) =
        heard.iter().partition(|notification| notification.channel == CROSSING_CHANNEL);
    // Once of all of them.
    assert_eq!(told.len(), 1, "{told:?}");
    let mut crossings: Vec<_> = crossed.iter().map(|notification| crossing(&notification.payload)).collect();
    crossings.sort_by_key(|(user, _)| *user);
    let expected: Vec<_> = (0..50)
        .map(|number| (user(number), Down))
        .chain((0..50).map(|number| (user(100 + number), Up)))
        .collect();
    assert_eq!(crossings, expected);
    session.assert_sound();
}

#[test]
fn what_is_rolled_back_is_not_notified() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    let mut listener = db.listen();
    session.run("BEGIN");
    session.charge(user(1), dec!(20));
    session.run("ROLLBACK");
    assert_eq!(listener.drain(), []);

    session.run("BEGIN; SAVEPOINT s");
    session.charge(user(1), dec!(20));
    session.grant(user(2), dec!(20));
    session.run("ROLLBACK TO s; COMMIT");
    assert_eq!(listener.drain(), []);

    session.run("BEGIN");
    session.charge(user(1), dec!(4));
    session.run("SAVEPOINT s");
    session.charge(user(1), dec!(20));
    session.run("ROLLBACK TO s");
    session.charge(user(1), dec!(4));
    session.run("COMMIT");
    assert_eq!(listener.drain(), []);

    // What a rolled-back savepoint hid is a crossing after all.
    session.run("BEGIN");
    session.charge(user(1), dec!(4));
    session.run("SAVEPOINT s");
    session.grant(user(1), dec!(20));
    session.run("ROLLBACK TO s; COMMIT");
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    session.assert_sound();
}

#[test]
fn every_isolation_level() {
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let db = Database::create();
        let mut session = db.connect();
        let mut listener = db.listen();
        for (change, direction) in [("purchase", Up), ("usage", Down)].into_iter().cycle().take(6) {
            session.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
            session.insert(user(1), change, dec!(10)).unwrap();
            session.run("COMMIT");
            assert_eq!(listener.crossings(), [(user(1), direction)], "{isolation}");
        }
        session.assert_sound();
    }
}

/// What happened after the snapshot of the transaction counts for its crossing.
#[test]
fn an_older_snapshot_does_not_decide() {
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        let db = Database::create();
        let (mut slow, mut quick) = (db.connect(), db.connect());
        quick.grant(user(1), dec!(15));
        let mut listener = db.listen();
        slow.run(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT 1"));
        slow.charge(user(1), dec!(10));
        quick.charge(user(1), dec!(10));
        assert_eq!(listener.drain(), [], "{isolation}");
        slow.run("COMMIT");
        assert_eq!(listener.crossings(), [(user(1), Down)], "{isolation}");
        slow.assert_sound();
    }
}

#[test]
fn the_state_is_read_back_from_the_view() {
    let db = Database::create();
    let mut session = db.connect();
    let state = |session: &mut credits_ledger_tests::Session| -> String {
        session.value("SELECT concat_ws(' ', trim_scale(balance), is_positive, crossed_at IS NOT NULL) FROM credits.balances", &[])
    };
    session.charge(user(1), dec!(1));
    assert_eq!(state(&mut session), "-1 f f");
    session.grant(user(1), dec!(2));
    assert_eq!(state(&mut session), "1 t t");
    let recent = "SELECT crossed_at BETWEEN clock_timestamp() - '1 hour'::interval AND clock_timestamp() FROM credits.balances";
    assert!(session.value::<bool>(recent, &[]));
    let crossed_at = "SELECT crossed_at::text FROM credits.balances";
    let first: String = session.value(crossed_at, &[]);
    session.grant(user(1), dec!(2));
    session.refresh(user(1));
    assert_eq!(session.value::<String>(crossed_at, &[]), first, "no crossing, no new date");
    session.charge(user(1), dec!(3));
    assert_eq!(state(&mut session), "0 f t");
    let later: bool =
        session.value("SELECT crossed_at > $1::text::timestamptz FROM credits.balances", &[&first]);
    assert!(later);
}

#[test]
fn a_channel_is_a_setting() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    listener.session().run("LISTEN mine");
    session.run("SET credits_ledger.config_channel = ''");
    session.grant(user(1), dec!(1));
    let channels = |listener: &mut credits_ledger_tests::Listener| -> Vec<String> {
        listener.drain().into_iter().map(|n| n.channel).collect()
    };
    assert_eq!(channels(&mut listener), [CROSSING_CHANNEL]);
    session.run("SET credits_ledger.crossing_channel = ''");
    session.charge(user(1), dec!(1));
    assert_eq!(channels(&mut listener), [""; 0]);
    session.run("SET credits_ledger.crossing_channel = 'mine'");
    session.grant(user(1), dec!(1));
    assert_eq!(channels(&mut listener), ["mine"]);
    session.run("RESET ALL");
    session.charge(user(1), dec!(1));
    assert_eq!(listener.drain().len(), 2);
    // What NOTIFY would refuse at every commit is refused here.
    let long = "x".repeat(64);
    session.try_run(&format!("SET credits_ledger.crossing_channel = '{long}'")).refused("22023");
}

/// A client must not be able to silence a notification.
#[test]
fn settings_are_the_superusers() {
    let db = Database::create();
    let role = db.create_role("client");
    let mut superuser = db.connect();
    superuser.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT INSERT ON credits.credits_transactions TO {role}"
    ));
    let mut listener = db.listen();
    let settings =
        ["checkpoint_interval", "config_channel", "crossing_channel", "cap_channel", "analytics_table"];
    let mut client = db.connect_as(&role);
    // The library is not loaded yet: the server knows nothing of these settings.
    client.run("SET credits_ledger.config_channel = ''; SET credits_ledger.crossing_channel = 'elsewhere'");
    client.grant(user(1), dec!(1));
    assert_eq!(listener.drain().len(), 2);
    for setting in settings {
        client.try_run(&format!("SET credits_ledger.{setting} = '1'")).refused("42501");
    }
    client.grant(user(2), dec!(1));
    assert_eq!(listener.crossings(), [(user(2), Up)]);

    for malformed in ["a.b.c", "a b", ".", "a.", "\"a"] {
        let set = format!("SET credits_ledger.analytics_table = '{malformed}'");
        superuser.grant(user(3), dec!(1));
        superuser.try_run(&set).refused("22023");
    }
    superuser.run("SET credits_ledger.analytics_table = 'reporting.\"Http Analytics\"'");
    superuser.try_run("SET credits_ledger.checkpoint_interval = '-1'").refused("22023");
}
