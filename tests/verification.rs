//! `verify_ledger` finds whatever is wrong with a derived value.

use credits_ledger_tests::{Database, Refused, Session, Uuid, dec, user};
use postgres::error::DbError;

/// A ledger whose rows are folded: two users, with a batch each and one in common.
fn folded_ledger(db: &Database) -> Session {
    let mut session = db.connect();
    for number in [1, 2] {
        session.grant(user(number), dec!(10));
        session.charge_batch(user(number), user(number), dec!(1));
        session.charge_batch(user(number), Uuid::nil(), dec!(2));
    }
    // What other tests leave open may hold watermarks back for a while.
    db.until(
        "SELECT count(credits.refresh_checkpoint(user_id)) = 0 FROM credits.user_balance_checkpoints
         WHERE transaction_count < 3",
        &[],
    );
    session.assert_sound();
    session
}

fn findings(session: &mut Session) -> Vec<(String, Option<Uuid>, String)> {
    let rows = session.query("SELECT * FROM credits.verify_ledger()", &[]).unwrap();
    let finding = |row: &postgres::Row| -> (String, Option<Uuid>, String) {
        let detail: String = row.get("detail");
        // What is missing has a word, or there is a gap in the sentence.
        assert!(!detail.contains("  ") && !detail.contains(" ,") && !detail.ends_with(' '), "{detail}");
        (row.get("check_name"), row.get("user_id"), detail)
    };
    rows.iter().map(finding).collect()
}

#[test]
fn every_kind_of_damage_is_found() {
    let db = Database::create();
    let mut session = folded_ledger(&db);
    let (user, other, batch) = (user(1), user(2), Uuid::nil());
    let checkpoint = format!("credits.user_balance_checkpoints WHERE user_id = '{user}'");
    let in_batch =
        format!("credits.batch_aggregates WHERE user_id = '{user}' AND fusillade_batch_id = '{batch}'");
    let of_day = format!("credits.daily_totals WHERE user_id = '{user}' AND transaction_type = 'usage'");
    let set = |table: &str, change: &str| table.replacen(" WHERE", &format!(" SET {change} WHERE"), 1);
    for damage in [
        format!("UPDATE {}", set(&checkpoint, "balance = balance + 0.000000000000001")),
        format!("UPDATE {}", set(&checkpoint, "balance = -balance")),
        format!("UPDATE {}", set(&checkpoint, "balance = 'NaN'")),
        format!("UPDATE {}", set(&checkpoint, "transaction_count = transaction_count + 1")),
        format!("UPDATE {}", set(&checkpoint, "checkpoint_seq = checkpoint_seq - 1")),
        format!("UPDATE {}", set(&checkpoint, "is_positive = NOT is_positive")),
        format!("UPDATE {}", set(&checkpoint, "watermark = '3'")),
        format!("UPDATE {}", set(&checkpoint, "watermark = '9223372036854775807'")),
        format!(
            "UPDATE {}",
            set(
                &checkpoint,
                "stragglers = (SELECT array_agg(xact_id) FROM credits.credits_transactions WHERE seq = 1)"
            )
        ),
        format!("UPDATE {}", set(&in_batch, "total_amount = total_amount - 0.000000000000001")),
        format!("UPDATE {}", set(&in_batch, "transaction_count = transaction_count + 1")),
        format!("UPDATE {}", set(&in_batch, "max_seq = max_seq + 1")),
        format!("UPDATE {}", set(&in_batch, "created_at = created_at - '1 day'::interval")),
        format!("DELETE FROM {in_batch}"),
        format!("UPDATE {}", set(&of_day, "total_amount = total_amount - 0.000000000000001")),
        format!("UPDATE {}", set(&of_day, "total_amount = 'NaN'")),
        format!("UPDATE {}", set(&of_day, "transaction_count = transaction_count + 1")),
        format!("UPDATE {}", set(&of_day, "day = day - 1")),
        format!("UPDATE {}", set(&of_day, "category = ''")),
        format!("UPDATE {}", set(&of_day, "api_key_id = user_id")),
        format!("UPDATE {}", set(&of_day, "transaction_type = 'admin_removal'")),
        format!("DELETE FROM {of_day}"),
        format!("INSERT INTO credits.daily_totals SELECT * FROM {of_day}"),
        // Two that add up to the right one.
        format!(
            "UPDATE {}; INSERT INTO credits.daily_totals SELECT user_id, day, category, api_key_id, transaction_type, 1, 1 FROM {of_day}",
            set(&of_day, "total_amount = total_amount - 1, transaction_count = transaction_count - 1")
        ),
        format!("UPDATE {}", set(&checkpoint, "has_days = NULL")),
        format!(
            "INSERT INTO credits.batch_aggregates
             VALUES (gen_random_uuid(), '{user}', 1, 1, 1, clock_timestamp(), clock_timestamp())"
        ),
    ] {
        session.run("BEGIN");
        session.run(&damage);
        let found = findings(&mut session);
        session.run("ROLLBACK");
        assert!(!found.is_empty(), "not found: {damage}");
        for (check, found_user, detail) in &found {
            assert!(!check.is_empty() && !detail.is_empty(), "{damage}: {found:?}");
            assert_eq!(*found_user, Some(user), "{damage}: {found:?}");
        }
        session.assert_sound();
    }
    // What is copied from spending_limits, and the side of each threshold that was announced.
    session.run(&format!(
        "INSERT INTO credits.spending_limits VALUES ('{user}', 2, '{{3, -1, 9}}'), ('{other}', NULL, '{{}}')"
    ));
    session.assert_sound();
    for damage in [
        "overdraft_limit = NULL",
        "overdraft_limit = 2.000000000000001",
        "overdraft_limit = 'Infinity'",
        "thresholds = NULL, thresholds_below = NULL, thresholds_crossed_at = NULL",
        "thresholds = '{-1, 3, 8}'",
        "thresholds = '{NaN, 3}'",
        "thresholds = '{NULL, 3}'",
        "thresholds = '{-1, 3}', thresholds_crossed_at = '{NULL, NULL}'",
        "thresholds_below = thresholds_below + 1",
        "thresholds_below = NULL",
        "thresholds_crossed_at = '{NULL}'",
    ] {
        session.run(&format!("BEGIN; UPDATE {}", set(&checkpoint, damage)));
        let found = findings(&mut session);
        session.run("ROLLBACK");
        let users: Vec<_> = found.iter().map(|(_, user, _)| *user).collect();
        assert!(!users.is_empty() && users.iter().all(|found| *found == Some(user)), "{damage}: {found:?}");
        // Either is a repair, but of what cannot be read.
        for repair in
            [format!("SELECT credits.refresh_checkpoint('{user}')"), format!("DELETE FROM {checkpoint}")]
        {
            session.run(&format!("UPDATE {}", set(&checkpoint, damage)));
            if let Err(error) = session.try_run(&repair) {
                assert!(repair.starts_with("SELECT"), "{damage}: {error:?}");
                Err::<(), _>(error).refused("XX001");
                session.run(&format!("DELETE FROM {checkpoint}"));
            }
            let left = findings(&mut session);
            assert_eq!(left, [], "{damage}: {repair}");
        }
    }
    session.run(&format!("UPDATE {}", set(&checkpoint, "user_id = user_id")));
    // Boundaries that changed unnoticed.
    session.run("ALTER TABLE credits.spending_limits DISABLE TRIGGER note_limits; DELETE FROM credits.spending_limits");
    let mut changed: Vec<_> =
        findings(&mut session).into_iter().map(|(check, user, _)| (check, user)).collect();
    changed.sort();
    let check = || "checkpoint boundaries".to_owned();
    assert_eq!(changed, [(check(), Some(user)), (check(), Some(other))]);
    session.run("ALTER TABLE credits.spending_limits ENABLE ALWAYS TRIGGER note_limits");
    session.refresh(user);
    session.refresh(other);
    session.assert_sound();
    // What is copied from spend_caps, and what was announced.
    session.run(&format!(
        "INSERT INTO credits.spend_caps (user_id, amount, since) VALUES ('{user}', 0.000000000000001, '2000-01-01'), ('{user}', 1000000000, now())"
    ));
    session.charge(user, dec!(0.001));
    session.assert_sound();
    for (damage, check) in [
        ("cap_ids = NULL, caps_reached_until = NULL", "checkpoint caps"),
        ("cap_ids = cap_ids[1:1], caps_reached_until = caps_reached_until[1:1]", "checkpoint caps"),
        ("cap_ids = ARRAY[cap_ids[1], gen_random_uuid()]", "checkpoint caps"),
        ("caps_reached_until = caps_reached_until[1:1]", "checkpoint caps"),
        ("caps_reached_until = NULL", "checkpoint caps"),
        ("caps_reached_until = '{NULL,NULL}'", "checkpoint caps_reached_until"),
        ("caps_reached_until = '{infinity,infinity}'", "checkpoint caps_reached_until"),
        ("caps_reached_until = '{2020-01-01,2020-01-01}'", "checkpoint caps_reached_until"),
    ] {
        session.run(&format!("BEGIN; UPDATE {}", set(&checkpoint, damage)));
        let found = findings(&mut session);
        session.run("ROLLBACK");
        let found: Vec<_> = found.iter().map(|(check, user, _)| (check.as_str(), *user)).collect();
        assert_eq!(found, [(check, Some(user))], "{damage}");
        session.run(&format!("UPDATE {}", set(&checkpoint, damage)));
        session.run(&format!("DELETE FROM {checkpoint}"));
        session.assert_sound();
    }
    session.run("ALTER TABLE credits.spend_caps DISABLE TRIGGER note_caps; DELETE FROM credits.spend_caps");
    let found: Vec<_> = findings(&mut session).into_iter().map(|(check, user, _)| (check, user)).collect();
    assert_eq!(found, [("checkpoint caps".to_owned(), Some(user))]);
    session.run("ALTER TABLE credits.spend_caps ENABLE ALWAYS TRIGGER note_caps");
    session.refresh(user);
    session.assert_sound();
    // A checkpoint of a user without transactions.
    session.run("BEGIN");
    session.run(&format!(
        "INSERT INTO credits.user_balance_checkpoints (user_id, checkpoint_seq, balance, updated_at, transaction_count,
                                                       watermark, stragglers, is_positive)
         SELECT gen_random_uuid(), checkpoint_seq, balance, updated_at, transaction_count, watermark, stragglers, is_positive
         FROM credits.user_balance_checkpoints WHERE user_id = '{other}'"
    ));
    assert!(!findings(&mut session).is_empty());
    session.run("ROLLBACK");
    session.assert_sound();
}

/// Batch totals without their checkpoint belong to nothing.
#[test]
fn batches_of_a_lost_checkpoint_are_found_and_rebuilt() {
    let db = Database::create();
    let mut session = folded_ledger(&db);
    session.lose_checkpoints(&format!(
        "DELETE FROM credits.user_balance_checkpoints WHERE user_id = '{}'",
        user(1)
    ));
    assert!(!findings(&mut session).is_empty());
    session.refresh(user(1));
    session.assert_sound();
}

/// A look at the ledger beside writers compares what belongs together.
#[test]
fn writers_do_not_make_it_look_wrong() {
    let db = Database::create();
    let mut session = folded_ledger(&db);
    let writers: Vec<_> = (0..2)
        .map(|_| {
            db.connect().background(move |session| {
                for round in 0..200 {
                    session.charge_batch(user(round % 3), Uuid::nil(), dec!(1));
                    if round % 10 == 0 {
                        session.refresh(user(round % 3));
                    }
                }
            })
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(findings(&mut session), []);
    }
    for writer in writers {
        let _ = writer.finish();
    }
    session.assert_sound();
}

/// Whatever a hand has made of the boundaries in a checkpoint: they are read as they were written, or not at all.
#[test]
fn boundaries_that_cannot_be_read() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(5));
    session.run(&format!(
        "INSERT INTO credits.spending_limits (user_id, thresholds) VALUES ('{0}', '{{-1, 3, 9}}');
         INSERT INTO credits.spend_caps (user_id, amount, since)
         VALUES ('{0}', 1, '2000-01-01'), ('{0}', 100, '2000-01-01')",
        user(1)
    ));
    session.charge(user(1), dec!(1));
    session.assert_sound();
    for damage in [
        "balance = 'NaN'",
        "overdraft_limit = 'NaN'",
        "thresholds = '{3, -1, 9}'",
        "thresholds = '{-1, -1, 9}'",
        "thresholds = '{-1, 0, 9}'",
        "thresholds = '{-1, NaN, 9}'",
        "thresholds = '{-1, NULL, 9}'",
        "thresholds_below = NULL",
        "thresholds_below = -1",
        "thresholds_below = 4",
        "thresholds_crossed_at = '{NULL, NULL}'",
        "thresholds_crossed_at = NULL",
        "cap_ids = ARRAY[cap_ids[2], cap_ids[1]]",
        "cap_ids = ARRAY[cap_ids[1], cap_ids[1]]",
        "caps_reached_until = caps_reached_until[:1]",
        "caps_reached_until = NULL",
    ] {
        let checkpoint = format!("credits.user_balance_checkpoints WHERE user_id = '{}'", user(1));
        session.run(&format!("UPDATE credits.user_balance_checkpoints SET {damage}"));
        for refused in [
            session.insert(user(1), "usage", dec!(1000)).refused("XX001"),
            session.try_run(&format!("SELECT credits.refresh_checkpoint('{}')", user(1))).refused("XX001"),
        ] {
            assert_names_the_repair(&refused, damage);
        }
        session.run(&format!("DELETE FROM {checkpoint}"));
        session.assert_sound();
    }
}

/// A number that somebody has written into a derived table, in the way of whoever reads it.
#[test]
fn a_number_that_is_none_is_refused_by_the_name_of_its_user() {
    let db = Database::create_alone();
    let mut session = folded_ledger(&db);
    session.run(&format!("INSERT INTO credits.spending_limits VALUES ('{}', 2, '{{}}')", user(1)));
    let refresh = format!("SELECT credits.refresh_checkpoint('{}')", user(1));
    for (table, column, number, reading) in [
        (
            "user_balance_checkpoints",
            "balance",
            "NaN",
            format!("SELECT credits.get_user_balance('{}')", user(1)),
        ),
        ("user_balance_checkpoints", "balance", "1e30", refresh.clone()),
        ("user_balance_checkpoints", "overdraft_limit", "-Infinity", refresh.clone()),
        ("batch_aggregates", "total_amount", "NaN", refresh.clone()),
        ("daily_totals", "total_amount", "NaN", refresh),
    ] {
        let damage = format!("{table}.{column} = {number}");
        session.charge_batch(user(1), Uuid::nil(), dec!(1));
        session
            .run(&format!("UPDATE credits.{table} SET {column} = '{number}' WHERE user_id = '{}'", user(1)));
        let refused = session.try_run(&reading).refused("XX001");
        assert!(
            refused.message().starts_with(&format!("column {column} of {table} cannot be read")),
            "{damage}: {refused:?}"
        );
        assert_names_the_repair(&refused, &damage);
        session.run(&format!("DELETE FROM credits.user_balance_checkpoints WHERE user_id = '{}'", user(1)));
        session.assert_sound();
    }
}

/// What the operator needs to know: whose row it is, and what makes it anew.
#[track_caller]
fn assert_names_the_repair(refused: &DbError, damage: &str) {
    assert!(refused.message().contains(&user(1).to_string()), "{damage}: {refused:?}");
    let hint = refused.hint().unwrap_or_else(|| panic!("{damage}: {refused:?} has no hint"));
    assert!(hint.contains("user_balance_checkpoints"), "{damage}: {hint}");
}
