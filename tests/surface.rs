//! Tests of the SQL surface from outside: what the reading functions answer, and what an answer costs.
//!
//! - [`application`]: an application that moves over keeps its expectations, and its statements
//! - [`available`]: what holds leave of a balance
//! - [`rows`], [`grouped`], [`topup`], [`labels`], [`arguments`]: each promise of the interface, by example
//! - [`property`]: every function with every combination of filters against the [`model`], whatever has happened
//! - [`days`]: days, statements and running balances against plain SQL, in every time zone
//! - [`keyset`]: pages by cursor while others write
//! - [`cost`]: what may be read for an answer, on a long ledger

#[path = "surface/application.rs"]
mod application;
#[path = "surface/arguments.rs"]
mod arguments;
#[path = "surface/available.rs"]
mod available;
#[path = "surface/calls.rs"]
mod calls;
#[path = "surface/cost.rs"]
mod cost;
#[path = "surface/days.rs"]
mod days;
#[path = "surface/grouped.rs"]
mod grouped;
#[path = "surface/keyset.rs"]
mod keyset;
#[path = "surface/labels.rs"]
mod labels;
#[path = "surface/model.rs"]
mod model;
#[path = "surface/pages.rs"]
mod pages;
#[path = "surface/property.rs"]
mod property;
#[path = "surface/rows.rs"]
mod rows;
#[path = "surface/topup.rs"]
mod topup;
