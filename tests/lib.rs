//! Tests of credits_ledger from outside, over real connections.
