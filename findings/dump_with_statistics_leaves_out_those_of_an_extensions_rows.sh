#!/usr/bin/env bash
# An extension marks a table as holding user data (pg_extension_config_dump). pg_dump --statistics, new in Postgres 18, restores what ANALYZE had found
# of tables along with their rows. Of such a table it has the rows, and no statistics: until somebody analyzes it, the planner guesses.
#
# Seen with Postgres 18.6; an extension of two statements is enough to show it.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 18
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
CREATE TABLE own_setting (name text PRIMARY KEY);
INSERT INTO setting SELECT 'name ' || n FROM generate_series(1, 1000) n;
INSERT INTO own_setting TABLE setting;
ANALYZE setting, own_setting;
SQL
program pg_dump --statistics -h "$work" -U postgres original > "$work/dump.sql" 2> "$work/warnings"
sql restored < "$work/dump.sql" >/dev/null

analyzed() {
  sql "$1" <<< "SELECT count(*) FROM pg_stats WHERE tablename = '$2'"
}

expect "warnings of pg_dump:" "0, or one that names the table" "0" "$(wc -l < "$work/warnings")"
expect "columns of the extension's table with statistics, before:" "1" "1" "$(analyzed original setting)"
expect "rows of it in the restored database:" "1000" "1000" "$(sql restored <<< 'SELECT count(*) FROM setting')"
expect "columns of it with statistics there:" "1" "0" "$(analyzed restored setting)"
expect "those of a table without an extension:" "1" "1" "$(analyzed restored own_setting)"
