//! The extension's relations: their oids, and the numbers of columns that an update has added.

mod added_columns;
mod cache;
mod indexes;

use pgrx::pg_sys;

use self::added_columns::AddedColumns;
pub use self::added_columns::missing_later_column;
pub use self::cache::{accept_invalidations, init, invalidate_ledger, ledger_generation};
use self::indexes::{CAPS_INDEX_NAME, DELTA_INDEX_NAME, HOLDS_INDEX_NAME, REVERSES_INDEX_NAME};
use super::column::Layout;
use super::definition::Definition;
use super::names::{find, find_needed};
use super::tables::batches::Batches;
use super::tables::bucket_states::BucketStates;
use super::tables::caps::Caps;
use super::tables::changes::Changes;
use super::tables::checkpoints::Checkpoints;
use super::tables::copies::Copies;
use super::tables::days::{self, Days};
use super::tables::holds::{HOLDS_KEY, Holds};
use super::tables::identity::Identity;
use super::tables::limits::Limits;
use super::tables::transactions::{self, Ledger};
use super::{description, relcache};
use crate::error::LedgerError;

/// Declares [`Relations`] and what is done with each relation, which is named once: a table by its layout, an index by its name. The
/// first two lists are of those without which nothing works.
macro_rules! relations {
    (
        needed tables: { $($(#[$table_doc:meta])* $table:ident: $layout:ty,)* }
        needed indexes: { $($(#[$index_doc:meta])* $index:ident: $name:expr,)* }
        tables: { $($(#[$other_table_doc:meta])* $visible:vis $other_table:ident: $other_layout:ty,)* }
        indexes: { $($(#[$other_index_doc:meta])* $shown:vis $other_index:ident: $other_name:expr,)* }
    ) => {
        /// The relations that are read and written directly.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Relations {
            $($(#[$table_doc])* pub $table: pg_sys::Oid,)*
            $($(#[$index_doc])* pub $index: pg_sys::Oid,)*
            $($(#[$other_table_doc])* $visible $other_table: Option<pg_sys::Oid>,)*
            $($(#[$other_index_doc])* $shown $other_index: Option<pg_sys::Oid>,)*
            added_columns: AddedColumns,
        }

        impl Relations {
            /// The relations that the schema has now. Raises 55000 if one that is needed is missing.
            fn find() -> Self {
                let found = Self {
                    $($table: find_needed(<$layout>::DEFINITION.name),)*
                    $($index: find_needed($name),)*
                    $($other_table: find(<$other_layout>::DEFINITION.name),)*
                    $($other_index: find($other_name),)*
                    added_columns: AddedColumns::default(),
                };
                Self { added_columns: AddedColumns::find(found.ledger, found.checkpoints), ..found }
            }

            /// The tables that are there.
            fn tables(&self) -> impl Iterator<Item = (pg_sys::Oid, &'static Definition)> {
                let tables = [
                    $((Some(self.$table), <$layout>::DEFINITION),)*
                    $((self.$other_table, <$other_layout>::DEFINITION),)*
                ];
                tables.into_iter().filter_map(|(oid, definition)| Some((oid?, definition)))
            }

            fn contains(&self, oid: pg_sys::Oid) -> bool {
                [$(self.$table,)* $(self.$index,)*].contains(&oid)
                    || [$(self.$other_table,)* $(self.$other_index,)*].contains(&Some(oid))
            }
        }
    };
}

relations! {
    needed tables: {
        /// `credits_transactions`
        ledger: Ledger,
        /// `user_balance_checkpoints`
        checkpoints: Checkpoints,
        /// `batch_aggregates`
        batches: Batches,
    }
    needed indexes: {
        /// of the ledger, on `(user_id, xact_id)`
        delta_index: DELTA_INDEX_NAME,
    }
    tables: {
        /// `checkpoint_changes`: without it nothing is published
        pub changes: Changes,
        /// `ledger_identity`: without it there is no feed
        pub identity: Identity,
        /// `bucket_states`: without it every bucket is here
        pub bucket_states: BucketStates,
        /// `copies`: without it no row is a copy
        pub copies: Copies,
        /// `daily_totals`: whoever needs it where it was dropped raises an error, as with the next three
        days: Days,
        /// `holds`
        holds: Holds,
        /// `spending_limits`
        limits: Limits,
        /// `spend_caps`
        caps: Caps,
    }
    indexes: {
        /// of the ledger, on `(user_id, seq)`, of rows in no batch: without it pages are read by a query, as without the next two
        pub single_index: c"credits_transactions_single_idx",
        /// of the ledger, on `(user_id, seq)`, of rows in a batch
        pub batched_index: c"credits_transactions_batched_idx",
        /// of batches, on `(user_id, max_seq, created_at)`
        pub folded_index: c"batch_aggregates_user_seq_idx",
        /// of the ledger, on `seq`
        pub seq_index: c"credits_transactions_seq_idx",
        /// of the ledger, on `user_id` and the second of `created_at`: without it sums up to a moment are queried
        pub user_created_index: c"credits_transactions_user_created_idx",
        /// of the ledger, a BRIN on `xact_id`
        pub stamp_index: c"credits_transactions_stamp_idx",
        /// of the ledger, on `reverses`
        reverses_index: REVERSES_INDEX_NAME,
        /// of the ledger, which keeps its `source_id`s apart
        pub source_id_key: transactions::SOURCE_ID_KEY,
        /// of the daily totals, on all that they are kept apart by
        days_index: days::INDEX,
        /// of holds, on `(user_id, expires_at)`
        pub holds_index: HOLDS_INDEX_NAME,
        /// of holds, the primary key
        pub holds_key: HOLDS_KEY,
        /// of spend caps, on `user_id`
        caps_index: CAPS_INDEX_NAME,
    }
}

impl Relations {
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

    /// The tables whose definitions are part of the ledger's state; `InvalidOid` in the place of one that is missing.
    pub fn tables_of_state(&self) -> [pg_sys::Oid; 6] {
        [Some(self.ledger), Some(self.checkpoints), self.changes, self.holds, self.limits, self.caps]
            .map(|table| table.unwrap_or(pg_sys::InvalidOid))
    }

    /// Raises 55000 if a column of one of the tables is not of the type that it was made with: rows are read and written by column
    /// numbers. False if a table could not be looked at since another session is changing it; opening that table will wait.
    fn have_their_columns(&self) -> bool {
        self.tables().all(|(oid, definition)| {
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
}

fn missing_table(definition: &Definition) -> LedgerError {
    LedgerError::Missing(format!("credits.{}", definition.display_name()))
}
