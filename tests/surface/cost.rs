//! What may be read for an answer: rows and pages, counted by the server, on a long ledger of a few long histories among
//! many short ones. Nothing here measures time.

use std::fmt::Debug;

use credits_ledger_tests::{Database, Decimal, Session, Uuid, asked_for, dec, user};

/// Half of the rows are one user's, four in five of those in batches of 44.
const ROWS: u32 = 200_000;

/// `CREDITS_LEDGER_ROWS` asks for a longer one.
fn rows() -> u32 {
    asked_for("CREDITS_LEDGER_ROWS", ROWS)
}

const WHALE: &str = "md5('u0')::uuid";
const MINNOW: &str = "md5('u17')::uuid";

/// Rows of a year. The last 60 of the whale are not folded.
fn long_ledger(session: &mut Session, length: u32) {
    let statements = format!(
        "ALTER TABLE credits.credits_transactions DISABLE TRIGGER note_transaction;
         INSERT INTO credits.credits_transactions
             (user_id, transaction_type, amount, source_id, description, fusillade_batch_id, created_at)
         SELECT md5('u' || u)::uuid, CASE WHEN n % 100 = 0 THEN 'purchase' ELSE 'usage' END, 0.001 * (n % 1000 + 1),
                CASE WHEN n % 20000 = 0 THEN 'auto_topup_' ELSE 'request-' END || n, 'Request ' || n,
                CASE WHEN n % 10 <> 0 THEN md5(u || '-' || n / 110)::uuid END,
                date_trunc('month', now()) + interval '1 day' - ({length} - n) * interval '2 minutes'
         FROM (SELECT n, CASE WHEN n % 2 = 0 THEN 0 ELSE 1 + n % 997 END AS u FROM generate_series(1, {length}) n) rows;
         ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER note_transaction;
         CREATE TABLE http_analytics (id bigint PRIMARY KEY, fusillade_batch_id uuid, batch_request_source text);
         INSERT INTO http_analytics SELECT n, md5('0-' || n / 110)::uuid, 'api' FROM generate_series(1, {length}) n;
         CREATE INDEX ON http_analytics (fusillade_batch_id);
         VACUUM ANALYZE credits.credits_transactions;
         VACUUM ANALYZE http_analytics;
         SELECT credits.refresh_checkpoint({WHALE}), credits.refresh_checkpoint({MINNOW});
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
         SELECT {WHALE}, 'usage', 1, 'late-' || n, CASE WHEN n % 2 = 0 THEN md5('0-' || 10 * n)::uuid END
         FROM generate_series(1, 60) n;
         VACUUM ANALYZE credits.credits_transactions;
         VACUUM ANALYZE credits.batch_aggregates, credits.user_balance_checkpoints"
    );
    // One by one: VACUUM may not share a transaction.
    for statement in statements.split(';') {
        session.run(statement);
    }
}

/// What a statement has read of the ledger's tables and the analytics table, with their indexes.
#[derive(Debug)]
struct Work {
    /// Rows and index entries.
    rows: i64,
    /// Visits of pages.
    pages: i64,
}

/// Within a transaction, for the counters are handed over and start again at the end of one.
fn work(session: &mut Session, sql: &str) -> Work {
    session.run("BEGIN");
    let before = counters(session);
    session.run(sql);
    let after = counters(session);
    session.run("COMMIT");
    Work { rows: after.rows - before.rows, pages: after.pages - before.pages }
}

fn counters(session: &mut Session) -> Work {
    let counted = session
        .query_one(
            "SELECT sum(pg_stat_get_xact_tuples_returned(oid) + pg_stat_get_xact_tuples_fetched(oid))::bigint,
                    sum(pg_stat_get_xact_blocks_fetched(oid))::bigint
             FROM pg_class
             WHERE relnamespace IN ('credits'::regnamespace, 'public'::regnamespace) AND relkind IN ('r', 'i')",
            &[],
        )
        .expect("count");
    Work { rows: counted.get(0), pages: counted.get(1) }
}

#[test]
fn answers_cost_what_they_show() {
    let db = Database::create_alone();
    let mut session = db.connect();
    let length = i64::from(rows());
    long_ledger(&mut session, rows());
    let folded: i64 = session.value(
        &format!("SELECT transaction_count FROM credits.user_balance_checkpoints WHERE user_id = {WHALE}"),
        &[],
    );
    assert!(folded >= length / 2, "the long history is folded: {folded}");

    // A page of 50 takes 50 rows and their index entries. Rows of a period are collected in the worst case.
    let (day, page) = (720, 50);
    // Two totals a day, for two types. A sum is of the days before or after a moment, the part of its day with fewer of the account's 360
    // rows, and what is not folded yet.
    let (totals, rest) = (2 * length / 720, 180 + 2 * 60);
    let few: i64 = session
        .value(&format!("SELECT count(*) FROM credits.credits_transactions WHERE user_id = {MINNOW}"), &[]);
    for (call, rows) in [
        ("get_transaction_by_id(gen_random_uuid())", 4),
        ("transaction_exists_by_source_id('request-1001')", 4),
        ("list_user_transactions({whale})", 3 * page),
        ("list_user_transactions({whale}, 1000)", 3 * (page + 1000)),
        ("list_user_transactions({whale}, before_seq => {middle})", 3 * page),
        ("list_user_transactions({whale}, transaction_types => '{usage}')", 4 * page),
        // One row of no batch in ten is a purchase; rows of batches are passed over.
        ("list_user_transactions({whale}, transaction_types => '{purchase}')", 3 * 10 * page),
        ("list_user_transactions({whale}, start_date => now() - interval '90 days')", 3 * (page + 1000)),
        (
            "list_user_transactions({whale}, start_date => {past}, end_date => {past} + interval '1 day')",
            3 * (1000 + day),
        ),
        ("list_user_transactions({whale}, end_date => {past}, before_seq => {middle})", 3 * (page + 1000)),
        ("count_user_transactions({whale})", 3 * rest),
        ("count_user_transactions({whale}, transaction_types => '{purchase}')", totals + 3 * rest),
        ("count_user_transactions({whale}, start_date => {past})", totals + 3 * rest),
        (
            "count_user_transactions({whale}, start_date => {past}, end_date => {past} + interval '1 day')",
            3 * rest,
        ),
        (
            "count_user_transactions({whale}, 'no such request', null, {past}, {past} + interval '1 day')",
            3 * day,
        ),
        ("list_user_transactions_with_balance({whale})", 3 * page),
        ("list_user_transactions_with_balance({whale}, 1000)", 3 * (page + 1000)),
        // The way to the page is the shorter one, walked from both ends.
        (
            "list_user_transactions_with_balance({whale}, before_seq => {length} - 2000)",
            3 * (page + 2 * 1060),
        ),
        ("list_user_transactions_with_balance({whale}, before_seq => 2000)", 3 * (page + 2 * 1000)),
        // One row in fifty is a purchase, and those in between count.
        ("list_user_transactions_with_balance({whale}, transaction_types => '{purchase}')", 3 * 50 * page),
        ("list_user_transactions({minnow})", 3 * few),
        ("list_user_transactions({minnow}, end_date => {past})", 5 * few),
        ("list_all_transactions()", 3 * page),
        ("list_all_transactions(before_seq => {middle})", 3 * page),
        ("list_all_transactions(start_date => now() - interval '1 month')", 3 * (page + 1000)),
        ("list_transactions_with_batches({whale})", 20 * page),
        ("list_transactions_with_batches({whale}, before_seq => {middle})", 20 * page),
        (
            "list_transactions_with_batches({whale}, start_date => now() - interval '90 days')",
            20 * page + 3000,
        ),
        ("list_transactions_with_batches({whale}, transaction_types => '{usage}')", 20 * page + 1000),
        ("list_transactions_with_batches({minnow})", 5 * few),
        ("count_transactions_with_batches({minnow})", 5 * few),
        ("sum_recent_transactions({whale}, 50)", 3 * page),
        ("sum_recent_transactions_grouped({whale}, 50)", 20 * page),
        ("sum_transactions_after_date({whale}, {past})", totals + 3 * rest),
        ("sum_transactions_after_date({whale}, '-infinity')", 3 * rest),
        ("get_user_balance_at({whale}, {past})", totals + 3 * rest),
        ("get_user_balance_at({whale}, {past} - interval '150 days')", totals + 3 * rest),
        ("get_user_balance_at({whale}, now())", 3 * rest),
        ("get_user_balance_at({whale}, 'infinity')", 3 * rest),
        ("usage_by_day({whale}, current_date - 130, current_date - 100)", 3 * (62 + rest)),
        ("usage_by_day({whale})", 3 * (totals + rest)),
        ("account_statement({whale}, {past} - interval '30 days', {past})", totals + 3 * (62 + 2 * rest)),
        ("get_monthly_auto_topup_spend({whale})", 20),
        ("get_monthly_auto_topup_spend_bulk(ARRAY[{whale}, {minnow}])", 20),
    ] {
        let call = call
            .replace("{whale}", WHALE)
            .replace("{minnow}", MINNOW)
            .replace("{length}", &length.to_string())
            .replace("{middle}", &(length / 2).to_string())
            .replace("{past}", "(now() - interval '100 days')");
        let sql = format!("SELECT * FROM credits.{call}");
        // Twice: the second time with the plan that was kept, and the catalog in memory.
        let first = work(&mut session, &sql);
        let work = work(&mut session, &sql);
        println!("{call}: {work:?}");
        assert!(work.rows <= rows, "{call}: {work:?}, {rows} rows expected at most; at first {first:?}");
        assert!(work.pages <= 2 * rows + 40, "{call}: {work:?}");
    }

    // Counts and sums of the grouped history read folded batches instead of their rows.
    let batches: i64 = session.value("SELECT count(*) FROM credits.batch_aggregates", &[]);
    for call in [
        "count_transactions_with_batches({whale})",
        "sum_transactions_after_date_grouped({whale}, '-infinity')",
    ] {
        let call = call.replace("{whale}", WHALE);
        let work = work(&mut session, &format!("SELECT credits.{call}"));
        println!("{call}: {work:?}");
        let most = 3 * (batches + length / 10 + 60);
        assert!(work.rows <= most, "{call}: {work:?}, {most} rows expected at most");
    }
}

/// A pool left in a transaction costs readers nothing while it is open, and one reader a lookup each when it has ended.
#[test]
fn stragglers_are_looked_for_when_they_have_ended() {
    const POOL: i64 = 100;
    let db = Database::create_alone();
    let mut session = db.connect();
    session.grant(user(1), dec!(1000));
    session.grant(user(2), dec!(5));
    let pool: Vec<Session> = (0..POOL)
        .map(|_| {
            let mut idle = db.connect();
            idle.run("BEGIN; SELECT pg_current_xact_id()");
            idle
        })
        .collect();
    for _ in 0..8 * POOL {
        session.charge(user(1), dec!(0.001));
    }
    // One that wrote before they began lists them, too.
    session.run("SELECT credits.refresh_checkpoint(user_id) FROM credits.balances");
    let listed: Vec<i32> =
        session.values("SELECT cardinality(stragglers) FROM credits.user_balance_checkpoints", &[]);
    assert_eq!(listed, [100, 100]);
    session.run("VACUUM credits.credits_transactions, credits.user_balance_checkpoints");

    // Whoever has an id of its own reads the delta each time.
    let mut reader = db.connect();
    let mut pages = |isolation: &str, account: Uuid, expected: Decimal| {
        reader.run(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT pg_current_xact_id()"));
        let before = counters(&mut reader).pages;
        assert_eq!(reader.balance(account), expected);
        let pages = counters(&mut reader).pages - before;
        reader.run("ROLLBACK");
        pages
    };
    let expected = dec!(1000) - Decimal::new(8 * POOL, 3);
    // The first read looks relations up.
    let committed = "READ COMMITTED";
    let while_open: Vec<i64> = (0..4).map(|_| pages(committed, user(1), expected)).collect();
    assert!(while_open[1..].iter().all(|&pages| pages <= 10), "{while_open:?}");
    // A serializable one looks for all of them, one by one where there are rows in between.
    let serializable: Vec<i64> = (1..=2)
        .map(|number| {
            let expected = if number == 1 { expected } else { dec!(5) };
            pages("SERIALIZABLE", user(number), expected)
        })
        .collect();
    assert!(serializable[0] >= POOL && serializable[1] <= 20, "{serializable:?}");
    for mut idle in pool {
        idle.run("ROLLBACK");
    }
    let ended: Vec<i64> = (0..4).map(|_| pages(committed, user(1), expected)).collect();
    assert!((POOL..=4 * POOL + 10).contains(&ended[0]), "{ended:?}");
    assert!(ended[1..].iter().all(|&pages| pages <= 10), "what one has found the others know: {ended:?}");
}
