//! Which transactions a checkpoint covers, and how the next watermark is chosen.
//!
//! Transaction ids are full 64-bit top-level ids. A checkpoint covers the rows of every transaction below its watermark,
//! except the stragglers. All covered transactions had ended when it was taken, so what it covers never changes.

/// How many open transactions a watermark may pass by at most. A checkpoint that lists so many stragglers is a row of 1.8 kB,
/// which the server still stores in one piece.
pub const MAX_STRAGGLERS: usize = 200;

/// How many ids an open transaction may hold the watermark back before it is passed by as a straggler, unless
/// `LAG_PER_STRAGGLER` asks for more. A straggler costs an index probe once it has ended, until the next
/// refresh; a watermark held back costs each read the rows written since.
pub const STRAGGLER_LAG: u64 = 128;

/// How many ids a transaction must lag for each older one that is passed by, if that comes to more than
/// [`STRAGGLER_LAG`]. So there are few stragglers where many transactions run and none is left open.
const LAG_PER_STRAGGLER: u64 = 8;

/// The full id of a 32-bit transaction id that a snapshot lists, given the id that the next transaction will get.
///
/// Ids in use never span more than half of the 32-bit circle, so the full id is the one not above `next` that is closest to it.
/// Not for the ids below 3, which the server has for special purposes.
#[must_use]
pub fn widen(id: u32, next: u64) -> u64 {
    let candidate = next & !u64::from(u32::MAX) | u64::from(id);
    if candidate > next { candidate.saturating_sub(1 << 32) } else { candidate }
}

/// The transactions that had not ended for a snapshot: those it lists, and every one from `xmax` on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenTransactions {
    xmax: u64,
    /// Ascending.
    listed: Vec<u64>,
}

impl OpenTransactions {
    /// From the ids that a snapshot lists, in any order, and the reader's own, which the caller adds: a
    /// snapshot does not list it. Ids from `xmax` on are left out: they count as open without being listed.
    #[must_use]
    pub fn new(xmax: u64, mut listed: Vec<u64>) -> Self {
        listed.retain(|&id| id < xmax);
        listed.sort_unstable();
        Self { xmax, listed }
    }

    /// Whether every transaction that had ended for a snapshot with `other` had ended for this one, too.
    #[must_use]
    pub fn is_as_late_as(&self, other: &Self) -> bool {
        self.xmax >= other.xmax
            && self.listed.iter().take_while(|&&id| id < other.xmax).all(|&id| other.lists(id))
    }

    /// Whether the snapshot lists this transaction as open.
    fn lists(&self, id: u64) -> bool {
        self.listed.binary_search(&id).is_ok()
    }
}

/// What a checkpoint covers: exactly the transactions below the watermark that are not stragglers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    watermark: u64,
    /// Ascending.
    stragglers: Vec<u64>,
}

impl Coverage {
    /// A stored coverage; `None` if it lists more than [`MAX_STRAGGLERS`].
    #[must_use]
    pub fn from_parts(watermark: u64, stragglers: impl IntoIterator<Item = u64>) -> Option<Self> {
        let mut stragglers: Vec<u64> = stragglers.into_iter().take(MAX_STRAGGLERS + 1).collect();
        stragglers.sort_unstable();
        (stragglers.len() <= MAX_STRAGGLERS).then_some(Self { watermark, stragglers })
    }

    /// The most that a checkpoint taken now may cover: transactions that lag far behind are passed by, the first that
    /// does not is the watermark.
    ///
    /// A transaction that is passed by once is passed by until it ends: it lags ever more, and no older ones are added.
    #[must_use]
    pub fn up_to(open: &OpenTransactions) -> Self {
        let is_passed_by =
            |&(before, &id): &(u64, &u64)| open.xmax - id > STRAGGLER_LAG.max(LAG_PER_STRAGGLER * before);
        let passed_by = (0..).zip(&open.listed).take(MAX_STRAGGLERS).take_while(is_passed_by).count();
        let (stragglers, younger) = open.listed.split_at(passed_by);
        let watermark = younger.first().copied().unwrap_or(open.xmax);
        Self { watermark, stragglers: stragglers.to_vec() }
    }

    /// Rows of transactions from this one on are not covered.
    #[must_use]
    pub const fn watermark(&self) -> u64 {
        self.watermark
    }

    /// Transactions below the watermark that are not covered, ascending.
    #[must_use]
    pub fn stragglers(&self) -> &[u64] {
        &self.stragglers
    }

    /// Whether the rows of this transaction are covered.
    #[must_use]
    pub fn covers(&self, transaction: u64) -> bool {
        transaction < self.watermark && !self.lists(transaction)
    }

    /// The stragglers whose rows may be visible to a reader. For its snapshot the transactions in `open` have not ended, its `own`
    /// among them: it sees its own rows, and none of the other open transactions'.
    pub fn stragglers_seen_by(&self, open: &OpenTransactions, own: Option<u64>) -> impl Iterator<Item = u64> {
        self.stragglers.iter().copied().filter(move |&id| own == Some(id) || !open.lists(id))
    }

    fn lists(&self, transaction: u64) -> bool {
        self.stragglers.binary_search(&transaction).is_ok()
    }

    /// Whether this covers all that `older` covers: a checkpoint may only be replaced by one that does.
    #[must_use]
    pub fn contains(&self, older: &Self) -> bool {
        self.watermark >= older.watermark
            && self.stragglers.iter().all(|&id| id >= older.watermark || older.lists(id))
    }

    /// Whether a snapshot for which these transactions are open sees every covered row. A reader whose snapshot does not must not
    /// use the checkpoint: it would count rows from its own future.
    #[must_use]
    pub fn serves(&self, open: &OpenTransactions) -> bool {
        open.xmax >= self.watermark
            && open.listed.iter().take_while(|&&id| id < self.watermark).all(|&id| self.lists(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(xmax: u64, listed: &[u64]) -> OpenTransactions {
        OpenTransactions::new(xmax, listed.to_vec())
    }

    #[test]
    fn ids_are_widened_below_the_next_one() {
        assert_eq!(widen(700, 750), 700);
        assert_eq!(widen(700, (5 << 32) | 750), (5 << 32) | 700);
        assert_eq!(widen(u32::MAX, (5 << 32) | 10), (4 << 32) | u64::from(u32::MAX));
        assert_eq!(widen(750, 750), 750);
    }

    #[test]
    fn a_snapshot_is_as_late_as_one_that_has_seen_no_more_ends() {
        let now = open(1000, &[900, 950]);
        for as_late in [&now, &open(1000, &[]), &open(1000, &[950]), &open(2000, &[900, 1000])] {
            assert!(as_late.is_as_late_as(&now), "{as_late:?}");
        }
        for earlier in [open(999, &[]), open(1000, &[900, 949]), open(2000, &[999])] {
            assert!(!earlier.is_as_late_as(&now), "{earlier:?}");
        }
        assert!(open(1, &[]).is_as_late_as(&OpenTransactions::default()));
    }

    #[test]
    fn without_open_transactions_everything_is_covered() {
        let coverage = Coverage::up_to(&open(1000, &[]));
        assert_eq!((coverage.watermark(), coverage.stragglers()), (1000, &[][..]));
        assert!(coverage.covers(999) && !coverage.covers(1000));
    }

    #[test]
    fn a_recent_transaction_holds_the_watermark() {
        let coverage = Coverage::up_to(&open(1000, &[990, 980]));
        assert_eq!((coverage.watermark(), coverage.stragglers()), (980, &[][..]));
    }

    #[test]
    fn a_lagging_transaction_is_passed_by() {
        let coverage = Coverage::up_to(&open(1000, &[990, 100, 7]));
        assert_eq!((coverage.watermark(), coverage.stragglers()), (990, &[7, 100][..]));
        assert!(coverage.covers(8) && coverage.covers(989));
        assert!(!coverage.covers(7) && !coverage.covers(100) && !coverage.covers(990));
    }

    #[test]
    fn each_straggler_has_the_next_one_lag_more() {
        let lagging = |from: u64, ids: u64| -> Vec<u64> { (from..from + ids).collect() };
        // The 30th has 29 before it: it must lag more than 232.
        let coverage = Coverage::up_to(&open(1000, &lagging(740, 40)));
        assert_eq!(coverage.watermark(), 769);
        assert_eq!(coverage.stragglers(), &lagging(740, 29));
        // Without those before them they are passed by all the same.
        let fewer = Coverage::up_to(&open(1000, &lagging(760, 20)));
        assert_eq!((fewer.watermark(), fewer.stragglers()), (1000, &lagging(760, 20)[..]));
        assert!(fewer.contains(&coverage));
    }

    #[test]
    fn so_many_are_passed_by_and_no_more() {
        let lagging: Vec<u64> = (10..10 + MAX_STRAGGLERS as u64 + 20).collect();
        let coverage = Coverage::up_to(&open(1_000_000, &lagging));
        assert_eq!(coverage.watermark(), lagging[MAX_STRAGGLERS]);
        assert_eq!(coverage.stragglers(), &lagging[..MAX_STRAGGLERS]);
        assert!(Coverage::from_parts(1_000_000, lagging[..MAX_STRAGGLERS].iter().copied()).is_some());
        assert!(Coverage::from_parts(1_000_000, lagging.into_iter().take(MAX_STRAGGLERS + 1)).is_none());
    }

    #[test]
    fn a_reader_looks_for_stragglers_that_have_ended_and_for_itself() {
        let coverage = Coverage::from_parts(500, [100, 200, 300]).unwrap();
        let reader = open(600, &[100, 200, 550]);
        let seen = |own| coverage.stragglers_seen_by(&reader, own).collect::<Vec<u64>>();
        assert_eq!((seen(None), seen(Some(200)), seen(Some(550))), (vec![300], vec![200, 300], vec![300]));
    }

    #[test]
    fn a_checkpoint_serves_a_snapshot_that_sees_all_of_it() {
        let coverage = Coverage::from_parts(500, [100, 200]).unwrap();
        assert!(coverage.serves(&open(500, &[])));
        assert!(coverage.serves(&open(600, &[100, 200, 550])));
        assert!(!coverage.serves(&open(499, &[])));
        assert!(!coverage.serves(&open(600, &[300])));
    }

    #[test]
    fn coverage_only_grows() {
        let old = Coverage::from_parts(500, [100, 200]).unwrap();
        assert!(Coverage::from_parts(500, [100]).unwrap().contains(&old));
        assert!(Coverage::from_parts(600, [100, 200, 550]).unwrap().contains(&old));
        assert!(!Coverage::from_parts(499, []).unwrap().contains(&old));
        assert!(!Coverage::from_parts(600, [300]).unwrap().contains(&old));
    }

    /// Over random histories of beginning and ending transactions: a coverage that is taken later covers all that an earlier one
    /// covers, and no open transaction.
    #[test]
    fn taken_in_order_coverage_grows() {
        let mut state = 7_u64;
        let mut random = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound
        };
        let (mut next, mut running, mut before) = (3, Vec::new(), Coverage::default());
        for _ in 0..20_000 {
            if random(2) == 0 {
                running.push(next);
                next += 1;
            } else if !running.is_empty() && random(3) > 0 {
                // Mostly the youngest ends, so that some lag far behind.
                let youngest = running.len() - 1;
                let ends = if random(50) == 0 { 0 } else { youngest };
                running.remove(ends);
            } else {
                next += random(40);
            }
            let now = open(next, &running);
            let coverage = Coverage::up_to(&now);
            assert!(coverage.contains(&before));
            assert!(coverage.serves(&now));
            assert!(running.iter().all(|&id| !coverage.covers(id)));
            before = coverage;
        }
    }
}
