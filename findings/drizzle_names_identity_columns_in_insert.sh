#!/usr/bin/env bash
# Drizzle leaves a column with generatedAlwaysAs(...) out of an INSERT, but names one with generatedAlwaysAsIdentity() and gives it DEFAULT, the
# only thing that Postgres lets it say. Postgres asks for INSERT on every column that a statement names, whatever it is given: a role whose grant
# leaves out the column that it cannot set in any case is refused. So grants by column, made so that nobody chooses a number with OVERRIDING
# SYSTEM VALUE, shut Drizzle out; declared as what it is not, generatedAlwaysAs(...), the column works.
#
# Seen with drizzle-orm 0.45.4, pg 8.23.1 and Postgres 15.19. (It names all columns that have a default or may be NULL, too.)
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"
. "$(dirname "$0")/lib/packages.sh"

start_server 15
node_with drizzle-orm@0.45.4 pg@8.23.1
sql <<'SQL'
CREATE TABLE item (number bigint GENERATED ALWAYS AS IDENTITY, name text);
CREATE ROLE app LOGIN;
GRANT SELECT, INSERT (name) ON item TO app;
SQL

# said DECLARATION: what comes of an INSERT of the name, with the column declared so.
said() {
  user=app run_node <<JS
import { sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { bigint, pgTable, text } from "drizzle-orm/pg-core";
import pg from "pg";
const pool = new pg.Pool();
const item = pgTable("item", { number: bigint({ mode: "number" }).$1, name: text() });
const said = await drizzle(pool).insert(item).values({ name: "a" }).then(() => "inserted", (error) => error.cause.message);
console.log(said);
await pool.end();
JS
}

expect "as app, which may INSERT (name), with psql:" "INSERT 0 1" "INSERT 0 1" \
  "$(program psql -XAt -h "$work" -U app -d postgres -c "INSERT INTO item (name) VALUES ('a')")"
expect "with Drizzle, generatedAlwaysAs(sql\`0\`):" "inserted" "inserted" "$(said 'generatedAlwaysAs(sql`0`)')"
expect "with Drizzle, generatedAlwaysAsIdentity():" "inserted" "permission denied for table item" "$(said 'generatedAlwaysAsIdentity()')"
