//! `verify_installation` finds whatever is no longer as the extension made it, and nothing else.

use credits_ledger_tests::{Database, Session, dec, user};

/// What the guard would refuse, was done before it was there.
const UNGUARDED: &str = "ALTER EVENT TRIGGER credits_ledger_guard DISABLE;
                         ALTER EVENT TRIGGER credits_ledger_guard_end DISABLE;
                         ALTER EVENT TRIGGER credits_ledger_guard_rewrite DISABLE;";

fn findings(session: &mut Session) -> Vec<(String, String, String)> {
    let rows = session.query("SELECT * FROM credits.verify_installation()", &[]).unwrap();
    rows.iter().map(|row| (row.get("check_name"), row.get("object"), row.get("detail"))).collect()
}

/// The change, and the one row that it makes: its check, object, and a part of its detail.
const CHANGES: &[(&str, &str, &str, &str)] = &[
    ("ALTER TABLE credits.credits_transactions DISABLE TRIGGER append_only", "trigger", "credits_transactions.append_only", ", disabled; was: "),
    ("ALTER TABLE credits.credits_transactions ENABLE TRIGGER note_transaction", "trigger", "credits_transactions.note_transaction", ", not in replication; was: "),
    ("ALTER TABLE credits.credits_transactions ENABLE REPLICA TRIGGER append_only_applied", "trigger", "credits_transactions.append_only_applied", ", in replication only; was: "),
    ("ALTER TABLE credits.credits_transactions ENABLE REPLICA TRIGGER append_only", "trigger", "credits_transactions.append_only", ", in replication only; was: "),
    ("DROP TRIGGER append_only ON credits.credits_transactions", "trigger", "credits_transactions.append_only", "is missing; it was: "),
    ("CREATE OR REPLACE TRIGGER append_only BEFORE UPDATE OR DELETE ON credits.credits_transactions FOR EACH STATEMENT EXECUTE FUNCTION credits.refuse_change();
      ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER append_only", "trigger", "credits_transactions.append_only", "BEFORE DELETE OR UPDATE FOR EACH"),
    ("ALTER TABLE credits.user_balance_checkpoints ENABLE TRIGGER announce_change", "trigger", "user_balance_checkpoints.announce_change", "not in replication"),
    ("ALTER TABLE credits.batch_aggregates DISABLE TRIGGER leave_out_replicated", "trigger", "batch_aggregates.leave_out_replicated", "disabled"),
    ("ALTER TABLE credits.dumped_row_security ENABLE TRIGGER make_row_security", "trigger", "dumped_row_security.make_row_security", "not in replication"),
    ("CREATE TRIGGER own AFTER INSERT ON credits.user_balance_checkpoints EXECUTE FUNCTION app.nothing()", "trigger", "user_balance_checkpoints.own", "trigger, is not of the extension: "),
    ("ALTER TABLE credits.holds DISABLE TRIGGER note_hold", "trigger", "holds.note_hold", "disabled"),
    ("DROP TRIGGER only_extended ON credits.holds", "trigger", "holds.only_extended", "is missing; it was: AFTER UPDATE FOR EACH ROW"),
    ("ALTER TABLE credits.spending_limits ENABLE ALWAYS TRIGGER set_updated_at", "trigger", "spending_limits.set_updated_at", ", always; was: BEFORE UPDATE"),
    ("ALTER TABLE credits.spending_limits ENABLE TRIGGER note_all_limits", "trigger", "spending_limits.note_all_limits", "not in replication"),
    ("ALTER TABLE credits.spending_limits ALTER COLUMN overdraft_limit SET DEFAULT 5", "column", "spending_limits.overdraft_limit", "DEFAULT 5"),
    ("DROP INDEX credits.holds_user_idx", "index", "holds.holds_user_idx", "is missing; it was: btree (user_id, expires_at)"),
    ("ALTER TABLE credits.user_balance_checkpoints RENAME COLUMN thresholds_below TO other", "column", "user_balance_checkpoints.thresholds_below", "is missing; it was: smallint"),
    ("DROP INDEX credits.credits_transactions_delta_idx", "index", "credits_transactions.credits_transactions_delta_idx", "is missing; it was: btree (user_id, xact_id)"),
    (
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'credits.credits_transactions_seq_idx'::regclass",
        "index", "credits_transactions.credits_transactions_seq_idx", ", not valid; was: unique",
    ),
    ("UPDATE pg_index SET indisready = false WHERE indexrelid = 'credits.batch_aggregates_pkey'::regclass", "index", "batch_aggregates.batch_aggregates_pkey", ", not ready"),
    (
        "DROP INDEX credits.credits_transactions_delta_idx; CREATE INDEX credits_transactions_delta_idx ON credits.credits_transactions (user_id, seq)",
        "index", "credits_transactions.credits_transactions_delta_idx", "is: btree (user_id, seq); was: btree (user_id, xact_id)",
    ),
    ("ALTER TABLE credits.daily_totals DISABLE TRIGGER leave_out_replicated", "trigger", "daily_totals.leave_out_replicated", "disabled"),
    ("CREATE INDEX own ON credits.batch_aggregates (user_id)", "index", "batch_aggregates.own", "not of the extension"),
    ("ALTER TABLE credits.credits_transactions ALTER COLUMN created_at SET DEFAULT now()", "column", "credits_transactions.created_at", "DEFAULT now(); was: "),
    ("ALTER TABLE credits.credits_transactions ALTER COLUMN id DROP DEFAULT", "column", "credits_transactions.id", "is: uuid NOT NULL; was: "),
    ("ALTER TABLE credits.credits_transactions ALTER COLUMN description SET DEFAULT 'none'", "column", "credits_transactions.description", "DEFAULT 'none'"),
    ("ALTER TABLE credits.credits_transactions ALTER COLUMN created_at DROP NOT NULL", "column", "credits_transactions.created_at", "is: timestamp with time zone DEFAULT"),
    ("ALTER TABLE credits.credits_transactions ALTER COLUMN seq SET GENERATED BY DEFAULT", "column", "credits_transactions.seq", "BY DEFAULT AS IDENTITY; was: "),
    ("ALTER TABLE credits.dumped_row_security ALTER COLUMN problem TYPE text COLLATE \"C\"", "column", "dumped_row_security.problem", "COLLATE C"),
    ("ALTER TABLE credits.credits_transactions ADD COLUMN note text", "column", "credits_transactions.note", "not of the extension: text"),
    ("ALTER TABLE credits.batch_aggregates RENAME COLUMN updated_at TO changed_at", "column", "batch_aggregates.updated_at", "is missing"),
    ("ALTER TABLE credits.batch_aggregates ALTER COLUMN total_amount SET STATISTICS 100", "column", "batch_aggregates.total_amount", "was: numeric NOT NULL STATISTICS 0"),
    ("ALTER TABLE credits.credits_transactions DROP CONSTRAINT batch_is_usage", "constraint", "credits_transactions.batch_is_usage", "is missing"),
    (
        "ALTER TABLE credits.credits_transactions DROP CONSTRAINT transaction_type_is_known; ALTER TABLE credits.credits_transactions ADD CONSTRAINT transaction_type_is_known CHECK (true)",
        "constraint", "credits_transactions.transaction_type_is_known", "is: CHECK (true); was: ",
    ),
    ("ALTER TABLE credits.user_balance_checkpoints ADD CONSTRAINT own CHECK (balance > 0)", "constraint", "user_balance_checkpoints.own", "not of the extension"),
    ("ALTER TABLE credits.user_balance_checkpoints SET UNLOGGED", "relation", "user_balance_checkpoints", "is: unlogged table"),
    ("ALTER TABLE credits.user_balance_checkpoints DISABLE ROW LEVEL SECURITY", "relation", "user_balance_checkpoints", "is: table; was: table, row-level security"),
    ("ALTER TABLE credits.batch_aggregates FORCE ROW LEVEL SECURITY", "relation", "batch_aggregates", "row-level security, forced"),
    ("ALTER TABLE credits.dumped_row_security ENABLE ROW LEVEL SECURITY", "relation", "dumped_row_security", "is: table, row-level security"),
    ("CREATE POLICY own ON credits.batch_aggregates USING (true)", "policy", "batch_aggregates.own", "not of the extension"),
    ("CREATE TABLE app.child () INHERITS (credits.batch_aggregates)", "relation", "batch_aggregates", "inherited by app.child"),
    ("CREATE TABLE app.parent (id uuid NOT NULL); ALTER TABLE credits.credits_transactions INHERIT app.parent", "relation", "credits_transactions", "inherits from app.parent"),
    ("CREATE RULE own AS ON INSERT TO credits.credits_transactions DO INSTEAD NOTHING", "rule", "credits_transactions.own", "not of the extension"),
    ("ALTER SEQUENCE credits.credits_transactions_seq_seq CACHE 2", "relation", "credits_transactions_seq_seq", "cache 2"),
    ("ALTER SEQUENCE credits.credits_transactions_seq_seq CYCLE", "relation", "credits_transactions_seq_seq", "cycle"),
    ("ALTER SEQUENCE credits.credits_transactions_seq_seq MAXVALUE 1000", "relation", "credits_transactions_seq_seq", "to 1000"),
    ("ALTER SEQUENCE credits.credits_transactions_seq_seq INCREMENT 2", "relation", "credits_transactions_seq_seq", "by 2"),
    ("ALTER VIEW credits.balances RESET (security_barrier)", "relation", "balances", "is: view; was: view, security barrier"),
    ("ALTER TABLE credits.batch_aggregates RENAME TO elsewhere", "relation", "batch_aggregates", "is missing"),
    ("ALTER EXTENSION credits_ledger DROP TABLE credits.batch_aggregates", "relation", "batch_aggregates", "not a member of the extension"),
    (
        "ALTER EXTENSION credits_ledger DROP TABLE credits.credits_transactions; ALTER EXTENSION credits_ledger ADD TABLE credits.credits_transactions",
        "relation", "credits_transactions", "is: table; was: table, dumped",
    ),
    ("UPDATE pg_extension SET extcondition[1] = 'WHERE false' WHERE extname = 'credits_ledger'", "relation", "credits_transactions", "dumped WHERE false"),
    ("ALTER EVENT TRIGGER credits_ledger_guard DISABLE", "event trigger", "credits_ledger_guard", ", disabled"),
    ("ALTER EVENT TRIGGER credits_ledger_guard_end ENABLE", "event trigger", "credits_ledger_guard_end", ", not in replication"),
    ("ALTER EXTENSION credits_ledger DROP EVENT TRIGGER credits_ledger_guard_rewrite; DROP EVENT TRIGGER credits_ledger_guard_rewrite", "event trigger", "credits_ledger_guard_rewrite", "is missing"),
    ("ALTER FUNCTION credits.verify_ledger() SECURITY DEFINER", "function", "verify_ledger()", "SECURITY DEFINER"),
    ("ALTER FUNCTION credits.verify_ledger() RESET search_path", "function", "verify_ledger()", "no search_path"),
    (
        "INSERT INTO credits.dumped_row_security VALUES ('credits_transactions', 'policy', 'p', true, 'ALL', '{nobody}', 'true')",
        "row security", "credits_transactions.p", "role \"nobody\" does not exist",
    ),
    ("ALTER TABLE credits.dumped_row_security DISABLE TRIGGER ALL; INSERT INTO credits.dumped_row_security VALUES ('credits_transactions', 'enable', '');
      ALTER TABLE credits.dumped_row_security ENABLE ALWAYS TRIGGER make_row_security;
      ALTER TABLE credits.dumped_row_security ENABLE ALWAYS TRIGGER owner_only", "row security", "credits_transactions", "was not tried"),
    ("CREATE TABLE credits.own (id uuid); ALTER EXTENSION credits_ledger ADD TABLE credits.own", "relation", "own", "not of the extension: table"),
    // An application's own.
    ("ALTER TABLE credits.credits_transactions ALTER COLUMN id SET DEFAULT gen_random_uuid()", "left out of dumps", "credits_transactions.id", "is: uuid NOT NULL DEFAULT gen_random_uuid(); was: "),
    ("ALTER TABLE credits.credits_transactions ALTER COLUMN id SET DEFAULT md5('fixed')::uuid", "left out of dumps", "credits_transactions.id", "DEFAULT (md5"),
    ("CREATE INDEX own ON credits.credits_transactions (amount)", "left out of dumps", "credits_transactions.own", "index, is not of the extension: btree (amount)"),
    ("ALTER TABLE credits.credits_transactions ADD CHECK (amount < 100)", "left out of dumps", "credits_transactions.credits_transactions_amount_check", "constraint, "),
    ("CREATE TRIGGER own AFTER INSERT ON credits.credits_transactions EXECUTE FUNCTION app.nothing()", "left out of dumps", "credits_transactions.own", "trigger, "),
    ("CREATE TRIGGER own AFTER INSERT ON credits.spending_limits EXECUTE FUNCTION app.nothing()", "left out of dumps", "spending_limits.own", "trigger, "),
    ("CREATE INDEX own ON credits.holds (api_key_id)", "left out of dumps", "holds.own", "index, "),
];

/// What Postgres 14 does not have.
const SINCE_15: &[(&str, &str, &str, &str)] = &[
    (
        "CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler; ALTER TABLE credits.batch_aggregates SET ACCESS METHOD other",
        "relation",
        "batch_aggregates",
        "access method other",
    ),
    (
        "ALTER VIEW credits.balances SET (security_invoker = true)",
        "relation",
        "balances",
        "security barrier, security invoker",
    ),
];

#[test]
fn every_kind_of_change_is_found() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "CREATE SCHEMA app; CREATE FUNCTION app.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         SET client_min_messages = error",
    );
    session.assert_as_made();
    let since_15 = session.server_version() >= 150_000;
    for &(change, check, object, detail) in CHANGES.iter().chain(if since_15 { SINCE_15 } else { &[] }) {
        let is_of_guard = check == "event trigger";
        session.run(&format!("BEGIN; {} {change}", if is_of_guard { "" } else { UNGUARDED }));
        let mut found = findings(&mut session);
        session.run("ROLLBACK");
        if !is_of_guard {
            assert_eq!(found.iter().filter(|(check, ..)| check == "event trigger").count(), 3, "{change}");
            found.retain(|(check, ..)| check != "event trigger");
        }
        let of_object: Vec<_> = found
            .iter()
            .filter(|found| found.1.strip_prefix("credits.").unwrap_or(&found.1) == object)
            .collect();
        assert_eq!(of_object.len(), 1, "{change}: {found:#?}");
        assert_eq!(of_object[0].0, check, "{change}");
        assert!(of_object[0].2.contains(detail), "{change}: {:?}", of_object[0]);
        // A table that is renamed is missing, and there is another: what they have is not listed. A column that is renamed, likewise.
        assert_eq!(found.len(), if change.contains("RENAME") { 2 } else { 1 }, "{change}: {found:#?}");
    }
    session.assert_as_made();
}

/// Definitions are compared as texts, which the server writes as the session likes them.
#[test]
fn what_a_session_sets_makes_no_difference() {
    let db = Database::create();
    let mut session = db.connect();
    for setting in [
        "quote_all_identifiers = on",
        "standard_conforming_strings = off",
        "datestyle = 'German'",
        "intervalstyle = 'sql_standard'",
        "timezone = 'Asia/Kathmandu'",
        "extra_float_digits = -15",
        "bytea_output = 'escape'",
        "search_path = 'credits'",
        "search_path = ''",
    ] {
        session.run(&format!("SET {setting}"));
        assert_eq!(findings(&mut session), [], "{setting}");
        session.run("DROP EXTENSION credits_ledger; CREATE EXTENSION credits_ledger");
        assert_eq!(findings(&mut session), [], "made under {setting}");
        session.run("RESET ALL");
    }
}

#[test]
fn what_is_for_others_to_say_is_not_reported() {
    let db = Database::create();
    let role = db.create_role("owner");
    let mut session = db.connect();
    session.grant(user(1), dec!(1));
    session.run("SET client_min_messages = error");
    for change in [
        "ALTER TABLE credits.credits_transactions VALIDATE CONSTRAINT batch_is_usage",
        "ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON credits.credits_transactions USING (true)",
        "ALTER TABLE credits.holds ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON credits.holds USING (true)",
        "ALTER TABLE credits.spending_limits ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON credits.spending_limits USING (true)",
        "ALTER TABLE credits.credits_transactions SET (autovacuum_vacuum_threshold = 7)",
        "ALTER TABLE credits.credits_transactions ALTER COLUMN user_id SET STATISTICS 77",
        "ALTER TABLE credits.credits_transactions ALTER COLUMN description SET STATISTICS 0, ALTER COLUMN description SET STORAGE MAIN",
        "ALTER INDEX credits.credits_transactions_pkey SET (fillfactor = 70)",
        "ALTER INDEX credits.credits_transactions_auto_topup_idx SET (deduplicate_items = off)",
        "ALTER INDEX credits.credits_transactions_stamp_idx SET (pages_per_range = 32)",
        "ALTER INDEX credits.credits_transactions_stamp_idx RESET (autosummarize)",
        "CLUSTER credits.credits_transactions USING credits_transactions_pkey",
        "CREATE PUBLICATION own FOR ALL TABLES",
        "CREATE TABLE public.own (id uuid REFERENCES credits.credits_transactions); CREATE VIEW public.look AS TABLE credits.balances",
        "CREATE FUNCTION credits.own() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; CREATE TABLE credits.own ()",
        "GRANT ALL ON ALL TABLES IN SCHEMA credits TO PUBLIC",
        "REINDEX TABLE credits.credits_transactions",
        "VACUUM FULL credits.credits_transactions",
        "REINDEX TABLE CONCURRENTLY credits.credits_transactions",
    ] {
        session.run(change);
        session.assert_as_made();
    }
    session.run(&format!("ALTER TABLE credits.credits_transactions OWNER TO {role}"));
    session.assert_as_made();
    session.run(&format!("ALTER TABLE credits.credits_transactions OWNER TO postgres; DROP ROLE {role}"));
}

/// It reads catalogs only: whoever may call it is told all, but for what a table holds that it may not read.
#[test]
fn it_can_be_asked_by_whoever_reads_catalogs() {
    let db = Database::create();
    let role = db.create_role("watcher");
    let mut admin = db.connect();
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT EXECUTE ON FUNCTION credits.verify_installation TO {role};
         SET client_min_messages = error; CREATE INDEX own ON credits.credits_transactions (amount);
         INSERT INTO credits.dumped_row_security VALUES ('credits_transactions', 'policy', 'p', true, 'ALL', '{{nobody}}', 'true')"
    ));
    let mut watcher = db.connect_as(&role);
    watcher.run("BEGIN READ ONLY");
    let checks =
        |session: &mut Session| findings(session).into_iter().map(|(check, ..)| check).collect::<Vec<_>>();
    assert_eq!(checks(&mut watcher), ["left out of dumps"]);
    admin.run(&format!("GRANT SELECT ON credits.dumped_row_security TO {role}"));
    assert_eq!(checks(&mut watcher), ["left out of dumps", "row security"]);
    if admin.server_version() >= 170_000 {
        admin.run("SET event_triggers = off");
        assert_eq!(checks(&mut admin), ["event trigger", "left out of dumps", "row security"]);
    }
    admin.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}
