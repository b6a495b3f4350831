//! Very many rows of the feed in one call.

use crate::footprint::{
    Memory, assert_nothing_held, assert_nothing_left, most_memory_during, quiet_database,
};

const ROWS: i64 = 400_000;

/// What is made for a row is gone with the row.
#[test]
fn a_feed_of_very_many_rows() {
    let db = quiet_database();
    db.connect().run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         SELECT md5('1')::uuid, 'purchase', 1, 'row-' || n FROM generate_series(1, {ROWS}) n"
    ));
    let mut reader = db.connect();
    let before = Memory::of(&mut reader);
    let sql = "SELECT count(*) FROM credits.transactions_after(NULL, NULL)";
    let (most, found) = most_memory_during(&mut reader, |reader| reader.value::<i64>(sql, &[]));
    println!("{before:?}, {most} at most");
    assert_eq!(found, ROWS);
    assert!(most - before.process < 20 * 1024 * 1024, "{most} is far more than {before:?}");
    assert_nothing_held(&db, &reader);
    assert_nothing_left(&db);
}
