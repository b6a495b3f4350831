#!/usr/bin/env bash
# A data-modifying statement that is run through SPI with a row limit, and returns as many rows as the limit allows, does all of its work, but
# its AFTER STATEMENT triggers do not fire, and so nobody gets its transition tables. With a limit one higher they do.
#
# The executor stops when it has the rows that were asked for, and does not come back to notice that there are no more: firing these triggers
# is what it would do then. So the usual "at most one row" of a database driver's fetch-one, built on SPI, silently switches off materialised
# views that are maintained by statement triggers.
#
# Seen with Postgres 15.19 and 18.6 (PL/Python's plpy.execute(query, limit) is the shortest way to such a call).
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
sql <<'SQL'
CREATE EXTENSION plpython3u;
CREATE TABLE item (number int);
CREATE TABLE statement_seen (number_of_rows bigint);
CREATE FUNCTION see_statement() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO statement_seen SELECT count(*) FROM inserted;
    RETURN NULL;
END $$;
CREATE TRIGGER see_statement AFTER INSERT ON item REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION see_statement();
SQL
seen() { sql <<< "SELECT format('%s inserted, %s seen by the trigger', (SELECT count(*) FROM item), (SELECT coalesce(sum(number_of_rows), 0) FROM statement_seen)); TRUNCATE item, statement_seen"; }

sql <<< "DO LANGUAGE plpython3u 'plpy.execute(\"INSERT INTO item VALUES (1) RETURNING number\", 2)'"
expect "one row returned, a limit of 2:" "1 inserted, 1 seen by the trigger" "1 inserted, 1 seen by the trigger" "$(seen)"
sql <<< "DO LANGUAGE plpython3u 'plpy.execute(\"INSERT INTO item VALUES (1) RETURNING number\", 1)'"
expect "one row returned, a limit of 1:" "1 inserted, 1 seen by the trigger" "1 inserted, 0 seen by the trigger" "$(seen)"
