//! The notifications of a crossing.

use std::cell::Cell;

use ledger::crossing::Direction;
use ledger::id::UserId;
use serde::Serialize;

use crate::pg::xact;
use crate::settings;

/// Microseconds from the Unix epoch to the server's, 2000-01-01.
const SERVER_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Payload on the crossing channel. It names no balance: channels have no access control.
#[derive(Serialize)]
struct Crossing<'a> {
    user_id: String,
    direction: &'a str,
}

thread_local! {
    /// The last transaction that has notified the config channel. One notification stands for all crossings of a transaction.
    static NOTIFIED_BY: Cell<u64> = const { Cell::new(0) };
}

/// Queues notifications on both channels that the user's balance has crossed zero. Listeners get them when the transaction has
/// committed.
pub fn announce(user: &UserId, direction: Direction) {
    if let Some(channel) = settings::config_channel()
        && NOTIFIED_BY.replace(xact::current_id()) != xact::current_id()
    {
        xact::notify(&channel, &format!("credits_transactions:{}", xact::now() + SERVER_EPOCH_MICROS));
    }
    if let Some(channel) = settings::crossing_channel() {
        let crossing = Crossing { user_id: user.to_string(), direction: direction.as_str() };
        let payload = serde_json::to_string(&crossing).expect("two strings always serialize");
        xact::notify(&channel, &payload);
    }
}
