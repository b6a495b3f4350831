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

/// Transactions of user 1 that are open at once.
fn begin(db: &Database, by: Decimal) -> Session {
    let mut session = db.connect();
    session.run("SET lock_timeout = '50s'; BEGIN");
    change(&mut session, by);
    session
}

/// Neither crosses alone.
#[test]
fn two_that_only_together_cross() {
    for (balance, by, direction) in [(dec!(15), dec!(4), Up), (dec!(27), dec!(-5), Down)] {
        let (db, _session, mut listener) = database_with(balance, "{20,21}");
        let (mut first, mut second) = (begin(&db, by), begin(&db, by));
        first.run("COMMIT");
        assert_eq!(heard(&mut listener), []);
        second.run("COMMIT");
        let boundaries: &[&str] = if direction == Up { &["20", "21"] } else { &["21", "20"] };
        assert_eq!(heard(&mut listener), expected(direction, boundaries));
        second.assert_sound();
    }
}

/// What was published on one level says nothing on the next: the way back up is as near as the way down was.
#[test]
fn a_limit_of_another_level_is_not_used() {
    let (_db, mut session, mut listener) = database_with(dec!(1000), "{500}");
    for _ in 0..3 {
        for _ in 0..4 {
            change(&mut session, dec!(-1));
        }
        change(&mut session, dec!(-496));
        assert_eq!(heard(&mut listener), expected(Down, &["500"]));
        for _ in 0..4 {
            change(&mut session, dec!(-1));
        }
        change(&mut session, dec!(4));
        assert_eq!(heard(&mut listener), []);
        change(&mut session, dec!(1));
        assert_eq!(heard(&mut listener), expected(Up, &["500"]));
        change(&mut session, dec!(499));
    }
    session.assert_sound();
}

/// Nobody uses the headroom that was published before the threshold was set.
#[test]
fn headroom_ends_when_a_threshold_is_set() {
    let (db, mut session, mut listener) = database_with(dec!(1000), "{}");
    change(&mut session, dec!(-1));
    let mut owner = db.connect();
    set(&mut owner, "{900}");
    change(&mut session, dec!(-99));
    assert_eq!(heard(&mut listener), expected(Down, &["900"]));
    set(&mut owner, "{900,1100}");
    change(&mut session, dec!(201));
    assert_eq!(heard(&mut listener), expected(Up, &["900", "1100"]));
    session.assert_sound();
}

/// A change of boundaries that rolls back changes nothing, and a savepoint that does leaves what it has been given.
#[test]
fn thresholds_roll_back() {
    let (_db, mut session, mut listener) = database_with(dec!(10), "{5}");
    session.run("BEGIN");
    set(&mut session, "{8}");
    session.run("ROLLBACK; BEGIN; SAVEPOINT s");
    set(&mut session, "{7}");
    session.run("ROLLBACK TO s; COMMIT");
    change(&mut session, dec!(-6));
    assert_eq!(heard(&mut listener), expected(Down, &["5"]));
    session.assert_sound();
}

/// The one that sets a threshold waits for a commit that has counted under the old boundaries, and decides after it.
#[test]
fn a_threshold_is_set_beside_a_commit() {
    for (held_by, silent) in [(dec!(-6), "below"), (dec!(-2), "above")] {
        let (db, mut session, mut listener) = database_with(dec!(10), "{}");
        change(&mut session, dec!(1));
        change(&mut session, dec!(-1));
        let held = db.hold_commit(begin(&db, held_by));
        let setting = db.connect();
        let pid = setting.pid();
        let setting = setting.background(|session| set(session, "{5}"));
        db.until_blocked(pid);
        held.release();
        let _ = setting.finish();
        assert_eq!(heard(&mut listener), [], "the side at its commit counts as announced");
        assert!(sides(&mut session).contains(&format!("5 {silent} never")));
        let by = if silent == "below" { dec!(6) } else { dec!(-6) };
        change(&mut session, by);
        assert_eq!(heard(&mut listener), expected(if silent == "below" { Up } else { Down }, &["5"]));
        session.assert_sound();
    }
}

/// It waits for the commit that sets the threshold, and then looks again.
#[test]
fn a_commit_beside_one_that_sets_a_threshold() {
    let (db, mut session, mut listener) = database_with(dec!(10), "{}");
    change(&mut session, dec!(1));
    change(&mut session, dec!(-1));
    let charging = begin(&db, dec!(-6));
    let mut setting = db.connect();
    setting.run("SET lock_timeout = '50s'; BEGIN");
    set(&mut setting, "{5}");
    let held = db.hold_commit(setting);
    let pid = charging.pid();
    let charging = charging.background(|session| session.run("COMMIT"));
    db.until_blocked(pid);
    held.release();
    let _ = charging.finish();
    assert_eq!(heard(&mut listener), expected(Down, &["5"]));
    session.assert_sound();
}

#[test]
fn thresholds_that_are_changed_cannot_be_prepared() {
    let (_db, mut session, mut listener) = database_with(dec!(10), "{5}");
    for statement in [
        "UPDATE credits.spending_limits SET thresholds = '{7}'",
        "DELETE FROM credits.spending_limits",
        "TRUNCATE credits.spending_limits",
        "UPDATE credits.spending_limits SET overdraft_limit = 1",
    ] {
        session.run("BEGIN");
        session.run(statement);
        let error = session.try_run("PREPARE TRANSACTION 'thresholds_changed'").unwrap_err();
        assert_eq!(error.code().unwrap().code(), "0A000", "{statement}");
        session.run("ROLLBACK");
    }
    change(&mut session, dec!(-6));
    assert_eq!(heard(&mut listener), expected(Down, &["5"]));
}

/// As a crossing of zero is.
#[test]
fn a_crossing_by_commit_prepared_is_announced_by_the_next_settlement() {
    let (db, mut session, mut listener) = database_with(dec!(10), "{5}");
    let gid = format!("'{}'", db.name());
    let mut preparing = begin(&db, dec!(-6));
    preparing.run(&format!("PREPARE TRANSACTION {gid}"));
    preparing.run(&format!("COMMIT PREPARED {gid}"));
    assert_eq!(heard(&mut listener), []);
    session.refresh(user(1));
    assert_eq!(heard(&mut listener), expected(Down, &["5"]));
    session.assert_sound();
}

/// What was announced of a threshold survives its checkpoint, whichever way that goes.
#[test]
fn a_deleted_checkpoint_keeps_what_was_announced() {
    for deletion in [
        "DELETE FROM credits.user_balance_checkpoints",
        "TRUNCATE credits.user_balance_checkpoints",
        "UPDATE credits.user_balance_checkpoints SET user_id = gen_random_uuid(); DELETE FROM credits.user_balance_checkpoints",
    ] {
        let (db, mut session, mut listener) = database_with(dec!(10), "{-5,5,20}");
        change(&mut session, dec!(-6));
        heard(&mut listener);
        let before = sides(&mut session);
        session.run(&format!("BEGIN; {deletion}; COMMIT"));
        assert_eq!(heard(&mut listener), [], "{deletion}");
        assert_eq!(sides(&mut session), before, "{deletion}");
        // A crossing that nobody has announced is by the commit that makes the checkpoint anew.
        let gid = format!("'{}'", db.name());
        let mut preparing = begin(&db, dec!(30));
        preparing.run(&format!("PREPARE TRANSACTION {gid}"));
        preparing.run(&format!("COMMIT PREPARED {gid}"));
        session.run("DELETE FROM credits.user_balance_checkpoints");
        assert_eq!(heard(&mut listener), expected(Up, &["5", "20"]), "{deletion}");
        session.assert_sound();
    }
}

#[test]
fn truncating_limits_takes_all_thresholds_away() {
    let (_db, mut session, mut listener) = database_with(dec!(10), "{5}");
    session.run("TRUNCATE credits.spending_limits");
    assert_eq!(sides(&mut session), ["0 above crossed"]);
    change(&mut session, dec!(-6));
    assert_eq!(heard(&mut listener), []);
    session.assert_sound();
}

/// A row that becomes another account's takes its boundaries along.
#[test]
fn limits_may_be_given_to_another_account() {
    let (_db, mut session, mut listener) = database_with(dec!(10), "{5}");
    session.grant(user(2), dec!(10));
    session.run(&format!("UPDATE credits.spending_limits SET user_id = '{}'", user(2)));
    listener.drain();
    change(&mut session, dec!(-6));
    session.charge(user(2), dec!(6));
    assert_eq!(listener.boundaries(), [(user(2), Down, "5".to_owned())]);
}

/// A limit goes into the checkpoint with the thresholds, and refreshes keep both.
#[test]
fn a_checkpoint_keeps_the_boundaries() {
    let (_db, mut session, _listener) = database_with(dec!(10), "{}");
    let mut kept = |limit: &str, thresholds: &str| {
        set_limits(&mut session, limit, thresholds);
        session.charge(user(1), dec!(0.001));
        session.refresh(user(1));
        session.value::<String>(
            "SELECT concat_ws(' ', coalesce(overdraft_limit::text, '-'), coalesce(thresholds::text, '-'),
                              coalesce(thresholds_below::text, '-'), coalesce(thresholds_crossed_at::text, '-'))
             FROM credits.user_balance_checkpoints WHERE user_id = $1",
            &[&user(1)],
        )
    };
    assert_eq!(kept("0", "{}"), "- - - -");
    assert_eq!(kept("7.5", "{}"), "7.5 - - -");
    assert_eq!(kept("NULL", "{20,5,-1}"), "Infinity {-1,5,20} 2 {NULL,NULL,NULL}");
    assert_eq!(kept("0", "{5}"), "- {5} 1 {NULL}");
    assert_eq!(kept("0", "{}"), "- - - -");
}
