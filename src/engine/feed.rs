//! The ledger read forward: by stamp, and within a transaction by `seq`.
//!
//! A transaction that has not ended may still commit rows, and all of them bear its id. So the feed ends below the oldest one
//! that is open for the reader's snapshot: what commits later belongs behind it.
//!
//! No B-tree has the ledger in this order, which would cost each insert and every row. A block range index tells in which
//! blocks a stamp may lie, and rows lie about in the order of their stamps, so the rows of a page are read from few blocks and
//! sorted. Only where one transaction has written very many rows, as a restore has, are they walked by `seq`.

use std::ops::Range;
use std::rc::Rc;

use ledger::id::LedgerId;

use crate::error::LedgerError;
use crate::pg::block_ranges::{self, BlockScan, Blocks};
use crate::pg::catalog::Relations;
use crate::pg::column::AnyColumn;
use crate::pg::fetch::Tid;
use crate::pg::relation::{Access, Index, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::identity;
use crate::pg::tables::transactions::{self, LaterColumns, Ledger};
use crate::pg::xact;

/// Columns that the feed shows, behind the position: those of `credit_transaction` and the three that came later.
pub fn shown_columns(relations: &Relations) -> Result<[AnyColumn<Ledger>; 13], LedgerError> {
    let [a, b, c, d, e, f, g, h, i, j] = transactions::CREDIT_TRANSACTION;
    let LaterColumns { category, metadata, reverses } = relations.later_columns()?;
    Ok([a, b, c, d, e, f, g, h, i, j, category.any(), metadata.any(), reverses.any()])
}

/// More blocks than are read for a page without looking for a better way.
const MANY_BLOCKS: u32 = 512;

/// About as many rows are read by index in the time in which those of a block are.
const ROWS_FOR_A_BLOCK: u32 = 16;

/// Where a row is in the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The transaction that inserted it.
    pub stamp: u64,
    /// Its number.
    pub seq: i64,
}

/// Before the first row.
pub const START: Position = Position { stamp: 0, seq: i64::MIN };

/// A row of a page, and where it lies.
type Found = (Position, Tid);

/// The name of this database's ledger, which its copies have, and nothing that is made anew.
pub fn ledger_id(relations: &Relations) -> Result<LedgerId, LedgerError> {
    let missing = || LedgerError::Missing("the row of credits.ledger_identity".to_owned());
    let table = Table::open(relations.identity.ok_or_else(missing)?, Access::Read);
    let index = Index::primary_key_of(&table);
    let sight = Sight::without_siread(&Rc::new(Snapshot::active()));
    let mut scan = IndexScan::new(table, index, sight, 0, identity::LEDGER_ID);
    scan.seek(&[]);
    let id = scan.next().map(|row| row.get(identity::LEDGER_ID));
    id.ok_or_else(missing)
}

/// The first transaction that has not ended for the snapshot of the running query. The reader's own has not.
pub fn end() -> u64 {
    let oldest = Snapshot::active().oldest_open();
    xact::current_id_if_any().map_or(oldest, |own| oldest.min(own))
}

/// The feed as the snapshot of the running query has it.
pub struct Feed {
    rows: BlockScan<Ledger>,
    /// Those by stamp and by `seq`, where they have every row.
    by_stamp: Option<Index>,
    by_seq: Option<IndexScan<Ledger>>,
    ledger: Table,
    end: u64,
}

impl Feed {
    /// Opens the ledger.
    pub fn open(relations: &Relations) -> Self {
        let open = || Table::open(relations.ledger, Access::Read);
        let complete = |index: Option<_>| index.and_then(Index::open).filter(Index::is_complete);
        let sight = || Sight::without_siread(&Rc::new(Snapshot::active()));
        let (ledger, rows) = (open(), BlockScan::new(open(), Snapshot::active(), transactions::XACT_ID));
        // In the order in which REINDEX TABLE locks them, which is that of their oids: the one by stamp was made later.
        let by_seq = complete(relations.seq_index)
            .map(|index| IndexScan::new(open(), index, sight(), 1, transactions::XACT_ID));
        let by_stamp = complete(relations.stamp_index);
        Self { rows, by_stamp, by_seq, ledger, end: end() }
    }

    /// The next rows, `count` of them; fewer if there are no more.
    pub fn page(&mut self, after: Position, count: usize) -> Vec<Found> {
        let mut page = Page { rows: Vec::new(), after, count };
        let (mut start, mut width) = (after.stamp, u64::try_from(count).unwrap_or(u64::MAX).max(64));
        while start < self.end && page.missing() > 0 {
            xact::check_for_interrupts();
            let ids = start..start.saturating_add(width).min(self.end);
            let blocks = self.blocks(&ids);
            if length(&blocks) > MANY_BLOCKS {
                let half = start..start + (ids.end - start) / 2;
                // Fewer rows would do. Of what is not summarized yet there is no half.
                if half.end > start && length(&self.blocks(&half)) / 3 < length(&blocks) / 4 {
                    width = half.end - start;
                    continue;
                }
                match self.walk(&mut page, start, length(&blocks).saturating_mul(ROWS_FOR_A_BLOCK)) {
                    Walk::InVain => {}
                    Walk::Found => continue,
                    Walk::Ended => {
                        start += 1;
                        continue;
                    }
                }
            }
            for blocks in blocks {
                xact::check_for_interrupts();
                self.rows.each(&blocks, |row| page.offer(row, &ids));
            }
            page.cut();
            start = ids.end;
            // Of what is missing, there was little here.
            width = width.saturating_mul(2);
        }
        page.rows
    }

    /// A row of a page.
    pub fn row(&mut self, tid: Tid) -> Row<'_, Ledger> {
        self.rows.at(tid)
    }

    fn blocks(&self, ids: &Range<u64>) -> Vec<Blocks> {
        match &self.by_stamp {
            Some(index) => block_ranges::with_xid8(index, ids),
            None => block_ranges::all(&self.ledger),
        }
    }

    /// Adds rows of this transaction by `seq`, of which it visits so many at most.
    fn walk(&mut self, page: &mut Page, stamp: u64, most: u32) -> Walk {
        // Where a transaction begins by seq nobody knows.
        let last = page.last();
        let scan = self.by_seq.as_mut().filter(|_| last.stamp == stamp && last != START);
        let Some(scan) = scan else { return Walk::InVain };
        scan.seek(&[transactions::SEQ.above(last.seq)]);
        for _ in 0..most {
            if page.missing() == 0 {
                break;
            }
            let Some(row) = scan.next() else { return Walk::Ended };
            let position = position(&row);
            if position.stamp == stamp {
                page.rows.push((position, row.tid()));
                page.after = position;
            }
        }
        if page.after == last { Walk::InVain } else { Walk::Found }
    }
}

/// What has come of a walk by `seq`.
enum Walk {
    /// None of the rows looked at was of the transaction.
    InVain,
    /// Some were: the next ones.
    Found,
    /// The transaction has no further ones.
    Ended,
}

fn position(row: &Row<'_, Ledger>) -> Position {
    Position { stamp: row.get(transactions::XACT_ID), seq: row.get(transactions::SEQ) }
}

fn length(blocks: &[Blocks]) -> u32 {
    blocks.iter().map(|blocks| blocks.end - blocks.start).sum()
}

/// A page that is being put together.
struct Page {
    /// Sorted, but for those that `offer` has added since the last `cut`.
    rows: Vec<Found>,
    /// All that comes before this, or is it, is on the page or on one before.
    after: Position,
    count: usize,
}

impl Page {
    fn missing(&self) -> usize {
        self.count.saturating_sub(self.rows.len())
    }

    /// Where it has come to.
    fn last(&self) -> Position {
        self.rows.last().map_or(self.after, |&(position, _)| position)
    }

    fn offer(&mut self, row: &Row<'_, Ledger>, ids: &Range<u64>) {
        let position = position(row);
        if ids.contains(&position.stamp) && position > self.after {
            self.rows.push((position, row.tid()));
            // Many more than the page has room for.
            if self.rows.len() > 2 * self.count + 1000 {
                self.cut();
            }
        }
    }

    /// Keeps the first.
    fn cut(&mut self) {
        self.rows.sort_unstable_by_key(|&(position, _)| position);
        self.rows.truncate(self.count);
    }
}
