//! Output for people: aligned tables and a little colour on a terminal, plain lines everywhere else.

use std::io::{IsTerminal, stdout};

/// What standard output can show.
#[derive(Clone, Copy)]
pub struct Terminal {
    /// Lines can be redrawn in place.
    pub redraws: bool,
    colours: bool,
}

/// Meanings that have a colour.
#[derive(Clone, Copy)]
pub enum Style {
    Heading,
    Quiet,
    Good,
    Bad,
}

/// Which side of a column its cells are aligned to.
#[derive(Clone, Copy)]
pub enum Align {
    Left,
    Right,
}

impl Terminal {
    /// What this process writes to. `NO_COLOR` is honoured.
    pub fn detect() -> Self {
        let terminal = stdout().is_terminal();
        Self { redraws: terminal, colours: terminal && std::env::var_os("NO_COLOR").is_none() }
    }

    pub fn paint(self, style: Style, text: &str) -> String {
        if !self.colours {
            return text.to_owned();
        }
        let code = match style {
            Style::Heading => 1,
            Style::Quiet => 2,
            Style::Good => 32,
            Style::Bad => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    pub fn heading(self, text: &str) {
        println!("\n{}", self.paint(Style::Heading, text));
    }

    /// A table, indented, its first row being the header.
    pub fn table(self, aligns: &[Align], rows: &[Vec<String>]) {
        for (number, line) in layout(aligns, rows).iter().enumerate() {
            let style = if number == 0 { self.paint(Style::Quiet, line) } else { line.clone() };
            println!("  {style}");
        }
    }
}

fn layout(aligns: &[Align], rows: &[Vec<String>]) -> Vec<String> {
    let widths: Vec<usize> = (0..aligns.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> = row
                .iter()
                .zip(aligns)
                .zip(&widths)
                .map(|((cell, align), &width)| match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                })
                .collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect()
}

/// A number with its thousands apart: `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["user", "n"], ["a", "100"], ["bc", "7"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(layout(&[Align::Left, Align::Right], &rows), ["user    n", "a     100", "bc      7"]);
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
