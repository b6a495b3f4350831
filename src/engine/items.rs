//! The newest items of a user's history, each batch being one, without a query.
//!
//! As for plain rows, setting up a query would cost more than finding a page does.

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

/// An item.
pub enum Item<'a> {
    /// A row that belongs to no batch.
    Single(Row<'a, Ledger>),
    /// A batch with its whole total.
    Batch(BatchId, BatchTotal),
}

/// Items with the highest `seq` first, as the running query's snapshot sees them. A batch has the highest of its rows.
pub struct NewestItems {
    singles: IndexScan<Ledger>,
    /// What is folded of batches.
    folded: IndexScan<Batches>,
    /// The batches that the delta touches: what is folded of them is a part of them.
    touched: BatchTotals,
    /// Those of them that are still to come, the newest last.
    touched_left: Vec<(BatchId, BatchTotal)>,
    last: Option<Source>,
}

/// Where an item comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Singles,
    Folded,
    Touched,
}

impl NewestItems {
    /// The items of a user that are older than the cursor. `None` if they must come from a query: where the caller may not
    /// be told what is folded, nothing is, or an index is missing. Costs the user's delta.
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

    /// The next older item.
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

    /// Moves on to a folded batch that the delta does not touch.
    fn pass_touched(&mut self) {
        while let Some(row) = self.folded.current()
            && self.touched.contains(&row.get(folded::BATCH))
        {
            self.folded.next();
        }
    }
}

/// The user's single rows and what is folded of its batches, older than the cursor. `None` if an index is missing or does not
/// have every row.
fn scans(user: &UserId, before_seq: Option<i64>) -> Option<(IndexScan<Ledger>, IndexScan<Batches>)> {
    let before = Relations::locked()?;
    let snapshot = Rc::new(Snapshot::active());
    let mut keys = vec![transactions::USER_ID.equal(user)];
    keys.extend(before_seq.map(|before| transactions::SEQ.below(before)));
    let (table, sight) = (Table::open_locked(before.ledger), Sight::AsOf(Rc::clone(&snapshot)));
    let singles = newest::scan(table, before.single_index?, sight, &keys, transactions::SEQ)?;
    let table = Table::open(before.batches, Access::Read);
    // An index of the batches may have been dropped before their lock.
    let relations = Relations::lookup().filter(|now| now.batches == before.batches)?;
    let mut keys = vec![folded::USER_ID.equal(user)];
    keys.extend(before_seq.map(|before| folded::MAX_SEQ.below(before)));
    let sight = Sight::without_siread(&snapshot);
    Some((singles, newest::scan(table, relations.folded_index?, sight, &keys, folded::CREATED_AT)?))
}
