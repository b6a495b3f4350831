//! Checkpoints that are changed or deleted by hand: what is rebuilt, and what goes on beside it.

use credits_ledger_tests::{Database, Direction, Session, dec, user};

use Direction::Down;

/// Deletes a user's checkpoint and has it made anew, as the manual says.
fn rebuild(number: u32) -> String {
    format!(
        "WITH deleted AS (
             DELETE FROM credits.user_balance_checkpoints WHERE user_id = '{}' RETURNING user_id)
         SELECT credits.refresh_checkpoint(user_id) FROM deleted",
        user(number)
    )
}

/// A damaged checkpoint is rebuilt while a charge waits for its stripe, the only one or a later one: what was told of it
/// before must not decide.
#[test]
fn a_charge_that_waited_for_a_repair_does_not_use_what_was_told_before() {
    let stripe = |number| ledger::stripe::of_user(user(number).as_bytes());
    let earlier = (2..).find(|&number| stripe(number) < stripe(1)).unwrap();
    for beside in [None, Some(earlier)] {
        let db = Database::create_alone();
        let [mut owner, mut charging, mut reader, mut repairing] = std::array::from_fn(|_| db.connect());
        for number in [1, earlier] {
            owner.grant(user(number), dec!(100));
            owner.refresh(user(number));
        }
        let mut listener = db.listen();
        let attach = |session: &mut Session| {
            session.balance(user(1));
            session.charge(user(90), dec!(1));
        };
        attach(&mut charging);
        owner.run(&format!(
            "UPDATE credits.user_balance_checkpoints SET balance = 999 WHERE user_id = '{}'",
            user(1)
        ));
        charging.charge(user(90), dec!(1));
        charging.run("BEGIN");
        charging.charge(user(1), dec!(100));
        if let Some(number) = beside {
            charging.charge(user(number), dec!(1));
        }
        for _ in 0..3 {
            assert_eq!(reader.balance(user(1)), dec!(999), "as told");
        }
        repairing.run("BEGIN");
        repairing.run(&rebuild(1));
        let held = db.hold_commit(repairing);
        let committing = charging.background(|session| session.try_run("COMMIT"));
        db.until_blocked(committing.pid());
        held.release();
        let (mut charging, committed) = committing.finish();
        committed.unwrap();
        assert_eq!(listener.crossings(), [(user(1), Down)], "beside {beside:?}");
        assert_eq!(reader.balance(user(1)), dec!(0));
        charging.assert_sound();
    }
}
