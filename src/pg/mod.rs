//! Everything that touches the server's internals, and the only `unsafe` code.

#![allow(unsafe_code)]

pub mod entry;
