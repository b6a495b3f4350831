//! Locks of relations and stripes: commits, reads and maintenance commands wait for each other in one order, and never in
//! a circle. Settlement's module `lock_order` has it.

use credits_ledger_tests::{
    Background, Database, Direction, Refused, Session, Uuid, dec, stripe_of, unguarded, user,
};
use postgres::Error;

use Direction::{Down, Up};

/// What is done to a table while commits wait or have waited for it. Each can be run in a transaction.
const MAINTENANCE: [&str; 19] = [
    "REINDEX TABLE credits.credits_transactions",
    "REINDEX INDEX credits.credits_transactions_delta_idx",
    "CREATE INDEX further ON credits.credits_transactions (source_id)",
    "LOCK TABLE credits.credits_transactions IN ACCESS EXCLUSIVE MODE",
    "REINDEX TABLE credits.user_balance_checkpoints",
    "REINDEX INDEX credits.user_balance_checkpoints_pkey",
    "CREATE INDEX further ON credits.user_balance_checkpoints (updated_at)",
    "CLUSTER credits.user_balance_checkpoints USING user_balance_checkpoints_pkey",
    "LOCK TABLE credits.user_balance_checkpoints IN ACCESS EXCLUSIVE MODE",
    "REINDEX TABLE credits.batch_aggregates",
    "CREATE INDEX further ON credits.batch_aggregates (updated_at)",
    "CLUSTER credits.batch_aggregates USING batch_aggregates_pkey",
    "LOCK TABLE credits.batch_aggregates IN ACCESS EXCLUSIVE MODE",
    "REINDEX TABLE credits.daily_totals",
    "REINDEX INDEX credits.daily_totals_user_day_idx",
    "CLUSTER credits.daily_totals USING daily_totals_user_day_idx",
    "LOCK TABLE credits.daily_totals IN ACCESS EXCLUSIVE MODE",
    "TRUNCATE credits.user_balance_checkpoints, credits.batch_aggregates, credits.daily_totals",
    "LOCK TABLE credits.checkpoint_changes IN ACCESS EXCLUSIVE MODE",
];

/// What a transaction does before its COMMIT.
type Work = fn(&mut Session);

/// A transaction of each kind that settlement knows. User 1 has 100 credits.
const TRANSACTIONS: [(&str, Work); 6] = [
    ("a charge far from zero", |session| session.charge(user(1), dec!(1))),
    ("a charge that crosses zero", |session| session.charge(user(1), dec!(1000))),
    ("the first row of a user", |session| session.grant(user(7), dec!(1))),
    ("a batch that is folded", |session| {
        for _ in 0..70 {
            session.charge_batch(user(1), user(1), dec!(0.01));
        }
    }),
    ("a refresh that is asked for", |session| session.refresh(user(1))),
    ("a refresh of chance, and reads", |session| {
        session.run(&format!("SELECT * FROM credits.get_users_balances_bulk(ARRAY['{}'::uuid], 1)", user(1)));
        session.balance(user(2));
        for list in [
            "list_user_transactions",
            "list_user_transactions_with_balance",
            "list_transactions_with_batches",
        ] {
            session.run(&format!("SELECT * FROM credits.{list}('{}')", user(1)));
        }
    }),
];

/// A session that gives up before a test does.
fn bounded(db: &Database) -> Session {
    let mut session = db.connect();
    session.run("SET lock_timeout = '40s'");
    session
}

/// Brings user 1 to 100 credits, most of its rows in a batch.
fn begin(session: &mut Session) {
    let now = session.balance(user(1));
    session.grant(user(1), dec!(2000) - now);
    session.charge_batch(user(1), user(1), dec!(1900));
    session.refresh(user(1));
}

fn in_background(session: Session, sql: impl Into<String>) -> Background<Result<(), Error>> {
    let sql = sql.into();
    session.background(move |session| session.try_run(&sql))
}

fn in_one_transaction(maintenance: &str) -> String {
    format!("BEGIN; {maintenance}; COMMIT")
}

/// A transaction that waits for a relation has no stripe: another one may have the relation and wait for the stripe.
fn assert_order(db: &Database) {
    let wrong: i64 = db.observe(|observer| {
        observer.value(
            "SELECT count(*) FROM pg_locks w JOIN pg_locks s USING (pid)
             WHERE NOT w.granted AND w.locktype = 'relation' AND s.locktype = 'advisory' AND s.objsubid = 193",
            &[],
        )
    });
    assert_eq!(wrong, 0, "a commit waits for a relation while it has or wants a stripe");
}

/// Waits until a session waits for a lock on a table.
fn until_it_waits_for_a_table(db: &Database, pid: i32) {
    db.until(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND locktype = 'relation' AND NOT granted)",
        &[&pid],
    );
}

/// A maintenance command comes while a commit waits for its stripe, which another commit shares.
#[test]
fn maintenance_may_come_in_the_middle_of_a_commit() {
    // A held commit makes the notifications of the whole cluster wait.
    let db = Database::create_alone();
    let mut admin = bounded(&db);
    for maintenance in MAINTENANCE {
        for (name, work) in TRANSACTIONS {
            begin(&mut admin);
            let mut other = bounded(&db);
            other.run("BEGIN");
            other.charge(user(1), dec!(1));
            let held = db.hold_commit(other);
            let mut session = bounded(&db);
            session.run("BEGIN");
            work(&mut session);
            let commit = in_background(session, "COMMIT");
            db.until_blocked_or_done(commit.pid(), "COMMIT");
            let command = in_background(bounded(&db), in_one_transaction(maintenance));
            db.until_blocked_or_done(command.pid(), &in_one_transaction(maintenance));
            assert_order(&db);
            held.release();
            let commit = commit.finish().1;
            assert!(commit.is_ok(), "{name} beside {maintenance}: {commit:?}");
            let command = command.finish().1;
            assert!(command.is_ok(), "{maintenance} beside {name}: {command:?}");
            admin.run("DROP INDEX IF EXISTS credits.further");
        }
    }
    for number in [1, 7] {
        admin.refresh(user(number));
    }
    admin.assert_sound();
}

/// A maintenance command has its table when a commit begins, and a second commit is in the way of what it wants next.
#[test]
fn a_commit_may_come_in_the_middle_of_maintenance() {
    let db = Database::create_alone();
    let mut admin = bounded(&db);
    for maintenance in MAINTENANCE {
        for (name, work) in TRANSACTIONS {
            begin(&mut admin);
            let [mut session, mut second] = [bounded(&db), bounded(&db)];
            // What the transaction reads or writes comes before: only the commits are to meet the command.
            session.run("BEGIN");
            second.run("BEGIN");
            work(&mut session);
            second.charge(user(1), dec!(1000));
            let mut keeper = db.connect();
            keeper.run("BEGIN");
            let command = in_background(keeper, maintenance);
            db.until_blocked_or_done(command.pid(), maintenance);
            let [commit, second] = [session, second].map(|session| in_background(session, "COMMIT"));
            for commit in [&commit, &second] {
                db.until_blocked_or_done(commit.pid(), "COMMIT");
            }
            assert_order(&db);
            // It may wait for a commit that it was in front of.
            let (mut keeper, done) = command.finish();
            assert!(done.is_ok(), "{maintenance} beside {name}: {done:?}");
            keeper.run("COMMIT");
            for commit in [commit, second] {
                let commit = commit.finish().1;
                assert!(commit.is_ok(), "{name} beside {maintenance}: {commit:?}");
            }
            admin.run("DROP INDEX IF EXISTS credits.further");
        }
    }
    for number in [1, 7] {
        admin.refresh(user(number));
    }
    admin.assert_sound();
}

/// Users of these stripes in ascending order: one of the first, two of the second, one of the third.
fn users_of_three_stripes() -> [Uuid; 4] {
    let mut users: Vec<Uuid> = (100..3000).map(user).collect();
    users.sort_by_key(|&user| stripe_of(user));
    let stripes: Vec<&[Uuid]> =
        users.chunk_by(|a, b| stripe_of(*a) == stripe_of(*b)).filter(|users| users.len() > 1).collect();
    [stripes[0][0], stripes[1][0], stripes[1][1], stripes[2][0]]
}

/// A commit that must be covered reads holds by their index, and waits for its lock without a stripe.
#[test]
fn a_locked_index_of_holds_is_waited_for() {
    let db = Database::create();
    let [mut committing, mut maintenance] = [bounded(&db), bounded(&db)];
    begin(&mut maintenance);
    committing.run(&format!("BEGIN; SELECT credits.create_hold('{}', 1, 'a')", user(1)));
    // It moves nothing, and locks the index alone.
    maintenance.run(&format!(
        "BEGIN; {}",
        unguarded("ALTER INDEX credits.holds_user_idx SET TABLESPACE pg_default")
    ));
    let committing = in_background(committing, "COMMIT");
    until_it_waits_for_a_table(&db, committing.pid());
    assert_order(&db);
    maintenance.run("COMMIT");
    committing.finish().1.unwrap();
    maintenance.assert_sound();
}

/// A redaction keeps its stripe to the end of its transaction, whose commit may need any relation: it waits for them before.
#[test]
fn a_redaction_waits_for_relations_before_its_stripe() {
    let db = Database::create();
    let [mut redacting, mut maintenance] = [bounded(&db), bounded(&db)];
    begin(&mut maintenance);
    for table in ["user_balance_checkpoints", "daily_totals", "holds", "spending_limits", "spend_caps"] {
        maintenance.run(&format!("BEGIN; LOCK TABLE credits.{table} IN ACCESS EXCLUSIVE MODE"));
        redacting.run("BEGIN");
        redacting.charge(user(1), dec!(1));
        let call = in_background(redacting, format!("SELECT credits.redact_account('{}')", user(1)));
        until_it_waits_for_a_table(&db, call.pid());
        assert_order(&db);
        maintenance.run("COMMIT");
        let (session, done) = call.finish();
        done.unwrap();
        redacting = session;
        redacting.run("COMMIT");
    }
    maintenance.assert_sound();
}

/// One commit has the checkpoints and wants a stripe; another has that stripe and wants the checkpoints, for which a
/// maintenance command stands before it in the queue.
#[test]
fn a_commit_that_waits_for_a_table_lets_its_stripes_go() {
    let db = Database::create_alone();
    let mut admin = bounded(&db);
    let mut listener = db.listen();
    let [low, middle, beside_middle, high] = users_of_three_stripes();
    for maintenance in [
        "REINDEX TABLE credits.user_balance_checkpoints",
        "CLUSTER credits.user_balance_checkpoints USING user_balance_checkpoints_pkey",
        "LOCK TABLE credits.user_balance_checkpoints IN ACCESS EXCLUSIVE MODE",
        "REINDEX TABLE credits.batch_aggregates",
        "REINDEX TABLE credits.daily_totals",
        "TRUNCATE credits.user_balance_checkpoints, credits.batch_aggregates",
    ] {
        for user in [low, middle, beside_middle, high] {
            admin.grant(user, dec!(100));
            admin.charge(user, dec!(1));
        }
        listener.drain();
        let [mut holder, mut crossing, mut other] = [bounded(&db), bounded(&db), bounded(&db)];
        holder.run("BEGIN");
        holder.charge(low, dec!(1));
        let held = db.hold_commit(holder);
        crossing.run("BEGIN");
        crossing.charge(low, dec!(1000));
        crossing.charge(middle, dec!(1000));
        let crossing = in_background(crossing, "COMMIT");
        db.until_blocked(crossing.pid());
        let command = in_background(bounded(&db), in_one_transaction(maintenance));
        db.until_blocked(command.pid());
        other.run("BEGIN");
        other.charge(beside_middle, dec!(1));
        other.charge(high, dec!(1000));
        let other = in_background(other, "COMMIT");
        until_it_waits_for_a_table(&db, other.pid());
        assert_order(&db);
        held.release();
        for (what, done) in [
            ("the commit that has the table", crossing.finish().1),
            (maintenance, command.finish().1),
            ("the commit that waits for the table", other.finish().1),
        ] {
            assert!(done.is_ok(), "{what} ({maintenance}): {done:?}");
        }
        let mut crossings = listener.crossings();
        crossings.sort_by_key(|(user, _)| *user);
        let mut expected = [(low, Down), (middle, Down), (high, Down)];
        expected.sort_by_key(|(user, _)| *user);
        assert_eq!(crossings, expected, "{maintenance}");
        for user in [low, middle, beside_middle, high] {
            admin.refresh(user);
            admin.grant(user, dec!(1000));
            admin.refresh(user);
        }
        listener.drain();
    }
    admin.assert_sound();
}

/// A transaction that rebuilds a checkpoint has locked `checkpoint_changes`, and waits for a stripe at its commit: a transaction
/// that has a stripe does not wait for that table, for whose lock a command waits.
#[test]
fn no_commit_waits_for_the_notes_of_changes() {
    let db = Database::create_alone();
    let mut admin = bounded(&db);
    let mut listener = db.listen();
    let [low, middle, beside_middle, high] = users_of_three_stripes();
    for user in [low, middle, beside_middle, high] {
        admin.grant(user, dec!(100));
        admin.charge(user, dec!(1));
    }
    listener.drain();
    let [mut holder, mut rebuilder, mut other] = [bounded(&db), bounded(&db), bounded(&db)];
    other.balance(high);
    holder.run("BEGIN");
    holder.charge(low, dec!(1));
    let held = db.hold_commit(holder);
    rebuilder.run("BEGIN");
    for user in [low, middle] {
        rebuilder.run(&format!("DELETE FROM credits.user_balance_checkpoints WHERE user_id = '{user}'"));
        rebuilder.refresh(user);
    }
    let rebuild = in_background(rebuilder, "COMMIT");
    db.until_blocked(rebuild.pid());
    let maintenance = in_one_transaction("LOCK TABLE credits.checkpoint_changes IN ACCESS EXCLUSIVE MODE");
    let command = in_background(bounded(&db), maintenance);
    db.until_blocked(command.pid());
    other.run("BEGIN");
    other.charge(beside_middle, dec!(1));
    other.charge(high, dec!(1000));
    other.run("COMMIT");
    admin.charge(high, dec!(1));
    held.release();
    rebuild.finish().1.unwrap();
    command.finish().1.unwrap();
    assert_eq!(listener.crossings(), [(high, Down)]);
    admin.assert_sound();
}

/// What a settlement has published and counted before it releases its stripes stays true, whether it commits or not.
#[test]
fn a_settlement_that_begins_anew_announces_once() {
    let db = Database::create_alone();
    let [mut admin, mut keeper] = [bounded(&db), bounded(&db)];
    let [low, middle, _, high] = users_of_three_stripes();
    let mut listener = db.listen();
    for is_cancelled in [false, true, false, true] {
        for user in [low, middle, high] {
            admin.grant(user, dec!(1000));
            admin.charge(user, dec!(1));
        }
        listener.drain();
        let mut session = bounded(&db);
        session.run("BEGIN");
        // What it tells of the second must not rely on its own grant.
        session.charge(low, dec!(10));
        session.grant(middle, dec!(500));
        let all = session.balance(high);
        session.charge(high, all);
        keeper.run("BEGIN; LOCK TABLE credits.user_balance_checkpoints IN SHARE MODE");
        let commit = in_background(session, "COMMIT");
        until_it_waits_for_a_table(&db, commit.pid());
        for user in [low, middle] {
            admin.charge(user, dec!(100));
        }
        if is_cancelled {
            let pid = commit.pid();
            db.observe(|observer| observer.value::<bool>("SELECT pg_cancel_backend($1)", &[&pid]));
            commit.finish().1.refused("57014");
            keeper.run("COMMIT");
            assert_eq!(listener.crossings(), []);
        } else {
            keeper.run("COMMIT");
            commit.finish().1.unwrap();
            assert_eq!(listener.crossings(), [(high, Down)]);
        }
        for user in [low, middle] {
            let balance = admin.balance(user);
            admin.charge(user, balance);
            assert_eq!(listener.crossings(), [(user, Down)]);
            admin.grant(user, dec!(1));
            assert_eq!(listener.crossings(), [(user, Up)]);
        }
        admin.assert_sound();
    }
}

/// A transaction without rows asks for no lock that a writer would need.
#[test]
fn a_commit_without_rows_waits_for_nobody_who_keeps_writers_out() {
    let db = Database::create();
    let [mut session, mut keeper] = [bounded(&db), bounded(&db)];
    begin(&mut session);
    session.run("SET lock_timeout = '1ms'");
    let reads = [
        format!("SELECT * FROM credits.get_users_balances_bulk(ARRAY['{}'::uuid], 1)", user(1)),
        format!("SELECT credits.refresh_checkpoint('{}')", user(1)),
        format!("SELECT * FROM credits.refresh_checkpoints_bulk(ARRAY['{}'::uuid])", user(1)),
        "SELECT credits.refresh_idle_checkpoints('0 seconds')".to_owned(),
    ];
    for mode in ["SHARE", "SHARE ROW EXCLUSIVE", "EXCLUSIVE"] {
        for read in &reads {
            keeper.charge(user(1), dec!(0.01));
            keeper.run(&format!("BEGIN; LOCK TABLE credits.credits_transactions IN {mode} MODE"));
            session.run(read);
            keeper.run("COMMIT");
        }
        session.run("BEGIN; SAVEPOINT s");
        session.grant(user(1), dec!(5));
        session.grant(user(8), dec!(5));
        session.run("ROLLBACK TO s");
        keeper.run(&format!("BEGIN; LOCK TABLE credits.credits_transactions IN {mode} MODE"));
        session.run("COMMIT");
        keeper.run("COMMIT");
    }
    keeper.assert_sound();
}

/// The commit reads what it was asked to refresh by an index that it has locked since.
#[test]
fn a_commit_that_refreshes_does_not_wait_for_a_reindex() {
    let db = Database::create();
    let mut admin = bounded(&db);
    begin(&mut admin);
    for ask in [
        format!("SELECT * FROM credits.get_users_balances_bulk(ARRAY['{}'::uuid], 1)", user(1)),
        format!("SELECT credits.refresh_checkpoint('{}')", user(1)),
        "SELECT credits.refresh_idle_checkpoints('0 seconds')".to_owned(),
    ] {
        admin.charge(user(1), dec!(0.01));
        let mut session = bounded(&db);
        session.run("BEGIN");
        session.run(&ask);
        let command = in_background(bounded(&db), "REINDEX TABLE credits.credits_transactions");
        db.until_blocked(command.pid());
        session.run("SET LOCAL lock_timeout = '1ms'; COMMIT");
        command.finish().1.unwrap();
    }
    admin.assert_sound();
}

/// A transaction that has read and goes on to write: no index is left locked that REINDEX waits for, while it keeps writers out.
#[test]
fn a_transaction_that_has_read_may_write_beside_a_reindex() {
    let db = Database::create();
    let [mut session, mut admin] = [bounded(&db), bounded(&db)];
    let mut listener = db.listen();
    admin.run("SET lock_timeout = '5s'");
    begin(&mut admin);
    assert_eq!(listener.crossings(), [(user(1), Up)]);
    session.run("BEGIN");
    let balance = session.balance(user(1));
    for list in
        ["list_user_transactions", "list_user_transactions_with_balance", "list_transactions_with_batches"]
    {
        session.run(&format!("SELECT * FROM credits.{list}('{}')", user(1)));
    }
    session.run("SELECT * FROM credits.list_all_transactions()");
    session.run(&format!("SELECT credits.get_user_balance_at('{}', now())", user(1)));
    session.run(&format!("SELECT * FROM credits.usage_by_day('{}')", user(1)));
    for table in ["credits_transactions", "user_balance_checkpoints", "batch_aggregates", "daily_totals"] {
        admin.run(&format!("REINDEX TABLE credits.{table}"));
    }
    session.charge(user(1), balance);
    session.run("COMMIT");
    assert_eq!(listener.crossings(), [(user(1), Down)]);
    session.assert_sound();
}

/// One that has changed boundaries may write, too.
#[test]
fn a_transaction_that_has_changed_boundaries_may_write_beside_a_reindex() {
    let db = Database::create();
    let mut admin = bounded(&db);
    begin(&mut admin);
    for change in [
        format!("INSERT INTO credits.spending_limits (user_id, thresholds) VALUES ('{}', '{{5}}')", user(1)),
        "UPDATE credits.spending_limits SET overdraft_limit = 7".to_owned(),
        "DELETE FROM credits.spending_limits".to_owned(),
    ] {
        let mut session = bounded(&db);
        session.run("SET deadlock_timeout = '10ms'; BEGIN");
        session.run(&change);
        let command = in_background(bounded(&db), "REINDEX TABLE credits.credits_transactions");
        db.until_blocked(command.pid());
        session.charge(user(1), dec!(1));
        session.run("COMMIT");
        command.finish().1.unwrap();
    }
    admin.assert_sound();
}

/// A function that waits to write to a table has none of its indexes: REINDEX TABLE keeps writers out, and then waits for these.
#[test]
fn who_waits_to_write_has_no_index() {
    let db = Database::create();
    let [mut admin, mut keeper] = [bounded(&db), bounded(&db)];
    begin(&mut admin);
    admin.run(&format!(
        "SELECT credits.create_hold('{}', 1, 'held'), credits.create_transaction('{0}', 'usage', 1, 'recorded');
         INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('expired', '{0}', 1, '2000-01-01')",
        user(1)
    ));
    let recorded: Uuid =
        admin.value("SELECT id FROM credits.credits_transactions WHERE source_id = 'recorded'", &[]);
    let to_ledger = [
        format!("SELECT credits.create_transaction('{}', 'usage', 1, 'new')", user(1)),
        format!("SELECT credits.create_transaction('{}', 'usage', 1, 'recorded')", user(1)),
        format!("SELECT credits.charge('{}', 1, 'new')", user(1)),
        format!("SELECT credits.charge('{}', 1, 'recorded')", user(1)),
        "SELECT credits.capture_hold('held')".to_owned(),
        "SELECT credits.capture_hold('recorded')".to_owned(),
        format!("SELECT credits.reverse_transaction('{recorded}', 'new', 0.5)"),
        format!(
            "SELECT credits.record_transactions('[{{\"user_id\": \"{}\", \"transaction_type\": \"usage\", \"amount\": 1,
                                                  \"source_id\": \"recorded\"}}]')",
            user(1)
        ),
        format!("SELECT credits.redact_account('{}')", user(1)),
        format!("INSERT INTO credits.spending_limits (user_id) VALUES ('{}')", user(1)),
    ];
    let to_holds = [
        format!("SELECT credits.create_hold('{}', 1, 'new')", user(1)),
        format!("SELECT credits.create_hold('{}', 1, 'expired')", user(1)),
        "SELECT credits.capture_hold('held')".to_owned(),
        "SELECT credits.release_hold('held')".to_owned(),
        "SELECT credits.extend_hold('held', '1 hour')".to_owned(),
        "SELECT credits.release_expired_holds()".to_owned(),
        format!("SELECT credits.redact_account('{}')", user(1)),
    ];
    for (table, calls) in [("credits_transactions", &to_ledger[..]), ("holds", &to_holds)] {
        for call in calls {
            keeper.run(&format!("BEGIN; LOCK TABLE credits.{table} IN SHARE MODE"));
            let writing = in_background(bounded(&db), format!("BEGIN; {call}; ROLLBACK"));
            db.until_blocked(writing.pid());
            let has: Vec<String> = keeper.values(
                "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_locks ON relation = indexrelid
                 WHERE pid = $1 AND granted AND indrelid = $2::text::regclass",
                &[&writing.pid(), &format!("credits.{table}")],
            );
            assert_eq!(has, [""; 0], "{call} waits for {table}");
            keeper.run("COMMIT");
            writing.finish().1.unwrap();
        }
    }
    admin.assert_sound();
}

/// A transaction that waits for an index of the ledger has none that comes after it, as REINDEX TABLE locks them one after the other, by oid, nor a
/// table that does.
#[test]
fn readers_lock_indexes_in_one_order() {
    let db = Database::create();
    let mut admin = bounded(&db);
    begin(&mut admin);
    let indexes: Vec<String> = admin.values(
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'credits.credits_transactions'::regclass
         ORDER BY indexrelid DESC",
        &[],
    );
    assert_readers_lock_in_one_order(&db, &mut admin, &indexes);
    // Those that came first are the last now.
    for index in &indexes {
        let keys = ["credits.credits_transactions_pkey", "credits.credits_transactions_source_id_key"];
        if !keys.contains(&&**index) {
            let made: String = admin.value("SELECT pg_get_indexdef($1::text::regclass)", &[index]);
            admin.run(&unguarded(&format!("DROP INDEX {index}; {made}")));
        }
    }
    assert_readers_lock_in_one_order(&db, &mut admin, &indexes);
}

/// Lets readers wait for each of the ledger's indexes, and looks at which others they have, and which derived tables.
fn assert_readers_lock_in_one_order(db: &Database, admin: &mut Session, indexes: &[String]) {
    let mut session = bounded(db);
    let mut waits = 0;
    // Of each account nothing is published yet.
    for (index, user) in indexes.iter().zip((1..).map(user)) {
        for call in [
            format!("get_user_balance('{user}')"),
            "transactions_after()".to_owned(),
            "list_all_transactions()".to_owned(),
            format!("list_user_transactions('{user}')"),
            format!("list_user_transactions_with_balance('{user}', before_seq => 3)"),
            format!("usage_by_day('{user}')"),
            format!("get_user_balance_at('{user}', '2026-01-01 12:00+00')"),
            format!("account_statement('{user}', '2026-01-01 12:00+00', '2026-02-01 01:00+00')"),
            format!("list_transactions_with_batches('{user}')"),
        ] {
            admin.run(&format!("BEGIN; REINDEX INDEX {index}"));
            let (sql, pid) = (format!("SELECT * FROM credits.{call}"), session.pid());
            let reading = in_background(session, sql.clone());
            db.until_blocked_or_done(pid, &sql);
            let (waiting, wrong): (i64, i64) = db.observe(|observer| {
                let row = observer
                    .query_one(
                        "SELECT count(DISTINCT w.relation), count(h.relation)
                         FROM pg_locks w LEFT JOIN (pg_locks h LEFT JOIN pg_index i ON i.indexrelid = h.relation)
                           ON h.pid = w.pid AND h.granted
                           AND (h.relation > w.relation AND i.indrelid = 'credits.credits_transactions'::regclass
                                OR coalesce(i.indrelid, h.relation) IN ('credits.user_balance_checkpoints'::regclass,
                                   'credits.batch_aggregates'::regclass, 'credits.daily_totals'::regclass))
                         WHERE w.pid = $1 AND w.locktype = 'relation' AND NOT w.granted",
                        &[&pid],
                    )
                    .unwrap();
                (row.get(0), row.get(1))
            });
            assert_eq!(wrong, 0, "{call} waits for {index} with a later one locked");
            waits += waiting;
            admin.run("COMMIT");
            let (reader, done) = reading.finish();
            done.unwrap();
            session = reader;
        }
    }
    assert!(waits > 5, "{waits}");
}
