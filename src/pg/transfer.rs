//! What the running transaction does to buckets that are moved from one node to another.
//!
//! It says so by `begin_transfer`, and that ends with the transaction. It counts only together with what `bucket_states` says of the bucket
//! ([`buckets`](super::buckets)), which a savepoint that is rolled back takes back.

use std::cell::Cell;

use ledger::bucket::Buckets;
use ledger::stripe;

use super::lock;
use crate::error::LedgerError;

thread_local! {
    /// Whether the transaction transfers any bucket.
    static IS_ANY: Cell<bool> = const { Cell::new(false) };
    static BEGUN: Cell<Buckets> = Cell::default();
    /// The bucket of whose rows none is in flight any more.
    static HELD: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The transaction transfers this bucket.
pub fn begin(bucket: u64) {
    let mut begun = BEGUN.get();
    begun.insert(bucket);
    BEGUN.set(begun);
    IS_ANY.set(true);
}

/// Whether it transfers any.
pub fn is_any() -> bool {
    IS_ANY.get()
}

/// Whether it transfers this one.
pub fn is_begun(bucket: u64) -> bool {
    IS_ANY.get() && BEGUN.get().contains(bucket)
}

/// Takes all stripes exclusively: whoever has rows of this ledger commits them after this transaction has ended, or has done so before. The
/// caller has waited for the locks of all relations that it will use, and for those who had rows of this bucket in flight.
pub fn hold(bucket: u64) {
    begin(bucket);
    for stripe in all_stripes() {
        lock::lock_stripe(stripe);
    }
    HELD.set(Some(bucket));
}

/// Whether the transaction holds this bucket. Rolling back to a savepoint lets go of what was taken since.
pub fn is_held(bucket: u64) -> bool {
    HELD.get() == Some(bucket) && all_stripes().all(lock::has_stripe)
}

fn all_stripes() -> impl Iterator<Item = u8> {
    (0..stripe::STRIPES).filter_map(|stripe| u8::try_from(stripe).ok())
}

/// Raises 0A000 if the transaction, which is about to be prepared, transfers a bucket: what it may do is in this session's memory, and its
/// locks would keep others out until `COMMIT PREPARED`.
pub fn refuse_to_prepare() -> Result<(), LedgerError> {
    if is_any() { Err(LedgerError::PreparedTransfer) } else { Ok(()) }
}

/// Forgets what the transaction has transferred: it is over.
pub fn forget() {
    if IS_ANY.replace(false) {
        BEGUN.set(Buckets::default());
        HELD.set(None);
    }
}
