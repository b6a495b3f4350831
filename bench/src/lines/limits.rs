//! Boundaries of an account: its limit, its thresholds, and zero from below.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use postgres::{Client, Config, NoTls};

use super::{Bench, Contender, Line};
use crate::report::Bound::AtLeast;
use crate::report::Measured;
use crate::sides::{grant, insert_usage, user};

pub const LINES: &[Line] = &[
    Line {
        name: "charge",
        what: "charge, one hot account far from its limit, 16 clients",
        needs: &["charge"],
        run: |bench| Ok(charge_far(bench)?.ratio("ledger", "bare", AtLeast(0.88))),
    },
    Line {
        name: "charge-at-limit",
        what: "charge, one hot account at its limit, 16 clients, every second one refused",
        needs: &["charge"],
        run: |bench| {
            let measured = charge_at_limit(bench)?;
            Ok(measured.ratio("ledger", "conditional UPDATE", AtLeast(1.0)).ratio(
                "ledger, limit at zero",
                "conditional UPDATE",
                AtLeast(1.0),
            ))
        },
    },
    Line {
        name: "insert-below-zero",
        what: "Single-row usage inserts, one hot user far below zero, 16 clients",
        needs: &[],
        run: |bench| Ok(below_zero(bench)?.ratio("ledger", "bare", AtLeast(0.92))),
    },
    Line {
        name: "insert-thresholds",
        what: "Single-row usage inserts, 1,000 random users, 8 clients, with 4 thresholds each and without",
        needs: &["charge"],
        run: |bench| Ok(thresholds(bench)?.ratio("ledger, thresholds", "ledger, none", AtLeast(0.99))),
    },
];

/// What a charge of the account costs in one statement, if enough is left.
fn conditional_update(user: &str, amount: &str) -> String {
    format!(
        "WITH charged AS ( \
             UPDATE account.accounts SET balance = balance - {amount} \
             WHERE user_id = {user} AND balance - held - {amount} >= -overdraft_limit RETURNING user_id) \
         INSERT INTO account.credits_transactions \
             (user_id, transaction_type, amount, source_id, description, api_key_id) \
         SELECT user_id, 'usage', {amount}, gen_random_uuid()::text, 'chat completion', md5('key')::uuid FROM charged"
    )
}

fn charge(user: &str, amount: &str) -> String {
    format!(
        "SELECT FROM credits.charge({user}, {amount}, gen_random_uuid()::text, 'chat completion', \
         api_key_id => md5('key')::uuid)"
    )
}

fn charge_far(bench: &Bench) -> Result<Measured> {
    bench.with_database(|database, client| {
        grant(client, 1)?;
        let statements = [
            ("bare", insert_usage("bare", "1", &user(":u"))),
            ("ledger", charge(&user(":u"), "0.000734")),
            ("conditional UPDATE", conditional_update(&user(":u"), "0.000734")),
        ];
        let contender = |(side, statement): (&'static str, String)| -> Contender {
            let script = format!("\\set u 1\n{statement};\n");
            (side, Box::new(move || bench.per_second(database, &script, 16, "")))
        };
        bench.alternate("charges/s", statements.map(contender).into())
    })
}

fn below_zero(bench: &Bench) -> Result<Measured> {
    bench.with_database(|database, client| {
        for schema in ["credits", "bare"] {
            client.batch_execute(&format!(
                "INSERT INTO {schema}.credits_transactions (user_id, transaction_type, amount, source_id) \
                 VALUES ({}, 'admin_removal', 1000000, 'taken')",
                user("1")
            ))?;
        }
        let contender = |(side, schema): (&'static str, &str)| -> Contender {
            let script = format!("\\set u 1\n{};\n", insert_usage(schema, "1", &user(":u")));
            (side, Box::new(move || bench.per_second(database, &script, 16, "")))
        };
        bench.alternate("inserts/s", [("bare", "bare"), ("ledger", "credits")].map(contender).into())
    })
}

/// The same users, all with a million, in two databases.
fn thresholds(bench: &Bench) -> Result<Measured> {
    const WITHOUT: &str = "without_thresholds";
    bench.shared_database(WITHOUT, |client| grant(client, 1000))?;
    let set = format!(
        "INSERT INTO credits.spending_limits (user_id, thresholds) \
         SELECT {}, '{{5, 50, 500, 5000}}' FROM generate_series(1, 1000) AS i",
        user("i")
    );
    inserts_after(bench, WITHOUT, "ledger, thresholds", &set, "random(1, 1000)", 8)
}

/// Single-row inserts of usage in this database, and in a copy of it in which `set` was run, which is this side.
pub(super) fn inserts_after(
    bench: &Bench,
    without: &'static str,
    side: &'static str,
    set: &str,
    user_number: &str,
    clients: u32,
) -> Result<Measured> {
    bench.with_copy(without, |with, client| {
        client.batch_execute(set)?;
        let script = format!("\\set u {user_number}\n{};\n", insert_usage("credits", "1", &user(":u")));
        let contender = |(side, database)| -> Contender {
            let script = &script;
            (side, Box::new(move || bench.per_second(database, script, clients, "")))
        };
        bench.alternate("inserts/s", [("ledger, none", without), (side, with)].map(contender).into())
    })
}

/// How a side tries to charge 1, and how it grants 1.
struct AtLimit {
    attempt: String,
    grant: String,
}

/// What came of the attempts.
#[derive(Default)]
struct Attempts {
    admitted: u32,
    refused: u32,
}

/// User 1 may overdraw by a million, and has; user 2, of whom there is nothing, may not.
fn charge_at_limit(bench: &Bench) -> Result<Measured> {
    const CLIENTS: usize = 16;
    bench.with_database(|database, client| {
        overdraw(client)?;
        let ledger = |number: &str| AtLimit {
            attempt: charge(&user(number), "1"),
            grant: format!(
                "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) \
                 VALUES ({}, 'purchase', 1, gen_random_uuid()::text)",
                user(number)
            ),
        };
        let row = AtLimit {
            attempt: conditional_update(&user("1"), "1"),
            grant: format!(
                "WITH inserted AS ( \
                     INSERT INTO account.credits_transactions (user_id, transaction_type, amount, source_id) \
                     VALUES ({}, 'purchase', 1, gen_random_uuid()::text) RETURNING user_id, amount) \
                 UPDATE account.accounts a SET balance = a.balance + inserted.amount \
                 FROM inserted WHERE a.user_id = inserted.user_id",
                user("1")
            ),
        };
        let sides =
            [("ledger", ledger("1")), ("ledger, limit at zero", ledger("2")), ("conditional UPDATE", row)];
        let contender = |(name, side): (&'static str, AtLimit)| -> Contender {
            (name, Box::new(move || attempts_per_second(bench, database, &side, CLIENTS)))
        };
        bench.alternate("attempts/s", sides.map(contender).into())
    })
}

fn overdraw(client: &mut Client) -> Result<()> {
    client.batch_execute(&format!(
        "INSERT INTO credits.spending_limits (user_id, overdraft_limit) VALUES ({0}, 1000000); \
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) \
         VALUES ({0}, 'admin_removal', 1000000, 'taken'); \
         INSERT INTO account.accounts (user_id, balance, overdraft_limit) VALUES ({0}, -1000000, 1000000)",
        user("1")
    ))?;
    Ok(())
}

/// Each client grants 1 and tries to charge 1 twice, over and over. The account starts at its limit, so that half of the
/// attempts are refused, whoever's.
fn attempts_per_second(bench: &Bench, database: &str, side: &AtLimit, clients: usize) -> Result<f64> {
    let length = Duration::from_secs(bench.scale(4, 2));
    let config = bench.server.config(database);
    let start = Barrier::new(clients);
    let began = Instant::now();
    let attempts = thread::scope(|scope| {
        let client = || scope.spawn(|| attempt(&config, side, &start, length));
        let clients: Vec<_> = (0..clients).map(|_| client()).collect();
        clients.into_iter().try_fold(Attempts::default(), |sum, client| -> Result<_> {
            let Attempts { admitted, refused } = client.join().expect("a client does not panic")?;
            Ok(Attempts { admitted: sum.admitted + admitted, refused: sum.refused + refused })
        })
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let all = f64::from(attempts.admitted + attempts.refused);
    let share = f64::from(attempts.refused) / all;
    ensure!((0.45..0.55).contains(&share), "not every second charge is refused, but {share:.2} of them");
    Ok(all / seconds)
}

/// One client. The ledger refuses by an error, the conditional UPDATE by doing nothing.
fn attempt(config: &Config, side: &AtLimit, start: &Barrier, length: Duration) -> Result<Attempts> {
    let prepared = config.connect(NoTls).and_then(|mut client| {
        let (attempt, grant) = (client.prepare(&side.attempt)?, client.prepare(&side.grant)?);
        Ok((client, attempt, grant))
    });
    start.wait();
    let (mut client, attempt, grant) = prepared?;
    let (began, mut attempts) = (Instant::now(), Attempts::default());
    while began.elapsed() < length {
        client.execute(&grant, &[])?;
        for _ in 0..2 {
            match client.execute(&attempt, &[]) {
                Ok(0) => attempts.refused += 1,
                Ok(_) => attempts.admitted += 1,
                Err(error) if error.code().is_some_and(|code| code.code() == "LC001") => {
                    attempts.refused += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(attempts)
}
