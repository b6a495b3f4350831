//! The boundaries of accounts: what users have written into `spending_limits`.
//!
//! A settlement needs them at every commit, and finds them in the account's checkpoint. They are copied there under the exclusive
//! stripe: by the commit of a transaction that has changed them, and whenever a checkpoint is made or refreshed by request. So
//! nobody else looks at `spending_limits`, and an account without boundaries pays nothing.

use std::rc::Rc;

use ledger::boundaries::Boundaries;
use ledger::id::UserId;
use ledger::overdraft::Overdraft;
use ledger::settlement::Request;
use pgrx::pg_sys;

use super::commit_view::Moment;
use super::noted;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{Access, Index, NotFree, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::limits::{self, Limits};
use crate::pg::xact;

/// Reads boundaries, of one user after the other.
pub struct LimitsScan {
    limits: pg_sys::Oid,
    /// The primary key, until the scan of it is begun.
    key: Option<Index>,
    /// Begun for the first user.
    scan: Option<IndexScan<Limits>>,
    /// Holds the lock of the table, so it is closed last.
    table: Table,
}

impl LimitsScan {
    /// The scan in `opened`. If there is none, opens the table if the locks of it and of its primary key are free.
    pub fn get_or_open<'a>(
        opened: &'a mut Option<Self>,
        relations: &Relations,
    ) -> Result<&'a mut Self, NotFree> {
        match opened {
            Some(scan) => Ok(scan),
            None => Ok(opened.insert(Self::open_if_free(relations)?)),
        }
    }

    /// Opens the table if the locks of it and of its primary key are free.
    pub fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        let limits = relations.limits().unwrap_or_else(|error| error.raise());
        let table = Table::open_if_free(limits, Access::Read)?;
        let key = Some(Index::primary_key_if_free(&table)?);
        Ok(Self { limits, key, scan: None, table })
    }

    /// The user's boundaries, those of every account where it has none of its own.
    pub fn find(&mut self, user: &UserId, now: &Moment) -> Boundaries {
        let Self { limits, key, scan, table } = self;
        let scan = scan.get_or_insert_with(|| {
            let key = key.take().unwrap_or_else(|| Index::primary_key_of(table));
            IndexScan::new(Table::open_locked(*limits), key, now.sight(), 1, limits::THRESHOLDS)
        });
        scan.see_with(now.sight());
        scan.seek(&[limits::USER_ID.equal(user)]);
        scan.next().map_or_else(Boundaries::default, |row| decode(&row))
    }
}

fn decode(row: &Row<'_, Limits>) -> Boundaries {
    let overdraft = row.get(limits::OVERDRAFT_LIMIT).map_or(Overdraft::Unlimited, Overdraft::UpTo);
    Boundaries::new(overdraft, row.get(limits::THRESHOLDS))
}

/// Notes that the transaction changes the boundaries of the user of this row of `spending_limits`, and those of the user that an
/// UPDATE makes it the row of.
pub fn note_changed(row: &Row<'_, Limits>, new: Option<&Row<'_, Limits>>) -> Result<(), LedgerError> {
    noted::refuse_once_taken();
    let users = [Some(row), new].map(|row| row.map(|row| row.get(limits::USER_ID)));
    noted::request(users.iter().flatten(), Request::Rebound)
}

/// Notes that the transaction takes all boundaries away.
pub fn note_truncated(relations: &Relations) -> Result<(), LedgerError> {
    let table = Table::open(relations.limits()?, Access::Read);
    let key = Index::primary_key_of(&table);
    let now = Rc::new(Snapshot::latest());
    let mut scan = IndexScan::new(table, key, Sight::without_siread(&now), 0, limits::USER_ID);
    scan.seek(&[]);
    while let Some(row) = scan.next() {
        note_changed(&row, None)?;
        xact::check_for_interrupts();
    }
    Ok(())
}
