//! A checkpoint covers what has ended, and only that.

use credits_ledger_tests::{Database, Decimal, Session, Uuid, dec, stripe_of, user};

/// The stored checkpoint of a user.
struct Checkpoint {
    balance: Decimal,
    seq: i64,
    count: i64,
    uncovered: i64,
}

fn checkpoint(session: &mut Session, user: Uuid) -> Option<Checkpoint> {
    let row = session
        .query_opt(
            "SELECT balance, checkpoint_seq, transaction_count,
                    (SELECT count(*) FROM credits.credits_transactions t
                     WHERE t.user_id = c.user_id AND (t.xact_id >= c.watermark OR t.xact_id = ANY (c.stragglers)))
             FROM credits.user_balance_checkpoints c WHERE user_id = $1",
            &[&user],
        )
        .unwrap()?;
    Some(Checkpoint { balance: row.get(0), seq: row.get(1), count: row.get(2), uncovered: row.get(3) })
}

/// Refreshes until all committed rows of the user are covered. Transactions of other tests may be open and hold the
/// watermark back, but each refresh has an id of its own: they lag behind, and are passed by.
fn refresh_fully(db: &Database, session: &mut Session, user: Uuid) -> Checkpoint {
    session.refresh(user);
    db.until(
        "SELECT CASE WHEN EXISTS (SELECT FROM credits.user_balance_checkpoints c JOIN credits.credits_transactions t USING (user_id)
                                  WHERE user_id = $1 AND (t.xact_id >= c.watermark OR t.xact_id = ANY (c.stragglers)))
                     THEN credits.refresh_checkpoint($1) IS NULL ELSE true END",
        &[&user],
    );
    checkpoint(session, user).expect("there is a checkpoint")
}

#[test]
fn a_refresh_folds_what_has_ended() {
    let db = Database::create();
    let mut session = db.connect();
    for _ in 0..10 {
        session.grant(user(1), dec!(1.5));
        session.charge(user(1), dec!(0.5));
    }
    let folded = refresh_fully(&db, &mut session, user(1));
    let last: i64 = session.value("SELECT max(seq) FROM credits.credits_transactions", &[]);
    assert_eq!((folded.balance, folded.seq, folded.count), (dec!(10), last, 20));
    session.assert_sound();
    // Once more: nothing new to fold.
    let again = refresh_fully(&db, &mut session, user(1));
    assert_eq!((again.balance, again.seq, again.count), (dec!(10), last, 20));
}

/// A sequence gives numbers at insert, not at commit.
#[test]
fn a_lower_seq_may_commit_after_the_checkpoint() {
    let db = Database::create();
    let (mut slow, mut quick) = (db.connect(), db.connect());
    slow.run("BEGIN");
    slow.grant(user(1), dec!(100));
    quick.grant(user(1), dec!(10));
    quick.refresh(user(1));
    assert_eq!(quick.balance(user(1)), dec!(10));
    slow.run("COMMIT");
    for session in [&mut slow, &mut quick] {
        assert_eq!(session.balance(user(1)), dec!(110));
    }
    quick.assert_sound();
    let folded = refresh_fully(&db, &mut quick, user(1));
    assert_eq!((folded.balance, folded.count), (dec!(110), 2));
    quick.assert_sound();
}

#[test]
fn the_refreshers_own_rows_are_not_folded_before_they_are_committed() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    session.run("BEGIN");
    session.grant(user(1), dec!(5));
    session.refresh(user(1));
    assert_eq!(session.balance(user(1)), dec!(15));
    session.run("COMMIT");
    let stored = checkpoint(&mut session, user(1)).unwrap();
    assert!(stored.uncovered >= 1, "the refresh ran before its transaction had ended");
    assert_eq!(session.balance(user(1)), dec!(15));
    session.assert_sound();
}

#[test]
fn rows_of_subtransactions_are_folded_unless_rolled_back() {
    let db = Database::create();
    let mut session = db.connect();
    session.run("BEGIN");
    session.grant(user(1), dec!(100));
    for round in 0..100 {
        session.run("SAVEPOINT s");
        session.charge_batch(user(1), Uuid::from_u128(round % 3), dec!(1));
        session.run(if round % 2 == 0 { "RELEASE s" } else { "ROLLBACK TO s; RELEASE s" });
    }
    session.run("COMMIT");
    assert_eq!(session.balance(user(1)), dec!(50));
    session.assert_sound();
    let folded = refresh_fully(&db, &mut session, user(1));
    assert_eq!((folded.balance, folded.count), (dec!(50), 51));
    session.assert_sound();
}

#[test]
fn concurrent_refreshes_agree() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(1));
    let refreshers: Vec<_> = (0..6)
        .map(|number| {
            db.connect().background(move |session| {
                for round in 0..40 {
                    if (round + number) % 3 == 0 {
                        session.charge_batch(user(1), Uuid::from_u128(round % 5), dec!(0.1));
                    }
                    session.refresh(user(1));
                }
            })
        })
        .collect();
    for refresher in refreshers {
        let _ = refresher.finish();
    }
    session.assert_sound();
    // In each of six sessions, 13 or 14 of 40 rounds write.
    let folded = refresh_fully(&db, &mut session, user(1));
    assert_eq!((folded.balance, folded.count), (dec!(-7), 81));
    session.assert_sound();
}

#[test]
fn a_refresh_takes_effect_at_commit() {
    let db = Database::create();
    let (mut session, mut other) = (db.connect(), db.connect());
    session.grant(user(1), dec!(10));
    let before = refresh_fully(&db, &mut session, user(1));
    session.charge_batch(user(1), Uuid::from_u128(1), dec!(1));
    for call in [
        format!("SELECT credits.refresh_checkpoint('{}')", user(1)),
        format!("SELECT credits.aggregate_user_batches('{}')", user(1)),
        format!("SELECT credits.refresh_checkpoints_bulk(ARRAY['{}'::uuid])", user(1)),
        format!("SELECT credits.get_users_balances_bulk(ARRAY['{}'::uuid], 1)", user(1)),
    ] {
        session.run("BEGIN");
        session.run(&call);
        assert_eq!(
            checkpoint(&mut session, user(1)).unwrap().count,
            before.count,
            "{call} wrote before the commit"
        );
        session.run("ROLLBACK");
        assert_eq!(
            checkpoint(&mut session, user(1)).unwrap().count,
            before.count,
            "{call} wrote after a rollback"
        );
        assert_eq!(other.balance(user(1)), dec!(9));
    }
    let empty: i64 = session.value("SELECT count(*) FROM credits.batch_aggregates", &[]);
    assert_eq!(empty, 0);
}

#[test]
fn every_way_of_asking_refreshes() {
    let db = Database::create();
    let mut session = db.connect();
    let ways = [
        "SELECT credits.refresh_checkpoint($1)",
        "SELECT credits.aggregate_user_batches($1)",
        "SELECT credits.refresh_checkpoints_bulk(ARRAY[$1::uuid])",
        "SELECT credits.get_users_balances_bulk(ARRAY[$1::uuid], 1)",
    ];
    for (number, way) in (0..).zip(ways) {
        let user = user(number);
        session.grant(user, dec!(10));
        session.charge_batch(user, user, dec!(1));
        assert!(checkpoint(&mut session, user).unwrap().uncovered > 0);
        // Open transactions of other tests hold a watermark back until they lag far enough.
        let began = std::time::Instant::now();
        while checkpoint(&mut session, user).unwrap().uncovered > 0 {
            session.query(way, &[&user]).unwrap();
            assert!(began.elapsed() < credits_ledger_tests::database::PATIENCE, "{way} never folds");
        }
        let total: Decimal =
            session.value("SELECT total_amount FROM credits.batch_aggregates WHERE user_id = $1", &[&user]);
        assert_eq!(total, dec!(1), "{way}");
    }
    session.assert_sound();
}

#[test]
fn a_bulk_refresh_answers_for_users_with_transactions() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(2), dec!(2));
    session.grant(user(1), dec!(1));
    let answer: Vec<(Uuid, Decimal)> = session
        .query(
            "SELECT * FROM credits.refresh_checkpoints_bulk($1) ORDER BY user_id",
            &[&[user(3), user(2), user(1), user(2)].as_slice()],
        )
        .unwrap()
        .iter()
        .map(|row| (row.get("user_id"), row.get("balance")))
        .collect();
    assert_eq!(answer, [(user(1), dec!(1)), (user(2), dec!(2))]);
    let empty: i64 = session.value("SELECT count(*) FROM credits.refresh_checkpoints_bulk('{}')", &[]);
    assert_eq!(empty, 0);
}

#[test]
fn ledger_rows_are_never_touched() {
    let db = Database::create();
    let mut session = db.connect();
    for round in 0..300 {
        session.charge_batch(user(round % 3), Uuid::from_u128(u128::from(round % 7)), dec!(1));
    }
    let fingerprint = "SELECT md5(string_agg(t::text || t.ctid || t.xmin || t.xmax, ',' ORDER BY seq)) FROM credits.credits_transactions t";
    let before: String = session.value(fingerprint, &[]);
    for number in 0..3 {
        refresh_fully(&db, &mut session, user(number));
    }
    session.assert_sound();
    assert_eq!(session.value::<String>(fingerprint, &[]), before);
}

/// Amounts of 15 decimals go through many folds without losing a digit.
#[test]
fn no_digit_is_lost() {
    let db = Database::create();
    let mut session = db.connect();
    let mut expected = Decimal::ZERO;
    for round in 0..400_u32 {
        let amount = dec!(0.123456789012345) + Decimal::from(round) * dec!(0.000000000000001);
        expected -= amount;
        session.charge_batch(user(1), Uuid::from_u128(1), amount);
        if round % 4 == 0 {
            session.refresh(user(1));
        }
    }
    assert_eq!(session.balance(user(1)), expected);
    let folded = refresh_fully(&db, &mut session, user(1));
    assert_eq!(folded.balance, expected);
    session.assert_sound();
}

#[test]
fn a_lost_checkpoint_is_rebuilt() {
    let db = Database::create();
    let mut session = db.connect();
    session.grant(user(1), dec!(10));
    for round in 0..30 {
        session.charge_batch(user(1), Uuid::from_u128(round % 4), dec!(0.25));
        session.charge_batch(user(2), Uuid::from_u128(round % 4), dec!(0.25));
    }
    refresh_fully(&db, &mut session, user(1));
    refresh_fully(&db, &mut session, user(2));
    let batches = "SELECT string_agg(concat_ws(' ', fusillade_batch_id, user_id, trim_scale(total_amount), transaction_count, max_seq, created_at), ','
                                     ORDER BY user_id, fusillade_batch_id) FROM credits.batch_aggregates";
    let before: String = session.value(batches, &[]);
    session.lose_checkpoints(&format!(
        "DELETE FROM credits.user_balance_checkpoints WHERE user_id = '{}'",
        user(1)
    ));
    assert_eq!(session.balance(user(1)), dec!(2.5));
    assert_eq!(session.balance(user(2)), dec!(-7.5));
    let folded = refresh_fully(&db, &mut session, user(1));
    assert_eq!((folded.balance, folded.count), (dec!(2.5), 31));
    assert_eq!(session.value::<String>(batches, &[]), before);
    session.assert_sound();
}

/// Settlement refreshes by itself: the rows that a reader must visit stay bounded.
#[test]
fn deltas_stay_bounded_without_being_asked() {
    let db = Database::create();
    let (mut session, mut other) = (db.connect(), db.connect());
    // The setting is there once the library is loaded.
    session.grant(user(1), dec!(1));
    let interval: i64 =
        session.value("SELECT current_setting('credits_ledger.checkpoint_interval')::bigint", &[]);
    for round in 0..interval * 6 {
        let writer = if round % 3 == 0 { &mut other } else { &mut session };
        writer.charge(user(1), dec!(1));
    }
    let stored = checkpoint(&mut session, user(1)).unwrap();
    // Open transactions of other tests may hold it back by as many ids as make a straggler.
    assert!(stored.uncovered <= 2 * interval + 256, "{} rows are not covered", stored.uncovered);
    assert!(stored.count > 0);
    session.assert_sound();
}

/// However many users a transaction refreshes, it takes at most two locks for each of the 256 stripes.
#[test]
fn a_large_transaction_refreshes_every_checkpoint() {
    const USERS: i64 = 5_000;
    let db = Database::create_alone();
    let mut session = db.connect();
    session.run(&format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         SELECT gen_random_uuid(), 'purchase', 1, n::text FROM generate_series(1, {USERS}) n"
    ));
    session.run("BEGIN");
    session.run(
        "SELECT count(*) FROM credits.get_users_balances_bulk(
             ARRAY(SELECT user_id FROM credits.credits_transactions), 1)",
    );
    let held = db.hold_commit(session);
    let mut other = db.connect();
    let locks: i64 = other.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", &[]);
    assert!((256..=512).contains(&locks), "{locks} locks");
    held.release();
    let folded = "SELECT count(*) FROM credits.user_balance_checkpoints WHERE transaction_count = 1";
    assert_eq!(other.value::<i64>(folded, &[]), USERS);
    other.assert_sound();
}

/// The server would prune the page each time, as less of it is free than the fillfactor says.
#[test]
fn a_page_of_checkpoints_is_pruned_when_it_is_nearly_full() {
    // Alone: each refresh must have a row to fold.
    let db = Database::create_alone();
    let mut session = db.connect();
    session.run("CREATE EXTENSION pageinspect; SET credits_ledger.checkpoint_interval = 1");
    // A page is full up to its fillfactor.
    for number in 1..=150 {
        session.grant(user(number), dec!(1_000_000));
        session.charge(user(number), dec!(1));
        session.refresh(user(number));
    }
    let tables = ["user_balance_checkpoints", "daily_totals"];
    let size = "SELECT sum(pg_relation_size(oid))::bigint FROM pg_class WHERE relname = ANY ($1)";
    let before: i64 = session.value(size, &[&&tables[..]]);
    let mut versions = || {
        tables.map(|table| {
            let rows = "SELECT count(*) FROM heap_page_items(get_raw_page('credits.";
            session.value::<i64>(&format!("{rows}{table}', 0)) WHERE lp_flags = 1"), &[])
        })
    };
    let mut charger = db.connect();
    charger.run("SET credits_ledger.checkpoint_interval = 1");
    charger.run("VACUUM credits.user_balance_checkpoints, credits.daily_totals");
    let at_first = versions();
    for _ in 0..5 {
        charger.charge(user(1), dec!(1));
    }
    for (now, at_first) in versions().into_iter().zip(at_first) {
        assert!(now >= at_first + 4, "{at_first} versions on the page, and then {now}");
    }
    for _ in 0..300 {
        charger.charge(user(1), dec!(1));
    }
    assert_eq!(charger.value::<i64>(size, &[&&tables[..]]), before);
    charger.assert_sound();
}

/// A commit that has read how far a checkpoint is behind, and finds it refreshed when it comes to it, adds nothing a second time: neither to batches nor to days.
#[test]
fn what_another_commit_has_folded_meanwhile_is_not_folded_again() {
    // Alone: the refreshes must have rows to fold.
    let db = Database::create_alone();
    let (mut slow, mut quick) = (db.connect(), db.connect());
    let lagging = user(1);
    let same_stripe =
        |number: &u32| user(*number) > lagging && stripe_of(user(*number)) == stripe_of(lagging);
    let large = user((2..).find(same_stripe).expect("there are 256 stripes"));
    slow.grant(lagging, dec!(1000));
    slow.grant(large, dec!(1_000_000));
    slow.charge(large, dec!(1));
    // Its sum is published as far as it is stored; what comes then is within headroom.
    slow.run("SET credits_ledger.checkpoint_interval = 1");
    slow.charge(lagging, dec!(1));
    slow.charge(lagging, dec!(1));
    for _ in 0..3 {
        quick.charge_batch(lagging, Uuid::nil(), dec!(1));
    }
    slow.run(&format!(
        "BEGIN; INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) VALUES ('{lagging}', 'usage', 1, 'last');
         INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
         SELECT '{large}', 'usage', 1, 'many ' || n FROM generate_series(1, 60000) n"
    ));
    quick.run("SET credits_ledger.checkpoint_interval = 1; BEGIN");
    quick.charge_batch(lagging, Uuid::nil(), dec!(1));
    // It reads the one account, and then for long the other.
    let committing = slow.background(|session| session.run("COMMIT"));
    db.until_it_has_a_stripe(committing.pid(), "ShareLock");
    quick.run("COMMIT");
    let (mut slow, ()) = committing.finish();
    assert_eq!(slow.balance(lagging), dec!(993));
    slow.assert_sound();
}

/// A session looks for a checkpoint first where it has found one of that user's number, which another user can have.
#[test]
fn users_of_one_number_have_a_checkpoint_each() {
    let db = Database::create();
    let mut session = db.connect();
    let users = [1_u64, 2].map(|high| Uuid::from_u64_pair(high, high.rotate_left(32) ^ 7));
    let number = |user: &Uuid| ledger::stripe::hash(&ledger::id::UserId::from_bytes(user.into_bytes()));
    assert_eq!(number(&users[0]), number(&users[1]));
    session.run("SET credits_ledger.checkpoint_interval = 1");
    for (user, amount) in users.into_iter().zip([dec!(10), dec!(20)]) {
        session.grant(user, amount);
        session.refresh(user);
    }
    for user in users {
        session.charge(user, dec!(1));
        session.refresh(user);
    }
    // It has nothing published of either.
    let mut reader = db.connect();
    reader.run("BEGIN; UPDATE credits.user_balance_checkpoints SET updated_at = updated_at");
    for (user, balance) in users.into_iter().zip([dec!(9), dec!(19)]) {
        assert_eq!(reader.balance(user), balance);
    }
    reader.run("ROLLBACK");
    session.assert_sound();
}
