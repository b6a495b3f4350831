//! A dump holds the ledger; whatever is derived is made anew where it is restored.

use std::process::Stdio;

use credits_ledger_tests::contents::SILENT;
use credits_ledger_tests::{Database, Decimal, Direction, Uuid, dec, user};

/// Restores a dump of one database into another of the cluster.
fn copy_database(from: &Database, into: &Database) {
    let mut dump = from
        .cluster()
        .program("pg_dump")
        .arg(from.name())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let restored = into
        .cluster()
        .program("psql")
        .env("PGOPTIONS", SILENT)
        .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction", into.name()])
        .stdin(dump.stdout.take().unwrap())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    let dumped = dump.wait_with_output().unwrap();
    assert!(dumped.status.success() && restored.success());
    // Nor a warning about something of the extension's that cannot be dumped.
    assert_eq!(String::from_utf8_lossy(&dumped.stderr), "");
}

#[test]
fn a_restored_ledger_is_the_same() {
    let (old, new) = (Database::create(), Database::create_empty());
    let mut session = old.connect();
    for round in 0..200_u32 {
        session.grant(user(round % 5), dec!(1.000000000000001));
        session.charge_batch(user(round % 5), Uuid::from_u128(u128::from(round % 7)), dec!(0.5));
    }
    session.charge(user(4), dec!(1000));
    session.run("BEGIN");
    session.grant(user(1), dec!(100));
    session.run("ROLLBACK");
    let rows = "SELECT md5(string_agg(concat_ws('|', id, user_id, transaction_type, amount, source_id, description,
                                                fusillade_batch_id, api_key_id, created_at, seq), ',' ORDER BY seq))
                FROM credits.credits_transactions";
    let balances = "SELECT string_agg(concat_ws(' ', user_id, trim_scale(balance), is_positive), ',' ORDER BY user_id) FROM credits.balances";
    let batches =
        "SELECT string_agg(b::text, ',' ORDER BY user_id, fusillade_batch_id) FROM credits.batches b";

    copy_database(&old, &new);
    let mut restored = new.connect();
    for query in [rows, balances, batches] {
        assert_eq!(restored.value::<String>(query, &[]), session.value::<String>(query, &[]), "{query}");
    }
    restored.assert_sound();

    // New rows come after the old ones, and have a stamp of this cluster's own.
    let last: i64 = session.value("SELECT max(seq) FROM credits.credits_transactions", &[]);
    restored.charge(user(1), dec!(1));
    let next: i64 = restored.value("SELECT max(seq) FROM credits.credits_transactions", &[]);
    assert!(next > last);
    for number in 0..5 {
        restored.refresh(user(number));
    }
    restored.assert_sound();
    // An open transaction of another test may hold the watermark back for a while.
    let folded = "SELECT balance FROM credits.user_balance_checkpoints WHERE user_id = $1";
    let balance = session.balance(user(2));
    let refreshed = (0..10_000).any(|_| {
        restored.refresh(user(2));
        restored.value::<Decimal>(folded, &[&user(2)]) == balance
    });
    assert!(refreshed);
}

/// To the database that a dump is restored into, every first credit is a crossing, unless the restore turns the channels
/// off. What comes after is announced as ever.
#[test]
fn a_restore_announces_nothing() {
    let (old, new) = (Database::create(), Database::create_empty());
    let mut session = old.connect();
    for number in 0..100 {
        session.grant(user(number), dec!(10));
    }
    let mut listener = new.listen();
    copy_database(&old, &new);
    assert_eq!(listener.drain(), []);
    let mut restored = new.connect();
    for number in 0..100 {
        restored.charge(user(number), dec!(1));
    }
    assert_eq!(listener.drain(), []);
    restored.charge(user(7), dec!(9));
    assert_eq!(listener.crossings(), [(user(7), Direction::Down)]);
    restored.assert_sound();
}
