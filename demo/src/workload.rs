//! The traffic: accounts, the requests they make, and the writers that record them.
//!
//! Requests are dealt to accounts by a zipf law, so that one account is hot. Every third account works in batches.
//! A writer takes the next [`FLUSH`] requests. For each single request it holds what that can cost, in a transaction of its own, and
//! captures what it has cost in another, as it would be when the request is answered; where the hold is refused, there is no request.
//! Then it records the batched ones in one statement. Those of an account that is cut off are turned away, not recorded.

use std::sync::Mutex;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use postgres::types::ToSql;
use postgres::{Client, Error, Statement};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::accounts::{Accounts, Terms};
use crate::progress::{Counters, Event};
use crate::random::{Random, Zipf, distinct_uuids};
use crate::trace::Request;

/// Requests that a writer takes at a time.
const FLUSH: usize = 100;

/// Requests in a batch.
const BATCH_SIZE: u32 = 250;

/// The models that are asked, the busiest first.
const MODELS: [&str; 4] = ["llama-70b", "qwen-32b", "mistral-24b", "gemma-12b"];

/// API keys of an account.
const KEYS: usize = 2;

/// SQLSTATE of what an account's credits do not cover.
const INSUFFICIENT_CREDITS: &str = "LC001";

/// SQLSTATE of an account that is on its way to another node.
const MOVING: &str = "LC003";

/// How long to leave it alone.
const LATER: Duration = Duration::from_millis(20);

/// One request as it will be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub account: usize,
    pub amount: Decimal,
    /// What is held before.
    pub most: Decimal,
    pub source_id: String,
    pub batch: Option<Uuid>,
    /// Its category.
    pub model: &'static str,
    pub api_key: Uuid,
}

/// Deals the requests of a trace to `accounts` accounts.
pub fn deal(trace: &[Request], accounts: usize, random: &mut Random) -> Vec<Usage> {
    let [zipf, models, first_keys] = [accounts, MODELS.len(), KEYS].map(Zipf::new);
    let keys: Vec<Vec<Uuid>> = (0..accounts).map(|_| distinct_uuids(random, KEYS)).collect();
    // Per account: the batch that is being filled, and how much it still takes.
    let mut open_batches = vec![(Uuid::nil(), 0_u32); accounts];
    let mut usages = Vec::with_capacity(trace.len());
    for (number, request) in (1..).zip(trace) {
        let account = zipf.draw(random);
        let batch = (Accounts::terms(account) == Terms::CutOff).then(|| {
            let (batch, room) = &mut open_batches[account];
            if *room == 0 {
                (*batch, *room) = (random.uuid(), BATCH_SIZE);
            }
            *room -= 1;
            *batch
        });
        usages.push(Usage {
            account,
            amount: request.price(),
            most: request.most(),
            source_id: format!("request-{number}"),
            batch,
            model: MODELS[models.draw(random)],
            api_key: keys[account][first_keys.draw(random)],
        });
    }
    usages
}

/// Requests that no writer has taken yet.
pub struct Queue<'a>(Mutex<std::slice::Chunks<'a, Usage>>);

impl<'a> Queue<'a> {
    pub fn new(usages: &'a [Usage]) -> Self {
        Self(Mutex::new(usages.chunks(FLUSH)))
    }

    fn take(&self) -> Option<&'a [Usage]> {
        self.0.lock().expect("no writer panics while it takes").next()
    }
}

/// One connection that records usage.
pub struct Writer<'a> {
    client: Client,
    hold: Statement,
    capture: Statement,
    many: Statement,
    accounts: &'a Accounts,
    counters: &'a Counters,
    events: Sender<Event>,
}

impl<'a> Writer<'a> {
    pub fn new(
        mut client: Client,
        accounts: &'a Accounts,
        counters: &'a Counters,
        events: Sender<Event>,
    ) -> Result<Self, Error> {
        let hold = client.prepare(
            "SELECT FROM credits.create_hold(user_id => $1, amount => $2, source_id => $3, expires_in => '10 minutes',
                                             description => 'Request', api_key_id => $4, category => $5)",
        )?;
        let capture = client.prepare("SELECT FROM credits.capture_hold(source_id => $1, amount => $2)")?;
        // Over many nodes an INSERT commits on one after the other. It is repeated where an account was on its way, and then some rows
        // may be there.
        let many = client.prepare(
            "INSERT INTO credits.credits_transactions
                 (user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id, category)
             SELECT user_id, 'usage', amount, source_id, 'Batched request', batch, api_key, model
               FROM unnest($1::uuid[], $2::numeric[], $3::text[], $4::uuid[], $5::uuid[], $6::text[])
                    AS t(user_id, amount, source_id, batch, api_key, model)
             ON CONFLICT DO NOTHING",
        )?;
        Ok(Self { client, hold, capture, many, accounts, counters, events })
    }

    /// Records requests until none is left.
    pub fn run(mut self, queue: &Queue) -> Result<(), Error> {
        while let Some(usages) = queue.take() {
            let (batched, single): (Vec<&Usage>, Vec<&Usage>) =
                usages.iter().partition(|usage| usage.batch.is_some());
            for usage in single {
                if self.hold(usage)? {
                    self.capture(usage)?;
                }
            }
            let admitted: Vec<&Usage> = batched.into_iter().filter(|usage| self.admit(usage)).collect();
            self.record_many(&admitted)?;
        }
        Ok(())
    }

    fn admit(&self, usage: &Usage) -> bool {
        let admitted = !self.accounts.is_cut_off(usage.account);
        if !admitted {
            self.counters.turned_away.add(1);
        }
        admitted
    }

    /// Whether the account's credits cover what the request can cost.
    fn hold(&mut self, usage: &Usage) -> Result<bool, Error> {
        let user = self.accounts.id(usage.account);
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&user, &usage.most, &usage.source_id, &usage.api_key, &usage.model];
        match self.client.execute(&self.hold, &parameters) {
            Ok(_) => {
                self.counters.transactions.add(1);
                Ok(true)
            }
            Err(error) if has_state(&error, INSUFFICIENT_CREDITS) => {
                self.counters.refused.add(1);
                // Without anyone to show it to, an event is of no interest.
                let _ = self.events.send(Event::Refused { user, most: usage.most });
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn capture(&mut self, usage: &Usage) -> Result<(), Error> {
        self.client.execute(&self.capture, &[&usage.source_id, &usage.amount])?;
        self.recorded(&[usage]);
        Ok(())
    }

    fn record_many(&mut self, usages: &[&Usage]) -> Result<(), Error> {
        if usages.is_empty() {
            return Ok(());
        }
        let users: Vec<Uuid> = usages.iter().map(|usage| self.accounts.id(usage.account)).collect();
        let amounts: Vec<Decimal> = usages.iter().map(|usage| usage.amount).collect();
        let source_ids: Vec<&str> = usages.iter().map(|usage| usage.source_id.as_str()).collect();
        let batches: Vec<Option<Uuid>> = usages.iter().map(|usage| usage.batch).collect();
        let keys: Vec<Uuid> = usages.iter().map(|usage| usage.api_key).collect();
        let models: Vec<&str> = usages.iter().map(|usage| usage.model).collect();
        let parameters: [&(dyn ToSql + Sync); 6] = [&users, &amounts, &source_ids, &batches, &keys, &models];
        while let Err(error) = self.client.execute(&self.many, &parameters) {
            if !has_state(&error, MOVING) {
                return Err(error);
            }
            thread::sleep(LATER);
        }
        self.recorded(usages);
        Ok(())
    }

    fn recorded(&self, usages: &[&Usage]) {
        for usage in usages {
            self.accounts.tally(usage.account, -usage.amount);
        }
        self.counters.transactions.add(1);
        self.counters.rows.add(usages.len() as u64);
    }
}

fn has_state(error: &Error, sqlstate: &str) -> bool {
    error.code().is_some_and(|code| code.code() == sqlstate)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::trace;

    fn dealt() -> Vec<Usage> {
        let mut random = Random::new(3);
        let trace = trace::generate(5_000, &mut random);
        deal(&trace, 10, &mut random)
    }

    #[test]
    fn every_third_account_works_in_batches_of_one_account_each() {
        let mut batches: HashMap<Uuid, (usize, u32)> = HashMap::new();
        for usage in dealt() {
            assert_eq!(usage.batch.is_some(), usage.account.is_multiple_of(3));
            if let Some(batch) = usage.batch {
                let (account, size) = batches.entry(batch).or_insert((usage.account, 0));
                assert_eq!(*account, usage.account);
                *size += 1;
            }
        }
        assert!(batches.values().all(|(_, size)| *size <= BATCH_SIZE));
        assert!(batches.values().any(|(_, size)| *size == BATCH_SIZE));
    }

    #[test]
    fn the_same_seed_deals_the_same() {
        assert_eq!(dealt(), dealt());
    }

    #[test]
    fn the_queue_hands_out_everything_once() {
        let usages = dealt();
        let queue = Queue::new(&usages);
        let taken: Vec<Usage> = std::iter::from_fn(|| queue.take()).flatten().cloned().collect();
        assert_eq!(taken, usages);
    }
}
