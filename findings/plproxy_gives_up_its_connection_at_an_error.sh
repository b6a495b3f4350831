#!/usr/bin/env bash
# PL/Proxy keeps connections to the nodes of a cluster. When a remote function raises an error, whatever it is, the next call of the session
# says "dropping stale conn" and connects anew. The connection was sound: the error had arrived whole, and the next message would have said that the node is ready. So an application
# whose functions refuse things by raising pays for a connection with each refusal.
#
# Beside it: a notice of the remote function arrives as a warning, if its SQLSTATE is not 00000. CREATE ... IF NOT EXISTS says 42P06 or 42P07, as
# a notice. (The severity that was sent may be in another language, so PL/Proxy goes by the SQLSTATE.)
#
# Seen with PL/Proxy 2.10.0 of Debian 12 and Postgres 15.19. Fetches postgresql-15-plproxy with apt-get download.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
install_plproxy
sql <<SQL
CREATE EXTENSION plproxy;
CREATE SCHEMA there;
CREATE FUNCTION there.pid() RETURNS int LANGUAGE sql AS 'SELECT pg_backend_pid()';
CREATE FUNCTION there.refuse() RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''refused''; END';
CREATE FUNCTION there.ensure() RETURNS int LANGUAGE plpgsql AS 'BEGIN CREATE SCHEMA IF NOT EXISTS there; RETURN 1; END';
CREATE FUNCTION pid() RETURNS int LANGUAGE plproxy AS 'CONNECT ''host=$work dbname=postgres user=postgres''; TARGET there.pid;';
CREATE FUNCTION refuse() RETURNS int LANGUAGE plproxy AS 'CONNECT ''host=$work dbname=postgres user=postgres''; TARGET there.refuse;';
CREATE FUNCTION ensure() RETURNS int LANGUAGE plproxy AS 'CONNECT ''host=$work dbname=postgres user=postgres''; TARGET there.ensure;';
SQL
# the_same STATEMENT: whether the connection after it is the one before.
the_same() {
  local pids; pids=$(program psql -XqAt -h "$work" -U postgres -d postgres 2>/dev/null <<< "SELECT pid(); $1; SELECT pid();" | sed -n '1p;$p' | sort -u | wc -l)
  [ "$pids" = 1 ] && echo kept || echo "made anew"
}
expect "the connection after a call that returns:" "kept" "kept" "$(the_same 'SELECT 1')"
expect "the connection after a call that is refused:" "kept" "made anew" "$(the_same 'SELECT refuse()')"
expect "what arrives of a notice:" "NOTICE" "WARNING" "$(program psql -XqAt -h "$work" -U postgres -d postgres 2>&1 <<< "SELECT ensure()" | sed -n '1s/:.*//p')"
