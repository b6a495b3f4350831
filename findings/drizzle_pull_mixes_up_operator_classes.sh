#!/usr/bin/env bash
# drizzle-kit pull writes the operator class of every index column into the schema, and gives a column of an index over several types that of
# another one: of an index on (uuid, bigint), both may come out as int8_ops. It joins pg_opclass on oid = ANY (indclass), which says which
# classes an index has and not which column has which. What it has written, it exports to SQL without a word, and Postgres refuses that. An
# index of one type, as most examples have, shows nothing.
#
# Seen with drizzle-kit 0.31.11, drizzle-orm 0.45.4, pg 8.23.1 and Postgres 15.19.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"
. "$(dirname "$0")/lib/packages.sh"

start_server 15
node_with drizzle-kit@0.31.11 drizzle-orm@0.45.4 pg@8.23.1
cat > "$work/node/drizzle.config.js" <<JS
export default { dialect: "postgresql", out: "./pulled", dbCredentials: { url: "postgresql://postgres@localhost/postgres?host=$work" } };
JS

# said INDEX: what comes of the table with this index, pulled, exported, and made in an empty database.
said() {
  sql >/dev/null <<SQL
SET client_min_messages = warning;
DROP TABLE IF EXISTS item;
CREATE TABLE item (owner uuid, number bigint, total bigint);
CREATE INDEX item_index ON item $1;
DROP DATABASE IF EXISTS empty;
SQL
  sql >/dev/null <<< "CREATE DATABASE empty"
  (
    cd "$work/node"
    rm -rf pulled
    npx drizzle-kit pull --config drizzle.config.js >&2
    npx drizzle-kit export --dialect postgresql --schema pulled/schema.ts > exported.sql
  ) 2>"$work/node/log" >&2
  grep INDEX "$work/node/exported.sql" >&2
  sql empty < "$work/node/exported.sql" 2>"$work/errors" && echo made || grep '^ERROR' "$work/errors"
}

expect "an index on (number, total), made anew:" "made" "made" "$(said '(number, total)')"
expect "an index on (owner, number), made anew:" "made" \
  'ERROR:  operator class "int8_ops" does not accept data type uuid' "$(said '(owner, number)')"
