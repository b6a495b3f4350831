//! Functions that tests of all functions treat apart.

/// Those that move a bucket of accounts, which go together and in an order.
pub const OF_A_MOVE: [&str; 22] = [
    "activate_bucket",
    "begin_transfer",
    "bucket_accounts",
    "bucket_handover",
    "drop_holds_and_boundaries",
    "expect_bucket",
    "give_away_bucket",
    "hold_bucket",
    "hold_stripes",
    "holds_stripes",
    "lock_bucket",
    "purge_bucket",
    "put_holds_and_boundaries",
    "receive_handover",
    "receive_transactions",
    "refuse_prepared",
    "require_same_rows",
    "require_handover",
    "return_bucket",
    "start_moving_bucket",
    "stop_moving_bucket",
    "wait_for_transaction",
];
