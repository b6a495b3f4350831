//! Very many items of a call, each of which is refused.

use credits_ledger_tests::{Session, unguarded};

use crate::footprint::{
    Memory, assert_nothing_held, assert_nothing_left, most_memory_during, quiet_database,
};

const MEGABYTE: i64 = 1024 * 1024;

/// Passes items that all look right until the row trigger sees the category, and each is tried by itself in the end.
#[track_caller]
fn all_refused_in_bounded_memory(session: &mut Session, items: u32, name: &str) {
    session.run(&format!(
        "CREATE TEMPORARY TABLE passed AS
         SELECT jsonb_agg(jsonb_build_object('user_id', md5('1')::uuid, 'transaction_type', 'usage', 'amount', 1,
                                             'source_id', '{name}-' || n, 'category', repeat('x', 201))) AS items
         FROM generate_series(1, {items}) n"
    ));
    let before = Memory::of(session);
    let sql = "SELECT count(*) FROM credits.record_transactions((SELECT items FROM passed)) WHERE outcome = 'refused'";
    let (most, refused) = most_memory_during(session, |session| session.value::<i64>(sql, &[]));
    println!("{name}: {before:?}, {most} at most");
    assert_eq!(refused, i64::from(items));
    assert!(most - before.process < 60 * MEGABYTE, "{name}: {most} is far more than {before:?}");
    session.run("DROP TABLE passed");
}

#[test]
fn very_many_refused_items() {
    let db = quiet_database();
    let mut session = db.connect();
    all_refused_in_bounded_memory(&mut session, 10_000, "without a statement");
    // A trigger of the application's: from here on, statements insert the items.
    session.run(&unguarded(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER nothing BEFORE INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION nothing()",
    ));
    all_refused_in_bounded_memory(&mut db.connect(), 3000, "by statements");
    assert_nothing_held(&db, &session);
    assert_nothing_left(&db);
}
