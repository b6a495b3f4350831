//! Many accounts: what a commit costs where each is met now and then.
//!
//! Commits are asynchronous, so that only processors count.

use anyhow::Result;

use super::{Bench, Contender, Line};
use crate::report::Bound::AtLeast;
use crate::report::Measured;
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

/// Single rows of the accounts with such numbers.
fn inserts(bench: &Bench, number: &str) -> Result<Measured> {
    bench.shared_database(MILLION, |client| grant_in(client, &["bare", "credits"], accounts(bench)))?;
    let contender = |(side, schema): (&'static str, &str)| -> Contender {
        let script = format!("\\set u {number}\n{};\n", insert_usage(schema, "1", &user(":u")));
        (side, Box::new(move || bench.per_second(MILLION, &script, 8, "-c synchronous_commit=off")))
    };
    bench.alternate("inserts/s", [("bare", "bare"), ("ledger", "credits")].map(contender).into())
}
