//! Ledger, derived tables and result types keep the shape that they were made with.

use credits_ledger_tests::{Database, Refused, Session, dec, unguarded, user};

/// Changes that are refused, and what is said of them. `{ledger}`: the table's name.
const OF_THE_LEDGER: &[(&str, &str)] = &[
    ("ALTER TABLE {ledger} ADD COLUMN note text", "a new column note"),
    ("ALTER TABLE {ledger} RENAME COLUMN description TO note", "another name for column description"),
    ("ALTER TABLE {ledger} ALTER COLUMN xact_id DROP EXPRESSION", "another definition of column xact_id"),
    ("ALTER TABLE {ledger} ALTER COLUMN user_id DROP NOT NULL", "another definition of column user_id"),
    ("ALTER TABLE {ledger} DROP CONSTRAINT amount_is_positive_and_exact", "dropping constraint amount_is_positive_and_exact"),
    ("ALTER TABLE {ledger} RENAME CONSTRAINT batch_is_usage TO other", "dropping constraint batch_is_usage"),
    ("ALTER TABLE {ledger} DROP CONSTRAINT credits_transactions_pkey", "dropping the primary key"),
    ("ALTER TABLE {ledger} RENAME TO other", "another name"),
    ("CREATE SCHEMA app; ALTER TABLE {ledger} SET SCHEMA app", "another name"),
    ("ALTER SCHEMA credits RENAME TO other", "another name"),
    ("ALTER TABLE {ledger} SET UNLOGGED", "another way to store it"),
    ("CREATE TABLE child () INHERITS ({ledger})", "a table that inherits from it"),
    ("CREATE TEMPORARY TABLE child () INHERITS ({ledger})", "a table that inherits from it"),
    ("CREATE TABLE child (LIKE {ledger} INCLUDING GENERATED INCLUDING CONSTRAINTS); ALTER TABLE child INHERIT {ledger}", "a table that inherits from it"),
    ("CREATE SCHEMA app CREATE TABLE child () INHERITS ({ledger})", "a table that inherits from it"),
    (
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
         CREATE FOREIGN TABLE child () INHERITS ({ledger}) SERVER s",
        "a table that inherits from it",
    ),
    ("CREATE TABLE parent (amount numeric NOT NULL); ALTER TABLE {ledger} INHERIT parent", "a table that it inherits from"),
    (
        "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
         CREATE FOREIGN TABLE parent (amount numeric NOT NULL) SERVER s; ALTER TABLE {ledger} INHERIT parent",
        "a table that it inherits from",
    ),
    (
        "CREATE TABLE parent (LIKE {ledger} INCLUDING DEFAULTS INCLUDING GENERATED) PARTITION BY RANGE (created_at);
         ALTER TABLE parent ATTACH PARTITION {ledger} DEFAULT",
        "a table that it inherits from or is a partition of",
    ),
    ("CREATE RULE nothing AS ON INSERT TO {ledger} DO INSTEAD NOTHING", "a rule"),
    ("CREATE RULE log AS ON UPDATE TO {ledger} DO ALSO NOTIFY log", "a rule"),
    (
        "CREATE TYPE shape AS (id uuid, user_id uuid, transaction_type text, amount numeric, source_id text, description text,
                               fusillade_batch_id uuid, api_key_id uuid, created_at timestamptz, seq bigint, xact_id xid8,
                               category text, metadata jsonb, reverses uuid);
         ALTER TABLE {ledger} OF shape",
        "OF a type",
    ),
    ("DO 'BEGIN ALTER TABLE {ledger} ADD COLUMN note text; END'", "a new column note"),
    ("SET session_replication_role = replica; ALTER TABLE {ledger} ADD COLUMN note text", "a new column note"),
];

/// `{derived}`: the name of each.
const OF_DERIVED_TABLES: &[(&str, &str)] = &[
    ("ALTER TABLE {derived} ADD COLUMN note text", "a new column note"),
    ("ALTER TABLE {derived} RENAME COLUMN updated_at TO other", "another name for column updated_at"),
    ("ALTER TABLE {derived} RENAME TO other", "another name"),
    ("ALTER TABLE {derived} SET UNLOGGED", "another way to store it"),
    ("ALTER TABLE {derived} ADD CHECK (transaction_count >= 0)", "a constraint"),
    ("ALTER TABLE {derived} ADD UNIQUE (updated_at)", "a constraint"),
    (
        "CREATE TABLE accounts (id uuid PRIMARY KEY); ALTER TABLE {derived} ADD FOREIGN KEY (user_id) REFERENCES accounts",
        "a constraint",
    ),
    ("CREATE TABLE child () INHERITS ({derived})", "a table that inherits from it"),
    (
        "CREATE TABLE parent (user_id uuid NOT NULL); ALTER TABLE {derived} INHERIT parent",
        "a table that it inherits from",
    ),
    ("CREATE RULE nothing AS ON UPDATE TO {derived} DO INSTEAD NOTHING", "a rule"),
    (
        "CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER log AFTER UPDATE ON {derived} FOR EACH ROW EXECUTE FUNCTION log()",
        "a trigger",
    ),
];

/// `{type}`: the name of each.
const OF_RESULT_TYPES: &[(&str, &str)] = &[
    ("ALTER TYPE {type} ALTER ATTRIBUTE seq TYPE text", "another definition of column seq"),
    ("ALTER TYPE {type} ADD ATTRIBUTE note text", "a new column note"),
    ("ALTER TYPE {type} DROP ATTRIBUTE description", "dropping column description"),
    ("ALTER TYPE {type} RENAME ATTRIBUTE description TO note", "another name for column description"),
    ("ALTER TYPE {type} RENAME TO other", "another name"),
    ("ALTER TYPE {type} SET SCHEMA public", "another name"),
];

fn all() -> Vec<(String, &'static str, &'static str)> {
    let fill = |changes: &[(&str, &'static str)], place: &str, name: &'static str| {
        changes
            .iter()
            .map(|&(change, told)| (change.replace(place, &format!("credits.{name}")), name, told))
            .collect::<Vec<_>>()
    };
    [
        fill(OF_THE_LEDGER, "{ledger}", "credits_transactions"),
        fill(OF_DERIVED_TABLES, "{derived}", "user_balance_checkpoints"),
        fill(OF_DERIVED_TABLES, "{derived}", "batch_aggregates"),
        fill(OF_RESULT_TYPES, "{type}", "credit_transaction"),
        fill(OF_RESULT_TYPES, "{type}", "transaction_with_category"),
    ]
    .concat()
}

fn assert_refused(session: &mut Session, change: &str, name: &str, told: &str) {
    let error = session.try_run(change).refused("55000");
    let begin = format!("{name} keeps the shape that it was made with: {told}");
    assert!(error.message().starts_with(&begin), "{change}: {error:?}");
    assert!(error.hint().is_some(), "{change}: {error:?}");
}

/// In a session that has used nothing of the ledger, and in a block that survives the refusal.
#[test]
fn a_change_of_shape_is_refused() {
    let db = Database::create();
    let mut admin = db.connect();
    admin.grant(user(1), dec!(5));
    for (change, name, told) in all() {
        assert_refused(&mut db.connect(), &change, name, told);
    }
    let mut session = db.connect();
    session.run("BEGIN");
    for (change, name, told) in all() {
        session.run("SAVEPOINT before");
        assert_refused(&mut session, &change, name, told);
        session.run("ROLLBACK TO before");
    }
    session.charge(user(1), dec!(2));
    session.run("COMMIT");
    assert_eq!(admin.balance(user(1)), dec!(3));
    admin.assert_sound();
}

/// The same changes go through where the guard is switched off: it is the guard that refuses them.
#[test]
fn a_superuser_can_switch_the_guard_off() {
    let db = Database::create();
    let mut session = db.connect();
    for (change, ..) in all() {
        // NOT VALID checks stand in the way of partitions from Postgres 18 on, or ever.
        if change.contains("ATTACH PARTITION") {
            continue;
        }
        session.run(&format!("BEGIN; {}; ROLLBACK", unguarded(&change)));
    }
    session.grant(user(1), dec!(1));
    session.assert_sound();
}
