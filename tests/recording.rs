//! Every way of writing a transaction has the same effects.

use std::io::Write;

use credits_ledger_tests::{Database, Decimal, Direction, Refused, Session, Uuid, dec, user};

const COLUMNS: &str = "user_id, transaction_type, amount, source_id, description, fusillade_batch_id";

/// What each way writes for a user of its own.
struct Row {
    kind: &'static str,
    amount: Decimal,
    source_id: &'static str,
    description: Option<&'static str>,
    /// Whether it belongs to the batch that has the user's id.
    in_batch: bool,
}

const ROWS: [Row; 3] = [
    Row { kind: "purchase", amount: dec!(10), source_id: "-1", description: Some("top-up"), in_batch: false },
    Row { kind: "usage", amount: dec!(2.5), source_id: "-2", description: None, in_batch: true },
    Row { kind: "usage", amount: dec!(1), source_id: "-3", description: Some("chat"), in_batch: false },
];

type Way = fn(&mut Session, Uuid);

/// The rows as SQL lists of values.
fn rows(user: Uuid) -> [String; 3] {
    ROWS.map(|Row { kind, amount, source_id, description, in_batch }| {
        let description = description.map_or_else(|| "NULL".to_owned(), |text| format!("'{text}'"));
        let batch = if in_batch { format!("'{user}'") } else { "NULL".to_owned() };
        format!("'{user}', '{kind}', {amount}, '{user}{source_id}', {description}, {batch}")
    })
}

/// Executes a statement with the values of each row.
fn execute(session: &mut Session, statement: &str, user: Uuid) {
    let statement = session.prepare(statement).unwrap();
    for Row { kind, amount, source_id, description, in_batch } in ROWS {
        let (source_id, batch) = (format!("{user}{source_id}"), in_batch.then_some(user));
        session.execute(&statement, &[&user, &kind, &amount, &source_id, &description, &batch]).unwrap();
    }
}

fn insert_one_by_one(session: &mut Session, user: Uuid) {
    for row in rows(user) {
        session.run(&format!("INSERT INTO credits.credits_transactions ({COLUMNS}) VALUES ({row})"));
    }
}

fn insert_at_once(session: &mut Session, user: Uuid) {
    let values = rows(user).map(|row| format!("({row})")).join(", ");
    session.run(&format!("INSERT INTO credits.credits_transactions ({COLUMNS}) VALUES {values}"));
}

fn insert_from_select(session: &mut Session, user: Uuid) {
    let values = rows(user).map(|row| format!("({row})")).join(", ");
    session.run(&format!(
        "INSERT INTO credits.credits_transactions ({COLUMNS})
         SELECT u::uuid, kind, amount, source_id, description, batch::uuid
         FROM (VALUES {values}) v (u, kind, amount, source_id, description, batch)"
    ));
}

fn insert_or_do_nothing(session: &mut Session, user: Uuid) {
    let values = rows(user).map(|row| format!("({row})")).join(", ");
    for _ in 0..2 {
        session.run(&format!(
            "INSERT INTO credits.credits_transactions ({COLUMNS}) VALUES {values} ON CONFLICT DO NOTHING"
        ));
    }
}

fn insert_prepared(session: &mut Session, user: Uuid) {
    let values = "VALUES ($1, $2, $3, $4, $5, $6)";
    execute(session, &format!("INSERT INTO credits.credits_transactions ({COLUMNS}) {values}"), user);
}

fn copy(session: &mut Session, user: Uuid) {
    let statement = format!(
        "COPY credits.credits_transactions ({COLUMNS}) FROM STDIN (FORMAT csv, QUOTE '''', NULL 'NULL')"
    );
    let mut writer = session.copy_in(&statement).unwrap();
    for row in rows(user) {
        writeln!(writer, "{}", row.replace(", ", ",")).unwrap();
    }
    assert_eq!(writer.finish().unwrap(), 3);
}

fn create_transaction(session: &mut Session, user: Uuid) {
    for row in rows(user) {
        session.run(&format!("SELECT credits.create_transaction({row})"));
    }
}

fn create_transaction_with_names(session: &mut Session, user: Uuid) {
    execute(
        session,
        "SELECT credits.create_transaction(user_id => $1, transaction_type => $2, amount => $3, source_id => $4,
                                           description => $5, fusillade_batch_id => $6, api_key_id => NULL)",
        user,
    );
}

#[test]
fn every_way_has_the_same_effects() {
    let db = Database::create();
    let mut session = db.connect();
    let mut listener = db.listen();
    let ways: [(&str, Way); 8] = [
        ("INSERT one by one", insert_one_by_one),
        ("INSERT at once", insert_at_once),
        ("INSERT ... SELECT", insert_from_select),
        ("INSERT ... ON CONFLICT DO NOTHING", insert_or_do_nothing),
        ("a prepared INSERT", insert_prepared),
        ("COPY", copy),
        ("create_transaction", create_transaction),
        ("create_transaction with named arguments", create_transaction_with_names),
    ];
    for (number, (way, write)) in (0..).zip(ways) {
        let user = user(number);
        write(&mut session, user);

        assert_eq!(listener.crossings(), [(user, Direction::Up)], "{way}");
        assert_eq!(session.balance(user), dec!(6.5), "{way}");
        let stored: Vec<String> = session.values(
            "SELECT concat_ws(' ', transaction_type, trim_scale(amount), right(source_id, 2), coalesce(description, '-'),
                              fusillade_batch_id = user_id, api_key_id IS NULL, clock_timestamp() - created_at < '1 hour')
             FROM credits.credits_transactions WHERE user_id = $1 ORDER BY seq",
            &[&user],
        );
        assert_eq!(
            stored,
            ["purchase 10 -1 top-up t t", "usage 2.5 -2 - t t t", "usage 1 -3 chat t t"],
            "{way}"
        );
        assert_eq!(
            session.value::<Decimal>("SELECT total_amount FROM credits.batches WHERE user_id = $1", &[&user]),
            dec!(2.5),
            "{way}"
        );
        session.assert_sound();
    }
    let distinct: bool =
        session.value("SELECT count(DISTINCT seq) = count(*) FROM credits.credits_transactions", &[]);
    assert!(distinct);
}

#[test]
fn create_transaction_returns_the_row() {
    let db = Database::create();
    let mut session = db.connect();
    let (user, batch, key) = (user(1), Uuid::from_u128(2), Uuid::from_u128(3));
    let row = session
        .query_one(
            "SELECT *, created_at::text AS created FROM credits.create_transaction($1, 'usage', $2, 'request 1', 'chat', $3, $4)",
            &[&user, &dec!(0.25), &batch, &key],
        )
        .unwrap();
    let names: Vec<&str> = row.columns().iter().map(postgres::Column::name).collect();
    let expected = "id user_id transaction_type amount source_id description created_at seq fusillade_batch_id api_key_id created";
    assert_eq!(names.join(" "), expected);
    assert_eq!(row.get::<_, Uuid>("user_id"), user);
    assert_eq!(row.get::<_, &str>("transaction_type"), "usage");
    assert_eq!(row.get::<_, Decimal>("amount"), dec!(0.25));
    assert_eq!(row.get::<_, &str>("source_id"), "request 1");
    assert_eq!(row.get::<_, Option<&str>>("description"), Some("chat"));
    assert_eq!(row.get::<_, Option<Uuid>>("fusillade_batch_id"), Some(batch));
    assert_eq!(row.get::<_, Option<Uuid>>("api_key_id"), Some(key));
    let same: bool = session.value(
        "SELECT (id, created_at::text, seq) = ($1, $2, $3) FROM credits.credits_transactions",
        &[&row.get::<_, Uuid>("id"), &row.get::<_, &str>("created"), &row.get::<_, i64>("seq")],
    );
    assert!(same, "what is returned is what is stored");
}

#[test]
fn an_insert_may_name_id_and_date_but_not_seq_and_stamp() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "INSERT INTO credits.credits_transactions (id, created_at, user_id, transaction_type, amount, source_id)
         VALUES ('00000000-0000-0000-0000-00000000000a', '2024-02-29 12:00 UTC', gen_random_uuid(), 'purchase', 1, 'imported')",
    );
    let kept: bool = session.value(
        "SELECT id = '00000000-0000-0000-0000-00000000000a' AND created_at = '2024-02-29 12:00 UTC'
         FROM credits.credits_transactions",
        &[],
    );
    assert!(kept);
    for (column, value) in [("seq", "1000"), ("xact_id", "'3'")] {
        session
            .try_run(&format!(
                "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, {column})
                 VALUES (gen_random_uuid(), 'purchase', 1, 'forged', {value})"
            ))
            .refused("428C9");
    }
    session
        .try_run(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, xact_id)
             OVERRIDING SYSTEM VALUE VALUES (gen_random_uuid(), 'purchase', 1, 'forged', '3')",
        )
        .refused("428C9");
    session.try_run("COPY credits.credits_transactions (xact_id) FROM STDIN").refused("42P10");
}

#[test]
fn rows_are_stamped_with_the_top_level_transaction() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("BEGIN");
    session.grant(user(1), dec!(1));
    session.run("SAVEPOINT s");
    session.grant(user(1), dec!(1));
    session.run(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                 SELECT gen_random_uuid(), 'purchase', 1, n::text FROM generate_series(1, 10) n",
    );
    let stamped: bool = session.value(
        "SELECT bool_and(xact_id = pg_current_xact_id()) AND count(*) = 12 FROM credits.credits_transactions",
        &[],
    );
    assert!(stamped);
    session.run("COMMIT");
    // A second transaction through the same plans has its own stamp.
    session.grant(user(1), dec!(1));
    let ids: i64 = session.value("SELECT count(DISTINCT xact_id) FROM credits.credits_transactions", &[]);
    assert_eq!(ids, 2);
}

/// The table's definition can be copied. What is written to the copy is stamped, too, and is no part of the ledger.
#[test]
fn a_table_like_the_ledger_is_none() {
    let db = Database::create();
    let mut session = db.connect();
    session.run(
        "CREATE TABLE archive (LIKE credits.credits_transactions INCLUDING ALL);
         ALTER TABLE archive ALTER COLUMN seq DROP IDENTITY;
         CREATE TABLE archives (LIKE archive INCLUDING DEFAULTS INCLUDING GENERATED) PARTITION BY RANGE (created_at);
         ALTER TABLE archives ATTACH PARTITION archive FOR VALUES FROM ('2000-01-01') TO ('infinity')",
    );
    session.grant(user(1), dec!(10));
    let stamped: bool = session.value(
        "INSERT INTO archive (user_id, transaction_type, amount, source_id, seq) VALUES ($1, 'usage', 20, 'x', 1)
         RETURNING xact_id = pg_current_xact_id()",
        &[&user(1)],
    );
    assert!(stamped);
    assert_eq!(session.balance(user(1)), dec!(10));
    session.assert_sound();
}
