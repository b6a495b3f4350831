//! Good and bad settings, and tables that labels cannot come from.

use credits_ledger_tests::Session;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::verdict::{Expected, Fault};

/// Tables and other relations for `credits_ledger.analytics_table`.
pub const RELATIONS: &str = r#"
    CREATE TABLE plain (id uuid PRIMARY KEY, fusillade_batch_id uuid, request_origin text, batch_request_source text, batch_sla text);
    INSERT INTO plain SELECT gen_random_uuid(), gen_random_uuid(), E'\\ \'', '', NULL FROM generate_series(1, 5);
    CREATE VIEW a_view AS SELECT * FROM plain;
    CREATE MATERIALIZED VIEW unpopulated AS SELECT * FROM plain WITH NO DATA;
    CREATE VIEW failing AS SELECT id, fusillade_batch_id, (1 / (length(batch_request_source)))::text AS batch_sla FROM plain;
    CREATE TABLE "No Columns" ();
    CREATE TABLE odd_types (id int4range, fusillade_batch_id json, request_origin plain, batch_request_source bytea, batch_sla point[]);
    CREATE TABLE odd_keys (id bit(3), fusillade_batch_id plain, request_origin xid8, batch_sla interval);
    CREATE DOMAIN small AS int2 CHECK (VALUE < 100);
    CREATE TABLE domains (id small, fusillade_batch_id small, request_origin small, batch_sla small);
    INSERT INTO domains VALUES (1, 1, 1, 1);
    CREATE TABLE dropped (LIKE plain);
    ALTER TABLE dropped DROP COLUMN id, DROP COLUMN batch_sla, ADD COLUMN batch_sla int, DROP COLUMN fusillade_batch_id;
    CREATE TABLE generated (id text COLLATE "C", fusillade_batch_id char(36), request_origin text GENERATED ALWAYS AS (id || 'x') STORED);
    CREATE TABLE parted (LIKE plain) PARTITION BY LIST (batch_sla);
    CREATE SEQUENCE a_sequence;
    CREATE TYPE composite AS (id uuid, fusillade_batch_id uuid);
    CREATE INDEX an_index ON plain (fusillade_batch_id);
"#;

/// What a setting makes of the calls after it: refusals of the tables that labels come from, which are not ours.
pub type Tolerated = &'static [&'static str];

/// Sets one of the settings to something; a refused value leaves it as it was.
pub fn change(session: &mut Session, random: &mut StdRng, tolerated: &mut Tolerated) {
    let long = "n".repeat(63);
    let too_long = "é".repeat(32);
    let (name, good, bad): (_, Vec<(&str, Tolerated)>, &[&str]) = match random.random_range(0..6) {
        0 => (
            "analytics_table",
            vec![
                ("plain", &[]),
                ("PLAIN", &[]),
                ("public.a_view", &[]),
                ("unpopulated", &["55000"]),
                ("failing", &["22012"]),
                ("\"No Columns\"", &[]),
                ("\"public\".\"No Columns\"", &[]),
                ("odd_types", &[]),
                ("odd_keys", &[]),
                ("domains", &[]),
                ("dropped", &[]),
                ("generated", &[]),
                ("parted", &[]),
                ("a_sequence", &[]),
                ("composite", &[]),
                ("an_index", &[]),
                ("absent", &[]),
                ("absent.absent", &[]),
                ("pg_temp.absent", &[]),
                ("pg_catalog.pg_class", &[]),
                ("credits.credits_transactions", &[]),
                ("\"a\"\"b\"", &[]),
                ("\";drop\"", &[]),
                ("残高", &[]),
                ("a,b", &[]),
            ],
            &["", ".", "a.", ".a", "a..b", "a.b.c", "\"a", "\"\"", "a b", "a.b.\"", " "],
        ),
        1 => ("config_channel", channels(&long), &[&too_long]),
        2 => ("crossing_channel", channels(&long), &[&too_long]),
        3 => ("cap_channel", channels(&long), &[&too_long]),
        4 => (
            "shared_memory_size",
            vec![("2MB", &[]), ("12288", &[]), ("64GB", &[])],
            &["0", "-1", "2047", "65GB", "9223372036854775807", "much", "", "1MB"],
        ),
        _ => (
            "checkpoint_interval",
            vec![("1", &[]), ("7", &[]), ("1000000", &[])],
            &["0", "-1", "1000001", "9223372036854775807", "many", "", "1MB"],
        ),
    };
    let is_bad = random.random_bool(0.3);
    let (value, after) =
        if is_bad { (*bad.choose(random).unwrap(), *tolerated) } else { *good.choose(random).unwrap() };
    let fault =
        is_bad.then(|| Fault { sqlstates: &["22023"], names: Some(format!("credits_ledger.{name}")) });
    let expected = Expected { faults: fault.into_iter().collect(), tolerated: Vec::new() };
    let sql = "SELECT set_config('credits_ledger.' || $1, $2, false)";
    expected.judge(session.execute(sql, &[&name, &value]), &(name, value));
    if name == "analytics_table" {
        *tolerated = after;
    }
}

fn channels(long: &str) -> Vec<(&str, Tolerated)> {
    ["", " ", "a b", "\"quoted\"", "'; --", "残高", "%s", "auth_config_changed", long]
        .map(|name| (name, &[][..]))
        .to_vec()
}
