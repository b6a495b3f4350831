//! Harness of the tests from outside: a throwaway cluster, a database for each test, and sessions that can be stepped.
//!
//! - [`cluster`]: the one Postgres cluster of a test process, started on first use and removed however the process ends
//! - [`extent`]: how much a test does
//! - [`functions`]: functions that tests of all functions treat apart
//! - [`lifecycle`]: what happens to a cluster's server: stopped, killed, copied, promoted
//! - [`contents`]: what a ledger holds, to be compared with a copy of it
//! - [`database`]: a database with the extension for one test, and who is waiting for whom in it
//! - [`session`]: a connection, with the statements that every test needs
//! - [`stepping`]: a session in the background, or held in the middle of its commit
//! - [`stop_at_commit`]: a commit that others see already, and have not been told of
//! - [`clock`]: a server whose clock a test sets
//! - [`listener`]: the notifications of a database, in order
//! - [`memory_files`]: a server whose dynamic shared memory is in files, from which a test can keep its sessions
//! - [`nodes`]: two nodes, and who moves buckets of accounts between them
//! - [`racing`]: a client among others, some of which are killed
//! - [`random`]: the seed that repeats a random test
//! - [`refusal`]: what the SQLSTATE and message of an error must be
//! - [`soundness`]: what must hold of every ledger at rest

#[path = "harness/clock.rs"]
pub mod clock;
#[path = "harness/cluster.rs"]
pub mod cluster;
#[path = "harness/contents.rs"]
pub mod contents;
#[path = "harness/database.rs"]
pub mod database;
#[path = "harness/extent.rs"]
pub mod extent;
#[path = "harness/functions.rs"]
pub mod functions;
#[path = "harness/lifecycle.rs"]
pub mod lifecycle;
#[path = "harness/listener.rs"]
pub mod listener;
#[path = "harness/memory_files.rs"]
pub mod memory_files;
#[path = "harness/nodes.rs"]
pub mod nodes;
#[path = "harness/racing.rs"]
pub mod racing;
#[path = "harness/random.rs"]
pub mod random;
#[path = "harness/refusal.rs"]
pub mod refusal;
#[path = "harness/session.rs"]
pub mod session;
#[path = "harness/soundness.rs"]
pub mod soundness;
#[path = "harness/stepping.rs"]
pub mod stepping;
#[path = "harness/stop_at_commit.rs"]
pub mod stop_at_commit;

pub use database::Database;
pub use extent::asked_for;
pub use lifecycle::Shutdown;
pub use listener::{Direction, Listener, Notification};
pub use racing::{Outcome, Racer};
pub use random::seed;
pub use refusal::Refused;
pub use rust_decimal::{Decimal, dec};
pub use session::{Session, correction, rebuild, stripe_of, unguarded, user};
pub use stepping::{Background, HeldCommit};
pub use uuid::Uuid;
