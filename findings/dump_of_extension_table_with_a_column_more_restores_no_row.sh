#!/usr/bin/env bash
# An extension marks a table as holding user data (pg_extension_config_dump), and somebody adds a column to that table. pg_dump then has the rows
# with that column, but not the column: CREATE EXTENSION makes the table as its script says, and the COPY of the rows fails. The dump itself
# succeeds without a warning; all rows of the table are lost in the restore, not just the values of the new column.
#
# Seen with Postgres 15.19; an extension of two statements is enough to show it.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
folder=$work/postgres/share/extension
echo "default_version = '1'" > "$folder/settings_store.control"
cat > "$folder/settings_store--1.sql" <<'SQL'
CREATE TABLE setting (name text PRIMARY KEY);
SELECT pg_catalog.pg_extension_config_dump('setting', '');
SQL
chmod a+r "$folder"/settings_store*
sql <<'SQL'
CREATE DATABASE original;
CREATE DATABASE restored;
\c original
CREATE EXTENSION settings_store;
INSERT INTO setting VALUES ('a'), ('b');
ALTER TABLE setting ADD COLUMN note text;
SQL
program pg_dump -h "$work" -U postgres original > "$work/dump.sql" 2> "$work/warnings"
program psql -Xq -h "$work" -U postgres -d restored < "$work/dump.sql" >/dev/null 2> "$work/errors" || true

expect "warnings of pg_dump:" "0, or one that names the column" "0" "$(wc -l < "$work/warnings")"
expect "rows in the restored database:" "2, with or without the column" "0" "$(sql restored <<< 'SELECT count(*) FROM setting')"
expect "what the restore says:" "nothing" 'column "note" of relation "setting" does not exist' \
  "$(grep -o 'column "note" of relation "setting" does not exist' "$work/errors")"
