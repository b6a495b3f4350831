//! Tests of moving a ledger from one Postgres major to another, from outside: `make test-majors OLD=14 PG=15`.
//!
//! Which kind goes here: whatever needs the programs of two majors with the extension installed in both.
//! `CREDITS_LEDGER_OLD_BIN` is the folder of the older one's. Everything else that happens to servers is in `faults.rs`.

use std::path::PathBuf;
use std::sync::Arc;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::contents::SILENT;
use credits_ledger_tests::{Database, Direction, Session, Shutdown, user};

/// Policies, of a role that the ledger's cluster has.
const POLICIES: &str = "
    CREATE POLICY own ON credits.credits_transactions TO tenant USING (user_id::text LIKE '%1');
    CREATE POLICY small ON credits.credits_transactions AS RESTRICTIVE FOR SELECT USING (amount < 1000);
    CREATE POLICY records ON credits.credits_transactions FOR INSERT TO tenant WITH CHECK (transaction_type = 'usage' AND amount IS NOT NULL);
    ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY";
const ROLE: &str = "CREATE ROLE tenant LOGIN";

/// What is to be kept of them, in the words of a major.
fn row_security(session: &mut Session) -> Vec<String> {
    session.values("SELECT s::text FROM credits.row_security() s", &[])
}

/// A cluster of the older major that has wrapped around its transaction ids, with a ledger.
fn old_ledger() -> (Arc<Cluster>, Database) {
    let programs = std::env::var("CREDITS_LEDGER_OLD_BIN").expect("run it with `make test-majors`");
    let old = Cluster::initialize(&PathBuf::from(programs), "");
    old.set_epoch(3);
    let old = old.begin();
    let db = Database::create_in(&old);
    db.connect().record_history();
    db.connect().record_holds_and_limits();
    old.execute("postgres", ROLE);
    db.connect().run(POLICIES);
    (old, db)
}

/// What belongs to a database and is the same only if it was not made anew.
fn derived(session: &mut Session) -> [String; 6] {
    [
        "SELECT string_agg(c::text, E'\\n' ORDER BY user_id) FROM credits.user_balance_checkpoints c",
        "SELECT string_agg(b::text, E'\\n' ORDER BY user_id, fusillade_batch_id) FROM credits.batch_aggregates b",
        "SELECT string_agg(d::text, E'\\n' ORDER BY d::text) FROM credits.daily_totals d",
        "SELECT md5(string_agg(xact_id::text, ',' ORDER BY seq)) FROM credits.credits_transactions",
        "SELECT string_agg(concat_ws(' ', tgrelid::regclass, tgname, tgenabled), ', ' ORDER BY tgrelid::regclass::text, tgname)
         FROM pg_trigger WHERE NOT tgisinternal",
        "SELECT md5(string_agg(f::text, ',')) FROM credits.transactions_after(NULL, NULL) f",
    ]
    .map(|query| session.value(query, &[]))
}

/// What a ledger goes on with.
#[track_caller]
fn assert_goes_on(db: &Database) {
    let (mut session, mut listener) = (db.connect(), db.listen());
    session.assert_sound();
    session.assert_as_made();
    let (last_seq, stamped): (i64, bool) = {
        let sql =
            "SELECT max(seq), bool_and(xact_id < pg_current_xact_id()) FROM credits.credits_transactions";
        let row = session.query_one(sql, &[]).expect("ask for the last row");
        (row.get(0), row.get(1))
    };
    assert!(stamped, "transaction ids begin anew");
    let balance = session.balance(user(0));
    session.charge(user(0), balance);
    // Its thresholds came along.
    let crossed = ["5", "0.5", "0"].map(|boundary| (user(0), Direction::Down, boundary.to_owned()));
    assert_eq!(listener.boundaries(), crossed);
    let newest: i64 = session.value("SELECT max(seq) FROM credits.credits_transactions", &[]);
    assert!(newest > last_seq);
    for number in 0..6 {
        session.refresh(user(number));
    }
    assert_eq!(listener.crossings(), []);
    session.assert_sound();
}

#[test]
#[ignore = "needs two majors: make test-majors"]
fn pg_upgrade_keeps_checkpoints_and_stamps() {
    let (old, db) = old_ledger();
    let name = db.name().to_owned();
    let (contents, user_tables, kept, policies) = {
        let mut session = db.connect();
        (session.contents(), session.holds_and_limits(), derived(&mut session), row_security(&mut session))
    };
    drop(db);
    old.stop(Shutdown::Fast);

    let new = Cluster::initialize(&Cluster::programs_under_test(), "");
    new.succeed(
        new.program("pg_upgrade")
            .arg("--old-bindir")
            .arg(old.programs())
            .arg("--new-bindir")
            .arg(new.programs())
            .arg("--old-datadir")
            .arg(old.data())
            .arg("--new-datadir")
            .arg(new.data())
            .arg("--socketdir")
            .arg(new.folder()),
    );
    new.resume();
    let db = Database::open(&Arc::new(new), &name);
    let mut session = db.connect();
    assert_eq!(session.contents(), contents);
    assert_eq!(session.holds_and_limits(), user_tables);
    assert_eq!(derived(&mut session), kept, "nothing is made anew");
    assert_eq!(row_security(&mut session), policies);
    session.assert_dumps_what_users_fill();
    assert_goes_on(&db);
}

/// The dump is made by either major's pg_dump; what stamps and checkpoints say is of the new server.
#[test]
#[ignore = "needs two majors: make test-majors"]
fn a_dump_is_restored_into_the_newer_major() {
    let (old, db) = old_ledger();
    let (contents, policies) = (db.connect().contents(), row_security(&mut db.connect()));
    let user_tables = db.connect().holds_and_limits();
    assert_eq!(policies.len(), 5);
    let new = Cluster::start();
    new.execute("postgres", ROLE);
    let target = |name: &str| {
        new.execute("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0"));
        Database::open(&new, name)
    };
    let file = new.folder().join("dump");

    let restored = target("from_old_pg_dump");
    new.succeed(old.program("pg_dump").args(["--format=plain", db.name(), "--file"]).arg(&file));
    new.succeed(
        new.program("psql")
            .env("PGOPTIONS", SILENT)
            .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", restored.name(), "--file"])
            .arg(&file),
    );
    assert_eq!(restored.connect().contents(), contents);
    assert_eq!(restored.connect().holds_and_limits(), user_tables);
    assert_eq!(row_security(&mut restored.connect()), policies);
    restored.connect().assert_sound();

    let restored = target("from_new_pg_dump");
    new.succeed(
        new.program("pg_dump")
            .env("PGHOST", old.folder())
            .args(["--format=custom", db.name(), "--file"])
            .arg(&file),
    );
    new.succeed(
        new.program("pg_restore")
            .env("PGOPTIONS", SILENT)
            .args(["--exit-on-error", "--jobs=2", "--dbname", restored.name()])
            .arg(&file),
    );
    assert_eq!(restored.connect().contents(), contents);
    assert_eq!(restored.connect().holds_and_limits(), user_tables);
    assert_eq!(row_security(&mut restored.connect()), policies);
    assert_goes_on(&restored);
}
