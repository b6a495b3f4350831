//! Whoever can create objects ahead in someone's search_path has no say in what the ledger runs for them.

use credits_ledger_tests::cluster::SUPERUSER;
use credits_ledger_tests::functions::OF_A_MOVE;
use credits_ledger_tests::{Database, Refused, Session, Uuid, dec, user};
use postgres::error::SqlState;

/// What such a user makes: whatever of it runs fails.
const HOSTILE: &str = include_str!("search_path/hostile.sql");

/// The path under which the server's own names are the last to be looked at.
const PATH: &str = "SET search_path = hostile, public, credits, pg_catalog";

/// Calls of every function of the extension: with the arguments that it must have, and with all of them. There is a hold to be
/// captured, and whatever they hold and charge is covered.
fn calls(session: &mut Session) -> Vec<String> {
    session.run(&format!(
        "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('capture_hold 1', '{0}', 1, now() + interval '1 hour');
         INSERT INTO credits.spending_limits (user_id, overdraft_limit) VALUES ('{0}', NULL);
         INSERT INTO credits.spend_caps (user_id, api_key_ids, period, amount) VALUES ('{0}', '{{{0}}}', 'daily', 1)",
        user(1)
    ));
    session.values(
        "SELECT DISTINCT format('SELECT pg_catalog.format(''%%s'', r) FROM credits.%I(%s) r', proname,
                       (SELECT string_agg(CASE format_type(a.oid, NULL)
                                              WHEN 'uuid' THEN quote_literal($1::text) || '::pg_catalog.uuid'
                                              WHEN 'uuid[]' THEN 'ARRAY[' || quote_literal($1::text) || '::pg_catalog.uuid]'
                                              WHEN 'bigint' THEN '1::bigint' WHEN 'xid8' THEN '''1''::pg_catalog.xid8' WHEN 'integer[]' THEN 'ARRAY[1]'
                                              WHEN 'integer' THEN CASE proargnames[n] WHEN 'remainder' THEN '0' ELSE '1' END
                                              WHEN 'numeric' THEN '1::pg_catalog.numeric'
                                              WHEN 'date' THEN '''2000-01-01''::pg_catalog.date'
                                              WHEN 'timestamp with time zone' THEN CASE proargnames[n] WHEN 'period_end' THEN '''2001-01-01''' ELSE '''2000-01-01''' END || '::pg_catalog.timestamptz'
                                              WHEN 'interval' THEN CASE proargnames[n] WHEN 'expires_in' THEN '''1 hour''' ELSE '''0''' END || '::pg_catalog.interval'
                                              WHEN 'numeric[]' THEN '''{1}''::pg_catalog.numeric[]'
                                              WHEN 'text[]' THEN '''{usage,purchase}''::pg_catalog.text[]'
                                              WHEN 'jsonb' THEN CASE proargnames[n] WHEN 'metadata' THEN quote_literal('{\"a\": 1}') ELSE quote_literal(jsonb_build_array(jsonb_build_object(
                                                  'user_id', $1, 'amount', 1, 'transaction_type', 'usage', 'source_id', 'item', 'id', $1, 'category', 'c',
                                                  'created_at', now()))::text) END || '::pg_catalog.jsonb'
                                              WHEN 'regclass' THEN '''credits.credits_transactions''::pg_catalog.regclass'
                                              ELSE CASE WHEN proargnames[n] = 'feed_position' THEN 'NULL'
                                                        WHEN proname IN ('create_hold', 'extend_hold', 'release_hold') AND proargnames[n] = 'source_id' THEN '''hold 1'''
                                                        WHEN proargnames[n] = 'source_id' THEN quote_literal(proname || ' 1') ELSE '''usage''' END || '::pg_catalog.text' END, ', ' ORDER BY n)
                        FROM unnest(proargtypes[0:pronargs - left_out - 1]) WITH ORDINALITY a (oid, n))),
                proname = 'create_transaction'
         FROM pg_proc, unnest(ARRAY[0, pronargdefaults]) left_out
         WHERE pronamespace = 'credits'::regnamespace AND prokind = 'f' AND prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype)
           -- Refused by Postgres 14, which has no views that run for who reads them.
           AND (proname <> 'make_class_views' OR current_setting('server_version_num')::int >= 150000)
           -- Called in the order of a move, below.
           AND proname <> ALL ($2)
         ORDER BY 2, 1",
        &[&user(1).to_string(), &&OF_A_MOVE[..]],
    )
}

/// A bucket is given away, purged and taken again.
fn a_move() -> Vec<String> {
    let handover = r#"{"ledger": "another/1", "seq": 1000000, "position": "1", "accounts": [], "holds": [], "limits": [], "caps": []}"#;
    [
        "start_moving_bucket(7)",
        "stop_moving_bucket(7)",
        "start_moving_bucket(7)",
        "bucket_accounts(7)",
        "give_away_bucket(7) FROM credits.hold_bucket(7)",
        "bucket_handover(7)",
        "purge_bucket(7)",
        "expect_bucket(7, 'another/1')",
        "return_bucket(7)",
        "expect_bucket(7, 'another/1')",
        "receive_transactions(7, '[]', '1')",
        "receive_handover(7, '{}')",
        "activate_bucket(7, '{}')",
    ]
    .map(|call| format!("SELECT credits.{}", call.replace("{}", handover)))
    .to_vec()
}

#[test]
fn nothing_of_a_hostile_user_runs() {
    let db = Database::create();
    let (hostile, app) = (db.create_role("hostile"), db.create_role("app"));
    let mut admin = db.connect();
    admin.run(&format!(
        "CREATE SCHEMA hostile AUTHORIZATION {hostile};
         GRANT USAGE ON SCHEMA credits TO {hostile}, {app};
         GRANT SELECT ON ALL TABLES IN SCHEMA credits TO {app};
         GRANT INSERT ON credits.credits_transactions TO {app};
         GRANT INSERT, UPDATE, DELETE ON credits.holds TO {app};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {app};
         ALTER DATABASE {} SET credits_ledger.checkpoint_interval = 1",
        db.name()
    ));
    db.connect_as(&hostile)
        .run(&format!("{HOSTILE}; GRANT USAGE ON SCHEMA hostile TO {app}; GRANT SELECT ON ALL TABLES IN SCHEMA hostile TO {app}"));
    admin.grant(user(1), dec!(10));
    for _ in 0..4 {
        admin.charge_batch(user(1), Uuid::nil(), dec!(1));
    }
    let calls = calls(&mut admin);
    assert!(calls.len() >= 35, "{calls:#?}");
    let relations: Vec<String> = admin.values(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'credits'::regnamespace AND relkind IN ('r', 'v')",
        &[],
    );

    admin.run(&format!(
        "CREATE TABLE public.source AS
             SELECT id, user_id, transaction_type, amount, 'imported' AS source_id, created_at, seq + 1000 AS seq
             FROM credits.credits_transactions LIMIT 1;
         UPDATE public.source SET id = gen_random_uuid();
         CREATE POLICY every ON credits.credits_transactions TO {app} USING (true)"
    ));

    for (role, is_filtered) in [(SUPERUSER, false), (&app, false), (&app, true)] {
        if is_filtered {
            admin.run("ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY");
        }
        let connect = || {
            let mut session = db.connect_as(role);
            session.run(PATH);
            // Tables without a column, by names that the ledger's own queries use.
            for name in [
                "credits_transactions",
                "batch_aggregates",
                "daily_totals",
                "checkpoints",
                "checkpoint",
                "delta",
                "newest",
                "page",
                "pg_class",
            ] {
                session.run(&format!("CREATE TEMP TABLE {name} ()"));
            }
            session
        };
        let mut victim = connect();
        // The path does what it is meant to do.
        for hijacked in [
            "SELECT 1::numeric < 2::numeric",
            "SELECT now()",
            "SELECT sum(1::numeric)",
            "SELECT 'x'::text",
            "SELECT * FROM http_analytics",
            "SELECT * FROM hostile.credits_transactions",
        ] {
            let error = victim.try_run(hijacked).unwrap_err();
            assert!(format!("{error:?}").contains("hijacked"), "{hijacked}: {error:?}");
        }
        let run = |session: &mut Session, call: &str| {
            if let Err(error) = session.try_run(call) {
                // Some functions refuse to answer from a part of the rows.
                assert!(
                    is_filtered && error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE),
                    "{call}: {error:?}"
                );
            }
        };
        // The views belong to whoever made the first, number and buckets to the owner.
        let of_owner = |call: &&String| {
            ["make_class_views", "set_node_number", "own_buckets"].iter().any(|name| call.contains(name))
        };
        for call in calls.iter().filter(|call| role == SUPERUSER || !of_owner(call)) {
            run(&mut victim, call);
            // And in a session that has planned nothing yet.
            run(&mut connect(), call);
        }
        if role == SUPERUSER {
            a_move().iter().for_each(|call| run(&mut victim, call));
            victim.run("CALL credits.import_transactions('public.source', 10, true)");
        }
        for relation in &relations {
            victim.run(&format!("SELECT pg_catalog.format('%s', r) FROM credits.{relation} r"));
        }
        // Settlement, crossings and refreshes.
        for (kind, amount) in [("usage", 100), ("admin_grant", 200), ("usage", 1)] {
            victim.run(&format!(
                "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                 VALUES ('{}', '{kind}', {amount}, pg_catalog.gen_random_uuid()::pg_catalog.text)",
                user(1)
            ));
        }
    }
    admin.assert_sound();
}

/// A policy, a trigger or a view of the application's runs inside of the ledger's functions under the search_path that it
/// says itself: a temporary table of the caller's does not come before the one that it means.
#[test]
fn functions_of_the_application_keep_their_search_path() {
    let db = Database::create();
    let app = db.create_role("app");
    let (own, foreign) = (user(1), user(2));
    let mut admin = db.connect();
    admin.run(&format!(
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app, credits TO {app};
         CREATE TABLE app.members (member name, user_id uuid); INSERT INTO app.members VALUES ('{app}', '{own}');
         CREATE TABLE app.log (amount numeric);
         CREATE TABLE app.requests (id text, request_origin text); INSERT INTO app.requests VALUES ('recorded', 'web');
         CREATE FUNCTION app.me() RETURNS uuid LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = app, pg_temp
             AS $$ BEGIN RETURN (SELECT user_id FROM members WHERE member = session_user); END $$;
         CREATE FUNCTION app.log() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = app, pg_temp
             AS $$ BEGIN INSERT INTO log VALUES (NEW.amount); RETURN NEW; END $$;
         CREATE FUNCTION app.requests() RETURNS SETOF app.requests LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = app, pg_temp
             AS $$ BEGIN RETURN QUERY SELECT * FROM requests; END $$;
         CREATE POLICY own ON credits.credits_transactions USING (user_id = app.me());
         CREATE TRIGGER log AFTER INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION app.log();
         CREATE VIEW app.http_analytics AS SELECT * FROM app.requests();
         ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         GRANT SELECT ON app.http_analytics TO {app}; GRANT INSERT ON credits.credits_transactions TO {app};
         GRANT SELECT ON ALL TABLES IN SCHEMA credits TO {app}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {app}"
    ));
    admin.grant(own, dec!(10));
    admin.grant(foreign, dec!(20));
    let mut session = db.connect_as(&app);
    session.run(&format!(
        "CREATE TEMP TABLE members (member name, user_id uuid); INSERT INTO members VALUES (session_user, '{foreign}');
         CREATE TEMP TABLE requests (id text, request_origin text); INSERT INTO requests VALUES ('recorded', 'forged');
         CREATE TEMP TABLE log (amount numeric);
         GRANT ALL ON members, requests, log TO PUBLIC;
         SET search_path = app, public"
    ));
    let record = |session: &mut Session, user: Uuid, source_id: &str| {
        session.try_run(&format!("SELECT credits.create_transaction('{user}', 'usage', 1, '{source_id}')"))
    };
    record(&mut session, own, "recorded").unwrap();
    record(&mut session, foreign, "refused").refused("42501");
    assert_eq!((session.balance(own), session.balance(foreign)), (dec!(9), dec!(0)));
    assert_eq!(
        session.value::<String>(
            &format!(
                "SELECT request_origin FROM credits.list_transactions_with_batches('{own}') WHERE source_id = 'recorded'"
            ),
            &[]
        ),
        "web"
    );
    assert_eq!(session.value::<i64>("SELECT count(*) FROM log", &[]), 0);
    assert_eq!(admin.value::<i64>("SELECT count(*) FROM app.log WHERE amount = 1", &[]), 1);
}

/// The caller has its own search_path back after an answer and after an error.
#[test]
fn the_callers_search_path_is_put_back() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    let calls = calls(&mut session);
    let path = |session: &mut Session| session.value::<String>("SHOW search_path", &[]);
    session.run("SET search_path = credits");
    for call in &calls {
        session.run(call);
        assert_eq!(path(&mut session), "credits", "{call}");
    }
    session.run("BEGIN; SET LOCAL search_path = public; SAVEPOINT s");
    // Refused by the index, in the middle of the insert.
    session
        .try_run(&format!(
            "SELECT credits.create_transaction('{}', 'usage', 1, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i))",
            user(1)
        ))
        .refused("54000");
    session.run("ROLLBACK TO s");
    assert_eq!(path(&mut session), "public");
    session.run("COMMIT");
    assert_eq!(path(&mut session), "credits");
}

/// Labels come from a table that the caller's search_path finds, but not from anybody's: a view runs for who reads it.
#[test]
fn labels_come_from_whom_the_caller_trusts() {
    let db = Database::create();
    let roles = ["app", "hostile", "team", "owner"].map(|name| db.create_role(name));
    let [app, hostile, team, owner] = &roles;
    let mut admin = db.connect();
    admin.run(&format!(
        "GRANT {team} TO {app};
         GRANT USAGE ON SCHEMA credits TO {app}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {app};
         GRANT SELECT ON ALL TABLES IN SCHEMA credits TO {app};
         ALTER DATABASE {} OWNER TO {owner}",
        db.name()
    ));
    for schema in ["first", "second"] {
        admin.run(&format!(
            "CREATE SCHEMA {schema}; GRANT ALL ON SCHEMA {schema} TO {};
             CREATE TABLE {schema}.http_analytics AS SELECT '{schema}'::text AS request_origin, 'key'::text AS id;
             GRANT SELECT ON {schema}.http_analytics TO {app}",
            roles.join(", ")
        ));
    }
    admin.run(&format!("SELECT credits.create_transaction('{}', 'usage', 1, 'key')", user(1)));
    let origin = format!("SELECT request_origin FROM credits.list_transactions_with_batches('{}')", user(1));
    let mut sessions = [db.connect(), db.connect_as(app)];
    for session in &mut sessions {
        session.run("SET search_path = first, second");
    }
    for (owner, superuser, client) in [
        (SUPERUSER, "first", "first"),
        (app.as_str(), "second", "first"),
        (team, "second", "first"),
        (owner, "second", "first"),
        (hostile, "second", "second"),
    ] {
        admin.run(&format!(
            "ALTER TABLE first.http_analytics OWNER TO {owner}; GRANT SELECT ON first.http_analytics TO {app}"
        ));
        for (session, expected) in sessions.iter_mut().zip([superuser, client]) {
            assert_eq!(session.value::<String>(&origin, &[]), expected, "owned by {owner}");
        }
    }
    // Whoever may set it knows whose table it names.
    sessions[0].run("SET credits_ledger.analytics_table = 'first.http_analytics'");
    assert_eq!(sessions[0].value::<String>(&origin, &[]), "first");
    drop(sessions);
    admin.run(&format!("ALTER DATABASE {} OWNER TO postgres", db.name()));
}

/// `CREATE EXTENSION` takes the schema as it finds it, and looks into it while its script runs: whoever made it first could
/// have put operators there that fit the script's expressions better than the server's own.
#[test]
fn a_schema_made_beforehand_has_no_say() {
    let db = Database::create_empty();
    let hostile = db.create_role("hostile");
    let mut admin = db.connect();
    admin.run(&format!("GRANT CREATE ON DATABASE {} TO {hostile}", db.name()));
    db.connect_as(&hostile)
        .run(&format!("CREATE SCHEMA credits; {}", HOSTILE.replace("hostile.", "credits.")));
    admin.run("CREATE EXTENSION credits_ledger");
    admin.grant(user(1), dec!(10));
    for _ in 0..3 {
        admin.charge_batch(user(1), Uuid::nil(), dec!(1));
    }
    admin.refresh(user(1));
    admin.charge_batch(user(1), Uuid::nil(), dec!(1));
    let relations: Vec<String> = admin.values(
        "SELECT objid::regclass::text FROM pg_depend JOIN pg_class c ON c.oid = objid
         WHERE deptype = 'e' AND classid = 'pg_class'::regclass AND relkind IN ('r', 'v')",
        &[],
    );
    assert!(relations.len() >= 9, "{relations:?}");
    for relation in relations {
        admin.run(&format!("SELECT format('%s', r) FROM {relation} r"));
    }
    admin.run(&format!("SELECT credits.list_transactions_with_batches('{}'::uuid)", user(1)));
    admin.assert_sound();
}
