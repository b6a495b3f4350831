//! Row-level security that a restore brings is made at once, or the tenant sees nothing and somebody is told. What pg_dump
//! itself does is tried in the target `faults`.

use credits_ledger_tests::{Database, Refused, Session, dec, unguarded, user};

/// What a dump carries.
const CARRIED: &str = "SELECT r::text FROM credits.row_security() r";

/// What a dump would carry of this setting, and the warnings of a restore that brings it to an empty database.
fn carried(session: &mut Session, setting: &str) -> Vec<String> {
    session.run(&format!("BEGIN; {setting}"));
    let rows = session.values(CARRIED, &[]);
    session.run("ROLLBACK");
    rows
}

fn restore(session: &mut Session, rows: &[String]) {
    for row in rows {
        session.run(&format!(
            "INSERT INTO credits.dumped_row_security SELECT ($row${row}$row$::credits.dumped_row_security).*"
        ));
    }
}

/// Why what was restored could not be made.
fn problems(session: &mut Session) -> Vec<String> {
    session.values("SELECT problem FROM credits.dumped_row_security ORDER BY policy", &[])
}

/// A role that may read and write, as far as it is let.
fn create_tenant(db: &Database, name: &str) -> (String, Session) {
    let role = db.create_role(name);
    grant(&mut db.connect(), &role);
    let session = db.connect_as(&role);
    (role, session)
}

fn grant(admin: &mut Session, role: &str) {
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT SELECT, INSERT ON credits.credits_transactions TO {role}"
    ));
}

/// The users whose rows it sees, by number.
fn seen(session: &mut Session) -> Vec<i64> {
    session.values(
        "SELECT DISTINCT ('x' || right(user_id::text, 2))::bit(8)::bigint FROM credits.credits_transactions ORDER BY 1",
        &[],
    )
}

fn own(name: &str, role: &str, number: u32) -> String {
    format!(
        "CREATE POLICY {name} ON credits.credits_transactions TO {role} USING (user_id = '{}');",
        user(number)
    )
}

const ENABLE: &str = "ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;";

#[test]
fn whatever_a_policy_says_comes_back_as_it_was() {
    let db = Database::create();
    let mut admin = db.connect();
    let ((one, _), (two, _)) = (create_tenant(&db, "one"), create_tenant(&db, "two"));
    admin.run(
        "CREATE SCHEMA app; CREATE TABLE app.member (name text, user_id uuid);
         CREATE FUNCTION app.may_see(uuid) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true'",
    );
    let catalog = "SELECT concat_ws(' ', relrowsecurity, relforcerowsecurity, (SELECT string_agg(p::text, E'\\n' ORDER BY policyname) FROM pg_policies p))
                   FROM pg_class WHERE oid = 'credits.credits_transactions'::regclass";
    let force = "ALTER TABLE credits.credits_transactions FORCE ROW LEVEL SECURITY;";
    let policy = |rest: &str| format!("CREATE POLICY p ON credits.credits_transactions {rest};");
    let mut all = String::new();
    let mut settings = vec![ENABLE.to_owned(), force.to_owned(), format!("{ENABLE}{force}")];
    let policies = [
        "USING (true)".to_owned(),
        "USING (NULL)".to_owned(),
        "WITH CHECK (amount < 5)".to_owned(),
        "FOR SELECT USING (app.may_see(user_id))".to_owned(),
        format!("FOR INSERT TO {one} WITH CHECK (transaction_type = 'usage')"),
        format!("FOR UPDATE TO {two}, {one} USING (amount > 1) WITH CHECK (amount > 2)"),
        format!("FOR DELETE TO {two} USING (description ~ $$it's; DROP \"x\"$$)"),
        "AS RESTRICTIVE USING (amount < 100)".to_owned(),
        "AS RESTRICTIVE FOR INSERT WITH CHECK (seq > 0)".to_owned(),
        format!("AS RESTRICTIVE FOR SELECT TO {one} USING (metadata->>'shown' IS DISTINCT FROM 'no')"),
        format!(
            "TO {one} USING (EXISTS (SELECT FROM app.member m WHERE m.user_id = credits_transactions.user_id AND m.name = current_user))"
        ),
        "TO CURRENT_USER USING (user_id::text = current_setting('app.user', true))".to_owned(),
    ];
    for (number, rest) in policies.iter().enumerate() {
        settings.push(format!("{ENABLE}{}", policy(rest)));
        // Without ENABLE it sleeps.
        settings.push(policy(rest));
        all.push_str(&policy(rest).replace(" p ", &format!(" \"p'{number} \"\"q\"\"\" ")));
    }
    settings.push(all);
    for setting in settings {
        admin.run(&format!("BEGIN; {setting}"));
        let before: String = admin.value(catalog, &[]);
        admin.run("ROLLBACK");
        let rows = carried(&mut admin, &setting);
        admin.run("BEGIN");
        // Whatever the order of the rows, and twice: it is there already then.
        for restored in [rows.iter().rev().cloned().collect::<Vec<_>>(), rows] {
            restore(&mut admin, &restored);
            assert_eq!(admin.value::<String>(catalog, &[]), before, "{setting}");
        }
        assert_eq!(problems(&mut admin), [""; 0], "{setting}");
        admin.run("ROLLBACK");
    }
    assert_eq!(admin.values::<String>(CARRIED, &[]), [""; 0]);
    admin.run(&format!("DROP OWNED BY {one}, {two}; DROP ROLE {one}, {two}"));
}

/// A dump of one database does not bring the roles along.
#[test]
fn a_role_that_does_not_exist_is_left_out() {
    let db = Database::create();
    let mut admin = db.connect();
    let ((one, _), (two, mut second)) = (create_tenant(&db, "one"), create_tenant(&db, "two"));
    (1..=3).for_each(|number| admin.grant(user(number), dec!(1)));
    let rows = carried(
        &mut admin,
        &format!(
            "{ENABLE}{}{}CREATE POLICY small ON credits.credits_transactions AS RESTRICTIVE TO {one} USING (amount < 1)",
            own("first", &one, 1),
            own("shared", &format!("{one}, {two}"), 2)
        ),
    );
    admin.run(&format!("DROP OWNED BY {one}; DROP ROLE {one}"));
    restore(&mut admin, &rows);
    assert_eq!(seen(&mut second), [2]);
    let problem = format!("role \"{one}\" does not exist");
    assert_eq!(problems(&mut admin), [&*problem, &*problem, &*problem]);
    // Still not: nothing is forgotten by trying.
    assert_eq!(admin.values::<String>("SELECT policy FROM credits.restore_row_security()", &[]).len(), 3);
    // The dump of such a database brings all of it to the next.
    let still = carried(&mut admin, "");
    assert_eq!(still.len(), rows.len());
    admin.run(&format!("CREATE ROLE {one} LOGIN"));
    grant(&mut admin, &one);
    let mut first = db.connect_as(&one);
    assert_eq!(seen(&mut first), [0; 0], "nothing before somebody says so");
    admin.run(
        "BEGIN; DROP POLICY shared ON credits.credits_transactions; DELETE FROM credits.dumped_row_security",
    );
    restore(&mut admin, &still);
    assert_eq!(problems(&mut admin), [""; 0]);
    admin.run("ROLLBACK");
    assert_eq!(admin.values::<String>("SELECT policy FROM credits.restore_row_security()", &[]), [""; 0]);
    assert_eq!(admin.values::<String>(CARRIED, &[]), rows);
    assert_eq!((seen(&mut first), seen(&mut second)), (vec![], vec![2]));
    admin.run("DROP POLICY small ON credits.credits_transactions");
    assert_eq!(seen(&mut first), [1, 2]);
    admin.run(&format!("DROP OWNED BY {one}, {two}; DROP ROLE {one}, {two}"));
}

/// What a policy refers to may be restored later, or not at all: nobody sees more meanwhile.
#[test]
fn a_policy_that_cannot_be_made_shows_nothing() {
    let function = "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC;
                    CREATE FUNCTION app.may_see(uuid) RETURNS boolean LANGUAGE sql AS 'SELECT right($1::text, 1) < ''3''';";
    let db = Database::create();
    let mut admin = db.connect();
    let (role, mut tenant) = create_tenant(&db, "one");
    (1..=3).for_each(|number| admin.grant(user(number), dec!(1)));
    for (kind, others, closed, open) in [
        ("PERMISSIVE", "", vec![], vec![1, 2]),
        (
            "RESTRICTIVE",
            "CREATE POLICY every ON credits.credits_transactions USING (true);",
            vec![],
            vec![1, 2],
        ),
        ("PERMISSIVE", &*own("own", "PUBLIC", 3), vec![3], vec![1, 2, 3]),
    ] {
        let setting = format!(
            "{ENABLE}{others}{function}CREATE POLICY called ON credits.credits_transactions AS {kind} USING (app.may_see(user_id))"
        );
        let rows = carried(&mut admin, &setting);
        for restored in [rows.iter().rev().cloned().collect::<Vec<_>>(), rows] {
            restore(&mut admin, &restored);
            assert_eq!(seen(&mut tenant), closed, "{setting}");
            assert_eq!(problems(&mut admin), ["schema \"app\" does not exist"]);
            // Denied for writing, too.
            tenant.insert(user(1), "admin_grant", dec!(1)).refused("42501");
            admin.run(function);
            assert_eq!(
                admin.values::<String>("SELECT policy FROM credits.restore_row_security()", &[]),
                [""; 0]
            );
            assert_eq!(seen(&mut tenant), open, "{setting}");
            admin.run(
                "ALTER TABLE credits.credits_transactions DISABLE ROW LEVEL SECURITY;
                 DROP SCHEMA app CASCADE; DROP POLICY IF EXISTS every ON credits.credits_transactions;
                 DROP POLICY IF EXISTS own ON credits.credits_transactions",
            );
            assert_eq!(admin.values::<String>(CARRIED, &[]), [""; 0]);
        }
    }
    // For every command that a restrictive policy may be for.
    for rest in [
        "SELECT USING",
        "INSERT WITH CHECK",
        "UPDATE USING",
        "UPDATE WITH CHECK",
        "DELETE USING",
        "ALL WITH CHECK",
    ] {
        let (command, clause) = rest.split_once(' ').unwrap();
        let setting = format!(
            "{function}CREATE POLICY called ON credits.credits_transactions AS RESTRICTIVE FOR {command} {clause} (app.may_see(user_id))"
        );
        let rows = carried(&mut admin, &setting);
        admin.run("BEGIN");
        restore(&mut admin, &rows);
        let expressions: Vec<String> = admin.values(
            "SELECT concat_ws(' ', cmd, qual, with_check) FROM pg_policies WHERE schemaname = 'credits'",
            &[],
        );
        let both = if ["UPDATE", "ALL"].contains(&command) { "false false" } else { "false" };
        assert_eq!(expressions, [format!("{command} {both}")]);
        admin.run(function);
        admin.run("SELECT credits.restore_row_security()");
        assert_eq!(admin.values::<String>(CARRIED, &[]), rows);
        admin.run("ROLLBACK");
    }
    admin.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// As with any other table, what is there already stays.
#[test]
fn a_policy_that_is_there_already_stays() {
    let db = Database::create();
    let mut admin = db.connect();
    let (role, mut tenant) = create_tenant(&db, "one");
    (1..=3).for_each(|number| admin.grant(user(number), dec!(1)));
    let rows = carried(&mut admin, &format!("{ENABLE}{}", own("own", "PUBLIC", 1)));
    admin.run(&own("own", &role, 2));
    restore(&mut admin, &rows);
    assert_eq!(seen(&mut tenant), [2]);
    assert_eq!(problems(&mut admin), [""; 0]);
    // For fewer roles, too: nothing says that a restore has left it so.
    admin.run(
        "INSERT INTO credits.dumped_row_security
         SELECT table_name, kind, policy, is_permissive, command, roles || '{postgres}', using_expression
         FROM credits.row_security() WHERE policy = 'own'",
    );
    assert_eq!(
        admin.values::<i32>("SELECT cardinality(roles) FROM pg_policies WHERE schemaname = 'credits'", &[]),
        [1]
    );
    // Nor is it replaced by one that could not be made before.
    admin.run("INSERT INTO credits.dumped_row_security VALUES ('credits_transactions', 'policy', 'own', true, 'ALL', '{nobody}', 'x.y()', NULL, NULL)");
    assert_eq!(seen(&mut tenant), [2]);
    admin.run("INSERT INTO credits.dumped_row_security VALUES ('credits_transactions', 'policy', 'own', false, 'ALL', NULL, 'true', NULL, 'once')");
    assert_eq!(seen(&mut tenant), [2]);
    assert_eq!(problems(&mut admin), [""; 0]);
    admin.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// Row by row, what closes the table comes before what opens it; and the triggers of a session that applies what others have
/// recorded fire, too.
#[test]
fn a_restore_row_by_row_never_shows_more() {
    let db = Database::create();
    let mut admin = db.connect();
    let (role, mut tenant) = create_tenant(&db, "one");
    (1..=3).for_each(|number| admin.grant(user(number), dec!(1)));
    let rows = carried(
        &mut admin,
        &format!(
            "{}{ENABLE}CREATE POLICY z ON credits.credits_transactions AS RESTRICTIVE USING (user_id <> '{}')",
            own("a", "PUBLIC", 1).replace('=', "IS NOT DISTINCT FROM"),
            user(1)
        ),
    );
    admin.run("SET session_replication_role = replica");
    let mut seen_after = vec![seen(&mut tenant)];
    for row in &rows {
        restore(&mut admin, std::slice::from_ref(row));
        seen_after.push(seen(&mut tenant));
    }
    assert_eq!(seen_after, [vec![1, 2, 3], vec![], vec![], vec![]]);
    assert_eq!(admin.values::<String>(CARRIED, &[]), rows);
    admin.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// What it holds is run as SQL by whoever restores.
#[test]
fn only_the_owner_says_what_is_restored() {
    let db = Database::create();
    let mut admin = db.connect();
    let (role, mut tenant) = create_tenant(&db, "one");
    admin.run(&format!(
        "GRANT ALL ON ALL TABLES IN SCHEMA credits TO {role}; GRANT ALL ON ALL FUNCTIONS IN SCHEMA credits TO {role};
         ALTER TABLE credits.credits_transactions OWNER TO {role}"
    ));
    let insert = "INSERT INTO credits.dumped_row_security VALUES ('credits_transactions', 'policy', 'p', true, 'ALL', NULL, 'true', NULL, NULL)";
    for refused in [
        insert,
        "INSERT INTO credits.dumped_row_security SELECT FROM generate_series(1, 0)",
        "SET session_replication_role = DEFAULT; UPDATE credits.dumped_row_security SET policy = 'x'",
        "DELETE FROM credits.dumped_row_security",
        "TRUNCATE credits.dumped_row_security",
        "COPY credits.dumped_row_security FROM PROGRAM 'true'",
    ] {
        tenant.try_run(refused).refused("42501");
    }
    // The owner of the ledger needs no more than that: its policies are dumped as anybody's.
    tenant.run("CREATE POLICY p ON credits.credits_transactions USING (true)");
    assert_eq!(tenant.values::<String>(CARRIED, &[]).len(), 1);
    assert_eq!(tenant.values::<String>("SELECT policy FROM credits.restore_row_security()", &[]), [""; 0]);
    tenant.run("DROP POLICY p ON credits.credits_transactions");
    admin.run(&format!("ALTER TABLE credits.dumped_row_security OWNER TO {role}"));
    tenant.run(insert);
    assert_eq!(tenant.values::<String>(CARRIED, &[]).len(), 1);
    admin.run(&format!(
        "ALTER TABLE credits.dumped_row_security OWNER TO postgres; ALTER TABLE credits.credits_transactions OWNER TO postgres;
         DROP OWNED BY {role}; DROP ROLE {role}"
    ));
}

/// A restore with several jobs fills the tables while their policies are made. A commit has one of them and comes to need
/// another, whichever: it goes on, and the policies wait until then.
#[test]
fn policies_are_made_beside_sessions_that_fill_the_tables() {
    const TABLES: [&str; 4] = ["credits_transactions", "holds", "spend_caps", "spending_limits"];
    let db = Database::create();
    for filled in [
        format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) VALUES ('{}', 'purchase', 1, gen_random_uuid())",
            user(1)
        ),
        format!(
            "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES (gen_random_uuid(), '{}', 0.1, now() + '1 hour')",
            user(1)
        ),
        format!("INSERT INTO credits.spend_caps (user_id, amount) VALUES ('{}', 1000)", user(1)),
        format!("INSERT INTO credits.spending_limits (user_id) VALUES ('{}')", user(2)),
    ] {
        for first in TABLES {
            let (mut filling, mut admin) = (db.connect(), db.connect());
            filling.run("BEGIN");
            filling.run(&filled);
            let others = TABLES.into_iter().filter(|&table| table != first);
            let rows = std::iter::once(first).chain(others).map(|table| format!("('{table}', 'enable', '')"));
            let made = format!(
                "INSERT INTO credits.dumped_row_security VALUES {}",
                rows.collect::<Vec<_>>().join(", ")
            );
            admin.run("BEGIN");
            let making = admin.background(move |admin| admin.try_run(&made));
            db.until_blocked(making.pid());
            filling.run("COMMIT");
            let (mut admin, outcome) = making.finish();
            outcome.unwrap();
            admin.run("ROLLBACK");
            filling.run("DELETE FROM credits.holds; DELETE FROM credits.spend_caps; DELETE FROM credits.spending_limits");
        }
    }
    db.connect().assert_sound();
}

/// A session that does not want to wait is told so, and has no lock of them left.
#[test]
fn policies_do_not_wait_for_longer_than_the_session_allows() {
    let db = Database::create();
    let (mut filling, mut admin) = (db.connect(), db.connect());
    filling.run("BEGIN");
    filling.grant(user(1), dec!(1));
    admin.run("SET lock_timeout = '20ms'; BEGIN; SAVEPOINT before");
    for table in ["credits_transactions", "holds"] {
        admin
            .try_run(&format!("INSERT INTO credits.dumped_row_security VALUES ('{table}', 'enable', '')"))
            .refused("55P03");
        admin.run("ROLLBACK TO before");
    }
    let kept: i64 = admin.value(
        "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND mode = 'AccessExclusiveLock'",
        &[],
    );
    assert_eq!(kept, 0);
    filling.run("COMMIT");
    admin.run("COMMIT");
}

/// The trigger function makes nothing of rows of other tables.
#[test]
fn another_table_restores_nothing() {
    let db = Database::create();
    let mut admin = db.connect();
    admin.run(
        "CREATE TABLE public.imposter (LIKE credits.dumped_row_security);
         CREATE TRIGGER make BEFORE INSERT ON public.imposter FOR EACH ROW EXECUTE FUNCTION credits.make_row_security()",
    );
    admin.try_run("INSERT INTO public.imposter SELECT 'credits_transactions', 'enable', ''").refused("39P01");
    for timing in ["AFTER INSERT", "BEFORE UPDATE", "BEFORE DELETE"] {
        admin.run(
            "BEGIN; INSERT INTO credits.dumped_row_security
                    VALUES ('credits_transactions', 'policy', 'p', true, 'ALL', '{nobody}', 'true')",
        );
        admin.run(&unguarded(&format!(
            "DROP TRIGGER make_row_security ON credits.dumped_row_security;
             CREATE TRIGGER make {timing} ON credits.dumped_row_security FOR EACH ROW EXECUTE FUNCTION credits.make_row_security()"
        )));
        let change = if timing.contains("INSERT") {
            "INSERT INTO credits.dumped_row_security VALUES ('credits_transactions', 'enable', '')"
        } else if timing.contains("UPDATE") {
            "UPDATE credits.dumped_row_security SET policy = 'q'"
        } else {
            "DELETE FROM credits.dumped_row_security"
        };
        admin.try_run(change).refused("39P01");
        admin.run("ROLLBACK");
    }
}
