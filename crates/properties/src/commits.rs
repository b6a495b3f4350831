//! Commits of one user's transactions, interleaved, against what listeners hear.
//!
//! `models/settlement.pml` explores the protocol exhaustively with amounts of its own. Here the code itself runs in it, in histories
//! that are longer: coverages, folds, passes, headroom, and the decisions made of them. A stripe is shared or exclusive as on the
//! server; what a session does between two locks happens at once.

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use ledger::boundaries::Boundaries;
use ledger::coverage::{Coverage, OpenTransactions};
use ledger::credits::{Credits, UNITS_PER_CREDIT};
use ledger::crossing::{Announced, Crossing, Direction};
use ledger::fold::{DeltaPass, Fold};
use ledger::segment::headroom::{Counted, Headroom, Written};
use ledger::settlement::{
    Assessment, Change, Checkpoint, Decision, Found, FoundRows, Own, Request, Terms, assess, decide,
};

use crate::fold::{Row, fold};
use crate::settlement::{amount, boundaries};

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
    grants: u64,
    counted: Option<Counted>,
    /// The boundaries that it gives the user.
    rebounds: Option<Boundaries>,
    /// The headroom that it has not published yet.
    publishes: Option<Headroom>,
    /// The checkpoint that it has written, and the crossings that it will notify of.
    writes: Option<Writes>,
}

type Writes = (Checkpoint, Vec<Crossing>);

/// The user's rows, and everything that is derived from them.
#[derive(Debug)]
struct User {
    sessions: Vec<Session>,
    next_transaction: u64,
    /// Of transactions that have committed or are open.
    rows: Vec<Row>,
    checkpoint: Option<Checkpoint>,
    boundaries: Boundaries,
    headroom: Option<Headroom>,
    charged: u64,
    granted: u64,
    counted_rows: u64,
    /// The side of each boundary that listeners know: that which they were notified of last, or on which the balance was when the
    /// threshold was set. They take a new user for one with a balance of zero.
    heard: BTreeMap<Credits, bool>,
}

impl User {
    /// No session yet.
    fn new() -> Self {
        Self {
            sessions: Vec::new(),
            next_transaction: 3,
            rows: Vec::new(),
            checkpoint: None,
            boundaries: Boundaries::default(),
            headroom: None,
            charged: 0,
            granted: 0,
            counted_rows: 0,
            heard: BTreeMap::from([(Credits::ZERO, false)]),
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
            Stage::Open => {
                let publishes_later = input.ratio(1, 4)?;
                self.settle(session, publishes_later);
            }
            Stage::Waits => self.take_exclusively(session),
            Stage::Shares if self.sessions[session].publishes.is_some() && input.arbitrary()? => {
                self.headroom = self.sessions[session].publishes.take();
            }
            Stage::Shares | Stage::HasExclusively => self.end(session, !input.ratio(1, 4)?),
        }
        Ok(())
    }

    fn begin(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        // Who changes boundaries has the row locked.
        let is_changed = self.sessions.iter().any(|session| session.rebounds.is_some());
        let rebounds = if !is_changed && input.ratio(1, 8)? { Some(boundaries(input)?) } else { None };
        let request = match input.int_in_range(0..=11)? {
            _ if rebounds.is_some() => Request::Rebound,
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
            grants: 0,
            counted: None,
            rebounds,
            publishes: None,
            writes: None,
        });
        // Some of them lag far behind.
        self.next_transaction += if input.ratio(1, 8)? { 100 } else { 1 };
        Ok(())
    }

    fn insert(&mut self, session: usize, units: i128) {
        let session = &mut self.sessions[session];
        session.written.add(Credits::from_units(units));
        let steps = |units: i128| {
            let steps = units.unsigned_abs().div_ceil(UNITS_PER_CREDIT.unsigned_abs() / 1_000_000);
            u64::try_from(steps).expect("a few")
        };
        session.charges += steps(units.min(0));
        session.grants += steps(units.max(0));
        let seq = i64::try_from(self.rows.len()).expect("a few");
        self.rows.push(Row { transaction: session.transaction, units, seq });
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
        let Self { sessions, charged, granted, counted_rows, rows, .. } = self;
        let Session { transaction, charges, grants, counted, .. } = &mut sessions[session];
        *counted.get_or_insert_with(|| {
            let rows_before = *counted_rows;
            *charged += *charges;
            *granted += *grants;
            *counted_rows += rows.iter().filter(|row| row.transaction == *transaction).count() as u64;
            Counted::new(*charged, *granted, rows_before)
        })
    }

    /// Begins a commit: shares the stripe, counts, assesses.
    fn settle(&mut self, session: usize, publishes_later: bool) {
        if self.sessions[session].request.is_forced() {
            self.sessions[session].stage = Stage::Waits;
            return;
        }
        if self.has_any(&[Stage::HasExclusively]) {
            return;
        }
        let counted = self.count(session);
        let Session { transaction, request, written, .. } = self.sessions[session];
        let suffices = |headroom: &Headroom| headroom.suffices(&counted, INTERVAL.unsigned_abs());
        if request == Request::Settle && self.headroom.as_ref().is_some_and(suffices) {
            self.sessions[session].stage = Stage::Shares;
            return;
        }
        let pass = self.checkpoint.as_ref().map(|stored| self.pass(&stored.fold, Some(transaction), true));
        let rows = match (&self.checkpoint, &pass) {
            (Some(stored), Some(pass)) => FoundRows::Checkpoint(stored, pass),
            _ => FoundRows::NoCheckpoint { has_rows: !self.rows.is_empty() },
        };
        let found = Found { rows, cover: None, caps: &[] };
        let assessment = assess(&found, &Own { request, written, counted }, INTERVAL).expect("a few rows");
        self.sessions[session].stage = match assessment {
            Assessment::Nothing => Stage::Shares,
            Assessment::Doubt => Stage::Waits,
            Assessment::Agrees { headroom, lags } => {
                if publishes_later {
                    self.sessions[session].publishes = headroom;
                } else if headroom.is_some() {
                    self.headroom = headroom;
                }
                let is_free = self.sessions.iter().all(|session| session.writes.is_none());
                if let (true, true, Some(stored), Some(pass)) = (lags, is_free, &self.checkpoint, pass) {
                    let refreshed = Checkpoint { fold: pass.into_advanced(), ..stored.clone() };
                    self.sessions[session].writes = Some((refreshed, Vec::new()));
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
        let boundaries = self.sessions[session].rebounds.clone().unwrap_or_else(|| self.boundaries.clone());
        self.sessions[session].writes = self.decide(Some(transaction), request, None, &boundaries);
        self.sessions[session].stage = Stage::HasExclusively;
    }

    fn decide(
        &mut self,
        own: Option<u64>,
        request: Request,
        deleted: Option<&Announced>,
        boundaries: &Boundaries,
    ) -> Option<Writes> {
        let stored = self.checkpoint.as_ref().filter(|_| deleted.is_none());
        let base = stored.map_or_else(Fold::default, |stored| stored.fold.clone());
        let pass = self.pass(&base, own, false);
        let boundaries = (stored.is_none() || request.is_forced()).then_some(boundaries);
        let terms = Terms { request, deleted, boundaries, held: None, caps: &[] };
        let decision = decide(stored, &pass, &terms, INTERVAL, 0).expect("a few rows");
        let Decision::Write(Change { refreshes, rebounds, announced, overdraft, crossings, .. }) = decision
        else {
            return None;
        };
        if rebounds {
            self.headroom = None;
        }
        let fold = if refreshes { pass.into_advanced() } else { base };
        Some((Checkpoint { fold, announced, overdraft }, crossings))
    }

    /// An operator deletes the checkpoint, and the same commit makes it anew.
    fn repair(&mut self) {
        if let Some(Checkpoint { announced, .. }) = self.checkpoint.clone()
            && !self.has_any(&[Stage::Shares, Stage::HasExclusively])
        {
            let boundaries = self.boundaries.clone();
            match self.decide(None, Request::Refresh, Some(&announced), &boundaries) {
                Some((checkpoint, crossings)) => self.write(checkpoint, &crossings),
                // It was made for boundaries that are gone.
                None => self.checkpoint = None,
            }
        }
    }

    fn write(&mut self, checkpoint: Checkpoint, crossings: &[Crossing]) {
        for Crossing { boundary, direction } in crossings {
            let is_above = *direction == Direction::Up;
            let before = self.heard.insert(*boundary, is_above);
            assert_eq!(before, Some(!is_above), "announced twice, or nowhere: {self:?}");
        }
        self.has_heard(&checkpoint.announced);
        if let Some(stored) = &self.checkpoint {
            assert!(checkpoint.fold.coverage.contains(&stored.fold.coverage), "{checkpoint:?} in {self:?}");
        }
        let expected = fold(&self.rows, &checkpoint.fold.coverage);
        assert_eq!(checkpoint.fold, expected);
        self.checkpoint = Some(checkpoint);
    }

    fn has_heard(&self, announced: &Announced) {
        let zero = (Credits::ZERO, announced.is_positive);
        let thresholds = announced.thresholds.iter().map(|threshold| (threshold.balance, threshold.is_above));
        let announced: BTreeMap<Credits, bool> = thresholds.chain([zero]).collect();
        assert_eq!(announced, self.heard, "{self:?}");
    }

    /// The sum of what has committed.
    fn balance(&self) -> Credits {
        let committed = self.rows.iter().filter(|row| !self.is_open(row.transaction));
        Credits::from_units(committed.map(|row| row.units).sum())
    }

    fn end(&mut self, session: usize, commits: bool) {
        let Session { transaction, writes, rebounds, .. } = self.sessions.swap_remove(session);
        if !commits {
            self.rows.retain(|row| row.transaction != transaction);
            return;
        }
        if let Some(boundaries) = rebounds {
            // Nobody is notified of thresholds that are set: listeners look.
            let balance = self.balance();
            let known = |heard: &BTreeMap<Credits, bool>, threshold| {
                heard.get(&threshold).copied().unwrap_or(balance > threshold)
            };
            let thresholds = boundaries.thresholds().iter().copied().chain([Credits::ZERO]);
            self.heard = thresholds.map(|threshold| (threshold, known(&self.heard, threshold))).collect();
            self.boundaries = boundaries;
        }
        if let Some((checkpoint, crossings)) = writes {
            self.write(checkpoint, &crossings);
        }
    }
}

/// When all transactions have committed, listeners have been notified once of the level that the balance is on, whatever thresholds
/// were set meanwhile.
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
    let balance = user.balance();
    for (threshold, is_above) in &user.heard {
        assert_eq!(*is_above, balance > *threshold, "missed: {user:?}");
    }
    if let Some(checkpoint) = &user.checkpoint {
        user.has_heard(&checkpoint.announced);
        assert_eq!(checkpoint.overdraft, user.boundaries.overdraft);
    } else {
        assert!(user.boundaries.are_default(), "{user:?}");
    }
    Ok(())
}
