//! A history with its batches as single items, by example: folded, not folded, and both.

use std::time::{Duration, SystemTime};

use credits_ledger_tests::{Database, Decimal, Refused, Session, Uuid, dec, user};

use crate::calls::{Calls, Filters, Item, Page};

fn batch(number: u128) -> Uuid {
    Uuid::from_u128(0xb000 + number)
}

fn items(session: &mut Session, user: Uuid) -> Vec<Item> {
    let items = session.list_grouped(user, &Filters::default(), &Page::ALL);
    assert_eq!(session.count_grouped(user, &Filters::default()), i64::try_from(items.len()).expect("few"));
    items
}

/// The items' ids, totals and numbers of rows; a single row has no id here.
fn summary(session: &mut Session, user: Uuid) -> Vec<(Option<Uuid>, Decimal, i32)> {
    items(session, user).into_iter().map(|item| (item.batch_id, item.amount, item.batch_count)).collect()
}

fn covered(session: &mut Session, user: Uuid) -> i64 {
    session.value(
        "SELECT sum(transaction_count)::bigint FROM credits.batch_aggregates WHERE user_id = $1",
        &[&user],
    )
}

#[test]
fn a_folded_batch_moves_up_with_its_new_rows() {
    let db = Database::create_alone();
    let mut session = db.connect();
    session.charge_batch(user(1), batch(1), dec!(1));
    session.charge_batch(user(1), batch(2), dec!(2));
    session.charge(user(1), dec!(4));
    session.refresh(user(1));
    assert_eq!(covered(&mut session, user(1)), 2);
    let expected = [(None, dec!(4), 1), (Some(batch(2)), dec!(2), 1), (Some(batch(1)), dec!(1), 1)];
    assert_eq!(summary(&mut session, user(1)), expected);

    session.charge_batch(user(1), batch(1), dec!(8));
    assert_eq!(covered(&mut session, user(1)), 2, "the new row is not folded");
    let expected = [(Some(batch(1)), dec!(9), 2), (None, dec!(4), 1), (Some(batch(2)), dec!(2), 1)];
    assert_eq!(summary(&mut session, user(1)), expected);
    let newest = session.sum_recent_grouped(user(1), 2, &Filters::default());
    assert_eq!(newest, dec!(-13));

    session.refresh(user(1));
    assert_eq!(covered(&mut session, user(1)), 3);
    assert_eq!(summary(&mut session, user(1)), expected, "folding changes nothing that is seen");
}

#[test]
fn a_batch_looks_like_this() {
    let db = Database::create();
    let mut session = db.connect();
    session.charge_batch(user(1), batch(1), dec!(0.25));
    session.charge_batch(user(1), batch(1), dec!(0.000000000000001));
    let [item] = items(&mut session, user(1)).try_into().expect("one item");
    let (seq, date): (i64, SystemTime) = {
        let row = session
            .query_one("SELECT max(seq), min(created_at) FROM credits.credits_transactions", &[])
            .expect("look");
        (row.get(0), row.get(1))
    };
    let expected = Item {
        id: batch(1),
        user_id: user(1),
        transaction_type: "usage".into(),
        amount: dec!(0.250000000000001),
        source_id: batch(1).to_string(),
        description: Some("Batch".into()),
        created_at: date,
        seq,
        batch_id: Some(batch(1)),
        request_origin: Some("fusillade".into()),
        batch_sla: Some(String::new()),
        batch_count: 2,
    };
    assert_eq!(item, expected);
}

/// Rows of a batch come late, and with dates before and after: the batch keeps the date of its first row.
#[test]
fn the_date_of_a_batch_is_its_first_rows() {
    let db = Database::create_alone();
    let mut session = db.connect();
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds);
    let charge = |session: &mut Session, date: SystemTime| {
        session
            .execute(
                "INSERT INTO credits.credits_transactions
                     (user_id, transaction_type, amount, source_id, fusillade_batch_id, created_at)
                 VALUES ($1, 'usage', 1, gen_random_uuid()::text, $2, $3)",
                &[&user(1), &batch(1), &date],
            )
            .expect("insert");
    };
    charge(&mut session, at(50));
    session.refresh(user(1));
    charge(&mut session, at(90));
    let since = |date| Filters { start: Some(date), ..Filters::default() };
    let until = |date| Filters { end: Some(date), ..Filters::default() };
    for _ in 0..2 {
        assert_eq!(session.count_grouped(user(1), &since(at(50))), 1);
        assert_eq!(session.count_grouped(user(1), &since(at(51))), 0, "the later row does not date it");
        assert_eq!(session.count_grouped(user(1), &until(at(50))), 1);
        assert_eq!(session.sum_after_grouped(user(1), at(49)), dec!(-2), "whole or not at all");
        assert_eq!(session.sum_after_grouped(user(1), at(50)), dec!(0));
        session.refresh(user(1));
    }
    charge(&mut session, at(10));
    for _ in 0..2 {
        assert_eq!(session.count_grouped(user(1), &until(at(10))), 1, "a row dated earlier does");
        assert_eq!(session.count_grouped(user(1), &since(at(11))), 0);
        assert_eq!(session.sum_after_grouped(user(1), at(9)), dec!(-3));
        session.refresh(user(1));
    }
}

#[test]
fn filters_see_a_batch_as_usage_described_batch() {
    let db = Database::create_alone();
    let mut session = db.connect();
    session.charge_batch(user(1), batch(1), dec!(1));
    session.refresh(user(1));
    session.charge_batch(user(1), batch(2), dec!(1));
    session.grant(user(1), dec!(5));
    let searched = |text: &str| Filters { search: Some(text.into()), ..Filters::default() };
    for (text, found) in [("bAtCh", 2), ("atc", 2), ("", 2), ("batches", 0), ("%", 0), ("_atch", 0)] {
        assert_eq!(session.count_grouped(user(1), &searched(text)), found, "{text}");
        assert_eq!(
            session.list_grouped(user(1), &searched(text), &Page::ALL).len(),
            usize::try_from(found).expect("few")
        );
    }
    let of_types = |types: &[&str]| Filters {
        types: Some(types.iter().map(|&name| name.into()).collect()),
        ..Filters::default()
    };
    for (types, found) in
        [(&["usage"][..], 2), (&["usage", "admin_grant"], 3), (&["admin_grant"], 1), (&[], 0)]
    {
        assert_eq!(session.count_grouped(user(1), &of_types(types)), found, "{types:?}");
    }
}

#[test]
fn users_may_share_a_batch_id() {
    let db = Database::create_alone();
    let mut session = db.connect();
    for number in 1..=2 {
        session.charge_batch(user(number), batch(1), Decimal::from(number));
        session.refresh(user(number));
        session.charge_batch(user(number), batch(1), Decimal::from(number));
    }
    assert_eq!(summary(&mut session, user(1)), [(Some(batch(1)), dec!(2), 2)]);
    assert_eq!(summary(&mut session, user(2)), [(Some(batch(1)), dec!(4), 2)]);
}

/// A transaction that stays open while checkpoints pass it by adds its rows to folded batches when it commits.
#[test]
fn rows_of_a_straggler_join_their_batch() {
    let db = Database::create_alone();
    let (mut late, mut session) = (db.connect(), db.connect());
    late.run("BEGIN");
    late.charge_batch(user(1), batch(1), dec!(0.5));
    for _ in 0..200 {
        session.charge_batch(user(1), batch(1), dec!(1));
    }
    session.charge(user(1), dec!(7));
    session.refresh(user(1));
    let stragglers: i32 =
        session.value("SELECT cardinality(stragglers) FROM credits.user_balance_checkpoints", &[]);
    assert_eq!(stragglers, 1);
    assert!(covered(&mut session, user(1)) > 150);
    let before = [(None, dec!(7), 1), (Some(batch(1)), dec!(200), 200)];
    assert_eq!(summary(&mut session, user(1)), before);
    assert_eq!(
        summary(&mut late, user(1)),
        [(None, dec!(7), 1), (Some(batch(1)), dec!(200.5), 201)],
        "its own rows"
    );
    late.run("COMMIT");
    let after = [(None, dec!(7), 1), (Some(batch(1)), dec!(200.5), 201)];
    assert_eq!(summary(&mut session, user(1)), after);
    session.refresh(user(1));
    assert_eq!(summary(&mut session, user(1)), after);
    session.assert_sound();
}

#[test]
fn a_snapshot_keeps_its_past_while_batches_are_folded() {
    let db = Database::create_alone();
    let (mut reader, mut writer) = (db.connect(), db.connect());
    writer.charge_batch(user(1), batch(1), dec!(1));
    writer.charge_batch(user(1), batch(2), dec!(2));
    reader.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    let seen = items(&mut reader, user(1));
    writer.charge_batch(user(1), batch(1), dec!(4));
    writer.refresh(user(1));
    writer.refresh(user(1));
    assert_eq!(covered(&mut writer, user(1)), 3);
    assert_eq!(items(&mut reader, user(1)), seen);
    reader.run("COMMIT");
    assert_eq!(summary(&mut reader, user(1)), [(Some(batch(1)), dec!(5), 2), (Some(batch(2)), dec!(2), 1)]);
}

/// Without a checkpoint, as after a restore, every row is the delta.
#[test]
fn a_user_without_a_checkpoint() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("SET session_replication_role = replica; ALTER TABLE credits.credits_transactions DISABLE TRIGGER note_transaction");
    session.charge_batch(user(1), batch(1), dec!(1));
    session.charge_batch(user(1), batch(1), dec!(2));
    session.charge(user(1), dec!(4));
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.user_balance_checkpoints", &[]), 0);
    assert_eq!(summary(&mut session, user(1)), [(None, dec!(4), 1), (Some(batch(1)), dec!(3), 2)]);
    assert_eq!(summary(&mut session, user(2)), []);
}

/// Folded totals tell of every row; a caller is told of those that its policies let it see.
#[test]
fn row_level_security_holds_for_batches() {
    let db = Database::create_alone();
    let role = db.create_role("tenant");
    let mut session = db.connect();
    for key in [Some(1), Some(2), None] {
        for number in [1, 2] {
            session
                .execute(
                    "INSERT INTO credits.credits_transactions
                         (user_id, transaction_type, amount, source_id, fusillade_batch_id, api_key_id)
                     VALUES ($1, 'usage', $2, gen_random_uuid()::text, $3, $4)",
                    &[&user(1), &Decimal::from(number), &batch(number), &key.map(Uuid::from_u128)],
                )
                .expect("insert");
        }
    }
    session.refresh(user(1));
    session.run(&format!(
        "ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY by_key ON credits.credits_transactions FOR SELECT TO {role}
             USING (api_key_id = current_setting('app.key')::uuid);
         GRANT USAGE ON SCHEMA credits TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA credits TO {role};"
    ));
    assert_eq!(summary(&mut session, user(1)), [(Some(batch(2)), dec!(6), 3), (Some(batch(1)), dec!(3), 3)]);
    let mut tenant = db.connect_as(&role);
    for (key, expected) in [
        (1, &[(Some(batch(2)), dec!(2), 1), (Some(batch(1)), dec!(1), 1)][..]),
        (2, &[(Some(batch(2)), dec!(2), 1), (Some(batch(1)), dec!(1), 1)]),
        (3, &[]),
    ] {
        tenant.run(&format!("SET app.key = '{}'", Uuid::from_u128(key)));
        assert_eq!(summary(&mut tenant, user(1)), expected);
        let total = -expected.iter().map(|item| item.1).sum::<Decimal>();
        let rows = i64::try_from(expected.len()).expect("few");
        assert_eq!(tenant.sum_recent_grouped(user(1), 10, &Filters::default()), total);
        assert_eq!(tenant.sum_after_grouped(user(1), SystemTime::UNIX_EPOCH), total);
        assert_eq!(tenant.sum_recent(user(1), 10, &Filters::default()), total);
        assert_eq!(tenant.count_user(user(1), &Filters::default()), rows);
        assert_eq!(tenant.count_all(&Filters::default()), rows);
    }
    // The same session, now without policies in its way: the plans that were kept must not be used.
    session.run(&format!("ALTER ROLE {role} BYPASSRLS"));
    assert_eq!(summary(&mut tenant, user(1)), [(Some(batch(2)), dec!(6), 3), (Some(batch(1)), dec!(3), 3)]);
}

/// The newest folded batches all have new rows: the page behind them is as full as any.
#[test]
fn pages_behind_batches_that_moved_up() {
    let db = Database::create_alone();
    let mut session = db.connect();
    for number in 1..=10 {
        session.charge_batch(user(1), batch(number), dec!(1));
    }
    session.refresh(user(1));
    for number in 6..=10 {
        session.charge_batch(user(1), batch(number), dec!(1));
    }
    assert_eq!(covered(&mut session, user(1)), 10);
    let all = items(&mut session, user(1));
    assert_eq!(all.len(), 10);
    for (skip, before_seq) in [(0, Some(all[4].seq)), (5, None)] {
        let page = Page { skip, limit: Some(5), before_seq };
        assert_eq!(session.list_grouped(user(1), &Filters::default(), &page), all[5..], "{page:?}");
    }
}

/// What is folded of a user without a checkpoint was left behind, and is not counted beside the rows.
#[test]
fn without_a_checkpoint_batches_are_their_rows() {
    let db = Database::create_alone();
    let mut session = db.connect();
    session.charge_batch(user(1), batch(1), dec!(1));
    session.charge_batch(user(1), batch(2), dec!(2));
    session.refresh(user(1));
    session.charge_batch(user(1), batch(1), dec!(4));
    let before = items(&mut session, user(1));
    session.lose_checkpoints("DELETE FROM credits.user_balance_checkpoints");
    assert_eq!(covered(&mut session, user(1)), 2, "left behind");
    assert_eq!(items(&mut session, user(1)), before);
}

/// Folded totals are for whoever may read the whole table; others are told the same from the rows.
#[test]
fn privileges_on_columns_suffice() {
    let db = Database::create_alone();
    let role = db.create_role("columns");
    let mut session = db.connect();
    session.charge_batch(user(1), batch(1), dec!(1));
    session.charge(user(1), dec!(2));
    session.refresh(user(1));
    session.charge_batch(user(1), batch(1), dec!(4));
    session.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role};
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA credits TO {role};
         GRANT SELECT (id, user_id, transaction_type, amount, source_id, description, fusillade_batch_id, created_at, seq)
             ON credits.credits_transactions TO {role}"
    ));
    let expected = items(&mut session, user(1));
    assert_eq!(items(&mut db.connect_as(&role), user(1)), expected);
    session.run(&format!("REVOKE SELECT (amount) ON credits.credits_transactions FROM {role}"));
    let list = format!("SELECT credits.list_transactions_with_batches('{}')", user(1));
    db.connect_as(&role).try_run(&list).refused("42501");
}
