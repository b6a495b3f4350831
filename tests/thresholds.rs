//! Thresholds: balances besides zero whose crossing is announced.

use credits_ledger_tests::listener::CONFIG_CHANNEL;
use credits_ledger_tests::{Database, Decimal, Direction, Listener, Session, dec, user};

use Direction::{Down, Up};

/// Gives user 1 these thresholds.
fn set(session: &mut Session, thresholds: &str) {
    set_limits(session, "0", thresholds);
}

fn set_limits(session: &mut Session, limit: &str, thresholds: &str) {
    session.run(&format!(
        "INSERT INTO credits.spending_limits (user_id, overdraft_limit, thresholds) VALUES ('{}', {limit}, '{thresholds}')
         ON CONFLICT (user_id) DO UPDATE SET overdraft_limit = EXCLUDED.overdraft_limit, thresholds = EXCLUDED.thresholds",
        user(1)
    ));
}

/// A database where user 1 has this balance, and then got these thresholds.
fn database_with(balance: Decimal, thresholds: &str) -> (Database, Session, Listener) {
    let db = Database::create_alone();
    let mut session = db.connect();
    session.run("SET lock_timeout = '50s'");
    change(&mut session, balance);
    set(&mut session, thresholds);
    let listener = db.listen();
    (db, session, listener)
}

/// Changes the balance of user 1.
fn change(session: &mut Session, by: Decimal) {
    let kind = if by > Decimal::ZERO { "admin_grant" } else { "usage" };
    session.insert(user(1), kind, by.abs()).unwrap();
}

/// What was heard of user 1 since the last look.
fn heard(listener: &mut Listener) -> Vec<(Direction, String)> {
    let crossings = listener.boundaries().into_iter();
    crossings
        .map(|(of, direction, boundary)| (of == user(1)).then_some((direction, boundary)).unwrap())
        .collect()
}

fn expected(direction: Direction, boundaries: &[&str]) -> Vec<(Direction, String)> {
    boundaries.iter().map(|&boundary| (direction, boundary.to_owned())).collect()
}

/// The view: each boundary with its side, and whether it was ever crossed.
fn sides(session: &mut Session) -> Vec<String> {
    session.values(
        "SELECT format('%s %s %s', trim_scale(threshold), CASE WHEN is_above THEN 'above' ELSE 'below' END,
                       CASE WHEN crossed_at > now() - '1 hour'::interval THEN 'crossed' WHEN crossed_at IS NULL THEN 'never' END)
         FROM credits.thresholds WHERE user_id = $1 ORDER BY threshold",
        &[&user(1)],
    )
}

#[test]
fn a_threshold_is_announced_both_ways() {
    let (_db, mut session, mut listener) = database_with(dec!(10), "{5.50}");
    change(&mut session, dec!(-4.4));
    assert_eq!(heard(&mut listener), []);
    // At the threshold is not above it.
    change(&mut session, dec!(-0.1));
    assert_eq!(heard(&mut listener), expected(Down, &["5.5"]));
    change(&mut session, dec!(-2));
    assert_eq!(heard(&mut listener), []);
    change(&mut session, dec!(2.000000000000001));
    let notifications = listener.drain();
    assert_eq!(notifications.len(), 1, "{notifications:?}");
    assert_eq!(
        notifications[0].payload,
        format!("{{\"user_id\":\"{}\",\"direction\":\"up\",\"threshold\":\"5.5\"}}", user(1))
    );
    session.assert_sound();
}

#[test]
fn several_are_crossed_at_once() {
    let (_db, mut session, mut listener) = database_with(dec!(100), "{-20,50,7.25,1000,-3}");
    change(&mut session, dec!(-110));
    assert_eq!(heard(&mut listener), expected(Down, &["50", "7.25", "0", "-3"]));
    assert_eq!(
        sides(&mut session),
        [
            "-20 above never",
            "-3 below crossed",
            "0 below crossed",
            "7.25 below crossed",
            "50 below crossed",
            "1000 below never"
        ]
    );
    change(&mut session, dec!(5000));
    assert_eq!(heard(&mut listener), expected(Up, &["-3", "0", "7.25", "50", "1000"]));
    change(&mut session, dec!(-6000));
    assert_eq!(heard(&mut listener), expected(Down, &["1000", "50", "7.25", "0", "-3", "-20"]));
    session.assert_sound();
}

/// The channel for the application's caches is for zero.
#[test]
fn a_threshold_does_not_wake_the_caches() {
    let (_db, mut session, mut listener) = database_with(dec!(10), "{5}");
    change(&mut session, dec!(-6));
    let channels = |listener: &mut Listener| {
        listener.drain().iter().filter(|notification| notification.channel == CONFIG_CHANNEL).count()
    };
    assert_eq!(channels(&mut listener), 0);
    change(&mut session, dec!(-6));
    assert_eq!(channels(&mut listener), 1);
}

/// The side on which the balance is when a threshold is set counts as announced.
#[test]
fn setting_thresholds_announces_nothing() {
    let (_db, mut session, mut listener) = database_with(dec!(10), "{5,20}");
    assert_eq!(heard(&mut listener), []);
    assert_eq!(sides(&mut session), ["0 above crossed", "5 above never", "20 below never"]);
    for thresholds in ["{}", "{9,10,11}", "{12,3}", "{5,20}"] {
        set(&mut session, thresholds);
        assert_eq!(heard(&mut listener), [], "{thresholds}");
    }
    session.run("DELETE FROM credits.spending_limits");
    change(&mut session, dec!(-6));
    assert_eq!(heard(&mut listener), []);
    assert_eq!(sides(&mut session), ["0 above crossed"]);
    // One that is set by the transaction that would cross it.
    session.run("BEGIN");
    change(&mut session, dec!(-2));
    set(&mut session, "{3}");
    session.run("COMMIT");
    assert_eq!(heard(&mut listener), []);
    change(&mut session, dec!(2));
    assert_eq!(heard(&mut listener), expected(Up, &["3"]));
    // One that stays is decided as ever, and so is zero.
    session.run("BEGIN");
    change(&mut session, dec!(-9));
    set(&mut session, "{2,3}");
    session.run("COMMIT");
    assert_eq!(heard(&mut listener), expected(Down, &["3", "0"]));
    session.assert_sound();
}

/// An account without rows gets a checkpoint by it, so that its first row crosses what it should.
#[test]
fn thresholds_may_come_before_the_first_row() {
    let db = Database::create_alone();
    let mut session = db.connect();
    let mut listener = db.listen();
    set(&mut session, "{5,-5}");
    assert_eq!(sides(&mut session), Vec::<String>::new(), "for accounts with a transaction");
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.balances", &[]), 0);
    session.assert_sound();
    change(&mut session, dec!(10));
    assert_eq!(heard(&mut listener), expected(Up, &["0", "5"]));
    change(&mut session, dec!(-20));
    assert_eq!(heard(&mut listener), expected(Down, &["5", "0", "-5"]));
    session.assert_sound();
}
