//! How often settlements took the ways that cost something. What a transaction counts is added to the counts of the
//! server when it commits, and forgotten when it does not.

use std::cell::{Cell, OnceCell};

use ledger::statistics::{Counters, Counts, Event};

use crate::pg::{database, shared_memory};

thread_local! {
    static PENDING: Cell<Option<Counts>> = const { Cell::new(None) };
    /// Where the server counts for this database; `None` if it has no room. Looked up once.
    static COUNTERS: OnceCell<Option<&'static Counters>> = const { OnceCell::new() };
}

fn counters() -> Option<&'static Counters> {
    COUNTERS.with(|counters| {
        *counters.get_or_init(|| {
            let version = database::version(None);
            shared_memory::statistics()?.of_database(database::oid(), version)
        })
    })
}

/// Counts an event this many times, if the transaction commits.
pub fn count(event: Event, times: usize) {
    // Looked up here, because at the end of the transaction nothing may fail.
    if counters().is_none() {
        return;
    }
    let mut pending = PENDING.get().unwrap_or_default();
    pending.add(event, times.try_into().unwrap_or(u64::MAX));
    PENDING.set(Some(pending));
}

/// Adds what was counted to the counts of the server: the transaction has committed.
pub fn publish() {
    if let Some(pending) = PENDING.take()
        && let Some(counters) = counters()
    {
        counters.add(&pending);
    }
}

/// Forgets what was counted.
pub fn forget() {
    PENDING.set(None);
}

/// The counts of this database since the server started; `None` if there was no room for them.
pub fn read() -> Option<Counts> {
    counters().map(Counters::read)
}
