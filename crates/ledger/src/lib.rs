//! The arithmetic and the protocol of credits_ledger, free of Postgres: what can be tested without a server is here.
//!
//! Amounts and ids:
//!
//! - [`credits`]: exact sums of credits, and the amounts that a transaction may have
//! - [`numeric`]: the on-disk form of Postgres' `numeric`, to and from [`credits::Credits`]
//! - [`transaction_type`]: the types of transactions, and which of them add to the balance
//! - [`sums`]: signed sums of rows, by type
//! - [`id`]: ids of accounts, transactions, batches, caps, API keys and ledgers
//! - [`uuid_v7`]: uuids that are ordered by time
//! - [`sequence`]: how a sequence follows rows that come with a number of their own
//!
//! What is folded:
//!
//! - [`coverage`]: which transactions a checkpoint covers, and how the next watermark is chosen
//! - [`fold`]: rows folded into a balance, and the result of one pass over a delta
//! - [`daily`]: rows added up by day, type, category and key
//! - [`day`]: days of the UTC calendar
//! - [`before`]: the rows before a moment, as whole days and a part of one
//!
//! What a commit decides:
//!
//! - [`settlement`]: what a commit has to do for a user, given what it has read of it
//! - [`crossing`]: the sides of zero and of thresholds that a balance can come to lie on
//! - [`boundaries`]: the thresholds of an account, and its overdraft
//! - [`overdraft`]: how far an account may be overdrawn
//! - [`caps`]: what an account's API keys have spent in a window, and the caps that it can reach
//! - [`period`]: days, weeks and months of the UTC calendar, after which a spend cap begins anew
//! - [`reversal`]: what may take back a transaction, and how much of it
//! - [`stripe`]: the locks that order settlements, and the order they are taken in
//!
//! What sessions share and keep:
//!
//! - [`segment`]: what sessions publish to each other in dynamic shared memory
//! - [`statistics`]: how often settlements did what costs something
//! - [`places`]: a small cache of what is known of users
//! - [`bucket`]: sets and classes of the buckets that accounts fall into, where a ledger is one of many nodes

#![forbid(unsafe_code)]

pub mod before;
pub mod boundaries;
pub mod bucket;
pub mod caps;
pub mod coverage;
pub mod credits;
pub mod crossing;
pub mod daily;
pub mod day;
pub mod fold;
pub mod id;
pub mod numeric;
pub mod overdraft;
pub mod period;
pub mod places;
pub mod reversal;
pub mod segment;
pub mod sequence;
pub mod settlement;
pub mod statistics;
pub mod stripe;
pub mod sums;
pub mod transaction_type;
pub mod uuid_v7;
