//! Holds: reserving before spending, and what is available beside many holds.

use anyhow::{Result, ensure};
use postgres::Client;

use super::{Bench, Contender, Line};
use crate::report::Bound::{AtLeast, AtMost};
use crate::report::Measured;
use crate::sides::{grant, user};

pub const LINES: &[Line] = &[
    Line {
        name: "hold-capture",
        what: "A hold and its capture, one hot account, 16 clients",
        needs: &["create_hold", "capture_hold"],
        run: |bench| {
            let measured = hold_and_capture(bench, 16, "")?;
            Ok(measured.ratio("ledger", "conditional UPDATE", AtLeast(3.0)).ratio(
                "ledger",
                "two bare inserts",
                AtLeast(0.80),
            ))
        },
    },
    Line {
        name: "hold-capture-2ms",
        what: "A hold and its capture, one hot account, 32 clients, commits that take 2 ms",
        needs: &["create_hold", "capture_hold"],
        run: |bench| {
            let measured = hold_and_capture(bench, 32, "-c commit_delay=2000 -c commit_siblings=0")?;
            Ok(measured.ratio("ledger", "conditional UPDATE", AtLeast(20.0)))
        },
    },
    Line {
        name: "available-balance",
        what: "get_available_balance, 1,000 open holds, 10 million gone",
        needs: &["create_hold", "get_available_balance"],
        run: |bench| Ok(available(bench)?.ratio("ledger", "SELECT sum", AtMost(1.3))),
    },
];

/// Two transactions each: more is held than the request then costs.
fn hold_and_capture(bench: &Bench, clients: u32, options: &str) -> Result<Measured> {
    bench.with_database(|database, client| {
        grant(client, 1)?;
        let usage = |schema: &str, source: &str| {
            format!(
                "INSERT INTO {schema}.credits_transactions \
                     (user_id, transaction_type, amount, source_id, description, api_key_id) \
                 SELECT {}, 'usage', 0.000734, md5(:n::text), 'chat completion', md5('key')::uuid{source}",
                user(":u")
            )
        };
        let hold = |schema: &str, source: &str| {
            format!(
                "INSERT INTO {schema}.holds (user_id, amount, source_id, description, api_key_id, expires_at) \
                 SELECT {}, 0.001, md5(:n::text), 'chat completion', md5('key')::uuid, \
                        clock_timestamp() + '1 hour'{source}",
                user(":u")
            )
        };
        let update = |change: &str, condition: &str| {
            format!(
                "WITH updated AS (UPDATE account.accounts SET {change} WHERE user_id = {}{condition} RETURNING user_id) ",
                user(":u")
            )
        };
        let sides = [
            (
                "ledger",
                [
                    format!(
                        "SELECT FROM credits.create_hold({}, 0.001, md5(:n::text), \
                         description => 'chat completion', api_key_id => md5('key')::uuid)",
                        user(":u")
                    ),
                    "SELECT FROM credits.capture_hold(md5(:n::text), 0.000734)".to_owned(),
                ],
            ),
            ("two bare inserts", [hold("bare", ""), usage("bare", "")]),
            (
                "conditional UPDATE",
                [
                    update("held = held + 0.001", " AND balance - held - 0.001 >= -overdraft_limit")
                        + &hold("account", " FROM updated"),
                    update("held = held - 0.001, balance = balance - 0.000734", "")
                        + &usage("account", " FROM updated"),
                ],
            ),
        ];
        let contender = |(side, [hold, capture]): (&'static str, [String; 2])| -> Contender {
            let script =
                format!("\\set u 1\n\\set n random(1, 9000000000000000000)\n{hold};\n{capture};\n");
            (side, Box::new(move || bench.per_second(database, &script, clients, options)))
        };
        bench.alternate("captures/s", sides.map(contender).into())
    })
}

const OPEN: u32 = 1000;

/// Both sides sum up 1,000 rows of an account that are spread over a table: rows of other accounts lie between them, or what
/// those that are gone have left behind.
fn available(bench: &Bench) -> Result<Measured> {
    bench.with_database(|database, client| {
        grant(client, 1)?;
        let gone = bench.scale(10_000_000, 1_000_000);
        churn(client, gone)?;
        client.batch_execute(&format!(
            "INSERT INTO bare.holds (source_id, user_id, amount, created_at, expires_at) \
             SELECT i::text, {}, 0.001, now(), now() + '1 day' FROM generate_series(1, 100 * {OPEN}) AS i",
            user(&format!("CASE i % {} WHEN 0 THEN 1 ELSE 2 + i % 100 END", 100))
        ))?;
        client.batch_execute("VACUUM ANALYZE bare.holds")?;
        let left = format!("SELECT credits.get_available_balance({}) = 999999", user("1"));
        ensure!(client.query_one(&left, &[])?.get::<_, bool>(0), "1,000 holds of 0.001 take 1 of a million");

        let ask = format!("SELECT {} AS who \\gset\n", user("1"));
        let sum = "SELECT sum(amount) FROM bare.holds WHERE user_id = :who AND expires_at > now()";
        let queries = [("ledger", "SELECT credits.get_available_balance(:who)"), ("SELECT sum", sum)];
        let contender = |(side, query)| -> Contender {
            let script = format!("{ask}{query};\n");
            (side, Box::new(move || bench.latency_of_last(database, &script)))
        };
        bench.alternate("ms", queries.map(contender).into())
    })
}

/// Holds of user 1 that come and go, of which one in so many stays. All expire in a day, so that no index tells those that
/// are gone from those that are open. Autovacuum, which is off here, would come by as often as this.
fn churn(client: &mut Client, gone: u32) -> Result<()> {
    const CHUNK: u32 = 10_000;
    let chunks = gone / CHUNK;
    let open_of_chunk = OPEN / chunks.min(OPEN);
    let mut vacuumed = 0;
    for chunk in 0..chunks {
        let open = if chunk * open_of_chunk < OPEN { open_of_chunk } else { 0 };
        client.batch_execute(&format!(
            "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) \
             SELECT CASE WHEN i <= {open} THEN 'open ' ELSE 'gone ' END || '{chunk} ' || i, {}, 0.001, \
                    clock_timestamp() + '1 day' \
             FROM generate_series(1, {open} + {CHUNK}) AS i",
            user("1")
        ))?;
        client.batch_execute("DELETE FROM credits.holds WHERE source_id LIKE 'gone %'")?;
        vacuumed += CHUNK;
        if vacuumed >= 20_000 {
            client.batch_execute("VACUUM credits.holds")?;
            vacuumed = 0;
        }
    }
    Ok(())
}
