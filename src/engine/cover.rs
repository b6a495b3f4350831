//! What a transaction must have covered by what is available to an account: the holds that it makes and the charges that it records.
//!
//! They are remembered as rows in backend memory, and only those that are still there when the transaction commits ask for cover: a
//! savepoint rolled back and a release take them away. Where a hold is extended or captured by the transaction that made it, what
//! becomes of it asks in its place. An extension asks only if the hold has expired by then: until it has, it is held already.
//!
//! A call refuses early what is not covered by what has committed and the transaction's own rows. That is advice: the commit decides.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use ledger::credits::{Credits, SumOutOfRange};
use ledger::id::UserId;
use ledger::overdraft::Overdraft;

use super::balance;
use super::holds::HoldScan;
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::fetch::{self, Address, RowFetch, Tid};
use crate::pg::relation::{Access, Index, NotFree, Table};
use crate::pg::scan::IndexScan;
use crate::pg::snapshot::{Sight, Snapshot};
use crate::pg::tables::holds::{self, Holds};
use crate::pg::tables::limits;
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::xact;

/// What a row asks to be covered, or would if a function had made it.
#[derive(Clone, Copy, Debug)]
struct Claim {
    user: UserId,
    amount: Credits,
    /// Until when the account holds this anyway, by a version of the hold from before the transaction; `None` if there is none.
    open_until: Option<i64>,
    /// Whether one of the functions made it, or its earlier version: what is written by hand asks for nothing.
    is_guarded: bool,
}

/// What rows of the running transaction ask, by where they are stored.
#[derive(Default)]
struct Claims {
    holds: HashMap<Address, Claim>,
    charges: HashMap<Address, Claim>,
    /// The accounts of those that are guarded.
    users: HashSet<UserId>,
}

thread_local! {
    static CLAIMS: RefCell<Claims> = RefCell::default();
}

/// Remembers that `create_hold` has made a hold, which is stored here.
pub fn guard_hold(user: UserId, amount: Credits, tid: Tid) {
    CLAIMS.with_borrow_mut(|claims| {
        claims.holds.insert(fetch::address(tid), Claim { user, amount, open_until: None, is_guarded: true });
        claims.users.insert(user);
    });
}

/// Remembers that `charge` has recorded a transaction, which is stored here.
pub fn guard_charge(user: UserId, amount: Credits, tid: Tid) {
    CLAIMS.with_borrow_mut(|claims| {
        claims
            .charges
            .insert(fetch::address(tid), Claim { user, amount, open_until: None, is_guarded: true });
        claims.users.insert(user);
    });
}

/// Remembers that an update has replaced a version of a hold, which would have expired at this time.
pub fn note_update(user: UserId, amount: Credits, expired_at: i64, old: Tid, new: Tid) {
    CLAIMS.with_borrow_mut(|claims| {
        let by_hand = Claim { user, amount, open_until: Some(expired_at), is_guarded: false };
        let claim = claims.holds.get(&fetch::address(old)).copied().unwrap_or(by_hand);
        claims.holds.insert(fetch::address(new), claim);
    });
}

/// Remembers that `extend_hold` has made this version of a hold. Returns whether the account held it anyway at this time.
pub fn guard_extension(tid: Tid, now: i64) -> bool {
    CLAIMS.with_borrow_mut(|claims| {
        let Some(claim) = claims.holds.get_mut(&fetch::address(tid)) else { return true };
        claim.is_guarded = true;
        claims.users.insert(claim.user);
        claim.open_until.is_none_or(|until| until > now)
    })
}

/// Remembers that `capture_hold` has recorded a transaction, which is stored here, in place of a hold.
pub fn note_capture(hold: Tid, charge: Tid) {
    CLAIMS.with_borrow_mut(|claims| {
        if let Some(claim) = claims.holds.get(&fetch::address(hold)).copied() {
            claims.charges.insert(fetch::address(charge), claim);
        }
    });
}

/// Remembers that a hold that the transaction has written is stored elsewhere now.
pub fn note_move(old: Tid, new: Tid) {
    CLAIMS.with_borrow_mut(|claims| keep(&mut claims.holds, old, new));
}

/// Remembers that a row of the ledger that the transaction may have written is stored elsewhere now.
pub fn note_redaction(old: Tid, new: Tid) {
    CLAIMS.with_borrow_mut(|claims| keep(&mut claims.charges, old, new));
}

fn keep(claims: &mut HashMap<Address, Claim>, old: Tid, new: Tid) {
    if let Some(claim) = claims.get(&fetch::address(old)).copied() {
        claims.insert(fetch::address(new), claim);
    }
}

/// Forgets all rows: the transaction is over.
pub fn forget() {
    CLAIMS.take();
}

/// Whether any row of the account may ask for cover.
#[allow(dead_code, reason = "for settlement")]
pub fn may_ask(user: &UserId) -> bool {
    CLAIMS.with_borrow(|claims| claims.users.contains(user))
}

/// Raises 0A000 if the transaction, which is about to be prepared, has rows that ask for cover: `COMMIT PREPARED` could not refuse
/// them. An extension asks, whenever the hold would have expired: nobody knows when the transaction commits.
pub fn refuse_to_prepare() -> Result<(), LedgerError> {
    let users = CLAIMS.with_borrow(|claims| claims.users.clone());
    if users.is_empty() {
        return Ok(());
    }
    // Gone if the transaction has dropped the extension.
    let Some(relations) = Relations::locked_at_commit() else { return Ok(()) };
    xact::see_own_changes();
    let mut standing = Standing::with(&relations, Table::open(relations.holds()?, Access::Read));
    let now = Rc::new(Snapshot::latest());
    for user in &users {
        if standing.asked(user, &now, i64::MAX)?.is_some() {
            return Err(LedgerError::PreparedHold);
        }
    }
    Ok(())
}

/// Looks at the rows that may ask for cover.
pub struct Standing {
    holds: RowFetch<Holds>,
    charges: RowFetch<Ledger>,
}

impl Standing {
    /// Opens the holds if their lock is free. The ledger is locked.
    #[allow(dead_code, reason = "for settlement")]
    pub fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        let holds = relations.holds().unwrap_or_else(|error| error.raise());
        Ok(Self::with(relations, Table::open_if_free(holds, Access::Read)?))
    }

    fn with(relations: &Relations, holds: Table) -> Self {
        Self {
            holds: RowFetch::new(holds, holds::USER_ID),
            charges: RowFetch::new(Table::open_locked(relations.ledger), transactions::USER_ID),
        }
    }

    /// What the account's rows that are there ask to be covered, in sum; `None` if none asks. The snapshot sees what the transaction
    /// has done. `now` tells which holds would have expired: the caller has the stripe, and has counted what it wrote.
    pub fn asked(
        &mut self,
        user: &UserId,
        snapshot: &Rc<Snapshot>,
        now: i64,
    ) -> Result<Option<Credits>, SumOutOfRange> {
        let sight = Sight::without_siread(snapshot);
        CLAIMS.with_borrow(|claims| {
            let asking = |claim: &Claim| {
                claim.is_guarded && claim.user == *user && claim.open_until.is_none_or(|until| until <= now)
            };
            let mut asked = None;
            let mut ask = |claim: &Claim| {
                asked = Some(asked.unwrap_or(Credits::ZERO).checked_add(claim.amount)?);
                Ok::<_, SumOutOfRange>(())
            };
            for (&address, claim) in claims.holds.iter().filter(|(_, claim)| asking(claim)) {
                let stored = self.holds.at(fetch::tid(address), &sight);
                if stored.is_some_and(|stored| stored.get(holds::USER_ID) == *user) {
                    ask(claim)?;
                }
            }
            for (&address, claim) in claims.charges.iter().filter(|(_, claim)| asking(claim)) {
                let stored = self.charges.at(fetch::tid(address), &sight);
                if stored.is_some_and(|stored| stored.get(transactions::USER_ID) == *user) {
                    ask(claim)?;
                }
            }
            Ok(asked)
        })
    }
}

/// Refuses what is not covered as of now: by what has committed and the transaction's own rows, which the amount is one of if it
/// `is_written`. Whatever the caller's snapshot sees; it is not taken to have read anything. Where that takes a lock that is not free,
/// the commit alone decides.
pub fn refuse_early(
    relations: &Relations,
    user: &UserId,
    amount: Credits,
    is_written: bool,
) -> Result<(), LedgerError> {
    xact::see_own_changes();
    let now = Rc::new(Snapshot::latest());
    let Ok(Overdraft::UpTo(limit)) = overdraft(relations, user, &now) else { return Ok(()) };
    let Ok(mut holds) = HoldScan::open_if_free(relations, Sight::without_siread(&now)) else {
        return Ok(());
    };
    let balance = balance::as_of(relations, user, &now)?;
    // Later than the snapshot: what has expired by then is not held any more, whatever the snapshot sees of it.
    let held = holds.held(user, xact::now())?;
    let left = balance.checked_sub(held)?;
    let available = if is_written { left.checked_add(amount)? } else { left };
    if available.checked_sub(amount)?.checked_add(limit)? < Credits::ZERO {
        return Err(LedgerError::InsufficientCredits {
            user: *user,
            asked: amount,
            available,
            overdraft_limit: limit,
        });
    }
    Ok(())
}

/// How far the account may be overdrawn.
fn overdraft(relations: &Relations, user: &UserId, snapshot: &Rc<Snapshot>) -> Result<Overdraft, NotFree> {
    let limits = relations.limits().unwrap_or_else(|error| error.raise());
    let table = Table::open_if_free(limits, Access::Read)?;
    let key = Index::primary_key_if_free(&table)?;
    let mut scan = IndexScan::new(table, key, Sight::without_siread(snapshot), 1, limits::OVERDRAFT_LIMIT);
    scan.seek(&[limits::USER_ID.equal(user)]);
    let limit = scan.next().map(|row| row.get(limits::OVERDRAFT_LIMIT));
    Ok(limit.map_or_else(Overdraft::default, |limit| limit.map_or(Overdraft::Unlimited, Overdraft::UpTo)))
}
