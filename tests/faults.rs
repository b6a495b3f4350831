//! Tests of what is promised when a server fails, is copied or is followed, from outside.
//!
//! Which kind goes here: whatever needs clusters of its own, because their servers are killed, stopped, copied, promoted or
//! configured unlike those of all other tests. Each test says what it has before and demands it after; what must hold of every
//! ledger at rest ([`Session::assert_sound`]) must hold of every copy.
//!
//! - [`crash`]: backends are killed and servers stopped under load; `CREDITS_LEDGER_CRASH_ROUNDS` asks for more
//! - [`spending`]: holds and charges under load, whose commits [`audit`] goes through in order, and backends and servers killed;
//!   `CREDITS_LEDGER_SPENDING_ROUNDS` asks for more
//! - [`dumps`]: every way to dump and to restore
//! - [`row_security`]: row-level security after every way to dump and to restore
//! - [`copies`]: `CREATE DATABASE ... TEMPLATE`, and recovery to a point in time
//! - [`standby`]: all [`answers`] on a hot standby, while the primary writes, and after a promotion;
//!   `CREDITS_LEDGER_STANDBY_TRANSACTIONS` asks for more
//! - [`damage`]: a damaged block
//! - [`logical`]: a ledger that follows another by logical replication, until it takes over
//! - [`user_tables`]: holds and limits after each of these
//!
//! What needs two majors of Postgres is in `majors.rs`.
//!
//! [`Session::assert_sound`]: credits_ledger_tests::Session::assert_sound

#[path = "faults/answers.rs"]
mod answers;
#[path = "faults/audit.rs"]
mod audit;
#[path = "faults/copies.rs"]
mod copies;
#[path = "faults/crash.rs"]
mod crash;
#[path = "faults/damage.rs"]
mod damage;
#[path = "faults/dumps.rs"]
mod dumps;
#[path = "faults/logical.rs"]
mod logical;
#[path = "faults/row_security.rs"]
mod row_security;
#[path = "faults/spending.rs"]
mod spending;
#[path = "faults/standby.rs"]
mod standby;
#[path = "faults/user_tables.rs"]
mod user_tables;
