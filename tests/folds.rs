//! Folds that sessions hand to each other.

use std::sync::Arc;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::{Database, Decimal, Refused, Session, correction, dec, user};

/// Entries of the delta's index that a balance costs.
fn read_for_balance(session: &mut Session) -> i64 {
    session.run("BEGIN");
    let read = "SELECT pg_stat_get_xact_tuples_returned('credits.credits_transactions_delta_idx'::regclass)";
    let before: i64 = session.value(read, &[]);
    session.balance(user(1));
    let after: i64 = session.value(read, &[]);
    session.run("COMMIT");
    after - before
}

#[test]
fn what_a_session_has_folded_another_does_not_read_again() {
    let db = Database::create_alone();
    let (mut writer, mut other, mut reader) = (db.connect(), db.connect(), db.connect());
    writer.grant(user(1), dec!(100));
    other.balance(user(1));
    reader.balance(user(1));
    for _ in 0..40 {
        writer.charge(user(1), dec!(1));
    }
    assert_eq!(other.balance(user(1)), dec!(60));
    let read = read_for_balance(&mut reader);
    assert_eq!(read, 0);
    assert_eq!(reader.balance(user(1)), dec!(60));
    // Nor one that has just come.
    let read = read_for_balance(&mut db.connect());
    assert_eq!(read, 0);
}

const CHARGE_MORE: &str =
    "UPDATE credits.credits_transactions SET amount = amount + 1 WHERE transaction_type = 'usage'";

/// A session that connects after a change does not use what was published before, though no other session has accepted the
/// invalidation yet.
#[test]
fn a_session_that_connects_after_a_change_reads_afresh() {
    let steps = correction(CHARGE_MORE);
    let ledger = steps.join(";");
    let checkpoint = "UPDATE credits.user_balance_checkpoints SET balance = balance - 1".to_owned();
    let in_two_phases = |change: &str| {
        vec![format!("BEGIN; {change}; PREPARE TRANSACTION 'DB'"), "COMMIT PREPARED 'DB'".to_owned()]
    };
    for (what, steps) in [
        ("the ledger", vec![ledger.clone()]),
        ("the ledger, in steps", steps.to_vec()),
        ("the ledger, in two phases", in_two_phases(&ledger)),
        ("a checkpoint", vec![checkpoint.clone()]),
        ("a checkpoint, in two phases", in_two_phases(&checkpoint)),
    ] {
        let db = Database::create_alone();
        let mut before = db.connect();
        before.grant(user(1), dec!(100));
        before.charge(user(1), dec!(1));
        assert_eq!(before.balance(user(1)), dec!(99));
        find_complete(&mut before);
        assert_eq!(scans_for_balance(&mut db.connect()), 0, "{what}: it is published");
        for step in steps {
            db.connect().run(&step.replace("DB", db.name()));
        }
        assert_eq!(db.connect().balance(user(1)), dec!(98), "{what}");
        assert_eq!(before.balance(user(1)), dec!(98), "{what}");
    }
}

/// What a session does to the ledger and takes back is not what the next one finds.
#[test]
fn a_definition_that_is_rolled_back_was_never_seen() {
    let db = Database::create_alone();
    let (mut before, mut owner) = (db.connect(), db.connect());
    before.grant(user(1), dec!(100));
    before.charge(user(1), dec!(1));
    for (end, balance) in [("ROLLBACK", dec!(99)), ("COMMIT", dec!(98))] {
        owner.run(&format!("BEGIN; {}", correction(CHARGE_MORE).join(";")));
        assert_eq!(owner.balance(user(1)), dec!(98), "{end}");
        // Tells of the ledger as it still is.
        assert_eq!(before.balance(user(1)), dec!(99), "{end}");
        owner.run(end);
        assert_eq!(db.connect().balance(user(1)), balance, "{end}");
        assert_eq!(before.balance(user(1)), balance, "{end}");
        assert_eq!(owner.balance(user(1)), balance, "{end}");
    }
}

/// Scans of the delta's index that a balance costs.
fn scans_for_balance(session: &mut Session) -> i64 {
    session.run("BEGIN");
    let scans = "SELECT pg_stat_get_xact_numscans('credits.credits_transactions_delta_idx'::regclass)";
    let before: i64 = session.value(scans, &[]);
    session.balance(user(1));
    let after: i64 = session.value(scans, &[]);
    session.run("COMMIT");
    after - before
}

/// Two readers find out: what is folded, and that it is all.
fn find_complete(session: &mut Session) {
    for _ in 0..2 {
        session.balance(user(1));
    }
    assert_eq!(scans_for_balance(session), 0);
}

#[test]
fn a_balance_that_nobody_has_changed_reads_no_rows() {
    let db = Database::create_alone();
    let (mut writer, mut reader) = (db.connect(), db.connect());
    writer.grant(user(1), dec!(100));
    reader.balance(user(1));
    for charge in 1..5 {
        writer.charge(user(1), dec!(1));
        let balance = dec!(100) - Decimal::from(charge);
        assert_eq!(reader.balance(user(1)), balance);
        find_complete(&mut writer);
        assert_eq!(scans_for_balance(&mut reader), 0);
        assert_eq!(reader.balance(user(1)), balance);
        let latest: (i64, i64) = (
            reader.value("SELECT latest_seq FROM credits.calculate_balance_with_seq($1)", &[&user(1)]),
            reader.value("SELECT max(seq) FROM credits.credits_transactions", &[]),
        );
        assert_eq!(latest.0, latest.1);
    }
    writer.assert_sound();
}

/// A row is counted when its transaction settles or is prepared. Until that has committed, no session may publish that the fold
/// is complete.
#[test]
fn a_row_that_is_counted_but_not_committed_is_still_to_come() {
    let db = Database::create_alone();
    let (mut writer, mut reader) = (db.connect(), db.connect());
    writer.grant(user(1), dec!(100));
    writer.charge(user(1), dec!(1));
    let gid = format!("'{}'", db.name());
    let mut read_all = |balance: Decimal| {
        for _ in 0..4 {
            assert_eq!(reader.balance(user(1)), balance);
        }
    };
    read_all(dec!(99));

    writer.run("BEGIN");
    writer.charge(user(1), dec!(10));
    read_all(dec!(99));
    let held = db.hold_commit(writer);
    read_all(dec!(99));
    let mut writer = held.release();
    read_all(dec!(89));

    writer.run("BEGIN");
    writer.charge(user(1), dec!(10));
    writer.run(&format!("PREPARE TRANSACTION {gid}"));
    read_all(dec!(89));
    writer.run(&format!("COMMIT PREPARED {gid}"));
    read_all(dec!(79));

    writer.run("BEGIN");
    writer.charge(user(1), dec!(10));
    read_all(dec!(79));
    writer.run("ROLLBACK");
    read_all(dec!(79));
    writer.assert_sound();
}

/// What others have found complete is not complete for who has written, or looks back.
#[test]
fn a_complete_fold_does_not_hide_what_a_reader_sees() {
    let db = Database::create_alone();
    let (mut own, mut past, mut other) = (db.connect(), db.connect(), db.connect());
    other.grant(user(1), dec!(100));
    for session in [&mut own, &mut past] {
        session.balance(user(1));
    }
    other.run(
        "CREATE FUNCTION note_balance() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN INSERT INTO seen VALUES (credits.get_user_balance(NEW.user_id)); RETURN NULL; END$$;
         CREATE TABLE seen (balance numeric);
         CREATE TRIGGER a_first AFTER INSERT ON credits.credits_transactions
             FOR EACH ROW EXECUTE FUNCTION note_balance()",
    );
    find_complete(&mut other);
    // Before the ledger's own trigger has noted the row.
    own.charge(user(1), dec!(1));
    assert_eq!(own.value::<Decimal>("SELECT balance FROM seen", &[]), dec!(99));

    past.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(past.balance(user(1)), dec!(99));
    find_complete(&mut other);
    own.run("BEGIN");
    own.charge(user(1), dec!(1));
    assert_eq!(own.balance(user(1)), dec!(98));
    own.run("SAVEPOINT a");
    own.charge(user(1), dec!(1));
    assert_eq!(own.balance(user(1)), dec!(97));
    own.run("ROLLBACK TO a");
    assert_eq!(own.balance(user(1)), dec!(98));
    assert_eq!(other.balance(user(1)), dec!(99));
    own.run("COMMIT");
    find_complete(&mut other);
    assert_eq!(past.balance(user(1)), dec!(99));
    past.run("COMMIT");
    assert_eq!(past.balance(user(1)), dec!(98));
    other.assert_sound();
}

/// A serializable reader has looked for the rows that a later one inserts.
#[test]
fn a_complete_fold_does_not_hide_a_conflict() {
    let db = Database::create_alone();
    let (mut first, mut second) = (db.connect(), db.connect());
    first.grant(user(1), dec!(100));
    find_complete(&mut second);
    find_complete(&mut first);
    for session in [&mut first, &mut second] {
        session.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
        assert_eq!(session.balance(user(1)), dec!(100));
    }
    first.charge(user(1), dec!(100));
    first.run("COMMIT");
    second.insert(user(1), "usage", dec!(100)).refused("40001");
    second.run("ROLLBACK");
    assert_eq!(second.balance(user(1)), dec!(0));
    second.assert_sound();
}

/// Only the owner can, on purpose. Then no fold from before is right, in any session, whichever of them reads first.
#[test]
fn a_ledger_that_its_owner_changes_is_read_afresh() {
    let db = Database::create_alone();
    let mut sessions = [db.connect(), db.connect(), db.connect()];
    sessions[0].grant(user(1), dec!(1000));
    let mut charges = 0;
    for first in 0..=sessions.len() {
        let [writer, within, idle] = &mut sessions;
        for session in [&mut *within, idle] {
            session.balance(user(1));
        }
        for _ in 0..10 {
            writer.charge(user(1), dec!(1));
            charges += 1;
        }
        // Has the ledger locked already, so that no lock tells it of the change.
        within.run("BEGIN");
        within.balance(user(1));
        let amount = if first % 2 == 0 { dec!(2) } else { dec!(3) };
        let change = format!(
            "UPDATE credits.credits_transactions SET amount = {amount} WHERE transaction_type = 'usage'"
        );
        db.connect().run(&correction(&change).join(";"));
        let balance = dec!(1000) - amount * Decimal::from(charges);
        for turn in first..=first + sessions.len() {
            let who = turn % (sessions.len() + 1);
            let found = match sessions.get_mut(who) {
                Some(session) => session.balance(user(1)),
                None => db.connect().balance(user(1)),
            };
            assert_eq!(
                found, balance,
                "session {who} of writer, within a transaction, idle, new; {first} first"
            );
        }
        sessions[1].run("COMMIT");
    }
}

/// A fold that was computed under a snapshot older than the change is not used under a newer one, nor the other way round.
#[test]
fn a_snapshot_from_before_a_change_is_kept_apart() {
    let db = Database::create_alone();
    let (mut old, mut new, mut owner) = (db.connect(), db.connect(), db.connect());
    let mut exporter = db.connect();
    for amount in [dec!(90), dec!(10)] {
        owner.grant(user(1), amount);
    }
    owner.refresh(user(1));
    for session in [&mut old, &mut new, &mut owner] {
        assert_eq!(session.balance(user(1)), dec!(100));
    }
    const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ";
    for session in [&mut old, &mut exporter] {
        session.run(BEGIN);
    }
    let exported: String = exporter.value("SELECT pg_export_snapshot()", &[]);
    let _: i64 = old.value("SELECT count(*) FROM credits.credits_transactions", &[]);
    owner.run(&format!(
        "BEGIN; {};
         DELETE FROM credits.user_balance_checkpoints;
         SELECT credits.refresh_checkpoint('{}');
         COMMIT",
        correction("DELETE FROM credits.credits_transactions WHERE amount = 10").join(";"),
        user(1)
    ));
    for round in 0..3 {
        assert_eq!(new.balance(user(1)), dec!(90), "round {round}");
        assert_eq!(old.balance(user(1)), dec!(100), "round {round}");
        // A session that has accepted the invalidation before it takes over the old snapshot.
        owner.run(&format!("{BEGIN}; SET TRANSACTION SNAPSHOT '{exported}'"));
        assert_eq!(owner.balance(user(1)), dec!(100), "round {round}");
        owner.run("COMMIT");
        assert_eq!(new.balance(user(1)), dec!(90), "round {round}");
        assert_eq!(owner.balance(user(1)), dec!(90), "round {round}");
    }
    for session in [&mut old, &mut exporter] {
        session.run("COMMIT");
    }
    assert_eq!(old.balance(user(1)), dec!(90));
    new.charge(user(1), dec!(1));
    new.refresh(user(1));
    assert_eq!(old.balance(user(1)), dec!(89));
    new.assert_sound();
}

/// A change that is tried out leaves nothing behind, whether the ledger was opened to changes before or within.
#[test]
fn a_change_that_is_rolled_back_was_never_folded() {
    let correction =
        correction("UPDATE credits.credits_transactions SET amount = 5 WHERE transaction_type = 'usage'");
    let [open, change, close] = &correction;
    let db = Database::create_alone();
    let (mut owner, mut other) = (db.connect(), db.connect());
    other.grant(user(1), dec!(100));
    other.charge(user(1), dec!(1));
    for (before, within) in [("", &correction.join(";")), (open, change)] {
        owner.run(before);
        other.balance(user(1));
        owner.run(&format!("BEGIN; {within}"));
        assert_eq!(owner.balance(user(1)), dec!(95));
        owner.run("ROLLBACK");
        for session in [&mut other, &mut owner] {
            assert_eq!(session.balance(user(1)), dec!(99));
        }
        owner.run(close);
    }
    other.assert_sound();
}

/// The same of a checkpoint.
#[test]
fn a_checkpoint_that_was_never_stored_is_not_handed_on() {
    let db = Database::create_alone();
    let mut other = db.connect();
    other.grant(user(1), dec!(100));
    other.charge(user(1), dec!(1));
    // It has just come, and begins with what is stored.
    let mut owner = db.connect();
    owner.run("BEGIN; UPDATE credits.user_balance_checkpoints SET balance = balance + 10");
    assert_eq!(owner.balance(user(1)), dec!(109));
    owner.run("ROLLBACK");
    for session in [&mut other, &mut owner] {
        assert_eq!(session.balance(user(1)), dec!(99));
    }
    other.assert_sound();
}

/// In one transaction or in two.
#[test]
fn a_checkpoint_that_is_made_anew_replaces_what_came_of_the_old_one() {
    let db = Database::create_alone();
    let (mut owner, mut other) = (db.connect(), db.connect());
    other.grant(user(1), dec!(100));
    other.charge(user(1), dec!(1));
    for (begin, commit) in [("", ""), ("BEGIN", "COMMIT")] {
        owner.balance(user(1));
        owner.run("UPDATE credits.user_balance_checkpoints SET balance = balance + 10");
        assert_eq!(db.connect().balance(user(1)), dec!(109));
        assert_eq!(other.balance(user(1)), dec!(109), "as published");
        owner.run(begin);
        owner.run("DELETE FROM credits.user_balance_checkpoints");
        owner.refresh(user(1));
        owner.run(commit);
        for session in [&mut other, &mut owner] {
            assert_eq!(session.balance(user(1)), dec!(99));
        }
    }
    other.assert_sound();
}

/// `CREATE DATABASE ... OID` gives a database the oid of a dropped one, and copies the definitions of its template, with their
/// places and transactions.
#[test]
fn a_database_with_the_oid_of_a_dropped_one_inherits_nothing() {
    let db = Database::create_alone();
    let mut session = db.connect();
    if session.server_version() < 150_000 {
        return;
    }
    session.grant(user(1), dec!(100));
    session.refresh(user(1));
    let template = db.name().to_owned();
    let cluster = Arc::clone(db.cluster());
    drop((session, db));
    for life in 0..3 {
        let create = format!("CREATE DATABASE again TEMPLATE {template} OID 50000");
        cluster.execute("postgres", &create);
        let again = Database::open(&cluster, "again");
        let mut session = again.connect();
        let sections = "SELECT exclusive_sections FROM credits.settlement_statistics()";
        assert_eq!(session.value::<i64>(sections, &[]), 0, "life {life}");
        assert_eq!(session.balance(user(1)), dec!(100), "life {life}");
        for _ in 0..2 {
            let mut session = again.connect();
            session.charge(user(1), dec!(30));
            session.refresh(user(1));
            find_complete(&mut session);
        }
        assert_eq!(session.balance(user(1)), dec!(40), "life {life}");
        assert!(session.value::<i64>(sections, &[]) > 0);
        session.assert_sound();
        drop((session, again));
        cluster.execute("postgres", "DROP DATABASE again WITH (FORCE)");
    }
}

/// Who was connected before and who comes after go on telling each other.
#[test]
fn a_database_that_is_altered_is_still_the_same() {
    let db = Database::create_alone();
    let (mut writer, mut reader) = (db.connect(), db.connect());
    writer.grant(user(1), dec!(100));
    reader.balance(user(1));
    writer.run(&format!("ALTER DATABASE {} CONNECTION LIMIT 50", db.name()));
    writer.charge(user(1), dec!(1));
    find_complete(&mut db.connect());
    assert_eq!(scans_for_balance(&mut reader), 0);
    assert_eq!(reader.balance(user(1)), dec!(99));
}

#[test]
fn without_shared_memory_sessions_begin_with_what_is_stored() {
    let cluster = Cluster::start_with_memory_files();
    let db = Database::create_in(&cluster);
    let _sealed = cluster.forbid_new_memory();
    let (mut writer, mut reader) = (db.connect(), db.connect());
    writer.grant(user(1), dec!(100));
    reader.balance(user(1));
    for _ in 0..200 {
        writer.charge(user(1), dec!(0.1));
    }
    let read = read_for_balance(&mut reader);
    assert!(read < 70, "no further than the checkpoint interval: read {read}");
    assert_eq!(reader.balance(user(1)), dec!(80));
    reader.assert_sound();
    let log = cluster.log();
    assert!(log.contains("sharing folds is put off"), "{log}");
}
