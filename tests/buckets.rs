//! What a router needs of a node: accounts fall into buckets as rows fall into hash partitions, and a class of buckets is a view.

use std::io::Write;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::{Database, Refused, Session, Uuid, dec, user};

/// Modulus and remainder of what is no class of buckets, and how it is refused.
pub const NO_CLASSES: [(&str, &str); 7] = [
    ("NULL, 0", "22004"),
    ("1, NULL", "22004"),
    ("3, 0", "22023"),
    ("0, 0", "22023"),
    ("2048, 0", "22023"),
    ("4, 4", "22023"),
    ("4, -1", "22023"),
];

fn has_views_of_invokers(session: &mut Session) -> bool {
    session.server_version() >= 150_000
}

#[test]
fn a_bucket_is_the_remainder_of_a_hash_partition() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("CREATE TABLE routed (user_id uuid) PARTITION BY HASH (user_id)");
    let (wrong, buckets): (i64, i64) = {
        let row = session
            .query_one(
                "SELECT count(*) FILTER (WHERE NOT satisfies_hash_partition('routed'::regclass, 1024, credits.bucket_of(u), u)
                                            OR NOT satisfies_hash_partition('routed'::regclass, 4, credits.bucket_of(u) & 3, u)),
                        count(DISTINCT credits.bucket_of(u))
                 FROM (SELECT gen_random_uuid() AS u FROM generate_series(1, 1000000)) drawn",
                &[],
            )
            .expect("compare");
        (row.get(0), row.get(1))
    };
    assert_eq!((wrong, buckets), (0, 1024));
    assert!(session.value::<bool>("SELECT credits.bucket_of(NULL) IS NULL", &[]));
}

#[test]
fn the_views_of_all_classes_have_every_account_once() {
    let db = Database::create();
    let mut admin = db.connect();
    if !has_views_of_invokers(&mut admin) {
        admin.try_run("SELECT credits.make_class_views(1, 0)").refused("0A000");
        return;
    }
    for number in 0..40 {
        admin.grant(user(number), dec!(1));
    }
    // Classes of different sizes, and no account in two.
    let classes = [(2, 0), (4, 1), (8, 3), (8, 7)];
    for (modulus, remainder) in classes {
        admin.run(&format!("SELECT credits.make_class_views({modulus}, {remainder})"));
    }
    for table in ["credits_transactions", "balances", "thresholds"] {
        let parts = classes.map(|(modulus, remainder)| {
            format!("SELECT user_id FROM credits_classes.{table}_{modulus}_{remainder}")
        });
        let differing: i64 = admin.value(
            &format!(
                "SELECT count(*) FROM (SELECT user_id FROM credits.{table}) a
                 FULL JOIN ({}) b USING (user_id) WHERE a IS NULL OR b IS NULL",
                parts.join(" UNION ALL ")
            ),
            &[],
        );
        let rows: i64 = admin.value(&format!("SELECT count(*) FROM ({}) b", parts.join(" UNION ALL ")), &[]);
        assert_eq!((differing, rows), (0, 40), "{table}");
    }
    admin.run("SELECT credits.make_class_views(8, 7)");
    admin.assert_as_made();
}

#[test]
fn a_class_view_is_written_and_read_with_the_callers_own_privileges() {
    let db = Database::create();
    let mut admin = db.connect();
    if !has_views_of_invokers(&mut admin) {
        return;
    }
    admin.grant(user(1), dec!(1));
    admin.grant(user(2), dec!(2));
    admin.run("SELECT credits.make_class_views(1, 0)");
    let name = db.create_role("clerk");
    let mut clerk = db.connect_as(&name);
    let insert = format!(
        "INSERT INTO credits_classes.credits_transactions_1_0 (user_id, transaction_type, amount, source_id, seq, xact_id)
         VALUES ('{}', 'usage', 1, 'through the view', DEFAULT, DEFAULT)",
        user(1)
    );
    admin.run(&format!("GRANT USAGE ON SCHEMA credits TO {name}"));
    clerk.try_run("SELECT FROM credits_classes.credits_transactions_1_0").refused("42501");
    clerk.try_run(&insert).refused("42501");
    clerk.try_run("SELECT credits.make_class_views(2, 0)").refused("42501");

    admin.run(&format!(
        "GRANT SELECT, INSERT ON credits.credits_transactions TO {name};
         GRANT SELECT, INSERT, UPDATE ON credits.spend_caps TO {name};
         ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY one ON credits.credits_transactions TO {name} USING (user_id = '{}')",
        user(1)
    ));
    clerk.run(&insert);
    let seen: Vec<String> = clerk.values(
        "SELECT source_id FROM credits_classes.credits_transactions_1_0 WHERE amount = 1 ORDER BY seq",
        &[],
    );
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1], "through the view");
    assert_eq!(clerk.value::<i64>("SELECT count(*) FROM credits_classes.credits_transactions_1_0", &[]), 2);

    // As postgres_fdw updates rows that it has read.
    clerk.run(&format!(
        "INSERT INTO credits_classes.spend_caps_1_0 (id, user_id, amount, since, is_enforced)
         VALUES (gen_random_uuid(), '{}', 5, now(), false);
         UPDATE credits_classes.spend_caps_1_0 SET amount = 6
         WHERE ctid = (SELECT ctid FROM credits_classes.spend_caps_1_0)",
        user(1)
    ));
    assert_eq!(admin.value::<i32>("SELECT amount::int FROM credits.spend_caps", &[]), 6);
    // A row stays in its class.
    admin.run("SELECT credits.make_class_views(2, 0); SELECT credits.make_class_views(2, 1)");
    let class: i32 = admin.value("SELECT credits.bucket_of(user_id) & 1 FROM credits.spend_caps", &[]);
    let elsewhere: Uuid = admin.value(
        "SELECT u FROM (SELECT gen_random_uuid() u FROM generate_series(1, 100)) drawn WHERE credits.bucket_of(u) & 1 <> $1 LIMIT 1",
        &[&class],
    );
    clerk
        .try_run(&format!("UPDATE credits_classes.spend_caps_2_{class} SET user_id = '{elsewhere}'"))
        .refused("44000");
    assert_eq!(admin.balance(user(1)), dec!(0));
    admin.run("DELETE FROM credits.spend_caps");
    admin.assert_sound();
}

#[test]
fn what_is_no_class_is_refused() {
    let db = Database::create();
    let mut admin = db.connect();
    for (class, sqlstate) in NO_CLASSES {
        admin.try_run(&format!("SELECT credits.make_class_views({class})")).refused(sqlstate);
    }
    if has_views_of_invokers(&mut admin) {
        let name = db.create_role("stranger");
        admin.run(&format!("CREATE SCHEMA credits_classes AUTHORIZATION {name}"));
        admin.try_run("SELECT credits.make_class_views(1, 0)").refused("55000");
    }
}

/// How each way of inserting numbers a row: what `seq` leaves when it is divided by 1,024, and whether it is above what was there.
fn draw(session: &mut Session, admin: &mut Session, way: &str) -> i64 {
    let last: i64 = admin.value("SELECT coalesce(max(seq), 0) FROM credits.credits_transactions", &[]);
    match way {
        "a call" => {
            session.grant(user(1), dec!(1));
        }
        "a statement" => session.run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
             VALUES ('{}', 'usage', 1, gen_random_uuid()::text)",
            user(1)
        )),
        _ => {
            let mut copy = session
                .copy_in("COPY credits.credits_transactions (user_id, transaction_type, amount, source_id) FROM STDIN")
                .unwrap();
            writeln!(copy, "{}\tusage\t1\tcopied {last}", user(2)).unwrap();
            copy.finish().unwrap();
        }
    }
    let drawn: i64 = admin.value("SELECT max(seq) FROM credits.credits_transactions", &[]);
    assert!(drawn > last, "{way}: {drawn} behind {last}");
    drawn % 1024
}

const WAYS: [&str; 3] = ["a call", "a statement", "COPY"];

#[test]
fn a_node_numbers_rows_by_its_number() {
    let db = Database::create();
    let (mut admin, mut session) = (db.connect(), db.connect());
    assert_eq!(admin.value::<Option<i32>>("SELECT credits.get_node_number()", &[]), None);
    session.grant(user(1), dec!(100));
    for number in [5, 3, 1023, 0] {
        admin.run(&format!("SELECT credits.set_node_number({number})"));
        for way in WAYS.into_iter().chain(WAYS) {
            assert_eq!(draw(&mut session, &mut admin, way), i64::from(number), "{way}");
        }
        // A row from another node moves the numbers on, not to its remainder.
        let other: i64 = admin.value(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, seq) OVERRIDING SYSTEM VALUE
             SELECT $1, 'usage', 1, 'moved ' || max(seq), max(seq) + 5000 FROM credits.credits_transactions RETURNING seq",
            &[&user(3)],
        );
        assert_ne!(other % 1024, i64::from(number));
        for way in WAYS {
            assert_eq!(
                draw(&mut session, &mut admin, way),
                i64::from(number),
                "{way} behind a row of another node"
            );
        }
        // Once more: nothing changes, and nobody is waited for.
        session.run("BEGIN");
        session.grant(user(1), dec!(1));
        admin.run(&format!(
            "SET lock_timeout = '100ms'; SELECT credits.set_node_number({number}); RESET lock_timeout"
        ));
        session.run("COMMIT");
        assert_eq!(admin.value::<Option<i32>>("SELECT credits.get_node_number()", &[]), Some(number));
        admin.assert_as_made();
    }
    admin.run("ALTER SEQUENCE credits.credits_transactions_seq_seq INCREMENT 1");
    assert_eq!(admin.value::<Option<i32>>("SELECT credits.get_node_number()", &[]), None);
    admin.run("SELECT credits.set_node_number(0)");
    assert_eq!(draw(&mut session, &mut admin, "a call"), 0);
    admin.assert_sound();
}

/// Whoever has drawn a number of the earlier series is waited for, and draws none of the later one in the same transaction before that.
#[test]
fn a_node_gets_its_number_between_transactions() {
    let db = Database::create_alone();
    let (mut admin, mut session) = (db.connect(), db.connect());
    session.run("BEGIN");
    session.grant(user(1), dec!(1));
    admin.try_run("SET lock_timeout = '1s'; SELECT credits.set_node_number(7)").refused("55P03");
    session.grant(user(1), dec!(1));
    session.run("COMMIT");
    admin.run("BEGIN; SELECT credits.set_node_number(7); ROLLBACK");
    assert_eq!(admin.value::<Option<i32>>("SELECT credits.get_node_number()", &[]), None);
    // What was rolled back gives out no number twice.
    draw(&mut session, &mut admin, "a call");
    admin.run("SELECT credits.set_node_number(7)");
    assert_eq!(draw(&mut session, &mut admin, "a call"), 7);
    // It reads forward as before.
    let items: i64 = admin.value("SELECT count(*) FROM credits.transactions_after(\"limit\" => NULL)", &[]);
    assert_eq!(items, 4);
}

#[test]
fn only_the_owner_gives_a_number_that_there_is() {
    let db = Database::create();
    let mut admin = db.connect();
    for (number, sqlstate) in [("NULL", "22004"), ("-1", "22023"), ("1024", "22023")] {
        admin.try_run(&format!("SELECT credits.set_node_number({number})")).refused(sqlstate);
    }
    let name = db.create_role("stranger");
    admin.run(&format!("GRANT USAGE ON SCHEMA credits TO {name}; GRANT EXECUTE ON FUNCTION credits.set_node_number(int) TO {name}"));
    db.connect_as(&name).try_run("SELECT credits.set_node_number(1)").refused("42501");
}

/// A user of a bucket of its own: not that of the others.
fn bucket(session: &mut Session, number: u32) -> i32 {
    session.value("SELECT credits.bucket_of($1)", &[&user(number)])
}

const CALLS: [&str; 23] = [
    "calculate_balance_with_seq('{}')",
    "get_available_balances_bulk(ARRAY['{}']::uuid[])",
    "list_user_transactions_with_balance('{}')",
    "list_transactions_with_batches('{}')",
    "count_transactions_with_batches('{}')",
    "sum_recent_transactions('{}', 5)",
    "sum_recent_transactions_grouped('{}', 5)",
    "sum_transactions_after_date('{}', now())",
    "sum_transactions_after_date_grouped('{}', now())",
    "get_monthly_auto_topup_spend('{}')",
    "get_monthly_auto_topup_spend_bulk(ARRAY['{}']::uuid[])",
    "get_user_balance('{}')",
    "get_users_balances_bulk(ARRAY['{}']::uuid[])",
    "get_available_balance('{}')",
    "list_user_transactions('{}')",
    "count_user_transactions('{}')",
    "get_user_balance_at('{}', now())",
    "usage_by_day('{}')",
    "account_statement('{}', '2026-01-01', '2026-02-01')",
    "list_holds('{}')",
    "create_hold('{}', 1, 'a hold')",
    "charge('{}', 1, 'a charge')",
    "create_transaction('{}', 'usage', 1, 'usage')",
];

#[test]
fn accounts_of_other_nodes_are_refused() {
    let db = Database::create();
    let (mut admin, mut session) = (db.connect(), db.connect());
    session.grant(user(1), dec!(10));
    let (here, elsewhere) = (bucket(&mut admin, 1), bucket(&mut admin, 2));
    assert_ne!(here, elsewhere);
    // Known to be here, to both sessions, before it is not.
    for call in CALLS.iter().take(20) {
        session.run(&format!("SELECT credits.{}", call.replace("{}", &user(2).to_string())));
    }
    admin.try_run(&format!("SELECT credits.disown_buckets(ARRAY[{here}, {elsewhere}])")).refused("55000");
    let disown = format!("SELECT credits.disown_buckets(ARRAY[{elsewhere}, {elsewhere}])");
    assert_eq!((admin.value::<i32>(&disown, &[]), admin.value::<i32>(&disown, &[])), (1, 0));
    assert!(!admin.value::<bool>("SELECT credits.owns_bucket($1)", &[&elsewhere]));
    let mut later = db.connect();
    for session in [&mut session, &mut later] {
        for call in CALLS {
            session
                .try_run(&format!("SELECT credits.{}", call.replace("{}", &user(2).to_string())))
                .refused("LC003");
            session.run(&format!("SELECT credits.{}", call.replace("{}", &user(1).to_string())));
        }
        // By its commit.
        session.run(&format!(
            "BEGIN; INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                    VALUES ('{}', 'admin_grant', 1, 'a row'), ('{}', 'admin_grant', 1, 'another')",
            user(1),
            user(2)
        ));
        session.try_run("COMMIT").refused("LC003");
        for row in [
            "spending_limits (user_id) VALUES ('{}')",
            "spend_caps (user_id, amount) VALUES ('{}', 5)",
            "holds (user_id, amount, source_id, expires_at) VALUES ('{}', 5, 'held', now() + interval '1 hour')",
        ] {
            session
                .try_run(&format!("INSERT INTO credits.{}", row.replace("{}", &user(2).to_string())))
                .refused("LC003");
        }
        session.run("BEGIN");
        session.try_run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) VALUES ('{}', 'usage', 1, 'prepared')",
            user(2)
        ))
        .unwrap();
        session.try_run("PREPARE TRANSACTION 'of another node'").refused("LC003");
    }
    let own = format!("SELECT credits.own_buckets(ARRAY[{elsewhere}])");
    assert_eq!((admin.value::<i32>(&own, &[]), admin.value::<i32>(&own, &[])), (1, 0));
    for session in [&mut session, &mut later] {
        session.grant(user(2), dec!(3));
    }
    assert_eq!(session.balance(user(2)), dec!(6));
    admin.assert_sound();
    admin.assert_as_made();
}

#[test]
fn a_node_has_the_accounts_of_its_buckets_and_no_others() {
    let db = Database::create();
    let (mut admin, mut session) = (db.connect(), db.connect());
    let mine = bucket(&mut admin, 7);
    admin.run(&format!(
        "SELECT credits.disown_buckets(ARRAY(SELECT n FROM generate_series(0, 1023) n WHERE n <> {mine}))"
    ));
    session.grant(user(7), dec!(1));
    for number in 0..40 {
        let granted = session.try_run(&format!(
            "SELECT credits.create_transaction('{}', 'admin_grant', 1, 'grant {number}')",
            user(number)
        ));
        match bucket(&mut admin, number) == mine {
            true => granted.unwrap(),
            false => _ = granted.refused("LC003"),
        }
    }
    for (buckets, sqlstate) in
        [("NULL", "22004"), ("'{NULL}'", "22023"), ("'{-1}'", "22023"), ("'{1024}'", "22023")]
    {
        for function in ["disown_buckets", "own_buckets"] {
            admin.try_run(&format!("SELECT credits.{function}({buckets})")).refused(sqlstate);
        }
    }
    for (bucket, sqlstate) in [("NULL", "22004"), ("-1", "22023"), ("1024", "22023")] {
        admin.try_run(&format!("SELECT credits.owns_bucket({bucket})")).refused(sqlstate);
    }
    let name = db.create_role("router");
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {name}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {name}"
    ));
    let mut router = db.connect_as(&name);
    for call in ["disown_buckets('{1}')", "own_buckets('{1}')", "owns_bucket(1)"] {
        router.try_run(&format!("SELECT credits.{call}")).refused("42501");
    }
}

/// A session that has had every bucket, and has rows in flight, asks again when it commits.
#[test]
fn a_commit_asks_when_it_has_the_stripe() {
    let db = Database::create();
    let (mut admin, mut session) = (db.connect(), db.connect());
    session.grant(user(1), dec!(1000));
    session.grant(user(2), dec!(1000));
    let theirs = bucket(&mut admin, 2);
    let row = |session: &mut Session, source_id: &str| {
        session.run(&format!(
            "BEGIN; INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                    VALUES ('{}', 'usage', 1, '{source_id}')",
            user(2)
        ));
    };
    // Who has written is waited for.
    row(&mut session, "waited for");
    admin.try_run("SET lock_timeout = '300ms'; SELECT credits.disown_buckets('{0}')").refused("55P03");
    session.run("COMMIT");
    for (state, may_commit, prepared) in
        [("elsewhere", false, "LC003"), ("arriving", false, "LC003"), ("moving", true, "0A000")]
    {
        // Within headroom, and where the account has to be looked at.
        for (kind, request) in [("headroom", ""), ("forced", "SELECT credits.refresh_checkpoint('{}')")] {
            row(&mut session, &format!("{state} {kind}"));
            session.run(&request.replace("{}", &user(2).to_string()));
            admin.run(&format!("INSERT INTO credits.bucket_states VALUES ({theirs}, '{state}')"));
            let committed = session.try_run("COMMIT");
            match may_commit {
                true => committed.unwrap(),
                false => _ = committed.refused("LC003"),
            }
            admin.run("DELETE FROM credits.bucket_states");
        }
        row(&mut session, &format!("{state} prepared"));
        admin.run(&format!("INSERT INTO credits.bucket_states VALUES ({theirs}, '{state}')"));
        session.try_run("PREPARE TRANSACTION 'of a bucket'").refused(prepared);
        admin.run("DELETE FROM credits.bucket_states");
    }
    row(&mut session, "here again");
    session.run("COMMIT");
    assert_eq!(session.balance(user(2)), dec!(996));
    admin.assert_sound();
}

/// Where it cannot ask without waiting, since somebody has locked the table, it is refused, and asks again later.
#[test]
fn a_commit_that_cannot_ask_is_refused() {
    let db = Database::create();
    let (mut admin, mut session, mut locker) = (db.connect(), db.connect(), db.connect());
    session.grant(user(1), dec!(1000));
    session.grant(user(2), dec!(1000));
    let theirs = bucket(&mut admin, 2);
    for (is_there, number) in [(false, 2), (true, 1)] {
        let charge = format!(
            "BEGIN; INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) VALUES ('{}', 'usage', 1, 'charge')",
            user(number)
        );
        session.run(&charge);
        if is_there {
            admin.run("DELETE FROM credits.bucket_states");
        } else {
            admin.run(&format!("INSERT INTO credits.bucket_states VALUES ({theirs}, 'elsewhere')"));
        }
        locker.run("BEGIN; LOCK TABLE credits.bucket_states IN ACCESS EXCLUSIVE MODE");
        session.try_run("COMMIT").refused("LC003");
        locker.run("COMMIT");
        session.run(&charge);
        match is_there {
            true => session.run("COMMIT"),
            false => _ = session.try_run("COMMIT").refused("LC003"),
        }
    }
    assert_eq!(session.balance(user(1)), dec!(999));
    assert_eq!(session.balance(user(2)), dec!(1000));
    session.assert_sound();
}

/// What a transaction that transfers a bucket may do, it may do to that one, and as long as it lasts.
#[test]
fn a_transfer_is_of_its_bucket_and_of_its_transaction() {
    let db = Database::create();
    let mut admin = db.connect();
    admin.grant(user(1), dec!(10));
    let [first, second] = [1, 2].map(|number| bucket(&mut admin, number));
    let insert = |number: u32| {
        format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) VALUES ('{}', 'usage', 1, gen_random_uuid()::text)",
            user(number)
        )
    };
    let delete = "DELETE FROM credits.credits_transactions";
    let begin = |bucket: i32| format!("BEGIN; SELECT credits.begin_transfer({bucket})");
    for (state, may_insert, may_delete) in [
        ("here", true, false),
        ("moving", true, false),
        ("elsewhere", false, true),
        ("arriving", true, false),
    ] {
        admin.run("DELETE FROM credits.bucket_states");
        if state != "here" {
            admin.run(&format!(
                "INSERT INTO credits.bucket_states VALUES ({first}, '{state}'), ({second}, '{state}')"
            ));
        }
        for (statement, may, sqlstate) in
            [(insert(1), may_insert, "LC003"), (delete.to_owned(), may_delete, "55000")]
        {
            // Another one before, which has committed, and another one in the same transaction.
            admin.run(&format!("{}; COMMIT", begin(first)));
            admin.run(&begin(second));
            let done = admin.try_run(&format!("{statement}; SET CONSTRAINTS ALL IMMEDIATE"));
            let committed = done.and_then(|()| admin.try_run("COMMIT"));
            // Accounts that are here are written without a transfer.
            match sqlstate == "LC003" && ["here", "moving"].contains(&state) {
                true => committed.unwrap(),
                false => _ = committed.refused(sqlstate),
            }
            admin.run("ROLLBACK");
            admin.run(&begin(first));
            let done = admin.try_run(&statement);
            match may {
                true => done.unwrap_or_else(|error| panic!("{state}: {statement}: {error:?}")),
                false if sqlstate == "55000" => _ = done.refused(sqlstate),
                false => {
                    done.unwrap();
                    admin.try_run("COMMIT").refused(sqlstate);
                }
            }
            admin.run("ROLLBACK");
        }
    }
    admin.run("DELETE FROM credits.bucket_states");
    admin.assert_sound();
}

/// Whose the bucket is, and the rows that are read, are of one snapshot.
#[test]
fn a_reader_asks_as_of_its_snapshot() {
    let db = Database::create();
    let (mut admin, mut session) = (db.connect(), db.connect());
    session.grant(user(2), dec!(5));
    let theirs = bucket(&mut admin, 2);
    let balance = format!("SELECT credits.get_user_balance('{}')", user(2));
    for (before, change) in [
        (true, format!("INSERT INTO credits.bucket_states VALUES ({theirs}, 'elsewhere')")),
        (false, "DELETE FROM credits.bucket_states".to_owned()),
    ] {
        session.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
        admin.run(&change);
        for _ in 0..2 {
            session.run("SAVEPOINT s");
            let read = session.try_run(&balance);
            match before {
                true => read.unwrap(),
                false => _ = read.refused("LC003"),
            }
            session.run("ROLLBACK TO s");
        }
        session.run("ROLLBACK");
        let read = session.try_run(&balance);
        match before {
            true => _ = read.refused("LC003"),
            false => read.unwrap(),
        }
    }
}

/// Whoever has let the stripe go to have it exclusively asks again: the bucket may have left meanwhile.
#[test]
fn a_commit_that_waited_for_the_stripe_asks_again() {
    assert_it_asks_again(&Database::create());
    // Where no session is attached to shared memory, none has looked for a state of the ledger meanwhile.
    let cluster = Cluster::start_with_memory_files();
    let db = Database::create_in(&cluster);
    let _sealed = cluster.forbid_new_memory();
    assert_it_asks_again(&db);
}

fn assert_it_asks_again(db: &Database) {
    let (mut admin, [mut first, mut second]) = (db.connect(), [db.connect(), db.connect()]);
    admin.grant(user(2), dec!(15));
    let theirs = bucket(&mut admin, 2);
    let charge = |session: &mut Session, amount: u32| {
        session.run(&format!(
            "BEGIN; INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                    VALUES ('{}', 'usage', {amount}, 'charge of {amount}')",
            user(2)
        ));
    };
    // The first shares the stripe. The second, which crosses zero, shares it as well, and then wants it to itself.
    charge(&mut first, 1);
    let held = db.hold_commit(first);
    charge(&mut second, 20);
    let waiting = second.background(|session| session.try_run("COMMIT"));
    db.until_blocked(waiting.pid());
    admin.run(&format!("INSERT INTO credits.bucket_states VALUES ({theirs}, 'elsewhere')"));
    held.release();
    let (mut second, committed) = waiting.finish();
    committed.refused("LC003");
    admin.run("DELETE FROM credits.bucket_states");
    assert_eq!(second.balance(user(2)), dec!(14));
    admin.assert_sound();
}

/// The step alone does not tell: somebody may have set the sequence to a number of another node's.
#[test]
fn a_number_that_the_sequence_does_not_go_by_is_not_the_nodes() {
    let db = Database::create();
    let mut admin = db.connect();
    let mut number = |change: &str| {
        admin.run(change);
        admin.value::<Option<i32>>("SELECT credits.get_node_number()", &[])
    };
    assert_eq!(number("SELECT credits.set_node_number(7)"), Some(7));
    assert_eq!(number("SELECT setval('credits.credits_transactions_seq_seq', 3 * 1024 + 8)"), None);
    assert_eq!(number("SELECT credits.set_node_number(7)"), Some(7));
}
