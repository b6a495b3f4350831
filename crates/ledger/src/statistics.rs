//! How often settlements did what costs something, counted for each database in shared memory.
//!
//! A session counts in its own [`Counts`] and adds them to the shared [`Counters`] when its transaction has committed.
//! Everything shared is atomic and begins as zeros, so adding needs no lock and cannot fail.

use std::array;
use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::crossing::Direction;

/// What is counted. A settlement that finds nothing to decide is not counted: it is the hot path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stripe was taken exclusively.
    ExclusiveSection,
    /// A balance crossed zero or a threshold, from there or below to above.
    CrossingUp,
    /// A balance crossed zero or a threshold, from above to there or below.
    CrossingDown,
    /// A checkpoint was refreshed.
    Refresh,
    /// A lagging checkpoint was left as it is, because another transaction had the lock for refreshes, or a relation's was not free.
    RefreshSkipped,
    /// A lagging checkpoint was left as it is, because refreshing it failed.
    RefreshFailed,
}

impl Event {
    /// How many kinds there are.
    pub const COUNT: usize = 6;
}

impl From<Direction> for Event {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Up => Self::CrossingUp,
            Direction::Down => Self::CrossingDown,
        }
    }
}

/// How often each event happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; Event::COUNT]);

impl Counts {
    /// Counts an event this many times.
    pub const fn add(&mut self, event: Event, times: u64) {
        self.0[event as usize] += times;
    }

    /// How often the event happened.
    #[must_use]
    pub const fn of(&self, event: Event) -> u64 {
        self.0[event as usize]
    }
}

/// The counts of one database.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Counters {
    /// Oid of the database; 0 while no database has the place.
    database: AtomicU32,
    /// Which of the databases that have had this oid.
    version: AtomicU32,
    counts: [AtomicU64; Event::COUNT],
}

// Sessions of one server may run libraries of different builds. A change of a number here needs a name with the next
// version for the statistics.
const _: () = {
    assert!(
        offset_of!(Counters, version) == 4 && offset_of!(Counters, counts) == 8,
        "no padding between the fields"
    );
    assert!(size_of::<Counters>() == 56 && size_of::<Statistics>() == 7168, "the statistics take 7 kB");
};

impl Counters {
    /// Adds what a transaction has counted.
    pub fn add(&self, counts: &Counts) {
        for (total, &times) in self.counts.iter().zip(&counts.0) {
            if times > 0 {
                total.fetch_add(times, Ordering::Relaxed);
            }
        }
    }

    /// Sets the counts to zero unless they are those of this version of the database.
    fn begin_for(&self, version: u32) {
        if self.version.swap(version, Ordering::Relaxed) != version {
            for total in &self.counts {
                total.store(0, Ordering::Relaxed);
            }
        }
    }

    /// The counts so far.
    #[must_use]
    pub fn read(&self) -> Counts {
        Counts(array::from_fn(|event| self.counts[event].load(Ordering::Relaxed)))
    }
}

/// How many databases there are places for. A dropped database keeps its place until the server restarts.
const DATABASES: usize = 128;

/// The counts of all databases of a server.
#[derive(Debug)]
#[repr(C)]
pub struct Statistics([Counters; DATABASES]);

impl Default for Statistics {
    fn default() -> Self {
        Self(array::from_fn(|_| Counters::default()))
    }
}

impl Statistics {
    /// The counters of a database, which take a place if they have none yet; `None` if all places are taken. Counters that a
    /// dropped database with the same oid has left are of another version: they are set to zero.
    #[must_use]
    pub fn of_database(&self, database: u32, version: u32) -> Option<&Counters> {
        // Places are taken from the first on and never given back, so the first that is free ends the search.
        let counters = self.0.iter().find(|counters| {
            let taken = counters.database.compare_exchange(0, database, Ordering::Relaxed, Ordering::Relaxed);
            taken.is_ok() || taken == Err(database)
        })?;
        counters.begin_for(version);
        Some(counters)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn databases_are_counted_apart() {
        let statistics = Statistics::default();
        let mut counts = Counts::default();
        counts.add(Event::Refresh, 3);
        counts.add(Event::from(Direction::Down), 1);
        statistics.of_database(7, 1).unwrap().add(&counts);
        statistics.of_database(8, 1).unwrap().add(&counts);
        statistics.of_database(7, 1).unwrap().add(&counts);
        let read = |database| statistics.of_database(database, 1).unwrap().read();
        assert_eq!((read(7).of(Event::Refresh), read(7).of(Event::CrossingDown)), (6, 2));
        assert_eq!((read(8).of(Event::Refresh), read(8).of(Event::CrossingDown)), (3, 1));
        assert_eq!((read(9), read(7).of(Event::CrossingUp)), (Counts::default(), 0));
    }

    #[test]
    fn a_database_that_was_made_anew_is_counted_from_zero() {
        let statistics = Statistics::default();
        let mut counts = Counts::default();
        counts.add(Event::Refresh, 3);
        let counters = |version| statistics.of_database(7, version).unwrap();
        for version in [1, 2] {
            for times in 1..3 {
                counters(version).add(&counts);
                assert_eq!(counters(version).read().of(Event::Refresh), 3 * times, "version {version}");
            }
        }
        assert_eq!(statistics.of_database(8, 2).unwrap().read(), Counts::default());
    }

    #[test]
    fn a_database_without_a_place_has_no_counts() {
        let statistics = Statistics::default();
        for database in 1..=u32::try_from(DATABASES).unwrap() {
            assert!(statistics.of_database(database, 1).is_some());
        }
        assert!(statistics.of_database(u32::MAX, 1).is_none());
        assert!(statistics.of_database(1, 1).is_some());
    }

    /// Sessions that look up a new database at once agree on its place.
    #[test]
    fn a_place_is_taken_once() {
        let statistics = Statistics::default();
        let mut counts = Counts::default();
        counts.add(Event::ExclusiveSection, 1);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for database in 1..=64 {
                        statistics.of_database(database, 1).unwrap().add(&counts);
                    }
                });
            }
        });
        for database in 1..=64 {
            assert_eq!(statistics.of_database(database, 1).unwrap().read().of(Event::ExclusiveSection), 8);
        }
        let taken =
            statistics.0.iter().filter(|counters| counters.database.load(Ordering::Relaxed) != 0).count();
        assert_eq!(taken, 64);
    }
}
