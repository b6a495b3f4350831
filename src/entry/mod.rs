//! What Postgres calls: the outermost room. Everything here is named by the server, in SQL or in one of its hooks, and hands on to
//! the rooms below.
//!
//! - [`functions`]: the SQL functions that are written against the server's own calling convention, and what answers each. Those
//!   that pgrx wraps (`#[pg_extern]`) stand in `api` beside their bodies
//! - [`triggers`]: the trigger functions of the ledger and of the tables derived from it
//! - [`guard`]: the event trigger and the hook that see every DDL command
//!
//! There is no `unsafe` here: `pg` turns a call of the server's into values that are safe.

mod functions;
mod guard;
mod triggers;

use crate::engine::{claims, noted, prepare, redaction, reversals, settlement, statistics};
use crate::pg::xact::Hooks;
use crate::pg::{catalog, transfer, xact};

/// Registers everything that the server is to call without being asked by SQL; called once, when the library is loaded.
pub fn init() {
    catalog::init();
    xact::init(Hooks {
        before_commit: settlement::settle_noted,
        before_prepare: || prepare::count_noted().unwrap_or_else(|error| error.raise()),
        committed: statistics::publish,
        forget: || {
            noted::forget();
            claims::forget();
            redaction::forget();
            reversals::forget();
            transfer::forget();
            statistics::forget();
        },
    });
}
