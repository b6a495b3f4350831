//! What a session keeps of what was spent of accounts' caps, so that the next commit that looks reads only what has come since.
//!
//! What the rows of a coverage add up to stays true for good, as long as nobody but the engine changes the ledger and its checkpoints. So it
//! is kept under the name of a state ([`super::published`]), and with the caps and windows that it was added up for. It is not published: a
//! session that has not looked at an account yet reads the daily totals, and all rows of a day on which a window begins after midnight.

use std::cell::RefCell;
use std::collections::HashMap;

use ledger::caps::CapSpend;
use ledger::coverage::Coverage;
use ledger::id::UserId;
use ledger::segment::StateName;

/// Caps kept at most: half a megabyte.
const MOST: usize = 2048;

struct Kept {
    name: StateName,
    coverage: Coverage,
    /// Without anything in flight.
    spends: Vec<CapSpend>,
}

#[derive(Default)]
struct Cache {
    users: HashMap<UserId, Kept>,
    /// How many caps they have.
    caps: usize,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// Adds to the caps of an account what is kept of them, if that is of the same caps and windows. Returns which rows it covers: their
/// transactions had ended when this session added them up, so every snapshot that it has taken since sees them.
pub fn go_on(user: &UserId, name: &StateName, spends: &mut [CapSpend]) -> Option<Coverage> {
    CACHE.with_borrow(|cache| {
        let kept = cache.users.get(user)?;
        let is_usable = kept.name == *name
            && kept.spends.len() == spends.len()
            && spends.iter().zip(&kept.spends).all(|(spend, kept)| spend.is_like(kept));
        is_usable.then(|| {
            spends.iter_mut().zip(&kept.spends).for_each(|(spend, kept)| spend.go_on_from(kept));
            kept.coverage.clone()
        })
    })
}

/// Keeps what was spent of an account's caps by the rows that a coverage covers.
pub fn keep(user: &UserId, name: StateName, coverage: Coverage, spends: Vec<CapSpend>) {
    CACHE.with_borrow_mut(|cache| {
        if let Some(before) = cache.users.remove(user) {
            cache.caps -= before.spends.len();
        }
        if cache.caps + spends.len() > MOST {
            *cache = Cache::default();
        }
        cache.caps += spends.len();
        cache.users.insert(*user, Kept { name, coverage, spends });
    });
}
