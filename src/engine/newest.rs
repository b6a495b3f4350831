//! The newest rows of the ledger, or of a user, without a query.
//!
//! A page of 50 rows costs a query as much to set up as to find. Read like this, it costs its rows.

use std::rc::Rc;

use ledger::id::UserId;
use pgrx::pg_sys;

use crate::pg::catalog::Relations;
use crate::pg::column::{Column, Layout};
use crate::pg::column_type::ColumnType;
use crate::pg::privilege::{self, View};
use crate::pg::relation::{Index, Table};
use crate::pg::row::Row;
use crate::pg::scan::{IndexScan, Key};
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::xact;

/// Rows with the highest `seq` first, as the running query's snapshot sees them.
pub struct NewestRows {
    /// Each finds its rows in this order.
    scans: Vec<IndexScan<Ledger>>,
    /// The one that stands on the row that was returned last.
    last: Option<usize>,
}

impl NewestRows {
    /// The rows of `user`, or of everybody, that are older than the cursor. `None` if they must come from a query:
    /// where row-level security filters them, or an index is missing. Raises 42501 if the caller may not read them.
    pub fn open(user: Option<&UserId>, before_seq: Option<i64>) -> Option<Self> {
        let relations = Relations::locked()?;
        privilege::require_select(&relations, &transactions::CREDIT_TRANSACTION);
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
            let table = Table::open_locked(relations.ledger);
            let sight = Sight::AsOf(Rc::clone(&snapshot));
            let keys = user.map(|user| transactions::USER_ID.equal(user)).into_iter();
            let keys = keys.chain(before_seq.map(|before| transactions::SEQ.below(before)));
            scan(table, index, sight, &keys.collect::<Vec<_>>(), transactions::SEQ)
        };
        Some(Self { scans: indexes.into_iter().map(newest).collect::<Option<_>>()?, last: None })
    }

    /// The next older row.
    pub fn next(&mut self) -> Option<Row<'_, Ledger>> {
        xact::check_for_interrupts();
        if let Some(last) = self.last {
            self.scans[last].next();
        }
        let standing = self.scans.iter().enumerate();
        let by_seq =
            standing.filter_map(|(place, scan)| Some((scan.current()?.get(transactions::SEQ), place)));
        self.last = by_seq.max().map(|(_, place)| place);
        self.scans[self.last?].current()
    }
}

/// Rows of a table that meet the keys, backward by the index, and deformed to this column; standing on the first. `None` if the
/// index does not have every row, or not any more.
pub(super) fn scan<L: Layout, T: ColumnType>(
    table: Table,
    index: pg_sys::Oid,
    sight: Sight,
    keys: &[Key<L>],
    furthest: Column<L, T>,
) -> Option<IndexScan<L>> {
    let index = Index::open(index).filter(Index::is_complete)?;
    let mut scan = IndexScan::new(table, index, sight, keys.len(), furthest).backward();
    scan.seek(keys);
    scan.next();
    Some(scan)
}
