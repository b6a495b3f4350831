//! Walks by cursor while other sessions write and checkpoints are refreshed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use credits_ledger_tests::{Database, Session, Uuid, dec, seed, user};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::calls::{Calls, Filters, Page};

const WRITERS: u64 = 2;
const WALKS: usize = 12;
const OLD_ITEMS: u32 = 120;

/// Batches that get no more rows, and single rows.
fn history(session: &mut Session) {
    for number in 0..OLD_ITEMS {
        match number % 3 {
            0 => session.charge(user(1), dec!(1)),
            _ => session.charge_batch(user(1), Uuid::from_u128(u128::from(number)), dec!(1)),
        }
    }
    session.refresh(user(1));
}

/// Adds single rows, batches, and rows to batches that the walkers have seen, and refreshes the checkpoint.
fn write(session: &mut Session, random: &mut StdRng) {
    match random.random_range(0..10) {
        0..4 => session.charge(user(1), dec!(1)),
        4..8 => {
            session.charge_batch(user(1), Uuid::from_u128(1_000_000 + random.random_range(0..50)), dec!(1))
        }
        8 => session.run("BEGIN; SAVEPOINT s; ROLLBACK TO s; COMMIT"),
        _ => session.refresh(user(1)),
    }
}

/// What a walk from the newest to the oldest meets: ids, and their seqs.
fn walk(random: &mut StdRng, mut next: impl FnMut(&Page) -> Vec<(Uuid, i64)>) -> Vec<(Uuid, i64)> {
    let mut met: Vec<(Uuid, i64)> = Vec::new();
    loop {
        let page = Page {
            skip: 0,
            limit: Some(random.random_range(1..30)),
            before_seq: met.last().map(|(_, seq)| *seq),
        };
        let items = next(&page);
        if items.is_empty() {
            return met;
        }
        met.extend(items);
    }
}

/// Ends the writers, also when the walk has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_walk_neither_repeats_nor_skips() {
    let db = Database::create_alone();
    let mut session = db.connect();
    history(&mut session);
    let old_items: HashSet<Uuid> =
        session.list_grouped(user(1), &Filters::default(), &Page::ALL).iter().map(|item| item.id).collect();
    let old_rows: HashSet<Uuid> =
        session.list_user(user(1), &Filters::default(), &Page::ALL).iter().map(|row| row.id).collect();
    assert_eq!(old_items.len(), usize::try_from(OLD_ITEMS).expect("a few"));

    let seed = seed();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (mut session, done) = (db.connect(), &done);
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed ^ (writer + 1));
                while !done.load(Ordering::Relaxed) {
                    write(&mut session, &mut random);
                }
            });
        }
        let _stop = Stop(&done);
        let mut random = StdRng::seed_from_u64(seed);
        for round in 0..WALKS {
            let none = Filters::default();
            let (met, old) = match round % 3 {
                0 => (
                    walk(&mut random, |page| {
                        session
                            .list_grouped(user(1), &none, page)
                            .iter()
                            .map(|item| (item.id, item.seq))
                            .collect()
                    }),
                    &old_items,
                ),
                1 => (
                    walk(&mut random, |page| {
                        session.list_user(user(1), &none, page).iter().map(|row| (row.id, row.seq)).collect()
                    }),
                    &old_rows,
                ),
                _ => (
                    walk(&mut random, |page| {
                        session.list_all(&none, page).iter().map(|row| (row.id, row.seq)).collect()
                    }),
                    &old_rows,
                ),
            };
            assert!(met.is_sorted_by(|newer, older| newer.1 > older.1), "not by descending seq");
            let ids: HashSet<Uuid> = met.iter().map(|(id, _)| *id).collect();
            assert_eq!(ids.len(), met.len(), "an item was met twice");
            assert!(old.is_subset(&ids), "an item was skipped: {:?}", old - &ids);
        }
    });
    session.assert_sound();
}
