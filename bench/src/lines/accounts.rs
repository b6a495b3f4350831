//! Many accounts: what a commit costs where each is met now and then.
//!
//! Commits are asynchronous, so that only processors count.

use anyhow::Result;
use postgres::Client;

use super::{Bench, Contender, Line};
use crate::report::Bound::AtLeast;
use crate::report::Measured;
use crate::server::Server;
use crate::sides::{grant_in, insert_usage, user};

pub const LINES: &[Line] = &[
    Line {
        name: "accounts-1k",
        what: "Single-row usage inserts, 1,000 random accounts of a million, 8 clients, commits asynchronous",
        needs: &[],
        run: |bench| Ok(inserts(bench, "random(1, 1000)")?.ratio("ledger", "bare", AtLeast(0.95))),
    },
    Line {
        name: "accounts-100k",
        what: "The same, 100,000 random accounts of a million",
        needs: &[],
        run: |bench| {
            let met = bench.scale(100_000, 10_000);
            Ok(inserts(bench, &format!("random(1, {met})"))?.ratio("ledger", "bare", AtLeast(0.90)))
        },
    },
    Line {
        name: "accounts-1m",
        what: "The same, a million random accounts",
        needs: &[],
        run: |bench| {
            let all = accounts(bench);
            Ok(inserts(bench, &format!("random(1, {all})"))?.ratio("ledger", "bare", AtLeast(0.85)))
        },
    },
    Line {
        name: "accounts-1m-160mb",
        what: "The same, a million random accounts, of which each has been met: credits_ledger.shared_memory_size = 160 MB",
        needs: &[],
        run: |bench| Ok(inserts_of_met(bench)?.ratio("ledger", "bare", AtLeast(0.85))),
    },
    Line {
        name: "accounts-zipf",
        what: "The same, a million accounts by a zipf law",
        needs: &[],
        run: |bench| {
            let all = accounts(bench);
            let number = format!("random_zipfian(1, {all}, 1.05)");
            Ok(inserts(bench, &number)?.ratio("ledger", "bare", AtLeast(0.90)))
        },
    },
];

const MILLION: &str = "million";

fn accounts(bench: &Bench) -> i64 {
    bench.scale(1_000_000, 100_000)
}

const SIDES: [&str; 2] = ["bare", "credits"];

/// Single rows of the accounts with such numbers.
fn inserts(bench: &Bench, number: &str) -> Result<Measured> {
    bench.shared_database(MILLION, |client| grant_in(client, &SIDES, accounts(bench)))?;
    measure(bench, number)
}

/// The same of all accounts, where shared memory has grown so that it has room for them, and each has been met since.
/// On a server of its own, since memory that has grown does not shrink.
fn inserts_of_met(bench: &Bench) -> Result<Measured> {
    const MEMORY: &str = "credits_ledger.shared_memory_size = '160MB'";
    let server = Server::start()?;
    let bench = &Bench::new(&server, bench.quick, None)?;
    let all = accounts(bench);
    bench.shared_database(MILLION, |client| {
        client.batch_execute(&format!("ALTER DATABASE {MILLION} SET {MEMORY}"))?;
        client.batch_execute(&format!("SET {MEMORY}"))?;
        grant_in(client, &SIDES, all)?;
        // Memory has grown while accounts were met for the first time, and each growth voids what was published.
        meet(client, all)
    })?;
    measure(bench, &format!("random(1, {all})"))
}

fn measure(bench: &Bench, number: &str) -> Result<Measured> {
    let contender = |(side, schema): (&'static str, &str)| -> Contender {
        let script = format!("\\set u {number}\n{};\n", insert_usage(schema, "1", &user(":u")));
        (side, Box::new(move || bench.per_second(MILLION, &script, 8, "-c synchronous_commit=off")))
    };
    bench.alternate("inserts/s", [("bare", "bare"), ("ledger", "credits")].map(contender).into())
}

/// A row of usage for each account.
fn meet(client: &mut Client, accounts: i64) -> Result<()> {
    /// Accounts of one transaction.
    const CHUNK: usize = 1_000;
    for first in (0..accounts).step_by(CHUNK) {
        for schema in SIDES {
            client.batch_execute(&insert_usage(
                schema,
                &CHUNK.to_string(),
                &user(&format!("({first} + i)")),
            ))?;
        }
    }
    Ok(())
}
