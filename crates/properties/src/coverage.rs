//! Coverages against every transaction, one by one.

use std::collections::BTreeSet;

use arbitrary::{Result, Unstructured};
use ledger::coverage::{Coverage, MAX_STRAGGLERS, OpenTransactions, STRAGGLER_LAG, widen};

/// A cluster whose transactions begin and end.
#[derive(Clone, Default)]
pub struct Cluster {
    next: u64,
    running: BTreeSet<u64>,
}

/// What a snapshot says of the transactions, as a set.
#[derive(Clone)]
pub struct Moment {
    next: u64,
    running: BTreeSet<u64>,
}

impl Cluster {
    /// From an id on that leaves room for what came before.
    ///
    /// # Errors
    /// If there are too few bytes.
    pub fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        Ok(Self { next: input.int_in_range(3..=200)?, running: BTreeSet::new() })
    }

    /// Something happens.
    ///
    /// # Errors
    /// If there are too few bytes.
    pub fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match input.int_in_range(0..=9)? {
            0..4 => self.begin(1),
            // A pool of sessions that are left open.
            4 => self.begin(input.int_in_range(1..=MAX_STRAGGLERS as u64 / 2)?),
            5..8 => {
                // Mostly the youngest ends, so that some lag far behind.
                let ends = if input.ratio(1, 6)? { self.running.first() } else { self.running.last() };
                if let Some(&id) = ends {
                    self.running.remove(&id);
                }
            }
            8 => self.next += input.int_in_range(0..=STRAGGLER_LAG / 4)?,
            _ => self.next += STRAGGLER_LAG,
        }
        Ok(())
    }

    fn begin(&mut self, transactions: u64) {
        self.running.extend(self.next..self.next + transactions);
        self.next += transactions;
    }

    /// As of now.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment { next: self.next, running: self.running.clone() }
    }
}

impl Moment {
    /// As a snapshot lists them: in any order, now and then with an id that is not below `xmax`.
    #[must_use]
    pub fn open(&self) -> OpenTransactions {
        let listed = self.running.iter().rev().copied().chain([self.next + 1]).collect();
        OpenTransactions::new(self.next, listed)
    }

    /// The transactions that have begun and not ended, ascending.
    #[must_use]
    pub fn running(&self) -> Vec<u64> {
        self.running.iter().copied().collect()
    }

    /// Whether the transaction's rows are all there, or will never be.
    #[must_use]
    pub fn has_ended(&self, id: u64) -> bool {
        id < self.next && !self.running.contains(&id)
    }

    /// Ids up to some that have not begun.
    #[must_use]
    pub fn ids(&self) -> std::ops::Range<u64> {
        0..self.next + 2 * STRAGGLER_LAG
    }
}

/// Taken at any moments, in any order: what is covered has ended, `contains` and `serves` say what they would say if
/// they went through all transactions, and coverage grows with time.
///
/// # Errors
/// If there are too few bytes.
pub fn covers_what_has_ended(input: &mut Unstructured<'_>) -> Result<()> {
    widens_ids(input)?;
    let mut cluster = Cluster::new(input)?;
    let mut moments = Vec::new();
    for _ in 0..input.int_in_range(1..=5)? {
        for _ in 0..input.int_in_range(0..=30)? {
            cluster.step(input)?;
        }
        moments.push(cluster.now());
    }
    let ids = cluster.now().ids();
    let taken: Vec<Coverage> = moments.iter().map(|moment| Coverage::up_to(&moment.open())).collect();
    // One that no moment made, as it could be read back from where it was stored.
    let mut stored = Vec::new();
    for _ in 0..input.int_in_range(0..=4)? {
        stored.push(input.int_in_range(ids.start..=ids.end)?);
    }
    let stored = Coverage::from_parts(input.int_in_range(ids.start..=ids.end)?, stored).expect("only a few");

    for (coverage, moment) in taken.iter().zip(&moments) {
        is_as_far_as_it_can_be(coverage, moment);
        for reader in &moments {
            let own = input.ratio(1, 2)?.then(|| input.choose_iter(reader.running.iter())).transpose();
            has_no_more_looked_for_than_is_seen(coverage, reader, own.ok().flatten().copied());
        }
        assert!(coverage.serves(&moment.open()), "a coverage serves the snapshot that it was taken by");
    }
    assert!(taken.is_sorted_by(|older, newer| newer.contains(older)), "coverage grows: {taken:?}");
    let covered = |coverage: &Coverage| -> Vec<bool> { ids.clone().map(|id| coverage.covers(id)).collect() };
    let all: Vec<(&Coverage, Vec<bool>)> =
        taken.iter().chain([&stored]).map(|coverage| (coverage, covered(coverage))).collect();
    let ended: Vec<Vec<bool>> =
        moments.iter().map(|moment| ids.clone().map(|id| moment.has_ended(id)).collect()).collect();
    for (coverage, covered) in &all {
        for (older, covered_before) in &all {
            let expected = coverage.watermark() >= older.watermark() && is_part(covered_before, covered);
            assert_eq!(coverage.contains(older), expected, "{coverage:?} contains {older:?}");
        }
        for (moment, ended) in moments.iter().zip(&ended) {
            let expected = moment.next >= coverage.watermark() && is_part(covered, ended);
            assert_eq!(coverage.serves(&moment.open()), expected, "{coverage:?} serves {:?}", moment.open());
        }
    }
    Ok(())
}

fn is_part(part: &[bool], whole: &[bool]) -> bool {
    part.iter().zip(whole).all(|(part, whole)| !part || *whole)
}

/// Everything that has ended is covered, but for what comes after one too many, or after one that lags too little for those
/// before it.
fn is_as_far_as_it_can_be(coverage: &Coverage, moment: &Moment) {
    let is_passed_by = |place: u64, id: u64| {
        place < MAX_STRAGGLERS as u64 && moment.next - id > STRAGGLER_LAG && moment.next - id > 8 * place
    };
    let stop = (0..).zip(&moment.running).find(|&(place, &id)| !is_passed_by(place, id));
    let watermark = stop.map_or(moment.next, |(_, &id)| id);
    for id in moment.ids() {
        let expected = id < watermark && moment.has_ended(id);
        assert_eq!(coverage.covers(id), expected, "{id} of {coverage:?} at {:?}", moment.open());
    }
}

/// A reader looks for each straggler that it could see a row of, and for no other that has begun for it.
fn has_no_more_looked_for_than_is_seen(coverage: &Coverage, reader: &Moment, own: Option<u64>) {
    let looked_for: Vec<u64> = coverage.stragglers_seen_by(&reader.open(), own).collect();
    let is_seen = |id: &u64| reader.has_ended(*id) || own == Some(*id);
    for id in (0..coverage.watermark()).filter(|&id| !coverage.covers(id)) {
        let is_looked_for = looked_for.contains(&id);
        assert!(is_looked_for || !is_seen(&id), "{id} of {coverage:?} at {:?}", reader.open());
        assert!(
            !is_looked_for || is_seen(&id) || id >= reader.next,
            "{id} of {coverage:?} at {:?}",
            reader.open()
        );
    }
}

/// A 32-bit id that is in use belongs to one full id.
fn widens_ids(input: &mut Unstructured<'_>) -> Result<()> {
    let next = input.int_in_range(3..=1_u64 << 40)?;
    let full = next - input.int_in_range(0..=next.min(1 << 31) - 1)?;
    let id = u32::try_from(full & u64::from(u32::MAX)).expect("32 bits");
    if id >= 3 {
        assert_eq!(widen(id, next), full, "{id} below {next}");
    }
    Ok(())
}
