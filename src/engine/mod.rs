//! The engine: checkpoints, deltas and settlement. The arithmetic is in the crate `ledger`, the server behind `pg`.
//!
//! - [`delta`]: the ledger rows of a user that a checkpoint does not cover
//! - [`checkpoint`]: stored checkpoints, and folding a delta with its batches into one
//! - [`checkpoint_tids`]: a backend's cache of the tuple ids of stored checkpoints
//! - [`changes`]: the record of changes of checkpoints that the engine has not made
//! - [`published`]: what a backend reads and publishes in shared memory: folds and headroom
//! - [`balance`]: what a reader sees
//! - [`newest`]: the rows of an unfiltered page
//! - [`feed`]: the ledger read forward
//! - [`items`]: the same with each batch as one item
//! - [`batches`]: what it sees of the batches that a delta touches
//! - [`redaction`]: erasing what people have written into an account's rows
//! - [`noted`]: the users whose balance a transaction changes
//! - [`settlement`]: what happens to them when it commits
//! - [`lock_order`]: the order in which locks are waited for
//! - [`statistics`]: how often settlements took the ways that cost something
//! - [`notification`]: who is told of a crossing

pub mod balance;
pub mod batches;
pub mod changes;
pub mod checkpoint;
pub mod checkpoint_tids;
pub mod delta;
pub mod feed;
pub mod items;
pub mod lock_order;
pub mod newest;
pub mod noted;
pub mod notification;
pub mod published;
pub mod redaction;
pub mod settlement;
pub mod statistics;
