//! Everything that touches the server's internals, and the only `unsafe` code. What is exported is safe.

#![allow(unsafe_code)]

pub mod analytics;
pub mod answer;
mod array;
pub mod block_ranges;
pub mod call;
mod callbacks;
pub mod catalog;
pub mod column_value;
pub mod command;
pub mod database;
pub mod definition;
mod description;
pub mod entry_point;
pub mod event_trigger;
pub mod extension;
pub mod failure;
pub mod fetch;
pub mod guc;
pub mod json;
pub mod lock;
pub mod memory;
pub mod numeric;
pub mod object_access;
mod ownership;
pub mod privilege;
pub mod raised;
pub mod random;
pub mod relation;
pub mod replace;
pub mod row;
pub mod scan;
mod search_path;
mod sequence;
pub mod shape;
pub mod shared_memory;
pub mod snapshot;
pub mod stamp;
pub mod state;
pub mod statement;
pub mod system_catalog;
pub mod text;
pub mod trigger;
pub mod value;
pub mod write;
pub mod xact;
