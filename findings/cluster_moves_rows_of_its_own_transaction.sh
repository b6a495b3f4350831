#!/usr/bin/env bash
# CLUSTER of one table may run in a transaction block, after the same transaction has inserted into it: the rows get other tuple ids, so that a ctid which
# INSERT ... RETURNING has told leads to another row, and xmin is no different. One would have guessed that it is refused in a transaction block, as VACUUM FULL is, which rewrites a
# table by the same code.
#
# Seen with Postgres 15.19.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
sql <<< "CREATE TABLE item (id int PRIMARY KEY)"
expect "tuple ids of row 2, when it was inserted and after CLUSTER, and whether xmin is that of the transaction:" "ERROR:  CLUSTER cannot run inside a transaction block" \
  "(0,1) (0,2) t" "$(sql <<< "
BEGIN;
INSERT INTO item VALUES (2), (1);
SELECT ctid AS inserted FROM item WHERE id = 2 \gset
CLUSTER item USING item_pkey;
SELECT :'inserted', ctid, xmin::text = (pg_current_xact_id()::xid)::text FROM item WHERE id = 2 \g (fieldsep=' ')
ROLLBACK" 2>&1)"
expect "VACUUM FULL:" "the same" "ERROR:  VACUUM cannot run inside a transaction block" \
  "$(sql <<< "BEGIN; VACUUM FULL item; ROLLBACK" 2>&1 || true)"
