//! The newest rows of the ledger, or of a user, without a query.
//!
//! A page of 50 rows costs a query as much to set up as to find. Read like this, it costs its rows.

use ledger::id::UserId;
use std::rc::Rc;

use pgrx::pg_sys;

use super::delta::column;
use crate::pg::catalog::Relations;
use crate::pg::privilege::{self, View};
use crate::pg::relation::{Index, Table};
use crate::pg::row::{Column, Row};
use crate::pg::scan::{IndexScan, Key};
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::xact;

/// Columns that a list shows, in the order of `credit_transaction`.
pub const LISTED_COLUMNS: [Column; 10] = [1, 2, 3, 4, 5, 6, 9, 10, 7, 8];

/// Rows with the highest `seq` first, as the running query's snapshot sees them.
pub struct NewestRows {
    /// Each finds its rows in this order.
    scans: Vec<IndexScan>,
    /// The one that stands on the row that was returned last.
    last: Option<usize>,
}

impl NewestRows {
    /// The rows of `user`, or of everybody, that are older than the cursor. `None` if they must come from a query:
    /// where row-level security filters them, or an index is missing. Raises 42501 if the caller may not read them.
    pub fn open(user: Option<&UserId>, before_seq: Option<i64>) -> Option<Self> {
        let relations = Relations::locked()?;
        privilege::require_select(&relations, &LISTED_COLUMNS);
        if privilege::view(&relations) == View::Filtered {
            return None;
        }
        let mut indexes = match user {
            Some(_) => vec![relations.single_index?, relations.batched_index?],
            None => vec![relations.seq_index?],
        };
        // Locked in the order in which the server locks them all.
        indexes.sort_unstable_by_key(|index| index.to_u32());
        let snapshot = Rc::new(Snapshot::active());
        let newest = |index| {
            let ledger = Table::open_locked(relations.ledger);
            scan(ledger, index, user, before_seq, Sight::AsOf(Rc::clone(&snapshot)))
        };
        Some(Self { scans: indexes.into_iter().map(newest).collect::<Option<_>>()?, last: None })
    }

    /// The next older row.
    pub fn next(&mut self) -> Option<Row<'_>> {
        xact::check_for_interrupts();
        if let Some(last) = self.last {
            self.scans[last].next();
        }
        let standing = self.scans.iter().enumerate();
        let by_seq = standing.filter_map(|(place, scan)| Some((scan.current()?.int8(column::SEQ), place)));
        self.last = by_seq.max().map(|(_, place)| place);
        self.scans[self.last?].current()
    }
}

/// Rows of a table that are the user's, or everybody's, and older than the cursor, backward by an index on the user, if any,
/// and on what is compared with the cursor; standing on the first. `None` if the index does not have every row, or not any more.
pub(super) fn scan(
    table: Table,
    index: pg_sys::Oid,
    user: Option<&UserId>,
    before_seq: Option<i64>,
    sight: Sight,
) -> Option<IndexScan> {
    let index = Index::open(index).filter(Index::is_complete)?;
    let user = user.map(|user| Key::UuidEqual(*user.as_bytes()));
    let keys: Vec<Key> = user.into_iter().chain(before_seq.map(Key::BigintBelow)).collect();
    let mut scan = IndexScan::new(table, index, sight, keys.len()).backward();
    scan.seek(&keys);
    scan.next();
    Some(scan)
}
