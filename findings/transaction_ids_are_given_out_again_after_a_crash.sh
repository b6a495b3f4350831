#!/usr/bin/env bash
# A transaction inserts a row, tells its client its id, and is rolled back. Nothing of it has to be in the log by then, and after a crash the server
# gives the same id to another transaction. Sequences and object ids are logged ahead so that none comes twice; one would have guessed the same of
# transaction ids, as whoever has asked for one knows it.
#
# What keeps an id outside the server as a position ("I have all rows below it") has to see to it that the log was flushed behind it.
#
# Seen with Postgres 15.19.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
sql <<< "CREATE TABLE item (id int); ALTER SYSTEM SET wal_writer_delay = '10s'"
sql <<< "SELECT pg_reload_conf(); CHECKPOINT" >/dev/null

# transaction END: inserts a row, ends so, and prints its id.
transaction() {
  sql <<< "BEGIN; INSERT INTO item VALUES (1); SELECT pg_current_xact_id(); $1"
}

before=$(transaction ROLLBACK)
program pg_ctl stop -D "$work/data" -m immediate >/dev/null
program pg_ctl start --wait -D "$work/data" -l "$work/log" -o "-c listen_addresses='' -c unix_socket_directories='$work'" >/dev/null
after=$(transaction COMMIT)
expect "the next transaction's id, less that of the one before the crash:" "1 or more" "0" "$((after - before))"
