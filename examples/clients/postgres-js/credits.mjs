// A prepaid account, from its first purchase to zero, with Postgres.js.
//
// PGHOST, PGPORT, PGUSER and PGDATABASE say where. Any surprise ends the program with a status other than 0.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { on, EventEmitter } from "node:events";
import postgres from "postgres";

function expect(what, seen, expected) {
  assert.deepEqual(seen, expected, what);
  console.log(`${what}: ${seen}`);
}

const sql = postgres();

// New ids, so that this can be run again and again.
const account = randomUUID();
const batch = randomUUID();

// numeric arrives as a string: exact. A Number would not be.
async function balance() {
  const [row] = await sql`SELECT credits.get_user_balance(${account}) AS balance`;
  return row.balance;
}

try {
  // sql.listen has a connection of its own, and listens again after a reconnect: crossings of between are in credits.balances.
  const events = new EventEmitter();
  const crossings = on(events, "crossing", { signal: AbortSignal.timeout(10_000) });
  await sql.listen("credits_balance_crossed", (payload) => {
    const crossing = JSON.parse(payload);
    // The channel carries the crossings of all accounts.
    if (crossing.user_id === account) events.emit("crossing", crossing.direction);
  });

  // A purchase. The source_id makes it safe to try again: the same one is recorded once.
  for (let attempt = 1; attempt <= 2; attempt++) {
    await sql`SELECT FROM credits.create_transaction(${account}, 'purchase', ${"10"}, ${`invoice-${account}`})`;
  }

  // With another amount it is refused: this is no retry.
  const refused = await sql`SELECT FROM credits.create_transaction(${account}, 'purchase', ${"11"}, ${`invoice-${account}`})`
    .catch((error) => error);
  expect("refused with", refused.code, "23505");

  // Many rows are one INSERT. The first three requests are a batch. A retry adds nothing.
  const requests = ["0.000123", "0.000123", "0.000123", "0.25"].map((amount, n) => ({
    user_id: account,
    transaction_type: "usage",
    amount,
    source_id: `request-${n}-${account}`,
    fusillade_batch_id: n < 3 ? batch : null,
  }));
  for (let attempt = 1; attempt <= 2; attempt++) {
    await sql`INSERT INTO credits.credits_transactions ${sql(requests)} ON CONFLICT (source_id) DO NOTHING`;
  }
  const left = await balance();
  expect("balance", left, "9.749631");

  // The history, newest first, with the batch as one item. The next page: before_seq => the last seq of this one.
  const page = await sql`SELECT * FROM credits.list_transactions_with_batches(${account}, "limit" => ${10})`;
  const items = page.map((item) => `${item.transaction_type} ${item.amount} (${item.batch_count})`);
  expect("page", items, ["usage 0.25 (1)", "usage 0.000369 (3)", "purchase 10 (1)"]);
  // A date is a Date, to the millisecond: pages go by seq, which arrives as a string, as every bigint does.
  const [last] = page;
  expect("types", [typeof last.id, typeof last.seq, last.created_at instanceof Date], ["string", "string", true]);

  // Spending the rest takes the balance to zero, which the commit announces.
  await sql.begin((sql) => sql`
    INSERT INTO credits.credits_transactions (user_id, transaction_type, amount, source_id)
    VALUES (${account}, 'usage', ${left}, ${`request-last-${account}`})`);
  const directions = [];
  for await (const [direction] of crossings) {
    directions.push(direction);
    if (directions.length === 2) break;
  }
  expect("crossings", directions, ["up", "down"]);
  expect("balance", await balance(), "0");
} finally {
  await sql.end();
}
