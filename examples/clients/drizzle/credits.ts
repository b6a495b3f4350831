// A prepaid account, from its first purchase to zero, with Drizzle on node-postgres.
//
// PGHOST, PGPORT, PGUSER and PGDATABASE say where. Any surprise ends the program with a status other than 0.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { on } from "node:events";
import { DrizzleQueryError, desc, eq, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import pg from "pg";
import { creditsTransactions } from "./schema.js";

function expect(what: string, seen: unknown, expected: unknown) {
  assert.deepEqual(seen, expected, what);
  console.log(`${what}: ${seen}`);
}

// A listener has a connection of its own: the pool's go from hand to hand.
const pool = new pg.Pool();
const listener = new pg.Client();
const db = drizzle(pool);

// New ids, so that this can be run again and again.
const account = randomUUID();
const batch = randomUUID();

async function balance(): Promise<string> {
  const { rows } = await db.execute<{ balance: string }>(sql`SELECT credits.get_user_balance(${account}) AS balance`);
  return rows[0]!.balance;
}

try {
  await listener.connect();
  const notifications = on(listener, "notification", { signal: AbortSignal.timeout(10_000) });
  await listener.query("LISTEN credits_balance_crossed");

  // A purchase. The source_id makes it safe to try again: the same one is recorded once.
  for (let attempt = 1; attempt <= 2; attempt++) {
    await db
      .insert(creditsTransactions)
      .values({ userId: account, transactionType: "purchase", amount: "10", sourceId: `invoice-${account}` })
      .onConflictDoNothing({ target: creditsTransactions.sourceId });
  }

  // The function also compares what is there: with another amount it is refused, since this is no retry.
  const refused = await db
    .execute(sql`SELECT FROM credits.create_transaction(${account}, 'purchase', ${"11"}, ${`invoice-${account}`})`)
    .catch((error: unknown) => error);
  assert(refused instanceof DrizzleQueryError && refused.cause instanceof pg.DatabaseError);
  expect("refused with", refused.cause.code, "23505");

  // Many rows are one INSERT. The first three requests are a batch. The rows know their seq, which the server gave them.
  const recorded = await db
    .insert(creditsTransactions)
    .values(
      ["0.000123", "0.000123", "0.000123", "0.25"].map((amount, n) => ({
        userId: account,
        transactionType: "usage" as const,
        amount,
        sourceId: `request-${n}-${account}`,
        fusilladeBatchId: n < 3 ? batch : null,
      })),
    )
    .returning();
  const left = await balance();
  expect("balance", left, "9.749631");

  // A page of rows, newest first. The next page: lt(creditsTransactions.seq, the last seq of this one).
  const page = await db
    .select()
    .from(creditsTransactions)
    .where(eq(creditsTransactions.userId, account))
    .orderBy(desc(creditsTransactions.seq))
    .limit(3);
  expect("page", page.map((row) => `${row.transactionType} ${row.amount}`), ["usage 0.25", "usage 0.000123", "usage 0.000123"]);
  expect("types", [page[0]!.id, page[0]!.seq, typeof page[0]!.createdAt], [recorded[3]!.id, recorded[3]!.seq, "string"]);

  // Spending the rest takes the balance to zero, which the commit announces.
  await db
    .insert(creditsTransactions)
    .values({ userId: account, transactionType: "usage", amount: left, sourceId: `request-last-${account}` });
  const directions = [];
  for await (const [{ payload }] of notifications) {
    const crossing = JSON.parse(payload);
    if (crossing.user_id === account) directions.push(crossing.direction);
    if (directions.length === 2) break;
  }
  expect("crossings", directions, ["up", "down"]);
  expect("balance", await balance(), "0");
} finally {
  await Promise.all([listener.end(), pool.end()]);
}
