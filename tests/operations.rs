//! What operators see: how far checkpoints are behind, what holds them back, and what settlement has done.

use credits_ledger_tests::{Database, Refused, Session, Uuid, dec, stripe_of, user};

/// A row of `checkpoint_lag`.
#[derive(Debug)]
struct Lag {
    delta_rows: i64,
    watermark_lag: i64,
    stragglers: i32,
}

fn lag(session: &mut Session, user: Uuid) -> Lag {
    let row = session
        .query_one(
            "SELECT delta_rows, watermark_lag, stragglers FROM credits.checkpoint_lag WHERE user_id = $1",
            &[&user],
        )
        .unwrap();
    Lag { delta_rows: row.get(0), watermark_lag: row.get(1), stragglers: row.get(2) }
}

fn refresh_idle(session: &mut Session) -> i64 {
    session.value("SELECT credits.refresh_idle_checkpoints(idle => '0')", &[])
}

fn xact_id(session: &mut Session) -> String {
    session.value("SELECT pg_current_xact_id()::text", &[])
}

/// What `settlement_statistics` answers, in its order.
fn statistics(session: &mut Session) -> [i64; 6] {
    let row = session.query_one("SELECT * FROM credits.settlement_statistics()", &[]).unwrap();
    std::array::from_fn(|column| row.get(column))
}

/// What the last statements added to the statistics.
fn added(session: &mut Session, since: &mut [i64; 6]) -> [i64; 6] {
    let now = statistics(session);
    let before = std::mem::replace(since, now);
    std::array::from_fn(|column| now[column] - before[column])
}

#[test]
fn committed_settlements_are_counted() {
    let db = Database::create_alone();
    let mut session = db.connect();
    let mut seen = statistics(&mut session);
    assert_eq!(seen, [0; 6]);
    // Columns: exclusive sections, crossings up and down, refreshes, those skipped, those failed.
    session.grant(user(1), dec!(10));
    assert_eq!(added(&mut session, &mut seen), [1, 1, 0, 1, 0, 0], "a new user's first credit");
    session.charge(user(1), dec!(1));
    assert_eq!(added(&mut session, &mut seen), [0; 6], "far from zero");
    session.run("SET credits_ledger.config_channel = ''; SET credits_ledger.crossing_channel = ''; SET credits_ledger.cap_channel = ''");
    session.charge(user(1), dec!(9));
    assert_eq!(added(&mut session, &mut seen), [1, 0, 1, 0, 0, 0], "with the channels off");

    session.run("BEGIN");
    session.grant(user(1), dec!(100));
    session.run("ROLLBACK");
    session.run("BEGIN");
    session.grant(user(1), dec!(100));
    session.run(&format!("PREPARE TRANSACTION '{}'", db.name()));
    session.run(&format!("COMMIT PREPARED '{}'", db.name()));
    assert_eq!(added(&mut session, &mut seen), [0; 6], "neither was settled");
    session.refresh(user(1));
    assert_eq!(added(&mut session, &mut seen), [1, 1, 0, 1, 0, 0], "what was prepared is settled now");
}

/// Users of whom there is nothing cost nobody a wait, however often they are asked for.
#[test]
fn users_without_rows_take_no_stripe_alone() {
    let db = Database::create_alone();
    let (mut session, mut other) = (db.connect(), db.connect());
    let mut seen = statistics(&mut session);
    let ask = format!("SELECT credits.get_users_balances_bulk(ARRAY['{}']::uuid[], 1)", user(1));
    session.run(&ask);
    session.run("BEGIN; SAVEPOINT s");
    session.grant(user(1), dec!(100));
    session.run("ROLLBACK TO s; COMMIT");
    assert_eq!(added(&mut session, &mut seen), [0; 6]);
    // Rows that may be there are another matter.
    other.run("BEGIN");
    other.grant(user(1), dec!(100));
    session.run(&ask);
    assert_eq!(added(&mut session, &mut seen), [1, 0, 0, 0, 0, 0]);
    other.run("COMMIT");
    assert_eq!(added(&mut session, &mut seen), [1, 1, 0, 1, 0, 0]);
    session.run(&ask);
    assert_eq!(added(&mut session, &mut seen)[0], 0);
    session.assert_sound();
}

/// A settlement that comes to nothing leaves no count behind, for its own transaction or the next one.
#[test]
fn a_commit_that_fails_is_not_counted() {
    let db = Database::create_alone();
    let mut session = db.connect();
    let stripe = |number| stripe_of(user(number));
    let later = (2..).find(|&number| stripe(number) > stripe(1)).unwrap();
    session.grant(user(1), dec!(10));
    let mut seen = statistics(&mut session);
    let (mut holder, mut waiting) = (db.connect(), db.connect());
    holder.run("BEGIN");
    holder.charge(user(later), dec!(1));
    let held = db.hold_commit(holder);
    // Settles the first user, who crosses, then waits for the other's stripe and is cancelled there.
    waiting.run("BEGIN");
    waiting.charge(user(1), dec!(100));
    waiting.charge(user(later), dec!(100));
    let waiting = waiting.background(|session| session.try_run("COMMIT"));
    db.until_blocked(waiting.pid());
    db.observe(|observer| observer.value::<bool>("SELECT pg_cancel_backend($1)", &[&waiting.pid()]));
    let (mut waiting, committed) = waiting.finish();
    committed.refused("57014");
    held.release();
    waiting.charge(user(1), dec!(1));
    assert_eq!(&added(&mut session, &mut seen)[1..3], [0, 0], "no crossing was committed");
    waiting.charge(user(1), dec!(9));
    assert_eq!(&added(&mut session, &mut seen)[1..3], [0, 1]);
    session.assert_sound();
}

#[test]
fn refreshes_that_do_not_happen_are_counted() {
    let db = Database::create_alone();
    let (mut first, mut second) = (db.connect(), db.connect());
    first.grant(user(1), dec!(1000));
    first.charge_batch(user(1), Uuid::nil(), dec!(1));
    first.refresh(user(1));
    first.charge(user(1), dec!(1));
    let mut seen = statistics(&mut second);
    for session in [&mut first, &mut second] {
        session.run("SET credits_ledger.checkpoint_interval = 1");
    }
    first.run("BEGIN");
    first.charge(user(1), dec!(1));
    let held = db.hold_commit(first);
    second.charge(user(1), dec!(1));
    let mut first = held.release();
    assert_eq!(added(&mut second, &mut seen), [0, 0, 0, 1, 1, 0]);

    // A total that no batch can have makes the fold overflow.
    first.run("UPDATE credits.batch_aggregates SET total_amount = 170141183460469231731687");
    first.charge_batch(user(1), Uuid::nil(), dec!(1));
    assert_eq!(added(&mut second, &mut seen), [0, 0, 0, 1, 0, 0], "its own rows are not folded yet");
    first.charge(user(1), dec!(1));
    assert_eq!(added(&mut second, &mut seen), [0, 0, 0, 0, 0, 1]);
    first.run("UPDATE credits.batch_aggregates SET total_amount = 1");
    first.charge(user(1), dec!(1));
    assert_eq!(added(&mut second, &mut seen), [0, 0, 0, 1, 0, 0]);
    first.assert_sound();
}

#[test]
fn databases_are_counted_apart() {
    let db = Database::create_alone();
    let beside = db.create_beside();
    let (mut session, mut other) = (db.connect(), beside.connect());
    session.grant(user(1), dec!(1));
    session.grant(user(2), dec!(1));
    other.grant(user(1), dec!(1));
    assert_eq!(statistics(&mut session)[1], 2);
    assert_eq!(statistics(&mut other)[1], 1);
    // Another session of the same database reads the same.
    assert_eq!(statistics(&mut db.connect())[1], 2);
}

#[test]
fn the_lag_is_the_delta() {
    let db = Database::create_alone();
    let (mut session, mut idle) = (db.connect(), db.connect());
    session.run("SET credits_ledger.checkpoint_interval = 1000");
    session.grant(user(1), dec!(1000));
    session.refresh(user(1));
    assert_eq!(lag(&mut session, user(1)).delta_rows, 0);
    idle.run("BEGIN");
    idle.charge(user(1), dec!(1));
    for _ in 0..200 {
        session.charge(user(1), dec!(1));
    }
    let before = lag(&mut session, user(1));
    assert_eq!((before.delta_rows, before.stragglers), (200, 0), "a row in flight is none yet");
    assert!((200..=203).contains(&before.watermark_lag), "{before:?}");
    session.refresh(user(1));
    let passed = lag(&mut session, user(1));
    assert_eq!((passed.delta_rows, passed.stragglers), (0, 1));
    assert!(passed.watermark_lag <= 2, "{passed:?}");
    idle.run("COMMIT");
    let late = lag(&mut session, user(1));
    assert_eq!((late.delta_rows, late.stragglers), (1, 1), "the straggler's row");
    // The same as the view of the rows themselves, which is written otherwise.
    let same: bool = session.value(
        "SELECT bool_and(delta_rows = (SELECT count(*) FROM credits.uncovered_transactions u WHERE u.user_id = l.user_id))
         FROM credits.checkpoint_lag l",
        &[],
    );
    assert!(same);
    // Whoever does not ask for the rows does not pay for them.
    let plan: Vec<String> =
        session.values("EXPLAIN SELECT user_id, watermark_lag FROM credits.checkpoint_lag", &[]);
    assert!(!plan.join(" ").contains("credits_transactions_"), "{plan:#?}");
    // One user costs index lookups.
    let plan: Vec<String> = session.values(
        "EXPLAIN SELECT * FROM credits.checkpoint_lag WHERE user_id = '10000000-0000-4000-8000-000000000001'",
        &[],
    );
    assert!(!plan.join(" ").contains("Seq Scan"), "{plan:#?}");
}

/// A transaction prepared and forgotten: the delta stays short, for users who go on writing and for those who do not.
#[test]
fn a_forgotten_prepared_transaction_does_not_grow_deltas() {
    let db = Database::create_alone();
    let mut session = db.connect();
    for number in 0..10 {
        session.grant(user(number), dec!(1000));
    }
    session.run("BEGIN");
    session.charge(user(1), dec!(1));
    let prepared = xact_id(&mut session);
    session.run("PREPARE TRANSACTION 'forgotten'");
    for round in 0..40 {
        for number in 0..10 {
            session.charge(user(number), dec!(1));
        }
        if round % 10 == 9 {
            refresh_idle(&mut session);
        }
    }
    let longest: i64 = session.value("SELECT max(delta_rows) FROM credits.checkpoint_lag", &[]);
    assert_eq!(longest, 0);
    assert_eq!(refresh_idle(&mut session), 0, "nothing is left to refresh");

    let row = session.query_one("SELECT * FROM credits.stragglers", &[]).unwrap();
    let id: String = session.value("SELECT xact_id::text FROM credits.stragglers", &[]);
    assert_eq!(id, prepared);
    assert_eq!((row.get::<_, i64>("listed_by"), row.get::<_, i64>("watermark_of")), (10, 0));
    assert_eq!((row.get("state"), row.get("gid")), (Some("prepared"), Some("forgotten")));
    assert_eq!(row.get::<_, Option<i32>>("pid"), None);

    session.run("COMMIT PREPARED 'forgotten'");
    let ended: Vec<String> = session.values("SELECT state FROM credits.stragglers", &[]);
    assert_eq!(ended, ["ended"]);
    assert_eq!(refresh_idle(&mut session), 10);
    let left: i64 = session.value("SELECT count(*) FROM credits.stragglers", &[]);
    assert_eq!(left, 0);
    assert_eq!(lag(&mut session, user(1)).delta_rows, 0);
    session.assert_sound();
}

#[test]
fn idle_checkpoints_are_refreshed_by_the_portion() {
    let db = Database::create_alone();
    let mut session = db.connect();
    for number in 0..6 {
        session.grant(user(number), dec!(10));
        session.charge(user(number), dec!(1));
    }
    let fresh: i64 = session.value("SELECT credits.refresh_idle_checkpoints()", &[]);
    assert_eq!(fresh, 0, "all were written within the hour");
    let portions: Vec<i64> = (0..3)
        .map(|_| session.value("SELECT credits.refresh_idle_checkpoints(idle => '0', \"limit\" => 4)", &[]))
        .collect();
    assert_eq!(portions, [4, 2, 0]);
    session.charge(user(1), dec!(1));
    let all: i64 =
        session.value("SELECT credits.refresh_idle_checkpoints(idle => '0', \"limit\" => NULL)", &[]);
    assert_eq!(all, 1);
    let error = session.try_run("SELECT credits.refresh_idle_checkpoints(NULL)").refused("22004");
    assert!(error.message().contains("idle"), "{error:?}");
    let error = session.try_run("SELECT credits.refresh_idle_checkpoints(\"limit\" => -3)").refused("22023");
    assert!(error.message().contains("-3"), "{error:?}");
    session.try_run("BEGIN READ ONLY; SELECT credits.refresh_idle_checkpoints(); COMMIT").refused("25006");
    session.run("ROLLBACK");
    // Also where no checkpoint is looked at.
    let endless = "SELECT credits.refresh_idle_checkpoints('170000000 years', 0)";
    let error = session.try_run(endless).refused("22008");
    assert!(error.message().contains("170000000 years"), "{error:?}");
    session.assert_sound();
}

/// Someone inside a commit is not waited for.
#[test]
fn refreshing_idle_checkpoints_waits_for_no_one() {
    let db = Database::create_alone();
    let (mut session, mut busy) = (db.connect(), db.connect());
    session.grant(user(1), dec!(100));
    session.charge(user(1), dec!(1));
    busy.run("SET credits_ledger.checkpoint_interval = 1; BEGIN");
    busy.charge(user(1), dec!(1));
    let held = db.hold_commit(busy);
    session.run("SET lock_timeout = 1");
    assert_eq!(refresh_idle(&mut session), 1);
    held.release();
    session.assert_sound();
}

/// Operators' views name every user: under row-level security they are empty.
#[test]
fn row_level_security_empties_the_operators_views() {
    let db = Database::create_alone();
    let role = db.create_role("tenant");
    let (mut admin, mut idle) = (db.connect(), db.connect());
    admin.grant(user(1), dec!(10));
    idle.run("BEGIN");
    xact_id(&mut idle);
    for _ in 0..200 {
        admin.charge(user(1), dec!(0.01));
    }
    admin.refresh(user(1));
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA credits TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role}"
    ));
    let mut tenant = db.connect_as(&role);
    let views = ["checkpoint_lag", "stragglers"];
    let count = |session: &mut Session, view: &str| {
        session.value::<i64>(&format!("SELECT count(*) FROM credits.{view}"), &[])
    };
    for view in views {
        assert_eq!(count(&mut tenant, view), 1, "{view}");
    }
    // Whoever may not look at another's session hears that the transaction is open, not that it has ended.
    let state: String = tenant.value("SELECT state FROM credits.stragglers", &[]);
    assert_eq!(state, "open");
    admin.run(&format!(
        "ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON credits.credits_transactions TO {role} USING (user_id = '{}')",
        user(1)
    ));
    for view in views {
        assert_eq!(count(&mut tenant, view), 0, "{view}");
        assert_eq!(count(&mut admin, view), 1, "{view}");
    }
    tenant.try_run("SELECT credits.refresh_idle_checkpoints(idle => '0')").refused("42501");
}

/// Who may look at every session of the cluster may look at settlement, also where policies give it no row of the ledger: what it
/// sees is how far behind checkpoints are, and no amount.
#[test]
fn a_member_of_pg_monitor_watches_the_whole_ledger() {
    let db = Database::create_alone();
    let role = db.create_role("monitor");
    let (mut admin, mut idle) = (db.connect(), db.connect());
    admin.run(&format!("GRANT pg_monitor TO {role}"));
    admin.grant(user(1), dec!(10));
    admin.grant(user(2), dec!(10));
    admin.run("ALTER TABLE credits.credits_transactions DISABLE TRIGGER note_transaction");
    admin.grant(user(3), dec!(10));
    admin.run("ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER note_transaction");
    idle.run("BEGIN");
    let open = xact_id(&mut idle);
    for _ in 0..200 {
        admin.charge(user(1), dec!(0.01));
    }

    admin.run(&format!(
        "INSERT INTO credits.holds (source_id, user_id, amount, expires_at)
         VALUES ('open', '{0}', 1, 'infinity'), ('expired', '{0}', 1, now()), ('always', '{0}', 1, '-infinity')",
        user(1)
    ));
    let first: String = admin.value("SELECT first_expired_at::text FROM credits.hold_counts", &[]);
    assert_eq!(first, "-infinity");
    let mut monitor = db.connect_as(&role);
    for row_security in ["DISABLE", "ENABLE"] {
        admin.run(&format!("ALTER TABLE credits.credits_transactions {row_security} ROW LEVEL SECURITY"));
        let users: Vec<Uuid> =
            monitor.values("SELECT user_id FROM credits.checkpoint_lag ORDER BY user_id", &[]);
        assert_eq!(users, [user(1), user(2)], "{row_security}");
        assert_eq!(
            lag(&mut monitor, user(1)).delta_rows,
            lag(&mut admin, user(1)).delta_rows,
            "{row_security}"
        );
        let states: Vec<String> =
            monitor.values("SELECT xact_id || ' ' || state FROM credits.stragglers", &[]);
        assert_eq!(states, [format!("{open} idle in transaction")], "{row_security}");
        let left_out: Vec<Uuid> = monitor.values("SELECT user_id FROM credits.users_without_checkpoint", &[]);
        assert_eq!(left_out, [user(3)], "{row_security}");
        assert_eq!(statistics(&mut monitor)[1], 2, "{row_security}");
        admin.run(&format!("ALTER TABLE credits.holds {row_security} ROW LEVEL SECURITY"));
        let holds: String =
            monitor.value("SELECT concat_ws(' ', open, expired) FROM credits.hold_counts", &[]);
        assert_eq!(holds, "1 2", "{row_security}");
        monitor.assert_as_made();
        for closed in [
            "FROM credits.credits_transactions",
            "FROM credits.balances",
            "FROM credits.holds",
            "FROM credits.batches",
            "FROM credits.checkpoints",
            "FROM credits.folded_batches",
            "FROM credits.uncovered_transactions",
            "FROM credits.user_balance_checkpoints",
            "FROM credits.verify_ledger()",
            "credits.get_user_balance(gen_random_uuid())",
        ] {
            monitor.try_run(&format!("SELECT {closed}")).refused("42501");
        }
    }
    // A right to read the rows themselves is still limited by policies: a user without a checkpoint is shown, its rows are not.
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA credits TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role}"
    ));
    for view in ["uncovered_transactions", "balances", "batches", "checkpoints", "folded_batches"] {
        let rows: i64 = monitor.value(&format!("SELECT count(*) FROM credits.{view}"), &[]);
        assert_eq!(rows, 0, "{view}");
    }
    // Membership that is not inherited is not enough.
    admin.run(&format!(
        "ALTER ROLE {role} NOINHERIT; REVOKE pg_monitor FROM {role}; GRANT pg_monitor TO {role}"
    ));
    let rows: i64 = monitor.value("SELECT count(*) FROM credits.checkpoint_lag", &[]);
    assert_eq!(rows, 0);
}
