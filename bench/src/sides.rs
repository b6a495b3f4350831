//! What the extension is compared with, all in one database.
//!
//! - `credits`, the extension
//! - `bare`, a copy of its ledger with the same columns and indexes, its constraints written out in SQL, no triggers, and random ids, as
//!   an application has them: what the table costs by itself
//! - `fold`, the bare table, and one balance per user that each insert updates in the same statement
//! - `account`, the bare tables, and one row per user with its balance and what is held of it, which a charge or a hold
//!   updates only if enough is left: how credits are refused without the extension
//! - `reference`, the tables and queries of an application-side repository: balances as a checkpoint plus the rows
//!   above its `seq`, refreshed by one write in a thousand, batches marked and totalled by the first reader

use anyhow::Result;
use postgres::Client;

/// The database that every line copies.
pub const PRISTINE: &str = "pristine";

/// `LIKE` follows the extension's own definition, so that the bare table cannot fall behind it. Ids of version 7 and constraints that call
/// functions in C are the extension's doing.
pub const BARE_LEDGER: &str = "
CREATE SCHEMA bare;
CREATE TABLE bare.credits_transactions (
    LIKE credits.credits_transactions INCLUDING ALL EXCLUDING GENERATED EXCLUDING CONSTRAINTS,
    CHECK (transaction_type IN ('purchase', 'admin_grant', 'admin_removal', 'usage')),
    CHECK (amount > 0 AND amount < 10000000000000 AND min_scale(amount) <= 15),
    CHECK (fusillade_batch_id IS NULL OR transaction_type = 'usage')
);
ALTER TABLE bare.credits_transactions
    ALTER xact_id SET DEFAULT pg_current_xact_id(), ALTER id SET DEFAULT gen_random_uuid();
";

const BARE_HOLDS: &str = "
CREATE TABLE bare.holds (
    LIKE credits.holds INCLUDING ALL EXCLUDING CONSTRAINTS,
    CHECK (amount > 0 AND amount < 10000000000000 AND min_scale(amount) <= 15)
);
";

const FOLD: &str = "
CREATE SCHEMA fold;
CREATE TABLE fold.credits_transactions (LIKE bare.credits_transactions INCLUDING ALL);
CREATE TABLE fold.balances (user_id uuid PRIMARY KEY, balance numeric NOT NULL) WITH (fillfactor = 50);
";

const ACCOUNT: &str = "
CREATE SCHEMA account;
CREATE TABLE account.credits_transactions (LIKE bare.credits_transactions INCLUDING ALL);
CREATE TABLE account.holds (LIKE bare.holds INCLUDING ALL);
CREATE TABLE account.accounts (
    user_id         uuid    PRIMARY KEY,
    balance         numeric NOT NULL,
    held            numeric NOT NULL DEFAULT 0,
    overdraft_limit numeric NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
";

/// The repository's columns, and an index for each access path that its queries are written for.
const REFERENCE: &str = "
CREATE SCHEMA reference;
CREATE TABLE reference.credits_transactions (
    id                 uuid        NOT NULL DEFAULT gen_random_uuid() PRIMARY KEY,
    user_id            uuid        NOT NULL,
    transaction_type   text        NOT NULL
        CHECK (transaction_type IN ('purchase', 'admin_grant', 'admin_removal', 'usage')),
    amount             numeric     NOT NULL CHECK (amount > 0),
    source_id          text        NOT NULL UNIQUE,
    description        text,
    fusillade_batch_id uuid,
    api_key_id         uuid,
    created_at         timestamptz NOT NULL DEFAULT now(),
    seq                bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    is_aggregated      boolean     NOT NULL DEFAULT false
);
CREATE INDEX ON reference.credits_transactions (seq);
CREATE INDEX ON reference.credits_transactions (user_id, seq);
CREATE INDEX ON reference.credits_transactions (user_id, seq) WHERE fusillade_batch_id IS NULL;
CREATE INDEX ON reference.credits_transactions (user_id) WHERE fusillade_batch_id IS NOT NULL AND NOT is_aggregated;
CREATE TABLE reference.user_balance_checkpoints (
    user_id        uuid        PRIMARY KEY,
    checkpoint_seq bigint      NOT NULL,
    balance        numeric     NOT NULL,
    updated_at     timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE reference.batch_aggregates (
    fusillade_batch_id uuid        PRIMARY KEY,
    user_id            uuid        NOT NULL,
    total_amount       numeric     NOT NULL,
    transaction_count  integer     NOT NULL,
    max_seq            bigint      NOT NULL,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON reference.batch_aggregates (user_id, max_seq);
CREATE TABLE reference.http_analytics (
    id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    fusillade_batch_id   uuid,
    request_origin       text,
    batch_sla            text,
    batch_request_source text
);
CREATE INDEX ON reference.http_analytics (fusillade_batch_id);
";

/// Makes all sides in an empty database.
pub fn create(client: &mut Client) -> Result<()> {
    client.batch_execute("CREATE EXTENSION credits_ledger")?;
    for side in [BARE_LEDGER, BARE_HOLDS, FOLD, ACCOUNT, REFERENCE] {
        client.batch_execute(side)?;
    }
    Ok(())
}

/// Whether a function of the extension is there; not all are in every version.
pub fn has_function(client: &mut Client, name: &str) -> Result<bool> {
    let found = client.query_opt(
        "SELECT FROM pg_proc WHERE pronamespace = 'credits'::regnamespace AND proname = $1 LIMIT 1",
        &[&name],
    )?;
    Ok(found.is_some())
}

/// The user with a number, in SQL.
pub fn user(number: &str) -> String {
    format!("md5({number}::text)::uuid")
}

/// Inserts `rows` usage rows in one statement, the user of each from an expression over the row's number `i`.
pub fn insert_usage(schema: &str, rows: &str, user_of_row: &str) -> String {
    format!(
        "INSERT INTO {schema}.credits_transactions \
         (user_id, transaction_type, amount, source_id, description, api_key_id) \
         SELECT {user_of_row}, 'usage', 0.000734, gen_random_uuid()::text, 'chat completion', md5('key')::uuid \
         FROM generate_series(1, {rows}) AS i"
    )
}

/// Gives users 1 to `users` of these sides so much that they stay far from zero.
pub fn grant_in(client: &mut Client, sides: &[&str], users: i64) -> Result<()> {
    /// Users of one transaction.
    const CHUNK: usize = 20_000;
    for schema in sides {
        for first in (1..=users).step_by(CHUNK) {
            client.batch_execute(&format!(
                "INSERT INTO {schema}.credits_transactions (user_id, transaction_type, amount, source_id) \
                 SELECT {}, 'purchase', 1000000, 'grant_' || i FROM generate_series({first}, least({users}, {first} + {CHUNK} - 1)) AS i",
                user("i")
            ))?;
        }
    }
    Ok(())
}

/// Inserts a usage row of this user, with one of three keys and one of five categories, both by numbers in SQL.
pub fn insert_labelled(schema: &str, rows: &str, user_of_row: &str, key: &str, category: &str) -> String {
    format!(
        "INSERT INTO {schema}.credits_transactions \
         (user_id, transaction_type, amount, source_id, description, api_key_id, category) \
         SELECT {user_of_row}, 'usage', 0.000734, gen_random_uuid()::text, 'chat completion', \
                md5('key' || {key})::uuid, 'model-' || {category} \
         FROM {rows} AS i"
    )
}

/// Puts users 1 to `users` of the ledger and of the bare table in the middle of a day: they have had usage, which is folded, so their
/// totals of the day are there, and since then 0 to 63 rows each. Without that all would be refreshed for the first time at once, in
/// whatever side's turn it is.
pub fn settle(client: &mut Client, users: i64, is_labelled: bool) -> Result<()> {
    let insert = |schema: &str, rows: &str| {
        let (key, category) = if is_labelled { ("i % 3 + 1", "i % 5 + 1") } else { ("''", "NULL") };
        let rows = format!("generate_series(1, {users}) AS u CROSS JOIN LATERAL generate_series(1, {rows})");
        insert_labelled(schema, &rows, &user("u"), &format!("({key})"), &format!("({category})"))
    };
    for schema in ["credits", "bare"] {
        client.batch_execute(&insert(schema, "64"))?;
    }
    client.batch_execute(&format!(
        "SELECT credits.refresh_checkpoint({}) FROM generate_series(1, {users}) AS i",
        user("i")
    ))?;
    for schema in ["credits", "bare"] {
        client.batch_execute(&insert(schema, "u * 37 % 64"))?;
    }
    client.batch_execute("VACUUM ANALYZE")?;
    Ok(())
}

/// Gives users 1 to `users` of each side so much that they stay far from zero.
pub fn grant(client: &mut Client, users: i64) -> Result<()> {
    grant_in(client, &["credits", "bare", "fold", "account", "reference"], users)?;
    client.batch_execute(&format!(
        "INSERT INTO fold.balances SELECT {0}, 1000000 FROM generate_series(1, {users}) AS i; \
         INSERT INTO account.accounts SELECT {0}, 1000000 FROM generate_series(1, {users}) AS i; \
         INSERT INTO reference.user_balance_checkpoints (user_id, checkpoint_seq, balance) \
         SELECT user_id, seq, amount FROM reference.credits_transactions",
        user("i")
    ))?;
    Ok(())
}

/// A user's balance as the repository reads it.
pub fn reference_balance(user: &str) -> String {
    format!(
        "WITH checkpoint AS (SELECT checkpoint_seq, balance FROM reference.user_balance_checkpoints WHERE user_id = {user}) \
         SELECT coalesce((SELECT balance FROM checkpoint), 0) + coalesce(( \
             SELECT sum(CASE WHEN transaction_type IN ('admin_grant', 'purchase') THEN amount ELSE -amount END) \
             FROM reference.credits_transactions \
             WHERE user_id = {user} AND seq > coalesce((SELECT checkpoint_seq FROM checkpoint), 0)), 0), \
           (SELECT max(seq) FROM reference.credits_transactions WHERE user_id = {user})"
    )
}

/// Balances of an array of users as the repository reads them.
pub fn reference_balances(users: &str) -> String {
    format!(
        "SELECT u.user_id, coalesce(c.balance, 0) + coalesce(delta.sum, 0) AS balance \
         FROM unnest({users}) AS u(user_id) \
         LEFT JOIN reference.user_balance_checkpoints c ON c.user_id = u.user_id \
         LEFT JOIN LATERAL ( \
             SELECT sum(CASE WHEN transaction_type IN ('admin_grant', 'purchase') THEN amount ELSE -amount END) AS sum \
             FROM reference.credits_transactions t \
             WHERE t.user_id = u.user_id AND t.seq > coalesce(c.checkpoint_seq, 0)) delta ON true"
    )
}

/// Totals a user's batches as the repository's grouped reads do first.
pub fn reference_aggregate(user: &str) -> String {
    format!(
        "WITH marked AS ( \
             UPDATE reference.credits_transactions SET is_aggregated = true \
             WHERE user_id = {user} AND fusillade_batch_id IS NOT NULL AND NOT is_aggregated \
             RETURNING fusillade_batch_id, amount, seq, created_at), \
         totals AS ( \
             SELECT fusillade_batch_id, sum(amount) AS amount, count(*)::int AS count, max(seq) AS seq, min(created_at) AS created_at \
             FROM marked GROUP BY fusillade_batch_id) \
         INSERT INTO reference.batch_aggregates AS b \
             (fusillade_batch_id, user_id, total_amount, transaction_count, max_seq, created_at) \
         SELECT fusillade_batch_id, {user}, amount, count, seq, created_at FROM totals \
         ON CONFLICT (fusillade_batch_id) DO UPDATE SET \
             total_amount = b.total_amount + excluded.total_amount, \
             transaction_count = b.transaction_count + excluded.transaction_count, \
             max_seq = greatest(b.max_seq, excluded.max_seq), updated_at = now()"
    )
}

/// Refreshes a user's checkpoint as the repository does.
pub fn reference_refresh(user: &str) -> String {
    format!(
        "INSERT INTO reference.user_balance_checkpoints (user_id, checkpoint_seq, balance) \
         SELECT {user}, latest_seq, balance FROM ({}) AS current (balance, latest_seq) WHERE latest_seq IS NOT NULL \
         ON CONFLICT (user_id) DO UPDATE SET \
             checkpoint_seq = excluded.checkpoint_seq, balance = excluded.balance, updated_at = now()",
        reference_balance(user)
    )
}
