//! The properties with random bytes. `CREDITS_LEDGER_INPUTS` asks for more of them, `CREDITS_LEDGER_SEED` repeats a run.

use std::hash::{BuildHasher, RandomState};

use arbitrary::Unstructured;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const INPUTS: u32 = 3_000;

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn every_property_holds() {
    let seed = number("CREDITS_LEDGER_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("CREDITS_LEDGER_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for (name, property) in properties::ALL {
        println!("{name}");
        for _ in 0..number("CREDITS_LEDGER_INPUTS").unwrap_or(INPUTS) {
            let mut bytes = vec![0; random.random_range(0..600)];
            random.fill(&mut bytes[..]);
            property(&mut Unstructured::new(&bytes)).expect("an input can be made of any bytes");
        }
    }
}
