//! Folds against the sum of the rows that they cover.

use arbitrary::{Result, Unstructured};
use ledger::coverage::Coverage;
use ledger::credits::Credits;
use ledger::fold::{DeltaPass, DeltaRow, Fold};

use crate::coverage::{Cluster, Moment};

/// A row of a user's, and the transaction that wrote it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The transaction.
    pub transaction: u64,
    /// The signed amount.
    pub units: i128,
    /// The place in the order of insertion.
    pub seq: i64,
}

impl Row {
    /// As a pass meets it.
    #[must_use]
    pub const fn of_delta(&self) -> DeltaRow {
        let &Self { transaction, units, seq } = self;
        DeltaRow { transaction, amount: Credits::from_units(units), seq }
    }
}

/// The rows that a coverage covers, summed up one by one, as if it had been stored.
#[must_use]
pub fn fold(rows: &[Row], coverage: &Coverage) -> Fold {
    let covered = || rows.iter().filter(|row| coverage.covers(row.transaction));
    let transaction_count = i64::try_from(covered().count()).expect("a few");
    Fold {
        coverage: coverage.clone(),
        balance: Credits::from_units(covered().map(|row| row.units).sum()),
        transaction_count,
        latest_seq: covered().map(|row| row.seq).max().unwrap_or(0),
    }
}

/// The pass over those of the rows that `from` does not cover.
fn pass(rows: &[Row], from: Fold, target: &Coverage, own: Option<u64>) -> DeltaPass {
    let base = from.coverage.clone();
    let reached = if target.contains(&base) { target } else { &base };
    let mut pass = DeltaPass::new(from, target.clone(), own);
    for row in rows.iter().filter(|row| !base.covers(row.transaction)) {
        assert_eq!(pass.add(&row.of_delta()), Ok(reached.covers(row.transaction)));
        assert_eq!(pass.add_in_flight(Credits::from_units(1)), Ok(()));
    }
    pass
}

/// A pass over the delta of a fold that was taken at any moment makes the fold of a later one, and sums what is there.
///
/// # Errors
/// If there are too few bytes.
pub fn folds_what_is_covered(input: &mut Unstructured<'_>) -> Result<()> {
    let mut cluster = Cluster::new(input)?;
    let mut coverages = Vec::new();
    for _ in 0..4 {
        for _ in 0..input.int_in_range(0..=30)? {
            cluster.step(input)?;
        }
        coverages.push(Coverage::up_to(&cluster.now().open()));
    }
    let now: Moment = cluster.now();
    let ids = now.ids();
    let mut rows = Vec::new();
    for _ in 0..input.int_in_range(0..=20)? {
        rows.push(Row {
            transaction: input.int_in_range(0..=ids.end / 2)?,
            units: input.int_in_range(-1000..=1000)?,
            seq: if input.ratio(1, 10)? { input.arbitrary()? } else { input.int_in_range(-3..=1000)? },
        });
    }
    // The rows that can be seen; what is in flight comes in each pass.
    rows.retain(|row| now.has_ended(row.transaction));

    let [base, target] = [&coverages[0], &coverages[2]];
    // Now and then the wrong way round: then the fold stays as it is.
    let (base, target) = if input.ratio(1, 8)? { (target, base) } else { (base, target) };
    let own = rows.first().map(|row| row.transaction).filter(|&id| !base.covers(id));
    let stored = fold(&rows, base);
    let first = pass(&rows, stored.clone(), target, own);
    let sum = |rows: &mut dyn Iterator<Item = &Row>| Credits::from_units(rows.map(|row| row.units).sum());
    assert_eq!(first.balance(), sum(&mut rows.iter()));
    assert_eq!(first.balance_before(), Ok(sum(&mut rows.iter().filter(|row| own != Some(row.transaction)))));
    assert_eq!(first.latest_seq(), rows.iter().map(|row| row.seq).max());
    let reached = if target.contains(base) { target } else { base };
    let advanced = first.into_advanced();
    assert_eq!(advanced, fold(&rows, reached), "{rows:?} from {base:?} to {target:?}");

    let further = pass(&rows, advanced.clone(), &coverages[3], own).into_advanced();
    for fold_then in [&stored, &advanced, &further] {
        knows_what_it_has_gained(&rows, fold_then, &coverages);
    }
    Ok(())
}

/// Whatever checkpoint is stored meanwhile: a fold says whether it has gained a row since.
fn knows_what_it_has_gained(rows: &[Row], further: &Fold, coverages: &[Coverage]) {
    for stored in coverages.iter().filter(|stored| further.coverage.contains(stored)) {
        let mut gained = rows
            .iter()
            .filter(|row| further.coverage.covers(row.transaction) && !stored.covers(row.transaction));
        let gained_nothing = further.gained_nothing_since(&fold(rows, stored));
        assert_eq!(gained_nothing, gained.next().is_none(), "{rows:?}: {further:?} since {stored:?}");
    }
}
