//! The picture of a ledger over many nodes: rows a node over time, one upon the other, as SVG.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::nodes::{Counted, Sample};
use crate::terminal::grouped;

const SIZE: (u32, u32) = (900, 440);
const LINE_HEIGHT: i32 = 16;
const GAP: i32 = 6;
const INK: RGBColor = RGBColor(40, 44, 52);
const COLOURS: [RGBColor; 5] = [
    RGBColor(46, 110, 184),
    RGBColor(96, 163, 217),
    RGBColor(168, 200, 230),
    RGBColor(222, 142, 60),
    RGBColor(120, 160, 110),
];

/// A point in seconds and rows.
type Point = (f64, f64);

/// Draws what was counted.
pub fn draw(path: &Path, counted: &Counted) -> Result<(), Box<dyn Error + Send + Sync>> {
    draw_bands(path, &counted.names, &counted.samples)
        .map_err(|error| format!("{}: {error}", path.display()).into())
}

fn draw_bands(path: &Path, nodes: &[String], samples: &[Sample]) -> Result<(), Box<dyn Error>> {
    let tops = stacked(nodes.len(), samples);
    let seconds = samples.last().map_or(0.0, |sample| sample.seconds).max(1.0);
    let highest = tops.last().into_iter().flatten().map(|&(_, rows)| rows).fold(1.0, f64::max);

    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let text = ("sans-serif", 14).into_font().color(&INK);
    let mut chart = ChartBuilder::on(&root)
        .caption("Ledger rows a node, while accounts are charged", ("sans-serif", 18).into_font().color(&INK))
        .margin(12)
        .margin_right(130)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..seconds, 0.0..1.05 * highest)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_desc("seconds")
        .y_label_formatter(&|&rows| whole(rows))
        .label_style(text.clone())
        .draw()?;
    // From the top down: each covers what is below it, and leaves its own band.
    for (top, &colour) in tops.iter().zip(COLOURS.iter().cycle()).collect::<Vec<_>>().into_iter().rev() {
        chart.draw_series(AreaSeries::new(top.iter().copied(), 0.0, colour.filled()))?;
    }
    let label_style = text.pos(Pos::new(HPos::Left, VPos::Center));
    let mut lowest_free = i32::MAX;
    let mut below = 0.0;
    for (place, (node, top)) in nodes.iter().zip(&tops).enumerate() {
        let (Some(&(end, rows)), Some(last)) = (top.last(), samples.last()) else { continue };
        let (x, middle) = chart.backend_coord(&(end, f64::midpoint(below, rows)));
        let y = middle.min(lowest_free);
        (below, lowest_free) = (rows, y - LINE_HEIGHT);
        let label = format!("{node}: {}", grouped(last.rows.get(place).copied().unwrap_or(0)));
        root.draw(&Text::new(label, (x + GAP, y), label_style.clone()))?;
    }
    root.present()?;
    Ok(())
}

/// For each node the sums of its rows and of those before it, at each moment.
fn stacked(nodes: usize, samples: &[Sample]) -> Vec<Vec<Point>> {
    let mut tops = vec![Vec::with_capacity(samples.len()); nodes];
    for sample in samples {
        let mut sum = 0;
        for (place, top) in tops.iter_mut().enumerate() {
            sum += sample.rows.get(place).copied().unwrap_or(0);
            top.push((sample.seconds, as_coordinate(sum)));
        }
    }
    tops
}

#[expect(clippy::cast_precision_loss, reason = "a coordinate")]
fn as_coordinate(rows: u64) -> f64 {
    rows as f64
}

fn whole(rows: f64) -> String {
    format!("{rows:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_lie_upon_each_other_and_a_node_that_came_later_had_no_rows_before() {
        let samples =
            [Sample { seconds: 1.0, rows: vec![5, 3] }, Sample { seconds: 2.0, rows: vec![6, 2, 4] }];
        let tops = stacked(3, &samples);
        assert_eq!(
            tops,
            [[(1.0, 5.0), (2.0, 6.0)], [(1.0, 8.0), (2.0, 8.0)], [(1.0, 8.0), (2.0, 12.0)]].map(Vec::from)
        );
    }

    #[test]
    fn a_picture_names_each_node_with_its_rows() {
        let path = std::env::temp_dir().join(format!("credits_ledger_picture_{}.svg", std::process::id()));
        let samples =
            [Sample { seconds: 0.0, rows: vec![0, 0] }, Sample { seconds: 3.0, rows: vec![1234, 700] }];
        draw_bands(&path, &["node1".to_owned(), "node2".to_owned()], &samples).expect("a picture");
        let picture = std::fs::read_to_string(&path).expect("it was written");
        std::fs::remove_file(&path).expect("it is there");
        assert!(picture.contains("node1: 1,234") && picture.contains("node2: 700"), "{picture}");
    }
}
