//! Who is admitted when several want the same credits, step by step.

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::database::PATIENCE;
use credits_ledger_tests::{Database, Decimal, HeldCommit, Refused, Session, dec, stripe_of, user};
use postgres::Error;

/// The two ways to ask for credits.
const WAYS: [&str; 2] = ["create_hold", "charge"];

/// A database where user 1 has this balance. A held commit makes the notifications of a whole cluster wait.
fn database_with(balance: Decimal) -> Database {
    let db = Database::create_alone();
    db.connect().grant(user(1), balance);
    db
}

fn session(db: &Database) -> Session {
    let mut session = db.connect();
    // Whoever waits for longer than that waits for something that this test holds.
    session.run("SET lock_timeout = '50s'");
    session
}

/// Asks for credits of a user, by `create_hold` or `charge`.
fn ask(session: &mut Session, way: &str, number: u32, amount: Decimal, source: &str) -> Result<(), Error> {
    session.try_run(&format!("SELECT credits.{way}('{}', {amount}, '{source}')", user(number)))
}

/// A session with an open transaction that has asked for credits of user 1, and may have them by what has committed.
fn asking(db: &Database, way: &str, amount: Decimal, source: &str) -> Session {
    let mut session = session(db);
    session.run("BEGIN");
    ask(&mut session, way, 1, amount, source).expect("it is covered by what has committed");
    session
}

/// A session with an open transaction of plain usage.
fn using(db: &Database, number: u32, amount: Decimal) -> Session {
    let mut session = session(db);
    session.run("BEGIN");
    session.charge(user(number), amount);
    session
}

#[track_caller]
fn assert_available(db: &Database, expected: Decimal) {
    let mut session = db.connect();
    let available: Decimal = session.value("SELECT credits.get_available_balance($1)", &[&user(1)]);
    assert_eq!(available, expected);
    session.assert_sound();
}

/// Commits while another is inside its commit, which then ends: this one has waited for it.
fn commit_behind(db: &Database, session: Session, held: HeldCommit<'_>) -> Result<(), Error> {
    let committing = session.background(|session| session.try_run("COMMIT"));
    db.until_blocked(committing.pid());
    held.release();
    committing.finish().1
}

#[test]
fn of_two_that_commit_at_once_one_is_admitted() {
    for first in WAYS {
        for second in WAYS {
            let db = database_with(dec!(10));
            let (one, other) = (asking(&db, first, dec!(6), "one"), asking(&db, second, dec!(6), "other"));
            let held = db.hold_commit(one);
            commit_behind(&db, other, held).refused("LC001");
            assert_available(&db, dec!(4));
            // The source_id of the one that was refused is free.
            ask(&mut db.connect(), second, 1, dec!(4), "other").unwrap();
            assert_available(&db, dec!(0));
        }
    }
}

/// Who asks is refused at once by what has committed, and waits for nobody who is still at work.
#[test]
fn what_is_open_takes_nothing_until_it_commits() {
    for first in WAYS {
        for second in WAYS {
            let db = database_with(dec!(10));
            let (mut one, mut other) =
                (asking(&db, first, dec!(6), "one"), asking(&db, second, dec!(6), "other"));
            other.run("COMMIT");
            ask(&mut other, second, 1, dec!(5), "third").refused("LC001");
            one.try_run("COMMIT").refused("LC001");
            assert_available(&db, dec!(4));
        }
        let db = database_with(dec!(10));
        let mut one = asking(&db, first, dec!(6), "one");
        ask(&mut session(&db), "charge", 1, dec!(10), "all").unwrap();
        one.run("ROLLBACK");
        assert_available(&db, dec!(0));
    }
}

/// Usage is never refused: what has committed by the time of the decision counts, and what commits later may go below the limit.
#[test]
fn plain_usage_beside_one_that_asks() {
    for way in WAYS {
        let db = database_with(dec!(10));
        let (mut usage, mut asks) = (using(&db, 1, dec!(8)), asking(&db, way, dec!(6), "asks"));
        asks.run("COMMIT");
        usage.run("COMMIT");
        assert_available(&db, dec!(-4));
        ask(&mut asks, way, 1, dec!(0.000000000000001), "more").refused("LC001");

        let db = database_with(dec!(10));
        let (usage, asks) = (using(&db, 1, dec!(8)), asking(&db, way, dec!(6), "asks"));
        let held = db.hold_commit(usage);
        commit_behind(&db, asks, held).refused("LC001");
        assert_available(&db, dec!(2));
    }
}

/// `COMMIT PREPARED` waits for nobody, and counts from then on.
#[test]
fn prepared_usage_beside_one_that_asks() {
    for way in WAYS {
        let db = database_with(dec!(1000));
        // Whoever comes next finds published how much is covered.
        let mut first = session(&db);
        ask(&mut first, way, 1, dec!(1), "first").unwrap();
        let mut usage = using(&db, 1, dec!(990));
        usage.run("PREPARE TRANSACTION 'usage'");
        let mut asks = asking(&db, way, dec!(8), "fits");
        asks.run("COMMIT");
        let mut late = asking(&db, way, dec!(8), "late");
        usage.run("COMMIT PREPARED 'usage'");
        late.try_run("COMMIT").refused("LC001");
        ask(&mut first, way, 1, dec!(2), "too much").refused("LC001");
        ask(&mut first, way, 1, dec!(1), "the last").unwrap();
        assert_available(&db, dec!(0));
    }
}

/// A capture in flight is a hold or usage, whichever takes more.
#[test]
fn a_capture_inside_its_commit() {
    for (captured, is_admitted) in [(dec!(12), false), (dec!(11), true), (dec!(10), true), (dec!(3), true)] {
        let db = database_with(dec!(20));
        ask(&mut session(&db), "create_hold", 1, dec!(10), "held").unwrap();
        let asks = asking(&db, "charge", dec!(9), "asks");
        let mut captures = session(&db);
        captures.run("BEGIN");
        captures.run(&format!("SELECT credits.capture_hold('held', {captured})"));
        let held = db.hold_commit(captures);
        let committed = commit_behind(&db, asks, held);
        if is_admitted {
            committed.unwrap();
            assert_available(&db, dec!(11) - captured);
        } else {
            committed.refused("LC001");
            assert_available(&db, dec!(20) - captured);
        }
    }
}

/// Who has deleted a hold, and has not committed, keeps nobody waiting: the hold is still there for all others.
#[test]
fn a_release_that_is_open_gives_nothing_and_blocks_nobody() {
    let db = database_with(dec!(10));
    let (mut releases, mut asks) = (session(&db), session(&db));
    ask(&mut releases, "create_hold", 1, dec!(6), "held").unwrap();
    releases.run("BEGIN; SELECT credits.release_hold('held')");
    ask(&mut asks, "charge", 1, dec!(5), "too much").refused("LC001");
    ask(&mut asks, "charge", 1, dec!(4), "what is left").unwrap();
    releases.run("ROLLBACK");
    assert_available(&db, dec!(0));
}

/// Released and taken again in one commit: whoever decides before that sees the hold, whoever comes later does not.
#[test]
fn a_release_inside_its_commit() {
    let db = database_with(dec!(10));
    let (mut releases, mut first) = (session(&db), session(&db));
    ask(&mut releases, "create_hold", 1, dec!(6), "held").unwrap();
    let asks = asking(&db, "charge", dec!(4), "asks");
    releases.run("BEGIN; SELECT credits.release_hold('held')");
    let held = db.hold_commit(releases);
    ask(&mut first, "charge", 1, dec!(5), "too early").refused("LC001");
    // It is covered whatever becomes of the release: perhaps it waits to see, but it is not refused.
    let pid = asks.pid();
    let committing = asks.background(|session| session.try_run("COMMIT"));
    db.until_blocked_or_done(pid, "COMMIT");
    held.release();
    committing.finish().1.unwrap();
    assert_available(&db, dec!(6));
}

/// What a commit has found covered by a release of its own is not published as covered: it may still roll back.
#[test]
fn a_release_inside_the_commit_of_one_that_asks() {
    let db = database_with(dec!(10));
    let (mut releases, mut other) = (session(&db), session(&db));
    ask(&mut releases, "create_hold", 1, dec!(6), "held").unwrap();
    releases.run("BEGIN; SELECT credits.release_hold('held')");
    // More than was published as covered: the commit has to look.
    ask(&mut releases, "charge", 1, dec!(5), "asks").unwrap();
    let held = db.hold_commit(releases);
    // Less than what would be left if the release had committed: what was published decides.
    ask(&mut other, "charge", 1, dec!(4.5), "too early").refused("LC001");
    held.release();
    ask(&mut other, "charge", 1, dec!(4.5), "all").unwrap();
    assert_available(&db, dec!(0.5));
}

/// Each has written its row and then waits for the other's. The server ends one of them, which learns the truth when it tries again.
#[test]
fn a_charge_and_a_hold_of_one_source_id_at_once() {
    let db = database_with(dec!(10));
    let mut gate = db.connect();
    gate.run(
        "CREATE FUNCTION public.pause() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(1); RETURN NULL; END';
         CREATE TRIGGER pause AFTER INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION public.pause();
         SELECT pg_advisory_lock(1)",
    );
    // The charge waits behind its row for the gate, then the hold behind its own for the charge.
    let asking = ["charge", "create_hold"].map(|way| {
        let session = session(&db);
        let pid = session.pid();
        let asking = session.background(move |session| ask(session, way, 1, dec!(1), "one"));
        db.until_blocked(pid);
        (way, asking)
    });
    gate.run("SELECT pg_advisory_unlock(1)");
    let outcomes = asking.map(|(way, asking)| (way, asking.finish().1));
    let (recorded, ended, error) = match outcomes {
        [(recorded, Ok(())), (ended, Err(error))] | [(ended, Err(error)), (recorded, Ok(()))] => {
            (recorded, ended, error)
        }
        outcomes => panic!("one of them is ended: {outcomes:?}"),
    };
    Err::<(), _>(error).refused("40P01");
    ask(&mut gate, recorded, 1, dec!(1), "one").unwrap();
    ask(&mut gate, ended, 1, dec!(1), "one").refused("23505");
    assert_available(&db, dec!(9));
}

/// Both ways to learn of a limit: a transaction in flight when it is lowered, and what was published before that.
#[test]
fn a_limit_that_is_lowered_meanwhile() {
    let changes = [
        format!("UPDATE credits.spending_limits SET overdraft_limit = 5 WHERE user_id = '{}'", user(1)),
        "DELETE FROM credits.spending_limits".to_owned(),
        "TRUNCATE credits.spending_limits".to_owned(),
    ];
    for (way, change) in WAYS.iter().flat_map(|way| changes.iter().map(move |change| (way, change))) {
        let db = database_with(dec!(1));
        let (mut session, mut other) = (session(&db), session(&db));
        session.run(&format!("INSERT INTO credits.spending_limits VALUES ('{}', 1000)", user(1)));
        for (session, source) in [(&mut session, "a"), (&mut other, "b")] {
            ask(session, way, 1, dec!(0.5), source).unwrap();
        }
        let mut in_flight = asking(&db, way, dec!(6), "in flight");
        session.run(&format!("BEGIN; {change}; ROLLBACK"));
        ask(&mut other, way, 1, dec!(1), "as before").unwrap();
        session.run(change);
        in_flight.try_run("COMMIT").refused("LC001");
        ask(&mut other, way, 1, dec!(6), "too much").refused("LC001");
        assert_available(&db, dec!(-1));
        session.run("TRUNCATE credits.spending_limits");
        session.run(&format!("INSERT INTO credits.spending_limits VALUES ('{}', NULL)", user(1)));
        ask(&mut other, way, 1, dec!(1_000_000), "without end").unwrap();
    }
}

/// A change of the limit inside its commit: whoever asks meanwhile decides after it.
#[test]
fn a_limit_that_is_lowered_inside_a_commit() {
    let db = database_with(dec!(1));
    let (mut changes, mut first) = (session(&db), session(&db));
    changes.run(&format!("INSERT INTO credits.spending_limits VALUES ('{}', 1000)", user(1)));
    ask(&mut first, "charge", 1, dec!(1), "first").unwrap();
    let asks = asking(&db, "charge", dec!(6), "asks");
    changes.run("BEGIN; UPDATE credits.spending_limits SET overdraft_limit = 5");
    let held = db.hold_commit(changes);
    commit_behind(&db, asks, held).refused("LC001");
    assert_available(&db, dec!(0));
}

/// Stops the commit of `asks` in the middle of its pass over many holds, and has another run a statement then. `None` if the pass
/// was over before it could be stopped.
fn while_holds_are_passed(
    db: &Database,
    asks: Session,
    other: Session,
    sql: &'static str,
) -> Option<Result<(), Error>> {
    let committing = asks.background(|session| session.try_run("COMMIT"));
    let pid = committing.pid();
    db.until(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND locktype = 'advisory' AND objsubid = 193)
                OR EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND state = 'idle')",
        &[&pid],
    );
    let paused = db.cluster().pause(pid);
    let is_in_time = db.has_a_stripe(pid, "ShareLock");
    if is_in_time {
        let running = other.background(move |session| session.run(sql));
        running.wait_at_most(PATIENCE);
        drop(paused);
        let _ = running.finish();
    } else {
        drop(paused);
    }
    let committed = committing.finish().1;
    is_in_time.then_some(committed)
}

/// A commit that asks for what a hold has that another session moves while the commit passes over holds.
fn beside_a_hold_that_moves(
    db: &Database,
    change: &'static str,
    mover: impl FnOnce(&Database) -> Session,
) -> Option<()> {
    // Far below zero: nobody has to look because of that, and the capture waits for nobody.
    let mut setting = db.connect();
    setting.run(&format!("INSERT INTO credits.spending_limits VALUES ('{}', 1000)", user(1)));
    setting.charge(user(1), dec!(1000));
    setting.run(&format!(
        "INSERT INTO credits.holds (source_id, user_id, amount, expires_at)
         SELECT 'small ' || n, '{}', 0.0001, now() + '1 hour' FROM generate_series(1, 20000) n",
        user(1)
    ));
    let asks = asking(db, "charge", dec!(10), "asks");
    // The last one of the index.
    setting.run(&format!("SELECT credits.create_hold('{}', 10, 'big', '29 days')", user(1)));
    while_holds_are_passed(db, asks, mover(db), change)?.refused("LC001");
    assert_available(db, dec!(-994));
    Some(())
}

/// A pass over two tables is no snapshot. A hold that is moved behind it, or becomes usage, is taken all the same.
#[test]
fn a_hold_that_moves_while_holds_are_passed() {
    for change in ["SELECT credits.extend_hold('big', '1 minute')", "SELECT credits.capture_hold('big')"] {
        let stopped = (0..20).find_map(|_| {
            let db = database_with(dec!(18));
            beside_a_hold_that_moves(&db, change, session)
        });
        stopped.expect("one of 20 passes is stopped in time");
    }
}

/// So is one that is moved by a session that cannot count.
#[test]
fn a_hold_that_moves_uncounted_while_holds_are_passed() {
    let cluster = Cluster::start_with_memory_files();
    let stopped = (0..20).find_map(|_| {
        let db = Database::create_in(&cluster);
        db.connect().grant(user(1), dec!(18));
        let cannot_count = |db: &Database| {
            let mut session = session(db);
            let _sealed = cluster.forbid_memory();
            // So often that it does not soon try again to attach to shared memory.
            for _ in 0..70 {
                session.balance(user(1));
            }
            session
        };
        beside_a_hold_that_moves(&db, "SELECT credits.extend_hold('big', '1 minute')", cannot_count)
    });
    stopped.expect("one of 20 passes is stopped in time");
}

/// An account that was covered when the commit shared the stripe is looked at again where it had to let the stripe go.
#[test]
fn accounts_of_a_stripe_that_was_let_go() {
    let db = database_with(dec!(10));
    let neighbour = (2..).find(|&number| stripe_of(user(number)) == stripe_of(user(1))).unwrap();
    db.connect().grant(user(neighbour), dec!(10));
    // The neighbour is in doubt, and takes long to read.
    let doubt = using(&db, neighbour, dec!(100));
    let mut asks = asking(&db, "charge", dec!(6), "asks");
    asks.write_many(user(neighbour));
    ask(&mut asks, "charge", neighbour, dec!(1), "neighbour").unwrap();
    let committing = asks.background(|session| session.try_run("COMMIT"));
    db.until_it_has_a_stripe(committing.pid(), "ShareLock");
    let paused = db.cluster().pause(committing.pid());
    let other = session(&db);
    let pid = other.pid();
    let asking = other.background(|session| ask(session, "charge", 1, dec!(6), "other"));
    db.until_blocked(pid);
    drop(paused);
    let [first, second] = [committing.finish().1, asking.finish().1];
    match (first, second) {
        (Ok(()), refused) | (refused, Ok(())) => refused.refused("LC001"),
        (first, second) => panic!("one of them is covered: {first:?}, {second:?}"),
    };
    assert_available(&db, dec!(4));
    drop(doubt);
}
