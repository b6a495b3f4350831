// A prepaid account, from its first purchase over holds and a refusal to zero, with node-postgres.
//
// PGHOST, PGUSER, PGDATABASE and the like say where. Any surprise ends the program with a status other than 0.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { on } from "node:events";
import pg from "pg";

const INSUFFICIENT_CREDITS = "LC001";

function expect(what, seen, expected) {
  assert.deepEqual(seen, expected, what);
  console.log(`${what}: ${seen}`);
}

// New ids, so that this can be run again and again.
const account = randomUUID();
const batch = randomUUID();

// Two connections: a listener stays connected, while the others may come from a pool.
const listener = new pg.Client();
const db = new pg.Client();

// numeric arrives as a string: exact. A Number would not be.
async function balance() {
  const { rows } = await db.query("SELECT credits.get_user_balance($1) AS balance", [account]);
  return rows[0].balance;
}

function recordUsage(amount, sourceId, batchId = null) {
  return db.query(
    `INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id, fusillade_batch_id)
     VALUES ($1, 'usage', $2, $3, $4)`,
    [account, amount, sourceId, batchId],
  );
}

// Whether the account's credits cover the amount, which is held then. The error comes from the call, or from COMMIT if others spend at the
// same time: in a transaction, this belongs around the whole of it.
async function hold(amount, sourceId) {
  try {
    await db.query(
      `SELECT FROM credits.create_hold(user_id => $1, amount => $2, source_id => $3, expires_in => '10 minutes')`,
      [account, amount, sourceId],
    );
    return true;
  } catch (error) {
    if (error.code !== INSUFFICIENT_CREDITS) throw error;
    return false;
  }
}

// The next crossings of this account; the channel carries those of all accounts. A payload without a threshold is about zero.
async function crossings(notifications, count) {
  const seen = [];
  for await (const [{ payload }] of notifications) {
    const { user_id, direction, threshold = "0" } = JSON.parse(payload);
    if (user_id === account) seen.push(`${direction} at ${threshold}`);
    if (seen.length === count) return seen;
  }
}

try {
  await Promise.all([listener.connect(), db.connect()]);
  const notifications = on(listener, "notification", { signal: AbortSignal.timeout(10_000) });
  await listener.query("LISTEN credits_balance_crossed");

  // A purchase. The source_id makes it safe to try again: the same one is recorded once.
  for (let attempt = 1; attempt <= 2; attempt++) {
    await db.query(
      `SELECT amount FROM credits.create_transaction(
         user_id => $1, transaction_type => 'purchase', amount => $2, source_id => $3)`,
      [account, "10", `invoice-${account}`],
    );
  }

  // With another amount it is refused: this is no retry.
  const refused = await db
    .query("SELECT FROM credits.create_transaction($1, 'purchase', $2, $3)", [account, "11", `invoice-${account}`])
    .catch((error) => error);
  expect("refused with", refused.code, "23505");

  // Usage is a plain INSERT. The first three requests are a batch.
  for (const n of [1, 2, 3]) await recordUsage("0.000123", `request-${n}-${account}`, batch);
  await recordUsage("0.25", `request-4-${account}`);
  expect("balance", await balance(), "9.749631");

  // The history, newest first, with the batch as one item. The next page: before_seq => the last seq of this one.
  const page = await db.query(
    `SELECT transaction_type, amount, batch_count
       FROM credits.list_transactions_with_batches(user_id => $1, "limit" => $2)`,
    [account, 10],
  );
  const items = page.rows.map((item) => `${item.transaction_type} ${item.amount} (${item.batch_count})`);
  expect("page", items, ["usage 0.25 (1)", "usage 0.000369 (3)", "purchase 10 (1)"]);

  // A date is a Date, to the millisecond: pages go by seq, which arrives as a string, as every bigint does.
  const { rows: [last] } = await db.query(
    `SELECT id, seq, created_at FROM credits.list_user_transactions($1, "limit" => 1)`, [account]);
  expect("types", [typeof last.id, typeof last.seq, last.created_at instanceof Date], ["string", "string", true]);

  // A limit: holds may take the account to zero and no further, as without this row. A threshold: below 5, somebody wants to know.
  await db.query(
    "INSERT INTO credits.spending_limits (user_id, overdraft_limit, thresholds) VALUES ($1, 0, ARRAY[5])", [account]);

  // A request that may cost 6 credits: they are held before it is served. Nobody else can spend them meanwhile.
  expect("held", await hold("6", `request-5-${account}`), true);
  expect("held", await hold("6", `request-6-${account}`), false);

  // When the request is done, what it has cost is captured, and the rest of the hold is free again. This crosses the threshold.
  await db.query("SELECT FROM credits.capture_hold(source_id => $1, amount => $2)", [`request-5-${account}`, "5.5"]);
  const { rows: [{ available }] } = await db.query("SELECT credits.get_available_balance($1) AS available", [account]);
  expect("available", available, "4.249631");

  // Spending the rest takes the balance to zero, which the commit announces, too.
  await recordUsage(available, `request-7-${account}`);
  expect("crossings", await crossings(notifications, 3), ["up at 0", "down at 5", "down at 0"]);
  expect("balance", await balance(), "0");
} finally {
  await Promise.all([listener.end(), db.end()]);
}
