//! What users can spend before anybody needs to look at their balance.

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::{Database, Direction, Refused, Session, dec, stripe_of, user};

use Direction::{Down, Up};

/// Does something while no session can read a checkpoint.
fn without_checkpoints(keeper: &mut Session, work: impl FnOnce()) {
    keeper.run("BEGIN; LOCK TABLE credits.user_balance_checkpoints IN ACCESS EXCLUSIVE MODE");
    work();
    keeper.run("COMMIT");
}

/// User 1 has 100 credits, and the last settlement has published the headroom.
fn tell(session: &mut Session) {
    session.grant(user(1), dec!(100));
    session.grant(user(1), dec!(1));
    session.charge(user(1), dec!(1));
}

#[test]
fn charges_far_from_zero_read_nothing() {
    let db = Database::create_alone();
    let [mut keeper, mut first, mut second] = db.connect_settled();
    tell(&mut first);
    without_checkpoints(&mut keeper, || {
        for _ in 0..20 {
            second.charge(user(1), dec!(1));
            first.charge(user(1), dec!(1));
            second.grant(user(1), dec!(5));
        }
    });
    assert_eq!(first.balance(user(1)), dec!(160));
    first.assert_sound();
}

/// Where no headroom is published, a call reads what others have committed, and not what its transaction has recorded.
#[test]
fn charges_of_a_transaction_do_not_read_each_other() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(1000));
    // A limit that the transaction changes has nobody use what was published.
    session.run(&format!("BEGIN; INSERT INTO credits.spending_limits (user_id) VALUES ('{}')", user(1)));
    let fetched = "SELECT idx_tup_fetch FROM pg_stat_xact_all_tables
                   WHERE relid = 'credits.credits_transactions'::regclass";
    let before: i64 = session.value(fetched, &[]);
    for call in ["charge", "create_hold"] {
        session.run(&format!(
            "DO $$ BEGIN FOR i IN 1..200 LOOP PERFORM credits.{call}('{}', 0.01, '{call} ' || i); END LOOP; END $$",
            user(1)
        ));
    }
    let fetched: i64 = session.value::<i64>(fetched, &[]) - before;
    assert!(fetched < 400 * 3, "{fetched}");
    // What it has recorded is taken away all the same.
    let rest = |session: &mut Session, amount| {
        session.try_run(&format!("SAVEPOINT s; SELECT credits.charge('{}', {amount}, 'rest')", user(1)))
    };
    rest(&mut session, dec!(996.000000000000001)).refused("LC001");
    session.run("ROLLBACK TO s");
    rest(&mut session, dec!(996)).unwrap();
    session.run("COMMIT");
    session.assert_sound();
}

/// So do grants and charges far below zero.
#[test]
fn rows_far_below_zero_read_nothing() {
    let db = Database::create_alone();
    let [mut keeper, mut first, mut second] = db.connect_settled();
    let mut listener = db.listen();
    first.charge(user(1), dec!(100));
    first.charge(user(1), dec!(1));
    without_checkpoints(&mut keeper, || {
        for _ in 0..20 {
            second.charge(user(1), dec!(5));
            first.grant(user(1), dec!(1));
        }
    });
    // 20 of 100 are used up: the next ones reach zero if all charges were to roll back.
    assert_eq!(listener.drain(), []);
    first.grant(user(1), dec!(181));
    assert_eq!(listener.drain(), []);
    second.grant(user(1), dec!(0.000000000000001));
    assert_eq!(listener.crossings(), [(user(1), Up)]);
    first.assert_sound();
}

/// Between two thresholds both ways are near, and far from both nobody looks.
#[test]
fn rows_between_thresholds_read_nothing() {
    let db = Database::create_alone();
    let [mut keeper, mut first, mut second] = db.connect_settled();
    let mut listener = db.listen();
    first.run(&format!(
        "INSERT INTO credits.spending_limits (user_id, thresholds) VALUES ('{}', '{{-50,50,-200,200}}')",
        user(1)
    ));
    first.charge(user(1), dec!(100));
    first.charge(user(1), dec!(1));
    listener.drain();
    without_checkpoints(&mut keeper, || {
        for _ in 0..20 {
            second.charge(user(1), dec!(2));
            first.grant(user(1), dec!(2));
        }
    });
    first.charge(user(1), dec!(99));
    assert_eq!(listener.boundaries(), [(user(1), Down, "-200".to_owned())]);
    second.grant(user(1), dec!(150.5));
    let up = ["-200", "-50"].map(|threshold| (user(1), Up, threshold.to_owned()));
    assert_eq!(listener.boundaries(), up);
    first.assert_sound();
}

/// The last credit is charged by the session that reaches the limit, however many there are.
#[test]
fn the_charge_that_reaches_zero_is_announced() {
    let db = Database::create_alone();
    for last in [dec!(10), dec!(10.000000000000001), dec!(11), dec!(5000)] {
        let mut sessions: [Session; 3] = db.connect_settled();
        tell(&mut sessions[0]);
        let mut listener = db.listen();
        // A listener is a session that has just come.
        tell(&mut sessions[1]);
        sessions[2].charge(user(1), dec!(100));
        for number in 0..9 {
            sessions[number % 3].charge(user(1), dec!(10));
        }
        assert_eq!(listener.drain(), []);
        sessions[0].charge(user(1), last);
        assert_eq!(listener.crossings(), [(user(1), Down)]);
        sessions[1].grant(user(1), last);
        assert_eq!(listener.crossings(), [(user(1), Up)]);
        sessions[1].charge(user(1), dec!(10));
        assert_eq!(listener.crossings(), [(user(1), Down)]);
        sessions[2].assert_sound();
        sessions[0].grant(user(1), dec!(0.000000000000001));
        listener.drain();
        sessions[0].charge(user(1), dec!(0.000000000000001));
    }
}

/// Each of the open transactions could commit without the others.
#[test]
fn charges_in_flight_count_when_they_commit() {
    let db = Database::create_alone();
    let [mut first, mut second, mut third] = db.connect_settled();
    let mut listener = db.listen();
    tell(&mut first);
    listener.drain();
    for (session, amount) in [(&mut first, dec!(40)), (&mut second, dec!(50))] {
        session.run("BEGIN");
        session.charge(user(1), amount);
    }
    third.charge(user(1), dec!(10));
    first.run("COMMIT");
    assert_eq!(listener.drain(), []);
    second.run("COMMIT");
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    third.assert_sound();
}

/// It is counted when it is prepared: no settlement follows.
#[test]
fn a_prepared_charge_counts() {
    let db = Database::create_alone();
    let [mut first, mut second] = db.connect_settled();
    let mut listener = db.listen();
    tell(&mut first);
    listener.drain();
    let gid = format!("'{}'", db.name());
    second.run("BEGIN");
    second.charge(user(1), dec!(60));
    second.run(&format!("PREPARE TRANSACTION {gid}"));
    second.run(&format!("COMMIT PREPARED {gid}"));
    first.charge(user(1), dec!(39));
    assert_eq!(listener.drain(), []);
    first.charge(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    first.assert_sound();
}

/// The grant of a commit that fails when its user is settled already is nothing to spend.
#[test]
fn a_grant_that_does_not_commit_is_not_there_to_spend() {
    let db = Database::create_alone();
    let stripe = |number| stripe_of(user(number));
    let later = (2..).find(|&number| stripe(number) > stripe(1)).unwrap();
    let [mut first, mut granting, mut crossing] = db.connect_settled();
    let mut listener = db.listen();
    first.grant(user(later), dec!(1));
    first.grant(user(1), dec!(10));
    listener.drain();

    crossing.run("BEGIN");
    crossing.charge(user(later), dec!(5));
    let held = db.hold_commit(crossing);
    granting.run("BEGIN");
    granting.grant(user(1), dec!(1000));
    granting.grant(user(later), dec!(1));
    let pid = granting.pid();
    let committing = granting.background(|session| session.try_run("COMMIT"));
    db.until_blocked(pid);
    db.observe(|observer| observer.value::<bool>("SELECT pg_cancel_backend($1)", &[&pid]));
    committing.finish().1.expect_err("it was cancelled");
    held.release();
    listener.drain();

    first.charge(user(1), dec!(9));
    assert_eq!(listener.drain(), []);
    first.charge(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    first.assert_sound();
}

/// Rows that no trigger has noted invalidate what was published, whichever way they were written.
#[test]
fn rows_that_no_trigger_noted_end_what_was_published() {
    let db = Database::create_alone();
    let [mut first, mut owner] = db.connect_settled();
    let mut listener = db.listen();
    let trigger =
        |how: &str| format!("ALTER TABLE credits.credits_transactions {how} TRIGGER note_transaction");
    let unnoted = [
        (trigger("DISABLE"), trigger("ENABLE ALWAYS")),
        (
            format!("{}; SET session_replication_role = replica", trigger("ENABLE")),
            format!("RESET session_replication_role; {}", trigger("ENABLE ALWAYS")),
        ),
    ];
    for (off, on) in &unnoted {
        for within_one in [true, false] {
            tell(&mut first);
            listener.drain();
            owner.run(if within_one { "BEGIN" } else { "" });
            owner.run(off);
            owner.charge(user(1), dec!(150));
            owner.run(on);
            owner.run(if within_one { "COMMIT" } else { "" });
            assert_eq!(listener.drain(), []);
            first.charge(user(1), dec!(1));
            assert_eq!(listener.crossings(), [(user(1), Down)], "{off}, {within_one}");
            first.grant(user(1), dec!(51));
            first.assert_sound();
        }
    }
    // Others go on charging while the trigger fires in some sessions only.
    tell(&mut first);
    owner.run(&unnoted[1].0);
    first.charge(user(1), dec!(1));
    owner.charge(user(1), dec!(150));
    listener.drain();
    first.charge(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    owner.run(&unnoted[1].1);
    first.assert_sound();
}

#[test]
fn a_checkpoint_that_is_lost_comes_back_with_the_next_charge() {
    let db = Database::create_alone();
    let [mut first, mut owner] = db.connect_settled();
    for delete in ["DELETE FROM", "TRUNCATE"] {
        tell(&mut first);
        owner.lose_checkpoints(&format!("{delete} credits.user_balance_checkpoints"));
        first.charge(user(1), dec!(1));
        let checkpoints = "SELECT count(*) FROM credits.user_balance_checkpoints";
        assert_eq!(first.value::<i64>(checkpoints, &[]), 1, "{delete}");
        first.assert_sound();
    }
}

/// A commit of a session that cannot count invalidates what was published before; what is published after it is used.
#[test]
fn a_session_that_cannot_count_is_looked_at() {
    let cluster = Cluster::start_with_memory_files();
    let db = Database::create_in(&cluster);
    let [mut keeper, mut first] = db.connect_settled();
    let mut listener = db.listen();
    let mut stranger = db.connect();
    stranger.run("SET lock_timeout = '50s'");
    first.grant(user(1), dec!(1000));
    let complete = |session: &mut Session| {
        for _ in 0..3 {
            session.balance(user(1));
        }
    };
    let sealed = cluster.forbid_memory();
    for left in [800, 600, 400, 200] {
        tell(&mut first);
        complete(&mut first);
        without_checkpoints(&mut keeper, || first.charge(user(1), dec!(100)));
        complete(&mut first);
        stranger.charge(user(1), dec!(200));
        assert_eq!(first.balance(user(1)), left.into());
    }
    assert_eq!(stranger.balance(user(1)), dec!(200));
    listener.drain();
    tell(&mut first);
    stranger.charge(user(1), dec!(290));
    first.charge(user(1), dec!(9));
    assert_eq!(listener.drain(), []);
    first.charge(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    first.assert_sound();
    let log = cluster.log();
    assert!(log.contains("sharing folds is put off"), "{log}");

    // It takes part as soon as it can.
    drop(sealed);
    for _ in 0..8 {
        stranger.charge(user(2), dec!(1));
    }
    tell(&mut first);
    without_checkpoints(&mut keeper, || stranger.charge(user(1), dec!(50)));
    first.charge(user(1), dec!(49));
    assert_eq!(listener.crossings(), [(user(1), Up)]);
    first.charge(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    first.assert_sound();
}

/// Nor does a prepared transaction of such a session go unnoticed.
#[test]
fn a_prepared_charge_that_cannot_be_counted_is_looked_at() {
    let cluster = Cluster::start_with_memory_files();
    let db = Database::create_in(&cluster);
    let [mut keeper, mut first] = db.connect_settled();
    let mut stranger = db.connect();
    tell(&mut first);
    without_checkpoints(&mut keeper, || first.charge(user(1), dec!(1)));
    let mut listener = db.listen();
    let sealed = cluster.forbid_memory();
    stranger.run("BEGIN");
    stranger.charge(user(1), dec!(98));
    stranger.run("PREPARE TRANSACTION 'prepared'");
    stranger.run("COMMIT PREPARED 'prepared'");
    drop(sealed);
    first.charge(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    first.assert_sound();
}

/// Nor a threshold that such a session sets.
#[test]
fn a_boundary_set_by_a_session_that_cannot_count_is_looked_at() {
    let cluster = Cluster::start_with_memory_files();
    let db = Database::create_in(&cluster);
    let [mut keeper, mut first] = db.connect_settled();
    let mut stranger = db.connect();
    tell(&mut first);
    without_checkpoints(&mut keeper, || first.charge(user(1), dec!(1)));
    let mut listener = db.listen();
    let sealed = cluster.forbid_memory();
    stranger.run(&format!(
        "INSERT INTO credits.spending_limits (user_id, thresholds) VALUES ('{}', '{{50}}')",
        user(1)
    ));
    drop(sealed);
    first.charge(user(1), dec!(49));
    assert_eq!(listener.boundaries(), [(user(1), Down, "50".to_owned())]);
    first.assert_sound();
}

/// A commit that has to read an account's rows, since nothing of them is published, leaves fewer of them to the next one.
#[test]
fn a_checkpoint_is_refreshed_earlier_where_nothing_is_published() {
    let db = Database::create_alone();
    let [mut session] = db.connect_settled();
    session.run("SET credits_ledger.checkpoint_interval = 20");
    tell(&mut session);
    session.refresh(user(1));
    let folded = "SELECT transaction_count FROM credits.user_balance_checkpoints WHERE user_id = $1";
    let folded_since = |session: &mut Session| session.value::<i64>(folded, &[&user(1)]) - 3;
    // Somebody's change of a checkpoint ends all that was published.
    let forget = "UPDATE credits.user_balance_checkpoints SET balance = balance";
    for charges in 1..=5 {
        session.run(forget);
        session.charge(user(1), dec!(1));
        assert_eq!(folded_since(&mut session), 0, "{charges} charges");
    }
    for _ in 0..5 {
        session.charge(user(1), dec!(1));
        assert_eq!(folded_since(&mut session), 0, "the sum of the rows is published");
    }
    session.run(forget);
    session.charge(user(1), dec!(1));
    assert_eq!(folded_since(&mut session), 10);
    // A quarter of the shortest interval is a row still.
    session.refresh(user(1));
    session.run(&format!("SET credits_ledger.checkpoint_interval = 1; {forget}"));
    let refreshes = "SELECT refreshes FROM credits.settlement_statistics()";
    let before: i64 = session.value(refreshes, &[]);
    session.charge(user(1), dec!(1));
    assert_eq!(session.value::<i64>(refreshes, &[]), before, "there was nothing to fold");
    session.assert_sound();
}

/// A session with an older snapshot publishes fewer rows than are stored. Commits go on from those that are stored.
#[test]
fn what_is_published_of_before_the_checkpoint_is_not_gone_on_from() {
    let cluster = Cluster::start_with_memory_files();
    let db = Database::create_in(&cluster);
    let [mut session, mut reader] = db.connect_settled();
    let mut stranger = db.connect();
    session.run("SET credits_ledger.checkpoint_interval = 20");
    tell(&mut session);
    session.refresh(user(1));
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM credits.balances");
    session.charge(user(1), dec!(1));
    session.refresh(user(1));
    for _ in 0..5 {
        session.charge(user(1), dec!(1));
    }
    let folded = "SELECT transaction_count FROM credits.user_balance_checkpoints WHERE user_id = $1";
    assert_eq!(session.value::<i64>(folded, &[&user(1)]), 4);
    // By a lost count nothing is published any more.
    let sealed = cluster.forbid_memory();
    stranger.charge(user(2), dec!(1));
    drop(sealed);
    assert_eq!(reader.balance(user(1)), dec!(100));
    // The checkpoint lags by a quarter of the interval, which is enough where its rows are not published.
    session.charge(user(1), dec!(1));
    assert_eq!(session.value::<i64>(folded, &[&user(1)]), 9);
    assert_eq!(session.balance(user(1)), dec!(93));
    session.assert_sound();
}

/// Rows are counted as those of the delta are: with the interval's last one the checkpoint is refreshed.
#[test]
fn a_checkpoint_is_refreshed_when_it_lags_by_the_interval() {
    let db = Database::create_alone();
    let [mut session] = db.connect_settled();
    session.run("SET credits_ledger.checkpoint_interval = 5");
    tell(&mut session);
    session.refresh(user(1));
    let folded = "SELECT transaction_count FROM credits.user_balance_checkpoints WHERE user_id = $1";
    let mut counts = Vec::new();
    for _ in 0..12 {
        session.charge(user(1), dec!(1));
        counts.push(session.value::<i64>(folded, &[&user(1)]) - 3);
    }
    assert_eq!(counts, [0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 10, 10]);
    session.run("SET credits_ledger.checkpoint_interval = 1");
    session.charge(user(1), dec!(1));
    assert_eq!(session.value::<i64>(folded, &[&user(1)]) - 3, 12);
    session.assert_sound();
}

/// What a commit has released may come back where it fails behind the account: nobody is covered by it before.
#[test]
fn a_release_that_rolls_back_covers_nobody() {
    let db = Database::create();
    let [mut session, mut other] = db.connect_settled();
    let behind = user((2..90).find(|&number| stripe_of(user(number)) > stripe_of(user(1))).unwrap());
    session.grant(user(1), dec!(100));
    session.run(&format!("SELECT credits.create_hold('{}', 80, 'large')", user(1)));
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (id, user_id, transaction_type, amount, source_id)
         VALUES ('{behind}', '{behind}', 'usage', 1, 'original')"
    ));
    // Its commit settles the one account, and then finds that of the other too much is taken back.
    session.run(&format!(
        "BEGIN; SELECT credits.release_hold('large'), credits.charge('{}', 25, 'covered');
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, reverses)
         VALUES ('{behind}', 'admin_grant', 2, 'too much', '{behind}')",
        user(1)
    ));
    session.try_run("COMMIT").refused("23514");
    other.try_run(&format!("SELECT credits.charge('{}', 50, 'not covered')", user(1))).refused("LC001");
    session.assert_sound();
}

/// What a transaction has released may roll back with it, and takes nothing from what the session finds later on.
#[test]
fn what_was_released_is_forgotten_with_its_transaction() {
    let db = Database::create_alone();
    let [mut keeper, mut session, mut other] = db.connect_settled();
    let hold = |amount: u32, source: &str| {
        format!("SELECT credits.create_hold('{}', {amount}, '{source}')", user(1))
    };
    session.grant(user(1), dec!(100));
    session.run(&hold(90, "released"));
    session.run("SELECT credits.release_hold('released')");
    // More than was left beside the one that is released: the commit looks, and finds 85.
    session.run(&hold(15, "looks"));
    without_checkpoints(&mut keeper, || other.run(&hold(84, "covered")));
    session.assert_sound();
}
