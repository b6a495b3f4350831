//! What settlement assesses and decides, against every outcome of the rows in flight.

use arbitrary::{Result, Unstructured};
use ledger::coverage::Coverage;
use ledger::credits::{Credits, UNITS_PER_CREDIT};
use ledger::crossing::Direction;
use ledger::fold::{DeltaPass, Fold};
use ledger::segment::headroom::{Counted, Headroom, Written};
use ledger::settlement::{Announced, Assessment, Checkpoint, Decision, Found, Request, assess, decide};

use crate::coverage::{Cluster, Moment};
use crate::fold::{Row, fold};

/// Charges are counted in these: a millionth of a credit.
const STEP: i128 = UNITS_PER_CREDIT / 1_000_000;

/// Most rows in flight: 128 outcomes.
const MOST_IN_FLIGHT: usize = 7;

/// What had been counted before.
const CHARGED: u64 = 1_000;
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
    has_grants: bool,
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
            has_grants: false,
            coverages: [0, 1, 2].map(|moment: usize| Coverage::up_to(&moments[moment].open())),
        };
        for seq in 0..input.int_in_range(0..=16)? {
            let transaction = match (own, input.int_in_range(0..=3)?) {
                (Some(own), 0) => own,
                (Some(_), 1) => *input.choose(&running)?,
                _ => input.int_in_range(0..=now.ids().end / 2)?,
            };
            let units = amount(input)?;
            ledger.add(&now, Row { transaction, units, seq, is_batched: false });
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
        self.has_grants |= units > 0;
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
            _ => behind > 0 || now.stragglers() != stored.stragglers(),
        };
        (lags, behind as u64)
    }
}

/// There is nothing to decide only if every outcome says so; headroom is what every outcome leaves; and what is announced is the
/// side of the balance, if another one was announced before.
///
/// # Errors
/// If there are too few bytes.
pub fn weighs_every_outcome(input: &mut Unstructured<'_>) -> Result<()> {
    let ledger = Ledger::new(input)?;
    let request = *input.choose(&[Request::Settle, Request::RefreshIfFree, Request::Refresh])?;
    let interval = input.int_in_range(1..=6)?;
    let announced = announced(input)?;
    let [stored, published, now] = &ledger.coverages;
    let checkpoint = Checkpoint { fold: fold(&ledger.visible, stored), announced };
    // A pass begins with a published fold where that covers more.
    let base = fold(&ledger.visible, if input.arbitrary()? { stored } else { published });

    let pass = ledger.pass(&base, &ledger.in_flight);
    assert!(pass.advanced().coverage.contains(stored), "{pass:?} on {stored:?}");
    assert_eq!(pass.advanced().coverage, *now);
    let counted = Counted::new(CHARGED, ROWS);
    let found = Found::Checkpoint(&checkpoint, &pass);
    let assessment = assess(found, request, &ledger.written, &counted, interval).expect("a few rows");
    let (balance, _) = ledger.balances();
    let agrees = ledger.outcomes(balance).all(|outcome| (outcome > 0) == announced.is_positive);
    let (lags, behind) = ledger.lags(stored, request, interval);
    match assessment {
        Assessment::Nothing => panic!("{ledger:?} has a checkpoint"),
        Assessment::Doubt => assert!(!agrees, "{ledger:?} is in no doubt about {announced:?}"),
        Assessment::Agrees { headroom, lags: lags_told } => {
            assert!(agrees, "{ledger:?} is in doubt about {announced:?}");
            assert_eq!(lags_told, lags, "{ledger:?} at {request:?}");
            assert!(announced.is_positive || headroom.is_none());
            if announced.is_positive {
                let behind = if lags { 0 } else { behind };
                is_left_by_every_outcome(&ledger, headroom.as_ref(), behind, interval);
            }
        }
    }

    let deleted = if input.arbitrary()? { Some(self::announced(input)?) } else { None };
    let pass = ledger.pass(&base, &[]);
    decides_by_the_balance(&ledger, Some(&checkpoint), &pass, (request, deleted, interval));
    let pass = ledger.pass(&Fold::default(), &[]);
    decides_by_the_balance(&ledger, None, &pass, (request, deleted, interval));
    Ok(())
}

fn announced(input: &mut Unstructured<'_>) -> Result<Announced> {
    let crossed_at = if input.arbitrary()? { Some(input.int_in_range(0..=99)?) } else { None };
    Ok(Announced { is_positive: input.arbitrary()?, crossed_at })
}

/// Whatever becomes of the rows in flight and of the own ones, charges for which the headroom suffices leave it above zero.
fn is_left_by_every_outcome(ledger: &Ledger, headroom: Option<&Headroom>, behind: u64, interval: i64) {
    let (balance, before) = ledger.balances();
    let lowest = ledger.outcomes(balance).min().expect("one at least");
    let lowest_of_all = ledger.outcomes(before).fold(lowest, i128::min);
    let interval = interval.unsigned_abs();
    let suffices = |charged: i128, rows: u64| {
        let steps = u64::try_from(charged.max(0)).expect("a few");
        headroom
            .is_some_and(|headroom| headroom.suffices(&Counted::new(CHARGED + steps, ROWS + rows), interval))
    };
    let takes_all = lowest_of_all.div_euclid(STEP) + i128::from(lowest_of_all.rem_euclid(STEP) > 0);
    assert!(!suffices(takes_all, 0), "{headroom:?} is more than {ledger:?} leaves");
    // Nothing is kept back but what may roll back.
    let leaves_one = lowest.div_euclid(STEP) - 1;
    if !ledger.has_grants && leaves_one >= 0 {
        assert!(suffices(leaves_one, 0), "{headroom:?} is less than {ledger:?} leaves");
        for rows in 0..=interval {
            assert_eq!(suffices(0, rows), behind + rows < interval, "{headroom:?} after {rows} rows");
        }
    }
}

/// Deciding again changes nothing, and what has been decided is what a rebuilt checkpoint would say.
fn decides_by_the_balance(
    ledger: &Ledger,
    stored: Option<&Checkpoint>,
    pass: &DeltaPass,
    (request, deleted, interval): (Request, Option<Announced>, i64),
) {
    const NOW: i64 = 100;
    let decision = decide(stored, pass, request, deleted, interval, NOW).expect("a few rows");
    if stored.is_none() && ledger.visible.is_empty() {
        assert_eq!(decision, Decision::Nothing, "a user without rows");
        return;
    }
    let (balance, balance_before) = ledger.balances();
    let before = stored.map(|checkpoint| checkpoint.announced).or(deleted);
    // Nothing was announced: a balance above zero is, and one that this transaction takes down from there.
    let is_positive = balance <= 0 && balance_before > 0;
    let before = before.unwrap_or(Announced { is_positive, crossed_at: None });
    let direction = match (before.is_positive, balance > 0) {
        (false, true) => Some(Direction::Up),
        (true, false) => Some(Direction::Down),
        _ => None,
    };
    let lags = stored.is_none_or(|stored| ledger.lags(&stored.fold.coverage, request, interval).0);
    let Decision::Write { refreshes, announced, crossing } = decision else {
        assert_eq!((direction, lags), (None, false), "{ledger:?} since {before:?}");
        return;
    };
    assert_eq!((crossing, refreshes), (direction, lags), "{ledger:?} since {before:?}");
    let expected = match direction {
        Some(_) => Announced { is_positive: balance > 0, crossed_at: Some(NOW) },
        None => before,
    };
    assert_eq!(announced, expected, "{ledger:?} since {before:?}");
    let written = match stored {
        Some(stored) if !refreshes => Checkpoint { announced, ..stored.clone() },
        _ => Checkpoint { fold: pass.advanced().clone(), announced },
    };
    assert_eq!(written.fold.balance.units(), ledger.sum(|row| written.fold.coverage.covers(row.transaction)));
    let again = decide(Some(&written), pass, request, None, interval, NOW + 1);
    assert_eq!(again, Ok(Decision::Nothing), "{written:?}");
}
