//! A set: the counts, the headroom and the folds of the accounts that belong to it.

use std::mem::offset_of;

use super::folds::{FOLDS, FoldSlot};
use super::headroom_slots::{Counts, HEADROOMS, HeadroomSlot};
use super::ways::{MOST_WAYS, Ways};

/// How many counts a set has.
pub const COUNTS: usize = 4;

/// What accounts that belong together share. As zeros nothing is in it.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Set {
    headroom_ways: Ways,
    first_counts: [Counts; COUNTS / 2],
    fold_ways: Ways,
    last_counts: [Counts; COUNTS / 2],
    headrooms: [HeadroomSlot; HEADROOMS],
    folds: [FoldSlot; FOLDS],
}

const _: () = {
    assert!(HEADROOMS <= MOST_WAYS && FOLDS <= MOST_WAYS, "each slot has a tag");
    assert!(
        offset_of!(Set, fold_ways) == 64,
        "a cache line has the tags of headroom, and half of the counts"
    );
    assert!(offset_of!(Set, headrooms) == 128, "another one those of folds");
    assert!(offset_of!(Set, folds) == 640 && size_of::<Set>() == 1024, "nothing of a set is unused");
};

impl Set {
    #[cfg(test)]
    pub(super) const fn empty() -> Self {
        Self {
            headroom_ways: Ways::empty(),
            first_counts: [const { Counts::empty() }; COUNTS / 2],
            fold_ways: Ways::empty(),
            last_counts: [const { Counts::empty() }; COUNTS / 2],
            headrooms: [const { HeadroomSlot::empty() }; HEADROOMS],
            folds: [const { FoldSlot::empty() }; FOLDS],
        }
    }

    /// The counts of this number, below [`COUNTS`].
    #[inline]
    pub fn counts(&self, number: usize) -> &Counts {
        let half = if number < COUNTS / 2 { &self.first_counts } else { &self.last_counts };
        &half[number % (COUNTS / 2)]
    }

    /// Where headroom is.
    #[inline]
    pub fn headrooms(&self) -> (&Ways, &[HeadroomSlot; HEADROOMS]) {
        (&self.headroom_ways, &self.headrooms)
    }

    /// Where folds are.
    #[inline]
    pub fn folds(&self) -> (&Ways, &[FoldSlot; FOLDS]) {
        (&self.fold_ways, &self.folds)
    }
}
