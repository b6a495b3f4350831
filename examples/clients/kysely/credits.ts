// A prepaid account, from its first purchase to zero, with Kysely on node-postgres.
//
// PGHOST, PGPORT, PGUSER and PGDATABASE say where. Any surprise ends the program with a status other than 0.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { on } from "node:events";
import { type ColumnType, type Generated, type GeneratedAlways, Kysely, PostgresDialect, sql } from "kysely";
import pg from "pg";

// Nothing in the ledger is ever updated.
type Fixed<T> = ColumnType<T, T, never>;
type FixedNullable<T> = ColumnType<T | null, T | null | undefined, never>;

interface CreditsTransactions {
  id: Generated<string>;
  user_id: Fixed<string>;
  transaction_type: Fixed<"purchase" | "admin_grant" | "admin_removal" | "usage">;
  // A string: exact. The driver gives no number for numeric or bigint.
  amount: Fixed<string>;
  source_id: Fixed<string>;
  description: FixedNullable<string>;
  fusillade_batch_id: FixedNullable<string>;
  api_key_id: FixedNullable<string>;
  created_at: ColumnType<Date, Date | string | undefined, never>;
  seq: GeneratedAlways<string>;
  xact_id: GeneratedAlways<string>;
  category: FixedNullable<string>;
  metadata: FixedNullable<Record<string, unknown>>;
  // Only the ledger's functions write it.
  reverses: GeneratedAlways<string | null>;
}

interface Database {
  "credits.credits_transactions": CreditsTransactions;
}

function expect(what: string, seen: unknown, expected: unknown) {
  assert.deepEqual(seen, expected, what);
  console.log(`${what}: ${seen}`);
}

// A listener has a connection of its own: the pool's go from hand to hand.
const db = new Kysely<Database>({ dialect: new PostgresDialect({ pool: new pg.Pool() }) });
const listener = new pg.Client();

// New ids, so that this can be run again and again.
const account = randomUUID();
const batch = randomUUID();

async function balance(): Promise<string> {
  const { rows } = await sql<{ balance: string }>`SELECT credits.get_user_balance(${account}) AS balance`.execute(db);
  return rows[0]!.balance;
}

try {
  await listener.connect();
  const notifications = on(listener, "notification", { signal: AbortSignal.timeout(10_000) });
  await listener.query("LISTEN credits_balance_crossed");

  // A purchase. The source_id makes it safe to try again: the same one is recorded once.
  for (let attempt = 1; attempt <= 2; attempt++) {
    await db
      .insertInto("credits.credits_transactions")
      .values({ user_id: account, transaction_type: "purchase", amount: "10", source_id: `invoice-${account}` })
      .onConflict((conflict) => conflict.column("source_id").doNothing())
      .execute();
  }

  // The function also compares what is there: with another amount it is refused, since this is no retry.
  const refused = await sql`SELECT FROM credits.create_transaction(${account}, 'purchase', ${"11"}, ${`invoice-${account}`})`
    .execute(db)
    .catch((error: unknown) => error);
  assert(refused instanceof pg.DatabaseError);
  expect("refused with", refused.code, "23505");

  // Many rows are one INSERT. The first three requests are a batch. The rows know their seq, which the server gave them.
  const recorded = await db
    .insertInto("credits.credits_transactions")
    .values(
      ["0.000123", "0.000123", "0.000123", "0.25"].map((amount, n) => ({
        user_id: account,
        transaction_type: "usage" as const,
        amount,
        source_id: `request-${n}-${account}`,
        fusillade_batch_id: n < 3 ? batch : null,
      })),
    )
    .returning(["id", "seq"])
    .execute();
  const left = await balance();
  expect("balance", left, "9.749631");

  // A page of rows, newest first. The next page: .where("seq", "<", the last seq of this one).
  const page = await db
    .selectFrom("credits.credits_transactions")
    .selectAll()
    .where("user_id", "=", account)
    .orderBy("seq", "desc")
    .limit(3)
    .execute();
  expect("page", page.map((row) => `${row.transaction_type} ${row.amount}`), ["usage 0.25", "usage 0.000123", "usage 0.000123"]);
  expect("types", [page[0]!.id, page[0]!.seq, page[0]!.created_at instanceof Date], [recorded[3]!.id, recorded[3]!.seq, true]);

  // Spending the rest takes the balance to zero, which the commit announces.
  await db
    .insertInto("credits.credits_transactions")
    .values({ user_id: account, transaction_type: "usage", amount: left, source_id: `request-last-${account}` })
    .execute();
  const directions = [];
  for await (const [{ payload }] of notifications) {
    const crossing = JSON.parse(payload);
    if (crossing.user_id === account) directions.push(crossing.direction);
    if (directions.length === 2) break;
  }
  expect("crossings", directions, ["up", "down"]);
  expect("balance", await balance(), "0");
} finally {
  await Promise.all([listener.end(), db.destroy()]);
}
