//! What a sequence lock promises, under every order of memory.

use loom::sync::Arc;
use loom::thread;
use memory_order::SeqLock;

/// Runs `read` while another thread writes two values, one after the other, each into all words.
fn while_two_values_are_written(read: fn(&SeqLock<2>)) {
    loom::model(move || {
        let lock = Arc::new(SeqLock::<2>::default());
        let writer = thread::spawn({
            let lock = Arc::clone(&lock);
            move || {
                let version = lock.write(0, &[1; 2]).unwrap();
                lock.write(version, &[2; 2]).unwrap();
            }
        });
        read(&lock);
        writer.join().unwrap();
        assert_eq!(lock.read(2, |_| 0), Some((4, [2; 2])));
    });
}

#[test]
fn words_are_those_of_one_version() {
    while_two_values_are_written(|lock| {
        if let Some((version, words)) = lock.read(2, |_| 0) {
            assert_eq!(words, [version / 2; 2]);
        }
    });
}

/// The second word is read because of what the first one says.
#[test]
fn words_that_are_read_later_are_of_the_same_version() {
    while_two_values_are_written(|lock| {
        if let Some((version, words)) = lock.read(1, |words| usize::from(words[0] == 1)) {
            assert_eq!(words, [version / 2, u64::from(version == 2)]);
        }
    });
}

#[test]
fn what_follows_a_key_was_written_with_it() {
    while_two_values_are_written(|lock| {
        if let Some(rest) = lock.read_of(&[1]) {
            assert_eq!(rest, [1]);
        }
    });
}

/// What a writer replaces is what it has read.
#[test]
fn no_write_is_lost() {
    loom::model(|| {
        let lock = Arc::new(SeqLock::<2>::default());
        let add_one = |lock: &SeqLock<2>| {
            lock.read(2, |_| 0).and_then(|(version, [word, _])| lock.write(version, &[word + 1; 2]))
        };
        let other = thread::spawn({
            let lock = Arc::clone(&lock);
            move || add_one(&lock)
        });
        let written = [add_one(&lock), other.join().unwrap()];
        let count = written.iter().flatten().count() as u64;
        assert!(count > 0, "one that nobody disturbs does not give up");
        assert_eq!(lock.read(2, |_| 0), Some((2 * count, [count; 2])));
    });
}

/// Whoever knows that something was written, as by a lock that the writer has let go since, reads it or something later.
#[test]
fn what_is_known_to_be_written_is_read() {
    loom::model(|| {
        let lock = Arc::new(SeqLock::<2>::default());
        let (first, second) = (Arc::clone(&lock), Arc::clone(&lock));
        thread::spawn(move || first.write(0, &[1; 2])).join().unwrap();
        let later = thread::spawn(move || second.write(2, &[2; 2]));
        if let Some((version, words)) = lock.read(2, |_| 0) {
            assert!(version >= 2 && words == [version / 2; 2]);
        }
        later.join().unwrap();
    });
}
