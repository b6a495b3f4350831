//! Spend caps: what users have written into `spend_caps`, and what has been spent of them.
//!
//! Which caps an account has, and what was announced of each, is in its checkpoint: copied there under the exclusive stripe by the commit
//! that changes them. Who shares the stripe sees the rows of `spend_caps` that were copied last. An account without caps has none in its
//! checkpoint, and nobody looks for any.
//!
//! What was spent is added up from the ledger by the index on user and date, from the start of the earliest window on. What is in flight is
//! met as it is in the delta: whoever has counted before has its rows there.

use std::rc::Rc;

use ledger::caps::{AnnouncedCap, Cap, CapSpend, Clock};
use ledger::id::{ApiKeyId, UserId};
use ledger::period::Period;
use ledger::settlement::Request;
use ledger::transaction_type::TransactionType;
use pgrx::pg_sys;

use super::commit_view::Moment;
use super::noted;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{Access, Index, NotFree, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::scan_key::ToTheSecond;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::caps::{self, Caps};
use crate::pg::tables::transactions;
use crate::pg::xact;

const MICROS_PER_SECOND: i64 = 1_000_000;

/// Reads the caps of one user after the other.
pub struct CapsScan {
    caps: pg_sys::Oid,
    /// The index on `user_id`, until the scan of it is begun.
    index: Option<Index>,
    /// Begun for the first user.
    scan: Option<IndexScan<Caps>>,
    /// Holds the lock of the table, so it is closed last.
    _table: Table,
}

impl CapsScan {
    /// The scan in `opened`. If there is none, opens the table if the locks of it and of its index are free.
    pub fn get_or_open<'a>(
        opened: &'a mut Option<Self>,
        relations: &Relations,
    ) -> Result<&'a mut Self, NotFree> {
        match opened {
            Some(scan) => Ok(scan),
            None => Ok(opened.insert(Self::open_if_free(relations)?)),
        }
    }

    /// Opens the table if the locks of it and of its index are free.
    pub fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        let caps = relations.caps().unwrap_or_else(|error| error.raise());
        let table = Table::open_if_free(caps, Access::Read)?;
        let index = Some(relations.open_caps_index(Index::open_if_free)?);
        Ok(Self { caps, index, scan: None, _table: table })
    }

    /// The user's caps, in the order of their ids. Raises 55000 for a period that is none.
    pub fn find(&mut self, user: &UserId, now: &Moment) -> Vec<Cap> {
        let Self { caps, index, scan, .. } = self;
        let scan = match scan {
            Some(scan) => {
                scan.see_with(now.sight());
                scan
            }
            None => {
                let index = index.take().expect("begun once");
                scan.insert(IndexScan::new(
                    Table::open_locked(*caps),
                    index,
                    now.sight(),
                    1,
                    caps::IS_ENFORCED,
                ))
            }
        };
        scan.seek(&[caps::USER_ID.equal(user)]);
        let mut found = Vec::new();
        while let Some(row) = scan.next() {
            found.push(decode(&row));
        }
        found.sort_unstable_by_key(|cap| cap.id);
        found
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
        let spend = |cap: Cap| {
            let known = announced.iter().find(|announced| announced.id == cap.id);
            CapSpend::new(cap, known, clock)
        };
        let mut spends: Vec<CapSpend> = self.find(user, now).into_iter().map(spend).collect();
        if let Some(from) = spends.iter().map(|spend| spend.window().start).min() {
            add_usage(&mut spends, user, from, sight, relations)?;
        }
        Ok(spends)
    }
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
    let ledger = Table::open_locked(relations.ledger);
    let of_user = transactions::USER_ID.equal(user);
    let mut rows = match relations.open_created_index_if_free() {
        Some(index) => {
            let mut rows = IndexScan::new(ledger, index, sight, 2, transactions::CREATED_AT);
            // Whichever way the index has rounded it.
            rows.seek(&[of_user, ToTheSecond.at_least(from.saturating_sub(MICROS_PER_SECOND))]);
            rows
        }
        None => {
            let Ok(index) =
                relations.open_delta_index(|oid| Ok::<_, std::convert::Infallible>(Index::open(oid)));
            let mut rows = IndexScan::new(ledger, index, sight, 1, transactions::CREATED_AT);
            rows.seek(&[of_user]);
            rows
        }
    };
    while let Some(row) = rows.next() {
        xact::check_for_interrupts();
        if row.get(transactions::TRANSACTION_TYPE) != Some(TransactionType::Usage) {
            continue;
        }
        let key = row.get(transactions::API_KEY_ID).map(ApiKeyId::from_bytes);
        let (created_at, amount) = (row.get(transactions::CREATED_AT), row.get(transactions::AMOUNT));
        for spend in &mut *spends {
            if row.in_flight() {
                spend.add_in_flight(key, created_at, amount)?;
            } else {
                spend.add_settled(key, created_at, amount)?;
            }
        }
    }
    Ok(())
}

fn decode(row: &Row<'_, Caps>) -> Cap {
    let period = row.get(caps::PERIOD).map(|name| {
        Period::parse(&name).unwrap_or_else(|| {
            LedgerError::UnknownPeriod(String::from_utf8_lossy(&name).into_owned()).raise()
        })
    });
    Cap {
        id: row.get(caps::ID),
        keys: row.get(caps::API_KEY_IDS),
        period,
        amount: row.get(caps::AMOUNT),
        since: row.get(caps::SINCE),
        is_enforced: row.get(caps::IS_ENFORCED),
    }
}

/// Notes that the transaction changes a spend cap of the user of this row, and of the user that an UPDATE gives it to.
pub fn note_changed(cap: &Row<'_, Caps>, new: Option<&Row<'_, Caps>>) -> Result<(), LedgerError> {
    noted::refuse_once_taken();
    let users = [Some(cap), new].map(|cap| cap.map(|cap| cap.get(caps::USER_ID)));
    noted::request(users.iter().flatten(), Request::Rebound)
}

/// Notes that the transaction takes all spend caps away.
pub fn note_truncated(relations: &Relations) -> Result<(), LedgerError> {
    let table = Table::open(relations.caps()?, Access::Read);
    let key = Index::primary_key_of(&table);
    let now = Rc::new(Snapshot::latest());
    let mut scan = IndexScan::new(table, key, Sight::without_siread(&now), 0, caps::USER_ID);
    scan.seek(&[]);
    while let Some(cap) = scan.next() {
        note_changed(&cap, None)?;
        xact::check_for_interrupts();
    }
    Ok(())
}
