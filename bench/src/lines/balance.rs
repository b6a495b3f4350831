//! Balances: one, many, and whether the length of a history shows.

use anyhow::Result;

use super::{Bench, Contender, Line};
use crate::report::Bound::{AtLeast, AtMost};
use crate::report::{Measured, Ratio, Side};
use crate::sides::{grant, insert_usage, reference_balance, reference_balances, user};

pub const LINES: &[Line] = &[
    Line {
        name: "balance",
        what: "get_user_balance, 1,000 users in the steady state of small flushes",
        needs: &["get_user_balance"],
        run: |bench| {
            // The user is bound as an application does it; who it is was asked before.
            let one = ":who";
            let ask = format!("\\set n random(1, {})\nSELECT {} AS who \\gset\n", users(bench), user(":n"));
            let measured = read(
                bench,
                &ask,
                &[
                    (
                        "primary-key SELECT",
                        &format!("SELECT balance FROM fold.balances WHERE user_id = {one}"),
                    ),
                    ("ledger", &format!("SELECT credits.get_user_balance({one})")),
                    ("reference, delta of 500 rows", &reference_balance(one)),
                ],
            )?;
            Ok(measured.ratio("ledger", "primary-key SELECT", AtMost(1.25)).ratio(
                "reference, delta of 500 rows",
                "ledger",
                AtLeast(8.0),
            ))
        },
    },
    Line {
        name: "balances-bulk",
        what: "Balances of all those users at once",
        needs: &["get_users_balances_bulk"],
        run: |bench| {
            let users = format!("ARRAY(SELECT {} FROM generate_series(1, {}) AS i)", user("i"), users(bench));
            let measured = read(
                bench,
                "",
                &[
                    ("ledger", &format!("SELECT sum(balance) FROM credits.get_users_balances_bulk({users})")),
                    (
                        "reference, deltas of 500 rows",
                        &format!("SELECT sum(balance) FROM ({}) AS balances", reference_balances(&users)),
                    ),
                ],
            )?;
            Ok(measured.ratio("reference, deltas of 500 rows", "ledger", AtLeast(8.0)))
        },
    },
    Line {
        name: "balance-history",
        what: "get_user_balance of users with 100, 10,000 and 1,000,000 rows",
        needs: &["get_user_balance", "refresh_checkpoint"],
        run: history,
    },
];

fn users(bench: &Bench) -> i64 {
    bench.scale(1000, 200)
}

/// New sessions read users with some 500 rows since their grant, which is the reference's last checkpoint.
/// `before` is run before each query, and not counted.
fn read(bench: &Bench, before: &str, sides: &[(&'static str, &str)]) -> Result<Measured> {
    const STEADY: &str = "steady";
    let users = users(bench);
    bench.shared_database(STEADY, |client| {
        // As many in a quick run, or the planner would rather read the whole table of balances.
        grant(client, 1000)?;
        let random_user = user(&format!("(1 + floor(random() * {users}))::int"));
        for _ in 0..5 * users {
            for schema in ["credits", "reference"] {
                client.batch_execute(&insert_usage(schema, "100", &random_user))?;
            }
        }
        Ok(())
    })?;
    let contender = |&(side, query): &(&'static str, &str)| -> Contender {
        let script = format!("{before}{query};\n");
        (side, Box::new(move || bench.latency_of_last(STEADY, &script)))
    };
    bench.alternate("ms", sides.iter().map(contender).collect())
}

fn history(bench: &Bench) -> Result<Measured> {
    bench.with_database(|database, client| {
        grant(client, 3)?;
        let lengths = [("ledger, 100 rows", 100), ("ledger, 10,000 rows", 10_000)];
        let longest = bench.scale(("ledger, 1,000,000 rows", 1_000_000), ("ledger, 100,000 rows", 100_000));
        let mut sides: Vec<Contender> = Vec::new();
        for ((side, rows), number) in lengths.into_iter().chain([longest]).zip(1..) {
            let who = user(&number.to_string());
            for _ in 0..rows / 100 {
                client.batch_execute(&insert_usage("credits", "100", &who))?;
            }
            // All with the same delta: what differs is how much lies before it.
            client.batch_execute(&format!("SELECT credits.refresh_checkpoint({who})"))?;
            client.batch_execute(&insert_usage("credits", "100", &who))?;
            let script = format!("SELECT credits.get_user_balance({who});\n");
            sides.push((side, Box::new(move || bench.latency(database, &script))));
        }
        client.batch_execute("VACUUM ANALYZE")?;
        let mut measured = bench.alternate("ms", sides)?;
        let samples = (0..measured.sides[0].samples.len()).map(|i| {
            let latencies = measured.sides.iter().map(|Side { samples, .. }| samples[i]);
            latencies.clone().fold(0.0, f64::max) / latencies.fold(f64::INFINITY, f64::min)
        });
        let samples = samples.collect();
        measured.ratios.push(Ratio { of: "slowest / fastest".to_owned(), bound: AtMost(1.15), samples });
        Ok(measured)
    })
}
