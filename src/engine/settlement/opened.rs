//! What a settlement reads and writes by, opened when it is first needed.

use crate::engine::boundaries::LimitsScan;
use crate::engine::caps::CapsScan;
use crate::engine::claims;
use crate::engine::commit_view::CommitView;
use crate::engine::cover::CoverScans;
use crate::engine::lock_order::{OpenIfFree, Writers};
use crate::engine::reversals::{self, ReversalScans};
use crate::pg::catalog::Relations;
use crate::pg::relation::NotFree;

/// What is open.
#[derive(Default)]
pub(super) struct Opened {
    /// For the first user that is read.
    pub view: Option<CommitView>,
    /// For the first decision; before a refresh, if stripes follow.
    pub writers: Option<Writers>,
    /// For the first decision, if rows of the transaction take back others.
    reversals: Option<ReversalScans>,
    /// For the first decision.
    limits: Option<LimitsScan>,
    /// For the first user that has spend caps, and for the first decision.
    pub caps: Option<CapsScan>,
    /// For the first user that may have to be covered.
    pub cover: Option<CoverScans>,
}

/// Everything that a decision can need.
pub(super) struct ToDecide<'a> {
    pub view: &'a mut CommitView,
    pub writers: &'a Writers,
    /// `None` if no row of the transaction takes back another.
    pub reversals: Option<&'a mut ReversalScans>,
    pub limits: &'a mut LimitsScan,
    pub caps: &'a mut CapsScan,
    /// `None` if nobody has to be covered.
    pub cover: Option<&'a mut CoverScans>,
}

impl Opened {
    /// Opens everything that a decision can need. From then on the settlement waits for no relation.
    pub fn open_to_decide(&mut self, relations: &Relations) -> Result<ToDecide<'_>, NotFree> {
        let view = CommitView::get_or_open(&mut self.view, relations)?;
        view.open_key_if_free()?;
        let writers = Writers::get_or_open(&mut self.writers, relations)?;
        let (mut reversals, mut cover) = (None, None);
        if reversals::any_noted() {
            reversals = Some(ReversalScans::get_or_open(&mut self.reversals, relations)?);
        }
        if claims::any_guarded() {
            cover = Some(CoverScans::get_or_open(&mut self.cover, relations)?);
        }
        let limits = LimitsScan::get_or_open(&mut self.limits, relations)?;
        let caps = CapsScan::get_or_open(&mut self.caps, relations)?;
        Ok(ToDecide { view, writers, reversals, limits, caps, cover })
    }

    /// Keeps the locks of what is open to the end of the transaction. The commit follows, and waits for no relation any more.
    pub fn keep_locks(&self) {
        if let Some(view) = &self.view {
            view.keep_locks();
        }
        if let Some(limits) = &self.limits {
            limits.keep_locks();
        }
        if let Some(caps) = &self.caps {
            caps.keep_locks();
        }
    }
}
