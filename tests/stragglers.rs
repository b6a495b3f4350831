//! A transaction left open anywhere in the cluster does not stop checkpoints.

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::{Database, Decimal, Refused, Session, Uuid, dec, user};
use ledger::coverage::MAX_STRAGGLERS;
use postgres::error::SqlState;

/// Rows that the user's checkpoint does not cover.
fn uncovered(session: &mut Session, user: Uuid) -> i64 {
    session.value(
        "SELECT count(*) FROM credits.credits_transactions t JOIN credits.user_balance_checkpoints c USING (user_id)
         WHERE user_id = $1 AND (t.xact_id >= c.watermark OR t.xact_id = ANY (c.stragglers))",
        &[&user],
    )
}

fn is_straggler(session: &mut Session, user: Uuid, xact_id: &str) -> bool {
    session.value(
        "SELECT $2::text::xid8 = ANY (stragglers) FROM credits.user_balance_checkpoints WHERE user_id = $1",
        &[&user, &xact_id],
    )
}

fn xact_id(session: &mut Session) -> String {
    session.value("SELECT pg_current_xact_id()::text", &[])
}

#[test]
fn a_writer_left_idle_is_passed_by() {
    let db = Database::create();
    let (mut idle, mut writer) = (db.connect(), db.connect());
    writer.grant(user(1), dec!(10000));
    idle.run("BEGIN");
    idle.grant(user(1), dec!(7));
    idle.run("SAVEPOINT s");
    idle.charge_batch(user(1), Uuid::from_u128(1), dec!(0.5));
    let left_open = xact_id(&mut idle);
    let mut most = 0;
    for round in 0..3000 {
        if round % 2 == 0 {
            writer.charge_batch(user(1), Uuid::from_u128(round % 7), dec!(1));
        } else {
            writer.charge(user(1), dec!(1));
        }
        if round % 100 == 99 {
            most = most.max(uncovered(&mut writer, user(1)));
        }
    }
    // Twice the interval, and as many ids as an open transaction of another test may hold a watermark back.
    let interval: i64 =
        writer.value("SELECT current_setting('credits_ledger.checkpoint_interval')::bigint", &[]);
    assert!(most <= 2 * interval + 512, "{most} rows were not covered");
    writer.refresh(user(1));
    assert!(is_straggler(&mut writer, user(1), &left_open));
    assert_eq!(writer.balance(user(1)), dec!(7000));
    assert_eq!(idle.balance(user(1)), dec!(7006.5));
    writer.assert_sound();

    idle.run("COMMIT");
    // Covered by no checkpoint yet, and counted.
    assert!(is_straggler(&mut writer, user(1), &left_open));
    assert_eq!(writer.balance(user(1)), dec!(7006.5));
    writer.assert_sound();

    writer.refresh(user(1));
    assert!(!is_straggler(&mut writer, user(1), &left_open));
    assert_eq!(writer.balance(user(1)), dec!(7006.5));
    writer.assert_sound();
}

#[test]
fn a_straggler_that_rolls_back_leaves_nothing() {
    let db = Database::create();
    let (mut idle, mut writer) = (db.connect(), db.connect());
    idle.run("BEGIN");
    idle.grant(user(1), dec!(1000));
    let left_open = xact_id(&mut idle);
    for _ in 0..300 {
        writer.grant(user(1), dec!(1));
    }
    writer.refresh(user(1));
    assert!(is_straggler(&mut writer, user(1), &left_open));
    idle.run("ROLLBACK");
    assert_eq!(writer.balance(user(1)), dec!(300));
    // Forgotten with the next row that is folded.
    writer.grant(user(1), dec!(1));
    writer.refresh(user(1));
    assert!(!is_straggler(&mut writer, user(1), &left_open));
    assert_eq!(writer.balance(user(1)), dec!(301));
    writer.assert_sound();
}

/// The transaction itself, which passes by its own rows where it asks what others have left, takes no row for another's twice.
#[test]
fn a_straggler_may_charge_what_there_is() {
    let db = Database::create();
    let (mut idle, mut writer) = (db.connect(), db.connect());
    idle.run("BEGIN");
    idle.charge(user(1), dec!(5));
    let left_open = xact_id(&mut idle);
    for _ in 0..300 {
        writer.grant(user(1), dec!(1));
    }
    writer.refresh(user(1));
    assert!(is_straggler(&mut writer, user(1), &left_open));
    let charge = |session: &mut Session, amount| {
        session.try_run(&format!("SAVEPOINT s; SELECT credits.charge('{}', {amount}, '{amount}')", user(1)))
    };
    charge(&mut idle, dec!(295.01)).refused("LC001");
    idle.run("ROLLBACK TO s");
    charge(&mut idle, dec!(295)).unwrap();
    idle.run("COMMIT");
    assert_eq!(writer.balance(user(1)), dec!(0));
    writer.assert_sound();
}

/// Sessions that were all left in a transaction, a few on every isolation level.
struct Pool(Vec<Member>);

struct Member {
    session: Session,
    /// What it adds to the balance of user 1.
    own: Decimal,
    /// Whether it goes on seeing what it saw first.
    is_settled_on_a_snapshot: bool,
}

impl Pool {
    fn leave_open(db: &Database, members: usize) -> Self {
        let member = |number: usize| {
            let mut session = db.connect();
            let is_settled_on_a_snapshot = number.is_multiple_of(3);
            // No more than one: two that have looked and written could not both commit.
            let isolation = match (number, is_settled_on_a_snapshot) {
                (0, _) => "SERIALIZABLE",
                (_, true) => "REPEATABLE READ",
                (_, false) => "READ COMMITTED",
            };
            session.run(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT pg_current_xact_id()"));
            let mut own = Decimal::ZERO;
            let written = number % 4;
            if written > 0 {
                session.grant(user(1), dec!(10));
                own += dec!(10);
            }
            if written > 1 {
                session.run("SAVEPOINT s");
                session.charge_batch(user(1), Uuid::from_u128(1), dec!(0.5));
                own -= dec!(0.5);
            }
            Member { session, own, is_settled_on_a_snapshot }
        };
        Self((0..members).map(member).collect())
    }

    fn assert_balances(&mut self, at_first: Decimal, now: Decimal) {
        for Member { session, own, is_settled_on_a_snapshot } in &mut self.0 {
            let of_others = if *is_settled_on_a_snapshot { at_first } else { now };
            assert_eq!(session.balance(user(1)), of_others + *own);
        }
    }
}

/// Uses up transaction ids, as others that commit would.
fn move_on(session: &mut Session, ids: usize) {
    session.run(&format!(
        "CREATE TEMP TABLE IF NOT EXISTS moves (id int);
         DO $$ BEGIN
             FOR id IN 1..{ids} LOOP
                 BEGIN INSERT INTO moves VALUES (id); EXCEPTION WHEN others THEN RAISE; END;
             END LOOP;
         END $$;
         DROP TABLE moves"
    ));
}

/// However many sessions are left open, deltas stay short and balances exact; also for those sessions, and when they end at
/// last, in another order than they began.
fn a_pool_is_left_open(members: usize) {
    let db = Database::create_in(&Cluster::start_with("max_connections = 300"));
    let (mut writer, mut past) = (db.connect(), db.connect());
    writer.grant(user(1), dec!(1000));
    past.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(past.balance(user(1)), dec!(1000));
    let mut pool = Pool::leave_open(&db, members);
    move_on(&mut writer, 8 * MAX_STRAGGLERS + 1);
    let (mut balance, mut most) = (dec!(1000), 0);
    for round in 0..300 {
        writer.charge_batch(user(1), Uuid::from_u128(round % 7), dec!(1));
        balance -= dec!(1);
        most = most.max(uncovered(&mut writer, user(1)));
    }
    let interval: i64 =
        writer.value("SELECT current_setting('credits_ledger.checkpoint_interval')::bigint", &[]);
    assert!(most <= 2 * interval, "{most} rows were not covered");
    assert_eq!(writer.balance(user(1)), balance);
    pool.assert_balances(dec!(1000), balance);
    writer.refresh(user(1));
    assert_eq!((listed(&mut writer), uncovered(&mut writer, user(1))), (members, 0));
    pool.assert_balances(dec!(1000), balance);
    writer.assert_sound();

    let mut writer_too = db.connect();
    writer_too.run("BEGIN; SELECT pg_current_xact_id()");
    for step in 0..members {
        let ends = (step * 37) % pool.0.len();
        let Member { mut session, own, .. } = pool.0.swap_remove(ends);
        if step % 3 == 0 {
            session.run("ROLLBACK");
        } else {
            session.run("COMMIT");
            balance += own;
        }
        assert_eq!(writer.balance(user(1)), balance);
        // Whoever writes does not take a fold for complete.
        assert_eq!(writer_too.balance(user(1)), balance);
        if step % 10 == 0 {
            pool.assert_balances(dec!(1000), balance);
            writer.assert_sound();
        }
        if step % 20 == 0 {
            writer.refresh(user(1));
        }
    }
    assert_eq!(past.balance(user(1)), dec!(1000));
    writer.assert_sound();
    writer_too.run("ROLLBACK");
    writer.refresh(user(1));
    assert_eq!((listed(&mut writer), uncovered(&mut writer, user(1))), (0, 0));
    writer.assert_sound();
}

/// How many stragglers the checkpoint of user 1 lists.
fn listed(session: &mut Session) -> usize {
    let listed: i32 = session.value(
        "SELECT cardinality(stragglers) FROM credits.user_balance_checkpoints WHERE user_id = $1",
        &[&user(1)],
    );
    listed.try_into().unwrap()
}

#[test]
fn a_small_pool_is_left_open() {
    a_pool_is_left_open(17);
}

#[test]
fn a_large_pool_is_left_open() {
    a_pool_is_left_open(100);
}

/// As many as may be passed by and three more: checkpoints stop at the first of these, balances stay exact, and with one less
/// checkpoints go on.
#[test]
fn more_are_left_open_than_may_be_passed_by() {
    let db = Database::create_in(&Cluster::start_with("max_connections = 300"));
    let mut writer = db.connect();
    writer.grant(user(1), dec!(1000));
    let mut pool = Pool::leave_open(&db, MAX_STRAGGLERS + 3);
    move_on(&mut writer, 8 * MAX_STRAGGLERS + 1);
    for _ in 0..150 {
        writer.grant(user(1), dec!(1));
    }
    writer.refresh(user(1));
    assert_eq!((listed(&mut writer), uncovered(&mut writer, user(1))), (MAX_STRAGGLERS, 150));
    assert_eq!(writer.balance(user(1)), dec!(1150));
    pool.assert_balances(dec!(1000), dec!(1150));
    writer.assert_sound();
    // A checkpoint is a row of one piece all the same.
    let (size, out_of_line): (i32, i64) = {
        let row = writer
            .query_one(
                "SELECT pg_column_size(c.*), pg_relation_size(nullif(reltoastrelid, 0))
                 FROM credits.user_balance_checkpoints c, pg_class k
                 WHERE k.oid = 'credits.user_balance_checkpoints'::regclass",
                &[],
            )
            .unwrap();
        (row.get(0), row.get::<_, Option<i64>>(1).unwrap_or_default())
    };
    assert!(size < 2000 && out_of_line == 0, "{size} bytes, {out_of_line} out of line");

    let mut balance = dec!(1150);
    for left in [150, 150, 0, 0] {
        let Member { mut session, own, .. } = pool.0.remove(MAX_STRAGGLERS / 2);
        session.run("COMMIT");
        balance += own;
        assert_eq!(writer.balance(user(1)), balance);
        writer.refresh(user(1));
        let expected = MAX_STRAGGLERS.min(pool.0.len());
        assert_eq!((listed(&mut writer), uncovered(&mut writer, user(1))), (expected, left));
        writer.assert_sound();
    }
    pool.assert_balances(dec!(1000), balance);
}

/// A serializable reader looks for the rows of stragglers that it does not see, or the server would not know that it has read
/// what they write.
#[test]
fn a_serializable_reader_conflicts_with_a_straggler() {
    let db = Database::create_alone();
    let (mut writer, mut idle, mut other) = (db.connect(), db.connect(), db.connect());
    for number in 1..=2 {
        writer.grant(user(number), dec!(100));
    }
    idle.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    idle.charge(user(2), dec!(1));
    let left_open = xact_id(&mut idle);
    move_on(&mut writer, 200);
    writer.grant(user(2), dec!(1));
    writer.refresh(user(2));
    assert!(is_straggler(&mut writer, user(2), &left_open));
    // Each reads what the other charges: no order of the two gives what both have read.
    assert_eq!(idle.balance(user(1)), dec!(100));
    other.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(other.balance(user(2)), dec!(101));
    other.charge(user(1), dec!(1));
    let ends = [idle.try_run("COMMIT"), other.try_run("COMMIT")];
    let refused: Vec<_> = ends.iter().filter_map(|end| end.as_ref().err()?.code()).collect();
    assert_eq!(refused, [&SqlState::T_R_SERIALIZATION_FAILURE]);
    writer.assert_sound();
}

/// A new user's first checkpoint may be made while its first writers are open.
#[test]
fn a_straggler_older_than_the_user() {
    let db = Database::create();
    let (mut idle, mut writer) = (db.connect(), db.connect());
    idle.run("BEGIN");
    let left_open = xact_id(&mut idle);
    for number in 0..200 {
        writer.grant(user(100 + number), dec!(1));
    }
    writer.grant(user(1), dec!(1));
    writer.refresh(user(1));
    assert!(is_straggler(&mut writer, user(1), &left_open));
    idle.grant(user(1), dec!(5));
    assert_eq!(writer.balance(user(1)), dec!(1));
    assert_eq!(idle.balance(user(1)), dec!(6));
    idle.run("COMMIT");
    assert_eq!(writer.balance(user(1)), dec!(6));
    writer.assert_sound();
}
