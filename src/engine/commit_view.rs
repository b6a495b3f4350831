//! What a commit reads of its users: checkpoints as of now, and what is in their deltas.
//!
//! Two passes over a delta, one for each mode of the stripe. Under the shared one it meets the rows in flight, too (`scan_dirty`
//! in `models/settlement.pml`). Under the exclusive one it has the rows of one MVCC snapshot (`sum_snapshot`): `COMMIT PREPARED`
//! takes no stripe, and of two prepared transactions that commit between two visits of a dirty scan, only one would be met.

use ledger::coverage::Coverage;
use ledger::credits::SumOutOfRange;
use ledger::daily::{DailyRuns, DailyTotals};
use ledger::fold::{DeltaPass, Fold};
use ledger::id::UserId;
use ledger::settlement::Checkpoint;

use super::batches::{BatchRuns, BatchTotals};
use super::checkpoint::{CheckpointScan, Stored};
use super::delta::{self, DeltaScan};
use super::lock_order::OpenIfFree;
use super::moment::Moment;
use super::published::Published;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::NotFree;
use crate::pg::row::Row;
use crate::pg::snapshot::{DirtySnapshot, Sight};
use crate::pg::tables::transactions::Ledger;
use crate::pg::xact;

/// The scans of a committing transaction.
pub struct CommitView {
    checkpoints: CheckpointScan,
    /// Meets rows in flight.
    dirty: DeltaScan,
}

impl OpenIfFree for CommitView {
    /// Makes what the transaction has done visible to its snapshots first: what its last statement did is not yet. The lock of the
    /// checkpoints' primary key is not looked at: [`open_key_if_free`](Self::open_key_if_free).
    fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        xact::see_own_changes();
        let dirty = DeltaScan::open_if_free(relations, Sight::Dirty(DirtySnapshot::new()))?;
        Ok(Self { checkpoints: CheckpointScan::without_key_if_free(relations)?, dirty })
    }
}

impl CommitView {
    /// Opens the primary key of the checkpoints if its lock is free: whatever is read after that waits for no lock.
    pub fn open_key_if_free(&mut self) -> Result<(), NotFree> {
        self.checkpoints.open_key_if_free()
    }

    /// Keeps the locks that it has opened its relations with to the end of the transaction, which is near: releasing them one by one costs
    /// more.
    pub fn keep_locks(&self) {
        self.dirty.keep_lock();
        self.checkpoints.keep_locks();
    }

    /// The user's stored checkpoint. Waits for the lock of the primary key, unless that is open.
    pub fn stored(&mut self, user: &UserId, now: &Moment) -> Result<Option<Stored>, LedgerError> {
        self.checkpoints.find(user, now.snapshot())
    }

    /// The user's stored checkpoint, and a pass over its delta that meets rows in flight. If the snapshot sees other recorded changes of
    /// checkpoints than `published` does, that is not used from here on.
    pub fn look<E: From<NotFree> + From<LedgerError> + From<SumOutOfRange>>(
        &mut self,
        user: &UserId,
        now: &Moment,
        published: &Published,
        added_up: AddedUp,
    ) -> Result<Option<(Checkpoint, Pass)>, E> {
        let stored = match self.checkpoints.find_again(user, now.snapshot())? {
            None => {
                self.open_key_if_free()?;
                self.checkpoints.find_by_key(user, now.snapshot())?
            }
            found => found,
        };
        // Of an account without a checkpoint nothing is published here.
        let Some(Stored { row, checkpoint }) = stored else { return Ok(None) };
        published.check_version(row.stored_by, now.snapshot());
        let further = further_fold(published, user, &checkpoint.fold);
        let mut delta = UserDelta { scan: &mut self.dirty, user, now };
        let pass = delta.pass(published, &checkpoint.fold, further, added_up)?;
        Ok(Some((checkpoint, pass)))
    }

    /// Whether the user has any row, in flight or not.
    pub fn has_rows(&mut self, user: &UserId) -> bool {
        !self.dirty.is_empty(user, &Coverage::default())
    }

    /// The deltas as the moment's snapshot sees them. Waits for nothing.
    pub fn deltas_at<'a>(&self, now: &'a Moment, relations: &Relations) -> DeltasAt<'a> {
        DeltasAt { now, scan: self.dirty.again(relations, now.sight()) }
    }
}

/// Deltas as one snapshot sees them: committed rows and the transaction's own.
pub struct DeltasAt<'a> {
    now: &'a Moment,
    scan: DeltaScan,
}

impl DeltasAt<'_> {
    /// A pass over what the stored fold does not cover.
    pub fn pass(
        &mut self,
        user: &UserId,
        stored: &Fold,
        published: &Published,
    ) -> Result<Pass, SumOutOfRange> {
        // A published fold may cover rows that came after the snapshot, and has not all rows that did.
        let further =
            further_fold(published, user, stored).filter(|fold| fold.coverage.serves(self.now.open()));
        self.of(user).pass(published, stored, further, AddedUp::SumsAndGains)
    }

    /// What the stored fold becomes by a refresh, after this pass.
    pub fn refreshed(
        &mut self,
        user: &UserId,
        stored: &Fold,
        pass: Pass,
    ) -> Result<Refreshed, SumOutOfRange> {
        match pass.into_refreshed() {
            Some(refreshed) => Ok(refreshed),
            None => self.of(user).refreshed(stored),
        }
    }

    fn of<'a>(&'a mut self, user: &'a UserId) -> UserDelta<'a> {
        UserDelta { scan: &mut self.scan, user, now: self.now }
    }
}

/// What a pass over a user's delta adds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddedUp {
    /// The sums alone: most passes are followed by no refresh.
    Sums,
    /// What batches and days gain by a refresh, too, which costs as much again.
    SumsAndGains,
}

/// What a pass over a user's delta has found.
pub struct Pass {
    /// The sums of what it has met.
    pub sums: DeltaPass,
    /// What a refresh of the stored checkpoint adds to batches and days; `None` if that was not added up, or if the pass began with a
    /// published fold that had more rows than the stored one.
    gained: Option<Gained>,
    /// Whether it began with the stored fold, since no other one was at hand.
    is_from_stored: bool,
}

/// By how much earlier a checkpoint is refreshed of which no published fold is at hand.
const EARLIER: i64 = 4;

impl Pass {
    /// How many rows the stored checkpoint may lag behind before it is refreshed: as many as the setting says, and fewer where no published
    /// fold was at hand. Of an account that is met seldom that is so every time, and every look reads the rows again.
    pub const fn interval(&self, setting: i64) -> i64 {
        if self.is_from_stored { (setting + EARLIER - 1) / EARLIER } else { setting }
    }

    /// What the stored checkpoint becomes by a refresh; `None` if that has to be read: the pass has not met every row that the
    /// stored checkpoint gains.
    pub fn into_refreshed(self) -> Option<Refreshed> {
        let Self { sums, gained, .. } = self;
        gained.map(|gained| Refreshed { fold: sums.into_advanced(), gained })
    }
}

/// What a checkpoint becomes by a refresh.
pub struct Refreshed {
    /// The new fold.
    pub fold: Fold,
    /// What batches and days gain.
    pub gained: Gained,
}

/// What rows that are folded add to batches and days.
pub struct Gained {
    /// To be added to `batch_aggregates`.
    pub batches: BatchTotals,
    /// To be added to `daily_totals`.
    pub days: DailyTotals,
}

/// The user's published fold, if it covers all that the stored one does.
fn further_fold(published: &Published, user: &UserId, stored: &Fold) -> Option<Fold> {
    let fold = published.fold(user)?.fold;
    fold.coverage.contains(&stored.coverage).then_some(fold)
}

/// A user's rows, to be passed over at a moment.
pub struct UserDelta<'a> {
    /// What sees them.
    pub scan: &'a mut DeltaScan,
    /// Whose they are.
    pub user: &'a UserId,
    /// When.
    pub now: &'a Moment,
}

impl UserDelta<'_> {
    /// One pass, from the stored fold on or from one that is `further`. Publishes the fold that it advances.
    fn pass(
        &mut self,
        published: &Published,
        stored: &Fold,
        further: Option<Fold>,
        added_up: AddedUp,
    ) -> Result<Pass, SumOutOfRange> {
        let is_from_stored = further.is_none();
        let base = further.unwrap_or_else(|| stored.clone());
        let (sums, gained) = if added_up == AddedUp::SumsAndGains && base.gained_nothing_since(stored) {
            let (sums, gained) = self.fold(base)?;
            (sums, Some(gained))
        } else {
            (self.sum(base, |_| Ok(()))?, None)
        };
        published.publish_fold(self.user, sums.advanced());
        Ok(Pass { sums, gained, is_from_stored })
    }

    /// What the user's checkpoint becomes by a refresh.
    pub fn refreshed(&mut self, stored: &Fold) -> Result<Refreshed, SumOutOfRange> {
        let (sums, gained) = self.fold(stored.clone())?;
        Ok(Refreshed { fold: sums.into_advanced(), gained })
    }

    /// Adds up the rows that `base` does not cover, and folds those that had ended at the moment, with their batches and days.
    fn fold(&mut self, base: Fold) -> Result<(DeltaPass, Gained), SumOutOfRange> {
        let (mut batches, mut days) = (BatchRuns::default(), DailyRuns::default());
        let category = self.scan.category();
        let sums = self.sum(base, |row| {
            delta::batched_row(row).map_or(Ok(()), |row| batches.add(row))?;
            days.add(delta::dated_row(row, category))
        })?;
        Ok((sums, Gained { batches: batches.totals()?, days: days.totals()? }))
    }

    /// Adds up the rows that `base` does not cover. Calls `folded` with each of those that had ended at the moment.
    fn sum(
        &mut self,
        base: Fold,
        folded: impl FnMut(&Row<'_, Ledger>) -> Result<(), SumOutOfRange>,
    ) -> Result<DeltaPass, SumOutOfRange> {
        let coverage = base.coverage.clone();
        let mut sums = DeltaPass::new(base, self.now.target().clone(), xact::current_id_if_any());
        self.scan.add_to(&mut sums, self.user, &coverage, folded)?;
        Ok(sums)
    }
}
