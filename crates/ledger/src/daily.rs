//! Daily totals: the rows of one user added up by day, type, category and key.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::credits::{Credits, SumOutOfRange};
use crate::day::Day;
use crate::transaction_type::TransactionType;

/// What a daily total is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatedRow<'row> {
    /// When the row says that it was created, in microseconds since 2000-01-01.
    pub created_at: i64,
    /// Its type; `None` for one that is not known.
    pub transaction_type: Option<TransactionType>,
    /// Its category, in the encoding of the database.
    pub category: Option<Cow<'row, [u8]>>,
    /// Its API key.
    pub api_key_id: Option<[u8; 16]>,
    /// Its amount, positive.
    pub amount: Credits,
}

/// Which rows of a user a total adds up. Rows without a category, or without a key, belong together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TotalOf {
    /// Those of this day.
    pub day: Day,
    /// Those of this type; `None`: those of types that are not known.
    pub transaction_type: Option<TransactionType>,
    /// Those of this category, compared by its bytes.
    pub category: Option<Box<[u8]>>,
    /// Those of this API key.
    pub api_key_id: Option<[u8; 16]>,
}

impl TotalOf {
    /// Whether a row of this day belongs to it.
    fn has(&self, day: Day, row: &DatedRow<'_>) -> bool {
        self.day == day
            && self.api_key_id == row.api_key_id
            && self.transaction_type == row.transaction_type
            && self.category.as_deref() == row.category.as_deref()
    }

    fn of(day: Day, row: DatedRow<'_>) -> Self {
        Self {
            day,
            transaction_type: row.transaction_type,
            category: row.category.map(|category| category.into_owned().into_boxed_slice()),
            api_key_id: row.api_key_id,
        }
    }
}

/// The total of some rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DailyTotal {
    /// The sum of their amounts, positive.
    pub amount: Credits,
    /// How many there are.
    pub transaction_count: i64,
}

impl DailyTotal {
    /// Adds the rows of another total.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn add(&mut self, other: Self) -> Result<(), SumOutOfRange> {
        self.amount = self.amount.checked_add(other.amount)?;
        self.transaction_count += other.transaction_count;
        Ok(())
    }
}

/// The totals of some rows of a user, in the order of their days.
#[derive(Clone, Debug, Default)]
pub struct DailyTotals(BTreeMap<TotalOf, DailyTotal>);

impl DailyTotals {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each total.
    pub fn iter(&self) -> impl Iterator<Item = (&TotalOf, &DailyTotal)> {
        self.0.iter()
    }

    /// Adds rows to one of them.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn add(&mut self, of: TotalOf, total: DailyTotal) -> Result<(), SumOutOfRange> {
        self.0.entry(of).or_default().add(total)
    }
}

/// Adds rows up to totals. Most rows belong to one of a few totals, which are found without a look-up that needs a key of its own.
#[derive(Debug, Default)]
pub struct DailyRuns {
    /// The totals that rows were added to last, in no order.
    recent: Vec<(TotalOf, DailyTotal)>,
    totals: DailyTotals,
}

impl DailyRuns {
    /// How many totals are compared with a row.
    const MOST_RECENT: usize = 32;

    /// Adds a row.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn add(&mut self, row: DatedRow<'_>) -> Result<(), SumOutOfRange> {
        let (day, one) = (Day::of(row.created_at), DailyTotal { amount: row.amount, transaction_count: 1 });
        if let Some((_, total)) = self.recent.iter_mut().find(|(of, _)| of.has(day, &row)) {
            return total.add(one);
        }
        if self.recent.len() == Self::MOST_RECENT {
            self.merge_recent()?;
        }
        self.recent.push((TotalOf::of(day, row), one));
        Ok(())
    }

    fn merge_recent(&mut self) -> Result<(), SumOutOfRange> {
        self.recent.drain(..).try_for_each(|(of, total)| self.totals.add(of, total))
    }

    /// The totals of all rows.
    ///
    /// # Errors
    /// [`SumOutOfRange`].
    pub fn totals(mut self) -> Result<DailyTotals, SumOutOfRange> {
        self.merge_recent()?;
        Ok(self.totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000_000;

    fn row(
        created_at: i64,
        category: Option<&'static str>,
        key: Option<u8>,
        units: i128,
    ) -> DatedRow<'static> {
        DatedRow {
            created_at,
            transaction_type: Some(TransactionType::Usage),
            category: category.map(|category| Cow::Borrowed(category.as_bytes())),
            api_key_id: key.map(|key| [key; 16]),
            amount: Credits::from_units(units),
        }
    }

    /// Day, category, key, units and count.
    type Shown = (i32, Option<String>, Option<u8>, i128, i64);

    fn totals(rows: Vec<DatedRow<'_>>) -> Vec<Shown> {
        let mut runs = DailyRuns::default();
        rows.into_iter().for_each(|row| runs.add(row).unwrap());
        let shown = |(of, total): (&TotalOf, &DailyTotal)| {
            let category = of.category.as_ref().map(|category| String::from_utf8(category.to_vec()).unwrap());
            let key = of.api_key_id.map(|key| key[0]);
            (of.day.date(), category, key, total.amount.units(), total.transaction_count)
        };
        let totals = runs.totals().unwrap();
        assert_eq!(totals.is_empty(), totals.iter().next().is_none());
        totals.iter().map(shown).collect()
    }

    #[test]
    fn rows_of_one_day_category_and_key_make_one_total() {
        let some = |text: &str| Some(text.to_owned());
        let rows = vec![
            row(DAY - 1, None, None, 1),
            row(DAY, None, None, 2),
            row(DAY, Some("a"), None, 4),
            row(0, None, None, 8),
            row(DAY, Some("a"), None, 16),
            row(2 * DAY - 1, Some("a"), None, 32),
            row(DAY, Some("a"), Some(1), 64),
            row(DAY, None, Some(1), 128),
            row(DAY, Some(""), None, 256),
            row(DAY, None, None, 512),
        ];
        assert_eq!(
            totals(rows),
            [
                (0, None, None, 9, 2),
                (1, None, None, 514, 2),
                (1, None, Some(1), 128, 1),
                (1, some(""), None, 256, 1),
                (1, some("a"), None, 52, 3),
                (1, some("a"), Some(1), 64, 1),
            ]
        );
    }

    #[test]
    fn types_are_kept_apart() {
        let of = |transaction_type| DatedRow { transaction_type, ..row(0, None, None, 1) };
        let types = TransactionType::ALL.map(Some);
        let mut rows: Vec<DatedRow<'_>> = types.map(of).into();
        rows.push(of(None));
        rows.push(of(types[0]));
        assert_eq!(totals(rows).len(), 5);
    }

    #[test]
    fn nothing_makes_no_total() {
        assert_eq!(totals(Vec::new()), []);
    }

    #[test]
    fn a_total_out_of_range_is_an_error() {
        let mut runs = DailyRuns::default();
        runs.add(row(0, None, None, i128::MAX)).unwrap();
        assert_eq!(runs.add(row(0, None, None, 1)), Err(SumOutOfRange));
        // Also where there are more totals in between than are compared with a row.
        let mut runs = DailyRuns::default();
        let days = (0..40).map(|day| (day * DAY, if day == 0 { i128::MAX } else { 1 }));
        for (day, units) in days.chain([(0, 1)]) {
            runs.add(row(day, None, None, units)).unwrap();
        }
        assert!(runs.totals().is_err());
    }

    #[test]
    fn many_totals_are_kept_apart() {
        let mut runs = DailyRuns::default();
        for number in 0..1000 {
            runs.add(row(number % 70 * DAY, None, None, 1)).unwrap();
        }
        let totals = runs.totals().unwrap();
        let counts: Vec<i64> = totals.iter().map(|(_, total)| total.transaction_count).collect();
        assert_eq!(counts, (0..70).map(|day| if day < 20 { 15 } else { 14 }).collect::<Vec<_>>());
    }
}
