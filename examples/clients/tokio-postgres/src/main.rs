//! A prepaid account, from its first purchase to zero, with tokio-postgres.
//!
//! PGHOST, PGPORT, PGUSER and PGDATABASE say where. Any surprise ends the program with a status other than 0.

use std::env;
use std::error::Error;
use std::future::poll_fn;
use std::time::{Duration, SystemTime};

use rust_decimal::Decimal;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};
use uuid::Uuid;

const PURCHASE: &str = "
    SELECT FROM credits.create_transaction(
        user_id => $1, transaction_type => 'purchase', amount => $2, source_id => $3)";
const RECORD_USAGE: &str = "
    INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
    VALUES ($1, 'usage', $2, $3, $4)";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // New ids, so that this can be run again and again.
    let (account, batch) = (Uuid::new_v4(), Uuid::new_v4());

    // Two connections: a listener stays connected, while the others may come from a pool.
    let (mut db, _) = connect(account).await?;
    let (listener, mut crossings) = connect(account).await?;
    listener.batch_execute("LISTEN credits_balance_crossed").await?;

    // A purchase. The source_id makes it safe to try again: the same one is recorded once.
    let invoice = format!("invoice-{account}");
    for _attempt in 0..2 {
        db.execute(PURCHASE, &[&account, &Decimal::from(10), &invoice]).await?;
    }

    // With another amount it is refused: this is no retry.
    let refused = db.execute(PURCHASE, &[&account, &Decimal::from(11), &invoice]).await;
    assert_eq!(refused.unwrap_err().code(), Some(&SqlState::UNIQUE_VIOLATION));

    // Usage is a plain INSERT, here one transaction with four rows. The first three requests are a batch.
    let (small, large) = (Decimal::new(123, 6), Decimal::new(25, 2));
    let charges = [(small, Some(batch)), (small, Some(batch)), (small, Some(batch)), (large, None)];
    let transaction = db.transaction().await?;
    let record_usage = transaction.prepare(RECORD_USAGE).await?;
    for (n, (amount, batch)) in charges.iter().enumerate() {
        transaction
            .execute(&record_usage, &[&account, amount, &format!("request-{n}-{account}"), batch])
            .await?;
    }
    transaction.commit().await?;
    let left = balance(&db, account).await?;
    println!("balance: {left}");
    assert_eq!(left, Decimal::new(9_749_631, 6));

    // The history, newest first, with the batch as one item. The next page: before_seq => the last seq of this one.
    let page = db
        .query(
            "SELECT transaction_type, amount, batch_count, id, created_at
               FROM credits.list_transactions_with_batches(user_id => $1, \"limit\" => $2)",
            &[&account, &10_i64],
        )
        .await?;
    let items: Vec<(&str, Decimal, i32)> =
        page.iter().map(|item| (item.get(0), item.get(1), item.get(2))).collect();
    println!("page: {items:?}");
    let (batch_total, bought) = (small * Decimal::from(3), Decimal::from(10));
    assert_eq!(items, [("usage", large, 1), ("usage", batch_total, 3), ("purchase", bought, 1)]);
    let (_id, _created_at): (Uuid, SystemTime) = (page[0].get(3), page[0].get(4));

    // Spending the rest takes the balance to zero, which the commit announces.
    db.execute(RECORD_USAGE, &[&account, &left, &format!("request-last-{account}"), &None::<Uuid>]).await?;
    for direction in ["up", "down"] {
        let crossing = timeout(Duration::from_secs(10), crossings.recv()).await?;
        assert_eq!(crossing.as_deref(), Some(direction));
        println!("crossing: {direction}");
    }
    assert_eq!(balance(&db, account).await?, Decimal::ZERO);
    Ok(())
}

/// A connection, and the directions that the account crosses zero in, for whoever listens on it.
async fn connect(account: Uuid) -> Result<(Client, mpsc::UnboundedReceiver<String>), Box<dyn Error>> {
    // The crate does not read the environment by itself.
    let (client, mut connection) = Config::new()
        .host(env::var("PGHOST")?)
        .port(env::var("PGPORT")?.parse()?)
        .user(env::var("PGUSER")?)
        .dbname(env::var("PGDATABASE")?)
        .connect(NoTls)
        .await?;
    let (sender, receiver) = mpsc::unbounded_channel();
    // The connection does its work here, until its client is dropped. Awaited as it is, it would throw notifications away.
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            // The channel carries the crossings of all accounts.
            if let AsyncMessage::Notification(notification) = message
                && let Ok(crossing) = serde_json::from_str::<Value>(notification.payload())
                && crossing["user_id"] == account.to_string()
            {
                let _ = sender.send(crossing["direction"].as_str().unwrap_or_default().to_owned());
            }
        }
    });
    Ok((client, receiver))
}

/// A `Decimal` holds the balance exactly; a float would not.
async fn balance(db: &Client, account: Uuid) -> Result<Decimal, tokio_postgres::Error> {
    Ok(db.query_one("SELECT credits.get_user_balance($1)", &[&account]).await?.get(0))
}
