//! Reversals: rows of the ledger that name the transaction which they take back.
//!
//! The reversals of a transaction belong to its account, so one stripe orders them. A commit that brings one settles its account
//! under the exclusive stripe, and adds up all reversals of the original on the decision's snapshot, committed ones and its own.
//! A second one that would be too much waits for the stripe, and then sees the first.
//!
//! A row whose original is not there is let in: a restore may bring them in another order. `verify_ledger` lists such rows, and
//! those that an original which came later does not cover. Rows that a restore or replication brings are not checked: they have been
//! where they come from, and nothing that is stored there may be refused here.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use ledger::credits::{Credits, SumOutOfRange};
use ledger::id::{TransactionId, UserId};
use ledger::reversal::{Original, Reversals};

use super::lock_order::OpenIfFree;
use super::noted;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::relation::{self, Access, Index, NotFree, Table};
use crate::pg::row::Row;
use crate::pg::scan::IndexScan;
use crate::pg::scan_key::Key;
use crate::pg::snapshot::{DirtySnapshot, Sight, Snapshot};
use crate::pg::tables::transactions::{self, LaterColumns, Ledger};
use crate::pg::xact;

thread_local! {
    /// The originals that rows of the transaction name, by the account of the rows.
    static NAMED: RefCell<HashMap<UserId, BTreeSet<TransactionId>>> = RefCell::new(HashMap::new());
}

/// Notes that the transaction has inserted a row of this account that takes back the original.
pub fn note(account: UserId, original: TransactionId) {
    NAMED.with_borrow_mut(|named| named.entry(account).or_default().insert(original));
    noted::note_reversal(account);
}

/// Whether the transaction has inserted such rows. A savepoint that was rolled back may have taken them away again.
pub fn any_noted() -> bool {
    NAMED.with_borrow(|named| !named.is_empty())
}

/// Forgets the rows: the transaction is over.
pub fn forget() {
    NAMED.with_borrow_mut(HashMap::clear);
}

/// Waits for the locks of all indexes that [`ReversalScans`] may use, and keeps them to the end of the transaction. The caller has
/// the lock of the ledger and no stripe.
pub fn wait_for_indexes(relations: &Relations) {
    let key = Index::primary_key_of(&Table::open_locked(relations.ledger)).oid();
    let Ok(by_original) = relations.open_reverses_index(Index::waited_for);
    let mut indexes: Vec<_> = by_original.map(|index| index.oid()).into_iter().chain([key]).collect();
    indexes.sort_unstable_by_key(|oid| oid.to_u32());
    indexes.into_iter().for_each(|oid| relation::lock(oid, Access::Read));
}

/// What can still be taken back of the original, whatever the isolation level: reversals that have committed, and those of the
/// transaction itself, are taken off.
pub fn left(original: &TransactionId, of: Original) -> Result<Credits, LedgerError> {
    let relations = Relations::locked().ok_or(LedgerError::NotInstalled)?;
    let mut reversals = Reversals::new(of, of.user);
    ReversalScan::as_of_now(&relations)?.add_to(&mut reversals, original, &of.user, |_| false)?;
    Ok(reversals.left()?)
}

/// Raises 0A000 if the transaction, which is about to be prepared, has rows that take back others: they would commit without the
/// check that its settlement makes. Those of a savepoint that was rolled back are gone.
pub fn refuse_to_prepare() -> Result<(), LedgerError> {
    if !any_noted() {
        return Ok(());
    }
    // Gone if the transaction has dropped the extension.
    let Some(relations) = Relations::locked_at_commit() else { return Ok(()) };
    xact::see_own_changes();
    let mut scan = ReversalScan::as_of_now(&relations)?;
    let named = NAMED.with_borrow(Clone::clone);
    for (account, originals) in &named {
        for original in originals {
            xact::check_for_interrupts();
            if scan.has_own(original, account) {
                return Err(LedgerError::PreparedReversal);
            }
        }
    }
    Ok(())
}

/// The scans of a settlement that checks reversals. The ledger is locked when they are opened.
pub struct ReversalScans {
    later: LaterColumns,
    /// Of the primary key.
    originals: IndexScan<Ledger>,
    reversals: ReversalScan,
}

impl OpenIfFree for ReversalScans {
    fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        let ledger = || Table::open_locked(relations.ledger);
        let later = relations.later_columns().unwrap_or_else(|error| error.raise());
        let key = Index::primary_key_if_free(&ledger())?;
        let index = match relations.open_reverses_index(Index::open_if_free)? {
            Some(index) => ByOriginal::Index(index),
            None => ByOriginal::Account(relations.open_delta_index(Index::open_if_free)?),
        };
        // They are read with the snapshot of the decision, which is not taken yet.
        let nothing_yet = || Sight::Dirty(DirtySnapshot::new());
        let originals = IndexScan::new(ledger(), key, nothing_yet(), 1, later.reverses);
        Ok(Self { later, originals, reversals: ReversalScan::new(ledger(), index, later, nothing_yet()) })
    }
}

impl ReversalScans {
    /// Raises 23514 if rows of the transaction in this account take back what they may not. `sight` makes the snapshot of the decision:
    /// committed rows and the transaction's own. The caller has the stripe of the account exclusively.
    pub fn check(&mut self, account: &UserId, sight: impl Fn() -> Sight) -> Result<(), LedgerError> {
        let originals = NAMED.with_borrow(|named| named.get(account).cloned().unwrap_or_default());
        let own = xact::current_id_if_any();
        self.originals.see_with(sight());
        self.reversals.scan.see_with(sight());
        for id in originals {
            xact::check_for_interrupts();
            let Some(original) = self.original(&id) else { continue };
            let mut reversals = Reversals::new(original, *account);
            self.reversals.add_to(&mut reversals, &id, account, |stamp| Some(stamp) == own)?;
            reversals.verdict()?.map_err(|refusal| LedgerError::Reversal { original: id, refusal })?;
        }
        Ok(())
    }

    fn original(&mut self, id: &TransactionId) -> Option<Original> {
        self.originals.seek(&[transactions::ID.equal(id)]);
        let row = self.originals.next()?;
        Some(Original {
            user: row.get(transactions::USER_ID),
            kind: row.get(transactions::TRANSACTION_TYPE),
            amount: row.get(transactions::AMOUNT),
            is_reversal: !row.is_null(self.later.reverses),
        })
    }
}

/// The index that reversals of a transaction are found by.
enum ByOriginal {
    Index(Index),
    /// Where that index is missing, or is being built: the one that finds all rows of the account.
    Account(Index),
}

/// Reads the reversals of one transaction after the other.
struct ReversalScan {
    scan: IndexScan<Ledger>,
    later: LaterColumns,
    is_by_account: bool,
}

impl ReversalScan {
    fn new(ledger: Table, index: ByOriginal, later: LaterColumns, sight: Sight) -> Self {
        let (index, is_by_account) = match index {
            ByOriginal::Index(index) => (index, false),
            ByOriginal::Account(index) => (index, true),
        };
        Self { scan: IndexScan::new(ledger, index, sight, 1, later.reverses), later, is_by_account }
    }

    /// A scan as of now, whatever the isolation level. Waits for the lock of the index; the ledger is locked.
    fn as_of_now(relations: &Relations) -> Result<Self, LedgerError> {
        let Ok(by_original) = relations.open_reverses_index(Index::waited_for);
        let index = match by_original {
            Some(index) => ByOriginal::Index(index),
            None => {
                let Ok(index) = relations.open_delta_index(Index::waited_for);
                ByOriginal::Account(index)
            }
        };
        let sight = Sight::without_siread(&Rc::new(Snapshot::latest()));
        Ok(Self::new(Table::open_locked(relations.ledger), index, relations.later_columns()?, sight))
    }

    /// Whether the transaction has a row in this account that takes back the original.
    fn has_own(&mut self, original: &TransactionId, account: &UserId) -> bool {
        let own = xact::current_id_if_any();
        self.seek(original, account);
        while let Some(row) = self.scan.next() {
            if takes_back(&row, self.later, original, account) && Some(row.get(transactions::XACT_ID)) == own
            {
                return true;
            }
        }
        false
    }

    /// Begins with the rows that may take back the original.
    fn seek(&mut self, original: &TransactionId, account: &UserId) {
        let key: Key<Ledger> = if self.is_by_account {
            transactions::USER_ID.equal(account)
        } else {
            self.later.reverses.equal(original)
        };
        self.scan.seek(&[key]);
    }

    /// Adds the account's rows that take back the original. Those of other accounts, let in before the original was there, count
    /// for nothing.
    fn add_to(
        &mut self,
        reversals: &mut Reversals,
        original: &TransactionId,
        account: &UserId,
        is_own: impl Fn(u64) -> bool,
    ) -> Result<(), SumOutOfRange> {
        self.seek(original, account);
        while let Some(row) = self.scan.next() {
            if takes_back(&row, self.later, original, account) {
                let amount = row.get(transactions::AMOUNT);
                if is_own(row.get(transactions::XACT_ID)) {
                    reversals.add_own(row.get(transactions::TRANSACTION_TYPE), amount)?;
                } else {
                    reversals.add_earlier(amount)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a row of this account takes back the original.
fn takes_back(
    row: &Row<'_, Ledger>,
    later: LaterColumns,
    original: &TransactionId,
    account: &UserId,
) -> bool {
    row.get(later.reverses) == Some(*original) && row.get(transactions::USER_ID) == *account
}
