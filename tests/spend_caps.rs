//! Spend caps: what some keys of an account spend, and what is announced of it. Several sessions at once are in `cap_races`, windows that
//! end in `cap_windows`.

use credits_ledger_tests::listener::{CAP_CHANNEL, CONFIG_CHANNEL};
use credits_ledger_tests::{Database, Decimal, Listener, Refused, Session, Uuid, dec, user};

/// The test's cap of this number.
fn cap(number: u32) -> Uuid {
    Uuid::from_u128(0x2000_0000_0000_4000_8000_0000_0000_0000 + u128::from(number))
}

/// The test's API key of this number.
fn key(number: u32) -> Uuid {
    Uuid::from_u128(0x3000_0000_0000_4000_8000_0000_0000_0000 + u128::from(number))
}

/// Keys as SQL has them.
fn keys(numbers: &[u32]) -> String {
    let keys: Vec<String> = numbers.iter().map(|&number| key(number).to_string()).collect();
    format!("'{{{}}}'::uuid[]", keys.join(","))
}

/// Gives user 1 a cap, with usage from long ago on.
pub fn set(session: &mut Session, number: u32, keys: &str, period: &str, amount: Decimal) {
    session.run(&insertion(number, user(1), keys, period, amount));
}

/// The statement that gives an account a cap.
pub fn insertion(number: u32, of: Uuid, keys: &str, period: &str, amount: Decimal) -> String {
    format!(
        "INSERT INTO credits.spend_caps (id, user_id, api_key_ids, period, amount, since)
         VALUES ('{}', '{of}', {keys}, {period}, {amount}, '2000-01-01')",
        cap(number)
    )
}

/// Records usage of user 1 with this key now.
pub fn spend(session: &mut Session, key: &str, amount: Decimal) {
    spend_at(session, key, amount, "clock_timestamp()");
}

/// Records usage of user 1 with this key, dated then.
pub fn spend_at(session: &mut Session, key: &str, amount: Decimal, created_at: &str) {
    session.run(&usage(key, amount, created_at));
}

/// The statement that does.
fn usage(key: &str, amount: Decimal, created_at: &str) -> String {
    format!(
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, api_key_id, created_at)
         VALUES ('{}', 'usage', {amount}, gen_random_uuid(), {key}, {created_at})",
        user(1)
    )
}

/// A key as SQL has it.
fn quoted(number: u32) -> String {
    format!("'{}'", key(number))
}

/// What was heard of caps since the last look: the cap's number and `open`, or when it resets.
pub fn heard(listener: &mut Listener) -> Vec<String> {
    let notifications = listener.drain();
    let of_caps = notifications.iter().filter(|notification| notification.channel == CAP_CHANNEL);
    of_caps
        .map(|notification| {
            let payload = &notification.payload;
            let number = (0..100)
                .find(|&number| payload.starts_with(&format!("{{\"cap_id\":\"{}\",", cap(number))))
                .unwrap_or_else(|| panic!("{payload}"));
            let (_, state) = payload.split_once("\"state\":").unwrap_or_else(|| panic!("{payload}"));
            let state = match state.split_once("\"reached\",\"resets_at\":") {
                Some(("", resets_at)) => resets_at.strip_suffix('}').expect("an object").replace('"', ""),
                _ => {
                    assert_eq!(state, "\"open\"}");
                    "open".to_owned()
                }
            };
            format!("{number} {state}")
        })
        .collect()
}

/// The view: each cap of user 1 with what was spent, what remains and whether it is reached.
pub fn states(session: &mut Session) -> Vec<String> {
    session.values(
        "SELECT format('%s of %s, %s left%s', trim_scale(spent), amount, trim_scale(remaining), CASE WHEN is_reached THEN ', reached' END)
         FROM credits.spend_cap_states WHERE user_id = $1 ORDER BY cap_id",
        &[&user(1)],
    )
}

/// A database where user 1 has plenty, with a listener.
pub fn database() -> (Database, Session, Listener) {
    with_plenty(Database::create_alone())
}

/// The same in this database.
pub fn with_plenty(db: Database) -> (Database, Session, Listener) {
    let mut session = db.connect();
    session.run("SET lock_timeout = '50s'");
    session.grant(user(1), dec!(1000000));
    let listener = db.listen();
    (db, session, listener)
}

/// A transaction of user 1 that is open.
pub fn begin(db: &Database, statement: &str) -> Session {
    let mut session = db.connect();
    session.run(&format!("SET lock_timeout = '50s'; BEGIN; {statement}"));
    session
}

/// Usage without a key now.
pub fn usage_now(amount: Decimal) -> String {
    usage("NULL", amount, "clock_timestamp()")
}

#[test]
fn a_cap_is_complete_and_exact() {
    let db = Database::create();
    let mut session = db.connect();
    let insert = |columns: &str, values: &str| {
        format!(
            "INSERT INTO credits.spend_caps (user_id, amount, {columns}) VALUES ('{}', {values})",
            user(1)
        )
    };
    session.run(&format!("INSERT INTO credits.spend_caps (user_id, amount) VALUES ('{}', 5)", user(1)));
    let defaults: bool = session.value(
        "SELECT id IS NOT NULL AND api_key_ids IS NULL AND period IS NULL AND NOT is_enforced
                AND since BETWEEN now() - interval '1 hour' AND now()
         FROM credits.spend_caps",
        &[],
    );
    assert!(defaults);
    for period in ["'daily'", "'weekly'", "'monthly'", "NULL"] {
        session.run(&insert("period", &format!("0.000000000000001, {period}")));
    }
    for period in ["'yearly'", "''", "'Daily'", "'day'"] {
        session.try_run(&insert("period", &format!("1, {period}"))).refused("23514");
    }
    for amount in ["0", "-1", "10000000000000", "0.0000000000000001", "'NaN'", "'Infinity'"] {
        session.try_run(&insert("period", &format!("{amount}, NULL"))).refused("23514");
    }
    for list in ["'{}'", "'{NULL}'", "ARRAY[gen_random_uuid(), NULL]", "ARRAY[ARRAY[gen_random_uuid()]]"] {
        session.try_run(&insert("api_key_ids", &format!("1, {list}"))).refused("23514");
    }
    session.run(&insert("api_key_ids", "1, ARRAY[gen_random_uuid(), gen_random_uuid()]"));
    session.run(&insert("since", "1, '-infinity'"));
    session.run(&insert("since", "1, 'infinity'"));
    for (column, value) in [("since", "NULL"), ("is_enforced", "NULL"), ("id", "NULL")] {
        session.try_run(&insert(column, &format!("1, {value}"))).refused("23502");
    }
}

/// One more than 16 is refused by the commit that would have them, also where two bring them at once.
#[test]
fn an_account_has_at_most_16_caps() {
    let (db, mut session, _listener) = database();
    for number in 0..15 {
        set(&mut session, number, "NULL", "NULL", dec!(1000));
    }
    let begin = |number| {
        let mut session = db.connect();
        session.run("SET lock_timeout = '50s'; BEGIN");
        set(&mut session, number, "NULL", "NULL", dec!(1000));
        session
    };
    let (mut first, mut second) = (begin(15), begin(16));
    first.run("COMMIT");
    let error = second.try_run("COMMIT").refused("54000");
    assert!(error.message().contains("17 spend caps"), "{error:?}");
    session.try_run(&insertion(17, user(1), "NULL", "NULL", dec!(1))).refused("54000");
    // In one transaction, what counts is what there is in the end.
    session.run(&format!(
        "BEGIN; {}; DELETE FROM credits.spend_caps WHERE id = '{}'; COMMIT",
        insertion(17, user(1), "NULL", "NULL", dec!(1)),
        cap(3)
    ));
    session.try_run(&insertion(18, user(1), "NULL", "NULL", dec!(1))).refused("54000");
    session.run(&insertion(18, user(2), "NULL", "NULL", dec!(1)));
    // A cap that is given to an account is one of its.
    let give = format!("UPDATE credits.spend_caps SET user_id = '{}' WHERE id = '{}'", user(1), cap(18));
    session.try_run(&give).refused("54000");
    session.run(&format!("DELETE FROM credits.spend_caps WHERE id = '{}'; {give}", cap(4)));
    // More that nobody has noted keep nobody from recording: only who changes caps is told.
    session.run("ALTER TABLE credits.spend_caps DISABLE TRIGGER note_caps");
    set(&mut session, 19, "NULL", "NULL", dec!(1));
    session.run("ALTER TABLE credits.spend_caps ENABLE ALWAYS TRIGGER note_caps");
    session.refresh(user(1));
    spend(&mut session, "NULL", dec!(2));
    session.assert_sound();
}

#[test]
fn a_cap_is_announced_when_it_is_reached() {
    let (_db, mut session, mut listener) = database();
    set(&mut session, 1, "NULL", "NULL", dec!(10));
    spend(&mut session, "NULL", dec!(9.999999999999999));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    assert_eq!(states(&mut session), ["9.999999999999999 of 10, 0.000000000000001 left"]);
    spend(&mut session, "NULL", dec!(0.000000000000001));
    let notifications = listener.drain();
    let payload = format!(
        "{{\"cap_id\":\"{}\",\"user_id\":\"{}\",\"state\":\"reached\",\"resets_at\":null}}",
        cap(1),
        user(1)
    );
    let on = |channel: &str| notifications.iter().filter(|n| n.channel == channel).collect::<Vec<_>>();
    assert_eq!(on(CAP_CHANNEL).iter().map(|n| &n.payload).collect::<Vec<_>>(), [&payload]);
    assert_eq!(on(CONFIG_CHANNEL).len(), 1);
    assert!(on(CONFIG_CHANNEL)[0].payload.starts_with("credits_transactions:"));
    assert_eq!(states(&mut session), ["10 of 10, 0 left, reached"]);
    spend(&mut session, "NULL", dec!(50));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    session.assert_sound();
}

/// Usage that nobody needs to look at, far from the cap, is counted all the same.
#[test]
fn headroom_ends_at_the_cap() {
    let (db, mut session, mut listener) = database();
    set(&mut session, 1, "NULL", "NULL", dec!(100));
    let mut other = db.connect();
    for _ in 0..33 {
        spend(&mut session, "NULL", dec!(1.5));
        spend(&mut other, "NULL", dec!(1.5));
    }
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    spend(&mut other, "NULL", dec!(0.999999999999999));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    spend(&mut session, "NULL", dec!(0.000000000000001));
    assert_eq!(heard(&mut listener), ["1 null"]);
    session.assert_sound();
}

#[test]
fn usage_counts_by_its_key() {
    let (_db, mut session, mut listener) = database();
    set(&mut session, 1, &keys(&[1, 2]), "NULL", dec!(10));
    set(&mut session, 2, "NULL", "NULL", dec!(20));
    set(&mut session, 3, &keys(&[3]), "NULL", dec!(10));
    for (key, amount) in [("NULL", dec!(4)), (&*quoted(1), dec!(3)), (&*quoted(4), dec!(2))] {
        spend(&mut session, key, amount);
    }
    assert_eq!(states(&mut session), ["3 of 10, 7 left", "9 of 20, 11 left", "0 of 10, 10 left"]);
    spend(&mut session, &quoted(2), dec!(7));
    assert_eq!(heard(&mut listener), ["1 null"]);
    spend(&mut session, "NULL", dec!(4));
    assert_eq!(heard(&mut listener), ["2 null"]);
    // Two at once, by one row and by several.
    session.run("UPDATE credits.spend_caps SET since = now() WHERE amount = 10 OR amount = 20");
    assert_eq!(heard(&mut listener), ["1 open", "2 open"]);
    session.run("BEGIN");
    spend(&mut session, &quoted(3), dec!(12));
    spend(&mut session, &quoted(1), dec!(8));
    session.run("COMMIT");
    assert_eq!(heard(&mut listener), ["2 null", "3 null"]);
    session.assert_sound();
}

/// Spending is gross: what is granted or taken back gives nothing back, and what is no usage takes nothing.
#[test]
fn only_usage_counts() {
    let (_db, mut session, mut listener) = database();
    set(&mut session, 1, "NULL", "NULL", dec!(10));
    session.insert(user(1), "admin_removal", dec!(50)).unwrap();
    session.insert(user(1), "purchase", dec!(50)).unwrap();
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    session.run(&format!("SELECT credits.charge('{}', 9, 'taken back')", user(1)));
    session.run(
        "SELECT credits.reverse_transaction((SELECT id FROM credits.credits_transactions WHERE source_id = 'taken back'), 'r')",
    );
    assert_eq!(states(&mut session), ["9 of 10, 1 left"]);
    spend(&mut session, "NULL", dec!(1));
    assert_eq!(heard(&mut listener), ["1 null"]);
    session.run(
        "SELECT credits.reverse_transaction(id, id::text) FROM credits.credits_transactions
         WHERE transaction_type = 'usage' AND source_id <> 'taken back'",
    );
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    session.run(&format!("SELECT credits.create_hold('{0}', 3, 'h')", user(1)));
    assert_eq!(states(&mut session), ["10 of 10, 0 left, reached"]);
    session.run("SELECT credits.capture_hold('h')");
    assert_eq!(states(&mut session), ["13 of 10, 0 left, reached"]);
    session.assert_sound();
}

/// What DML makes of a cap is announced by its commit, and what it leaves as it was is not.
#[test]
fn a_change_announces_what_it_does() {
    let (_db, mut session, mut listener) = database();
    spend(&mut session, &quoted(1), dec!(7));
    set(&mut session, 1, "NULL", "NULL", dec!(7));
    assert_eq!(heard(&mut listener), ["1 null"]);
    set(&mut session, 2, "NULL", "NULL", dec!(8));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    let of_1 = format!("WHERE id = '{}'", cap(1));
    for (change, expected) in [
        ("amount = 6.5", &[][..]),
        ("amount = 7.5", &["1 open"]),
        ("amount = 9", &[]),
        ("amount = 7", &["1 null"]),
        ("is_enforced = true", &[]),
        ("since = now()", &["1 open"]),
        ("since = '2000-01-01'", &["1 null"]),
        ("since = 'infinity'", &["1 open"]),
        ("since = '-infinity'", &["1 null"]),
        (&*format!("api_key_ids = {}", keys(&[2])), &["1 open"]),
        (&*format!("api_key_ids = {}", keys(&[2, 1])), &["1 null"]),
        (&*format!("user_id = '{}'", user(2)), &["1 open"]),
        (&*format!("user_id = '{}'", user(1)), &["1 null"]),
        (&*format!("id = '{}'", cap(3)), &["1 open", "3 null"]),
    ] {
        session.run(&format!("UPDATE credits.spend_caps SET {change} {of_1}"));
        assert_eq!(heard(&mut listener), expected, "{change}");
        session.assert_sound();
    }
    session.run(&format!("DELETE FROM credits.spend_caps WHERE id = '{}'", cap(3)));
    assert_eq!(heard(&mut listener), ["3 open"]);
    session.run("BEGIN");
    set(&mut session, 1, "NULL", "NULL", dec!(1));
    session.run("DELETE FROM credits.spend_caps WHERE amount = 1; COMMIT");
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    // With usage in the same transaction: what is there in the end.
    session.run("BEGIN");
    spend(&mut session, "NULL", dec!(2));
    session.run("UPDATE credits.spend_caps SET amount = 10; COMMIT");
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    session.run("BEGIN");
    spend(&mut session, "NULL", dec!(2));
    session.run("UPDATE credits.spend_caps SET amount = 11; COMMIT");
    assert_eq!(heard(&mut listener), ["2 null"]);
    session.run("TRUNCATE credits.spend_caps");
    assert_eq!(heard(&mut listener), ["2 open"]);
    spend(&mut session, "NULL", dec!(1000));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    session.assert_sound();
    let kept: bool = session
        .value("SELECT bool_and(cap_ids IS NULL AND caps_reached_until IS NULL) FROM credits.user_balance_checkpoints", &[]);
    assert!(kept, "an account without caps has nothing of them");
}

/// Both a cap that moves and the usage of two accounts: first what is open.
#[test]
fn open_is_announced_before_reached() {
    for (from, to) in [(1, 2), (2, 1)] {
        let (_db, mut session, mut listener) = database();
        session.charge(user(1), dec!(5));
        session.charge(user(2), dec!(5));
        session.run(&insertion(1, user(from), "NULL", "NULL", dec!(5)));
        assert_eq!(heard(&mut listener), ["1 null"]);
        session.run(&format!("UPDATE credits.spend_caps SET user_id = '{}'", user(to)));
        assert_eq!(heard(&mut listener), ["1 open", "1 null"]);
    }
}

#[test]
fn caps_roll_back() {
    let (_db, mut session, mut listener) = database();
    set(&mut session, 1, "NULL", "NULL", dec!(10));
    session.run("BEGIN; UPDATE credits.spend_caps SET amount = 5");
    spend(&mut session, "NULL", dec!(7));
    session.run("ROLLBACK; BEGIN; SAVEPOINT s; UPDATE credits.spend_caps SET amount = 1");
    spend(&mut session, "NULL", dec!(20));
    session.run("ROLLBACK TO s");
    spend(&mut session, "NULL", dec!(2));
    session.run("COMMIT");
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    assert_eq!(states(&mut session), ["2 of 10, 8 left"]);
    spend(&mut session, "NULL", dec!(8));
    assert_eq!(heard(&mut listener), ["1 null"]);
    session.assert_sound();
}

/// Headroom from before a cap was lowered is used by nobody.
#[test]
fn headroom_ends_when_a_cap_is_changed() {
    let (db, mut session, mut listener) = database();
    let mut owner = db.connect();
    set(&mut owner, 1, "NULL", "NULL", dec!(1000));
    spend(&mut session, "NULL", dec!(1));
    spend(&mut session, "NULL", dec!(1));
    owner.run("UPDATE credits.spend_caps SET amount = 10");
    spend(&mut session, "NULL", dec!(8));
    assert_eq!(heard(&mut listener), ["1 null"]);
    // Nor from before there was any.
    spend(&mut session, "NULL", dec!(1));
    set(&mut owner, 2, "NULL", "NULL", dec!(20));
    spend(&mut session, "NULL", dec!(9));
    assert_eq!(heard(&mut listener), ["2 null"]);
    session.assert_sound();
}

#[test]
fn caps_that_are_changed_cannot_be_prepared() {
    let (_db, mut session, mut listener) = database();
    set(&mut session, 1, "NULL", "NULL", dec!(10));
    for statement in [
        "UPDATE credits.spend_caps SET amount = 5",
        "DELETE FROM credits.spend_caps",
        "TRUNCATE credits.spend_caps",
        &insertion(2, user(2), "NULL", "NULL", dec!(5)),
    ] {
        session.run("BEGIN");
        session.run(statement);
        session.try_run("PREPARE TRANSACTION 'caps_changed'").refused("0A000");
        session.run("ROLLBACK");
    }
    spend(&mut session, "NULL", dec!(10));
    assert_eq!(heard(&mut listener), ["1 null"]);
}

/// As a crossing is: it is counted when it is prepared, in flight until it ends, and announced by whoever looks next.
#[test]
fn usage_that_is_prepared_reaches_a_cap() {
    let (db, mut session, mut listener) = database();
    set(&mut session, 1, "NULL", "NULL", dec!(10));
    spend(&mut session, "NULL", dec!(1));
    let gid = format!("'{}'", db.name());
    let mut preparing = begin(&db, &usage_now(dec!(5)));
    preparing.run(&format!("PREPARE TRANSACTION {gid}"));
    spend(&mut session, "NULL", dec!(4));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    preparing.run(&format!("COMMIT PREPARED {gid}"));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    spend(&mut session, "NULL", dec!(0.1));
    assert_eq!(heard(&mut listener), ["1 null"]);
    // By request, too.
    session.run("UPDATE credits.spend_caps SET since = now()");
    assert_eq!(heard(&mut listener), ["1 open"]);
    let mut preparing = begin(&db, &usage_now(dec!(10)));
    preparing.run(&format!("PREPARE TRANSACTION {gid}; "));
    preparing.run(&format!("COMMIT PREPARED {gid}"));
    session.refresh(user(1));
    assert_eq!(heard(&mut listener), ["1 null"]);
    session.assert_sound();
}

/// What was announced of a cap survives its checkpoint, whichever way that goes.
#[test]
fn a_deleted_checkpoint_keeps_what_was_announced() {
    for deletion in [
        "DELETE FROM credits.user_balance_checkpoints",
        "TRUNCATE credits.user_balance_checkpoints",
        "UPDATE credits.user_balance_checkpoints SET user_id = gen_random_uuid(); DELETE FROM credits.user_balance_checkpoints",
    ] {
        let (_db, mut session, mut listener) = database();
        set(&mut session, 1, "NULL", "NULL", dec!(10));
        set(&mut session, 2, "NULL", "NULL", dec!(20));
        spend(&mut session, "NULL", dec!(15));
        assert_eq!(heard(&mut listener), ["1 null"]);
        session.run(&format!("BEGIN; {deletion}; COMMIT"));
        assert_eq!(heard(&mut listener), Vec::<String>::new(), "{deletion}");
        session.run("BEGIN");
        spend(&mut session, "NULL", dec!(5));
        session.run(&format!("{deletion}; COMMIT"));
        assert_eq!(heard(&mut listener), ["2 null"], "{deletion}");
        session.assert_sound();
    }
}

/// An account without rows gets a checkpoint by its cap.
#[test]
fn caps_may_come_before_the_first_row() {
    let db = Database::create_alone();
    let (mut session, mut listener) = (db.connect(), db.listen());
    set(&mut session, 1, "NULL", "NULL", dec!(5));
    session.assert_sound();
    spend(&mut session, "NULL", dec!(5));
    assert_eq!(heard(&mut listener), ["1 null"]);
    assert_eq!(session.value::<i64>("SELECT count(*) FROM credits.balances", &[]), 1);
    session.assert_sound();
}

/// Rows of before, behind a fold, count as those in the delta do.
#[test]
fn what_is_folded_counts() {
    let (_db, mut session, mut listener) = database();
    for _ in 0..200 {
        spend(&mut session, &quoted(1), dec!(0.5));
    }
    session.refresh(user(1));
    set(&mut session, 1, &keys(&[1]), "NULL", dec!(101));
    spend(&mut session, &quoted(1), dec!(0.5));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    spend(&mut session, &quoted(1), dec!(0.5));
    assert_eq!(heard(&mut listener), ["1 null"]);
    session.assert_sound();
}

/// The rows of a window are found without the index by date, too.
#[test]
fn a_cap_needs_no_index_by_date() {
    let (_db, mut session, mut listener) = database();
    set(&mut session, 1, "NULL", "NULL", dec!(10));
    for index in [
        "",
        "CREATE INDEX credits_transactions_user_created_idx ON credits.credits_transactions (user_id, (created_at::timestamptz(3)))",
        "CREATE INDEX credits_transactions_user_created_idx ON credits.credits_transactions (user_id, created_at)",
        "CREATE INDEX credits_transactions_user_created_idx ON credits.credits_transactions (user_id, (created_at::timestamptz(0)))
            WHERE amount > 100",
    ] {
        session.run(&format!("DROP INDEX IF EXISTS credits.credits_transactions_user_created_idx; {index}"));
        session.run("UPDATE credits.spend_caps SET since = now()");
        spend(&mut session, "NULL", dec!(9));
        spend_at(&mut session, "NULL", dec!(9), "'2001-01-01'");
        heard(&mut listener);
        spend(&mut session, "NULL", dec!(1));
        assert_eq!(heard(&mut listener), ["1 null"], "{index}");
    }
}

/// Whether it is on or off, and where.
#[test]
fn the_channel_is_a_setting() {
    let (_db, mut session, mut listener) = database();
    session.run("SET credits_ledger.cap_channel = ''");
    set(&mut session, 1, "NULL", "NULL", dec!(10));
    spend(&mut session, "NULL", dec!(10));
    let channels: Vec<String> =
        listener.drain().into_iter().map(|notification| notification.channel).collect();
    assert_eq!(channels, [CONFIG_CHANNEL]);
    session.run(
        "SET credits_ledger.cap_channel = auth_config_changed; UPDATE credits.spend_caps SET since = now()",
    );
    let channels: Vec<String> =
        listener.drain().into_iter().map(|notification| notification.channel).collect();
    assert_eq!(channels, [CONFIG_CHANNEL, CONFIG_CHANNEL]);
}

const DECISIONS: &str = "SELECT exclusive_sections FROM credits.settlement_statistics()";

/// A cap on a key that nobody uses, with next to nothing left: every commit of the account looks.
fn have_each_commit_look(session: &mut Session) {
    set(session, 99, &keys(&[99]), "NULL", dec!(0.000000000000001));
}

/// What a session has added up is of the ledger as it was.
#[test]
fn rows_that_were_corrected_by_hand_are_added_up_anew() {
    let (db, mut session, mut listener) = database();
    have_each_commit_look(&mut session);
    set(&mut session, 1, &keys(&[1]), "'monthly'", dec!(10));
    for amount in [dec!(6), dec!(0.5), dec!(0.5)] {
        spend(&mut session, &quoted(1), amount);
    }
    let mut owner = db.connect();
    owner.run(
        "ALTER TABLE credits.credits_transactions DISABLE TRIGGER append_only, DISABLE TRIGGER append_only_applied;
         UPDATE credits.credits_transactions SET amount = 5 WHERE amount = 6;
         ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER append_only_applied;
         DELETE FROM credits.user_balance_checkpoints;",
    );
    owner.refresh(user(1));
    let before: i64 = session.value(DECISIONS, &[]);
    spend(&mut session, &quoted(1), dec!(1));
    assert_eq!(session.value::<i64>(DECISIONS, &[]), before, "7 of 10");
    spend(&mut session, &quoted(1), dec!(3));
    assert_eq!(heard(&mut listener).len(), 1);
    session.assert_sound();
}

#[test]
fn usage_is_added_up_anew_for_the_new_keys_of_a_cap() {
    let (_db, mut session, mut listener) = database();
    have_each_commit_look(&mut session);
    set(&mut session, 1, &keys(&[1]), "NULL", dec!(10));
    for _ in 0..6 {
        spend(&mut session, &quoted(2), dec!(1));
    }
    session.run(&format!(
        "UPDATE credits.spend_caps SET api_key_ids = {} WHERE id = '{}'",
        keys(&[1, 2]),
        cap(1)
    ));
    spend(&mut session, &quoted(1), dec!(3));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    spend(&mut session, &quoted(1), dec!(1));
    assert_eq!(heard(&mut listener), ["1 null"]);
    session.assert_sound();
}

/// Sessions go on from what they have added up, and decide only when the cap is reached.
#[test]
fn a_session_that_looks_again_adds_each_row_once() {
    let (db, mut session, mut listener) = database();
    have_each_commit_look(&mut session);
    set(&mut session, 1, &keys(&[1]), "NULL", dec!(100));
    let mut other = db.connect();
    let before: i64 = session.value(DECISIONS, &[]);
    for _ in 0..49 {
        spend(&mut session, &quoted(1), dec!(1));
        spend(&mut other, &quoted(1), dec!(1));
        session.run("BEGIN; SAVEPOINT a");
        spend(&mut session, &quoted(1), dec!(50));
        session.run("ROLLBACK TO a");
        spend(&mut session, &quoted(2), dec!(1));
        session.run("COMMIT");
    }
    spend(&mut other, &quoted(1), dec!(1));
    assert_eq!(session.value::<i64>(DECISIONS, &[]), before);
    spend(&mut session, &quoted(1), dec!(1));
    assert_eq!(heard(&mut listener), ["1 null"]);
    assert_eq!(states(&mut session)[0], "100 of 100, 0 left, reached");
    session.assert_sound();
}

/// However often it looks at the caps of one account, a session keeps what it has added up of another's. Beyond 2,048 caps it begins anew: then
/// it meets what somebody has made of the daily totals.
#[test]
fn what_was_added_up_is_kept_of_so_many_caps() {
    let (_db, mut session, mut listener) = database();
    have_each_commit_look(&mut session);
    set(&mut session, 1, &keys(&[1]), "NULL", dec!(100));
    spend(&mut session, &quoted(1), dec!(10));
    session.refresh(user(1));
    spend(&mut session, &quoted(1), dec!(1));
    session.run("UPDATE credits.daily_totals SET total_amount = 99 WHERE total_amount = 10");
    let give_caps = |session: &mut Session, from: u32, to: u32| {
        session.run(&format!(
            "INSERT INTO credits.spend_caps (id, user_id, api_key_ids, amount, since)
             SELECT gen_random_uuid(), md5(n::text)::uuid, {}, CASE c WHEN 1 THEN 0.000000000000001 ELSE 1000 END, '2000-01-01'
             FROM generate_series({from}, {to}) n, generate_series(1, 16) c",
            keys(&[99])
        ));
    };
    let charge = |session: &mut Session, from: u32, to: u32| {
        session.run(&format!(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
             SELECT md5(n::text)::uuid, 'usage', 1, gen_random_uuid() FROM generate_series({from}, {to}) n"
        ));
    };
    give_caps(&mut session, 1, 1);
    (0..130).for_each(|_| charge(&mut session, 1, 1));
    spend(&mut session, &quoted(1), dec!(1));
    assert_eq!(heard(&mut listener), Vec::<String>::new());
    give_caps(&mut session, 2, 128);
    charge(&mut session, 2, 128);
    spend(&mut session, &quoted(1), dec!(1));
    assert_eq!(heard(&mut listener), ["1 null"]);
}
