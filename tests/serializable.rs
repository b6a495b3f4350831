//! SERIALIZABLE: what an application reads and writes can conflict, what the ledger does for itself cannot.

use credits_ledger_tests::{Database, Refused, Session, Uuid, dec, stripe_of, user};
use rust_decimal::Decimal;

const BEGIN: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE";

/// What transactions are held to have read, as they stand.
fn read_sets(session: &mut Session) -> Vec<String> {
    session.values(
        "SELECT DISTINCT relation::regclass::text FROM pg_locks
         WHERE mode = 'SIReadLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
         ORDER BY 1",
        &[],
    )
}

/// Every order in which three sessions can take two steps each.
fn interleavings() -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for _ in 0..6 {
        all = all
            .iter()
            .flat_map(|order| (0..3).map(move |session| (order, session)))
            .filter(|(order, session)| order.iter().filter(|taken| *taken == session).count() < 2)
            .map(|(order, session): (&Vec<usize>, usize)| [&order[..], &[session]].concat())
            .collect();
    }
    assert_eq!(all.len(), 90);
    all
}

/// A transaction that reads nothing has nothing that could have changed under it, whatever its settlement looks at: near zero,
/// with a refresh at each commit, for an account that nobody has met. Nor does a bulk read that refreshes get in the way.
#[test]
fn a_row_alone_never_conflicts() {
    type Step = fn(&mut Session, Uuid, usize);
    let grant_or_charge: Step = |session, account, number| {
        if number == 1 { session.grant(account, dec!(1)) } else { session.charge(account, dec!(1)) }
    };
    let of_batch: Step = |session, account, _| session.charge_batch(account, Uuid::nil(), dec!(1));
    let beside_bulk_read: Step = |session, account, number| {
        if number == 1 {
            session
                .run(&format!("SELECT * FROM credits.get_users_balances_bulk(ARRAY['{account}'::uuid], 1)"));
        } else {
            session.charge(account, dec!(1));
        }
    };
    let beside_refresh: Step = |session, account, number| {
        if number == 1 { session.refresh(account) } else { session.charge(account, dec!(1)) }
    };
    let db = Database::create_alone();
    let mut sessions: [Session; 3] = std::array::from_fn(|_| db.connect());
    let mut accounts = (1..).map(user);
    for (what, before, interval, step) in [
        ("far from zero", Some(dec!(1000)), 1, grant_or_charge),
        ("near zero", Some(dec!(1)), 64, grant_or_charge),
        ("near zero, refreshed", Some(dec!(1)), 1, grant_or_charge),
        ("new", None, 64, grant_or_charge),
        ("of a batch", Some(dec!(1000)), 1, of_batch),
        ("beside a bulk read", Some(dec!(1000)), 64, beside_bulk_read),
        ("beside a refresh", Some(dec!(2)), 64, beside_refresh),
    ] {
        for session in &mut sessions {
            session.run(&format!("SET credits_ledger.checkpoint_interval = {interval}"));
        }
        for order in interleavings().into_iter().step_by(5) {
            let account = accounts.next().unwrap();
            if let Some(balance) = before {
                sessions[0].grant(account, balance);
            }
            let mut begun = [false; 3];
            for number in &order {
                let session = &mut sessions[*number];
                if begun[*number] {
                    session.try_run("COMMIT").unwrap_or_else(|e| panic!("{what}, {order:?}: {e:?}"));
                } else {
                    session.run(BEGIN);
                    step(session, account, *number);
                    begun[*number] = true;
                }
            }
        }
    }
    sessions[0].assert_sound();
}

/// The worst that settlements could make of rows alone. The second one looks at an account whose checkpoint the third has
/// rewritten but not committed, and makes a checkpoint where the first has looked for another.
#[test]
fn settlements_do_not_conflict() {
    let stripe = |number| stripe_of(user(number));
    let db = Database::create_alone();
    let mut sessions: [Session; 3] = std::array::from_fn(|_| db.connect());
    sessions[2].run("SET credits_ledger.checkpoint_interval = 1");
    let elsewhere: Vec<u32> = (2..).filter(|&number| stripe(number) != stripe(1)).take(2).collect();
    sessions[0].grant(user(1), dec!(100));
    sessions[2].grant(user(elsewhere[0]), dec!(100));
    let [mut first, mut second, mut third] = sessions;
    for session in [&mut first, &mut second, &mut third] {
        session.run(BEGIN);
    }
    first.charge(user(elsewhere[0]), dec!(1));
    second.charge(user(1), dec!(1));
    second.charge(user(elsewhere[1]), dec!(1));
    third.charge(user(1), dec!(1));
    let held = db.hold_commit(third);
    first.run("COMMIT");
    second.run("COMMIT");
    held.release();
    first.assert_sound();
}

/// What settlement reads and writes is in nobody's read set.
#[test]
fn a_settlement_reads_nothing_for_its_transaction() {
    let db = Database::create_alone();
    let mut session = db.connect();
    for (account, before) in [(user(1), Some(dec!(1000))), (user(2), Some(dec!(1))), (user(3), None)] {
        if let Some(balance) = before {
            session.grant(account, balance);
            session.charge_batch(account, Uuid::nil(), dec!(0.5));
        }
        for interval in [64, 1] {
            let mut committing = db.connect();
            committing.grant(user(9), dec!(1));
            committing.run(&format!("SET credits_ledger.checkpoint_interval = {interval}; {BEGIN}"));
            committing.charge_batch(account, Uuid::nil(), dec!(0.5));
            let held = db.hold_commit(committing);
            assert_eq!(read_sets(&mut session), [""; 0], "{account}, interval {interval}");
            held.release();
        }
    }
    session.assert_sound();
}

/// An application that reads a balance, or a page, has read the ledger.
#[test]
fn a_balance_is_read_from_the_ledger() {
    let db = Database::create_alone();
    let mut session = db.connect();
    for _ in 0..3 {
        session.grant(user(1), dec!(10));
        session.charge_batch(user(1), Uuid::nil(), dec!(1));
        session.refresh(user(1));
    }
    for read in [
        "SELECT credits.get_user_balance(U)",
        "SELECT * FROM credits.calculate_balance_with_seq(U)",
        "SELECT * FROM credits.get_users_balances_bulk(ARRAY[U], 1)",
        "SELECT * FROM credits.list_transactions_with_batches(U)",
        "SELECT credits.get_user_balance_at(U, '2026-01-01 09:00+00')",
        "SELECT * FROM credits.account_statement(U, '2026-01-01', now())",
        "SELECT * FROM credits.usage_by_day(U)",
    ] {
        let mut reader = db.connect();
        reader.run(BEGIN);
        reader.run(&read.replace('U', &format!("'{}'::uuid", user(1))));
        let read_set = read_sets(&mut session);
        assert!(
            read_set.contains(&"credits.credits_transactions_delta_idx".to_owned()),
            "{read}: {read_set:?}"
        );
        assert!(
            read_set.iter().all(|name| name.starts_with("credits.credits_transactions")),
            "{read}: {read_set:?}"
        );
        reader.run("COMMIT");
    }
}

/// Two accounts may be overdrawn one at a time: who has seen that the other is not, and charges this one, cannot commit beside
/// who does it the other way round. However the balances are asked for, and wherever they come from.
#[test]
fn write_skew_on_balances_is_found() {
    let db = Database::create();
    let (mut first, mut second) = (db.connect(), db.connect());
    let mut pairs = (1..).step_by(2).map(|number| [user(number), user(number + 1)]);
    type Prepare = fn(&mut Session, [Uuid; 2]);
    let prepare: [(&str, Prepare); 4] = [
        ("no rows", |_, _| {}),
        ("rows only", |session, accounts| {
            session.run("ALTER TABLE credits.credits_transactions DISABLE TRIGGER note_transaction");
            accounts.iter().for_each(|&account| session.grant(account, dec!(10)));
            session.run("ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER note_transaction");
        }),
        ("folded", |session, accounts| {
            for account in accounts {
                session.grant(account, dec!(10));
                session.refresh(account);
            }
        }),
        ("folded and told", |session, accounts| {
            for account in accounts {
                session.grant(account, dec!(10));
                session.refresh(account);
                (0..4).for_each(|_| _ = session.balance(account));
            }
        }),
    ];
    let reads = [
        "SELECT credits.get_user_balance(U)",
        "SELECT balance FROM credits.calculate_balance_with_seq(U)",
        "SELECT balance FROM credits.get_users_balances_bulk(ARRAY[U])",
        "SELECT coalesce(max(balance), 0) FROM credits.balances WHERE user_id = U",
        "SELECT credits.get_user_balance_at(U, 'infinity')",
        "SELECT amount FROM credits.account_statement(U, '-infinity', 'infinity') WHERE line = 'closing'",
        "SELECT coalesce(sum(total_amount), 0) FROM credits.usage_by_day(U)",
    ];
    for (what, prepare) in prepare {
        for read in reads {
            // Before the other has written, and when it has committed.
            for late in [false, true] {
                let [one, two] = pairs.next().unwrap();
                prepare(&mut first, [one, two]);
                let look = |session: &mut Session, account: Uuid| -> Decimal {
                    session.value(&read.replace('U', &format!("'{account}'::uuid")), &[])
                };
                first.run(BEGIN);
                second.run(BEGIN);
                let seen = look(&mut first, two);
                second.run("SELECT 1");
                if !late {
                    assert_eq!(look(&mut second, one), seen);
                }
                first.charge(one, dec!(20));
                first.run("COMMIT");
                let outcome = second
                    .query_one(&read.replace('U', &format!("'{one}'::uuid")), &[])
                    .map(|row| {
                        assert_eq!(row.get::<_, Decimal>(0), seen, "{what}, {read}: not of the snapshot")
                    })
                    .and_then(|()| second.insert(two, "usage", dec!(20)))
                    .and_then(|()| second.try_run("COMMIT"));
                outcome.refused("40001");
                second.run("ROLLBACK");
                second.assert_sound();
            }
        }
    }
}

/// The rows of a transaction that checkpoints have passed by belong below the watermark: who reads a balance has looked for
/// them, too.
#[test]
fn a_straggler_can_conflict() {
    let db = Database::create_alone();
    let (mut slow, mut fast, mut other) = (db.connect(), db.connect(), db.connect());
    fast.grant(user(1), dec!(1000));
    fast.grant(user(2), dec!(1000));
    slow.run(BEGIN);
    slow.run("SELECT pg_current_xact_id()");
    slow.balance(user(2));
    for _ in 0..400 {
        other.charge(user(1), dec!(1));
    }
    other.refresh(user(1));
    let listed: bool = other.value(
        "SELECT stragglers <> '{}' FROM credits.user_balance_checkpoints WHERE user_id = $1",
        &[&user(1)],
    );
    assert!(listed);
    fast.run(BEGIN);
    assert_eq!(fast.balance(user(1)), dec!(600));
    fast.charge(user(2), dec!(1));
    slow.charge(user(1), dec!(1));
    fast.run("COMMIT");
    slow.try_run("COMMIT").refused("40001");
    slow.assert_sound();
}

/// What a hold or a charge looks at before it is written, the transaction has not read.
#[test]
fn an_early_look_is_in_no_read_set() {
    let db = Database::create_alone();
    let [mut session, mut look] = [db.connect(), db.connect()];
    session.grant(user(1), dec!(10));
    session.run(&format!("{BEGIN}; SELECT credits.create_hold('{}', 1, 'a')", user(1)));
    session.run(&format!("SELECT credits.charge('{}', 1, 'b')", user(1)));
    let read = read_sets(&mut look);
    assert!(!read.iter().any(|relation| relation.starts_with("credits.credits_transactions")), "{read:?}");
    session.run("COMMIT");
    session.assert_sound();
}
