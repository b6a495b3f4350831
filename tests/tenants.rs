//! Under row-level security a tenant sees its own part of the ledger, whatever it asks and whatever it was granted.

use std::fmt::Write;

use credits_ledger_tests::functions::OF_A_MOVE;
use credits_ledger_tests::{Database, Refused, Session, Uuid, dec, user};

/// What to ask about: the other tenant, or one that does not exist.
struct Subject {
    user: Uuid,
    transaction: Uuid,
    source_id: &'static str,
}

impl Subject {
    const NOBODY: Self = Self {
        user: Uuid::from_u128(0xdead_0001),
        transaction: Uuid::from_u128(0xdead_0002),
        source_id: "no secret",
    };

    fn fill(&self, text: &str) -> String {
        text.replace("{user}", &self.user.to_string())
            .replace("{transaction}", &self.transaction.to_string())
            .replace("{source_id}", self.source_id)
    }

    /// The same question's echo of the question is no answer.
    fn unfill(&self, text: &str) -> String {
        text.replace(&self.user.to_string(), "{user}")
            .replace(&self.transaction.to_string(), "{transaction}")
            .replace(self.source_id, "{source_id}")
    }
}

/// How every function is asked about a subject. What depends on one has an answer for the superuser that differs from
/// that about nobody.
const QUESTIONS: [(&str, &str); 39] = [
    ("get_user_balance", "'{user}'"),
    ("calculate_balance_with_seq", "'{user}'"),
    ("get_users_balances_bulk", "ARRAY['{user}'::uuid], 1"),
    ("get_available_balance", "'{user}'"),
    ("get_available_balances_bulk", "ARRAY['{user}'::uuid]"),
    ("visible_held", "'{user}'"),
    ("list_holds", "'{user}'"),
    ("release_expired_holds", "\"limit\" => 0"),
    ("refresh_checkpoints_bulk", "ARRAY['{user}'::uuid]"),
    ("get_transaction_by_id", "'{transaction}'"),
    ("transaction_exists_by_source_id", "'{source_id}'"),
    ("list_user_transactions", "'{user}'"),
    ("list_user_transactions_with_balance", "'{user}'"),
    ("usage_by_day", "'{user}'"),
    ("get_user_balance_at", "'{user}', now()"),
    ("account_statement", "'{user}', '2000-01-01', 'infinity'"),
    ("list_transactions_with_batches", "'{user}'"),
    ("count_user_transactions", "'{user}'"),
    ("count_transactions_with_batches", "'{user}'"),
    ("sum_recent_transactions", "'{user}', 1"),
    ("sum_recent_transactions_grouped", "'{user}', 1"),
    ("sum_transactions_after_date", "'{user}', '2000-01-01'"),
    ("sum_transactions_after_date_grouped", "'{user}', '2000-01-01'"),
    ("get_monthly_auto_topup_spend", "'{user}'"),
    ("get_monthly_auto_topup_spend_bulk", "ARRAY['{user}'::uuid]"),
    ("list_all_transactions", ""),
    ("count_all_transactions", ""),
    ("visible_balances", ""),
    ("visible_batches", ""),
    ("visible_caps", ""),
    ("visible_spend", "'{user}', NULL, '-infinity', NULL"),
    ("verify_ledger", ""),
    ("verify_installation", ""),
    ("refresh_checkpoint", "'{user}'"),
    ("aggregate_user_batches", "'{user}'"),
    ("refresh_idle_checkpoints", "'0'"),
    ("transactions_after", "NULL, NULL"),
    ("import_query", "'credits.credits_transactions'"),
    ("unimportable_transactions", "'credits.credits_transactions'"),
];

/// Of those, which tell a superuser nothing about the subject, or not while another test has a transaction open.
const SILENT: [&str; 9] = [
    "release_expired_holds",
    "verify_installation",
    "transactions_after",
    "verify_ledger",
    "refresh_checkpoint",
    "aggregate_user_batches",
    "refresh_idle_checkpoints",
    "import_query",
    "unimportable_transactions",
];

/// Not asked so: what records and `redact_account` have tests of their own, what holds is asked below, `settlement_statistics` counts without saying
/// whose, `advance_seq` says nothing, `row_security` says what the catalog says to everybody, the others run behind the scenes.
const NOT_ASKED: [&str; 52] = [
    "bucket_digest",
    "bucket_state",
    "bucket_transactions",
    "get_ledger",
    "bucket_of",
    "owned_buckets",
    "has_all_buckets",
    "is_here",
    "require_class",
    "make_class_views",
    "set_node_number",
    "get_node_number",
    "number_by_node",
    "announce_buckets",
    "disown_buckets",
    "own_buckets",
    "owns_bucket",
    "add_up_days",
    "advance_seq",
    "announce_change",
    "are_thresholds",
    "capture_hold",
    "charge",
    "create_hold",
    "create_transaction",
    "current_xact_id",
    "extend_hold",
    "fill_daily_totals",
    "guard_ledger",
    "keep_announced",
    "import_transactions",
    "is_amount",
    "is_transaction_type",
    "leave_out",
    "make_row_security",
    "may_have_batch",
    "note_caps",
    "note_hold",
    "note_limits",
    "note_transaction",
    "record_transactions",
    "redact_account",
    "refuse_change",
    "refuse_hold_change",
    "refuse_others",
    "release_hold",
    "restore_row_security",
    "reverse_transaction",
    "row_security",
    "set_updated_at",
    "settlement_statistics",
    "uuid_v7",
];

/// Everything that comes back: rows, or all parts of the error.
fn answer(session: &mut Session, sql: &str) -> String {
    match session.query(sql, &[]) {
        Ok(rows) => rows.iter().fold(String::new(), |mut text, row| {
            writeln!(text, "{}", row.get::<_, Option<String>>(0).unwrap_or_default()).unwrap();
            text
        }),
        Err(error) => {
            let error = error.as_db_error().expect("an answer of the server");
            format!("{error:?}").split(", file: ").next().unwrap_or_default().to_owned()
        }
    }
}

/// Two tenants with checkpoints, batches and deltas; the second one's money is known by its sevens. Whoever is to see the
/// first has every grant that there is in the schema.
struct Tenancy {
    db: Database,
    role: String,
    other: Subject,
}

impl Tenancy {
    const SOURCE_ID: &str = "auto_topup_secret";
    /// More than a time or an id may have by chance.
    const SEVENS: &str = "777777777";

    fn create() -> Self {
        let db = Database::create();
        let role = db.create_role("tenant");
        let mut admin = db.connect();
        for number in [1, 2] {
            let amount = if number == 1 { dec!(1) } else { dec!(777777777) };
            let key = if number == 1 { "auto_topup_own" } else { Self::SOURCE_ID };
            admin.run(&format!(
                "SELECT credits.create_transaction('{}', 'purchase', {amount}, '{key}', 'told to {number}')",
                user(number)
            ));
            admin.charge_batch(user(number), Uuid::from_u128(u128::from(number)), amount);
            // An open transaction of another test may hold the watermark back for a while.
            let folded = "SELECT EXISTS (SELECT FROM credits.batch_aggregates WHERE user_id = $1)";
            assert!((0..10_000).any(|_| {
                admin.refresh(user(number));
                admin.value(folded, &[&user(number)])
            }));
            for _ in 0..3 {
                admin.charge_batch(user(number), Uuid::from_u128(u128::from(number)), amount);
            }
            admin.run(&format!(
                "INSERT INTO credits.holds (source_id, user_id, amount, description, expires_at)
                 VALUES ('held by {number}', '{}', {amount}, 'told to {number}', now() + interval '1 hour'),
                        ('expired of {number}', '{}', {amount}, 'told to {number}', now() - interval '2 days')",
                user(number),
                user(number)
            ));
            admin.run(&format!(
                "INSERT INTO credits.spend_caps (user_id, api_key_ids, amount) VALUES ('{}', ARRAY['{}']::uuid[], {amount})",
                user(number),
                Uuid::from_u128(number.into())
            ));
        }
        admin.run(&format!(
            "GRANT USAGE ON SCHEMA credits TO {role};
             GRANT ALL ON ALL TABLES IN SCHEMA credits TO {role};
             GRANT ALL ON ALL FUNCTIONS IN SCHEMA credits TO {role};
             ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON credits.credits_transactions TO {role} USING (user_id = '{}');
             ALTER TABLE credits.holds ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON credits.holds TO {role} USING (user_id = '{}');
             ALTER TABLE credits.spend_caps ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON credits.spend_caps TO {role} USING (user_id = '{}')",
            user(1),
            user(1),
            user(1)
        ));
        let transaction = admin
            .value("SELECT id FROM credits.credits_transactions WHERE source_id = $1", &[&Self::SOURCE_ID]);
        let other = Subject { user: user(2), transaction, source_id: Self::SOURCE_ID };
        // An open transaction of another test may hold back the feed, too.
        let all_are_fed = "SELECT count(*) = (SELECT count(*) FROM credits.credits_transactions) FROM credits.transactions_after(NULL, NULL)";
        db.until(all_are_fed, &[]);
        Self { db, role, other }
    }

    /// What a text must not contain.
    #[track_caller]
    fn assert_tells_nothing(&self, what: &str, text: &str) {
        let batch = Uuid::from_u128(2).to_string();
        for secret in [
            Self::SEVENS,
            "secret",
            "told to 2",
            &batch,
            &self.other.user.to_string(),
            &self.other.transaction.to_string(),
        ] {
            assert!(!text.contains(secret), "{what}: {text}");
        }
    }
}

#[test]
fn another_tenant_does_not_exist() {
    let tenancy = Tenancy::create();
    let (mut admin, mut tenant) = (tenancy.db.connect(), tenancy.db.connect_as(&tenancy.role));
    let mut functions: Vec<String> = admin.values(
        "SELECT proname::text FROM pg_proc WHERE pronamespace = 'credits'::regnamespace ORDER BY 1",
        &[],
    );
    functions.retain(|name| !NOT_ASKED.contains(&name.as_str()) && !OF_A_MOVE.contains(&name.as_str()));
    let mut asked: Vec<&str> = QUESTIONS.iter().map(|&(name, _)| name).collect();
    asked.sort_unstable();
    assert_eq!(functions, asked, "every function is asked");

    for (function, arguments) in QUESTIONS {
        let question = format!("SELECT format('%s', answer) FROM credits.{function}({arguments}) answer");
        let ask = |session: &mut Session, subject: &Subject| {
            subject.unfill(&answer(session, &subject.fill(&question)))
        };
        let (told, nobody) = (ask(&mut tenant, &tenancy.other), ask(&mut tenant, &Subject::NOBODY));
        assert_eq!(told, nobody, "{function}");
        tenancy.assert_tells_nothing(function, &told);
        if !SILENT.contains(&function) {
            let known = ask(&mut admin, &tenancy.other);
            assert_ne!(known, told, "{function} has nothing to hide");
        }
    }
    admin.assert_sound();
}

#[test]
fn relations_show_the_own_part() {
    let tenancy = Tenancy::create();
    let (mut admin, mut tenant) = (tenancy.db.connect(), tenancy.db.connect_as(&tenancy.role));
    let relations: Vec<String> = admin.values(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'credits'::regnamespace AND relkind IN ('r', 'v', 'm', 'p', 'f')",
        &[],
    );
    assert!(relations.len() >= 9, "{relations:?}");
    for relation in &relations {
        // Also through a condition of the tenant's own, which sees what it is asked about before it is refused.
        tenant.run(
            "CREATE OR REPLACE FUNCTION pg_temp.look(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001
             AS 'BEGIN RAISE NOTICE ''%'', $1; IF $1 LIKE ''%777777777%'' THEN RAISE ''seen: %'', $1; END IF; RETURN true; END'",
        );
        for condition in ["true", "pg_temp.look(t::text)"] {
            let shown =
                answer(&mut tenant, &format!("SELECT t::text FROM credits.{relation} t WHERE {condition}"));
            assert!(!shown.contains("DbError"), "{relation}: {shown}");
            tenancy.assert_tells_nothing(relation, &shown);
        }
    }
    for (relation, shown) in [
        ("credits_transactions", 5_i64),
        ("holds", 2),
        ("balances", 1),
        ("batches", 1),
        ("checkpoints", 0),
        ("folded_batches", 0),
        ("folded_days", 0),
        ("daily_totals", 0),
        ("user_balance_checkpoints", 0),
        ("ledger_identity", 0),
        ("batch_aggregates", 0),
        ("uncovered_transactions", 0),
        ("users_without_checkpoint", 0),
        ("checkpoint_lag", 0),
        ("hold_counts", 0),
        ("stragglers", 0),
    ] {
        let count = format!("SELECT count(*) FROM credits.{relation}");
        assert_eq!(tenant.value::<i64>(&count, &[]), shown, "{relation}");
    }
    for relation in [
        "checkpoints",
        "folded_batches",
        "folded_days",
        "user_balance_checkpoints",
        "batch_aggregates",
        "daily_totals",
    ] {
        // Days have two types of each user.
        let count = format!("SELECT count(DISTINCT user_id) FROM credits.{relation}");
        assert_eq!(admin.value::<i64>(&count, &[]), 2, "{relation}");
    }
    // The announced side of zero is the account's, the balance that of the rows shown.
    let own: String = tenant.value("SELECT b::text FROM credits.balances b", &[]);
    let all: String = admin.value("SELECT b::text FROM credits.balances b WHERE user_id = $1", &[&user(1)]);
    assert_eq!(own, all);
    assert!(own.contains(",-3,f,"), "{own}");
}

/// The planner tries a condition's operator on what statistics have of a column, and the executor before other conditions.
#[test]
fn operators_of_a_tenants_own_are_shown_nothing() {
    let tenancy = Tenancy::create();
    let (mut admin, mut tenant) = (tenancy.db.connect(), tenancy.db.connect_as(&tenancy.role));
    admin.run("ANALYZE");
    tenant.run("CREATE TABLE pg_temp.shown (value text)");
    let zeros = [
        ("numeric", "0"),
        ("uuid", "00000000-0000-0000-0000-000000000000"),
        ("text", ""),
        ("bigint", "0"),
        ("timestamp with time zone", "2000-01-01"),
        ("boolean", "false"),
    ];
    for (kind, _) in zeros {
        tenant.run(&format!(
            "CREATE FUNCTION pg_temp.look({kind}, {kind}) RETURNS boolean LANGUAGE plpgsql STRICT COST 0.0001
             AS 'BEGIN INSERT INTO pg_temp.shown VALUES ($1::text); RETURN true; END';
             CREATE OPERATOR pg_temp.>>> (LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = pg_temp.look, RESTRICT = scalargtsel)"
        ));
    }
    let columns = admin
        .query(
            "SELECT attrelid::regclass::text, attname::text, format_type(atttypid, NULL)
             FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
             WHERE relnamespace = 'credits'::regnamespace AND relkind IN ('r', 'v') AND attnum > 0
             ORDER BY 1, attnum",
            &[],
        )
        .unwrap();
    let mut asked = 0;
    for row in &columns {
        let (relation, column, kind): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let Some((_, zero)) = zeros.iter().find(|(known, _)| *known == kind) else { continue };
        let condition = format!("{column} OPERATOR(pg_temp.>>>) '{zero}'::{kind}");
        for query in ["EXPLAIN SELECT", "SELECT count(*)"] {
            tenant.run("TRUNCATE pg_temp.shown");
            tenant.run(&format!("{query} FROM {relation} WHERE {condition}"));
            let shown = answer(&mut tenant, "SELECT value FROM pg_temp.shown");
            tenancy.assert_tells_nothing(&format!("{query} FROM {relation} by {column}"), &shown);
            let others: i64 = admin.value(
                "SELECT count(*) FROM credits.user_balance_checkpoints c
                 WHERE user_id = $1 AND crossed_at::text = ANY (string_to_array($2, E'\n'))",
                &[&user(2), &shown],
            );
            assert_eq!(others, 0, "{query} FROM {relation} by {column}: {shown}");
        }
        asked += 1;
    }
    assert!(asked > 60, "{asked} columns");
}

/// A policy may hide a part of an account: no sum tells of it.
#[test]
fn sums_are_of_the_rows_shown() {
    let tenancy = Tenancy::create();
    let (mut admin, mut tenant) = (tenancy.db.connect(), tenancy.db.connect_as(&tenancy.role));
    admin.run(&format!(
        "DROP POLICY own ON credits.credits_transactions;
         CREATE POLICY usage ON credits.credits_transactions TO {} USING (transaction_type = 'usage' AND user_id = '{}')",
        tenancy.role,
        user(1)
    ));
    for query in [
        "SELECT credits.get_user_balance('{}')::text",
        "SELECT balance::text FROM credits.balances WHERE user_id = '{}'",
        "SELECT credits.sum_transactions_after_date('{}', '2000-01-01')::text",
        "SELECT credits.get_user_balance_at('{}', now())::text",
        "SELECT amount::text FROM credits.account_statement('{}', '2000-01-01', 'infinity') WHERE line = 'usage'",
        "SELECT amount::text FROM credits.account_statement('{}', '2000-01-01', 'infinity') WHERE line = 'closing'",
        "SELECT (-sum(total_amount))::text FROM credits.usage_by_day('{}')",
        "SELECT balance_after::text FROM credits.list_user_transactions_with_balance('{}', 0, 1)",
        "SELECT (-sum(total_amount))::text FROM credits.batches WHERE user_id = '{}'",
        "SELECT (-sum(amount))::text FROM credits.list_transactions_with_batches('{}')",
    ] {
        let query = query.replace("{}", &user(1).to_string());
        assert_eq!(tenant.value::<String>(&query, &[]), "-4", "{query}");
    }
}

/// The key of another tenant's transaction is taken; that is all.
#[test]
fn a_refused_key_tells_nothing() {
    let tenancy = Tenancy::create();
    let mut tenant = tenancy.db.connect_as(&tenancy.role);
    let Subject { transaction, source_id, .. } = tenancy.other;
    for statement in [
        format!("SELECT credits.create_transaction('{}', 'usage', 1, '{source_id}')", user(1)),
        format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
             VALUES ('{}', 'usage', 1, '{source_id}')",
            user(1)
        ),
        format!(
            "INSERT INTO credits.credits_transactions (id, user_id, transaction_type, amount, source_id)
             VALUES ('{transaction}', '{}', 'usage', 1, 'new')",
            user(1)
        ),
    ] {
        let error = tenant.try_run(&statement).refused("23505");
        let told = format!("{} {:?} {:?}", error.message(), error.detail(), error.hint());
        tenancy.assert_tells_nothing(&statement, &told.replace(source_id, ""));
        assert_eq!(error.detail(), None);
    }
    for statement in [
        format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) VALUES ('{}', 'usage', 1, 'new')",
            user(2)
        ),
        format!("SELECT credits.create_transaction('{}', 'usage', 1, 'new')", user(2)),
    ] {
        tenant.try_run(&statement).refused("42501");
    }
}

/// Nor what others hold, have available, or have captured.
#[test]
fn functions_that_hold_tell_nothing() {
    let tenancy = Tenancy::create();
    let (mut admin, mut tenant) = (tenancy.db.connect(), tenancy.db.connect_as(&tenancy.role));
    let ask = |session: &mut Session, call: &str, subject: &Subject| {
        session.run("BEGIN");
        let question = subject.fill(&format!("SELECT format('%s', credits.{call})"));
        let told = subject.unfill(&answer(session, &question));
        session.run("ROLLBACK");
        told
    };
    let of = |source_id| Subject { source_id, ..tenancy.other };
    for (call, subject) in [
        ("create_hold('{user}', 1, 'new')", of("held by 2")),
        ("create_hold('{user}', 100000, 'new')", of("held by 2")),
        ("charge('{user}', 1, 'new')", of("held by 2")),
        ("charge('{user}', 100000, 'new')", of("held by 2")),
        ("capture_hold('{source_id}')", of("held by 2")),
        ("capture_hold('{source_id}', 777777777)", of("held by 2")),
        ("release_hold('{source_id}')", of("held by 2")),
        ("extend_hold('{source_id}', '1 hour')", of("held by 2")),
        ("capture_hold('{source_id}')", of("expired of 2")),
        ("release_hold('{source_id}')", of("expired of 2")),
        ("extend_hold('{source_id}', '1 hour')", of("expired of 2")),
    ] {
        let told = ask(&mut tenant, call, &subject);
        assert_eq!(told, ask(&mut tenant, call, &Subject::NOBODY), "{call}");
        tenancy.assert_tells_nothing(call, &told);
        assert_ne!(ask(&mut admin, call, &subject), told, "{call} has nothing to hide");
    }
    // A key of another tenant's is taken; that is all.
    for (call, source_id) in [
        ("create_hold('{user}', 1, '{source_id}')", Tenancy::SOURCE_ID),
        ("create_hold('{user}', 1, '{source_id}')", "held by 2"),
        ("create_hold('{user}', 1, '{source_id}')", "expired of 2"),
        ("charge('{user}', 1, '{source_id}')", Tenancy::SOURCE_ID),
        ("charge('{user}', 1, '{source_id}')", "held by 2"),
        ("capture_hold('{source_id}')", Tenancy::SOURCE_ID),
    ] {
        let call = Subject { user: user(1), source_id, ..Subject::NOBODY }.fill(call);
        for isolation in ["READ COMMITTED", "REPEATABLE READ"] {
            tenant.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
            let error = tenant.try_run(&format!("SELECT credits.{call}")).refused("23505");
            tenant.run("ROLLBACK");
            let told = format!("{} {:?} {:?}", error.message(), error.detail(), error.hint());
            tenancy.assert_tells_nothing(&call, &told.replace(source_id, ""));
        }
    }
    admin.assert_sound();
}

/// Channels have no access control: they say who crossed zero which way, and no amount.
#[test]
fn notifications_tell_no_amount() {
    let tenancy = Tenancy::create();
    let mut admin = tenancy.db.connect();
    let mut listener = credits_ledger_tests::Listener::new(tenancy.db.connect_as(&tenancy.role));
    admin.grant(user(2), dec!(7777777777));
    let heard: Vec<String> = listener.drain().into_iter().map(|n| n.payload).collect();
    assert_eq!(heard.len(), 2, "{heard:?}");
    let crossing = format!("{{\"user_id\":\"{}\",\"direction\":\"up\"}}", user(2));
    assert!(heard.contains(&crossing), "{heard:?}");
    let clock = heard.iter().find(|payload| **payload != crossing).unwrap();
    let digits = clock.strip_prefix("credits_transactions:").unwrap();
    assert!(digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_digit()), "{clock}");
}
