//! What was spent of spend caps, added up from an account's usage. It has three parts, by one checkpoint:
//!
//! - whole days, from the daily totals
//! - the rest of a day on which a window begins after midnight, from the ledger by the index on user and date
//! - what the checkpoint does not cover, from the delta. Rows in flight are met there: whoever has counted before has its rows there
//!
//! Totals and checkpoint are those of one snapshot, or rows of a refresh in between would be lost or counted twice. Where there are no daily
//! totals, or their locks are not free, all rows from the start of the earliest window on are read by the index on user and date.

use std::collections::BTreeMap;
use std::ops::Bound;

use ledger::caps::CapSpend;
use ledger::coverage::Coverage;
use ledger::credits::SumOutOfRange;
use ledger::day::Day;
use ledger::id::{ApiKeyId, UserId};
use ledger::transaction_type::TransactionType;

use super::by_date::RowsByDate;
use super::checkpoint::CheckpointScan;
use super::days as folded;
use super::moment::Moment;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{Access, Index, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::Sight;
use crate::pg::tables::days::{self, Days};
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::xact;

/// What a user's checkpoint covers, by day.
pub(super) struct Folded {
    coverage: Coverage,
    totals: IndexScan<Days>,
    /// The days on which a window begins after midnight, and when the first of them does. With the index by date, if there are any.
    begun: Option<(BTreeMap<Day, i64>, RowsByDate)>,
}

impl Folded {
    /// `None` if the checkpoint has no daily totals, or something that is needed is not there or not free.
    pub(super) fn find_if_free(
        user: &UserId,
        spends: &[CapSpend],
        now: &Moment,
        relations: &Relations,
    ) -> Result<Option<Self>, LedgerError> {
        let (Ok(mut checkpoints), Ok(days)) = (CheckpointScan::open_if_free(relations), relations.days())
        else {
            return Ok(None);
        };
        let Some(stored) = checkpoints.find(user, now.snapshot())?.filter(|stored| stored.row.has_days)
        else {
            return Ok(None);
        };
        let mut begun: BTreeMap<Day, i64> = BTreeMap::new();
        for spend in spends {
            if let Some(day) = day_begun(spend) {
                let start = begun.entry(day).or_insert(i64::MAX);
                *start = spend.window().start.min(*start);
            }
        }
        let begun = if begun.is_empty() {
            None
        } else {
            let Ok(Some(index)) = relations.open_created_index(Index::open_if_free) else { return Ok(None) };
            Some((begun, RowsByDate::new(relations, index, now.sight(), transactions::XACT_ID)))
        };
        let (Ok(table), Some(index)) =
            (Table::open_if_free(days, Access::Read), relations.open_days_index_if_free())
        else {
            return Ok(None);
        };
        let totals = IndexScan::new(table, index, now.sight(), 2, days::TOTAL_AMOUNT);
        Ok(Some(Self { coverage: stored.checkpoint.fold.coverage, totals, begun }))
    }

    /// Adds the user's usage that the checkpoint covers, and returns which rows that are.
    pub(super) fn add_usage(self, spends: &mut [CapSpend], user: &UserId) -> Result<Coverage, LedgerError> {
        let Self { coverage, mut totals, begun } = self;
        folded::each(&mut totals, user, Day::of(earliest(spends)), Bound::Unbounded, |day, total| {
            if total.get(days::TRANSACTION_TYPE) != Some(TransactionType::Usage) {
                return Ok(());
            }
            let key = total.get(days::API_KEY_ID).map(ApiKeyId::from_bytes);
            let amount = total.get(days::TOTAL_AMOUNT);
            // A window ends at midnight: a day that is not begun by then lies in one window.
            spends.iter_mut().try_for_each(|spend| spend.add(key, day.start(), amount))
        })?;
        if let Some((begun, mut rows)) = begun {
            for (day, from) in begun {
                rows.each(user, from, day.end(), |row| {
                    let is_covered = coverage.covers(row.get(transactions::XACT_ID));
                    let mut begun =
                        spends.iter_mut().filter(|spend| is_covered && day_begun(spend) == Some(day));
                    begun.try_for_each(|spend| add_row(std::slice::from_mut(spend), row))
                })?;
            }
        }
        Ok(coverage)
    }
}

/// When the earliest of the current windows begins; `infinity` if there is none.
fn earliest(spends: &[CapSpend]) -> i64 {
    spends.iter().map(|spend| spend.window().start).min().unwrap_or(i64::MAX)
}

/// The day on which the current window begins, if it begins after midnight.
fn day_begun(spend: &CapSpend) -> Option<Day> {
    let start = spend.window().start;
    let day = Day::of(start);
    (day.start() < start).then_some(day)
}

/// Adds a row, if it is usage.
pub(super) fn add_row(spends: &mut [CapSpend], row: &Row<'_, Ledger>) -> Result<(), SumOutOfRange> {
    if row.get(transactions::TRANSACTION_TYPE) != Some(TransactionType::Usage) {
        return Ok(());
    }
    let key = row.get(transactions::API_KEY_ID).map(ApiKeyId::from_bytes);
    let (created_at, amount) = (row.get(transactions::CREATED_AT), row.get(transactions::AMOUNT));
    spends.iter_mut().try_for_each(|spend| spend.add(key, created_at, amount))
}

/// Adds the user's usage from the start of the earliest window on. The delta index is open: where the index by date is not free, or is not
/// there, every row of the user is looked at.
pub(super) fn add_usage(
    spends: &mut [CapSpend],
    user: &UserId,
    sight: Sight,
    relations: &Relations,
) -> Result<(), LedgerError> {
    if let Ok(Some(index)) = relations.open_created_index(Index::open_if_free) {
        let mut rows = RowsByDate::new(relations, index, sight, transactions::CREATED_AT);
        return Ok(rows.each(user, earliest(spends), None, |row| add_row(spends, row))?);
    }
    let Ok(index) = relations.open_delta_index(Index::waited_for);
    let ledger = Table::open_locked(relations.ledger);
    let mut rows = IndexScan::new(ledger, index, sight, 1, transactions::CREATED_AT);
    rows.seek(&[transactions::USER_ID.equal(user)]);
    while let Some(row) = rows.next() {
        xact::check_for_interrupts();
        add_row(spends, &row)?;
    }
    Ok(())
}
