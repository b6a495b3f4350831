//! What a person sees while the workload runs: a line of counters, and the crossings as they arrive.

use std::collections::HashSet;
use std::io::{Write, stdout};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rust_decimal::Decimal;
use uuid::Uuid;

use crate::terminal::{Style, Terminal, grouped};

/// Time between two drawings of the counters on a terminal, and elsewhere.
const REDRAW: Duration = Duration::from_millis(100);
const PLAIN: Duration = Duration::from_secs(1);

/// At most this many accounts that run dry, are about to, or are refused, and moves, are shown in one second; all are counted.
const SHOWN_PER_SECOND: u32 = 4;

/// A number that grows.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds, and answers the new value.
    pub fn add(&self, more: u64) -> u64 {
        self.0.fetch_add(more, Ordering::Relaxed) + more
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What has happened so far.
#[derive(Default)]
pub struct Counters {
    pub rows: Counter,
    pub transactions: Counter,
    pub purchases: Counter,
    pub turned_away: Counter,
    pub refused: Counter,
    pub up: Counter,
    pub down: Counter,
    pub low_up: Counter,
    pub low_down: Counter,
    pub moved: Counter,
}

impl Counters {
    /// Requests that are done with, in whatever way.
    pub fn handled(&self) -> u64 {
        self.rows.get() - self.purchases.get() + self.turned_away.get() + self.refused.get()
    }
}

/// What happened: a notification that arrived, a refusal, a node more, a bucket that has moved.
pub enum Event {
    Up { user: Uuid },
    Down { user: Uuid, balance: Decimal },
    Low { user: Uuid, balance: Decimal },
    Refused { user: Uuid, most: Decimal },
    Added { node: &'static str },
    Moved { bucket: i32, node: &'static str, took: Duration },
}

/// Draws until the senders of events are gone.
pub struct Progress<'a> {
    terminal: Terminal,
    counters: &'a Counters,
    requests: u64,
    /// Of those that run dry, are about to, and are refused, and of moves.
    shown_this_second: [u32; 4],
    /// Accounts whose cut-off was shown: their return is shown too.
    awaited: HashSet<Uuid>,
}

impl<'a> Progress<'a> {
    pub fn new(terminal: Terminal, counters: &'a Counters, requests: u64) -> Self {
        Self { terminal, counters, requests, shown_this_second: [0; 4], awaited: HashSet::new() }
    }

    pub fn run(mut self, events: &Receiver<Event>) {
        let interval = if self.terminal.redraws { REDRAW } else { PLAIN };
        let mut next_drawing = Instant::now() + interval;
        let (mut second_began, mut rows_then, mut rate) = (Instant::now(), self.counters.rows.get(), 0);
        let mut second_ends = second_began + PLAIN;
        loop {
            match events.recv_timeout(next_drawing.saturating_duration_since(Instant::now())) {
                Ok(event) => self.show(&event),
                Err(RecvTimeoutError::Timeout) => {
                    if next_drawing >= second_ends {
                        let rows = self.counters.rows.get();
                        rate = per_second(rows - rows_then, second_began.elapsed());
                        (second_began, rows_then) = (Instant::now(), rows);
                        second_ends += PLAIN;
                        self.shown_this_second = [0; 4];
                    }
                    self.draw(rate);
                    next_drawing += interval;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.clear();
    }

    fn show(&mut self, event: &Event) {
        let line = match event {
            Event::Down { user, balance } => {
                if !self.has_room(0) {
                    return;
                }
                self.awaited.insert(*user);
                format!(
                    "{}     {user}  {balance:.6}: cut off, buying",
                    self.terminal.paint(Style::Bad, "down")
                )
            }
            Event::Up { user } => {
                if !self.awaited.remove(user) {
                    return;
                }
                format!("{}       {user}  may go on", self.terminal.paint(Style::Good, "up"))
            }
            Event::Low { user, balance } => {
                if !self.has_room(1) {
                    return;
                }
                format!("{}      {user}  {balance:.6} left: buying", self.terminal.paint(Style::Quiet, "low"))
            }
            Event::Refused { user, most } => {
                if !self.has_room(2) {
                    return;
                }
                format!("{}  {user}  cannot cover {most:.6}", self.terminal.paint(Style::Bad, "refused"))
            }
            Event::Moved { bucket, node, took } => {
                if !self.has_room(3) {
                    return;
                }
                let moved = self.terminal.paint(Style::Quiet, "moved");
                format!("{moved}    bucket {bucket} to {node}, in {:.2} s", took.as_secs_f64())
            }
            Event::Added { node } => format!("{}    {node}", self.terminal.paint(Style::Heading, "added")),
        };
        self.clear();
        println!("  {line}");
    }

    /// Whether another line of this kind may be shown in this second.
    fn has_room(&mut self, kind: usize) -> bool {
        let shown = &mut self.shown_this_second[kind];
        *shown += 1;
        *shown <= SHOWN_PER_SECOND
    }

    fn draw(&self, rate: u64) {
        let counters = self.counters;
        let line = format!(
            "  {:>3} %  {:>7} rows  {:>6} rows/s  {} refused  crossings: {} up, {} down",
            100 * counters.handled() / self.requests.max(1),
            grouped(counters.rows.get()),
            grouped(rate),
            grouped(counters.refused.get()),
            grouped(counters.up.get()),
            grouped(counters.down.get()),
        );
        if self.terminal.redraws {
            self.clear();
            print!("{line}");
            // A terminal that is gone stops the drawing, not the demo.
            let _ = stdout().flush();
        } else {
            println!("{line}");
        }
    }

    fn clear(&self) {
        if self.terminal.redraws {
            print!("\r\x1b[K");
        }
    }
}

/// A rate, rounded down.
pub fn per_second(count: u64, elapsed: Duration) -> u64 {
    let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1000) / milliseconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_per_second() {
        assert_eq!(per_second(300, Duration::from_millis(1500)), 200);
        assert_eq!(per_second(7, Duration::ZERO), 7000);
    }
}
