//! The accounts that requests come from: who is cut off, and what each balance must be in the end.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rust_decimal::Decimal;
use uuid::Uuid;

use crate::random::{Random, distinct_uuids};

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
