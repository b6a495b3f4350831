//! What a commit decides about the users of a stripe that it has to itself: step 8 of a [settlement](super).

use ledger::boundaries::Boundaries;
use ledger::caps::{AnnouncedCap, CapChange, CapSpend};
use ledger::credits::{Credits, SumOutOfRange};
use ledger::crossing::Crossing;
use ledger::fold::Fold;
use ledger::id::UserId;
use ledger::settlement::{self, Change, Checkpoint, Decision, Terms};
use ledger::statistics::Event;

use super::opened::ToDecide;
use super::{Settled, Settlement, Stop};
use crate::engine::checkpoint::{self, Stored};
use crate::engine::claims;
use crate::engine::commit_view::{DeltasAt, Pass, Refreshed};
use crate::engine::cover::Covered;
use crate::engine::moment::Moment;
use crate::engine::noted::NotedUser;
use crate::engine::published::Published;
use crate::engine::{notification, refresh, statistics};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::{buckets, xact};
use crate::settings;

impl Settlement {
    /// Decides with the stripe to itself.
    pub(super) fn decide(&mut self, published: &Published, users: &[Settled]) -> Result<(), Stop> {
        statistics::count(Event::ExclusiveSection, 1);
        let opened = self.opened.open_to_decide(&self.relations)?;
        let now = Moment::now();
        // After the snapshot: a hold that expires in between is left out of what is available at neither moment.
        let clock = xact::now();
        let deltas = opened.view.deltas_at(&now, &self.relations);
        let mut decider = Decider { relations: &self.relations, published, opened, now: &now, clock, deltas };
        for Settled { user, noted, .. } in users.iter().filter(|settled| !settled.noted.only_asks()) {
            xact::check_for_interrupts();
            let Some(News { crossings, cap_changes }) = decider.settle(user, noted)? else { continue };
            // What another node has announced is copied with the account.
            if buckets::is_copied(user) {
                continue;
            }
            for crossing in &crossings {
                notification::announce(user, crossing);
                statistics::count(crossing.direction.into(), 1);
            }
            self.cap_changes.extend(cap_changes.into_iter().map(|change| (*user, change)));
        }
        Ok(())
    }
}

/// Decides about one user after the other, all as of one moment.
struct Decider<'a> {
    relations: &'a Relations,
    published: &'a Published,
    opened: ToDecide<'a>,
    now: &'a Moment,
    /// When that is.
    clock: i64,
    /// As the moment has them.
    deltas: DeltasAt<'a>,
}

/// What is read of a user.
struct Read {
    stored: Option<Stored>,
    /// Over the delta of the checkpoint, or over all rows if there is none.
    pass: Pass,
    /// `None` if those of the checkpoint hold.
    boundaries: Option<Boundaries>,
    /// `None` if the user does not have to be covered.
    cover: Option<Covered>,
    /// What was spent of the caps, with what is held and asked for of them.
    spends: Vec<CapSpend>,
}

impl Read {
    fn checkpoint(&self) -> Option<&Checkpoint> {
        self.stored.as_ref().map(|stored| &stored.checkpoint)
    }
}

/// What is to be announced of a user.
struct News {
    crossings: Vec<Crossing>,
    cap_changes: Vec<CapChange>,
}

impl Decider<'_> {
    /// Decides about a user, and writes its checkpoint if that changes. Returns what is to be announced then.
    fn settle(&mut self, user: &UserId, noted: &NotedUser) -> Result<Option<News>, LedgerError> {
        if noted.reverses {
            let scans =
                self.opened.reversals.as_mut().expect("open where a row was noted that takes back another");
            scans.check(user, || self.now.sight())?;
        }
        let read = self.read(user, noted)?;
        if noted.request.is_forced() && !read.spends.is_empty() {
            // What a cap allows may be less than before, whatever was announced of it. Caps that are gone have left too little, if anything.
            self.published.void_headroom(user);
        }
        let Some(change) = self.decide(user, noted, &read)? else { return Ok(None) };
        if change.rebounds {
            self.published.void_headroom(user);
        }
        self.write(user, read, change).map(Some)
    }

    fn read(&mut self, user: &UserId, noted: &NotedUser) -> Result<Read, LedgerError> {
        let Self { relations, published, opened, now, clock, deltas } = self;
        let stored = opened.view.stored(user, now)?;
        match &stored {
            Some(stored) => published.check_version(stored.row.stored_by, now.snapshot()),
            None => published.check_against(now.snapshot()),
        }
        let checkpoint = stored.as_ref().map(|stored| &stored.checkpoint);
        let nothing = Fold::default();
        let fold = checkpoint.map_or(&nothing, |checkpoint| &checkpoint.fold);
        let pass = deltas.pass(user, fold, published)?;
        let cover = match &mut opened.cover {
            Some(scans) if claims::guards(user) => scans.cover(user, now, *clock, relations)?,
            _ => None,
        };
        let reads_boundaries = checkpoint.is_none() || noted.request.is_forced();
        let boundaries = reads_boundaries.then(|| opened.limits.find(user, now));
        let announced = announced_caps(checkpoint, noted);
        let mut spends = if reads_boundaries || !announced.is_empty() {
            opened.caps.spends_to_decide(user, announced, noted.request, now, *clock)?
        } else {
            Vec::new()
        };
        if let Some(cover) = &cover {
            cover.add_to(&mut spends)?;
        }
        Ok(Read { stored, pass, boundaries, cover, spends })
    }

    /// What changes, if anything does. An error if the transaction is refused.
    fn decide(&self, user: &UserId, noted: &NotedUser, read: &Read) -> Result<Option<Change>, LedgerError> {
        let terms = Terms {
            request: noted.request,
            deleted: noted.deleted.as_deref(),
            boundaries: read.boundaries.as_ref(),
            held: read.cover.as_ref().map(|cover| cover.held),
            caps: &read.spends,
        };
        let interval = settings::checkpoint_interval();
        match settlement::decide(read.checkpoint(), &read.pass.sums, &terms, interval, self.clock)? {
            Decision::Nothing => Ok(None),
            Decision::Write(change) => Ok(Some(change)),
            Decision::Refuse { available, limit } => {
                Err(insufficient_credits(user, read.cover.as_ref(), available, limit)?)
            }
            Decision::Exceed(refusal) => Err(LedgerError::SpendCapReached { user: *user, refusal }),
        }
    }

    /// Writes the checkpoint. Returns what is to be announced.
    fn write(&mut self, user: &UserId, read: Read, change: Change) -> Result<News, LedgerError> {
        let (row, fold) = match read.stored {
            Some(Stored { row, checkpoint }) => (Some(row), checkpoint.fold),
            None => (None, Fold::default()),
        };
        let writers = self.opened.writers;
        let Change { refreshes, announced, overdraft, crossings, cap_changes, .. } = change;
        if refreshes {
            let Refreshed { fold, gained } = self.deltas.refreshed(user, &fold, read.pass)?;
            refresh::write(writers, user, row, &Checkpoint { fold, announced, overdraft }, &gained)?;
            statistics::count(Event::Refresh, 1);
        } else {
            checkpoint::write(writers, user, row, &Checkpoint { fold, announced, overdraft })?;
        }
        Ok(News { crossings, cap_changes })
    }
}

/// What was announced of the user's caps, by its checkpoint or by the one that the transaction has deleted.
fn announced_caps<'a>(checkpoint: Option<&'a Checkpoint>, noted: &'a NotedUser) -> &'a [AnnouncedCap] {
    let announced = checkpoint.map(|checkpoint| &checkpoint.announced).or(noted.deleted.as_deref());
    announced.map_or(&[], |announced| &announced.caps)
}

/// `available` has what the transaction asks for taken away.
fn insufficient_credits(
    user: &UserId,
    cover: Option<&Covered>,
    available: Credits,
    limit: Credits,
) -> Result<LedgerError, SumOutOfRange> {
    let asked = cover.map_or(Ok(Credits::ZERO), Covered::asked)?;
    Ok(LedgerError::InsufficientCredits {
        user: *user,
        asked,
        available: available.checked_add(asked)?,
        overdraft_limit: Credits::ZERO.checked_sub(limit)?,
    })
}
