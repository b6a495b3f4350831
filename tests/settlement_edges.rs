//! Settlement where the trigger, the extension or the number of users is not as usual.

use credits_ledger_tests::{Database, Decimal, Direction, Session, dec, user};

use Direction::{Down, Up};

#[test]
fn rows_written_with_the_trigger_off_are_announced_later() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    for number in 1..=3 {
        session.charge(user(number), dec!(1));
    }
    session.run("ALTER TABLE credits.credits_transactions DISABLE TRIGGER note_transaction");
    for number in 1..=3 {
        session.grant(user(number), dec!(2));
    }
    session.run("ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER note_transaction");
    assert_eq!(listener.drain(), []);
    assert_eq!(session.balance(user(1)), dec!(1));
    // Until then it is reported.
    let unannounced: i64 = session.value("SELECT count(*) FROM credits.verify_ledger()", &[]);
    assert_eq!(unannounced, 3);
    session.grant(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Up)]);
    session.refresh(user(2));
    assert_eq!(listener.crossings(), [(user(2), Up)]);
    session.charge(user(3), dec!(1));
    // Never announced above zero, and not above zero now.
    assert_eq!(listener.drain(), []);
    session.assert_sound();
}

/// A session looks for a checkpoint first where it last found it. Meanwhile others make checkpoints anew, so that each
/// place holds another user's, rewrite the table, and shorten it.
#[test]
fn a_checkpoint_is_found_wherever_it_has_moved() {
    const USERS: u32 = 50;
    let db = Database::create();
    let (mut session, mut other) = (db.connect(), db.connect());
    for amount in [dec!(9), dec!(1)] {
        (0..USERS).for_each(|number| session.grant(user(number), amount));
    }
    other.lose_checkpoints("DELETE FROM credits.user_balance_checkpoints");
    other.run("VACUUM credits.user_balance_checkpoints");
    (0..USERS).rev().for_each(|number| other.refresh(user(number)));
    let mut listener = db.listen();
    let mut everyone_crosses = |session: &mut Session, direction: Direction| {
        for number in 0..USERS {
            match direction {
                Up => session.grant(user(number), dec!(10)),
                Down => session.charge(user(number), dec!(10)),
            }
        }
        let crossings: Vec<_> = (0..USERS).map(|number| (user(number), direction)).collect();
        assert_eq!(listener.crossings(), crossings);
        session.assert_sound();
    };

    everyone_crosses(&mut session, Down);
    other.run("UPDATE credits.user_balance_checkpoints SET updated_at = updated_at");
    other.run("VACUUM FULL credits.user_balance_checkpoints");
    everyone_crosses(&mut session, Up);
    other.lose_checkpoints("DELETE FROM credits.user_balance_checkpoints");
    other.run("VACUUM credits.user_balance_checkpoints");
    // No user has an announced side; the rows before left each above zero.
    everyone_crosses(&mut session, Down);
    everyone_crosses(&mut session, Up);
}

/// A user of whom nothing has been announced, though it has rows: one above zero is announced, and so is one that comes down from there.
#[test]
fn a_crossing_that_no_settlement_has_seen_is_announced_by_the_first() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    session.run("ALTER TABLE credits.credits_transactions DISABLE TRIGGER note_transaction");
    for number in 1..=3 {
        session.grant(user(number), dec!(2));
    }
    session.charge(user(4), dec!(2));
    session.run("ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER note_transaction");
    session.charge(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Up)]);
    session.refresh(user(2));
    assert_eq!(listener.crossings(), [(user(2), Up)]);
    session.charge(user(3), dec!(2));
    assert_eq!(listener.crossings(), [(user(3), Down)]);
    session.charge(user(2), dec!(2));
    assert_eq!(listener.crossings(), [(user(2), Down)]);
    session.refresh(user(4));
    assert_eq!(listener.drain(), []);
    session.assert_sound();
}

/// Rows that logical replication applies are settled where they land.
#[test]
fn replicated_rows_are_settled() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    session.run("SET session_replication_role = replica");
    session.grant(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Up)]);
    session.charge(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    session.assert_sound();
}

#[test]
fn the_extension_may_be_dropped_beside_inserts() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(1));
    session.run("SET credits_ledger.allow_drop = on; BEGIN");
    session.grant(user(1), dec!(1));
    session.charge(user(2), dec!(1));
    session.run("DROP EXTENSION credits_ledger; COMMIT");
    // Rolled back, nothing has happened.
    session.run("CREATE EXTENSION credits_ledger");
    let mut listener = db.listen();
    session.run("BEGIN; SAVEPOINT s");
    session.grant(user(1), dec!(5));
    session.run("DROP EXTENSION credits_ledger; ROLLBACK TO s");
    session.grant(user(1), dec!(7));
    session.run("COMMIT");
    assert_eq!(session.balance(user(1)), dec!(7));
    assert_eq!(listener.crossings(), [(user(1), Up)]);
    session.assert_sound();
}

/// Sessions remember tables and balances: both end with the extension.
#[test]
fn the_extension_may_be_made_anew() {
    let db = Database::create();
    let (mut session, mut other) = (db.connect(), db.connect());
    let mut listener = db.listen();
    session.run("SET credits_ledger.allow_drop = on");
    for round in 0..3 {
        for _ in 0..20 {
            session.grant(user(1), dec!(10));
            other.charge(user(1), dec!(5));
        }
        assert_eq!(session.balance(user(1)), dec!(100), "round {round}");
        assert_eq!(other.balance(user(1)), dec!(100), "round {round}");
        assert_eq!(listener.crossings(), [(user(1), Up)]);
        other.assert_sound();
        if round == 0 {
            session.run("DROP EXTENSION credits_ledger; CREATE EXTENSION credits_ledger");
        } else {
            session.run("BEGIN");
            session.charge(user(1), dec!(1));
            session.run("DROP EXTENSION credits_ledger; CREATE EXTENSION credits_ledger");
            session.run("COMMIT");
        }
        assert_eq!(session.balance(user(1)), dec!(0), "round {round}");
        assert_eq!(other.balance(user(1)), dec!(0), "round {round}");
    }
}

/// Storage may be rewritten under sessions that have used it.
#[test]
fn tables_may_be_rewritten() {
    let db = Database::create();
    let (mut session, mut admin) = (db.connect(), db.connect());
    let mut listener = db.listen();
    session.grant(user(1), dec!(1));
    listener.drain();
    for (round, rewrite) in (1..).zip([
        "VACUUM FULL credits.credits_transactions",
        "VACUUM FULL credits.user_balance_checkpoints",
        "VACUUM FULL credits.batch_aggregates",
        "VACUUM FULL credits.daily_totals",
        "REINDEX TABLE credits.credits_transactions",
        "REINDEX TABLE CONCURRENTLY credits.credits_transactions",
        "REINDEX TABLE CONCURRENTLY credits.user_balance_checkpoints",
        "REINDEX TABLE CONCURRENTLY credits.batch_aggregates",
        "REINDEX TABLE CONCURRENTLY credits.daily_totals",
        "CLUSTER credits.credits_transactions USING credits_transactions_delta_idx",
        "ALTER TABLE credits.credits_transactions SET (fillfactor = 90)",
        "ALTER TABLE credits.user_balance_checkpoints SET (fillfactor = 60)",
        "ANALYZE",
    ]) {
        admin.run(rewrite);
        session.charge_batch(user(1), user(1), dec!(2));
        assert_eq!(listener.crossings(), [(user(1), Down)], "after {rewrite}");
        session.grant(user(1), dec!(2));
        assert_eq!(listener.crossings(), [(user(1), Up)], "after {rewrite}");
        if round % 2 == 0 {
            session.refresh(user(1));
        }
        assert_eq!(session.balance(user(1)), dec!(1), "after {rewrite}");
        session.assert_sound();
    }
}

#[test]
fn one_transaction_over_very_many_users() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    let write = |kind: &str, amount: &str, from: u32, to: u32| {
        format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
             SELECT md5(n::text)::uuid, '{kind}', {amount}, gen_random_uuid()::text FROM generate_series({from}, {to}) n"
        )
    };
    session.run(&write("purchase", "n", 1, 20_000));
    let up = listener.crossings();
    assert_eq!(up.len(), 20_000);
    assert!(up.iter().all(|(_, direction)| *direction == Up));

    session.run("BEGIN");
    session.run(&write("usage", "n", 1, 10_000));
    session.run(&write("usage", "1", 1, 20_000));
    session.run("SAVEPOINT s");
    session.run(&write("purchase", "1000000", 1, 20_000));
    session.run("ROLLBACK TO s; COMMIT");
    let down = listener.crossings();
    assert_eq!(down.len(), 10_000);
    assert!(down.iter().all(|(_, direction)| *direction == Down));
    let mut users: Vec<_> = down.into_iter().map(|(user, _)| user).collect();
    users.sort_unstable();
    users.dedup();
    assert_eq!(users.len(), 10_000);
    let users: i64 = session.value(
        "SELECT count(*) FROM generate_series(1, 20000) n
         WHERE credits.get_user_balance(md5(n::text)::uuid) = CASE WHEN n <= 10000 THEN -1 ELSE n - 1 END",
        &[],
    );
    assert_eq!(users, 20_000);
    session.assert_sound();
}

/// One statement may touch a user more often than a checkpoint may lag.
#[test]
fn one_statement_with_very_many_rows_of_a_user() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
         SELECT '{}', kind, 1, gen_random_uuid()::text, CASE kind WHEN 'usage' THEN md5((n % 10)::text)::uuid END
         FROM generate_series(1, 20000) n, LATERAL (SELECT CASE n % 2 WHEN 0 THEN 'usage' ELSE 'purchase' END) k (kind)",
        user(1)
    ));
    assert_eq!(listener.drain(), []);
    assert_eq!(session.balance(user(1)), Decimal::ZERO);
    session.grant(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Up)]);
    session.assert_sound();
}

/// Statements that write and then fail, in a session that goes on.
#[test]
fn failed_statements_leave_nothing() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    for _ in 0..3 {
        let failing = format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
             SELECT '{}', 'purchase', 3 - n, gen_random_uuid()::text FROM generate_series(1, 3) n",
            user(1)
        );
        assert!(session.try_run(&failing).is_err());
        assert_eq!(session.balance(user(1)), dec!(0));
        session.run("BEGIN");
        session.charge(user(2), dec!(1));
        assert!(session.try_run(&failing).is_err());
        session.run("COMMIT");
        assert_eq!(session.balance(user(2)), dec!(0));
        assert_eq!(listener.drain(), []);
    }
    session.assert_sound();
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.user_balance_checkpoints", &[]), 0);
}

/// What a transaction asks of its commit for an account, it does, whatever else the transaction does to the account before and after.
#[test]
fn a_request_stands_whatever_comes_behind_it() {
    // Alone: a refresh covers all rows.
    let db = Database::create_alone();
    let mut session = db.connect();
    session.grant(user(1), dec!(100));
    let requests = [
        format!("SELECT credits.refresh_checkpoint('{}')", user(1)),
        format!("INSERT INTO credits.spending_limits (user_id, thresholds) VALUES ('{}', '{{50}}')", user(1)),
        format!(
            "INSERT INTO credits.spend_caps (user_id, amount, since) VALUES ('{}', 1000, '2000-01-01')",
            user(1)
        ),
        format!("DELETE FROM credits.user_balance_checkpoints WHERE user_id = '{}'", user(1)),
    ];
    for request in requests {
        for row_first in [true, false] {
            session.charge(user(1), dec!(1));
            session.run("BEGIN");
            if row_first {
                session.charge(user(1), dec!(1));
            }
            session.run(&request);
            if !row_first {
                session.charge(user(1), dec!(1));
            }
            session.run("COMMIT");
            let is_behind: bool = session.value(
                "SELECT transaction_count + 1 < (SELECT count(*) FROM credits.credits_transactions)
                 FROM credits.user_balance_checkpoints",
                &[],
            );
            assert!(!is_behind, "{request}");
            session.assert_sound();
            session.run("DELETE FROM credits.spending_limits; DELETE FROM credits.spend_caps");
        }
    }
}

/// Behind a statement that is its own transaction no other command begins by which its rows could be seen.
#[test]
fn a_statement_that_is_its_own_transaction_crosses() {
    let db = Database::create_alone();
    let [mut session] = db.connect_settled();
    let mut listener = db.listen();
    for (kind, direction) in [("purchase", Up), ("usage", Down)] {
        session.run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) VALUES ('{}', '{kind}', 1, '{kind}')",
            user(1)
        ));
        assert_eq!(listener.crossings(), [(user(1), direction)]);
    }
    session.assert_sound();
}

/// A commit that finds nothing to decide lets others share the stripe: for an account without rows, and for one of which it has only
/// released a hold, even if rows in flight may take its balance below zero.
#[test]
fn what_decides_nothing_takes_no_stripe_for_itself() {
    let db = Database::create_alone();
    let (mut session, mut other) = (db.connect(), db.connect());
    session.grant(user(1), dec!(10));
    session.run(&format!("SELECT credits.create_hold('{}', 5, 'held')", user(1)));
    other.run("BEGIN");
    other.charge(user(1), dec!(20));
    let sections = "SELECT exclusive_sections FROM credits.settlement_statistics()";
    let before: i64 = session.value(sections, &[]);
    session.run("SELECT credits.release_hold('held')");
    session.run("BEGIN; SAVEPOINT s");
    session.grant(user(2), dec!(1));
    session.run("ROLLBACK TO s; COMMIT");
    assert_eq!(session.value::<i64>(sections, &[]), before);
    other.run("COMMIT");
    session.assert_sound();
}
