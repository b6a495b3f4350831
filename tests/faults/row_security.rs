//! Row-level security of a ledger is the same after every way to dump and to restore it: what the catalog says of it, and
//! what every role sees and may write.

use std::process::{Command, Stdio};
use std::sync::Arc;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::contents::SILENT;
use credits_ledger_tests::{Database, Refused, Session, dec, user};

use crate::dumps::{Way, dump, new_database, restore};

/// Members of a group of tenants, one of them with a restriction, one of them with a role of its own besides.
const ROLES: &str = r#"
    CREATE ROLE tenants;
    CREATE ROLE alice LOGIN IN ROLE tenants;
    CREATE ROLE bob LOGIN IN ROLE tenants;
    CREATE ROLE "o'Hara ""x""" LOGIN;
    CREATE ROLE owner LOGIN"#;
const LOGINS: [&str; 4] = ["alice", "bob", "o'Hara \"x\"", "owner"];

/// What policies refer to; a dump of data alone does not bring it.
const APPLICATION: &str = "
    CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC;
    CREATE TABLE app.accounts (name text, user_id uuid); GRANT SELECT ON app.accounts TO PUBLIC;
    CREATE FUNCTION app.is_small(amount numeric) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT amount < 100'";

const POLICIES: &str = r#"
    CREATE POLICY own ON credits.credits_transactions TO tenants
        USING (EXISTS (SELECT FROM app.accounts a WHERE a.name = CURRENT_USER AND a.user_id = credits_transactions.user_id));
    CREATE POLICY "of o'Hara" ON credits.credits_transactions FOR SELECT TO "o'Hara ""x""" USING (transaction_type <> 'usage');
    CREATE POLICY "writes" ON credits.credits_transactions FOR INSERT TO "o'Hara ""x""", alice WITH CHECK (description = 'mine');
    CREATE POLICY small ON credits.credits_transactions AS RESTRICTIVE USING (app.is_small(amount));
    CREATE POLICY usage_only ON credits.credits_transactions AS RESTRICTIVE FOR INSERT TO bob WITH CHECK (transaction_type = 'usage');
    CREATE POLICY owners ON credits.credits_transactions TO owner USING (user_id::text LIKE '%1');
    ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"#;

/// Not dumped, as ever: who owns a table of an extension.
const PRIVILEGES: &str = r#"
    GRANT USAGE ON SCHEMA credits TO tenants, "o'Hara ""x""", owner;
    GRANT SELECT, INSERT ON credits.credits_transactions TO tenants, "o'Hara ""x""", owner;
    GRANT EXECUTE ON FUNCTION credits.get_user_balance TO tenants, "o'Hara ""x""""#;

/// A cluster with the roles.
fn cluster_with_roles() -> Arc<Cluster> {
    let cluster = Cluster::start();
    cluster.execute("postgres", ROLES);
    cluster
}

/// A ledger of three users with all kinds of policies.
fn create_ledger(cluster: &Arc<Cluster>) -> Database {
    let db = Database::create_in(cluster);
    let mut admin = db.connect();
    for number in 0..3 {
        admin.grant(user(number), dec!(1000));
        admin.grant(user(number), dec!(1));
        admin.charge(user(number), dec!(2));
    }
    admin.run(&format!("{APPLICATION}; {POLICIES}; {PRIVILEGES}"));
    for (name, number) in [("alice", 0), ("alice", 1), ("bob", 1)] {
        admin.execute("INSERT INTO app.accounts VALUES ($1, $2)", &[&name, &user(number)]).unwrap();
    }
    db
}

/// The catalog's word.
fn policies(session: &mut Session) -> Vec<String> {
    session.values(
        "SELECT p::text FROM pg_policies p WHERE schemaname = 'credits'
         UNION ALL SELECT concat_ws(' ', relname, relrowsecurity, relforcerowsecurity) FROM pg_class
         WHERE relnamespace = 'credits'::regnamespace AND relkind = 'r' ORDER BY 1",
        &[],
    )
}

/// What every role sees, and what it may insert.
fn seen(db: &Database) -> Vec<String> {
    let mut lines = Vec::new();
    for role in LOGINS {
        let mut session = db.connect_as(role);
        let rows: String = session.value(
            "SELECT coalesce(string_agg(concat_ws(' ', user_id, amount), ', ' ORDER BY seq), 'nothing')
             FROM credits.credits_transactions",
            &[],
        );
        lines.push(format!("{role}: {rows}"));
        for (kind, description, amount) in
            [("usage", "mine", 1), ("usage", "mine", 500), ("usage", "other", 1), ("purchase", "mine", 1)]
        {
            session.run("BEGIN");
            let inserted = session.try_run(&format!(
                "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, description)
                 VALUES ('{}', '{kind}', {amount}, 'tried', '{description}')",
                user(1)
            ));
            if inserted.is_err() {
                inserted.refused("42501");
                lines.push(format!("{role} may not insert {kind} {description} {amount}"));
            }
            session.run("ROLLBACK");
        }
    }
    lines
}

#[track_caller]
fn assert_same(ledger: &Database, restored: &Database) {
    let (mut session, mut other) = (ledger.connect(), restored.connect());
    assert_eq!(policies(&mut other), policies(&mut session));
    assert_eq!(seen(restored), seen(ledger));
    let problems: Vec<String> = other.values("SELECT d::text FROM credits.dumped_row_security d", &[]);
    assert_eq!(problems, [""; 0]);
    other.assert_sound();
    other.assert_as_made();
}

/// Pipes a dump with these options into psql, which must print nothing.
fn pipe(from: &Database, options: &[&str], into: &Database, role: &str) -> String {
    let mut pg_dump = from.cluster().program("pg_dump");
    pg_dump.args(options).arg(from.name()).env("PGUSER", role).stdout(Stdio::piped());
    let mut dumping = pg_dump.spawn().unwrap();
    let mut psql = into.cluster().program("psql");
    psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null", into.name()]);
    let restored = complaint(psql.env("PGOPTIONS", SILENT).stdin(dumping.stdout.take().unwrap()));
    assert!(dumping.wait().unwrap().success());
    restored
}

/// What a program that succeeds says on its standard error.
fn complaint(program: &mut Command) -> String {
    let output = program.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn every_way_to_restore_keeps_tenants_apart() {
    let cluster = cluster_with_roles();
    let ledger = create_ledger(&cluster);
    // The ledger tells its tenants apart, or all of this would prove nothing.
    assert_eq!(seen(&ledger).len(), LOGINS.len() + 6);
    for (number, way) in Way::ALL.into_iter().enumerate() {
        println!("{way:?}");
        let file = cluster.folder().join(format!("dump_{number}"));
        dump(&ledger, way, &file);
        let restored = new_database(&cluster, &format!("restored_{number}"), way.template());
        if way.template() != "template0" {
            restored.connect().run(&format!("{APPLICATION}; {PRIVILEGES}"));
        }
        restore(&file, way, &restored, SILENT);
        assert_same(&ledger, &restored);
        if way.template() != "template0" {
            // Again, over what is there: rows would be there twice, policies stay.
            restored.connect().run("SET credits_ledger.allow_drop = on; DROP EXTENSION credits_ledger; CREATE EXTENSION credits_ledger; DELETE FROM app.accounts");
            restored.connect().run(&format!("{PRIVILEGES}; {POLICIES}"));
            restore(&file, way, &restored, SILENT);
            assert_same(&ledger, &restored);
        }
    }
    for (number, options) in
        [&["--inserts"][..], &["--column-inserts", "--rows-per-insert=5"], &["--clean", "--if-exists"]]
            .into_iter()
            .enumerate()
    {
        println!("{options:?}");
        let restored = new_database(&cluster, &format!("inserted_{number}"), "template0");
        assert_eq!(pipe(&ledger, options, &restored, "postgres"), "");
        assert_same(&ledger, &restored);
    }
    // From what was restored, and section by section.
    let copy = Database::open(&cluster, "restored_0");
    let restored = new_database(&cluster, "sections", "template0");
    for section in ["--section=pre-data", "--section=data", "--section=post-data"] {
        assert_eq!(pipe(&copy, &[section], &restored, "postgres"), "");
    }
    assert_same(&ledger, &restored);
}

/// A role's new name is the one that is dumped, and policies that are gone are not.
#[test]
fn a_dump_has_what_there_is_when_it_is_taken() {
    let cluster = cluster_with_roles();
    let ledger = create_ledger(&cluster);
    let mut admin = ledger.connect();
    admin.run(
        "ALTER ROLE bob RENAME TO robert; ALTER POLICY small ON credits.credits_transactions RENAME TO tiny;
         DROP OWNED BY owner; DROP FUNCTION app.is_small CASCADE; DROP POLICY usage_only ON credits.credits_transactions;
         ALTER TABLE credits.credits_transactions NO FORCE ROW LEVEL SECURITY",
    );
    admin.run(&format!("{PRIVILEGES}; UPDATE app.accounts SET name = 'robert' WHERE name = 'bob'; ALTER ROLE robert RENAME TO bob"));
    let restored = new_database(&cluster, "restored", "template0");
    assert_eq!(pipe(&ledger, &[], &restored, "postgres"), "");
    assert_same(&ledger, &restored);
    // Where it is off, it stays off.
    admin.run("ALTER TABLE credits.credits_transactions DISABLE ROW LEVEL SECURITY");
    let restored = new_database(&cluster, "open", "template0");
    assert_eq!(pipe(&ledger, &[], &restored, "postgres"), "");
    assert_same(&ledger, &restored);
}

/// A dump of one database does not bring its roles: whoever has one of these names later sees nothing of it until somebody
/// says so.
#[test]
fn roles_that_are_missing_are_told() {
    let (cluster, new) = (cluster_with_roles(), Cluster::start());
    let ledger = create_ledger(&cluster);
    new.execute("postgres", &ROLES.replace("CREATE ROLE bob LOGIN IN ROLE tenants;", ""));
    let restored = new_database(&new, "restored", "template0");
    let mut program = cluster.program("pg_dump");
    let dumped = program.args(["--no-privileges", ledger.name()]).output().unwrap();
    let file = new.folder().join("dump");
    std::fs::write(&file, dumped.stdout).unwrap();
    let mut psql = new.program("psql");
    psql.args([
        "--no-psqlrc",
        "--quiet",
        "--set=ON_ERROR_STOP=1",
        "--output=/dev/null",
        "restored",
        "--file",
    ])
    .arg(&file);
    let told = complaint(&mut psql);
    assert!(told.contains("WARNING:  policy \"usage_only\" on credits_transactions cannot be made as it was: role \"bob\" does not exist"), "{told}");
    assert!(
        told.contains("HINT:  When that is mended: SELECT * FROM credits.restore_row_security()."),
        "{told}"
    );
    let mut admin = restored.connect();
    admin.run("CREATE ROLE bob LOGIN IN ROLE tenants");
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA app TO PUBLIC; GRANT SELECT ON app.accounts TO PUBLIC; {PRIVILEGES}"
    ));
    let left: i64 = admin.value("SELECT count(*) FROM credits.restore_row_security()", &[]);
    assert_eq!(left, 0);
    assert_same(&ledger, &restored);
}

/// Whoever dumps needs to be no superuser.
#[test]
fn a_role_that_reads_everything_dumps_policies_too() {
    let cluster = cluster_with_roles();
    let ledger = create_ledger(&cluster);
    cluster.execute("postgres", "CREATE ROLE dumper LOGIN BYPASSRLS IN ROLE pg_read_all_data");
    let restored = new_database(&cluster, "restored", "template0");
    assert_eq!(pipe(&ledger, &[], &restored, "dumper"), "");
    assert_same(&ledger, &restored);
}

/// Nothing has to be said again after an update.
#[test]
fn policies_from_before_an_update_are_dumped() {
    let cluster = cluster_with_roles();
    let old = new_database(&cluster, "old", "template0");
    let mut admin = old.connect();
    admin.run("CREATE EXTENSION credits_ledger VERSION '0.2.0'");
    admin.run(&format!("{APPLICATION}; {POLICIES}; {PRIVILEGES}; ALTER EXTENSION credits_ledger UPDATE"));
    let before = policies(&mut admin);
    let restored = new_database(&cluster, "restored", "template0");
    assert_eq!(pipe(&old, &[], &restored, "postgres"), "");
    assert_eq!(policies(&mut restored.connect()), before);
    assert_eq!(before.iter().filter(|line| line.starts_with("(credits,credits_transactions,")).count(), 6);
}
