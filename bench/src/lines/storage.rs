//! Bytes: of a stored transaction, and of the write-ahead log of an insert.

use anyhow::Result;
use postgres::Client;

use super::{Bench, Contender, Line};
use crate::report::Bound::AtMost;
use crate::report::Measured;
use crate::server::{Length, Load};
use crate::sides::{self, grant, insert_labelled, insert_usage, user};

pub const LINES: &[Line] = &[
    Line {
        name: "size",
        what: "Bytes per transaction, heap and indexes, half of the rows in batches",
        needs: &[],
        run: |bench| Ok(size(bench)?.ratio("ledger", "reference", AtMost(0.80))),
    },
    Line {
        name: "size-days",
        what: "Bytes per transaction with daily totals, three keys and five categories, against those of the ledger alone",
        needs: &["usage_by_day"],
        run: |bench| {
            let measured = size_with_days(bench)?;
            Ok(measured.ratio("with daily totals", "without", AtMost(1.03)))
        },
    },
    Line {
        name: "wal",
        what: "Bytes of write-ahead log per single-row insert, 1,000 random users",
        needs: &[],
        run: |bench| Ok(wal(bench)?.ratio("ledger", "bare", AtMost(1.10))),
    },
];

fn size(bench: &Bench) -> Result<Measured> {
    let users = bench.scale(1000, 200);
    let contender = |(side, schema): (&'static str, &'static str)| -> Contender {
        let sample = move || {
            bench.with_database(|_, client| {
                grant(client, users)?;
                let flushes = bench.scale(1000, 200);
                for flush in 0..flushes {
                    client.batch_execute(&flush_of_one_user(schema, flush, users))?;
                    // Now and then the users look at their grouped lists, and autovacuum makes the old versions of
                    // the rows that the reference marks free again.
                    if (flush + 1) % (flushes / 10) == 0 {
                        if schema == "reference" {
                            for number in 1..=users {
                                client
                                    .batch_execute(&sides::reference_aggregate(&user(&number.to_string())))?;
                            }
                        }
                        client.batch_execute("VACUUM")?;
                    }
                }
                bytes_per_row(client, schema)
            })
        };
        (side, Box::new(sample))
    };
    bench.once("bytes", [("reference", "reference"), ("ledger", "credits")].map(contender).into())
}

/// 100 rows of one user, every other flush a batch.
fn flush_of_one_user(schema: &str, flush: i64, users: i64) -> String {
    let batch = if flush % 2 == 0 { format!("md5('{flush}')::uuid") } else { "NULL".to_owned() };
    format!(
        "INSERT INTO {schema}.credits_transactions \
         (user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id) \
         SELECT {}, 'usage', 0.000734, gen_random_uuid()::text, 'chat completion', {batch}, md5('key')::uuid \
         FROM generate_series(1, 100)",
        user(&(1 + flush * 7919 % users).to_string())
    )
}

fn bytes_per_row(client: &mut Client, schema: &str) -> Result<f64> {
    let table = format!("{schema}.credits_transactions");
    let query = format!("SELECT pg_total_relation_size('{table}')::float8 / count(*) FROM {table}");
    Ok(client.query_one(&query, &[])?.get(0))
}

/// Rows of 100 accounts, all of one day.
fn size_with_days(bench: &Bench) -> Result<Measured> {
    const ACCOUNTS: i64 = 100;
    bench.with_database(|_, client| {
        grant(client, ACCOUNTS)?;
        for _ in 0..bench.scale(300, 30) {
            let user_of_row = user(&format!("(1 + i % {ACCOUNTS})"));
            client.batch_execute(&insert_labelled(
                "credits",
                "generate_series(1, 1000)",
                &user_of_row,
                "i % 3",
                "i % 5",
            ))?;
        }
        client.batch_execute("VACUUM")?;
        let without = bytes_per_row(client, "credits")?;
        let of_days: f64 = client
            .query_one(
                "SELECT pg_total_relation_size('credits.daily_totals')::float8 / count(*) FROM credits.credits_transactions",
                &[],
            )?
            .get(0);
        let sides: [(&str, f64); 2] = [("without", without), ("with daily totals", without + of_days)];
        let contender = |(side, bytes): (&'static str, f64)| -> Contender { (side, Box::new(move || Ok(bytes))) };
        bench.once("bytes", sides.map(contender).into())
    })
}

fn wal(bench: &Bench) -> Result<Measured> {
    let transactions: u32 = bench.scale(20_000, 5_000);
    bench.with_database(|database, client| {
        grant(client, 1000)?;
        let contender = |(side, schema): (&'static str, &str)| -> Contender {
            let script = format!("\\set u random(1, 1000)\n{};\n", insert_usage(schema, "1", &user(":u")));
            let sample = move || {
                let mut client = bench.server.connect(database)?;
                let before = written(&mut client)?;
                let length = Length::Transactions(transactions.into());
                // Nobody need wait for what is only counted.
                let options = "-c synchronous_commit=off";
                bench.server.pgbench(&Load { database, script: &script, clients: 1, length, options })?;
                Ok((written(&mut client)? - before) / f64::from(transactions))
            };
            (side, Box::new(sample))
        };
        bench.alternate("bytes", [("bare", "bare"), ("ledger", "credits")].map(contender).into())
    })
}

/// Bytes written to the log since the cluster was made.
pub(super) fn written(client: &mut Client) -> Result<f64> {
    Ok(client.query_one("SELECT (pg_current_wal_insert_lsn() - '0/0')::float8", &[])?.get(0))
}
