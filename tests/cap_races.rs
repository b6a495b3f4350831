//! Spend caps beside other sessions: which of several commits reaches a cap, and what a change of it waits for.

use credits_ledger_tests::{dec, user};

use crate::spend_caps::{begin, database, heard, insertion, set, spend, usage_now};

/// Neither reaches it alone.
#[test]
fn two_that_only_together_reach_a_cap() {
    let (db, mut session, mut listener) = database();
    set(&mut session, 1, "NULL", "NULL", dec!(10));
    spend(&mut session, "NULL", dec!(1));
    let (mut first, mut second) = (begin(&db, &usage_now(dec!(5))), begin(&db, &usage_now(dec!(4))));
    first.run("COMMIT");
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    second.run("COMMIT");
    assert_eq!(heard(&mut listener), ["1 null"]);
    second.assert_sound();
}

/// What is in flight may roll back, and then nothing is announced.
#[test]
fn one_that_rolls_back_reaches_nothing() {
    let (db, mut session, mut listener) = database();
    set(&mut session, 1, "NULL", "NULL", dec!(10));
    let mut first = begin(&db, &usage_now(dec!(6)));
    spend(&mut session, "NULL", dec!(6));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    first.run("ROLLBACK");
    spend(&mut session, "NULL", dec!(3));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    spend(&mut session, "NULL", dec!(1));
    assert_eq!(heard(&mut listener), ["1 null"]);
}

/// The first has settled and is not visible yet: the second waits for it, and announces.
#[test]
fn a_commit_waits_for_one_that_has_settled() {
    let (db, mut session, mut listener) = database();
    set(&mut session, 1, "NULL", "NULL", dec!(10));
    spend(&mut session, "NULL", dec!(1));
    let held = db.hold_commit(begin(&db, &usage_now(dec!(5))));
    let second = begin(&db, &usage_now(dec!(4)));
    let pid = second.pid();
    let second = second.background(|session| session.run("COMMIT"));
    db.until_blocked(pid);
    held.release();
    let _ = second.finish();
    assert_eq!(heard(&mut listener), ["1 null"]);
    session.assert_sound();
}

/// Far from the cap nobody waits.
#[test]
fn a_commit_far_from_the_cap_waits_for_nobody() {
    let (db, mut session, mut listener) = database();
    set(&mut session, 1, "NULL", "NULL", dec!(100));
    spend(&mut session, "NULL", dec!(1));
    let held = db.hold_commit(begin(&db, &usage_now(dec!(5))));
    spend(&mut session, "NULL", dec!(93));
    held.release();
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    spend(&mut session, "NULL", dec!(1));
    assert_eq!(heard(&mut listener), ["1 null"]);
}

/// The one that changes a cap waits for a commit that has counted under the old one, and decides after it.
#[test]
fn a_cap_is_changed_beside_a_commit() {
    for (amount, expected) in [(dec!(6), &["1 null"][..]), (dec!(7), &[])] {
        let (db, mut session, mut listener) = database();
        set(&mut session, 1, "NULL", "NULL", dec!(1000));
        spend(&mut session, "NULL", dec!(1));
        let held = db.hold_commit(begin(&db, &usage_now(dec!(5))));
        let changing = db.connect();
        let pid = changing.pid();
        let update = format!("UPDATE credits.spend_caps SET amount = {amount}");
        let changing = changing.background(move |session| session.run(&update));
        db.until_blocked(pid);
        held.release();
        let _ = changing.finish();
        assert_eq!(heard(&mut listener), expected);
        spend(&mut session, "NULL", dec!(1));
        assert_eq!(heard(&mut listener).len() + expected.len(), 1);
        session.assert_sound();
    }
}

/// It waits for the commit that sets the cap, and then looks again.
#[test]
fn a_commit_beside_one_that_sets_a_cap() {
    let (db, mut session, mut listener) = database();
    spend(&mut session, "NULL", dec!(1));
    let charging = begin(&db, &usage_now(dec!(9)));
    let held = db.hold_commit(begin(&db, &insertion(1, user(1), "NULL", "NULL", dec!(10))));
    let pid = charging.pid();
    let charging = charging.background(|session| session.run("COMMIT"));
    db.until_blocked(pid);
    held.release();
    let _ = charging.finish();
    assert_eq!(heard(&mut listener), ["1 null"]);
    session.assert_sound();
}
