//! Ids of transactions: uuids of version 7 unless given, whichever way a row is written.

use std::io::Write;
use std::thread;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::{Database, Session, Uuid, user};
use uuid::Variant;

/// The ids that rows are given, where they are given one.
const GIVEN: [Uuid; 2] = [Uuid::nil(), Uuid::from_u128(0x4000_0000_0000_4000_8000_0000_0000_0001)];

/// The millisecond at which an id was made, as another implementation reads it.
#[track_caller]
fn millisecond(id: Uuid) -> u64 {
    assert_eq!((id.get_version_num(), id.get_variant()), (7, Variant::RFC4122), "{id}");
    let (seconds, nanos) = id.get_timestamp().expect("an id of version 7 has a time").to_unix();
    seconds * 1000 + u64::from(nanos / 1_000_000)
}

/// The millisecond that the server's clock shows.
fn now(session: &mut Session) -> u64 {
    let millis: i64 =
        session.value("SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint", &[]);
    millis.cast_unsigned()
}

fn make(session: &mut Session) -> Uuid {
    session.value("SELECT credits.uuid_v7()", &[])
}

/// Writes rows in every way, each under a key that begins with `prefix`. Of those that have no id given, returns the ids, in the order of
/// insertion.
fn write(session: &mut Session, prefix: &str) -> Vec<Uuid> {
    let user = user(1);
    let insert = |key: &str, ending: &str| {
        format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
             SELECT '{user}', 'usage', 1, '{prefix} {key} ' || n FROM generate_series(1, 2) n {ending}"
        )
    };
    let item = |key: &str, id: Option<Uuid>| {
        let id = id.map_or_else(String::new, |id| format!(r#", "id": "{id}""#));
        format!(
            r#"{{"user_id": "{user}", "transaction_type": "usage", "amount": 1, "source_id": "{prefix} {key}"{id}}}"#
        )
    };
    let record = |items: &[String]| format!("SELECT credits.record_transactions('[{}]')", items.join(","));
    for statement in [
        insert("inserted", ""),
        insert("inserted unless there", "ON CONFLICT DO NOTHING"),
        format!("PREPARE one AS {}; EXECUTE one; DEALLOCATE one", insert("prepared", "")),
        format!("SELECT credits.create_transaction('{user}', 'purchase', 100, '{prefix} created')"),
        record(&[item("item a", None), item("item b", None)]),
        // A statement that names the column, since one of the items has an id.
        record(&[item("mixed a", None), item("mixed b", Some(GIVEN[0])), item("mixed c", None)]),
        format!("SELECT credits.charge('{user}', 1, '{prefix} charged')"),
        format!("SELECT credits.create_hold('{user}', 1, '{prefix} held')"),
        format!("SELECT credits.capture_hold('{prefix} held')"),
        format!(
            "SELECT credits.reverse_transaction(id, '{prefix} reversed')
             FROM credits.credits_transactions WHERE source_id = '{prefix} charged'"
        ),
        format!(
            "INSERT INTO credits.credits_transactions (id, user_id, transaction_type, amount, source_id)
             VALUES ('{}', '{user}', 'usage', 1, '{prefix} given')",
            GIVEN[1]
        ),
    ] {
        session.run(&statement);
    }
    let copy = "COPY credits.credits_transactions (user_id, transaction_type, amount, source_id) FROM STDIN";
    let mut copied = session.copy_in(copy).unwrap();
    for n in 1..=2 {
        writeln!(copied, "{user}\tusage\t1\t{prefix} copied {n}").unwrap();
    }
    copied.finish().unwrap();
    let ids: Vec<Uuid> = session.values(
        "SELECT id FROM credits.credits_transactions WHERE starts_with(source_id, $1) ORDER BY seq",
        &[&prefix],
    );
    let (given, made): (Vec<Uuid>, Vec<Uuid>) = ids.into_iter().partition(|id| GIVEN.contains(id));
    assert_eq!(given, GIVEN);
    assert_eq!(made.len(), 16);
    made
}

#[test]
fn every_way_to_write_a_row_makes_ids_in_their_order() {
    let db = Database::create();
    let mut session = db.connect();
    let before = now(&mut session);
    let ids = write(&mut session, "first");
    let after = now(&mut session);
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:#?}");
    for id in &ids {
        assert!((before..=after).contains(&millisecond(*id)), "{before} {id} {after}");
    }
    session.assert_sound();
}

/// The random bits tell rows of sessions apart, and hide what the next ones are.
#[test]
fn a_million_are_different_and_ascend() {
    let db = Database::create();
    let mut session = db.connect();
    let row = session
        .query_one(
            "SELECT count(*) FILTER (WHERE id > before OR before IS NULL), count(DISTINCT id), count(DISTINCT right(id::text, 17)),
                    count(*) FILTER (WHERE id::text ~ '^.{14}7.{4}[89ab]')
             FROM (SELECT id, lag(id) OVER (ORDER BY n) AS before
                   FROM (SELECT credits.uuid_v7() AS id, n FROM generate_series(1, 1000000) n OFFSET 0) made) ordered",
            &[],
        )
        .unwrap();
    let counts: [i64; 4] = std::array::from_fn(|column| row.get(column));
    assert_eq!(counts, [1_000_000; 4]);
}

#[test]
fn sessions_that_take_turns_make_ids_in_their_order() {
    let db = Database::create();
    let mut sessions = [db.connect(), db.connect(), db.connect()];
    let ids: Vec<Uuid> = (0..300).map(|turn| make(&mut sessions[turn % 3])).collect();
    let times: Vec<u64> = ids.iter().copied().map(millisecond).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[test]
fn sessions_at_once_make_different_ids() {
    let db = Database::create();
    let made: Vec<Vec<Uuid>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    db.connect()
                        .values::<Uuid>("SELECT credits.uuid_v7() FROM generate_series(1, 20000)", &[])
                })
            })
            .collect();
        threads.into_iter().map(|made| made.join().unwrap()).collect()
    });
    let mut random: Vec<u64> = made.iter().flatten().map(|id| id.as_u64_pair().1).collect();
    random.sort_unstable();
    random.dedup();
    assert_eq!(random.len(), 80_000);
}

/// A process that was forked has no bits that another has.
#[test]
fn parallel_workers_make_ids_of_their_own() {
    let db = Database::create();
    let mut session = db.connect();
    make(&mut session);
    session.run(
        "CREATE TABLE many AS SELECT n FROM generate_series(1, 50000) n; ANALYZE many;
         SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET parallel_leader_participation = off; SET max_parallel_workers_per_gather = 3",
    );
    // Nothing is shown to the leader but what workers have made.
    let query = "SELECT credits.uuid_v7() AS id FROM many OFFSET 0";
    let plan: Vec<String> = session.values(&format!("EXPLAIN (VERBOSE) {query}"), &[]);
    let made_below = plan.iter().position(|line| line.contains("Output: (credits.uuid_v7())"));
    assert!(made_below.is_some() && plan[0].contains("Gather"), "{plan:#?}");
    let different: i64 =
        session.value(&format!("SELECT count(DISTINCT right(id::text, 17)) FROM ({query}) made"), &[]);
    assert_eq!(different, 50_000);
}

/// A pooler gives a session to the next client.
#[test]
fn a_reset_session_goes_on() {
    let db = Database::create();
    let mut session = db.connect();
    let before = make(&mut session);
    session.run("DISCARD ALL");
    let after = make(&mut session);
    assert!(before < after, "{before} {after}");
    assert_ne!(before.as_u64_pair().1, after.as_u64_pair().1);
}

/// A savepoint that is rolled back takes no id back, nor does a transaction.
#[test]
fn an_id_is_not_made_again_after_a_rollback() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("BEGIN; SAVEPOINT s");
    let first = make(&mut session);
    session.run("ROLLBACK TO s");
    let second = make(&mut session);
    session.run("ROLLBACK");
    let third = make(&mut session);
    assert!(first < second && second < third, "{first} {second} {third}");
}

/// Where the clock goes back, a session goes on from the last id that it has made, and another one follows the clock.
#[test]
fn ids_ascend_when_the_clock_goes_back() {
    let cluster = Cluster::start_with_clock("");
    let db = Database::create_in(&cluster);
    let mut session = db.connect();
    cluster.set_clock("2030-06-01 12:00:00+00");
    let mut ids = write(&mut session, "before");
    let noon = millisecond(ids[ids.len() - 1]);
    assert_eq!(noon / 60_000, 1_906_545_600_000 / 60_000);
    cluster.set_clock("2030-05-31 12:00:00+00");
    session.run(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         SELECT md5('1')::uuid, 'purchase', 1, 'after ' || n FROM generate_series(1, 3) n;
         SELECT credits.create_transaction(md5('1')::uuid, 'purchase', 1, 'after all')",
    );
    ids.extend(session.values::<Uuid>(
        "SELECT id FROM credits.credits_transactions WHERE starts_with(source_id, 'after') ORDER BY seq",
        &[],
    ));
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:#?}");
    // Four steps of a 4096th of a millisecond.
    assert!(millisecond(ids[ids.len() - 1]) - noon <= 1, "{ids:#?}");
    let other = make(&mut db.connect());
    assert_eq!(millisecond(other) / 60_000, (1_906_545_600_000 - 86_400_000) / 60_000);
    // It has caught up.
    cluster.set_clock("2030-06-01 13:00:00+00");
    let caught_up = make(&mut session);
    assert_eq!(millisecond(caught_up) / 60_000, (1_906_545_600_000 + 3_600_000) / 60_000);
    assert!(caught_up > ids[ids.len() - 1]);
}

/// A default of the owner's own is what every way of writing uses, but for the items of a call of which another one has an id.
#[test]
fn the_owners_default_is_used() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "SET client_min_messages = error;
         ALTER TABLE credits.credits_transactions ALTER COLUMN id SET DEFAULT gen_random_uuid()",
    );
    let versions: Vec<usize> = write(&mut session, "own").iter().map(|id| id.get_version_num()).collect();
    assert_eq!(versions.iter().filter(|&&version| version == 7).count(), 2, "{versions:?}");
    assert_eq!(versions.iter().filter(|&&version| version == 4).count(), 14, "{versions:?}");
    session.assert_sound();
    session.run("ALTER TABLE credits.credits_transactions ALTER COLUMN id SET DEFAULT credits.uuid_v7()");
    session.assert_as_made();
    assert_eq!(make(&mut session).get_version_num(), 7);
}
