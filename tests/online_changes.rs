//! Commands that change a table or its indexes and keep neither readers nor writers out: whoever is at work goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use credits_ledger_tests::{Background, Database, Decimal, Direction, Refused, Session, dec, user};
use postgres::Error;

use Direction::{Down, Up};

/// What reads by indexes. User 1 has rows in a batch and others, before and after its last refresh.
fn read_everything(session: &mut Session) {
    for query in [
        "SELECT * FROM credits.get_users_balances_bulk(ARRAY['$1', '$2']::uuid[])",
        "SELECT * FROM credits.list_user_transactions('$1')",
        "SELECT * FROM credits.list_transactions_with_batches('$1')",
        "SELECT * FROM credits.list_transactions_with_batches('$1', before_seq => 4)",
        "SELECT * FROM credits.list_all_transactions()",
        "SELECT * FROM credits.count_user_transactions('$1')",
        "SELECT * FROM credits.balances",
        "SELECT * FROM credits.batches",
        "SELECT * FROM credits.folded_days",
    ] {
        let query = query.replace("$1", &user(1).to_string()).replace("$2", &user(2).to_string());
        session.run(&query);
    }
}

/// A page, by the index and by a query.
fn assert_pages_agree(session: &mut Session) {
    let pages: Vec<String> = session.values(
        "SELECT string_agg(p::text, ',') FROM credits.list_user_transactions($1) p
         UNION SELECT string_agg(p::text, ',') FROM credits.list_user_transactions($1, transaction_types => '{purchase,admin_grant,admin_removal,usage}') p",
        &[&user(1)],
    );
    assert_eq!(pages.len(), 1, "{pages:#?}");
}

fn record_some(session: &mut Session) {
    for number in [1, 2] {
        session.grant(user(number), dec!(100));
        session.charge_batch(user(number), user(number), dec!(1));
        session.refresh(user(number));
        session.charge_batch(user(number), user(number), dec!(1));
        session.charge(user(number), dec!(1));
    }
}

/// A command that waits for transactions to end before it goes on, in a session of its own.
fn start(db: &Database, command: &str) -> Background<Result<(), Error>> {
    let command = command.to_owned();
    db.connect().background(move |session| session.try_run(&command))
}

/// Waits until a command that builds indexes concurrently has come so far.
fn until_phase(db: &Database, pid: i32, phases: &str) {
    db.until(
        &format!(
            "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE pid = $1 AND phase IN ({phases}))"
        ),
        &[&pid],
    );
}

/// Transactions that are open while new indexes take the place of the old ones, which are marked as not valid then.
#[test]
fn reindex_concurrently_swaps_indexes_under_transactions() {
    // Alone: the command waits for the transactions of the whole cluster.
    let db = Database::create_alone();
    let mut admin = db.connect();
    let mut listener = db.listen();
    record_some(&mut admin);
    for command in [
        "REINDEX INDEX CONCURRENTLY credits.credits_transactions_delta_idx",
        "REINDEX TABLE CONCURRENTLY credits.credits_transactions",
        "REINDEX TABLE CONCURRENTLY credits.user_balance_checkpoints",
        "REINDEX TABLE CONCURRENTLY credits.batch_aggregates",
        "REINDEX TABLE CONCURRENTLY credits.daily_totals",
        "REINDEX SCHEMA CONCURRENTLY credits",
    ] {
        listener.drain();
        let [mut old, mut writer, mut crossing, mut reader, mut snapshot] =
            std::array::from_fn(|_| db.connect());
        // They have done all of it before: nothing but what is tested makes them learn of the change.
        for session in [&mut writer, &mut crossing] {
            record_some(session);
            session.balance(user(1));
        }
        listener.drain();
        old.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
        let command_runs = start(&db, command);
        until_phase(
            &db,
            command_runs.pid(),
            "'waiting for old snapshots', 'waiting for readers before marking dead'",
        );
        for session in [&mut writer, &mut crossing, &mut reader] {
            session.run("BEGIN");
        }
        read_everything(&mut reader);
        writer.charge_batch(user(2), user(2), dec!(1));
        writer.balance(user(2));
        // Has the portal of that query go, and its snapshot, which the command would wait for.
        writer.run("SELECT");
        crossing.charge_batch(user(1), user(3), dec!(100_000));
        crossing.grant(user(3), dec!(1));
        old.run("COMMIT");
        if !command.contains("SCHEMA") {
            until_phase(&db, command_runs.pid(), "'waiting for readers before marking dead'");
        }
        writer.balance(user(2));
        crossing.run("COMMIT");
        // Its snapshot is older than what the others are about to commit; before, the command would wait for it.
        snapshot.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
        for session in [&mut reader, &mut snapshot] {
            read_everything(session);
            assert_pages_agree(session);
        }
        writer.refresh(user(2));
        writer.run("COMMIT");
        admin.grant(user(1), dec!(100_000));
        let crossings = listener.crossings();
        assert!(
            crossings.starts_with(&[(user(1), Down)]) && crossings.ends_with(&[(user(1), Up)]),
            "{crossings:?}"
        );
        for session in [&mut reader, &mut snapshot] {
            read_everything(session);
            session.run("COMMIT");
        }
        command_runs.finish().1.unwrap_or_else(|e| panic!("{command}: {e:?}"));
        assert_pages_agree(&mut reader);
        admin.assert_sound();
    }
}

/// Holds that are made while the key of their table is replaced: a function may have looked up the old one.
#[test]
fn holds_are_made_while_their_key_is_replaced() {
    // Alone: the command waits for the transactions of the whole cluster.
    let db = Database::create_alone();
    let mut admin = db.connect();
    let is_over = Arc::new(AtomicBool::new(false));
    let holders = (1..=4).map(|number| {
        admin.grant(user(number), dec!(1000));
        let is_over = Arc::clone(&is_over);
        db.connect().background(move |session| {
            while !is_over.load(Relaxed) {
                session.run(&format!(
                    "SELECT FROM credits.create_hold('{}', 1, '{number}'); SELECT credits.release_hold('{number}')",
                    user(number)
                ));
            }
        })
    });
    let holders: Vec<_> = holders.collect();
    for _ in 0..150 {
        admin.run("REINDEX INDEX CONCURRENTLY credits.holds_pkey");
    }
    is_over.store(true, Relaxed);
    for holder in holders {
        let _ended = holder.finish();
    }
    admin.assert_sound();
    admin.assert_as_made();
}

/// Pages that are read by an index go on without it, in transactions that had it and in later ones.
#[test]
fn an_index_of_pages_may_be_dropped_and_made_concurrently() {
    let db = Database::create_alone();
    let mut admin = db.connect();
    record_some(&mut admin);
    let names: Vec<String> = admin.values(
        "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE c.relnamespace = 'credits'::regnamespace
           AND c.relname ~ '_(single|batched|seq|created|user_created|auto_topup|user_seq)_idx$' ORDER BY 1",
        &[],
    );
    assert_eq!(names.len(), 7, "{names:?}");
    for name in names {
        let definition: String =
            admin.value("SELECT pg_get_indexdef($1::text::regclass)", &[&format!("credits.{name}")]);
        let [mut reader, mut writer] = [db.connect(), db.connect()];
        for session in [&mut reader, &mut writer] {
            session.run("BEGIN");
        }
        read_everything(&mut reader);
        writer.charge_batch(user(1), user(1), dec!(1));
        let dropping = start(&db, &format!("DROP INDEX CONCURRENTLY credits.{name}"));
        // It waits for both, the index being marked as not valid.
        db.until_blocked(dropping.pid());
        read_everything(&mut reader);
        read_everything(&mut writer);
        assert_pages_agree(&mut writer);
        writer.run("COMMIT");
        reader.run("COMMIT");
        dropping.finish().1.unwrap_or_else(|e| panic!("drop {name}: {e:?}"));
        read_everything(&mut reader);
        assert_pages_agree(&mut reader);
        for session in [&mut reader, &mut writer] {
            session.run("BEGIN");
        }
        writer.charge_batch(user(1), user(1), dec!(1));
        let definition = definition.replacen("INDEX", "INDEX CONCURRENTLY", 1);
        let building = start(&db, &definition);
        // It waits for whoever has written to that table.
        db.until_blocked_or_done(building.pid(), &definition);
        read_everything(&mut reader);
        writer.run("COMMIT");
        reader.run("COMMIT");
        building.finish().1.unwrap_or_else(|e| panic!("make {name}: {e:?}"));
        assert_pages_agree(&mut reader);
        writer.refresh(user(1));
        admin.assert_sound();
    }
}

/// The index of deltas is one that nothing goes on without: it says so, and no row is lost.
#[test]
fn without_the_index_of_deltas_commits_are_refused() {
    let db = Database::create_alone();
    let mut admin = db.connect();
    record_some(&mut admin);
    let [mut reader, mut writer] = [db.connect(), db.connect()];
    reader.run("BEGIN");
    reader.balance(user(1));
    let dropping = start(&db, "DROP INDEX CONCURRENTLY credits.credits_transactions_delta_idx");
    db.until_blocked(dropping.pid());
    // Marked as not valid, and named as it was.
    let error = writer.insert(user(1), "usage", dec!(1000)).refused("55000");
    assert!(error.message().contains("credits_transactions_delta_idx is not valid"), "{error:?}");
    reader.run("COMMIT");
    dropping.finish().1.unwrap();
    writer.insert(user(1), "usage", dec!(1000)).refused("55000");
    admin.run("CREATE INDEX CONCURRENTLY credits_transactions_delta_idx ON credits.credits_transactions (user_id, xact_id)");
    assert_eq!(writer.balance(user(1)), dec!(97));
    admin.assert_sound();
}

/// What else keeps nobody out is done at once, under transactions that read and write.
#[test]
fn weak_locks_disturb_nobody() {
    let db = Database::create_alone();
    let [mut admin, mut reader, mut writer] = std::array::from_fn(|_| db.connect());
    let mut listener = db.listen();
    record_some(&mut admin);
    listener.drain();
    for session in [&mut reader, &mut writer] {
        session.run("BEGIN");
    }
    read_everything(&mut reader);
    writer.charge_batch(user(1), user(1), dec!(1000));
    admin.run("SET lock_timeout = '10s'");
    for (table, column) in [
        ("credits_transactions", "user_id"),
        ("user_balance_checkpoints", "user_id"),
        ("batch_aggregates", "user_id"),
        ("daily_totals", "user_id"),
    ] {
        for command in [
            "VACUUM credits.$t",
            "VACUUM (FREEZE, ANALYZE) credits.$t",
            "ANALYZE credits.$t",
            "ALTER TABLE credits.$t ALTER COLUMN $c SET STATISTICS 200",
            "ALTER TABLE credits.$t SET (autovacuum_vacuum_cost_delay = 1)",
            "ALTER TABLE credits.$t SET (fillfactor = 60)",
            "CREATE STATISTICS credits.$t_statistics ON $c, (created_at IS NULL) FROM credits.$t",
            "DROP STATISTICS credits.$t_statistics",
            "COMMENT ON TABLE credits.$t IS 'changed'",
        ] {
            // Neither checkpoints nor days have such a column.
            if ["user_balance_checkpoints", "daily_totals"].contains(&table)
                && command.contains("STATISTICS credits")
            {
                continue;
            }
            admin.run(&command.replace("$t", table).replace("$c", column));
            read_everything(&mut reader);
        }
    }
    // A constraint that is valid already, as VALIDATE finds it.
    admin.run(
        "DO $$ DECLARE c record; BEGIN
             FOR c IN SELECT conrelid::regclass, conname FROM pg_constraint
                      WHERE connamespace = 'credits'::regnamespace AND contype IN ('c', 'f') AND conrelid <> 0 LOOP
                 EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT %I', c.conrelid, c.conname);
             END LOOP;
         END $$",
    );
    writer.run("COMMIT");
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    read_everything(&mut reader);
    reader.run("COMMIT");
    admin.assert_sound();
}

/// A reader that has waited for the folded totals does not look for them by an index of the table that has come in their place.
#[test]
fn batches_are_read_by_an_index_of_their_own_table() {
    let db = Database::create_alone();
    let (mut admin, mut reader) = (db.connect(), db.connect());
    for number in 1..=3 {
        admin.charge_batch(user(1), user(number), Decimal::from(number));
    }
    admin.refresh(user(1));
    let list = format!("SELECT amount FROM credits.list_transactions_with_batches('{}')", user(1));
    let newest_first = [dec!(3), dec!(2), dec!(1)];
    assert_eq!(reader.values::<Decimal>(&list, &[]), newest_first);
    // The same rows, stored the other way round.
    admin.run("ALTER EVENT TRIGGER credits_ledger_guard DISABLE");
    admin.run(
        "BEGIN; ALTER TABLE credits.batch_aggregates RENAME TO old; ALTER INDEX credits.batch_aggregates_user_seq_idx RENAME TO old_idx;
         ALTER INDEX credits.batch_aggregates_pkey RENAME TO old_pkey;
         CREATE TABLE credits.batch_aggregates (LIKE credits.old, PRIMARY KEY (user_id, fusillade_batch_id));
         CREATE INDEX batch_aggregates_user_seq_idx ON credits.batch_aggregates (user_id, max_seq, created_at);
         INSERT INTO credits.batch_aggregates SELECT * FROM credits.old ORDER BY max_seq DESC",
    );
    let reading = reader.background(move |reader| reader.values::<Decimal>(&list, &[]));
    db.until_blocked(reading.pid());
    admin.run("COMMIT");
    assert_eq!(reading.finish().1, newest_first);
}
