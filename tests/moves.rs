//! A bucket of accounts moves from one node to another while it is charged: what the nodes do. The mover stands here, step by step as
//! `models/README.md` has it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use credits_ledger_tests::contents::USERS;
use credits_ledger_tests::nodes::{Mover, Nodes, accounts_of_a_bucket, bucket_of};
use credits_ledger_tests::{Database, Decimal, Direction, Refused, Session, Uuid, dec, user};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The buckets of the users of a history, and of one without rows.
fn buckets() -> Vec<i32> {
    let db = Database::create();
    let mut session = db.connect();
    let mut buckets: Vec<i32> = (0..=USERS).map(|number| bucket_of(&mut session, user(number))).collect();
    buckets.sort_unstable();
    buckets.dedup();
    buckets
}

#[test]
fn a_bucket_moves_with_all_that_its_accounts_have() {
    let buckets = buckets();
    let mut nodes = Nodes::create(&buckets);
    let mut admin = nodes.old.connect();
    admin.record_history();
    admin.record_holds_and_limits();
    let (contents, boundaries) = (admin.contents(), admin.holds_and_limits());
    let announced = "SELECT string_agg(format('%s %s %s %s %s %s %s', user_id, is_positive, crossed_at, thresholds, thresholds_below, cap_ids, caps_reached_until), ', ' ORDER BY user_id)
                     FROM credits.user_balance_checkpoints";
    let levels: String = admin.value(announced, &[]);
    let mut listeners = [nodes.old.listen(), nodes.new.listen()];
    for &bucket in &buckets {
        nodes.mover.move_bucket(bucket);
    }
    let mut moved = nodes.new.connect();
    assert_eq!(moved.contents(), contents);
    assert_eq!(moved.holds_and_limits(), boundaries);
    assert_eq!(moved.value::<String>(announced, &[]), levels);
    for listener in &mut listeners {
        assert_eq!(listener.drain(), []);
    }
    moved.assert_sound();
    moved.assert_as_made();
    admin.assert_as_made();
    assert_eq!(admin.holds_and_limits(), Vec::<String>::new());
    for bucket in buckets {
        let digest = "SELECT format('%s', d) FROM credits.bucket_digest($1) d";
        let [kept, here] =
            [&mut admin, &mut moved].map(|session| session.value::<String>(digest, &[&bucket]));
        assert_eq!(kept, here);
    }
    // Both nodes go on.
    moved.grant(user(4), dec!(2000));
    admin
        .try_run(&format!("SELECT credits.create_transaction('{}', 'usage', 1, 'late')", user(4)))
        .refused("LC003");
    assert_eq!(listeners[1].crossings(), [(user(4), Direction::Up)]);
    assert_eq!(listeners[0].drain(), []);
    moved.assert_sound();
}

/// Of each node, the crossings since the last call.
fn crossings(listeners: &mut [credits_ledger_tests::Listener; 2]) -> [Vec<(Uuid, Direction)>; 2] {
    listeners.each_mut().map(credits_ledger_tests::Listener::crossings)
}

/// A crossing that `COMMIT PREPARED` makes is announced by the account's next settlement: that of the commit that activates its bucket.
#[test]
fn what_a_prepared_transaction_has_crossed_is_announced_where_the_bucket_arrives() {
    let (bucket, accounts) = accounts_of_a_bucket(4);
    let mut nodes = Nodes::create(&[bucket]);
    let mut session = nodes.old.connect();
    session.grant(accounts[0], dec!(5));
    session.grant(accounts[1], dec!(5));
    session.charge(accounts[2], dec!(5));
    session.run(&format!(
        "INSERT INTO credits.spending_limits (user_id, thresholds) VALUES ('{}', '{{2}}')",
        accounts[1]
    ));
    let mut listeners = [nodes.old.listen(), nodes.new.listen()];
    let gid = format!("'{} of a move'", nodes.old.name());
    session.run("BEGIN");
    session.charge(accounts[0], dec!(6));
    session.charge(accounts[1], dec!(4));
    session.charge(accounts[2], dec!(1));
    session.grant(accounts[3], dec!(1));
    session.run(&format!("PREPARE TRANSACTION {gid}"));
    nodes.mover.expect(bucket);
    nodes.mover.copy(bucket, None);
    nodes.mover.old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
    nodes.mover.old.try_run(&format!("SELECT credits.hold_bucket({bucket})")).refused("55006");
    session.run(&format!("COMMIT PREPARED {gid}"));
    let handover = nodes.mover.give_away(bucket);
    assert_eq!(crossings(&mut listeners), [vec![], vec![]]);
    assert!(nodes.mover.activate(bucket, &handover));
    let mut boundaries = listeners[1].boundaries();
    boundaries.sort_by_key(|(user, ..)| *user);
    let mut expected = [
        (accounts[0], Direction::Down, "0".to_owned()),
        (accounts[1], Direction::Down, "2".to_owned()),
        (accounts[3], Direction::Up, "0".to_owned()),
    ];
    expected.sort_by_key(|(user, ..)| *user);
    assert_eq!(boundaries, expected);
    assert!(!nodes.mover.activate(bucket, &handover));
    assert_eq!(crossings(&mut listeners), [vec![], vec![]]);
    nodes.new.connect().assert_sound();
    // Nor again where it comes back: the first node kept what it had announced, which the second has gone on from.
    Mover { old: nodes.new.connect(), new: nodes.old.connect() }.move_bucket(bucket);
    assert_eq!(crossings(&mut listeners), [vec![], vec![]]);
    session.assert_sound();
}

/// From the mark on nobody is prepared, until it is taken back.
#[test]
fn nobody_is_prepared_with_rows_of_a_bucket_that_is_moving() {
    let (bucket, accounts) = accounts_of_a_bucket(1);
    let mut nodes = Nodes::create(&[bucket]);
    let mut session = nodes.old.connect();
    session.grant(accounts[0], dec!(5));
    session.run(&format!(
        "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('held', '{}', 1, 'infinity')",
        accounts[0]
    ));
    nodes.mover.old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
    for write in [
        "SELECT credits.create_transaction('{}', 'usage', 1, 'late')",
        "DELETE FROM credits.holds WHERE user_id = '{}'",
    ] {
        session.run(&format!("BEGIN; {}", write.replace("{}", &accounts[0].to_string())));
        session.try_run(&format!("PREPARE TRANSACTION '{}'", nodes.old.name())).refused("0A000");
    }
    nodes.mover.old.run(&format!("BEGIN; SELECT credits.hold_bucket({bucket})"));
    nodes
        .mover
        .old
        .try_run(&format!("PREPARE TRANSACTION '{} of the mover'", nodes.old.name()))
        .refused("0A000");
    assert!(nodes.mover.old.value::<bool>("SELECT credits.stop_moving_bucket($1)", &[&bucket]));
    session.run("BEGIN");
    session.charge(accounts[0], dec!(1));
    session.run(&format!("PREPARE TRANSACTION '{}'", nodes.old.name()));
    session.run(&format!("COMMIT PREPARED '{}'", nodes.old.name()));
}

/// Whoever commits while the bucket is held waits. If it is given away, its rows and changes are refused, and what they were about is on the
/// other node; if the mover gives up, they are recorded, and another attempt has them.
#[test]
fn who_commits_while_the_bucket_is_held_is_refused_or_copied_by_the_next_attempt() {
    let (bucket, accounts) = accounts_of_a_bucket(2);
    let mut nodes = Nodes::create(&[bucket]);
    let mut admin = nodes.old.connect();
    admin.grant(accounts[0], dec!(100));
    admin.grant(accounts[1], dec!(100));
    for name in ["released", "captured 1", "extended"] {
        admin.run(&format!("SELECT credits.create_hold('{}', 1, '{name}', '1 hour')", accounts[0]));
    }
    admin.run(&format!(
        "INSERT INTO credits.spending_limits (user_id, overdraft_limit) VALUES ('{}', 3)",
        accounts[0]
    ));
    let writes = |round: &str| {
        [
            format!(
                "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) VALUES ('{}', 'usage', 7, 'row {round}')",
                accounts[1]
            ),
            "SELECT credits.release_hold('released')".to_owned(),
            format!("SELECT credits.capture_hold('captured {round}')"),
            "SELECT credits.extend_hold('extended', '2 hours')".to_owned(),
            format!(
                "UPDATE credits.spending_limits SET overdraft_limit = 4 WHERE user_id = '{}'",
                accounts[0]
            ),
        ]
    };
    for (round, is_given_away) in [("1", false), ("2", true)] {
        let writes = writes(round);
        let collected = nodes.mover.collect(bucket);
        let from = nodes.mover.expect(bucket);
        let (_, from) = nodes.mover.copy(bucket, from.as_deref());
        nodes.mover.old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
        // They have an id from before, and nothing of the ledger.
        let mut clients: Vec<Session> = writes.iter().map(|_| nodes.old.connect()).collect();
        for client in &mut clients {
            client.run("BEGIN; SELECT pg_current_xact_id()");
        }
        nodes.mover.old.run(&format!("BEGIN; SELECT credits.hold_bucket({bucket})"));
        for (client, write) in clients.iter_mut().zip(&writes) {
            client.run(write);
        }
        let commits: Vec<_> =
            clients.into_iter().map(|client| client.background(|client| client.try_run("COMMIT"))).collect();
        for commit in &commits {
            nodes.old.until_blocked(commit.pid());
        }
        let handover = nodes.mover.hand_over(bucket, Some(&from), &collected);
        if is_given_away {
            nodes.mover.old.run(&format!("SELECT credits.give_away_bucket({bucket}); COMMIT"));
        } else {
            nodes.mover.old.run("ROLLBACK");
        }
        for commit in commits {
            let (_, committed) = commit.finish();
            if is_given_away {
                committed.refused("LC003");
            } else {
                committed.expect("the mover has given up");
            }
        }
        if is_given_away {
            assert!(nodes.mover.activate(bucket, &handover));
        } else {
            assert_eq!(admin.value::<i64>("SELECT count(*) FROM credits.holds", &[]), 1);
            for name in ["released", "captured 2"] {
                admin.run(&format!("SELECT credits.create_hold('{}', 1, '{name}', '1 hour')", accounts[0]));
            }
        }
    }
    let mut moved = nodes.new.connect();
    let holds: Vec<String> = moved.values(
        "SELECT format('%s until %s', source_id, extract(hour FROM expires_at - created_at)) FROM credits.holds ORDER BY 1",
        &[],
    );
    assert_eq!(holds, ["captured 2 until 1", "extended until 2", "released until 1"]);
    assert_eq!(moved.balance(accounts[0]), dec!(99));
    assert_eq!(moved.balance(accounts[1]), dec!(93), "the row of the first attempt, once");
    assert_eq!(moved.value::<i32>("SELECT overdraft_limit::int FROM credits.spending_limits", &[]), 4);
    moved.assert_sound();
    // What was left behind is not here, though it was locked when the rest was deleted.
    for call in ["release_hold('released')", "capture_hold('extended')", "extend_hold('extended', '1 hour')"]
    {
        let call = format!("SELECT credits.{call}");
        match call.contains("release") {
            true => assert!(!admin.value::<bool>(&call, &[])),
            false => _ = admin.try_run(&call).refused("P0002"),
        }
    }
    let reverse = "SELECT credits.reverse_transaction(id, 'taken back') FROM credits.credits_transactions WHERE source_id = 'row 1'";
    admin.try_run(reverse).refused("P0002");
    moved.run(reverse);
}

/// Between the collection and the hold, accounts come, and limits, holds and caps come, change and go. The handover has them as they are in the end.
#[test]
fn what_comes_after_the_accounts_were_collected_is_handed_over() {
    let (bucket, accounts) = accounts_of_a_bucket(8);
    let mut nodes = Nodes::create(&[bucket]);
    let mut admin = nodes.old.connect();
    let [known, prepared, limited, first_row, held, bounded, capped, forgotten] =
        accounts.try_into().expect("eight");
    let limit = |account: Uuid, limits: &str| {
        format!("INSERT INTO credits.spending_limits VALUES ('{account}', {limits})")
    };
    let cap = |account: Uuid, amount: i32| {
        format!("INSERT INTO credits.spend_caps (user_id, amount) VALUES ('{account}', {amount})")
    };
    admin.grant(known, dec!(10));
    admin.run(&cap(known, 5));
    admin.run(&limit(known, "3, '{5}'"));
    admin.run(&format!(
        "SELECT credits.create_hold('{known}', 1, 'kept'), credits.create_hold('{known}', 1, 'gone')"
    ));
    // It has a row, and nothing was announced of it.
    admin.run("BEGIN");
    admin.grant(prepared, dec!(2));
    admin.run(&format!("PREPARE TRANSACTION '{} {bucket}'", nodes.old.name()));
    admin.run(&format!("COMMIT PREPARED '{} {bucket}'", nodes.old.name()));
    admin.run(&limit(limited, "1, '{-5}'"));

    let collected = nodes.mover.collect(bucket);
    let mut listeners = [nodes.old.listen(), nodes.new.listen()];
    admin.charge(known, dec!(6));
    admin.run("SELECT credits.release_hold('gone'), credits.extend_hold('kept', '2 days')");
    admin.run("UPDATE credits.spending_limits SET thresholds = '{7}' WHERE overdraft_limit = 3; DELETE FROM credits.spend_caps");
    admin.run(&format!("SELECT credits.refresh_checkpoint('{prepared}')"));
    admin.run("DELETE FROM credits.spending_limits WHERE overdraft_limit = 1");
    admin.grant(first_row, dec!(3));
    admin.run(&limit(held, "4, '{}'"));
    admin.run(&format!("SELECT credits.create_hold('{held}', 4, 'outlives its limit')"));
    admin.run("DELETE FROM credits.spending_limits WHERE overdraft_limit = 4");
    admin.run(&limit(bounded, "0, '{-1}'"));
    admin.run(&cap(capped, 7));
    admin.run(&limit(forgotten, "2, '{-3}'"));
    admin.run("DELETE FROM credits.spending_limits WHERE overdraft_limit = 2");
    let zero = "0".to_owned();
    assert_eq!(
        listeners[0].boundaries(),
        [
            (known, Direction::Down, "5".to_owned()),
            (prepared, Direction::Up, zero.clone()),
            (first_row, Direction::Up, zero.clone())
        ]
    );

    let boundaries = admin.holds_and_limits();
    assert_eq!(boundaries.len(), 5, "{boundaries:?}");
    let levels = "SELECT concat_ws(' ', user_id, is_positive, crossed_at, thresholds, thresholds_below, cap_ids, caps_reached_until)
                  FROM credits.user_balance_checkpoints WHERE is_positive OR thresholds IS NOT NULL OR cap_ids IS NOT NULL ORDER BY 1";
    let before: Vec<String> = admin.values(levels, &[]);
    let handover = nodes.mover.give_away_collected(bucket, &collected);
    assert!(nodes.mover.activate(bucket, &handover));
    let mut moved = nodes.new.connect();
    assert_eq!(moved.values::<String>(levels, &[]), before);
    assert_eq!(moved.holds_and_limits(), boundaries);
    assert_eq!(admin.holds_and_limits(), Vec::<String>::new());
    assert_eq!(listeners.each_mut().map(|listener| listener.drain()), [vec![], vec![]]);
    moved.run(&format!(
        "SELECT credits.charge('{prepared}', 2, 'the rest'), credits.capture_hold('outlives its limit')"
    ));
    assert_eq!(listeners[1].boundaries(), [(prepared, Direction::Down, zero)]);
    moved.assert_sound();
    admin.assert_sound();
}

/// How long commits, and then calls, wait for a bucket depends on what it has, not on how many accounts either node has.
#[test]
fn a_bucket_is_not_looked_for_among_all_accounts() {
    const OTHERS: i64 = 2000;
    let (bucket, accounts) = accounts_of_a_bucket(3);
    let mut nodes = Nodes::create(&[bucket]);
    let mut first = nodes.old.connect();
    for (account, number) in accounts.iter().zip(1..) {
        first.grant(*account, Decimal::from(number));
        first.run(&format!(
            "INSERT INTO credits.spending_limits VALUES ('{account}', {number}, '{{1}}');
             INSERT INTO credits.spend_caps (user_id, amount) VALUES ('{account}', {number});
             SELECT credits.create_hold('{account}', 1, 'hold {number}')"
        ));
    }
    // Then it comes back to a node that knows its accounts.
    nodes.mover.move_bucket(bucket);
    let mut back = Mover { old: nodes.new.connect(), new: nodes.old.connect() };
    for session in [&mut back.old, &mut back.new] {
        // Where there is another way, no table is read as a whole, as none would be that is large.
        session.run(&format!(
            "CREATE TEMPORARY TABLE others AS SELECT gen_random_uuid() AS user_id FROM generate_series(1, {OTHERS});
             DELETE FROM others WHERE credits.bucket_of(user_id) = {bucket};
             INSERT INTO credits.spending_limits SELECT user_id, 1, '{{5}}' FROM others;
             INSERT INTO credits.spend_caps (user_id, amount) SELECT user_id, 1 FROM others;
             SET enable_seqscan = off;
             SET enable_hashjoin = off;
             SET enable_mergejoin = off"
        ));
    }
    // All open holds of the old node are read, once: an index by bucket would cost each a tenth of what it costs.
    for session in [&mut back.old, &mut back.new] {
        session.run("INSERT INTO credits.holds (source_id, user_id, amount, expires_at) SELECT user_id::text, user_id, 1, 'infinity' FROM others");
    }
    let from = back.expect(bucket);
    let since: String = back.old.value("SELECT pg_snapshot_xmin(pg_current_snapshot())::text", &[]);
    let collected: String = back.old.value("SELECT credits.bucket_accounts($1)::text", &[&bucket]);
    let (_, from) = back.copy(bucket, from.as_deref());
    back.old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
    for session in [&mut back.old, &mut back.new] {
        session.run("BEGIN");
    }
    let read = |mover: &mut Mover| {
        let rows = "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE schemaname = 'credits' ORDER BY relname";
        [&mut mover.old, &mut mover.new].map(|session| session.values::<i64>(rows, &[]))
    };
    let before = read(&mut back);
    back.old.run(&format!("SELECT credits.hold_bucket({bucket})"));
    let rest = back.rows(bucket, Some(&from), None);
    back.receive(bucket, &rest);
    let handover: String = back.old.value(
        "SELECT credits.give_away_bucket($1, 0, $2::text::uuid[], $3::text::xid8)::text",
        &[&bucket, &collected, &since],
    );
    back.new.run(&format!("SELECT credits.receive_handover({bucket}, '{handover}')"));
    assert!(back.activate(bucket, &handover));
    let after = read(&mut back);
    let [by_old, by_new] = [0, 1]
        .map(|node| before[node].iter().zip(&after[node]).map(|(before, after)| after - before).sum::<i64>());
    assert!(by_old < OTHERS * 3 / 2, "{before:?} {after:?}");
    assert!(by_new < OTHERS / 2, "{before:?} {after:?}");
    back.old.run("COMMIT");
    back.new.run("COMMIT");
    assert_eq!(back.state(bucket), ["elsewhere", "here"]);
}

/// Whoever has rows in flight is waited for, and has nothing to wait for.
#[test]
fn rows_in_flight_are_waited_for() {
    let (bucket, accounts) = accounts_of_a_bucket(1);
    let mut nodes = Nodes::create(&[bucket]);
    let mut writer = nodes.old.connect();
    writer.grant(accounts[0], dec!(5));
    let collected = nodes.mover.collect(bucket);
    nodes.mover.expect(bucket);
    nodes.mover.old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
    writer.run("BEGIN");
    writer.charge(accounts[0], dec!(1));
    let Mover { old, new } = nodes.mover;
    let waiting = old.background(move |old| old.run(&format!("BEGIN; SELECT credits.hold_bucket({bucket})")));
    nodes.old.until_blocked(waiting.pid());
    // A maintenance command comes, and waits for the writer alone.
    let reindex = nodes
        .old
        .connect()
        .background(|session| session.run("REINDEX TABLE credits.user_balance_checkpoints"));
    let (_, ()) = reindex.finish();
    writer.charge(accounts[0], dec!(1));
    writer.run("COMMIT");
    let (old, ()) = waiting.finish();
    nodes.mover = Mover { old, new };
    let handover = nodes.mover.hand_over(bucket, None, &collected);
    nodes.mover.old.run(&format!("SELECT credits.give_away_bucket({bucket}); COMMIT"));
    assert!(nodes.mover.activate(bucket, &handover));
    assert_eq!(nodes.new.connect().balance(accounts[0]), dec!(3));
}

/// Of two routers that move it to different nodes.
#[test]
fn a_bucket_is_taken_by_the_node_that_it_was_given_to() {
    let (bucket, accounts) = accounts_of_a_bucket(1);
    let mut nodes = Nodes::create(&[bucket]);
    nodes.old.connect().grant(accounts[0], dec!(5));
    let Mover { old, new } = &mut nodes.mover;
    new.run("SELECT credits.set_node_number(2)");
    let ledger: String = old.value("SELECT credits.get_ledger()", &[]);
    new.run(&format!("SELECT credits.expect_bucket({bucket}, '{ledger}')"));
    old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
    old.try_run(&format!("SELECT credits.give_away_bucket({bucket}, 1024)")).refused("22023");
    let hold = format!("BEGIN; SELECT credits.hold_bucket({bucket})");
    old.run(&hold);
    let for_another: String = old.value("SELECT credits.give_away_bucket($1, 3)::text", &[&bucket]);
    old.run("ROLLBACK");
    for taken in ["receive_handover", "activate_bucket"] {
        new.try_run(&format!("SELECT credits.{taken}({bucket}, '{for_another}')")).refused("55000");
    }
    old.run(&hold);
    let rows: String = old.value(
        "SELECT jsonb_agg(to_jsonb(t))::text FROM credits.bucket_transactions($1, NULL, NULL) t",
        &[&bucket],
    );
    let handover: String = old.value("SELECT credits.give_away_bucket($1, 2)::text", &[&bucket]);
    new.value::<i64>("SELECT credits.receive_transactions($1, $2::text::jsonb)", &[&bucket, &rows]);
    new.run(&format!("SELECT credits.receive_handover({bucket}, '{handover}')"));
    old.run("COMMIT");
    assert!(nodes.mover.activate(bucket, &handover));
    assert_eq!(nodes.new.connect().balance(accounts[0]), dec!(5));
}

/// Back to the node that keeps its rows, and once more after that has purged them.
#[test]
fn a_bucket_moves_back_to_a_node_that_keeps_its_rows_or_has_purged_them() {
    let (bucket, accounts) = accounts_of_a_bucket(3);
    let mut nodes = Nodes::create(&[bucket]);
    let mut first = nodes.old.connect();
    let mut second = nodes.new.connect();
    let mut listeners = [nodes.old.listen(), nodes.new.listen()];
    first.grant(accounts[0], dec!(100));
    first.grant(accounts[1], dec!(1));
    // What it leaves is published, far from any boundary.
    first.charge(accounts[0], dec!(1));
    first.charge_batch(accounts[1], Uuid::nil(), dec!(0.5));
    assert_eq!(crossings(&mut listeners)[0].len(), 2);
    nodes.mover.move_bucket(bucket);
    nodes.mover.old.try_run(&format!("SELECT credits.own_buckets('{{{bucket}}}')")).unwrap();
    assert_eq!(nodes.mover.state(bucket), ["elsewhere", "here"]);
    second.charge(accounts[0], dec!(97));
    second.charge(accounts[1], dec!(2));
    second.grant(accounts[2], dec!(3));
    assert_eq!(
        crossings(&mut listeners),
        [vec![], vec![(accounts[1], Direction::Down), (accounts[2], Direction::Up)]]
    );
    let contents = second.contents();

    let mut back = Mover { old: nodes.new.connect(), new: nodes.old.connect() };
    assert_eq!(back.expect(bucket), None);
    let (copied, _) = back.copy(bucket, None);
    assert!(copied <= 3, "{copied}: the rest is there");
    back.move_bucket(bucket);
    assert_eq!(first.contents(), contents);
    assert_eq!(crossings(&mut listeners), [vec![], vec![]]);
    first.charge(accounts[0], dec!(2));
    assert_eq!(crossings(&mut listeners), [vec![(accounts[0], Direction::Down)], vec![]]);
    first.grant(accounts[1], dec!(2));
    assert_eq!(crossings(&mut listeners), [vec![(accounts[1], Direction::Up)], vec![]]);
    first.assert_sound();

    let purge = "SELECT credits.purge_bucket($1)";
    first.try_run(&purge.replace("$1", &bucket.to_string())).refused("55000");
    let digest: String = second.value("SELECT digest FROM credits.bucket_digest($1)", &[&bucket]);
    assert_eq!(second.value::<i64>(purge, &[&bucket]), 7);
    assert_eq!(second.value::<i64>(purge, &[&bucket]), 0);
    let proof: String = second.value("SELECT format('%s %s %s %s', bucket, transaction_count, trim_scale(balance), digest) FROM credits.purged_buckets", &[]);
    assert_eq!(proof, format!("{bucket} 7 3.5 {digest}"));
    for table in ["credits_transactions", "user_balance_checkpoints", "batch_aggregates", "daily_totals"] {
        assert_eq!(second.value::<i64>(&format!("SELECT count(*) FROM credits.{table}"), &[]), 0, "{table}");
    }
    second.assert_sound();
    let contents = first.contents();
    nodes.mover.move_bucket(bucket);
    assert_eq!(second.contents(), contents);
    assert_eq!(crossings(&mut listeners), [vec![], vec![]]);
    second.charge(accounts[1], dec!(0.5));
    second.charge(accounts[0], dec!(1));
    assert_eq!(crossings(&mut listeners), [vec![], vec![(accounts[1], Direction::Down)]]);
    second.assert_sound();
    for session in [&mut first, &mut second] {
        session.assert_as_made();
    }
}

/// A router was away while another moved the bucket on, and comes again with what it knows. The numbers of the nodes were far apart.
#[test]
fn a_handover_is_not_taken_after_the_bucket_was_given_on() {
    let (bucket, accounts) = accounts_of_a_bucket(1);
    for is_first_ahead in [false, true] {
        let mut nodes = Nodes::create(&[bucket]);
        let mut first = nodes.old.connect();
        first.grant(accounts[0], dec!(5));
        // Ahead of the rows, too, whose numbers go along.
        let ahead = if is_first_ahead { &mut nodes.mover.old } else { &mut nodes.mover.new };
        ahead.run("SELECT credits.advance_seq(1000000)");
        let past = nodes.mover.give_away(bucket);
        assert!(nodes.mover.activate(bucket, &past));

        let mut back = Mover { old: nodes.new.connect(), new: nodes.old.connect() };
        let handover = back.give_away(bucket);
        // Whoever asks while the bucket is expected back is answered as before.
        assert_eq!(back.state(bucket), ["elsewhere", "arriving"]);
        assert_eq!(
            nodes.mover.old.value::<String>("SELECT credits.bucket_handover($1)::text", &[&bucket]),
            past
        );
        assert!(back.activate(bucket, &handover));

        nodes.mover.expect(bucket);
        nodes.mover.new.run(&format!("SELECT credits.receive_handover({bucket}, '{past}')"));
        nodes
            .mover
            .new
            .try_run(&format!("SELECT credits.activate_bucket({bucket}, '{past}')"))
            .refused("55000");
        assert!(nodes.mover.new.value::<bool>("SELECT credits.return_bucket($1)", &[&bucket]));
        assert_eq!(nodes.mover.state(bucket), ["here", "elsewhere"]);
        first.charge(accounts[0], dec!(1));
        first.assert_sound();
    }
}

/// What people have written into holds goes to the new node, and is not kept where erasure would not reach it.
#[test]
fn erasure_reaches_what_was_written_into_holds_that_have_left() {
    let (bucket, accounts) = accounts_of_a_bucket(1);
    let mut nodes = Nodes::create(&[bucket]);
    let mut admin = nodes.old.connect();
    admin.grant(accounts[0], dec!(5));
    admin.run(&format!(
        "SELECT credits.create_hold('{}', 1, 'of a person', description => 'a secret', metadata => '{{\"a\": \"secret\"}}')",
        accounts[0]
    ));
    nodes.mover.give_away(bucket);
    let told = "SELECT count(*) FROM credits.bucket_states s WHERE s::text LIKE '%secret%'";
    assert_eq!(admin.value::<i64>(told, &[]), 0);
    // A mover that comes back has no more than what is stored.
    let stored: String = nodes.mover.old.value("SELECT credits.bucket_handover($1)::text", &[&bucket]);
    nodes.mover.new.run(&format!("SELECT credits.receive_handover({bucket}, '{stored}')"));
    assert!(nodes.mover.activate(bucket, &stored));
    let mut at_new = nodes.new.connect();
    let held = "SELECT concat_ws(', ', h.description, h.metadata) FROM credits.holds h";
    assert_eq!(at_new.value::<String>(held, &[]), "a secret, {\"a\": \"secret\"}");
    assert_eq!(at_new.value::<i64>("SELECT credits.redact_account($1)", &[&accounts[0]]), 1);
    assert_eq!(at_new.value::<String>(held, &[]), "");
    at_new.assert_sound();
}

/// A node that has not all rows of the handover does not take the bucket, whatever it has been told, and takes it once it has.
#[test]
fn a_bucket_is_not_taken_without_its_last_rows() {
    let (bucket, accounts) = accounts_of_a_bucket(2);
    for is_told_too_early in [false, true] {
        let mut nodes = Nodes::create(&[bucket]);
        let mut admin = nodes.old.connect();
        admin.grant(accounts[0], dec!(5));
        nodes.mover.expect(bucket);
        let (_, from) = nodes.mover.copy(bucket, None);
        admin.charge(accounts[0], dec!(1));
        admin.grant(accounts[1], dec!(5));
        nodes.mover.old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
        nodes.mover.old.run(&format!("BEGIN; SELECT credits.hold_bucket({bucket})"));
        let handover: String = nodes.mover.old.value("SELECT credits.give_away_bucket($1)::text", &[&bucket]);
        nodes.mover.old.run("COMMIT");
        let activate = format!("SELECT credits.activate_bucket({bucket}, '{handover}')");
        let receive = format!("SELECT credits.receive_handover({bucket}, '{handover}')");
        if is_told_too_early {
            nodes.mover.new.try_run(&receive).refused("55000");
        }
        assert_eq!(nodes.mover.state(bucket), ["elsewhere", "arriving"]);
        // The old node has what it needs.
        let stored: String = nodes.mover.old.value("SELECT credits.bucket_handover($1)::text", &[&bucket]);
        assert_eq!(stored, handover);
        assert_eq!(nodes.mover.expect(bucket), Some(from.clone()));
        let rest = nodes.mover.rows(bucket, Some(&from), None);
        let received = nodes.mover.receive(bucket, &rest);
        // Other databases' transactions may have kept the first copy from being of all that there was.
        assert!((2..=3).contains(&received), "{received}");
        nodes.mover.new.try_run(&activate).refused("55000");
        nodes.mover.new.run(&format!("{receive}; {activate}"));
        assert_eq!(nodes.mover.state(bucket), ["elsewhere", "here"]);
        assert_eq!(nodes.mover.new.balance(accounts[0]), dec!(4));
    }
}

/// What the new node has left from an earlier stay of an account that the old node does not know any more: that was restored from a dump, which has no checkpoints.
#[test]
fn what_the_new_node_alone_knows_does_not_come_back() {
    let (bucket, accounts) = accounts_of_a_bucket(2);
    let mut nodes = Nodes::create(&[bucket]);
    let mut first = nodes.old.connect();
    let mut second = nodes.new.connect();
    for (account, number) in accounts.iter().zip(1..) {
        first.run(&format!(
            "INSERT INTO credits.spending_limits VALUES ('{account}', 4, '{{2}}');
             INSERT INTO credits.spend_caps (user_id, amount, is_enforced) VALUES ('{account}', 1, true);
             INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('hold {number}', '{account}', 3, 'infinity')"
        ));
    }
    nodes.mover.move_bucket(bucket);
    // What a session has locked is left when the bucket leaves.
    let mut locker = nodes.new.connect();
    locker.run("BEGIN; SELECT FROM credits.holds, credits.spending_limits, credits.spend_caps FOR UPDATE");
    let mut back = Mover { old: nodes.new.connect(), new: nodes.old.connect() };
    back.move_bucket(bucket);
    locker.run("COMMIT");
    assert_eq!(second.holds_and_limits().len(), 6);
    // Of the second account not even a checkpoint is left there.
    let forget = |session: &mut Session, account: Uuid| {
        session.lose_checkpoints(&format!(
            "DELETE FROM credits.user_balance_checkpoints WHERE user_id = '{account}'"
        ));
    };
    forget(&mut second, accounts[1]);
    first.run("SELECT credits.release_hold('hold 1'), credits.release_hold('hold 2'); DELETE FROM credits.spending_limits; DELETE FROM credits.spend_caps");
    for account in &accounts {
        forget(&mut first, *account);
    }
    let mut listeners = [nodes.old.listen(), nodes.new.listen()];
    nodes.mover.move_bucket(bucket);
    assert_eq!(second.holds_and_limits(), Vec::<String>::new());
    for account in accounts {
        second.grant(account, dec!(3));
        let available: Decimal = second.value("SELECT credits.get_available_balance($1)", &[&account]);
        assert_eq!(available, dec!(3));
        let zero = (account, Direction::Up, "0".to_owned());
        assert_eq!(listeners.each_mut().map(|listener| listener.boundaries()), [vec![], vec![zero]]);
    }
    second.assert_sound();
    first.assert_sound();
}

/// A row like the first of `rows`, of a transaction of its own, with other values where `changes` has some. All are JSON.
fn another_row(session: &mut Session, rows: &str, changes: &str) -> String {
    session.value(
        "SELECT jsonb_build_array(r || jsonb_build_object('id', gen_random_uuid(), 'source_id', gen_random_uuid(), 'seq', nextval('credits.credits_transactions_seq_seq'))
                                    || $2::text::jsonb)::text
         FROM jsonb_array_elements($1::text::jsonb) r LIMIT 1",
        &[&rows, &changes],
    )
}

/// The new node has copies of commits that the old one has lost, or lacks rows that it is said to have. That is found before anything is given away.
#[test]
fn a_bucket_whose_nodes_disagree_is_not_given_away() {
    let (bucket, accounts) = accounts_of_a_bucket(2);
    let [account, forgotten] = [accounts[0], accounts[1]];
    let of_forgotten = format!(r#"{{"user_id": "{forgotten}", "amount": 7}}"#);
    let cases: [(Uuid, bool, &[&str], &str); 4] = [
        // Of one account the old node has lost a row, of the other one all that it knew.
        (account, true, &[r#"{"amount": 1}"#], "5 (rows: 2), by the handover 4 (rows: 1)"),
        (forgotten, true, &[&of_forgotten], "7 (rows: 1), by the handover 0 (rows: 0)"),
        // It has lost rows that add up to nothing.
        (
            account,
            true,
            &["{}", r#"{"transaction_type": "usage"}"#],
            "4 (rows: 3), by the handover 4 (rows: 1)",
        ),
        (account, false, &[], "0 (rows: 0), by the handover 4 (rows: 1)"),
    ];
    for (differing, is_copied, lost, detail) in cases {
        let mut nodes = Nodes::create(&[bucket]);
        let mut admin = nodes.old.connect();
        admin.grant(account, dec!(4));
        nodes.mover.expect(bucket);
        let rows = nodes.mover.rows(bucket, None, None);
        if is_copied {
            nodes.mover.receive(bucket, &rows);
        }
        for changes in lost {
            let lost = another_row(&mut admin, &rows, changes);
            nodes.mover.receive(bucket, &lost);
        }
        let collected = nodes.mover.collect(bucket);
        nodes.mover.old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
        nodes.mover.old.run(&format!("BEGIN; SELECT credits.hold_bucket({bucket})"));
        let handover = nodes.mover.handover(bucket, &collected);
        let receive_handover = format!("SELECT credits.receive_handover({bucket}, '{handover}')");
        let error = nodes.mover.new.try_run(&receive_handover).refused("55000");
        assert_eq!(
            error.message(),
            format!("account {differing} of bucket {bucket} has not the rows of the handover")
        );
        let said = error.detail().and_then(|detail| detail.split('.').next()).map(str::to_owned);
        assert_eq!(said, Some(format!("Here it has {detail}")));
        nodes.mover.old.run("ROLLBACK");
        // The old node serves it meanwhile.
        admin.charge(account, dec!(1));
        assert!(nodes.mover.old.value::<bool>("SELECT credits.stop_moving_bucket($1)", &[&bucket]));
        // As the hint has it: the copies are taken away, and what the old node has is copied.
        let (_, purge) = error.hint().unwrap().split_once("SELECT").unwrap();
        let (purge, _) = purge.split_once(" on the new node").unwrap();
        nodes.mover.new.run(&format!("SELECT {purge}"));
        assert_eq!(nodes.mover.state(bucket), ["here", "elsewhere"]);
        nodes.mover.move_bucket(bucket);
        let mut at_new = nodes.new.connect();
        assert_eq!([at_new.balance(account), at_new.balance(forgotten)], [dec!(3), dec!(0)]);
        at_new.assert_sound();
        admin.assert_sound();
    }
}

/// It was received, and rows have come since.
#[test]
fn rows_are_compared_again_when_the_bucket_is_taken() {
    let (bucket, accounts) = accounts_of_a_bucket(1);
    let mut nodes = Nodes::create(&[bucket]);
    nodes.old.connect().grant(accounts[0], dec!(5));
    let handover = nodes.mover.give_away(bucket);
    let rows = nodes.mover.rows(bucket, None, None);
    let more = another_row(&mut nodes.mover.old, &rows, "{}");
    nodes.mover.receive(bucket, &more);
    nodes
        .mover
        .new
        .try_run(&format!("SELECT credits.activate_bucket({bucket}, '{handover}')"))
        .refused("55000");
    assert_eq!(nodes.mover.state(bucket), ["elsewhere", "arriving"]);
    nodes.mover.new.run(&format!("SELECT credits.return_bucket({bucket}), credits.purge_bucket({bucket})"));
    nodes.mover.expect(bucket);
    nodes.mover.receive(bucket, &rows);
    nodes.mover.new.run(&format!("SELECT credits.receive_handover({bucket}, '{handover}')"));
    assert!(nodes.mover.activate(bucket, &handover));
    assert_eq!(nodes.new.connect().balance(accounts[0]), dec!(5));
}

/// The hint to remove the copies is for an old node that still has the rows.
#[test]
fn the_only_rows_that_are_left_are_not_to_be_purged() {
    let (bucket, accounts) = accounts_of_a_bucket(1);
    let mut nodes = Nodes::create(&[bucket]);
    nodes.old.connect().grant(accounts[0], dec!(5));
    nodes.mover.give_away(bucket);
    let rows = nodes.mover.rows(bucket, None, None);
    let more = another_row(&mut nodes.mover.old, &rows, "{}");
    nodes.mover.receive(bucket, &more);
    let mut hint = || {
        let handover: String = nodes.mover.old.value("SELECT credits.bucket_handover($1)::text", &[&bucket]);
        let activate = format!("SELECT credits.activate_bucket({bucket}, '{handover}')");
        nodes.mover.new.try_run(&activate).refused("55000").hint().unwrap().to_owned()
    };
    assert!(hint().contains("purge_bucket"));
    nodes.old.connect().run(&format!("SELECT credits.purge_bucket({bucket})"));
    assert_eq!(
        hint(),
        "The old node has purged its rows, so keep those that are here: no other node has them."
    );
}

/// Whoever brings the accounts here reads their balances, and nobody else does, nor of accounts that have left.
#[test]
fn who_brings_accounts_reads_their_balances() {
    let (bucket, accounts) = accounts_of_a_bucket(1);
    let mut nodes = Nodes::create(&[bucket]);
    nodes.old.connect().grant(accounts[0], dec!(5));
    nodes.mover.expect(bucket);
    let rows = nodes.mover.rows(bucket, None, None);
    nodes.mover.receive(bucket, &rows);
    let balance = format!("SELECT credits.get_user_balance('{}')", accounts[0]);
    let begin = format!("BEGIN; SELECT credits.begin_transfer({bucket})");
    let new = &mut nodes.mover.new;
    new.try_run(&balance).refused("LC003");
    new.run(&begin);
    assert_eq!(new.balance(accounts[0]), dec!(5));
    new.run("COMMIT");
    new.try_run(&balance).refused("LC003");
    new.run(&format!("SELECT credits.return_bucket({bucket})"));
    new.run(&begin);
    new.try_run(&balance).refused("LC003");
    new.run("ROLLBACK");
}

/// What the new node has already of another account makes the move fail before anything is given away, and is undone.
#[test]
fn a_source_id_that_is_taken_keeps_the_bucket_where_it_is() {
    let (bucket, accounts) = accounts_of_a_bucket(1);
    let mut nodes = Nodes::create(&[bucket]);
    let mut other = nodes.new.connect();
    other.grant(user(2), dec!(5));
    let take = |user: Uuid| {
        format!(
            "SELECT credits.create_hold('{user}', 1, 'held', '1 hour'), credits.create_transaction('{user}', 'usage', 1, 'taken')"
        )
    };
    other.run(&take(user(2)));
    let mut admin = nodes.old.connect();
    admin.grant(accounts[0], dec!(5));
    admin.run(&take(accounts[0]));
    nodes.mover.expect(bucket);
    let rows = nodes.mover.rows(bucket, None, None);
    let receive = |rows: &str| format!("SELECT credits.receive_transactions({bucket}, '{rows}')");
    nodes.mover.new.try_run(&receive(&rows)).refused("23505");
    nodes.mover.new.run(&receive(&rows.replace("\"taken\"", "\"free\"")));
    nodes.mover.old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
    nodes.mover.old.run(&format!("BEGIN; SELECT credits.hold_bucket({bucket})"));
    let handover: String = nodes.mover.old.value("SELECT credits.bucket_handover($1)::text", &[&bucket]);
    nodes
        .mover
        .new
        .try_run(&format!("SELECT credits.receive_handover({bucket}, '{handover}')"))
        .refused("23505");
    nodes.mover.old.run("ROLLBACK");
    for (node, undo) in
        [(&mut nodes.mover.old, "stop_moving_bucket"), (&mut nodes.mover.new, "return_bucket")]
    {
        for is_first in [true, false] {
            assert_eq!(node.value::<bool>(&format!("SELECT credits.{undo}($1)"), &[&bucket]), is_first);
        }
    }
    assert_eq!(nodes.mover.state(bucket), ["here", "elsewhere"]);
    admin.charge(accounts[0], dec!(1));
    assert_eq!(other.value::<i64>("SELECT count(*) FROM credits.verify_ledger()", &[]), 0);
    admin.assert_sound();
}

/// What a call is refused with, which must be this: message and detail.
fn refusal(session: &mut Session, call: &str, sqlstate: &str) -> [String; 2] {
    let error = session.try_run(&format!("SELECT credits.{call}")).refused(sqlstate);
    [error.message().to_owned(), error.detail().unwrap_or_default().to_owned()]
}

/// The same is covered before, while and after an account moves, there and back: by its balance, limit and holds, and by an enforced spend cap.
#[test]
fn what_is_covered_is_the_same_wherever_the_account_is() {
    let (bucket, accounts) = accounts_of_a_bucket(2);
    let mut nodes = Nodes::create(&[bucket]);
    let (limited, capped) = (accounts[0], accounts[1]);
    let key = Uuid::from_u128(7);
    let (mut first, mut second) = (nodes.old.connect(), nodes.new.connect());
    // Far from any limit, which the session and the others are told.
    first.grant(limited, dec!(1000));
    first.grant(capped, dec!(1000));
    first.run(&format!(
        "INSERT INTO credits.spending_limits (user_id, overdraft_limit) VALUES ('{limited}', 2);
         INSERT INTO credits.spend_caps (user_id, api_key_ids, amount, is_enforced) VALUES ('{capped}', ARRAY['{key}'::uuid], 20, true)"
    ));
    for number in 0..3 {
        first.run(&format!("SELECT credits.charge('{limited}', 1, 'far {number}'), credits.create_hold('{limited}', 1, 'held {number}')"));
    }
    first.run(&format!(
        "SELECT credits.create_hold('{limited}', 4, 'in flight'), credits.create_hold('{limited}', 5, 'over', '1 hour'), credits.release_hold('in flight')"
    ));
    let spend = |amount: &str, source: &str| {
        format!("charge('{capped}', {amount}, '{source}', api_key_id => '{key}')")
    };
    first.run(&format!("SELECT credits.{}", spend("12", "spent")));
    first.run(&format!("SELECT credits.create_hold('{capped}', 5, 'to be spent', api_key_id => '{key}')"));
    // 997 less 8 held leaves 989, and 2 below zero.
    let charge = |amount: &str, source: &str| format!("charge('{limited}', {amount}, '{source}')");
    let too_much = [(charge("991.5", "much"), "LC001"), (spend("3.5", "more"), "LC002")];
    let refused =
        |session: &mut Session| too_much.each_ref().map(|(call, sqlstate)| refusal(session, call, sqlstate));
    let before = refused(&mut first);

    // Who has a hold in flight is waited for; who comes while the bucket is held asks again at the other node.
    let collected = nodes.mover.collect(bucket);
    nodes.mover.expect(bucket);
    let (_, from) = nodes.mover.copy(bucket, None);
    nodes.mover.old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
    let mut in_flight = nodes.old.connect();
    in_flight.run(&format!("BEGIN; SELECT credits.create_hold('{limited}', 981, 'in flight')"));
    let Mover { old, new } = nodes.mover;
    let holding = old.background(move |old| old.run(&format!("BEGIN; SELECT credits.hold_bucket({bucket})")));
    nodes.old.until_blocked(holding.pid());
    in_flight.run("COMMIT");
    let (old, ()) = holding.finish();
    nodes.mover = Mover { old, new };
    let handover = nodes.mover.hand_over(bucket, Some(&from), &collected);
    let late = format!("SELECT credits.{}", charge("10", "late"));
    let asking = nodes.old.connect().background(move |session| session.try_run(&late));
    nodes.old.until_blocked(asking.pid());
    nodes.mover.old.run(&format!("SELECT credits.give_away_bucket({bucket}); COMMIT"));
    asking.finish().1.refused("LC003");
    second.try_run(&format!("SELECT credits.{}", charge("10", "late"))).refused("LC003");
    assert!(nodes.mover.activate(bucket, &handover));

    // 8 are left, and 2 below zero.
    refusal(&mut second, &charge("10.5", "late"), "LC001");
    second.run("SELECT credits.release_hold('in flight')");
    assert_eq!(refused(&mut second), before);
    second.run(&format!("SELECT credits.{}", charge("981", "in flight")));
    second.run(&format!("SELECT credits.{}", charge("10", "late")));
    refusal(&mut second, &charge("0.000000000000001", "least"), "LC001");
    second.run("SELECT credits.capture_hold('held 0', 0.5), credits.extend_hold('held 1', '2 hours'), credits.release_hold('held 2')");
    second.run(&format!("SELECT credits.create_hold('{limited}', 1.5, 'held 3')"));
    refusal(&mut second, &format!("create_hold('{limited}', 0.000000000000001, 'least')"), "LC001");
    assert_eq!(refused(&mut second)[1], before[1]);
    second.run("SELECT credits.capture_hold('to be spent', 4)");
    second.run(&format!("SELECT credits.{}", spend("3", "three")));
    let at_new = [&charge("1", "one"), &spend("2", "two")].map(|call| {
        let sqlstate = if call.contains(&limited.to_string()) { "LC001" } else { "LC002" };
        refusal(&mut second, call, sqlstate)
    });
    assert_eq!(first.value::<i64>("SELECT count(*) FROM credits.holds", &[]), 0);

    // What was published on the first node is of another stay.
    let mut back = Mover { old: nodes.new.connect(), new: nodes.old.connect() };
    back.move_bucket(bucket);
    for session in [&mut first, &mut nodes.old.connect()] {
        assert_eq!(refusal(session, &charge("1", "one"), "LC001"), at_new[0]);
        assert_eq!(refusal(session, &spend("2", "two"), "LC002"), at_new[1]);
        session.run("BEGIN");
        session.run(&format!("SELECT credits.{}", spend("1", "last")));
        session.run("ROLLBACK");
    }
    first.run(&format!("SELECT credits.{}", spend("1", "last")));
    refusal(&mut first, &spend("0.000000000000001", "least"), "LC002");
    first.run(
        "SELECT credits.release_hold('over'), credits.release_hold('held 1'), credits.release_hold('held 3')",
    );
    refusal(&mut first, &charge("7.500000000000001", "least"), "LC001");
    first.run(&format!("SELECT credits.{}", charge("7.5", "all")));
    assert_eq!(first.balance(limited), dec!(-2));
    assert_eq!(first.balance(capped), dec!(980));
    first.assert_sound();
    second.assert_sound();
}

/// Where a mover dies, if it does.
struct Death {
    steps_to_live: u32,
}

impl Death {
    /// One step more. `None`: the mover is dead.
    fn step(&mut self) -> Option<()> {
        self.steps_to_live = self.steps_to_live.checked_sub(1)?;
        Some(())
    }
}

/// Goes on with a move, wherever it was left, until it is done or the mover dies: its sessions end with it.
fn go_on(nodes: [&Database; 2], bucket: i32, death: &mut Death) -> Option<()> {
    let mut mover = Mover { old: nodes[0].connect(), new: nodes[1].connect() };
    let states = mover.state(bucket);
    if states == ["elsewhere", "here"] {
        return Some(());
    }
    let handover = if states[0] == "elsewhere" {
        mover.old.value("SELECT credits.bucket_handover($1)::text", &[&bucket])
    } else {
        let collected = mover.collect(bucket);
        let from = mover.expect(bucket);
        death.step()?;
        let (_, from) = mover.copy(bucket, from.as_deref());
        death.step()?;
        mover.old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
        death.step()?;
        mover.old.run(&format!("BEGIN; SELECT credits.hold_bucket({bucket})"));
        death.step()?;
        let handover = mover.hand_over(bucket, Some(&from), &collected);
        death.step()?;
        mover.old.run(&format!("SELECT credits.give_away_bucket({bucket})"));
        death.step()?;
        mover.old.run("COMMIT");
        handover
    };
    death.step()?;
    mover.activate(bucket, &handover);
    Some(())
}

/// What a client has recorded of each account, and how much that was.
type Recorded = Vec<(usize, Decimal)>;

/// Charges and grants at random, at whichever node has the accounts, until it is told to stop.
fn use_accounts(
    nodes: [&Database; 2],
    accounts: &[Uuid],
    map: &AtomicUsize,
    stop: &AtomicBool,
    (client, seed): (usize, u64),
) -> Recorded {
    let mut random = StdRng::seed_from_u64(seed.wrapping_add(client as u64));
    let mut sessions = nodes.map(Database::connect);
    let mut recorded = Recorded::new();
    while !stop.load(Ordering::Relaxed) {
        let account = random.random_range(0..accounts.len());
        let amount = random.random_range(1..6_i64);
        let source_id = format!("{client} {}", recorded.len());
        let (user, source_id) = (accounts[account], source_id.as_str());
        let (calls, signed) = match random.random_range(0..4) {
            0 | 1 => (
                vec![format!("create_transaction('{user}', 'admin_grant', {amount}, '{source_id}')")],
                amount,
            ),
            2 => (vec![format!("create_transaction('{user}', 'usage', {amount}, '{source_id}')")], -amount),
            _ => (
                vec![
                    format!("create_hold('{user}', {amount}, '{source_id}', '1 day')"),
                    format!("capture_hold('{source_id}')"),
                ],
                -amount,
            ),
        };
        let is_recorded = calls.iter().all(|call| {
            loop {
                let node = &mut sessions[map.load(Ordering::Relaxed)];
                match node.try_run(&format!("SELECT credits.{call}")) {
                    Ok(()) => return true,
                    Err(error) => match error.code().map_or("", |code| code.code()) {
                        "LC001" => return false,
                        // Not there, or not any more: a hold may have left with its account. Ask again.
                        "LC003" | "P0002" => thread::yield_now(),
                        _ => panic!("{call}: {error:?}"),
                    },
                }
            }
        });
        if is_recorded {
            recorded.push((account, signed.into()));
        }
    }
    recorded
}

/// Asks at whichever node has the account, again while it is not there. Returns whether it was covered.
fn ask(sessions: &mut [Session; 2], map: &AtomicUsize, call: &str) -> bool {
    loop {
        match sessions[map.load(Ordering::Relaxed)].try_run(&format!("SELECT credits.{call}")) {
            Ok(()) => return true,
            Err(error) => match error.code().map_or("", |code| code.code()) {
                "LC001" => return false,
                "LC003" | "P0002" => thread::yield_now(),
                _ => panic!("{call}: {error:?}"),
            },
        }
    }
}

/// How far below zero the account of [`spend_to_the_limit`] may go.
const LIMIT: i64 = 3;

/// Charges and holds near the limit of an account that nobody else uses, until it is told to stop: so it is known what is covered. Returns the balance and
/// which ways it went over zero.
fn spend_to_the_limit(
    nodes: [&Database; 2],
    account: Uuid,
    map: &AtomicUsize,
    stop: &AtomicBool,
    seed: u64,
) -> (i64, Vec<Direction>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut sessions = nodes.map(Database::connect);
    let (mut balance, mut held, mut crossings) = (0, Vec::<(String, i64)>::new(), Vec::new());
    for number in 0.. {
        // What is held is captured or released in the end.
        if stop.load(Ordering::Relaxed) && held.is_empty() {
            break;
        }
        let source = format!("limited {number}");
        let amount = random.random_range(1..6_i64);
        let before = balance;
        let available = balance - held.iter().map(|(_, amount)| amount).sum::<i64>();
        let may_be_asked = !stop.load(Ordering::Relaxed);
        match random.random_range(0..6) {
            0 | 1 if available < 4 => {
                ask(
                    &mut sessions,
                    map,
                    &format!("create_transaction('{account}', 'purchase', {amount}, '{source}')"),
                );
                balance += amount;
            }
            2 if may_be_asked => {
                let is_covered =
                    ask(&mut sessions, map, &format!("charge('{account}', {amount}, '{source}')"));
                assert_eq!(
                    is_covered,
                    available - amount >= -LIMIT,
                    "seed {seed}: {amount} of {available} charged"
                );
                balance -= if is_covered { amount } else { 0 };
            }
            3 if may_be_asked => {
                let is_covered =
                    ask(&mut sessions, map, &format!("create_hold('{account}', {amount}, '{source}')"));
                assert_eq!(
                    is_covered,
                    available - amount >= -LIMIT,
                    "seed {seed}: {amount} of {available} held"
                );
                held.extend(is_covered.then_some((source, amount)));
            }
            4 => {
                if let Some((source, amount)) = held.pop() {
                    assert!(
                        ask(&mut sessions, map, &format!("extend_hold('{source}', '1 day')")),
                        "seed {seed}"
                    );
                    let used = random.random_range(1..=amount);
                    ask(&mut sessions, map, &format!("capture_hold('{source}', {used})"));
                    balance -= used;
                }
            }
            _ => {
                if let Some((source, _)) = held.pop() {
                    // A hold that is not where it is asked for is not released there: ask again.
                    while !sessions[map.load(Ordering::Relaxed)]
                        .query_one("SELECT credits.release_hold($1)", &[&source])
                        .is_ok_and(|released| released.get(0))
                    {
                        thread::yield_now();
                    }
                }
            }
        }
        if (before > 0) != (balance > 0) {
            crossings.push(if balance > 0 { Direction::Up } else { Direction::Down });
        }
    }
    (balance, crossings)
}

/// Nothing is lost or doubled, whoever dies at whatever step: rows, holds, announcements, which come one after the other, and what is covered.
#[test]
fn accounts_move_to_and_fro_while_they_are_used() {
    const MOVES: usize = 12;
    let seed = credits_ledger_tests::seed();
    let (bucket, mut accounts) = accounts_of_a_bucket(6);
    let nodes = Nodes::create(&[bucket]);
    let databases = [&nodes.old, &nodes.new];
    let limited = accounts.pop().unwrap();
    nodes.old.connect().run(&format!(
        "INSERT INTO credits.spending_limits (user_id, overdraft_limit, thresholds) VALUES ('{limited}', {LIMIT}, '{{}}'), ('{}', 0, '{{-20,20}}')",
        accounts[0]
    ));
    let mut listeners = databases.map(Database::listen);
    let mut announced: Vec<(Uuid, Direction, String)> = Vec::new();
    let (map, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut random = StdRng::seed_from_u64(seed);
    let (recorded, spent): (Vec<Recorded>, _) = thread::scope(|scope| {
        let (accounts, map, stop) = (&accounts, &map, &stop);
        let clients: Vec<_> = (0..4)
            .map(|client| scope.spawn(move || use_accounts(databases, accounts, map, stop, (client, seed))))
            .collect();
        let limited = scope.spawn(move || spend_to_the_limit(databases, limited, map, stop, seed));
        for number in 0..MOVES {
            let (from, to) = (number % 2, (number + 1) % 2);
            loop {
                let mut death = Death { steps_to_live: random.random_range(0..14) };
                if go_on([databases[from], databases[to]], bucket, &mut death).is_some() {
                    break;
                }
            }
            map.store(to, Ordering::Relaxed);
            // All that is announced there until the bucket comes back, and before anything that is announced here.
            announced.extend(listeners[from].boundaries());
        }
        stop.store(true, Ordering::Relaxed);
        let recorded =
            clients.into_iter().map(|client| client.join().expect("the client does not fail")).collect();
        (recorded, limited.join().expect("what is covered is known"))
    });
    announced.extend(listeners.each_mut().into_iter().rev().flat_map(|listener| listener.boundaries()));
    let mut last = databases[MOVES % 2].connect();
    let directions = |account: Uuid, boundary: &str| -> Vec<Direction> {
        let of_account = announced.iter().filter(|(user, _, of)| *user == account && of == boundary);
        of_account.map(|(_, direction, _)| *direction).collect()
    };
    assert_eq!(
        spent,
        (last.value("SELECT credits.get_user_balance($1)::bigint", &[&limited]), directions(limited, "0")),
        "seed {seed}"
    );
    for (number, account) in accounts.iter().enumerate() {
        let balance: Decimal =
            recorded.iter().flatten().filter(|(of, _)| *of == number).map(|(_, amount)| *amount).sum();
        assert_eq!(last.balance(*account), balance, "seed {seed}");
        // By turns, beginning on the side of an account without rows, up to the side of now.
        for boundary in [-20, 0, 20] {
            let ways = directions(*account, &boundary.to_string());
            let mut is_above = boundary < 0;
            if boundary != 0 && number != 0 {
                assert_eq!(ways, []);
                continue;
            }
            for way in ways {
                assert_ne!(way == Direction::Up, is_above, "seed {seed}, boundary {boundary}: {announced:?}");
                is_above = !is_above;
            }
            assert_eq!(is_above, balance > boundary.into(), "seed {seed}, boundary {boundary}");
        }
    }
    let rows: i64 =
        last.value("SELECT count(*) FROM credits.credits_transactions WHERE user_id <> $1", &[&limited]);
    assert_eq!(usize::try_from(rows).ok(), Some(recorded.iter().map(Vec::len).sum()), "seed {seed}");
    assert_eq!(last.value::<i64>("SELECT count(*) FROM credits.holds", &[]), 0, "seed {seed}");
    last.assert_sound();
}
