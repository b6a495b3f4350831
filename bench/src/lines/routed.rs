//! A router and its nodes: what the way through it costs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use postgres::{Client, Statement};
use uuid::Uuid;

use super::{Bench, Contender, Line, copy, latency_of, seconds};
use crate::nodes::Nodes;
use crate::report::Bound::{AtLeast, AtMost};
use crate::report::{Measured, Ratio, Side};
use crate::server::{Length, Load, Server};
use crate::sides::{BARE_LEDGER, insert_usage, user};

pub const LINES: &[Line] = &[
    Line {
        name: "routed-balance",
        what: "latency of get_user_balance through a router with 3 nodes, and directly",
        needs: &[],
        run: |bench| Ok(latency(bench, BALANCE)?.ratio("routed", "direct", AtMost(2.0))),
    },
    Line {
        name: "routed-balance-8",
        what: "get_user_balance, 8 clients, through a router with 3 nodes, and directly",
        needs: &[],
        run: |bench| Ok(throughput(bench, BALANCE)?.ratio("routed", "direct", AtLeast(0.6))),
    },
    Line {
        name: "routed-create",
        what: "latency of create_transaction through a router with 3 nodes, and directly",
        needs: &[],
        run: |bench| Ok(latency(bench, CREATE)?.ratio("routed", "direct", AtMost(2.0))),
    },
    Line {
        name: "routed-create-8",
        what: "create_transaction, 8 clients, through a router with 3 nodes, and directly",
        needs: &[],
        run: |bench| Ok(throughput(bench, CREATE)?.ratio("routed", "direct", AtLeast(0.6))),
    },
    Line {
        name: "routed-copy",
        what: "COPY of 300,000 usage rows of 1,000 users through a router with 3 nodes, and to bare tables behind postgres_fdw",
        needs: &[],
        run: |bench| Ok(copy(bench)?.ratio("ledger", "bare", AtLeast(0.9))),
    },
    Line {
        name: "routed-move",
        what: "longest commit of a writer while its bucket of 1 M rows moves to another node, in seconds",
        needs: &["give_away_bucket"],
        run: moved,
    },
    Line {
        name: "routed-charge",
        what: "CPU time of a node for a routed charge, 1,000 users on 1, 3 and 16 nodes, commits asynchronous",
        needs: &["charge"],
        run: |bench| {
            let measured = charge(bench)?;
            Ok(measured.ratio("3 nodes", "1 node", AtMost(1.05)).ratio("16 nodes", "1 node", AtMost(1.05)))
        },
    },
];

/// Moves are measured once: the second one would find the rows of the first.
const LONGEST: &str = "longest commit while it moves";

/// Statements about the account `$1`.
const BALANCE: &str = "SELECT credits.get_user_balance($1)";
const CREATE: &str = "SELECT FROM credits.create_transaction($1, 'usage', 0.000734, gen_random_uuid()::text, 'chat completion')";

/// What PL/Proxy costs by itself: a function of the router for which a node reads nothing.
const MAKE_CONSTANT: &str = "
CREATE FUNCTION constant_of_node(u uuid) RETURNS numeric LANGUAGE plproxy
    AS $$ CLUSTER 'credits_nodes'; RUN ON 0; SELECT 0::numeric; $$";
const CONSTANT_OF_NODE: &str = "SELECT constant_of_node($1)";
/// What a router costs that asks no node: it reads the client's statement and answers.
const CONSTANT_OF_ROUTER: &str = "SELECT 0::numeric WHERE $1::uuid IS NOT NULL";

/// Makes the function of `CONSTANT_OF_NODE`, and an account of the first node that is far from zero.
fn prepare(router: &mut Client) -> Result<Uuid> {
    router.batch_execute(MAKE_CONSTANT)?;
    account_of_first_node(router)
}

/// An account of the first node, which is far from zero.
fn account_of_first_node(router: &mut Client) -> Result<Uuid> {
    let account: Uuid = router
        .query_one("SELECT min(u::text)::uuid FROM (SELECT gen_random_uuid() AS u FROM generate_series(1, 100)) drawn WHERE credits.node_of(u) = 'node1'", &[])?
        .get(0);
    router
        .execute("SELECT FROM credits.create_transaction($1, 'purchase', 1000000, 'grant')", &[&account])?;
    Ok(account)
}

fn latency(bench: &Bench, statement: &str) -> Result<Measured> {
    let nodes = Nodes::start(bench, 3)?;
    nodes.with_router(bench, 3, |database, router| {
        let account = prepare(router)?;
        let length = Duration::from_secs(bench.scale(2, 1));
        let side = |server: &Server, database: &str, statement: &str| {
            latency_of(&mut server.connect(database)?, statement, &[&account], length)
        };
        bench.alternate(
            "ms",
            vec![
                ("direct", Box::new(|| side(nodes.server(1), Nodes::database(), statement))),
                ("routed", Box::new(|| side(bench.server, database, statement))),
                ("a constant by PL/Proxy", Box::new(|| side(bench.server, database, CONSTANT_OF_NODE))),
                ("a constant of the router", Box::new(|| side(bench.server, database, CONSTANT_OF_ROUTER))),
            ],
        )
    })
}

fn throughput(bench: &Bench, statement: &str) -> Result<Measured> {
    let nodes = Nodes::start(bench, 3)?;
    nodes.with_router(bench, 3, |database, router| {
        let account = prepare(router)?;
        let length = Length::Seconds(bench.scale(4, 2));
        let side = |server: &Server, database: &str, statement: &str| {
            let script = statement.replace("$1", &format!("'{account}'"));
            let load = Load { database, script: &script, clients: 8, length, options: "" };
            Ok(server.pgbench(&load)?.per_second)
        };
        bench.alternate(
            "calls/s",
            vec![
                ("direct", Box::new(|| side(nodes.server(1), Nodes::database(), statement))),
                ("routed", Box::new(|| side(bench.server, database, statement))),
                ("a constant by PL/Proxy", Box::new(|| side(bench.server, database, CONSTANT_OF_NODE))),
                ("a constant of the router", Box::new(|| side(bench.server, database, CONSTANT_OF_ROUTER))),
            ],
        )
    })
}

/// The router's bare table has as many partitions as its ledger, which lead to the bare tables of the same nodes.
const BARE_ROUTER: &str = "
CREATE SCHEMA bare;
CREATE TABLE bare.credits_transactions (LIKE credits.credits_transactions INCLUDING GENERATED) PARTITION BY HASH (user_id);
ALTER TABLE bare.credits_transactions
    ALTER id SET DEFAULT gen_random_uuid(), ALTER created_at SET DEFAULT now();
DO $$
DECLARE
    class record;
BEGIN
    FOR class IN SELECT c.modulus, c.remainder, credits_routes.server_of(c.node) AS server FROM credits_routes.classes() c LOOP
        EXECUTE format('CREATE FOREIGN TABLE bare.part_%1$s_%2$s PARTITION OF bare.credits_transactions
                            FOR VALUES WITH (MODULUS %1$s, REMAINDER %2$s) SERVER %3$I
                            OPTIONS (schema_name ''bare'', table_name ''credits_transactions'')',
                       class.modulus, class.remainder, class.server);
    END LOOP;
END $$;
";

fn copy(bench: &Bench) -> Result<Measured> {
    let nodes = Nodes::start(bench, 3)?;
    for mut node in nodes.connect()? {
        node.batch_execute(BARE_LEDGER)?;
    }
    nodes.with_router(bench, 3, |database, router| {
        router.batch_execute(BARE_ROUTER)?;
        for schema in ["credits", "bare"] {
            router.batch_execute(&purchases(schema))?;
        }
        copy::compare(bench, database, bench.scale(300_000, 20_000))
    })
}

/// A purchase for each of 1,000 users, far above what they spend.
fn purchases(schema: &str) -> String {
    format!(
        "INSERT INTO {schema}.credits_transactions (user_id, transaction_type, amount, source_id) \
         SELECT {}, 'purchase', 1000000, 'grant_' || i FROM generate_series(1, 1000) AS i",
        user("i")
    )
}

fn charge(bench: &Bench) -> Result<Measured> {
    let side = |(name, count): (&'static str, usize)| -> Result<Contender> {
        let nodes = Nodes::start(bench, count)?;
        for mut node in nodes.connect()? {
            node.batch_execute("ALTER DATABASE node SET synchronous_commit = off")?;
        }
        let sample =
            move || nodes.with_router(bench, count, |_, router| cpu_of_charge(bench, &nodes, router));
        Ok((name, Box::new(sample)))
    };
    let sides = [("1 node", 1), ("3 nodes", 3), ("16 nodes", 16)].map(side);
    bench.alternate("us", sides.into_iter().collect::<Result<_>>()?)
}

/// Microseconds on a processor that the nodes spend for one of many charges in one session of the router.
fn cpu_of_charge(bench: &Bench, nodes: &Nodes, router: &mut Client) -> Result<f64> {
    let charges: u32 = bench.scale(20_000, 4_000);
    router.batch_execute(&format!("{} ON CONFLICT DO NOTHING", purchases("credits")))?;
    let statement = router.prepare(&format!(
        "SELECT FROM credits.charge({}, 0.000734, gen_random_uuid()::text)",
        user("($1::int)")
    ))?;
    // Each account is met once, so that connections, plans and headroom are there.
    for number in 1..=1000_i32 {
        router.execute(&statement, &[&number])?;
    }
    let mut sessions = nodes.connect()?;
    let before = cpu(&mut sessions)?;
    for number in (1..=1000_i32).cycle().take(usize::try_from(charges)?) {
        // In no order that a set of accounts has by itself.
        router.execute(&statement, &[&(1 + number * 7919 % 1000)])?;
    }
    Ok((cpu(&mut sessions)? - before) * 1e6 / f64::from(charges))
}

/// Seconds that the other sessions of these servers have been on a processor, by Linux' own count.
fn cpu(sessions: &mut [Client]) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for session in sessions {
        for row in session.query(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
            &[],
        )? {
            let pid: i32 = row.get(0);
            let statistics = std::fs::read_to_string(format!("/proc/{pid}/schedstat"))
                .context("skipped: this system does not tell the CPU time of a process")?;
            let on_cpu: f64 = statistics.split(' ').next().context("schedstat")?.parse()?;
            nanoseconds += on_cpu;
        }
    }
    ensure!(nanoseconds > 0.0, "skipped: this system does not tell the CPU time of a process");
    Ok(nanoseconds / 1e9)
}

fn moved(bench: &Bench) -> Result<Measured> {
    let rows: u32 = bench.scale(1_000_000, 50_000);
    let nodes = Nodes::start(bench, 2)?;
    nodes.with_router(bench, 2, |database, router| {
        let account = account_of_first_node(router)?;
        let mut node = nodes.server(1).connect(Nodes::database())?;
        node.batch_execute(&insert_usage("credits", &rows.to_string(), &format!("'{account}'::uuid")))?;
        node.batch_execute("VACUUM ANALYZE")?;
        let mut writer = Writer::new(bench.server.connect(database)?, account)?;
        let before = writer.longest_until(Instant::now() + Duration::from_secs(bench.scale(10, 3)))?;
        let bucket: i32 = router.query_one("SELECT credits.bucket_of($1)", &[&account])?.get(0);
        let is_moved = AtomicBool::new(false);
        let while_it_moves = std::thread::scope(|scope| {
            let writing = scope.spawn(|| writer.longest_while(|| !is_moved.load(Ordering::Acquire)));
            let moved = router.batch_execute(&format!("CALL credits.move_bucket({bucket}, 'node2')"));
            is_moved.store(true, Ordering::Release);
            moved?;
            writing.join().expect("the writer does not panic")
        })?;
        let side =
            |name: &str, longest: f64| Side { name: name.to_owned(), unit: "s", samples: vec![longest] };
        let ratio =
            Ratio { of: format!("{LONGEST}, in s"), bound: AtMost(1.0), samples: vec![while_it_moves] };
        Ok(Measured {
            sides: vec![side("longest commit before", before), side(LONGEST, while_it_moves)],
            ratios: vec![ratio],
        })
    })
}

/// A session of the router that records one transaction after the other.
struct Writer {
    client: Client,
    statement: Statement,
    account: Uuid,
}

impl Writer {
    fn new(mut client: Client, account: Uuid) -> Result<Self> {
        let statement = client.prepare(CREATE)?;
        Ok(Self { client, statement, account })
    }

    fn longest_until(&mut self, end: Instant) -> Result<f64> {
        self.longest_while(|| Instant::now() < end)
    }

    /// Seconds of the longest transaction. An error of any ends the line.
    fn longest_while(&mut self, goes_on: impl Fn() -> bool) -> Result<f64> {
        let mut longest: f64 = 0.0;
        while goes_on() {
            longest = longest.max(seconds(|| {
                self.client.execute(&self.statement, &[&self.account])?;
                Ok(())
            })?);
        }
        Ok(longest)
    }
}
