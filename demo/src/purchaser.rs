//! The purchaser: the part of an application that reacts to crossings.
//!
//! It sets the limit and the threshold of accounts that hold, opens every account with a pack of credits, and then lives on
//! notifications alone. `down`: the account is cut off, and packs are bought until its balance is above zero again. `up`: the account may
//! go on. `down` with a threshold: credits are about to run out, and packs are bought in time.
//!
//! A ledger over many nodes has a listener for each. What two of them hear of an account that has moved from one to the other need not
//! be read in the order in which it was said: so after `down` the balance decides.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, Notification, Statement};
use rust_decimal::Decimal;
use serde::Deserialize;
use uuid::Uuid;

use crate::accounts::{Accounts, LOW, Terms};
use crate::progress::{Counters, Event};

/// Credits in a pack, a quarter: some forty requests.
const PACK: Decimal = Decimal::from_parts(25, 0, 0, false, 2);

/// How long to wait for a notification before looking whether the writers have finished.
const POLL: Duration = Duration::from_millis(20);

/// Payload of the channel `credits_balance_crossed`.
#[derive(Deserialize)]
struct Crossing {
    user_id: Uuid,
    direction: Direction,
    /// The threshold that was crossed, if it is not zero.
    threshold: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Up,
    Down,
}

/// Sessions that listen, and one that buys.
pub struct Purchaser<'a> {
    client: Client,
    listeners: Vec<Client>,
    new_listeners: Receiver<Client>,
    balance: Statement,
    purchase: Statement,
    accounts: &'a Accounts,
    counters: &'a Counters,
    events: Sender<Event>,
}

/// Has a session hear of crossings on its server.
pub fn listen(mut client: Client) -> Result<Client, postgres::Error> {
    client.batch_execute("LISTEN credits_balance_crossed")?;
    Ok(client)
}

impl<'a> Purchaser<'a> {
    /// The listeners are those that have been sent, and those that will be.
    pub fn new(
        mut client: Client,
        new_listeners: Receiver<Client>,
        accounts: &'a Accounts,
        counters: &'a Counters,
        events: Sender<Event>,
    ) -> Result<Self, postgres::Error> {
        let balance = client.prepare("SELECT credits.get_user_balance($1)")?;
        let purchase = client.prepare(
            "SELECT FROM credits.create_transaction(user_id => $1, transaction_type => 'purchase', amount => $2,
                                                    source_id => $3, description => 'Pack of credits')",
        )?;
        Ok(Self {
            client,
            listeners: Vec::new(),
            new_listeners,
            balance,
            purchase,
            accounts,
            counters,
            events,
        })
    }

    /// Sets limits and thresholds, and gives every account its first pack.
    pub fn open_accounts(&mut self) -> Result<(), postgres::Error> {
        let (users, limits): (Vec<Uuid>, Vec<Decimal>) = self.accounts.limits().unzip();
        self.client.execute(
            "INSERT INTO credits.spending_limits (user_id, overdraft_limit, thresholds)
             SELECT user_id, overdraft_limit, ARRAY[$3::numeric]
               FROM unnest($1::uuid[], $2::numeric[]) AS t (user_id, overdraft_limit)",
            &[&users, &limits, &LOW],
        )?;
        (0..self.accounts.len()).try_for_each(|account| self.buy(account, PACK))
    }

    /// Reacts to crossings until the writers have finished and every crossing is dealt with.
    pub fn run(mut self, writers_finished: &AtomicBool) -> Result<(), Box<dyn Error + Send + Sync>> {
        loop {
            let last_round = writers_finished.load(Ordering::Acquire);
            self.listeners.extend(self.new_listeners.try_iter());
            if last_round {
                // The server sends waiting notifications before it answers: after this none of a committed
                // transaction is missing.
                self.listeners.iter_mut().try_for_each(|listener| listener.batch_execute(""))?;
            }
            match self.hear()? {
                Some(notification) => self.react(&serde_json::from_str(notification.payload())?)?,
                None if last_round => return Ok(()),
                None => {}
            }
        }
    }

    /// The next notification of any server, or nothing after [`POLL`].
    fn hear(&mut self) -> Result<Option<Notification>, postgres::Error> {
        for listener in &mut self.listeners {
            if let Some(notification) = listener.notifications().iter().next()? {
                return Ok(Some(notification));
            }
        }
        let turns = u32::try_from(self.listeners.len()).unwrap_or(u32::MAX).max(1);
        for listener in &mut self.listeners {
            if let Some(notification) = listener.notifications().timeout_iter(POLL / turns).next()? {
                return Ok(Some(notification));
            }
        }
        Ok(None)
    }

    fn react(&mut self, crossing: &Crossing) -> Result<(), postgres::Error> {
        let Some(account) = self.accounts.number(crossing.user_id) else { return Ok(()) };
        match (&crossing.direction, &crossing.threshold) {
            (Direction::Up, None) => {
                self.counters.up.add(1);
                self.accounts.set_cut_off(account, false);
                self.tell(Event::Up { user: crossing.user_id });
            }
            (Direction::Down, None) => {
                self.counters.down.add(1);
                if Accounts::terms(account) == Terms::CutOff {
                    self.accounts.set_cut_off(account, true);
                    let balance = self.balance_of(account)?;
                    self.tell(Event::Down { user: crossing.user_id, balance });
                    if balance > Decimal::ZERO {
                        self.accounts.set_cut_off(account, false);
                    }
                    self.buy_until_above(Decimal::ZERO, account, balance)?;
                }
            }
            (Direction::Up, Some(_)) => {
                self.counters.low_up.add(1);
            }
            (Direction::Down, Some(_)) => {
                self.counters.low_down.add(1);
                if Accounts::terms(account) == Terms::BuysInTime {
                    let balance = self.balance_of(account)?;
                    self.tell(Event::Low { user: crossing.user_id, balance });
                    self.buy_until_above(LOW, account, balance)?;
                }
            }
        }
        Ok(())
    }

    fn buy_until_above(
        &mut self,
        level: Decimal,
        account: usize,
        mut balance: Decimal,
    ) -> Result<(), postgres::Error> {
        // What was under way at the notification is still being charged: look again after buying.
        while balance <= level {
            self.buy(account, enough(balance - level))?;
            balance = self.balance_of(account)?;
        }
        Ok(())
    }

    fn tell(&self, event: Event) {
        // Without anyone to show it to, an event is of no interest.
        let _ = self.events.send(event);
    }

    fn balance_of(&mut self, account: usize) -> Result<Decimal, postgres::Error> {
        Ok(self.client.query_one(&self.balance, &[&self.accounts.id(account)])?.get(0))
    }

    fn buy(&mut self, account: usize, amount: Decimal) -> Result<(), postgres::Error> {
        let source_id = format!("purchase-{}", self.counters.purchases.add(1));
        self.client.execute(&self.purchase, &[&self.accounts.id(account), &amount, &source_id])?;
        self.accounts.tally(account, amount);
        self.counters.transactions.add(1);
        self.counters.rows.add(1);
        Ok(())
    }
}

/// The fewest whole packs that bring a balance above its level. It is so far from the level now, which is not above 0.
fn enough(from_level: Decimal) -> Decimal {
    PACK * (-from_level / PACK + Decimal::ONE).floor()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_packs_as_it_takes_and_no_more() {
        for (balance, credits) in [(0, 25), (-1, 25), (-24, 25), (-25, 50), (-26, 50), (-100, 125)] {
            assert_eq!(enough(Decimal::new(balance, 2)), Decimal::new(credits, 2));
        }
    }

    #[test]
    fn a_notification_names_user_and_direction() {
        let crossing: Crossing =
            serde_json::from_str(r#"{"user_id":"5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3a","direction":"down"}"#)
                .expect("a payload of the channel");
        assert_eq!(crossing.user_id, Uuid::from_u128(0x5b2c_6a1e_0d4f_4c55_9a37_6f1f_0c1d_2e3a));
        assert!(matches!(crossing.direction, Direction::Down));
        assert_eq!(crossing.threshold, None);
        let crossing: Crossing = serde_json::from_str(
            r#"{"user_id":"5b2c6a1e-0d4f-4c55-9a37-6f1f0c1d2e3a","direction":"up","threshold":"0.05"}"#,
        )
        .expect("a payload of the channel");
        assert!(matches!(crossing.direction, Direction::Up));
        assert_eq!(crossing.threshold.as_deref(), Some("0.05"));
    }
}
