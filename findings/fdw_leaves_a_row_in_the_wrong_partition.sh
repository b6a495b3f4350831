#!/usr/bin/env bash
# Partitions of a table are foreign tables of postgres_fdw. An UPDATE that changes the key is pushed down to the remote server as it stands: the row stays where it
# was, in a partition whose bounds it does not satisfy any more, and the UPDATE reports success. A query with the new key, which reads the other partition, does not find it. A table with
# local partitions moves such a row; one would have guessed the same, or an error.
#
# What may get such UPDATEs wants a check on the remote side: a constraint, or a view WITH CHECK OPTION.
#
# Seen with Postgres 15.19.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
sql <<SQL
CREATE EXTENSION postgres_fdw;
CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$work', dbname 'postgres');
CREATE USER MAPPING FOR postgres SERVER there;
CREATE TABLE low (account int);
CREATE TABLE high (account int);
CREATE TABLE item (account int) PARTITION BY RANGE (account);
CREATE FOREIGN TABLE item_low PARTITION OF item FOR VALUES FROM (0) TO (100) SERVER there OPTIONS (table_name 'low');
CREATE FOREIGN TABLE item_high PARTITION OF item FOR VALUES FROM (100) TO (200) SERVER there OPTIONS (table_name 'high');
INSERT INTO item VALUES (7);
SQL
expect "the UPDATE:" "107, or an error" "107" "$(sql <<< "UPDATE item SET account = 107 WHERE account = 7 RETURNING account")"
expect "rows with the new key:" "1" "0" "$(sql <<< "SELECT count(*) FROM item WHERE account = 107")"
expect "all rows:" "1" "1" "$(sql <<< "SELECT count(*) FROM item")"
