//! Measures the extension against plain tables, row locks and the application-side repository whose work it takes over.
//!
//! Only ratios count: the sides of a line take turns on one throwaway server, and each repetition gives one ratio. A
//! figure is the median of the repetitions, its spread the smallest and the largest. Every line makes its own data.

mod chart;
mod lines;
mod nodes;
mod report;
mod server;
mod sides;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Parser;

use crate::lines::{Bench, Line};
use crate::report::{Outcome, Row};
use crate::server::Server;

/// Measures credits_ledger; `make bench` builds and installs what it needs.
#[derive(Parser)]
struct Arguments {
    /// Lines to measure; without, all
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Fewer repetitions and less data
    #[arg(long)]
    quick: bool,
    /// Requests to replay: TIMESTAMP,ContextTokens,GeneratedTokens; without, a made-up trace
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Where the results go
    #[arg(long, default_value = "target")]
    output: PathBuf,
    /// Prints the names of the lines
    #[arg(long)]
    list: bool,
}

fn main() -> Result<()> {
    let Arguments { only, quick, trace, output, list } = Arguments::parse();
    if list {
        lines::all().for_each(|line| println!("{:<20} {}", line.name, line.what));
        return Ok(());
    }
    if let Some(unknown) = only.iter().find(|name| lines::all().all(|line| line.name != **name)) {
        bail!("there is no line {unknown}: see --list");
    }
    let chosen = lines::all().filter(|line| only.is_empty() || only.iter().any(|name| name == line.name));

    let server = Server::start()?;
    let version = format!("PostgreSQL {}", server.version()?);
    println!("{version}, fsync on{}\n", if quick { ", quick" } else { "" });
    let bench = Bench::new(&server, quick, trace)?;
    let (json, charts) = (output.join("bench.json"), output.join("bench"));
    std::fs::create_dir_all(&charts)?;

    let mut rows = Vec::new();
    for line in chosen {
        let started = Instant::now();
        let row = Row { line: line.name, what: line.what, outcome: measure(&bench, line)? };
        report::print(&row);
        draw(&charts, &row)?;
        eprintln!("{} took {:.0} s\n", line.name, started.elapsed().as_secs_f64());
        rows.push(row);
        // What an interrupted run has found so far is kept.
        report::write_json(&json, &version, quick, &rows)?;
    }
    report::print_goals(&rows);
    println!("{}, {}/*.svg", json.display(), charts.display());
    Ok(())
}

/// A line that cannot be measured says why and lets the others go on.
fn measure(bench: &Bench, line: &Line) -> Result<Outcome> {
    if let Some(missing) = bench.first_missing(line.needs)? {
        return Ok(Outcome::NotMeasured(format!("credits.{missing} is not there yet")));
    }
    Ok(match (line.run)(bench) {
        Ok(measured) => Outcome::Measured(measured),
        Err(error) => Outcome::NotMeasured(format!("{error:?}")),
    })
}

fn draw(folder: &Path, row: &Row) -> Result<()> {
    match &row.outcome {
        Outcome::Measured(measured) => chart::draw(&folder.join(format!("{}.svg", row.line)), row, measured),
        Outcome::NotMeasured(_) => Ok(()),
    }
}
