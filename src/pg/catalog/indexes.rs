//! Opens the indexes that the engine reads by, none but those that have every row.
//!
//! A lock on a table does not keep its indexes in place. REINDEX CONCURRENTLY and DROP INDEX CONCURRENTLY let readers and writers
//! go on: an index may become invalid at any time. Until all transactions have ended that held a lock on the table at that moment, the
//! index is maintained and stays complete. On a standby, replay waits for no such transaction: an index may be gone when it is
//! opened.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::Relations;
use crate::error::LedgerError;
use crate::pg::names::{find_index_now, missing};
use crate::pg::relation::Index;
use crate::pg::tables::{days, transactions};

pub(super) const DELTA_INDEX_NAME: &CStr = c"credits_transactions_delta_idx";
pub(super) const HOLDS_INDEX_NAME: &CStr = c"holds_user_idx";
pub(super) const CAPS_INDEX_NAME: &CStr = c"spend_caps_user_idx";
pub(super) const REVERSES_INDEX_NAME: &CStr = c"credits_transactions_reverses_idx";

/// Why an index cannot be read by.
enum Unusable {
    Missing,
    /// It does not have every row.
    Invalid,
}

impl Relations {
    /// Opens the index of deltas with `open`. The ledger is locked. Raises 55000 if the index does not have every row.
    pub fn open_delta_index<E>(
        &self,
        open: impl Fn(pg_sys::Oid) -> Result<Option<Index>, E>,
    ) -> Result<Index, E> {
        open_valid(Some(self.delta_index), self.ledger, DELTA_INDEX_NAME, open)
    }

    /// Opens the index of reversals with `open`. The ledger is locked. `None` if there is no index that has every row.
    pub fn open_reverses_index<E>(
        &self,
        open: impl Fn(pg_sys::Oid) -> Result<Option<Index>, E>,
    ) -> Result<Option<Index>, E> {
        Ok(open_if_valid(self.reverses_index, self.ledger, REVERSES_INDEX_NAME, open)?.ok())
    }

    /// Opens the index of daily totals with `open`. `daily_totals` is locked. Raises 55000 if the index does not have every row.
    pub fn open_days_index<E>(
        &self,
        open: impl Fn(pg_sys::Oid) -> Result<Option<Index>, E>,
    ) -> Result<Index, E> {
        let days = self.days().unwrap_or_else(|error| error.raise());
        open_valid(self.days_index, days, days::INDEX, open)
    }

    /// Opens the index of daily totals if its lock is free. `daily_totals` is locked. `None` where it is not, or the index does not have
    /// every row.
    pub fn open_days_index_if_free(&self) -> Option<Index> {
        Index::open_if_free(self.days_index?).ok()?.filter(Index::is_valid)
    }

    /// Opens the index of an account's holds with `open`. `holds` is locked. Raises 55000 if the index does not have every row.
    pub fn open_holds_index<E>(
        &self,
        open: impl Fn(pg_sys::Oid) -> Result<Option<Index>, E>,
    ) -> Result<Index, E> {
        let holds = self.holds().unwrap_or_else(|error| error.raise());
        open_valid(self.holds_index, holds, HOLDS_INDEX_NAME, open)
    }

    /// Opens the index of an account's spend caps with `open`. `spend_caps` is locked. Raises 55000 if the index does not have every row.
    pub fn open_caps_index<E>(
        &self,
        open: impl Fn(pg_sys::Oid) -> Result<Option<Index>, E>,
    ) -> Result<Index, E> {
        let caps = self.caps().unwrap_or_else(|error| error.raise());
        open_valid(self.caps_index, caps, CAPS_INDEX_NAME, open)
    }

    /// Opens the index of an account's rows by date with `open`. The ledger is locked. `None` where rows have to be found without it: it
    /// was dropped or replaced, or does not have every row.
    pub fn open_created_index<E>(
        &self,
        open: impl Fn(pg_sys::Oid) -> Result<Option<Index>, E>,
    ) -> Result<Option<Index>, E> {
        let Some(oid) = self.user_created_index else { return Ok(None) };
        let created_at = transactions::CREATED_AT.any().attribute_number();
        let is_by_date = |index: &Index| index.is_valid() && index.has_seconds_of(1, created_at);
        Ok(open(oid)?.filter(is_by_date))
    }

    /// Opens the index that keeps the ledger's `source_id`s apart, waiting for its lock. The ledger is locked. Raises 55000 if it does not
    /// have every row.
    pub fn open_source_id_key(&self) -> Index {
        let (key, name) = (self.source_id_key, transactions::SOURCE_ID_KEY);
        let Ok(index) = open_valid(key, self.ledger, name, Index::waited_for);
        index
    }
}

/// Opens an index with [`open_if_valid`]. Raises 55000 if there is none that has every row.
fn open_valid<E>(
    known: Option<pg_sys::Oid>,
    table: pg_sys::Oid,
    name: &'static CStr,
    open: impl Fn(pg_sys::Oid) -> Result<Option<Index>, E>,
) -> Result<Index, E> {
    match open_if_valid(known, table, name, open)? {
        Ok(index) => Ok(index),
        Err(Unusable::Invalid) => LedgerError::InvalidIndex(name.to_str().unwrap_or_default()).raise(),
        Err(Unusable::Missing) => missing(name),
    }
}

/// Opens an index with `open`: the one that was looked up, or, where that is gone or does not have every row, the one of this name, if
/// that has. Its table is locked.
fn open_if_valid<E>(
    known: Option<pg_sys::Oid>,
    table: pg_sys::Oid,
    name: &CStr,
    open: impl Fn(pg_sys::Oid) -> Result<Option<Index>, E>,
) -> Result<Result<Index, Unusable>, E> {
    if let Some(oid) = known
        && let Some(index) = open(oid)?
        && index.is_valid()
    {
        return Ok(Ok(index));
    }
    // REINDEX CONCURRENTLY may have put another index in its place, and this session may not have processed the invalidation yet, so
    // that its caches are out of date. The lock on the table keeps that other index complete, even if a third one follows.
    let current = find_index_now(table, name);
    let index = current.filter(|index| index.is_valid).map(|index| open(index.oid)).transpose()?.flatten();
    Ok(index.ok_or(if current.is_some() { Unusable::Invalid } else { Unusable::Missing }))
}
