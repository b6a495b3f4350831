//! Remote transactions that end with the local one, by postgres_fdw, on the same server: what they wait for there is hidden
//! from the detector of deadlocks, so the local commit must not have it.

use credits_ledger_tests::cluster::SUPERUSER;
use credits_ledger_tests::{Database, Direction, Session, Uuid, dec, user};

use Direction::Down;

/// The ledger, and a table that is none of it, as foreign tables of their own database. A remote wait ends after seconds, and the
/// local commit with it.
fn loop_back(db: &Database) {
    db.connect().run(&format!(
        "CREATE EXTENSION postgres_fdw;
         CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw
             OPTIONS (host '{}', dbname '{}', options '-c lock_timeout=10s');
         CREATE USER MAPPING FOR {SUPERUSER} SERVER loopback OPTIONS (user '{SUPERUSER}');
         CREATE TABLE elsewhere (x int);
         CREATE FOREIGN TABLE remote_elsewhere (x int) SERVER loopback OPTIONS (table_name 'elsewhere');
         CREATE FOREIGN TABLE remote_ledger (user_id uuid, transaction_type text, amount numeric, source_id text)
             SERVER loopback OPTIONS (schema_name 'credits', table_name 'credits_transactions')",
        db.cluster().folder().display(),
        db.name(),
    ));
}

fn charge_remotely(session: &mut Session, user: Uuid, amount: i32) {
    session.run(&format!(
        "INSERT INTO remote_ledger VALUES ('{user}', 'usage', {amount}, gen_random_uuid()::text)"
    ));
}

type Load = fn(&mut Session);

/// Which library the session loads first.
const FIRST: [(&str, Load); 2] = [
    ("postgres_fdw", |session| session.run("SELECT FROM remote_elsewhere")),
    ("the ledger", |session| assert_eq!(session.balance(user(9)), dec!(0))),
];

#[test]
fn a_commit_settles_after_remote_commits() {
    let db = Database::create();
    loop_back(&db);
    let mut admin = db.connect();
    let mut listener = db.listen();
    for (first, load) in FIRST {
        // The remote charges are of the same account and of another one, which crosses zero, too.
        for (local, remote) in [(user(1), user(1)), (user(1), user(2)), (user(2), user(1))] {
            for account in [user(1), user(2)] {
                let balance = admin.balance(account);
                admin.grant(account, dec!(1000) - balance);
                admin.charge(account, dec!(900));
            }
            listener.drain();
            let mut session = db.connect();
            load(&mut session);
            session.run("BEGIN");
            charge_remotely(&mut session, remote, 60);
            session.charge(local, dec!(60));
            charge_remotely(&mut session, remote, 60);
            session.charge(local, dec!(60));
            session.try_run("COMMIT").unwrap_or_else(|e| panic!("{first} first: {e:?}"));
            let mut crossed = listener.crossings();
            crossed.sort_by_key(|(user, _)| *user);
            let mut expected = vec![(local, Down), (remote, Down)];
            expected.sort_by_key(|(user, _)| *user);
            expected.dedup();
            assert_eq!(crossed, expected, "{first} first");
            admin.assert_sound();
        }
    }
}

/// What the remote end refuses, its own settlement among it, is nothing that happened here either.
#[test]
fn a_remote_commit_that_fails_ends_the_local_one() {
    let db = Database::create();
    loop_back(&db);
    let mut admin = db.connect();
    admin.grant(user(1), dec!(100));
    admin.grant(user(2), dec!(100));
    let mut listener = db.listen();
    admin.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
         CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON elsewhere DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    for (_, load) in FIRST {
        let mut session = db.connect();
        load(&mut session);
        session.run("BEGIN; INSERT INTO remote_elsewhere VALUES (1)");
        charge_remotely(&mut session, user(2), 1000);
        session.charge(user(1), dec!(1000));
        session.try_run("COMMIT").unwrap_err();
        assert_eq!(listener.crossings(), []);
        assert_eq!([1, 2].map(|number| session.balance(user(number))), [dec!(100); 2]);
        session.assert_sound();
    }
}
