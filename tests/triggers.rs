//! Triggers of the application on the ledger: `create_transaction` gives them what an INSERT gives them, and gives its caller
//! what they do.

use credits_ledger_tests::{Database, Refused, Session, dec, user};
use postgres::Error;
use postgres::error::DbError;

/// Makes the table that triggers write to, and `BEFORE` and `AFTER` triggers of both levels that write what they are to it.
const LOGGING: &str = "
    CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY, what text);
    CREATE FUNCTION log_statement() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO log (what) SELECT concat_ws(' ', tg_when, tg_level, count(*), min(source_id)) FROM inserted;
        RETURN NULL;
    END $$;
    CREATE FUNCTION log_other() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO log (what) VALUES (concat_ws(' ', tg_when, tg_level, tg_op, pg_trigger_depth()));
        RETURN NEW;
    END $$;
    CREATE TRIGGER t1 BEFORE INSERT ON credits.credits_transactions FOR EACH STATEMENT EXECUTE FUNCTION log_other();
    CREATE TRIGGER t2 BEFORE INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION log_other();
    CREATE TRIGGER t3 AFTER INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION log_other();
    CREATE TRIGGER t4 AFTER INSERT ON credits.credits_transactions REFERENCING NEW TABLE AS inserted
        FOR EACH STATEMENT EXECUTE FUNCTION log_statement()";

fn insert(session: &mut Session, source_id: &str) -> Result<(), Error> {
    session.try_run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         VALUES ('{}', 'usage', 1, '{source_id}') ON CONFLICT (source_id) DO NOTHING",
        user(1)
    ))
}

fn create(session: &mut Session, source_id: &str) -> Result<(), Error> {
    session.try_run(&format!("SELECT credits.create_transaction('{}', 'usage', 1, '{source_id}')", user(1)))
}

type Way = fn(&mut Session, &str) -> Result<(), Error>;

const WAYS: [(&str, Way); 2] = [("INSERT", insert), ("create_transaction", create)];

/// A trigger with this body, before each row.
fn before_each_row(session: &mut Session, body: &str) {
    session.run(&format!(
        "CREATE FUNCTION before_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
         CREATE TRIGGER before_row BEFORE INSERT ON credits.credits_transactions
             FOR EACH ROW EXECUTE FUNCTION before_row()"
    ));
}

#[test]
fn the_same_triggers_fire() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(LOGGING);
    for (number, (way, record)) in (0..).zip(WAYS) {
        let source_id = format!("key {number}");
        // Of a row that is there already, too.
        for expected in [
            vec![
                "BEFORE STATEMENT INSERT 1",
                "BEFORE ROW INSERT 1",
                "AFTER ROW INSERT 1",
                "AFTER STATEMENT 1 key",
            ],
            vec!["BEFORE STATEMENT INSERT 1", "BEFORE ROW INSERT 1", "AFTER STATEMENT 0"],
        ] {
            session.run("TRUNCATE log");
            record(&mut session, &source_id).unwrap();
            let fired: Vec<String> =
                session.values("SELECT regexp_replace(what, 'key .', 'key') FROM log ORDER BY n", &[]);
            assert_eq!(fired, expected, "{way}");
        }
    }
    assert_eq!(session.balance(user(1)), dec!(-2));
    session.assert_sound();
}

/// Everything that an error says, but for the line of the statement that ran into it.
fn all_of(error: &DbError) -> Vec<Option<String>> {
    let outer = |context: &str| !context.contains("INSERT INTO credits.credits_transactions");
    let context: Vec<&str> = error.where_().unwrap_or_default().lines().filter(|line| outer(line)).collect();
    let texts = [
        Some(error.code().code()),
        Some(error.message()),
        error.detail(),
        error.hint(),
        error.schema(),
        error.table(),
        error.column(),
        error.datatype(),
        error.constraint(),
    ];
    texts.into_iter().map(|text| text.map(str::to_owned)).chain([Some(context.join("\n"))]).collect()
}

#[test]
fn errors_arrive_as_they_were_raised() {
    let db = Database::create();
    let mut session = db.connect();
    before_each_row(
        &mut session,
        "IF NEW.source_id LIKE 'own%' THEN
            RAISE EXCEPTION USING errcode = 'P0099', message = 'mine', detail = 'my detail', hint = 'my hint', schema = 'my schema',
                table = 'my table', column = 'my column', datatype = 'my type', constraint = 'my rule';
         ELSIF NEW.source_id LIKE 'server%' THEN PERFORM 1 / 0;
         END IF;
         RETURN NEW;",
    );
    session.run(
        "CREATE TABLE accounts (id uuid PRIMARY KEY);
         ALTER TABLE credits.credits_transactions ADD CONSTRAINT account_is_known FOREIGN KEY (user_id) REFERENCES accounts",
    );
    for (source_id, code) in [("own", "P0099"), ("server", "22012"), ("unknown account", "23503")] {
        let [by_insert, by_function] = WAYS.map(|(_, record)| record(&mut session, source_id).refused(code));
        assert_eq!(all_of(&by_insert), all_of(&by_function));
        let context = by_function.where_().unwrap_or_default();
        assert!(context.contains("INSERT INTO credits.credits_transactions"), "{by_function:?}");
    }
    // A block that catches it goes on, as often as it likes, and sees all of it.
    session.run(&format!(
        "DO $$
         DECLARE rule text;
         BEGIN
            FOR i IN 1..1000 LOOP
                BEGIN
                    PERFORM credits.create_transaction('{}', 'usage', 1, 'own');
                    RAISE 'not refused';
                EXCEPTION WHEN SQLSTATE 'P0099' THEN
                    GET STACKED DIAGNOSTICS rule = CONSTRAINT_NAME;
                    ASSERT rule = 'my rule';
                END;
            END LOOP;
         END $$",
        user(1)
    ));
    session.run(&format!("INSERT INTO accounts VALUES ('{}')", user(1)));
    create(&mut session, "fine").unwrap();
    assert_eq!(session.balance(user(1)), dec!(-1));
}

/// An error passes calls within calls.
#[test]
fn errors_arrive_from_calls_within_triggers() {
    let db = Database::create();
    let mut session = db.connect();
    before_each_row(
        &mut session,
        "IF NEW.source_id LIKE '%!!!' THEN RAISE EXCEPTION USING errcode = 'P0099', message = 'too deep', constraint = 'depth'; END IF;
         PERFORM credits.create_transaction(NEW.user_id, 'usage', 1, NEW.source_id || '!');
         RETURN NEW;",
    );
    for (way, record) in WAYS {
        let error = record(&mut session, "x").refused("P0099");
        assert_eq!((error.message(), error.constraint()), ("too deep", Some("depth")), "{way}");
        let depth = error.where_().unwrap_or_default().matches("before_row() line").count();
        assert_eq!(depth, 4, "{error:?}");
    }
}

/// A policy is asked by every read.
#[test]
fn errors_of_policies_arrive_as_they_were_raised() {
    let db = Database::create();
    let role = db.create_role("app");
    let mut admin = db.connect();
    admin.run(&format!(
        "CREATE FUNCTION forbid() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION USING errcode = 'P0099', message = 'forbidden', constraint = 'my rule'; END $$;
         ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY nobody ON credits.credits_transactions USING (forbid());
         GRANT USAGE ON SCHEMA credits TO {role}; GRANT ALL ON credits.credits_transactions TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role}"
    ));
    admin.grant(user(1), dec!(1));
    let mut session = db.connect_as(&role);
    let id = user(1);
    for call in [
        format!("create_transaction('{id}', 'usage', 1, 'x')"),
        format!("list_user_transactions('{id}')"),
        "count_all_transactions()".to_owned(),
        format!("get_user_balance('{id}')"),
        format!("calculate_balance_with_seq('{id}')"),
        format!("get_users_balances_bulk('{{{id}}}')"),
        format!("refresh_checkpoints_bulk('{{{id}}}')"),
    ] {
        let error = session.try_run(&format!("SELECT credits.{call}")).refused("P0099");
        assert_eq!((error.message(), error.constraint()), ("forbidden", Some("my rule")), "{call}");
        assert!(error.where_().is_some_and(|context| context.contains("function forbid()")), "{error:?}");
    }
}

#[test]
fn triggers_have_the_callers_search_path() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "CREATE SCHEMA first; CREATE SCHEMA second; CREATE TABLE first.seen (source_id text); CREATE TABLE second.seen (source_id text)",
    );
    before_each_row(&mut session, "INSERT INTO seen VALUES (NEW.source_id); RETURN NEW;");
    for (number, schema) in ["first", "second", "first"].into_iter().enumerate() {
        for (way, record) in WAYS {
            session.run(&format!("SET search_path = {schema}, public; TRUNCATE seen"));
            let source_id = format!("{way} {number}");
            record(&mut session, &source_id).unwrap();
            assert_eq!(session.values::<String>("SELECT source_id FROM seen", &[]), [source_id]);
        }
    }
}

/// What nobody has recorded is no success, and not the fault of another transaction.
#[test]
fn a_row_that_a_trigger_leaves_out_is_said_to_be() {
    let bodies = [
        ("left out", "RETURN NULL;"),
        (
            "recorded for another",
            "IF NEW.source_id LIKE 'x%' THEN
              INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
              VALUES (gen_random_uuid(), 'usage', 1, 'in place of ' || NEW.source_id);
              RETURN NULL;
          END IF;
          RETURN NEW;",
        ),
        ("a source_id that is taken", "NEW.source_id := 'taken'; RETURN NEW;"),
    ];
    for (what, body) in bodies {
        let db = Database::create();
        let mut session = db.connect();
        create(&mut session, "taken").unwrap();
        before_each_row(&mut session, body);
        let error = create(&mut session, "x").refused("09000");
        assert!(
            error.message().contains("\"x\"") && error.message().contains("trigger"),
            "{what}: {error:?}"
        );
        assert!(error.hint().is_some(), "{what}: {error:?}");
        // A retry of what is there finds it, whatever triggers do now.
        create(&mut session, "taken").unwrap();
        session
            .try_run(&format!("SELECT credits.create_transaction('{}', 'usage', 2, 'taken')", user(1)))
            .refused("23505");
        assert_eq!(session.balance(user(1)), dec!(-1), "{what}");
        session.assert_sound();
    }
}

/// Where row-level security hides the row that has the `source_id`, no trigger is blamed.
#[test]
fn a_row_that_the_caller_may_not_see_is_not_left_out() {
    let db = Database::create();
    let role = db.create_role("app");
    let mut admin = db.connect();
    create(&mut admin, "taken").unwrap();
    before_each_row(&mut admin, "IF NEW.source_id = 'x' THEN RETURN NULL; END IF; RETURN NEW;");
    admin.run(&format!(
        "ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY add ON credits.credits_transactions FOR INSERT WITH CHECK (true);
         CREATE POLICY look ON credits.credits_transactions FOR SELECT USING (user_id <> '{}');
         GRANT USAGE ON SCHEMA credits TO {role}; GRANT SELECT, INSERT ON credits.credits_transactions TO {role};
         GRANT EXECUTE ON FUNCTION credits.create_transaction TO {role}",
        user(1)
    ));
    let mut session = db.connect_as(&role);
    let mut record = |source_id: &str| {
        session
            .try_run(&format!("SELECT credits.create_transaction('{}', 'usage', 1, '{source_id}')", user(2)))
    };
    record("taken").refused("23505");
    record("x").refused("09000");
    record("y").unwrap();
}
