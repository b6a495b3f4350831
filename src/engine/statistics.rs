//! How often settlements did what costs something. A transaction counts for itself. Its counts are added to those of the
//! server when it commits, and forgotten when it rolls back.

use std::cell::{Cell, OnceCell};

use ledger::statistics::{Counters, Counts, Event};

use crate::pg::{database, shared_memory};

thread_local! {
    static PENDING: Cell<Option<Counts>> = const { Cell::new(None) };
    /// The server's counters for this database, looked up once; `None` if there is no room for them.
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
    // The counters are looked up now: `publish` runs after the commit, where nothing may fail.
    if counters().is_none() {
        return;
    }
    let mut pending = PENDING.get().unwrap_or_default();
    pending.add(event, times.try_into().unwrap_or(u64::MAX));
    PENDING.set(Some(pending));
}

/// Adds the transaction's counts to those of the server: it has committed.
pub fn publish() {
    if let Some(pending) = PENDING.take()
        && let Some(counters) = counters()
    {
        counters.add(&pending);
    }
}

/// Forgets the transaction's counts.
pub fn forget() {
    PENDING.set(None);
}

/// The counts of this database since the server started; `None` if there was no room for them.
pub fn read() -> Option<Counts> {
    counters().map(Counters::read)
}
