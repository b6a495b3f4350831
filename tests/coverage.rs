//! What a transaction has made must be covered when it commits: by what has committed, and its own rows.

use credits_ledger_tests::{Database, Refused, Session, dec, user};
use postgres::Error;
use rust_decimal::Decimal;

/// Runs statements one by one. One that begins with the name of a function calls it; `USER` is user 1.
fn try_call(session: &mut Session, statements: &str) -> Result<(), Error> {
    statements.replace("USER", &user(1).to_string()).split("; ").try_for_each(|statement| {
        let is_name = |word: &str| word.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
        match statement.split_once('(') {
            Some((name, _)) if is_name(name) => session.try_run(&format!("SELECT credits.{statement}")),
            _ => session.try_run(statement),
        }
    })
}

#[track_caller]
fn call(session: &mut Session, calls: &str) {
    try_call(session, calls).unwrap_or_else(|e| panic!("{calls}: {e:?}"));
}

/// What is available to user 1.
fn available(session: &mut Session) -> Decimal {
    session.value("SELECT credits.get_available_balance($1)", &[&user(1)])
}

/// A transaction that does this while another one takes 7 of 10 credits, and commits after it.
fn beside_seven(calls: &str) -> (Database, Session, Result<(), Error>) {
    let (db, mut other) = Database::create_with(dec!(10));
    let mut session = db.connect();
    call(&mut other, "BEGIN; create_hold('USER', 7, 'other')");
    call(&mut session, &format!("BEGIN; {calls}"));
    other.run("COMMIT");
    let committed = session.try_run("COMMIT");
    (db, other, committed)
}

#[test]
fn of_two_that_fit_singly_the_second_is_refused() {
    for calls in ["create_hold('USER', 4, 'a')", "charge('USER', 4, 'a')"] {
        let (_db, mut session, committed) = beside_seven(calls);
        let refusal = committed.refused("LC001");
        assert_eq!(
            refusal.message(),
            format!("user {} has insufficient credits: 4 asked for, 3 available", user(1))
        );
        assert_eq!(
            refusal.detail(),
            Some(
                format!(r#"{{"user_id":"{}","asked":"4","available":"3","overdraft_limit":"0"}}"#, user(1))
                    .as_str()
            )
        );
        assert!(refusal.hint().is_some());
        assert_eq!(available(&mut session), dec!(3));
        // It uses up no source_id.
        call(&mut session, &calls.replace('4', "3"));
        assert_eq!(available(&mut session), dec!(0));
        session.assert_sound();
    }
}

#[test]
fn what_fits_beside_the_other_is_not_refused() {
    for calls in [
        "create_hold('USER', 3, 'a')",
        "charge('USER', 3, 'a')",
        "create_hold('USER', 1, 'a'); charge('USER', 2, 'b')",
        // What is not there any more asks for nothing.
        "create_hold('USER', 9, 'a'); release_hold('a')",
        "SAVEPOINT s; create_hold('USER', 9, 'a'); ROLLBACK TO s",
        "SAVEPOINT s; charge('USER', 9, 'a'); ROLLBACK TO s",
        "create_hold('USER', 9, 'a'); DELETE FROM credits.holds WHERE source_id = 'a'",
        // What is not made by these functions never asks.
        "create_transaction('USER', 'usage', 9, 'a')",
        "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('a', 'USER', 9, 'tomorrow')",
        // Own grants count.
        "create_transaction('USER', 'purchase', 1, 'p'); create_hold('USER', 4, 'a')",
    ] {
        let (_db, mut session, committed) = beside_seven(calls);
        committed.unwrap_or_else(|e| panic!("{calls}: {e:?}"));
        session.assert_sound();
    }
}

#[test]
fn what_becomes_of_a_hold_asks_in_its_place() {
    for calls in [
        "create_hold('USER', 4, 'a'); capture_hold('a')",
        "create_hold('USER', 4, 'a'); extend_hold('a', '2 hours')",
        "create_hold('USER', 4, 'a'); extend_hold('a', '2 hours'); extend_hold('a', '3 hours'); capture_hold('a')",
        "create_hold('USER', 4, 'a'); UPDATE credits.holds SET expires_at = expires_at + '1 hour' WHERE source_id = 'a'",
        // An account that must be covered must be so for all that is written.
        "create_hold('USER', 1, 'a'); create_transaction('USER', 'usage', 3, 'b')",
        "create_hold('USER', 4, 'a'); SAVEPOINT s; release_hold('a'); ROLLBACK TO s",
        "create_hold('USER', 4, 'a'); SAVEPOINT s; extend_hold('a', '2 hours'); ROLLBACK TO s",
        "create_hold('USER', 4, 'a'); SAVEPOINT s; capture_hold('a'); ROLLBACK TO s",
        // More than was held is charged in full, by a transaction that asks.
        "create_hold('USER', 1, 'a'); capture_hold('a', 4)",
    ] {
        let (_db, mut session, committed) = beside_seven(calls);
        committed.refused("LC001");
        assert_eq!(available(&mut session), dec!(3), "{calls}");
    }
}

/// A charge that is redacted is stored anew.
#[test]
fn a_redacted_row_asks() {
    let (db, other) = Database::create_with(dec!(10));
    let mut session = db.connect();
    call(&mut session, "BEGIN; charge('USER', 4, 'a', 'secret'); SELECT credits.redact_account('USER')");
    let waits = other.background(|other| try_call(other, "charge('USER', 7, 'b')"));
    db.until_blocked(waits.pid());
    session.run("COMMIT");
    waits.finish().1.refused("LC001");
    // The other way round: the redaction waits for nobody, and its commit is refused.
    let (db, mut other) = Database::create_with(dec!(10));
    let mut session = db.connect();
    call(&mut session, "BEGIN; charge('USER', 4, 'a', 'secret')");
    call(&mut other, "charge('USER', 7, 'b')");
    call(&mut session, "SELECT credits.redact_account('USER')");
    session.try_run("COMMIT").refused("LC001");
}

/// What a trigger of the application makes of a hold or a charge, before the function goes on, asks in its place; whether the trigger
/// fires before that of the ledger or behind it.
#[test]
fn what_a_trigger_makes_of_a_row_asks() {
    let extends =
        "UPDATE credits.holds SET expires_at = expires_at + '1 hour' WHERE source_id = NEW.source_id";
    let calls_extend = "PERFORM credits.extend_hold(NEW.source_id, '2 hours')";
    let redacts = "PERFORM credits.redact_account(NEW.user_id)";
    for (event, what, calls) in [
        ("INSERT ON credits.holds", extends, "create_hold('USER', 4, 'a')"),
        ("INSERT ON credits.holds", calls_extend, "create_hold('USER', 4, 'a')"),
        ("INSERT ON credits.holds", extends, "create_hold('USER', 4, 'a'); capture_hold('a')"),
        ("INSERT ON credits.holds", redacts, "create_hold('USER', 4, 'a', '1 hour', 'secret')"),
        ("UPDATE ON credits.holds", extends, "extend_hold('expired', '1 hour')"),
        ("UPDATE ON credits.holds", calls_extend, "extend_hold('expired', '1 hour')"),
        (
            "UPDATE ON credits.holds",
            calls_extend,
            "UPDATE credits.holds SET expires_at = 'tomorrow' WHERE source_id = 'expired'",
        ),
        (
            "UPDATE ON credits.holds",
            calls_extend,
            "UPDATE credits.holds SET expires_at = 'tomorrow' WHERE source_id = 'expired'; capture_hold('expired')",
        ),
        ("INSERT ON credits.credits_transactions", redacts, "charge('USER', 4, 'a', 'secret')"),
    ] {
        for name in ["aa_before", "zz_behind"] {
            let (_db, mut session) = Database::create_with(dec!(10));
            session.run(&format!(
                "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('expired', '{}', 4, 'yesterday');
                 CREATE FUNCTION public.act() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN IF pg_trigger_depth() = 1 THEN {what}; END IF; RETURN NULL; END $$;
                 CREATE TRIGGER {name} AFTER {event} FOR EACH ROW EXECUTE FUNCTION public.act()",
                user(1)
            ));
            // An account that must be covered must be so for all that is written.
            call(&mut session, &format!("BEGIN; {calls}; create_transaction('USER', 'usage', 7, 'b')"));
            let refusal = session.try_run("COMMIT").refused("LC001");
            assert!(
                refusal.message().contains(" 4 asked for"),
                "{calls}, {name}, {what}: {}",
                refusal.message()
            );
            assert_eq!(available(&mut session), dec!(10), "{calls}, {name}, {what}");
        }
    }
}

/// A trigger may have given the row to another account, which is the one that must be covered then; and asked is what is there.
#[test]
fn a_row_asks_as_it_is_stored() {
    for (table, calls) in [
        ("holds", "create_hold('USER', 4, 'a')"),
        ("credits_transactions", "charge('USER', 4, 'a')"),
        ("credits_transactions", "create_hold('USER', 4, 'a'); capture_hold('a')"),
    ] {
        let (db, mut session) = Database::create_with(dec!(100));
        session.grant(user(2), dec!(10));
        let mut other = db.connect();
        session.run(&format!(
            "CREATE FUNCTION public.act() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN NEW.user_id := '{}'; NEW.amount := NEW.amount + 1; RETURN NEW; END $$;
             CREATE TRIGGER act BEFORE INSERT ON credits.{table} FOR EACH ROW WHEN (NEW.source_id = 'a') EXECUTE FUNCTION public.act()",
            user(2)
        ));
        let takes =
            |amount: u32| format!("create_transaction('{}', 'usage', {amount}, 'other {amount}')", user(2));
        call(&mut session, &format!("BEGIN; {calls}"));
        call(&mut other, &takes(6));
        let refusal = session.try_run("COMMIT").refused("LC001");
        assert_eq!(
            refusal.message(),
            format!("user {} has insufficient credits: 5 asked for, 4 available", user(2)),
        );
        // By the call, too; a capture in a transaction of its own never is.
        if calls.contains("capture_hold") {
            call(&mut session, calls);
        } else {
            session.run("BEGIN");
            try_call(&mut session, calls).refused("LC001");
            session.run("ROLLBACK");
        }
        session.assert_sound();
    }
    // What is captured at once asks for what it is captured for.
    let (_db, _, committed) = beside_seven("create_hold('USER', 1, 'a'); capture_hold('a', 4)");
    assert!(committed.refused("LC001").message().ends_with(": 4 asked for, 3 available"));
}

/// CLUSTER moves rows, and runs inside a transaction block: what has to be covered cannot be found again then.
#[test]
fn a_table_that_the_transaction_has_rewritten() {
    for (calls, cluster) in [
        ("create_hold('USER', 4, 'a')", "CLUSTER credits.holds USING holds_user_idx"),
        (
            "create_hold('USER', 4, 'a'); capture_hold('a')",
            "CLUSTER credits.credits_transactions USING credits_transactions_pkey",
        ),
    ] {
        let (_db, mut session) = Database::create_with(dec!(10));
        for end in ["COMMIT", "PREPARE TRANSACTION 'p'"] {
            call(
                &mut session,
                &format!("BEGIN; {calls}; {cluster}; create_transaction('USER', 'usage', 7, 'b')"),
            );
            session.try_run(end).refused("55000");
            session.run("ROLLBACK");
            // One that was rolled back to a savepoint is none.
            call(&mut session, &format!("BEGIN; {calls}; SAVEPOINT s; {cluster}; ROLLBACK TO s"));
            call(&mut session, "create_transaction('USER', 'usage', 7, 'b')");
            session.try_run(end).refused(if end == "COMMIT" { "LC001" } else { "0A000" });
            session.run("ROLLBACK");
        }
        assert_eq!(available(&mut session), dec!(10));
        // In a transaction of its own it does no harm.
        call(&mut session, &format!("{cluster}; {calls}"));
        session.assert_sound();
    }
}

/// After a savepoint is rolled back, VACUUM may clear away its row, and another one be stored in its place.
#[test]
fn a_row_in_place_of_one_that_was_rolled_back_asks_for_nothing() {
    let (db, mut other) = Database::create_with(dec!(10));
    let mut session = db.connect();
    call(&mut other, "BEGIN; create_hold('USER', 7, 'other')");
    call(
        &mut session,
        "BEGIN; SAVEPOINT s; create_hold('USER', 4, 'a'); extend_hold('a', '2 hours'); ROLLBACK TO s",
    );
    db.connect().run("VACUUM (INDEX_CLEANUP ON) credits.holds");
    for number in 0..50 {
        session.run(&format!(
            "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('by hand {number}', '{}', 1, 'tomorrow')",
            user(1)
        ));
    }
    other.run("COMMIT");
    session.run("COMMIT");
}

#[test]
fn an_open_hold_is_extended_whatever_is_there() {
    let (db, mut other) = Database::create_with(dec!(10));
    call(&mut other, "create_hold('USER', 7, 'a'); create_transaction('USER', 'usage', 100, 'u')");
    let mut session = db.connect();
    call(&mut session, "extend_hold('a', '2 hours'); BEGIN; extend_hold('a', '3 hours'); COMMIT");
    assert_eq!(available(&mut session), dec!(-97));
}

/// While the extension is in flight, the hold that it extends has expired for all others.
#[test]
fn an_extension_of_an_expired_hold_against_a_new_hold() {
    let expire =
        "UPDATE credits.holds SET expires_at = clock_timestamp() - interval '1 second' WHERE source_id = 'a'";
    // Whoever commits first gets it.
    for extension_is_first in [true, false] {
        let (db, mut first) = Database::create_with(dec!(10));
        let mut second = db.connect();
        call(&mut first, &format!("create_hold('USER', 7, 'a'); {expire}"));
        let calls = ["BEGIN; extend_hold('a', '2 hours')", "BEGIN; create_hold('USER', 4, 'b')"];
        let [before, after] = if extension_is_first { calls } else { [calls[1], calls[0]] };
        call(&mut first, before);
        call(&mut second, after);
        first.run("COMMIT");
        second.try_run("COMMIT").refused("LC001");
        first.assert_sound();
    }
}

/// It is open when the call looks, and not any more when the commit does.
#[test]
fn an_extension_of_a_hold_that_expires_before_the_commit() {
    for extended in [
        "extend_hold('a', '2 hours')",
        "extend_hold('a', '1 hour'); extend_hold('a', '2 hours')",
        "extend_hold('a', '1 hour'); capture_hold('a')",
    ] {
        let (db, mut other) = Database::create_with(dec!(10));
        let mut session = db.connect();
        call(&mut other, "create_hold('USER', 7, 'a', '700 milliseconds')");
        call(&mut session, &format!("BEGIN; {extended}"));
        db.until("SELECT expires_at < clock_timestamp() FROM credits.holds WHERE source_id = 'a'", &[]);
        call(&mut other, "create_hold('USER', 4, 'b')");
        session.try_run("COMMIT").refused("LC001");
    }
}

#[test]
fn an_account_without_any_row() {
    let db = Database::create();
    let mut session = db.connect();
    try_call(&mut session, "create_hold('USER', 1, 'a')").refused("LC001");
    session.run(&format!(
        "INSERT INTO credits.spending_limits (user_id, overdraft_limit) VALUES ('{}', 10)",
        user(1)
    ));
    call(&mut session, "create_hold('USER', 4, 'a')");
    let mut other = db.connect();
    call(&mut session, "BEGIN; charge('USER', 4, 'b')");
    call(&mut other, "create_hold('USER', 4, 'c')");
    session.try_run("COMMIT").refused("LC001");
    assert_eq!(available(&mut session), dec!(-8));
}

/// The limit as the transaction itself has set it.
#[test]
fn a_limit_that_the_transaction_sets() {
    let (_db, mut session) = Database::create_with(dec!(10));
    let limit = |limit: &str| {
        format!(
            "INSERT INTO credits.spending_limits (user_id, overdraft_limit) VALUES ('USER', {limit})
             ON CONFLICT (user_id) DO UPDATE SET overdraft_limit = {limit}"
        )
    };
    call(&mut session, &format!("BEGIN; {}; create_hold('USER', 15, 'a'); COMMIT", limit("5")));
    session.run("BEGIN");
    call(&mut session, &format!("{}; create_hold('USER', 1000, 'b'); {}", limit("NULL"), limit("5")));
    session.try_run("COMMIT").refused("LC001");
    // A lower limit refuses nobody by itself.
    call(&mut session, &limit("0"));
    assert_eq!(available(&mut session), dec!(-5));
}

/// Many accounts in one transaction: one that is not covered refuses all.
#[test]
fn every_account_of_a_transaction_is_covered() {
    let (db, mut other) = Database::create_with(dec!(10));
    let mut session = db.connect();
    for number in 2..200 {
        other.grant(user(number), dec!(10));
    }
    let hold = |number: u32, amount: u32| {
        format!("SELECT credits.create_hold('{}', {amount}, 'of {number}')", user(number))
    };
    session.run("BEGIN");
    for number in (1..200).rev() {
        session.run(&hold(number, 4));
    }
    call(&mut other, "charge('USER', 7, 'a')");
    session.try_run("COMMIT").refused("LC001");
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.holds", &[]), 0);
    session.run("BEGIN");
    for number in 2..200 {
        session.run(&hold(number, 4));
    }
    session.run("COMMIT");
    session.assert_sound();
}

#[test]
fn what_must_be_covered_is_not_prepared() {
    let db = Database::create_alone();
    let mut session = db.connect();
    session.grant(user(1), dec!(100));
    call(&mut session, "create_hold('USER', 1, 'open'); create_hold('USER', 1, 'other')");
    for calls in [
        "create_hold('USER', 1, 'a')",
        "charge('USER', 1, 'a')",
        "create_hold('USER', 1, 'a'); capture_hold('a')",
        "extend_hold('open', '2 hours')",
        "extend_hold('open', '2 hours'); capture_hold('open')",
    ] {
        call(&mut session, &format!("BEGIN; {calls}"));
        session.try_run("PREPARE TRANSACTION 'p'").refused("0A000");
        session.run("ROLLBACK");
    }
    for calls in [
        "create_hold('USER', 1, 'a'); release_hold('a')",
        "SAVEPOINT s; charge('USER', 1, 'a'); ROLLBACK TO s",
        "capture_hold('open')",
        "release_hold('other')",
        "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('b', 'USER', 90, 'tomorrow')",
    ] {
        call(&mut session, &format!("BEGIN; {calls}; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'"));
    }
    try_call(&mut session, "create_hold('USER', 10, 'c')").refused("LC001");
    call(&mut session, "create_hold('USER', 9, 'c')");
    session.assert_sound();
}

/// Of holds that were published as covered, the last that fits is told from the first that does not, to the millionth and beyond.
#[test]
fn exactly_as_many_are_admitted_as_fit() {
    let (_db, mut session) = Database::create_with(dec!(10));
    for number in 0..100 {
        call(&mut session, &format!("create_hold('USER', 0.1, '{number}')"));
    }
    try_call(&mut session, "create_hold('USER', 0.000000000000001, 'x')").refused("LC001");
    call(&mut session, "release_hold('7'); charge('USER', 0.099999999999999, 'x')");
    try_call(&mut session, "charge('USER', 0.000000000000002, 'y')").refused("LC001");
    call(&mut session, "charge('USER', 0.000000000000001, 'y')");
    assert_eq!(available(&mut session), dec!(0));
}

/// A covered account that is far from its limit is not looked at by each commit.
#[test]
fn a_covered_account_is_decided_without_its_stripe() {
    let (_db, mut session) = Database::create_with(dec!(1000));
    call(&mut session, "create_hold('USER', 1, 'a')");
    let sections = "SELECT exclusive_sections FROM credits.settlement_statistics()";
    let before: i64 = session.value(sections, &[]);
    for number in 0..50 {
        call(
            &mut session,
            &format!(
                "create_hold('USER', 1, '{number}'); capture_hold('{number}'); charge('USER', 1, 'x{number}')"
            ),
        );
    }
    assert_eq!(session.value::<i64>(sections, &[]), before);
}

/// Where the owner has taken the trigger away that notes holds, nothing says how much was held since: so each commit looks.
#[test]
fn holds_that_nobody_notes_are_looked_for() {
    let (_db, mut session) = Database::create_with(dec!(1000));
    session.run("ALTER TABLE credits.holds DISABLE TRIGGER note_hold");
    for number in 0..3 {
        call(&mut session, &format!("charge('USER', 1, '{number}')"));
    }
    let by_hand = "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('by hand', 'USER', 990, 'infinity')";
    session.run(&by_hand.replace("USER", &user(1).to_string()));
    try_call(&mut session, "charge('USER', 7.5, 'more')").refused("LC001");
    call(&mut session, "BEGIN; charge('USER', 3, 'a'); charge('USER', 4, 'b'); COMMIT");
    session.run("ALTER TABLE credits.holds ENABLE ALWAYS TRIGGER note_hold");
    try_call(&mut session, "create_hold('USER', 0.5, 'more')").refused("LC001");
    session.assert_sound();
}

/// Nor does anything say what an extension asks: it is not refused, and the hold is not made anew.
#[test]
fn an_extension_that_nobody_notes_asks_for_nothing() {
    let (_db, mut session) = Database::create_with(dec!(10));
    call(&mut session, "create_hold('USER', 10, 'a')");
    let made = "SELECT created_at::text FROM credits.holds";
    let before: String = session.value(made, &[]);
    session.run("ALTER TABLE credits.holds DISABLE TRIGGER note_hold");
    call(&mut session, "create_transaction('USER', 'usage', 5, 'b'); extend_hold('a', '2 hours')");
    assert_eq!(session.value::<String>(made, &[]), before);
    session.run("ALTER TABLE credits.holds ENABLE ALWAYS TRIGGER note_hold");
    session.assert_sound();
}
