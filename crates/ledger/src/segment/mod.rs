//! What the backends of a server publish to each other about users: the layout of the dynamic shared memory segment, and the
//! protocol of each of its parts.
//!
//! What is published is true of one state of a ledger. An owner may change the ledger on purpose, and an operator may repair a
//! checkpoint by hand: then the ledger is in another state. So everything is published under the name of a state, and a look-up
//! under another name finds nothing. No backend has to be informed in time: one that still takes an old state for the current
//! one publishes under the old name, where no backend that has determined the new state looks.
//!
//! Every part is made of atomics, begins as zeros, and needs no lock.

mod fold_words;
pub mod folds;
pub mod headroom;
pub mod headroom_slots;
mod seqlock;
mod slots;
mod straggler_sets;

use std::mem::offset_of;

use folds::FoldSlots;
use headroom_slots::HeadroomSlots;

/// The segment, for all ledgers of a server. As zeros nothing has been published.
#[derive(Debug)]
#[repr(C)]
pub struct Segment {
    /// The latest fold of each user.
    pub folds: FoldSlots,
    /// The counts and the headroom of each user.
    pub headroom: HeadroomSlots,
}

// Backends of one server may run libraries of different builds. A change of a number here needs a name with the next
// version for the directory that leads to the segment.
const _: () = {
    assert!(align_of::<Segment>() == 64, "the segment is aligned to a cache line, as its parts are");
    assert!(offset_of!(Segment, folds) == 0, "the folds come first");
    assert!(offset_of!(Segment, headroom) == 8_495_104, "the headroom follows the folds without a gap");
    assert!(size_of::<Segment>() == 12_689_408, "the segment takes 12 MB");
};

/// The name of a state of a ledger. What is published under one name is not found under another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateName {
    /// Oid of the database.
    pub database: u32,
    /// Oid of the table that is the ledger.
    pub ledger: u32,
    /// Digest of what defines the state. No later state of the ledger has the same.
    pub digest: u64,
}
