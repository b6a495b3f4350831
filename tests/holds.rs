//! Holding credits: what each function does, and what it refuses.

use credits_ledger_tests::{Database, Refused, Session, dec, user};
use postgres::Error;

/// What a call for user 1 returns, as text.
fn call(session: &mut Session, function: &str) -> Result<String, Error> {
    let sql = format!("SELECT r::text FROM credits.{} r", function.replace("USER", &user(1).to_string()));
    session.query_one(&sql, &[]).map(|row| row.get(0))
}

fn hold(session: &mut Session, amount: &str, source_id: &str) -> Result<String, Error> {
    call(session, &format!("create_hold('USER', {amount}, '{source_id}')"))
}

/// Has a hold expire, as its owner would by hand.
fn expire(session: &mut Session, source_id: &str) {
    session.run(&format!(
        "UPDATE credits.holds SET expires_at = clock_timestamp() - interval '1 second' WHERE source_id = '{source_id}'"
    ));
}

fn holds(session: &mut Session) -> Vec<String> {
    session.values("SELECT source_id || ' ' || amount FROM credits.holds ORDER BY source_id", &[])
}

fn usage(session: &mut Session) -> Vec<String> {
    session.values(
        "SELECT source_id || ' ' || amount FROM credits.credits_transactions WHERE transaction_type = 'usage' ORDER BY seq",
        &[],
    )
}

#[test]
fn a_hold_is_stored_as_it_was_asked_for() {
    let (_db, mut session) = Database::create_with(dec!(10));
    let text: String = session.value(
        "SELECT format('%s %s %s %s %s %s %s %s', h.source_id, h.user_id, h.amount, h.description, h.fusillade_batch_id,
                       h.api_key_id, h.category, h.metadata)
         FROM credits.create_hold(user_id => $1, amount => 2.50, source_id => 'a', expires_in => '2 days', description => 'chat',
              fusillade_batch_id => $2, api_key_id => $3, category => 'model', metadata => '{\"a\": 1}') h",
        &[&user(1), &user(2), &user(3)],
    );
    assert_eq!(text, format!("a {} 2.50 chat {} {} model {{\"a\": 1}}", user(1), user(2), user(3)));
    let exact: bool = session.value("SELECT expires_at - created_at = '48 hours' FROM credits.holds", &[]);
    assert!(exact);
    // It does not change the balance.
    assert_eq!(session.balance(user(1)), dec!(10));
}

/// What a refusal says for programs.
fn detail(asked: &str, available: &str, limit: &str) -> String {
    format!(
        r#"{{"user_id":"{}","asked":"{asked}","available":"{available}","overdraft_limit":"{limit}"}}"#,
        user(1)
    )
}

#[test]
fn what_is_held_cannot_be_held_again() {
    let (_db, mut session) = Database::create_with(dec!(10));
    hold(&mut session, "7", "a").unwrap();
    let refusal = hold(&mut session, "3.000000000000001", "b").refused("LC001");
    let message = refusal.message();
    assert_eq!(
        message,
        format!("user {} has insufficient credits: 3.000000000000001 asked for, 3 available", user(1))
    );
    assert!(refusal.hint().is_some());
    assert_eq!(refusal.detail(), Some(detail("3.000000000000001", "3", "0").as_str()));
    hold(&mut session, "3", "b").unwrap();
    hold(&mut session, "0.000000000000001", "c").refused("LC001");
    assert_eq!(holds(&mut session), ["a 7", "b 3"]);
    call(&mut session, "charge('USER', 0.5, 'd')").refused("LC001");
    call(&mut session, "release_hold('b')").unwrap();
    call(&mut session, "charge('USER', 3, 'd')").unwrap();
    assert_eq!(session.balance(user(1)), dec!(7));
}

#[test]
fn a_limit_says_how_far_below_zero() {
    let (_db, mut session) = Database::create_with(dec!(10));
    session.run(&format!(
        "INSERT INTO credits.spending_limits (user_id, overdraft_limit) VALUES ('{}', 5), ('{}', NULL)",
        user(1),
        user(2)
    ));
    hold(&mut session, "14", "a").unwrap();
    let refusal = hold(&mut session, "2", "b").refused("LC001");
    assert!(
        refusal.message().ends_with("2 asked for, -4 available, overdraft limit 5"),
        "{}",
        refusal.message()
    );
    assert_eq!(refusal.detail(), Some(detail("2", "-4", "5").as_str()));
    let refusal = call(&mut session, "charge('USER', 1.50, 'b')").refused("LC001");
    assert_eq!(refusal.detail(), Some(detail("1.5", "-4", "5").as_str()));
    call(&mut session, "charge('USER', 1, 'b')").unwrap();
    session.run(&format!("SELECT credits.create_hold('{}', 1000000, 'c')", user(2)));
}

#[test]
fn a_retry_returns_the_hold() {
    let (_db, mut session) = Database::create_with(dec!(10));
    let first = hold(&mut session, "7", "a").unwrap();
    assert_eq!(hold(&mut session, "7.00", "a").unwrap(), first);
    session.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    assert_eq!(hold(&mut session, "7", "a").unwrap(), first);
    session.run("COMMIT");
    let refusal = hold(&mut session, "6", "a").refused("23505");
    assert!(
        refusal.message().contains("asked for 6 for user")
            && refusal.message().contains("stored is 7 for user")
    );
    session.try_run(&format!("SELECT credits.create_hold('{}', 7, 'a')", user(2))).refused("23505");
}

#[test]
fn an_expired_hold_gives_way_to_one_of_the_same_user() {
    let (_db, mut session) = Database::create_with(dec!(10));
    let first = hold(&mut session, "7", "a").unwrap();
    expire(&mut session, "a");
    session.grant(user(2), dec!(10));
    session.try_run(&format!("SELECT credits.create_hold('{}', 7, 'a')", user(2))).refused("23505");
    assert_ne!(hold(&mut session, "9", "a").unwrap(), first);
    assert_eq!(holds(&mut session), ["a 9"]);
    hold(&mut session, "2", "b").refused("LC001");
}

/// What has come in place of the expired hold, between the look at it and its deletion, is not deleted: another account's, or one that
/// is open.
#[test]
fn what_has_replaced_an_expired_hold_does_not_give_way() {
    let of_another = format!(
        "DELETE FROM credits.holds;
         INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('a', '{}', 5, 'yesterday')",
        user(2)
    );
    replace_while_it_gives_way(&of_another, "a 5");
    replace_while_it_gives_way("UPDATE credits.holds SET expires_at = 'tomorrow'", "a 7");
}

/// Has an expired hold replaced while it is looked at by who is about to hold in its place.
fn replace_while_it_gives_way(change: &str, left: &str) {
    let (db, mut owner) = Database::create_with(dec!(10));
    let role = db.create_role("holder");
    hold(&mut owner, "7", "a").unwrap();
    expire(&mut owner, "a");
    // Whoever looks at an expired hold waits.
    owner.run(&format!(
        "CREATE FUNCTION public.wait() RETURNS boolean LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN true; END $$;
         ALTER TABLE credits.holds ENABLE ROW LEVEL SECURITY;
         CREATE POLICY adds ON credits.holds FOR INSERT WITH CHECK (true);
         CREATE POLICY waits ON credits.holds FOR SELECT USING (expires_at > clock_timestamp() OR public.wait());
         GRANT USAGE ON SCHEMA credits TO {role}; GRANT INSERT, SELECT ON credits.holds TO {role};
         GRANT EXECUTE ON FUNCTION credits.create_hold TO {role}"
    ));
    owner.run("BEGIN; SELECT pg_advisory_xact_lock(1)");
    let holding = db.connect_as(&role).background(|session| hold(session, "3", "a"));
    db.until_blocked(holding.pid());
    owner.run(&format!("{change}; COMMIT"));
    holding.finish().1.refused("23505");
    assert_eq!(holds(&mut owner), [left]);
}

/// Needed to hold: INSERT, and SELECT for what is returned.
#[test]
fn whoever_may_insert_holds_in_place_of_an_expired_one() {
    let (db, mut owner) = Database::create_with(dec!(10));
    let role = db.create_role("holder");
    owner.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT INSERT, SELECT ON credits.holds TO {role};
         GRANT EXECUTE ON FUNCTION credits.create_hold TO {role}"
    ));
    let mut session = db.connect_as(&role);
    hold(&mut session, "7", "a").unwrap();
    expire(&mut owner, "a");
    hold(&mut session, "8", "a").unwrap();
    hold(&mut session, "3", "b").refused("LC001");
    assert_eq!(holds(&mut owner), ["a 8"]);
}

/// A refusal names what is available: only to whoever could have read it.
#[test]
fn whoever_may_not_hold_or_charge_is_not_told_what_is_available() {
    let (db, mut owner) = Database::create_with(dec!(10));
    let role = db.create_role("writes_only");
    owner.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT INSERT ON credits.holds, credits.credits_transactions TO {role};
         GRANT EXECUTE ON FUNCTION credits.create_hold, credits.charge TO {role}"
    ));
    let mut session = db.connect_as(&role);
    for amount in ["3", "300"] {
        hold(&mut session, amount, "a").refused("42501");
        call(&mut session, &format!("charge('USER', {amount}, 'b')")).refused("42501");
    }
    assert_eq!(owner.balance(user(1)), dec!(10));
}

#[test]
fn a_hold_is_captured() {
    let (_db, mut session) = Database::create_with(dec!(10));
    call(
        &mut session,
        "create_hold('USER', 2, 'a', '1 hour', 'chat', 'USER', 'USER', 'model', '{\"k\": 1}')",
    )
    .unwrap();
    call(&mut session, "capture_hold('a', 1.25)").unwrap();
    let same: bool = session.value(
        "SELECT (user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id, category, metadata)
              = ($1::uuid, 'usage', 1.25, 'a', 'chat', $1, $1, 'model', '{\"k\": 1}'::jsonb)
         FROM credits.credits_transactions WHERE source_id = 'a'",
        &[&user(1)],
    );
    assert!(same);
    assert_eq!(holds(&mut session), [""; 0]);
    hold(&mut session, "8", "b").unwrap();
    call(&mut session, "capture_hold('b')").unwrap();
    assert_eq!(session.balance(user(1)), dec!(0.75));
}

#[test]
fn a_capture_is_never_refused_for_lack_of_credits() {
    let (_db, mut session) = Database::create_with(dec!(10));
    hold(&mut session, "2", "a").unwrap();
    hold(&mut session, "3", "b").unwrap();
    call(&mut session, "capture_hold('a', 100)").unwrap();
    assert_eq!(session.balance(user(1)), dec!(-90));
    expire(&mut session, "b");
    call(&mut session, "capture_hold('b')").unwrap();
    assert_eq!(session.balance(user(1)), dec!(-93));
}

#[test]
fn a_captured_hold_is_captured_once() {
    let (_db, mut session) = Database::create_with(dec!(10));
    hold(&mut session, "2", "a").unwrap();
    let first = call(&mut session, "capture_hold('a', 1)").unwrap();
    assert_eq!(call(&mut session, "capture_hold('a', 1.0)").unwrap(), first);
    assert_eq!(call(&mut session, "capture_hold('a')").unwrap(), first);
    call(&mut session, "capture_hold('a', 2)").refused("23505");
    let refusal = hold(&mut session, "2", "a").refused("23505");
    assert!(refusal.message().contains("captured already"), "{}", refusal.message());
    call(&mut session, "capture_hold('b')").refused("P0002");
    call(&mut session, "extend_hold('a', '1 hour')").refused("P0002");
    assert_eq!(call(&mut session, "release_hold('a')").unwrap(), "false");
    assert_eq!(usage(&mut session), ["a 1"]);
}

/// Somebody has recorded the usage without capturing the hold.
#[test]
fn a_hold_whose_usage_is_there_already_is_released() {
    let (_db, mut session) = Database::create_with(dec!(10));
    let insert =
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id) VALUES";
    for (source_id, amount) in [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")] {
        hold(&mut session, amount, source_id).unwrap();
    }
    let [one, two] = [user(1), user(2)];
    session.run(&format!(
        "{insert} ('{one}', 'usage', 1, 'a'), ('{one}', 'usage', 2, 'b'), ('{one}', 'purchase', 1, 'c'), ('{two}', 'usage', 1, 'd')"
    ));
    call(&mut session, "capture_hold('a', 1)").unwrap();
    call(&mut session, "capture_hold('b', 1)").refused("23505");
    assert_eq!(holds(&mut session), ["b 1", "c 1", "d 1"]);
    call(&mut session, "capture_hold('b')").unwrap();
    call(&mut session, "capture_hold('c')").refused("23505");
    call(&mut session, "capture_hold('d')").refused("23505");
    assert_eq!(holds(&mut session), ["c 1", "d 1"]);
    assert_eq!(usage(&mut session), ["a 1", "b 2", "d 1"]);
}

#[test]
fn a_charge_does_not_take_the_source_id_of_an_open_hold() {
    let (_db, mut session) = Database::create_with(dec!(10));
    hold(&mut session, "2", "a").unwrap();
    call(&mut session, "charge('USER', 2, 'a')").refused("23505");
    assert_eq!(usage(&mut session), [""; 0]);
    expire(&mut session, "a");
    let charged = call(&mut session, "charge('USER', 2, 'a')").unwrap();
    assert_eq!(call(&mut session, "charge('USER', 2, 'a')").unwrap(), charged);
    assert_eq!(call(&mut session, "capture_hold('a')").unwrap(), charged);
    assert_eq!(holds(&mut session), [""; 0]);
    assert_eq!(session.balance(user(1)), dec!(8));
}

#[test]
fn a_charge_is_retried_as_a_transaction_is() {
    let (_db, mut session) = Database::create_with(dec!(10));
    let charged = call(
        &mut session,
        "charge(user_id => 'USER', amount => 7, source_id => 'a', description => 'chat', fusillade_batch_id => 'USER',
                api_key_id => 'USER', category => 'model', metadata => '{}')",
    )
    .unwrap();
    assert_eq!(call(&mut session, "charge('USER', 7.0, 'a')").unwrap(), charged);
    call(&mut session, "charge('USER', 1, 'a')").refused("23505");
    // Not covered, and yet another content of what is there: that is what the client has to know.
    call(&mut session, "charge('USER', 70, 'a')").refused("23505");
    call(&mut session, "charge('USER', 70, 'b')").refused("LC001");
    // Not covered because of the hold that is to be captured.
    hold(&mut session, "3", "c").unwrap();
    call(&mut session, "charge('USER', 3, 'c')").refused("23505");
    let stored: String = session.value(
        "SELECT category || metadata::text || description FROM credits.credits_transactions WHERE source_id = 'a'",
        &[],
    );
    assert_eq!(stored, "model{}chat");
}

#[test]
fn an_open_hold_is_extended_whatever_is_available() {
    let (_db, mut session) = Database::create_with(dec!(10));
    hold(&mut session, "7", "a").unwrap();
    session.charge(user(1), dec!(50));
    let made: String = session.value("SELECT created_at::text FROM credits.holds", &[]);
    call(&mut session, "extend_hold('a', '30 days')").unwrap();
    let (left, kept): (bool, String) = {
        let row = session
            .query_one(
                "SELECT expires_at BETWEEN now() + '29 days' AND clock_timestamp() + '30 days', created_at::text FROM credits.holds",
                &[],
            )
            .unwrap();
        (row.get(0), row.get(1))
    };
    assert!(left);
    assert_eq!(kept, made);
    // It may also be made shorter.
    call(&mut session, "extend_hold('a', '1 second')").unwrap();
}

#[test]
fn an_expired_hold_is_held_anew() {
    let (_db, mut session) = Database::create_with(dec!(10));
    hold(&mut session, "7", "a").unwrap();
    expire(&mut session, "a");
    let made: String = session.value("SELECT created_at::text FROM credits.holds", &[]);
    hold(&mut session, "4", "b").unwrap();
    call(&mut session, "extend_hold('a', '1 hour')").refused("LC001");
    assert_eq!(call(&mut session, "release_hold('b')").unwrap(), "true");
    let anew = call(&mut session, "extend_hold('a', '1 hour')").unwrap();
    assert_eq!(session.value::<String>("SELECT h::text FROM credits.holds h", &[]), anew);
    assert!(session.value::<bool>(&format!("SELECT created_at > '{made}' FROM credits.holds"), &[]));
    // As of one that is made: it is open for as long as was asked.
    assert!(
        session.value::<bool>("SELECT expires_at - created_at = interval '1 hour' FROM credits.holds", &[])
    );
    hold(&mut session, "4", "b").refused("LC001");
    call(&mut session, "capture_hold('a')").unwrap();
    // Refused by the call, as one of a new source_id is: the commit has not been asked yet.
    hold(&mut session, "1", "c").unwrap();
    expire(&mut session, "c");
    session.run("BEGIN");
    hold(&mut session, "4", "c").refused("LC001");
    session.run("ROLLBACK");
}

#[test]
fn arguments_are_checked() {
    let (_db, mut session) = Database::create_with(dec!(10));
    let refusals = [
        ("create_hold(NULL, 1, 'a')", "22004"),
        ("create_hold('USER', NULL, 'a')", "22004"),
        ("create_hold('USER', 1, NULL)", "22004"),
        ("create_hold('USER', 1, 'a', NULL)", "22004"),
        ("create_hold('USER', 0, 'a')", "23514"),
        ("create_hold('USER', 'NaN', 'a')", "23514"),
        ("create_hold('USER', 1e-16, 'a')", "23514"),
        // Before a lack of credits.
        ("create_hold('USER', 1000, ' ')", "23514"),
        ("charge('USER', 1000, ' ')", "23514"),
        ("create_hold('USER', 1, 'a', '0')", "22023"),
        ("create_hold('USER', 1, 'a', '-1 hour')", "22023"),
        ("create_hold('USER', 1, 'a', '30 days 00:00:00.000001')", "22023"),
        ("create_hold('USER', 1, 'a', '178000000 years')", "22023"),
        ("create_hold('USER', 1, 'a', category => repeat('x', 201))", "23514"),
        ("create_hold('USER', 1, 'a', metadata => '[]')", "23514"),
        ("capture_hold(NULL)", "22004"),
        ("capture_hold('a', -1)", "23514"),
        ("release_hold(NULL)", "22004"),
        ("extend_hold(NULL, '1 hour')", "22004"),
        ("extend_hold('a', NULL)", "22004"),
        ("extend_hold('a', '31 days')", "22023"),
        ("charge(NULL, 1, 'a')", "22004"),
        ("charge('USER', NULL, 'a')", "22004"),
        ("charge('USER', 1, NULL)", "22004"),
        ("charge('USER', 'infinity'::float8::numeric, 'a')", "23514"),
        ("charge('USER', 1, 'a', category => repeat('x', 201))", "23514"),
        ("charge('USER', 1, 'a', metadata => '3')", "23514"),
    ];
    for (arguments, sqlstate) in refusals {
        call(&mut session, arguments).refused(sqlstate);
    }
    for function in ["create_hold", "charge"] {
        let error = call(&mut session, &format!("{function}('USER', 1, '{}')", long_source_id()));
        let error = error.refused("54000");
        assert!(error.message().contains("2692"), "{function}: {}", error.message());
    }
    for function in [
        "create_hold('USER', 1, 'a')",
        "capture_hold('a')",
        "release_hold('a')",
        "extend_hold('a', '1 s')",
        "charge('USER', 1, 'a')",
    ] {
        session.run("BEGIN READ ONLY");
        call(&mut session, function).refused("25006");
        session.run("ROLLBACK");
    }
    // Up to 30 days.
    call(&mut session, "create_hold('USER', 1, 'a', '30 days')").unwrap();
    call(&mut session, "create_hold('USER', 1, 'b', '1 month')").unwrap();
    call(&mut session, "create_hold('USER', 1, 'c', '00:00:00.000001')").unwrap();
}

/// Of digits that cannot be compressed to what fits an index.
fn long_source_id() -> String {
    (0..4000_u32).map(|n| char::from(b'a' + u8::try_from((n * n * 7 + n / 3) % 26).unwrap_or_default())).fold(
        String::new(),
        |mut text, letter| {
            text.push(letter);
            text.push_str(&(text.len() % 97).to_string());
            text
        },
    )
}

/// Rows that are put into the table by hand keep the same rules, and are not refused for lack of credits.
#[test]
fn a_hold_by_hand() {
    let (_db, mut session) = Database::create_with(dec!(10));
    let insert = |values: &str| {
        format!(
            "INSERT INTO credits.holds (source_id, user_id, amount, expires_at, category, metadata) VALUES ({values})"
        )
    };
    let by = user(1);
    session.try_run(&insert(&format!("' ', '{by}', 1, 'tomorrow', NULL, NULL"))).refused("23514");
    session.try_run(&insert(&format!("'a', '{by}', 1, 'tomorrow', repeat('x', 201), NULL"))).refused("23514");
    session.try_run(&insert(&format!("'a', '{by}', 1, 'tomorrow', NULL, '1'"))).refused("23514");
    session.run(&insert(&format!("'a', '{by}', 1000, 'tomorrow', 'x', '{{}}'")));
    hold(&mut session, "1", "b").refused("LC001");
    call(&mut session, "capture_hold('a')").unwrap();
    assert_eq!(session.balance(by), dec!(-990));
}

#[test]
fn a_refused_or_rolled_back_hold_uses_up_no_source_id() {
    let (_db, mut session) = Database::create_with(dec!(10));
    hold(&mut session, "11", "a").refused("LC001");
    session.run("BEGIN");
    hold(&mut session, "4", "a").unwrap();
    session.run("ROLLBACK");
    hold(&mut session, "5", "a").unwrap();
    session.run("BEGIN; SAVEPOINT s");
    hold(&mut session, "4", "b").unwrap();
    session.run("ROLLBACK TO s");
    hold(&mut session, "5", "b").unwrap();
    session.run("COMMIT");
    assert_eq!(holds(&mut session), ["a 5", "b 5"]);
}

/// A vacuum makes room where a hold was that a savepoint has taken back. What is put there by hand is not that hold.
#[test]
fn a_hold_by_hand_in_the_place_of_one_that_was_rolled_back_asks_for_nothing() {
    let (db, mut session) = Database::create_with(dec!(10));
    let place = "SELECT ctid::text FROM credits.holds";
    session.run("BEGIN; SAVEPOINT s");
    hold(&mut session, "4", "a").unwrap();
    let of_the_function: String = session.value(place, &[]);
    session.run("ROLLBACK TO s");
    db.connect().run("VACUUM (INDEX_CLEANUP ON) credits.holds");
    session.run(&format!(
        "INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('b', '{}', 1000, now() + interval '1 hour')",
        user(1)
    ));
    assert_eq!(session.value::<String>(place, &[]), of_the_function);
    session.run("COMMIT");
    assert_eq!(holds(&mut session), ["b 1000"]);
}

/// A call sees what has committed, whatever its transaction's snapshot sees, and its own rows.
#[test]
fn a_call_is_refused_by_what_has_committed() {
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        let (db, mut other) = Database::create_with(dec!(10));
        let mut session = db.connect();
        session.run(&format!(
            "BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM credits.credits_transactions"
        ));
        other.charge(user(1), dec!(8));
        hold(&mut session, "3", "a").refused("LC001");
        session
            .run(&format!("ROLLBACK; BEGIN ISOLATION LEVEL {isolation}; SELECT count(*) FROM credits.holds"));
        other.grant(user(1), dec!(5));
        hold(&mut session, "3", "a").unwrap();
        hold(&mut session, "4", "b").unwrap();
        hold(&mut session, "1", "c").refused("LC001");
        session.run("ROLLBACK");
    }
}

/// Nobody conflicts with a look at what is available.
#[test]
fn a_serializable_call_has_read_nothing_of_others() {
    let (db, mut other) = Database::create_with(dec!(100));
    let mut session = db.connect();
    session.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    hold(&mut session, "1", "a").unwrap();
    other.run("BEGIN ISOLATION LEVEL SERIALIZABLE");
    hold(&mut other, "1", "b").unwrap();
    call(&mut other, "charge('USER', 1, 'c')").unwrap();
    other.run("COMMIT");
    session.run("COMMIT");
}

#[test]
fn a_retry_that_waits_for_a_capture_is_told() {
    let (db, mut first) = Database::create_with(dec!(10));
    hold(&mut first, "2", "a").unwrap();
    first.run("BEGIN");
    call(&mut first, "capture_hold('a')").unwrap();
    let second = db.connect().background(|session| hold(session, "2", "a"));
    db.until_blocked(second.pid());
    first.run("COMMIT");
    let refusal = second.finish().1.refused("23505");
    assert!(refusal.message().contains("captured already"), "{}", refusal.message());
    assert_eq!(holds(&mut first), [""; 0]);
}

#[test]
fn two_captures_at_once_record_one_row() {
    let (db, mut first) = Database::create_with(dec!(10));
    hold(&mut first, "2", "a").unwrap();
    first.run("BEGIN");
    let captured = call(&mut first, "capture_hold('a', 1)").unwrap();
    let second = db.connect().background(|session| call(session, "capture_hold('a', 1)"));
    db.until_blocked(second.pid());
    first.run("COMMIT");
    assert_eq!(second.finish().1.unwrap(), captured);
    assert_eq!(usage(&mut first), ["a 1"]);
}

/// Whether the other one moves the hold, replaces it by another one, or only seems to.
#[test]
fn a_capture_never_misses_a_hold_that_another_session_replaces() {
    for (change, end, recorded) in [
        ("SELECT credits.extend_hold('a', '2 hours')", "COMMIT", "2"),
        ("SELECT credits.extend_hold('a', '2 hours')", "ROLLBACK", "2"),
        ("DELETE FROM credits.holds; SELECT credits.create_hold('USER', 3, 'a')", "COMMIT", "3"),
        ("DELETE FROM credits.holds; SELECT credits.create_hold('USER', 3, 'a')", "ROLLBACK", "2"),
    ] {
        for expired in [false, true] {
            let (db, mut first) = Database::create_with(dec!(10));
            hold(&mut first, "2", "a").unwrap();
            if expired {
                expire(&mut first, "a");
            }
            first.run(&format!("BEGIN; {}", change.replace("USER", &user(1).to_string())));
            let second = db.connect().background(|session| call(session, "capture_hold('a')"));
            db.until_blocked(second.pid());
            first.run(end);
            second.finish().1.unwrap();
            assert_eq!(usage(&mut first), [format!("a {recorded}")], "{change}, {end}");
            assert_eq!(holds(&mut first), [""; 0]);
        }
    }
}

#[test]
fn two_holds_in_place_of_an_expired_one() {
    let (db, mut first) = Database::create_with(dec!(10));
    hold(&mut first, "2", "a").unwrap();
    expire(&mut first, "a");
    first.run("BEGIN");
    let made = hold(&mut first, "3", "a").unwrap();
    let second = db.connect().background(|session| hold(session, "3", "a"));
    db.until_blocked(second.pid());
    first.run("COMMIT");
    assert_eq!(second.finish().1.unwrap(), made);
    assert_eq!(holds(&mut first), ["a 3"]);
}

#[test]
fn an_older_snapshot_is_told_to_retry() {
    let (db, mut other) = Database::create_with(dec!(10));
    let mut session = db.connect();
    for function in ["capture_hold('a')", "release_hold('a')", "extend_hold('a', '1 hour')"] {
        session.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM credits.holds");
        hold(&mut other, "2", "a").unwrap();
        call(&mut session, function).refused("40001");
        session.run("ROLLBACK");
        call(&mut other, "release_hold('a')").unwrap();
    }
    // Made and captured since.
    session.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM credits.holds");
    hold(&mut other, "2", "captured").unwrap();
    call(&mut other, "capture_hold('captured')").unwrap();
    call(&mut session, "capture_hold('captured')").refused("40001");
}

/// More credits would not help there.
#[test]
fn a_source_id_that_is_taken_is_told_before_a_lack_of_credits() {
    let (_db, mut session) = Database::create_with(dec!(10));
    hold(&mut session, "2", "held").unwrap();
    call(&mut session, "create_transaction('USER', 'usage', 1, 'recorded')").unwrap();
    for source_id in ["held", "recorded"] {
        hold(&mut session, "1000", source_id).refused("23505");
        call(&mut session, &format!("charge('USER', 1000, '{source_id}')")).refused("23505");
    }
    // Unless a trigger has the row stored under another.
    for table in ["holds", "credits_transactions"] {
        session.run(&format!(
            "CREATE FUNCTION public.rename_{table}() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN NEW.source_id := NEW.source_id || ' anew'; RETURN NEW; END $$;
             CREATE TRIGGER rename BEFORE INSERT ON credits.{table} FOR EACH ROW EXECUTE FUNCTION public.rename_{table}()"
        ));
    }
    for function in ["create_hold('USER', 1000, 'held')", "charge('USER', 1000, 'recorded')"] {
        session.run("BEGIN");
        call(&mut session, function).refused("LC001");
        session.run("ROLLBACK");
    }
    session.assert_sound();
}

#[test]
fn a_trigger_that_leaves_a_row_out() {
    let (_db, mut session) = Database::create_with(dec!(10));
    hold(&mut session, "2", "a").unwrap();
    session.run(
        "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER leave_out BEFORE INSERT OR UPDATE OR DELETE ON credits.holds FOR EACH ROW EXECUTE FUNCTION leave_out()",
    );
    hold(&mut session, "2", "b").refused("09000");
    call(&mut session, "extend_hold('a', '1 hour')").refused("09000");
    call(&mut session, "release_hold('a')").refused("09000");
    call(&mut session, "capture_hold('a')").refused("09000");
    session.run(
        "DROP TRIGGER leave_out ON credits.holds;
         CREATE TRIGGER leave_out BEFORE INSERT ON credits.credits_transactions FOR EACH ROW EXECUTE FUNCTION leave_out()",
    );
    call(&mut session, "capture_hold('a')").refused("09000");
    assert_eq!(holds(&mut session), ["a 2"]);
}

/// Row-level security filters holds and the ledger for the caller, and what is available is the account's all the same.
#[test]
fn a_caller_who_sees_a_part_of_the_rows() {
    let (db, mut owner) = Database::create_with(dec!(10));
    let role = db.create_role("tenant");
    owner.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role}; GRANT INSERT, SELECT, UPDATE, DELETE ON credits.holds TO {role};
         GRANT INSERT, SELECT ON credits.credits_transactions TO {role};
         GRANT EXECUTE ON FUNCTION credits.create_hold, credits.capture_hold, credits.release_hold, credits.extend_hold,
               credits.charge TO {role};
         ALTER TABLE credits.holds ENABLE ROW LEVEL SECURITY;
         ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON credits.holds USING (user_id = '{0}');
         CREATE POLICY own ON credits.credits_transactions USING (user_id = '{0}')",
        user(1)
    ));
    owner.grant(user(2), dec!(10));
    owner.run(&format!("SELECT credits.create_hold('{}', 2, 'other')", user(2)));
    let mut session = db.connect_as(&role);
    hold(&mut session, "7", "a").unwrap();
    for function in ["create_hold('USER', 4, 'b')", "charge('USER', 4, 'b')"] {
        // By the call, not only by the commit.
        session.run("BEGIN");
        call(&mut session, function).refused("LC001");
        session.run("ROLLBACK");
    }
    // It learns nothing of an account that is not its own.
    session.try_run(&format!("SELECT credits.create_hold('{}', 1000, 'x')", user(2))).refused("42501");
    session.try_run(&format!("SELECT credits.charge('{}', 1000, 'x')", user(2))).refused("42501");
    // A transaction that it does not see has the source_id of a hold that it sees.
    owner.run(&format!(
        "SELECT credits.create_transaction('{}', 'usage', 1, 'taken');
         INSERT INTO credits.holds (source_id, user_id, amount, expires_at) VALUES ('taken', '{}', 0.5, 'tomorrow')",
        user(2),
        user(1)
    ));
    let refusal = call(&mut session, "capture_hold('taken')").refused("23505");
    assert!(refusal.message().contains("may not see"), "{}", refusal.message());
    owner.run("DELETE FROM credits.holds WHERE source_id = 'taken'");
    let refusal = hold(&mut session, "1", "other").refused("23505");
    assert!(refusal.message().contains("may not see"), "{}", refusal.message());
    call(&mut session, "capture_hold('other')").refused("P0002");
    call(&mut session, "extend_hold('other', '1 hour')").refused("P0002");
    assert_eq!(call(&mut session, "release_hold('other')").unwrap(), "false");
    call(&mut session, "extend_hold('a', '1 hour')").unwrap();
    call(&mut session, "capture_hold('a')").unwrap();
    assert_eq!(holds(&mut owner), ["other 2"]);
    owner.run(
        "CREATE FUNCTION public.leave_out() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER leave_out BEFORE INSERT ON credits.holds FOR EACH ROW EXECUTE FUNCTION public.leave_out()",
    );
    hold(&mut session, "1", "left out").refused("09000");
}
