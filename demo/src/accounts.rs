//! The accounts that requests come from: how each is kept from spending what it does not have, who is cut off, and what each balance
//! must be in the end.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rust_decimal::Decimal;
use uuid::Uuid;

use crate::random::{Random, distinct_uuids};

/// Of so many accounts, one works in batches.
const BATCHING: usize = 3;

/// Of so many accounts, one buys one pack and no more, if it does not work in batches.
const BUYING_ONCE: usize = 5;

/// How far below zero the holds of an account that buys once may take it, in credits.
const OVERDRAFT: Decimal = Decimal::from_parts(5, 0, 0, false, 2);

/// How an account is kept from spending what it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terms {
    /// Its requests are batches, which are recorded when they are done, whatever the balance: it is cut off when that has come to zero.
    CutOff,
    /// It holds what a request can cost before each, and buys when its balance falls below [`LOW`].
    BuysInTime,
    /// It holds, too, and buys once: it is refused when that and its overdraft are used up.
    BuysOnce,
}

/// The threshold of accounts that hold, in credits.
pub const LOW: Decimal = Decimal::from_parts(5, 0, 0, false, 2);

/// All accounts of the demo, numbered from 0, the busiest first.
pub struct Accounts {
    accounts: Vec<Account>,
    numbers: HashMap<Uuid, usize>,
}

struct Account {
    id: Uuid,
    /// Set and cleared by the notifications alone.
    cut_off: AtomicBool,
    /// Sum of what was committed for the account, added up here, not read from the server.
    expected: Mutex<Decimal>,
}

impl Accounts {
    pub fn new(count: usize, random: &mut Random) -> Self {
        let ids = distinct_uuids(random, count);
        let numbers = ids.iter().enumerate().map(|(number, &id)| (id, number)).collect();
        let account =
            |id| Account { id, cut_off: AtomicBool::new(false), expected: Mutex::new(Decimal::ZERO) };
        Self { accounts: ids.into_iter().map(account).collect(), numbers }
    }

    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    pub fn id(&self, account: usize) -> Uuid {
        self.accounts[account].id
    }

    pub fn number(&self, id: Uuid) -> Option<usize> {
        self.numbers.get(&id).copied()
    }

    pub const fn terms(account: usize) -> Terms {
        match account {
            _ if account.is_multiple_of(BATCHING) => Terms::CutOff,
            _ if account % BUYING_ONCE == BUYING_ONCE - 1 => Terms::BuysOnce,
            _ => Terms::BuysInTime,
        }
    }

    /// The accounts that hold before each request, and how far below zero their holds may take them.
    pub fn limits(&self) -> impl Iterator<Item = (Uuid, Decimal)> {
        self.accounts.iter().enumerate().filter_map(|(number, account)| match Self::terms(number) {
            Terms::CutOff => None,
            Terms::BuysInTime => Some((account.id, Decimal::ZERO)),
            Terms::BuysOnce => Some((account.id, OVERDRAFT)),
        })
    }

    pub fn is_cut_off(&self, account: usize) -> bool {
        self.accounts[account].cut_off.load(Ordering::Relaxed)
    }

    pub fn set_cut_off(&self, account: usize, cut_off: bool) {
        self.accounts[account].cut_off.store(cut_off, Ordering::Relaxed);
    }

    /// Adds a committed transaction, signed.
    pub fn tally(&self, account: usize, amount: Decimal) {
        *self.accounts[account].expected.lock().expect("no one panics while adding") += amount;
    }

    /// Every account's id and what its balance must be.
    pub fn expected(&self) -> HashMap<Uuid, Decimal> {
        let expected = |account: &Account| *account.expected.lock().expect("no one panics while adding");
        self.accounts.iter().map(|account| (account.id, expected(account))).collect()
    }
}
