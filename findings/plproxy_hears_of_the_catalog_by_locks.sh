#!/usr/bin/env bash
# A cluster of PL/Proxy that is a foreign server (SQL/MED) is read again when the server was altered: an ALTER SERVER by another session applies at its commit. One
# would have guessed that a transaction under READ COMMITTED goes by it from its next statement on. It does not: a session hears of changes of the catalog when
# it begins a transaction and when it locks a relation that the transaction has not locked yet, and a call of a function of PL/Proxy locks none. So a transaction that only calls
# functions goes on with the cluster that was there when it began, and a query of any other table makes it hear.
#
# Seen with PL/Proxy 2.10.0 of Debian 12 and Postgres 15.19. Fetches postgresql-15-plproxy with apt-get download.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
install_plproxy
sql <<< "CREATE DATABASE one"
sql <<< "CREATE DATABASE two"
sql <<SQL
CREATE EXTENSION plproxy;
CREATE SERVER nodes FOREIGN DATA WRAPPER plproxy OPTIONS (p0 'host=$work dbname=one');
CREATE USER MAPPING FOR postgres SERVER nodes OPTIONS (user 'postgres');
CREATE FUNCTION node() RETURNS name LANGUAGE plproxy AS 'CLUSTER ''nodes''; RUN ON 0; SELECT current_database();';
CREATE TABLE unused ();
SQL
# Another session alters the server between the statements of one transaction.
cat > "$work/alter.sql" <<< "ALTER SERVER nodes OPTIONS (SET p0 'host=$work dbname=two')"
chmod a+r "$work/alter.sql"
seen=$(sql <<SQL
BEGIN;
SELECT node();
\\! $work/postgres/bin/psql -XqAt -h $work -U postgres -f $work/alter.sql postgres
SELECT node();
SELECT FROM unused;
SELECT node();
COMMIT;
SQL
)
expect "where the calls of a transaction went:" "one two two" "one one two" "$(xargs <<< "$seen")"
