//! The view `stragglers` names whoever holds checkpoints back, whatever the checkpoints say.

use std::process::Stdio;

use credits_ledger_tests::cluster::Cluster;
use credits_ledger_tests::{Database, Session, dec, user};
use ledger::coverage::MAX_STRAGGLERS;

fn xact_id(session: &mut Session) -> String {
    session.value("SELECT pg_current_xact_id()::text", &[])
}

/// A session that is left in a transaction, and the transaction's id.
fn leave_open(db: &Database) -> (Session, String) {
    let mut session = db.connect();
    session.run("SET application_name = 'forgotten'; BEGIN");
    let id = xact_id(&mut session);
    (session, id)
}

/// What the view shows of those that have not ended.
fn shown(session: &mut Session) -> Vec<String> {
    session.values(
        "SELECT format('%s listed by %s watermark of %s%s: %s %s', xact_id, listed_by, watermark_of,
                       CASE WHEN holds_back THEN ' holds back' END, state, coalesce(pid::text, gid))
         FROM credits.stragglers WHERE state <> 'ended' ORDER BY xact_id",
        &[],
    )
}

fn charge_often(session: &mut Session, times: u32) {
    for _ in 0..times {
        session.charge(user(1), dec!(0.001));
    }
}

fn delta_rows(session: &mut Session) -> i64 {
    session.value("SELECT delta_rows FROM credits.checkpoint_lag WHERE user_id = $1", &[&user(1)])
}

/// Nobody has refreshed a checkpoint since they began, or there is none: they are named before one stops at them.
#[test]
fn whoever_is_open_first_is_named_before_a_checkpoint_stops() {
    let db = Database::create_alone();
    let mut session = db.connect();
    assert_eq!(shown(&mut session), [""; 0]);
    let (mut young, id) = leave_open(&db);
    let named = [format!("{id} listed by 0 watermark of 0 holds back: idle in transaction {}", young.pid())];
    // Without any row, and with one that no checkpoint can cover.
    let (younger, _) = leave_open(&db);
    session.run("CREATE TABLE moved_on ()");
    assert_eq!(shown(&mut session), named);
    session.run(
        "ALTER TABLE credits.credits_transactions DISABLE TRIGGER note_transaction;
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         VALUES ('10000000-0000-4000-8000-000000000001', 'purchase', 10, 'unsettled');
         ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER note_transaction",
    );
    assert_eq!(shown(&mut session), named);
    session.refresh(user(1));
    assert_eq!(delta_rows(&mut session), 1);
    assert_eq!(shown(&mut session), [named[0].replace("of 0", "of 1")]);
    // An id of a subtransaction is not one of a transaction.
    young.run("SAVEPOINT s; CREATE TABLE in_savepoint ()");
    assert_eq!(shown(&mut session).len(), 1);
    // Whoever looks may be the one.
    let pid = session.pid();
    young.run("ROLLBACK");
    drop(younger);
    db.until("SELECT count(*) = 0 FROM pg_stat_activity WHERE state = 'idle in transaction'", &[]);
    session.run("BEGIN");
    let own = xact_id(&mut session);
    db.connect().run("CREATE TABLE moved_on_again ()");
    assert_eq!(shown(&mut session), [format!("{own} listed by 0 watermark of 0 holds back: active {pid}")]);
    session.run("ROLLBACK");
}

/// Many are left open, and no checkpoint has been written since.
#[test]
fn a_pool_is_named_before_a_checkpoint_is_refreshed() {
    let db = Database::create_alone();
    let mut session = db.connect();
    session.grant(user(1), dec!(1000));
    let pool: Vec<_> = (0..17).map(|_| leave_open(&db)).collect();
    // Too few for a refresh; enough for all of them to be passed by.
    session.run("SET credits_ledger.checkpoint_interval = 10000");
    charge_often(&mut session, 150);
    let named: Vec<String> = pool
        .iter()
        .map(|(open, id)| format!("{id} listed by 0 watermark of 0: idle in transaction {}", open.pid()))
        .collect();
    assert_eq!(shown(&mut session), named);
    session.refresh(user(1));
    let named: Vec<String> = named.iter().map(|line| line.replace("listed by 0", "listed by 1")).collect();
    assert_eq!(shown(&mut session), named);
    assert_eq!(delta_rows(&mut session), 0);
}

/// The view has the engine's numbers: it says where the next refresh stops.
#[test]
fn a_refresh_stops_where_the_view_says() {
    let db = Database::create_alone();
    let mut session = db.connect();
    session.run("SET credits_ledger.checkpoint_interval = 10000");
    charge_often(&mut session, 1);
    let pool: Vec<_> = (0..40).map(|_| leave_open(&db)).collect();
    let mut stops = Vec::new();
    for _ in 0..60 {
        charge_often(&mut session, 7);
        let stop: Vec<String> =
            session.values("SELECT xact_id::text FROM credits.stragglers WHERE holds_back", &[]);
        session.refresh(user(1));
        let watermark: String =
            session.value("SELECT watermark::text FROM credits.user_balance_checkpoints", &[]);
        assert_eq!(pool.iter().any(|(_, id)| *id == watermark), !stop.is_empty());
        assert!(stop.is_empty() || stop[0] == watermark, "{stop:?}, {watermark}");
        stops.extend(stop);
    }
    // The first 16 are passed by one like the other, the next ones one after the other.
    stops.dedup();
    assert!((10..40).contains(&stops.len()), "{stops:?}");
}

/// One more than may be passed by: all are named, and which one stops the rest.
#[test]
fn all_are_named_where_one_too_many_is_open() {
    let db = Database::create_in(&Cluster::start_with("max_connections = 300"));
    let mut session = db.connect();
    session.grant(user(1), dec!(1000));
    let mut pool: Vec<_> = (0..=MAX_STRAGGLERS).map(|_| leave_open(&db)).collect();
    charge_often(&mut session, 1700);
    session.refresh(user(1));
    let named: Vec<String> = pool
        .iter()
        .enumerate()
        .map(|(place, (open, id))| {
            let place = if place < MAX_STRAGGLERS {
                "listed by 1 watermark of 0"
            } else {
                "listed by 0 watermark of 1 holds back"
            };
            format!("{id} {place}: idle in transaction {}", open.pid())
        })
        .collect();
    assert_eq!(shown(&mut session), named);
    // Of those that are closer to the present the last ones do not lag enough for so many before them: one of them is the stop.
    pool[3].0.run("ROLLBACK");
    charge_often(&mut session, 1);
    session.refresh(user(1));
    assert!(shown(&mut session).iter().all(|line| line.contains("listed by 1 watermark of 0: ")));
    assert_eq!(delta_rows(&mut session), 0);
}

/// Sessions and prepared transactions of other databases hold back, too.
#[test]
fn those_of_other_databases_are_named() {
    let db = Database::create_alone();
    let beside = db.create_beside();
    let mut session = db.connect();
    session.grant(user(1), dec!(1000));
    let (open, id) = leave_open(&beside);
    let mut preparing = beside.connect();
    preparing.run("BEGIN");
    preparing.grant(user(1), dec!(1));
    let prepared = xact_id(&mut preparing);
    preparing.run("PREPARE TRANSACTION 'forgotten'");
    charge_often(&mut session, 150);
    session.refresh(user(1));
    assert_eq!(
        shown(&mut session),
        [
            format!("{id} listed by 1 watermark of 0: idle in transaction {}", open.pid()),
            format!("{prepared} listed by 1 watermark of 0: prepared forgotten"),
        ]
    );
    let databases: Vec<String> =
        session.values("SELECT DISTINCT database::text FROM credits.stragglers", &[]);
    assert_eq!(databases, [beside.name()]);
}

/// Whoever may not look at another's session hears which it is, and not what it does.
#[test]
fn a_session_is_named_to_whom_it_may_not_look_at() {
    let db = Database::create_alone();
    let role = db.create_role("operator");
    let mut session = db.connect();
    session.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT SELECT ON credits.stragglers TO {role}"
    ));
    let (open, id) = leave_open(&db);
    session.run("CREATE TABLE moved_on ()");
    let mut operator = db.connect_as(&role);
    let named = |state| [format!("{id} listed by 0 watermark of 0 holds back: {state} {}", open.pid())];
    assert_eq!(shown(&mut operator), named("open"));
    let hidden: bool =
        operator.value("SELECT since IS NULL AND role = 'postgres' FROM credits.stragglers", &[]);
    assert!(hidden);
    session.run(&format!("GRANT pg_monitor TO {role}"));
    assert_eq!(shown(&mut db.connect_as(&role)), named("idle in transaction"));
}

/// Transaction ids are compared whole: an ancient straggler is not the transaction that has its lower half today.
#[test]
fn an_id_is_not_mistaken_for_one_of_another_epoch() {
    let db = Database::create_alone();
    let data = db.cluster().folder().join("data");
    let server = |program: &str, arguments: &[&str]| {
        let mut command = db.cluster().program(program);
        command.arg("-D").arg(&data).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        let status = command.stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    };
    server("pg_ctl", &["stop", "-m", "fast", "-s"]);
    server("pg_resetwal", &["-e", "1"]);
    server("pg_ctl", &["start", "-w", "-s", "-l", "/dev/null"]);

    let (mut session, mut idle) = (db.connect(), db.connect());
    session.grant(user(1), dec!(1));
    idle.run("BEGIN");
    let open: i64 = xact_id(&mut idle).parse().unwrap();
    assert!(open > 1 << 32, "{open} is of the first epoch");
    for _ in 0..150 {
        session.charge(user(1), dec!(0.001));
    }
    session.refresh(user(1));
    let all = "SELECT format('%s %s %s', xact_id, state, pid) FROM credits.stragglers ORDER BY xact_id";
    let named = format!("{open} idle in transaction {}", idle.pid());
    assert_eq!(session.values::<String>(all, &[]), [&*named]);
    let ancient = open - (1 << 32);
    session.run(&format!("UPDATE credits.user_balance_checkpoints SET stragglers = '{{{ancient}}}'"));
    assert_eq!(session.values::<String>(all, &[]), [format!("{ancient} ended "), named]);
}
