//! What the backends of a server tell each other of users, in memory that they share.
//!
//! It is true of one state of a ledger, which others may change: its owner, on purpose, and whoever repairs a checkpoint. So it
//! is told under the name of that state, its digest, and nobody finds what was told in another one. Nobody has to learn in time
//! that a state is over: who still takes it for the current one tells nothing to those who know better.

pub mod folds;
pub mod headroom;
mod slots;
mod straggler_sets;

use folds::FoldSlots;
use headroom::HeadroomSlots;

/// All of it, for all ledgers of a server. As zeros nothing has been told.
#[derive(Debug)]
pub struct Segment {
    /// The latest fold of each user.
    pub folds: FoldSlots,
    /// How much each user can spend.
    pub headroom: HeadroomSlots,
}

/// Which ledger something is told of, and in which state: nothing is taken for what was told of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateName {
    /// Oid of the database.
    pub database: u32,
    /// Oid of the ledger.
    pub ledger: u32,
    /// Names the state. It never comes again.
    pub digest: u64,
}
