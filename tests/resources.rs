//! What sessions hold on to: nothing, however much they do and wherever they are stopped. Nothing here measures time.
//!
//! - [`long_session`]: very many transactions in one session
//! - [`many_users`]: very many users in one transaction and in one call; calls that are stopped half way

#[path = "resources/footprint.rs"]
mod footprint;
#[path = "resources/long_session.rs"]
mod long_session;
#[path = "resources/many_users.rs"]
mod many_users;
