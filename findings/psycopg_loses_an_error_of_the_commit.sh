#!/usr/bin/env bash
# In autocommit, a statement commits when the server meets the client's Sync, after it has said that the statement is complete. An error that
# comes then, of a deferred constraint for instance, is raised by psycopg's execute() as any other. One would guess the same of stream(),
# which reads rows one by one, and of executemany() and pipelines. But stream() stops reading at "complete": it raises nothing, and nothing is
# committed. The other two raise an error without an SQLSTATE, and the connection cannot be used any more.
#
# Seen with psycopg 3.3.9 and Postgres 15.19.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"
. "$(dirname "$0")/lib/packages.sh"

start_server 15
python_with 'psycopg[binary]==3.3.9'
sql <<'SQL'
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION orphan(id int) RETURNS int LANGUAGE sql AS 'INSERT INTO child VALUES (id) RETURNING id';
SQL

# called HOW: the SQLSTATE that the call raises, or what else comes of it, and whether the connection can be used.
called() {
  run_python <<PY
import psycopg
db = psycopg.connect("", autocommit=True)
try:
    $1
    raised = "no error"
except psycopg.Error as error:
    raised = error.sqlstate or "an error without SQLSTATE"
try:
    rows = db.execute("SELECT count(*) FROM child").fetchone()[0]
except psycopg.Error:
    rows = "cannot be asked"
print(f"{raised}; rows: {rows}")
PY
}

refused="23503; rows: 0"
expect "execute:" "$refused" "23503; rows: 0" "$(called 'db.execute("SELECT orphan(%s)", [1])')"
expect "stream:" "$refused" "no error; rows: 0" "$(called 'list(db.cursor().stream("SELECT orphan(%s)", [1]))')"
expect "executemany:" "$refused" "an error without SQLSTATE; rows: cannot be asked" \
  "$(called 'db.cursor().executemany("SELECT orphan(%s)", [[1], [2]])')"
expect "a pipeline:" "$refused" "an error without SQLSTATE; rows: cannot be asked" "$(called '
    with db.pipeline(): db.execute("SELECT orphan(%s)", [1])')"
expect "executemany in a transaction:" "$refused" "23503; rows: 0" "$(called '
    with db.transaction(): db.cursor().executemany("SELECT orphan(%s)", [[1], [2]])')"
