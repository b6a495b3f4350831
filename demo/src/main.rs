//! `make demo`: LLM traffic against a server with credits_ledger. `make demo-nodes`: the same through a router, over many nodes.
//!
//! - [`args`]: what to play, and where
//! - [`trace`]: the requests, recorded or made here; [`random`]: the same choices on every machine
//! - [`accounts`]: who makes them
//! - [`workload`]: the writers that hold what they can cost and record them as usage
//! - [`purchaser`]: listens for balances that cross zero or a threshold, and buys
//! - [`nodes`]: the servers behind a router, one of which is added on the way; [`picture`]: how many rows each has
//! - [`progress`]: what is seen meanwhile; [`report`]: what came of it; [`terminal`]: how it looks
//!
//! The exit status is 0 only if every check of the report holds.

mod accounts;
mod args;
mod nodes;
mod picture;
mod progress;
mod purchaser;
mod random;
mod report;
mod terminal;
mod trace;
mod workload;

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use postgres::{Client, NoTls};

use accounts::Accounts;
use args::{Args, Nodes};
use nodes::{Census, Expansion, Node};
use progress::{Counters, Event, Progress};
use purchaser::Purchaser;
use random::Random;
use report::Report;
use terminal::{Terminal, grouped};
use workload::{Queue, Writer};

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(mistake) => {
            eprintln!("demo: {mistake}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match play(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("demo: {}", with_causes(&*failure));
            ExitCode::FAILURE
        }
    }
}

/// Plays the workload and reports; false if a check does not hold.
fn play(args: &Args) -> Result<bool, Failure> {
    let terminal = Terminal::detect();
    let mut random = Random::new(args.seed);
    let trace = match &args.trace {
        Some(path) => trace::read(path)?,
        None => trace::generate(args.requests, &mut random),
    };
    let accounts = Accounts::new(args.users, &mut random);
    let usages = workload::deal(&trace, args.users, &mut random);
    let counters = Counters::default();

    let mut client = connect(args)?;
    let (listeners, new_listeners) = mpsc::channel();
    let (counted, new_nodes) = mpsc::channel();
    if args.nodes.is_some() {
        for node in Node::all(&mut client)? {
            listeners.send(purchaser::listen(node.connect()?)?).expect("the purchaser will come");
            counted.send(node).expect("the census will come");
        }
    } else {
        client.batch_execute("CREATE EXTENSION credits_ledger")?;
        listeners.send(purchaser::listen(connect(args)?)?).expect("the purchaser will come");
    }
    announce(args, terminal, usages.len());

    let (events, shown) = mpsc::channel();
    let expansion = match &args.nodes {
        Some(nodes) => Some(Expansion {
            router: connect(args)?,
            new_node: &nodes.new_node,
            busiest: accounts.id(0),
            listeners,
            counted,
            counters: &counters,
            requests: usages.len() as u64,
            events: events.clone(),
        }),
        None => None,
    };
    let writers = (0..args.writers)
        .map(|_| Ok(Writer::new(connect(args)?, &accounts, &counters, events.clone())?))
        .collect::<Result<Vec<_>, Failure>>()?;
    let mut purchaser = Purchaser::new(connect(args)?, new_listeners, &accounts, &counters, events)?;

    let began = Instant::now();
    purchaser.open_accounts()?;
    let census = args.nodes.as_ref().map(|_| Census::new(began, new_nodes));
    let progress = Progress::new(terminal, &counters, usages.len() as u64);
    let players = Players { writers, purchaser, expansion, census, progress };
    let census = players.run(&Queue::new(&usages), shown)?;
    let elapsed = began.elapsed();

    let counted = census.map(Census::finish).transpose()?;
    if let (Some(Nodes { picture, .. }), Some(counted)) = (&args.nodes, &counted) {
        picture::draw(picture, counted)?;
    }
    let nodes = counted.map_or(Vec::new(), |counted| counted.nodes);
    let holds =
        Report { client, nodes, terminal, accounts: &accounts, counters: &counters }.print(elapsed)?;
    if let Some(Nodes { picture, .. }) = &args.nodes {
        println!("\nRows a node over time: {}", picture.display());
    }
    Ok(holds)
}

/// Everybody with a thread of their own.
struct Players<'a> {
    writers: Vec<Writer<'a>>,
    purchaser: Purchaser<'a>,
    /// Adds a node, behind a router.
    expansion: Option<Expansion<'a>>,
    /// Counts the rows of each node, behind a router.
    census: Option<Census>,
    progress: Progress<'a>,
}

impl Players<'_> {
    /// Runs until the queue is empty and all is bought, and returns the census.
    fn run(self, queue: &Queue, events: Receiver<Event>) -> Result<Option<Census>, Failure> {
        let Self { writers, purchaser, expansion, census, progress } = self;
        let writers_finished = &AtomicBool::new(false);
        thread::scope(|scope| {
            let census = census.map(|census| scope.spawn(|| census.run(writers_finished)));
            let expansion = expansion.map(|expansion| scope.spawn(|| expansion.run(writers_finished)));
            let purchaser = scope.spawn(|| purchaser.run(writers_finished));
            scope.spawn(move || progress.run(&events));
            let writers: Vec<_> =
                writers.into_iter().map(|writer| scope.spawn(move || writer.run(queue))).collect();
            let written =
                writers.into_iter().try_for_each(|writer| writer.join().expect("a writer does not panic"));
            writers_finished.store(true, Ordering::Release);
            purchaser.join().expect("the purchaser does not panic")?;
            if let Some(expansion) = expansion {
                expansion.join().expect("the expansion does not panic")?;
            }
            written?;
            let census = census.map(|census| census.join().expect("the census does not panic"));
            Ok(census.transpose()?)
        })
    }
}

fn connect(args: &Args) -> Result<Client, postgres::Error> {
    Client::connect(&args.database, NoTls)
}

fn announce(args: &Args, terminal: Terminal, requests: usize) {
    let origin =
        args.trace.as_ref().map_or("made for this demo".to_owned(), |path| path.display().to_string());
    let over = if args.nodes.is_some() { ", through a router" } else { "" };
    terminal.heading(&format!(
        "{} LLM requests ({origin}) by {} accounts, {} writers{over}",
        grouped(requests as u64),
        grouped(args.users as u64),
        args.writers
    ));
    println!(
        "  3 and 15 credits per million context and generated tokens. Two accounts of three hold before each request, and are"
    );
    println!(
        "  refused where their credits end; the third works in batches, and is cut off at zero. Who runs low buys more.\n"
    );
}

/// An error and what caused it, in one line: a database error alone says only that there was one.
fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
