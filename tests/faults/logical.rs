//! A ledger that follows another by logical replication: its rows are stamped, settled and announced where they land, its
//! checkpoints are its own, its numbering goes on behind what comes, and it takes over.

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::contents::USERS;
use credits_ledger_tests::{Database, Decimal, Direction, Refused, Session, Uuid, correction, dec, user};

use Direction::{Down, Up};

/// Transactions of more than a few rows are sent as they go, where that is asked for.
const SETTINGS: &str = "\
wal_level = logical
logical_decoding_work_mem = 64kB
credits_ledger.checkpoint_interval = 8
max_logical_replication_workers = 10
max_sync_workers_per_subscription = 2
";

/// A ledger that publishes its rows, and an empty one in another cluster, whose transaction ids are far above.
struct Pair {
    publisher: Database,
    subscriber: Database,
}

impl Pair {
    fn start() -> Self {
        let subscriber = Cluster::initialize(&Cluster::programs_under_test(), SETTINGS);
        subscriber.set_epoch(3);
        Self {
            publisher: Database::create_in(&Cluster::start_with(SETTINGS)),
            subscriber: Database::create_in(&subscriber.begin()),
        }
    }

    /// Publishes, and waits until what is there has been copied. The subscriber reports what it has on disk: with what it
    /// has applied on disk at once, nobody waits for its log writer.
    fn follow(&self, publication: &str, options: &str) {
        self.publisher.connect().run(&format!("CREATE PUBLICATION ledger {publication}"));
        self.subscriber.connect().run(&format!(
            "CREATE SUBSCRIPTION ledger CONNECTION 'host={} user=postgres dbname={}' PUBLICATION ledger
             WITH (synchronous_commit = local{options})",
            self.publisher.cluster().folder().display(),
            self.publisher.name()
        ));
        self.subscriber.until("SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel", &[]);
    }

    /// Waits until the subscriber has all that is committed here.
    fn catch_up(&self) {
        let written: String =
            self.publisher.connect().value("SELECT pg_logical_emit_message(true, 'catch up', '')::text", &[]);
        self.publisher.until(
            "SELECT bool_and(confirmed_flush_lsn >= $1::text::pg_lsn) FROM pg_replication_slots WHERE slot_name = 'ledger'",
            &[&written],
        );
    }

    /// Both hold the same.
    #[track_caller]
    fn assert_same(&self) {
        self.catch_up();
        let (mut here, mut there) = (self.publisher.connect(), self.subscriber.connect());
        assert_eq!(here.contents(), there.contents());
        here.assert_sound();
        there.assert_sound();
        let stamped: bool =
            there.value("SELECT bool_and(xact_id > '12884901888') FROM credits.credits_transactions", &[]);
        assert!(stamped, "rows are stamped where they land");
    }

    /// Ends following. The last worker is gone when this returns.
    fn part(&self) {
        self.subscriber.connect().run("ALTER SUBSCRIPTION ledger DISABLE");
        self.subscriber.connect().run("DROP SUBSCRIPTION ledger");
    }
}

const LEDGER: &str = "FOR TABLE credits.credits_transactions WITH (publish = 'insert')";

fn refresh_all(session: &mut Session) {
    (0..USERS).for_each(|number| session.refresh(user(number)));
}

#[test]
fn a_subscriber_keeps_a_ledger_of_its_own() {
    let pair = Pair::start();
    let (mut here, mut there) = (pair.publisher.connect(), pair.subscriber.connect());
    let mut heard = pair.subscriber.listen();
    here.record_history();
    pair.follow(LEDGER, "");
    pair.assert_same();
    // What is copied at first is one transaction: each user above zero has crossed once.
    let positive: Vec<Uuid> =
        there.values("SELECT user_id FROM credits.balances WHERE balance > 0 ORDER BY 1", &[]);
    let mut first = heard.crossings();
    first.sort_by_key(|(user, _)| *user);
    assert_eq!(first, positive.iter().map(|user| (*user, Up)).collect::<Vec<_>>());

    // What follows is settled transaction by transaction, and announced there as it is here.
    let mut heard_here = pair.publisher.listen();
    let balance = here.balance(user(0));
    here.charge(user(0), balance);
    here.grant(user(0), dec!(3));
    here.run("BEGIN");
    here.charge(user(0), dec!(5));
    here.run("SAVEPOINT s");
    here.charge(user(0), dec!(1000));
    here.run("ROLLBACK TO s");
    here.run("COMMIT");
    here.grant(user(4), dec!(2000));
    here.run("BEGIN");
    here.grant(user(0), dec!(1000));
    here.run("ROLLBACK");
    let crossings = heard_here.crossings();
    assert_eq!(crossings, [(user(0), Down), (user(0), Up), (user(0), Down), (user(4), Up)]);
    pair.assert_same();
    assert_eq!(heard.crossings(), crossings);

    // Checkpoints of its own, by its own interval and by request, also while rows arrive.
    let folded = "SELECT transaction_count FROM credits.user_balance_checkpoints WHERE user_id = $1";
    let before: i64 = there.value(folded, &[&user(1)]);
    for number in 0..200_u32 {
        here.charge_batch(user(1), Uuid::from_u128(u128::from(number % 5)), dec!(0.01));
        if number % 50 == 0 {
            refresh_all(&mut there);
        }
    }
    pair.assert_same();
    refresh_all(&mut there);
    let after: i64 = there.value(folded, &[&user(1)]);
    assert!(after >= before + 100, "checkpoints move on: from {before} to {after}");
    pair.assert_same();
    assert_eq!(heard.crossings(), []);
}

/// Transactions that are sent before they have ended, by a commit or not.
#[test]
fn large_transactions_are_streamed() {
    let pair = Pair::start();
    let mut here = pair.publisher.connect();
    here.grant(user(0), dec!(1));
    let version: i32 = here.server_version();
    let mut heard = pair.subscriber.listen();
    let options = match version {
        160_000.. => ", streaming = parallel",
        _ => ", streaming = on",
    };
    pair.follow(LEDGER, options);
    heard.drain();
    let many = "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
                SELECT md5((n % 7)::text)::uuid, 'usage', 0.001, gen_random_uuid()::text, md5((n % 3)::text)::uuid
                FROM generate_series(1, 3000) n";
    for (end, savepoint) in [("COMMIT", "RELEASE s"), ("ROLLBACK", "RELEASE s"), ("COMMIT", "ROLLBACK TO s")]
    {
        here.run("BEGIN");
        here.run(many);
        here.run("SAVEPOINT s");
        here.charge(user(0), dec!(1));
        here.run(many);
        here.run(savepoint);
        here.run(end);
    }
    pair.assert_same();
    assert_eq!(heard.crossings(), [(user(0), Down)]);
    pair.publisher.until(
        "SELECT bool_or(stream_txns > 0) FROM pg_stat_replication_slots WHERE slot_name = 'ledger'",
        &[],
    );
}

/// A transaction of two phases is an ordinary one to a subscriber, unless it asked for both phases.
#[test]
fn two_phases_are_one_unless_asked_for() {
    let pair = Pair::start();
    let (mut here, mut there) = (pair.publisher.connect(), pair.subscriber.connect());
    here.grant(user(0), dec!(5));
    here.grant(user(1), dec!(5));
    pair.follow(LEDGER, "");
    let mut heard = pair.subscriber.listen();
    let prepare = |session: &mut Session, number: u32| {
        session.run("BEGIN");
        session.charge(user(number), dec!(8));
        session.run("PREPARE TRANSACTION 'charge'");
    };
    prepare(&mut here, 0);
    pair.catch_up();
    assert_eq!((there.balance(user(0)), heard.crossings()), (dec!(5), vec![]));
    here.run("COMMIT PREPARED 'charge'");
    pair.catch_up();
    assert_eq!((there.balance(user(0)), heard.crossings()), (dec!(-3), vec![(user(0), Down)]));
    there.assert_sound();

    if here.server_version() < 150_000 {
        return;
    }
    pair.part();
    there.run(&format!(
        "CREATE SUBSCRIPTION ledger CONNECTION 'host={} user=postgres dbname={}' PUBLICATION ledger
         WITH (copy_data = off, two_phase = on, synchronous_commit = local)",
        pair.publisher.cluster().folder().display(),
        pair.publisher.name()
    ));
    pair.subscriber.until("SELECT bool_and(subtwophasestate = 'e') FROM pg_subscription", &[]);
    prepare(&mut here, 1);
    pair.subscriber.until("SELECT EXISTS (SELECT FROM pg_prepared_xacts)", &[]);
    assert_eq!(there.balance(user(1)), dec!(5));
    here.run("COMMIT PREPARED 'charge'");
    pair.catch_up();
    assert_eq!((there.balance(user(1)), heard.crossings()), (dec!(-3), vec![]));
    there.refresh(user(1));
    assert_eq!(heard.crossings(), [(user(1), Down)]);
    there.assert_sound();
}

/// A publication of all tables brings the publisher's checkpoints, too. They are no use here, where every row has another
/// stamp, and must not get in the way of the subscriber's own.
#[test]
fn the_checkpoints_of_others_are_left_out() {
    let pair = Pair::start();
    let (mut here, mut there) = (pair.publisher.connect(), pair.subscriber.connect());
    here.record_history();
    refresh_all(&mut here);
    // Nor is what a restore could not make there, a policy for a role that does not exist, to be tried here.
    let unmade = "INSERT INTO credits.dumped_row_security VALUES ('credits_transactions', 'policy', 'p', true, 'ALL', '{nobody}', 'true')";
    here.run(unmade);
    pair.follow("FOR ALL TABLES", "");
    pair.assert_same();
    here.run(&format!("DELETE FROM credits.dumped_row_security; {unmade}"));
    for number in 0..100_u32 {
        here.charge_batch(user(number % 4), Uuid::from_u128(u128::from(number % 3)), dec!(0.01));
        if number % 10 == 0 {
            refresh_all(&mut here);
            refresh_all(&mut there);
        }
    }
    let balance = here.balance(user(1));
    here.charge(user(1), balance);
    // By hand, a checkpoint can still be discarded, here and there.
    here.run(&format!("DELETE FROM credits.user_balance_checkpoints WHERE user_id = '{}'", user(2)));
    refresh_all(&mut here);
    pair.assert_same();
    refresh_all(&mut there);
    pair.assert_same();
    let unmade: Vec<String> = there.values("SELECT d::text FROM credits.dumped_row_security d", &[]);
    assert_eq!(unmade, [""; 0]);
    // Each has a feed of its own.
    let (position, _) = here.feed(None).unwrap();
    there.feed(position.as_deref()).refused("22023");
    assert!(there.feed(None).unwrap().0.is_some());
    let workers: Vec<String> = there.values("SELECT srsubstate::text FROM pg_subscription_rel", &[]);
    assert!(workers.iter().all(|state| state == "r"));
}

/// A publisher whose owner corrects its ledger does not correct the subscriber's behind its back.
#[test]
fn a_replicated_change_is_refused() {
    let pair = Pair::start();
    let (mut here, mut there) = (pair.publisher.connect(), pair.subscriber.connect());
    if here.server_version() < 150_000 {
        // Before disable_on_error, the worker only tries again and again.
        return;
    }
    here.grant(user(1), dec!(90));
    here.grant(user(1), dec!(10));
    pair.follow("FOR ALL TABLES", ", disable_on_error = true");
    assert_eq!(there.balance(user(1)), dec!(100));
    here.run(&correction("DELETE FROM credits.credits_transactions WHERE amount = 10").join(";"));
    pair.subscriber.until("SELECT NOT subenabled FROM pg_subscription", &[]);
    assert_eq!(there.balance(user(1)), dec!(100));
    there.assert_sound();
    pair.part();
}

/// Inserts rows as clients do that retry; how many were recorded.
fn write(session: &mut Session, count: u32) -> u64 {
    let insert = "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                  VALUES ($1, 'usage', 0.01, gen_random_uuid()::text) ON CONFLICT DO NOTHING";
    (0..count).map(|number| session.execute(insert, &[&user(number % 4)]).unwrap()).sum()
}

/// At a switch-over under load, writers stop here and go on there, as soon as the subscriber has everything: no row is lost.
#[test]
fn writers_go_over_to_a_subscriber() {
    const WRITERS: usize = 3;
    let pair = Pair::start();
    let write_in = |db: &Database| {
        let writers: Vec<_> =
            (0..WRITERS).map(|_| db.connect().background(|session| write(session, 100))).collect();
        move || writers.into_iter().map(|writer| writer.finish().1).sum::<u64>()
    };
    let mut here = pair.publisher.connect();
    here.record_history();
    let before: i64 = here.value("SELECT count(*) FROM credits.credits_transactions", &[]);
    // While the initial copy is made, and afterwards.
    let writers = write_in(&pair.publisher);
    pair.follow(LEDGER, "");
    let more = write_in(&pair.publisher);
    assert_eq!((writers(), more()), (300, 300));
    pair.assert_same();
    pair.part();
    assert_eq!(write_in(&pair.subscriber)(), 300);
    let mut there = pair.subscriber.connect();
    assert_eq!(there.value::<i64>("SELECT count(*) FROM credits.credits_transactions", &[]), before + 900);
    there.assert_sound();
}

/// The order at a switch-over: nobody writes, the subscriber has everything, it stops following.
#[test]
fn a_subscriber_takes_over() {
    let pair = Pair::start();
    let (mut here, mut there) = (pair.publisher.connect(), pair.subscriber.connect());
    here.record_history();
    pair.follow(LEDGER, "");
    here.charge(user(0), dec!(0.5));
    pair.assert_same();
    pair.part();

    let mut heard = pair.subscriber.listen();
    let last: i64 = there.value("SELECT max(seq) FROM credits.credits_transactions", &[]);
    let balance = there.balance(user(0));
    there.charge(user(0), balance);
    let next: i64 = there.value("SELECT max(seq) FROM credits.credits_transactions", &[]);
    assert_eq!((next, heard.crossings()), (last + 1, vec![(user(0), Down)]));
    there.assert_sound();

    // The old one, emptied of its ledger, follows the new one.
    let emptied = Database::create_in(pair.publisher.cluster());
    let back = Pair { publisher: pair.subscriber, subscriber: emptied };
    back.follow(LEDGER, "");
    there.grant(user(0), dec!(7));
    back.catch_up();
    let mut back_there = back.subscriber.connect();
    assert_eq!(back_there.contents(), there.contents());
    back_there.assert_sound();
}

/// Whoever copies a derived table by what is decoded, to reorganize it for instance, is told of all that the engine writes.
#[test]
fn what_the_engine_writes_can_be_decoded() {
    let db = Database::create_in(&Cluster::start_with("wal_level = logical"));
    let mut session = db.connect();
    session.run(
        "CREATE PUBLICATION derived FOR TABLE credits.user_balance_checkpoints, credits.batch_aggregates, credits.daily_totals",
    );
    session.run("SELECT pg_create_logical_replication_slot('derived', 'pgoutput')");
    let decoded = |session: &mut Session| -> String {
        session.value(
            "SELECT coalesce(string_agg(kind, '' ORDER BY n), '')
             FROM (SELECT n, chr(get_byte(data, 0)) FROM pg_logical_slot_get_binary_changes(
                       'derived', NULL, NULL, 'proto_version', '1', 'publication_names', 'derived')
                       WITH ORDINALITY AS changes (lsn, xid, data, n)) AS changes (n, kind)
             WHERE kind IN ('I', 'U', 'D')",
            &[],
        )
    };
    session.grant(user(1), dec!(5));
    assert_eq!(decoded(&mut session), "I", "a checkpoint");
    session.charge_batch(user(1), user(7), dec!(1));
    session.refresh(user(1));
    assert_eq!(decoded(&mut session), "IIIU", "a batch, the totals of two types and the checkpoint");
    session.charge_batch(user(1), user(7), dec!(1));
    session.refresh(user(1));
    assert_eq!(decoded(&mut session), "UUU");
    session.run("DELETE FROM credits.user_balance_checkpoints");
    session.refresh(user(1));
    assert_eq!(decoded(&mut session), "DDDDIIII", "the checkpoint, its batch and totals, and all anew");
}

/// A subscriber of a node has the rows that the node keeps and those that are copied to it; which buckets the node has, and what it has copied, stays there.
#[test]
fn a_subscriber_of_a_node_has_its_rows_and_not_its_buckets() {
    let pair = Pair::start();
    let (mut here, mut there) = (pair.publisher.connect(), pair.subscriber.connect());
    here.record_history();
    here.run("SELECT credits.set_node_number(3)");
    pair.follow("FOR ALL TABLES WITH (publish = 'insert, truncate')", "");
    let state = |number: u32, state: &str| {
        format!(
            "INSERT INTO credits.bucket_states (bucket, state) VALUES (credits.bucket_of('{}'), '{state}')",
            user(number)
        )
    };
    // One account leaves.
    here.run(&state(0, "elsewhere"));
    here.try_run(&format!("SELECT credits.get_user_balance('{}')", user(0))).refused("LC003");
    // Another one comes.
    here.run(&state(50, "arriving"));
    here.run(&format!("DELETE FROM credits.bucket_states WHERE bucket = credits.bucket_of('{0}')", user(50)));
    here.run(&format!(
        "BEGIN; INSERT INTO credits.copies VALUES (pg_current_xact_id());
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) VALUES ('{}', 'admin_grant', 7, 'copied'); COMMIT",
        user(50)
    ));
    here.grant(user(50), dec!(1));
    pair.catch_up();
    let rows = "SELECT (to_jsonb(t) - 'xact_id')::text FROM credits.credits_transactions t ORDER BY 1";
    assert_eq!(there.values::<String>(rows, &[]), here.values::<String>(rows, &[]));
    here.assert_sound();
    there.assert_sound();
    assert_eq!(there.balance(user(50)), dec!(8));
    let sum: Decimal = there.value("SELECT credits.get_user_balance($1)", &[&user(0)]);
    let rows: Decimal = here.value(
        "SELECT sum(CASE WHEN transaction_type IN ('purchase', 'admin_grant') THEN amount ELSE -amount END)
         FROM credits.credits_transactions WHERE user_id = $1",
        &[&user(0)],
    );
    assert_eq!(sum, rows);
    for table in ["bucket_states", "copies", "node"] {
        assert_eq!(there.value::<i64>(&format!("SELECT count(*) FROM credits.{table}"), &[]), 0, "{table}");
    }
    let feed = |session: &mut Session, source: &str| -> i64 {
        session.value(
            "SELECT count(*) FROM credits.transactions_after(\"limit\" => NULL) WHERE source_id = $1",
            &[&source],
        )
    };
    assert_eq!((feed(&mut here, "copied"), feed(&mut there, "copied")), (0, 1));
    pair.part();
}
