//! How often what is published of an account is found again: simulated with the code itself, beside 32,768 slots of which each has
//! the account that came last, as there were before.

use super::StateName;
use super::headroom::Headroom;
use super::memory::next_part;
use super::memory::tests::parts;
use crate::id::UserId;
use crate::stripe;

const STATE: StateName = StateName { database: 5, ledger: 16384, digest: 0 };
const HEADROOM: Headroom =
    Headroom { charged_until: u64::MAX, granted_until: u64::MAX, covered_until: 0, rows_folded: 0 };

/// Random numbers (Steele and others, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        u64::try_from((u128::from(self.next()) * u128::from(end)) >> 64).unwrap()
    }
}

/// Which account a transaction is of.
enum Accounts {
    Uniform(u64),
    /// By the sums of the weights so far: the account of rank n comes n times less often than the first.
    Zipf(Vec<u64>),
}

impl Accounts {
    fn zipf(count: u64) -> Self {
        let sums = (1..=count).scan(0, |sum, rank| {
            *sum += (1 << 40) / rank;
            Some(*sum)
        });
        Self::Zipf(sums.collect())
    }

    fn next(&self, random: &mut Random) -> UserId {
        let number = match self {
            Self::Uniform(count) => random.below(*count),
            Self::Zipf(sums) => {
                let weight = random.below(*sums.last().unwrap());
                sums.partition_point(|&sum| sum <= weight) as u64
            }
        };
        // Random ids, as UUIDs of version 4 are.
        let half = |salt: u64| Random(number << 1 | salt).next();
        UserId::from_bytes((u128::from(half(0)) << 64 | u128::from(half(1))).to_be_bytes())
    }
}

/// Of a thousand transactions, how many find their account, after as many as twice the accounts have come: in memory of so many
/// bytes, and in one slot for each account.
fn found_of_a_thousand(accounts: &Accounts, most_bytes: usize, transactions: u64) -> (u64, u64) {
    let mut sizes = vec![];
    while let Some(more) = next_part(1024 + sizes.iter().sum::<usize>(), 1 + sizes.len(), most_bytes) {
        sizes.push(more);
    }
    let segment = parts(&sizes).first(1 + sizes.len()).unwrap();
    let mut random = Random(42);
    let mut direct = vec![None; 1 << 15];
    let (mut found, mut found_direct) = (0, 0);
    for number in 0..2 * transactions {
        let user = accounts.next(&mut random);
        let account = segment.account(STATE.database, &user);
        let is_found = account.headroom(&STATE).is_some();
        if !is_found {
            account.publish_headroom(&STATE, &HEADROOM);
        }
        let slot = usize::try_from(stripe::hash(&user) >> 49).unwrap();
        let is_direct = direct[slot].replace(user) == Some(user);
        if number >= transactions {
            found += u64::from(is_found);
            found_direct += u64::from(is_direct);
        }
    }
    (found * 1000 / transactions, found_direct * 1000 / transactions)
}

const DEFAULT: usize = 12 << 20;

/// How many are asserted to be found: a little less than what was seen.
#[test]
fn hot_accounts_stay() {
    for (name, accounts, least) in [
        ("each of 50,000 as often", Accounts::Uniform(50_000), 960),
        ("each of 100,000 as often", Accounts::Uniform(100_000), 805),
        ("100,000, by rank", Accounts::zipf(100_000), 890),
        ("1,000,000, by rank", Accounts::zipf(1_000_000), 740),
    ] {
        let (found, direct) = found_of_a_thousand(&accounts, DEFAULT, 200_000);
        assert!(found >= least, "{name}: {found} of a thousand");
        assert!(found > direct + 100, "{name}: {found}, and {direct} with one slot for each");
    }
}

/// The table in docs/operations.md. With `--release -- --ignored --nocapture` it takes half a minute.
#[test]
#[ignore = "takes half a minute with optimizations, and prints figures"]
fn hit_rates() {
    for (name, accounts) in [
        ("100,000, each as often", Accounts::Uniform(100_000)),
        ("1,000,000, each as often", Accounts::Uniform(1_000_000)),
        ("100,000, by rank", Accounts::zipf(100_000)),
        ("1,000,000, by rank", Accounts::zipf(1_000_000)),
    ] {
        for most_bytes in [DEFAULT, 160 << 20] {
            let (found, direct) = found_of_a_thousand(&accounts, most_bytes, 3_000_000);
            println!("{name}, {} MB: {found}; with one slot for each {direct}", most_bytes >> 20);
        }
    }
}
