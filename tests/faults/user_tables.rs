//! Holds and limits after every way to move a ledger: dumped, copied, replicated. They come with their policies, and what comes is
//! settled as what is written.

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::contents::SILENT;
use credits_ledger_tests::{Database, Refused, Session, dec, user};

use crate::dumps::{Way, dump, new_database, restore};

/// Of what the tenant may see and write.
const POLICIES: &str = "
    CREATE POLICY own ON credits.holds TO tenant USING (user_id::text LIKE '%0');
    CREATE POLICY small ON credits.holds AS RESTRICTIVE FOR INSERT WITH CHECK (amount < 100);
    ALTER TABLE credits.holds ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
    CREATE POLICY own ON credits.spend_caps FOR SELECT TO tenant USING (user_id::text LIKE '%0');
    ALTER TABLE credits.spend_caps ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON credits.spending_limits FOR SELECT TO tenant USING (user_id::text LIKE '%1');
    ALTER TABLE credits.spending_limits ENABLE ROW LEVEL SECURITY";

/// The sums that are held, by whether they are open.
fn held(session: &mut Session) -> Vec<String> {
    session.values(
        "SELECT concat_ws(' ', user_id, trim_scale(held), trim_scale(available)) FROM credits.balances ORDER BY 1",
        &[],
    )
}

fn policies(session: &mut Session) -> Vec<String> {
    session.values("SELECT s::text FROM credits.row_security() s", &[])
}

#[test]
fn every_way_to_restore_brings_holds_and_limits_and_their_policies() {
    let cluster = Cluster::start();
    cluster.execute("postgres", "CREATE ROLE tenant LOGIN");
    let ledger = Database::create_in(&cluster);
    let mut session = ledger.connect();
    session.record_history();
    session.record_holds_and_limits();
    session.run(POLICIES);
    session.assert_sound();
    let (contents, rows) = (session.contents(), session.holds_and_limits());
    let (policies_there, held_there) = (policies(&mut session), held(&mut session));
    assert_eq!((rows.len(), policies_there.len()), (13, 8));
    for (number, way) in Way::ALL.into_iter().enumerate() {
        println!("{way:?}");
        let file = cluster.folder().join(format!("dump_{number}"));
        dump(&ledger, way, &file);
        let restored = new_database(&cluster, &format!("restored_{number}"), way.template());
        let mut listener = restored.listen();
        restore(&file, way, &restored, SILENT);
        assert_eq!(listener.drain(), []);
        let mut session = restored.connect();
        assert_eq!(session.contents(), contents);
        assert_eq!(session.holds_and_limits(), rows);
        assert_eq!(policies(&mut session), policies_there);
        assert_eq!(held(&mut session), held_there);
        session.assert_sound();
        session.assert_as_made();
        session.run(
            "GRANT USAGE ON SCHEMA credits TO tenant; GRANT SELECT, INSERT ON credits.holds, credits.spending_limits TO tenant",
        );
        let mut tenant = restored.connect_as("tenant");
        let seen: (i64, i64) = (
            tenant.value("SELECT count(*) FROM credits.holds", &[]),
            tenant.value("SELECT count(*) FROM credits.spending_limits", &[]),
        );
        assert_eq!(seen, (2, 1));
        for (number, amount) in [(1, 1), (0, 100)] {
            let insert = format!(
                "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('x', '{}', {amount}, now())",
                user(number)
            );
            tenant.try_run(&insert).refused("42501");
        }
        tenant.try_run("INSERT INTO credits.spending_limits VALUES (gen_random_uuid())").refused("42501");
    }
}

/// A copy has them, and goes on by itself.
#[test]
fn a_copied_database_keeps_holds_and_limits() {
    let cluster = Cluster::start();
    let name = {
        let ledger = Database::create_in(&cluster);
        ledger.connect().record_history();
        ledger.connect().record_holds_and_limits();
        ledger.name().to_owned()
    };
    Database::open(&cluster, "postgres")
        .until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = $1)", &[&name]);
    cluster.execute("postgres", &format!("CREATE DATABASE copied TEMPLATE {name}"));
    let (original, copy) = (Database::open(&cluster, &name), Database::open(&cluster, "copied"));
    let (mut here, mut there) = (original.connect(), copy.connect());
    assert_eq!(here.holds_and_limits(), there.holds_and_limits());
    assert_eq!(held(&mut here), held(&mut there));
    there.run(
        "DELETE FROM credits.holds; DELETE FROM credits.spending_limits; DELETE FROM credits.spend_caps",
    );
    here.assert_sound();
    there.assert_sound();
    assert_eq!(here.holds_and_limits().len(), 13);
}

/// A standby reads what is held as of where it is, and writes none of it.
#[test]
fn a_standby_has_holds_and_limits() {
    let primary = Cluster::start();
    let here = Database::create_in(&primary);
    let mut session = here.connect();
    session.record_history();
    session.record_holds_and_limits();
    let standby = primary.standby();
    standby.catch_up(&primary);
    let there = Database::open(&standby, here.name());
    let mut reader = there.connect();
    assert_eq!(reader.holds_and_limits(), session.holds_and_limits());
    session.run("DELETE FROM credits.holds WHERE source_id = 'open'; UPDATE credits.holds SET expires_at = now() + '1 hour'");
    session.run("DELETE FROM credits.spending_limits; UPDATE credits.spend_caps SET amount = 5");
    standby.catch_up(&primary);
    assert_eq!(reader.holds_and_limits(), session.holds_and_limits());
    assert_eq!(held(&mut reader), held(&mut session));
    reader.assert_sound();
    for write in [
        "DELETE FROM credits.holds",
        "UPDATE credits.spending_limits SET thresholds = '{1}'",
        "DELETE FROM credits.spend_caps",
    ] {
        reader.try_run(write).refused("25006");
    }
    session.assert_sound();
}

/// What a publisher inserts, extends and deletes, the subscriber has, settled there.
#[test]
fn a_subscriber_follows_holds_and_limits() {
    const SETTINGS: &str = "wal_level = logical";
    let (publisher, subscriber) = (
        Database::create_in(&Cluster::start_with(SETTINGS)),
        Database::create_in(&Cluster::start_with(SETTINGS)),
    );
    let (mut here, mut there) = (publisher.connect(), subscriber.connect());
    here.record_history();
    here.record_holds_and_limits();
    here.run(
        "CREATE PUBLICATION ledger FOR TABLE credits.credits_transactions WITH (publish = 'insert');
         CREATE PUBLICATION boundaries FOR TABLE credits.holds, credits.spending_limits, credits.spend_caps",
    );
    there.run(&format!(
        "CREATE SUBSCRIPTION ledger CONNECTION 'host={} user=postgres dbname={}' PUBLICATION ledger, boundaries
         WITH (synchronous_commit = local)",
        publisher.cluster().folder().display(),
        publisher.name()
    ));
    subscriber.until("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel", &[]);
    let assert_same = |change: &str, here: &mut Session, there: &mut Session| {
        here.run(change);
        let written: String = here.value("SELECT pg_logical_emit_message(true, 'catch up', '')::text", &[]);
        publisher.until(
            "SELECT bool_and(confirmed_flush_lsn >= $1::text::pg_lsn) FROM pg_replication_slots WHERE slot_name = 'ledger'",
            &[&written],
        );
        assert_eq!(there.holds_and_limits(), here.holds_and_limits(), "{change}");
        assert_eq!(held(there), held(here), "{change}");
        there.assert_sound();
    };
    let hold = |source_id: &str| {
        format!(
            "INSERT INTO credits.holds (source_id, user_id, amount, description, expires_at)
             VALUES ('{source_id}', '{}', 1, 'text', now() + '1 day')",
            user(0)
        )
    };
    assert_same("SELECT", &mut here, &mut there);
    assert_same(&hold("later"), &mut here, &mut there);
    assert_same(
        "UPDATE credits.holds SET expires_at = now() + '2 days' WHERE source_id = 'later'",
        &mut here,
        &mut there,
    );
    // As an expired hold is made anew.
    assert_same(
        "ALTER TABLE credits.holds DISABLE TRIGGER only_extended;
         UPDATE credits.holds SET expires_at = now() + '2 days', created_at = now() WHERE source_id = 'gone';
         ALTER TABLE credits.holds ENABLE ALWAYS TRIGGER only_extended",
        &mut here,
        &mut there,
    );
    let redact = format!("SELECT credits.redact_account('{}')", user(0));
    assert_same(&redact, &mut here, &mut there);
    let texts = "SELECT count(*) FROM credits.holds WHERE user_id = $1 AND (description IS NOT NULL OR metadata IS NOT NULL)";
    assert_eq!(there.value::<i64>(texts, &[&user(0)]), 0);
    assert_same("DELETE FROM credits.holds WHERE source_id IN ('open', 'later')", &mut here, &mut there);
    assert_same(
        &format!(
            "UPDATE credits.spending_limits SET overdraft_limit = 9, thresholds = '{{2, 3}}' WHERE user_id = '{}'",
            user(1)
        ),
        &mut here,
        &mut there,
    );
    assert_same(
        &format!("DELETE FROM credits.spending_limits WHERE user_id = '{}'", user(2)),
        &mut here,
        &mut there,
    );
    assert_same("UPDATE credits.spend_caps SET amount = 7, since = now()", &mut here, &mut there);
    assert_same("DELETE FROM credits.spend_caps WHERE period = 'daily'", &mut here, &mut there);
    // The subscriber announces a crossing of a threshold that has come from the publisher.
    let mut listener = subscriber.listen();
    let balance = here.balance(user(1));
    here.charge(user(1), balance - dec!(2.5));
    assert_same("SELECT", &mut here, &mut there);
    let heard: Vec<String> = listener.drain().into_iter().map(|heard| heard.payload).collect();
    assert_eq!(
        heard,
        [format!("{{\"user_id\":\"{}\",\"direction\":\"down\",\"threshold\":\"3\"}}", user(1))]
    );
}
