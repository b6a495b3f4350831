//! Memory that a session has for itself.

use anyhow::{Context, Result};

use super::{Bench, Contender, Line};
use crate::report::Bound::AtMost;
use crate::report::Measured;
use crate::sides::{grant, insert_usage, user};

pub const LINES: &[Line] = &[Line {
    name: "session-memory",
    what: "Private memory of a session that has inserted a row of each of 1,000 accounts",
    needs: &[],
    run: |bench| Ok(session(bench)?.ratio("ledger", "bare", AtMost(SESSION))),
}];

/// What it was when this line was made, rounded up: 372 kB beside the 2,836 kB of a session on the bare table.
const SESSION: f64 = 1.15;

fn session(bench: &Bench) -> Result<Measured> {
    bench.with_database(|database, client| {
        grant(client, 1000)?;
        let contender = |(side, schema): (&'static str, &'static str)| -> Contender {
            let sample = move || {
                let mut client = bench.server.connect(database)?;
                client.batch_execute("SET synchronous_commit = off")?;
                for number in 1..=1000 {
                    client.batch_execute(&insert_usage(schema, "1", &user(&number.to_string())))?;
                }
                let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
                private_memory(pid)
            };
            (side, Box::new(sample))
        };
        bench.once("kB", [("bare", "bare"), ("ledger", "credits")].map(contender).into())
    })
}

/// What a process has in memory that belongs to no file and is not shared, in kilobytes.
fn private_memory(pid: i32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("a process has memory")?;
    Ok(line.split_whitespace().next().context("a number")?.parse()?)
}
