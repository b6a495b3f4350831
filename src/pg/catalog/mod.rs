//! The extension's relations: their oids, and the numbers of columns that an update has added.

mod cache;
mod indexes;

use pgrx::pg_sys;

pub use self::cache::{accept_invalidations, init, invalidate_ledger, ledger_generation};
use self::indexes::{CAPS_INDEX_NAME, DELTA_INDEX_NAME, HOLDS_INDEX_NAME, REVERSES_INDEX_NAME};
use super::column::{Column, Layout};
use super::definition::Definition;
use super::names::{find, find_column, find_needed};
use super::tables::batches::Batches;
use super::tables::bucket_states::BucketStates;
use super::tables::caps::Caps;
use super::tables::changes::Changes;
use super::tables::checkpoints::{self, BoundaryColumns, Checkpoints};
use super::tables::copies::Copies;
use super::tables::days::{self, Days};
use super::tables::holds::{HOLDS_KEY, Holds};
use super::tables::identity::Identity;
use super::tables::limits::Limits;
use super::tables::transactions::{self, LaterColumns, Ledger};
use super::{description, relcache};
use crate::error::LedgerError;

/// The relations that are read and written directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relations {
    /// `credits_transactions`
    pub ledger: pg_sys::Oid,
    /// its index on `(user_id, xact_id)`
    pub delta_index: pg_sys::Oid,
    /// `user_balance_checkpoints`
    pub checkpoints: pg_sys::Oid,
    /// `batch_aggregates`
    pub batches: pg_sys::Oid,
    /// `checkpoint_changes`: without it nothing is published
    pub changes: Option<pg_sys::Oid>,
    /// `credits_transactions_single_idx`; `None` if it was dropped: pages are read without it then, as without the next three
    pub single_index: Option<pg_sys::Oid>,
    /// `credits_transactions_batched_idx`
    pub batched_index: Option<pg_sys::Oid>,
    /// `credits_transactions_user_created_idx`: sums up to a moment are queried without it
    pub user_created_index: Option<pg_sys::Oid>,
    /// `credits_transactions_seq_idx`
    pub seq_index: Option<pg_sys::Oid>,
    /// `batch_aggregates_user_seq_idx`
    pub folded_index: Option<pg_sys::Oid>,
    /// `credits_transactions_stamp_idx`
    pub stamp_index: Option<pg_sys::Oid>,
    /// `credits_transactions_reverses_idx`
    reverses_index: Option<pg_sys::Oid>,
    /// `credits_transactions_source_id_key`
    source_id_key: Option<pg_sys::Oid>,
    /// `ledger_identity`
    pub identity: Option<pg_sys::Oid>,
    /// `daily_totals`; `None` if it was dropped, as with the next ones: whoever needs one raises an error
    days: Option<pg_sys::Oid>,
    /// its index on all that totals are kept apart by
    days_index: Option<pg_sys::Oid>,
    /// `holds`
    holds: Option<pg_sys::Oid>,
    /// its index on `(user_id, expires_at)`
    holds_index: Option<pg_sys::Oid>,
    /// its primary key
    holds_key: Option<pg_sys::Oid>,
    /// `spending_limits`
    limits: Option<pg_sys::Oid>,
    /// `spend_caps`
    caps: Option<pg_sys::Oid>,
    /// its index on `user_id`
    caps_index: Option<pg_sys::Oid>,
    /// `bucket_states`: without it every bucket is here
    pub bucket_states: Option<pg_sys::Oid>,
    /// `copies`: without it no row is a copy
    pub copies: Option<pg_sys::Oid>,
    /// The ledger's columns `category`, `metadata` and `reverses`; `None` if one of them is missing.
    later_columns: Option<LaterColumns>,
    /// The columns of the checkpoints for an account's boundaries; `None` if one of them is missing.
    boundary_columns: Option<BoundaryColumns>,
    /// Their column `has_days`.
    has_days: Option<Column<Checkpoints, Option<bool>>>,
}

impl Relations {
    /// The index that keeps the ledger's `source_id`s apart, if it is there.
    pub fn source_id_key(&self) -> Option<pg_sys::Oid> {
        self.source_id_key
    }

    /// The primary key of the holds, if it is there.
    pub fn holds_key(&self) -> Option<pg_sys::Oid> {
        self.holds_key
    }

    /// The index of an account's holds, if it is there.
    pub fn holds_index(&self) -> Option<pg_sys::Oid> {
        self.holds_index
    }

    /// Raises 55000 if a column of one of the tables is not of the type that it was made with: rows are read and written by column
    /// numbers. False if a table could not be looked at since another session is changing it; opening that table will wait.
    fn have_their_columns(&self) -> bool {
        [
            (Some(self.ledger), Ledger::DEFINITION),
            (Some(self.checkpoints), Checkpoints::DEFINITION),
            (Some(self.batches), Batches::DEFINITION),
            (self.changes, Changes::DEFINITION),
            (self.identity, Identity::DEFINITION),
            (self.days, Days::DEFINITION),
            (self.holds, Holds::DEFINITION),
            (self.limits, Limits::DEFINITION),
            (self.caps, Caps::DEFINITION),
            (self.bucket_states, BucketStates::DEFINITION),
            (self.copies, Copies::DEFINITION),
        ]
        .into_iter()
        .filter_map(|(oid, definition)| Some((oid?, definition)))
        .all(|(oid, definition)| {
            // SAFETY: the types of the columns are compared, which calls nothing that processes invalidations.
            let other = unsafe {
                relcache::with_entry_if_free(oid, |relation| {
                    description::first_of_other_type((*relation).rd_att, definition.columns)
                })
            };
            if let Some(Some(number)) = other {
                LedgerError::OtherColumn { table: definition.display_name(), number: number + 1 }.raise();
            }
            other.is_some()
        })
    }

    fn find() -> Self {
        let ledger = find_needed(Ledger::DEFINITION.name);
        let checkpoints = find_needed(Checkpoints::DEFINITION.name);
        Self {
            ledger,
            delta_index: find_needed(DELTA_INDEX_NAME),
            checkpoints,
            batches: find_needed(Batches::DEFINITION.name),
            changes: find(Changes::DEFINITION.name),
            single_index: find(c"credits_transactions_single_idx"),
            batched_index: find(c"credits_transactions_batched_idx"),
            user_created_index: find(c"credits_transactions_user_created_idx"),
            seq_index: find(c"credits_transactions_seq_idx"),
            folded_index: find(c"batch_aggregates_user_seq_idx"),
            stamp_index: find(c"credits_transactions_stamp_idx"),
            reverses_index: find(REVERSES_INDEX_NAME),
            source_id_key: find(transactions::SOURCE_ID_KEY),
            identity: find(Identity::DEFINITION.name),
            days: find(Days::DEFINITION.name),
            days_index: find(days::INDEX),
            holds: find(Holds::DEFINITION.name),
            holds_index: find(HOLDS_INDEX_NAME),
            holds_key: find(HOLDS_KEY),
            limits: find(Limits::DEFINITION.name),
            caps: find(Caps::DEFINITION.name),
            caps_index: find(CAPS_INDEX_NAME),
            bucket_states: find(BucketStates::DEFINITION.name),
            copies: find(Copies::DEFINITION.name),
            later_columns: find_later_columns(ledger),
            boundary_columns: find_boundary_columns(checkpoints),
            has_days: find_column(checkpoints, checkpoints::HAS_DAYS),
        }
    }

    /// `daily_totals`. An error if it is missing.
    pub fn days(&self) -> Result<pg_sys::Oid, LedgerError> {
        self.days.ok_or_else(|| missing_table(Days::DEFINITION))
    }

    /// `holds`. An error if it is missing.
    pub fn holds(&self) -> Result<pg_sys::Oid, LedgerError> {
        self.holds.ok_or_else(|| missing_table(Holds::DEFINITION))
    }

    /// `spending_limits`. An error if it is missing.
    pub fn limits(&self) -> Result<pg_sys::Oid, LedgerError> {
        self.limits.ok_or_else(|| missing_table(Limits::DEFINITION))
    }

    /// `spend_caps`. An error if it is missing.
    pub fn caps(&self) -> Result<pg_sys::Oid, LedgerError> {
        self.caps.ok_or_else(|| missing_table(Caps::DEFINITION))
    }

    /// The ledger's columns `category`, `metadata` and `reverses`. An error if one of them is missing or of another type.
    pub fn later_columns(&self) -> Result<LaterColumns, LedgerError> {
        self.later_columns.ok_or_else(missing_later_column)
    }

    /// The columns of the checkpoints for an account's boundaries. An error if one of them is missing or of another type.
    pub fn boundary_columns(&self) -> Result<BoundaryColumns, LedgerError> {
        self.boundary_columns.ok_or_else(|| {
            LedgerError::Missing(
                "column overdraft_limit, thresholds, thresholds_below, thresholds_crossed_at, cap_ids or \
                 caps_reached_until of user_balance_checkpoints, or its type"
                    .to_owned(),
            )
        })
    }

    /// The column of the checkpoints that says whether daily totals have what they cover. An error if it is missing or of another type.
    pub fn has_days(&self) -> Result<Column<Checkpoints, Option<bool>>, LedgerError> {
        self.has_days.ok_or_else(|| {
            LedgerError::Missing("column has_days of user_balance_checkpoints, or its type".to_owned())
        })
    }

    /// The tables whose definitions are part of the ledger's state.
    pub fn tables_of_state(&self) -> [pg_sys::Oid; 6] {
        let or_none = |table: Option<pg_sys::Oid>| table.unwrap_or(pg_sys::InvalidOid);
        let users = [self.changes, self.holds, self.limits, self.caps].map(or_none);
        let [changes, holds, limits, caps] = users;
        [self.ledger, self.checkpoints, changes, holds, limits, caps]
    }

    fn contains(&self, oid: pg_sys::Oid) -> bool {
        let needed = [self.ledger, self.delta_index, self.checkpoints, self.batches];
        let useful = [
            self.changes,
            self.single_index,
            self.batched_index,
            self.user_created_index,
            self.seq_index,
            self.folded_index,
            self.stamp_index,
            self.reverses_index,
            self.source_id_key,
            self.identity,
            self.days,
            self.days_index,
            self.holds,
            self.holds_index,
            self.holds_key,
            self.limits,
            self.caps,
            self.caps_index,
            self.bucket_states,
            self.copies,
        ];
        needed.contains(&oid) || useful.contains(&Some(oid))
    }
}

fn find_later_columns(ledger: pg_sys::Oid) -> Option<LaterColumns> {
    Some(LaterColumns {
        category: find_column(ledger, transactions::CATEGORY)?,
        metadata: find_column(ledger, transactions::METADATA)?,
        reverses: find_column(ledger, transactions::REVERSES)?,
    })
}

fn find_boundary_columns(checkpoints: pg_sys::Oid) -> Option<BoundaryColumns> {
    Some(BoundaryColumns {
        overdraft_limit: find_column(checkpoints, checkpoints::OVERDRAFT_LIMIT)?,
        thresholds: find_column(checkpoints, checkpoints::THRESHOLDS)?,
        thresholds_below: find_column(checkpoints, checkpoints::THRESHOLDS_BELOW)?,
        thresholds_crossed_at: find_column(checkpoints, checkpoints::THRESHOLDS_CROSSED_AT)?,
        cap_ids: find_column(checkpoints, checkpoints::CAP_IDS)?,
        caps_reached_until: find_column(checkpoints, checkpoints::CAPS_REACHED_UNTIL)?,
    })
}

/// One of the ledger's columns `category`, `metadata` and `reverses` is missing or of another type.
pub fn missing_later_column() -> LedgerError {
    LedgerError::Missing(
        "column category, metadata or reverses of credits_transactions, or its type".to_owned(),
    )
}

fn missing_table(definition: &Definition) -> LedgerError {
    LedgerError::Missing(format!("credits.{}", definition.display_name()))
}
