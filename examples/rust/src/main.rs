//! A prepaid account, from its first purchase to zero, with the crate `postgres`.
//!
//! PGHOST, PGUSER and PGDATABASE say where. Any surprise ends the program with a status other than 0.

use std::env;
use std::error::Error;
use std::time::Duration;

use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, Config, NoTls};
use rust_decimal::Decimal;
use serde_json::Value;
use uuid::Uuid;

const RECORD_USAGE: &str = "
    INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
    VALUES ($1, 'usage', $2, $3, $4)";

fn main() -> Result<(), Box<dyn Error>> {
    // Two connections: a listener stays connected, while the others may come from a pool.
    let (mut db, mut listener) = (connect()?, connect()?);
    listener.batch_execute("LISTEN credits_balance_crossed")?;

    // New ids, so that this can be run again and again.
    let ids = db.query_one("SELECT gen_random_uuid(), gen_random_uuid()", &[])?;
    let (account, batch): (Uuid, Uuid) = (ids.get(0), ids.get(1));

    // A purchase. The source_id makes it safe to try again: the same one is recorded once.
    for _attempt in 0..2 {
        db.execute(
            "SELECT FROM credits.create_transaction(
                 user_id => $1, transaction_type => 'purchase', amount => $2, source_id => $3)",
            &[&account, &Decimal::from(10), &format!("invoice-{account}")],
        )?;
    }

    // Usage is a plain INSERT, here one transaction with four rows. The first three requests are a batch.
    let (small, large) = (Decimal::new(123, 6), Decimal::new(25, 2));
    let charges = [(small, Some(batch)), (small, Some(batch)), (small, Some(batch)), (large, None)];
    let mut transaction = db.transaction()?;
    for (n, (amount, batch)) in charges.iter().enumerate() {
        transaction.execute(RECORD_USAGE, &[&account, amount, &format!("request-{n}-{account}"), batch])?;
    }
    transaction.commit()?;
    let left = balance(&mut db, account)?;
    println!("balance: {left}");
    assert_eq!(left, Decimal::new(9_749_631, 6));

    // The history, newest first, with the batch as one item. The next page: before_seq => the last seq of this one.
    let page = db.query(
        "SELECT transaction_type, amount, batch_count
           FROM credits.list_transactions_with_batches(user_id => $1, \"limit\" => $2)",
        &[&account, &10_i64],
    )?;
    let page: Vec<(&str, Decimal, i32)> =
        page.iter().map(|item| (item.get(0), item.get(1), item.get(2))).collect();
    println!("page: {page:?}");
    let (batch_total, bought) = (small * Decimal::from(3), Decimal::from(10));
    assert_eq!(page, [("usage", large, 1), ("usage", batch_total, 3), ("purchase", bought, 1)]);

    // Spending the rest takes the balance to zero, which the commit announces.
    db.execute(RECORD_USAGE, &[&account, &left, &format!("request-last-{account}"), &None::<Uuid>])?;
    let directions = crossings(&mut listener, account, 2)?;
    println!("crossings: {directions:?}");
    assert_eq!(directions, ["up", "down"]);
    assert_eq!(balance(&mut db, account)?, Decimal::ZERO);
    Ok(())
}

/// The crate does not read the environment by itself.
fn connect() -> Result<Client, Box<dyn Error>> {
    let (host, user, database) = (env::var("PGHOST")?, env::var("PGUSER")?, env::var("PGDATABASE")?);
    Ok(Config::new().host(&host).user(&user).dbname(&database).connect(NoTls)?)
}

/// A `Decimal` holds the balance exactly; a float would not.
fn balance(db: &mut Client, account: Uuid) -> Result<Decimal, postgres::Error> {
    Ok(db.query_one("SELECT credits.get_user_balance($1)", &[&account])?.get(0))
}

/// The next directions that this account crosses zero in; the channel carries those of all accounts.
fn crossings(listener: &mut Client, account: Uuid, count: usize) -> Result<Vec<String>, Box<dyn Error>> {
    let mut notifications = listener.notifications();
    let mut notifications = notifications.timeout_iter(Duration::from_secs(10));
    let mut directions = Vec::new();
    while directions.len() < count
        && let Some(notification) = notifications.next()?
    {
        let crossing: Value = serde_json::from_str(notification.payload())?;
        if crossing["user_id"] == account.to_string() {
            directions.push(crossing["direction"].as_str().unwrap_or_default().to_owned());
        }
    }
    Ok(directions)
}
