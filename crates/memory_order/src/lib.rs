//! The sequence lock of the crate `ledger`, compiled with the atomics of loom.
//!
//! Loom runs a test once for each interleaving of its threads, and for each value that a load may return under Rust's memory model (Norris
//! and Demsky, "CDSChecker: Checking Concurrent Data Structures Written with C/C++ Atomics", OOPSLA 2013). A processor that runs the other
//! tests returns few of these values, so an ordering that is too weak is noticed here alone.

use loom::sync::atomic;

#[path = "../../ledger/src/segment/seqlock.rs"]
mod seqlock;

pub use seqlock::SeqLock;
