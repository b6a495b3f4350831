-- Names without a schema are not looked up in the schema credits: ledger.sql says why.
SET LOCAL search_path = pg_catalog, pg_temp;

-- For operators: what the checkpoints do not cover, what holds them back, and what brings them up to date. The views read
-- their tables as their owner and name every user, so they are empty where row-level security filters the ledger for the reader.
-- Members of pg_monitor see every row whatever the policies are: they may look at all sessions of the cluster, and the views have no amount
-- and no balance.

CREATE VIEW credits.checkpoint_lag WITH (security_barrier) AS
    SELECT c.user_id,
           -- Two ranges of the delta's index, as in uncovered_transactions, counted only where this column is asked for.
           (SELECT count(*)
            FROM credits.credits_transactions t
            WHERE t.user_id = c.user_id AND t.xact_id >= c.watermark AND t.xact_id < '18446744073709551615')
           + (SELECT count(*)
              FROM unnest(c.stragglers) AS s(xact_id)
              JOIN credits.credits_transactions t ON t.user_id = c.user_id AND t.xact_id = s.xact_id) AS delta_rows,
           c.updated_at,
           pg_snapshot_xmax(pg_current_snapshot())::text::bigint - c.watermark::text::bigint AS watermark_lag,
           cardinality(c.stragglers) AS stragglers
    FROM credits.user_balance_checkpoints c
    WHERE (NOT row_security_active('credits.credits_transactions') OR pg_has_role('pg_monitor', 'USAGE'))
      AND ((SELECT credits.has_all_buckets()) OR credits.is_here(c.user_id));
COMMENT ON VIEW credits.checkpoint_lag IS
    'How far each checkpoint is behind: delta_rows, the committed rows that it does not cover; updated_at, when it was last '
    'written; watermark_lag, how many transaction ids have been given out since its watermark; stragglers, how many it lists. '
    'Cost: a scan of the checkpoints and, for delta_rows, an index lookup for each and its delta; without delta_rows the scan '
    'alone; for one user index lookups. Users without a checkpoint are in users_without_checkpoint. Names users: for operators and '
    'members of pg_monitor.';

CREATE VIEW credits.hold_counts WITH (security_barrier) AS
    SELECT count(*) FILTER (WHERE h.expires_at > statement_timestamp()) AS open,
           count(*) FILTER (WHERE h.expires_at <= statement_timestamp()) AS expired,
           min(h.expires_at) FILTER (WHERE h.expires_at <= statement_timestamp()) AS first_expired_at
    FROM credits.holds h
    WHERE ((SELECT credits.has_all_buckets()) OR credits.is_here(h.user_id))
    HAVING NOT row_security_active('credits.holds') OR pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW credits.hold_counts IS
    'How many holds are open, and how many have expired and were neither captured nor deleted; first_expired_at, when the first of '
    'those did. Cost: a scan of holds. No amount and no user: for operators and members of pg_monitor.';

CREATE VIEW credits.stragglers WITH (security_barrier) AS
    WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS snapshot),
    open AS MATERIALIZED (
        -- The transactions that a watermark chosen now would pass by: crates/ledger/src/coverage.rs has the same numbers.
        SELECT o.xact_id,
               o.place <= 200 AND pg_snapshot_xmax(n.snapshot)::text::numeric - o.xact_id::text::numeric > greatest(128, 8 * (o.place - 1))
                   AS is_passed_by
        FROM now n
        CROSS JOIN LATERAL (
            SELECT i.xact_id, row_number() OVER (ORDER BY i.xact_id) AS place
            FROM (SELECT pg_snapshot_xip(n.snapshot) UNION ALL SELECT pg_current_xact_id_if_assigned()) i (xact_id)
            WHERE i.xact_id < pg_snapshot_xmax(n.snapshot)
        ) o
    ),
    -- The first that is not passed by. From it on nothing is covered.
    stop AS MATERIALIZED (SELECT o.xact_id FROM open o WHERE NOT o.is_passed_by ORDER BY o.xact_id LIMIT 1)
    SELECT s.xact_id, s.listed_by, s.watermark_of,
           coalesce(a.state, CASE WHEN p.gid IS NOT NULL THEN 'prepared'
                                  WHEN pg_xact_status(s.xact_id) = 'in progress' THEN 'open'
                                  ELSE 'ended' END) AS state,
           coalesce(a.datname, p.database) AS database, coalesce(a.usename, p.owner) AS role,
           coalesce(a.xact_start, p.prepared) AS since, a.pid, a.application_name, p.gid,
           s.xact_id IS NOT DISTINCT FROM (SELECT t.xact_id FROM stop t) AS holds_back
    FROM (
        SELECT l.xact_id, coalesce(sum(l.checkpoints) FILTER (WHERE l.is_listed), 0)::bigint AS listed_by,
               coalesce(sum(l.checkpoints) FILTER (WHERE NOT l.is_listed), 0)::bigint AS watermark_of
        FROM (
            -- Most checkpoints list no straggler, and many list the same ones.
            SELECT unnest(c.stragglers), true, c.checkpoints
            FROM (SELECT c.stragglers, count(*) AS checkpoints FROM credits.user_balance_checkpoints c
                  WHERE cardinality(c.stragglers) > 0 GROUP BY c.stragglers) c
            UNION ALL
            SELECT c.watermark, false, count(*)
            FROM credits.user_balance_checkpoints c
            JOIN open o ON o.xact_id = c.watermark
            GROUP BY c.watermark
            UNION ALL
            -- Also where no checkpoint was written since they began: any refresh would list or stop at them.
            SELECT o.xact_id, false, 0
            FROM open o
            WHERE o.is_passed_by OR o.xact_id = (SELECT t.xact_id FROM stop t)
        ) l (xact_id, is_listed, checkpoints)
        GROUP BY l.xact_id
    ) s
    -- Every transaction holds a lock on its id, and who holds a lock may be seen by everybody. Of the transactions that share the
    -- lower half of an id, one at most is in progress.
    LEFT JOIN pg_locks k
        ON k.locktype = 'transactionid' AND k.mode = 'ExclusiveLock' AND k.transactionid = s.xact_id::xid
           AND pg_xact_status(s.xact_id) = 'in progress'
    LEFT JOIN pg_stat_activity a ON a.pid = k.pid
    LEFT JOIN pg_prepared_xacts p ON p.transaction = s.xact_id::xid AND pg_xact_status(s.xact_id) = 'in progress'
    WHERE NOT row_security_active('credits.credits_transactions') OR pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW credits.stragglers IS
    'Open transactions that checkpoints pass by or stop at, and transactions that a checkpoint has passed by. listed_by: how many '
    'checkpoints list it as a straggler; watermark_of: how many have stopped at it, while it is open. state: that of its session '
    'in pg_stat_activity, prepared, open (by a session whose state the caller may not see), or ended, and then each checkpoint '
    'forgets it with its next refresh. since: the start of the transaction, or when it was prepared. holds_back: a checkpoint '
    'that is refreshed now stops at it. Cost: two scans of the checkpoints. On a standby only those that a checkpoint lists, '
    'without their sessions, which are the primary''s. For operators and members of pg_monitor.';

COMMENT ON FUNCTION credits.release_expired_holds(interval, bigint) IS
    'Deletes up to "limit" (NULL: all) of the holds that expired longer than grace ago, and returns how many it deleted: for a job. '
    'Until then capture_hold finds them. Errors: 22004 for a NULL grace; 22008 for one that reaches back further than timestamps do; '
    '22023 for a negative grace or limit; 25006 in a read-only transaction; 42501 without SELECT and DELETE on holds. Cost: a '
    'scan of holds up to the last one that is deleted.';

-- A caller from whom row-level security hides rows gets 42501. It would refresh nothing otherwise.
ALTER FUNCTION credits.refresh_idle_checkpoints(interval, bigint) SET row_security = off;
COMMENT ON FUNCTION credits.refresh_idle_checkpoints(interval, bigint) IS
    'When the transaction commits: refreshes checkpoints that were last written longer than idle ago and could cover more than '
    'they do, "limit" of them at most (NULL: all), and announces crossings of their users that are not announced yet. Returns how'
    ' many. Takes the stripes of these users as their own commits do, and skips checkpoints that another session is refreshing: '
    'for a job that runs every few minutes. Cost: an index lookup for each checkpoint, and the deltas that it folds. Errors: '
    '22004 for a NULL idle, 22008 for one that reaches back further than timestamps do, 22023 for a negative limit, 25006 in a '
    'read-only transaction, 42501 without SELECT on ledger and checkpoints or where row-level security would hide rows.';

COMMENT ON FUNCTION credits.advance_seq(bigint) IS
    'Numbers the next transaction above past, and never sets numbering back: room for rows that are to come with a seq of their '
    'own. Needs no lock. Such rows move the numbering on by themselves, too. For roles that may insert the column seq. Errors: '
    '22004 for NULL, 23514 for 4611686018427387904 and above, 25006 in a read-only transaction, 42501.';

COMMENT ON FUNCTION credits.settlement_statistics() IS
    'Counts for this database since the server started or recovered from a crash, of transactions that have committed: '
    'exclusive_sections, stripes taken exclusively (close to zero, for a new user, for refresh_checkpoint); crossings_up and '
    'crossings_down, also with the channels off; refreshes, checkpoints that were refreshed or made; refreshes_skipped, lagging '
    'ones left alone while someone else refreshed on that stripe or the tables were locked; refreshes_failed, those put off by an '
    'error, which is in the server''s log. Settlements that find nothing to decide are not counted. No row if the server has no '
    'room for the counts: there are places for 128 databases.';

COMMENT ON FUNCTION credits.redact_account(uuid) IS
    'For erasure requests: clears description and metadata of the rows and holds of a user that are committed or the '
    'transaction''s own, and changes nothing else; returns how many rows, holds among them, it has cleared. Waits for '
    'transactions that extend, capture or release a hold of the user, then takes the stripe of the user exclusively, so commits '
    'of its users wait until this transaction ends. Fires no trigger. EXECUTE suffices, which nobody but the owner has at first; '
    'row-level security hides no row from it. Vacuum removes the old versions of the rows. Errors: 22004 for NULL, 25006 in a '
    'read-only transaction, 0A000 if the transaction is prepared.';

COMMENT ON FUNCTION credits.add_up_days(uuid[]) IS
    'For fill_daily_totals: adds up the daily totals of these users as far as their checkpoints have none, and returns of how many. '
    'Shares the stripes of these users until the transaction ends, and keeps others from refreshing their checkpoints. EXECUTE suffices, which nobody but '
    'the owner has at first. Errors: 22004 for NULL or a NULL in the array, 25001 in a transaction block, 25006 in a read-only transaction.';

-- A procedure that commits cannot have its search_path pinned: each of its transactions begins by doing so. A chunk is chosen in one
-- transaction and added up in another, which takes its locks in the order of all others: the ledger first.
CREATE PROCEDURE credits.fill_daily_totals(chunk_size bigint DEFAULT 500000)
    LANGUAGE plpgsql
    AS $$
DECLARE
    -- What there was to do at the start, and what has been done of it.
    accounts bigint;
    total numeric;
    done_accounts bigint := 0;
    done numeric := 0;
    -- The accounts of the chunk, in their order, and their rows.
    chunk pg_catalog.uuid[];
    chunk_rows numeric;
    last pg_catalog.uuid;
    began pg_catalog.timestamptz;
BEGIN
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('row_security', 'off', true);
    IF (chunk_size > 0) IS NOT TRUE THEN
        RAISE EXCEPTION 'argument chunk_size must be above 0, but is %', coalesce(chunk_size::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Raises 2D000 inside a transaction block.
    COMMIT;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('row_security', 'off', true);
    SELECT count(*), coalesce(sum(c.transaction_count), 0) INTO accounts, total
    FROM credits.user_balance_checkpoints c
    WHERE c.has_days IS NOT TRUE;
    began := clock_timestamp();
    LOOP
        SELECT array_agg(c.user_id ORDER BY c.user_id), sum(c.transaction_count) INTO chunk, chunk_rows
        FROM (SELECT c.user_id, c.transaction_count, sum(c.transaction_count) OVER (ORDER BY c.user_id) - c.transaction_count AS rows_before
              FROM (SELECT c.user_id, c.transaction_count
                    FROM credits.user_balance_checkpoints c
                    WHERE c.has_days IS NOT TRUE AND (last IS NULL OR c.user_id > last)
                    ORDER BY c.user_id LIMIT 1000) c) c
        WHERE c.rows_before < chunk_size;
        EXIT WHEN chunk IS NULL;
        last := chunk[cardinality(chunk)];
        COMMIT;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('row_security', 'off', true);
        PERFORM credits.add_up_days(chunk);
        done_accounts := done_accounts + cardinality(chunk);
        done := done + chunk_rows;
        COMMIT;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('row_security', 'off', true);
        RAISE NOTICE 'added up % of % accounts, with % of % rows, % rows/s', done_accounts, accounts, done, total,
            round(done / greatest(EXTRACT(epoch FROM clock_timestamp() - began), 0.001));
    END LOOP;
    SELECT count(*) INTO accounts FROM credits.user_balance_checkpoints c WHERE c.has_days IS NOT TRUE;
    IF accounts > 0 THEN
        RAISE NOTICE 'the checkpoints of % accounts were changed by hand meanwhile: call it again', accounts;
    END IF;
END
    $$;
COMMENT ON PROCEDURE credits.fill_daily_totals(bigint) IS
    'Adds up the daily totals of accounts whose checkpoints an earlier version has made, once after an update; until then functions that read days read rows. '
    'Holds no writer up: rows are read without a lock, and what is added up of chunk_size rows or of 1,000 accounts, whichever is less, is written in '
    'one short step and committed, with a NOTICE. Called again after it was stopped, it goes on where it was. For the owner of the checkpoints and superusers. Errors: 22023 for a '
    'chunk_size that is not above 0, 25006 in a read-only transaction, 2D000 inside a transaction block, 42501. Cost: a scan of each account''s rows by the index on user and stamp.';

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
