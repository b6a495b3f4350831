//! `user_balance_checkpoints`

use std::ffi::CStr;

use ledger::credits::Credits;
use ledger::id::{CapId, UserId};
use ledger::overdraft::Overdraft;

use super::{table, utf8};
use crate::pg::column::{AnyColumn, Column};
use crate::pg::column_type::Timestamptz;
use crate::pg::definition::Role;

table! {
    /// The checkpoints, one row for each user that has one.
    Checkpoints is c"user_balance_checkpoints", Role::Derived, with keys &[c"user_balance_checkpoints_pkey"];
    1 USER_ID "user_id": UserId,
    2 CHECKPOINT_SEQ "checkpoint_seq": i64,
    3 BALANCE "balance": Credits,
    4 UPDATED_AT "updated_at": Timestamptz,
    5 TRANSACTION_COUNT "transaction_count": i64,
    6 WATERMARK "watermark": u64,
    7 STRAGGLERS "stragglers": Vec<u64>,
    8 IS_POSITIVE "is_positive": bool,
    9 CROSSED_AT "crossed_at": Option<Timestamptz>,
    later: utf8(OVERDRAFT_LIMIT), utf8(THRESHOLDS), utf8(THRESHOLDS_BELOW), utf8(THRESHOLDS_CROSSED_AT), utf8(HAS_DAYS),
        utf8(CAP_IDS), utf8(CAPS_REACHED_UNTIL);
}

/// The name of the column for how far the account may be overdrawn.
pub const OVERDRAFT_LIMIT: &CStr = c"overdraft_limit";
/// The name of the column for the account's thresholds.
pub const THRESHOLDS: &CStr = c"thresholds";
/// The name of the column for how many of them lie below the balance announced last.
pub const THRESHOLDS_BELOW: &CStr = c"thresholds_below";
/// The name of the column for when each of them was crossed.
pub const THRESHOLDS_CROSSED_AT: &CStr = c"thresholds_crossed_at";
/// The name of the column for whether `daily_totals` has what the checkpoint covers: NULL in a checkpoint that was made before there were
/// daily totals, and whose rows have not been added up yet. An update has added it, as those above.
pub const HAS_DAYS: &CStr = c"has_days";
/// The name of the column for the account's spend caps.
pub const CAP_IDS: &CStr = c"cap_ids";
/// The name of the column for until when each of them was announced to be reached.
pub const CAPS_REACHED_UNTIL: &CStr = c"caps_reached_until";

/// The account's boundaries, in columns that an update has added. An owner may have added others before, so their numbers differ from
/// database to database. All are NULL where the account has none but those of every account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundaryColumns {
    /// How far holds and charges may take what is available below zero; NULL: not at all.
    pub overdraft_limit: Column<Checkpoints, Option<Overdraft>>,
    /// Balances whose crossing is announced, ascending.
    pub thresholds: Column<Checkpoints, Option<Vec<Credits>>>,
    /// How many of them lie below the balance announced last.
    pub thresholds_below: Column<Checkpoints, Option<i16>>,
    /// When each was last crossed.
    pub thresholds_crossed_at: Column<Checkpoints, Option<Vec<Option<Timestamptz>>>>,
    /// The spend caps, ascending.
    pub cap_ids: Column<Checkpoints, Option<Vec<CapId>>>,
    /// Until when each was last announced to be reached.
    pub caps_reached_until: Column<Checkpoints, Option<Vec<Option<Timestamptz>>>>,
}

impl BoundaryColumns {
    /// The furthest of them, and of those that every checkpoint has.
    pub const fn furthest(&self) -> AnyColumn<Checkpoints> {
        CROSSED_AT
            .any()
            .or_further(self.overdraft_limit.any())
            .or_further(self.thresholds.any())
            .or_further(self.thresholds_below.any())
            .or_further(self.thresholds_crossed_at.any())
            .or_further(self.cap_ids.any())
            .or_further(self.caps_reached_until.any())
    }
}
