//! An application that moves its ledger into the database: what it expected of its own code, and the statements that
//! it goes on sending.

use std::thread;
use std::time::{Duration, SystemTime};

use credits_ledger_tests::{Database, Decimal, Refused, Session, Uuid, dec, user};
use postgres::Error;

use crate::calls::{Calls, Filters, Page, Transaction};

/// `create_transaction` with what an application fills in most often.
fn try_create(
    session: &mut Session,
    user: Uuid,
    kind: &str,
    amount: Decimal,
    description: Option<&str>,
) -> Result<Transaction, Error> {
    let sql = "SELECT (created).* FROM credits.create_transaction(
                   user_id => $1, transaction_type => $2, amount => $3, source_id => $4, description => $5) created";
    let source_id = session.value::<String>("SELECT gen_random_uuid()::text", &[]);
    session
        .query_one(sql, &[&user, &kind, &amount, &source_id, &description])
        .map(|row| Transaction::from(&row))
}

#[track_caller]
fn create(
    session: &mut Session,
    user: Uuid,
    kind: &str,
    amount: Decimal,
    description: Option<&str>,
) -> Transaction {
    try_create(session, user, kind, amount, description).unwrap_or_else(|e| panic!("{kind} {amount}: {e:?}"))
}

fn first(limit: i64) -> Page {
    Page { limit: Some(limit), ..Page::default() }
}

#[test]
fn a_new_user_has_nothing() {
    let db = Database::create();
    let mut session = db.connect();
    assert_eq!(session.balance(user(1)), dec!(0));
    assert_eq!(session.topups(user(1)), dec!(0));
    assert_eq!(session.list_user(user(1), &Filters::default(), &Page::ALL), []);
}

#[test]
fn what_is_created_is_returned_and_counts() {
    let db = Database::create();
    let mut session = db.connect();
    let mut expected = dec!(0);
    for (kind, amount, description, effect) in [
        ("admin_grant", dec!(100.50), None, dec!(100.50)),
        ("admin_grant", dec!(50.0), Some("More"), dec!(50)),
        ("admin_removal", dec!(30.0), Some("Correction"), dec!(-30)),
        ("purchase", dec!(50.0), Some("Card"), dec!(50)),
        ("usage", dec!(25.0), Some("Request"), dec!(-25)),
        ("admin_removal", dec!(500.0), None, dec!(-500)),
    ] {
        let created = create(&mut session, user(1), kind, amount, description);
        assert_eq!(created.user_id, user(1));
        assert_eq!(created.transaction_type, kind);
        assert_eq!(created.amount, amount);
        assert_eq!(created.description.as_deref(), description);
        expected += effect;
        assert_eq!(session.balance(user(1)), expected, "after {kind} of {amount}");
    }
    assert_eq!(expected, dec!(-354.50), "a balance may be negative");
}

#[test]
fn large_and_tiny_amounts_are_kept_exactly() {
    let db = Database::create();
    let mut session = db.connect();
    for balance in [dec!(100000000), dec!(200000000)] {
        assert_eq!(
            create(&mut session, user(1), "admin_grant", dec!(100000000.00), None).amount,
            dec!(100000000)
        );
        assert_eq!(session.balance(user(1)), balance);
    }
    assert_eq!(
        create(&mut session, user(2), "admin_grant", dec!(100.12345678), None).amount,
        dec!(100.12345678)
    );
    assert_eq!(session.balance(user(2)), dec!(100.12345678));
    assert_eq!(create(&mut session, user(2), "usage", dec!(0.000000405), None).amount, dec!(0.000000405));
    assert_eq!(session.balance(user(2)), dec!(100.123456375));
}

#[test]
fn a_refused_transaction_leaves_nothing_behind() {
    let db = Database::create();
    let mut session = db.connect();
    create(&mut session, user(1), "admin_grant", dec!(100), None);
    try_create(&mut session, user(1), "admin_grant", dec!(-200), None).refused("23514");
    assert_eq!(session.balance(user(1)), dec!(100));
    assert_eq!(session.list_user(user(1), &Filters::default(), &first(10)).len(), 1);
}

#[test]
fn sessions_at_once_add_up() {
    let db = Database::create();
    let mut session = db.connect();
    create(&mut session, user(1), "admin_grant", dec!(1000), Some("Start"));
    thread::scope(|scope| {
        for worker in 0..10 {
            let mut session = db.connect();
            scope.spawn(move || {
                for number in 0..10 {
                    let (kind, amount) =
                        if number % 2 == 0 { ("admin_grant", dec!(10)) } else { ("admin_removal", dec!(5)) };
                    create(&mut session, user(1), kind, amount, Some(&format!("{worker}.{number}")));
                }
            });
        }
    });
    assert_eq!(session.list_user(user(1), &Filters::default(), &first(1000)).len(), 101);
    assert_eq!(session.balance(user(1)), dec!(1250));
}

#[test]
fn a_grant_that_lifts_a_balance_above_zero_is_announced() {
    let db = Database::create();
    let mut session = db.connect();
    create(&mut session, user(1), "admin_grant", dec!(10), None);
    create(&mut session, user(1), "usage", dec!(15), None);
    assert_eq!(session.balance(user(1)), dec!(-5));
    let mut listener = db.listen();
    create(&mut session, user(1), "admin_grant", dec!(20), None);
    let announced =
        listener.drain().into_iter().find(|n| n.channel == "auth_config_changed").expect("announced");
    let micros = announced.payload.strip_prefix("credits_transactions:").expect("the payload's form");
    assert!(micros.parse::<u64>().is_ok(), "{micros}");
    assert_eq!(session.balance(user(1)), dec!(15));
}

#[test]
fn a_list_is_the_newest_first() {
    let db = Database::create();
    let mut session = db.connect();
    let created: Vec<Transaction> = (1..=10)
        .map(|n| {
            create(&mut session, user(1), "admin_grant", Decimal::from(10 * n), Some(&format!("Grant {n}")))
        })
        .collect();
    let mut listed = session.list_user(user(1), &Filters::default(), &first(10));
    assert!(listed.iter().map(|row| row.created_at).is_sorted_by(|newer, older| newer >= older));
    listed.reverse();
    assert_eq!(listed, created);
    for transaction in &created {
        let sql = "SELECT * FROM credits.get_transaction_by_id($1)";
        let found = session.query(sql, &[&transaction.id]).expect("by id");
        assert_eq!(
            found.iter().map(Transaction::from).collect::<Vec<_>>(),
            std::slice::from_ref(transaction)
        );
    }
    assert_eq!(session.balance(user(1)), dec!(550));
}

#[test]
fn lists_are_paged() {
    let db = Database::create();
    let mut session = db.connect();
    for n in 1..=5 {
        create(&mut session, user(1), "admin_grant", Decimal::from(n), None);
        create(&mut session, user(10 + n), "admin_grant", Decimal::from(n), None);
    }
    let none = Filters::default();
    for (skip, length) in [(0, 2), (2, 2), (4, 1), (10, 0)] {
        assert_eq!(
            session.list_user(user(1), &none, &Page { skip, ..first(2) }).len(),
            length,
            "after {skip}"
        );
    }
    for (skip, length) in [(0, 2), (2, 2), (9, 1)] {
        assert_eq!(session.list_all(&none, &Page { skip, ..first(2) }).len(), length, "after {skip}");
    }
}

#[test]
fn a_user_sees_its_own_and_an_administrator_all() {
    let db = Database::create();
    let mut session = db.connect();
    create(&mut session, user(1), "admin_grant", dec!(100), Some("First"));
    create(&mut session, user(2), "admin_grant", dec!(200), Some("Second"));
    let none = Filters::default();
    for (number, balance) in [(1, dec!(100)), (2, dec!(200))] {
        let listed = session.list_user(user(number), &none, &first(10));
        assert_eq!(listed.iter().map(|row| row.user_id).collect::<Vec<_>>(), [user(number)]);
        assert_eq!(session.balance(user(number)), balance);
    }
    assert_eq!(session.list_user(user(3), &none, &first(10)), []);
    let users: Vec<Uuid> = session.list_all(&none, &first(10)).iter().map(|row| row.user_id).collect();
    assert_eq!(users, [user(2), user(1)]);
}

/// Counted, and as many as are listed.
#[track_caller]
fn count_in_period(session: &mut Session, start: Option<SystemTime>, end: Option<SystemTime>) -> i64 {
    let period = Filters { start, end, ..Filters::default() };
    let counts = [
        (session.count_user(user(1), &period), session.list_user(user(1), &period, &first(10)).len()),
        (session.count_all(&period), session.list_all(&period, &first(10)).len()),
        (session.count_grouped(user(1), &period), session.list_grouped(user(1), &period, &first(10)).len()),
    ];
    for (count, listed) in counts {
        assert_eq!(count, i64::try_from(listed).expect("few"));
    }
    assert_eq!(counts[0], counts[1], "there is one user only");
    assert_eq!(counts[0], counts[2], "there is no batch");
    counts[0].0
}

#[test]
fn dates_narrow_lists_and_counts_alike() {
    let db = Database::create();
    let mut session = db.connect();
    let dates: Vec<SystemTime> = (1..=3)
        .map(|n| create(&mut session, user(1), "admin_grant", Decimal::from(100 * n), None).created_at)
        .collect();
    assert_eq!(count_in_period(&mut session, None, None), 3);
    assert_eq!(count_in_period(&mut session, Some(dates[0]), Some(dates[1])), 2);
    assert_eq!(count_in_period(&mut session, Some(dates[1]), None), 2);
    assert_eq!(count_in_period(&mut session, None, Some(dates[1])), 2);
    let days = |n: u64| Duration::from_secs(n * 86_400);
    assert_eq!(count_in_period(&mut session, Some(dates[0] - days(7)), Some(dates[0] - days(2))), 0);
}

#[test]
fn a_batch_is_one_item_of_a_period() {
    let db = Database::create();
    let mut session = db.connect();
    let batch = Uuid::from_u128(0xb);
    for amount in 1..=3 {
        session.charge_batch(user(1), batch, Decimal::from(amount));
    }
    let single = create(&mut session, user(1), "admin_grant", dec!(100), Some("Alone"));
    assert_eq!(session.list_grouped(user(1), &Filters::default(), &first(10)).len(), 2);
    let since = Filters { start: Some(single.created_at), ..Filters::default() };
    let listed = session.list_grouped(user(1), &since, &first(10));
    assert_eq!(listed.iter().map(|item| item.id).collect::<Vec<_>>(), [single.id]);
    assert_eq!(session.count_grouped(user(1), &since), 1);
}

/// The application's own statements, prepared by its driver, against the tables and with the types it has always bound.
#[test]
fn statements_on_the_tables_still_work() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("SET search_path = credits");
    let insert = session
        .prepare(
            "INSERT INTO credits_transactions
                 (user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             RETURNING id, user_id, transaction_type, amount, source_id, description, created_at, seq,
                       fusillade_batch_id, api_key_id",
        )
        .expect("prepare");
    let rows: Vec<Transaction> = (0..8)
        .map(|n: u32| {
            let kind =
                ["purchase", "usage", "admin_removal", "admin_grant"][usize::try_from(n % 4).expect("small")];
            let source_id = format!("{}{n}", if n.is_multiple_of(4) { "auto_topup_" } else { "request-" });
            let batch = (kind == "usage").then(|| Uuid::from_u128(0xb));
            let (description, key) = (format!("Number {n}"), Some(Uuid::from_u128(0xa)));
            let amount = Decimal::new(i64::from(n) * 5 + 1, 1);
            let row = session
                .query_one(&insert, &[&user(1), &kind, &amount, &source_id, &description, &batch, &key])
                .expect("insert");
            let row = Transaction::from(&row);
            assert_eq!((row.amount, &row.source_id, row.fusillade_batch_id), (amount, &source_id, batch));
            row
        })
        .collect();

    let filtered = "FROM credits_transactions WHERE user_id = $1 AND ($2::text IS NULL OR description ILIKE '%' || $2 || '%')
                    AND ($3::text[] IS NULL OR transaction_type = ANY ($3)) AND ($4::timestamptz IS NULL OR created_at >= $4)";
    let list = session
        .prepare(&format!("SELECT * {filtered} ORDER BY seq DESC OFFSET $5 LIMIT $6"))
        .expect("prepare");
    let count = session.prepare(&format!("SELECT count(*) {filtered}")).expect("prepare");
    let types = vec!["purchase", "admin_grant"];
    let (search, since) = (Some("number"), Some(rows[1].created_at));
    // More often than the server takes to choose a plan for good.
    for _ in 0..8 {
        let listed =
            session.query(&list, &[&user(1), &search, &types, &since, &1_i64, &2_i64]).expect("list");
        let listed: Vec<i64> = listed.iter().map(|row| row.get("seq")).collect();
        assert_eq!(listed, [rows[4].seq, rows[3].seq]);
        let none: (Option<&str>, Option<&[&str]>, Option<SystemTime>) = (None, None, None);
        let counted = session.query_one(&count, &[&user(1), &none.0, &none.1, &none.2]).expect("count");
        assert_eq!(counted.get::<_, i64>(0), 8);
    }

    let by_id = "SELECT source_id FROM credits_transactions WHERE id = $1";
    assert_eq!(session.value::<String>(by_id, &[&rows[2].id]), rows[2].source_id);
    let exists = "SELECT EXISTS (SELECT 1 FROM credits_transactions WHERE source_id = $1)";
    assert!(session.value::<bool>(exists, &[&rows[2].source_id]));
    let spend = "SELECT coalesce(sum(amount), 0)::decimal(20, 9) FROM credits_transactions
                 WHERE user_id = $1 AND source_id LIKE 'auto\\_topup\\_%'
                   AND created_at >= date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'";
    assert_eq!(session.value::<Decimal>(spend, &[&user(1)]), session.topups(user(1)));
    let balance =
        "SELECT sum(CASE WHEN transaction_type IN ('purchase', 'admin_grant') THEN amount ELSE -amount END)
                   FROM credits_transactions WHERE user_id = $1";
    assert_eq!(
        session.value::<Decimal>(balance, &[&user(1)]),
        session.value::<Decimal>("SELECT get_user_balance($1)", &[&user(1)])
    );
    let batches = "SELECT total_amount FROM batches WHERE user_id = $1 ORDER BY max_seq DESC";
    assert_eq!(session.values::<Decimal>(batches, &[&user(1)]), [rows[1].amount + rows[5].amount]);
}
