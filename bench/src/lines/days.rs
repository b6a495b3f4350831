//! Sums by date of one user with rows of a year, of three keys and five categories, against the same in plain SQL.

use anyhow::Result;

use super::{Bench, Contender, Line};
use crate::report::Bound::AtLeast;
use crate::report::Measured;
use crate::sides::{grant, user};

pub const LINES: &[Line] = &[
    Line {
        name: "sum-after-date",
        what: "Sum of the newest tenth of 1 M rows",
        needs: &["sum_transactions_after_date"],
        run: |bench| {
            let ledger = format!("SELECT credits.sum_transactions_after_date({}, {TENTH})", one());
            let condition = format!("created_at > {TENTH}");
            read(bench, &ledger, "reference", &plain_sum("reference", &condition), 20.0)
        },
    },
    Line {
        name: "balance-at",
        what: "Balance in the middle of a year with 1 M rows",
        needs: &["get_user_balance_at"],
        run: |bench| {
            let ledger = format!("SELECT credits.get_user_balance_at({}, {MIDDLE})", one());
            read(bench, &ledger, "plain SQL", &plain_sum("bare", &format!("created_at <= {MIDDLE}")), 100.0)
        },
    },
    Line {
        name: "usage-by-day",
        what: "Usage by day of a month, of an account with 1 M rows in a year",
        needs: &["usage_by_day"],
        run: |bench| {
            let ledger = format!("SELECT * FROM credits.usage_by_day({}, '2025-07-01', '2025-07-31')", one());
            let plain = format!(
                "SELECT (created_at AT TIME ZONE 'UTC')::date AS day, category, api_key_id, transaction_type, sum(amount), count(*) \
                 FROM bare.credits_transactions WHERE user_id = {} AND created_at >= '2025-07-01+00' AND created_at < '2025-08-01+00' \
                 GROUP BY 1, 2, 3, 4 ORDER BY 1, 4, 2, 3",
                one()
            );
            read(bench, &ledger, "plain SQL", &plain, 50.0)
        },
    },
    Line {
        name: "statement",
        what: "Statement of a month, of an account with 1 M rows in a year",
        needs: &["account_statement"],
        run: |bench| {
            let ledger = format!(
                "SELECT * FROM credits.account_statement({}, '2025-07-01+00', '2025-08-01+00')",
                one()
            );
            let plain = format!(
                "SELECT created_at < '2025-07-01+00' AS is_before, transaction_type, \
                 sum(CASE WHEN transaction_type IN ('purchase', 'admin_grant') THEN amount ELSE -amount END), count(*) \
                 FROM bare.credits_transactions WHERE user_id = {} AND created_at < '2025-08-01+00' GROUP BY 1, 2",
                one()
            );
            read(bench, &ledger, "plain SQL", &plain, 50.0)
        },
    },
];

const YEAR: &str = "year";

/// The rows are of 2025. A tenth of them comes later than this, at an hour at which the day is cut in two.
const TENTH: &str = "'2025-11-25 09:00+00'";
const MIDDLE: &str = "'2025-07-02 09:00+00'";

fn one() -> String {
    user("1")
}

fn plain_sum(schema: &str, condition: &str) -> String {
    format!(
        "SELECT coalesce(sum(CASE WHEN transaction_type IN ('admin_grant', 'purchase') THEN amount ELSE -amount END), 0) \
         FROM {schema}.credits_transactions WHERE user_id = {} AND {condition}",
        one()
    )
}

fn fill(bench: &Bench) -> Result<()> {
    const CHUNK: i64 = 10_000;
    let rows: i64 = bench.scale(1_000_000, 100_000);
    bench.shared_database(YEAR, |client| {
        grant(client, 1)?;
        for (schema, column, category) in
            [("credits", ", category", ", 'model ' || i % 5"), ("bare", ", category", ", 'model ' || i % 5"), ("reference", "", "")]
        {
            for chunk in 0..rows / CHUNK {
                client.batch_execute(&format!(
                    "INSERT INTO {schema}.credits_transactions \
                     (user_id, transaction_type, amount, source_id, description, api_key_id, created_at{column}) \
                     SELECT {user}, 'usage', 0.000734, gen_random_uuid()::text, 'chat completion', md5('key ' || i % 3)::uuid, \
                            timestamptz '2025-01-01 00:00+00' + i * (interval '365 days' / {rows}){category} \
                     FROM generate_series({from}, {to}) AS i",
                    user = one(),
                    from = chunk * CHUNK,
                    to = (chunk + 1) * CHUNK - 1
                ))?;
            }
        }
        Ok(client.batch_execute(&format!("SELECT credits.refresh_checkpoint({})", one()))?)
    })
}

/// How much faster the ledger answers than another side does.
fn read(bench: &Bench, ledger: &str, other: &'static str, sql: &str, goal: f64) -> Result<Measured> {
    fill(bench)?;
    let contender = |(side, query): (&'static str, &str)| -> Contender {
        let script = format!("{query};\n");
        (side, Box::new(move || bench.latency(YEAR, &script)))
    };
    let sides = [(other, sql), ("ledger", ledger)].map(contender);
    Ok(bench.alternate("ms", sides.into())?.ratio(other, "ledger", AtLeast(goal)))
}
