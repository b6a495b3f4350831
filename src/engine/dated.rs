//! Sums of a user's rows by their dates, under the caller's snapshot: daily totals of what the user's checkpoint covers, and the delta,
//! which says of each row when it was.
//!
//! Where a moment cuts a day in two, the rows of one part of it are read by an index that has them by date.
//!
//! A balance of the past is the sum of the days before it, or what is left of the balance without the days after it: whichever are
//! fewer.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;

use ledger::before::{Before, Part};
use ledger::credits::SumOutOfRange;
use ledger::daily::{DailyRuns, DailyTotal, DailyTotals, TotalOf};
use ledger::day::Day;
use ledger::fold::Fold;
use ledger::id::UserId;
use ledger::sums::{Sum, SumsByType};

use super::by_date::RowsByDate;
use super::checkpoint::CheckpointScan;
use super::days as folded;
use super::delta::{self, DeltaScan};
use super::lock_order;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::privilege;
use crate::pg::relation::Index;
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::days::{self, Days};
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::xact;

/// What a statement says.
pub struct AccountStatement {
    /// The rows before the period.
    pub opening: Sum,
    /// The rows of the period.
    pub lines: SumsByType,
    /// The rows before the end of the period.
    pub closing: Sum,
}

/// The signed sum of the user's rows that are dated before a moment, and that of the other rows; without a moment, all are before it.
/// `None` if they must be added up by a query over the rows: row-level security filters those for the caller, the user has no daily
/// totals, or an index is missing.
pub fn split(user: &UserId, moment: Option<i64>) -> Result<Option<(Sum, Sum)>, LedgerError> {
    let Some(mut dated) = Dated::open(user)? else { return Ok(None) };
    let all = dated.all()?;
    let earlier = match moment {
        None => all,
        Some(moment) => {
            let cut = dated.cut(moment)?;
            dated.before(&cut)?
        }
    };
    Ok(Some((earlier, all.without(earlier)?)))
}

/// The sums of the user's rows in a period; `None` as for [`split`].
pub fn sums(user: &UserId, start: Bound<i64>, end: Bound<i64>) -> Result<Option<SumsByType>, LedgerError> {
    let Some(mut dated) = Dated::open(user)? else { return Ok(None) };
    // The first moment, and the first that comes after the period. Nothing comes after `infinity`.
    let start = match start {
        Bound::Unbounded => Some(i64::MIN),
        Bound::Included(start) => Some(start),
        Bound::Excluded(start) => start.checked_add(1),
    };
    let end = match end {
        Bound::Unbounded => None,
        Bound::Included(end) => end.checked_add(1),
        Bound::Excluded(end) => Some(end),
    };
    let Some(start) = start.filter(|start| end.is_none_or(|end| *start < end)) else {
        return Ok(Some(SumsByType::default()));
    };
    let start = dated.cut(start)?;
    let end = end.map(|end| dated.cut(end)).transpose()?;
    Ok(Some(dated.between(&start, end.as_ref())?))
}

/// The statement of a period, which ends after it has begun; `None` as for [`split`].
pub fn statement(user: &UserId, start: i64, end: i64) -> Result<Option<AccountStatement>, LedgerError> {
    let Some(mut dated) = Dated::open(user)? else { return Ok(None) };
    let (start, end) = (dated.cut(start)?, dated.cut(end)?);
    let lines = dated.between(&start, Some(&end))?;
    let (opening, closing) = if dated.is_nearer_to_the_first(start.day) {
        let opening = dated.before(&start)?;
        (opening, opening.with(lines.all()?)?)
    } else {
        let closing = dated.before(&end)?;
        (closing.without(lines.all()?)?, closing)
    };
    Ok(Some(AccountStatement { opening, lines, closing }))
}

/// The totals of the user's rows from the first of these days to the last, in no order. `None` as for [`split`], and for a ledger
/// that has types of its own.
pub fn totals(user: &UserId, first: Day, last: Bound<Day>) -> Result<Option<DailyTotals>, LedgerError> {
    let Some(relations) = readable()? else { return Ok(None) };
    let snapshot = Rc::new(Snapshot::active());
    let mut runs = DailyRuns::default();
    let mut delta = DeltaScan::open(&relations, Sight::AsOf(Rc::clone(&snapshot)));
    let category = delta.category();
    let Some(fold) = fold_with_days(&relations, user, &snapshot)? else { return Ok(None) };
    delta.each(user, &fold.coverage, |row| {
        let row = delta::dated_row(row, category);
        if (Bound::Included(first), last).contains(&Day::of(row.created_at)) { runs.add(row) } else { Ok(()) }
    })?;
    let mut totals = runs.totals()?;
    let mut scan = folded::scan_of(&relations, &snapshot, 2)?;
    folded::each(&mut scan, user, first, last, |day, row| {
        let (amount, transaction_count) = (row.get(days::TOTAL_AMOUNT), row.get(days::TRANSACTION_COUNT));
        let of = TotalOf {
            day,
            transaction_type: row.get(days::TRANSACTION_TYPE),
            category: row.get(days::CATEGORY).map(|category| category.into_owned().into_boxed_slice()),
            api_key_id: row.get(days::API_KEY_ID),
        };
        totals.add(of, DailyTotal { amount, transaction_count })
    })?;
    Ok(Some(totals).filter(|totals| totals.iter().all(|(of, _)| of.transaction_type.is_some())))
}

/// The relations, if there are daily totals and the caller may read them.
fn readable() -> Result<Option<Relations>, LedgerError> {
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    Ok((relations.days().is_ok() && privilege::may_see_folded(&relations)).then_some(relations))
}

/// What the user's checkpoint covers, if there are daily totals of that.
fn fold_with_days(
    relations: &Relations,
    user: &UserId,
    snapshot: &Rc<Snapshot>,
) -> Result<Option<Fold>, LedgerError> {
    let stored = CheckpointScan::open(relations).find(user, snapshot)?;
    Ok(stored.filter(|stored| stored.row.has_days).map(|stored| stored.checkpoint.fold))
}

/// A user's rows, by day.
struct Dated<'user> {
    user: &'user UserId,
    fold: Fold,
    /// The sums of the delta.
    delta: BTreeMap<Day, SumsByType>,
    /// Of what the fold covers.
    totals: IndexScan<Days>,
    /// What counts as now for all moments: of two of them the later one then has no earlier day.
    now: i64,
    /// The first day of which there is a total, if there is one; looked for once.
    first: Option<Option<Day>>,
    /// All rows, by the seconds of their dates.
    rows: RowsByDate,
}

/// A moment between a user's rows. Those before it are those of the days before `day`, and `part`.
struct Cut {
    day: Day,
    /// The sums of the part of a day; of rows that are to be taken away, with other signs.
    part: SumsByType,
}

impl<'user> Dated<'user> {
    /// Reads the user's delta. `None` if there are no daily totals that the caller may read, or not the index by date.
    fn open(user: &'user UserId) -> Result<Option<Self>, LedgerError> {
        let Some(relations) = readable()? else { return Ok(None) };
        let snapshot = Rc::new(Snapshot::active());
        let sight = || Sight::AsOf(Rc::clone(&snapshot));
        let Some(oid) = relations.user_created_index else { return Ok(None) };
        let by_date = || {
            let Ok(index) = relations.open_created_index(Index::waited_for);
            index.filter(Index::is_complete)
        };
        // In the order of locks: the checkpoints come after the indexes of the ledger.
        let (by_date, mut delta_rows) = lock_order::open_by_oid(
            (oid, by_date),
            (relations.delta_index, || DeltaScan::open(&relations, sight())),
        );
        let Some(by_date) = by_date else { return Ok(None) };
        let rows = RowsByDate::new(&relations, by_date, sight(), transactions::CREATED_AT);
        let Some(fold) = fold_with_days(&relations, user, &snapshot)? else { return Ok(None) };
        let totals = folded::scan_of(&relations, &snapshot, 2)?;
        let mut delta: BTreeMap<Day, SumsByType> = BTreeMap::new();
        delta_rows.each(user, &fold.coverage, |row| {
            let day = Day::of(row.get(transactions::CREATED_AT));
            add_row(delta.entry(day).or_default(), row)
        })?;
        Ok(Some(Self { user, fold, delta, totals, now: xact::now(), first: None, rows }))
    }

    /// Reads what a moment needs of the day that it cuts in two.
    fn cut(&mut self, moment: i64) -> Result<Cut, SumOutOfRange> {
        let Before { day, part } = Before::moment(moment, self.now);
        let mut sums = SumsByType::default();
        let Some(Part { times, is_added }) = part else { return Ok(Cut { day, part: sums }) };
        self.rows.each(self.user, times.start, Some(times.end), |row| add_row(&mut sums, row))?;
        let part = if is_added { sums } else { SumsByType::default().without(&sums)? };
        Ok(Cut { day, part })
    }

    /// The sums of the rows from one moment on, and before another that comes later, if there is one.
    fn between(&mut self, start: &Cut, end: Option<&Cut>) -> Result<SumsByType, SumOutOfRange> {
        let Some(end) = end else {
            return self.days(start.day, Bound::Unbounded)?.without(&start.part);
        };
        self.days(start.day, Bound::Excluded(end.day))?.with(&end.part)?.without(&start.part)
    }

    /// The signed sum of all rows.
    fn all(&self) -> Result<Sum, SumOutOfRange> {
        let folded = Sum { credits: self.fold.balance, transaction_count: self.fold.transaction_count };
        self.delta.values().try_fold(folded, |sum, day| sum.with(day.all()?))
    }

    /// The signed sum of the rows before a moment.
    fn before(&mut self, Cut { day, part }: &Cut) -> Result<Sum, SumOutOfRange> {
        let days = if self.is_nearer_to_the_first(*day) {
            self.days(Day::NEVER_BEGUN, Bound::Excluded(*day))?.all()?
        } else {
            self.all()?.without(self.days(*day, Bound::Unbounded)?.all()?)?
        };
        days.with(part.all()?)
    }

    /// Whether fewer days lie between the user's first row and this day than between this day and today.
    fn is_nearer_to_the_first(&mut self, day: Day) -> bool {
        let days_from = |from: Day, to: Day| i64::from(to.date()) - i64::from(from.date());
        let first = *self.first.get_or_insert_with(|| {
            self.totals.seek(&[days::USER_ID.equal(self.user), days::DAY.at_least(Day::NEVER_BEGUN)]);
            self.totals.next().map(|row| row.get(days::DAY))
        });
        first.is_none_or(|first| days_from(first, day) <= days_from(day, Day::of(self.now)))
    }

    /// The sums of the rows of these days.
    fn days(&mut self, first: Day, last: Bound<Day>) -> Result<SumsByType, SumOutOfRange> {
        let mut sums = SumsByType::default();
        folded::each(&mut self.totals, self.user, first, last, |_, row| {
            let (amount, transaction_count) = (row.get(days::TOTAL_AMOUNT), row.get(days::TRANSACTION_COUNT));
            sums.add(row.get(days::TRANSACTION_TYPE), amount, transaction_count)
        })?;
        self.delta.range((Bound::Included(first), last)).try_fold(sums, |sums, (_, day)| sums.with(day))
    }
}

fn add_row(sums: &mut SumsByType, row: &Row<'_, Ledger>) -> Result<(), SumOutOfRange> {
    sums.add(row.get(transactions::TRANSACTION_TYPE), row.get(transactions::AMOUNT), 1)
}
