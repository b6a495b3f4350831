//! The buckets that accounts fall into, where a ledger is one of many nodes.

/// How many buckets there are.
pub const BUCKETS: u64 = 1024;

/// A set of buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buckets([u64; 16]);

impl Buckets {
    /// Adds a bucket; nothing if there is none of this number.
    pub fn insert(&mut self, bucket: u64) {
        if let Some(word) = self.0.get_mut(word_of(bucket)) {
            *word |= 1 << (bucket % 64);
        }
    }

    /// Whether this bucket is among them.
    #[inline]
    #[must_use]
    pub fn contains(&self, bucket: u64) -> bool {
        self.0.get(word_of(bucket)).is_some_and(|word| word >> (bucket % 64) & 1 == 1)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The lowest of those in the class.
    #[must_use]
    pub fn first_of(&self, class: Class) -> Option<u64> {
        (class.remainder..BUCKETS).step_by(class.modulus).find(|&bucket| self.contains(bucket))
    }

    /// Of each bucket, in their order, whether it is not in the set.
    #[must_use]
    pub fn others(&self) -> Vec<bool> {
        (0..BUCKETS).map(|bucket| !self.contains(bucket)).collect()
    }
}

fn word_of(bucket: u64) -> usize {
    usize::try_from(bucket / 64).unwrap_or(usize::MAX)
}

/// The buckets whose number leaves a remainder when divided by a modulus.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    modulus: usize,
    remainder: u64,
}

impl Class {
    /// `None` unless the modulus is a power of two up to [`BUCKETS`], and the remainder is below it.
    #[must_use]
    pub fn new(modulus: i32, remainder: i32) -> Option<Self> {
        let (modulus, remainder) = (u64::try_from(modulus).ok()?, u64::try_from(remainder).ok()?);
        let is_class = modulus.is_power_of_two() && modulus <= BUCKETS && remainder < modulus;
        is_class.then_some(Self { modulus: usize::try_from(modulus).ok()?, remainder })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_into_it() {
        let mut set = Buckets::default();
        assert!(set.is_empty());
        for bucket in [0, 63, 64, 1023, BUCKETS, u64::MAX] {
            set.insert(bucket);
        }
        let has: Vec<u64> = (0..2 * BUCKETS).filter(|&bucket| set.contains(bucket)).collect();
        assert_eq!(has, [0, 63, 64, 1023]);
        assert!(!set.is_empty() && !set.contains(u64::MAX));
        let others = set.others();
        assert_eq!(others.len(), 1024);
        assert_eq!(others.iter().filter(|&&is_other| !is_other).count(), 4);
    }

    #[test]
    fn the_first_of_a_class_leaves_its_remainder() {
        let mut set = Buckets::default();
        [5, 6, 13].into_iter().for_each(|bucket| set.insert(bucket));
        let first = |modulus, remainder| set.first_of(Class::new(modulus, remainder).expect("a class"));
        assert_eq!(first(1, 0), Some(5));
        assert_eq!(first(8, 5), Some(5));
        assert_eq!(first(2, 0), Some(6));
        assert_eq!(first(16, 13), Some(13));
        assert_eq!(first(8, 7), None);
    }

    #[test]
    fn a_modulus_is_a_power_of_two_and_a_remainder_is_below_it() {
        for (modulus, remainder) in [(1, 0), (2, 1), (1024, 0), (1024, 1023)] {
            assert!(Class::new(modulus, remainder).is_some(), "{modulus} {remainder}");
        }
        for (modulus, remainder) in [(0, 0), (3, 0), (2048, 0), (-2, 0), (2, 2), (2, -1), (i32::MIN, 0)] {
            assert!(Class::new(modulus, remainder).is_none(), "{modulus} {remainder}");
        }
    }
}
