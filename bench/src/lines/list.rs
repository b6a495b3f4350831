//! Lists, counts and sums of one user with a long history, nearly all of it in batches.

use std::time::{Instant, SystemTime};

use anyhow::Result;
use postgres::Client;
use postgres::types::ToSql;
use uuid::Uuid;

use super::{Bench, Contender, Line};
use crate::report::Bound::{AtLeast, AtMost};
use crate::report::{Measured, median};
use crate::sides::{self, grant, user};

pub const LINES: &[Line] = &[
    Line {
        name: "grouped-page",
        what: "First grouped page of a user with 1 M rows in 20,000 batches",
        needs: &["list_transactions_with_batches"],
        run: |bench| {
            let measured = read_steady(bench)?;
            Ok(measured.ratio("ledger", "reference", AtMost(1.0)).ratio(LABELLED, "reference", AtMost(1.0)))
        },
    },
    Line {
        name: "grouped-page-fresh",
        what: "The same page when 1,000 rows have just arrived",
        needs: &["list_transactions_with_batches"],
        run: |bench| {
            let measured = read_fresh(bench)?;
            Ok(measured.ratio("reference", "ledger", AtLeast(20.0)).ratio(
                "reference",
                LABELLED,
                AtLeast(25.0),
            ))
        },
    },
    Line {
        name: "list-page",
        what: "First page of the plain list",
        needs: &["list_user_transactions"],
        run: |bench| list(bench, None),
    },
    Line {
        name: "list-deep-page",
        what: "A keyset page in the middle of the plain list",
        needs: &["list_user_transactions"],
        run: |bench| list(bench, Some(rows(bench) / 2)),
    },
    Line {
        name: "list-count",
        what: "Number of the user's rows",
        needs: &["count_user_transactions"],
        run: |bench| {
            let ledger = format!("SELECT credits.count_user_transactions({})", one());
            let reference =
                format!("SELECT count(*) FROM reference.credits_transactions WHERE user_id = {}", one());
            Ok(read(bench, &ledger, &reference)?.ratio("ledger", "reference", AtMost(1.05)))
        },
    },
    Line {
        name: "list-sum",
        what: "Sum of the user's newest 10,000 rows",
        needs: &["sum_recent_transactions"],
        run: |bench| Ok(sum(bench, 10_000)?.ratio("ledger", "reference", AtMost(1.05))),
    },
    Line {
        name: "list-sum-1000",
        what: "Sum of the user's newest 1,000 rows",
        needs: &["sum_recent_transactions"],
        run: |bench| Ok(sum(bench, 1_000)?.ratio("ledger", "reference", AtMost(0.85))),
    },
];

const HISTORY: &str = "history";

/// Rows of a batch; every hundredth row is in none.
const BATCH: i64 = 50;

/// The user whose history it is.
fn one() -> String {
    user("1")
}

fn rows(bench: &Bench) -> i64 {
    bench.scale(1_000_000, 100_000)
}

/// Inserts the rows with these numbers.
fn insert(schema: &str, from: i64, to: i64) -> String {
    format!(
        "INSERT INTO {schema}.credits_transactions \
         (user_id, transaction_type, amount, source_id, description, fusillade_batch_id) \
         SELECT {}, 'usage', 0.000734, gen_random_uuid()::text, 'chat completion', \
                CASE WHEN i % 100 > 0 THEN md5('batch ' || i / {BATCH})::uuid END \
         FROM generate_series({from}, {to}) AS i",
        one()
    )
}

fn fill(bench: &Bench) -> Result<()> {
    const CHUNK: i64 = 10_000;
    bench.shared_database(HISTORY, |client| {
        grant(client, 1)?;
        for schema in ["credits", "reference"] {
            for chunk in 0..rows(bench) / CHUNK {
                client.batch_execute(&insert(schema, chunk * CHUNK, (chunk + 1) * CHUNK - 1))?;
            }
        }
        client.batch_execute(&sides::reference_aggregate(&one()))?;
        Ok(client.batch_execute(&format!("SELECT credits.refresh_checkpoint({})", one()))?)
    })
}

fn read(bench: &Bench, ledger: &str, reference: &str) -> Result<Measured> {
    fill(bench)?;
    let contender = |(side, query): (&'static str, &str)| -> Contender {
        let script = format!("{query};\n");
        (side, Box::new(move || bench.latency(HISTORY, &script)))
    };
    bench.alternate("ms", [("reference", reference), ("ledger", ledger)].map(contender).into())
}

fn sum(bench: &Bench, count: u32) -> Result<Measured> {
    let ledger = format!("SELECT credits.sum_recent_transactions({}, {count})", one());
    let reference = format!(
        "SELECT coalesce(sum(CASE WHEN transaction_type IN ('admin_grant', 'purchase') THEN amount ELSE -amount END), 0) \
         FROM (SELECT transaction_type, amount FROM reference.credits_transactions \
               WHERE user_id = {} ORDER BY seq DESC LIMIT {count}) AS recent",
        one()
    );
    read(bench, &ledger, &reference)
}

/// A page without filters, as an application asks for it: the columns that the repository reads, every parameter bound.
/// The repository has its filters in the statement, each behind a test for NULL; the plain SELECT has none.
fn list(bench: &Bench, before_seq: Option<i64>) -> Result<Measured> {
    const COLUMNS: &str =
        "id, user_id, transaction_type, amount, source_id, description, created_at, seq, api_key_id";
    fill(bench)?;
    let who: Uuid = bench.server.connect(HISTORY)?.query_one(&format!("SELECT {}", one()), &[])?.get(0);
    let cursor = |parameter: &str| before_seq.map_or_else(String::new, |_| format!("AND seq < {parameter}"));
    let rows = format!("SELECT {COLUMNS} FROM reference.credits_transactions WHERE user_id = $1");
    let plain = format!("{rows} {} ORDER BY seq DESC OFFSET $2 LIMIT $3", cursor("$4"));
    let reference = format!(
        "{rows} {} AND ($4::text IS NULL OR description ILIKE '%' || $4 || '%') \
         AND ($5::text[] IS NULL OR transaction_type = ANY ($5)) \
         AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at <= $7) \
         ORDER BY seq DESC OFFSET $2 LIMIT $3",
        cursor("$8")
    );
    let ledger = format!(
        "SELECT {COLUMNS} FROM credits.list_user_transactions($1, $2, $3, $4, $5, $6, $7{})",
        before_seq.map_or("", |_| ", $8")
    );
    let (skip, limit) = (0_i64, 50_i64);
    let (search, types) = (None::<&str>, None::<Vec<&str>>);
    let (start, end) = (None::<SystemTime>, None::<SystemTime>);
    let page: [&(dyn ToSql + Sync); 3] = [&who, &skip, &limit];
    let filters: [&(dyn ToSql + Sync); 4] = [&search, &types, &start, &end];
    let cursor: Vec<&(dyn ToSql + Sync)> =
        before_seq.iter().map(|seq| -> &(dyn ToSql + Sync) { seq }).collect();
    let contender = |side, statement, parameters: Vec<_>| -> Contender {
        (side, Box::new(move || bench.latency_bound(HISTORY, statement, &parameters)))
    };
    let sides = vec![
        contender("reference", &reference, [&page[..], &filters, &cursor].concat()),
        contender("plain SELECT", &plain, [&page[..], &cursor].concat()),
        contender("ledger", &ledger, [&page[..], &filters, &cursor].concat()),
    ];
    let measured = bench.alternate("ms", sides)?;
    Ok(measured.ratio("ledger", "reference", AtMost(1.05)).ratio("ledger", "plain SELECT", AtMost(1.05)))
}

/// A side that shows the first grouped page.
struct Page {
    side: &'static str,
    schema: &'static str,
    sql: String,
    finds_labels: bool,
}

const LABELLED: &str = "ledger with labels";

/// The repository looks for labels in a table of analytics, which is empty. The ledger does where there is one.
fn grouped_page_sides() -> [Page; 3] {
    let ledger = format!("SELECT * FROM credits.list_transactions_with_batches({})", one());
    [
        Page { side: "reference", schema: "reference", sql: reference_grouped_page(), finds_labels: false },
        Page { side: "ledger", schema: "credits", sql: ledger.clone(), finds_labels: false },
        Page { side: LABELLED, schema: "credits", sql: ledger, finds_labels: true },
    ]
}

/// Whether connections made from now on have the ledger find the table of analytics.
fn find_labels(bench: &Bench, found: bool) -> Result<()> {
    let table = if found { "'reference.http_analytics'" } else { "DEFAULT" };
    let change = format!("ALTER DATABASE {HISTORY} SET credits_ledger.analytics_table = {table}");
    Ok(bench.server.connect(HISTORY)?.batch_execute(&change)?)
}

/// Each sample is of looks at a page that has not changed.
fn read_steady(bench: &Bench) -> Result<Measured> {
    fill(bench)?;
    let contender = |Page { side, sql, finds_labels, .. }: Page| -> Contender {
        let script = format!("{sql};\n");
        let sample = move || {
            find_labels(bench, finds_labels)?;
            bench.latency(HISTORY, &script)
        };
        (side, Box::new(sample))
    };
    bench.alternate("ms", grouped_page_sides().map(contender).into())
}

/// Each sample is the median of some first looks at the page, each after 1,000 rows in 20 batches.
fn read_fresh(bench: &Bench) -> Result<Measured> {
    const LOOKS: usize = 9;
    fill(bench)?;
    let arrived = std::cell::Cell::new(rows(bench));
    let contender = |Page { side, schema, sql, finds_labels }: Page| -> Contender {
        let arrived = &arrived;
        let look = move || {
            let mut client = bench.server.connect(HISTORY)?;
            // A connection that has shown the page before.
            show(&mut client, &sql)?;
            let from = arrived.replace(arrived.get() + 1000);
            client.batch_execute(&insert(schema, from, from + 999))?;
            let started = Instant::now();
            show(&mut client, &sql)?;
            Ok(1000.0 * started.elapsed().as_secs_f64())
        };
        let sample = move || {
            find_labels(bench, finds_labels)?;
            let looks = (0..LOOKS).map(|_| look()).collect::<Result<Vec<f64>>>()?;
            Ok(median(&looks))
        };
        (side, Box::new(sample))
    };
    bench.alternate("ms", grouped_page_sides().map(contender).into())
}

fn show(client: &mut Client, page: &str) -> Result<()> {
    client.simple_query(page)?;
    Ok(())
}

/// As the repository reads it: first the rows not yet totalled, then the page, labels included.
fn reference_grouped_page() -> String {
    format!(
        "{aggregate}; \
         SELECT * FROM ( \
             (SELECT b.fusillade_batch_id AS id, b.user_id, 'usage' AS transaction_type, b.total_amount AS amount, \
                     b.fusillade_batch_id::text AS source_id, 'Batch' AS description, b.created_at, b.max_seq, \
                     b.fusillade_batch_id AS batch_id, b.transaction_count AS batch_count, \
                     coalesce(nullif(label.batch_request_source, ''), 'fusillade') AS request_origin, \
                     coalesce(label.batch_sla, '') AS batch_sla \
              FROM reference.batch_aggregates b \
              LEFT JOIN LATERAL ( \
                  SELECT batch_request_source, batch_sla FROM reference.http_analytics a \
                  WHERE a.fusillade_batch_id = b.fusillade_batch_id LIMIT 1) label ON true \
              WHERE b.user_id = {user} ORDER BY b.max_seq DESC LIMIT 50) \
             UNION ALL \
             (SELECT t.id, t.user_id, t.transaction_type, t.amount, t.source_id, t.description, t.created_at, t.seq, \
                     NULL, 1, label.request_origin, label.batch_sla \
              FROM reference.credits_transactions t \
              LEFT JOIN reference.http_analytics label ON label.id::text = t.source_id \
              WHERE t.user_id = {user} AND t.fusillade_batch_id IS NULL ORDER BY t.seq DESC LIMIT 50) \
         ) AS page ORDER BY max_seq DESC LIMIT 50",
        aggregate = sides::reference_aggregate(&one()),
        user = one()
    )
}
