//! What a commit does for the users of a stripe that it shares: steps 4 and 5 of a [settlement](super).

use std::cell::LazyCell;

use ledger::caps::{AnnouncedCap, CapSpend};
use ledger::credits::SumOutOfRange;
use ledger::id::UserId;
use ledger::segment::headroom::Cover;
use ledger::settlement::{self, Assessment, Checkpoint, Found, FoundRows, Own, Request};

use super::{Settled, Settlement, Stop};
use crate::engine::caps::CapsScan;
use crate::engine::claims;
use crate::engine::commit_view::{AddedUp, CommitView, Pass};
use crate::engine::cover::CoverScans;
use crate::engine::lock_order::OpenIfFree;
use crate::engine::moment::Moment;
use crate::engine::published::Published;
use crate::engine::refresh::Lagging;
use crate::pg::xact;
use crate::settings;

/// Whether the users of a stripe are on the announced level, whatever becomes of the rows in flight.
pub(super) enum Agreement {
    /// All of them. The checkpoints of some lag.
    All { lagging: Vec<Lagging> },
    /// At least one may not be, or has no announced level.
    Doubtful,
}

impl Settlement {
    /// Reads users of a shared stripe, except those whose headroom suffices, until one is in doubt.
    pub(super) fn assess(&mut self, published: &Published, users: &[Settled]) -> Result<Agreement, Stop> {
        let now: LazyCell<Moment> = LazyCell::new(Moment::now);
        let mut lagging = Vec::new();
        for settled in users.iter().filter(|settled| !settled.noted.only_asks()) {
            let Some(read) = self.read(settled, published, &now)? else { continue };
            match read.assess(settled)? {
                Assessment::Nothing => {}
                Assessment::Doubt => return Ok(Agreement::Doubtful),
                Assessment::Agrees { headroom, lags } => {
                    if let Some(headroom) = headroom {
                        published.publish_headroom(&settled.user, &headroom);
                    }
                    if lags {
                        lagging.extend(read.into_lagging(settled.user));
                    }
                }
            }
        }
        Ok(Agreement::All { lagging })
    }

    /// Reads what the user has and, if it may have to be covered, what it holds. `None` if its headroom suffices.
    fn read(
        &mut self,
        settled: &Settled,
        published: &Published,
        now: &LazyCell<Moment>,
    ) -> Result<Option<Read>, Stop> {
        let Settled { user, noted, counted, .. } = settled;
        let has_headroom = noted.request == Request::Settle && settled.has_headroom;
        // What is published of the cover stays true while a crossing or a checkpoint that lags has the balance read.
        let may_ask = claims::guards(user) && !published.covers(user, counted);
        if has_headroom && !may_ask {
            return Ok(None);
        }
        xact::check_for_interrupts();
        // Before the moment: its snapshot has to see what the transaction has done.
        let view = CommitView::get_or_open(&mut self.opened.view, &self.relations)?;
        // Holds before the delta: a hold that is captured meanwhile is met in both, or has been counted.
        let covered = if may_ask {
            let scans = CoverScans::get_or_open(&mut self.opened.cover, &self.relations)?;
            // After the count: whoever takes another hold for expired has counted it, or sees an extension that it must cover.
            let clock = xact::now();
            scans.cover_at_most(user, now, clock)?
        } else {
            None
        };
        if has_headroom && covered.is_none() {
            return Ok(None);
        }
        let may_refresh = noted.request != Request::Settle || published.lags(user, counted);
        let added_up = if may_refresh { AddedUp::SumsAndGains } else { AddedUp::Sums };
        let known = view.look::<Stop>(user, now, published, added_up)?;
        let has_rows = known.is_some() || view.has_rows(user);
        let mut caps = match &known {
            Some((checkpoint, _)) => self.spends(user, &checkpoint.announced.caps, published, now)?,
            None => Vec::new(),
        };
        if let Some(covered) = &covered {
            covered.add_to(&mut caps)?;
        }
        let cover = covered.map(|covered| Cover {
            held: covered.held,
            released: claims::released(user),
            charged_since: published.charged_since(user, counted),
        });
        Ok(Some(Read { known, has_rows, caps, cover }))
    }

    /// What was spent of the user's caps, rows in flight included.
    fn spends(
        &mut self,
        user: &UserId,
        announced: &[AnnouncedCap],
        published: &Published,
        now: &Moment,
    ) -> Result<Vec<CapSpend>, Stop> {
        if announced.is_empty() {
            return Ok(Vec::new());
        }
        let scan = CapsScan::get_or_open(&mut self.opened.caps, &self.relations)?;
        Ok(scan.spends_in_flight(user, announced, now, published)?)
    }
}

/// What was read of a user.
struct Read {
    /// The checkpoint, with a pass over its delta; `None` if it has none.
    known: Option<(Checkpoint, Pass)>,
    has_rows: bool,
    caps: Vec<CapSpend>,
    /// `None` if the user does not have to be covered.
    cover: Option<Cover>,
}

impl Read {
    fn assess(&self, settled: &Settled) -> Result<Assessment, SumOutOfRange> {
        let interval = settings::checkpoint_interval();
        let (rows, interval) = match &self.known {
            Some((checkpoint, pass)) => {
                (FoundRows::Checkpoint(checkpoint, &pass.sums), pass.interval(interval))
            }
            None => (FoundRows::NoCheckpoint { has_rows: self.has_rows }, interval),
        };
        let found = Found { rows, cover: self.cover.as_ref(), caps: &self.caps };
        let Settled { noted, counted, .. } = settled;
        let own = Own { request: noted.request, written: noted.written, counted: *counted };
        settlement::assess(&found, &own, interval)
    }

    /// The checkpoint that was read, with what it becomes by a refresh.
    fn into_lagging(self, user: UserId) -> Option<Lagging> {
        let (checkpoint, pass) = self.known?;
        Some(Lagging { user, stored: checkpoint.fold, refreshed: pass.into_refreshed() })
    }
}
