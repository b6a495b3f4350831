//! What the extension promises about its objects holds for every one of them.

use credits_ledger_tests::{Database, Decimal, Refused, dec, user};
use ledger::transaction_type::TransactionType;

/// Objects that may be used without a grant: what an insert runs on behalf of whoever inserts, pg_dump for whoever dumps,
/// and the views of a router for whoever uses them.
const PUBLIC: [&str; 12] = [
    "credits.are_thresholds(numeric[])",
    "credits.bucket_of(uuid)",
    "credits.current_xact_id(bigint)",
    "credits.has_all_buckets()",
    "credits.is_amount(numeric)",
    "credits.is_here(uuid)",
    "credits.is_transaction_type(text)",
    "credits.may_have_batch(text,uuid)",
    "credits.owned_buckets()",
    "credits.require_class(integer,integer)",
    "credits.row_security()",
    "credits.uuid_v7()",
];

/// A procedure that commits cannot have a setting of its own: it pins the search_path at the start of each transaction, which
/// `import::a_hostile_search_path_is_not_followed` tests.
const UNPINNED: [&str; 2] =
    ["credits.fill_daily_totals(bigint)", "credits.import_transactions(regclass,bigint,boolean)"];

/// The names in the body of a function in SQL or PL/pgSQL are looked up when it runs, but for one whose body was bound when it was created.
#[test]
fn every_interpreted_function_pins_its_search_path() {
    let db = Database::create();
    let unpinned: Vec<String> = db.connect().values(
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_language l ON l.oid = prolang
         WHERE pronamespace = 'credits'::regnamespace AND lanname <> 'c' AND prosqlbody IS NULL
           AND NOT EXISTS (SELECT FROM unnest(proconfig) setting WHERE setting = 'search_path=pg_catalog, pg_temp')
         ORDER BY 1",
        &[],
    );
    assert_eq!(unpinned, UNPINNED);
}

/// A setting costs each call of a function in C more than most of them do. The library pins the search_path where it runs SQL,
/// which `search_path::nothing_of_a_hostile_user_runs` tests.
#[test]
fn no_compiled_function_sets_a_search_path() {
    let db = Database::create();
    let set: Vec<String> = db.connect().values(
        "SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_language l ON l.oid = prolang
         WHERE pronamespace = 'credits'::regnamespace AND lanname = 'c'
           AND EXISTS (SELECT FROM unnest(proconfig) setting WHERE setting LIKE 'search\\_path=%')
         ORDER BY 1",
        &[],
    );
    assert_eq!(set, [""; 0]);
}

#[test]
fn nothing_is_security_definer() {
    let db = Database::create();
    let definers: Vec<String> = db.connect().values(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'credits'::regnamespace AND prosecdef",
        &[],
    );
    assert_eq!(definers, [""; 0]);
}

#[test]
fn nothing_else_is_public() {
    let db = Database::create();
    let public: Vec<String> = db.connect().values(
        "SELECT object FROM (
             SELECT oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner))
             FROM pg_proc WHERE pronamespace = 'credits'::regnamespace
             UNION ALL
             SELECT oid::regclass::text, coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r' END, relowner))
             FROM pg_class WHERE relnamespace = 'credits'::regnamespace AND relkind IN ('r', 'v', 'm', 'S', 'p', 'f')
             UNION ALL
             SELECT attrelid::regclass || '.' || attname, attacl
             FROM pg_attribute JOIN pg_class c ON c.oid = attrelid WHERE relnamespace = 'credits'::regnamespace
             UNION ALL
             SELECT 'schema', coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace WHERE nspname = 'credits'
         ) objects (object, acl)
         WHERE EXISTS (SELECT FROM aclexplode(acl) WHERE grantee = 0) ORDER BY 1",
        &[],
    );
    assert_eq!(public, PUBLIC);
}

#[test]
fn every_object_is_described() {
    let db = Database::create();
    let undescribed: Vec<String> = db.connect().values(
        "SELECT object FROM (
             SELECT oid::regprocedure::text, obj_description(oid, 'pg_proc')
             FROM pg_proc WHERE pronamespace = 'credits'::regnamespace
             UNION ALL
             SELECT oid::regclass::text, obj_description(oid, 'pg_class')
             FROM pg_class WHERE relnamespace = 'credits'::regnamespace AND relkind IN ('r', 'v')
             UNION ALL
             SELECT format_type(t.oid, NULL), obj_description(t.oid, 'pg_type')
             FROM pg_type t JOIN pg_class c ON c.oid = typrelid
             WHERE typnamespace = 'credits'::regnamespace AND relkind = 'c'
             UNION ALL
             SELECT attrelid::regclass || '.' || attname, col_description(attrelid, attnum)
             FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
             WHERE relnamespace = 'credits'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
             UNION ALL
             SELECT tgrelid::regclass || ' ' || tgname, obj_description(t.oid, 'pg_trigger')
             FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
             WHERE relnamespace = 'credits'::regnamespace AND NOT tgisinternal
             UNION ALL
             SELECT evtname, obj_description(oid, 'pg_event_trigger') FROM pg_event_trigger
             UNION ALL
             SELECT 'schema', obj_description('credits'::regnamespace, 'pg_namespace')
             UNION ALL
             SELECT 'extension', obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'credits_ledger'
         ) objects (object, description)
         WHERE coalesce(description, '') = '' ORDER BY 1",
        &[],
    );
    assert_eq!(undescribed, [""; 0]);
}

/// A fraction of a large ledger is far too many rows for autovacuum to wait for.
#[test]
fn autovacuum_thresholds_are_absolute() {
    let db = Database::create();
    let relative: Vec<String> = db.connect().values(
        "SELECT relname || ' ' || setting FROM pg_class,
             unnest(ARRAY['autovacuum_vacuum_scale_factor=0', 'autovacuum_analyze_scale_factor=0',
                          CASE relname WHEN 'credits_transactions' THEN 'autovacuum_vacuum_insert_scale_factor=0' END]) setting
         WHERE relnamespace = 'credits'::regnamespace AND relkind = 'r' AND NOT setting = ANY (coalesce(reloptions, '{}'))",
        &[],
    );
    assert_eq!(relative, [""; 0]);
    let targets: Vec<i32> = db.connect().values(
        "SELECT attstattarget::int FROM pg_attribute
         WHERE attrelid = 'credits.credits_transactions'::regclass AND attname = 'user_id'",
        &[],
    );
    assert!(targets[0] >= 500, "the planner's estimate of distinct users is too coarse: {targets:?}");
}

#[test]
fn what_users_fill_and_row_security_are_dumped() {
    Database::create().connect().assert_dumps_what_users_fill();
}

#[test]
fn triggers_fire_for_replication_too() {
    let db = Database::create();
    let triggers: Vec<String> = db.connect().values(
        "SELECT tgname || ' ' || tgenabled::text FROM pg_trigger
         WHERE tgrelid IN ('credits.credits_transactions'::regclass, 'credits.holds'::regclass, 'credits.spending_limits'::regclass,
                           'credits.spend_caps'::regclass)
           AND NOT tgisinternal
         UNION ALL SELECT evtname || ' ' || evtenabled::text FROM pg_event_trigger ORDER BY 1",
        &[],
    );
    assert_eq!(
        triggers,
        [
            "append_only A",
            "append_only_applied A",
            "credits_ledger_guard A",
            "credits_ledger_guard_end A",
            "credits_ledger_guard_rewrite A",
            "never_truncated A",
            "note_all_caps A",
            "note_all_limits A",
            "note_caps A",
            "note_hold A",
            "note_limits A",
            "note_transaction A",
            "only_extended A",
            "set_updated_at O"
        ]
    );
}

#[test]
fn settings_are_for_superusers() {
    let db = Database::create();
    let role = db.create_role("client");
    let mut session = db.connect_as(&role);
    db.connect().run(&format!("GRANT USAGE ON SCHEMA credits TO {role}"));
    // Loads the library.
    session.run("SELECT credits.current_xact_id(1)");
    let settings: Vec<(String, String)> = session
        .query("SELECT name, context FROM pg_settings WHERE name LIKE 'credits\\_ledger.%'", &[])
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert!(settings.len() >= 5, "{settings:?}");
    for (name, context) in settings {
        assert_eq!(context, "superuser", "{name}");
        session.try_run(&format!("SET {name} = DEFAULT")).refused("42501");
    }
}

/// What the constraints ask is written out here in SQL.
#[test]
fn the_constraints_mean_what_they_say() {
    let db = Database::create();
    let mut session = db.connect();
    let types: Vec<String> = session.values(
        "SELECT t FROM unnest($1::text[] || ARRAY['', 'Usage', 'usage ', 'usag', 'refund']) t WHERE credits.is_transaction_type(t)",
        &[&TransactionType::ALL.map(TransactionType::name).as_slice()],
    );
    assert_eq!(types, TransactionType::ALL.map(TransactionType::name));
    let with_batch: Vec<String> = session.values(
        "SELECT t FROM unnest($1::text[] || '{refund}') t WHERE credits.may_have_batch(t, gen_random_uuid())",
        &[&types],
    );
    assert_eq!(with_batch, ["usage"]);
    let wrong: Vec<String> = session.values(
        "SELECT a::text FROM (
             SELECT (digits::text || 'e' || exponent)::numeric AS a
             FROM unnest('{-1,0,1,5,10,99,1000,10001,999999999999999,1000000000000000,9999999999999999999999999999}'::numeric[]) digits,
                  generate_series(-20, 20) exponent
             UNION ALL
             SELECT unnest('{NaN,Infinity,-Infinity,1e131071,1e-16383,0.1234567890123456,1.2000000000000000000000,9999999999999.9999999999999990}'::numeric[])
         ) amounts
         WHERE credits.is_amount(a) IS DISTINCT FROM (a > 0 AND a < 10000000000000 AND min_scale(a) <= 15)",
        &[],
    );
    assert!(wrong.is_empty(), "{wrong:?}");
    let nulls: bool = session.value(
        "SELECT num_nulls(credits.is_amount(NULL), credits.is_transaction_type(NULL), credits.may_have_batch('purchase', NULL)) = 3",
        &[],
    );
    assert!(nulls);
}

/// The library adds up rows, queries of its making do, and so do functions in SQL.
#[test]
fn every_sum_gives_a_transaction_type_the_same_sign() {
    let db = Database::create();
    let mut session = db.connect();
    for (number, transaction_type) in (1..).zip(TransactionType::ALL) {
        let effect = if transaction_type.adds() { dec!(2.5) } else { dec!(-2.5) };
        session.insert(user(number), transaction_type.name(), dec!(2.5)).unwrap();
        assert_eq!(session.balance(user(number)), effect, "{transaction_type}");
        for sum in [
            "sum_recent_transactions($1, 10)",
            "sum_transactions_after_date($1, '-infinity')",
            "get_user_balance_at($1, 'infinity')",
        ] {
            let sum: Decimal = session.value(&format!("SELECT credits.{sum}"), &[&user(number)]);
            assert_eq!(sum, effect, "{transaction_type}");
        }
    }
    session.assert_sound();
}
