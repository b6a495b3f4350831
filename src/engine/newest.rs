//! Rows of the ledger or of a user in the order of their `seq`, read by index scans without a query.
//!
//! For a page of 50 rows, setting up a query costs as much as running it. These scans have no such cost.

use std::rc::Rc;

use ledger::bucket::Buckets;
use ledger::credits::Credits;
use ledger::id::UserId;
use pgrx::pg_sys;

use super::delta;
use crate::error::LedgerError;
use crate::pg::buckets;
use crate::pg::catalog::Relations;
use crate::pg::column::{AnyColumn, Column, Layout};
use crate::pg::column_type::ColumnType;
use crate::pg::privilege::{self, View};
use crate::pg::relation::{Index, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::scan_key::Key;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::xact;

/// Rows by `seq`, as the running query's snapshot sees them.
pub struct RowsBySeq {
    /// Index scans, each by `seq` in the same direction. The next row is the first of all that the scans are at.
    scans: Vec<IndexScan<Ledger>>,
    from: From,
    /// The scan that is at the row which was returned last.
    last: Option<usize>,
    /// Buckets whose rows are left out.
    not_here: Option<Buckets>,
}

/// Which row comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    Newest,
    Oldest,
}

impl RowsBySeq {
    /// The rows of `user`, or of all users that are on this node, with a `seq` below `before_seq`, the highest first. `None` if a query
    /// must read them: row-level security filters the ledger for the caller, or an index is missing. Raises 42501 if the caller may not
    /// SELECT these columns, which are read.
    pub fn newest(
        user: Option<&UserId>,
        before_seq: Option<i64>,
        columns: &[AnyColumn<Ledger>],
    ) -> Option<Self> {
        Self::open(user, before_seq, columns, From::Newest)
    }

    /// The rows of `user`, the lowest `seq` first; `None` as for [`newest`](Self::newest).
    pub fn oldest(user: &UserId) -> Option<Self> {
        Self::open(Some(user), None, &transactions::CREDIT_TRANSACTION, From::Oldest)
    }

    fn open(
        user: Option<&UserId>,
        before_seq: Option<i64>,
        columns: &[AnyColumn<Ledger>],
        from: From,
    ) -> Option<Self> {
        let relations = Relations::locked()?;
        privilege::require_select(&relations, columns);
        if privilege::view(&relations) == View::Filtered {
            return None;
        }
        let mut indexes = match user {
            Some(_) => vec![relations.single_index?, relations.batched_index?],
            None => vec![relations.seq_index?],
        };
        // By oid, the order in which the server locks the indexes of a table.
        indexes.sort_unstable_by_key(|index| index.to_u32());
        let snapshot = Rc::new(Snapshot::active());
        let first = |index| {
            let table = Table::open_locked(relations.ledger);
            let sight = Sight::AsOf(Rc::clone(&snapshot));
            let keys = user.map(|user| transactions::USER_ID.equal(user)).into_iter();
            let keys = keys.chain(before_seq.map(|before| transactions::SEQ.below(before)));
            scan(table, index, sight, &keys.collect::<Vec<_>>(), transactions::SEQ, from)
        };
        let scans = indexes.into_iter().map(first).collect::<Option<_>>()?;
        let not_here = if user.is_none() { buckets::not_here() } else { None };
        Some(Self { scans, from, last: None, not_here })
    }

    /// The next row.
    pub fn next(&mut self) -> Option<Row<'_, Ledger>> {
        while self.step()? {}
        self.scans[self.last?].current()
    }

    /// Goes to the next row; whether that is left out. `None` where there is none.
    fn step(&mut self) -> Option<bool> {
        xact::check_for_interrupts();
        if let Some(last) = self.last {
            self.scans[last].next();
        }
        let standing = self.scans.iter().enumerate();
        let by_seq =
            standing.filter_map(|(place, scan)| Some((scan.current()?.get(transactions::SEQ), place)));
        let next = match self.from {
            From::Newest => by_seq.max(),
            From::Oldest => by_seq.min(),
        };
        self.last = next.map(|(_, place)| place);
        let row = self.scans[self.last?].current()?;
        Some(
            self.not_here
                .is_some_and(|not_here| not_here.contains(buckets::of_user(&row.get(transactions::USER_ID)))),
        )
    }
}

/// The signed sum of so many rows of `user`, the newest; `None` as for [`RowsBySeq::newest`].
pub fn sum(user: &UserId, count: i64) -> Result<Option<Credits>, LedgerError> {
    let Some(mut rows) = RowsBySeq::newest(Some(user), None, &transactions::SUMMED) else { return Ok(None) };
    let mut sum = Credits::ZERO;
    for _ in 0..count {
        let Some(row) = rows.next() else { break };
        sum = sum.checked_add(delta::signed_amount(&row))?;
    }
    Ok(Some(sum))
}

/// A backward scan for these keys, at its first row, with rows deformed to this column. `None` if the index has been dropped or
/// is not complete.
pub(super) fn backward_scan<L: Layout, T: ColumnType>(
    table: Table,
    index: pg_sys::Oid,
    sight: Sight,
    keys: &[Key<L>],
    furthest: Column<L, T>,
) -> Option<IndexScan<L>> {
    scan(table, index, sight, keys, furthest, From::Newest)
}

fn scan<L: Layout, T: ColumnType>(
    table: Table,
    index: pg_sys::Oid,
    sight: Sight,
    keys: &[Key<L>],
    furthest: Column<L, T>,
    from: From,
) -> Option<IndexScan<L>> {
    let index = Index::open(index).filter(Index::is_complete)?;
    let mut scan = IndexScan::new(table, index, sight, keys.len(), furthest);
    if from == From::Newest {
        scan = scan.backward();
    }
    scan.seek(keys);
    scan.next();
    Some(scan)
}
