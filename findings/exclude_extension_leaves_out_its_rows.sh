#!/usr/bin/env bash
# An extension marks a table as holding user data (pg_extension_config_dump). Where the extension is there already, or is made by somebody else,
# one tells pg_dump to leave it out, by --exclude-extension (Postgres 17 and later). That leaves out the user data in its tables, too, without a
# word, and the restore succeeds.
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
INSERT INTO setting VALUES ('a'), ('b');
CREATE TABLE other AS SELECT 1 AS n;
\c restored
CREATE EXTENSION settings_store;
SQL
program pg_dump -h "$work" -U postgres --exclude-extension=settings_store original > "$work/dump.sql" 2> "$work/told"
program psql -Xq -v ON_ERROR_STOP=1 -h "$work" -U postgres -d restored < "$work/dump.sql" >/dev/null 2>> "$work/told"

expect "lines that pg_dump and the restore write:" "0, or one that names the table" "0" "$(wc -l < "$work/told")"
expect "rows of the other table:" "1" "1" "$(sql restored <<< 'SELECT count(*) FROM other')"
expect "rows of the extension's table:" "2: CREATE EXTENSION was to be left out" "0" "$(sql restored <<< 'SELECT count(*) FROM setting')"
program pg_dump -h "$work" -U postgres original --table=setting --data-only | program psql -Xq -v ON_ERROR_STOP=1 -h "$work" -U postgres -d restored >/dev/null
expect "its rows after a dump of this table alone:" "2" "2" "$(sql restored <<< 'SELECT count(*) FROM setting')"
