//! Crossings that no transaction alone would make, step by step.

use credits_ledger_tests::listener::{CROSSING_CHANNEL, crossing};
use credits_ledger_tests::{Database, Decimal, Direction, HeldCommit, Listener, Session, Uuid, dec, user};

use Direction::{Down, Up};

/// A database where user 1 has this balance.
fn database_with(balance: Decimal) -> (Database, Listener) {
    // A held commit makes the notifications of the whole cluster wait.
    let db = Database::create_alone();
    let mut session = db.connect();
    session.grant(user(1), dec!(100));
    session.charge(user(1), dec!(100) - balance);
    let listener = db.listen();
    (db, listener)
}

/// A session with an open transaction that changes user 1's balance.
fn begin(db: &Database, change: Decimal) -> Session {
    let mut session = db.connect();
    // Whoever waits for longer than that waits for something that this test holds.
    session.run("SET lock_timeout = '50s'; BEGIN");
    apply(&mut session, user(1), change);
    session
}

fn apply(session: &mut Session, user: Uuid, change: Decimal) {
    let kind = if change > Decimal::ZERO { "admin_grant" } else { "usage" };
    session.insert(user, kind, change.abs()).unwrap();
}

/// The crossings since the last look, with the session that announced each.
fn announced(listener: &mut Listener) -> Vec<(Uuid, Direction, i32)> {
    let notifications = listener.drain();
    let crossings = notifications.iter().filter(|n| n.channel == CROSSING_CHANNEL);
    crossings
        .map(|n| {
            let (user, direction) = crossing(&n.payload);
            (user, direction, n.pid)
        })
        .collect()
}

/// Both transactions are open at once, and commit one after the other: the second makes the crossing.
#[test]
fn two_that_only_together_cross() {
    for (balance, change, direction) in [(dec!(-15), dec!(10), Up), (dec!(15), dec!(-10), Down)] {
        let (db, mut listener) = database_with(balance);
        let (mut first, mut second) = (begin(&db, change), begin(&db, change));
        first.run("COMMIT");
        assert_eq!(announced(&mut listener), []);
        second.run("COMMIT");
        assert_eq!(announced(&mut listener), [(user(1), direction, second.pid())]);
        second.assert_sound();
    }
}

/// The first is in the middle of its commit when the second wants to know its outcome: the second waits for it.
#[test]
fn two_that_only_together_cross_and_commit_at_once() {
    for (balance, change, direction) in [(dec!(-15), dec!(10), Up), (dec!(15), dec!(-10), Down)] {
        for second_writes_before_the_first_settles in [true, false] {
            let (db, mut listener) = database_with(balance);
            let first = begin(&db, change);
            let (held, second) = if second_writes_before_the_first_settles {
                let second = begin(&db, change);
                (db.hold_commit(first), second)
            } else {
                let held = db.hold_commit(first);
                (held, begin(&db, change))
            };
            let pid = second.pid();
            let committing = second.background(|session| session.try_run("COMMIT"));
            db.until_blocked(pid);
            assert_eq!(announced(&mut listener), [], "neither is visible yet");
            held.release();
            let (mut second, committed) = committing.finish();
            committed.unwrap();
            assert_eq!(announced(&mut listener), [(user(1), direction, pid)]);
            second.assert_sound();
        }
    }
}

/// Three, of which the last alone makes the crossing, whichever it is.
#[test]
fn three_that_only_together_cross() {
    for (balance, change, direction) in [(dec!(-25), dec!(10), Up), (dec!(25), dec!(-10), Down)] {
        let (db, mut listener) = database_with(balance);
        let [first, second, third] = [(); 3].map(|()| begin(&db, change));
        let pids = [second.pid(), third.pid()];
        // A change of checkpoints by hand: nobody knows any more how far the user is from zero, and each has to look.
        db.connect().run("UPDATE credits.user_balance_checkpoints SET updated_at = updated_at");
        let held = db.hold_commit(first);
        let committing =
            [second, third].map(|session| session.background(|session| session.try_run("COMMIT")));
        for pid in pids {
            db.until_blocked(pid);
        }
        held.release();
        for commit in committing {
            commit.finish().1.unwrap();
        }
        let crossings = announced(&mut listener);
        assert!(
            crossings.len() == 1 && crossings[0].1 == direction && pids.contains(&crossings[0].2),
            "{crossings:?}"
        );
        db.connect().assert_sound();
    }
}

/// Both cross when alone; together they do not. Who comes second takes back what the first announced.
#[test]
fn two_that_undo_each_other() {
    let (db, mut listener) = database_with(dec!(5));
    let (down, up) = (begin(&db, dec!(-10)), begin(&db, dec!(10)));
    let pids = [down.pid(), up.pid()];
    let held = db.hold_commit(down);
    let committing = up.background(|session| session.try_run("COMMIT"));
    db.until_blocked(pids[1]);
    held.release();
    committing.finish().1.unwrap();
    assert_eq!(announced(&mut listener), [(user(1), Down, pids[0]), (user(1), Up, pids[1])]);
    db.connect().assert_sound();
}

/// What another transaction has in flight and never commits decides nothing.
#[test]
fn an_abort_beside_a_commit() {
    for (balance, in_flight, own) in [(dec!(5), dec!(-10), dec!(-1)), (dec!(-5), dec!(10), dec!(1))] {
        let (db, mut listener) = database_with(balance);
        let (mut aborting, mut committing) = (begin(&db, in_flight), begin(&db, own));
        // Nobody waits for the application of the other.
        committing.run("COMMIT");
        assert_eq!(announced(&mut listener), []);
        aborting.run("ROLLBACK");
        assert_eq!(announced(&mut listener), []);
        assert_eq!(committing.balance(user(1)), balance + own);
        // The state was left as it was: the next one that crosses says so.
        apply(&mut committing, user(1), -balance - own - balance);
        let direction = if balance > Decimal::ZERO { Down } else { Up };
        assert_eq!(announced(&mut listener), [(user(1), direction, committing.pid())]);
        committing.assert_sound();
    }
}

/// The one that would have crossed aborts after another has committed on the strength of it.
#[test]
fn an_abort_of_the_one_that_would_cross_back() {
    let (db, mut listener) = database_with(dec!(5));
    let (mut up, mut down) = (begin(&db, dec!(10)), begin(&db, dec!(-10)));
    down.run("COMMIT");
    assert_eq!(announced(&mut listener), [(user(1), Down, down.pid())]);
    up.run("ROLLBACK");
    assert_eq!(announced(&mut listener), []);
    down.assert_sound();
}

/// Far from zero nobody waits, not even for one that is inside its commit.
#[test]
fn far_from_zero_no_one_waits() {
    let (db, mut listener) = database_with(dec!(50));
    let held: Vec<HeldCommit> = (0..4).map(|_| db.hold_commit(begin(&db, dec!(-1)))).collect();
    for _ in 0..10 {
        let mut session = begin(&db, dec!(-1));
        session.run("COMMIT");
    }
    assert_eq!(db.connect().balance(user(1)), dec!(40));
    for commit in held {
        commit.release();
    }
    assert_eq!(db.connect().balance(user(1)), dec!(36));
    assert_eq!(announced(&mut listener), []);
    db.connect().assert_sound();
}

/// One large charge is left open: the user's commits take longer, none waits for it, and none is missed.
#[test]
fn a_large_charge_left_open() {
    let (db, mut listener) = database_with(dec!(50));
    let mut left_open = begin(&db, dec!(-1000));
    for _ in 0..5 {
        let mut session = begin(&db, dec!(-9));
        session.run("COMMIT");
    }
    assert_eq!(announced(&mut listener), []);
    let mut last = begin(&db, dec!(-9));
    last.run("COMMIT");
    assert_eq!(announced(&mut listener), [(user(1), Down, last.pid())]);
    left_open.run("COMMIT");
    assert_eq!(announced(&mut listener), []);
    last.assert_sound();
}

/// Whoever is woken by a notification already sees the new side.
#[test]
fn a_woken_reader_sees_the_new_side() {
    let (db, mut listener) = database_with(dec!(-5));
    db.connect().run("CREATE TABLE looked (round int)");
    let rounds = 60;
    let writer = db.connect().background(move |session| {
        for round in 0..rounds {
            apply(session, user(1), if round % 2 == 0 { dec!(10) } else { dec!(-10) });
            // Not before the reader has looked.
            while session.value::<i64>("SELECT count(*) FROM looked", &[]) <= round {}
        }
    });
    for round in 0..rounds {
        let direction = loop {
            let notification = listener.wait();
            if notification.channel == CROSSING_CHANNEL {
                break crossing(&notification.payload).1;
            }
        };
        let query = "SELECT balance > 0, is_positive, crossed_at > now() - '1 hour'::interval FROM credits.balances WHERE user_id = $1";
        let row = listener.session().query_one(query, &[&user(1)]).unwrap();
        let seen: (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
        let up = round % 2 == 0;
        assert_eq!((direction, seen), (if up { Up } else { Down }, (up, up, true)), "round {round}");
        listener.session().run("INSERT INTO looked VALUES (1)");
    }
    let _ = writer.finish();
}
