//! The rows by which a transaction takes credits: the holds that it makes and the charges that it records.
//!
//! They are remembered in session memory. Those that are still there when the transaction commits ask for [cover](super::cover): a
//! savepoint rolled back and a release take them away. Where a hold is extended or captured by the transaction that made it, what
//! becomes of it asks in its place. An extension asks only if the hold has expired by then: until it has, it is held already.

use std::cell::RefCell;
use std::collections::HashMap;

use ledger::credits::Credits;
use ledger::id::UserId;
use ledger::segment::headroom::steps;

use crate::pg::fetch::{self, Address, Tid};
use crate::pg::xact::SubtransactionId;

/// A row as it is stored. Once a savepoint is rolled back, another row may take its place, and another subtransaction has stored that.
pub type Version = (Tid, SubtransactionId);

/// A [`Version`] that can be looked up.
type Key = (Address, u32);

/// A row that asks for cover, where it was stored.
#[derive(Clone, Copy)]
pub enum Asking {
    /// A hold.
    Hold(Version),
    /// A transaction of the ledger.
    Charge(Version),
}

/// What a row asks to be covered, or would if a function had made it.
#[derive(Clone, Copy, Debug)]
struct Claim {
    user: UserId,
    /// Until when the account holds this anyway, by a version of the hold from before the transaction; `None` if there is none.
    open_until: Option<i64>,
    /// Whether one of the functions made it, or its earlier version: what is written by hand asks for nothing.
    is_guarded: bool,
}

impl Claim {
    /// That of a row which a function has made now.
    const fn by_function(user: UserId) -> Self {
        Self { user, open_until: None, is_guarded: true }
    }
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

    /// Remembers that a version has come in place of another, and returns what that asked.
    fn replace(&mut self, old: Version, new: Version) -> Option<Claim> {
        self.moved.insert(key(old), new);
        self.claim_of(old)
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

fn version((address, stored_by): Key) -> Version {
    (fetch::tid(address), SubtransactionId::from(stored_by))
}

/// Remembers that `create_hold` has made a hold of this account.
pub fn guard_hold(user: UserId, hold: Version) {
    CLAIMS.with_borrow_mut(|claims| claims.claim_hold(hold, Claim::by_function(user)));
}

/// Remembers that `charge` has recorded a transaction of this account.
pub fn guard_charge(user: UserId, charge: Version) {
    CLAIMS.with_borrow_mut(|claims| claims.claim_charge(charge, Claim::by_function(user)));
}

/// Remembers that an update has replaced a version of a hold, which would have expired at this time.
pub fn note_update(user: UserId, expired_at: i64, old: Version, new: Version) {
    CLAIMS.with_borrow_mut(|claims| {
        let by_hand = Claim { user, open_until: Some(expired_at), is_guarded: false };
        let claim = claims.holds.replace(old, new).unwrap_or(by_hand);
        claims.claim_hold(new, claim);
    });
}

/// Remembers that `extend_hold` has made this version of a hold. Returns whether the account held it anyway at this time.
pub fn guard_extension(hold: Version, now: i64) -> bool {
    CLAIMS.with_borrow_mut(|claims| {
        let Some(claim) = claims.holds.claim_of(hold) else { return true };
        claims.claim_hold(hold, Claim { is_guarded: true, ..claim });
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
        if let Some(claim) = claims.holds.replace(old, new) {
            claims.claim_hold(new, claim);
        }
    });
}

/// Remembers that a version of a row of the ledger has come in place of another.
pub fn note_charge_moved(old: Version, new: Version) {
    CLAIMS.with_borrow_mut(|claims| {
        if let Some(claim) = claims.charges.replace(old, new) {
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
pub fn any_guarded() -> bool {
    CLAIMS.with_borrow(|claims| !claims.guarded.is_empty())
}

/// Whether any row of the account may ask for cover.
pub fn guards(user: &UserId) -> bool {
    CLAIMS.with_borrow(|claims| !claims.guarded.is_empty() && claims.guarded.contains_key(user))
}

/// The accounts that rows may ask for.
pub fn users() -> Vec<UserId> {
    CLAIMS.with_borrow(|claims| claims.guarded.keys().copied().collect())
}

/// Calls `visit` with each row of the account that asks for cover at this time, if it is still there.
pub fn each_asking(user: &UserId, clock: i64, mut visit: impl FnMut(Asking)) {
    CLAIMS.with_borrow(|claims| {
        let Some(guarded) = claims.guarded.get(user) else { return };
        let asks = |rows: &Rows, key: &Key| {
            rows.claims.get(key).is_some_and(|claim| claim.open_until.is_none_or(|until| until <= clock))
        };
        let holds = guarded.holds.iter().filter(|key| asks(&claims.holds, key));
        holds.for_each(|&key| visit(Asking::Hold(version(key))));
        let charges = guarded.charges.iter().filter(|key| asks(&claims.charges, key));
        charges.for_each(|&key| visit(Asking::Charge(version(key))));
    });
}
