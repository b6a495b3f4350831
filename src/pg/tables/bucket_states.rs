//! `bucket_states`

use super::table;
use crate::pg::column_type::{Jsonb, Text};
use crate::pg::definition::Role;

table! {
    /// The buckets of accounts that this node does not have, or not to itself.
    BucketStates is c"bucket_states", Role::Derived, with keys &[c"bucket_states_pkey"];
    1 BUCKET "bucket": i16,
    2 STATE "state": Text,
    3 COPIED_FROM "copied_from": Option<Text>,
    4 COPIED_TO "copied_to": Option<u64>,
    5 RECEIVED "received": Option<u64>,
    6 HANDOVER "handover": Option<Jsonb>,
}
