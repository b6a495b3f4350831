#!/usr/bin/env bash
# pg_stat_statements has a row for COMMIT, and its time is about 0, whatever the commit does: run deferred triggers, write and flush the log,
# wait for a standby. An INSERT that commits by itself has none of that in its row, either. And the statements of a deferred trigger get rows
# as if a client had sent them, where those of any other trigger get none (pg_stat_statements.track is top).
#
# COMMIT as a utility statement does no more than say what is to come. The transaction ends after the hooks of the extension have stopped their
# clocks and counted down their levels. The duration in the server's log includes all of it.
#
# Seen with Postgres 15.19 and 18.6.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 18
sql <<< "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'; ALTER SYSTEM SET log_min_duration_statement = 0"
program pg_ctl restart --wait -D "$work/data" -l "$work/log" -o "-c listen_addresses='' -c unix_socket_directories='$work'" >/dev/null

sql <<< "
CREATE EXTENSION pg_stat_statements;
CREATE TABLE charges (amount numeric);
CREATE FUNCTION settle() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER settle AFTER INSERT ON charges DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION settle();
BEGIN;
INSERT INTO charges VALUES (1);
COMMIT;
INSERT INTO charges VALUES (2);"

# counted STATEMENT: whether pg_stat_statements has half a second for it
counted() {
  sql <<< "SELECT CASE WHEN max(total_exec_time) >= 500 THEN 'half a second' ELSE 'nothing' END FROM pg_stat_statements WHERE query ~ '^$1'"
}

# logged STATEMENT: whether the log has
logged() {
  grep -E "statement: $1" "$work/log" | awk '$0 ~ /duration: / { for (i = 1; i < NF; i++) if ($i == "duration:" && $(i + 1) >= 500) slow = 1 }
    END { print slow ? "half a second" : "nothing" }'
}

expect "pg_stat_statements: time of a COMMIT with a deferred trigger of 0.5 s" "half a second" "nothing" "$(counted COMMIT)"
expect "pg_stat_statements: time of an INSERT that commits by itself, with the same trigger" "half a second" "nothing" "$(counted 'INSERT INTO charges')"
expect "pg_stat_statements: the statement in the trigger, which no client has sent, is at the top level" f t "$(sql <<< \
  "SELECT coalesce(bool_or(toplevel), false) FROM pg_stat_statements WHERE query ~ 'pg_sleep'")"
expect "the log: duration of the COMMIT" "half a second" "half a second" "$(logged COMMIT)"
expect "the log: duration of the INSERT" "half a second" "half a second" "$(logged 'INSERT INTO charges VALUES .2')"
