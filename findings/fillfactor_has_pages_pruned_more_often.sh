#!/usr/bin/env bash
# Two tables of one page, filled as far as fillfactor 50 has them, whose only difference is the fillfactor. A row is updated a hundred times, found by its key. With fillfactor 50, which is
# there to leave room for such updates, the page is pruned again and again while half of it is free; with 100, only when it is nearly full. One would have guessed that
# room on a page saves pruning. The server prunes as soon as less is free than the fillfactor is to leave.
#
# Seen with Postgres 15.19.
set -euo pipefail
. "$(dirname "$0")/lib/server.sh"

start_server 15
sql <<< "CREATE EXTENSION pg_walinspect"
for fillfactor in 50 100; do
  sql <<SQL
CREATE TABLE item_$fillfactor (id int PRIMARY KEY, n int) WITH (fillfactor = $fillfactor, autovacuum_enabled = off);
INSERT INTO item_$fillfactor SELECT i, 0 FROM generate_series(1, 112) i;
SQL
done

# prunings FILLFACTOR: how often the page is pruned by a hundred updates.
prunings() {
  sql <<SQL
SET enable_seqscan = off;
SELECT pg_current_wal_lsn() AS began \gset
DO 'BEGIN FOR i IN 1 .. 100 LOOP UPDATE item_$1 SET n = i WHERE id = 1; COMMIT; END LOOP; END';
SELECT count(*) FROM pg_get_wal_records_info(:'began', pg_current_wal_flush_lsn()) WHERE record_type LIKE 'PRUNE%';
SQL
}

few=$(prunings 100)
many=$(prunings 50)
expect "prunings with fillfactor 50 and with 100:" "fewer with 50" "many more with 50" \
  "$([ "$many" -gt $((10 * (few + 1))) ] && echo "many more with 50" || echo "$many with 50, $few with 100")"
echo "  ($many and $few)"
