//! A prepaid account, from its first purchase over holds and a refusal to zero, with sqlx.
//!
//! PGHOST, PGPORT, PGUSER and PGDATABASE say where. Any surprise ends the program with a status other than 0.

use std::error::Error;
use std::time::Duration;

use rust_decimal::Decimal;
use serde_json::Value;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::types::chrono::{DateTime, Utc};
use sqlx::{PgPool, query, query_as, query_scalar};
use tokio::time::timeout;
use uuid::Uuid;

const RECORD_USAGE: &str = "
    INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
    VALUES ($1, 'usage', $2, $3)";

const INSUFFICIENT_CREDITS: &str = "LC001";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // New ids, so that this can be run again and again.
    let (account, batch) = (Uuid::new_v4(), Uuid::new_v4());
    // libpq's own variables say where.
    let pool = PgPoolOptions::new().max_connections(4).connect("postgres://").await?;
    // It keeps a connection of the pool's for itself, and listens again after a reconnect: crossings of between are in credits.balances.
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen("credits_balance_crossed").await?;

    // A purchase. The source_id makes it safe to try again: the same one is recorded once.
    for _attempt in 0..2 {
        purchase(&pool, account, 10).await?;
    }

    // With another amount it is refused: this is no retry.
    let refused = purchase(&pool, account, 11).await.unwrap_err();
    assert!(refused.as_database_error().is_some_and(|error| error.code().as_deref() == Some("23505")));

    // Many rows are one INSERT of arrays. The first three requests are a batch. A retry adds nothing.
    let (small, large) = (Decimal::new(123, 6), Decimal::new(25, 2));
    let amounts = [small, small, small, large];
    let source_ids: Vec<String> = (0..4).map(|n| format!("request-{n}-{account}")).collect();
    let batches = [Some(batch), Some(batch), Some(batch), None];
    for _attempt in 0..2 {
        query(
            "INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
             SELECT $1, 'usage', * FROM unnest($2::numeric[], $3::text[], $4::uuid[])
             ON CONFLICT (source_id) DO NOTHING",
        )
        .bind(account)
        .bind(&amounts[..])
        .bind(&source_ids)
        .bind(&batches[..])
        .execute(&pool)
        .await?;
    }
    assert_eq!(balance(&pool, account).await?, Decimal::new(9_749_631, 6));

    // The history, newest first, with the batch as one item. The next page: before_seq => the last seq of this one.
    let page: Vec<(String, Decimal, i32, Uuid, DateTime<Utc>)> = query_as(
        "SELECT transaction_type, amount, batch_count, id, created_at
           FROM credits.list_transactions_with_batches(user_id => $1, \"limit\" => $2)",
    )
    .bind(account)
    .bind(10_i64)
    .fetch_all(&pool)
    .await?;
    let items: Vec<(&str, Decimal, i32)> =
        page.iter().map(|(kind, amount, rows, ..)| (kind.as_str(), *amount, *rows)).collect();
    println!("page: {items:?}");
    let (batch_total, bought) = (small * Decimal::from(3), Decimal::from(10));
    assert_eq!(items, [("usage", large, 1), ("usage", batch_total, 3), ("purchase", bought, 1)]);

    // A limit: holds may take the account to zero and no further, as without this row. A threshold: below 5, somebody wants to know.
    query(
        "INSERT INTO credits.spending_limits (user_id, overdraft_limit, thresholds) VALUES ($1, 0, ARRAY[5])",
    )
    .bind(account)
    .execute(&pool)
    .await?;

    // A request that may cost 6 credits: they are held before it is served. Nobody else can spend them meanwhile.
    let source_id = format!("request-held-{account}");
    assert!(hold(&pool, account, 6, &source_id).await?);
    assert!(!hold(&pool, account, 6, &format!("request-refused-{account}")).await?);
    println!("held 6, and refused to hold 6 more");

    // When the request is done, what it has cost is captured, and the rest of the hold is free again. This crosses the threshold.
    query("SELECT FROM credits.capture_hold(source_id => $1, amount => $2)")
        .bind(source_id)
        .bind(Decimal::new(55, 1))
        .execute(&pool)
        .await?;
    let left: Decimal =
        query_scalar("SELECT credits.get_available_balance($1)").bind(account).fetch_one(&pool).await?;
    println!("available: {left}");
    assert_eq!(left, Decimal::new(4_249_631, 6));

    // Spending the rest takes the balance to zero, which the commit announces, too.
    let mut transaction = pool.begin().await?;
    query(RECORD_USAGE)
        .bind(account)
        .bind(left)
        .bind(format!("request-last-{account}"))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    for expected in ["up at 0", "down at 5", "down at 0"] {
        let crossing = timeout(Duration::from_secs(10), next_crossing(&mut listener, account)).await??;
        assert_eq!(crossing, expected);
        println!("crossing: {crossing}");
    }
    assert_eq!(balance(&pool, account).await?, Decimal::ZERO);
    Ok(())
}

async fn purchase(pool: &PgPool, account: Uuid, amount: i64) -> Result<(), sqlx::Error> {
    query("SELECT FROM credits.create_transaction(user_id => $1, transaction_type => 'purchase', amount => $2, source_id => $3)")
        .bind(account)
        .bind(Decimal::from(amount))
        .bind(format!("invoice-{account}"))
        .execute(pool)
        .await?;
    Ok(())
}

/// Whether the account's credits cover the amount, which is held then.
///
/// The error comes from the call, or from COMMIT if others spend at the same time: in a transaction, `commit` can return it, too.
async fn hold(pool: &PgPool, account: Uuid, amount: i64, source_id: &str) -> Result<bool, sqlx::Error> {
    let held =
        query("SELECT FROM credits.create_hold(user_id => $1, amount => $2, source_id => $3, expires_in => '10 minutes')")
            .bind(account)
            .bind(Decimal::from(amount))
            .bind(source_id)
            .execute(pool)
            .await;
    match held {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(INSUFFICIENT_CREDITS) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// A `Decimal` holds the balance exactly; a float would not.
async fn balance(pool: &PgPool, account: Uuid) -> Result<Decimal, sqlx::Error> {
    query_scalar("SELECT credits.get_user_balance($1)").bind(account).fetch_one(pool).await
}

/// The next crossing of this account; the channel carries those of all accounts. A payload without a threshold is about zero.
async fn next_crossing(listener: &mut PgListener, account: Uuid) -> Result<String, Box<dyn Error>> {
    loop {
        let crossing: Value = serde_json::from_str(listener.recv().await?.payload())?;
        if crossing["user_id"] == account.to_string() {
            let direction = crossing["direction"].as_str().unwrap_or_default();
            return Ok(format!("{direction} at {}", crossing["threshold"].as_str().unwrap_or("0")));
        }
    }
}
