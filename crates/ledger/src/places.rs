//! A small cache of what is known of users, in as many places as there is room for.
//!
//! A place has what is known of one user, whom the next user of that place displaces. It tells users apart by a number that several may
//! have: whoever uses what it says finds out whether it is of that user.

use crate::id::UserId;
use crate::stripe;

/// Places of a cache that has been used once: it grows with the users that it meets.
const FIRST: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Place<T> {
    /// The number of the user, never 0; 0 where the place is free.
    number: u32,
    known: T,
}

/// What is known of users.
#[derive(Clone, Debug)]
pub struct Places<T> {
    /// A power of two of them, or none.
    places: Vec<Place<T>>,
    taken: usize,
    most: usize,
}

impl<T: Copy + Default> Places<T> {
    /// No user is known. There are never more places than `most`, a power of two.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        assert!(most.is_power_of_two(), "places are found by bits of a number");
        Self { places: Vec::new(), taken: 0, most }
    }

    /// What is known of the user, or of another one with the same number.
    #[must_use]
    pub fn get(&self, user: &UserId) -> Option<T> {
        let number = number(user);
        self.places.get(self.place(number)).filter(|place| place.number == number).map(|place| place.known)
    }

    /// Keeps what is known of the user.
    pub fn put(&mut self, user: &UserId, known: T) {
        if self.taken * 2 >= self.places.len() {
            self.grow();
        }
        self.set(Place { number: number(user), known });
    }

    fn grow(&mut self) {
        let count = (self.places.len() * 2).max(FIRST).min(self.most);
        if count > self.places.len() {
            let before = std::mem::replace(&mut self.places, vec![Place::default(); count]);
            self.taken = 0;
            before.into_iter().filter(|place| place.number != 0).for_each(|place| self.set(place));
        }
    }

    fn set(&mut self, new: Place<T>) {
        let place = self.place(new.number);
        if let Some(place) = self.places.get_mut(place) {
            self.taken += usize::from(place.number == 0);
            *place = new;
        }
    }

    /// The highest bits of the number, so many that they number the places.
    fn place(&self, number: u32) -> usize {
        let bits = self.places.len().max(1).ilog2();
        usize::try_from(u64::from(number) >> (u32::BITS - bits)).unwrap_or_default()
    }
}

impl<T: Default> Default for Place<T> {
    fn default() -> Self {
        Self { number: 0, known: T::default() }
    }
}

fn number(user: &UserId) -> u32 {
    u32::try_from(stripe::hash(user) >> u32::BITS).unwrap_or_default().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(number: u128) -> UserId {
        UserId::from_bytes(number.to_be_bytes())
    }

    #[test]
    fn keeps_what_is_known_of_users_while_there_is_room() {
        let mut places = Places::new(4096);
        assert_eq!(places.get(&user(1)), None);
        for number in 0..1000 {
            places.put(&user(number), number);
        }
        let known = (0..1000).filter(|&number| places.get(&user(number)) == Some(number)).count();
        assert!(known > 750, "{known} of 1,000 in 2,048 places");
        assert!((0..1000).all(|number| places.get(&user(number)).is_none_or(|known| known < 1000)));
        places.put(&user(7), 70);
        assert_eq!(places.get(&user(7)), Some(70));
    }

    #[test]
    fn grows_with_the_users_that_it_meets_and_no_further() {
        let mut places = Places::new(1024);
        assert_eq!(places.places.len(), 0);
        places.put(&user(0), 0);
        assert_eq!(places.places.len(), 256);
        for number in 0..100_000 {
            places.put(&user(number), number);
            assert_eq!(places.get(&user(number)), Some(number));
        }
        assert_eq!((places.places.len(), places.taken), (1024, 1024));
    }
}
