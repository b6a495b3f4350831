//! What settlement assesses and decides, against every outcome of the rows in flight.

use arbitrary::{Result, Unstructured};
use ledger::boundaries::Boundaries;
use ledger::coverage::Coverage;
use ledger::credits::{Credits, UNITS_PER_CREDIT};
use ledger::crossing::{Announced, Threshold};
use ledger::fold::{DeltaPass, Fold};
use ledger::overdraft::Overdraft;
use ledger::segment::headroom::{Counted, Headroom, Written};
use ledger::settlement::{
    Assessment, Change, Checkpoint, Decision, Found, FoundRows, Own, Request, Terms, assess, decide,
};

use crate::coverage::{Cluster, Moment};
use crate::fold::{Row, fold};

/// Charges are counted in these: a millionth of a credit.
const STEP: i128 = UNITS_PER_CREDIT / 1_000_000;

/// Most rows in flight: 128 outcomes.
const MOST_IN_FLIGHT: usize = 7;

/// What had been counted before.
const CHARGED: u64 = 1_000;
const GRANTED: u64 = 2_000;
const ROWS: u64 = 100;

/// An amount of a few steps, now and then between two.
///
/// # Errors
/// If there are too few bytes.
pub fn amount(input: &mut Unstructured<'_>) -> Result<i128> {
    let between = if input.ratio(1, 4)? { input.int_in_range(-3..=3)? } else { 0 };
    Ok(input.int_in_range(-20..=20)? * STEP + between)
}

/// The rows of a user while a transaction commits.
#[derive(Debug)]
struct Ledger {
    /// Committed, and the transaction's own.
    visible: Vec<Row>,
    /// Signed amounts of other transactions' rows.
    in_flight: Vec<i128>,
    /// The transaction, if it has an id.
    own: Option<u64>,
    /// The rows that the transaction has written, those of savepoints that were rolled back included.
    written: Written,
    /// Whether it has written anything that may roll back.
    has_own: bool,
    /// What could be covered when the checkpoint was stored, when a fold was published, and now.
    coverages: [Coverage; 3],
}

impl Ledger {
    fn new(input: &mut Unstructured<'_>) -> Result<Self> {
        let mut cluster = Cluster::new(input)?;
        let mut moments = Vec::new();
        for _ in 0..3 {
            for _ in 0..input.int_in_range(0..=20)? {
                cluster.step(input)?;
            }
            moments.push(cluster.now());
        }
        let now = cluster.now();
        let running = now.running();
        let own = if running.is_empty() { None } else { Some(*input.choose(&running)?) };
        let mut ledger = Self {
            visible: Vec::new(),
            in_flight: Vec::new(),
            own,
            written: Written::default(),
            has_own: false,
            coverages: [0, 1, 2].map(|moment: usize| Coverage::up_to(&moments[moment].open())),
        };
        for seq in 0..input.int_in_range(0..=16)? {
            let transaction = match (own, input.int_in_range(0..=3)?) {
                (Some(own), 0) => own,
                (Some(_), 1) => *input.choose(&running)?,
                _ => input.int_in_range(0..=now.ids().end / 2)?,
            };
            let units = amount(input)?;
            ledger.add(&now, Row { transaction, units, seq });
        }
        if own.is_some() && input.ratio(1, 4)? {
            ledger.note(amount(input)?);
        }
        Ok(ledger)
    }

    fn add(&mut self, now: &Moment, row: Row) {
        if self.own == Some(row.transaction) {
            self.note(row.units);
            self.visible.push(row);
        } else if now.has_ended(row.transaction) {
            self.visible.push(row);
        } else if now.running().contains(&row.transaction) && self.in_flight.len() < MOST_IN_FLIGHT {
            self.in_flight.push(row.units);
        }
    }

    fn note(&mut self, units: i128) {
        self.written.add(Credits::from_units(units));
        self.has_own |= units != 0;
    }

    fn sum(&self, is_summed: impl Fn(&Row) -> bool) -> i128 {
        self.visible.iter().filter(|row| is_summed(row)).map(|row| row.units).sum()
    }

    /// The balance, and what it is without the transaction's own rows.
    fn balances(&self) -> (i128, i128) {
        (self.sum(|_| true), self.sum(|row| self.own != Some(row.transaction)))
    }

    /// What a balance can become. Savepoints roll back by themselves, so each row has an outcome of its own.
    fn outcomes(&self, balance: i128) -> impl Iterator<Item = i128> {
        (0..1_u32 << self.in_flight.len()).map(move |outcome| {
            let commits = self.in_flight.iter().enumerate().filter(|(row, _)| outcome >> row & 1 == 1);
            balance + commits.map(|(_, units)| units).sum::<i128>()
        })
    }

    fn pass(&self, base: &Fold, in_flight: &[i128]) -> DeltaPass {
        let mut pass = DeltaPass::new(base.clone(), self.coverages[2].clone(), self.own);
        for row in self.visible.iter().filter(|row| !base.coverage.covers(row.transaction)) {
            pass.add(&row.of_delta()).expect("a few");
        }
        for &units in in_flight {
            pass.add_in_flight(Credits::from_units(units)).expect("a few");
        }
        pass
    }

    /// Whether a checkpoint is to be refreshed, and how many rows it could cover and does not.
    fn lags(&self, stored: &Coverage, request: Request, interval: i64) -> (bool, u64) {
        let now = &self.coverages[2];
        let is_behind = |row: &&Row| now.covers(row.transaction) && !stored.covers(row.transaction);
        let behind = self.visible.iter().filter(is_behind).count();
        let lags = match request {
            Request::Settle => behind >= usize::try_from(interval).expect("a few"),
            Request::RefreshIfFree | Request::Refresh | Request::Rebound => {
                behind > 0 || now.stragglers() != stored.stragglers()
            }
        };
        (lags, behind as u64)
    }
}

/// Thresholds about where balances come to lie, and a limit.
///
/// # Errors
/// If there are too few bytes.
pub fn boundaries(input: &mut Unstructured<'_>) -> Result<Boundaries> {
    let thresholds: Result<Vec<Credits>> =
        (0..input.int_in_range(0..=3)?).map(|_| amount(input).map(Credits::from_units)).collect();
    let overdraft = match input.int_in_range(0..=3)? {
        0 => Overdraft::Unlimited,
        1 => Overdraft::UpTo(Credits::from_units(input.int_in_range(0..=20)? * STEP)),
        _ => Overdraft::default(),
    };
    Ok(Boundaries::new(overdraft, thresholds?))
}

/// There is nothing to decide only if every outcome says so; headroom is what every outcome leaves; and what is announced is the
/// level of the balance, if another one was announced before.
///
/// # Errors
/// If there are too few bytes.
pub fn weighs_every_outcome(input: &mut Unstructured<'_>) -> Result<()> {
    let ledger = Ledger::new(input)?;
    let request =
        *input.choose(&[Request::Settle, Request::RefreshIfFree, Request::Refresh, Request::Rebound])?;
    let interval = input.int_in_range(1..=6)?;
    let bounds = boundaries(input)?;
    let announced = announced(input, &bounds)?;
    let [stored, published, now] = &ledger.coverages;
    let overdraft = bounds.overdraft;
    let checkpoint =
        Checkpoint { fold: fold(&ledger.visible, stored), announced: announced.clone(), overdraft };
    // A pass begins with a published fold where that covers more.
    let base = fold(&ledger.visible, if input.arbitrary()? { stored } else { published });

    let pass = ledger.pass(&base, &ledger.in_flight);
    assert!(pass.advanced().coverage.contains(stored), "{pass:?} on {stored:?}");
    assert_eq!(pass.advanced().coverage, *now);
    let counted = Counted::new(CHARGED, GRANTED, ROWS);
    let found = Found { rows: FoundRows::Checkpoint(&checkpoint, &pass), cover: None, caps: &[] };
    let own = Own { request, written: ledger.written, counted };
    let assessment = assess(&found, &own, interval).expect("a few rows");
    let (balance, _) = ledger.balances();
    let mut outcomes = ledger.outcomes(balance);
    let agrees = outcomes.all(|outcome| sides(&announced).all(|(at, is_above)| (outcome > at) == is_above));
    let (lags, behind) = ledger.lags(stored, request, interval);
    match assessment {
        Assessment::Nothing => panic!("{ledger:?} has a checkpoint"),
        Assessment::Doubt => assert!(!agrees, "{ledger:?} is in no doubt about {announced:?}"),
        Assessment::Agrees { headroom, lags: lags_told } => {
            assert!(agrees, "{ledger:?} is in doubt about {announced:?}");
            assert_eq!(lags_told, lags, "{ledger:?} at {request:?}");
            let behind = if lags { 0 } else { behind };
            is_left_by_every_outcome(&ledger, &announced, headroom.as_ref(), behind, interval);
        }
    }

    let deleted = if input.arbitrary()? { Some(self::announced(input, &bounds)?) } else { None };
    let read = if input.arbitrary()? { bounds } else { boundaries(input)? };
    let terms = |boundaries| Terms { request, deleted: deleted.as_ref(), boundaries, held: None, caps: &[] };
    let pass = ledger.pass(&base, &[]);
    let boundaries = (request >= Request::Refresh).then_some(&read);
    decides_by_the_balance(&ledger, Some(&checkpoint), &pass, &terms(boundaries), interval);
    let pass = ledger.pass(&Fold::default(), &[]);
    decides_by_the_balance(&ledger, None, &pass, &terms(Some(&read)), interval);
    Ok(())
}

/// Each boundary, and whether the balance was announced to be above it.
fn sides(announced: &Announced) -> impl Iterator<Item = (i128, bool)> {
    let thresholds =
        announced.thresholds.iter().map(|threshold| (threshold.balance.units(), threshold.is_above));
    thresholds.chain([(0, announced.is_positive)])
}

/// Any level, as it can have been announced.
fn announced(input: &mut Unstructured<'_>, boundaries: &Boundaries) -> Result<Announced> {
    let mut crossed_at = || if input.arbitrary()? { Ok(Some(input.int_in_range(0..=99)?)) } else { Ok(None) };
    let times: Result<Vec<Option<i64>>> = (0..=boundaries.thresholds().len()).map(|_| crossed_at()).collect();
    let (times, balance) = (times?, amount(input)?);
    let thresholds = boundaries.thresholds().iter().zip(&times).map(|(&threshold, &crossed_at)| Threshold {
        balance: threshold,
        is_above: balance > threshold.units(),
        crossed_at,
    });
    let crossed_at = times.last().copied().flatten();
    Ok(Announced { is_positive: balance > 0, crossed_at, thresholds: thresholds.collect(), caps: Vec::new() })
}

/// Whatever becomes of the rows in flight and of the own ones, charges and grants for which the headroom suffices leave the balance
/// on its level.
fn is_left_by_every_outcome(
    ledger: &Ledger,
    announced: &Announced,
    headroom: Option<&Headroom>,
    behind: u64,
    interval: i64,
) {
    let (balance, before) = ledger.balances();
    let outcomes = || ledger.outcomes(balance).chain(ledger.outcomes(before));
    let (lowest, highest) =
        (outcomes().min().expect("one at least"), outcomes().max().expect("one at least"));
    let below = sides(announced).filter_map(|(at, is_above)| is_above.then_some(at)).max();
    let above = sides(announced).filter_map(|(at, is_above)| (!is_above).then_some(at)).min();
    let interval = interval.unsigned_abs();
    let suffices = |charged: i128, granted: i128, rows: u64| {
        let steps = |steps: i128| u64::try_from(steps.max(0)).expect("a few");
        let counted = Counted::new(CHARGED + steps(charged), GRANTED + steps(granted), ROWS + rows);
        headroom.is_some_and(|headroom| headroom.suffices(&counted, interval))
    };
    // The first charge that takes the lowest outcome to the boundary below, and the first grant that takes the highest above its own.
    let charge =
        below.map(|below| (lowest - below).div_euclid(STEP) + i128::from((lowest - below) % STEP > 0));
    let grant = above.map(|above| (above - highest).div_euclid(STEP) + 1);
    for (charged, granted) in [(charge, None), (None, grant)] {
        let crosses = charged.is_some() || granted.is_some();
        let suffices = suffices(charged.unwrap_or(0), granted.unwrap_or(0), 0);
        assert!(!(crosses && suffices), "{headroom:?} is more than {ledger:?} leaves at {announced:?}");
    }
    // Nothing is kept back but what may roll back.
    let left =
        |distance: Option<i128>| distance.map_or(i128::from(u32::MAX), |units| units.div_euclid(STEP) - 1);
    let down = left(below.map(|below| ledger.outcomes(balance).min().expect("one at least") - below));
    let up = left(above.map(|above| above - ledger.outcomes(balance).max().expect("one at least")));
    if !ledger.has_own && down >= 0 && up >= 0 {
        assert!(suffices(down, up, 0), "{headroom:?} is less than {ledger:?} leaves at {announced:?}");
        for rows in 0..=interval {
            assert_eq!(suffices(0, 0, rows), behind + rows < interval, "{headroom:?} after {rows} rows");
        }
    }
}

/// Deciding again changes nothing, and what has been decided is what a rebuilt checkpoint would say.
fn decides_by_the_balance(
    ledger: &Ledger,
    stored: Option<&Checkpoint>,
    pass: &DeltaPass,
    terms: &Terms<'_>,
    interval: i64,
) {
    const NOW: i64 = 100;
    let decision = decide(stored, pass, terms, interval, NOW).expect("a few rows");
    let (balance, balance_before) = ledger.balances();
    let default = Boundaries::default();
    let has_boundaries = terms.boundaries.is_some_and(|read| *read != default);
    if stored.is_none() && ledger.visible.is_empty() && !has_boundaries {
        assert_eq!(decision, Decision::Nothing, "a user without rows");
        return;
    }
    let known = stored.map(|checkpoint| &checkpoint.announced).or(terms.deleted);
    // Nothing was announced: a balance on another side than that of nothing is, and one that this transaction takes back from there.
    let unannounced = |at: i128| if (balance > at) == (0 > at) { balance_before > at } else { 0 > at };
    let side =
        |at: i128| known.and_then(|known| sides(known).find(|(of, _)| *of == at)).map(|(_, side)| side);
    let is_silent = known.is_some() || terms.request == Request::Rebound;
    let thresholds: Vec<Credits> = match (terms.boundaries, known) {
        (Some(read), _) => read.thresholds().to_vec(),
        (None, Some(known)) => known.thresholds.iter().map(|threshold| threshold.balance).collect(),
        (None, None) => Vec::new(),
    };
    let side_before = |threshold: &Credits| {
        let at = threshold.units();
        let new = if is_silent { balance > at } else { unannounced(at) };
        (at, side(at).unwrap_or(new))
    };
    let mut boundaries: Vec<(i128, bool)> = thresholds.iter().map(side_before).collect();
    boundaries.push((0, side(0).unwrap_or_else(|| unannounced(0))));
    let mut expected: Vec<i128> =
        boundaries.iter().filter(|(at, side)| (balance > *at) != *side).map(|(at, _)| *at).collect();
    // Downwards from high to low, then upwards from low to high.
    expected.sort_unstable_by_key(|&at| if balance <= at { (0, -at) } else { (1, at) });

    let lags = stored.is_none_or(|stored| ledger.lags(&stored.fold.coverage, terms.request, interval).0);
    let changes = stored.is_none_or(|stored| {
        terms.boundaries.is_some_and(|read| {
            let before = stored.announced.thresholds.iter().map(|threshold| threshold.balance);
            read.overdraft != stored.overdraft || !before.eq(read.thresholds().iter().copied())
        })
    });
    let Decision::Write(Change { refreshes, rebounds, announced, overdraft, crossings, .. }) = decision
    else {
        assert_eq!((expected, lags, changes), (Vec::new(), false, false), "{ledger:?} on {terms:?}");
        return;
    };
    let crossed: Vec<i128> = crossings.iter().map(|crossing| crossing.boundary.units()).collect();
    assert_eq!((&crossed, refreshes, rebounds), (&expected, lags, changes), "{ledger:?} on {terms:?}");
    boundaries.sort_unstable();
    let mut after: Vec<(i128, bool)> = sides(&announced).collect();
    after.sort_unstable();
    assert!(after.iter().map(|(at, _)| at).eq(boundaries.iter().map(|(at, _)| at)), "{after:?}");
    assert!(after.iter().all(|(at, side)| *side == (balance > *at)), "{after:?} at {balance}");
    for threshold in &announced.thresholds {
        let before = known.and_then(|known| {
            known.thresholds.iter().find(|before| before.balance == threshold.balance)?.crossed_at
        });
        let is_crossed = crossed.contains(&threshold.balance.units());
        assert_eq!(threshold.crossed_at, if is_crossed { Some(NOW) } else { before });
    }
    let crossed_at = if crossed.contains(&0) { Some(NOW) } else { known.and_then(|known| known.crossed_at) };
    assert_eq!(announced.crossed_at, crossed_at);

    let written = match stored {
        Some(stored) if !refreshes => Checkpoint { announced, overdraft, ..stored.clone() },
        _ => Checkpoint { fold: pass.advanced().clone(), announced, overdraft },
    };
    assert_eq!(written.fold.balance.units(), ledger.sum(|row| written.fold.coverage.covers(row.transaction)));
    let again = decide(Some(&written), pass, &Terms { deleted: None, ..*terms }, interval, NOW + 1);
    assert_eq!(again, Ok(Decision::Nothing), "{written:?}");
}
