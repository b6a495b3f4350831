//! The engine: checkpoints, deltas and settlement. The arithmetic is in the crate `ledger`, the server behind `pg`.
//!
//! - [`delta`]: the ledger rows of a user that a checkpoint does not cover
//! - [`checkpoint`]: stored checkpoints, and folding a delta with its batches into one
//! - [`places`]: where a backend last found the stored checkpoints
//! - [`changes`]: changes of checkpoints by other hands, as they are noted
//! - [`shared`]: what backends tell each other: folds, and how much users can spend
//! - [`balance`]: what a reader sees
//! - [`newest`]: the rows of an unfiltered page
//! - [`feed`]: the ledger read forward
//! - [`items`]: the same with each batch as one item
//! - [`batches`]: what it sees of the batches that a delta touches
//! - [`redaction`]: erasing what people have written into an account's rows
//! - [`touched`]: the users whose balance a transaction changes
//! - [`settlement`]: what happens to them when it commits
//! - [`lock_order`]: the order in which locks are waited for
//! - [`statistics`]: how often settlements took the ways that cost something
//! - [`notification`]: who is told of a crossing

pub mod balance;
pub mod batches;
pub mod changes;
pub mod checkpoint;
pub mod delta;
pub mod feed;
pub mod items;
pub mod lock_order;
pub mod newest;
pub mod notification;
pub mod places;
pub mod redaction;
pub mod settlement;
pub mod shared;
pub mod statistics;
pub mod touched;
