//! Who may read, who may insert, and whose rows they see.

use credits_ledger_tests::{Database, Decimal, Direction, Refused, Session, Uuid, dec, user};
use postgres::Error;

/// Every function that reads the ledger for a user, with `$1` for the user.
const READS: [&str; 4] = [
    "SELECT credits.get_user_balance($1)",
    "SELECT balance FROM credits.calculate_balance_with_seq($1)",
    "SELECT balance FROM credits.get_users_balances_bulk(ARRAY[$1::uuid])",
    "SELECT coalesce((SELECT balance FROM credits.balances WHERE user_id = $1), 0)",
];

fn read(session: &mut Session, query: &str, user: Uuid) -> Result<Decimal, Error> {
    session.query_one(query, &[&user]).map(|row| row.get(0))
}

/// Grants what is documented to suffice for reading.
fn grant_reading(admin: &mut Session, role: &str) {
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA credits TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role}"
    ));
}

#[test]
fn a_reader_reads_and_does_not_write() {
    let db = Database::create();
    let role = db.create_role("reader");
    let mut admin = db.connect();
    admin.grant(user(1), dec!(10));
    admin.charge_batch(user(1), Uuid::nil(), dec!(4));
    grant_reading(&mut admin, &role);

    let mut reader = db.connect_as(&role);
    for query in READS {
        assert_eq!(read(&mut reader, query, user(1)).unwrap(), dec!(6), "{query}");
    }
    let total: Decimal = reader.value("SELECT total_amount FROM credits.batches", &[]);
    assert_eq!(total, dec!(4));
    reader.assert_sound();
    reader.insert(user(1), "purchase", dec!(1)).refused("42501");
    let create = "SELECT credits.create_transaction(gen_random_uuid(), 'purchase', 1, 'x')";
    reader.try_run(create).refused("42501");
    assert_eq!(admin.balance(user(1)), dec!(6));
}

/// Inserting needs INSERT alone: what settlement reads and writes is not the client's.
#[test]
fn a_writer_needs_insert_alone() {
    let db = Database::create();
    let role = db.create_role("writer");
    let mut admin = db.connect();
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT INSERT ON credits.credits_transactions TO {role}"
    ));
    let mut listener = db.listen();
    let mut writer = db.connect_as(&role);
    writer.grant(user(1), dec!(1));
    for _ in 0..300 {
        writer.charge_batch(user(1), Uuid::nil(), dec!(1));
    }
    assert_eq!(listener.crossings(), [(user(1), Direction::Up), (user(1), Direction::Down)]);
    admin.assert_sound();
    assert_eq!(admin.balance(user(1)), dec!(-299));
    for query in READS {
        read(&mut writer, query, user(1)).refused("42501");
    }
    for statement in [
        "SELECT credits.verify_ledger()",
        "SELECT * FROM credits.batches",
        "SELECT credits.refresh_checkpoint(gen_random_uuid())",
        "UPDATE credits.user_balance_checkpoints SET balance = 0",
        "DELETE FROM credits.batch_aggregates",
        "DELETE FROM credits.daily_totals",
    ] {
        writer.try_run(statement).refused("42501");
    }
}

/// EXECUTE lets a function be called, not a table be read: the direct scans check as a query would.
#[test]
fn execute_without_select_reads_nothing() {
    let db = Database::create();
    let role = db.create_role("caller");
    let mut admin = db.connect();
    admin.grant(user(1), dec!(10));
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role}"
    ));
    let mut caller = db.connect_as(&role);
    for query in READS {
        read(&mut caller, query, user(1)).refused("42501");
    }
    caller.try_run(&format!("SELECT credits.get_user_balance('{}')", Uuid::nil())).refused("42501");
    caller.try_run("SELECT * FROM credits.verify_ledger()").refused("42501");
    caller
        .try_run("SELECT credits.create_transaction(gen_random_uuid(), 'purchase', 1, 'x')")
        .refused("42501");
    // Granted and taken back within one session: nothing is remembered.
    grant_reading(&mut admin, &role);
    assert_eq!(read(&mut caller, READS[0], user(1)).unwrap(), dec!(10));
    admin.run(&format!("REVOKE SELECT ON credits.credits_transactions FROM {role}"));
    read(&mut caller, READS[0], user(1)).refused("42501");
}

#[test]
fn a_role_without_grants_reaches_nothing() {
    let db = Database::create();
    let role = db.create_role("stranger");
    db.connect().grant(user(1), dec!(10));
    let mut stranger = db.connect_as(&role);
    stranger.insert(user(1), "purchase", dec!(1)).refused("42501");
    for query in READS {
        read(&mut stranger, query, user(1)).refused("42501");
    }
}

/// A tenant sees its own ledger and nobody else's, by whatever way.
#[test]
fn row_level_security_limits_every_read() {
    let db = Database::create();
    let role = db.create_role("tenant");
    let mut admin = db.connect();
    for number in [1, 2] {
        admin.grant(user(number), dec!(10));
        for _ in 0..150 {
            admin.charge_batch(user(number), user(number), dec!(0.01));
        }
        admin.refresh(user(number));
    }
    grant_reading(&mut admin, &role);
    admin.run(&format!(
        "GRANT INSERT ON credits.credits_transactions TO {role};
         ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON credits.credits_transactions TO {role} USING (user_id = '{}')",
        user(1)
    ));
    let mut tenant = db.connect_as(&role);
    for query in READS {
        assert_eq!(read(&mut tenant, query, user(1)).unwrap(), dec!(8.5), "{query}");
        assert_eq!(read(&mut tenant, query, user(2)).unwrap(), Decimal::ZERO, "{query}");
        // The owner is not subject to it.
        assert_eq!(read(&mut admin, query, user(2)).unwrap(), dec!(8.5), "{query}");
    }
    // No read writes, and each has the snapshot of the query that it is part of.
    tenant.run("BEGIN READ ONLY");
    for query in READS {
        read(&mut tenant, query, user(1)).unwrap();
    }
    let assigned: bool = tenant.value("SELECT pg_current_xact_id_if_assigned() IS NOT NULL", &[]);
    assert!(!assigned, "a read took a transaction id");
    tenant.run("COMMIT; BEGIN");
    let within: Decimal = tenant.value(
        "WITH written AS (INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
                          VALUES ($1, 'usage', 4, 'x') RETURNING user_id)
         SELECT credits.get_user_balance(user_id) FROM written",
        &[&user(1)],
    );
    assert_eq!(within, dec!(8.5));
    tenant.run("ROLLBACK");
    let users: Vec<Uuid> = tenant.values("SELECT user_id FROM credits.balances", &[]);
    assert_eq!(users, [user(1)]);
    let users: Vec<Uuid> = tenant.values("SELECT user_id FROM credits.batches", &[]);
    assert_eq!(users, [user(1)]);
    let users: Vec<Uuid> = tenant.values(
        "SELECT user_id FROM credits.refresh_checkpoints_bulk($1)",
        &[&[user(1), user(2)].as_slice()],
    );
    assert_eq!(users, [user(1)]);
    // A verdict on a part of the rows would be no verdict.
    tenant.try_run("SELECT credits.verify_ledger()").refused("42501");

    // Another tenant's source_id: refused, without a word about what is stored.
    let key: String = admin.value(
        "SELECT source_id FROM credits.credits_transactions WHERE user_id = $1 ORDER BY seq LIMIT 1",
        &[&user(2)],
    );
    let error = tenant
        .try_run(&format!("SELECT credits.create_transaction('{}', 'purchase', 11, '{key}')", user(1)))
        .refused("23505");
    let told = format!("{} {}", error.message(), error.detail().unwrap_or_default());
    assert!(!told.contains(&user(2).to_string()) && !told.contains(" of 10 "), "{told}");
    // Own writes are settled on all rows of the user, and another's are refused by the policy.
    let mut listener = db.listen();
    tenant.charge(user(1), dec!(20));
    assert_eq!(listener.crossings(), [(user(1), Direction::Down)]);
    tenant.insert(user(2), "usage", dec!(20)).refused("42501");
    admin.assert_sound();
}

/// Each privilege that the reference lists for holding and charging is needed, and no other one.
#[test]
fn holding_and_charging_need_what_the_reference_lists() {
    const HOLD: &str = "SELECT credits.create_hold($1, 1, 'new')";
    const ANEW: &str = "SELECT credits.create_hold($1, 1, 'expired')";
    const CASES: [(&str, &[&str]); 6] = [
        (HOLD, &["SELECT ON credits.holds", "INSERT ON credits.holds"]),
        (ANEW, &["SELECT ON credits.holds", "INSERT ON credits.holds"]),
        (
            "SELECT credits.extend_hold('open', '2 hours') FROM (VALUES ($1::uuid)) AS u",
            &["SELECT ON credits.holds", "UPDATE (expires_at) ON credits.holds"],
        ),
        (
            "SELECT credits.release_hold('open') FROM (VALUES ($1::uuid)) AS u",
            &["SELECT ON credits.holds", "DELETE ON credits.holds"],
        ),
        (
            "SELECT credits.capture_hold('open') FROM (VALUES ($1::uuid)) AS u",
            &[
                "SELECT ON credits.holds",
                "DELETE ON credits.holds",
                "SELECT ON credits.credits_transactions",
                "INSERT ON credits.credits_transactions",
            ],
        ),
        (
            "SELECT credits.charge($1, 1, 'new')",
            &["SELECT ON credits.credits_transactions", "INSERT ON credits.credits_transactions"],
        ),
    ];
    let db = Database::create();
    let role = db.create_role("holder");
    let mut admin = db.connect();
    admin.grant(user(1), dec!(10));
    admin.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role};
         INSERT INTO credits.holds (source_id, user_id, amount, expires_at)
         VALUES ('open', '{0}', 1, now() + interval '1 hour'), ('expired', '{0}', 1, now() - interval '1 hour')",
        user(1)
    ));
    let mut holder = db.connect_as(&role);
    for (call, needed) in CASES {
        for left_out in needed.iter().map(Some).chain([None]) {
            admin.run(&format!("REVOKE ALL ON credits.holds, credits.credits_transactions FROM {role}"));
            for privilege in needed.iter().filter(|&privilege| Some(privilege) != left_out) {
                admin.run(&format!("GRANT {privilege} TO {role}"));
            }
            holder.run("BEGIN");
            let outcome = holder.execute(call, &[&user(1)]);
            holder.run("ROLLBACK");
            match left_out {
                Some(privilege) => {
                    let error = outcome.err().unwrap_or_else(|| panic!("{call} without {privilege}"));
                    assert_eq!(
                        error.code().map(|code| code.code()),
                        Some("42501"),
                        "{call} without {privilege}"
                    );
                }
                None => assert!(outcome.is_ok(), "{call}: {outcome:?}"),
            }
        }
    }
    admin.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// Whoever has been let call what moves buckets by mistake still needs the ledger.
#[test]
fn only_the_owner_moves_buckets() {
    let db = Database::create();
    let role = db.create_role("mover");
    let mut admin = db.connect();
    grant_reading(&mut admin, &role);
    let mut mover = db.connect_as(&role);
    for call in ["begin_transfer(1)", "wait_for_transaction(1)", "hold_stripes(1)", "holds_stripes(1)"] {
        let error = mover.try_run(&format!("SELECT credits.{call}")).refused("42501");
        assert!(error.message().contains("owner"), "{call}: {}", error.message());
    }
}
