//! Folds against the sum of the rows that they cover.

use arbitrary::{Result, Unstructured};
use ledger::coverage::Coverage;
use ledger::credits::Credits;
use ledger::fold::{DeltaPass, DeltaRow, Fold};

use crate::coverage::{Cluster, Moment};

/// A row of a user's, and the transaction that wrote it.
#[derive(Clone, Copy, Debug)]
struct Row {
    transaction: u64,
    units: i128,
    seq: i64,
}

/// The rows that a coverage covers, summed up one by one.
fn fold(rows: &[Row], coverage: &Coverage) -> Fold {
    let covered = || rows.iter().filter(|row| coverage.covers(row.transaction));
    Fold {
        coverage: coverage.clone(),
        balance: Credits::from_units(covered().map(|row| row.units).sum()),
        transaction_count: i64::try_from(covered().count()).expect("a few"),
        latest_seq: covered().map(|row| row.seq).max().unwrap_or(0),
    }
}

/// A pass over the delta of a fold that was taken at any moment makes the fold of a later one, and sums what is there.
///
/// # Errors
/// If there are too few bytes.
pub fn folds_what_is_covered(input: &mut Unstructured<'_>) -> Result<()> {
    let mut cluster = Cluster::new(input)?;
    let mut moments = Vec::new();
    for _ in 0..2 {
        for _ in 0..input.int_in_range(0..=30)? {
            cluster.step(input)?;
        }
        moments.push(cluster.now());
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
    // The rows that can be seen; what is in flight comes below.
    rows.retain(|row| now.has_ended(row.transaction));

    let [base, target] = [&moments[0], &moments[1]].map(|moment| Coverage::up_to(&moment.open()));
    // Now and then the wrong way round: then the fold stays as it is.
    let (base, target) = if input.ratio(1, 8)? { (target, base) } else { (base, target) };
    let own = rows.first().map(|row| row.transaction).filter(|&id| !base.covers(id));
    let mut pass = DeltaPass::new(fold(&rows, &base), target.clone(), own);
    let reached = if target.contains(&base) { &target } else { &base };
    for row in rows.iter().filter(|row| !base.covers(row.transaction)) {
        let row =
            DeltaRow { transaction: row.transaction, amount: Credits::from_units(row.units), seq: row.seq };
        assert_eq!(pass.add(&row), Ok(reached.covers(row.transaction)));
        assert_eq!(pass.add_in_flight(Credits::from_units(1)), Ok(()));
    }
    let sum = |rows: &mut dyn Iterator<Item = &Row>| Credits::from_units(rows.map(|row| row.units).sum());
    assert_eq!(pass.balance(), sum(&mut rows.iter()));
    assert_eq!(pass.balance_before(), Ok(sum(&mut rows.iter().filter(|row| own != Some(row.transaction)))));
    assert_eq!(pass.latest_seq(), rows.iter().map(|row| row.seq).max());
    assert_eq!(pass.into_advanced(), fold(&rows, reached), "{rows:?} from {base:?} to {target:?}");
    Ok(())
}
