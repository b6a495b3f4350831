//! Transaction-scoped locks of our own, kept among the advisory locks.
//!
//! They appear in `pg_locks` as advisory locks of this database with an `objsubid` that the SQL functions for advisory
//! locks do not use (those use 1 and 2): 193 for a stripe, whose number is the `objid`, and 194 for a user's refresh.

use pgrx::pg_sys;

const STRIPE_CLASS: u16 = 193;
const REFRESH_CLASS: u16 = 194;

fn tag(class: u16, high: u32, low: u32) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        // SAFETY: set before any transaction runs, never changed.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: high,
        locktag_field3: low,
        locktag_field4: class,
        locktag_type: u8::try_from(pg_sys::LockTagType::LOCKTAG_ADVISORY).unwrap_or_default(),
        locktag_lockmethodid: u8::try_from(pg_sys::USER_LOCKMETHOD).unwrap_or_default(),
    }
}

fn acquire(tag: &pg_sys::LOCKTAG, mode: u32, wait: bool) -> bool {
    // SAFETY: the lock belongs to the transaction, which releases it when it ends, also by error.
    let result = unsafe { pg_sys::LockAcquire(tag, mode.cast_signed(), false, !wait) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Takes a stripe in SHARE mode; waits for those who hold it exclusively.
pub fn share_stripe(stripe: u8) {
    acquire(&tag(STRIPE_CLASS, 0, stripe.into()), pg_sys::ShareLock, true);
}

/// Lets go of a stripe taken by [`share_stripe`].
pub fn release_shared_stripe(stripe: u8) {
    // SAFETY: releases what `share_stripe` took in this transaction.
    unsafe {
        pg_sys::LockRelease(&tag(STRIPE_CLASS, 0, stripe.into()), pg_sys::ShareLock.cast_signed(), false);
    }
}

/// Takes a stripe for itself; waits for everyone who is committing on it.
pub fn lock_stripe(stripe: u8) {
    acquire(&tag(STRIPE_CLASS, 0, stripe.into()), pg_sys::ExclusiveLock, true);
}

/// Takes the right to refresh the user's checkpoint while the stripe is shared; `false` if someone has it.
pub fn try_lock_refresh(user: &[u8; 16]) -> bool {
    // Two users whose ids fold to the same eight bytes may skip a refresh for each other, which is harmless.
    let word = |at: usize| u32::from_be_bytes([user[at], user[at + 1], user[at + 2], user[at + 3]]);
    acquire(&tag(REFRESH_CLASS, word(0) ^ word(8), word(4) ^ word(12)), pg_sys::ExclusiveLock, false)
}
