//! Commits of one user's transactions, interleaved, against what listeners hear.
//!
//! `models/settlement.pml` explores the protocol exhaustively with amounts of its own. Here the code itself runs in it, in histories
//! that are longer: coverages, folds, passes, headroom, and the decisions made of them. A stripe is shared or exclusive as on the
//! server; what a session does between two locks happens at once.

use arbitrary::{Result, Unstructured};
use ledger::coverage::{Coverage, OpenTransactions};
use ledger::credits::{Credits, UNITS_PER_CREDIT};
use ledger::crossing::Direction;
use ledger::fold::{DeltaPass, Fold};
use ledger::segment::headroom::{Counted, Headroom, Written};
use ledger::settlement::{Announced, Assessment, Checkpoint, Decision, Found, Request, assess, decide};

use crate::fold::{Row, fold};
use crate::settlement::amount;

/// How many rows a checkpoint may lag behind.
const INTERVAL: i64 = 3;

/// Most sessions at a time.
const MOST_SESSIONS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Inserts rows.
    Open,
    /// Commits, and waits for the exclusive stripe.
    Waits,
    /// Commits, and shares the stripe.
    Shares,
    /// Commits, and has the stripe exclusively.
    HasExclusively,
}

#[derive(Debug)]
struct Session {
    transaction: u64,
    stage: Stage,
    request: Request,
    written: Written,
    charges: u64,
    counted: Option<Counted>,
    /// The checkpoint that it has written, and the crossing that it will notify of.
    writes: Option<(Checkpoint, Option<Direction>)>,
}

/// The user's rows, and everything that is derived from them.
#[derive(Debug)]
struct User {
    sessions: Vec<Session>,
    next_transaction: u64,
    /// Of transactions that have committed or are open.
    rows: Vec<Row>,
    checkpoint: Option<Checkpoint>,
    headrooms: Vec<Headroom>,
    charged: u64,
    counted_rows: u64,
    /// The side of zero that listeners were notified of last. They take a new user for one at zero or below.
    heard: bool,
}

impl User {
    /// No session yet.
    const fn new() -> Self {
        Self {
            sessions: Vec::new(),
            next_transaction: 3,
            rows: Vec::new(),
            checkpoint: None,
            headrooms: Vec::new(),
            charged: 0,
            counted_rows: 0,
            heard: false,
        }
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.sessions.is_empty() || self.sessions.len() < MOST_SESSIONS && input.ratio(1, 3)? {
            self.begin(input)?;
        }
        if input.ratio(1, 30)? {
            self.repair();
        }
        let session = input.choose_index(self.sessions.len())?;
        match self.sessions[session].stage {
            Stage::Open if input.arbitrary()? => self.insert(session, amount(input)?),
            Stage::Open if input.ratio(1, 8)? => self.end(session, false),
            Stage::Open => self.settle(session),
            Stage::Waits => self.take_exclusively(session),
            Stage::Shares | Stage::HasExclusively => self.end(session, !input.ratio(1, 4)?),
        }
        Ok(())
    }

    fn begin(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let request = match input.int_in_range(0..=11)? {
            0 => Request::Refresh,
            1 => Request::RefreshIfFree,
            _ => Request::Settle,
        };
        self.sessions.push(Session {
            transaction: self.next_transaction,
            stage: Stage::Open,
            request,
            written: Written::default(),
            charges: 0,
            counted: None,
            writes: None,
        });
        // Some of them lag far behind.
        self.next_transaction += if input.ratio(1, 8)? { 100 } else { 1 };
        Ok(())
    }

    fn insert(&mut self, session: usize, units: i128) {
        let session = &mut self.sessions[session];
        session.written.add(Credits::from_units(units));
        let charge = units.min(0).unsigned_abs().div_ceil(UNITS_PER_CREDIT.unsigned_abs() / 1_000_000);
        session.charges += u64::try_from(charge).expect("a few");
        let seq = i64::try_from(self.rows.len()).expect("a few");
        self.rows.push(Row { transaction: session.transaction, units, seq, is_batched: false });
    }

    fn is_open(&self, transaction: u64) -> bool {
        self.sessions.iter().any(|session| session.transaction == transaction)
    }

    fn target(&self) -> Coverage {
        let open = self.sessions.iter().map(|session| session.transaction).collect();
        Coverage::up_to(&OpenTransactions::new(self.next_transaction, open))
    }

    /// What a session meets after `base`, which has the rows in flight of others or leaves them out.
    fn pass(&self, base: &Fold, own: Option<u64>, meets_rows_in_flight: bool) -> DeltaPass {
        let mut pass = DeltaPass::new(base.clone(), self.target(), own);
        for row in self.rows.iter().filter(|row| !base.coverage.covers(row.transaction)) {
            if own == Some(row.transaction) || !self.is_open(row.transaction) {
                pass.add(&row.of_delta()).expect("a few");
            } else if meets_rows_in_flight {
                pass.add_in_flight(Credits::from_units(row.units)).expect("a few");
            }
        }
        pass
    }

    fn has_any(&self, stages: &[Stage]) -> bool {
        self.sessions.iter().any(|session| stages.contains(&session.stage))
    }

    fn count(&mut self, session: usize) -> Counted {
        let Self { sessions, charged, counted_rows, rows, .. } = self;
        let Session { transaction, charges, counted, .. } = &mut sessions[session];
        *counted.get_or_insert_with(|| {
            let rows_before = *counted_rows;
            *charged += *charges;
            *counted_rows += rows.iter().filter(|row| row.transaction == *transaction).count() as u64;
            Counted::new(*charged, rows_before)
        })
    }

    /// Begins a commit: shares the stripe, counts, assesses.
    fn settle(&mut self, session: usize) {
        if self.sessions[session].request == Request::Refresh {
            self.sessions[session].stage = Stage::Waits;
            return;
        }
        if self.has_any(&[Stage::HasExclusively]) {
            return;
        }
        let counted = self.count(session);
        let Session { transaction, request, written, .. } = self.sessions[session];
        let suffices = |headroom: &Headroom| headroom.suffices(&counted, INTERVAL.unsigned_abs());
        if request == Request::Settle && self.headrooms.iter().any(suffices) {
            self.sessions[session].stage = Stage::Shares;
            return;
        }
        let pass = self.checkpoint.as_ref().map(|stored| self.pass(&stored.fold, Some(transaction), true));
        let found = match (&self.checkpoint, &pass) {
            (Some(stored), Some(pass)) => Found::Checkpoint(stored, pass),
            _ => Found::NoCheckpoint { has_rows: !self.rows.is_empty() },
        };
        let assessment = assess(found, request, &written, &counted, INTERVAL).expect("a few rows");
        self.sessions[session].stage = match assessment {
            Assessment::Nothing => Stage::Shares,
            Assessment::Doubt => Stage::Waits,
            Assessment::Agrees { headroom, lags } => {
                self.headrooms.extend(headroom);
                let is_free = self.sessions.iter().all(|session| session.writes.is_none());
                if let (true, true, Some(stored), Some(pass)) = (lags, is_free, &self.checkpoint, pass) {
                    let refreshed = Checkpoint { fold: pass.into_advanced(), ..stored.clone() };
                    self.sessions[session].writes = Some((refreshed, None));
                }
                Stage::Shares
            }
        };
    }

    /// Takes the stripe exclusively, if it is free, and decides.
    fn take_exclusively(&mut self, session: usize) {
        if self.has_any(&[Stage::Shares, Stage::HasExclusively]) {
            return;
        }
        self.count(session);
        let Session { transaction, request, .. } = self.sessions[session];
        self.sessions[session].writes = self.decide(Some(transaction), request, None);
        self.sessions[session].stage = Stage::HasExclusively;
    }

    fn decide(
        &self,
        own: Option<u64>,
        request: Request,
        deleted: Option<Announced>,
    ) -> Option<(Checkpoint, Option<Direction>)> {
        let stored = self.checkpoint.as_ref().filter(|_| deleted.is_none());
        let base = stored.map_or_else(Fold::default, |stored| stored.fold.clone());
        let pass = self.pass(&base, own, false);
        let decision = decide(stored, &pass, request, deleted, INTERVAL, 0).expect("a few rows");
        let Decision::Write { refreshes, announced, crossing } = decision else { return None };
        let fold = if refreshes { pass.into_advanced() } else { base };
        Some((Checkpoint { fold, announced }, crossing))
    }

    /// An operator deletes the checkpoint, and the same commit makes it anew.
    fn repair(&mut self) {
        if let Some(Checkpoint { announced, .. }) = self.checkpoint
            && !self.has_any(&[Stage::Shares, Stage::HasExclusively])
        {
            let made = self.decide(None, Request::Refresh, Some(announced));
            let (checkpoint, crossing) = made.expect("there is a row");
            self.write(checkpoint, crossing);
        }
    }

    fn write(&mut self, checkpoint: Checkpoint, crossing: Option<Direction>) {
        if let Some(direction) = crossing {
            let is_positive = direction == Direction::Up;
            assert_ne!(self.heard, is_positive, "announced twice: {self:?}");
            self.heard = is_positive;
        }
        assert_eq!(checkpoint.announced.is_positive, self.heard, "{self:?}");
        if let Some(stored) = &self.checkpoint {
            assert!(checkpoint.fold.coverage.contains(&stored.fold.coverage), "{checkpoint:?} in {self:?}");
        }
        let expected = fold(&self.rows, &checkpoint.fold.coverage);
        assert_eq!(checkpoint.fold, Fold { unbatched_since: checkpoint.fold.unbatched_since, ..expected });
        self.checkpoint = Some(checkpoint);
    }

    fn end(&mut self, session: usize, commits: bool) {
        let Session { transaction, writes, .. } = self.sessions.swap_remove(session);
        if !commits {
            self.rows.retain(|row| row.transaction != transaction);
        } else if let Some((checkpoint, crossing)) = writes {
            self.write(checkpoint, crossing);
        }
    }
}

/// When all transactions have committed, listeners have been notified once of the side of zero that the balance is on.
///
/// # Errors
/// If there are too few bytes.
pub fn announce_every_crossing(input: &mut Unstructured<'_>) -> Result<()> {
    let mut user = User::new();
    for _ in 0..input.int_in_range(0..=200)? {
        user.step(input)?;
    }
    // Sessions that are committing come to an end, last those that wait for others.
    for stage in [Stage::HasExclusively, Stage::Shares] {
        while let Some(session) = user.sessions.iter().position(|session| session.stage == stage) {
            user.end(session, true);
        }
    }
    while let Some(session) = user.sessions.iter().position(|session| session.stage == Stage::Waits) {
        user.take_exclusively(session);
        user.end(session, true);
    }
    user.rows.retain(|row| user.sessions.iter().all(|session| session.transaction != row.transaction));
    let balance: i128 = user.rows.iter().map(|row| row.units).sum();
    assert_eq!(user.heard, balance > 0, "missed: {user:?}");
    if let Some(checkpoint) = &user.checkpoint {
        assert_eq!(checkpoint.announced.is_positive, user.heard);
    }
    Ok(())
}
