//! A ledger that is larger than memory, or that nobody has written to since a checkpoint: what random keys cost.

use anyhow::Result;

use super::storage::written;
use super::{Bench, Contender, Line};
use crate::report::Bound::{AtLeast, AtMost};
use crate::report::Measured;
use crate::server::{Length, Load};
use crate::sides::{grant, insert_usage, user};

pub const LINES: &[Line] = &[
    Line {
        name: "wal-cold",
        what: "Bytes of write-ahead log per single-row insert after a checkpoint, 10 M rows, 1,000 random users",
        needs: &[],
        run: |bench| Ok(log_after_checkpoint(bench)?.ratio("ledger", "reference", AtMost(0.60))),
    },
    Line {
        name: "insert-cold",
        what: "Single-row inserts into the same, 8 clients, shared buffers an eighth of the ledger, commits asynchronous",
        needs: &[],
        run: |bench| {
            let measured = with_few_buffers(bench, || {
                bench.alternate("inserts/s", cold_inserts(bench, bench.scale(4, 2)))
            })?;
            Ok(measured.ratio("ledger", "reference", AtLeast(1.3)))
        },
    },
    Line {
        name: "insert-cold-disk",
        what: "The same without the operating system's cache: direct I/O, which Postgres has since 16",
        needs: &[],
        run: |bench| {
            let measured = with_few_buffers(bench, || {
                bench.server.with_setting("debug_io_direct", "data", || {
                    // A side begins with the pages of the other one in shared buffers.
                    bench.alternate("inserts/s", cold_inserts(bench, bench.scale(15, 4)))
                })
            })?;
            Ok(measured.ratio("ledger", "reference", AtLeast(1.3)))
        },
    },
];

const LARGE: &str = "large";
/// Rows that are loaded in one statement.
const CHUNK: u32 = 50_000;

const SIDES: [(&str, &str); 2] = [("reference", "reference"), ("ledger", "credits")];

fn users(bench: &Bench) -> u32 {
    bench.scale(1_000, 100)
}

fn fill(bench: &Bench) -> Result<()> {
    bench.shared_database(LARGE, |client| {
        grant(client, users(bench).into())?;
        let random_user = user(&format!("(1 + floor(random() * {}))::int", users(bench)));
        for _ in 0..bench.scale(10_000_000, 200_000) / CHUNK {
            for (_, schema) in SIDES {
                client.batch_execute(&insert_usage(schema, &CHUNK.to_string(), &random_user))?;
            }
        }
        Ok(())
    })
}

fn script(bench: &Bench, schema: &str) -> String {
    format!("\\set u random(1, {})\n{};\n", users(bench), insert_usage(schema, "1", &user(":u")))
}

/// The first change of a page after a checkpoint is logged with the whole page.
fn log_after_checkpoint(bench: &Bench) -> Result<Measured> {
    fill(bench)?;
    let inserts: u32 = bench.scale(20_000, 2_000);
    let contender = |(side, schema): (&'static str, &'static str)| -> Contender {
        let script = script(bench, schema);
        let sample = move || {
            let mut client = bench.server.connect(LARGE)?;
            client.batch_execute("CHECKPOINT")?;
            let before = written(&mut client)?;
            let length = Length::Transactions(inserts.into());
            let options = "-c synchronous_commit=off";
            bench.server.pgbench(&Load { database: LARGE, script: &script, clients: 1, length, options })?;
            Ok((written(&mut client)? - before) / f64::from(inserts))
        };
        (side, Box::new(sample))
    };
    bench.alternate("bytes", SIDES.map(contender).into())
}

/// Does the work while shared buffers have room for an eighth of the ledger.
fn with_few_buffers<T>(bench: &Bench, work: impl FnOnce() -> Result<T>) -> Result<T> {
    fill(bench)?;
    let megabytes: i64 = bench
        .server
        .connect(LARGE)?
        .query_one("SELECT pg_total_relation_size('credits.credits_transactions') / 8 / 1024 / 1024", &[])?
        .get(0);
    bench.server.with_setting("shared_buffers", &format!("{megabytes}MB"), work)
}

fn cold_inserts<'a>(bench: &'a Bench, seconds: u64) -> Vec<Contender<'a>> {
    let contender = |(side, schema)| -> Contender<'a> {
        let script = script(bench, schema);
        let length = Length::Seconds(seconds);
        let sample = move || {
            let options = "-c synchronous_commit=off";
            let load = Load { database: LARGE, script: &script, clients: 8, length, options };
            Ok(bench.server.pgbench(&load)?.per_second)
        };
        (side, Box::new(sample))
    };
    SIDES.map(contender).into()
}
