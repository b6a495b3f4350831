//! Copies of a ledger that go on by themselves: a database made from it as a template, and the cluster as it was before a
//! mistake. Both keep the stamps and the checkpoints of the original.

use std::sync::Arc;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::contents::USERS;
use credits_ledger_tests::{Database, Decimal, Direction, Session, dec, user};

/// Stored checkpoints, to the last column.
fn checkpoints(session: &mut Session) -> String {
    session.value(
        "SELECT string_agg(c::text, E'\\n' ORDER BY user_id) FROM credits.user_balance_checkpoints c",
        &[],
    )
}

#[test]
fn a_database_made_from_a_ledger_goes_on_by_itself() {
    let cluster = Cluster::start_with("credits_ledger.checkpoint_interval = 8");
    let name = {
        let ledger = Database::create_in(&cluster);
        ledger.connect().record_history();
        ledger.name().to_owned()
    };
    let version: i32 = Session::connect(&cluster.config(&name, "postgres")).server_version();
    let strategies: &[&str] =
        if version >= 150_000 { &["STRATEGY wal_log", "STRATEGY file_copy"] } else { &[""] };
    for (number, strategy) in strategies.iter().enumerate() {
        let copied = format!("copied_{number}");
        // The template's last session may still be on its way out.
        Database::open(&cluster, "postgres")
            .until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = $1)", &[&name]);
        cluster.execute("postgres", &format!("CREATE DATABASE {copied} TEMPLATE {name} {strategy}"));
        let (original, copy) = (Database::open(&cluster, &name), Database::open(&cluster, &copied));
        let (mut here, mut there) = (original.connect(), copy.connect());
        assert_eq!(here.contents(), there.contents());
        assert_eq!(checkpoints(&mut here), checkpoints(&mut there));

        // Positions of the original's feed are good in the copy, too.
        let (position, read) = here.feed(None).unwrap();
        assert_eq!(there.feed(None).unwrap(), (position.clone(), read));
        here.charge(user(5), dec!(0.01));
        there.charge(user(5), dec!(0.01));
        for session in [&mut here, &mut there] {
            assert_eq!(session.feed(position.as_deref()).unwrap().1.len(), 1);
        }

        // Both go on with the same users, in turn, so that each one's ids lie between the other's.
        let (mut heard_here, mut heard_there) = (original.listen(), copy.listen());
        let (before, now) = (here.balance(user(0)), 200);
        for _ in 0..now {
            here.charge(user(0), dec!(0.01));
            there.grant(user(0), dec!(0.1));
        }
        assert_eq!(here.balance(user(0)), before - dec!(2));
        assert_eq!(there.balance(user(0)), before + dec!(20));
        assert_eq!((heard_here.crossings(), heard_there.crossings()), (vec![], vec![]));
        there.charge(user(0), before + dec!(20));
        assert_eq!(heard_there.crossings(), [(user(0), Direction::Down)]);
        assert_eq!(heard_here.crossings(), []);
        for session in [&mut here, &mut there] {
            (0..USERS).for_each(|number| session.refresh(user(number)));
            session.assert_sound();
        }
    }
}

/// What recovery stops at.
#[derive(Clone, Copy, Debug)]
enum Target<'a> {
    Name(&'a str),
    Time(&'a str),
}

/// Recovers a base backup up to the target from what the primary has archived, on a timeline of its own.
fn recover(backup: Cluster, primary: &Cluster, target: Target) -> Arc<Cluster> {
    let target = match target {
        Target::Name(name) => format!("recovery_target_name = '{name}'"),
        Target::Time(time) => format!("recovery_target_time = '{time}'"),
    };
    backup.configure(&format!(
        "archive_mode = off\nrestore_command = 'cp {}/archive/%f %p'\nrecovery_target_action = promote\n{target}",
        primary.folder().display()
    ));
    backup.signal("recovery");
    backup.resume();
    let backup = Arc::new(backup);
    Database::open(&backup, "postgres").until("SELECT NOT pg_is_in_recovery()", &[]);
    backup
}

#[test]
fn recovery_to_a_point_in_time_forgets_what_came_after() {
    let primary = Cluster::start_with(
        "archive_mode = on\n\
         archive_command = 'mkdir -p ../archive && cp %p ../archive/%f'\n\
         credits_ledger.checkpoint_interval = 8",
    );
    let db = Database::create_in(&primary);
    let mut session = db.connect();
    session.record_history();
    let backups = [primary.copy(), primary.copy()];

    // Before the target: rows since the backup, a transaction that will stay open, and a prepared one. Both are passed by
    // as stragglers of the checkpoints.
    let mut open = db.connect();
    open.run("BEGIN");
    open.grant(user(0), dec!(1000));
    let mut preparing = db.connect();
    preparing.run("BEGIN");
    preparing.charge(user(2), dec!(100000));
    preparing.run("PREPARE TRANSACTION 'prepared'");
    for number in 0..300 {
        session.charge(user(number % 2), dec!(0.001));
    }
    session.refresh(user(0));
    let passed_by: i32 = session.value(
        "SELECT cardinality(stragglers) FROM credits.user_balance_checkpoints WHERE user_id = $1",
        &[&user(0)],
    );
    assert_eq!(passed_by, 2);
    let (contents, stored) = (session.contents(), checkpoints(&mut session));
    let time: String = session.value("SELECT clock_timestamp()::text", &[]);
    session.run("SELECT pg_create_restore_point('before_the_mistake')");

    // The mistake, and whatever else the original went on with.
    open.run("COMMIT");
    session.run("COMMIT PREPARED 'prepared'");
    for _ in 0..400 {
        session.charge(user(1), dec!(1));
    }
    (0..USERS).for_each(|number| session.refresh(user(number)));
    let lost: i64 = session.value("SELECT max(xact_id::text::bigint) FROM credits.credits_transactions", &[]);
    let archived: String = session.value("SELECT pg_walfile_name(pg_switch_wal())", &[]);
    db.until("SELECT last_archived_wal >= $1 FROM pg_stat_archiver", &[&archived]);

    let targets = [Target::Name("before_the_mistake"), Target::Time(&time)];
    for (backup, target) in backups.into_iter().zip(targets) {
        let recovered = recover(backup, &primary, target);
        let db = Database::open(&recovered, db.name());
        let mut session = db.connect();
        let timeline: String = session.value("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)", &[]);
        assert_eq!(timeline, "00000002");
        assert_eq!(session.contents(), contents, "{target:?}");
        assert_eq!(checkpoints(&mut session), stored, "{target:?}");
        session.assert_sound();

        // The ids of the forgotten transactions are given out again.
        let next: i64 = session.value("SELECT pg_current_xact_id()::text::bigint", &[]);
        assert!(next < lost);
        let (before, mut listener) = (session.balance(user(0)), db.listen());
        session.run("COMMIT PREPARED 'prepared'");
        while session.value::<i64>("SELECT pg_current_xact_id()::text::bigint", &[]) <= lost {
            session.charge(user(0), dec!(0.001));
            session.charge(user(3), dec!(0.001));
        }
        let charged: i64 = session.value(
            "SELECT count(*) FROM credits.credits_transactions WHERE user_id = $1 AND xact_id >= $2::text::xid8",
            &[&user(0), &next.to_string()],
        );
        assert_eq!(session.balance(user(0)), before - dec!(0.001) * Decimal::from(charged));
        assert_eq!(listener.crossings(), []);
        // The crossing of what was prepared is announced by the next settlement.
        session.refresh(user(2));
        assert_eq!(listener.crossings(), [(user(2), Direction::Down)]);
        (0..USERS).for_each(|number| session.refresh(user(number)));
        let passed_by: i64 = session
            .value("SELECT sum(cardinality(stragglers))::bigint FROM credits.user_balance_checkpoints", &[]);
        assert_eq!(passed_by, 0, "what was open when the original went another way has ended");
        session.assert_sound();
    }
}
