// The ledger as Drizzle needs to know it. drizzle-kit must not see it: in drizzle.config.ts, schemaFilter: ["public"].

import { sql } from "drizzle-orm";
import { bigint, jsonb, numeric, pgSchema, text, timestamp, uuid } from "drizzle-orm/pg-core";

export const credits = pgSchema("credits");

// Drizzle's INSERT names every column of the table, with DEFAULT for those that it has no value for, and a member of
// credits_writer may not name all. Left out: xact_id, which is the ledger's own, and reverses, which only its functions write.
export const creditsTransactions = credits.table("credits_transactions", {
  id: uuid().primaryKey().defaultRandom(),
  userId: uuid("user_id").notNull(),
  transactionType: text("transaction_type", { enum: ["purchase", "admin_grant", "admin_removal", "usage"] }).notNull(),
  // A string: exact.
  amount: numeric().notNull(),
  sourceId: text("source_id").notNull().unique(),
  description: text(),
  fusilladeBatchId: uuid("fusillade_batch_id"),
  apiKeyId: uuid("api_key_id"),
  // mode "string" keeps the microseconds, which a Date has not.
  createdAt: timestamp("created_at", { withTimezone: true, mode: "string" }).notNull().defaultNow(),
  // In truth GENERATED ALWAYS AS IDENTITY, but generatedAlwaysAsIdentity() would be named in the INSERT. The expression is never used.
  seq: bigint({ mode: "bigint" }).notNull().generatedAlwaysAs(sql`0`),
  category: text(),
  metadata: jsonb(),
});
