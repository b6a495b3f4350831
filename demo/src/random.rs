//! Repeatable random numbers: the same seed plays the same demo on every machine.

use std::collections::HashSet;

use uuid::{Builder, Uuid};

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`. The bias of the remainder is below 10^-12 for the bounds used here.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// A version 4 UUID.
    pub fn uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next_u64().to_be_bytes());
        bytes[8..].copy_from_slice(&self.next_u64().to_be_bytes());
        Builder::from_random_bytes(bytes).into_uuid()
    }
}

/// Ranks drawn by a zipf law with exponent 1: rank `k`, counted from 1, is drawn with weight `1/k`.
pub struct Zipf {
    /// Weight of this rank and all before it, in units that keep the arithmetic in integers.
    cumulative: Vec<u64>,
}

impl Zipf {
    const WEIGHT_OF_FIRST: u64 = 1 << 32;

    pub fn new(ranks: usize) -> Self {
        let cumulative = (1_u64..)
            .take(ranks)
            .scan(0, |sum, rank| {
                *sum += Self::WEIGHT_OF_FIRST / rank;
                Some(*sum)
            })
            .collect();
        Self { cumulative }
    }

    /// A rank, counted from 0.
    pub fn draw(&self, random: &mut Random) -> usize {
        let total = *self.cumulative.last().expect("there is at least one rank");
        let point = random.below(total);
        self.cumulative.partition_point(|&upto| upto <= point)
    }
}

/// `count` different UUIDs.
pub fn distinct_uuids(random: &mut Random, count: usize) -> Vec<Uuid> {
    let mut seen = HashSet::new();
    std::iter::repeat_with(|| random.uuid()).filter(|id| seen.insert(*id)).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_the_published_sequence() {
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn zipf_draws_rank_k_about_k_times_less_often_than_the_first() {
        let (zipf, mut random) = (Zipf::new(10), Random::new(1));
        let mut drawn = [0_u32; 10];
        for _ in 0..100_000 {
            drawn[zipf.draw(&mut random)] += 1;
        }
        for (rank, &count) in (1_u32..).zip(&drawn) {
            let expected = drawn[0] / rank;
            assert!(
                count.abs_diff(expected) < expected / 10,
                "rank {rank}: {count}, expected about {expected}"
            );
        }
    }
}
