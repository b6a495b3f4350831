//! What everybody, a reader, a writer, a charger and a limiter may do: for every object of the extension, exactly what is listed here.

use std::fs;

use credits_ledger_tests::{Database, Refused, Session, Uuid, dec, user};

/// Whoever has no grant at all; without USAGE on the schema it cannot even name these.
const EVERYBODY: [&str; 12] = [
    "are_thresholds: EXECUTE",
    "bucket_of: EXECUTE",
    "current_xact_id: EXECUTE",
    "has_all_buckets: EXECUTE",
    "is_amount: EXECUTE",
    "is_here: EXECUTE",
    "is_transaction_type: EXECUTE",
    "may_have_batch: EXECUTE",
    "owned_buckets: EXECUTE",
    "require_class: EXECUTE",
    "row_security: EXECUTE",
    "uuid_v7: EXECUTE",
];

/// What a reader may do besides.
const READER: [&str; 49] = [
    "account_statement: EXECUTE",
    "balances: SELECT",
    "batches: SELECT",
    "calculate_balance_with_seq: EXECUTE",
    "checkpoints: SELECT",
    "count_all_transactions: EXECUTE",
    "count_transactions_with_batches: EXECUTE",
    "count_user_transactions: EXECUTE",
    "credits_transactions: SELECT",
    "folded_batches: SELECT",
    "folded_days: SELECT",
    "get_available_balance: EXECUTE",
    "get_available_balances_bulk: EXECUTE",
    "get_monthly_auto_topup_spend: EXECUTE",
    "get_monthly_auto_topup_spend_bulk: EXECUTE",
    "get_transaction_by_id: EXECUTE",
    "get_user_balance: EXECUTE",
    "get_user_balance_at: EXECUTE",
    "get_users_balances_bulk: EXECUTE",
    "holds: SELECT",
    "list_all_transactions: EXECUTE",
    "list_holds: EXECUTE",
    "list_transactions_with_batches: EXECUTE",
    "list_user_transactions: EXECUTE",
    "list_user_transactions_with_balance: EXECUTE",
    "schema credits: USAGE",
    "spend_cap_states: SELECT",
    "spend_caps: SELECT",
    "spending_limits: SELECT",
    "sum_recent_transactions: EXECUTE",
    "sum_recent_transactions_grouped: EXECUTE",
    "sum_transactions_after_date: EXECUTE",
    "sum_transactions_after_date_grouped: EXECUTE",
    "thresholds: SELECT",
    "transaction_exists_by_source_id: EXECUTE",
    "transactions_after: EXECUTE",
    "type credit_hold: USAGE",
    "type credit_transaction: USAGE",
    "type feed_item: USAGE",
    "type transaction_with_balance: USAGE",
    "type transaction_with_category: USAGE",
    "usage_by_day: EXECUTE",
    "verify_installation: EXECUTE",
    "verify_ledger: EXECUTE",
    "visible_balances: EXECUTE",
    "visible_batches: EXECUTE",
    "visible_caps: EXECUTE",
    "visible_held: EXECUTE",
    "visible_spend: EXECUTE",
];

/// What a writer may do besides.
const WRITER: [&str; 8] = [
    "aggregate_user_batches: EXECUTE",
    "create_transaction: EXECUTE",
    "credits_transactions: INSERT",
    "record_transactions: EXECUTE",
    "refresh_checkpoint: EXECUTE",
    "refresh_checkpoints_bulk: EXECUTE",
    "reverse_transaction: EXECUTE",
    "type recorded_transaction: USAGE",
];

/// What a charger may do besides.
const CHARGER: [&str; 9] = [
    "capture_hold: EXECUTE",
    "charge: EXECUTE",
    "create_hold: EXECUTE",
    "extend_hold: EXECUTE",
    "holds: DELETE",
    "holds: INSERT",
    "holds: UPDATE",
    "release_expired_holds: EXECUTE",
    "release_hold: EXECUTE",
];

/// What a limiter may do besides what a reader may.
const LIMITER: [&str; 6] = [
    "spend_caps: DELETE",
    "spend_caps: INSERT",
    "spend_caps: UPDATE",
    "spending_limits: DELETE",
    "spending_limits: INSERT",
    "spending_limits: UPDATE",
];

/// What a member of pg_monitor may do besides, without any grant: there is no amount or balance in it.
const MONITOR: [&str; 7] = [
    "checkpoint_lag: SELECT",
    "hold_counts: SELECT",
    "schema credits: USAGE",
    "settlement_statistics: EXECUTE",
    "stragglers: SELECT",
    "users_without_checkpoint: SELECT",
    "verify_installation: EXECUTE",
];

/// Everything that a role may do with any object of the extension, one object and privilege a line.
fn privileges(session: &mut Session, role: &str) -> Vec<String> {
    let mut privileges: Vec<String> = session.values(
        "WITH privileges (object, privilege, granted) AS (
             SELECT 'schema credits', p, has_schema_privilege($1::text, 'credits', p) FROM unnest(ARRAY['USAGE', 'CREATE']) p
             UNION ALL
             SELECT relname, p, has_table_privilege($1::text, c.oid, p) OR has_any_column_privilege($1::text, c.oid, p)
             FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES']) p
             WHERE relnamespace = 'credits'::regnamespace AND relkind IN ('r', 'v', 'm', 'p', 'f')
             UNION ALL
             SELECT relname, p, has_table_privilege($1::text, c.oid, p)
             FROM pg_class c, unnest(ARRAY['DELETE', 'TRUNCATE', 'TRIGGER']) p
             WHERE relnamespace = 'credits'::regnamespace AND relkind IN ('r', 'v', 'm', 'p', 'f')
             UNION ALL
             SELECT relname, p, has_sequence_privilege($1::text, c.oid, p) FROM pg_class c, unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) p
             WHERE relnamespace = 'credits'::regnamespace AND relkind = 'S'
             UNION ALL
             SELECT proname, 'EXECUTE', has_function_privilege($1::text, oid, 'EXECUTE')
             FROM pg_proc WHERE pronamespace = 'credits'::regnamespace
             UNION ALL
             SELECT 'type ' || typname, 'USAGE', has_type_privilege($1::text, oid, 'USAGE')
             -- Not of the types of tables and views: pg_dump cannot keep privileges on those.
             FROM pg_type WHERE typnamespace = 'credits'::regnamespace AND typname NOT LIKE '\\_%'
               AND (typrelid = 0 OR (SELECT relkind FROM pg_class c WHERE c.oid = typrelid) = 'c')
         )
         SELECT object || ': ' || privilege FROM privileges WHERE granted",
        &[&role],
    );
    privileges.sort();
    privileges
}

fn sorted(parts: &[&[&'static str]]) -> Vec<&'static str> {
    let mut all = parts.concat();
    all.sort_unstable();
    all
}

/// Runs the script as its first lines say.
fn create_roles(db: &Database) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/roles.sql");
    let mut psql = db.cluster().program("psql");
    psql.args(["--no-psqlrc", "--quiet", db.name()]);
    let script = fs::File::open(script).expect("open sql/roles.sql");
    let output = psql.stdin(script).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn roles_may_do_what_they_are_for_and_nothing_else() {
    let db = Database::create_alone();
    let mut admin = db.connect();
    let stranger = db.create_role("stranger");
    create_roles(&db);
    // Whatever was granted before, and however often it runs.
    admin.run("GRANT ALL ON ALL TABLES IN SCHEMA credits TO credits_reader; GRANT CREATE ON SCHEMA credits TO credits_writer");
    create_roles(&db);
    assert_eq!(privileges(&mut admin, &stranger), sorted(&[&EVERYBODY]));
    assert_eq!(privileges(&mut admin, "pg_monitor"), sorted(&[&EVERYBODY, &MONITOR]));
    assert_eq!(privileges(&mut admin, "credits_reader"), sorted(&[&EVERYBODY, &READER]));
    assert_eq!(privileges(&mut admin, "credits_writer"), sorted(&[&EVERYBODY, &READER, &WRITER]));
    assert_eq!(privileges(&mut admin, "credits_charger"), sorted(&[&EVERYBODY, &READER, &WRITER, &CHARGER]));
    assert_eq!(privileges(&mut admin, "credits_limiter"), sorted(&[&EVERYBODY, &READER, &LIMITER]));
    let members: Vec<String> = admin.values(
        "SELECT roleid::regrole || ' has ' || member::regrole FROM pg_auth_members
         WHERE roleid::regrole::text LIKE 'credits%' OR member::regrole::text LIKE 'credits%' ORDER BY 1",
        &[],
    );
    assert_eq!(
        members,
        [
            "credits_reader has credits_limiter",
            "credits_reader has credits_writer",
            "credits_writer has credits_charger"
        ]
    );
}

/// The lists above are what the roles need: everything works for them.
#[test]
fn a_reader_and_a_writer_can_do_their_work() {
    let db = Database::create_alone();
    create_roles(&db);
    let (reader, writer) = (db.create_role("reader"), db.create_role("writer"));
    let mut admin = db.connect();
    admin.run(&format!("GRANT credits_reader TO {reader}; GRANT credits_writer TO {writer}"));
    let (mut reader, mut writer) = (db.connect_as(&reader), db.connect_as(&writer));
    writer.grant(user(1), dec!(10));
    for _ in 0..20 {
        writer.charge_batch(user(1), Uuid::nil(), dec!(0.5));
    }
    writer.run(&format!(
        "SELECT credits.create_transaction('{0}', 'purchase', 1, 'invoice'); SELECT credits.refresh_checkpoint('{0}')",
        user(1)
    ));
    writer.charge_batch(user(1), Uuid::nil(), dec!(0.5));
    writer
        .try_run(&format!(
            "INSERT INTO credits.credits_transactions (seq, user_id, transaction_type, amount, source_id)
             OVERRIDING SYSTEM VALUE VALUES (1000, '{}', 'usage', 1, 'in the way')",
            user(1)
        ))
        .refused("42501");
    for session in [&mut reader, &mut writer] {
        session.assert_sound();
        let items: Vec<i32> = session.values(
            "SELECT batch_count FROM credits.list_transactions_with_batches($1) ORDER BY seq",
            &[&user(1)],
        );
        assert_eq!(items, [1, 1, 21]);
        // From what is folded, not from all rows.
        let folded: i64 = session.value("SELECT count(*) FROM credits.folded_batches", &[]);
        assert_eq!(folded, 1);
        for operator in [
            "uncovered_transactions",
            "users_without_checkpoint",
            "user_balance_checkpoints",
            "batch_aggregates",
            "daily_totals",
        ] {
            session.try_run(&format!("SELECT FROM credits.{operator}")).refused("42501");
        }
    }
    reader.insert(user(1), "purchase", dec!(1)).refused("42501");
    for function in ["refresh_checkpoint", "aggregate_user_batches"] {
        reader.try_run(&format!("SELECT credits.{function}('{}')", user(1))).refused("42501");
    }
}

/// Whoever may call a function may have one of its own return what that returns, and no more.
#[test]
fn roles_may_return_what_they_may_call_for() {
    let db = Database::create_alone();
    create_roles(&db);
    let mut admin = db.connect();
    let types: Vec<String> = admin.values(
        "SELECT t.typname::text FROM pg_type t JOIN pg_class c ON c.oid = typrelid
         WHERE typnamespace = 'credits'::regnamespace AND relkind = 'c'",
        &[],
    );
    assert!(types.len() >= 6, "{types:?}");
    for role in ["credits_reader", "credits_writer", "credits_charger", "credits_limiter"] {
        let member = db.create_role(&role.replace("credits_", "a_"));
        admin.run(&format!("GRANT {role} TO {member}; CREATE SCHEMA AUTHORIZATION {member}"));
        let mut session = db.connect_as(&member);
        for name in &types {
            let may_call: bool = admin.value(
                "SELECT bool_or(has_function_privilege($1::text, oid, 'EXECUTE')) FROM pg_proc
                 WHERE pronamespace = 'credits'::regnamespace AND prorettype = ('credits.' || $2::text)::regtype",
                &[&member, name],
            );
            let returning = session.try_run(&format!(
                "CREATE FUNCTION {member}.returns_{name}() RETURNS credits.{name} LANGUAGE sql RETURN NULL::credits.{name}"
            ));
            if may_call {
                returning.unwrap_or_else(|error| panic!("{role}, {name}: {error:?}"));
            } else {
                returning.refused("42501");
            }
        }
    }
}

/// Who charges does not lift the limit, and who sets limits does not charge.
#[test]
fn a_charger_and_a_limiter_can_do_their_work() {
    let db = Database::create_alone();
    create_roles(&db);
    let (writer, charger, limiter) =
        (db.create_role("writer"), db.create_role("charger"), db.create_role("limiter"));
    db.connect().run(&format!(
        "GRANT credits_writer TO {writer}; GRANT credits_charger TO {charger}; GRANT credits_limiter TO {limiter}"
    ));
    let hold = format!(
        "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('h', '{}', 1, now() + interval '1 hour')",
        user(1)
    );
    let limit = format!(
        "INSERT INTO credits.spending_limits (user_id, overdraft_limit, thresholds) VALUES ('{}', 5, '{{1}}')
         ON CONFLICT (user_id) DO UPDATE SET overdraft_limit = excluded.overdraft_limit, thresholds = excluded.thresholds",
        user(1)
    );
    let (mut writer, mut charger, mut limiter) =
        (db.connect_as(&writer), db.connect_as(&charger), db.connect_as(&limiter));
    charger.run(&format!(
        "{hold}; UPDATE credits.holds SET expires_at = now() WHERE source_id = 'h'; DELETE FROM credits.holds; {hold}"
    ));
    charger.grant(user(1), dec!(2));
    limiter.run(&format!("{limit}; {limit}"));
    let cap = format!("INSERT INTO credits.spend_caps (user_id, amount) VALUES ('{}', 5)", user(1));
    limiter
        .run(&format!("{cap}; UPDATE credits.spend_caps SET amount = 6, since = now(), is_enforced = true"));
    for (session, refused) in [
        (
            &mut writer,
            [
                hold.as_str(),
                "DELETE FROM credits.holds",
                "UPDATE credits.holds SET expires_at = now()",
                &limit,
                &cap,
            ],
        ),
        (
            &mut charger,
            [
                limit.as_str(),
                "DELETE FROM credits.spending_limits",
                "UPDATE credits.spend_caps SET is_enforced = false",
                "UPDATE credits.holds SET amount = 2",
                "TRUNCATE credits.holds",
            ],
        ),
        (
            &mut limiter,
            [
                hold.as_str(),
                "UPDATE credits.spending_limits SET updated_at = now()",
                "TRUNCATE credits.spending_limits",
                "TRUNCATE credits.spend_caps",
                "DELETE FROM credits.holds",
            ],
        ),
    ] {
        for statement in refused {
            session.try_run(statement).refused("42501");
        }
    }
    limiter.insert(user(1), "purchase", dec!(1)).refused("42501");
    for session in [&mut writer, &mut charger, &mut limiter] {
        let seen = ["holds", "spending_limits", "spend_caps", "spend_cap_states"]
            .map(|relation| session.value::<i64>(&format!("SELECT count(*) FROM credits.{relation}"), &[]));
        assert_eq!(seen, [1; 4]);
    }
    limiter.run("DELETE FROM credits.spending_limits; DELETE FROM credits.spend_caps");
}
