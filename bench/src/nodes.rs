//! A ledger over many nodes: servers of their own, and databases of the bench's server that are routers before them.

use anyhow::{Result, ensure};
use postgres::Client;

use crate::lines::Bench;
use crate::server::Server;

/// The database of a node.
const NODE: &str = "node";

/// Servers with an empty ledger each, numbered from 1.
pub struct Nodes(Vec<Server>);

impl Nodes {
    /// Starts so many, if the bench's server can have a router.
    pub fn start(bench: &Bench, count: usize) -> Result<Self> {
        let has_plproxy = bench
            .server
            .connect("postgres")?
            .query_opt("SELECT FROM pg_available_extensions WHERE name = 'plproxy'", &[])?;
        ensure!(
            has_plproxy.is_some(),
            "skipped: the server has no PL/Proxy. Debian has it: postgresql-15-plproxy, \
             and PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config"
        );
        let start = |_| {
            let server = Server::start()?;
            server.connect("postgres")?.batch_execute(&format!("CREATE DATABASE {NODE}"))?;
            server.connect(NODE)?.batch_execute("CREATE EXTENSION credits_ledger")?;
            Ok(server)
        };
        Ok(Self((0..count).map(start).collect::<Result<_>>()?))
    }

    /// A router before the first `count` of them, in equal shares, for as long as the work takes.
    pub fn with_router<T>(
        &self,
        bench: &Bench,
        count: usize,
        work: impl FnOnce(&str, &mut Client) -> Result<T>,
    ) -> Result<T> {
        const NAME: &str = "router";
        let mut postgres = bench.server.connect("postgres")?;
        postgres.batch_execute(&format!("CREATE DATABASE {NAME}"))?;
        let mut router = bench.server.connect(NAME)?;
        router.batch_execute("CREATE EXTENSION credits_ledger_router CASCADE")?;
        let mut names = Vec::new();
        for (number, server) in (1..).zip(&self.0).take(count) {
            let name = format!("node{number}");
            router.execute(
                "INSERT INTO credits.nodes (node, host, dbname, node_number) VALUES ($1, $2, $3, $4)",
                &[&name, &server.socket(), &NODE, &number],
            )?;
            names.push(name);
        }
        router.batch_execute("SELECT credits.let_in('postgres')")?;
        router.execute(
            "INSERT INTO credits.buckets SELECT * FROM credits.spread_buckets($1::text[])",
            &[&names],
        )?;
        let result = work(NAME, &mut router);
        drop(router);
        postgres.batch_execute(&format!("DROP DATABASE {NAME} WITH (FORCE)"))?;
        result
    }

    /// The server with this number.
    pub fn server(&self, number: usize) -> &Server {
        &self.0[number - 1]
    }

    /// A session on each.
    pub fn connect(&self) -> Result<Vec<Client>> {
        self.0.iter().map(|server| server.connect(NODE)).collect()
    }

    /// The database of each.
    pub const fn database() -> &'static str {
        NODE
    }
}
