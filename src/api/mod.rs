//! The SQL functions: arguments in, result out.
//!
//! But for [`checks`], they are called on NULL input, so that a NULL gets an error that names the argument, and run with the caller's
//! privileges. `pg` pins the `search_path` of whatever SQL they read with. Comments and privileges are in `sql/schema`.

#![allow(clippy::result_large_err, reason = "pgrx keeps an error's SQLSTATE only if its type is ErrorReport")]

mod analytics;
mod arguments;
pub mod balances;
pub mod bulk;
pub mod charges;
pub mod checks;
pub mod days;
pub mod feed;
mod filters;
mod given;
pub mod grouped;
pub mod holds;
pub mod moves;
pub mod new_hold;
mod newest;
pub mod nodes;
pub mod open_holds;
mod operations;
pub mod recording;
pub mod reversals;
pub mod statements;
pub mod topup;
pub mod transactions;
