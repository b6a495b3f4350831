//! Spend caps: what users have written into `spend_caps`, and what has been spent of them.
//!
//! Which caps an account has, and what was announced of each, is in its checkpoint: copied there under the exclusive stripe by the commit
//! that changes them. Who shares the stripe sees the rows of `spend_caps` that were copied last. An account without caps has none in its
//! checkpoint, and nobody looks for any.
//!
//! What was spent is added up from three parts, by one checkpoint:
//!
//! - whole days, from the daily totals
//! - the rest of a day on which a window begins after midnight, from the ledger by the index on user and date
//! - what the checkpoint does not cover, from the delta. Rows in flight are met there: whoever has counted before has its rows there
//!
//! Totals and checkpoint are those of one snapshot, or rows of a refresh in between would be lost or counted twice. Where there are no daily
//! totals, or their locks are not free, all rows from the start of the earliest window on are read by the index on user and date.
//!
//! A commit that shares the stripe goes on from what the session has added up last, and reads what has come since ([`cap_sums`]).

use std::collections::BTreeMap;
use std::ops::Bound;

use ledger::caps::{AnnouncedCap, Cap, CapSpend, Clock, MOST_CAPS};
use ledger::coverage::Coverage;
use ledger::credits::SumOutOfRange;
use ledger::day::Day;
use ledger::id::{ApiKeyId, UserId};
use ledger::period::Period;
use ledger::settlement::Request;
use ledger::transaction_type::TransactionType;

use super::by_date::RowsByDate;
use super::cap_sums;
use super::checkpoint::CheckpointScan;
use super::commit_view::Moment;
use super::days as folded;
use super::delta::DeltaScan;
use super::lock_order::OpenIfFree;
use super::noted;
use super::published::Published;
use super::user_rows::{self, UserRows};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{Access, Index, NotFree, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{DirtySnapshot, Sight};
use crate::pg::tables::caps::{self, Caps};
use crate::pg::tables::days::{self, Days};
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::xact;

/// Reads the caps of one user after the other.
pub struct CapsScan(UserRows<Caps>);

impl OpenIfFree for CapsScan {
    fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        let caps = relations.caps().unwrap_or_else(|error| error.raise());
        let table = Table::open_if_free(caps, Access::Read)?;
        Ok(Self(UserRows::new(table, relations.open_caps_index(Index::open_if_free)?)))
    }
}

impl CapsScan {
    /// Keeps the locks of its relations to the end of the transaction.
    pub fn keep_locks(&self) {
        self.0.keep_locks();
    }

    /// The user's caps, in the order of their ids. 55000 for a period that is none.
    pub fn find(&mut self, user: &UserId, now: &Moment) -> Result<Vec<Cap>, LedgerError> {
        let rows = self.0.seek(caps::USER_ID.equal(user), now, caps::IS_ENFORCED);
        let mut found = Vec::new();
        while let Some(row) = rows.next() {
            found.push(decode(&row)?);
        }
        found.sort_unstable_by_key(|cap| cap.id);
        Ok(found)
    }

    /// What was spent of the user's caps, committed and by the transaction itself, for a decision at this time. 54000 if the transaction
    /// has changed them and there are too many.
    pub fn spends_to_decide(
        &mut self,
        user: &UserId,
        announced: &[AnnouncedCap],
        request: Request,
        now: &Moment,
        clock: i64,
        relations: &Relations,
    ) -> Result<Vec<CapSpend>, LedgerError> {
        let changes = request == Request::Rebound;
        let moment = if changes { Clock::At(clock) } else { Clock::From(clock) };
        let spends = self.spends(user, announced, now, moment, now.sight(), relations)?;
        if changes && spends.len() > MOST_CAPS {
            return Err(LedgerError::TooManyCaps { user: *user, count: spends.len() });
        }
        Ok(spends)
    }

    /// What was spent of the user's caps, as far as `sight` meets it. The caps are those of the moment.
    pub fn spends(
        &mut self,
        user: &UserId,
        announced: &[AnnouncedCap],
        now: &Moment,
        clock: Clock,
        sight: Sight,
        relations: &Relations,
    ) -> Result<Vec<CapSpend>, LedgerError> {
        let mut spends = self.begin(user, announced, now, clock)?;
        if let Some(from) = spends.iter().map(|spend| spend.window().start).min() {
            match Folded::find_if_free(user, &spends, now, relations)? {
                Some(folded) => {
                    let coverage = folded.add_usage(&mut spends, user)?;
                    // The settlement has that index open, so its lock is not waited for.
                    DeltaScan::open(relations, sight)
                        .each(user, &coverage, |row| add_row(&mut spends, row))?;
                }
                None => add_usage(&mut spends, user, from, sight, relations)?,
            }
        }
        Ok(spends)
    }

    /// The same, with rows in flight, for a commit that shares the stripe.
    pub fn spends_in_flight(
        &mut self,
        user: &UserId,
        announced: &[AnnouncedCap],
        now: &Moment,
        published: &Published,
        relations: &Relations,
    ) -> Result<Vec<CapSpend>, LedgerError> {
        let mut spends = self.begin(user, announced, now, Clock::From(xact::now()))?;
        let Some(from) = spends.iter().map(|spend| spend.window().start).min() else { return Ok(spends) };
        let sight = Sight::Dirty(DirtySnapshot::new());
        let name = published.name();
        let kept = name.and_then(|name| cap_sums::go_on(user, &name, &mut spends, now.open()));
        let coverage = match kept {
            Some(coverage) => coverage,
            None => match Folded::find_if_free(user, &spends, now, relations)? {
                Some(folded) => folded.add_usage(&mut spends, user)?,
                None => {
                    add_usage(&mut spends, user, from, sight, relations)?;
                    return Ok(spends);
                }
            },
        };
        let advanced = if now.target().contains(&coverage) { now.target() } else { &coverage };
        let mut to_keep = spends.clone();
        DeltaScan::open(relations, sight).each(user, &coverage, |row| {
            if !row.in_flight() && advanced.covers(row.get(transactions::XACT_ID)) {
                add_row(&mut to_keep, row)?;
            }
            add_row(&mut spends, row)
        })?;
        if let Some(name) = name {
            cap_sums::keep(user, name, advanced.clone(), to_keep);
        }
        Ok(spends)
    }

    /// The user's caps, of which nothing is added up.
    fn begin(
        &mut self,
        user: &UserId,
        announced: &[AnnouncedCap],
        now: &Moment,
        clock: Clock,
    ) -> Result<Vec<CapSpend>, LedgerError> {
        let spend = |cap: Cap| {
            let known = announced.iter().find(|announced| announced.id == cap.id);
            CapSpend::new(cap, known, clock)
        };
        Ok(self.find(user, now)?.into_iter().map(spend).collect())
    }
}

/// What a user's checkpoint covers, by day.
struct Folded {
    coverage: Coverage,
    totals: IndexScan<Days>,
    /// The days on which a window begins after midnight, and when the first of them does. With the index by date, if there are any.
    begun: Option<(BTreeMap<Day, i64>, RowsByDate)>,
}

impl Folded {
    /// `None` if the checkpoint has no daily totals, or something that is needed is not there or not free.
    fn find_if_free(
        user: &UserId,
        spends: &[CapSpend],
        now: &Moment,
        relations: &Relations,
    ) -> Result<Option<Self>, LedgerError> {
        let (Ok(mut checkpoints), Ok(days)) = (CheckpointScan::open_if_free(relations), relations.days())
        else {
            return Ok(None);
        };
        let Some(stored) = checkpoints.find(user, now.snapshot())?.filter(|stored| stored.has_days) else {
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
    fn add_usage(self, spends: &mut [CapSpend], user: &UserId) -> Result<Coverage, LedgerError> {
        let Self { coverage, mut totals, begun } = self;
        let first = spends.iter().map(|spend| Day::of(spend.window().start)).min();
        let first = Bound::Included(first.unwrap_or(Day::NEVER_ENDING));
        folded::each(&mut totals, user, first, Bound::Unbounded, |day, total| {
            if total.get(days::TRANSACTION_TYPE) != Some(TransactionType::Usage) {
                return Ok(());
            }
            let key = total.get(days::API_KEY_ID).map(ApiKeyId::from_bytes);
            let amount = total.get(days::TOTAL_AMOUNT);
            // A window ends at midnight: a day that is not begun by then lies in one window.
            spends.iter_mut().try_for_each(|spend| spend.add_settled(key, day.start(), amount))
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

/// The day on which the current window begins, if it begins after midnight.
fn day_begun(spend: &CapSpend) -> Option<Day> {
    let start = spend.window().start;
    let day = Day::of(start);
    (day.start() < start).then_some(day)
}

/// Adds a row, if it is usage.
fn add_row(spends: &mut [CapSpend], row: &Row<'_, Ledger>) -> Result<(), SumOutOfRange> {
    if row.get(transactions::TRANSACTION_TYPE) != Some(TransactionType::Usage) {
        return Ok(());
    }
    let key = row.get(transactions::API_KEY_ID).map(ApiKeyId::from_bytes);
    let (created_at, amount) = (row.get(transactions::CREATED_AT), row.get(transactions::AMOUNT));
    for spend in spends {
        if row.in_flight() {
            spend.add_in_flight(key, created_at, amount)?;
        } else {
            spend.add_settled(key, created_at, amount)?;
        }
    }
    Ok(())
}

/// Adds the user's usage that is dated `from` then on. The delta index is open: where the index by date is not free, or is not there, every
/// row of the user is looked at.
fn add_usage(
    spends: &mut [CapSpend],
    user: &UserId,
    from: i64,
    sight: Sight,
    relations: &Relations,
) -> Result<(), LedgerError> {
    if let Ok(Some(index)) = relations.open_created_index(Index::open_if_free) {
        let mut rows = RowsByDate::new(relations, index, sight, transactions::CREATED_AT);
        return Ok(rows.each(user, from, None, |row| add_row(spends, row))?);
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

fn decode(row: &Row<'_, Caps>) -> Result<Cap, LedgerError> {
    let period = row.get(caps::PERIOD).map(|name| {
        let unknown = || LedgerError::UnknownPeriod(String::from_utf8_lossy(&name).into_owned());
        Period::parse(&name).ok_or_else(unknown)
    });
    Ok(Cap {
        id: row.get(caps::ID),
        keys: row.get(caps::API_KEY_IDS),
        period: period.transpose()?,
        amount: row.get(caps::AMOUNT),
        since: row.get(caps::SINCE),
        is_enforced: row.get(caps::IS_ENFORCED),
    })
}

/// Notes that the transaction changes a spend cap of the user of this row, and of the user that an UPDATE gives it to.
pub fn note_changed(cap: &Row<'_, Caps>, new: Option<&Row<'_, Caps>>) -> Result<(), LedgerError> {
    noted::note_rebound([Some(cap), new].map(|cap| cap.map(|cap| cap.get(caps::USER_ID))))
}

/// Notes that the transaction takes all spend caps away.
pub fn note_truncated(relations: &Relations) -> Result<(), LedgerError> {
    user_rows::each(relations.caps()?, caps::USER_ID, |cap| note_changed(cap, None))
}
