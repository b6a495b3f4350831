#!/usr/bin/env bash
# A trigger that takes long runs under statement_timeout, unless it is deferred: the server stops that timer when the last statement is done and
# before it commits, with or without a transaction block. So deferred triggers, and whatever else a commit does or waits for, may take as long as
# they like. transaction_timeout (Postgres 17 and later) goes on at the commit, but ends the session, not just the statement.
#
# Seen with Postgres 18.6.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 18
sql <<'SQL'
CREATE TABLE written (how text);
CREATE FUNCTION take_long() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER take_long AFTER INSERT ON written DEFERRABLE FOR EACH ROW EXECUTE FUNCTION take_long();
SQL

# insert HOW SETTINGS: what becomes of an INSERT under these settings
insert() {
  sql 2>&1 <<SQL | grep -oE 'canceling .*|terminating .*|committed' | head -n 1
BEGIN;
$2
INSERT INTO written VALUES ('$1');
COMMIT;
SELECT 'committed' FROM written WHERE how = '$1';
SQL
}

expect "statement_timeout of 200 ms, and a trigger that takes a second:" "a timeout" "canceling statement due to statement timeout" \
  "$(insert immediate "SET LOCAL statement_timeout = 200;")"
expect "the same with the trigger deferred:" "a timeout of the COMMIT" "committed" \
  "$(insert deferred "SET LOCAL statement_timeout = 200; SET CONSTRAINTS take_long DEFERRED;")"
expect "the same with transaction_timeout:" "a timeout of the COMMIT" "terminating connection due to transaction timeout" \
  "$(insert ended "SET LOCAL transaction_timeout = 200; SET CONSTRAINTS take_long DEFERRED;")"
