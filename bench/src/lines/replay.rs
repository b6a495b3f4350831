//! LLM requests replayed in flushes of 100 by several writers, with a purchase whenever a user runs dry.
//!
//! The repository reads the balances of a flush's users after it, and buys for those at zero or below. With the extension
//! the writers only write: a session of its own hears who ran dry, and buys.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use fallible_iterator::FallibleIterator;
use postgres::Client;

use super::{Bench, Contender, Line, seconds};
use crate::report::Bound::AtLeast;
use crate::report::Measured;
use crate::server::Server;
use crate::sides::{self, reference_balance, reference_balances};

pub const LINES: &[Line] = &[Line {
    name: "replay",
    what: "LLM requests in flushes of 100, 4 writers, purchases at zero, balances exact at the end",
    needs: &["get_user_balance"],
    run: |bench| Ok(replay(bench)?.ratio("ledger", "reference", AtLeast(2.0))),
}];

const BEFORE: &str = "before_replay";
const WRITERS: usize = 4;
const FLUSH: usize = 100;
const USERS: u64 = 500;

/// Credits of a purchase: more than all writers together can spend of one user while it is on its way.
const PURCHASE: &str = "5";

/// The repository refreshes one checkpoint in so many reads.
const REFRESH_ONE_IN: u64 = 1000;

/// What a request is charged: 3 credits per million tokens in, 15 per million out.
struct Request {
    user: u64,
    micros: u64,
}

fn replay(bench: &Bench) -> Result<Measured> {
    let mut requests = match &bench.trace {
        Some(file) => read_trace(file)?,
        None => made_up_trace(20_000),
    };
    if bench.quick {
        requests.truncate(8_000);
    }
    bench.shared_database(BEFORE, before)?;
    let rows = f64::from(u32::try_from(requests.len())?);
    let contender = |(side, schema): (&'static str, &'static str)| -> Contender {
        let requests = &requests;
        let sample = move || {
            bench.with_copy(BEFORE, |database, client| {
                let taken = seconds(|| play(bench.server, database, schema, requests))?;
                check(client, schema, requests.len())?;
                Ok(rows / taken)
            })
        };
        (side, Box::new(sample))
    };
    bench.alternate("rows/s", [("reference", "reference"), ("ledger", "credits")].map(contender).into())
}

/// Where both sides begin: users with one credit left and 500 rows since their last checkpoint, which is how many the
/// repository expects.
fn before(client: &mut Client) -> Result<()> {
    let user = sides::user("i");
    for schema in ["credits", "reference"] {
        client.batch_execute(&format!(
            "INSERT INTO {schema}.credits_transactions (user_id, transaction_type, amount, source_id) \
             SELECT {user}, 'purchase', 6, 'first_' || i FROM generate_series(1, {USERS}) AS i"
        ))?;
    }
    for number in 1..=USERS {
        client.batch_execute(&sides::reference_refresh(&sides::user(&number.to_string())))?;
    }
    for flush in 0..500 {
        for schema in ["credits", "reference"] {
            client.batch_execute(&format!(
                "INSERT INTO {schema}.credits_transactions (user_id, transaction_type, amount, source_id) \
                 SELECT {user}, 'usage', 0.01, 'before_{flush}_' || i FROM generate_series(1, {USERS}) AS i"
            ))?;
        }
    }
    Ok(())
}

fn play(server: &Server, database: &str, schema: &str, requests: &[Request]) -> Result<()> {
    let flushes: Vec<&[Request]> = requests.chunks(FLUSH).collect();
    let (next, written) = (AtomicUsize::new(0), AtomicBool::new(false));
    let write = || -> Result<()> {
        let mut client = server.connect(database)?;
        while let Some((number, flush)) = take(&next, &flushes) {
            record(&mut client, schema, number, flush)?;
            if schema == "reference" {
                buy_for_those_at_zero(&mut client, number, flush)?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let buyer = (schema == "credits").then(|| scope.spawn(|| buy_when_told(server, database, &written)));
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(write)).collect();
        let written_all: Vec<Result<()>> = writers.into_iter().map(joined).collect();
        written.store(true, Ordering::SeqCst);
        buyer.map_or(Ok(()), joined)?;
        written_all.into_iter().collect()
    })
}

fn joined(thread: std::thread::ScopedJoinHandle<Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("a session panicked"))?
}

fn take<'f>(next: &AtomicUsize, flushes: &[&'f [Request]]) -> Option<(usize, &'f [Request])> {
    let number = next.fetch_add(1, Ordering::Relaxed);
    flushes.get(number).map(|&flush| (number, flush))
}

/// One flush: one statement, one transaction.
fn record(client: &mut Client, schema: &str, number: usize, flush: &[Request]) -> Result<()> {
    let users: Vec<String> = flush.iter().map(|request| request.user.to_string()).collect();
    let micros: Vec<i64> =
        flush.iter().map(|request| Ok(i64::try_from(request.micros)?)).collect::<Result<_>>()?;
    let statement = format!(
        "INSERT INTO {schema}.credits_transactions (user_id, transaction_type, amount, source_id) \
         SELECT md5(u)::uuid, 'usage', micros / 1000000.0, 'request_' || $3::bigint || '_' || n \
         FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS requests (u, micros, n)"
    );
    client.execute(&statement, &[&users, &micros, &i64::try_from(number)?])?;
    Ok(())
}

/// The repository's way. Refreshes of checkpoints are spread evenly rather than at random, so that runs are alike.
fn buy_for_those_at_zero(client: &mut Client, number: usize, flush: &[Request]) -> Result<()> {
    let users: Vec<String> = flush
        .iter()
        .map(|request| request.user)
        .collect::<BTreeSet<_>>()
        .iter()
        .map(u64::to_string)
        .collect();
    let all = "ARRAY(SELECT md5(u)::uuid FROM unnest($1::text[]) AS u)";
    let dry = format!(
        "SELECT u FROM unnest($1::text[]) AS u JOIN ({}) AS b ON b.user_id = md5(u)::uuid WHERE b.balance <= 0",
        reference_balances(all)
    );
    for (offset, user) in (0..).zip(&users) {
        if (u64::try_from(number)? * 64 + offset) % REFRESH_ONE_IN == 0 {
            client.batch_execute(&sides::reference_refresh(&sides::user(&format!("'{user}'"))))?;
        }
    }
    for row in client.query(&dry, &[&users])? {
        let user: String = row.get(0);
        let mut purchase = client.transaction()?;
        purchase.execute(
            &format!(
                "INSERT INTO reference.credits_transactions (user_id, transaction_type, amount, source_id) \
                 VALUES (md5($1)::uuid, 'purchase', {PURCHASE}, gen_random_uuid()::text)"
            ),
            &[&user],
        )?;
        purchase.query(&reference_balance(&sides::user(&format!("'{user}'"))), &[])?;
        purchase.batch_execute("SELECT pg_notify('auth_config_changed', 'credits_transactions:0')")?;
        purchase.commit()?;
    }
    Ok(())
}

/// Buys for everyone who ran dry, until the writers have ended and nothing more is heard.
fn buy_when_told(server: &Server, database: &str, written: &AtomicBool) -> Result<()> {
    let mut listener = server.connect(database)?;
    let mut client = server.connect(database)?;
    listener.batch_execute("LISTEN credits_balance_crossed")?;
    let purchase = format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) \
         VALUES ($1::text::uuid, 'purchase', {PURCHASE}, gen_random_uuid()::text)"
    );
    loop {
        let last = written.load(Ordering::SeqCst);
        let mut heard = false;
        while let Some(notification) =
            listener.notifications().timeout_iter(Duration::from_millis(20)).next()?
        {
            heard = true;
            let crossing: serde_json::Value = serde_json::from_str(notification.payload())?;
            if crossing["direction"] == "down" {
                let user = crossing["user_id"].as_str().context("a user_id")?;
                client.execute(&purchase, &[&user])?;
            }
        }
        if last && !heard {
            return Ok(());
        }
    }
}

/// Every row is there, everyone's balance is the sum of the rows, and nobody was left without.
fn check(client: &mut Client, schema: &str, requests: usize) -> Result<()> {
    let sum = "sum(CASE WHEN transaction_type IN ('admin_grant', 'purchase') THEN amount ELSE -amount END)";
    let balance = match schema {
        "credits" => "credits.get_user_balance(user_id)".to_owned(),
        _ => sum.to_owned(),
    };
    let row = client.query_one(
        &format!(
            "SELECT sum(rows)::bigint, count(*) FILTER (WHERE balance <> truth), count(*) FILTER (WHERE truth <= 0) \
             FROM (SELECT count(*) FILTER (WHERE source_id LIKE 'request%') AS rows, {sum} AS truth, {balance} AS balance \
                   FROM {schema}.credits_transactions GROUP BY user_id) AS users"
        ),
        &[],
    )?;
    let (rows, wrong, dry): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    ensure!(rows == i64::try_from(requests)?, "{schema}: {rows} of {requests} rows are there");
    ensure!(
        wrong == 0 && dry == 0,
        "{schema}: {wrong} balances are not exact, {dry} users were left at zero or below"
    );
    Ok(())
}

/// Reads TIMESTAMP,ContextTokens,GeneratedTokens.
fn read_trace(file: &Path) -> Result<Vec<Request>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let mut random = Random(1);
    text.lines()
        .skip(1)
        .map(|line| {
            let mut fields = line.split(',').skip(1).map(|field| field.trim().parse::<u64>());
            let mut next = || fields.next().context("a field is missing")?.context("not a number");
            let (context, generated) = (next()?, next()?);
            Ok(Request { user: random.user(), micros: (3 * context + 15 * generated).max(1) })
        })
        .collect::<Result<_>>()
        .with_context(|| file.display().to_string())
}

/// Requests of some 1,500 tokens in and 250 out.
fn made_up_trace(requests: usize) -> Vec<Request> {
    let mut random = Random(1);
    let mut request = || {
        let user = random.user();
        Request { user, micros: 3 * (100 + random.below(2800)) + 15 * (10 + random.below(480)) }
    };
    (0..requests).map(|_| request()).collect()
}

/// A linear congruential generator (Knuth's MMIX): the same requests in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// Some users ask far more often than others: density falls with the number, as the square of a uniform number does.
    fn user(&mut self) -> u64 {
        let uniform = self.below(10_000);
        1 + uniform * uniform * USERS / 100_000_000
    }
}
