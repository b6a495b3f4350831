//! PREPARE TRANSACTION blocks no one and announces nothing; the user's next settlement does.

use credits_ledger_tests::database::PATIENCE;
use credits_ledger_tests::{Database, Direction, Session, dec, stripe_of, user};

use Direction::{Down, Up};

/// A transaction id for PREPARE that no other test uses.
fn prepare(db: &Database, session: &mut Session, number: u32) -> String {
    let gid = format!("'{}_{number}'", db.name());
    session.run(&format!("PREPARE TRANSACTION {gid}"));
    gid
}

#[test]
fn a_prepared_crossing_is_announced_by_the_next_write() {
    let db = Database::create();
    let (mut session, mut other) = (db.connect(), db.connect());
    let mut listener = db.listen();
    session.grant(user(1), dec!(5));
    session.grant(user(2), dec!(5));
    listener.drain();
    session.run("BEGIN");
    session.charge(user(1), dec!(10));
    session.charge(user(2), dec!(10));
    let gid = prepare(&db, &mut session, 1);
    assert_eq!(other.stripe_locks(), 0);
    // The stripe is free, and nothing of the prepared transaction is left in the session.
    session.charge(user(1), dec!(1));
    other.charge(user(1), dec!(1));
    assert_eq!(listener.drain(), []);
    assert_eq!(other.balance(user(1)), dec!(3));
    other.assert_sound();

    other.run(&format!("COMMIT PREPARED {gid}"));
    assert_eq!(listener.drain(), []);
    assert_eq!(other.balance(user(1)), dec!(-7));
    // Until then it is reported.
    let unannounced: i64 = other.value("SELECT count(*) FROM credits.verify_ledger()", &[]);
    assert_eq!(unannounced, 2);
    let announced: bool =
        other.value("SELECT bool_and(is_positive) AND bool_and(balance <= 0) FROM credits.balances", &[]);
    assert!(announced, "the view says what was announced, and what is true");

    other.charge(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    other.refresh(user(2));
    assert_eq!(listener.crossings(), [(user(2), Down)]);
    other.refresh(user(2));
    assert_eq!(listener.drain(), []);
    other.assert_sound();
}

/// A customer whose first purchase is prepared is let in by the account's next settlement, whatever asks for it.
#[test]
fn first_rows_that_are_prepared_are_announced_by_the_next_write() {
    let db = Database::create();
    let (mut session, mut other) = (db.connect(), db.connect());
    let mut listener = db.listen();
    session.run("BEGIN");
    (1..=3).for_each(|number| session.grant(user(number), dec!(10)));
    let gid = prepare(&db, &mut session, 1);
    // Sees the prepared rows in flight, and decides without them.
    other.charge(user(3), dec!(1));
    other.run(&format!("COMMIT PREPARED {gid}"));
    assert_eq!(listener.drain(), []);

    other.charge(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Up)]);
    other.refresh(user(2));
    assert_eq!(listener.crossings(), [(user(2), Up)]);
    other.charge(user(3), dec!(1));
    assert_eq!(listener.crossings(), [(user(3), Up)]);
    (1..=3).for_each(|number| other.refresh(user(number)));
    assert_eq!(listener.drain(), []);
    other.assert_sound();
}

#[test]
fn a_new_user_by_two_phases() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    session.run("BEGIN");
    session.grant(user(1), dec!(5));
    let gid = prepare(&db, &mut session, 1);
    assert_eq!(session.balance(user(1)), dec!(0));
    session.run(&format!("COMMIT PREPARED {gid}"));
    assert_eq!(session.balance(user(1)), dec!(5));
    session.assert_sound();
    // No state was ever announced: the rows are all there is to go by.
    let positive: bool = session.value("SELECT is_positive FROM credits.balances", &[]);
    assert!(positive);
    session.refresh(user(1));
    session.assert_sound();
    listener.drain();
    session.charge(user(1), dec!(5));
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    session.assert_sound();
}

#[test]
fn a_prepared_transaction_rolled_back_leaves_nothing() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(5));
    let mut listener = db.listen();
    session.run("BEGIN");
    session.charge(user(1), dec!(10));
    session.grant(user(2), dec!(10));
    let gid = prepare(&db, &mut session, 1);
    session.run(&format!("ROLLBACK PREPARED {gid}"));
    session.refresh(user(1));
    session.refresh(user(2));
    assert_eq!(listener.drain(), []);
    assert_eq!(session.balance(user(1)), dec!(5));
    session.assert_sound();
}

/// What was asked for in a prepared transaction is not done in the session's next one.
#[test]
fn nothing_leaks_into_the_next_transaction() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    session.charge(user(1), dec!(1));
    session.charge(user(2), dec!(1));
    session.run("BEGIN");
    session.grant(user(1), dec!(5));
    session.refresh(user(1));
    let gid = prepare(&db, &mut session, 1);
    session.charge(user(2), dec!(1));
    session.run(&format!("COMMIT PREPARED {gid}"));
    session.charge(user(2), dec!(1));
    assert_eq!(listener.drain(), []);
    session.grant(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Up)]);
    session.assert_sound();
}

/// Commits a session's transaction, and stops that while it has its stripe for itself: nearly all that it does then is to
/// read. Meanwhile, another session runs statements. The commit goes on even if it has what they wait for.
fn commit_while_a_settlement_reads(
    db: &Database,
    committing: Session,
    other: Session,
    meanwhile: Vec<String>,
) -> Session {
    let committing = committing.background(|session| session.try_run("COMMIT"));
    db.until_it_has_a_stripe(committing.pid(), "ExclusiveLock");
    let paused = db.cluster().pause(committing.pid());
    let running = other.background(move |session| meanwhile.iter().for_each(|sql| session.run(sql)));
    running.wait_at_most(PATIENCE);
    drop(paused);
    committing.finish().1.unwrap();
    running.finish().0
}

/// COMMIT PREPARED waits for no stripe. A settlement that is stopped in the middle of a delta, with a grant behind it and a
/// charge still ahead that then become visible, has seen both or neither: between the two there was never a crossing.
#[test]
fn rows_that_are_committed_while_a_settlement_reads_are_of_one_snapshot() {
    let db = Database::create_alone();
    let (mut session, mut long) = (db.connect(), db.connect());
    session.grant(user(1), dec!(5));
    let mut listener = db.listen();
    session.run("BEGIN");
    session.grant(user(1), dec!(10));
    let grant = prepare(&db, &mut session, 1);
    long.run("BEGIN");
    long.run("SELECT pg_current_xact_id()");
    session.run("BEGIN");
    session.charge(user(1), dec!(10));
    let charge = prepare(&db, &mut session, 2);
    // Between the two, in the order of the index.
    long.write_many(user(1));
    let both = [grant, charge].map(|gid| format!("COMMIT PREPARED {gid}"));
    let mut session = commit_while_a_settlement_reads(&db, long, session, both.into());
    assert_eq!(listener.drain(), []);
    assert_eq!(session.balance(user(1)), dec!(5));
    session.assert_sound();
}

/// The same with what another session has folded meanwhile: as far as the oldest transaction that is open, and so without the one of
/// the two that has come after it.
#[test]
fn what_is_folded_while_a_settlement_reads_does_not_decide() {
    let db = Database::create_alone();
    let (mut session, mut repairing, mut crossing) = (db.connect(), db.connect(), db.connect());
    let stripe = |number| stripe_of(user(number));
    let neighbour = (2..).find(|&number| stripe(number) == stripe(1)).unwrap();
    session.grant(user(1), dec!(5));
    session.grant(user(neighbour), dec!(5));
    let mut listener = db.listen();
    session.run("BEGIN");
    session.charge(user(neighbour), dec!(10));
    let charge = prepare(&db, &mut session, 1);
    // The settlement stops at this checkpoint when it writes: between its snapshot and the delta of the neighbour.
    repairing.run("BEGIN");
    repairing.run(&format!("DELETE FROM credits.user_balance_checkpoints WHERE user_id = '{}'", user(1)));
    session.run("BEGIN");
    session.grant(user(neighbour), dec!(10));
    let grant = prepare(&db, &mut session, 2);
    crossing.run("BEGIN");
    crossing.charge(user(1), dec!(6));
    crossing.charge(user(neighbour), dec!(1));
    let crossing = crossing.background(|session| session.try_run("COMMIT"));
    db.until_it_has_a_stripe(crossing.pid(), "ExclusiveLock");
    db.until_blocked(crossing.pid());
    for gid in [grant, charge] {
        session.run(&format!("COMMIT PREPARED {gid}"));
    }
    assert_eq!(session.balance(user(neighbour)), dec!(5));
    repairing.run("ROLLBACK");
    crossing.finish().1.unwrap();
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    assert_eq!(session.balance(user(neighbour)), dec!(4));
    session.assert_sound();
}

/// A transaction stays prepared while thousands of others commit: it is a straggler like any other.
#[test]
fn checkpoints_pass_a_prepared_transaction_by() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(1000));
    session.run("BEGIN");
    session.charge(user(1), dec!(0.5));
    let prepared: String = session.value("SELECT pg_current_xact_id()::text", &[]);
    let gid = prepare(&db, &mut session, 1);
    for _ in 0..400 {
        session.charge(user(1), dec!(1));
    }
    session.refresh(user(1));
    let listed: bool = session.value(
        "SELECT $2::text::xid8 = ANY (stragglers) FROM credits.user_balance_checkpoints WHERE user_id = $1",
        &[&user(1), &prepared],
    );
    assert!(listed);
    assert_eq!(session.balance(user(1)), dec!(600));
    session.assert_sound();
    session.run(&format!("COMMIT PREPARED {gid}"));
    assert_eq!(session.balance(user(1)), dec!(599.5));
    session.refresh(user(1));
    session.assert_sound();
}
