//! Dynamic shared memory: how it grows, and that nothing is missed meanwhile.

use std::fs;
use std::sync::Arc;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::{Database, Decimal, Direction, Listener, Session, Shutdown, dec, user};

use Direction::{Down, Up};

const MEBIBYTE: u64 = 1 << 20;

/// A server of its own, whose shared memory is in files.
fn start() -> (Arc<Cluster>, Database) {
    let cluster = Cluster::start_with_memory_files();
    let db = Database::create_in(&cluster);
    (cluster, db)
}

/// The bytes of the server's dynamic shared memory, the server's own included.
fn size(cluster: &Cluster) -> u64 {
    let files = fs::read_dir(cluster.data().join("pg_dynshmem")).expect("the folder is there");
    let sizes = files.map(|file| file.and_then(|file| file.metadata()).expect("it stays").len());
    sizes.sum()
}

/// Writes and looks at so many accounts, then commits once more.
fn meet(session: &mut Session, accounts: u32) {
    for _ in 0..2 {
        session.run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
             SELECT md5(n::text)::uuid, 'purchase', 1, gen_random_uuid()::text FROM generate_series(1, {accounts}) n"
        ));
    }
    session.grant(user(90), dec!(1));
}

/// Enough that memory grows which has just been made.
const MANY: u32 = 8_000;

/// Meets more accounts each time until memory has grown: what it has room for hardly has it grow, however often it comes.
fn meet_until_it_grows(cluster: &Cluster, session: &mut Session) {
    let before = size(cluster);
    let mut accounts = MANY;
    while size(cluster) == before {
        meet(session, accounts);
        accounts *= 2;
    }
}

/// User 1 has 100 credits, and headroom is published.
fn tell(session: &mut Session) {
    let missing = dec!(100) - session.balance(user(1));
    if missing > dec!(0) {
        session.grant(user(1), missing);
    }
    session.grant(user(1), dec!(1));
    session.charge(user(1), dec!(1));
}

/// Two sessions take turns: each is far from zero by what it has written itself.
fn cross(listener: &mut Listener, first: &mut Session, second: &mut Session) {
    listener.drain();
    first.charge(user(1), dec!(49));
    second.charge(user(1), dec!(50));
    assert_eq!(listener.drain(), []);
    first.charge(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    second.grant(user(1), dec!(0.5));
    assert_eq!(listener.crossings(), [(user(1), Up)]);
}

#[test]
fn it_grows_with_the_accounts_and_no_further_than_it_may() {
    let (cluster, db) = start();
    let before = size(&cluster);
    let [mut session] = db.connect_settled();
    session.run("SET credits_ledger.shared_memory_size = '3MB'");
    let size = |cluster: &Cluster| size(cluster) - before;
    let first = size(&cluster);
    assert!(first < 3 * MEBIBYTE / 2, "{first} bytes for an account");
    meet(&mut session, 100);
    assert_eq!(size(&cluster), first, "for a hundred");
    meet(&mut session, MANY);
    let second = size(&cluster);
    assert!(second > first, "{second} bytes for {MANY}");
    for _ in 0..3 {
        meet(&mut session, MANY);
    }
    let third = size(&cluster);
    assert!((5 * MEBIBYTE / 2..=3 * MEBIBYTE).contains(&third), "{third} bytes in the end");
    session.run("SET credits_ledger.shared_memory_size = '2MB'");
    meet(&mut session, MANY);
    assert_eq!(size(&cluster), third, "what there is stays");
    session.run("SET credits_ledger.shared_memory_size = '4MB'");
    meet(&mut session, 2 * MANY);
    let fourth = size(&cluster);
    assert!((7 * MEBIBYTE / 2..=4 * MEBIBYTE).contains(&fourth), "{fourth} bytes");
    session.assert_sound();
    drop(session);

    // It is met anew by a server that starts.
    cluster.stop(Shutdown::Fast);
    cluster.resume();
    let [session] = db.connect_settled();
    assert_eq!(size(&cluster), first);
    cluster.kill(session.pid());
    drop(session);
    cluster.until_open();
    let [mut session] = db.connect_settled();
    assert_eq!(size(&cluster), first, "after a crash");
    meet(&mut session, MANY);
    assert!(size(&cluster) > first);
    session.assert_sound();
}

/// Neither who has attached before nor who attaches later counts where the others do not.
#[test]
fn sessions_that_were_there_before_count_where_the_others_do() {
    let (cluster, db) = start();
    let mut listener = db.listen();
    let [mut first, mut second, mut third] = db.connect_settled();
    for _ in 0..2 {
        tell(&mut first);
        tell(&mut second);
        meet_until_it_grows(&cluster, &mut third);
        tell(&mut first);
        tell(&mut second);
        cross(&mut listener, &mut first, &mut second);
        let [mut late] = db.connect_settled();
        tell(&mut late);
        tell(&mut second);
        cross(&mut listener, &mut second, &mut late);
    }
    first.assert_sound();
}

/// What a settlement has counted before the others count elsewhere is in nobody's count. But its rows were there.
#[test]
fn memory_grows_between_the_rows_of_a_transaction_and_its_end() {
    let (cluster, db) = start();
    let mut listener = db.listen();
    let [mut first, mut second, mut third] = db.connect_settled();
    for (in_two_phases, left) in [(false, "commits"), (true, "is prepared")] {
        tell(&mut first);
        first.run("BEGIN");
        first.charge(user(1), dec!(60));
        if in_two_phases {
            first.run("PREPARE TRANSACTION 'prepared'");
        }
        meet_until_it_grows(&cluster, &mut third);
        listener.drain();
        second.charge(user(1), dec!(1));
        second.charge(user(1), dec!(30));
        first.run(if in_two_phases { "COMMIT PREPARED 'prepared'" } else { "COMMIT" });
        assert_eq!(listener.drain(), [], "{left}");
        second.charge(user(1), dec!(9));
        assert_eq!(listener.crossings(), [(user(1), Down)], "{left}");
        second.assert_sound();
    }
}

/// A session that is not attached to all of it cannot count.
#[test]
fn a_session_that_cannot_attach_to_a_new_part_is_looked_at() {
    let (cluster, db) = start();
    let mut listener = db.listen();
    let [mut first, mut second, mut third] = db.connect_settled();
    tell(&mut first);
    meet_until_it_grows(&cluster, &mut third);
    tell(&mut first);
    let sealed = cluster.forbid_memory();
    listener.drain();
    second.charge(user(1), dec!(60));
    first.charge(user(1), dec!(39));
    assert_eq!(listener.drain(), []);
    first.charge(user(1), dec!(1));
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    drop(sealed);
    let log = cluster.log();
    assert!(log.contains("sharing folds is put off"), "{log}");
    for _ in 0..8 {
        second.charge(user(2), dec!(1));
    }
    tell(&mut first);
    tell(&mut second);
    cross(&mut listener, &mut first, &mut second);
    first.assert_sound();
}

#[test]
fn where_it_cannot_grow_everything_goes_on() {
    let (cluster, db) = start();
    let mut listener = db.listen();
    let [mut first, mut second] = db.connect_settled();
    let before = size(&cluster);
    let sealed = cluster.forbid_new_memory();
    meet(&mut first, MANY);
    assert_eq!(size(&cluster), before);
    let log = cluster.log();
    assert!(log.contains("growing shared memory is put off"), "{log}");
    tell(&mut first);
    cross(&mut listener, &mut first, &mut second);
    drop(sealed);
    for _ in 0..2 {
        meet(&mut first, MANY);
    }
    assert!(size(&cluster) > before, "it is asked to again");
    first.assert_sound();
}

/// It grows by a subtransaction, for which a parallel query has no place: the next call has it grow.
#[test]
fn it_does_not_grow_within_a_parallel_query() {
    let cluster = Cluster::start_with("dynamic_shared_memory_type = mmap");
    let db = Database::create_in(&cluster);
    let [mut session] = db.connect_settled();
    session.run(&format!(
        "CREATE TABLE accounts AS SELECT md5(n::text)::uuid AS id FROM generate_series(1, {MANY}) n; ANALYZE accounts;
         SET max_parallel_workers = 0; SET min_parallel_table_scan_size = 0; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0"
    ));
    let read = "SELECT sum(credits.get_user_balance(id)) FROM accounts";
    let plan: Vec<String> = session.values(&format!("EXPLAIN (COSTS OFF) {read}"), &[]);
    assert!(plan.iter().any(|line| line.contains("Gather")), "{plan:#?}");
    // The server's own memory grows by some kilobytes.
    let before = size(&cluster);
    let has_grown = || size(&cluster) - before > MEBIBYTE / 2;
    assert_eq!(session.value::<Decimal>(read, &[]), dec!(0));
    assert!(!has_grown());
    session.balance(user(1));
    assert!(has_grown());
    session.assert_sound();
}

#[test]
fn its_size_is_for_superusers_and_has_bounds() {
    let db = Database::create_alone();
    let mut session = db.connect();
    session.balance(user(1));
    assert_eq!(session.value::<String>("SHOW credits_ledger.shared_memory_size", &[]), "12MB");
    for accepted in ["2MB", "2048", "64GB", "100000kB"] {
        session.run(&format!("SET credits_ledger.shared_memory_size = '{accepted}'"));
    }
    for refused in
        ["1MB", "2047", "0", "-1", "65GB", "9223372036854775807", "", "much", "NaN", "3 apples", "1e30"]
    {
        let error =
            session.try_run(&format!("SET credits_ledger.shared_memory_size = '{refused}'")).unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("22023"), "{refused}: {error:?}");
    }
    let role = db.create_role("app");
    session.run(&format!("SET SESSION AUTHORIZATION {role}"));
    let error = session.try_run("SET credits_ledger.shared_memory_size = '3MB'").unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{error:?}");
}
