//! Tests of the ledger from outside, over real connections.
//!
//! Which kind to write:
//! - what one session sees of what it did: a test of the module of its subject, with one [`Session`]
//! - what depends on the order in which sessions act: step them one by one, hold one inside its commit
//!   ([`Database::hold_commit`]) or wait until one is blocked ([`Database::until_blocked`]); never sleep
//! - what must hold whatever the order: `stress` (many writers, then a look at the ledger at rest) and `differential`
//!   (one answer against plain SQL), both seeded
//! - what a client may send, good or bad: the target `hostile`, which calls whatever the catalog has
//! - what sessions hold on to, or leave behind where they are stopped: the target `resources`
//! - arithmetic and protocol that need no server: unit tests in `crates/ledger`, and `crates/properties` for any input
//!
//! [`Session`]: credits_ledger_tests::Session
//! [`Database::hold_commit`]: credits_ledger_tests::Database::hold_commit
//! [`Database::until_blocked`]: credits_ledger_tests::Database::until_blocked

mod altered_relations;
mod append_only;
mod balances;
mod buckets;
mod bulk;
mod cap_history;
mod cap_races;
mod cap_windows;
mod caps_by_day;
mod catalog;
mod checkpoints;
mod commit_waits;
mod cover_races;
mod coverage;
mod crossing;
mod days;
mod days_fill;
mod differential;
mod direct;
mod encodings;
mod enforced_caps;
mod enforced_history;
mod feed;
mod folds;
mod foreign;
mod guard;
mod headroom;
mod held_back;
mod holds;
mod idempotency;
mod ids;
mod import;
mod installation;
mod interleavings;
mod kept_rows;
mod locks;
mod moves;
mod numbering;
mod online_changes;
mod operations;
mod packages;
mod pages;
mod privileges;
mod readme;
mod recording;
mod redacted_holds;
mod redaction;
mod refusals;
mod release_build;
mod repairs;
mod requirements;
mod reversal_stress;
mod reversals;
mod roles;
mod rooms;
mod router;
mod row_security;
mod search_path;
mod serializable;
mod settlement_edges;
mod shapes;
mod shared_memory;
mod snapshots;
mod spend_caps;
mod spending_stress;
mod sql_reference;
mod stragglers;
mod stress;
mod tenants;
mod thresholds;
mod triggers;
mod two_phase;
mod upgrade;
mod user_tables;
mod verification;
mod versions;
