//! Transactions that take others back: never more than there was, whoever brings them, and in whatever order.

use credits_ledger_tests::{Database, Decimal, Refused, Session, Uuid, dec, unguarded, user};
use postgres::Error;

/// The id of the test's transaction of this number.
const fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x2000_0000_0000_4000_8000_0000_0000_0000 + number)
}

/// Records a transaction under an id of the test's, with a category, a key, metadata and, where it is usage, a batch.
#[track_caller]
fn record(session: &mut Session, number: u128, user: Uuid, kind: &str, amount: Decimal) -> Uuid {
    let statement = "INSERT INTO credits.credits_transactions
                         (id, user_id, transaction_type, amount, source_id, fusillade_batch_id, api_key_id, category, metadata)
                     VALUES ($1::uuid, $2::uuid, $3::text, $4, 'request ' || $1::uuid,
                             CASE $3::text WHEN 'usage' THEN $2::uuid END, $1::uuid, 'model', '{\"a\": 1}')";
    session.execute(statement, &[&id(number), &user, &kind, &amount]).unwrap();
    id(number)
}

/// A row that takes back a transaction, by INSERT.
fn insert(
    session: &mut Session,
    user: Uuid,
    kind: &str,
    amount: Decimal,
    reverses: Uuid,
) -> Result<(), Error> {
    let statement =
        "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, reverses)
                     VALUES ($1, $2, $3, gen_random_uuid()::text, $4)";
    session.execute(statement, &[&user, &kind, &amount, &reverses]).map(|_| ())
}

/// Calls `reverse_transaction` with these arguments behind the first.
fn reverse(session: &mut Session, id: Uuid, arguments: &str) -> Result<String, Error> {
    session
        .query_one(&format!("SELECT t::text FROM credits.reverse_transaction('{id}', {arguments}) t"), &[])
        .map(|row| row.get(0))
}

/// What the reversals of a transaction sum to.
fn reversed(session: &mut Session, id: Uuid) -> Decimal {
    session.value(
        "SELECT coalesce(sum(amount), 0) FROM credits.credits_transactions WHERE reverses = $1",
        &[&id],
    )
}

/// What `verify_ledger` says of reversals.
fn listed(session: &mut Session) -> Vec<String> {
    session.values(
        "SELECT detail FROM credits.verify_ledger() WHERE check_name = 'reversal' ORDER BY detail",
        &[],
    )
}

#[test]
fn a_reversal_is_the_opposite() {
    let db = Database::create();
    let mut session = db.connect();
    let kinds = [
        ("purchase", "admin_removal"),
        ("admin_grant", "admin_removal"),
        ("usage", "admin_grant"),
        ("admin_removal", "admin_grant"),
    ];
    for (number, (kind, opposite)) in (1..).zip(kinds) {
        let account = user(u32::try_from(number).unwrap());
        let original = record(&mut session, number, account, kind, dec!(2.50));
        let row: String = session.value(
            "SELECT concat_ws(' ', r.user_id = $1, r.transaction_type, r.amount, r.source_id, r.description,
                              r.fusillade_batch_id IS NULL, r.api_key_id = $2)
             FROM credits.reverse_transaction($2, $3) r",
            &[&account, &original, &format!("refund {number}")],
        );
        assert_eq!(row, format!("t {opposite} 2.5 refund {number} Reversal of request {original} t t"));
        let stored: String = session.value(
            "SELECT concat_ws(' ', reverses, category, metadata IS NULL, fusillade_batch_id IS NULL)
             FROM credits.credits_transactions WHERE source_id = $1",
            &[&format!("refund {number}")],
        );
        assert_eq!(stored, format!("{original} model t t"));
        assert_eq!(session.balance(account), dec!(0));
    }
    session.assert_sound();
}

#[test]
fn parts_are_taken_back_until_nothing_is_left() {
    let db = Database::create();
    let mut session = db.connect();
    let original = record(&mut session, 1, user(1), "usage", dec!(10));
    reverse(&mut session, original, "'first', 4, 'goodwill'").unwrap();
    let error = reverse(&mut session, original, "'too much', 6.000000000000001").refused("23514");
    assert_eq!(
        error.message(),
        format!("transaction {original} cannot be reversed so: 6 is left of it, less than 6.000000000000001")
    );
    assert!(error.hint().is_some());
    let rest = reverse(&mut session, original, "'rest'").unwrap();
    assert!(rest.contains(",admin_grant,6,rest,"), "{rest}");
    for arguments in ["'more'", "'more', 0.000000000000001", "'more', NULL, 'text'"] {
        // By the call, not only by the commit.
        session.run("BEGIN");
        let error = reverse(&mut session, original, arguments).refused("23514");
        assert!(error.message().contains("0 is left of it"), "{}", error.message());
        session.run("ROLLBACK");
    }
    assert_eq!(reversed(&mut session, original), dec!(10));
    let descriptions: Vec<String> = session.values(
        "SELECT description FROM credits.credits_transactions WHERE reverses IS NOT NULL ORDER BY seq",
        &[],
    );
    assert_eq!(descriptions, ["goodwill".to_owned(), format!("Reversal of request {original}")]);
    session.assert_sound();
}

#[test]
fn a_retry_returns_the_stored_row() {
    let db = Database::create();
    let mut session = db.connect();
    let original = record(&mut session, 1, user(1), "purchase", dec!(10));
    let other = record(&mut session, 2, user(1), "purchase", dec!(10));
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let key = format!("'{isolation}'");
        let part = reverse(&mut session, original, &format!("{key}, 3, 'first'")).unwrap();
        session.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
        for arguments in ["", ", 3", ", 3.00, 'another text'", ", NULL, 'another text'"] {
            assert_eq!(reverse(&mut session, original, &format!("{key}{arguments}")).unwrap(), part);
        }
        session.run("COMMIT");
        for (id, arguments) in [(original, ", 2"), (other, ", 3"), (other, "")] {
            let error = reverse(&mut session, id, &format!("{key}{arguments}")).refused("23505");
            let message = error.message();
            assert!(message.contains(&format!("of transaction {id}")), "{message}");
            assert!(message.contains("admin_removal of 3"), "{message}");
        }
    }
    // Also where nothing is left, and by another way of writing.
    let rest = reverse(&mut session, original, "'rest'").unwrap();
    for arguments in ["'rest'", "'rest', 1"] {
        assert_eq!(reverse(&mut session, original, arguments).unwrap(), rest);
    }
    reverse(&mut session, other, &format!("'request {original}'")).refused("23505");
    insert(&mut session, user(1), "admin_removal", dec!(2), other).unwrap();
    assert_eq!(reversed(&mut session, original), dec!(10));
    session.assert_sound();
}

/// A session that has read before the first attempt committed cannot see that. It is told to begin again.
#[test]
fn a_retry_by_an_old_snapshot() {
    let db = Database::create();
    let (mut session, mut old) = (db.connect(), db.connect());
    let original = record(&mut session, 1, user(1), "usage", dec!(10));
    for (isolation, key) in [("REPEATABLE READ", "'first', 4"), ("SERIALIZABLE", "'rest'")] {
        old.run(&format!("BEGIN ISOLATION LEVEL {isolation}; SELECT FROM credits.credits_transactions"));
        let stored = reverse(&mut session, original, key).unwrap();
        reverse(&mut old, original, key).refused("40001");
        old.run("ROLLBACK");
        assert_eq!(reverse(&mut old, original, key).unwrap(), stored);
    }
    assert_eq!(reversed(&mut session, original), dec!(10));
}

#[test]
fn a_racing_retry_waits_and_returns_the_first_row() {
    let db = Database::create();
    let (mut first, second) = (db.connect(), db.connect());
    let original = record(&mut first, 1, user(1), "usage", dec!(10));
    for arguments in ["'part', 4", "'rest'"] {
        first.run("BEGIN");
        let stored = reverse(&mut first, original, arguments).unwrap();
        let retry = db.connect().background(move |session| reverse(session, original, arguments));
        db.until_blocked(retry.pid());
        first.run("COMMIT");
        assert_eq!(retry.finish().1.unwrap(), stored);
    }
    drop(second);
    first.assert_sound();
}

#[test]
fn what_cannot_be_reversed() {
    let db = Database::create();
    let mut session = db.connect();
    let original = record(&mut session, 1, user(1), "usage", dec!(10));
    let error = reverse(&mut session, id(9), "'refund'").refused("P0002");
    assert_eq!(error.message(), format!("there is no transaction {}", id(9)));
    reverse(&mut session, original, "'refund', 1").unwrap();
    let refund: Uuid =
        session.value("SELECT id FROM credits.credits_transactions WHERE source_id = 'refund'", &[]);
    let error = reverse(&mut session, refund, "'refund of refund'").refused("22023");
    assert_eq!(error.message(), format!("transaction {refund} is a reversal, which cannot be reversed"));
    assert!(error.hint().is_some());
    for (arguments, sqlstate, named) in [
        ("NULL, 'refund'", "22004", "transaction_id"),
        ("'{id}', NULL", "22004", "source_id"),
        ("'{id}', ' '", "23514", "argument source_id"),
        ("'{id}', 'x', 0", "23514", "amount"),
        ("'{id}', 'x', -1", "23514", "amount"),
        ("'{id}', 'x', 'NaN'", "23514", "amount"),
        ("'{id}', 'x', 10000000000000", "23514", "amount"),
        ("'{id}', 'x', 0.0000000000000001", "23514", "amount"),
    ] {
        let call = format!(
            "SELECT credits.reverse_transaction({})",
            arguments.replace("{id}", &original.to_string())
        );
        let error = session.try_run(&call).refused(sqlstate);
        assert!(error.message().contains(named), "{call}: {}", error.message());
    }
    let call = format!("SELECT credits.reverse_transaction('{original}', 'x')");
    session.try_run(&format!("BEGIN READ ONLY; {call}")).refused("25006");
    session.run("ROLLBACK");
    let long: String =
        session.value("SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) n", &[]);
    reverse(&mut session, original, &format!("'{long}'")).refused("54000");
    assert_eq!(reversed(&mut session, original), dec!(1));
    session.assert_sound();
}

/// An INSERT is checked at the end of its transaction.
#[test]
fn an_insert_is_checked_at_commit() {
    let db = Database::create();
    let mut session = db.connect();
    let original = record(&mut session, 1, user(1), "usage", dec!(10));
    let other = record(&mut session, 2, user(2), "usage", dec!(10));
    for (account, kind, amount, problem) in [
        (user(1), "usage", dec!(1), "of type usage, which admin_grant takes back"),
        (user(1), "purchase", dec!(1), "of type usage, which admin_grant takes back"),
        (user(2), "admin_grant", dec!(1), "of another account"),
        (user(1), "admin_grant", dec!(10.000000000000001), "10 is left of it, less than 10.000000000000001"),
    ] {
        session.run("BEGIN");
        insert(&mut session, account, kind, amount, original).unwrap();
        let error = session.try_run("COMMIT").refused("23514");
        assert!(error.message().contains(problem), "{}", error.message());
        insert(&mut session, account, kind, amount, original).refused("23514");
    }
    insert(&mut session, user(1), "admin_grant", dec!(4), original).unwrap();
    let refund: Uuid =
        session.value("SELECT id FROM credits.credits_transactions WHERE reverses IS NOT NULL", &[]);
    let error = insert(&mut session, user(1), "admin_removal", dec!(1), refund).refused("23514");
    assert!(error.message().contains("a reversal itself"), "{}", error.message());
    // Several in one transaction count together, whichever way they come.
    session.run("BEGIN");
    for _ in 0..2 {
        insert(&mut session, user(1), "admin_grant", dec!(2), original).unwrap();
    }
    insert(&mut session, user(2), "admin_grant", dec!(10), other).unwrap();
    reverse(&mut session, original, "'rest', 2.5").refused("23514");
    session.run("ROLLBACK; BEGIN");
    reverse(&mut session, original, "'part', 2").unwrap();
    insert(&mut session, user(1), "admin_grant", dec!(4.5), original).unwrap();
    let error = session.try_run("COMMIT").refused("23514");
    assert!(error.message().contains("6 is left of it, less than 6.5"), "{}", error.message());
    assert_eq!(reversed(&mut session, original), dec!(4));
    session.assert_sound();
}

/// One statement may take back what it records itself, and COPY brings reversals as INSERT does.
#[test]
fn an_original_and_its_reversals_in_one_statement() {
    let db = Database::create();
    let mut session = db.connect();
    let rows = |first: Decimal, second: Decimal| {
        format!(
            "INSERT INTO credits.credits_transactions (id, user_id, transaction_type, amount, source_id, reverses) VALUES
                 (gen_random_uuid(), '{user}', 'admin_removal', {first}, 'a', '{id}'),
                 ('{id}', '{user}', 'purchase', 10, 'b', NULL),
                 (gen_random_uuid(), '{user}', 'admin_removal', {second}, 'c', '{id}')",
            user = user(1),
            id = id(1)
        )
    };
    session.try_run(&rows(dec!(5), dec!(5.1))).refused("23514");
    session.run(&rows(dec!(5), dec!(5)));
    let copy = |session: &mut Session, amount: &str| {
        // The client does not wait for what comes behind the end of a COPY: an error of its commit would be lost.
        session.run("BEGIN");
        let mut writer = session.copy_in(
            "COPY credits.credits_transactions (user_id, transaction_type, amount, source_id, reverses) FROM STDIN (FORMAT csv)",
        ).unwrap();
        let row = format!("{},admin_removal,{amount},copied,{}\n", user(1), id(2));
        std::io::Write::write_all(&mut writer, row.as_bytes()).unwrap();
        assert_eq!(writer.finish().unwrap(), 1);
        session.try_run("COMMIT")
    };
    record(&mut session, 2, user(1), "purchase", dec!(3));
    copy(&mut session, "4").refused("23514");
    copy(&mut session, "3").unwrap();
    // An id that reverses itself is a reversal of a reversal.
    session
        .try_run(&format!(
            "INSERT INTO credits.credits_transactions (id, user_id, transaction_type, amount, source_id, reverses)
             VALUES ('{id}', '{user}', 'admin_removal', 1, 'self', '{id}')",
            user = user(1),
            id = id(3)
        ))
        .refused("23514");
    assert_eq!(session.balance(user(1)), dec!(0));
    session.assert_sound();
}

/// Two reversals that fit singly: the second waits for the first to end, and is refused then.
#[test]
fn two_that_fit_singly() {
    let db = Database::create_alone();
    for isolation in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let mut session = db.connect();
        let number = u128::from(isolation.as_bytes()[2]);
        let original = record(&mut session, number, user(1), "usage", dec!(10));
        let begin = |key: &str| {
            let mut session = db.connect();
            session.run(&format!("BEGIN ISOLATION LEVEL {isolation}"));
            reverse(&mut session, original, &format!("'{isolation} {key}', 6")).unwrap();
            session
        };
        let (first, second) = (begin("first"), begin("second"));
        let held = db.hold_commit(first);
        let second = second.background(|session| session.try_run("COMMIT"));
        db.until_blocked(second.pid());
        held.release();
        let error = second.finish().1.refused("23514");
        assert!(error.message().contains("4 is left of it, less than 6"), "{}", error.message());
        assert_eq!(reversed(&mut session, original), dec!(6), "{isolation}");
        // An attempt that is rolled back leaves all to the next one.
        let mut aborting = db.connect();
        aborting.run("BEGIN");
        reverse(&mut aborting, original, &format!("'{isolation} aborts'")).unwrap();
        reverse(&mut session, original, &format!("'{isolation} rest', 4")).unwrap();
        aborting.run("ROLLBACK");
        session.assert_sound();
    }
}

/// A reversal by plain INSERT and one by the function, in two transactions that an old snapshot would let pass.
#[test]
fn an_old_snapshot_does_not_decide() {
    let db = Database::create();
    let (mut old, mut session) = (db.connect(), db.connect());
    let original = record(&mut session, 1, user(1), "usage", dec!(10));
    for isolation in ["REPEATABLE READ", "SERIALIZABLE"] {
        old.run(&format!(
            "BEGIN ISOLATION LEVEL {isolation}; SELECT FROM credits.credits_transactions LIMIT 1"
        ));
        insert(&mut session, user(1), "admin_grant", dec!(5), original).unwrap();
        let left = dec!(10) - reversed(&mut session, original);
        let error =
            reverse(&mut old, original, &format!("'{isolation}', {}", left + dec!(1))).refused("23514");
        assert!(error.message().contains(&format!("{left} is left")), "{}", error.message());
        old.run(&format!(
            "ROLLBACK; BEGIN ISOLATION LEVEL {isolation}; SELECT FROM credits.credits_transactions LIMIT 1"
        ));
        insert(&mut old, user(1), "admin_grant", left + dec!(1), original).unwrap();
        old.try_run("COMMIT").refused("23514");
    }
    session.assert_sound();
}

#[test]
fn savepoints() {
    let db = Database::create();
    let mut session = db.connect();
    let original = record(&mut session, 1, user(1), "usage", dec!(10));
    session.run("BEGIN; SAVEPOINT s");
    insert(&mut session, user(1), "admin_grant", dec!(100), original).unwrap();
    session.run("ROLLBACK TO s");
    insert(&mut session, user(1), "admin_grant", dec!(4), original).unwrap();
    session.run("SAVEPOINT t");
    reverse(&mut session, original, "'rolled back'").unwrap();
    session.run("ROLLBACK TO t");
    reverse(&mut session, original, "'kept', 3").unwrap();
    session.run("RELEASE s; COMMIT");
    assert_eq!(reversed(&mut session, original), dec!(7));
    // What was rolled back altogether is no reason to refuse anything, not even beside one that is too much already.
    session.run("SET check_function_bodies = off");
    insert(&mut session, user(1), "admin_grant", dec!(100), original).unwrap();
    session.run("RESET check_function_bodies; BEGIN; SAVEPOINT s");
    insert(&mut session, user(1), "admin_grant", dec!(1), original).unwrap();
    session.run("ROLLBACK TO s");
    session.grant(user(1), dec!(1));
    session.run("COMMIT");
    assert_eq!(listed(&mut session).len(), 3);
}

/// A restore may bring a reversal before its original. It is listed until that is there and covers it.
#[test]
fn a_reversal_before_its_original() {
    let db = Database::create();
    let mut session = db.connect();
    insert(&mut session, user(1), "admin_removal", dec!(6), id(1)).unwrap();
    insert(&mut session, user(1), "admin_removal", dec!(3), id(1)).unwrap();
    let missing = listed(&mut session);
    assert_eq!(missing.len(), 2);
    assert!(
        missing.iter().all(|row| row.contains(&format!("reverses {}, which is not there", id(1)))),
        "{missing:?}"
    );
    record(&mut session, 1, user(1), "purchase", dec!(10));
    assert_eq!(listed(&mut session), [""; 0]);
    session.assert_sound();
    // They count from then on.
    let error = reverse(&mut session, id(1), "'refund', 2").refused("23514");
    assert!(error.message().contains("1 is left of it"), "{}", error.message());
    reverse(&mut session, id(1), "'refund'").unwrap();
    session.assert_sound();

    // One that comes and does not cover them is not refused, and nothing can be taken back of it.
    for (number, account, kind, amount, problem) in [
        (2, user(1), "purchase", dec!(5), "whose reversals sum to 6, more than 5"),
        (3, user(2), "purchase", dec!(10), "which is of user"),
        (4, user(1), "usage", dec!(10), "which is of type usage, by admin_removal"),
    ] {
        insert(&mut session, user(1), "admin_removal", dec!(6), id(number)).unwrap();
        record(&mut session, number, account, kind, amount);
        let listed = listed(&mut session);
        let of_it: Vec<_> = listed.iter().filter(|row| row.contains(&id(number).to_string())).collect();
        assert!(of_it.len() == 1 && of_it[0].contains(problem), "{listed:?}");
    }
    let error = reverse(&mut session, id(2), "'refund 2'").refused("23514");
    assert!(error.message().contains("0 is left of it"), "{}", error.message());
    // A row of another account takes nothing from what its owner can have back.
    reverse(&mut session, id(3), "'refund 3', 10").unwrap();
    // A reversal whose original is a reversal.
    insert(&mut session, user(1), "admin_grant", dec!(1), id(5)).unwrap();
    record(&mut session, 6, user(1), "purchase", dec!(10));
    session
        .execute(
            "INSERT INTO credits.credits_transactions (id, user_id, transaction_type, amount, source_id, reverses)
             VALUES ($1, $2, 'admin_removal', 1, 'late', $3)",
            &[&id(5), &user(1), &id(6)],
        )
        .unwrap();
    let listed = listed(&mut session);
    assert!(listed.iter().any(|row| row.contains("which is a reversal itself")), "{listed:?}");
}

/// What was let in where it comes from is stored again by a restore, in one transaction or in several.
#[test]
fn a_restore_is_not_refused() {
    let db = Database::create();
    let mut session = db.connect();
    for settings in ["SET check_function_bodies = off", "SET session_replication_role = replica"] {
        let number = settings.len() as u128;
        session.run(&format!("{settings}; BEGIN"));
        insert(&mut session, user(1), "usage", dec!(20), id(number)).unwrap();
        record(&mut session, number, user(2), "purchase", dec!(10));
        session.run("COMMIT");
        insert(&mut session, user(2), "admin_removal", dec!(20), id(number)).unwrap();
        // The function checks what it records itself, wherever it is called.
        reverse(&mut session, id(number), "'refund'").refused("23514");
        session.run("RESET ALL");
        insert(&mut session, user(2), "admin_removal", dec!(1), id(number)).refused("23514");
    }
    assert_eq!(listed(&mut session).len(), 4);
    session.run("SET check_function_bodies = off");
    record(&mut session, 1, user(3), "usage", dec!(10));
    session.run("BEGIN");
    reverse(&mut session, id(1), "'part', 6").unwrap();
    insert(&mut session, user(3), "admin_grant", dec!(6), id(1)).unwrap();
    session.try_run("COMMIT").refused("23514");
}

#[test]
fn a_transaction_with_reversals_is_not_prepared() {
    let db = Database::create();
    let mut session = db.connect();
    let original = record(&mut session, 1, user(1), "usage", dec!(10));
    let gid = format!("'{}_reversals'", db.name());
    session.run("BEGIN");
    reverse(&mut session, original, "'refund'").unwrap();
    let error = session.try_run(&format!("PREPARE TRANSACTION {gid}")).refused("0A000");
    assert!(error.hint().is_some());
    session.run("ROLLBACK; BEGIN");
    insert(&mut session, user(1), "admin_grant", dec!(1), id(7)).unwrap();
    session.try_run(&format!("PREPARE TRANSACTION {gid}")).refused("0A000");
    // One that another transaction has recorded is none of this one's.
    session.run("ROLLBACK");
    reverse(&mut session, original, "'earlier', 1").unwrap();
    // What was rolled back or refused is not there any more.
    session.run("BEGIN; SAVEPOINT s");
    insert(&mut session, user(1), "admin_grant", dec!(1), original).unwrap();
    session.run("ROLLBACK TO s");
    reverse(&mut session, original, "'too much', 10").refused("23514");
    session.run("ROLLBACK TO s");
    session.charge(user(1), dec!(1));
    session.run(&format!("PREPARE TRANSACTION {gid}"));
    session.run(&format!("COMMIT PREPARED {gid}"));
    session.run("BEGIN; SAVEPOINT s");
    insert(&mut session, user(1), "admin_grant", dec!(1), original).unwrap();
    session.run("ROLLBACK TO s");
    insert(&mut session, user(1), "admin_grant", dec!(1), original).unwrap();
    session.try_run(&format!("PREPARE TRANSACTION {gid}")).refused("0A000");
    // Nothing of it is left in the session.
    session.run("ROLLBACK; BEGIN");
    session.charge(user(1), dec!(1));
    session.run(&format!("PREPARE TRANSACTION {gid}"));
    session.run(&format!("COMMIT PREPARED {gid}"));
    session.refresh(user(1));
    session.assert_sound();
}

/// What is in flight is not there: it may roll back.
#[test]
fn a_reversal_beside_its_original() {
    let db = Database::create();
    let (mut session, mut other) = (db.connect(), db.connect());
    other.run("BEGIN");
    record(&mut other, 1, user(1), "purchase", dec!(5));
    insert(&mut session, user(1), "admin_removal", dec!(6), id(1)).unwrap();
    other.run("ROLLBACK");
    let listed = listed(&mut session);
    assert!(listed.len() == 1 && listed[0].contains("which is not there"), "{listed:?}");
}

/// Without the index the commit reads all rows of the account, and says the same.
#[test]
fn without_the_index() {
    let db = Database::create();
    let mut session = db.connect();
    let index = "credits.credits_transactions_reverses_idx";
    let original = record(&mut session, 1, user(1), "usage", dec!(10));
    reverse(&mut session, original, "'first', 4").unwrap();
    for change in [
        format!("UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass"),
        unguarded(&format!("DROP INDEX {index}")),
    ] {
        session.run(&change);
        let mut other = db.connect();
        let error = insert(&mut other, user(1), "admin_grant", dec!(7), original).refused("23514");
        assert!(error.message().contains("6 is left"), "{}", error.message());
        let error = reverse(&mut session, original, "'second', 7").refused("23514");
        assert!(error.message().contains("6 is left"), "{}", error.message());
        other.run("BEGIN");
        reverse(&mut other, original, "'prepared', 1").unwrap();
        other.try_run(&format!("PREPARE TRANSACTION '{}_reversal'", db.name())).refused("0A000");
    }
    reverse(&mut session, original, "'second', 6").unwrap();
    session.assert_sound();
}

/// The index is made anew while sessions that have opened it before go on.
#[test]
fn while_the_index_is_rebuilt() {
    let db = Database::create();
    let (mut session, mut maintenance) = (db.connect(), db.connect());
    let original = record(&mut session, 1, user(1), "usage", dec!(10));
    for number in 0..9 {
        reverse(&mut session, original, &format!("'part {number}', 1")).unwrap();
        maintenance.run("REINDEX INDEX CONCURRENTLY credits.credits_transactions_reverses_idx");
        maintenance.run("REINDEX INDEX CONCURRENTLY credits.credits_transactions_pkey");
    }
    insert(&mut session, user(1), "admin_grant", dec!(1.1), original).refused("23514");
    insert(&mut session, user(1), "admin_grant", dec!(1), original).unwrap();
    session.assert_sound();
    session.assert_as_made();
}

/// A commit that meets a locked index waits for it without a stripe in its hands.
#[test]
fn a_locked_index_is_waited_for_without_a_stripe() {
    let db = Database::create();
    let (mut session, mut maintenance) = (db.connect(), db.connect());
    let original = record(&mut session, 1, user(1), "usage", dec!(10));
    for index in ["credits_transactions_reverses_idx", "credits_transactions_pkey"] {
        let mut committing = db.connect();
        committing.run("BEGIN");
        insert(&mut committing, user(1), "admin_grant", dec!(1), original).unwrap();
        committing.charge(user(2), dec!(1));
        maintenance.run(&format!("BEGIN; ALTER INDEX credits.{index} SET (fillfactor = 80)"));
        maintenance.run("SAVEPOINT s");
        let locked: bool = maintenance.value(
            "SELECT bool_or(mode = 'AccessExclusiveLock') FROM pg_locks WHERE relation = $1::text::regclass AND pid = pg_backend_pid()",
            &[&format!("credits.{index}")],
        );
        if !locked {
            maintenance.run(&unguarded(&format!("ALTER INDEX credits.{index} SET TABLESPACE pg_default")));
        }
        let committing = committing.background(|session| session.try_run("COMMIT"));
        db.until_blocked(committing.pid());
        let stripes: i64 = session.value(
            "SELECT count(*) FROM pg_locks WHERE pid = $1 AND locktype = 'advisory' AND objsubid = 193",
            &[&committing.pid()],
        );
        assert_eq!(stripes, 0, "{index}");
        maintenance.run("ROLLBACK");
        committing.finish().1.unwrap();
    }
    session.assert_sound();
}

/// Of two locked indexes, a commit waits first for the one that comes first, and does not keep the other meanwhile.
#[test]
fn locked_indexes_are_waited_for_in_their_order() {
    let db = Database::create();
    let [mut session, mut one, mut other, mut committing] = [0; 4].map(|_| db.connect());
    let original = record(&mut session, 1, user(1), "usage", dec!(10));
    let lock = |session: &mut Session, index: &str| {
        session.run(&format!("BEGIN; ALTER INDEX credits.{index} SET TABLESPACE pg_default"));
    };
    session.run("ALTER EVENT TRIGGER credits_ledger_guard DISABLE");
    committing.run("BEGIN");
    insert(&mut committing, user(1), "admin_grant", dec!(1), original).unwrap();
    lock(&mut one, "credits_transactions_reverses_idx");
    let committing = committing.background(|session| session.try_run("COMMIT"));
    db.until_blocked(committing.pid());
    lock(&mut other, "credits_transactions_pkey");
    one.run("ROLLBACK");
    db.until_blocked(committing.pid());
    let locks: Vec<String> = session.values(
        "SELECT format('%s %s', relation::regclass, granted) FROM pg_locks JOIN pg_index ON indexrelid = relation
         WHERE pid = $1 AND indrelid = 'credits.credits_transactions'::regclass",
        &[&committing.pid()],
    );
    assert_eq!(locks, ["credits.credits_transactions_pkey f"]);
    other.run("ROLLBACK");
    committing.finish().1.unwrap();
    session.run("ALTER EVENT TRIGGER credits_ledger_guard ENABLE ALWAYS");
    session.assert_sound();
}

/// A caller takes back what it may see, with its own privileges.
#[test]
fn with_the_caller_s_privileges() {
    let db = Database::create();
    let mut session = db.connect();
    let role = db.create_role("refunds");
    session.run(&format!(
        "GRANT USAGE ON SCHEMA credits TO {role};
         GRANT SELECT ON credits.credits_transactions TO {role};
         GRANT EXECUTE ON FUNCTION credits.reverse_transaction TO {role}"
    ));
    let (seen, hidden) = (
        record(&mut session, 1, user(1), "usage", dec!(10)),
        record(&mut session, 2, user(2), "usage", dec!(10)),
    );
    let mut caller = db.connect_as(&role);
    reverse(&mut caller, seen, "'refund'").refused("42501");
    session.run(&format!(
        "GRANT INSERT ON credits.credits_transactions TO {role};
         ALTER TABLE credits.credits_transactions ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON credits.credits_transactions TO {role}
             USING (user_id = '{}') WITH CHECK (user_id = '{0}')",
        user(1)
    ));
    reverse(&mut caller, hidden, "'refund'").refused("P0002");
    reverse(&mut caller, seen, "'refund', 4").unwrap();
    // A taken source_id of a row that it does not see.
    reverse(&mut session, hidden, "'taken'").unwrap();
    let error = reverse(&mut caller, seen, "'taken'").refused("23505");
    assert!(error.message().contains("may not see"), "{}", error.message());
    assert_eq!(reversed(&mut session, seen), dec!(4));
    session.assert_sound();
}

/// A session that has taken something back does not look for it later on.
#[test]
fn reversals_are_forgotten_with_their_transaction() {
    let db = Database::create();
    let [mut session, mut maintenance] = [db.connect(), db.connect()];
    let original = record(&mut session, 1, user(1), "usage", dec!(10));
    reverse(&mut session, original, "'first', 4").unwrap();
    maintenance.run(&format!(
        "BEGIN; {}",
        unguarded("ALTER INDEX credits.credits_transactions_reverses_idx SET TABLESPACE pg_default")
    ));
    session.run("SET lock_timeout = '50s'");
    session.refresh(user(1));
    maintenance.run("COMMIT");
    session.assert_sound();
}

/// A row whose original is not there does not keep the others of its account from being checked.
#[test]
fn too_much_is_refused_beside_a_row_without_an_original() {
    let db = Database::create();
    let mut session = db.connect();
    // Originals are looked at in the order of their ids.
    let original = record(&mut session, 2, user(1), "usage", dec!(10));
    session.run("BEGIN");
    insert(&mut session, user(1), "admin_grant", dec!(1), id(1)).unwrap();
    insert(&mut session, user(1), "admin_grant", dec!(11), original).unwrap();
    session.try_run("COMMIT").refused("23514");
    assert_eq!(reversed(&mut session, original), dec!(0));
    session.assert_sound();
}
