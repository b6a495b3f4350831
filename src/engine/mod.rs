//! The engine: checkpoints, deltas and settlement. The arithmetic is in the crate `ledger`, the server behind `pg`.
//!
//! While a transaction runs:
//!
//! - [`inserted`]: what is checked and noted of each row that is inserted
//! - [`direct`]: rows that are written without a statement
//! - [`noted`]: the users whose balance a transaction changes
//! - [`claims`]: the rows by which a transaction takes credits, which its commit must have covered
//! - [`early_refusal`]: refusing a hold or a charge by the call
//! - [`redaction`]: erasing texts that people have written into an account's rows
//!
//! At its end:
//!
//! - [`settlement`]: what a commit does for the noted users
//! - [`lock_order`]: the order in which locks are waited for
//! - [`moment`]: one moment for all that a settlement reads
//! - [`commit_view`]: what it reads of users: their checkpoints and deltas
//! - [`cover`]: what a transaction must have covered by what is available
//! - [`boundaries`]: the boundaries that users have given accounts
//! - [`caps`]: the spend caps that users have given accounts
//! - [`cap_usage`]: what was spent of spend caps, added up from usage
//! - [`cap_sums`]: what a session has added up of spend caps, from which its next look goes on
//! - [`user_rows`]: rows of the tables in which users bound accounts
//! - [`reversals`]: what transactions take back of others
//! - [`refresh`]: refreshing checkpoints that lag while their stripe is shared
//! - [`notification`]: the notifications of crossings and of spend caps
//! - [`statistics`]: how often settlements did what costs something
//! - [`prepare`]: what PREPARE TRANSACTION does for the noted users
//!
//! What is stored, and what a session keeps of it:
//!
//! - [`checkpoint`]: stored checkpoints
//! - [`checkpoint_tids`]: a session's cache of the tuple ids of stored checkpoints
//! - [`changes`]: the record of changes of checkpoints that the engine has not made
//! - [`batches`]: what is folded of batches, and what a delta adds to that
//! - [`days`]: what is folded of days
//! - [`days_fill`]: adding up the days of accounts of earlier versions
//!
//! What sessions publish to each other:
//!
//! - [`published`]: what a session reads and publishes in shared memory: folds, headroom and counts
//! - [`attachment`]: the parts of shared memory that a session is attached to
//!
//! Reading:
//!
//! - [`delta`]: the ledger rows of a user that a checkpoint does not cover
//! - [`balance`]: balances under the caller's snapshot
//! - [`holds`]: what accounts hold, and what is noted of their holds
//! - [`source_ids`]: whether a `source_id` is taken, by a transaction or by a hold
//! - [`available`]: what is available of balances under the caller's snapshot
//! - [`dated`]: sums of a user's rows by their dates
//! - [`by_date`]: the rows of a user by their dates
//! - [`newest`]: the rows of a user in the order of `seq`, for a page without filters
//! - [`items`]: the newest rows of a user, with each batch as one item
//! - [`running`]: the balance that each row of a user has left
//! - [`feed`]: the ledger's rows in the order of their stamps

pub mod attachment;
pub mod available;
pub mod balance;
pub mod batches;
pub mod boundaries;
pub mod by_date;
mod cap_sums;
mod cap_usage;
pub mod caps;
pub mod changes;
pub mod checkpoint;
pub mod checkpoint_tids;
pub mod claims;
pub mod commit_view;
pub mod cover;
pub mod dated;
pub mod days;
pub mod days_fill;
pub mod delta;
pub mod direct;
pub mod early_refusal;
pub mod feed;
pub mod holds;
pub mod inserted;
pub mod items;
pub mod lock_order;
pub mod moment;
pub mod newest;
pub mod noted;
pub mod notification;
pub mod prepare;
pub mod published;
pub mod redaction;
pub mod refresh;
pub mod reversals;
pub mod running;
pub mod settlement;
pub mod source_ids;
pub mod statistics;
pub mod user_rows;
