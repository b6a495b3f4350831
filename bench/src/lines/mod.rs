//! The lines of the benchmark, and what they share: a database of their own, and sides that take turns.

mod accounts;
mod balance;
mod caps;
mod cold;
mod copy;
mod days;
mod depth;
mod holds;
mod insert;
mod limits;
mod list;
mod memory;
mod record;
mod replay;
mod routed;
mod storage;

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use postgres::Client;
use postgres::types::ToSql;

use crate::report::{Measured, Side};
use crate::server::{Length, Load, Server, Speed};
use crate::sides;

/// One question, with its sides and goals.
pub struct Line {
    pub name: &'static str,
    pub what: &'static str,
    /// Functions of the extension that it calls.
    pub needs: &'static [&'static str],
    pub run: fn(&Bench) -> Result<Measured>,
}

/// All lines, in the order in which they are measured.
pub fn all() -> impl Iterator<Item = &'static Line> {
    [
        insert::LINES,
        accounts::LINES,
        record::LINES,
        copy::LINES,
        limits::LINES,
        caps::LINES,
        holds::LINES,
        balance::LINES,
        list::LINES,
        days::LINES,
        storage::LINES,
        replay::LINES,
        depth::LINES,
        cold::LINES,
        memory::LINES,
        routed::LINES,
    ]
    .into_iter()
    .flatten()
}

/// What a line is measured with.
pub struct Bench<'s> {
    pub server: &'s Server,
    pub quick: bool,
    pub trace: Option<PathBuf>,
    /// Databases that several lines read.
    shared: RefCell<HashSet<&'static str>>,
}

/// A side of a line: its name, and what gives one sample of it.
pub type Contender<'a> = (&'a str, Box<dyn FnMut() -> Result<f64> + 'a>);

impl<'s> Bench<'s> {
    /// Makes the database that the lines copy.
    pub fn new(server: &'s Server, quick: bool, trace: Option<PathBuf>) -> Result<Self> {
        server.connect("postgres")?.batch_execute(&format!("CREATE DATABASE {}", sides::PRISTINE))?;
        sides::create(&mut server.connect(sides::PRISTINE)?)?;
        Ok(Self { server, quick, trace, shared: RefCell::default() })
    }

    /// The first of these functions that the extension does not have.
    pub fn first_missing<'f>(&self, functions: &[&'f str]) -> Result<Option<&'f str>> {
        let mut client = self.server.connect(sides::PRISTINE)?;
        for function in functions {
            if !sides::has_function(&mut client, function)? {
                return Ok(Some(function));
            }
        }
        Ok(None)
    }

    /// `full`, or `quick` in a quick run.
    pub fn scale<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// A new database with all sides, dropped after the work.
    pub fn with_database<T>(&self, work: impl FnOnce(&str, &mut Client) -> Result<T>) -> Result<T> {
        self.with_copy(sides::PRISTINE, work)
    }

    /// A copy of a database, dropped after the work.
    pub fn with_copy<T>(
        &self,
        original: &str,
        work: impl FnOnce(&str, &mut Client) -> Result<T>,
    ) -> Result<T> {
        const NAME: &str = "line";
        self.server.copy_database(original, NAME)?;
        let mut client = self.server.connect(NAME)?;
        let result = work(NAME, &mut client);
        drop(client);
        self.server.drop_database(NAME)?;
        result
    }

    /// A database that several lines read, filled by the first of them.
    pub fn shared_database(
        &self,
        name: &'static str,
        fill: impl FnOnce(&mut Client) -> Result<()>,
    ) -> Result<()> {
        if self.shared.borrow().contains(name) {
            return Ok(());
        }
        self.server.copy_database(sides::PRISTINE, name)?;
        let mut client = self.server.connect(name)?;
        fill(&mut client)?;
        client.batch_execute("VACUUM ANALYZE")?;
        self.shared.borrow_mut().insert(name);
        Ok(())
    }

    /// Measures the sides in turns, another one first each time, after a round that is not counted.
    pub fn alternate(&self, unit: &'static str, mut sides: Vec<Contender>) -> Result<Measured> {
        self.server.connect("postgres")?.batch_execute("CHECKPOINT")?;
        let repetitions = self.scale(7, 3);
        let count = sides.len();
        let mut samples = vec![Vec::new(); count];
        for repetition in 0..=repetitions {
            for turn in 0..count {
                let side = (repetition + turn) % count;
                let sample = (sides[side].1)()?;
                if repetition > 0 {
                    samples[side].push(sample);
                }
            }
        }
        let sides = sides.iter().zip(samples);
        let sides = sides.map(|((name, _), samples)| Side { name: (*name).to_owned(), unit, samples });
        Ok(Measured { sides: sides.collect(), ratios: Vec::new() })
    }

    /// Measures each side once: for figures that do not depend on time.
    pub fn once(&self, unit: &'static str, sides: Vec<Contender>) -> Result<Measured> {
        let mut sample = |(name, mut side): Contender| -> Result<Side> {
            Ok(Side { name: name.to_owned(), unit, samples: vec![side()?] })
        };
        let sides = sides.into_iter().map(&mut sample).collect::<Result<_>>()?;
        Ok(Measured { sides, ratios: Vec::new() })
    }

    /// Transactions per second of a script.
    pub fn per_second(&self, database: &str, script: &str, clients: u32, options: &str) -> Result<f64> {
        let length = Length::Seconds(self.scale(4, 2));
        Ok(self.server.pgbench(&Load { database, script, clients, length, options })?.per_second)
    }

    /// Milliseconds that a client waits for a statement that it has prepared and binds these parameters to.
    pub fn latency_bound(
        &self,
        database: &str,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<f64> {
        let length = Duration::from_secs(self.scale(2, 1));
        latency_of(&mut self.server.connect(database)?, statement, parameters, length)
    }

    /// Milliseconds that one client waits for a script.
    pub fn latency(&self, database: &str, script: &str) -> Result<f64> {
        Ok(self.one_client(database, script)?.milliseconds)
    }

    /// Milliseconds that one client waits for the last statement of a script.
    pub fn latency_of_last(&self, database: &str, script: &str) -> Result<f64> {
        Ok(self.one_client(database, script)?.milliseconds_of_last)
    }

    fn one_client(&self, database: &str, script: &str) -> Result<Speed> {
        let length = Length::Seconds(self.scale(2, 1));
        self.server.pgbench(&Load { database, script, clients: 1, length, options: "" })
    }
}

/// Milliseconds that a session waits for a statement that it has prepared and binds these parameters to, measured for so long.
pub fn latency_of(
    client: &mut Client,
    statement: &str,
    parameters: &[&(dyn ToSql + Sync)],
    length: Duration,
) -> Result<f64> {
    let statement = client.prepare(statement)?;
    // Whether one plan for all parameters will do, the server decides after five.
    for _ in 0..10 {
        client.query(&statement, parameters)?;
    }
    let (started, mut count) = (Instant::now(), 0_u32);
    while started.elapsed() < length {
        client.query(&statement, parameters)?;
        count += 1;
    }
    Ok(1000.0 * started.elapsed().as_secs_f64() / f64::from(count))
}

/// Seconds that a piece of work takes.
pub fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}
