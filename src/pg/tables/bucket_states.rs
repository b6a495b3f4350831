//! `bucket_states`

use super::table;
use crate::pg::column_type::Text;
use crate::pg::definition::Role;

table! {
    /// The buckets of accounts that this node does not have, or not to itself.
    BucketStates is c"bucket_states", Role::Derived, with keys &[c"bucket_states_pkey"];
    1 BUCKET "bucket": i16,
    2 STATE "state": Text,
}
