//! Whatever a client sends: every function, INSERT and COPY with good and bad values, in several sessions at once. Each
//! answer is either the one that a good call has, or a refusal of the class that its bad value deserves.
//!
//! - [`values`], [`amounts`]: good and bad values of every type, with what a bad one is refused for
//! - [`credit`]: bad holds, charges and limits, one by one
//! - [`caps`]: bad spend caps, and odd ones
//! - [`functions`]: calls of all functions that the catalog has, with such values
//! - [`moves`]: the functions that move buckets between two nodes, with bad values and out of order
//! - [`rows`]: rows to record, whole or spoilt, by every way to record them
//! - [`settings`]: good and bad settings, and tables that labels cannot come from
//! - [`verdict`]: whether an answer is as it must be
//! - [`sessions`]: who does all that, in transactions and savepoints, and what must be left when they are done

#[path = "hostile/amounts.rs"]
mod amounts;
#[path = "hostile/caps.rs"]
mod caps;
#[path = "hostile/credit.rs"]
mod credit;
#[path = "hostile/functions.rs"]
mod functions;
#[path = "hostile/moves.rs"]
mod moves;
#[path = "hostile/rows.rs"]
mod rows;
#[path = "hostile/sessions.rs"]
mod sessions;
#[path = "hostile/settings.rs"]
mod settings;
#[path = "hostile/values.rs"]
mod values;
#[path = "hostile/verdict.rs"]
mod verdict;
