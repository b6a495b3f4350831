//! A hot standby answers everything as the primary does, writes nothing, and goes on exactly when it is promoted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::contents::USERS;
use credits_ledger_tests::{
    Database, Decimal, Direction, Refused, Session, Shutdown, Uuid, asked_for, dec, rebuild, seed, user,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::answers::{self, Answers};

/// Checkpoints are folded all the time, and the primary cleans up nothing that a reader of the standby may still see.
const SETTINGS: &str = "\
credits_ledger.checkpoint_interval = 4
hot_standby_feedback = on
wal_receiver_status_interval = 1
max_standby_streaming_delay = -1
";

/// A primary and the standby that follows it, with a database of both.
struct Pair {
    primary: Arc<Cluster>,
    standby: Arc<Cluster>,
    here: Database,
    there: Database,
}

impl Pair {
    fn start() -> Self {
        let primary = Cluster::start_with(SETTINGS);
        let here = Database::create_in(&primary);
        here.connect().record_history();
        let standby = primary.standby();
        standby.catch_up(&primary);
        // What the primary keeps is no less from now on: it hears of each reader's snapshot late, not wrongly.
        here.until("SELECT bool_and(backend_xmin IS NOT NULL) FROM pg_stat_replication", &[]);
        let there = Database::open(&standby, here.name());
        Self { primary, standby, here, there }
    }

    /// Both answer the same, to a new session and to one that remembers.
    #[track_caller]
    fn assert_same_answers(&self, remembering: &mut Session) {
        let expected = self.here.connect().answers();
        self.standby.catch_up(&self.primary);
        for session in [&mut self.there.connect(), remembering] {
            for (expected, answer) in expected.iter().zip(session.answers()) {
                assert_eq!(*expected, answer);
            }
            session.assert_sound();
        }
    }
}

/// Adds to and takes from users in savepoints, every third of which is rolled back. Those that remain take 0.1 each.
fn charge_in_savepoints(session: &mut Session, count: u32) {
    for number in 0..count {
        session.run(&format!("SAVEPOINT s{number}"));
        session.charge(user(number % 2), dec!(0.1));
        if number % 3 == 0 {
            session.run(&format!("ROLLBACK TO s{number}"));
        }
    }
}

/// Moves on far enough that whatever is open is passed by as a straggler, and folds it all.
fn move_on(session: &mut Session) {
    for number in 0..200 {
        session.charge_batch(user(number % 4), Uuid::from_u128(u128::from(number % 3)), dec!(0.001));
    }
    (0..USERS).for_each(|number| session.refresh(user(number)));
}

#[test]
fn a_standby_answers_as_the_primary_does() {
    let pair = Pair::start();
    let mut writer = pair.here.connect();
    writer.assert_all_are_asked();
    let mut remembering = pair.there.connect();
    pair.assert_same_answers(&mut remembering);

    // An open transaction with a few subtransactions, which the standby's snapshots list with it.
    let mut few = pair.here.connect();
    few.run("BEGIN");
    few.grant(user(0), dec!(1000));
    charge_in_savepoints(&mut few, 5);
    writer.charge(user(0), dec!(0.5));
    pair.assert_same_answers(&mut remembering);
    move_on(&mut writer);
    pair.assert_same_answers(&mut remembering);

    // A session that has seen the present is given a snapshot of the past. (Not later: a standby's snapshot that has more
    // subtransactions than it lists is exported without those that it does list, and sees what others must not.)
    let (mut past, mut brief) = (pair.there.connect(), pair.here.connect());
    brief.run("BEGIN");
    charge_in_savepoints(&mut brief, 3);
    pair.assert_same_answers(&mut remembering);
    past.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    let (before, snapshot) = (past.answers(), past.value::<String>("SELECT pg_export_snapshot()", &[]));
    brief.run("COMMIT");
    move_on(&mut writer);
    pair.assert_same_answers(&mut remembering);
    remembering.run(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{snapshot}'"));
    assert_eq!(remembering.answers(), before);
    remembering.run("COMMIT");
    past.run("COMMIT");

    // More subtransactions than a snapshot lists.
    let mut many = pair.here.connect();
    many.run("BEGIN");
    charge_in_savepoints(&mut many, 150);
    pair.assert_same_answers(&mut remembering);
    move_on(&mut writer);
    pair.assert_same_answers(&mut remembering);

    let mut preparing = pair.here.connect();
    preparing.run("BEGIN");
    charge_in_savepoints(&mut preparing, 100);
    preparing.charge(user(2), dec!(1000));
    preparing.run("PREPARE TRANSACTION 'prepared'");
    move_on(&mut writer);
    pair.assert_same_answers(&mut remembering);

    // A reader of the past keeps it, whatever ends and is folded.
    let mut past = pair.there.connect();
    past.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    let before = past.answers();
    for end in [&mut few, &mut many] {
        end.run("COMMIT");
        pair.assert_same_answers(&mut remembering);
        move_on(&mut writer);
        pair.assert_same_answers(&mut remembering);
    }
    preparing.run("COMMIT PREPARED 'prepared'");
    writer.refresh(user(2));
    pair.assert_same_answers(&mut remembering);
    assert_eq!(past.answers(), before);
    past.run("COMMIT");
    pair.assert_same_answers(&mut past);
}

#[test]
fn a_standby_writes_nothing() {
    let pair = Pair::start();
    let mut session = pair.there.connect();
    for call in answers::WRITES {
        session.try_run(&format!("SELECT {}", answers::call(call, 0))).refused("25006");
    }
    session.insert(user(0), "usage", dec!(1)).refused("25006");
    // Not even where the row is there already and a retry would only return it.
    let retry = answers::call("create_transaction({user}, 'purchase', 2, 'auto_topup_1')", USERS - 1);
    session.try_run(&format!("SELECT {retry}")).refused("25006");
    session.answers();
    session.assert_sound();
}

/// Row-level security has the rows queried, which must not take a transaction id either.
#[test]
fn a_standby_answers_those_who_see_some_rows_only() {
    let pair = Pair::start();
    let role = pair.here.create_role("reader");
    pair.here.connect().run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA credits TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role};
         ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY small ON credits.credits_transactions FOR SELECT TO {role} USING (amount < 1)"
    ));
    let ask = |session: &mut Session| {
        let row = session
            .query_one(
                "SELECT credits.get_user_balance($1), (SELECT latest_seq FROM credits.calculate_balance_with_seq($1)),
                        (SELECT balance FROM credits.get_users_balances_bulk(ARRAY[$1])),
                        (SELECT balance FROM credits.balances WHERE user_id = $1),
                        (SELECT sum(-amount) FROM credits.credits_transactions WHERE user_id = $1)",
                &[&user(0)],
            )
            .expect("ask for a balance");
        let latest_seq: i64 = row.get(1);
        (latest_seq, [0, 2, 3, 4].map(|column| row.get::<_, Decimal>(column)))
    };
    let expected = ask(&mut pair.here.connect_as(&role));
    assert!(expected.1.iter().all(|balance| *balance == expected.1[3] && *balance < Decimal::ZERO));
    pair.standby.catch_up(&pair.primary);
    assert_eq!(ask(&mut pair.there.connect_as(&role)), expected);
}

/// Transactions of each writer.
fn transactions() -> u32 {
    asked_for("CREDITS_LEDGER_STANDBY_TRANSACTIONS", 150)
}

/// A transaction of a writer on the primary, at times with more subtransactions than a snapshot lists.
fn write(session: &mut Session, random: &mut StdRng) {
    session.run("BEGIN");
    let most = if random.random_bool(0.03) { 90 } else { 4 };
    for number in 0..random.random_range(1..=most) {
        let (user, amount) = (user(random.random_range(0..4)), Decimal::from(random.random_range(1..=6)));
        session.run(&format!("SAVEPOINT s{number}"));
        match random.random_range(0..4) {
            0 => session.charge_batch(user, user, amount),
            1 => session.charge(user, amount),
            _ => session.grant(user, amount),
        }
        if random.random_bool(0.2) {
            session.run(&format!("ROLLBACK TO s{number}"));
        }
    }
    session.run(if random.random_bool(0.9) { "COMMIT" } else { "ROLLBACK" });
}

/// Every snapshot of a standby is a ledger at rest: what it reads agrees with the rows, while the primary writes.
#[test]
fn every_snapshot_of_a_standby_is_sound() {
    let mut random = StdRng::seed_from_u64(seed());
    let pair = Pair::start();
    let (writers, readers) = (4, 2);
    let began = Arc::new(Barrier::new(writers + readers));
    let over = Arc::new(AtomicBool::new(false));
    let writing: Vec<_> = (0..writers)
        .map(|_| {
            let (mut session, began) = (pair.here.connect(), Arc::clone(&began));
            let mut random = StdRng::seed_from_u64(random.random());
            thread::spawn(move || {
                began.wait();
                (0..transactions()).for_each(|_| write(&mut session, &mut random));
            })
        })
        .collect();
    let reading: Vec<_> = (0..readers)
        .map(|_| {
            let (mut session, began, over) = (pair.there.connect(), Arc::clone(&began), Arc::clone(&over));
            thread::spawn(move || {
                began.wait();
                while !over.load(Ordering::Relaxed) {
                    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
                    session.assert_sound();
                    let before = session.answers();
                    // What others have read meanwhile in newer snapshots does not matter either.
                    assert_eq!(session.answers(), before);
                    session.run("COMMIT");
                }
            })
        })
        .collect();
    let results: Vec<_> = writing.into_iter().map(thread::JoinHandle::join).collect();
    over.store(true, Ordering::Relaxed);
    reading.into_iter().for_each(|reader| reader.join().expect("every snapshot is sound"));
    results.into_iter().for_each(|writer| writer.expect("the primary is written to"));
    pair.assert_same_answers(&mut pair.there.connect());
}

/// What was open on the primary is gone, what was prepared stays so, and the next settlement announces what is due.
#[test]
fn a_promoted_standby_goes_on() {
    let pair = Pair::start();
    let mut writer = pair.here.connect();
    let mut open = pair.here.connect();
    open.run("BEGIN");
    open.grant(user(0), dec!(1000));
    charge_in_savepoints(&mut open, 100);
    let mut preparing = pair.here.connect();
    preparing.run("BEGIN");
    preparing.charge(user(1), dec!(1000));
    preparing.run("PREPARE TRANSACTION 'charged'");
    preparing.run("BEGIN");
    preparing.charge(user(2), dec!(1000));
    preparing.run("PREPARE TRANSACTION 'given_up'");
    move_on(&mut writer);
    writer.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, seq) OVERRIDING SYSTEM VALUE
         VALUES ('{}', 'usage', 1, 'numbered', 100000)",
        user(3)
    ));
    let expected = writer.answers();

    // A session that reads before the promotion, one whose snapshot is older than it, and a listener after it.
    let mut remembering = pair.there.connect();
    pair.assert_same_answers(&mut remembering);
    let mut past = pair.there.connect();
    past.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(past.answers(), expected);
    pair.primary.stop(Shutdown::Immediate);
    pair.standby.promote();

    assert_eq!(remembering.answers(), expected);
    let mut listener = pair.there.listen();
    let mut session = pair.there.connect();
    session.assert_sound();
    let balances = |session: &mut Session| [0, 1, 2, 3].map(|number| session.balance(user(number)));
    let before = balances(&mut session);
    session.run("COMMIT PREPARED 'charged'");
    session.run("ROLLBACK PREPARED 'given_up'");
    for session in [&mut session, &mut remembering] {
        assert_eq!(balances(session), [before[0], before[1] - dec!(1000), before[2], before[3]]);
    }
    assert_eq!(listener.crossings(), []);
    remembering.charge(user(1), dec!(1));
    let number: i64 = remembering.value("SELECT max(seq) FROM credits.credits_transactions", &[]);
    assert!(number > 100_000, "numbering goes on behind a row that has brought its number");
    assert_eq!(listener.crossings(), [(user(1), Direction::Down)]);
    remembering.charge(user(0), before[0]);
    assert_eq!(listener.crossings(), [(user(0), Direction::Down)]);
    for session in [&mut session, &mut remembering] {
        move_on(session);
        session.assert_sound();
    }
    assert_eq!(past.answers(), expected);
    past.run("COMMIT");
    past.grant(user(0), dec!(5));
    assert_eq!(past.balance(user(0)), session.balance(user(0)));
    past.assert_sound();
}

/// A position that either has given out is good on the other, and after a promotion: what was open is gone, what was prepared comes
/// behind it.
#[test]
fn a_feed_goes_on_after_a_promotion() {
    let pair = Pair::start();
    let (mut writer, mut open, mut preparing) =
        (pair.here.connect(), pair.here.connect(), pair.here.connect());
    let (_, before) = writer.feed(None).unwrap();
    open.run("BEGIN");
    charge_in_savepoints(&mut open, 100);
    preparing.run("BEGIN");
    preparing.grant(user(1), dec!(1));
    preparing.run("PREPARE TRANSACTION 'granted'");
    writer.grant(user(2), dec!(1));
    pair.standby.catch_up(&pair.primary);
    let mut reader = pair.there.connect();
    let (position, read) = reader.feed(None).unwrap();
    assert_eq!(read, before);
    assert_eq!(writer.feed(None).unwrap(), (position.clone(), read));
    pair.primary.stop(Shutdown::Immediate);
    pair.standby.promote();
    let mut session = pair.there.connect();
    assert_eq!(session.feed(position.as_deref()).unwrap().1, [""; 0]);
    session.run("COMMIT PREPARED 'granted'");
    let (position, read) = session.feed(position.as_deref()).unwrap();
    assert_eq!(read.len(), 2);
    session.grant(user(3), dec!(1));
    assert_eq!(session.feed(position.as_deref()).unwrap().1.len(), 1);
    assert_eq!(reader.feed(position.as_deref()).unwrap().1.len(), 1);
}

fn damage(by: i32) -> String {
    format!(
        "UPDATE credits.user_balance_checkpoints SET balance = balance + {by} WHERE user_id = '{}'",
        user(1)
    )
}

/// Whether the standby's sessions were connected, within a transaction, or not there yet.
#[test]
fn a_checkpoint_that_is_repaired_on_the_primary_is_repaired_on_its_standby() {
    let pair = Pair::start();
    let follow = || pair.standby.catch_up(&pair.primary);
    let mut owner = pair.here.connect();
    owner.run("SET synchronous_commit = local");
    owner.grant(user(1), dec!(1000));
    owner.refresh(user(1));
    let right = owner.balance(user(1));
    follow();
    let (mut connected, mut within) = (pair.there.connect(), pair.there.connect());
    for two_phases in [false, true] {
        owner.run(&damage(900));
        follow();
        let wrong = right + dec!(900);
        within.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
        for _ in 0..3 {
            for session in [&mut connected, &mut within, &mut pair.there.connect()] {
                assert_eq!(session.balance(user(1)), wrong, "as published");
            }
        }
        if two_phases {
            // Of the user itself nothing is settled then.
            owner.run(&format!("BEGIN; {}; PREPARE TRANSACTION 'repair'", damage(-900)));
            owner.run("COMMIT PREPARED 'repair'");
        } else {
            owner.run(&rebuild(user(1)));
        }
        follow();
        for _ in 0..3 {
            assert_eq!(within.balance(user(1)), wrong, "its snapshot is older");
            assert_eq!(pair.there.connect().balance(user(1)), right, "comes after it");
            assert_eq!(connected.balance(user(1)), right);
        }
        within.run("COMMIT");
        assert_eq!(within.balance(user(1)), right);
        connected.assert_sound();
    }
}

/// No session is connected to the standby during the repair; what it stores after its promotion comes of the repaired checkpoint.
#[test]
fn a_promoted_standby_stores_nothing_that_was_repaired() {
    let pair = Pair::start();
    let mut owner = pair.here.connect();
    owner.grant(user(1), dec!(1000));
    owner.refresh(user(1));
    owner.run(&damage(900));
    let wrong = owner.balance(user(1));
    pair.standby.catch_up(&pair.primary);
    for _ in 0..3 {
        assert_eq!(pair.there.connect().balance(user(1)), wrong);
    }
    owner.run(&rebuild(user(1)));
    let right = owner.balance(user(1));
    assert_ne!(right, wrong);
    pair.standby.catch_up(&pair.primary);
    pair.standby.promote();
    let mut session = pair.there.connect();
    session.run("SET synchronous_commit = local");
    assert_eq!(session.balance(user(1)), right);
    session.charge(user(1), dec!(1));
    session.refresh(user(1));
    assert_eq!(session.balance(user(1)), right - dec!(1));
    let found: i64 =
        session.value("SELECT count(*) FROM credits.verify_ledger() WHERE user_id = $1", &[&user(1)]);
    assert_eq!(found, 0);
}

/// Rows arrive on a standby without being counted: no count says there that a fold is complete, not after its promotion either.
#[test]
fn what_arrives_on_a_standby_is_found_after_its_promotion() {
    let pair = Pair::start();
    let mut owner = pair.here.connect();
    let balance = owner.balance(user(1));
    pair.standby.catch_up(&pair.primary);
    let mut reader = pair.there.connect();
    for _ in 0..3 {
        assert_eq!(reader.balance(user(1)), balance);
    }
    owner.grant(user(1), dec!(5));
    pair.standby.catch_up(&pair.primary);
    pair.standby.promote();
    assert_eq!(pair.there.connect().balance(user(1)), balance + dec!(5));
    assert_eq!(reader.balance(user(1)), balance + dec!(5));
}

/// What a session is told of the buckets of two users, of which the second's stays: whether each is here, as each way of asking has it.
#[track_caller]
fn buckets(session: &mut Session) -> [bool; 2] {
    [user(0), user(1)].map(|user| {
        let (is_here, bucket): (bool, i32) = {
            let row = session.query_one("SELECT credits.is_here($1), credits.bucket_of($1)", &[&user]);
            let row = row.expect("ask whether an account is here");
            (row.get(0), row.get(1))
        };
        let owned: i32 = session.value("SELECT get_bit(credits.owned_buckets(), $1)", &[&bucket]);
        assert_eq!(owned == 1, is_here);
        for reading in [
            format!("SELECT credits.get_user_balance('{user}')"),
            format!("SELECT credits.get_available_balance('{user}')"),
            format!("SELECT credits.require_class(1024, {bucket})"),
        ] {
            // Not to end a transaction in which the session asks again.
            let found = if is_here {
                session.try_run(&reading)
            } else {
                let call = reading.trim_start_matches("SELECT ").replace('\'', "''");
                session.try_run(&format!(
                    "DO 'BEGIN PERFORM {call}; RAISE EXCEPTION USING MESSAGE = ''read'';
                         EXCEPTION WHEN SQLSTATE ''LC003'' THEN END'"
                ))
            };
            found.unwrap_or_else(|error| panic!("{is_here}, {reading}: {error:?}"));
        }
        let listed: i64 = session.value(
            "SELECT count(*) FROM credits.list_all_transactions(\"limit\" => NULL) WHERE user_id = $1",
            &[&user],
        );
        assert_eq!(listed > 0, is_here);
        is_here
    })
}

/// What a session of the standby keeps of the buckets is dropped as the primary's changes are replayed.
#[test]
fn a_standby_has_the_buckets_of_its_snapshot() {
    let pair = Pair::start();
    let (mut admin, mut remembering) = (pair.here.connect(), pair.there.connect());
    assert_eq!(buckets(&mut remembering), [true, true]);
    let mut past = pair.there.connect();
    past.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(buckets(&mut past), [true, true]);
    // A snapshot of the standby lists it, before and after.
    let mut open = pair.here.connect();
    open.run("BEGIN");
    open.grant(user(1), dec!(1));
    for (state, is_here) in
        [("moving", true), ("elsewhere", false), ("arriving", false), ("", true), ("elsewhere", false)]
    {
        let change = if state.is_empty() {
            format!("DELETE FROM credits.bucket_states WHERE bucket = credits.bucket_of('{}')", user(0))
        } else {
            format!(
                "INSERT INTO credits.bucket_states (bucket, state) VALUES (credits.bucket_of('{}'), '{state}')
                 ON CONFLICT (bucket) DO UPDATE SET state = excluded.state",
                user(0)
            )
        };
        admin.run("BEGIN; SAVEPOINT before");
        admin.run(&change);
        // Replayed in part.
        admin.run("SELECT pg_switch_wal()");
        pair.standby.catch_up(&pair.primary);
        let before = buckets(&mut remembering);
        assert_eq!(buckets(&mut pair.there.connect()), before);
        admin.run("COMMIT");
        pair.standby.catch_up(&pair.primary);
        assert_eq!(buckets(&mut remembering), [is_here, true], "{state}");
        assert_eq!(buckets(&mut pair.there.connect()), [is_here, true], "{state}");
        assert_eq!(buckets(&mut past), [true, true], "{state}");
    }
    open.run("COMMIT");
    past.run("COMMIT");
    pair.standby.catch_up(&pair.primary);
    assert_eq!(buckets(&mut past), [false, true]);
}
