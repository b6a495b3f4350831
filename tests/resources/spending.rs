//! Very many holds, captures, charges and reversals in one session, and in the savepoints of one transaction.

use credits_ledger_tests::{Decimal, Refused, Session, user};

use crate::footprint::{
    Memory, assert_nothing_held, assert_nothing_left, most_memory_during, quiet_database,
};
use crate::long_session::transactions;

const KILOBYTE: i64 = 1024;
const MEGABYTE: i64 = 1024 * KILOBYTE;

/// Gives each account far more than it will use.
fn buy(session: &mut Session, accounts: u32) {
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         SELECT md5(n::text)::uuid, 'purchase', 1000000, 'purchase ' || n FROM generate_series(1, {accounts}) n"
    ));
}

/// Transactions that hold and capture, release, extend, charge, take back and are refused; a few roll back.
fn spend(session: &mut Session, count: u32, name: &str) {
    session.run(&format!(
        "DO $$
         DECLARE
             account uuid;
             charged credits.credit_transaction;
         BEGIN
             FOR n IN 1..{count} LOOP
                 account := md5((1 + n % 1000)::text)::uuid;
                 PERFORM credits.create_hold(account, 1 + n % 3, '{name}-' || n);
                 IF n % 2 = 0 THEN
                     COMMIT;
                 END IF;
                 IF n % 10 = 0 THEN
                     PERFORM credits.extend_hold('{name}-' || n, '2 hours');
                 END IF;
                 IF n % 7 = 0 THEN
                     PERFORM credits.release_hold('{name}-' || n);
                     charged := credits.charge(account, 1, '{name}-' || n);
                 ELSE
                     charged := credits.capture_hold('{name}-' || n, 1);
                 END IF;
                 IF n % 5 = 0 THEN
                     PERFORM credits.reverse_transaction(charged.id, '{name}-back-' || n, 0.5);
                 END IF;
                 IF n % 50 = 0 THEN
                     ROLLBACK;
                 ELSE
                     COMMIT;
                 END IF;
             END LOOP;
         END $$"
    ));
    for _ in 0..count / 100 {
        let refused = format!("SELECT credits.create_hold('{}', 1, 'never')", user(1));
        session.try_run(&refused).refused("LC001");
    }
}

#[test]
fn very_many_holds_leave_nothing_behind() {
    let db = quiet_database();
    let mut session = db.connect();
    buy(&mut session, 1000);
    let half = transactions() / 2;
    spend(&mut session, half, "first");
    let middle = Memory::of(&mut session);
    spend(&mut session, half, "second");
    let end = Memory::of(&mut session);
    println!("{middle:?}, and {end:?} after {half} more holds");
    assert!(end.contexts - middle.contexts < 256 * KILOBYTE, "{middle:?} became {end:?}");
    // What a hold leaves behind would be more than 50 bytes; the C library keeps a megabyte or so, now and then.
    let most = 2 * MEGABYTE + 50 * i64::from(half);
    assert!(end.process - middle.process < most, "{middle:?} became {end:?}");
    assert_nothing_held(&db, &session);
    assert_nothing_left(&db);
    let held: i64 = session.value("SELECT count(*) FROM credits.holds", &[]);
    // Those whose capture was rolled back.
    assert_eq!(held, i64::from(2 * (half / 50)));
    session.assert_sound();
}

/// Every hold and every charge is made in a savepoint of its own, and every second savepoint is rolled back.
#[test]
fn very_many_savepoints_that_hold() {
    // Each that is not rolled back has an entry in the server's lock table.
    const SAVEPOINTS: u32 = 6000;
    let db = quiet_database();
    let mut session = db.connect();
    buy(&mut session, 100);
    let hold = |name: &str| {
        format!(
            "DO $$ BEGIN
                 FOR n IN 1..{SAVEPOINTS} LOOP
                     BEGIN
                         IF n % 3 = 0 THEN
                             PERFORM credits.charge(md5((1 + n % 100)::text)::uuid, 1, '{name}-' || n);
                         ELSE
                             PERFORM credits.create_hold(md5((1 + n % 100)::text)::uuid, 1, '{name}-' || n);
                         END IF;
                         IF n % 2 = 0 THEN RAISE 'rolled back' USING ERRCODE = 'LC999'; END IF;
                     EXCEPTION WHEN SQLSTATE 'LC999' THEN
                     END;
                 END LOOP;
             END $$"
        )
    };
    let mut after = Vec::new();
    for name in ["first", "second"] {
        let before = Memory::of(&mut session);
        let (most, ()) = most_memory_during(&mut session, |session| session.run(&hold(name)));
        after.push(Memory::of(&mut session));
        println!("{name}: {before:?}, {most} at most, then {after:?}");
        assert!(most - before.process < 50 * MEGABYTE, "{most} is far more than {before:?}");
    }
    assert!(after[1].contexts - after[0].contexts < 256 * KILOBYTE, "{after:?}");
    assert!(after[1].process - after[0].process < MEGABYTE, "{after:?}");
    // Exactly those count that are there.
    let taken: Decimal = session.value("SELECT sum(1000000 - available) FROM credits.balances", &[]);
    assert_eq!(taken, Decimal::from(SAVEPOINTS));
    assert_nothing_held(&db, &session);
    assert_nothing_left(&db);
    session.assert_sound();
}
