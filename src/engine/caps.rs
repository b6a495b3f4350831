//! Spend caps: what users have written into `spend_caps`, and what has been spent of them.
//!
//! Which caps an account has, and what was announced of each, is in its checkpoint: copied there under the exclusive stripe by the commit
//! that changes them. Who shares the stripe sees the rows of `spend_caps` that were copied last. An account without caps has none in its
//! checkpoint, and nobody looks for any.
//!
//! What was spent is added up by [`cap_usage`](super::cap_usage). A commit that shares the stripe goes on from what the session has added up
//! last, and reads what has come since ([`cap_sums`]).

use ledger::caps::{AnnouncedCap, Cap, CapSpend, Clock, MOST_CAPS};
use ledger::id::UserId;
use ledger::period::Period;
use ledger::settlement::Request;

use super::cap_sums;
use super::cap_usage::{Folded, add_row, add_usage};
use super::delta::DeltaScan;
use super::lock_order::OpenIfFree;
use super::moment::Moment;
use super::noted;
use super::published::Published;
use super::user_rows::{self, UserRows};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{Access, Index, NotFree, Table};
use crate::pg::row::Row;
use crate::pg::snapshot::{DirtySnapshot, Sight};
use crate::pg::tables::caps::{self, Caps};
use crate::pg::tables::transactions;
use crate::pg::xact;

/// Reads the caps of one user after the other.
pub struct CapsScan {
    relations: Relations,
    rows: UserRows<Caps>,
}

impl OpenIfFree for CapsScan {
    fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        let caps = relations.caps().unwrap_or_else(|error| error.raise());
        let table = Table::open_if_free(caps, Access::Read)?;
        let rows = UserRows::new(table, relations.open_caps_index(Index::open_if_free)?);
        Ok(Self { relations: *relations, rows })
    }
}

impl CapsScan {
    /// Keeps the locks of its relations to the end of the transaction.
    pub fn keep_locks(&self) {
        self.rows.keep_locks();
    }

    /// The user's caps, in the order of their ids. 55000 for a period that is none.
    pub fn find(&mut self, user: &UserId, now: &Moment) -> Result<Vec<Cap>, LedgerError> {
        let rows = self.rows.seek(caps::USER_ID.equal(user), now, caps::IS_ENFORCED);
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
    ) -> Result<Vec<CapSpend>, LedgerError> {
        let changes = request == Request::Rebound;
        let moment = if changes { Clock::At(clock) } else { Clock::From(clock) };
        let spends = self.spends(user, announced, now, moment)?;
        if changes && spends.len() > MOST_CAPS {
            return Err(LedgerError::TooManyCaps { user: *user, count: spends.len() });
        }
        Ok(spends)
    }

    /// What was spent of the user's caps, committed and by the transaction itself.
    pub fn spends(
        &mut self,
        user: &UserId,
        announced: &[AnnouncedCap],
        now: &Moment,
        clock: Clock,
    ) -> Result<Vec<CapSpend>, LedgerError> {
        let mut spends = self.begin(user, announced, now, clock)?;
        if spends.is_empty() {
            return Ok(spends);
        }
        let relations = &self.relations;
        match Folded::find_if_free(user, &spends, now, relations)? {
            Some(folded) => {
                let coverage = folded.add_usage(&mut spends, user)?;
                // The settlement has that index open, so its lock is not waited for.
                DeltaScan::open(relations, now.sight())
                    .each(user, &coverage, |row| add_row(&mut spends, row))?;
            }
            None => add_usage(&mut spends, user, now.sight(), relations)?,
        }
        Ok(spends)
    }

    /// What was spent of the user's caps, rows in flight included, for a commit that shares the stripe.
    pub fn spends_in_flight(
        &mut self,
        user: &UserId,
        announced: &[AnnouncedCap],
        now: &Moment,
        published: &Published,
    ) -> Result<Vec<CapSpend>, LedgerError> {
        let mut spends = self.begin(user, announced, now, Clock::From(xact::now()))?;
        if spends.is_empty() {
            return Ok(spends);
        }
        let relations = &self.relations;
        let sight = Sight::Dirty(DirtySnapshot::new());
        let name = published.name();
        let kept = name.and_then(|name| cap_sums::go_on(user, &name, &mut spends));
        let coverage = match kept {
            Some(coverage) => coverage,
            None => match Folded::find_if_free(user, &spends, now, relations)? {
                Some(folded) => folded.add_usage(&mut spends, user)?,
                None => {
                    add_usage(&mut spends, user, sight, relations)?;
                    return Ok(spends);
                }
            },
        };
        // What has been added up was covered earlier, so the target covers it, too. It covers nothing that is in flight.
        let target = now.target();
        let mut to_keep = spends.clone();
        DeltaScan::open(relations, sight).each(user, &coverage, |row| {
            if target.covers(row.get(transactions::XACT_ID)) {
                add_row(&mut to_keep, row)?;
            }
            add_row(&mut spends, row)
        })?;
        if let Some(name) = name {
            cap_sums::keep(user, name, target.clone(), to_keep);
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
