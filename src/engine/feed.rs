//! The feed: the ledger in the order of stamp, and within a transaction of `seq`.
//!
//! All rows of a transaction have its id as their stamp, and become visible when it commits. So the feed ends below the oldest
//! transaction that is running for the reader's snapshot: rows that become visible later sort after all that has been read.
//!
//! A B-tree in this order would cost every insert, and space for every row. The feed uses a BRIN index instead: it gives the
//! blocks in which rows with a stamp may lie. Those are few, since rows are stored roughly in the order of their stamps. The rows
//! of a page are read from them and sorted. If one transaction has inserted very many rows, as a restore does, the index on `seq`
//! is scanned instead.
//!
//! Rows that were copied from another node have been in the feed of that one, and are left out: all those of transactions that `copies` lists.

use std::ops::Range;
use std::rc::Rc;

use ledger::id::LedgerId;
use pgrx::pg_sys::Oid;

use super::lock_order;
use crate::error::LedgerError;
use crate::pg::block_ranges::{self, BlockScan, Blocks};
use crate::pg::catalog::Relations;
use crate::pg::column::AnyColumn;
use crate::pg::fetch::Tid;
use crate::pg::relation::{Access, Index, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::copies::{self, Copies};
use crate::pg::tables::identity;
use crate::pg::tables::transactions::{self, LaterColumns, Ledger};
use crate::pg::xact;

/// The columns of `credits.feed_item` that come from the ledger: those of `credit_transaction`, then `category`, `metadata`,
/// `reverses`.
pub fn shown_columns(relations: &Relations) -> Result<[AnyColumn<Ledger>; 13], LedgerError> {
    let [a, b, c, d, e, f, g, h, i, j] = transactions::CREDIT_TRANSACTION;
    let LaterColumns { category, metadata, reverses } = relations.later_columns()?;
    Ok([a, b, c, d, e, f, g, h, i, j, category.any(), metadata.any(), reverses.any()])
}

/// The most blocks that are read for a page without trying fewer stamps or the index on `seq`.
const MANY_BLOCKS: u32 = 512;

/// How many rows an index scan reads in about the time that reading a block takes.
const ROWS_FOR_A_BLOCK: u32 = 16;

/// The position of a row in the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The transaction that inserted it.
    pub stamp: u64,
    /// Its `seq`.
    pub seq: i64,
}

/// The position before the first row.
pub const START: Position = Position { stamp: 0, seq: i64::MIN };

/// The position of a row, and its tuple id.
type Found = (Position, Tid);

/// The id of this database's ledger. A physical copy of the database has the same; a restored
/// or new ledger has another.
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

/// Where the feed ends: the oldest transaction that is running for the snapshot of the running query, the reader's own included.
pub fn end() -> u64 {
    let oldest = Snapshot::active().oldest_open();
    xact::current_id_if_any().map_or(oldest, |own| oldest.min(own))
}

/// The transactions with these ids that have copied rows of another node, in ascending order, as the snapshot of the running query sees them.
pub fn copying(relations: &Relations, ids: &Range<u64>) -> Vec<u64> {
    open_copies(relations).map_or_else(Vec::new, |mut scan| copying_by(&mut scan, ids))
}

fn open_copies(relations: &Relations) -> Option<IndexScan<Copies>> {
    let table = Table::open(relations.copies?, Access::Read);
    let index = Index::primary_key_of(&table);
    let sight = Sight::without_siread(&Rc::new(Snapshot::active()));
    Some(IndexScan::new(table, index, sight, 1, copies::XACT_ID))
}

fn copying_by(scan: &mut IndexScan<Copies>, ids: &Range<u64>) -> Vec<u64> {
    scan.seek(&[copies::XACT_ID.at_least(ids.start)]);
    std::iter::from_fn(|| scan.next().map(|row| row.get(copies::XACT_ID)).filter(|id| *id < ids.end))
        .collect()
}

/// The feed as the snapshot of the running query sees it.
pub struct Feed {
    rows: BlockScan<Ledger>,
    /// The BRIN index on the stamp, if it is complete.
    by_stamp: Option<Index>,
    /// The index on `seq`, if it is complete.
    by_seq: Option<IndexScan<Ledger>>,
    /// `copies`, if it is there.
    copies: Option<IndexScan<Copies>>,
    ledger: Table,
    end: u64,
}

impl Feed {
    /// Opens the ledger and its indexes, waiting for their locks.
    pub fn open(relations: &Relations) -> Self {
        let open = || Table::open(relations.ledger, Access::Read);
        let complete = |index: Option<_>| index.and_then(Index::open).filter(Index::is_complete);
        let sight = || Sight::without_siread(&Rc::new(Snapshot::active()));
        let (ledger, rows) = (open(), BlockScan::new(open(), Snapshot::active(), transactions::XACT_ID));
        let oid = |index: Option<Oid>| index.unwrap_or(Oid::INVALID);
        let (by_seq, by_stamp) = lock_order::open_by_oid(
            (oid(relations.seq_index), || complete(relations.seq_index)),
            (oid(relations.stamp_index), || complete(relations.stamp_index)),
        );
        let by_seq = by_seq.map(|index| IndexScan::new(open(), index, sight(), 1, transactions::XACT_ID));
        Self { rows, by_stamp, by_seq, copies: open_copies(relations), ledger, end: end() }
    }

    /// The next `count` rows after the position; fewer at the end of the feed.
    pub fn page(&mut self, after: Position, count: usize) -> Vec<Found> {
        let mut page = Page { rows: Vec::new(), copying: Vec::new(), after, count };
        let (mut start, mut width) = (after.stamp, u64::try_from(count).unwrap_or(u64::MAX).max(64));
        while start < self.end && page.missing() > 0 {
            xact::check_for_interrupts();
            let ids = start..start.saturating_add(width).min(self.end);
            let blocks = self.blocks(&ids);
            page.copying = self.copies.as_mut().map_or_else(Vec::new, |scan| copying_by(scan, &ids));
            if length(&blocks) > MANY_BLOCKS {
                let half = start..start + (ids.end - start) / 2;
                // Half of the stamps may lie in far fewer blocks. Not if the blocks are those that are not summarized yet.
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
            // These stamps had fewer rows than the page needs.
            width = width.saturating_mul(2);
        }
        page.rows
    }

    /// A row that [`page`](Self::page) has returned.
    pub fn row(&mut self, tid: Tid) -> Row<'_, Ledger> {
        self.rows.at(tid)
    }

    fn blocks(&self, ids: &Range<u64>) -> Vec<Blocks> {
        match &self.by_stamp {
            Some(index) => block_ranges::with_xid8(index, ids),
            None => block_ranges::all(&self.ledger),
        }
    }

    /// Adds rows of this transaction to the page by an index scan on `seq`, which visits at most `most` rows.
    fn walk(&mut self, page: &mut Page, stamp: u64, most: u32) -> Walk {
        // It can start only at a row of this transaction that has been read: no index gives its lowest `seq`.
        let last = page.last();
        if page.leaves_out(stamp) {
            return Walk::Ended;
        }
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

/// How an index scan on `seq` has ended.
enum Walk {
    /// None of the visited rows is of the transaction, or there was nothing to start at.
    InVain,
    /// Some are: they are the next rows of the feed.
    Found,
    /// The transaction has no further rows that the feed shows.
    Ended,
}

fn position(row: &Row<'_, Ledger>) -> Position {
    Position { stamp: row.get(transactions::XACT_ID), seq: row.get(transactions::SEQ) }
}

fn length(blocks: &[Blocks]) -> u32 {
    blocks.iter().map(|blocks| blocks.end - blocks.start).sum()
}

/// A page while it is collected.
struct Page {
    /// The rows so far. Those that `offer` has added since the last `cut` are not sorted.
    rows: Vec<Found>,
    /// The transactions whose rows are left out, of those that are looked for.
    copying: Vec<u64>,
    /// The rows up to this position have been read already.
    after: Position,
    count: usize,
}

impl Page {
    fn missing(&self) -> usize {
        self.count.saturating_sub(self.rows.len())
    }

    /// The position of the last row so far.
    fn last(&self) -> Position {
        self.rows.last().map_or(self.after, |&(position, _)| position)
    }

    fn leaves_out(&self, stamp: u64) -> bool {
        self.copying.binary_search(&stamp).is_ok()
    }

    fn offer(&mut self, row: &Row<'_, Ledger>, ids: &Range<u64>) {
        let position = position(row);
        if ids.contains(&position.stamp) && position > self.after && !self.leaves_out(position.stamp) {
            self.rows.push((position, row.tid()));
            // Far more rows than the page takes.
            if self.rows.len() > 2 * self.count + 1000 {
                self.cut();
            }
        }
    }

    /// Sorts the rows and keeps the first `count`.
    fn cut(&mut self) {
        self.rows.sort_unstable_by_key(|&(position, _)| position);
        self.rows.truncate(self.count);
    }
}
