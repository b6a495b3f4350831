//! Enforced spend caps: holds and charges that would exceed one are refused, exactly, and nobody else is.

use std::sync::{Arc, Barrier};
use std::thread;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::{Database, Decimal, Refused, Session, Uuid, dec, user};
use postgres::Error;

/// The two ways to ask for credits.
const WAYS: [&str; 2] = ["create_hold", "charge"];

fn key(number: u32) -> Uuid {
    Uuid::from_u128(0x3000_0000_0000_4000_8000_0000_0000_0000 + u128::from(number))
}

/// A database where user 1 has plenty, with an enforced cap of this amount, of these keys and this period.
fn capped(keys: &str, period: &str, amount: Decimal) -> (Database, Session) {
    let db = Database::create_alone();
    let mut session = session(&db);
    session.grant(user(1), dec!(1000000));
    session.run(&cap(keys, period, amount));
    (db, session)
}

fn cap(keys: &str, period: &str, amount: Decimal) -> String {
    format!(
        "INSERT INTO credits.spend_caps (user_id, api_key_ids, period, amount, since, is_enforced)
         VALUES ('{}', {keys}, {period}, {amount}, '2000-01-01', true)",
        user(1)
    )
}

fn keys(numbers: &[u32]) -> String {
    let keys: Vec<String> = numbers.iter().map(|&number| format!("'{}'", key(number))).collect();
    format!("ARRAY[{}]::uuid[]", keys.join(","))
}

fn session(db: &Database) -> Session {
    let mut session = db.connect();
    session.run("SET lock_timeout = '50s'");
    session
}

/// Asks for credits of user 1 with this key; 0 is none.
fn ask(session: &mut Session, way: &str, of: u32, amount: Decimal, source: &str) -> Result<(), Error> {
    let of = if of == 0 { "NULL".to_owned() } else { format!("'{}'", key(of)) };
    session.try_run(&format!("SELECT credits.{way}('{}', {amount}, '{source}', api_key_id => {of})", user(1)))
}

/// A session with an open transaction that has asked, and may have it by what has committed.
fn asking(db: &Database, way: &str, of: u32, amount: Decimal, source: &str) -> Session {
    let mut session = session(db);
    session.run("BEGIN");
    ask(&mut session, way, of, amount, source).expect("it is covered by what has committed");
    session
}

/// What is left of the only cap, open holds taken away that it counts, or all.
fn left(session: &mut Session) -> Decimal {
    session.value(
        "SELECT trim_scale(s.amount - s.spent - coalesce((SELECT sum(h.amount) FROM credits.holds h
                WHERE h.user_id = s.user_id AND h.expires_at > clock_timestamp()
                  AND (c.api_key_ids IS NULL OR h.api_key_id = ANY (c.api_key_ids))), 0))
         FROM credits.spend_cap_states s JOIN credits.spend_caps c ON c.id = s.cap_id",
        &[],
    )
}

#[test]
fn what_exceeds_a_cap_is_refused() {
    for way in WAYS {
        let (_db, mut session) = capped("NULL", "NULL", dec!(10));
        ask(&mut session, way, 0, dec!(4), "one").unwrap();
        ask(&mut session, way, 1, dec!(5.5), "other").unwrap();
        let error = ask(&mut session, way, 0, dec!(0.500000000000001), "third").refused("LC002");
        let id: Uuid = session.value("SELECT id FROM credits.spend_caps", &[]);
        assert_eq!(
            error.message(),
            format!(
                "user {} would exceed spend cap {id}: 0.500000000000001 asked for, 0.5 remaining",
                user(1)
            )
        );
        let detail = format!(
            "{{\"cap_id\":\"{id}\",\"user_id\":\"{}\",\"asked\":\"0.500000000000001\",\"remaining\":\"0.5\"}}",
            user(1)
        );
        assert_eq!(error.detail(), Some(&*detail));
        assert!(error.hint().is_some());
        ask(&mut session, way, 0, dec!(0.5), "third").unwrap();
        assert_eq!(left(&mut session), dec!(0));
        ask(&mut session, way, 0, dec!(0.000000000000001), "more").refused("LC002");
        session.assert_sound();
    }
}

/// Only those with a key of the cap are refused, and only where it is enforced.
#[test]
fn what_a_cap_does_not_count_is_not_refused() {
    for way in WAYS {
        let (_db, mut session) = capped(&keys(&[1, 2]), "NULL", dec!(10));
        ask(&mut session, way, 1, dec!(10), "all").unwrap();
        for (of, refused) in [(0, false), (1, true), (2, true), (3, false)] {
            let asked = ask(&mut session, way, of, dec!(50), &format!("of {of}"));
            if refused {
                asked.refused("LC002");
            } else {
                asked.unwrap();
            }
        }
        session.run("UPDATE credits.spend_caps SET is_enforced = false");
        ask(&mut session, way, 2, dec!(50), "unenforced").unwrap();
        session.run("UPDATE credits.spend_caps SET is_enforced = true");
        ask(&mut session, way, 2, dec!(1), "enforced").refused("LC002");
        session.run("UPDATE credits.spend_caps SET amount = 61");
        ask(&mut session, way, 2, dec!(1), "raised").unwrap();
        session.run("DELETE FROM credits.spend_caps");
        ask(&mut session, way, 2, dec!(50), "uncapped").unwrap();
        session.assert_sound();
    }
}

/// Plain usage, captures and holds that are written by hand are recorded, whatever the caps say.
#[test]
fn what_was_used_is_never_refused() {
    let (_db, mut session) = capped("NULL", "NULL", dec!(10));
    ask(&mut session, "create_hold", 0, dec!(10), "held").unwrap();
    session.charge(user(1), dec!(5));
    session.run("SELECT credits.capture_hold('held', 20)");
    session.run(&format!(
        "SELECT credits.create_transaction('{0}', 'usage', 3, 'plain');
         INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('by hand', '{0}', 7, 'infinity')",
        user(1)
    ));
    assert_eq!(left(&mut session), dec!(-25));
    ask(&mut session, "charge", 0, dec!(1), "more").refused("LC002");
    // An open hold may be extended, and what expires makes room.
    session.run("SELECT credits.extend_hold('by hand', '1 hour')");
    session.run("UPDATE credits.spend_caps SET amount = 34");
    ask(&mut session, "create_hold", 0, dec!(1), "more").refused("LC002");
    session.run("UPDATE credits.holds SET expires_at = now()");
    ask(&mut session, "create_hold", 0, dec!(6), "more").unwrap();
    // An expired one is held anew, if there is room.
    session.try_run("SELECT credits.extend_hold('by hand', '1 hour')").refused("LC002");
    session.run("SELECT credits.release_hold('more')");
    session.try_run("SELECT credits.extend_hold('by hand', '1 hour')").refused("LC002");
    session.run("UPDATE credits.spend_caps SET amount = 35; SELECT credits.extend_hold('by hand', '1 hour')");
    assert_eq!(left(&mut session), dec!(0));
    session.assert_sound();
}

/// What is captured counts as it was used, and what is released or reversed: the one gives its part back, the other does not.
#[test]
fn a_capture_gives_back_what_was_not_used() {
    let (_db, mut session) = capped("NULL", "NULL", dec!(10));
    ask(&mut session, "create_hold", 0, dec!(10), "h").unwrap();
    session.run("SELECT credits.capture_hold('h', 4)");
    ask(&mut session, "create_hold", 0, dec!(6), "i").unwrap();
    session.run("SELECT credits.release_hold('i')");
    ask(&mut session, "charge", 0, dec!(6), "j").unwrap();
    session.run(
        "SELECT credits.reverse_transaction(id, 'r') FROM credits.credits_transactions WHERE source_id = 'j'",
    );
    ask(&mut session, "charge", 0, dec!(1), "k").refused("LC002");
    session.assert_sound();
}

/// Where credits do not suffice either, that is what is said.
#[test]
fn a_lack_of_credits_comes_first() {
    for way in WAYS {
        let db = Database::create_alone();
        let mut session = session(&db);
        session.grant(user(1), dec!(5));
        session.run(&cap("NULL", "NULL", dec!(3)));
        ask(&mut session, way, 0, dec!(6), "both").refused("LC001");
        ask(&mut session, way, 0, dec!(4), "cap").refused("LC002");
        // At the commit, too.
        let (mut one, mut other) =
            (asking(&db, way, 0, dec!(3), "one"), asking(&db, way, 0, dec!(3), "other"));
        one.run("COMMIT");
        other.try_run("COMMIT").refused("LC001");
    }
}

/// An account with an endless overdraft is capped all the same.
#[test]
fn a_cap_holds_without_a_limit() {
    for way in WAYS {
        let (_db, mut session) = capped("NULL", "NULL", dec!(10));
        session.run(&format!("INSERT INTO credits.spending_limits VALUES ('{}', NULL)", user(1)));
        ask(&mut session, way, 0, dec!(10), "all").unwrap();
        ask(&mut session, way, 0, dec!(1), "more").refused("LC002");
    }
}

#[test]
fn of_two_that_commit_one_after_the_other_one_is_admitted() {
    for first in WAYS {
        for second in WAYS {
            let (db, mut session) = capped(&keys(&[1, 2]), "NULL", dec!(10));
            let (mut one, mut other) =
                (asking(&db, first, 1, dec!(6), "one"), asking(&db, second, 2, dec!(6), "other"));
            other.run("COMMIT");
            one.try_run("COMMIT").refused("LC002");
            assert_eq!(left(&mut session), dec!(4));
            // The source_id of the one that was refused is free.
            ask(&mut session, first, 1, dec!(4), "one").unwrap();
            session.assert_sound();
        }
    }
}

#[test]
fn of_two_that_commit_at_once_one_is_admitted() {
    for first in WAYS {
        for second in WAYS {
            let (db, mut session) = capped("NULL", "NULL", dec!(10));
            let (one, other) =
                (asking(&db, first, 1, dec!(6), "one"), asking(&db, second, 2, dec!(6), "other"));
            let held = db.hold_commit(one);
            let committing = other.background(|session| session.try_run("COMMIT"));
            db.until_blocked(committing.pid());
            held.release();
            committing.finish().1.refused("LC002");
            assert_eq!(left(&mut session), dec!(4));
            session.assert_sound();
        }
    }
}

/// Plain usage that commits meanwhile counts, and what commits later may exceed the cap.
#[test]
fn plain_usage_beside_one_that_asks() {
    for way in WAYS {
        let (db, mut plain) = capped("NULL", "NULL", dec!(10));
        plain.run("BEGIN");
        plain.charge(user(1), dec!(8));
        let mut asks = asking(&db, way, 0, dec!(6), "asks");
        asks.run("COMMIT");
        plain.run("COMMIT");
        assert_eq!(left(&mut plain), dec!(-4));

        let (db, mut plain) = capped("NULL", "NULL", dec!(10));
        let asks = asking(&db, way, 0, dec!(6), "asks");
        plain.run("BEGIN");
        plain.charge(user(1), dec!(8));
        let held = db.hold_commit(plain);
        let committing = asks.background(|session| session.try_run("COMMIT"));
        db.until_blocked(committing.pid());
        held.release();
        let (mut asks, refused) = committing.finish();
        refused.refused("LC002");
        assert_eq!(left(&mut asks), dec!(2));
    }
}

/// A cap that is lowered or set meanwhile is that of the decision.
#[test]
fn a_cap_that_changes_meanwhile() {
    for way in WAYS {
        let (db, mut owner) = capped("NULL", "NULL", dec!(100));
        ask(&mut owner, way, 0, dec!(1), "far").unwrap();
        let mut asks = asking(&db, way, 0, dec!(6), "asks");
        owner.run("UPDATE credits.spend_caps SET amount = 6");
        asks.try_run("COMMIT").refused("LC002");
        owner.run("UPDATE credits.spend_caps SET amount = 7");
        let mut asks = asking(&db, way, 0, dec!(6), "asks");
        owner.run("UPDATE credits.spend_caps SET amount = 8");
        asks.run("COMMIT");
        // By the one that asks itself.
        owner.run("BEGIN; UPDATE credits.spend_caps SET amount = 20");
        ask(&mut owner, way, 0, dec!(13), "within").unwrap();
        owner.run("COMMIT; BEGIN");
        ask(&mut owner, way, 0, dec!(0.0001), "y").refused("LC002");
        owner.run("ROLLBACK");
        assert_eq!(left(&mut owner), dec!(0));
        owner.run("DELETE FROM credits.spend_caps");
        let mut asks = asking(&db, way, 0, dec!(6), "last");
        owner.run(&cap("NULL", "NULL", dec!(25)));
        asks.try_run("COMMIT").refused("LC002");
        owner.assert_sound();
    }
}

/// A savepoint rolled back and a release leave nothing to ask.
#[test]
fn what_is_taken_back_asks_for_nothing() {
    let (db, mut owner) = capped("NULL", "NULL", dec!(10));
    let mut asks = session(&db);
    asks.run("BEGIN; SAVEPOINT s");
    ask(&mut asks, "charge", 0, dec!(9), "a").unwrap();
    asks.run("ROLLBACK TO s");
    ask(&mut asks, "create_hold", 0, dec!(9), "b").unwrap();
    asks.run("SELECT credits.release_hold('b')");
    asks.charge(user(1), dec!(1));
    owner.charge(user(1), dec!(10));
    asks.run("COMMIT");
    assert_eq!(left(&mut owner), dec!(-1));
    // Captured in the same transaction it asks all the same.
    owner.run("UPDATE credits.spend_caps SET amount = 20");
    owner.run("BEGIN");
    ask(&mut owner, "create_hold", 0, dec!(9), "c").unwrap();
    owner.run("SELECT credits.capture_hold('c')");
    ask(&mut asks, "charge", 0, dec!(1), "d").unwrap();
    owner.try_run("COMMIT").refused("LC002");
    owner.assert_sound();
}

/// Each window has room of its own, and holds count in whichever is the current one.
#[test]
fn a_window_that_ends_makes_room() {
    for way in WAYS {
        let cluster = Cluster::start_with_clock("");
        cluster.set_clock("2026-11-29 23:30+00");
        let db = Database::create_in(&cluster);
        let mut session = session(&db);
        session.grant(user(1), dec!(1000000));
        session.run(&cap("NULL", "'daily'", dec!(10)));
        ask(&mut session, way, 0, dec!(10), "today").unwrap();
        ask(&mut session, way, 0, dec!(1), "more").refused("LC002");
        // Decided in the next window: its own amount counts there, whatever its date.
        let mut asks = self::session(&db);
        cluster.set_clock("2026-11-30 00:10+00");
        let held = if way == "charge" { dec!(0) } else { dec!(10) };
        ask(&mut asks, way, 0, dec!(10) - held + dec!(0.1), "tomorrow").refused("LC002");
        if way == "charge" {
            ask(&mut asks, way, 0, dec!(10), "tomorrow").unwrap();
            ask(&mut asks, way, 0, dec!(1), "more").refused("LC002");
        }
        // Rows of tomorrow count tomorrow, and none is refused for them today.
        cluster.set_clock("2026-12-02 12:00+00");
        session.run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at)
             VALUES ('{}', 'usage', 9, 'ahead', '2026-12-03 10:00+00')",
            user(1)
        ));
        session.run("DELETE FROM credits.holds");
        ask(&mut session, way, 0, dec!(9), "day").unwrap();
        session.run("DELETE FROM credits.holds");
        cluster.set_clock("2026-12-03 00:00+00");
        ask(&mut session, way, 0, dec!(1.1), "ahead too").refused("LC002");
        ask(&mut session, way, 0, dec!(1), "ahead one").unwrap();
        session.assert_sound();
    }
}

/// A charge that the application dates otherwise counts in the current window when it is decided.
#[test]
fn a_charge_counts_whatever_its_date() {
    let (db, mut session) = capped("NULL", "NULL", dec!(10));
    session.run(
        "UPDATE credits.spend_caps SET since = now();
         CREATE FUNCTION public.backdate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.created_at := '2020-01-01'; RETURN NEW; END $$;
         CREATE TRIGGER backdate BEFORE INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION public.backdate()",
    );
    ask(&mut session, "charge", 0, dec!(11), "too much").refused("LC002");
    ask(&mut session, "charge", 0, dec!(10), "all").unwrap();
    ask(&mut session, "charge", 0, dec!(10), "again").unwrap();
    session.run("BEGIN");
    ask(&mut session, "charge", 0, dec!(6), "first").unwrap();
    ask(&mut session, "charge", 0, dec!(6), "second").unwrap();
    session.try_run("COMMIT").refused("LC002");
    let _ = db;
    session.assert_sound();
}

#[test]
fn one_that_must_be_covered_is_not_prepared() {
    let (_db, mut session) = capped("NULL", "NULL", dec!(10));
    session.run("BEGIN");
    ask(&mut session, "charge", 0, dec!(1), "a").unwrap();
    session.try_run("PREPARE TRANSACTION 'capped'").refused("0A000");
}

/// Many at once take exactly what there is, by keys that share a cap and one that has a cap of its own.
#[test]
fn clients_at_once_take_what_there_is() {
    const CLIENTS: usize = 6;
    for round in 0..4 {
        let (db, mut owner) = capped(&keys(&[1, 2, 3]), "'monthly'", dec!(50));
        owner.run(&cap(&keys(&[3]), "NULL", dec!(10)));
        owner.run(&cap("NULL", "NULL", dec!(70)));
        let start = Arc::new(Barrier::new(CLIENTS));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (mut session, start) = (session(&db), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    for attempt in 0..25_usize {
                        let source = format!("{round} {client} {attempt}");
                        let of = u32::try_from((client + attempt) % 5).unwrap();
                        let way = WAYS[attempt % 2];
                        if let Err(error) = ask(&mut session, way, of, dec!(1), &source) {
                            Err::<(), _>(error).refused("LC002");
                        } else if way == "create_hold" && attempt % 4 == 1 {
                            session.run(&format!("SELECT credits.capture_hold('{source}')"));
                        }
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        let taken: Vec<String> = owner.values(
            "SELECT trim_scale(s.spent + coalesce(sum(h.amount), 0))::text
             FROM credits.spend_cap_states s JOIN credits.spend_caps c ON c.id = s.cap_id
             LEFT JOIN credits.holds h ON h.api_key_id = ANY (c.api_key_ids) OR c.api_key_ids IS NULL
             GROUP BY c.id, s.spent, c.amount ORDER BY c.amount",
            &[],
        );
        // More than enough was asked for with each key and with none.
        assert_eq!((&*taken[0], &*taken[2]), ("10", "70"), "{taken:?}");
        assert!(taken[1].parse::<i32>().unwrap() <= 50, "{taken:?}");
        owner.assert_sound();
    }
}
