//! The locks that order settlements: every user belongs to one of 256 stripes.
//!
//! A transaction takes the stripes of its noted users in ascending order. While it waits for stripe `i` it holds only stripes
//! below `i`, and a transaction that holds `i` waits only for stripes above `i`. So no cycle of waits can form.

use crate::id::UserId;

/// Number of stripes.
pub const STRIPES: usize = 256;

/// Stripe of a user: an 8-bit fold of the uuid, so that sequential as well as random ids spread evenly.
#[must_use]
pub fn of_user(user: &UserId) -> u8 {
    hash(user).to_be_bytes()[0]
}

/// A hash of a user's uuid, to be used from the highest bit on.
#[must_use]
pub fn hash(user: &UserId) -> u64 {
    // Fibonacci hashing (Knuth, TAOCP 3, 6.4): the high bits of the product depend on every bit of the key.
    let key = u128::from_be_bytes(*user.as_bytes());
    let [low, high] = [key, key >> 64].map(|half| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&half.to_le_bytes()[..8]);
        u64::from_le_bytes(bytes)
    });
    (low ^ high.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Puts users into the order in which they are settled: by stripe, then by id.
pub fn sort_for_settlement<T>(users: &mut [T], id: impl Fn(&T) -> UserId) {
    users.sort_unstable_by_key(|user| (of_user(&id(user)), id(user)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_ids_spread_over_the_stripes() {
        for shift in [0, 64] {
            let mut hits = [0_u32; STRIPES];
            for id in 0..25_600_u128 {
                hits[usize::from(of_user(&UserId::from_bytes((id << shift).to_be_bytes())))] += 1;
            }
            assert!(hits.iter().all(|&n| (50..=200).contains(&n)), "shift {shift}: {hits:?}");
        }
    }

    #[test]
    fn settlement_order_ascends_by_stripe() {
        let mut users: Vec<_> = (0..1000_u128).rev().map(|id| UserId::from_bytes(id.to_be_bytes())).collect();
        sort_for_settlement(&mut users, |user| *user);
        assert!(users.is_sorted_by_key(|user| (of_user(user), *user)));
    }
}
