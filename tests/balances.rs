//! What a balance is, for one user and for many.

use credits_ledger_tests::{Database, Decimal, Refused, Session, Uuid, dec, user};

/// What the bulk read answers, by user.
fn bulk(session: &mut Session, users: &[Uuid], probability: Option<i32>) -> Vec<(Uuid, Decimal)> {
    let query = "SELECT * FROM credits.get_users_balances_bulk($1, $2) ORDER BY user_id";
    let rows = session.query(query, &[&users, &probability]).unwrap();
    rows.iter().map(|row| (row.get("user_id"), row.get("balance"))).collect()
}

fn with_seq(session: &mut Session, user: Uuid) -> (Decimal, Option<i64>) {
    let row = session.query_one("SELECT * FROM credits.calculate_balance_with_seq($1)", &[&user]).unwrap();
    (row.get("balance"), row.get("latest_seq"))
}

/// Who restores rows says their seq, and it may be any.
#[test]
fn a_seq_may_be_below_zero() {
    let db = Database::create();
    let mut session = db.connect();
    for (seq, latest) in [(-5_i64, -5_i64), (-7, -5), (i64::MIN, -5), (-1, -1), (i64::MAX, i64::MAX)] {
        session
            .execute(
                "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, seq)
                 OVERRIDING SYSTEM VALUE VALUES ($1, 'purchase', 1, gen_random_uuid()::text, $2)",
                &[&user(1), &seq],
            )
            .expect("a seq of the client's");
        for _ in 0..2 {
            let found: i64 =
                session.value("SELECT latest_seq FROM credits.calculate_balance_with_seq($1)", &[&user(1)]);
            assert_eq!(found, latest, "after {seq}");
            session.assert_sound();
            session.refresh(user(1));
        }
    }
}

#[test]
fn the_sign_follows_from_the_type() {
    let db = Database::create();
    let mut session = db.connect();
    let expected = [
        ("purchase", dec!(10), dec!(10)),
        ("admin_grant", dec!(5.5), dec!(15.5)),
        ("usage", dec!(20), dec!(-4.5)),
        ("admin_removal", dec!(0.000000000000001), dec!(-4.500000000000001)),
    ];
    for (kind, amount, balance) in expected {
        session.insert(user(1), kind, amount).unwrap();
        assert_eq!(session.balance(user(1)), balance, "after {kind}");
        let seq: i64 = session.value("SELECT max(seq) FROM credits.credits_transactions", &[]);
        assert_eq!(with_seq(&mut session, user(1)), (balance, Some(seq)));
        assert_eq!(bulk(&mut session, &[user(1)], None), [(user(1), balance)]);
        assert_eq!(session.value::<Decimal>("SELECT balance FROM credits.balances", &[]), balance);
    }
    session.assert_sound();
}

#[test]
fn an_unknown_user_has_nothing() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(1));
    assert_eq!(session.balance(user(2)), Decimal::ZERO);
    assert_eq!(with_seq(&mut session, user(2)), (Decimal::ZERO, None));
    assert_eq!(bulk(&mut session, &[user(2)], None), [(user(2), Decimal::ZERO)]);
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.balances", &[]), 1);
    // Asked for a refresh, there is nothing to write.
    session.refresh(user(2));
    session.run(&format!("SELECT credits.aggregate_user_batches('{}')", user(2)));
    assert_eq!(
        session.value::<i64>(
            "SELECT count(*) FROM credits.user_balance_checkpoints WHERE user_id = $1",
            &[&user(2)]
        ),
        0
    );
}

#[test]
fn bulk_answers_every_distinct_user_once() {
    let db = Database::create();
    let mut session = db.connect();
    for number in 0..300 {
        session.grant(user(number), Decimal::from(number + 1));
    }
    let asked: Vec<Uuid> = (0..310).chain(0..310).map(user).collect();
    for probability in [None, Some(0), Some(1), Some(3), Some(i32::MAX)] {
        let answer = bulk(&mut session, &asked, probability);
        assert_eq!(answer.len(), 310);
        for (number, (id, balance)) in (0..).zip(answer) {
            let expected = if number < 300 { Decimal::from(number + 1) } else { Decimal::ZERO };
            assert_eq!((id, balance), (user(number), expected));
        }
    }
    assert_eq!(bulk(&mut session, &[], None), []);
}

#[test]
fn missing_and_negative_arguments_are_named() {
    let db = Database::create();
    let mut session = db.connect();
    for (call, sqlstate, argument) in [
        ("get_user_balance(NULL)", "22004", "user_id"),
        ("calculate_balance_with_seq(NULL)", "22004", "user_id"),
        ("refresh_checkpoint(NULL)", "22004", "user_id"),
        ("aggregate_user_batches(NULL)", "22004", "user_id"),
        ("get_users_balances_bulk(NULL)", "22004", "user_ids"),
        ("get_users_balances_bulk(ARRAY[gen_random_uuid(), NULL])", "22004", "user_ids"),
        ("get_users_balances_bulk('{}', -1)", "22023", "checkpoint_refresh_probability"),
        ("refresh_checkpoints_bulk(NULL)", "22004", "user_ids"),
        ("refresh_checkpoints_bulk(ARRAY[NULL, gen_random_uuid()])", "22004", "user_ids"),
    ] {
        let error = session.try_run(&format!("SELECT credits.{call}")).refused(sqlstate);
        assert!(error.message().contains(&format!("argument {argument} ")), "{call}: {}", error.message());
    }
}

#[test]
fn a_sum_may_be_wider_than_an_amount() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         SELECT '{}', 'purchase', 9999999999999.999999999999999, n::text FROM generate_series(1, 10000) n",
        user(1)
    ));
    for _ in 0..2 {
        let balance: String = session.value("SELECT credits.get_user_balance($1)::text", &[&user(1)]);
        assert_eq!(balance.trim_end_matches('0'), "99999999999999999.99999999999");
        session.assert_sound();
        session.refresh(user(1));
    }
}

#[test]
fn views_show_every_user_and_batch() {
    let db = Database::create();
    let mut session = db.connect();
    let batches = [Uuid::from_u128(1), Uuid::from_u128(2)];
    session.grant(user(1), dec!(10));
    session.charge_batch(user(1), batches[0], dec!(1));
    session.charge_batch(user(1), batches[0], dec!(2));
    session.charge_batch(user(2), batches[0], dec!(4.00));
    session.charge_batch(user(2), batches[1], dec!(8));
    let show = |session: &mut Session| {
        let balances: Vec<String> = session.values(
            "SELECT concat_ws(' ', trim_scale(balance), is_positive, crossed_at IS NULL) FROM credits.balances ORDER BY user_id",
            &[],
        );
        let batches: Vec<String> = session.values(
            "SELECT concat_ws(' ', right(fusillade_batch_id::text, 1), right(user_id::text, 1), total_amount,
                              transaction_count, max_seq = (SELECT max(seq) FROM credits.credits_transactions t
                                  WHERE (t.user_id, t.fusillade_batch_id) = (b.user_id, b.fusillade_batch_id)))
             FROM credits.batches b ORDER BY user_id, fusillade_batch_id",
            &[],
        );
        (balances, batches)
    };
    // User 1 crossed once, user 2 was never above zero.
    let expected = (
        vec!["7 t f".to_owned(), "-12 f t".to_owned()],
        vec!["1 1 3 2 t".to_owned(), "1 2 4 1 t".to_owned(), "2 2 8 1 t".to_owned()],
    );
    assert_eq!(show(&mut session), expected);
    for number in [1, 2] {
        session.refresh(user(number));
        assert_eq!(show(&mut session), expected, "after a refresh of user {number}");
    }
}

#[test]
fn balances_read_well_in_plans_of_every_kind() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                 SELECT ('10000000-0000-4000-8000-' || lpad(to_hex(n % 10), 12, '0'))::uuid, 'purchase', n, n::text
                 FROM generate_series(1, 100) n");
    let statement = session.prepare("SELECT credits.get_user_balance($1)").unwrap();
    // More often than it takes to change to a generic plan.
    for round in 0..20 {
        let number = round % 10;
        let balance: Decimal = session.query_one(&statement, &[&user(number)]).unwrap().get(0);
        let first = if number == 0 { 10 } else { number };
        assert_eq!(balance, Decimal::from(10 * first + 450));
    }
    let lateral: bool = session.value(
        "SELECT bool_and(balance = credits.get_user_balance(user_id)) AND count(*) = 10
         FROM (SELECT user_id, sum(amount) AS balance FROM credits.credits_transactions GROUP BY 1) sums",
        &[],
    );
    assert!(lateral);
}

/// While the workers of a query run, its session can neither attach to shared memory nor find out what state the ledger is in.
#[test]
fn within_a_parallel_query() {
    let db = Database::create();
    let mut session = db.connect();
    session
        .run("CREATE TABLE public.users AS SELECT n FROM generate_series(1, 20000) n; ANALYZE public.users");
    session.grant(user(1), dec!(10));
    let parallel =
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
                    SET max_parallel_workers_per_gather = 2";
    let query = format!(
        "SELECT credits.get_user_balance('{}'::uuid) FROM (SELECT count(*) AS n FROM public.users OFFSET 0) u WHERE n > 0",
        user(1)
    );
    let [mut fresh, mut attached] = [db.connect(), db.connect()];
    assert_eq!(attached.balance(user(1)), dec!(10));
    // Another state of the ledger than the one that the session knows.
    session.run(&format!("ALTER DATABASE {} CONNECTION LIMIT 50", db.name()));
    for reader in [&mut fresh, &mut attached] {
        reader.run(parallel);
        let plan: Vec<String> = reader.values(&format!("EXPLAIN (COSTS OFF) {query}"), &[]);
        assert!(plan.iter().any(|line| line.contains("Gather")), "{plan:#?}");
        assert_eq!(reader.value::<Decimal>(&query, &[]), dec!(10));
    }
    session.assert_sound();
}
