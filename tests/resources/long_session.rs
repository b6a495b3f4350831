//! Very many transactions in one session.

use credits_ledger_tests::{Session, asked_for};

use crate::footprint::{Memory, assert_nothing_held, assert_nothing_left, quiet_database};

/// So many that the session meets each in the first half of the transactions: what it remembers of them does not grow afterwards.
const USERS: u32 = 6000;

/// `CREDITS_LEDGER_TRANSACTIONS` asks for more.
pub fn transactions() -> u32 {
    asked_for("CREDITS_LEDGER_TRANSACTIONS", 20_000)
}

/// Transactions of one row each, over all users in turn; every third crosses zero, every fifth reads, a few roll back.
fn transact(session: &mut Session, count: u32, name: &str) {
    session.run(&format!(
        "DO $$
         DECLARE
             account uuid;
         BEGIN
             FOR n IN 1..{count} LOOP
                 account := md5((n % {USERS})::text)::uuid;
                 INSERT INTO credits.credits_transactions
                     (user_id, transaction_type, amount, source_id, fusillade_batch_id)
                 VALUES (account, CASE n % 2 WHEN 0 THEN 'usage' ELSE 'purchase' END, 1 + n % 3, '{name}-' || n,
                         CASE n % 4 WHEN 0 THEN account END);
                 IF n % 5 = 0 THEN
                     PERFORM credits.get_user_balance(account), credits.sum_recent_transactions(account, 10);
                     PERFORM FROM credits.list_transactions_with_batches(account);
                 END IF;
                 IF n % 50 = 0 THEN
                     ROLLBACK;
                 ELSE
                     COMMIT;
                 END IF;
             END LOOP;
         END $$"
    ));
}

#[test]
fn very_many_transactions_leave_nothing_behind() {
    let db = quiet_database();
    let mut session = db.connect();
    session.run("SET credits_ledger.checkpoint_interval = 3");
    let half = transactions() / 2;
    transact(&mut session, half, "first");
    let middle = Memory::of(&mut session);
    transact(&mut session, half, "second");
    let end = Memory::of(&mut session);
    println!("{middle:?}, and {end:?} after {half} more transactions");
    assert!(end.contexts - middle.contexts < 256 * 1024, "{middle:?} became {end:?}");
    assert!(end.process - middle.process < 4 * 1024 * 1024, "{middle:?} became {end:?}");
    assert_nothing_held(&db, &session);
    assert_nothing_left(&db);
    let recorded: i64 = session.value("SELECT count(*) FROM credits.credits_transactions", &[]);
    assert_eq!(recorded, i64::from(2 * (half - half / 50)));
    session.assert_sound();
    db.connect().run("SET credits_ledger.allow_drop = on; DROP EXTENSION credits_ledger");
}
