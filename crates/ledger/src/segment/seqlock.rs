//! Sequence locks over atomic words (Boehm, "Can seqlocks get along with programming language memory models?", 2012).
//!
//! Neither side waits. A reader gets the words whole or not at all, and a writer that comes while another one writes gives up.
//!
//! Each ordering here is needed: the crate `memory_order` compiles this file with atomics of its own, and its tests fail without any of them.

use std::array;

use super::atomic::{AtomicU64, Ordering, fence};

/// Words that are read whole or not at all. As zeros it is a valid one.
#[derive(Debug)]
#[repr(C)]
pub struct SeqLock<const WORDS: usize> {
    /// Odd while the words are being written. Each write adds two.
    version: AtomicU64,
    words: [AtomicU64; WORDS],
}

// For `memory_order`, whose atomics cannot be made by a constant. Here, memory begins as zeros.
impl<const WORDS: usize> Default for SeqLock<WORDS> {
    fn default() -> Self {
        Self { version: AtomicU64::default(), words: array::from_fn(|_| AtomicU64::default()) }
    }
}

impl<const WORDS: usize> SeqLock<WORDS> {
    /// All zeros.
    #[cfg(test)]
    pub const fn new() -> Self {
        Self { version: AtomicU64::new(0), words: [const { AtomicU64::new(0) }; WORDS] }
    }

    /// Reads the first words, and as many after them as `more` says when it is given those. Returns the version and the words,
    /// zeros for those that were not read; `None` if another session was writing.
    ///
    /// `more` is called with words that may be torn. `first` and what it returns must not exceed `WORDS` together.
    pub fn read(
        &self,
        first: usize,
        more: impl FnOnce(&[u64; WORDS]) -> usize,
    ) -> Option<(u64, [u64; WORDS])> {
        let version = self.version.load(Ordering::Acquire);
        let mut words = [0; WORDS];
        self.copy(&mut words[..first], 0);
        let last = first + more(&words);
        self.copy(&mut words[first..last], first);
        fence(Ordering::Acquire);
        let whole = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        whole.then_some((version, words))
    }

    /// Reads the words after a key, if they begin with it; `None` also if another session was writing. A key and what follows it must be
    /// all words.
    #[inline]
    pub fn read_of<const KEY: usize, const REST: usize>(&self, key: &[u64; KEY]) -> Option<[u64; REST]> {
        const { assert!(KEY + REST == WORDS) };
        let version = self.version.load(Ordering::Acquire);
        if !self.words.iter().zip(key).all(|(shared, word)| shared.load(Ordering::Relaxed) == *word) {
            return None;
        }
        let rest = array::from_fn(|word| self.words[KEY + word].load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let whole = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        whole.then_some(rest)
    }

    /// Whether somebody is writing the words at this moment.
    pub fn is_being_written(&self) -> bool {
        !self.version.load(Ordering::Relaxed).is_multiple_of(2)
    }

    fn copy(&self, words: &mut [u64], from: usize) {
        for (word, shared) in words.iter_mut().zip(&self.words[from..]) {
            *word = shared.load(Ordering::Relaxed);
        }
    }

    /// Writes the words in place of those that [`read`](Self::read) returned with this version, and returns their own version;
    /// `None` if they have been replaced since. Words beyond the given ones stay as they are.
    pub fn write(&self, version: u64, words: &[u64]) -> Option<u64> {
        // What was written before is known since the version was read.
        self.version.compare_exchange(version, version + 1, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        fence(Ordering::Release);
        for (shared, &word) in self.words.iter().zip(words) {
            shared.store(word, Ordering::Relaxed);
        }
        self.version.store(version + 2, Ordering::Release);
        Some(version + 2)
    }
}

#[cfg(test)]
mod tests {
    use std::{hint, iter, thread};

    use super::*;

    /// One thread writes the words of two keys in turn, another reads those of one.
    #[test]
    fn words_of_a_key_are_read_whole_or_not_at_all() {
        static LOCK: SeqLock<7> = SeqLock::new();
        thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let reads = iter::repeat_with(|| LOCK.read_of::<1, 6>(&[2])).flatten();
                reads.take(100_000).for_each(|rest| assert_eq!(rest, [2; 6]));
            });
            let mut version = 0;
            for key in [1, 2].into_iter().cycle() {
                version = LOCK.write(version, &[key; 7]).unwrap();
                // Between two writes there is time to begin to read.
                (0..20).for_each(|_| hint::spin_loop());
                if reader.is_finished() {
                    break;
                }
            }
        });
        assert_eq!(LOCK.read_of::<1, 6>(&[3]), None);
    }
}
