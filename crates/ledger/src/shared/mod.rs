//! What the backends of a server tell each other of users, in memory that they share.
//!
//! It is true of a ledger that is only inserted into, and forgotten when a ledger is changed otherwise. Every backend learns
//! of that on its own, in its own time, so what is told belongs to an epoch: who learns of a change begins a new one, and so
//! does who has just come and may have missed one. A change leaves its mark on the ledger's definition, which does not let
//! it happen otherwise: who comes and finds the definition that was last seen has missed none.

use std::sync::atomic::{AtomicU64, Ordering};

pub mod definitions;
pub mod folds;
pub mod headroom;
mod slots;
mod straggler_sets;

use definitions::SeenDefinitions;
use folds::SharedFolds;
use headroom::SharedHeadroom;

/// All of it, for all ledgers of a server. As zeros nothing has been told.
#[derive(Debug)]
pub struct Shared {
    /// The current epoch.
    pub epoch: Epoch,
    /// The definitions that were seen in it.
    pub definitions: SeenDefinitions,
    /// The latest fold of each user.
    pub folds: SharedFolds,
    /// How much each user can spend.
    pub headroom: SharedHeadroom,
}

/// Counts epochs.
#[derive(Debug)]
pub struct Epoch(AtomicU64);

impl Epoch {
    /// The current epoch. Whoever then makes sure to have learnt of all changes of the ledger so far, and finds none since it
    /// entered an epoch before, may read and publish in this one. Otherwise it begins a new one.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Begins a new epoch: what was told before is forgotten.
    pub fn begin(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// Whose ledger something is told of, and when: nothing is taken for what was told of another ledger, or in another epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Oid of the database.
    pub database: u32,
    /// Oid of the ledger.
    pub ledger: u32,
    /// The epoch.
    pub epoch: u64,
}
