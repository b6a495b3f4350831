//! What a mover may be told, or do, that is wrong: bad buckets, rows and handovers, steps out of order. Each is refused for what it is, and
//! nothing is left of it.

use credits_ledger_tests::nodes::{Nodes, accounts_of_a_bucket};
use credits_ledger_tests::{Refused, Session, Uuid, dec, seed, user};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::credit::everything;

/// Two nodes: the old one has an account of the bucket with all that an account can have, and what the new one is to be told lies there in
/// the table `good`.
fn nodes() -> (Nodes, i32, Uuid) {
    let (bucket, accounts) = accounts_of_a_bucket(1);
    let account = accounts[0];
    let mut nodes = Nodes::create(&[bucket]);
    let mut admin = nodes.old.connect();
    admin.grant(account, dec!(10));
    admin.charge(account, dec!(1));
    admin.run(&format!(
        "SELECT credits.create_hold('{account}', 2, 'held');
         INSERT INTO credits.spending_limits (user_id, overdraft_limit, thresholds) VALUES ('{account}', 3, '{{5}}');
         INSERT INTO credits.spend_caps (user_id, amount, period) VALUES ('{account}', 7, 'daily')"
    ));
    nodes.mover.expect(bucket);
    nodes.mover.old.run(&format!("SELECT credits.start_moving_bucket({bucket})"));
    let rows = nodes.mover.rows(bucket, None, None);
    nodes.mover.old.run(&format!("BEGIN; SELECT credits.hold_bucket({bucket})"));
    let handover: String = nodes.mover.old.value("SELECT credits.bucket_handover($1)::text", &[&bucket]);
    nodes.mover.old.run("ROLLBACK");
    nodes.mover.new.run("CREATE TABLE good (rows jsonb, handover jsonb)");
    nodes
        .mover
        .new
        .execute("INSERT INTO good VALUES ($1::text::jsonb, $2::text::jsonb)", &[&rows, &handover])
        .unwrap();
    (nodes, bucket, account)
}

/// The state of each bucket, and all that there is.
fn all(session: &mut Session) -> String {
    let states = session.value::<String>(
        "SELECT coalesce(string_agg(s::text, ',' ORDER BY bucket), '') FROM credits.bucket_states s",
        &[],
    );
    format!("{states} {}", everything(session))
}

/// Runs a statement that must be refused for this.
fn refused(session: &mut Session, sql: &str, sqlstate: &str) {
    assert!(session.try_run(sql).is_err(), "not refused: {sql}");
    session.try_run(sql).refused(sqlstate);
}

/// The steps of a move, on whichever node, with good arguments but for the bucket.
const STEPS: [&str; 13] = [
    "bucket_state(BUCKET)",
    "start_moving_bucket(BUCKET)",
    "stop_moving_bucket(BUCKET)",
    "hold_bucket(BUCKET)",
    "bucket_handover(BUCKET)",
    "give_away_bucket(BUCKET)",
    "expect_bucket(BUCKET, 'another')",
    "return_bucket(BUCKET)",
    "purge_bucket(BUCKET)",
    "bucket_digest(BUCKET)",
    "receive_transactions(BUCKET, '[]')",
    "begin_transfer(BUCKET)",
    "bucket_accounts(BUCKET)",
];

#[test]
fn a_bucket_that_is_none_is_refused() {
    let (mut nodes, ..) = nodes();
    for session in [&mut nodes.mover.old, &mut nodes.mover.new] {
        let before = all(session);
        for step in STEPS.into_iter().chain(["hold_stripes(BUCKET)", "holds_stripes(BUCKET)"]) {
            for (bucket, sqlstate) in [
                ("NULL", "22004"),
                ("-1", "22023"),
                ("1024", "22023"),
                ("2147483647", "22023"),
                ("-2147483648", "22023"),
                ("2147483648", "42883"),
            ] {
                session
                    .try_run(&format!("SELECT credits.{}", step.replace("BUCKET", bucket)))
                    .refused(sqlstate);
            }
        }
        assert_eq!(all(session), before);
    }
    let new = &mut nodes.mover.new;
    for call in ["receive_handover", "activate_bucket"] {
        for bucket in ["NULL", "-1", "1024", "(SELECT credits.bucket_of(gen_random_uuid()) + 1024)"] {
            new.try_run(&format!("SELECT credits.{call}({bucket}, handover) FROM good")).refused("22023");
        }
    }
    for missing in ["expect_bucket(1, NULL)", "receive_transactions(1, NULL)", "receive_handover(1, NULL)"] {
        new.try_run(&format!("SELECT credits.{missing}")).refused("22004");
    }
    let own = "SELECT credits.expect_bucket(1, credits.get_ledger())";
    new.try_run(own).refused("22023");
}

/// Each step in each state, and which are the right ones; whatever is refused leaves all as it was.
#[test]
fn a_step_out_of_order_is_refused() {
    let (mut nodes, bucket, _) = nodes();
    let (mut old, mut new) = (nodes.old.connect(), nodes.new.connect());
    nodes.mover.old.run(&format!("SELECT credits.stop_moving_bucket({bucket})"));
    nodes.mover.new.run(&format!("SELECT credits.return_bucket({bucket})"));
    let receive = ["receive_handover(BUCKET, handover)", "activate_bucket(BUCKET, handover)"];
    let of_new =
        |step: &str| format!("SELECT credits.{} FROM good", step.replace("BUCKET", &bucket.to_string()));
    let of_old = |step: &str| format!("SELECT credits.{}", step.replace("BUCKET", &bucket.to_string()));
    let take = |session: &mut Session, sql: &str, is_right: bool| {
        let before = all(session);
        session.run("BEGIN");
        let taken = session.try_run(sql);
        session.run("ROLLBACK");
        match is_right {
            true => taken.unwrap_or_else(|error| panic!("{sql}: {error:?}")),
            false => _ = taken.refused("55000"),
        }
        assert_eq!(all(session), before, "{sql}");
    };
    // What is right of the steps that change something: of start, stop, hold, handover, give away, expect, return, purge, receive.
    let right = |state: &str| -> [bool; 9] {
        match state {
            "here" => [true, true, false, false, false, false, false, false, false],
            "moving" => [true, true, true, false, false, false, false, false, false],
            "elsewhere" => [false, false, false, false, false, true, true, true, false],
            "arriving" => [false, false, false, false, false, true, true, false, true],
            _ => unreachable!("{state}"),
        }
    };
    let changing = [1, 2, 3, 4, 5, 6, 7, 8, 10].map(|step| STEPS[step]);
    for (state, is_old, set) in [
        ("here", true, ""),
        ("moving", true, "start_moving_bucket(BUCKET)"),
        ("elsewhere", false, ""),
        ("arriving", false, "expect_bucket(BUCKET, 'another')"),
    ] {
        let session = if is_old { &mut old } else { &mut new };
        if !set.is_empty() {
            session.run(&of_old(set));
        }
        assert_eq!(session.value::<String>("SELECT credits.bucket_state($1)", &[&bucket]), state);
        for (step, is_right) in changing.into_iter().zip(right(state)) {
            take(session, &of_old(step), is_right);
        }
        if !is_old {
            for step in receive {
                take(session, &of_new(step), false);
            }
        }
    }
    // From the ledger that it comes from, without its rows.
    new.run(&of_old("return_bucket(BUCKET)"));
    nodes.mover.expect(bucket);
    take(&mut new, &of_new(receive[0]), false);
    new.run(&of_new("receive_transactions(BUCKET, rows)"));
    take(&mut new, &of_new(receive[0]), true);
    // What has been received counts for this handover alone.
    take(&mut new, &of_new(receive[1]), false);
    new.run(&of_new("receive_handover(BUCKET, handover)"));
    take(&mut new, &of_new(receive[1]), true);
    take(&mut new, &of_new("activate_bucket(BUCKET, handover || '{\"position\": 3}')"), false);
    // What has been received is of this arrival.
    let ledger: String = old.value("SELECT credits.get_ledger()", &[]);
    let expect = |new: &mut Session, ledger: &str| {
        new.value::<Option<String>>("SELECT credits.expect_bucket($1, $2)::text", &[&bucket, &ledger])
    };
    new.run(&of_new("receive_transactions(BUCKET, '[]', '77')"));
    assert_eq!(expect(&mut new, &ledger), Some("77".to_owned()));
    take(&mut new, &of_new(receive[1]), true);
    for is_returned in [true, false] {
        if is_returned {
            new.run(&of_new("return_bucket(BUCKET)"));
        } else {
            assert_eq!(expect(&mut new, "another"), None);
            take(&mut new, &of_new(receive[0]), false);
        }
        assert_eq!(expect(&mut new, &ledger).is_some(), is_returned);
        take(&mut new, &of_new(receive[1]), false);
        new.run(&of_new("receive_handover(BUCKET, handover)"));
        take(&mut new, &of_new(receive[1]), true);
    }
    // A savepoint that is rolled back lets go of the bucket.
    old.run(&format!("BEGIN; SAVEPOINT held; SELECT credits.hold_bucket({bucket})"));
    assert!(old.value::<bool>("SELECT credits.holds_stripes($1)", &[&bucket]));
    assert!(!old.value::<bool>("SELECT credits.holds_stripes($1)", &[&((bucket + 1) % 1024)]));
    old.run("ROLLBACK TO held");
    assert!(!old.value::<bool>("SELECT credits.holds_stripes($1)", &[&bucket]));
    old.try_run(&of_old("give_away_bucket(BUCKET)")).refused("55000");
    old.run("ROLLBACK");
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        old.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
        old.try_run(&of_old("hold_bucket(BUCKET)")).refused("55000");
        old.run("ROLLBACK");
    }
    old.run("BEGIN; SELECT pg_current_xact_id()");
    old.try_run(&of_old("hold_bucket(BUCKET)")).refused("55000");
    old.run("ROLLBACK");
    old.assert_sound();
}

/// Rows of which one is bad: what it becomes by a patch of one of its columns.
const NO_ROWS: [(&str, &str); 27] = [
    (r#"{"amount": "NaN"}"#, "23514"),
    (r#"{"amount": "Infinity"}"#, "23514"),
    (r#"{"amount": 0}"#, "23514"),
    (r#"{"amount": -1}"#, "23514"),
    (r#"{"amount": 1e-16}"#, "23514"),
    (r#"{"amount": 1e100000}"#, "23514"),
    (r#"{"amount": null}"#, "23502"),
    (r#"{"amount": {}}"#, "22P02"),
    (r#"{"transaction_type": "refund"}"#, "23514"),
    (r#"{"transaction_type": ["usage"]}"#, "23514"),
    (r#"{"transaction_type": null}"#, "23502"),
    (r#"{"seq": null}"#, "23502"),
    (r#"{"seq": 9223372036854775808}"#, "22003"),
    (r#"{"seq": 1.5}"#, "22P02"),
    (r#"{"id": null}"#, "23502"),
    (r#"{"id": "1"}"#, "22P02"),
    (r#"{"source_id": null}"#, "23502"),
    (r#"{"created_at": "soon"}"#, "22007"),
    (r#"{"created_at": null}"#, "23502"),
    (r#"{"created_at": "294277-01-01"}"#, "22008"),
    (r#"{"created_at": "soon or late"}"#, "22007"),
    (r#"{"metadata": [1]}"#, "23514"),
    (r#"{"reverses": "1"}"#, "22P02"),
    (r#"{"api_key_id": [1]}"#, "22P02"),
    (r#"{"user_id": 1}"#, "22P02"),
    (r#"{"user_id": null}"#, "22023"),
    (r#"{"user_id": "10000000-0000-4000-8000-000000000002"}"#, "22023"),
];

#[test]
fn rows_that_are_none_are_refused() {
    let (mut nodes, bucket, _) = nodes();
    let new = &mut nodes.mover.new;
    assert_ne!(new.value::<i32>("SELECT credits.bucket_of($1)", &[&user(2)]), bucket);
    let before = all(new);
    let receive = |rows: &str| format!("SELECT credits.receive_transactions({bucket}, {rows}) FROM good");
    // The good one comes first, and has gone with the bad one.
    for (patch, sqlstate) in NO_ROWS {
        refused(new, &receive(&format!("jsonb_build_array(rows -> 0, (rows -> 1) || '{patch}')")), sqlstate);
    }
    for (rows, sqlstate) in [
        ("'{}'", "22023"),
        ("'null'", "22023"),
        ("'\"[]\"'", "22023"),
        ("'[1]'", "22023"),
        ("'[null]'", "22023"),
        ("'[[]]'", "22023"),
        ("'[{}]'", "22023"),
        ("jsonb_build_array(rows)", "22023"),
        ("'['", "22P02"),
        (r#"'[{"source_id": "\u0000"}]'"#, "22P05"),
        (r#"'[{"source_id": "\ud800"}]'"#, "22P02"),
        ("rows || (rows -> 0 || jsonb_build_object('id', gen_random_uuid()))", "23505"),
        (
            "(SELECT jsonb_agg((g.rows -> 0) || jsonb_build_object('id', gen_random_uuid(), 'source_id', n, 'seq', 5000 + n, 'amount', 2 - n / 5000)) FROM good g, generate_series(1, 10000) n)",
            "23514",
        ),
    ] {
        refused(new, &receive(rows), sqlstate);
    }
    assert_eq!(all(new), before);
    // What is there by its id is not read again, however often it comes.
    let count = |new: &mut Session, rows: &str| new.value::<i64>(&receive(rows), &[]);
    assert_eq!(count(new, "rows || rows || jsonb_build_array((rows -> 0) || '{\"amount\": 5}')"), 2);
    assert_eq!(count(new, "(SELECT jsonb_agg(g.rows -> 1) FROM good g, generate_series(1, 10000))"), 0);
    assert_eq!(
        new.value::<String>(
            "SELECT string_agg(trim_scale(amount)::text, ' ' ORDER BY seq) FROM credits.credits_transactions",
            &[]
        ),
        "10 1"
    );
    // The stamp is the new node's own, whatever was said.
    let many = "(SELECT jsonb_agg((g.rows -> 1) || jsonb_build_object('id', gen_random_uuid(), 'source_id', n, 'seq', 5000 + n, 'xact_id', 5)) FROM good g, generate_series(1, 10000) n)";
    assert_eq!(count(new, many), 10_000);
    assert_eq!(
        new.value::<i64>("SELECT count(*) FROM credits.credits_transactions WHERE xact_id < '6'", &[]),
        0
    );
    let rest = format!("SELECT count(*) FROM credits.balances WHERE credits.bucket_of(user_id) = {bucket}");
    assert_eq!(new.value::<i64>(&rest, &[]), 0, "the account is not here yet");
    // It has more than the handover says.
    new.try_run(&format!("SELECT credits.receive_handover({bucket}, handover) FROM good")).refused("55000");
}

/// Where a handover is spoilt, with what, and what is said of it: when it is received, and when one that was received has become this one.
/// `None`: it is taken, since nothing that counts is wrong.
const NO_HANDOVERS: [(&str, &str, Option<&str>, Option<&str>); 51] = [
    ("ledger", "null", Some("22023"), Some("22023")),
    ("ledger", "\"another\"", Some("55000"), Some("55000")),
    ("ledger", "{}", Some("55000"), Some("55000")),
    ("seq", "null", Some("22023"), Some("22023")),
    ("seq", "-1", Some("22023"), Some("22023")),
    ("seq", "\"first\"", Some("22023"), Some("22023")),
    ("seq", "9223372036854775808", None, Some("22003")),
    ("seq", "4611686018427387904", None, Some("23514")),
    ("position", "null", Some("22023"), Some("22023")),
    ("position", "\"x\"", Some("22023"), Some("22023")),
    ("position", "-1", Some("22023"), Some("22023")),
    ("position", "1.5", Some("22023"), Some("22023")),
    ("position", "100000000000000000000", Some("22023"), Some("22023")),
    ("position", "[]", Some("22023"), Some("22023")),
    ("position", "3", None, Some("55000")),
    ("accounts", "null", Some("22023"), Some("22023")),
    ("accounts", "{}", Some("22023"), Some("22023")),
    ("accounts", "[1]", Some("22023"), Some("22023")),
    ("holds", "\"none\"", Some("22023"), Some("22023")),
    ("limits", "7", Some("22023"), Some("22023")),
    ("caps", "[[]]", Some("22023"), Some("22023")),
    ("accounts,0,user_id", "\"1\"", Some("22P02"), Some("22P02")),
    ("accounts,0,user_id", "null", Some("22023"), Some("22023")),
    ("holds,0,user_id", "\"10000000-0000-4000-8000-000000000002\"", Some("22023"), Some("22023")),
    ("accounts,0,balance", "null", Some("55000"), Some("55000")),
    ("accounts,0,balance", "\"NaN\"", Some("55000"), Some("55000")),
    ("accounts,0,balance", "10", Some("55000"), Some("55000")),
    ("accounts,0,balance", "1e1000", Some("55000"), Some("55000")),
    ("accounts,0,balance", "\"all\"", Some("22P02"), Some("22P02")),
    ("accounts,0,is_positive", "null", None, Some("23502")),
    ("accounts,0,is_positive", "\"perhaps\"", None, Some("22P02")),
    ("accounts,0,thresholds", "[\"NaN\"]", None, Some("XX001")),
    ("accounts,0,thresholds", "[null]", None, Some("XX001")),
    ("accounts,0,thresholds", "[6, 5]", None, Some("XX001")),
    ("accounts,0,thresholds", "[1e200]", None, Some("XX001")),
    ("accounts,0,thresholds_below", "9", None, Some("XX001")),
    ("accounts,0,thresholds_crossed_at", "[]", None, Some("XX001")),
    ("accounts,0,cap_ids", "[null]", None, Some("XX001")),
    ("accounts,0,caps_reached_until", "null", None, Some("XX001")),
    ("holds,0,amount", "\"NaN\"", Some("23514"), Some("23514")),
    ("holds,0,amount", "1e40", Some("23514"), Some("23514")),
    ("holds,0,source_id", "\" \"", Some("23514"), Some("23514")),
    ("holds,0,source_id", "null", Some("23502"), Some("23502")),
    ("holds,0,expires_at", "null", Some("23502"), Some("23502")),
    ("holds,0,metadata", "[1]", Some("23514"), Some("23514")),
    ("limits,0,overdraft_limit", "\"NaN\"", Some("23514"), Some("23514")),
    ("limits,0,thresholds", "[1, 1]", Some("23514"), Some("23514")),
    ("limits,0,thresholds", "[[5]]", Some("23514"), Some("23514")),
    ("caps,0,amount", "0", Some("23514"), Some("23514")),
    ("caps,0,period", "\"hourly\"", Some("23514"), Some("23514")),
    ("caps,0,id", "null", Some("23502"), Some("23502")),
];

#[test]
fn handovers_that_are_none_are_refused() {
    let (mut nodes, bucket, _) = nodes();
    let new = &mut nodes.mover.new;
    new.run(&format!("SELECT credits.receive_transactions({bucket}, rows) FROM good"));
    let spoilt = |path: &str, value: &str| format!("jsonb_set(handover, '{{{path}}}', '{value}')");
    let double = |of: &str| {
        format!("jsonb_set(handover, '{{{of}}}', (handover -> '{of}') || (handover -> '{of}' -> 0))")
    };
    let many_caps = "jsonb_set(handover, '{caps}', (SELECT jsonb_agg((g.handover -> 'caps' -> 0) || jsonb_build_object('id', gen_random_uuid())) FROM good g, generate_series(1, 17)))";
    let doubled = [
        (double("accounts"), None, Some("21000")),
        // Once it is there, it is not made again.
        (double("holds"), Some("23505"), None),
        // Another one with the account, or with the id.
        (
            double("limits").replace("-> 0)", "-> 0 || '{\"overdraft_limit\": 9}')"),
            Some("23505"),
            Some("23505"),
        ),
        (double("caps").replace("-> 0)", "-> 0 || '{\"amount\": 9}')"), Some("23505"), Some("23505")),
        (many_caps.to_owned(), Some("54000"), Some("54000")),
        ("'[]'".to_owned(), Some("22023"), Some("22023")),
        ("'1'".to_owned(), Some("22023"), Some("22023")),
        ("handover - 'caps'".to_owned(), Some("22023"), Some("22023")),
    ];
    let of_a_path = NO_HANDOVERS.map(|(path, value, received, taken)| (spoilt(path, value), received, taken));
    for (step, is_second) in [("receive_handover", false), ("activate_bucket", true)] {
        if is_second {
            new.run(&format!("SELECT credits.receive_handover({bucket}, handover) FROM good"));
        }
        let before = all(new);
        for (handover, at_first, at_second) in of_a_path.iter().chain(&doubled) {
            let expected = if is_second { at_second } else { at_first };
            let call = format!("BEGIN; SELECT credits.{step}({bucket}, {handover}) FROM good");
            // What the commit finds is refused by it.
            let told = new.try_run(&call).and_then(|()| match expected {
                None => new.try_run("ROLLBACK"),
                Some(_) => new.try_run("COMMIT"),
            });
            match expected {
                Some(sqlstate) => _ = told.refused(sqlstate),
                None => told.unwrap_or_else(|error| panic!("{call}: {error:?}")),
            }
            new.run("ROLLBACK");
            assert_eq!(all(new), before, "{call}");
        }
    }
    assert!(new.value::<bool>(&format!("SELECT credits.activate_bucket({bucket}, handover) FROM good"), &[]));
    assert_eq!(new.balance(user(1)), dec!(9));
    new.assert_sound();
}

/// What a mover that has lost its way may do in any order. Not among them: to purge, which is for who knows that the bucket is elsewhere, and the parts
/// of these steps.
const AT_OLD: [&str; 8] = [
    "SELECT credits.start_moving_bucket(BUCKET)",
    "SELECT credits.stop_moving_bucket(BUCKET)",
    "SELECT credits.hold_bucket(BUCKET)",
    "SELECT credits.bucket_handover(BUCKET)",
    "SELECT credits.give_away_bucket(BUCKET)",
    "SELECT credits.give_away_bucket(BUCKET, NULL, credits.bucket_accounts(BUCKET), '0')",
    "SELECT credits.bucket_accounts(BUCKET)",
    "SELECT * FROM credits.bucket_digest(BUCKET)",
];

const AT_NEW: [&str; 7] = [
    "SELECT credits.expect_bucket(BUCKET, LEDGER)",
    "SELECT credits.receive_transactions(BUCKET, ROWS)",
    "SELECT credits.receive_transactions(BUCKET, ROWS -> 0)",
    "SELECT credits.receive_handover(BUCKET, HANDOVER)",
    "SELECT credits.activate_bucket(BUCKET, HANDOVER)",
    "SELECT credits.return_bucket(BUCKET)",
    "SELECT * FROM credits.bucket_digest(BUCKET)",
];

/// Ends the transactions, and moves the bucket properly, wherever it is.
fn finish(nodes: &mut Nodes, bucket: i32) {
    let mover = &mut nodes.mover;
    mover.old.run("ROLLBACK");
    mover.new.run("ROLLBACK");
    match mover.state(bucket).each_ref().map(String::as_str) {
        ["elsewhere", "here"] => {}
        ["elsewhere", _] => {
            // As the old node has it: the rest is copied once more.
            let handover: String = mover.old.value("SELECT credits.bucket_handover($1)::text", &[&bucket]);
            let from = mover.expect(bucket);
            mover.copy(bucket, from.as_deref());
            let rest = mover.rows(bucket, None, None);
            let receive = "SELECT credits.receive_transactions($1, $2::text::jsonb)";
            mover.new.value::<i64>(receive, &[&bucket, &rest]);
            mover.new.run(&format!("SELECT credits.receive_handover({bucket}, '{handover}')"));
            assert!(mover.activate(bucket, &handover));
        }
        [_, "here"] => panic!("both nodes have the bucket"),
        _ => mover.move_bucket(bucket),
    }
}

#[test]
fn a_mover_that_has_lost_its_way_loses_nothing_else() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    for round in 0..6 {
        let (mut nodes, bucket, account) = nodes();
        let mut judge = nodes.old.connect();
        let ledger: String = nodes.mover.old.value("SELECT credits.get_ledger()", &[]);
        let good: [String; 2] = ["rows", "handover"]
            .map(|column| nodes.mover.new.value(&format!("SELECT {column}::text FROM good"), &[]));
        let [mut rows, mut handover] = good;
        let mut client = nodes.old.connect();
        let mut charged = dec!(0);
        // Commits wait while the bucket is held, and steps of one session for those of another.
        for session in [&mut client, &mut nodes.mover.old, &mut nodes.mover.new] {
            session.run("SET lock_timeout = '20ms'");
        }
        for step in 0..80 {
            let is_old = random.random::<bool>();
            let steps: &[&str] = if is_old { &AT_OLD } else { &AT_NEW };
            let spoils = random.random_bool(0.1);
            let statement = match random.random_range(0..10) {
                0 => "BEGIN",
                1 => "COMMIT",
                2 => "ROLLBACK",
                _ => steps.choose(&mut random).unwrap(),
            };
            // Only the mover knows that the old node has given the bucket away, and with what.
            if statement.contains("activate_bucket") {
                if judge.value::<String>("SELECT credits.bucket_state($1)", &[&bucket]) != "elsewhere" {
                    continue;
                }
                handover = judge.value("SELECT credits.bucket_handover($1)::text", &[&bucket]);
            }
            let statement = statement
                .replace("BUCKET", if spoils { "1024" } else { "BUCKET" })
                .replace("BUCKET", &bucket.to_string())
                .replace(
                    "LEDGER",
                    &format!("'{}'", if random.random_bool(0.1) { "another" } else { &ledger }),
                )
                .replace("ROWS", &format!("'{rows}'::jsonb"))
                .replace("HANDOVER", &format!("'{handover}'"));
            let what = format!("seed {seed}, round {round}, step {step}: {statement}");
            let session = if is_old { &mut nodes.mover.old } else { &mut nodes.mover.new };
            if let Err(error) = session.try_run(&statement) {
                let code = error.code().unwrap_or_else(|| panic!("{what}: no answer: {error:?}")).code();
                // Out of order, of accounts that are elsewhere, malformed, held by another, after an error in a transaction, beside the transaction block.
                let expected = ["55000", "LC003", "22023", "55P03", "25P02", "25001", "25P01"];
                assert!(expected.contains(&code), "{what}: {error:?}");
            } else if is_old && random.random_bool(0.5) {
                // The mover learns what there is now, as far as it is told.
                if let Ok(told) = session.query_one("SELECT credits.bucket_handover($1)::text", &[&bucket]) {
                    handover = told.get(0);
                    rows = nodes.mover.rows(bucket, None, None);
                } else {
                    session.run("ROLLBACK");
                }
            }
            if random.random_bool(0.2) {
                let charge = client.try_run(&format!(
                    "SELECT credits.create_transaction('{account}', 'usage', 1, 'charge {step}')"
                ));
                match charge.as_ref().map_err(|error| error.code().map_or("", |code| code.code()).to_owned())
                {
                    Ok(()) => charged += dec!(1),
                    Err(code) => assert!(["LC003", "55P03"].contains(&code.as_str()), "{what}: {charge:?}"),
                }
            }
        }
        for session in [&mut nodes.mover.old, &mut nodes.mover.new] {
            session.run("ROLLBACK; RESET lock_timeout");
        }
        finish(&mut nodes, bucket);
        let mut at_new = nodes.new.connect();
        assert_eq!(at_new.balance(account), dec!(9) - charged, "seed {seed}, round {round}");
        let kept = "SELECT (SELECT count(*) FROM credits.holds) || ' ' || (SELECT sum(overdraft_limit) FROM credits.spending_limits) || ' ' || (SELECT sum(amount) FROM credits.spend_caps)";
        assert_eq!(at_new.value::<String>(kept, &[]), "1 3 7", "seed {seed}, round {round}");
        at_new.assert_sound();
        client.assert_sound();
    }
}
