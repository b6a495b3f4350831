#!/usr/bin/env bash
# Two foreign tables of postgres_fdw that are hash partitions of one table and lead to the same remote table: each row that is inserted comes back
# twice. The bounds of a partition decide where a row goes, and which partitions a query with a known key reads; they are no condition of
# what is read. So SELECT count(*) is too high, and DELETE or UPDATE meet rows of one partition in the other. A query with the key is right, since it reads
# one partition, and that is what one tries first.
#
# (CREATE FOREIGN TABLE says of constraints that it is the user's responsibility that they match reality, and the bounds of a partition are such.)
# What leads to the same table by two partitions wants two views of it.
#
# Seen with Postgres 15.19.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
sql <<SQL
CREATE EXTENSION postgres_fdw;
CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$work', dbname 'postgres');
CREATE USER MAPPING FOR postgres SERVER there;
CREATE TABLE stored (account int);
CREATE TABLE item (account int) PARTITION BY HASH (account);
CREATE FOREIGN TABLE item_0 PARTITION OF item FOR VALUES WITH (MODULUS 2, REMAINDER 0) SERVER there OPTIONS (table_name 'stored');
CREATE FOREIGN TABLE item_1 PARTITION OF item FOR VALUES WITH (MODULUS 2, REMAINDER 1) SERVER there OPTIONS (table_name 'stored');
INSERT INTO item SELECT generate_series(1, 100);
SQL
expect "rows of 100 that are stored:" "100" "100" "$(sql <<< "SELECT count(*) FROM stored")"
expect "rows that the partitioned table has:" "100" "200" "$(sql <<< "SELECT count(*) FROM item")"
expect "rows of one account:" "1" "1" "$(sql <<< "SELECT count(*) FROM item WHERE account = 7")"
