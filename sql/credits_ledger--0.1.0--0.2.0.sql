-- From 0.1.0 to 0.2.0. A database that is updated by it is the same as one in which 0.2.0 was created.

-- What runs for each insert is not pinned any more; the stamp needs no support function then.
CREATE OR REPLACE FUNCTION credits.current_xact_id(seq bigint) RETURNS xid8
    LANGUAGE c IMMUTABLE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'current_xact_id';
DROP FUNCTION credits.current_xact_id_support(internal);
ALTER FUNCTION credits.note_transaction() RESET ALL;

-- The index of deltas without seq.
DROP INDEX credits.credits_transactions_delta_idx;
CREATE INDEX credits_transactions_delta_idx ON credits.credits_transactions (user_id, xact_id);
COMMENT ON INDEX credits.credits_transactions_delta_idx IS
    'Finds the rows of a user that a checkpoint does not cover yet.';
-- As the install script does: nothing unqualified is looked up in the schema credits.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Begins every update: it waits for all who are using the ledger, and has every session look its relations up again.
ALTER TABLE credits.credits_transactions ALTER COLUMN seq SET GENERATED ALWAYS;

-- A ledger that holds transactions is not dropped by accident.
CREATE FUNCTION credits.guard_ledger() RETURNS event_trigger
    LANGUAGE c SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'guard_ledger';
COMMENT ON FUNCTION credits.guard_ledger() IS
    'Event trigger: has the library loaded and the ledger looked up before anything is dropped. The library refuses to drop a '
    'ledger that holds transactions, with SQLSTATE 55000, unless credits_ledger.allow_drop is on.';

-- Every command whose cascade can reach a table: of its type or its access method, too. ALWAYS: also while replication applies.
CREATE EVENT TRIGGER credits_ledger_guard ON ddl_command_start
    WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP TABLE', 'DROP OWNED', 'DROP TYPE', 'DROP ACCESS METHOD')
    EXECUTE FUNCTION credits.guard_ledger();
ALTER EVENT TRIGGER credits_ledger_guard ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER credits_ledger_guard IS
    'Keeps a ledger that holds transactions from being dropped by accident.';
REVOKE ALL ON FUNCTION credits.guard_ledger() FROM PUBLIC;

-- Nobody sees sums of rows that row-level security hides, whatever is granted.
-- These sums are of rows that row-level security may hide from a caller: whatever is granted, nobody but the owner reads
-- the tables themselves. A policy would say who else may, but pg_dump takes an extension's policies for its user's.
ALTER TABLE credits.user_balance_checkpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE credits.batch_aggregates ENABLE ROW LEVEL SECURITY;
-- What is folded, for whoever may read the whole ledger that it is folded from, and hence PUBLIC. It is both or nothing: with
-- nothing folded, every row is taken for a part of the delta, which costs more and changes no answer.

CREATE VIEW credits.checkpoints AS
    SELECT c.*
    FROM credits.user_balance_checkpoints c
    WHERE has_table_privilege('credits.credits_transactions', 'SELECT')
      AND NOT row_security_active('credits.credits_transactions');
COMMENT ON VIEW credits.checkpoints IS
    'The table user_balance_checkpoints, for whoever may SELECT from the ledger and is not kept from a part of it by row-level '
    'security; nothing for anybody else.';

CREATE VIEW credits.folded_batches AS
    SELECT b.*
    FROM credits.batch_aggregates b
    WHERE has_table_privilege('credits.credits_transactions', 'SELECT')
      AND NOT row_security_active('credits.credits_transactions');
COMMENT ON VIEW credits.folded_batches IS
    'The table batch_aggregates, for whoever may SELECT from the ledger and is not kept from a part of it by row-level '
    'security; nothing for anybody else.';

GRANT SELECT ON credits.checkpoints, credits.folded_batches TO PUBLIC;

CREATE OR REPLACE FUNCTION credits.visible_balances()
    RETURNS TABLE (user_id uuid, balance numeric, is_positive boolean, crossed_at timestamptz)
    LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT b.user_id, b.balance, b.balance > 0, NULL::timestamptz
        FROM (SELECT t.user_id, credits.get_user_balance(t.user_id) AS balance
              FROM (SELECT DISTINCT t.user_id FROM credits.credits_transactions t) t OFFSET 0) b
    $$;
COMMENT ON FUNCTION credits.visible_balances() IS
    'Balances of the users of whom the caller may see a row, from the rows that it may see: the view balances under row-level '
    'security, which adds what was announced. Costs a scan over all of them.';

CREATE OR REPLACE VIEW credits.users_without_checkpoint AS
    SELECT u.user_id
    FROM (SELECT DISTINCT t.user_id FROM credits.credits_transactions t) u
    LEFT JOIN credits.user_balance_checkpoints c ON c.user_id = u.user_id
    WHERE c.user_id IS NULL AND NOT row_security_active('credits.credits_transactions');
COMMENT ON VIEW credits.users_without_checkpoint IS
    'Users whose rows were all written without a settlement, as by a restore: their balances are summed from all of their '
    'rows until refresh_checkpoint or their next transaction. Empty under row-level security, as what it would show is not the '
    'caller''s: for operators.';

CREATE OR REPLACE VIEW credits.uncovered_transactions AS
    SELECT t.*
    FROM credits.user_balance_checkpoints c
    -- The upper end, which no transaction reaches, has the planner expect a short range and not a third of the rows.
    JOIN credits.credits_transactions t
      ON t.user_id = c.user_id AND t.xact_id >= c.watermark AND t.xact_id < '18446744073709551615'
    WHERE NOT row_security_active('credits.credits_transactions')
    UNION ALL
    SELECT t.*
    FROM credits.user_balance_checkpoints c
    CROSS JOIN unnest(c.stragglers) AS s(xact_id)
    JOIN credits.credits_transactions t ON t.user_id = c.user_id AND t.xact_id = s.xact_id
    WHERE NOT row_security_active('credits.credits_transactions')
    UNION ALL
    SELECT t.*
    FROM credits.users_without_checkpoint u
    JOIN credits.credits_transactions t ON t.user_id = u.user_id;
COMMENT ON VIEW credits.uncovered_transactions IS
    'The deltas: ledger rows that no checkpoint covers yet. Empty under row-level security: for operators.';

CREATE OR REPLACE VIEW credits.balances WITH (security_barrier) AS
    SELECT c.user_id, credits.get_user_balance(c.user_id) AS balance, c.is_positive, c.crossed_at
    FROM credits.user_balance_checkpoints c
    WHERE NOT row_security_active('credits.credits_transactions')
      AND EXISTS (SELECT FROM credits.credits_transactions t WHERE t.user_id = c.user_id)
    UNION ALL
    SELECT u.user_id, b.balance, b.balance > 0, NULL
    FROM credits.users_without_checkpoint u
    CROSS JOIN LATERAL (SELECT credits.get_user_balance(u.user_id) AS balance OFFSET 0) b
    WHERE NOT row_security_active('credits.credits_transactions')
    UNION ALL
    SELECT v.user_id, v.balance, coalesce(c.is_positive, v.is_positive), c.crossed_at
    FROM credits.visible_balances() v
    LEFT JOIN credits.user_balance_checkpoints c ON c.user_id = v.user_id
    WHERE row_security_active('credits.credits_transactions');

-- verify_ledger reads what is folded through these views.
CREATE OR REPLACE FUNCTION credits.verify_ledger()
    RETURNS TABLE (check_name text, user_id uuid, detail text)
    LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp SET row_security = off
    AS $$
        WITH covered AS (
            SELECT t.user_id, t.fusillade_batch_id, t.amount, t.seq, t.created_at,
                   CASE WHEN t.transaction_type IN ('purchase', 'admin_grant') THEN t.amount ELSE -t.amount END AS credits
            FROM credits.credits_transactions t
            JOIN credits.checkpoints c
              ON c.user_id = t.user_id AND t.xact_id < c.watermark AND t.xact_id <> ALL (c.stragglers)
        ),
        recomputed AS (
            SELECT k.user_id, sum(k.credits) AS balance, count(*) AS transaction_count, max(k.seq) AS checkpoint_seq
            FROM covered k
            GROUP BY k.user_id
        ),
        recomputed_batches AS (
            SELECT k.user_id, k.fusillade_batch_id, sum(k.amount) AS total_amount, count(*) AS transaction_count,
                   max(k.seq) AS max_seq, min(k.created_at) AS created_at
            FROM covered k
            WHERE k.fusillade_batch_id IS NOT NULL
            GROUP BY k.user_id, k.fusillade_batch_id
        ),
        summed AS (
            SELECT t.user_id,
                   sum(CASE WHEN t.transaction_type IN ('purchase', 'admin_grant') THEN t.amount ELSE -t.amount END) AS balance
            FROM credits.credits_transactions t
            GROUP BY t.user_id
        )
        SELECT 'privileges', NULL::uuid, 'the checkpoints are not shown to a caller that may SELECT columns of the ledger only'
        WHERE NOT has_table_privilege('credits.credits_transactions', 'SELECT')
        UNION ALL
        SELECT 'checkpoint balance', c.user_id,
               format('stored %s, the covered rows sum to %s', c.balance, coalesce(r.balance, 0))
        FROM credits.checkpoints c LEFT JOIN recomputed r ON r.user_id = c.user_id
        WHERE c.balance <> coalesce(r.balance, 0)
        UNION ALL
        SELECT 'checkpoint transaction_count', c.user_id,
               format('stored %s, %s rows are covered', c.transaction_count, coalesce(r.transaction_count, 0))
        FROM credits.checkpoints c LEFT JOIN recomputed r ON r.user_id = c.user_id
        WHERE c.transaction_count <> coalesce(r.transaction_count, 0)
        UNION ALL
        SELECT 'checkpoint checkpoint_seq', c.user_id,
               format('stored %s, the highest covered seq is %s', c.checkpoint_seq, coalesce(r.checkpoint_seq, 0))
        FROM credits.checkpoints c LEFT JOIN recomputed r ON r.user_id = c.user_id
        WHERE c.checkpoint_seq <> coalesce(r.checkpoint_seq, 0)
        UNION ALL
        SELECT 'checkpoint is_positive', c.user_id,
               format('announced %s, the balance is %s', c.is_positive, coalesce(s.balance, 0))
        FROM credits.checkpoints c LEFT JOIN summed s ON s.user_id = c.user_id
        WHERE c.is_positive <> (coalesce(s.balance, 0) > 0)
        UNION ALL
        SELECT 'balance', s.user_id, format('read as %s, the rows sum to %s', credits.get_user_balance(s.user_id), s.balance)
        FROM summed s
        WHERE credits.get_user_balance(s.user_id) <> s.balance
        UNION ALL
        SELECT 'batch', coalesce(b.user_id, r.user_id),
               format('batch %s: stored %s in %s rows up to seq %s since %s, the covered rows make %s in %s rows up to seq %s since %s',
                      coalesce(b.fusillade_batch_id, r.fusillade_batch_id),
                      b.total_amount, b.transaction_count, b.max_seq, b.created_at,
                      r.total_amount, r.transaction_count, r.max_seq, r.created_at)
        FROM credits.folded_batches b
        FULL JOIN recomputed_batches r ON r.user_id = b.user_id AND r.fusillade_batch_id = b.fusillade_batch_id
        WHERE (b.total_amount, b.transaction_count, b.max_seq, b.created_at)
              IS DISTINCT FROM (r.total_amount, r.transaction_count, r.max_seq, r.created_at)
        UNION ALL
        SELECT 'checkpoint watermark', c.user_id,
               format('watermark %s covers transactions that have not begun, or stragglers %s are not below it', c.watermark, c.stragglers)
        FROM credits.checkpoints c
        WHERE c.watermark > pg_snapshot_xmax(pg_current_snapshot()) OR c.watermark <= ANY (c.stragglers)
        UNION ALL
        SELECT 'row xact_id', t.user_id, format('row %s is stamped %s, which is no transaction of this cluster yet', t.id, t.xact_id)
        FROM credits.credits_transactions t
        WHERE t.xact_id >= pg_snapshot_xmax(pg_current_snapshot()) AND t.xact_id IS DISTINCT FROM pg_current_xact_id_if_assigned()
    $$;
COMMENT ON FUNCTION credits.verify_ledger() IS
    'Recomputes every derived value from the ledger rows and returns what differs; no rows is the good answer. A crossing '
    'that is not announced yet (COMMIT PREPARED, rows written with triggers off) shows as ''checkpoint is_positive'' until '
    'refresh_checkpoint. Raises 42501 where row-level security would hide rows. Costs a few scans of the whole ledger.';
-- For operators: checkpoint_lag, stragglers, settlement_statistics, refresh_idle_checkpoints
CREATE  FUNCTION "refresh_idle_checkpoints"(
	"idle" interval DEFAULT '1 hour', /* Option < Interval > */
	"limit" bigint DEFAULT 1000 /* Option < i64 > */
) RETURNS bigint /* Result < i64, ErrorReport > */
VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'refresh_idle_checkpoints_wrapper';

CREATE  FUNCTION "settlement_statistics"() RETURNS TABLE (
	"exclusive_sections" bigint,  /* i64 */
	"crossings_up" bigint,  /* i64 */
	"crossings_down" bigint,  /* i64 */
	"refreshes" bigint,  /* i64 */
	"refreshes_skipped" bigint,  /* i64 */
	"refreshes_failed" bigint  /* i64 */
)
STRICT VOLATILE PARALLEL UNSAFE
SET search_path TO pg_catalog, pg_temp
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'settlement_statistics_wrapper';

-- For operators: what the checkpoints do not cover, what holds them back, and what brings them up to date. The views read
-- their tables as their owner and name every user, so they are empty where row-level security filters the ledger.

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
    WHERE NOT row_security_active('credits.credits_transactions');
COMMENT ON VIEW credits.checkpoint_lag IS
    'How far each checkpoint is behind: delta_rows, the committed rows that it does not cover; updated_at, when it was last '
    'written; watermark_lag, how many transaction ids have been given out since its watermark; stragglers, how many it lists. '
    'Cost: a scan of the checkpoints and, for delta_rows, an index lookup for each and its delta; without delta_rows the scan '
    'alone; for one user index lookups. Users without a checkpoint are in users_without_checkpoint. Names users: for operators.';

CREATE VIEW credits.stragglers WITH (security_barrier) AS
    SELECT s.xact_id, s.listed_by, s.watermark_of,
           coalesce(a.state, CASE WHEN p.gid IS NOT NULL THEN 'prepared'
                                  WHEN pg_xact_status(s.xact_id) = 'in progress' THEN 'open'
                                  ELSE 'ended' END) AS state,
           coalesce(a.datname, p.database) AS database, coalesce(a.usename, p.owner) AS role,
           coalesce(a.xact_start, p.prepared) AS since, a.pid, a.application_name, p.gid
    FROM (
        SELECT l.xact_id, count(*) FILTER (WHERE l.is_listed) AS listed_by, count(*) FILTER (WHERE NOT l.is_listed) AS watermark_of
        FROM (
            SELECT unnest(c.stragglers), true FROM credits.user_balance_checkpoints c
            UNION ALL
            SELECT c.watermark, false
            FROM credits.user_balance_checkpoints c
            JOIN pg_snapshot_xip(pg_current_snapshot()) AS open(xact_id) ON open.xact_id = c.watermark
        ) l (xact_id, is_listed)
        GROUP BY l.xact_id
    ) s
    -- Of the transactions that share the lower half of an id, one at most is in progress.
    LEFT JOIN pg_stat_activity a ON a.backend_xid = s.xact_id::xid AND pg_xact_status(s.xact_id) = 'in progress'
    LEFT JOIN pg_prepared_xacts p ON p.transaction = s.xact_id::xid AND pg_xact_status(s.xact_id) = 'in progress'
    WHERE NOT row_security_active('credits.credits_transactions');
COMMENT ON VIEW credits.stragglers IS
    'Transactions that checkpoints could not pass, and who has them open. listed_by: how many checkpoints list it as a '
    'straggler; watermark_of: how many have stopped at it, while it is open. state: that of its session in pg_stat_activity, '
    'prepared, open (by a session that the caller may not look at), or ended, and then each checkpoint forgets it with its '
    'next refresh. since: the start of the transaction, or when it was prepared. Cost: two scans of the checkpoints. On a '
    'standby the sessions are the primary''s and not seen, and watermark_of is 0. For operators.';

-- A caller of whom row-level security hides rows would refresh nothing: it gets 42501 instead.
ALTER FUNCTION credits.refresh_idle_checkpoints(interval, bigint) SET row_security = off;
COMMENT ON FUNCTION credits.refresh_idle_checkpoints(interval, bigint) IS
    'When the transaction commits: refreshes checkpoints that were last written longer than idle ago and could cover more '
    'than they do, "limit" of them at most (NULL: all), and announces crossings of their users that are not announced yet. '
    'Returns how many. Waits for no one and keeps no one waiting: a stripe whose checkpoints someone else refreshes is left '
    'out. Made to be called every few minutes. Cost: an index lookup for each checkpoint, and the deltas that it folds. '
    'Errors: 22004 for a NULL idle, 22023 for a negative limit, 25006 in a read-only transaction, 42501 without SELECT on ledger '
    'and checkpoints or where row-level security would hide rows.';

COMMENT ON FUNCTION credits.settlement_statistics() IS
    'Counts for this database since the server started or recovered from a crash, of transactions that have committed: '
    'exclusive_sections, stripes taken exclusively (close to zero, for a new user, for refresh_checkpoint); crossings_up and '
    'crossings_down, also with the channels off; refreshes, checkpoints that were refreshed or made; refreshes_skipped, lagging ones '
    'left to someone who was refreshing on that stripe; refreshes_failed, those put off by an error, which is in the '
    'server''s log. Settlements that find nothing to decide are not counted. No row if the server has no room for the counts: '
    'there are places for 128 databases.';

REVOKE ALL ON credits.checkpoint_lag, credits.stragglers FROM PUBLIC;
REVOKE ALL ON FUNCTION credits.refresh_idle_checkpoints(interval, bigint), credits.settlement_statistics() FROM PUBLIC;
