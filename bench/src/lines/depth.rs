//! Whether inserts slow down as the ledger grows.

use anyhow::Result;
use postgres::Client;

use super::{Bench, Contender, Line};
use crate::report::Bound::AtLeast;
use crate::report::Measured;
use crate::sides::{grant, insert_usage, user};

pub const LINES: &[Line] = &[Line {
    name: "insert-depth",
    what: "Single-row usage inserts, 10,000 random users, 8 clients, in a small ledger and one ten times as large",
    needs: &[],
    run: depth,
}];

const USERS: u32 = 10_000;

/// Rows that are loaded in one statement.
const CHUNK: u32 = 50_000;

fn depth(bench: &Bench) -> Result<Measured> {
    const SHALLOW: &str = "shallow";
    const DEEP: &str = "deep";
    let rows = bench.scale(1_000_000, 100_000);
    let (small, large) =
        bench.scale(("ledger, 1 M rows", "ledger, 10 M rows"), ("ledger, 100,000 rows", "ledger, 1 M rows"));
    bench.shared_database(SHALLOW, |client| {
        grant(client, USERS.into())?;
        load(client, rows)
    })?;
    bench.server.copy_database(SHALLOW, DEEP)?;
    load(&mut bench.server.connect(DEEP)?, 9 * rows)?;
    bench.server.connect(DEEP)?.batch_execute("VACUUM ANALYZE")?;

    let script = format!("\\set u random(1, {USERS})\n{};\n", insert_usage("credits", "1", &user(":u")));
    let contender = |(side, database): (&'static str, &'static str)| -> Contender {
        let script = &script;
        (side, Box::new(move || bench.per_second(database, script, 8, "")))
    };
    let measured = bench.alternate("inserts/s", [(small, SHALLOW), (large, DEEP)].map(contender).into())?;
    bench.server.drop_database(DEEP)?;
    Ok(measured.ratio(large, small, AtLeast(0.90)))
}

fn load(client: &mut Client, rows: u32) -> Result<()> {
    let random_user = user(&format!("(1 + floor(random() * {USERS}))::int"));
    for _ in 0..rows / CHUNK {
        client.batch_execute(&insert_usage("credits", &CHUNK.to_string(), &random_user))?;
    }
    Ok(())
}
