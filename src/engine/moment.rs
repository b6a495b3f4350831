//! One moment for all that a look at accounts reads: by a commit, never before it has the stripe, or by a call that may refuse early.

use std::rc::Rc;

use ledger::coverage::{Coverage, OpenTransactions};

use crate::pg::snapshot::{Sight, Snapshot};

/// A moment, by its snapshot.
pub struct Moment {
    snapshot: Rc<Snapshot>,
    /// The transactions that have not ended then.
    open: OpenTransactions,
    /// The most that a checkpoint may cover then.
    target: Coverage,
}

impl Moment {
    /// As of now, whatever the isolation level.
    pub fn now() -> Self {
        let snapshot = Snapshot::latest();
        let open = snapshot.open_transactions();
        Self { snapshot: Rc::new(snapshot), target: Coverage::up_to(&open), open }
    }

    /// Its snapshot.
    pub const fn snapshot(&self) -> &Rc<Snapshot> {
        &self.snapshot
    }

    /// The transactions that have not ended then.
    pub const fn open(&self) -> &OpenTransactions {
        &self.open
    }

    /// The most that a checkpoint may cover then.
    pub const fn target(&self) -> &Coverage {
        &self.target
    }

    /// What its snapshot sees, which the transaction is not taken to have read.
    pub fn sight(&self) -> Sight {
        Sight::without_siread(&self.snapshot)
    }
}
