//! COPY: the path of bulk loads.

use anyhow::Result;

use super::{Bench, Contender, Line, seconds};
use crate::report::Bound::AtLeast;
use crate::report::Measured;
use crate::sides::{grant, user};

pub const LINES: &[Line] = &[Line {
    name: "copy",
    what: "COPY of 300,000 usage rows of 1,000 users",
    needs: &[],
    run: |bench| Ok(copy(bench)?.ratio("ledger", "bare", AtLeast(0.95))),
}];

fn copy(bench: &Bench) -> Result<Measured> {
    bench.with_database(|database, client| {
        grant(client, 1000)?;
        compare(bench, database, bench.scale(300_000, 60_000))
    })
}

/// COPY of usage rows of 1,000 users into the ledger of a database and into the table of the schema `bare`.
pub fn compare(bench: &Bench, database: &str, rows: u32) -> Result<Measured> {
    let file = bench.server.file("rows.txt");
    // The rows differ each time; making them is not measured.
    let make = format!(
        "COPY (SELECT {}, 'usage', 0.000734, gen_random_uuid(), 'chat completion' FROM generate_series(1, {rows}) AS i) \
         TO '{file}'",
        user("(1 + i % 1000 * 7919 % 1000)")
    );
    let contender = |(side, schema): (&'static str, &str)| -> Contender {
        let make = &make;
        let copy = format!(
            "COPY {schema}.credits_transactions (user_id, transaction_type, amount, source_id, description) FROM '{file}'"
        );
        let sample = move || {
            let mut client = bench.server.connect(database)?;
            client.batch_execute(make)?;
            Ok(f64::from(rows) / seconds(|| Ok(client.batch_execute(&copy)?))?)
        };
        (side, Box::new(sample))
    };
    bench.alternate("rows/s", [("bare", "bare"), ("ledger", "credits")].map(contender).into())
}
