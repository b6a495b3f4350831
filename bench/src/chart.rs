//! One chart per line, as SVG: a bar per side, its length the median, a whisker from the smallest sample to the largest.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::report::{Measured, Row, Side, median, spread};

const WIDTH: u32 = 860;
const TOP: i32 = 44;
const BAR: i32 = 26;
const LEFT: i32 = 250;
const RIGHT: i32 = 140;
const OURS: RGBColor = RGBColor(46, 110, 184);
const OTHERS: RGBColor = RGBColor(168, 176, 186);
const INK: RGBColor = RGBColor(40, 44, 52);

/// Draws a line's chart.
pub fn draw(path: &Path, row: &Row, measured: &Measured) -> Result<()> {
    draw_bars(path, row.what, &measured.sides).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn draw_bars(path: &Path, title: &str, sides: &[Side]) -> Result<(), Box<dyn std::error::Error>> {
    let height = TOP + BAR * i32::try_from(sides.len())? + 14;
    let root = SVGBackend::new(path, (WIDTH, u32::try_from(height)?)).into_drawing_area();
    root.fill(&WHITE)?;
    let text = ("sans-serif", 14).into_font().color(&INK);
    root.draw(&Text::new(title.to_owned(), (12, 12), ("sans-serif", 16).into_font().color(&INK)))?;

    let longest = sides.iter().map(|side| spread(&side.samples).1).fold(0.0, f64::max);
    let room = f64::from(i32::try_from(WIDTH)? - LEFT - RIGHT);
    let x = |value: f64| LEFT + pixels(value / longest * room);
    for (side, top) in sides.iter().zip((TOP..).step_by(26)) {
        let (figure, (low, high)) = (median(&side.samples), spread(&side.samples));
        let color = if side.name.starts_with("ledger") { OURS } else { OTHERS };
        let middle = top + BAR / 2;
        root.draw(&Text::new(side.name.clone(), (12, top + 5), text.clone()))?;
        root.draw(&Rectangle::new([(LEFT, top + 3), (x(figure), top + BAR - 3)], color.filled()))?;
        root.draw(&PathElement::new([(x(low), middle), (x(high), middle)], INK))?;
        let label = if figure >= 100.0 {
            format!("{figure:.0} {}", side.unit)
        } else {
            format!("{figure:.3} {}", side.unit)
        };
        root.draw(&Text::new(label, (x(figure.max(high)) + 8, top + 5), text.clone()))?;
    }
    root.present()?;
    Ok(())
}

/// The nearest pixel of a coordinate within the chart.
fn pixels(coordinate: f64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "a chart is less than a thousand pixels wide")]
    {
        coordinate.round() as i32
    }
}
