//! Single rows, lists, counts and sums of ledger rows, by example.

use std::time::{Duration, SystemTime};

use credits_ledger_tests::{Database, Decimal, Session, Uuid, dec, user};

use crate::calls::{Calls, Filters, Page};

fn day(number: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * 86_400 + number * 86_400)
}

/// Ten rows a day apart, described as given, of alternating types.
fn described(session: &mut Session, user: Uuid, descriptions: &[Option<&str>]) {
    for (number, description) in (0..).zip(descriptions) {
        let kind = ["purchase", "usage", "admin_removal", "admin_grant"]
            [usize::try_from(number % 4).expect("small")];
        session
            .execute(
                "INSERT INTO credits.credits_transactions
                     (user_id, transaction_type, amount, source_id, description, created_at)
                 VALUES ($1, $2, 1.5, gen_random_uuid()::text, $3, $4)",
                &[&user, &kind, description, &day(number)],
            )
            .expect("insert");
    }
}

fn searched(search: &str) -> Filters {
    Filters { search: Some(search.into()), ..Filters::default() }
}

/// Counted and listed, which must be the same.
#[track_caller]
fn found(session: &mut Session, filters: &Filters) -> Vec<String> {
    let listed = session.list_user(user(1), filters, &Page::ALL);
    let all = session.list_all(filters, &Page::ALL);
    assert_eq!(listed, all, "there is one user only");
    assert_eq!(session.count_user(user(1), filters), i64::try_from(listed.len()).expect("few"));
    assert_eq!(session.count_all(filters), i64::try_from(all.len()).expect("few"));
    listed.into_iter().map(|row| row.description.unwrap_or_else(|| "NULL".into())).collect()
}

#[test]
fn search_text_is_literal_and_its_case_does_not_matter() {
    let db = Database::create();
    let mut session = db.connect();
    let descriptions =
        [Some("50% off"), Some("a_b"), Some(r"C:\dir"), Some("Größe"), Some(""), None, Some("axb")];
    described(&mut session, user(1), &descriptions);
    for (search, expected) in [
        ("%", &["50% off"][..]),
        ("0% O", &["50% off"]),
        ("_", &["a_b"]),
        ("A_B", &["a_b"]),
        (r"\", &[r"C:\dir"]),
        (r":\D", &[r"C:\dir"]),
        (r"\d", &[r"C:\dir"]),
        (r"\%", &[]),
        ("'; DROP TABLE credits.credits_transactions; --", &[]),
        ("größe", &["Größe"]),
        // Every description but NULL.
        ("", &["axb", "", "Größe", r"C:\dir", "a_b", "50% off"]),
    ] {
        assert_eq!(found(&mut session, &searched(search)), expected, "{search}");
    }
}

/// Whatever the session makes of backslashes in its own statements.
#[test]
fn search_does_not_depend_on_the_sessions_string_syntax() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("SET standard_conforming_strings = off");
    described(&mut session, user(1), &[Some(r"C:\dir"), Some("50% off")]);
    assert_eq!(found(&mut session, &searched(r"\")), [r"C:\dir"]);
    assert_eq!(found(&mut session, &searched("%")), ["50% off"]);
}

#[test]
fn types_and_dates_narrow_a_list() {
    let db = Database::create();
    let mut session = db.connect();
    described(&mut session, user(1), &[Some("0"), Some("1"), Some("2"), Some("3"), Some("4"), Some("5")]);
    let of_types = |types: &[&str]| Filters {
        types: Some(types.iter().map(|&name| name.to_owned()).collect()),
        ..Filters::default()
    };
    assert_eq!(found(&mut session, &of_types(&["usage"])), ["5", "1"]);
    assert_eq!(found(&mut session, &of_types(&["admin_grant", "purchase"])), ["4", "3", "0"]);
    assert_eq!(found(&mut session, &of_types(&[])), [""; 0]);
    let between = |start: Option<u64>, end: Option<u64>| Filters {
        start: start.map(day),
        end: end.map(day),
        ..Filters::default()
    };
    assert_eq!(found(&mut session, &between(Some(4), None)), ["5", "4"], "a start is included");
    assert_eq!(found(&mut session, &between(None, Some(1))), ["1", "0"], "an end is included");
    assert_eq!(found(&mut session, &between(Some(2), Some(3))), ["3", "2"]);
    assert_eq!(found(&mut session, &between(Some(3), Some(2))), [""; 0]);
    assert_eq!(
        found(&mut session, &Filters { search: Some("5".into()), ..between(Some(4), Some(5)) }),
        ["5"],
        "filters are all to be met"
    );
}

#[test]
fn pages_are_cut_after_the_cursor() {
    let db = Database::create();
    let mut session = db.connect();
    described(&mut session, user(1), &[None; 8]);
    let all: Vec<i64> = session.list_all(&Filters::default(), &Page::ALL).iter().map(|row| row.seq).collect();
    assert!(all.is_sorted_by(|newer, older| newer > older));
    let mut page = |skip, limit, before_seq| -> Vec<i64> {
        let page = Page { skip, limit, before_seq };
        let listed = session.list_user(user(1), &Filters::default(), &page);
        listed.iter().map(|row| row.seq).collect()
    };
    assert_eq!(page(0, Some(3), None), all[..3]);
    assert_eq!(page(2, Some(3), None), all[2..5]);
    assert_eq!(page(6, Some(i64::MAX), None), all[6..]);
    assert_eq!(page(i64::MAX, Some(i64::MAX), None), []);
    assert_eq!(page(0, Some(0), None), []);
    assert_eq!(page(5, None, None), all[5..]);
    assert_eq!(page(0, Some(2), Some(all[3])), all[4..6]);
    assert_eq!(page(1, Some(2), Some(all[3])), all[5..7]);
    assert_eq!(page(0, None, Some(0)), []);
    assert_eq!(page(0, None, Some(-1)), []);
}

#[test]
fn a_list_has_fifty_rows_unless_told_otherwise() {
    let db = Database::create();
    let mut session = db.connect();
    described(&mut session, user(1), &[None; 60]);
    for list in ["list_user_transactions($1)", "list_transactions_with_batches($1)"] {
        let length: i64 = session.value(&format!("SELECT count(*) FROM credits.{list}"), &[&user(1)]);
        assert_eq!(length, 50, "{list}");
    }
    let length: i64 = session.value("SELECT count(*) FROM credits.list_all_transactions()", &[]);
    assert_eq!(length, 50);
}

#[test]
fn a_row_is_found_by_id_and_by_source_id() {
    let db = Database::create();
    let mut session = db.connect();
    described(&mut session, user(1), &[Some("one")]);
    let [row] = session.list_all(&Filters::default(), &Page::ALL).try_into().expect("one row");
    let by_id = "SELECT description FROM credits.get_transaction_by_id($1)";
    assert_eq!(session.values::<String>(by_id, &[&row.id]), ["one"]);
    assert_eq!(session.values::<String>(by_id, &[&row.user_id]), [""; 0]);
    let exists = "SELECT credits.transaction_exists_by_source_id($1)";
    assert!(session.value::<bool>(exists, &[&row.source_id]));
    assert!(!session.value::<bool>(exists, &[&row.source_id.to_uppercase()]));
    assert!(!session.value::<bool>(exists, &[&""]));
}

#[test]
fn sums_are_signed_and_exact() {
    let db = Database::create();
    let mut session = db.connect();
    for (kind, amount) in [
        ("purchase", dec!(9999999999999.999999999999999)),
        ("usage", dec!(0.000000000000001)),
        ("admin_grant", dec!(0.5)),
        ("admin_removal", dec!(0.25)),
    ] {
        session.insert(user(1), kind, amount).expect("insert");
    }
    let none = Filters::default();
    assert_eq!(session.sum_recent(user(1), 1, &none), dec!(-0.25));
    assert_eq!(session.sum_recent(user(1), 2, &none), dec!(0.25));
    assert_eq!(session.sum_recent(user(1), 3, &none), dec!(0.249999999999999));
    assert_eq!(session.sum_recent(user(1), i64::MAX, &none), dec!(10000000000000.249999999999998));
    assert_eq!(session.sum_recent_grouped(user(1), i64::MAX, &none), dec!(10000000000000.249999999999998));
    assert_eq!(session.sum_recent(user(1), 0, &none), dec!(0));
    assert_eq!(session.sum_recent(user(2), 10, &none), dec!(0));
    let began = SystemTime::UNIX_EPOCH;
    assert_eq!(session.sum_after(user(1), began), dec!(10000000000000.249999999999998));
    assert_eq!(session.sum_after_grouped(user(1), began), dec!(10000000000000.249999999999998));
}

#[test]
fn a_sum_counts_within_its_period_and_after_its_date() {
    let db = Database::create();
    let mut session = db.connect();
    // +1.5 on day 0, -1.5 on day 1, -1.5 on day 2, +1.5 on day 3, +1.5 on day 4
    described(&mut session, user(1), &[None; 5]);
    let period =
        |start: u64, end: u64| Filters { start: Some(day(start)), end: Some(day(end)), ..Filters::default() };
    for sum in [Session::sum_recent, Session::sum_recent_grouped] {
        assert_eq!(sum(&mut session, user(1), 2, &period(0, 2)), dec!(-3.0));
        assert_eq!(sum(&mut session, user(1), 99, &period(3, 4)), dec!(3.0));
    }
    for sum in [Session::sum_after, Session::sum_after_grouped] {
        assert_eq!(sum(&mut session, user(1), day(2)), dec!(3.0), "the date itself is not after it");
        assert_eq!(sum(&mut session, user(1), day(4)), dec!(0));
    }
}

/// The index has the dates of a user rounded to the second; what is asked for is exact.
#[test]
fn dates_are_told_apart_by_the_microsecond() {
    let db = Database::create();
    let mut session = db.connect();
    let dates = [
        "-infinity",
        "4714-11-24 00:00:00+00 BC",
        "1969-12-31 23:59:58.5+00",
        "1999-12-31 23:59:58.499999+00",
        "1999-12-31 23:59:58.5+00",
        "1999-12-31 23:59:58.500001+00",
        "1999-12-31 23:59:59+00",
        "2000-01-01 00:00:00.499999+00",
        "2000-01-01 00:00:00.5+00",
        "2000-01-01 00:00:00.500001+00",
        "294276-12-31 23:59:59.999999+00",
        "infinity",
    ];
    session.run(&format!(
        "SET check_function_bodies = off; -- Infinite dates are in ledgers of before.
         CREATE TABLE dates AS SELECT unnest('{{{}}}'::timestamptz[]) AS date;
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at)
         SELECT '{one}', 'purchase', 1, 'edge ' || date, date FROM dates;
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, created_at)
         SELECT '{one}', 'purchase', 1, 'other ' || n, timestamptz '2026-01-01' + n * interval '1 hour'
         FROM generate_series(1, 5000) n",
        dates.join(","),
        one = user(1)
    ));
    session.run("VACUUM ANALYZE credits.credits_transactions");
    session.run("BEGIN");
    let wrong: Vec<String> = session.values(
        "WITH answers AS (
             SELECT a.date AS from_date, b.date AS to_date, counted, listed, summed_after, count, after
             FROM dates a CROSS JOIN dates b
             CROSS JOIN LATERAL credits.count_user_transactions($1, start_date => a.date, end_date => b.date) counted
             CROSS JOIN LATERAL (SELECT count(*) AS listed FROM
                 credits.list_user_transactions($1, 0, 10000, start_date => a.date, end_date => b.date)) l
             CROSS JOIN LATERAL credits.sum_transactions_after_date($1, a.date) summed_after
             CROSS JOIN LATERAL (SELECT count(*) FROM credits.credits_transactions
                 WHERE created_at BETWEEN a.date AND b.date) plain
             CROSS JOIN LATERAL (SELECT count(*) AS after FROM credits.credits_transactions
                 WHERE created_at > a.date) later)
         SELECT answers::text FROM answers WHERE (counted, listed, summed_after) IS DISTINCT FROM (count, count, after)",
        &[&user(1)],
    );
    assert_eq!(wrong, [""; 0]);
    let scans: i64 = session.value(
        "SELECT pg_stat_get_xact_numscans('credits.credits_transactions_user_created_idx'::regclass)",
        &[],
    );
    assert!(scans > 0, "the index is not used");
    session.run("COMMIT");
}

/// Where the function stands in the statement does not matter.
#[test]
fn a_list_may_stand_among_the_columns() {
    let db = Database::create();
    let mut session = db.connect();
    described(&mut session, user(1), &[Some("a"), Some("b")]);
    let sql = "SELECT (credits.list_user_transactions($1)).description";
    assert_eq!(session.values::<String>(sql, &[&user(1)]), ["b", "a"]);
    session.run(&format!("SELECT credits.create_transaction('{}', 'purchase', 7, 'auto_topup_1')", user(1)));
    let sql = "SELECT (credits.get_monthly_auto_topup_spend_bulk(ARRAY[$1::uuid])).total";
    assert_eq!(session.values::<Decimal>(sql, &[&user(1)]), [dec!(7)]);
}

#[test]
fn a_long_list_fits_a_small_memory() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "SET work_mem = '64kB';
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         SELECT md5('u')::uuid, 'usage', 1, 'row ' || n FROM generate_series(1, 20000) n",
    );
    let (rows, sum): (i64, String) = {
        let sql = r#"SELECT count(*), sum(amount)::text FROM credits.list_user_transactions(md5('u')::uuid, "limit" => NULL)"#;
        let row = session.query_one(sql, &[]).expect("list");
        (row.get(0), row.get(1))
    };
    assert_eq!((rows, sum.as_str()), (20000, "20000"));
}

/// Every reading function works where nothing may be written.
#[test]
fn reads_work_in_a_read_only_transaction() {
    let db = Database::create();
    let mut session = db.connect();
    described(&mut session, user(1), &[Some("a"), Some("b")]);
    session.charge_batch(user(1), Uuid::from_u128(1), dec!(1));
    session.run("BEGIN READ ONLY");
    let (none, all) = (Filters::default(), Page::ALL);
    assert_eq!(session.list_user(user(1), &none, &all).len(), 3);
    assert_eq!(session.list_all(&none, &all).len(), 3);
    assert_eq!(session.list_grouped(user(1), &none, &all).len(), 3);
    assert_eq!(session.count_user(user(1), &none), 3);
    assert_eq!(session.count_all(&none), 3);
    assert_eq!(session.count_grouped(user(1), &none), 3);
    assert_eq!(session.sum_recent(user(1), 9, &none), dec!(-1));
    assert_eq!(session.sum_recent_grouped(user(1), 9, &none), dec!(-1));
    assert_eq!(session.sum_after(user(1), day(0)), dec!(-2.5));
    assert_eq!(session.sum_after_grouped(user(1), day(0)), dec!(-2.5));
    assert_eq!(session.topups(user(1)), dec!(0));
    assert_eq!(session.topups_bulk(&[user(1)]), []);
    session.run("COMMIT");
}

/// A kept plan outlives what it was made for: the objects may be made anew behind it.
#[test]
fn a_session_survives_the_extension_being_made_anew() {
    let db = Database::create();
    let mut session = db.connect();
    described(&mut session, user(1), &[Some("before")]);
    assert_eq!(found(&mut session, &Filters::default()), ["before"]);
    db.connect().run(
        "SET client_min_messages = warning; SET credits_ledger.allow_drop = on;
         DROP EXTENSION credits_ledger CASCADE; CREATE EXTENSION credits_ledger",
    );
    let sql = r#"SELECT count(*) FROM credits.list_user_transactions($1, "limit" => NULL)"#;
    assert_eq!(session.value::<i64>(sql, &[&user(1)]), 0);
    described(&mut session, user(1), &[Some("after"), Some("it")]);
    assert_eq!(session.value::<i64>(sql, &[&user(1)]), 2);
    assert_eq!(session.value::<i64>("SELECT credits.count_transactions_with_batches($1)", &[&user(1)]), 2);
}
