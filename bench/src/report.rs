//! What a line measured, the table of all lines, and the same as JSON.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

/// The samples of one side, one per repetition.
#[derive(Clone, Serialize)]
pub struct Side {
    pub name: String,
    pub unit: &'static str,
    pub samples: Vec<f64>,
}

/// What a ratio should be.
#[derive(Clone, Copy, Serialize)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A ratio that has a goal, one sample per repetition.
#[derive(Clone, Serialize)]
pub struct Ratio {
    pub of: String,
    pub bound: Bound,
    pub samples: Vec<f64>,
}

/// What a line found.
#[derive(Clone, Default, Serialize)]
pub struct Measured {
    pub sides: Vec<Side>,
    pub ratios: Vec<Ratio>,
}

/// How a line ended.
#[derive(Serialize)]
pub enum Outcome {
    Measured(Measured),
    /// Not there yet, or failed, and why.
    NotMeasured(String),
}

/// One line of the benchmark.
#[derive(Serialize)]
pub struct Row {
    pub line: &'static str,
    pub what: &'static str,
    pub outcome: Outcome,
}

impl Measured {
    /// States that the samples of side `of`, divided by those of side `by`, should keep a bound.
    #[must_use]
    pub fn ratio(mut self, of: &str, by: &str, bound: Bound) -> Self {
        let samples = |name: &str| {
            &self.sides.iter().find(|side| side.name == name).expect("a side of this line").samples
        };
        let samples = samples(of).iter().zip(samples(by)).map(|(of, by)| of / by).collect();
        self.ratios.push(Ratio { of: format!("{of} / {by}"), bound, samples });
        self
    }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!(">= {bound:.2}"),
            Self::AtMost(bound) => format!("<= {bound:.2}"),
        }
    }
}

/// The middle sample, or the mean of the two in the middle.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = ((sorted.len() - 1) / 2, sorted.len() / 2);
    f64::midpoint(sorted[low], sorted[high])
}

/// The smallest and the largest sample.
#[must_use]
pub fn spread(samples: &[f64]) -> (f64, f64) {
    samples.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)))
}

/// Prints what a line found.
pub fn print(row: &Row) {
    println!("{}: {}", row.line, row.what);
    match &row.outcome {
        Outcome::NotMeasured(reason) => println!("  not measured: {reason}"),
        Outcome::Measured(measured) => {
            for Side { name, unit, samples } in &measured.sides {
                let (low, high) = spread(samples);
                println!("  {name:<44} {:>12.3} {unit:<10} {low:.3} to {high:.3}", median(samples));
            }
            for Ratio { of, bound, samples } in &measured.ratios {
                let (figure, (low, high)) = (median(samples), spread(samples));
                let verdict = if bound.holds(figure) { "met" } else { "NOT MET" };
                println!("  {of:<44} {figure:>12.3} {:<10} {low:.3} to {high:.3}  {verdict}", bound.text());
            }
        }
    }
    println!();
}

/// Prints the table of goals; what is not measured is not met either.
pub fn print_goals(rows: &[Row]) {
    println!("{:<22} {:<46} {:>9} {:>9}  {:<16} ", "line", "ratio", "goal", "figure", "spread");
    let (mut met, mut all) = (0, 0);
    for row in rows {
        match &row.outcome {
            Outcome::NotMeasured(reason) => println!("{:<22} not measured: {reason}", row.line),
            Outcome::Measured(measured) => {
                for Ratio { of, bound, samples } in &measured.ratios {
                    let (figure, (low, high)) = (median(samples), spread(samples));
                    let holds = bound.holds(figure);
                    (met, all) = (met + usize::from(holds), all + 1);
                    let spread = format!("{low:.2} to {high:.2}");
                    let verdict = if holds { "met" } else { "NOT MET" };
                    println!(
                        "{:<22} {of:<46} {:>9} {figure:>9.3}  {spread:<16} {verdict}",
                        row.line,
                        bound.text()
                    );
                }
            }
        }
    }
    println!("{met} of {all} measured goals met");
}

/// Writes everything, samples included.
pub fn write_json(path: &Path, server: &str, quick: bool, rows: &[Row]) -> Result<()> {
    #[derive(Serialize)]
    struct File<'a> {
        server: &'a str,
        quick: bool,
        lines: &'a [Row],
    }
    let mut file = std::fs::File::create(path)?;
    serde_json::to_writer_pretty(&mut file, &File { server, quick, lines: rows })?;
    file.write_all(b"\n")?;
    Ok(())
}
