//! What a transaction must have covered by what is available to an account: the holds that it makes and the charges that it records.
//!
//! They are remembered as rows in backend memory, and only those that are still there when the transaction commits ask for cover: a
//! savepoint rolled back and a release take them away. Where a hold is extended or captured by the transaction that made it, what
//! becomes of it asks in its place. An extension asks only if the hold has expired by then: until it has, it is held already.
//!
//! A call refuses early what is not covered by what has committed and the transaction's own rows. That is advice: the commit decides.

use std::cell::RefCell;
use std::collections::HashMap;

use ledger::caps::{Asked, CapSpend, Clock};
use ledger::credits::{Credits, SumOutOfRange};
use ledger::id::{ApiKeyId, UserId};
use ledger::overdraft::Overdraft;
use ledger::segment::headroom::steps;

use super::boundaries::LimitsScan;
use super::caps::CapsScan;
use super::commit_view::Moment;
use super::holds::HoldScan;
use super::lock_order::OpenIfFree;
use super::published::Published;
use super::{balance, noted};
use crate::error::LedgerError;
use crate::pg::catalog::Relations;
use crate::pg::column::Layout;
use crate::pg::fetch::{self, Address, RowFetch, Tid};
use crate::pg::relation::{Access, NotFree, Table};
use crate::pg::row::Row;
use crate::pg::snapshot::{DirtySnapshot, Sight, Snapshot};
use crate::pg::tables::holds::{self, Holds};
use crate::pg::tables::transactions::{self, Ledger};
use crate::pg::xact::{self, SubtransactionId};

/// A row as it is stored. Once a savepoint is rolled back, another row may take its place, and another subtransaction has stored that.
pub type Version = (Tid, SubtransactionId);

/// A [`Version`] that can be looked up.
type Key = (Address, u32);

/// What a row asks to be covered, or would if a function had made it.
#[derive(Clone, Copy, Debug)]
struct Claim {
    user: UserId,
    /// Until when the account holds this anyway, by a version of the hold from before the transaction; `None` if there is none.
    open_until: Option<i64>,
    /// Whether one of the functions made it, or its earlier version: what is written by hand asks for nothing.
    is_guarded: bool,
}

/// What rows of the running transaction ask.
#[derive(Default)]
struct Claims {
    holds: Rows,
    charges: Rows,
    /// The rows that may ask for cover, by account.
    guarded: HashMap<UserId, Guarded>,
    /// What accounts have held until the transaction deleted it, in steps: it may roll back.
    released: HashMap<UserId, u64>,
}

/// The rows of a table.
#[derive(Default)]
struct Rows {
    claims: HashMap<Key, Claim>,
    /// Which versions have come in place of others. A row may be known to ask for something when it has moved already: a trigger of the
    /// application updates a hold before the function that has made it goes on.
    moved: HashMap<Key, Version>,
}

impl Rows {
    fn is_empty(&self) -> bool {
        self.claims.is_empty() && self.moved.is_empty()
    }

    /// Sets what a row asks, and the versions that have come in its place. What may ask for cover already goes on to. Calls `guarded` with
    /// each that may from now on.
    fn claim(&mut self, version: Version, claim: Claim, mut guarded: impl FnMut(Key)) {
        let mut next = Some(key(version));
        while let Some(key) = next {
            let was_guarded = self.claims.get(&key).is_some_and(|known| known.is_guarded);
            self.claims.insert(key, Claim { is_guarded: was_guarded || claim.is_guarded, ..claim });
            if claim.is_guarded && !was_guarded {
                guarded(key);
            }
            next = self.moved.get(&key).map(|&version| self::key(version));
        }
    }

    fn claim_of(&self, version: Version) -> Option<Claim> {
        self.claims.get(&key(version)).copied()
    }
}

/// The rows of an account that may ask for cover.
#[derive(Clone, Default)]
struct Guarded {
    holds: Vec<Key>,
    charges: Vec<Key>,
}

thread_local! {
    static CLAIMS: RefCell<Claims> = RefCell::default();
}

impl Claims {
    fn is_empty(&self) -> bool {
        self.holds.is_empty() && self.charges.is_empty() && self.released.is_empty()
    }

    fn claim_hold(&mut self, version: Version, claim: Claim) {
        let Self { holds, guarded, .. } = self;
        holds.claim(version, claim, |key| guarded.entry(claim.user).or_default().holds.push(key));
    }

    fn claim_charge(&mut self, version: Version, claim: Claim) {
        let Self { charges, guarded, .. } = self;
        charges.claim(version, claim, |key| guarded.entry(claim.user).or_default().charges.push(key));
    }
}

fn key((tid, stored_by): Version) -> Key {
    (fetch::address(tid), stored_by.into_inner())
}

/// Remembers that `create_hold` has made a hold of this account.
pub fn guard_hold(user: UserId, hold: Version) {
    let claim = Claim { user, open_until: None, is_guarded: true };
    CLAIMS.with_borrow_mut(|claims| claims.claim_hold(hold, claim));
}

/// Remembers that `charge` has recorded a transaction of this account.
pub fn guard_charge(user: UserId, charge: Version) {
    let claim = Claim { user, open_until: None, is_guarded: true };
    CLAIMS.with_borrow_mut(|claims| claims.claim_charge(charge, claim));
}

/// Remembers that an update has replaced a version of a hold, which would have expired at this time.
pub fn note_update(user: UserId, expired_at: i64, old: Version, new: Version) {
    CLAIMS.with_borrow_mut(|claims| {
        let by_hand = Claim { user, open_until: Some(expired_at), is_guarded: false };
        let claim = claims.holds.claim_of(old).unwrap_or(by_hand);
        claims.holds.moved.insert(key(old), new);
        claims.claim_hold(new, claim);
    });
}

/// Remembers that `extend_hold` has made this version of a hold. Returns whether the account held it anyway at this time.
pub fn guard_extension(hold: Version, now: i64) -> bool {
    CLAIMS.with_borrow_mut(|claims| {
        let Some(claim) = claims.holds.claim_of(hold) else { return true };
        if !claim.is_guarded {
            claims.claim_hold(hold, Claim { is_guarded: true, ..claim });
        }
        claim.open_until.is_none_or(|until| until > now)
    })
}

/// Remembers that `capture_hold` has recorded a transaction of this account in place of a hold.
pub fn note_capture(hold: Version, user: UserId, charge: Version) {
    CLAIMS.with_borrow_mut(|claims| {
        if let Some(claim) = claims.holds.claim_of(hold) {
            claims.claim_charge(charge, Claim { user, ..claim });
        }
    });
}

/// Remembers that a version of a hold has come in place of another.
pub fn note_hold_moved(old: Version, new: Version) {
    CLAIMS.with_borrow_mut(|claims| {
        claims.holds.moved.insert(key(old), new);
        if let Some(claim) = claims.holds.claim_of(old) {
            claims.claim_hold(new, claim);
        }
    });
}

/// Remembers that a version of a row of the ledger has come in place of another.
pub fn note_charge_moved(old: Version, new: Version) {
    CLAIMS.with_borrow_mut(|claims| {
        claims.charges.moved.insert(key(old), new);
        if let Some(claim) = claims.charges.claim_of(old) {
            claims.claim_charge(new, claim);
        }
    });
}

/// Remembers that the transaction has deleted a hold of this amount.
pub fn note_release(user: UserId, amount: Credits) {
    CLAIMS.with_borrow_mut(|claims| {
        let released = claims.released.entry(user).or_default();
        *released = released.saturating_add(steps(amount));
    });
}

/// What the transaction has deleted of the user's holds, in steps.
pub fn released(user: &UserId) -> u64 {
    CLAIMS.with_borrow(|claims| claims.released.get(user).copied().unwrap_or_default())
}

/// Forgets all rows: the transaction is over.
pub fn forget() {
    CLAIMS.with_borrow_mut(|claims| {
        if !claims.is_empty() {
            *claims = Claims::default();
        }
    });
}

/// Whether any row may ask for cover.
pub fn may_be_asked() -> bool {
    CLAIMS.with_borrow(|claims| !claims.guarded.is_empty())
}

/// Whether any row of the account may ask for cover.
pub fn may_be_asked_of(user: &UserId) -> bool {
    CLAIMS.with_borrow(|claims| !claims.guarded.is_empty() && claims.guarded.contains_key(user))
}

/// Raises 0A000 if the transaction, which is about to be prepared, has rows that ask for cover: `COMMIT PREPARED` could not refuse
/// them. An extension asks, whenever the hold would have expired: nobody knows when the transaction commits.
pub fn refuse_to_prepare() -> Result<(), LedgerError> {
    let users: Vec<UserId> = CLAIMS.with_borrow(|claims| claims.guarded.keys().copied().collect());
    if users.is_empty() {
        return Ok(());
    }
    // Gone if the transaction has dropped the extension.
    let Some(relations) = Relations::locked_at_commit() else { return Ok(()) };
    xact::see_own_changes();
    let mut standing = Standing::with(&relations, Table::open(relations.holds()?, Access::Read));
    let now = Snapshot::latest();
    for user in &users {
        if !standing.asked(user, &now, i64::MAX).is_empty() {
            return Err(LedgerError::PreparedHold);
        }
    }
    Ok(())
}

/// What is held, by the API keys that it is held for: in runs of holds with the same one.
type HeldByKey = Vec<(Option<ApiKeyId>, Credits)>;

/// What an account must have covered.
#[derive(Clone, Debug)]
pub struct Covered {
    /// What the rows that are there ask for, each.
    asked: Vec<Asked>,
    /// What is held of the account's balance, those rows included.
    pub held: Credits,
    /// The same by key.
    held_by_key: HeldByKey,
}

impl Covered {
    /// What the rows that are there ask for, in sum.
    pub fn asked(&self) -> Result<Credits, SumOutOfRange> {
        self.asked.iter().try_fold(Credits::ZERO, |sum, asked| sum.checked_add(asked.amount))
    }

    /// Adds what is asked for and what is held to what was spent of spend caps.
    pub fn add_to(&self, spends: &mut [CapSpend]) -> Result<(), SumOutOfRange> {
        for spend in spends {
            for asked in &self.asked {
                spend.add_asked(asked)?;
            }
            for &(key, amount) in &self.held_by_key {
                spend.add_held(key, amount)?;
            }
        }
        Ok(())
    }
}

/// What the account holds as the scan sees it, in all and by key.
fn held_by_key(
    holds: &mut HoldScan,
    user: &UserId,
    clock: i64,
) -> Result<(Credits, HeldByKey), SumOutOfRange> {
    let mut runs = HeldByKey::new();
    let held = holds.held_by_key(user, clock, |key, amount| {
        match runs.last_mut() {
            Some((last, sum)) if *last == key => *sum = sum.checked_add(amount)?,
            _ => runs.push((key, amount)),
        }
        Ok(())
    })?;
    Ok((held, runs))
}

/// Looks at the rows that may ask for cover, and at holds.
pub struct CoverScans {
    standing: Standing,
    /// Meets holds in flight.
    dirty: HoldScan,
}

impl OpenIfFree for CoverScans {
    fn open_if_free(relations: &Relations) -> Result<Self, NotFree> {
        let holds = relations.holds().unwrap_or_else(|error| error.raise());
        let standing = Standing::with(relations, Table::open_if_free(holds, Access::Read)?);
        let dirty = HoldScan::open_if_free(relations, Sight::Dirty(DirtySnapshot::new()))?;
        Ok(Self { standing, dirty })
    }
}

impl CoverScans {
    /// What the account must have covered, with the most that it can come to hold of the holds that there are, whatever commits and
    /// whatever rolls back; `None` if no row asks. The moment's snapshot sees what the transaction has done. `clock` tells which holds
    /// would have expired: the caller has the stripe, and has counted what it wrote.
    pub fn cover_at_most(
        &mut self,
        user: &UserId,
        now: &Moment,
        clock: i64,
    ) -> Result<Option<Covered>, SumOutOfRange> {
        let asked = self.standing.asked(user, now.snapshot(), clock);
        if asked.is_empty() {
            return Ok(None);
        }
        let (held, held_by_key) = held_by_key(&mut self.dirty, user, clock)?;
        Ok(Some(Covered { asked, held, held_by_key }))
    }

    /// What the account must have covered at a moment; `None` if no row asks.
    pub fn cover(
        &mut self,
        user: &UserId,
        now: &Moment,
        clock: i64,
        relations: &Relations,
    ) -> Result<Option<Covered>, SumOutOfRange> {
        let asked = self.standing.asked(user, now.snapshot(), clock);
        if asked.is_empty() {
            return Ok(None);
        }
        let (held, held_by_key) = held_by_key(&mut self.dirty.again(relations, now.sight()), user, clock)?;
        Ok(Some(Covered { asked, held, held_by_key }))
    }
}

/// Looks at the rows that may ask for cover.
struct Standing {
    holds: RowFetch<Holds>,
    charges: RowFetch<Ledger>,
}

impl Standing {
    /// The ledger is locked. Raises 55000 if the transaction has rewritten one of the tables: nobody knows then where its rows are.
    fn with(relations: &Relations, holds: Table) -> Self {
        let ledger = Table::open_locked(relations.ledger);
        for (table, name) in [(&holds, "holds"), (&ledger, "credits_transactions")] {
            if table.has_own_file() {
                LedgerError::RewrittenWithHold(name).raise();
            }
        }
        Self {
            holds: RowFetch::new(holds, holds::USER_ID),
            charges: RowFetch::new(ledger, transactions::USER_ID),
        }
    }

    /// What the account's rows that are there ask to be covered, each.
    fn asked(&mut self, user: &UserId, snapshot: &Snapshot, clock: i64) -> Vec<Asked> {
        CLAIMS.with_borrow(|claims| {
            let mut asked = Vec::new();
            let Some(guarded) = claims.guarded.get(user) else { return asked };
            let Self { holds, charges } = self;
            each_standing(holds, &claims.holds, &guarded.holds, snapshot, clock, |hold| {
                let key = hold.get(holds::API_KEY_ID).map(ApiKeyId::from_bytes);
                asked.push(Asked { key, amount: hold.get(holds::AMOUNT), created_at: None });
            });
            each_standing(charges, &claims.charges, &guarded.charges, snapshot, clock, |charge| {
                let key = charge.get(transactions::API_KEY_ID).map(ApiKeyId::from_bytes);
                let created_at = Some(charge.get(transactions::CREATED_AT));
                asked.push(Asked { key, amount: charge.get(transactions::AMOUNT), created_at });
            });
            asked
        })
    }
}

/// Calls `visit` with each of these rows that asks, as far as the snapshot sees them.
fn each_standing<L: Layout>(
    rows: &mut RowFetch<L>,
    known: &Rows,
    guarded: &[Key],
    snapshot: &Snapshot,
    clock: i64,
    mut visit: impl FnMut(&Row<'_, L>),
) {
    for key @ &(address, stored_by) in guarded {
        let Some(claim) = known.claims.get(key) else { continue };
        if claim.open_until.is_some_and(|until| until > clock) {
            continue;
        }
        let row = rows.version_at(fetch::tid(address), snapshot);
        if let Some(row) = row.filter(|row| row.stored_by().into_inner() == stored_by) {
            visit(&row);
        }
    }
}

/// Whether the row that takes an amount is there when [`refuse_early`] looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// It is still to be written.
    ToCome,
    /// It is among the transaction's own rows.
    Written,
}

/// Refuses a hold or a charge of this amount if it is not covered as of now, by what has committed and by the transaction's own rows, or
/// exceeds an enforced spend cap of this API key. It looks at the latest snapshot, whatever the caller's sees, and the transaction is not
/// taken to have read anything. Where it needs a lock that is not free, it refuses nothing, and the commit decides.
pub fn refuse_early(
    relations: &Relations,
    user: &UserId,
    amount: Credits,
    key: Option<ApiKeyId>,
    taking: Taking,
) -> Result<(), LedgerError> {
    let published = Published::open(relations);
    let own = noted::written(user).charged();
    let more = match taking {
        Taking::ToCome => own.saturating_add(steps(amount)),
        Taking::Written => own,
    };
    if published.covers_as_much_more(user, more) {
        return Ok(());
    }
    xact::see_own_changes();
    let now = Moment::now();
    let Ok(mut limits) = LimitsScan::open_if_free(relations) else { return Ok(()) };
    let overdraft = limits.find(user, &now).overdraft;
    let Ok(mut caps) = CapsScan::open_if_free(relations) else { return Ok(()) };
    let is_capped = caps.find(user, &now)?.iter().any(|cap| cap.is_enforced && cap.has_key(key));
    if overdraft == Overdraft::Unlimited && !is_capped {
        return Ok(());
    }
    let Ok(mut holds) = HoldScan::open_if_free(relations, now.sight()) else { return Ok(()) };
    let balance = balance::as_of(relations, user, now.snapshot())?;
    // Later than the snapshot: what has expired by then is not held any more, whatever the snapshot sees of it.
    let clock = xact::now();
    let (held, held_by_key) = held_by_key(&mut holds, user, clock)?;
    if let Overdraft::UpTo(limit) = overdraft {
        let left = balance.checked_sub(held)?;
        let available = match taking {
            Taking::ToCome => left,
            Taking::Written => left.checked_add(amount)?,
        };
        if available.checked_sub(amount)?.checked_add(limit)? < Credits::ZERO {
            return Err(LedgerError::InsufficientCredits {
                user: *user,
                asked: amount,
                available,
                overdraft_limit: limit,
            });
        }
    }
    if !is_capped {
        return Ok(());
    }
    let asked = Asked { key, amount, created_at: None };
    let covered = Covered { asked: vec![asked], held, held_by_key };
    let mut spends = caps.spends(user, &[], &now, Clock::At(clock), now.sight(), relations)?;
    covered.add_to(&mut spends)?;
    for spend in &mut spends {
        if taking == Taking::ToCome {
            spend.add_held(key, amount)?;
        }
        if let Some(refusal) = spend.refusal()? {
            return Err(LedgerError::SpendCapReached { user: *user, refusal });
        }
    }
    Ok(())
}
