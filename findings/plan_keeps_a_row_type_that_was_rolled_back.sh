#!/usr/bin/env bash
# A statement that is prepared while a transaction has changed a composite type, and before that change is rolled back, stays broken for the life
# of the session: it goes on expecting the type as it was in that transaction. Other changes make the server plan a prepared statement anew;
# this one is kept, although the type is as it always was.
#
# Seen with Postgres 15.19.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
said() {
  program psql -XqAt -h "$work" -U postgres -d postgres 2>&1 <<SQL
SET client_min_messages = warning;
DROP TYPE IF EXISTS pair;
CREATE TYPE pair AS (name text, number bigint);
BEGIN;
ALTER TYPE pair ALTER ATTRIBUTE number TYPE text;
$1
ROLLBACK;
$2
EXECUTE make_pair;
SQL
}

expect "prepared after the rollback, it gives:" "(a,7)" "(a,7)" "$(said "" "PREPARE make_pair AS SELECT ROW('a', '7')::pair;")"
expect "prepared before the rollback, it gives:" "(a,7)" "ERROR:  ROW() column has type text instead of type bigint" \
  "$(said "PREPARE make_pair AS SELECT ROW('a', '7')::pair;" "")"
