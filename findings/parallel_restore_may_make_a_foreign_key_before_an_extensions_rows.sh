#!/usr/bin/env bash
# A table of an extension that is marked as holding user data (pg_extension_config_dump), and a table of an application with a foreign key to it.
# `pg_restore --jobs` may make the foreign key before it copies the rows of the extension's table, and fails then. Between two tables of an
# application it waits: the key's entry in the archive depends on both tables, and pg_restore takes that for their rows. An extension's table has no
# entry, only its rows have one, and pg_dump leaves out what depends on something that is not there. Once the rows are being copied, the key waits
# for their lock, so few restores fail: one of seven with --jobs=4 and small tables. Without --jobs the order in the archive is right, and so it is
# from section to section.
#
# Seen with Postgres 15.19; an extension of two statements is enough to show it.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
folder=$work/postgres/share/extension
echo "default_version = '1'" > "$folder/account_store.control"
cat > "$folder/account_store--1.sql" <<'SQL'
CREATE TABLE account (id int PRIMARY KEY);
SELECT pg_catalog.pg_extension_config_dump('account', '');
SQL
chmod a+r "$folder"/account_store*
sql <<'SQL'
CREATE EXTENSION account_store;
CREATE TABLE account_of_mine (id int PRIMARY KEY);
CREATE TABLE invoice (account_id int CONSTRAINT to_theirs REFERENCES account);
CREATE TABLE invoice_of_mine (account_id int CONSTRAINT to_mine REFERENCES account_of_mine);
SQL
program pg_dump -h "$work" -U postgres -Fc -f "$work/dump" postgres
program pg_restore --list --verbose "$work/dump" > "$work/list"

# depends_on ENTRY: the numbers that an entry of the archive depends on
depends_on() {
  grep -A 1 -E "^[0-9]+; .* $1 postgres\$" "$work/list" | sed -n 's/^;.*depends on: //p'
}

# waits_for KEY TABLE: whether a foreign key depends on the table whose rows are restored
waits_for() {
  local rows; rows=$(depends_on "TABLE DATA public $2")
  case " $(depends_on "FK CONSTRAINT public $1") " in *" $rows "*) echo yes ;; *) echo no ;; esac
}

expect "the key to an application's table waits for its rows:" "yes" "yes" "$(waits_for 'invoice_of_mine to_mine' account_of_mine)"
expect "the key to an extension's table waits for its rows:" "yes" "no" "$(waits_for 'invoice to_theirs' account)"
