//! What readers see of a node that keeps rows of buckets which have left it, and has rows of buckets that are arriving.

use credits_ledger_tests::nodes::{Mover, Nodes};
use credits_ledger_tests::{Database, Refused, Session, Uuid, correction, dec, user};

use crate::buckets::NO_CLASSES;

/// A state of a user's bucket.
fn set_state(session: &mut Session, number: u32, state: &str) {
    session.run(&format!(
        "INSERT INTO credits.bucket_states (bucket, state) VALUES (credits.bucket_of('{user}'), '{state}')
         ON CONFLICT (bucket) DO UPDATE SET state = excluded.state",
        user = user(number)
    ));
}

/// The user's bucket is simply here again.
fn bring_back(session: &mut Session, number: u32) {
    session.run(&format!(
        "DELETE FROM credits.bucket_states WHERE bucket = credits.bucket_of('{}')",
        user(number)
    ));
}

/// Of the users with these numbers, those that are here, as a statement sees it: by each of the functions that say so.
fn here(session: &mut Session) -> Vec<u32> {
    let users: Vec<String> = (1..=3).map(|number| format!("({number}, '{}'::uuid)", user(number))).collect();
    let rows = session
        .query(
            &format!(
                "SELECT number, credits.is_here(u), get_bit(credits.owned_buckets(), credits.bucket_of(u)) = 1,
                        credits.has_all_buckets()
                 FROM (VALUES {}) AS users (number, u) ORDER BY number",
                users.join(", ")
            ),
            &[],
        )
        .unwrap();
    let has_all = rows[0].get::<_, bool>(3);
    let is_here = |row: &postgres::Row| {
        assert_eq!(row.get::<_, bool>(1), row.get::<_, bool>(2));
        row.get::<_, bool>(1)
    };
    let here: Vec<u32> = rows
        .iter()
        .filter(|row| is_here(row))
        .map(|row| u32::try_from(row.get::<_, i32>(0)).unwrap())
        .collect();
    assert!(!has_all || here.len() == 3);
    here
}

#[test]
fn a_statement_sees_the_buckets_of_its_snapshot() {
    let db = Database::create();
    let (mut admin, mut session, mut older) = (db.connect(), db.connect(), db.connect());
    assert_eq!(here(&mut session), [1, 2, 3]);
    assert_eq!(session.value::<String>("SELECT credits.owned_buckets()::text", &[]), "1".repeat(1024));
    older.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(here(&mut older), [1, 2, 3]);
    set_state(&mut admin, 1, "moving");
    assert_eq!(here(&mut session), [1, 2, 3]);
    assert!(session.value::<bool>("SELECT credits.has_all_buckets()", &[]));
    set_state(&mut admin, 1, "elsewhere");
    set_state(&mut admin, 2, "arriving");
    assert_eq!(here(&mut session), [3]);
    assert_eq!(here(&mut older), [1, 2, 3]);
    let mut later = db.connect();
    assert_eq!(here(&mut later), [3]);
    // What the own transaction has changed is seen, and no more when it was taken back.
    admin.run("BEGIN; SAVEPOINT before");
    bring_back(&mut admin, 1);
    assert_eq!(here(&mut admin), [1, 3]);
    assert_eq!(here(&mut session), [3]);
    admin.run("ROLLBACK TO before");
    assert_eq!(here(&mut admin), [3]);
    admin.run("ROLLBACK");
    assert_eq!(here(&mut admin), [3]);
    bring_back(&mut admin, 2);
    assert_eq!(here(&mut session), [2, 3]);
    assert_eq!(here(&mut older), [1, 2, 3]);
    older.run("COMMIT");
    assert_eq!(here(&mut older), [2, 3]);
}

#[test]
fn a_class_is_whole_or_refused() {
    let db = Database::create();
    let (mut admin, mut session, mut older) = (db.connect(), db.connect(), db.connect());
    let bucket: i32 = admin.value("SELECT credits.bucket_of($1)", &[&user(1)]);
    let its_class = format!("SELECT credits.require_class(4, {})", bucket & 3);
    let other_class = format!("SELECT credits.require_class(4, {})", (bucket + 1) & 3);
    session.run(&its_class);
    older.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    older.run(&its_class);
    for (state, is_whole) in [("moving", true), ("elsewhere", false), ("arriving", false), ("moving", true)] {
        set_state(&mut admin, 1, state);
        for session in [&mut session, &mut db.connect()] {
            session.run(&other_class);
            for class in [&its_class, "SELECT credits.require_class(1, 0)"] {
                if is_whole {
                    session.run(class);
                } else {
                    let error = session.try_run(class).refused("LC003");
                    assert_eq!(error.message(), format!("bucket {bucket} is not on this node"));
                    assert_eq!(error.detail(), Some(format!("{{\"bucket\":{bucket}}}").as_str()));
                }
            }
        }
        older.run(&its_class);
    }
    for (class, sqlstate) in NO_CLASSES {
        session.try_run(&format!("SELECT credits.require_class({class})")).refused(sqlstate);
    }
}

/// Copies rows that the other node has not, in transactions of a few rows, as a move does.
fn copy_missing(from: &mut Session, to: &mut Session, account: u32) -> usize {
    let there: Vec<Uuid> = to.values("SELECT id FROM credits.credits_transactions", &[]);
    let rows: Vec<String> = from.values(
        "SELECT (to_jsonb(t) - 'xact_id')::text FROM credits.credits_transactions t WHERE user_id = $1 AND id <> ALL ($2) ORDER BY seq",
        &[&user(account), &there],
    );
    for chunk in rows.chunks(3) {
        to.run("BEGIN; INSERT INTO credits.copies VALUES (pg_current_xact_id())");
        for row in chunk {
            to.execute(
                "INSERT INTO credits.credits_transactions (id, user_id, transaction_type, amount, source_id, created_at, seq) OVERRIDING SYSTEM VALUE
                 SELECT id, user_id, transaction_type, amount, source_id, created_at, seq
                 FROM jsonb_populate_record(NULL::credits.credits_transactions, $1::text::jsonb)",
                &[row],
            )
            .unwrap();
        }
        to.run("COMMIT");
    }
    rows.len()
}

/// A node with a history from before it had a number, so with all remainders of `seq`, and one that is new: an account goes there and comes back.
#[test]
fn the_feeds_of_all_nodes_have_each_row_once() {
    let (old, new) = (Database::create_alone(), Database::create_alone());
    let (mut a, mut b) = (old.connect(), new.connect());
    for number in 0..30 {
        a.run(&format!(
            "SELECT credits.create_transaction('{}', 'admin_grant', 1, 'old {number}')",
            user(1 + number % 2)
        ));
    }
    a.run("SELECT credits.set_node_number(1)");
    b.run("SELECT credits.set_node_number(2)");
    let mut expected: Vec<String> = (0..30).map(|number| format!("old {number}")).collect();
    let mut born = |session: &mut Session, name: &str| {
        session.run(&format!("SELECT credits.create_transaction('{}', 'usage', 1, '{name}')", user(1)));
        expected.push(name.to_owned());
    };
    born(&mut a, "at a");
    let (position_a, mut read_a) = a.read_feed(None, 7);
    assert_eq!(copy_missing(&mut a, &mut b, 1), 16);
    assert_eq!(b.read_feed(None, 7).1, [""; 0]);
    born(&mut b, "at b");
    born(&mut b, "at b again");
    let (position_b, mut read_b) = b.read_feed(None, 1);
    assert_eq!(read_b, ["at b", "at b again"]);
    assert_eq!(copy_missing(&mut b, &mut a, 1), 2);
    born(&mut a, "back at a");
    // As after a purge, rows that were born here come back.
    for statement in
        correction("DELETE FROM credits.credits_transactions WHERE source_id IN ('old 0', 'at a')")
    {
        a.run(&statement);
    }
    read_a.extend(a.read_feed(position_a.as_deref(), 2).1);
    assert_eq!(copy_missing(&mut b, &mut a, 1), 2);
    read_b.extend(b.read_feed(position_b.as_deref(), 2).1);
    let mut read: Vec<String> = [read_a, read_b].concat();
    assert_eq!(a.read_feed(None, 1000).1.len(), 31 - 2 + 1);
    // Whoever sees a part of the rows reads them by a query.
    let name = old.create_role("reader");
    a.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {name}; GRANT SELECT ON credits.credits_transactions TO {name};
         GRANT EXECUTE ON FUNCTION credits.transactions_after TO {name}; ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY one ON credits.credits_transactions TO {name} USING (user_id = '{}')",
        user(1)
    ));
    let seen = old.connect_as(&name).read_feed(None, 5).1;
    assert_eq!(seen.len(), 14 + 1);
    assert!(!seen.contains(&"at b".to_owned()) && seen.contains(&"back at a".to_owned()));
    read.sort();
    expected.sort();
    assert_eq!(read, expected);
}

/// A node with three accounts: the first has left it, and its rows are kept; the second is arriving, with all that it has; the third is here.
fn node(db: &Database) -> Session {
    let mut admin = db.connect();
    for number in 1..=3 {
        let of_user = |sql: &str| {
            sql.replace("USER", &user(number).to_string())
                .replace("BATCH", &user(100 + number).to_string())
                .replace("NUMBER", &number.to_string())
        };
        for statement in [
            "SELECT credits.create_transaction('USER', 'admin_grant', 100, 'granted NUMBER')",
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id, description)
             VALUES ('USER', 'usage', 5, 'batched NUMBER', 'BATCH', 'personal')",
            "SELECT credits.refresh_checkpoint('USER')",
            "INSERT INTO credits.spending_limits (user_id, overdraft_limit, thresholds) VALUES ('USER', 7, '{50}')",
            "INSERT INTO credits.spend_caps (user_id, amount) VALUES ('USER', 60)",
            "SELECT credits.create_hold('USER', 2, 'open NUMBER')",
            "INSERT INTO credits.holds (user_id, amount, source_id, created_at, expires_at)
             VALUES ('USER', 3, 'expired NUMBER', now() - interval '3 days', now() - interval '2 days')",
            "SELECT credits.create_transaction('USER', 'usage', 1, 'charged NUMBER')",
        ] {
            admin.run(&of_user(statement));
        }
    }
    set_state(&mut admin, 1, "elsewhere");
    set_state(&mut admin, 2, "arriving");
    for (table, trigger) in
        [("holds", "note_hold"), ("spending_limits", "note_limits"), ("spend_caps", "note_caps")]
    {
        admin.run(&format!(
            "ALTER TABLE credits.{table} DISABLE TRIGGER {trigger}; DELETE FROM credits.{table} WHERE user_id = '{}';
             ALTER TABLE credits.{table} ENABLE ALWAYS TRIGGER {trigger}",
            user(1)
        ));
    }
    admin
}

/// A role from which row-level security hides nothing and which is filtered all the same: it reads by queries, and as itself.
fn filtered(db: &Database, admin: &mut Session) -> Session {
    let name = db.create_role("filtered");
    admin.run(&format!("GRANT USAGE ON SCHEMA credits TO {name}"));
    for table in ["credits_transactions", "holds", "spend_caps"] {
        admin.run(&format!(
            "ALTER TABLE credits.{table} ENABLE ROW LEVEL SECURITY; CREATE POLICY all_rows ON credits.{table} TO {name} USING (true)"
        ));
    }
    admin.run(&format!(
        "GRANT SELECT ON ALL TABLES IN SCHEMA credits TO {name}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {name}"
    ));
    db.connect_as(&name)
}

/// What tells of all accounts, and how many of the node's three it tells of: for a role that sees all rows, and for one that is filtered.
const OF_ALL: [(&str, i64, i64); 21] = [
    ("SELECT credits.count_all_transactions()", 3, 3),
    ("SELECT credits.count_all_transactions(transaction_types => '{usage}')", 2, 2),
    ("SELECT count(*) FROM credits.list_all_transactions()", 3, 3),
    ("SELECT count(*) FROM credits.list_all_transactions(skip => 2)", 1, 1),
    ("SELECT count(*) FROM credits.list_all_transactions(start_date => '2000-01-01')", 3, 3),
    (
        "SELECT count(*) FROM credits.list_all_transactions(transaction_types => '{usage}', \"limit\" => 1)",
        1,
        1,
    ),
    (
        "SELECT count(*) FROM credits.credits_transactions t, credits.get_transaction_by_id(t.id) f WHERE f.id IS NOT NULL",
        3,
        3,
    ),
    ("SELECT count(*) FROM credits.balances WHERE balance = 94 AND available IS NOT NULL", 1, 1),
    ("SELECT count(*) FROM credits.thresholds", 2, 2),
    ("SELECT count(*) FROM credits.batches", 1, 1),
    ("SELECT count(*) FROM credits.spend_cap_states WHERE spent >= 0", 1, 1),
    ("SELECT count(*) FROM credits.checkpoint_lag", 1, 0),
    ("SELECT count(*) FROM credits.uncovered_transactions", 1, 0),
    ("SELECT open + 10 * expired FROM credits.hold_counts", 11, -1),
    ("SELECT count(*) FROM credits.users_without_checkpoint", 0, 0),
    // These have what the node keeps.
    ("SELECT count(*) FROM credits.checkpoints", 3, 0),
    ("SELECT count(*) FROM credits.folded_batches", 3, 0),
    ("SELECT count(DISTINCT user_id) FROM credits.folded_days", 3, 0),
    ("SELECT coalesce(sum(listed_by), 0)::bigint FROM credits.stragglers WHERE state = 'ended'", 3, 0),
    ("SELECT count(*) FROM credits.checkpoint_lag WHERE stragglers > 0", 1, 0),
    (
        "SELECT count(*) FROM (VALUES (1), (2), (3)) n (n) WHERE credits.transaction_exists_by_source_id('granted ' || n)",
        3,
        3,
    ),
];

#[test]
fn what_tells_of_all_accounts_tells_of_those_that_are_here() {
    // Alone: the refreshes must have rows to fold.
    let db = Database::create_alone();
    let mut admin = node(&db);
    let mut filtered = filtered(&db, &mut admin);
    // Of a transaction that has ended long ago.
    admin.run("UPDATE credits.user_balance_checkpoints SET stragglers = '{5}'");
    let count =
        |session: &mut Session, sql: &str| session.values::<i64>(sql, &[]).first().copied().unwrap_or(-1);
    for (sql, expected, expected_filtered) in OF_ALL {
        assert_eq!(count(&mut admin, sql), expected, "{sql}");
        assert_eq!(count(&mut filtered, sql), expected_filtered, "filtered: {sql}");
    }
    // Refreshed, or lost, is what is here: of the others the view has it until they are purged, or come back.
    assert_eq!(admin.value::<i64>("SELECT credits.refresh_idle_checkpoints('0')", &[]), 1);
    assert_eq!(
        count(&mut admin, "SELECT sum(listed_by)::bigint FROM credits.stragglers WHERE state = 'ended'"),
        2
    );
    assert_eq!(admin.value::<i64>("SELECT credits.refresh_idle_checkpoints('0')", &[]), 0);
    // Of accounts without a checkpoint, too.
    admin.lose_checkpoints("DELETE FROM credits.user_balance_checkpoints");
    for (sql, expected) in [
        ("SELECT count(*) FROM credits.users_without_checkpoint", 1),
        ("SELECT count(*) FROM credits.balances WHERE balance = 94", 1),
        ("SELECT count(*) FROM credits.uncovered_transactions", 3),
        ("SELECT count(*) FROM credits.batches", 1),
        ("SELECT count(*) FROM credits.thresholds", 1),
    ] {
        assert_eq!(count(&mut admin, sql), expected, "{sql}");
    }
}

#[test]
fn what_a_node_keeps_is_verified_and_left_alone_by_jobs() {
    // Alone: the refreshes must have rows to fold.
    let db = Database::create_alone();
    let mut admin = node(&db);
    // What a prepared transaction has left unannounced is the other node's to announce.
    admin.run(&format!(
        "UPDATE credits.user_balance_checkpoints SET is_positive = false WHERE user_id = '{}'",
        user(1)
    ));
    let found: Vec<String> = admin.values("SELECT v::text FROM credits.verify_ledger() v", &[]);
    assert_eq!(found, [""; 0]);
    admin.run("UPDATE credits.user_balance_checkpoints SET balance = balance + 1; UPDATE credits.batch_aggregates SET transaction_count = 7");
    let found: Vec<String> = admin.values(
        "SELECT check_name || count(*) FROM credits.verify_ledger() GROUP BY check_name ORDER BY 1",
        &[],
    );
    assert_eq!(found, ["batch3", "checkpoint balance3"]);
    admin.run("UPDATE credits.user_balance_checkpoints SET balance = balance - 1; UPDATE credits.batch_aggregates SET transaction_count = 1");
    assert_eq!(admin.value::<i64>("SELECT credits.release_expired_holds()", &[]), 1);
    assert_eq!(admin.value::<i64>("SELECT credits.release_expired_holds()", &[]), 0);
    let refreshed: i64 = admin.value("SELECT credits.refresh_idle_checkpoints('0')", &[]);
    assert_eq!(refreshed, 1);
    // Whoever has rows clears what they say of an account.
    for number in 1..=3 {
        assert_eq!(admin.value::<i64>("SELECT credits.redact_account($1)", &[&user(number)]), 1);
    }
    admin.run("ALTER TABLE credits.user_balance_checkpoints DISABLE TRIGGER USER; UPDATE credits.user_balance_checkpoints SET has_days = NULL;
               DELETE FROM credits.daily_totals; ALTER TABLE credits.user_balance_checkpoints ENABLE ALWAYS TRIGGER announce_change");
    admin.run("CALL credits.fill_daily_totals()");
    let found: Vec<String> = admin.values("SELECT v::text FROM credits.verify_ledger() v", &[]);
    assert_eq!(found, [""; 0]);
}

/// Two users of one class of buckets, and its numbers: the first's bucket will leave.
fn classmates(admin: &mut Session) -> (Uuid, Uuid, i32) {
    let class: i32 = admin.value("SELECT credits.bucket_of($1) & 3", &[&user(1)]);
    let other: Uuid = admin.value(
        "SELECT u FROM (SELECT gen_random_uuid() u FROM generate_series(1, 100)) drawn
         WHERE credits.bucket_of(u) & 3 = $1 AND credits.bucket_of(u) <> credits.bucket_of($2) LIMIT 1",
        &[&class, &user(1)],
    );
    (user(1), other, class)
}

#[test]
fn a_class_is_read_as_a_whole_and_written_by_account() {
    let db = Database::create();
    let mut admin = db.connect();
    if admin.server_version() < 150_000 {
        return;
    }
    let (leaving, other, class) = classmates(&mut admin);
    admin.run(&format!("SELECT credits.make_class_views(4, {class})"));
    let view = |name: &str| format!("credits_classes.{name}_4_{class}");
    let insert = |user: Uuid, source: &str| {
        format!(
            "INSERT INTO {} (user_id, transaction_type, amount, source_id, seq, xact_id) VALUES ('{user}', 'admin_grant', 1, '{source}', DEFAULT, DEFAULT)",
            view("credits_transactions")
        )
    };
    for user in [leaving, other] {
        admin.run(&insert(user, &format!("first of {user}")));
        admin.run(&format!(
            "INSERT INTO {} (user_id, overdraft_limit) VALUES ('{user}', 5)",
            view("spending_limits")
        ));
    }
    let reads = [
        "credits_transactions",
        "balances",
        "batches",
        "thresholds",
        "holds",
        "spend_caps",
        "spending_limits",
        "spend_cap_states",
    ]
    .map(|name| format!("SELECT count(*) FROM {}", view(name)));
    let changes = [
        format!("UPDATE {} SET overdraft_limit = 6 WHERE user_id = '{other}'", view("spending_limits")),
        format!("DELETE FROM {} WHERE user_id = '{other}'", view("holds")),
    ];
    let mut older = db.connect();
    older.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(older.value::<i64>(&reads[0], &[]), 2);
    for state in ["moving", "elsewhere", "arriving"] {
        set_state(&mut admin, 1, state);
        for session in [&mut admin, &mut db.connect()] {
            for statement in reads.iter().chain(&changes) {
                if state == "moving" {
                    session.run(statement);
                } else {
                    session.try_run(statement).refused("LC003");
                }
            }
            // Of the accounts that are here, whichever are not.
            session.run(&format!("BEGIN; {}; ROLLBACK", insert(other, "second")));
        }
        older.run(&changes[1]);
        assert_eq!(older.value::<i64>(&reads[0], &[]), 2);
    }
    admin.run(&insert(other, "second"));
    admin.try_run(&insert(leaving, "of another node")).refused("LC003");
    let misfit: Uuid = admin.value(
        "SELECT u FROM (SELECT gen_random_uuid() u FROM generate_series(1, 100)) drawn WHERE credits.bucket_of(u) & 3 <> $1 LIMIT 1",
        &[&class],
    );
    admin.try_run(&insert(misfit, "of another class")).refused("44000");
    older.run("ROLLBACK");
    older.try_run(&reads[0]).refused("LC003");
    bring_back(&mut admin, 1);
    assert_eq!(older.value::<i64>(&reads[0], &[]), 3);
}

/// Once for each scan, and indexes serve as without it.
#[test]
fn a_class_is_asked_for_before_the_first_row_is_read() {
    let db = Database::create();
    let mut admin = db.connect();
    if admin.server_version() < 150_000 {
        return;
    }
    admin.run("SELECT credits.make_class_views(4, 3); SET enable_seqscan = off; SET enable_bitmapscan = off");
    for (condition, expected) in [
        (
            format!(
                "credits_transactions_4_3 WHERE user_id = '{}' AND fusillade_batch_id IS NULL ORDER BY seq DESC LIMIT 5",
                user(1)
            ),
            "credits_transactions_single_idx",
        ),
        ("credits_transactions_4_3 WHERE source_id = 'one'".to_owned(), "credits_transactions_source_id_key"),
        ("credits_transactions_4_3 WHERE ctid = '(0,1)'".to_owned(), "Tid Scan"),
        (format!("balances_4_3 WHERE user_id = '{}'", user(1)), "user_balance_checkpoints_pkey"),
        (format!("holds_4_3 WHERE user_id = '{}'", user(1)), "holds_user_idx"),
    ] {
        let plan: Vec<String> =
            admin.values(&format!("EXPLAIN (COSTS OFF) SELECT * FROM credits_classes.{condition}"), &[]);
        let plan = plan.join("\n");
        assert!(plan.contains("One-Time Filter: credits.require_class(4, 3)"), "{plan}");
        assert!(plan.contains(expected), "{plan}");
    }
}

/// Whichever process of a parallel query asks.
#[test]
fn workers_see_the_buckets_of_the_query() {
    let db = Database::create();
    let mut admin = node(&db);
    admin.run(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET max_parallel_workers_per_gather = 2;
         SET parallel_leader_participation = off; SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off",
    );
    let count = "SELECT count(*) FROM credits.credits_transactions WHERE credits.is_here(user_id)";
    let plan: Vec<String> = admin.values(&format!("EXPLAIN (COSTS OFF) {count}"), &[]);
    assert!(plan.iter().any(|line| line.contains("Parallel Seq Scan")), "{plan:#?}");
    assert_eq!(admin.value::<i64>(count, &[]), 3);
    if admin.server_version() >= 150_000 {
        let class: i32 = admin.value("SELECT credits.bucket_of($1) & 1", &[&user(1)]);
        admin.run(&format!("SELECT credits.make_class_views(2, {class})"));
        admin
            .try_run(&format!("SELECT count(*) FROM credits_classes.credits_transactions_2_{class}"))
            .refused("LC003");
    }
}

/// What both nodes say together, each in one statement: which buckets they have, and how many rows.
fn read_all(nodes: &mut [Session; 2], bucket: i32) -> ([bool; 2], i64) {
    let mut has = [false; 2];
    let mut count = 0;
    for (session, has) in nodes.iter_mut().zip(&mut has) {
        let row = session
            .query_one(
                "SELECT get_bit(credits.owned_buckets(), $1) = 1, credits.count_all_transactions(),
                        (SELECT count(*) FROM credits.list_all_transactions(\"limit\" => NULL))",
                &[&bucket],
            )
            .unwrap();
        *has = row.get(0);
        assert_eq!(row.get::<_, i64>(1), row.get::<_, i64>(2));
        count += row.get::<_, i64>(1);
    }
    (has, count)
}

/// While a bucket is moved, readers of all nodes have each row once, or know that one bucket was on no node; who reads with an older snapshot has
/// the old answer.
#[test]
fn each_row_is_read_once_while_a_bucket_moves() {
    let db = Database::create();
    let [moving, staying] =
        [1, 2].map(|number| db.connect().value::<i32>("SELECT credits.bucket_of($1)", &[&user(number)]));
    let mut nodes = Nodes::create(&[moving, staying]);
    let mut admin = nodes.old.connect();
    for number in [1, 2] {
        for _ in 0..3 {
            admin.grant(user(number), dec!(5));
        }
        admin.run(&format!("SELECT credits.create_hold('{}', 4, 'held {number}')", user(number)));
    }
    let mut readers = [nodes.old.connect(), nodes.new.connect()];
    let mut older = nodes.old.connect();
    let answer = format!(
        "SELECT format('%s %s %s %s', credits.get_available_balance('{0}'), (SELECT count(*) FROM credits.list_holds('{0}')),
                       credits.count_all_transactions(), (SELECT sum(available) FROM credits.balances))",
        user(1)
    );
    let expected = "11 1 6 22";
    older.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(older.value::<String>(&answer, &[]), expected);
    let on_old = ([true, false], 6);
    assert_eq!(read_all(&mut readers, moving), on_old);
    let collected = nodes.mover.collect(moving);
    let from = nodes.mover.expect(moving);
    let (_, from) = nodes.mover.copy(moving, from.as_deref());
    assert_eq!(read_all(&mut readers, moving), on_old);
    nodes.mover.old.run(&format!("SELECT credits.start_moving_bucket({moving})"));
    assert_eq!(read_all(&mut readers, moving), on_old);
    nodes.mover.old.run(&format!("BEGIN; SELECT credits.hold_bucket({moving})"));
    let handover = nodes.mover.hand_over(moving, Some(&from), &collected);
    nodes.mover.old.run(&format!("SELECT credits.give_away_bucket({moving})"));
    assert_eq!(read_all(&mut readers, moving), on_old);
    assert_eq!(readers[0].value::<String>(&answer, &[]), expected);
    nodes.mover.old.run("COMMIT");
    assert_eq!(read_all(&mut readers, moving), ([false, false], 3));
    assert_eq!(older.value::<String>(&answer, &[]), expected);
    for reader in &mut readers {
        reader.try_run(&answer).refused("LC003");
        assert_eq!(
            reader.value::<i64>("SELECT count(*) FROM credits.balances WHERE user_id = $1", &[&user(1)]),
            0
        );
    }
    assert!(nodes.mover.activate(moving, &handover));
    assert_eq!(read_all(&mut readers, moving), ([false, true], 6));
    assert_eq!(readers[1].value::<String>(&answer, &[]), "11 1 3 11");
    nodes.mover.old.run(&format!("SELECT credits.purge_bucket({moving})"));
    assert_eq!(read_all(&mut readers, moving), ([false, true], 6));
    // What it sees is purged by nobody.
    assert_eq!(older.value::<String>(&answer, &[]), expected);
    older.run("COMMIT");
    older.try_run(&answer).refused("LC003");
    for reader in &mut readers {
        reader.assert_sound();
    }
}

/// There, purged, and back.
#[test]
fn a_feed_has_what_came_into_being_on_its_node_wherever_accounts_move() {
    // Whoever has written and is open holds a feed back.
    let db = Database::create_alone();
    let bucket: i32 = db.connect().value("SELECT credits.bucket_of($1)", &[&user(1)]);
    let mut nodes = Nodes::beside(db, &[bucket]);
    let mut readers = [nodes.old.connect(), nodes.new.connect()];
    let mut read: [(Option<String>, Vec<String>); 2] = Default::default();
    let mut expected: [Vec<String>; 2] = Default::default();
    let mut at = 0;
    for step in 0..5 {
        let source = format!("step {step}");
        readers[at]
            .run(&format!("SELECT credits.create_transaction('{}', 'admin_grant', 1, '{source}')", user(1)));
        expected[at].push(source);
        for (reader, (position, read)) in readers.iter_mut().zip(&mut read) {
            let (after, new) = reader.read_feed(position.as_deref(), 2);
            *position = after;
            read.extend(new);
        }
        assert_eq!(read.each_ref().map(|(_, read)| read.clone()), expected);
        nodes.mover.move_bucket(bucket);
        if step % 2 == 1 {
            nodes.mover.old.run(&format!("SELECT credits.purge_bucket({bucket})"));
        }
        let Mover { old, new } = &mut nodes.mover;
        std::mem::swap(old, new);
        at = 1 - at;
    }
    assert_eq!(readers[at].balance(user(1)), dec!(5));
    for reader in &mut readers {
        reader.assert_sound();
    }
}

/// A commit is seen before sessions are told what it has changed. Its locks last until they are.
#[test]
fn a_bucket_is_held_when_all_have_been_told_that_it_is_about_to_leave() {
    let db = Database::create_alone();
    let (mut marking, mut holding) = (db.connect(), db.connect());
    marking.run("SELECT credits.start_moving_bucket(1)");
    marking.run("BEGIN; SELECT credits.start_moving_bucket(2)");
    holding.try_run("SET lock_timeout = '100ms'; SELECT credits.hold_bucket(1)").refused("55P03");
    marking.run("COMMIT");
    holding.run("SELECT credits.hold_bucket(1)");
    holding.run("SELECT credits.hold_bucket(2)");
}
