//! What sessions hold on to: nothing, however much they do and wherever they are stopped. Nothing here measures time.
//!
//! - [`long_session`]: very many transactions in one session
//! - [`spending`]: very many holds, charges and reversals in one session, and in the savepoints of one transaction
//! - [`long_feed`]: very many rows of the feed in one call
//! - [`many_users`]: very many users in one transaction and in one call; calls that are stopped half way
//! - [`refused_items`]: very many items of one call that are all refused

#[path = "resources/footprint.rs"]
mod footprint;
#[path = "resources/long_feed.rs"]
mod long_feed;
#[path = "resources/long_session.rs"]
mod long_session;
#[path = "resources/many_users.rs"]
mod many_users;
#[path = "resources/refused_items.rs"]
mod refused_items;
#[path = "resources/spending.rs"]
mod spending;
