//! The newest items of a user's history, each batch being one item, read by index scans without a query.
//!
//! Setting up a query would cost more than reading a page does: see [`newest`].

use std::rc::Rc;

use ledger::id::{BatchId, UserId};

use super::batches::{self, BatchTotal, BatchTotals};
use super::newest;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{Access, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::batches::{self as folded, Batches};
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::xact;

/// An item of the history.
pub enum Item<'a> {
    /// A row that belongs to no batch.
    Single(Row<'a, Ledger>),
    /// A batch with its whole total.
    Batch(BatchId, BatchTotal),
}

/// Items with the highest `seq` first, as the running query's snapshot sees them. The `seq` of a batch is the highest of its rows.
pub struct NewestItems {
    singles: IndexScan<Ledger>,
    /// The folded totals of batches, by their highest `seq` backward.
    folded: IndexScan<Batches>,
    /// The whole totals of the batches that have rows in the delta: their folded totals lack those rows.
    touched: BatchTotals,
    /// Those of `touched` that have not been returned, the newest last.
    touched_left: Vec<(BatchId, BatchTotal)>,
    last: Option<Source>,
}

/// What an item is read from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Singles,
    Folded,
    Touched,
}

impl NewestItems {
    /// The items of a user with a `seq` below `before_seq`. `None` if a query must read them: the caller may not read folded
    /// totals, the user has no checkpoint, or an index is missing. Reads the user's delta.
    pub fn open(user: &UserId, before_seq: Option<i64>) -> Result<Option<Self>, LedgerError> {
        let Some(touched) = batches::touched(user)? else { return Ok(None) };
        let Some((singles, folded)) = scans(user, before_seq) else { return Ok(None) };
        let older = |total: &BatchTotal| before_seq.is_none_or(|before| total.max_seq < before);
        let mut touched_left: Vec<_> =
            touched.iter().filter(|(_, total)| older(total)).map(|(&batch, &total)| (batch, total)).collect();
        touched_left.sort_unstable_by_key(|(_, total)| total.max_seq);
        let mut items = Self { singles, folded, touched, touched_left, last: None };
        items.pass_touched();
        Ok(Some(items))
    }

    /// The item with the next lower `seq`.
    pub fn next(&mut self) -> Option<Item<'_>> {
        xact::check_for_interrupts();
        match self.last {
            Some(Source::Singles) => _ = self.singles.next(),
            Some(Source::Folded) => {
                self.folded.next();
                self.pass_touched();
            }
            Some(Source::Touched) => _ = self.touched_left.pop(),
            None => {}
        }
        let by_seq = [
            self.singles.current().map(|row| (row.get(transactions::SEQ), Source::Singles)),
            self.folded.current().map(|row| (row.get(folded::MAX_SEQ), Source::Folded)),
            self.touched_left.last().map(|(_, total)| (total.max_seq, Source::Touched)),
        ];
        self.last = by_seq.into_iter().flatten().max().map(|(_, source)| source);
        match self.last? {
            Source::Singles => self.singles.current().map(Item::Single),
            Source::Folded => self.folded.current().map(|row| {
                let (batch, total) = batches::decode(&row);
                Item::Batch(batch, total)
            }),
            Source::Touched => self.touched_left.last().map(|&(batch, total)| Item::Batch(batch, total)),
        }
    }

    /// Skips folded totals of batches that have rows in the delta.
    fn pass_touched(&mut self) {
        while let Some(row) = self.folded.current()
            && self.touched.contains(&row.get(folded::BATCH))
        {
            self.folded.next();
        }
    }
}

/// Scans for the user's rows that belong to no batch and for its folded totals, each with a `seq` below `before_seq`. `None` if
/// an index is missing or not complete.
fn scans(user: &UserId, before_seq: Option<i64>) -> Option<(IndexScan<Ledger>, IndexScan<Batches>)> {
    let before = Relations::locked()?;
    let snapshot = Rc::new(Snapshot::active());
    let mut keys = vec![transactions::USER_ID.equal(user)];
    keys.extend(before_seq.map(|before| transactions::SEQ.below(before)));
    let (table, sight) = (Table::open_locked(before.ledger), Sight::AsOf(Rc::clone(&snapshot)));
    let singles = newest::backward_scan(table, before.single_index?, sight, &keys, transactions::SEQ)?;
    let table = Table::open(before.batches, Access::Read);
    // The index on the folded totals may have been dropped before their table was locked.
    let relations = Relations::lookup().filter(|now| now.batches == before.batches)?;
    let mut keys = vec![folded::USER_ID.equal(user)];
    keys.extend(before_seq.map(|before| folded::MAX_SEQ.below(before)));
    let sight = Sight::without_siread(&snapshot);
    // Of a total that is skipped, nothing but its batch is read.
    Some((singles, newest::backward_scan(table, relations.folded_index?, sight, &keys, folded::BATCH)?))
}
