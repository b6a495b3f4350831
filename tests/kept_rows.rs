//! What readers see of a node that keeps rows of buckets which have left it, and has rows of buckets that are arriving.

use credits_ledger_tests::{Database, Refused, Session, user};

/// A state of a user's bucket.
fn set_state(session: &mut Session, number: u32, state: &str) {
    session.run(&format!(
        "INSERT INTO credits.bucket_states (bucket, state) VALUES (credits.bucket_of('{user}'), '{state}')
         ON CONFLICT (bucket) DO UPDATE SET state = excluded.state",
        user = user(number)
    ));
}

/// The user's bucket is simply here again.
fn bring_back(session: &mut Session, number: u32) {
    session.run(&format!(
        "DELETE FROM credits.bucket_states WHERE bucket = credits.bucket_of('{}')",
        user(number)
    ));
}

/// Of the users with these numbers, those that are here, as a statement sees it: by each of the functions that say so.
fn here(session: &mut Session) -> Vec<u32> {
    let users: Vec<String> = (1..=3).map(|number| format!("({number}, '{}'::uuid)", user(number))).collect();
    let rows = session
        .query(
            &format!(
                "SELECT number, credits.is_here(u), get_bit(credits.owned_buckets(), credits.bucket_of(u)) = 1,
                        credits.has_all_buckets()
                 FROM (VALUES {}) AS users (number, u) ORDER BY number",
                users.join(", ")
            ),
            &[],
        )
        .unwrap();
    let has_all = rows[0].get::<_, bool>(3);
    let is_here = |row: &postgres::Row| {
        assert_eq!(row.get::<_, bool>(1), row.get::<_, bool>(2));
        row.get::<_, bool>(1)
    };
    let here: Vec<u32> = rows
        .iter()
        .filter(|row| is_here(row))
        .map(|row| u32::try_from(row.get::<_, i32>(0)).unwrap())
        .collect();
    assert!(!has_all || here.len() == 3);
    here
}

#[test]
fn a_statement_sees_the_buckets_of_its_snapshot() {
    let db = Database::create();
    let (mut admin, mut session, mut older) = (db.connect(), db.connect(), db.connect());
    assert_eq!(here(&mut session), [1, 2, 3]);
    assert_eq!(session.value::<String>("SELECT credits.owned_buckets()::text", &[]), "1".repeat(1024));
    older.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    assert_eq!(here(&mut older), [1, 2, 3]);
    set_state(&mut admin, 1, "moving");
    assert_eq!(here(&mut session), [1, 2, 3]);
    assert!(session.value::<bool>("SELECT credits.has_all_buckets()", &[]));
    set_state(&mut admin, 1, "elsewhere");
    set_state(&mut admin, 2, "arriving");
    assert_eq!(here(&mut session), [3]);
    assert_eq!(here(&mut older), [1, 2, 3]);
    let mut later = db.connect();
    assert_eq!(here(&mut later), [3]);
    // What the own transaction has changed is seen, and no more when it was taken back.
    admin.run("BEGIN; SAVEPOINT before");
    bring_back(&mut admin, 1);
    assert_eq!(here(&mut admin), [1, 3]);
    assert_eq!(here(&mut session), [3]);
    admin.run("ROLLBACK TO before");
    assert_eq!(here(&mut admin), [3]);
    admin.run("ROLLBACK");
    assert_eq!(here(&mut admin), [3]);
    bring_back(&mut admin, 2);
    assert_eq!(here(&mut session), [2, 3]);
    assert_eq!(here(&mut older), [1, 2, 3]);
    older.run("COMMIT");
    assert_eq!(here(&mut older), [2, 3]);
}

#[test]
fn a_class_is_whole_or_refused() {
    let db = Database::create();
    let (mut admin, mut session, mut older) = (db.connect(), db.connect(), db.connect());
    let bucket: i32 = admin.value("SELECT credits.bucket_of($1)", &[&user(1)]);
    let its_class = format!("SELECT credits.require_class(4, {})", bucket & 3);
    let other_class = format!("SELECT credits.require_class(4, {})", (bucket + 1) & 3);
    session.run(&its_class);
    older.run("BEGIN ISOLATION LEVEL REPEATABLE READ");
    older.run(&its_class);
    for (state, is_whole) in [("moving", true), ("elsewhere", false), ("arriving", false), ("moving", true)] {
        set_state(&mut admin, 1, state);
        for session in [&mut session, &mut db.connect()] {
            session.run(&other_class);
            for class in [&its_class, "SELECT credits.require_class(1, 0)"] {
                if is_whole {
                    session.run(class);
                } else {
                    let error = session.try_run(class).refused("LC003");
                    assert_eq!(error.message(), format!("bucket {bucket} is not on this node"));
                    assert_eq!(error.detail(), Some(format!("{{\"bucket\":{bucket}}}").as_str()));
                }
            }
        }
        older.run(&its_class);
    }
    for (class, sqlstate) in [
        ("NULL, 0", "22004"),
        ("1, NULL", "22004"),
        ("3, 0", "22023"),
        ("0, 0", "22023"),
        ("2048, 0", "22023"),
        ("4, 4", "22023"),
        ("4, -1", "22023"),
    ] {
        session.try_run(&format!("SELECT credits.require_class({class})")).refused(sqlstate);
    }
}
