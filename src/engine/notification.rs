//! The notifications of crossings, and of spend caps that are reached or open again.

use std::cell::Cell;

use ledger::caps::{self, CapChange, CapState};
use ledger::credits::Credits;
use ledger::crossing::Crossing;
use ledger::id::UserId;
use serde::Serialize;

use crate::pg::xact;
use crate::settings;

/// Microseconds from the Unix epoch to the server's, 2000-01-01.
const SERVER_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Payload on the channel of spend caps.
#[derive(Serialize)]
struct CapPayload<'a> {
    cap_id: String,
    user_id: String,
    state: &'a str,
    /// `None` of a cap that is open; `null` of one that is reached for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    resets_at: Option<Option<String>>,
}

/// Payload on the crossing channel. It names no balance: channels have no access control.
#[derive(Serialize)]
struct Payload<'a> {
    user_id: String,
    direction: &'a str,
    /// Of a crossing of zero there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<String>,
}

thread_local! {
    /// The last transaction that has notified the config channel. One notification stands for all that a transaction announces.
    static NOTIFIED_BY: Cell<u64> = const { Cell::new(0) };
}

/// Queues the notification that the user's balance has crossed a boundary, and of zero the one on the config channel, too. Listeners
/// get them when the transaction has committed.
pub fn announce(user: &UserId, crossing: &Crossing) {
    let is_zero = crossing.boundary == Credits::ZERO;
    if is_zero {
        notify_config();
    }
    if let Some(channel) = settings::crossing_channel() {
        let crossing = Payload {
            user_id: user.to_string(),
            direction: crossing.direction.as_str(),
            threshold: (!is_zero).then(|| crossing.boundary.to_string()),
        };
        let payload = serde_json::to_string(&crossing).expect("strings always serialize");
        xact::notify(&channel, &payload);
    }
}

/// Queues the notification of what a spend cap of the user became, and the one on the config channel.
pub fn announce_cap(user: &UserId, change: &CapChange) {
    notify_config();
    if let Some(channel) = settings::cap_channel() {
        let payload = CapPayload {
            cap_id: change.id.to_string(),
            user_id: user.to_string(),
            state: change.state.as_str(),
            resets_at: match change.state {
                CapState::Reached { resets_at } => Some(resets_at.map(caps::iso_midnight)),
                CapState::Open => None,
            },
        };
        let payload = serde_json::to_string(&payload).expect("strings always serialize");
        xact::notify(&channel, &payload);
    }
}

/// Queues the one notification of the transaction on the config channel.
fn notify_config() {
    if let Some(channel) = settings::config_channel()
        && NOTIFIED_BY.replace(xact::current_id()) != xact::current_id()
    {
        xact::notify(&channel, &format!("credits_transactions:{}", xact::now() + SERVER_EPOCH_MICROS));
    }
}
