-- From 0.1.0 to 0.2.0. A database that is updated by it is the same as one in which 0.2.0 was created.

-- As the install script does: nothing unqualified is looked up in the schema credits.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Begins every update: it waits for all who are using the ledger, and has every session look its relations up again.
ALTER TABLE credits.credits_transactions ALTER COLUMN seq SET GENERATED ALWAYS;

-- The library pins the search_path where it runs SQL, no longer each function in its definition; the stamp needs no support
-- function then.
CREATE OR REPLACE FUNCTION credits.current_xact_id(seq bigint) RETURNS xid8
    LANGUAGE c IMMUTABLE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'current_xact_id';
DROP FUNCTION credits.current_xact_id_support(internal);
ALTER FUNCTION credits.aggregate_user_batches(uuid) RESET search_path;
ALTER FUNCTION credits.calculate_balance_with_seq(uuid) RESET search_path;
ALTER FUNCTION credits.count_all_transactions(text, text[], timestamptz, timestamptz) RESET search_path;
ALTER FUNCTION credits.count_transactions_with_batches(uuid, text, text[], timestamptz, timestamptz) RESET search_path;
ALTER FUNCTION credits.count_user_transactions(uuid, text, text[], timestamptz, timestamptz) RESET search_path;
ALTER FUNCTION credits.create_transaction(uuid, text, numeric, text, text, uuid, uuid) RESET search_path;
ALTER FUNCTION credits.get_monthly_auto_topup_spend(uuid) RESET search_path;
ALTER FUNCTION credits.get_monthly_auto_topup_spend_bulk(uuid[]) RESET search_path;
ALTER FUNCTION credits.get_transaction_by_id(uuid) RESET search_path;
ALTER FUNCTION credits.get_user_balance(uuid) RESET search_path;
ALTER FUNCTION credits.get_users_balances_bulk(uuid[], integer) RESET search_path;
ALTER FUNCTION credits.list_all_transactions(bigint, bigint, text, text[], timestamptz, timestamptz, bigint) RESET search_path;
ALTER FUNCTION credits.list_transactions_with_batches(uuid, bigint, bigint, text, text[], timestamptz, timestamptz, bigint) RESET search_path;
ALTER FUNCTION credits.list_user_transactions(uuid, bigint, bigint, text, text[], timestamptz, timestamptz, bigint) RESET search_path;
ALTER FUNCTION credits.refresh_checkpoint(uuid) RESET search_path;
ALTER FUNCTION credits.refresh_checkpoints_bulk(uuid[]) RESET search_path;
ALTER FUNCTION credits.refuse_change() RESET search_path;
ALTER FUNCTION credits.sum_recent_transactions(uuid, bigint, timestamptz, timestamptz) RESET search_path;
ALTER FUNCTION credits.sum_recent_transactions_grouped(uuid, bigint, timestamptz, timestamptz) RESET search_path;
ALTER FUNCTION credits.sum_transactions_after_date(uuid, timestamptz) RESET search_path;
ALTER FUNCTION credits.sum_transactions_after_date_grouped(uuid, timestamptz) RESET search_path;
ALTER FUNCTION credits.transaction_exists_by_source_id(text) RESET search_path;

-- Logical replication applies changes row by row and fires row triggers alone. REPLICA: elsewhere the trigger above has its say first.
CREATE TRIGGER append_only_applied
    BEFORE UPDATE OR DELETE ON credits.credits_transactions
    FOR EACH ROW EXECUTE FUNCTION credits.refuse_change();
ALTER TABLE credits.credits_transactions ENABLE REPLICA TRIGGER append_only_applied;
COMMENT ON TRIGGER append_only_applied ON credits.credits_transactions IS
    'Refuses UPDATE and DELETE that logical replication applies.';

-- Settlements rely on what all others have charged, which the library of 0.1.0 does not tell them: it has no such function, so
-- that its sessions cannot insert any more.
CREATE OR REPLACE FUNCTION credits.note_transaction() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'note_row';
COMMENT ON FUNCTION credits.note_transaction() IS
    'Trigger: notes the user of an inserted row and its amount in backend memory; the user is settled when the transaction commits.';

-- What sessions tell each other of users comes from checkpoints, too. The engine's own writes fire no triggers.
CREATE FUNCTION credits.announce_change() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'announce_change';
COMMENT ON FUNCTION credits.announce_change() IS
    'Trigger: has every session forget what it knows of users, when the transaction has committed.';

CREATE TRIGGER announce_change
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON credits.user_balance_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION credits.announce_change();
ALTER TABLE credits.user_balance_checkpoints ENABLE ALWAYS TRIGGER announce_change;
COMMENT ON TRIGGER announce_change ON credits.user_balance_checkpoints IS
    'A checkpoint that was changed or deleted by hand is looked at again.';
REVOKE ALL ON FUNCTION credits.announce_change() FROM PUBLIC;

-- The index of deltas without seq.
DROP INDEX credits.credits_transactions_delta_idx;
CREATE INDEX credits_transactions_delta_idx ON credits.credits_transactions (user_id, xact_id);
COMMENT ON INDEX credits.credits_transactions_delta_idx IS
    'Finds the rows of a user that a checkpoint does not cover yet.';

-- A row is in one index by user and seq, not in two; and in the index by user and date with others of the same second.
DROP INDEX credits.credits_transactions_user_seq_idx;
CREATE INDEX credits_transactions_batched_idx ON credits.credits_transactions (user_id, seq)
    WHERE fusillade_batch_id IS NOT NULL;
COMMENT ON INDEX credits.credits_transactions_batched_idx IS
    'Lists the rows of a user that belong to batches, newest first.';
DROP INDEX credits.credits_transactions_user_created_idx;
CREATE INDEX credits_transactions_user_created_idx ON credits.credits_transactions (user_id, (created_at::timestamptz(0)));
COMMENT ON INDEX credits.credits_transactions_user_created_idx IS
    'Finds the rows of a user by date, to the second.';

-- A ledger that holds transactions is not dropped by accident.
CREATE FUNCTION credits.guard_ledger() RETURNS event_trigger
    LANGUAGE c
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
-- A view reads its tables as its owner, and the planner takes the columns' statistics as the owner's, too: it would try an operator
-- of the caller's on values that the caller may not see. Hence security_barrier, which is lost on a view that is nothing but
-- a UNION ALL. What folded_batches reads has no statistics to tell of, nor any that were made before.
ALTER TABLE credits.batch_aggregates
    ALTER COLUMN fusillade_batch_id SET STATISTICS 0, ALTER COLUMN user_id SET STATISTICS 0,
    ALTER COLUMN total_amount SET STATISTICS 0, ALTER COLUMN transaction_count SET STATISTICS 0,
    ALTER COLUMN max_seq SET STATISTICS 0, ALTER COLUMN created_at SET STATISTICS 0,
    ALTER COLUMN updated_at SET STATISTICS 0;
DELETE FROM pg_catalog.pg_statistic WHERE starelid = 'credits.batch_aggregates'::regclass;

-- What is folded, for whoever may read the whole ledger that it is folded from. It is both or nothing: with nothing folded,
-- every row is taken for a part of the delta, which costs more and changes no answer.

CREATE VIEW credits.checkpoints WITH (security_barrier) AS
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

REVOKE ALL ON credits.checkpoints, credits.folded_batches FROM PUBLIC;

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

CREATE OR REPLACE VIEW credits.users_without_checkpoint WITH (security_barrier) AS
    SELECT u.user_id
    FROM (SELECT DISTINCT t.user_id FROM credits.credits_transactions t) u
    LEFT JOIN credits.user_balance_checkpoints c ON c.user_id = u.user_id
    WHERE c.user_id IS NULL AND NOT row_security_active('credits.credits_transactions');
COMMENT ON VIEW credits.users_without_checkpoint IS
    'Users whose rows were all written without a settlement, as by a restore: their balances are summed from all of their '
    'rows until refresh_checkpoint or their next transaction. Empty under row-level security, as what it would show is not the '
    'caller''s: for operators.';

CREATE OR REPLACE VIEW credits.uncovered_transactions WITH (security_barrier) AS
    SELECT u.*
    FROM (
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
        JOIN credits.credits_transactions t ON t.user_id = u.user_id
    ) u;
COMMENT ON VIEW credits.uncovered_transactions IS
    'The deltas: ledger rows that no checkpoint covers yet. Empty under row-level security: for operators.';

CREATE OR REPLACE VIEW credits.balances WITH (security_barrier) AS
    SELECT a.user_id, a.balance, a.is_positive, a.crossed_at
    FROM (
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
        WHERE row_security_active('credits.credits_transactions')
    ) a;

CREATE OR REPLACE VIEW credits.batches WITH (security_barrier) AS
    SELECT a.fusillade_batch_id, a.user_id, a.total_amount, a.transaction_count, a.max_seq, a.created_at
    FROM (
        SELECT p.fusillade_batch_id, p.user_id, sum(p.total_amount) AS total_amount,
               sum(p.transaction_count)::bigint AS transaction_count, max(p.max_seq) AS max_seq, min(p.created_at) AS created_at
        FROM (
            SELECT b.fusillade_batch_id, b.user_id, b.total_amount, b.transaction_count, b.max_seq, b.created_at
            FROM credits.batch_aggregates b
            UNION ALL
            SELECT t.fusillade_batch_id, t.user_id, t.amount, 1, t.seq, t.created_at
            FROM credits.uncovered_transactions t
            WHERE t.fusillade_batch_id IS NOT NULL
        ) p
        WHERE NOT row_security_active('credits.credits_transactions')
        GROUP BY p.fusillade_batch_id, p.user_id
        UNION ALL
        SELECT v.fusillade_batch_id, v.user_id, v.total_amount, v.transaction_count, v.max_seq, v.created_at
        FROM credits.visible_batches() v
        WHERE row_security_active('credits.credits_transactions')
    ) a;

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
        -- Not of a checkpoint that is named above: nothing can be read from one that holds no number of credits.
        SELECT 'balance', s.user_id, format('read as %s, the rows sum to %s', credits.get_user_balance(s.user_id), s.balance)
        FROM summed s
        LEFT JOIN credits.checkpoints c ON c.user_id = s.user_id
        LEFT JOIN recomputed r ON r.user_id = s.user_id
        WHERE CASE WHEN c.balance <> coalesce(r.balance, 0) THEN false
                   ELSE credits.get_user_balance(s.user_id) <> s.balance END
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
CREATE  FUNCTION credits."refresh_idle_checkpoints"(
	"idle" interval DEFAULT '1 hour', /* Option < Interval > */
	"limit" bigint DEFAULT 1000 /* Option < i64 > */
) RETURNS bigint /* Result < i64, ErrorReport > */
VOLATILE PARALLEL UNSAFE
LANGUAGE c /* Rust */
AS 'MODULE_PATHNAME', 'refresh_idle_checkpoints_wrapper';

CREATE  FUNCTION credits."settlement_statistics"() RETURNS TABLE (
	"exclusive_sections" bigint,  /* i64 */
	"crossings_up" bigint,  /* i64 */
	"crossings_down" bigint,  /* i64 */
	"refreshes" bigint,  /* i64 */
	"refreshes_skipped" bigint,  /* i64 */
	"refreshes_failed" bigint  /* i64 */
)
STRICT VOLATILE PARALLEL UNSAFE
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
    'Returns how many. Takes stripes as a commit of these users would, and leaves out those whose checkpoints someone else '
    'refreshes: made to be called every few minutes. Cost: an index lookup for each checkpoint, and the deltas that it folds. '
    'Errors: 22004 for a NULL idle, 22008 for one that reaches back further than timestamps do, 22023 for a negative limit, '
    '25006 in a read-only transaction, 42501 without SELECT on ledger and checkpoints or where row-level security would hide rows.';

COMMENT ON FUNCTION credits.settlement_statistics() IS
    'Counts for this database since the server started or recovered from a crash, of transactions that have committed: '
    'exclusive_sections, stripes taken exclusively (close to zero, for a new user, for refresh_checkpoint); crossings_up and '
    'crossings_down, also with the channels off; refreshes, checkpoints that were refreshed or made; refreshes_skipped, lagging '
    'ones left alone while someone else refreshed on that stripe or the tables were locked; refreshes_failed, those put off by an '
    'error, which is in the server''s log. Settlements that find nothing to decide are not counted. No row if the server has no '
    'room for the counts: there are places for 128 databases.';

REVOKE ALL ON credits.checkpoint_lag, credits.stragglers FROM PUBLIC;
REVOKE ALL ON FUNCTION credits.refresh_idle_checkpoints(interval, bigint), credits.settlement_statistics() FROM PUBLIC;

-- Taking over a table of another ledger: import_transactions, unimportable_transactions
-- Takes over the transactions that an application has kept in a table of its own.

CREATE FUNCTION credits.import_query(source regclass) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    expected record;
    found_type regtype;
    columns text[];
BEGIN
    IF source IS NULL THEN
        RAISE EXCEPTION 'argument source must not be NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    FOR expected IN
        SELECT *
        FROM (VALUES
            ('id', true, 'uuid', '{uuid}'::regtype[]),
            ('user_id', true, 'uuid', '{uuid}'),
            ('transaction_type', true, 'text', '{text, varchar}'),
            -- Not floating point: it has been rounded already.
            ('amount', true, 'numeric', '{numeric, bigint, integer}'),
            ('source_id', true, 'text', '{text, varchar}'),
            ('description', false, 'text', '{text, varchar}'),
            ('fusillade_batch_id', false, 'uuid', '{uuid}'),
            ('api_key_id', false, 'uuid', '{uuid}'),
            -- Not without a time zone: what it means would depend on the session.
            ('created_at', true, 'timestamptz', '{timestamptz}'),
            ('seq', true, 'bigint', '{bigint}')
        ) AS e (name, is_required, type, accepted)
    LOOP
        SELECT a.atttypid INTO found_type
        FROM pg_attribute a
        WHERE a.attrelid = source AND a.attname = expected.name AND a.attnum > 0 AND NOT a.attisdropped;
        IF FOUND AND NOT (found_type = ANY (expected.accepted)
                          OR expected.name = 'transaction_type'
                             AND EXISTS (SELECT FROM pg_type t WHERE t.oid = found_type AND t.typtype = 'e')) THEN
            RAISE EXCEPTION 'column % of % is of type %, not of type %', expected.name, source, found_type, expected.type
                USING ERRCODE = 'datatype_mismatch', HINT = 'Import from a view that has the column converted.';
        ELSIF FOUND THEN
            columns := columns || format('s.%I::%s%s AS %1$I', expected.name, expected.type,
                                         CASE expected.type WHEN 'text' THEN ' COLLATE "default"' END);
        ELSIF expected.is_required THEN
            RAISE EXCEPTION '% has no column %', source, expected.name
                USING ERRCODE = 'undefined_column', HINT = 'Import from a view that has the column under this name.';
        ELSE
            columns := columns || format('NULL::%s AS %I', expected.type, expected.name);
        END IF;
    END LOOP;
    RETURN format('SELECT %s FROM %s s', array_to_string(columns, ', '), source);
END
    $$;
COMMENT ON FUNCTION credits.import_query(regclass) IS
    'For import_transactions: the query that reads the source in the columns and types of the ledger. Errors: 22004 for '
    'NULL, 42703 for a missing column, 42804 for one of another type.';

CREATE FUNCTION credits.unimportable_transactions(source regclass)
    RETURNS TABLE (id uuid, seq bigint, reason text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET row_security = off
    AS $$
DECLARE
    query text := credits.import_query(source);
    key name;
BEGIN
    RETURN QUERY EXECUTE format($query$
        SELECT c.id, c.seq, c.reason
        FROM (
            SELECT s.id, s.seq, concat_ws('; ',
                CASE WHEN s.id IS NULL THEN 'id is NULL' END,
                CASE WHEN s.user_id IS NULL THEN 'user_id is NULL' END,
                CASE WHEN s.transaction_type IS NULL THEN 'transaction_type is NULL'
                     WHEN s.transaction_type NOT IN ('purchase', 'admin_grant', 'admin_removal', 'usage')
                         THEN format('transaction_type "%%s" is unknown', s.transaction_type) END,
                CASE WHEN s.amount IS NULL THEN 'amount is NULL'
                     WHEN s.amount <= 0 THEN format('amount %%s is not above 0', s.amount)
                     -- NaN and the infinities are above all numbers.
                     WHEN s.amount >= 10000000000000 THEN format('amount %%s has more than 13 integer digits', s.amount)
                     WHEN min_scale(s.amount) > 15 THEN format('amount %%s has more than 15 fractional digits', s.amount) END,
                CASE WHEN s.source_id IS NULL THEN 'source_id is NULL'
                     -- The index may hold a longer one, if it can be compressed.
                     WHEN octet_length(s.source_id) > 2692
                         THEN format('source_id has %%s bytes, more than the 2692 that fit its index',
                                     octet_length(s.source_id)) END,
                CASE WHEN s.fusillade_batch_id IS NOT NULL AND s.transaction_type <> 'usage'
                         THEN format('fusillade_batch_id %%s on a row that is not usage', s.fusillade_batch_id) END,
                CASE WHEN s.created_at IS NULL THEN 'created_at is NULL' END,
                CASE WHEN s.seq IS NULL THEN 'seq is NULL' END) AS reason
            FROM (%s) s
        ) c
        WHERE c.reason <> ''
        $query$, query);
    FOREACH key IN ARRAY '{id, source_id, seq}'::name[] LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_index i
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
            WHERE i.indrelid = source AND a.attname = key AND i.indnkeyatts = 1 AND i.indisunique AND i.indisvalid
              AND i.indpred IS NULL);
        RETURN QUERY EXECUTE format($query$
            SELECT s.id, s.seq, format('%2$s %%s occurs %%s times', s.%2$I, d.times)
            FROM (%1$s) s
            JOIN (SELECT s.%2$I, count(*) AS times FROM (%1$s) s GROUP BY s.%2$I HAVING count(*) > 1) d ON d.%2$I = s.%2$I
            $query$, query, key);
    END LOOP;
END
    $$;
COMMENT ON FUNCTION credits.unimportable_transactions(regclass) IS
    'Rows of a table that import_transactions would refuse, and why: what the ledger cannot keep exactly, and ids, source_ids and '
    'seqs that occur more than once. A row may be listed more than once. Errors: 22004 for NULL, 42703 and 42804 for a column that is missing or '
    'of another type, 42501 without SELECT on the table or where row-level security would hide rows. Cost: a scan of the table, '
    'and a sort or hash of it for each of the three that has no unique index.';

CREATE PROCEDURE credits.import_transactions(source regclass, chunk_size bigint DEFAULT 50000, announce boolean DEFAULT false)
    LANGUAGE plpgsql
    AS $$
DECLARE
    -- Types are looked up before the search_path is pinned: a name that is no keyword is qualified.
    query pg_catalog.text;
    -- What is wrong: how much of it, and its first lines.
    problems bigint;
    problem pg_catalog.text;
    -- Rows of the source up to last_seq, the last one when we began, and how many of them are through.
    total bigint;
    last_seq bigint;
    done bigint;
    -- The chunk; from_seq is NULL when there is none left.
    from_seq bigint;
    to_seq bigint;
    chunk_rows bigint;
    inserted bigint;
    began pg_catalog.timestamptz;
    began_with bigint;
BEGIN
    -- A procedure that commits cannot have its search_path pinned: each of its transactions begins by doing so.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('row_security', 'off', true);
    IF source IS NULL OR announce IS NULL THEN
        RAISE EXCEPTION 'argument % must not be NULL', CASE WHEN source IS NULL THEN 'source' ELSE 'announce' END
            USING ERRCODE = 'null_value_not_allowed';
    ELSIF (chunk_size > 0) IS NOT TRUE THEN
        RAISE EXCEPTION 'argument chunk_size must be above 0, but is %', coalesce(chunk_size::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    query := credits.import_query(source);
    -- Refused inside a transaction block: better now than after the first chunk.
    COMMIT;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('row_security', 'off', true);

    RAISE NOTICE 'checking %', source;
    SELECT count(*),
           string_agg(format('id %s, seq %s: %s', u.id, u.seq, u.reason), E'\n' ORDER BY u.place) FILTER (WHERE u.place <= 20)
    INTO problems, problem
    FROM (SELECT r.*, row_number() OVER (ORDER BY r.seq, r.id) AS place FROM credits.unimportable_transactions(source) r) u;
    IF problems > 0 THEN
        RAISE EXCEPTION '% cannot be imported: % problems', source, problems
            USING ERRCODE = 'check_violation', DETAIL = problem,
                  HINT = format('Nothing was imported. SELECT * FROM credits.unimportable_transactions(%L) lists all problems; '
                                'correct the rows, or import from a view that does.', source);
    END IF;
    EXECUTE format('SELECT count(*), max(s.seq) FROM (%s) s', query) INTO total, last_seq;
    EXECUTE format($query$
        SELECT format('seq %%s is source_id "%%s" in the source and "%%s" in the ledger', s.seq, s.source_id, t.source_id)
        FROM (%s) s
        JOIN credits.credits_transactions t ON t.seq = s.seq AND t.seq >= '-9223372036854775808'
        WHERE t.source_id <> s.source_id
        LIMIT 1
        $query$, query) INTO problem;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'seqs of % are taken by other transactions: %', source, problem
            USING ERRCODE = 'unique_violation', HINT = 'Import from a view that adds a constant to seq.';
    END IF;
    EXECUTE format($query$
        SELECT s.seq
        FROM (%s) s
        LEFT JOIN credits.credits_transactions t
          ON t.seq = s.seq AND t.seq >= '-9223372036854775808' AND t.source_id = s.source_id
        WHERE t.seq IS NULL
        ORDER BY s.seq LIMIT 1
        $query$, query) INTO from_seq;
    EXECUTE format('SELECT count(*) FROM (%s) s WHERE s.seq < $1', query) INTO done USING from_seq;
    IF total > chunk_size
       AND EXISTS (SELECT FROM pg_class c WHERE c.oid = source AND c.relkind IN ('r', 'p', 'm'))
       AND NOT EXISTS (SELECT FROM pg_index i
                       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                       WHERE i.indrelid = source AND a.attname = 'seq' AND i.indisvalid AND i.indpred IS NULL) THEN
        RAISE WARNING '% has no index that begins with seq: each chunk reads the whole table', source
            USING HINT = format('CREATE INDEX ON %s (seq);', source);
    END IF;
    -- What is recorded meanwhile comes after all that is imported. The gap is for seqs that are being taken right now.
    IF from_seq IS NOT NULL AND nextval('credits.credits_transactions_seq_seq') <= last_seq THEN
        PERFORM setval('credits.credits_transactions_seq_seq', last_seq + 1000);
    END IF;
    began := clock_timestamp();
    began_with := done;

    WHILE from_seq IS NOT NULL LOOP
        IF NOT announce THEN
            -- The settings exist once the library is loaded.
            PERFORM credits.get_user_balance('00000000-0000-0000-0000-000000000000');
            BEGIN
                PERFORM set_config('credits_ledger.config_channel', '', true),
                        set_config('credits_ledger.crossing_channel', '', true);
            EXCEPTION WHEN insufficient_privilege THEN
                RAISE EXCEPTION '%', SQLERRM
                    USING ERRCODE = 'insufficient_privilege',
                          HINT = 'Only who may set the channels can import in silence. With announce => true, crossings are '
                                 'announced as the chunks make them.';
            END;
        END IF;
        EXECUTE format($query$
            SELECT max(c.seq), count(*)
            FROM (SELECT s.seq FROM (%s) s WHERE s.seq >= $1 AND s.seq <= $2 ORDER BY s.seq LIMIT $3) c
            $query$, query) INTO to_seq, chunk_rows USING from_seq, last_seq, chunk_size;
        EXECUTE format($query$
            INSERT INTO credits.credits_transactions
                (id, user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id, created_at, seq)
            OVERRIDING SYSTEM VALUE
            SELECT s.* FROM (%s) s WHERE s.seq >= $1 AND s.seq <= $2 ORDER BY s.seq
            ON CONFLICT (source_id) DO NOTHING
            $query$, query) USING from_seq, to_seq;
        GET DIAGNOSTICS inserted = ROW_COUNT;
        IF inserted < chunk_rows THEN
            EXECUTE format($query$
                SELECT format('source_id "%%s" is taken by another transaction: the source has %%s of %%s for user %%s, stored is '
                              '%%s of %%s for user %%s',
                              s.source_id, s.transaction_type, s.amount, s.user_id, t.transaction_type, t.amount, t.user_id)
                FROM (%s) s
                JOIN credits.credits_transactions t ON t.source_id = s.source_id
                WHERE s.seq >= $1 AND s.seq <= $2
                  AND (t.user_id, t.transaction_type, t.amount) <> (s.user_id, s.transaction_type, s.amount)
                ORDER BY s.seq LIMIT 1
                $query$, query) INTO problem USING from_seq, to_seq;
            IF problem IS NOT NULL THEN
                RAISE EXCEPTION '%', problem
                    USING ERRCODE = 'unique_violation',
                          HINT = format('The rows before seq %s are imported, none from there on. Import the rest from a view '
                                        'without this row, or with another source_id.', from_seq);
            END IF;
        END IF;
        done := done + chunk_rows;
        from_seq := CASE WHEN to_seq < last_seq THEN to_seq + 1 END;
        COMMIT;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), pg_catalog.set_config('row_security', 'off', true);
        RAISE NOTICE 'imported % of % rows, % rows/s', done, total,
            round((done - began_with) / greatest(EXTRACT(epoch FROM clock_timestamp() - began), 0.001));
    END LOOP;

    EXECUTE format($query$
        WITH source AS NOT MATERIALIZED (
            SELECT s.user_id, s.source_id,
                   CASE WHEN s.transaction_type IN ('purchase', 'admin_grant') THEN s.amount ELSE -s.amount END AS credits
            FROM (%s) s
            WHERE s.seq <= $1
        ),
        expected AS (
            SELECT s.user_id, sum(s.credits) AS credits, count(*) AS transactions FROM source s GROUP BY s.user_id
        ),
        imported AS (
            SELECT t.user_id, sum(t.credits) AS balance, sum(t.credits) FILTER (WHERE t.is_imported) AS credits,
                   count(*) FILTER (WHERE t.is_imported) AS transactions
            FROM (
                SELECT t.user_id, s.source_id IS NOT NULL AS is_imported,
                       CASE WHEN t.transaction_type IN ('purchase', 'admin_grant') THEN t.amount ELSE -t.amount END AS credits
                FROM credits.credits_transactions t
                LEFT JOIN source s ON s.source_id = t.source_id
            ) t
            GROUP BY t.user_id
        )
        SELECT count(*), string_agg(d.difference, E'\n') FILTER (WHERE d.place <= 20)
        FROM (
            SELECT row_number() OVER () AS place,
                   format('user %%s: the source has %%s rows that sum to %%s, the ledger %%s of them that sum to %%s; the balance '
                          'is %%s, all rows sum to %%s',
                          e.user_id, e.transactions, e.credits, coalesce(i.transactions, 0), coalesce(i.credits, 0),
                          credits.get_user_balance(e.user_id), coalesce(i.balance, 0)) AS difference
            FROM expected e
            LEFT JOIN imported i ON i.user_id = e.user_id
            WHERE (e.transactions, e.credits) IS DISTINCT FROM (i.transactions, i.credits)
               OR credits.get_user_balance(e.user_id) IS DISTINCT FROM i.balance
        ) d
        $query$, query) INTO problems, problem USING last_seq;
    IF problems > 0 THEN
        RAISE EXCEPTION 'the import of % is not complete: % users differ', source, problems
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = problem,
                  HINT = 'If the source was written to meanwhile, call it again: it takes over what is missing.';
    END IF;
    RAISE NOTICE '% rows of % are in the ledger, and every balance agrees', total, source;
END
    $$;
COMMENT ON PROCEDURE credits.import_transactions(regclass, bigint, boolean) IS
    'Copies the rows of a table or view with the ledger''s columns (transaction_type as text or enum; description, '
    'fusillade_batch_id and api_key_id may be missing, others are ignored) into the ledger, with their id, created_at and seq, in '
    'the order of seq; new transactions get higher seqs from the start. Checks every row before it imports any '
    '(unimportable_transactions), then commits chunk_size rows at a time with a NOTICE each, and in the end compares each user''s '
    'rows and balance with the source. Called again, it goes on where it stopped. A row whose source_id is in the ledger with the '
    'same user, type and amount is skipped; with others it stops the import: 23505, and its chunk is rolled back. Announces no '
    'crossing unless announce is true. Runs as the caller, who needs SELECT on the source, SELECT and INSERT on the ledger, UPDATE '
    'on its sequence, EXECUTE on the functions of the schema and, unless announce is true, the right to set both channels. Errors '
    'besides: 23514 for rows that cannot be kept exactly, 42703 and 42804 for columns that do not fit, 55000 if a user differs in '
    'the end, 2D000 inside a transaction block, 22004, 22023, 42501.';

REVOKE ALL ON FUNCTION credits.import_query(regclass), credits.unimportable_transactions(regclass) FROM PUBLIC;
REVOKE ALL ON PROCEDURE credits.import_transactions(regclass, bigint, boolean) FROM PUBLIC;
-- Logical replication leaves the derived tables alone.
-- Derived rows are true of the transaction ids of their own database only. Those of another arrive where a publication has
-- more tables than the ledger; here they are derived anew from its rows. The engine's own writes fire no triggers.
CREATE FUNCTION credits.leave_out() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'leave_out';
COMMENT ON FUNCTION credits.leave_out() IS
    'Trigger: leaves out what logical replication brings for a derived table.';
REVOKE ALL ON FUNCTION credits.leave_out() FROM PUBLIC;

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.user_balance_checkpoints
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.user_balance_checkpoints ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.user_balance_checkpoints IS
    'Keeps the checkpoints of other databases out.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.batch_aggregates
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.batch_aggregates ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.batch_aggregates IS
    'Keeps the batch totals of other databases out.';
