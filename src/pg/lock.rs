//! Transaction-scoped locks of our own, kept among the advisory locks.
//!
//! They appear in `pg_locks` as advisory locks of this database with an `objsubid` that the SQL functions for advisory
//! locks do not use (those use 1 and 2): 193 for a stripe and 194 for the refreshes of a stripe, with its number as `objid`, and
//! 195 for `checkpoint_changes`. A transaction holds at most two for each stripe, however many users it has noted.

use pgrx::pg_sys;

use super::database;

const STRIPE_CLASS: u16 = 193;
const REFRESH_CLASS: u16 = 194;
const CHANGES_CLASS: u16 = 195;

fn tag(class: u16, stripe: u8) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        locktag_field1: database::oid(),
        locktag_field2: 0,
        locktag_field3: stripe.into(),
        locktag_field4: class,
        locktag_type: u8::try_from(pg_sys::LockTagType::LOCKTAG_ADVISORY).unwrap_or_default(),
        locktag_lockmethodid: u8::try_from(pg_sys::USER_LOCKMETHOD).unwrap_or_default(),
    }
}

/// Takes a lock; waits for transactions that have it in a mode that conflicts.
fn lock(tag: &pg_sys::LOCKTAG, mode: u32) {
    // SAFETY: the lock belongs to the transaction, which releases it when it ends, also by error.
    unsafe {
        pg_sys::LockAcquire(tag, mode.cast_signed(), false, false);
    }
}

/// Takes a lock; `false` if another transaction has it in a mode that conflicts.
fn try_lock(tag: &pg_sys::LOCKTAG, mode: u32) -> bool {
    // SAFETY: as for `lock`.
    let result = unsafe { pg_sys::LockAcquire(tag, mode.cast_signed(), false, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Takes a stripe in SHARE mode; waits for a transaction that holds it exclusively.
pub fn share_stripe(stripe: u8) {
    lock(&tag(STRIPE_CLASS, stripe), pg_sys::ShareLock);
}

/// Lets go of a stripe taken by [`share_stripe`].
pub fn release_shared_stripe(stripe: u8) {
    // SAFETY: releases what `share_stripe` took in this transaction.
    unsafe {
        pg_sys::LockRelease(&tag(STRIPE_CLASS, stripe), pg_sys::ShareLock.cast_signed(), false);
    }
}

/// Takes a stripe in EXCLUSIVE mode; waits for all transactions that are committing on it.
pub fn lock_stripe(stripe: u8) {
    lock(&tag(STRIPE_CLASS, stripe), pg_sys::ExclusiveLock);
}

/// Whether the transaction has the stripe in EXCLUSIVE mode. Rolling back to a savepoint releases the locks taken since.
pub fn has_stripe(stripe: u8) -> bool {
    // SAFETY: looks at the session's own locks.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
        let has = pg_sys::LockHeldByMe(&tag(STRIPE_CLASS, stripe), pg_sys::ExclusiveLock.cast_signed());
        #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
        let has =
            pg_sys::LockHeldByMe(&tag(STRIPE_CLASS, stripe), pg_sys::ExclusiveLock.cast_signed(), false);
        has
    }
}

/// Takes the lock for refreshing checkpoints of a stripe that is shared; `false` if another transaction has it.
pub fn try_lock_refresh(stripe: u8) -> bool {
    try_lock(&tag(REFRESH_CLASS, stripe), pg_sys::ExclusiveLock)
}

/// Takes the lock for refreshing checkpoints of a stripe that is shared; waits for a transaction that has it, and has the stripe, too.
pub fn lock_refresh(stripe: u8) {
    lock(&tag(REFRESH_CLASS, stripe), pg_sys::ExclusiveLock);
}

/// Takes the lock for deleting rows of `checkpoint_changes`; `false` if another transaction has it.
pub fn try_lock_changes() -> bool {
    try_lock(&tag(CHANGES_CLASS, 0), pg_sys::ExclusiveLock)
}
