//! A database that was updated is the same as one in which the newest version was created.

use std::collections::BTreeSet;

use credits_ledger_tests::{Database, Direction, Refused, Session, Uuid, dec, unguarded, user};

/// The first release.
const OLDEST: &str = "CREATE EXTENSION credits_ledger VERSION '0.1.0'";

/// Every detail of the extension in the catalog, one a line, without oids. `parts` are the members and what belongs to
/// them: indexes, constraints, defaults, triggers, rules, the types of tables.
const CATALOG: &str = "
    WITH RECURSIVE members AS (
        SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON d.refobjid = e.oid
        WHERE d.refclassid = 'pg_extension'::regclass AND e.extname = 'credits_ledger' AND d.deptype = 'e'
    ), parts AS (
        SELECT classid, objid FROM members
        UNION SELECT 'pg_namespace'::regclass, 'credits'::regnamespace::oid
        UNION SELECT 'pg_extension'::regclass, oid FROM pg_extension WHERE extname = 'credits_ledger'
        UNION
        SELECT d.classid, d.objid FROM pg_depend d JOIN parts p ON d.refclassid = p.classid AND d.refobjid = p.objid
        WHERE d.deptype IN ('a', 'i')
    ), relations AS (
        SELECT c.*, c.oid::regclass::text AS name FROM pg_class c
        JOIN parts ON classid = 'pg_class'::regclass AND objid = c.oid WHERE c.relnamespace <> 'pg_toast'::regnamespace
    ), functions AS (
        SELECT p.*, p.oid::regprocedure::text AS name FROM pg_proc p JOIN parts ON classid = 'pg_proc'::regclass AND objid = p.oid
    ), types AS (
        SELECT t.*, format_type(t.oid, NULL) AS name FROM pg_type t JOIN parts ON classid = 'pg_type'::regclass AND objid = t.oid
    )
    SELECT 'extension ' || row(extversion, extrelocatable, extowner::regrole, extnamespace::regnamespace, extcondition) FROM pg_extension
    WHERE extname = 'credits_ledger'
    UNION ALL
    SELECT 'dumped ' || unnest(extconfig)::regclass FROM pg_extension WHERE extname = 'credits_ledger'
    UNION ALL
    SELECT 'member ' || pg_describe_object(classid, objid, 0) FROM members
    UNION ALL
    SELECT concat_ws(' ', 'depends:', pg_describe_object(d.classid, d.objid, d.objsubid), d.deptype,
                     pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid))
    FROM pg_depend d JOIN parts p ON d.classid = p.classid AND d.objid = p.objid
    WHERE pg_describe_object(d.classid, d.objid, d.objsubid) !~ 'pg_toast'
    UNION ALL
    SELECT concat_ws(' ', 'comment on', pg_describe_object(classoid, objoid, objsubid), description)
    FROM pg_description JOIN parts ON classoid = classid AND objoid = objid
    UNION ALL
    SELECT concat_ws(' ', 'initial privileges', pg_describe_object(i.classoid, i.objoid, i.objsubid), privtype, acl)
    FROM pg_init_privs i JOIN parts ON classoid = classid AND objoid = objid, unnest(initprivs) acl
    UNION ALL
    SELECT concat_ws(' ', 'schema', nspname, nspowner::regrole, acl) FROM pg_namespace LEFT JOIN unnest(nspacl) acl ON true
    WHERE nspname = 'credits'
    UNION ALL
    SELECT 'relation ' || row(name, relkind, relpersistence, relowner::regrole, relam, reltablespace, relreplident, relrowsecurity,
                              relforcerowsecurity, relispartition, relnatts, relchecks, relhasrules, relhastriggers)
    FROM relations
    UNION ALL
    SELECT concat_ws(' ', 'option of', name, unnest(reloptions)) FROM relations
    UNION ALL
    SELECT concat_ws(' ', 'privilege on', name, unnest(relacl)) FROM relations
    UNION ALL
    SELECT 'column ' || row(name, attnum, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
                            attstorage, attcompression, attstattarget, attcollation::regcollation, attoptions, attacl, attisdropped,
                            attislocal, atthasmissing, pg_get_expr(adbin, adrelid))
    FROM relations r JOIN pg_attribute a ON attrelid = r.oid LEFT JOIN pg_attrdef ON adrelid = r.oid AND adnum = attnum
    WHERE attnum > 0
    UNION ALL
    SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(c.oid), 'validated:', convalidated)
    FROM pg_constraint c JOIN relations r ON conrelid = r.oid
    UNION ALL
    SELECT concat_ws(' ', 'index', pg_get_indexdef(indexrelid), row(indisprimary, indisexclusion, indimmediate, indisclustered,
                                                                    indisvalid, indisready, indislive, indisreplident))
    FROM pg_index JOIN relations r ON indexrelid = r.oid
    UNION ALL
    SELECT concat_ws(' ', 'sequence', name, row(format_type(seqtypid, NULL), seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle))
    FROM pg_sequence JOIN relations r ON seqrelid = r.oid
    UNION ALL
    SELECT concat_ws(' ', 'trigger', pg_get_triggerdef(t.oid), 'enabled:', tgenabled) FROM pg_trigger t JOIN relations r ON tgrelid = r.oid
    UNION ALL
    SELECT concat_ws(' ', 'rule', pg_get_ruledef(w.oid), 'enabled:', ev_enabled) FROM pg_rewrite w JOIN relations r ON ev_class = r.oid
    UNION ALL
    SELECT concat_ws(' ', 'policy', polname, name, row(polcmd, polpermissive, polroles, pg_get_expr(polqual, polrelid)))
    FROM pg_policy JOIN relations r ON polrelid = r.oid
    UNION ALL
    SELECT concat_ws(' ', 'statistics', pg_get_statisticsobjdef(s.oid)) FROM pg_statistic_ext s JOIN relations r ON stxrelid = r.oid
    UNION ALL
    SELECT 'event trigger ' || row(evtname, evtevent, evtowner::regrole, evtfoid::regprocedure, evtenabled, evttags)
    FROM pg_event_trigger JOIN parts ON classid = 'pg_event_trigger'::regclass AND objid = oid
    UNION ALL
    SELECT concat_ws(' ', 'function', pg_get_functiondef(oid), row(proowner::regrole, prosupport, probin, prosecdef, proleakproof,
                                                                   provolatile, proparallel, procost, prorows, proconfig))
    FROM functions
    UNION ALL
    SELECT concat_ws(' ', 'privilege on', name, acl) FROM functions LEFT JOIN unnest(proacl) acl ON true
    UNION ALL
    SELECT 'type ' || row(name, typtype, typcategory, typowner::regrole, typnotnull, typdefault) FROM types
    UNION ALL
    SELECT concat_ws(' ', 'privilege on type', name, acl) FROM types LEFT JOIN unnest(typacl) acl ON true";

fn catalog(session: &mut Session) -> Vec<String> {
    let mut lines: Vec<String> = session.values(CATALOG, &[]);
    lines.sort();
    lines
}

/// What only one of two catalogs has: `-` the first, `+` the second.
fn difference(first: &[String], second: &[String]) -> Vec<String> {
    let (a, b) = (first.iter().collect::<BTreeSet<_>>(), second.iter().collect::<BTreeSet<_>>());
    let only = |sign: char, lines: Vec<&&String>| {
        lines.into_iter().map(move |line| format!("{sign} {line}")).collect()
    };
    let mut lines: Vec<String> = only('-', a.difference(&b).collect());
    lines.append(&mut only('+', b.difference(&a).collect::<Vec<_>>()));
    if lines.is_empty() && first.len() != second.len() {
        lines.push(format!("{} lines, {} lines: some are repeated", first.len(), second.len()));
    }
    lines
}

#[test]
fn an_updated_database_is_the_same_as_a_fresh_one() {
    let fresh = Database::create();
    let mut fresh = fresh.connect();
    let released: Vec<String> = fresh.values(
        "SELECT version FROM pg_available_extension_versions WHERE name = 'credits_ledger' AND NOT installed",
        &[],
    );
    assert!(!released.is_empty());
    for version in released {
        let old = Database::create_empty();
        let mut updated = old.connect();
        updated.run(&format!("CREATE EXTENSION credits_ledger VERSION '{version}'"));
        let before = catalog(&mut updated);
        assert!(!difference(&before, &catalog(&mut fresh)).is_empty(), "the versions at least differ");
        updated.run("ALTER EXTENSION credits_ledger UPDATE");
        let difference = difference(&catalog(&mut fresh), &catalog(&mut updated));
        assert!(difference.is_empty(), "from {version}, - fresh, + updated:\n{}", difference.join("\n"));
        updated.assert_as_made();
    }
}

/// The comparison sees what an update script could forget.
#[test]
fn the_comparison_sees_every_kind_of_difference() {
    let db = Database::create();
    let mut session = db.connect();
    let before = catalog(&mut session);
    for change in [
        "ALTER TABLE credits.credits_transactions ALTER COLUMN user_id SET STATISTICS 100",
        "ALTER TABLE credits.credits_transactions ENABLE TRIGGER note_transaction",
        "ALTER TABLE credits.credits_transactions RESET (autovacuum_vacuum_threshold)",
        "ALTER TABLE credits.credits_transactions ALTER COLUMN created_at SET DEFAULT now()",
        "ALTER TABLE credits.credits_transactions ALTER COLUMN created_at DROP NOT NULL",
        "ALTER TABLE credits.credits_transactions ALTER COLUMN source_id SET STORAGE plain",
        "ALTER TABLE credits.credits_transactions ALTER COLUMN seq SET GENERATED BY DEFAULT",
        "ALTER TABLE credits.credits_transactions DROP CONSTRAINT batch_is_usage",
        "ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE credits.credits_transactions ADD COLUMN note text",
        "ALTER TABLE credits.credits_transactions ADD COLUMN note text; ALTER TABLE credits.credits_transactions DROP COLUMN note",
        "ALTER SEQUENCE credits.credits_transactions_seq_seq CACHE 2",
        "ALTER EXTENSION credits_ledger DROP VIEW credits.balances",
        "DROP INDEX credits.credits_transactions_created_idx",
        "CREATE OR REPLACE VIEW credits.users_without_checkpoint AS SELECT gen_random_uuid() AS user_id",
        "GRANT SELECT ON credits.balances TO PUBLIC",
        "GRANT SELECT (amount) ON credits.credits_transactions TO PUBLIC",
        "GRANT USAGE ON SCHEMA credits TO PUBLIC",
        "GRANT USAGE ON TYPE credits.credit_transaction TO PUBLIC",
        "GRANT EXECUTE ON FUNCTION credits.get_user_balance TO PUBLIC",
        "COMMENT ON COLUMN credits.credits_transactions.amount IS 'other'",
        "COMMENT ON CONSTRAINT batch_is_usage ON credits.credits_transactions IS NULL",
        "COMMENT ON EXTENSION credits_ledger IS 'other'",
        "ALTER FUNCTION credits.get_user_balance COST 7",
        "ALTER FUNCTION credits.get_user_balance PARALLEL SAFE",
        "ALTER FUNCTION credits.get_user_balance SECURITY DEFINER",
        "ALTER FUNCTION credits.get_user_balance SET search_path = public",
        "ALTER FUNCTION credits.current_xact_id SUPPORT pg_catalog.generate_series_int4_support",
        "UPDATE pg_extension SET extconfig = extconfig[1:1], extcondition = extcondition[1:1] WHERE extname = 'credits_ledger'",
        "UPDATE pg_extension SET extcondition[1] = 'WHERE false' WHERE extname = 'credits_ledger'",
        "DELETE FROM pg_init_privs WHERE objoid = 'credits.balances'::regclass",
    ] {
        session.run(&format!("BEGIN; {}", unguarded(change)));
        let after = catalog(&mut session);
        session.run("ROLLBACK");
        assert!(!difference(&before, &after).is_empty(), "{change}");
    }
}

/// Rows and checkpoints as 0.1.0 left them. They are written in SQL, for its library is not here.
fn fill(session: &mut Session) {
    session.run(OLDEST);
    session.run(&format!(
        "SET timezone = 'UTC';
         ALTER TABLE credits.credits_transactions DISABLE TRIGGER note_transaction;
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
         SELECT ('{user_0}'::text || lpad(to_hex(n % 5), 2, '0'))::uuid, CASE WHEN n < 50 THEN 'purchase' ELSE 'usage' END,
                1.000000000000001 * (n % 7 + 1), 'old-' || n, CASE WHEN n >= 50 AND n % 3 = 0 THEN '{batch}'::uuid END
         FROM generate_series(0, 199) n;
         INSERT INTO credits.user_balance_checkpoints (user_id, checkpoint_seq, balance, updated_at, transaction_count, watermark,
                                                      stragglers, is_positive)
         SELECT user_id, max(seq), sum(CASE transaction_type WHEN 'purchase' THEN amount ELSE -amount END), now(), count(*),
                max(xact_id::text)::xid8, '{{}}', sum(CASE transaction_type WHEN 'purchase' THEN amount ELSE -amount END) > 0
         FROM credits.credits_transactions GROUP BY user_id;
         UPDATE credits.user_balance_checkpoints SET watermark = (watermark::text::bigint + 1)::text::xid8;
         INSERT INTO credits.batch_aggregates
         SELECT fusillade_batch_id, user_id, sum(amount), count(*), max(seq), min(created_at), now()
         FROM credits.credits_transactions WHERE fusillade_batch_id IS NOT NULL GROUP BY 1, 2",
        user_0 = &user(0).to_string()[..34],
        batch = Uuid::from_u128(7),
    ));
    // In a transaction of its own, which no checkpoint covers.
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
         SELECT user_id, 'usage', 0.5, 'late-' || user_id, '{}' FROM credits.user_balance_checkpoints;
         ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER note_transaction",
        Uuid::from_u128(7)
    ));
}

/// What was recorded before the update is exact after it, and crossings are announced from there on.
#[test]
fn a_ledger_keeps_its_money_through_an_update() {
    let db = Database::create_empty();
    let mut session = db.connect();
    fill(&mut session);
    let summed = "SELECT string_agg(concat_ws(' ', user_id, trim_scale(balance)), ',' ORDER BY user_id) FROM (
                      SELECT user_id, sum(CASE transaction_type WHEN 'purchase' THEN amount ELSE -amount END) AS balance
                      FROM credits.credits_transactions GROUP BY user_id) sums";
    // The columns that the oldest version has.
    let columns: String = session.value(
        "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
         WHERE attrelid = 'credits.credits_transactions'::regclass AND attnum > 0",
        &[],
    );
    let rows = &format!(
        "SELECT string_agg(ROW({columns})::text, ',' ORDER BY seq) FROM credits.credits_transactions"
    );
    let (balances, kept): (String, String) = (session.value(summed, &[]), session.value(rows, &[]));
    session.run("ALTER EXTENSION credits_ledger UPDATE");
    // Nothing is added up by day yet.
    let days = "SELECT format('%s %s', count(*) > 0, (SELECT count(*) FROM credits.user_balance_checkpoints WHERE has_days))
                FROM credits.daily_totals";
    assert_eq!(session.value::<String>(days, &[]), "f 0");
    let read = "SELECT string_agg(concat_ws(' ', user_id, trim_scale(balance)), ',' ORDER BY user_id) FROM credits.balances";
    assert_eq!(session.value::<String>(read, &[]), balances);
    assert_eq!(session.value::<String>(rows, &[]), kept);
    // Each account is below zero; the half credit that it was charged last is in no checkpoint yet.
    let folded: i64 =
        session.value("SELECT sum(transaction_count)::bigint FROM credits.user_balance_checkpoints", &[]);
    assert_eq!(folded, 200);
    session.assert_sound();
    let mut listener = db.listen();
    for number in 0..5 {
        session.grant(user(number), dec!(0.1));
        assert_eq!(listener.crossings(), []);
        session.grant(user(number), dec!(1000));
        assert_eq!(listener.crossings(), [(user(number), Direction::Up)]);
        session.refresh(user(number));
    }
    session.assert_sound();
    assert_eq!(session.value::<String>(days, &[]), "f 0");
    session.run("CALL credits.fill_daily_totals()");
    crate::days::assert_exact(&mut session);
    assert_eq!(session.value::<String>(days, &[]), "t 5");
    session.grant(user(0), dec!(1));
    session.refresh(user(0));
    crate::days::assert_exact(&mut session);
    session.assert_sound();
}

/// The update changes the default of ids alone, and one that somebody has set not even that.
#[test]
fn ids_are_made_anew_after_an_update_unless_the_owner_says_how() {
    for (own, default) in [
        (None, "credits.uuid_v7()"),
        (Some("SET DEFAULT md5(random()::text)::uuid"), "(md5((random())::text))::uuid"),
        (Some("DROP DEFAULT"), ""),
    ] {
        let db = Database::create_empty();
        let mut session = db.connect();
        fill(&mut session);
        if let Some(own) = own {
            session.run(&format!("ALTER TABLE credits.credits_transactions ALTER COLUMN id {own}"));
        }
        let stored = "SELECT format('%s %s', pg_relation_filenode('credits.credits_transactions'),
                                    (SELECT string_agg(id::text, ',' ORDER BY seq) FROM credits.credits_transactions))";
        let before: String = session.value(stored, &[]);
        session.run("ALTER EXTENSION credits_ledger UPDATE");
        assert_eq!(session.value::<String>(stored, &[]), before);
        let found: String = session.value(
            "SELECT coalesce((SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef
                              WHERE adrelid = 'credits.credits_transactions'::regclass AND adnum = 1), '')",
            &[],
        );
        assert_eq!(found, default);
        let checks: Vec<String> = session.values("SELECT check_name FROM credits.verify_installation()", &[]);
        let expected: &[&str] = match own {
            None => &[],
            Some("DROP DEFAULT") => &["column"],
            Some(_) => &["left out of dumps"],
        };
        assert_eq!(checks, expected, "{own:?}");
        if !default.is_empty() {
            session.grant(user(1), dec!(1));
            session.assert_sound();
        }
    }
}

/// Some reads would count a child's rows, and others not: nothing is attached from the update on.
#[test]
fn an_attached_ledger_is_not_updated() {
    for (attach, detach) in [
        (
            "CREATE TABLE parent (user_id uuid NOT NULL); ALTER TABLE credits.credits_transactions INHERIT parent",
            "ALTER TABLE credits.credits_transactions NO INHERIT parent",
        ),
        (
            "CREATE TABLE child () INHERITS (credits.credits_transactions)",
            "ALTER TABLE child NO INHERIT credits.credits_transactions",
        ),
        ("CREATE TABLE child () INHERITS (credits.user_balance_checkpoints)", "DROP TABLE child"),
    ] {
        let db = Database::create_empty();
        let mut session = db.connect();
        session.run(&format!("{OLDEST}; {attach}"));
        let error = session.try_run("ALTER EXTENSION credits_ledger UPDATE").refused("55000");
        assert!(error.message().contains("attached"), "{error:?}");
        assert!(error.hint().is_some(), "{error:?}");
        session.run(detach);
        session.run("ALTER EXTENSION credits_ledger UPDATE");
        session.grant(user(1), dec!(1));
        session.assert_sound();
    }
}

/// A column of somebody's own comes before those that the update adds.
#[test]
fn a_ledger_with_a_column_more_goes_on() {
    let db = Database::create_empty();
    let mut session = db.connect();
    fill(&mut session);
    session.run(
        "ALTER TABLE credits.credits_transactions ADD COLUMN tenant_id int;
         ALTER TABLE credits.user_balance_checkpoints ADD COLUMN note text;
         ALTER EXTENSION credits_ledger UPDATE",
    );
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, tenant_id, category, metadata)
         VALUES ('{}', 'purchase', 1000, 'new', 7, 'c', '{{}}')",
        user(0)
    ));
    session.refresh(user(0));
    session.assert_sound();
    session.try_run("ALTER TABLE credits.credits_transactions DROP COLUMN category").refused("2BP01");
    session
        .try_run("ALTER TABLE credits.credits_transactions RENAME COLUMN category TO other")
        .refused("55000");
}
