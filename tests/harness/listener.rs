//! The notifications of a database, in order.

use fallible_iterator::FallibleIterator;
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::Session;
use crate::database::PATIENCE;

/// Channel of the application's caches.
pub const CONFIG_CHANNEL: &str = "auth_config_changed";

/// Channel that names the user and the direction.
pub const CROSSING_CHANNEL: &str = "credits_balance_crossed";

/// Channel that names the spend cap and what it became.
pub const CAP_CHANNEL: &str = "credits_spend_cap";

const SENTINEL_CHANNEL: &str = "listener_sentinel";

/// Which way a balance crossed zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To above zero.
    Up,
    /// To zero or less.
    Down,
}

/// What arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Where.
    pub channel: String,
    /// What.
    pub payload: String,
    /// Process id of the session that sent it.
    pub pid: i32,
}

/// A session that listens.
pub struct Listener {
    session: Session,
}

impl Listener {
    /// Listens to the channels of the ledger.
    #[must_use]
    pub fn new(mut session: Session) -> Self {
        session
            .run(&format!("LISTEN {CONFIG_CHANNEL}; LISTEN {CROSSING_CHANNEL}; LISTEN {CAP_CHANNEL}; LISTEN {SENTINEL_CHANNEL}"));
        Self { session }
    }

    /// The session, to ask what is visible at the moment of a notification, or to listen to more.
    pub const fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Everything sent by transactions that have committed, since the last call.
    ///
    /// # Panics
    /// If the connection fails.
    pub fn drain(&mut self) -> Vec<Notification> {
        // Notifications arrive in the order of commits: the sentinel is behind all that we ask for.
        self.session.run(&format!("NOTIFY {SENTINEL_CHANNEL}"));
        let mut notifications = Vec::new();
        loop {
            let notification = self.wait();
            if notification.channel == SENTINEL_CHANNEL {
                return notifications;
            }
            notifications.push(notification);
        }
    }

    /// The next notification, waiting for it.
    ///
    /// # Panics
    /// If it does not come.
    pub fn wait(&mut self) -> Notification {
        let mut notifications = self.session.notifications();
        let next =
            notifications.timeout_iter(PATIENCE).next().expect("listen").expect("a notification arrives");
        Notification {
            channel: next.channel().to_owned(),
            payload: next.payload().to_owned(),
            pid: next.process_id(),
        }
    }

    /// The crossings since the last call, in order.
    ///
    /// # Panics
    /// If a payload is malformed.
    pub fn crossings(&mut self) -> Vec<(Uuid, Direction)> {
        let notifications = self.drain();
        notifications.iter().filter(|n| n.channel == CROSSING_CHANNEL).map(|n| crossing(&n.payload)).collect()
    }

    /// The crossings of zero and of thresholds since the last call, in order: the user, which way, and the boundary as it was sent.
    ///
    /// # Panics
    /// If a payload is malformed.
    pub fn boundaries(&mut self) -> Vec<(Uuid, Direction, String)> {
        let notifications = self.drain();
        let payloads = notifications.iter().filter(|n| n.channel == CROSSING_CHANNEL).map(|n| &n.payload);
        payloads.map(|payload| boundary(payload)).collect()
    }
}

/// What the payload of a crossing says; the boundary is `0` where it names none.
///
/// # Panics
/// If it is not exactly what is promised.
#[must_use]
pub fn boundary(payload: &str) -> (Uuid, Direction, String) {
    match payload.split_once(",\"threshold\":\"") {
        None => {
            let (user, direction) = crossing(payload);
            (user, direction, "0".to_owned())
        }
        Some((of_zero, threshold)) => {
            let (user, direction) = crossing(&format!("{of_zero}}}"));
            let threshold =
                threshold.strip_suffix("\"}").filter(|threshold| threshold.parse::<Decimal>().is_ok());
            let threshold = threshold.unwrap_or_else(|| panic!("not the payload of a crossing: {payload}"));
            (user, direction, threshold.to_owned())
        }
    }
}

/// What the payload of a crossing of zero says.
///
/// # Panics
/// If it is not exactly what is promised.
#[must_use]
pub fn crossing(payload: &str) -> (Uuid, Direction) {
    let parse = || {
        let rest = payload.strip_prefix("{\"user_id\":\"")?;
        let (user, rest) = rest.split_once("\",\"direction\":\"")?;
        let direction = match rest {
            "up\"}" => Direction::Up,
            "down\"}" => Direction::Down,
            _ => return None,
        };
        Some((user.parse().ok()?, direction))
    };
    parse().unwrap_or_else(|| panic!("not the payload of a crossing: {payload}"))
}
