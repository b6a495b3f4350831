//! Columns of the extension's tables that an update has added. An owner may have added others before, so that their numbers differ from
//! database to database: they are found by their names, with the oids of the tables.

use pgrx::pg_sys;

use super::Relations;
use crate::error::LedgerError;
use crate::pg::column::Column;
use crate::pg::names::find_column;
use crate::pg::tables::checkpoints::{self, BoundaryColumns, Checkpoints};
use crate::pg::tables::transactions::{self, LaterColumns};

/// Each is `None` if a column is missing or of another type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AddedColumns {
    later: Option<LaterColumns>,
    boundary: Option<BoundaryColumns>,
    has_days: Option<Column<Checkpoints, Option<bool>>>,
}

impl AddedColumns {
    pub(super) fn find(ledger: pg_sys::Oid, checkpoints: pg_sys::Oid) -> Self {
        Self {
            later: find_later(ledger),
            boundary: find_boundary(checkpoints),
            has_days: find_column(checkpoints, checkpoints::HAS_DAYS),
        }
    }
}

fn find_later(ledger: pg_sys::Oid) -> Option<LaterColumns> {
    Some(LaterColumns {
        category: find_column(ledger, transactions::CATEGORY)?,
        metadata: find_column(ledger, transactions::METADATA)?,
        reverses: find_column(ledger, transactions::REVERSES)?,
    })
}

fn find_boundary(checkpoints: pg_sys::Oid) -> Option<BoundaryColumns> {
    Some(BoundaryColumns {
        overdraft_limit: find_column(checkpoints, checkpoints::OVERDRAFT_LIMIT)?,
        thresholds: find_column(checkpoints, checkpoints::THRESHOLDS)?,
        thresholds_below: find_column(checkpoints, checkpoints::THRESHOLDS_BELOW)?,
        thresholds_crossed_at: find_column(checkpoints, checkpoints::THRESHOLDS_CROSSED_AT)?,
        cap_ids: find_column(checkpoints, checkpoints::CAP_IDS)?,
        caps_reached_until: find_column(checkpoints, checkpoints::CAPS_REACHED_UNTIL)?,
    })
}

impl Relations {
    /// The ledger's columns `category`, `metadata` and `reverses`. An error if one of them is missing or of another type.
    pub fn later_columns(&self) -> Result<LaterColumns, LedgerError> {
        self.added_columns.later.ok_or_else(missing_later_column)
    }

    /// The columns of the checkpoints for an account's boundaries. An error if one of them is missing or of another type.
    pub fn boundary_columns(&self) -> Result<BoundaryColumns, LedgerError> {
        self.added_columns.boundary.ok_or_else(|| {
            LedgerError::Missing(
                "column overdraft_limit, thresholds, thresholds_below, thresholds_crossed_at, cap_ids or \
                 caps_reached_until of user_balance_checkpoints, or its type"
                    .to_owned(),
            )
        })
    }

    /// The column of the checkpoints that says whether daily totals have what they cover. An error if it is missing or of another type.
    pub fn has_days(&self) -> Result<Column<Checkpoints, Option<bool>>, LedgerError> {
        self.added_columns.has_days.ok_or_else(|| {
            LedgerError::Missing("column has_days of user_balance_checkpoints, or its type".to_owned())
        })
    }
}

/// One of the ledger's columns `category`, `metadata` and `reverses` is missing or of another type.
pub fn missing_later_column() -> LedgerError {
    LedgerError::Missing(
        "column category, metadata or reverses of credits_transactions, or its type".to_owned(),
    )
}
