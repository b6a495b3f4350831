-- From 0.2.0 to 0.3.0. A database that is updated by it is the same as one in which 0.3.0 was created.

-- As the install script does: nothing unqualified is looked up in the schema credits.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Begins every update: it waits for all who are using the ledger, and has every session look its relations up again.
ALTER TABLE credits.credits_transactions ALTER COLUMN seq SET GENERATED ALWAYS;

-- Which accounts this ledger has, where it is one of many nodes: views ask.

CREATE FUNCTION credits.owned_buckets() RETURNS bit
    LANGUAGE c STABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'owned_buckets';
COMMENT ON FUNCTION credits.owned_buckets() IS
    'Which buckets of accounts this node has in the snapshot of the statement: 1,024 bits, that of bucket 0 first. One that is about to leave is here, one that is arriving is not. '
    'For readers of all nodes, in one statement with what they read: whether each bucket was read once.';

CREATE FUNCTION credits.has_all_buckets() RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'has_all_buckets';
COMMENT ON FUNCTION credits.has_all_buckets() IS
    'Whether this ledger has all accounts in the snapshot of the statement, as one without a router has.';

CREATE FUNCTION credits.is_here(user_id uuid) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'is_here';
COMMENT ON FUNCTION credits.is_here(uuid) IS
    'Whether this node has the account in the snapshot of the statement: not if its bucket has left and rows of it are kept, or is arriving. 22004 for NULL.';

-- The same for every row, so it is evaluated before the first one is read.
CREATE FUNCTION credits.require_class(modulus int, remainder int) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'require_class';
COMMENT ON FUNCTION credits.require_class(int, int) IS
    'For the views of make_class_views: true if this node has all buckets of the class in the snapshot of the statement; raises LC003 otherwise. 22004, 22023 for what is no class.';

-- The ledger: three more columns. Nullable, without default and constraints: no row is looked at.

ALTER TABLE credits.credits_transactions ADD COLUMN category text, ADD COLUMN metadata jsonb, ADD COLUMN reverses uuid;
COMMENT ON COLUMN credits.credits_transactions.category IS
    'What the transaction was for: a model, a product, a tier. At most 200 characters; NULL unless given.';
COMMENT ON COLUMN credits.credits_transactions.metadata IS
    'The application''s own: a JSON object; NULL unless given.';
COMMENT ON COLUMN credits.credits_transactions.reverses IS
    'id of the transaction that this one takes back; NULL unless given.';

CREATE OR REPLACE VIEW credits.uncovered_transactions WITH (security_barrier) AS
    SELECT u.*
    FROM (
        SELECT t.*
        FROM credits.user_balance_checkpoints c
        -- With an upper end, which no transaction reaches, the planner expects a short range instead of a third of the rows.
        JOIN credits.credits_transactions t
          ON t.user_id = c.user_id AND t.xact_id >= c.watermark AND t.xact_id < '18446744073709551615'
        WHERE NOT row_security_active('credits.credits_transactions') AND ((SELECT credits.has_all_buckets()) OR credits.is_here(c.user_id))
        UNION ALL
        SELECT t.*
        FROM credits.user_balance_checkpoints c
        CROSS JOIN unnest(c.stragglers) AS s(xact_id)
        JOIN credits.credits_transactions t ON t.user_id = c.user_id AND t.xact_id = s.xact_id
        WHERE NOT row_security_active('credits.credits_transactions') AND ((SELECT credits.has_all_buckets()) OR credits.is_here(c.user_id))
        UNION ALL
        SELECT t.*
        FROM credits.users_without_checkpoint u
        JOIN credits.credits_transactions t ON t.user_id = u.user_id
        -- A member of pg_monitor sees these users, and not their rows.
        WHERE NOT row_security_active('credits.credits_transactions')
    ) u;

-- What the ledger refuses, and what it is stamped and numbered by.

-- From here on nothing is attached to the ledger: some reads would count the rows of a child, and others not.
DO $$
DECLARE
    attached text;
BEGIN
    SELECT string_agg(format('%s inherits from %s, or is a partition of it', inhrelid::regclass, inhparent::regclass), '; ')
    INTO attached FROM pg_inherits
    WHERE inhrelid IN ('credits.credits_transactions'::regclass, 'credits.user_balance_checkpoints'::regclass,
                       'credits.batch_aggregates'::regclass)
       OR inhparent IN ('credits.credits_transactions'::regclass, 'credits.user_balance_checkpoints'::regclass,
                        'credits.batch_aggregates'::regclass);
    IF attached IS NOT NULL THEN
        RAISE EXCEPTION 'the tables of the ledger are attached to others: %', attached
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Say ALTER TABLE child NO INHERIT parent, or DETACH PARTITION, and then update.';
    END IF;
END $$;

-- Columns of somebody's own may stay. What becomes of them has to be said once.
DO $$
DECLARE
    own text[] := '{id,user_id,transaction_type,amount,source_id,description,fusillade_batch_id,api_key_id,created_at,seq,xact_id,category,
                    metadata,reverses}';
    others text;
BEGIN
    SELECT string_agg(attname, ', ' ORDER BY attnum) INTO others FROM pg_attribute
    WHERE attrelid = 'credits.credits_transactions'::regclass AND attnum > 0 AND NOT attisdropped AND attname <> ALL (own);
    IF others IS NOT NULL THEN
        RAISE WARNING 'the ledger has columns that are not the extension''s: %', others
            USING HINT = 'A dump of it cannot be restored: move them to a table of your own, keyed by id, and drop them here.';
    END IF;
END $$;

ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER append_only_applied;
COMMENT ON TRIGGER append_only_applied ON credits.credits_transactions IS
    'Refuses UPDATE and DELETE that logical replication applies, or that come through another table.';

COMMENT ON FUNCTION credits.current_xact_id(bigint) IS
    'Id of the current top-level transaction, for the generated column credits_transactions.xact_id only. Moves the sequence on '
    'to seq, if the row brings one and the caller may insert it.';
CREATE FUNCTION credits.advance_seq(past bigint) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'advance_seq_wrapper';
COMMENT ON FUNCTION credits.advance_seq(bigint) IS
    'Numbers the next transaction above past, and never sets numbering back: room for rows that are to come with a seq of their '
    'own. Needs no lock. Such rows move the numbering on by themselves, too. For roles that may insert the column seq. Errors: '
    '22004 for NULL, 23514 for 4611686018427387904 and above, 25006 in a read-only transaction, 42501.';

REVOKE ALL ON FUNCTION credits.advance_seq(bigint) FROM PUBLIC;

-- The default of ids: no row is looked at. One that somebody has set stays.
CREATE FUNCTION credits.uuid_v7() RETURNS uuid
    LANGUAGE c VOLATILE PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'uuid_v7';
COMMENT ON FUNCTION credits.uuid_v7() IS
    'A new uuid of version 7 (RFC 9562): ordered by the time at which it was made, ascending within a session whatever the clock does. '
    'The default of credits_transactions.id. Anybody may call it.';
REVOKE ALL ON FUNCTION credits.uuid_v7() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION credits.uuid_v7() TO PUBLIC;
COMMENT ON COLUMN credits.credits_transactions.id IS 'Identity of the transaction; a uuid of version 7 unless given.';
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
               WHERE d.adrelid = 'credits.credits_transactions'::regclass AND a.attname = 'id'
                 AND pg_get_expr(d.adbin, d.adrelid) = 'gen_random_uuid()') THEN
        ALTER TABLE credits.credits_transactions ALTER COLUMN id SET DEFAULT credits.uuid_v7();
    END IF;
END $$;

-- What the constraints of this table and of those that users write ask. The server reads and plans the expression of each in every
-- statement, and a call is the shortest one: written out, the three of this table took a third of the instructions of an INSERT.
CREATE FUNCTION credits.is_amount(amount numeric) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'is_amount';
COMMENT ON FUNCTION credits.is_amount(numeric) IS
    'Whether this is the amount of a transaction: above 0, at most 13 integer and 15 fractional digits. For constraints.';
CREATE FUNCTION credits.is_transaction_type(transaction_type text) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'is_transaction_type';
COMMENT ON FUNCTION credits.is_transaction_type(text) IS
    'Whether this is purchase, admin_grant, admin_removal or usage. For a constraint of credits_transactions.';
CREATE FUNCTION credits.may_have_batch(transaction_type text, fusillade_batch_id uuid) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'may_have_batch';
COMMENT ON FUNCTION credits.may_have_batch(text, uuid) IS
    'Whether a transaction of this type may belong to a batch: usage may. For a constraint of credits_transactions.';
REVOKE ALL ON FUNCTION credits.is_amount(numeric), credits.is_transaction_type(text), credits.may_have_batch(text, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION credits.is_amount(numeric), credits.is_transaction_type(text), credits.may_have_batch(text, uuid) TO PUBLIC;
-- All rows have passed the same constraints; the server reads them once more.
ALTER TABLE credits.credits_transactions
    DROP CONSTRAINT transaction_type_is_known, DROP CONSTRAINT amount_is_positive_and_exact, DROP CONSTRAINT batch_is_usage,
    ADD CONSTRAINT transaction_type_is_known
        CHECK (credits.is_transaction_type(transaction_type)),
    ADD CONSTRAINT amount_is_positive_and_exact
        CHECK (credits.is_amount(amount)),
    ADD CONSTRAINT batch_is_usage
        CHECK (credits.may_have_batch(transaction_type, fusillade_batch_id));
COMMENT ON CONSTRAINT transaction_type_is_known ON credits.credits_transactions IS
    'The four types of transaction.';
COMMENT ON CONSTRAINT amount_is_positive_and_exact ON credits.credits_transactions IS
    'An amount is exact or refused, never rounded: above 0, at most 13 integer and 15 fractional digits.';
COMMENT ON CONSTRAINT batch_is_usage ON credits.credits_transactions IS
    'Only usage rows belong to a batch.';

-- Derived tables and their views.

-- Nullable, without default: no row is looked at. NULL is right for every account, since none has boundaries of its own yet.
ALTER TABLE credits.user_balance_checkpoints
    ADD COLUMN overdraft_limit numeric, ADD COLUMN thresholds numeric[], ADD COLUMN thresholds_below smallint,
    ADD COLUMN thresholds_crossed_at timestamptz[];
-- NULL is right here, too: nothing has been added up by day yet. CALL credits.fill_daily_totals() does that.
ALTER TABLE credits.user_balance_checkpoints ADD COLUMN has_days boolean;
-- None has any cap yet.
ALTER TABLE credits.user_balance_checkpoints ADD COLUMN cap_ids uuid[], ADD COLUMN caps_reached_until timestamptz[];
COMMENT ON COLUMN credits.user_balance_checkpoints.overdraft_limit IS
    'Copied from spending_limits: NULL where it is 0, Infinity where there is none.';
COMMENT ON COLUMN credits.user_balance_checkpoints.thresholds IS
    'Copied from spending_limits, ascending; NULL where there are none.';
COMMENT ON COLUMN credits.user_balance_checkpoints.thresholds_below IS
    'How many of the thresholds lie below the balance announced last; NULL where there are none.';
COMMENT ON COLUMN credits.user_balance_checkpoints.thresholds_crossed_at IS
    'When each of the thresholds was last crossed; NULL before its first crossing, and where there are none.';
COMMENT ON COLUMN credits.user_balance_checkpoints.has_days IS
    'Whether daily_totals has what the checkpoint covers; NULL in one that an earlier version has made, until fill_daily_totals.';
COMMENT ON COLUMN credits.user_balance_checkpoints.cap_ids IS
    'The account''s caps, copied from spend_caps, ascending; NULL where there are none.';
COMMENT ON COLUMN credits.user_balance_checkpoints.caps_reached_until IS
    'Until when each of the caps was last announced to be reached, infinity for one without a period; NULL where it was not.';

CREATE OR REPLACE VIEW credits.checkpoints WITH (security_barrier) AS
    SELECT c.*
    FROM credits.user_balance_checkpoints c
    WHERE has_table_privilege('credits.credits_transactions', 'SELECT')
      AND NOT row_security_active('credits.credits_transactions');

CREATE TABLE credits.daily_totals (
    user_id           uuid    NOT NULL,
    day               date    NOT NULL,
    category          text,
    api_key_id        uuid,
    transaction_type  text    NOT NULL,
    total_amount      numeric NOT NULL,
    transaction_count bigint  NOT NULL
) USING heap WITH (
    -- Room on the page keeps the updates heap-only.
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000
);
COMMENT ON TABLE credits.daily_totals IS
    'Derived: per user, UTC day of created_at, type, category and API key, the totals of the rows that the user''s checkpoint covers, if it '
    'has has_days. Rows without a category, or without a key, belong together. Clients call usage_by_day.';
COMMENT ON COLUMN credits.daily_totals.user_id IS 'Account.';
COMMENT ON COLUMN credits.daily_totals.day IS
    'Day of created_at in UTC; infinity and -infinity where that is infinite, as in rows of earlier versions.';
COMMENT ON COLUMN credits.daily_totals.category IS 'Category, NULL for rows without one.';
COMMENT ON COLUMN credits.daily_totals.api_key_id IS 'API key, NULL for rows without one.';
COMMENT ON COLUMN credits.daily_totals.transaction_type IS 'Type of the transactions.';
COMMENT ON COLUMN credits.daily_totals.total_amount IS 'Sum of the amounts, positive.';
COMMENT ON COLUMN credits.daily_totals.transaction_count IS 'Number of rows.';

-- By this index the engine finds the total that a row belongs to, and keeps totals apart: a unique one would have NULLs differ before
-- Postgres 15. The texts are ordered by their bytes, whatever the collation of the database is, and becomes by an update of its library.
CREATE INDEX daily_totals_user_day_idx
    ON credits.daily_totals (user_id, day, transaction_type COLLATE "C", category COLLATE "C", api_key_id);
COMMENT ON INDEX credits.daily_totals_user_day_idx IS
    'Finds a total, and reads the days of a user in order.';
-- No column may be NULL in a key. Without an identity, a subscriber would refuse the updates that a publication of all tables brings.
ALTER TABLE credits.daily_totals REPLICA IDENTITY FULL;
ALTER TABLE credits.daily_totals ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON credits.daily_totals FROM PUBLIC;

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.daily_totals
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.daily_totals ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.daily_totals IS
    'Skips the daily totals of other databases, which replication brings.';

CREATE VIEW credits.folded_days WITH (security_barrier) AS
    SELECT d.*
    FROM credits.daily_totals d
    WHERE has_table_privilege('credits.credits_transactions', 'SELECT')
      AND NOT row_security_active('credits.credits_transactions');
COMMENT ON VIEW credits.folded_days IS
    'The table daily_totals, for callers who may SELECT all rows of the ledger; empty for others.';
REVOKE ALL ON credits.folded_days FROM PUBLIC;

-- Each change of checkpoints by hand leaves a row here, in the same transaction. What sessions publish bears a name that is derived from
-- the rows of this table (src/pg/state.rs): after the commit, nothing that was published before is used, on standbys neither. The engine
-- inserts the row and removes older ones. A change of this table by hand has the same effect, since it leaves another set of rows.
CREATE TABLE credits.checkpoint_changes (
    xact_id    xid8        NOT NULL,
    changed_at timestamptz NOT NULL
) USING heap WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 1000
);
COMMENT ON TABLE credits.checkpoint_changes IS
    'Derived: the last transactions that changed checkpoints by hand. What sessions had published of accounts before such a '
    'change is not used any more. Not for clients.';
COMMENT ON COLUMN credits.checkpoint_changes.xact_id IS 'Transaction that changed checkpoints.';
COMMENT ON COLUMN credits.checkpoint_changes.changed_at IS 'When it changed them.';
REVOKE ALL ON credits.checkpoint_changes FROM PUBLIC;

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.checkpoint_changes
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.checkpoint_changes ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.checkpoint_changes IS
    'Skips the changes in other databases, which replication brings.';

COMMENT ON FUNCTION credits.announce_change() IS
    'Trigger: records in checkpoint_changes that the transaction changes checkpoints, and invalidates what every session keeps of'
    ' accounts, once it has committed.';

CREATE TRIGGER announce_change
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON credits.checkpoint_changes
    FOR EACH STATEMENT EXECUTE FUNCTION credits.announce_change();
ALTER TABLE credits.checkpoint_changes ENABLE ALWAYS TRIGGER announce_change;
COMMENT ON TRIGGER announce_change ON credits.checkpoint_changes IS 'A change of this table by hand is recorded in it, too.';

-- Only the checkpoint stores which side of zero was announced last. It cannot be computed from the ledger's rows: a crossing by COMMIT
-- PREPARED may not have been announced yet. So when a checkpoint is deleted by hand, this trigger notes the side, and the commit makes
-- the checkpoint again on that side. TRUNCATE fires no row trigger: there, a statement trigger notes that all are to be made again.
CREATE FUNCTION credits.keep_announced() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'keep_announced';
COMMENT ON FUNCTION credits.keep_announced() IS
    'Trigger: notes the announced side of zero of a deleted checkpoint; the checkpoint is made again on that side when the '
    'transaction commits.';

CREATE TRIGGER keep_announced
    AFTER DELETE OR UPDATE OF user_id ON credits.user_balance_checkpoints
    FOR EACH ROW EXECUTE FUNCTION credits.keep_announced();
ALTER TABLE credits.user_balance_checkpoints ENABLE ALWAYS TRIGGER keep_announced;
COMMENT ON TRIGGER keep_announced ON credits.user_balance_checkpoints IS 'Has a checkpoint that was deleted by hand made again.';

CREATE TRIGGER keep_all_announced
    BEFORE TRUNCATE ON credits.user_balance_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION credits.keep_announced();
ALTER TABLE credits.user_balance_checkpoints ENABLE ALWAYS TRIGGER keep_all_announced;
COMMENT ON TRIGGER keep_all_announced ON credits.user_balance_checkpoints IS 'Has all checkpoints made again after TRUNCATE.';
REVOKE ALL ON FUNCTION credits.keep_announced() FROM PUBLIC;

CREATE OR REPLACE VIEW credits.batches WITH (security_barrier) AS
    SELECT a.fusillade_batch_id, a.user_id, trim_scale(a.total_amount) AS total_amount, a.transaction_count, a.max_seq, a.created_at
    FROM (
        SELECT p.fusillade_batch_id, p.user_id, sum(p.total_amount) AS total_amount,
               sum(p.transaction_count)::bigint AS transaction_count, max(p.max_seq) AS max_seq, min(p.created_at) AS created_at
        FROM (
            -- Without its checkpoint, what is folded of an account does not count: all of its rows are uncovered.
            SELECT b.fusillade_batch_id, b.user_id, b.total_amount, b.transaction_count, b.max_seq, b.created_at
            FROM credits.batch_aggregates b
            WHERE EXISTS (SELECT FROM credits.user_balance_checkpoints c WHERE c.user_id = b.user_id) AND ((SELECT credits.has_all_buckets()) OR credits.is_here(b.user_id))
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

-- Views for operators.

CREATE OR REPLACE VIEW credits.stragglers WITH (security_barrier) AS
    WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS snapshot),
    open AS MATERIALIZED (
        -- What a commit would pass by now: ledger::coverage has the same numbers.
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

CREATE OR REPLACE VIEW credits.checkpoint_lag WITH (security_barrier) AS
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

CREATE OR REPLACE VIEW credits.users_without_checkpoint WITH (security_barrier) AS
    SELECT u.user_id
    FROM (SELECT DISTINCT t.user_id FROM credits.credits_transactions t) u
    LEFT JOIN credits.user_balance_checkpoints c ON c.user_id = u.user_id
    WHERE c.user_id IS NULL AND ((SELECT credits.has_all_buckets()) OR credits.is_here(u.user_id))
      AND (NOT row_security_active('credits.credits_transactions') OR pg_has_role('pg_monitor', 'USAGE'));

GRANT USAGE ON SCHEMA credits TO pg_monitor;
GRANT SELECT ON credits.checkpoint_lag, credits.stragglers, credits.users_without_checkpoint TO pg_monitor;
GRANT EXECUTE ON FUNCTION credits.settlement_statistics() TO pg_monitor;

-- The guard, and what it keeps.

DROP EVENT TRIGGER credits_ledger_guard;
COMMENT ON FUNCTION credits.guard_ledger() IS
    'Event trigger: refuses, with SQLSTATE 55000, to drop a ledger that holds transactions, unless credits_ledger.allow_drop is '
    'on, and to give the ledger, derived tables or result types another shape. Warns of what pg_dump leaves out.';

-- Fires for every command, because a cascade can reach a table from almost anything. It notes the shape of the tables before the
-- command: while it is disabled, the other two triggers do nothing. ALWAYS: also while replication applies changes.
CREATE EVENT TRIGGER credits_ledger_guard ON ddl_command_start
    EXECUTE FUNCTION credits.guard_ledger();
ALTER EVENT TRIGGER credits_ledger_guard ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER credits_ledger_guard IS
    'Refuses to drop a ledger that holds transactions, and notes the shape of its tables before a command.';

CREATE EVENT TRIGGER credits_ledger_guard_end ON ddl_command_end
    EXECUTE FUNCTION credits.guard_ledger();
ALTER EVENT TRIGGER credits_ledger_guard_end ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER credits_ledger_guard_end IS
    'Refuses changes of the shape of the ledger''s tables, and warns of what pg_dump leaves out.';

-- Refuses before the server rewrites a large table, not after.
CREATE EVENT TRIGGER credits_ledger_guard_rewrite ON table_rewrite
    EXECUTE FUNCTION credits.guard_ledger();
ALTER EVENT TRIGGER credits_ledger_guard_rewrite ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER credits_ledger_guard_rewrite IS
    'Refuses changes of the shape of the ledger''s tables before the server rewrites them.';

-- Limits and thresholds.

-- Thresholds are compared with each other, which the expression of a CHECK cannot do by itself. Whoever writes them executes it.
CREATE FUNCTION credits.are_thresholds(thresholds numeric[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        -- min_scale does not count trailing zeros; of NaN and the infinities it is NULL.
        SELECT cardinality(thresholds) <= 16 AND coalesce(array_ndims(thresholds), 1) = 1
               AND coalesce(bool_and(t <> 0 AND abs(t) < 10000000000000 AND min_scale(t) <= 15), true) AND count(t) = cardinality(thresholds)
               AND count(DISTINCT t) = count(t)
        FROM unnest(thresholds) t
    $$;
COMMENT ON FUNCTION credits.are_thresholds(numeric[]) IS
    'Whether these are at most 16 distinct balances other than zero, each of at most 13 integer and 15 fractional digits: for the '
    'constraint of spending_limits.';

-- A user's table: dumped, and replicated where the users say so. What a settlement needs of it is copied into the account's checkpoint.
CREATE TABLE credits.spending_limits (
    user_id         uuid        NOT NULL,
    overdraft_limit numeric     DEFAULT 0,
    thresholds      numeric[]   NOT NULL DEFAULT '{}',
    updated_at      timestamptz NOT NULL DEFAULT clock_timestamp(),

    CONSTRAINT spending_limits_pkey PRIMARY KEY (user_id),
    -- NaN and the infinities are above 10^13; min_scale does not count trailing zeros.
    CONSTRAINT overdraft_limit_is_exact
        CHECK (overdraft_limit >= 0 AND overdraft_limit < 10000000000000 AND min_scale(overdraft_limit) <= 15),
    CONSTRAINT thresholds_are_distinct_balances
        CHECK (credits.are_thresholds(thresholds))
) USING heap WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 5000
);
COMMENT ON TABLE credits.spending_limits IS
    'Boundaries of accounts, for clients to write: how far holds and charges may overdraw one, and at which balances besides zero a '
    'notification is sent. Applies from the commit of the change. An account without a row has the defaults.';
COMMENT ON COLUMN credits.spending_limits.user_id IS 'Account.';
COMMENT ON COLUMN credits.spending_limits.overdraft_limit IS
    'How far below zero holds and charges may take what is available; NULL: without end.';
COMMENT ON COLUMN credits.spending_limits.thresholds IS
    'Balances other than zero whose crossing is announced: at most 16, distinct, of any sign and in any order.';
COMMENT ON COLUMN credits.spending_limits.updated_at IS
    'When the row was last changed: set by each UPDATE, and by an INSERT unless given.';
COMMENT ON CONSTRAINT overdraft_limit_is_exact ON credits.spending_limits IS
    'A limit is exact or refused, never rounded: 0 or above, at most 13 integer and 15 fractional digits.';
COMMENT ON CONSTRAINT thresholds_are_distinct_balances ON credits.spending_limits IS
    'At most 16 distinct balances other than zero, each of at most 13 integer and 15 fractional digits.';

CREATE FUNCTION credits.set_updated_at() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
    $$;
COMMENT ON FUNCTION credits.set_updated_at() IS 'Trigger: sets updated_at to the time now.';

-- Not in replication: a subscriber keeps the publisher's time.
CREATE TRIGGER set_updated_at
    BEFORE UPDATE ON credits.spending_limits
    FOR EACH ROW EXECUTE FUNCTION credits.set_updated_at();
COMMENT ON TRIGGER set_updated_at ON credits.spending_limits IS 'Says when a row was changed.';

CREATE FUNCTION credits.note_limits() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'note_limits';
COMMENT ON FUNCTION credits.note_limits() IS
    'Trigger: notes the accounts whose boundaries change; when the transaction commits, each is settled with its new ones.';

-- ALWAYS: boundaries that logical replication brings apply on the server they land in.
CREATE TRIGGER note_limits
    AFTER INSERT OR UPDATE OR DELETE ON credits.spending_limits
    FOR EACH ROW EXECUTE FUNCTION credits.note_limits();
ALTER TABLE credits.spending_limits ENABLE ALWAYS TRIGGER note_limits;
COMMENT ON TRIGGER note_limits ON credits.spending_limits IS 'Has accounts settled with the boundaries that they get.';

CREATE TRIGGER note_all_limits
    BEFORE TRUNCATE ON credits.spending_limits
    FOR EACH STATEMENT EXECUTE FUNCTION credits.note_limits();
ALTER TABLE credits.spending_limits ENABLE ALWAYS TRIGGER note_all_limits;
COMMENT ON TRIGGER note_all_limits ON credits.spending_limits IS 'Has all accounts settled that TRUNCATE takes their boundaries from.';

SELECT pg_extension_config_dump('credits.spending_limits', '');

REVOKE ALL ON credits.spending_limits FROM PUBLIC;
REVOKE ALL ON FUNCTION credits.are_thresholds(numeric[]), credits.set_updated_at(), credits.note_limits() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION credits.are_thresholds(numeric[]) TO PUBLIC;

CREATE VIEW credits.thresholds WITH (security_barrier) AS
    SELECT a.user_id, s.threshold, s.is_above, s.crossed_at
    FROM (
        SELECT c.user_id, c.is_positive, c.crossed_at, c.thresholds, c.thresholds_below, c.thresholds_crossed_at
        FROM credits.user_balance_checkpoints c
        WHERE NOT row_security_active('credits.credits_transactions') AND ((SELECT credits.has_all_buckets()) OR credits.is_here(c.user_id))
          AND EXISTS (SELECT FROM credits.credits_transactions t WHERE t.user_id = c.user_id)
        UNION ALL
        SELECT u.user_id, credits.get_user_balance(u.user_id) > 0, NULL, NULL, NULL, NULL
        FROM credits.users_without_checkpoint u
        WHERE NOT row_security_active('credits.credits_transactions')
        UNION ALL
        SELECT v.user_id, coalesce(c.is_positive, v.is_positive), c.crossed_at, c.thresholds, c.thresholds_below,
               c.thresholds_crossed_at
        FROM credits.visible_balances() v
        LEFT JOIN credits.user_balance_checkpoints c ON c.user_id = v.user_id
        WHERE row_security_active('credits.credits_transactions')
    ) a
    CROSS JOIN LATERAL (
        SELECT 0::numeric, a.is_positive, a.crossed_at
        UNION ALL
        SELECT t.threshold, t.place <= a.thresholds_below, a.thresholds_crossed_at[t.place]
        FROM unnest(a.thresholds) WITH ORDINALITY AS t(threshold, place)
    ) s (threshold, is_above, crossed_at);
COMMENT ON VIEW credits.thresholds IS
    'Of every user with a transaction, zero and the thresholds from spending_limits: is_above, the side of each last announced; '
    'crossed_at, when that last changed. For one user: index lookups.';

REVOKE ALL ON credits.thresholds FROM PUBLIC;

-- Spend caps.

-- A user's table: dumped, and replicated where the users say so. What was announced of a cap is in the account's checkpoint.
CREATE TABLE credits.spend_caps (
    id          uuid        NOT NULL DEFAULT gen_random_uuid(),
    user_id     uuid        NOT NULL,
    api_key_ids uuid[],
    period      text,
    amount      numeric     NOT NULL,
    since       timestamptz NOT NULL DEFAULT now(),
    is_enforced boolean     NOT NULL DEFAULT false,

    CONSTRAINT spend_caps_pkey PRIMARY KEY (id),
    CONSTRAINT api_key_ids_has_keys
        CHECK (CASE WHEN api_key_ids IS NULL THEN true
                    WHEN array_ndims(api_key_ids) = 1 THEN array_position(api_key_ids, NULL::uuid) IS NULL
                    ELSE false END),
    CONSTRAINT period_is_known
        CHECK (period IN ('daily', 'weekly', 'monthly')),
    CONSTRAINT amount_is_positive_and_exact
        CHECK (credits.is_amount(amount))
) USING heap WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 5000
);
-- A commit reads the caps of an account that has some.
CREATE INDEX spend_caps_user_idx ON credits.spend_caps (user_id);

COMMENT ON TABLE credits.spend_caps IS
    'How much of an account''s usage is to be announced, or refused, in a day, a week, a month or altogether, for clients to write. Applies '
    'from the commit of the change. At most 16 for an account.';
COMMENT ON COLUMN credits.spend_caps.id IS 'Identity of the cap, named in notifications; random unless given.';
COMMENT ON COLUMN credits.spend_caps.user_id IS 'Account.';
COMMENT ON COLUMN credits.spend_caps.api_key_ids IS
    'API keys whose usage counts: at least one; NULL: all usage of the account, also without a key.';
COMMENT ON COLUMN credits.spend_caps.period IS
    'After what spending begins anew: daily, weekly (from Monday) or monthly, in UTC; NULL: never.';
COMMENT ON COLUMN credits.spend_caps.amount IS
    'Spending that reaches it reaches the cap: above 0, at most 13 integer and 15 fractional digits.';
COMMENT ON COLUMN credits.spend_caps.since IS 'Usage from before does not count. Setting it to now() resets the cap.';
COMMENT ON COLUMN credits.spend_caps.is_enforced IS 'Whether holds and charges that would exceed it are refused.';
COMMENT ON CONSTRAINT api_key_ids_has_keys ON credits.spend_caps IS
    'A list of keys names at least one, in one dimension and without NULL.';
COMMENT ON CONSTRAINT period_is_known ON credits.spend_caps IS 'The three periods.';
COMMENT ON CONSTRAINT amount_is_positive_and_exact ON credits.spend_caps IS
    'An amount is exact or refused, never rounded: above 0, at most 13 integer and 15 fractional digits.';
COMMENT ON INDEX credits.spend_caps_user_idx IS 'Finds the caps of a user.';

CREATE FUNCTION credits.note_caps() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'note_caps';
COMMENT ON FUNCTION credits.note_caps() IS
    'Trigger: notes the accounts whose caps change; when the transaction commits, each is settled with its new ones.';

-- ALWAYS: caps that logical replication brings apply on the server they land in.
CREATE TRIGGER note_caps
    AFTER INSERT OR UPDATE OR DELETE ON credits.spend_caps
    FOR EACH ROW EXECUTE FUNCTION credits.note_caps();
ALTER TABLE credits.spend_caps ENABLE ALWAYS TRIGGER note_caps;
COMMENT ON TRIGGER note_caps ON credits.spend_caps IS 'Has accounts settled with the caps that they get.';

CREATE TRIGGER note_all_caps
    BEFORE TRUNCATE ON credits.spend_caps
    FOR EACH STATEMENT EXECUTE FUNCTION credits.note_caps();
ALTER TABLE credits.spend_caps ENABLE ALWAYS TRIGGER note_all_caps;
COMMENT ON TRIGGER note_all_caps ON credits.spend_caps IS 'Has all accounts settled that TRUNCATE takes their caps from.';

SELECT pg_extension_config_dump('credits.spend_caps', '');

-- The view below sees every row, as its owner does. These two run as the caller, and see what it may see.

CREATE FUNCTION credits.visible_caps()
    RETURNS TABLE (id uuid, user_id uuid, api_key_ids uuid[], period text, amount numeric, since timestamptz)
    LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT c.id, c.user_id, c.api_key_ids, c.period, c.amount, c.since FROM credits.spend_caps c
        WHERE ((SELECT credits.has_all_buckets()) OR credits.is_here(c.user_id))
    $$;
COMMENT ON FUNCTION credits.visible_caps() IS
    'For the view spend_cap_states under row-level security: the caps that the caller may see.';

CREATE FUNCTION credits.usage_by_day(user_id uuid, start_date date DEFAULT NULL, end_date date DEFAULT NULL)
    RETURNS TABLE (
        day date, category text, api_key_id uuid, transaction_type text, total_amount numeric, transaction_count bigint
    )
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 100
    AS 'MODULE_PATHNAME', 'usage_by_day';
COMMENT ON FUNCTION credits.usage_by_day(uuid, date, date) IS
    'Totals of a user''s transactions of every type by day of created_at (UTC), category and API key, exact now, amounts not signed; '
    'ordered by day, transaction_type, category, api_key_id, NULLs last. Both dates are inclusive; NULL: no bound. 22004 for a NULL '
    'user_id. Cost: the totals of these days and the rows that are not folded yet. Without daily totals or under row-level security, the '
    'user''s rows within the dates.';
CREATE FUNCTION credits.visible_spend(user_id uuid, api_key_ids uuid[], window_start timestamptz, window_end timestamptz)
    RETURNS numeric
    LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
    AS $$
        -- The days that lie in the window from their first moment to their last. There is no day before the first one of all.
        SELECT (SELECT coalesce(sum(d.total_amount), 0)
                FROM credits.usage_by_day(visible_spend.user_id, w.first_day, w.day_of_end - (w.day_of_end > '4714-11-24 BC')::int) d
                WHERE d.transaction_type = 'usage' AND (d.day < w.day_of_end OR w.day_of_end IS NULL)
                  AND (d.api_key_id = ANY (visible_spend.api_key_ids) OR visible_spend.api_key_ids IS NULL))
             -- Of the days on which it begins and ends, the rows. Periods end at midnight.
             + (SELECT coalesce(sum(t.amount), 0)
                FROM (VALUES (visible_spend.window_start, least(w.first_midnight, visible_spend.window_end)),
                             (greatest(w.first_midnight, w.day_of_end::timestamp AT TIME ZONE 'UTC'), visible_spend.window_end)) p (start, until)
                -- The first two comparisons are with what the index has, which is rounded.
                JOIN credits.credits_transactions t
                  ON t.user_id = visible_spend.user_id AND t.created_at::timestamptz(0) >= p.start::timestamptz(0)
                 AND t.created_at::timestamptz(0) <= p.until::timestamptz(0) AND t.created_at >= p.start AND t.created_at < p.until
                WHERE p.start < p.until AND t.transaction_type = 'usage'
                  AND (t.api_key_id = ANY (visible_spend.api_key_ids) OR visible_spend.api_key_ids IS NULL))
        FROM (SELECT b.first_day,
                     -- There is no timestamp behind that day.
                     CASE WHEN b.first_day > '294276-12-31' THEN 'infinity' ELSE b.first_day::timestamp AT TIME ZONE 'UTC' END AS first_midnight,
                     (visible_spend.window_end AT TIME ZONE 'UTC')::date AS day_of_end
              FROM (SELECT CASE WHEN s.start = s.start::date THEN s.start::date ELSE s.start::date + 1 END AS first_day
                    FROM (SELECT visible_spend.window_start AT TIME ZONE 'UTC' AS start) s) b) w
    $$;
COMMENT ON FUNCTION credits.visible_spend(uuid, uuid[], timestamptz, timestamptz) IS
    'For the view spend_cap_states: what these API keys (NULL: any or none) of an account have spent from window_start up to, not including, '
    'window_end (NULL: without end), of the rows that the caller may see. Cost: as usage_by_day of whole days, and the rows of the days on '
    'which the window begins and ends.';

CREATE VIEW credits.spend_cap_states WITH (security_barrier) AS
    SELECT c.id AS cap_id, c.user_id, c.amount, s.spent, greatest(c.amount - s.spent, 0) AS remaining, s.spent >= c.amount AS is_reached,
           greatest(c.since, w.period_start) AS window_start, w.resets_at
    FROM (
        SELECT p.id, p.user_id, p.api_key_ids, p.period, p.amount, p.since FROM credits.spend_caps p
        WHERE NOT row_security_active('credits.spend_caps') AND ((SELECT credits.has_all_buckets()) OR credits.is_here(p.user_id))
        UNION ALL
        SELECT v.id, v.user_id, v.api_key_ids, v.period, v.amount, v.since FROM credits.visible_caps() v
        WHERE row_security_active('credits.spend_caps')
    ) c
    CROSS JOIN LATERAL (
        -- In UTC, whatever the session's zone.
        SELECT date_trunc(u.unit, statement_timestamp() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC',
               (date_trunc(u.unit, statement_timestamp() AT TIME ZONE 'UTC') + ('1 ' || u.unit)::interval) AT TIME ZONE 'UTC'
        FROM (SELECT CASE c.period WHEN 'daily' THEN 'day' WHEN 'weekly' THEN 'week' WHEN 'monthly' THEN 'month' END) u (unit)
    ) w (period_start, resets_at)
    -- Not computed again for each column.
    CROSS JOIN LATERAL (
        SELECT credits.visible_spend(c.user_id, c.api_key_ids, greatest(c.since, w.period_start), w.resets_at) OFFSET 0
    ) s (spent);
COMMENT ON VIEW credits.spend_cap_states IS
    'Every cap as of now: what its keys have spent in the current window, what remains (never below 0), whether it is reached, and when '
    'spending begins anew (NULL: never). 42501 for who may not read the ledger. For one user: an index lookup, the daily totals of the '
    'window, and the rows of the day on which it begins. Without daily totals or under row-level security, its rows of the window.';

REVOKE ALL ON credits.spend_caps, credits.spend_cap_states FROM PUBLIC;
REVOKE ALL ON FUNCTION credits.note_caps(), credits.visible_caps(),
    credits.visible_spend(uuid, uuid[], timestamptz, timestamptz) FROM PUBLIC;

-- Holds.

CREATE TYPE credits.credit_hold AS (
    source_id          text,
    user_id            uuid,
    amount             numeric,
    description        text,
    fusillade_batch_id uuid,
    api_key_id         uuid,
    category           text,
    metadata           jsonb,
    created_at         timestamptz,
    expires_at         timestamptz
);
COMMENT ON TYPE credits.credit_hold IS 'One row of holds as the functions return it.';

-- A user's table: dumped, and replicated where the users say so. Rows live for minutes, so that nearly all of what was ever in it is gone.
CREATE TABLE credits.holds (
    source_id          text        NOT NULL,
    user_id            uuid        NOT NULL,
    amount             numeric     NOT NULL,
    description        text,
    fusillade_batch_id uuid,
    api_key_id         uuid,
    category           text,
    metadata           jsonb,
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at         timestamptz NOT NULL,

    CONSTRAINT holds_pkey PRIMARY KEY (source_id),
    CONSTRAINT amount_is_positive_and_exact
        CHECK (credits.is_amount(amount))
) USING heap WITH (
    -- Room on the page for the new version of a hold that is extended.
    fillfactor = 90,
    -- Absolute thresholds: the rows that are there say nothing of how many have come and gone.
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 100000,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 100000
);
-- The open holds of an account are one range of it, which leaves out those that have expired; list_holds walks it.
CREATE INDEX holds_user_idx ON credits.holds (user_id, expires_at);

COMMENT ON TABLE credits.holds IS
    'Credits that are held for usage to come. A hold is open until expires_at; capture_hold and release_hold delete it. What is '
    'available to an account is its balance less its open holds.';
COMMENT ON COLUMN credits.holds.source_id IS
    'Idempotency key: unique among holds, and that of the ledger row when it is captured.';
COMMENT ON COLUMN credits.holds.user_id IS 'Account that the credits belong to.';
COMMENT ON COLUMN credits.holds.amount IS 'Credits held, always positive: at most 13 integer and 15 fractional digits.';
COMMENT ON COLUMN credits.holds.description IS 'Free text for people; that of the ledger row when it is captured.';
COMMENT ON COLUMN credits.holds.fusillade_batch_id IS 'Batch of the usage that it is for, if any.';
COMMENT ON COLUMN credits.holds.api_key_id IS 'API key that asked for it, if any.';
COMMENT ON COLUMN credits.holds.category IS
    'What it is for: a model, a product, a tier. At most 200 characters; NULL unless given.';
COMMENT ON COLUMN credits.holds.metadata IS 'The application''s own: a JSON object; NULL unless given.';
COMMENT ON COLUMN credits.holds.created_at IS 'When it was made, unless the client says otherwise.';
COMMENT ON COLUMN credits.holds.expires_at IS 'Until when it is open. The only column that may be updated.';
COMMENT ON CONSTRAINT amount_is_positive_and_exact ON credits.holds IS
    'An amount is exact or refused, never rounded: above 0, at most 13 integer and 15 fractional digits.';
COMMENT ON INDEX credits.holds_user_idx IS 'Finds the open holds of a user.';

CREATE FUNCTION credits.refuse_hold_change() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'refuse_hold_change';
COMMENT ON FUNCTION credits.refuse_hold_change() IS
    'Trigger: refuses an UPDATE of holds that changes more than expires_at, and TRUNCATE, with SQLSTATE 55000.';

-- Behind the row, so that it sees what triggers of others have made of it. ALWAYS: also where logical replication applies changes.
CREATE TRIGGER only_extended
    AFTER UPDATE ON credits.holds
    FOR EACH ROW EXECUTE FUNCTION credits.refuse_hold_change();
ALTER TABLE credits.holds ENABLE ALWAYS TRIGGER only_extended;
COMMENT ON TRIGGER only_extended ON credits.holds IS 'Refuses an UPDATE that changes more than expires_at.';

CREATE TRIGGER never_truncated
    BEFORE TRUNCATE ON credits.holds
    FOR EACH STATEMENT EXECUTE FUNCTION credits.refuse_hold_change();
ALTER TABLE credits.holds ENABLE ALWAYS TRIGGER never_truncated;
COMMENT ON TRIGGER never_truncated ON credits.holds IS 'Refuses TRUNCATE.';

CREATE FUNCTION credits.note_hold() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'note_hold';
COMMENT ON FUNCTION credits.note_hold() IS
    'Trigger: notes what a hold that is made, extended or deleted does to the credits that are available; its account is settled '
    'when the transaction commits. Refuses a blank source_id, a category that is too long and metadata that is no object.';

CREATE TRIGGER note_hold
    AFTER INSERT OR UPDATE OR DELETE ON credits.holds
    FOR EACH ROW EXECUTE FUNCTION credits.note_hold();
ALTER TABLE credits.holds ENABLE ALWAYS TRIGGER note_hold;
COMMENT ON TRIGGER note_hold ON credits.holds IS
    'Notes the accounts whose available credits the transaction changes; they are settled when it commits.';

SELECT pg_extension_config_dump('credits.holds', '');

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
GRANT SELECT ON credits.hold_counts TO pg_monitor;

REVOKE ALL ON TYPE credits.credit_hold FROM PUBLIC;
REVOKE ALL ON credits.holds FROM PUBLIC;
REVOKE ALL ON FUNCTION credits.refuse_hold_change(), credits.note_hold() FROM PUBLIC;

-- What is available.

CREATE FUNCTION credits.get_available_balance(user_id uuid) RETURNS numeric
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'get_available_balance';
COMMENT ON FUNCTION credits.get_available_balance(uuid) IS
    'What is available to a user: the balance less the holds that are open when the statement begins; 0 for an unknown user. '
    'Costs what get_user_balance does, and a scan of the open holds. Errors: 22004 for NULL, 42501 without SELECT on the ledger '
    'and on holds.';
CREATE FUNCTION credits.get_available_balances_bulk(user_ids uuid[])
    RETURNS TABLE (user_id uuid, balance numeric, held numeric, available numeric)
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'get_available_balances_bulk';
COMMENT ON FUNCTION credits.get_available_balances_bulk(uuid[]) IS
    'Balances of several users, what open holds hold of them and what is available, each distinct id once, unknown ones with 0. '
    'Errors: 22004 for NULL or a NULL in the array, 42501 without SELECT on the ledger and on holds.';
CREATE FUNCTION credits.visible_held(user_id uuid) RETURNS numeric
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'visible_held';
COMMENT ON FUNCTION credits.visible_held(uuid) IS
    'For the view balances: the sum of a user''s open holds, of those that the caller may see. Costs a scan of them. Errors: 22004 '
    'for NULL, 42501 without SELECT on holds.';
REVOKE ALL ON FUNCTION credits.get_available_balance(uuid), credits.get_available_balances_bulk(uuid[]), credits.visible_held(uuid)
    FROM PUBLIC;

CREATE OR REPLACE VIEW credits.balances WITH (security_barrier) AS
    SELECT a.user_id, a.balance, a.is_positive, a.crossed_at, a.held, a.available
    FROM (
        SELECT c.user_id, credits.get_user_balance(c.user_id) AS balance, c.is_positive, c.crossed_at,
               credits.visible_held(c.user_id) AS held, credits.get_available_balance(c.user_id) AS available
        FROM credits.user_balance_checkpoints c
        WHERE NOT row_security_active('credits.credits_transactions') AND ((SELECT credits.has_all_buckets()) OR credits.is_here(c.user_id))
          AND EXISTS (SELECT FROM credits.credits_transactions t WHERE t.user_id = c.user_id)
        UNION ALL
        SELECT u.user_id, b.balance, b.balance > 0, NULL, credits.visible_held(u.user_id), credits.get_available_balance(u.user_id)
        FROM credits.users_without_checkpoint u
        CROSS JOIN LATERAL (SELECT credits.get_user_balance(u.user_id) AS balance OFFSET 0) b
        WHERE NOT row_security_active('credits.credits_transactions')
        UNION ALL
        SELECT v.user_id, v.balance, coalesce(c.is_positive, v.is_positive), c.crossed_at, credits.visible_held(v.user_id),
               trim_scale(v.balance - credits.visible_held(v.user_id))
        FROM credits.visible_balances() v
        LEFT JOIN credits.user_balance_checkpoints c ON c.user_id = v.user_id
        WHERE row_security_active('credits.credits_transactions')
    ) a;
COMMENT ON VIEW credits.balances IS
    'Every user with a transaction: the balance, exact now; is_positive, the side of zero last announced; crossed_at, when '
    'that last changed; held, the sum of the open holds, and available, the balance less that: 42501 for who may not read holds, if '
    'they are asked for. For one user: index lookups, and before Postgres 16 a scan of the user''s rows for one without a '
    'checkpoint.';

CREATE FUNCTION credits.list_holds(user_id uuid, skip bigint DEFAULT 0, "limit" bigint DEFAULT 50) RETURNS SETOF credits.credit_hold
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 50
    AS 'MODULE_PATHNAME', 'list_holds';
COMMENT ON FUNCTION credits.list_holds(uuid, bigint, bigint) IS
    'A user''s holds that are open when the statement begins, by ascending expires_at and source_id. "limit" => NULL is all. 22004 '
    'for a NULL user_id or skip; 22023 for a negative skip or limit; 42501 without SELECT on holds. Cost: the page and what is skipped.';
REVOKE ALL ON FUNCTION credits.list_holds(uuid, bigint, bigint) FROM PUBLIC;

CREATE FUNCTION credits.release_expired_holds(grace interval DEFAULT '1 day', "limit" bigint DEFAULT 1000) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'release_expired_holds_wrapper';
COMMENT ON FUNCTION credits.release_expired_holds(interval, bigint) IS
    'Deletes up to "limit" (NULL: all) of the holds that expired longer than grace ago, and returns how many it deleted: for a job. '
    'Until then capture_hold finds them. Errors: 22004 for a NULL grace; 22008 for one that reaches back further than timestamps do; '
    '22023 for a negative grace or limit; 25006 in a read-only transaction; 42501 without SELECT and DELETE on holds. Cost: a '
    'scan of holds up to the last one that is deleted.';
REVOKE ALL ON FUNCTION credits.release_expired_holds(interval, bigint) FROM PUBLIC;

-- Row-level security in dumps.

-- pg_dump leaves the tables of an extension to CREATE EXTENSION, and with them what a user has put on them: policies, ENABLE and FORCE ROW
-- LEVEL SECURITY. It does dump their rows, by a query to which it appends the condition that the extension has registered. The condition of
-- dumped_row_security adds the rows of the function row_security, which reads the catalogs at that moment: nothing has to be stored when a
-- policy changes. In a restore, a trigger makes the policy of each row that is inserted; the row stays only if that fails.

CREATE TABLE credits.dumped_row_security (
    table_name       text NOT NULL,
    kind             text NOT NULL,
    policy           text NOT NULL,
    is_permissive    boolean,
    command          text,
    roles            text[],
    using_expression text,
    check_expression text,
    problem          text,

    CONSTRAINT dumped_row_security_pkey PRIMARY KEY (table_name, kind, policy),
    CONSTRAINT kind_is_known
        CHECK (CASE kind
                   WHEN 'enable' THEN policy = ''
                   WHEN 'force' THEN policy = ''
                   WHEN 'policy' THEN policy <> '' AND is_permissive IS NOT NULL AND command IS NOT NULL
                                      AND command IN ('ALL', 'SELECT', 'INSERT', 'UPDATE', 'DELETE')
                   ELSE false
               END)
) USING heap WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 1000
);
COMMENT ON TABLE credits.dumped_row_security IS
    'Carries row-level security of the ledger through pg_dump: a dump has the rows of row_security() in place of its own, and a '
    'restore makes each policy when its row is inserted. Rows that stay could not be made: see restore_row_security. Only its '
    'owner and superusers write to it.';
COMMENT ON COLUMN credits.dumped_row_security.table_name IS 'Table of the schema credits.';
COMMENT ON COLUMN credits.dumped_row_security.kind IS 'enable or force (row-level security of the table), or policy.';
COMMENT ON COLUMN credits.dumped_row_security.policy IS 'Name of the policy; empty for enable and force.';
COMMENT ON COLUMN credits.dumped_row_security.is_permissive IS 'Whether the policy is permissive; it is restrictive otherwise.';
COMMENT ON COLUMN credits.dumped_row_security.command IS 'Command that the policy is for: ALL, SELECT, INSERT, UPDATE or DELETE.';
COMMENT ON COLUMN credits.dumped_row_security.roles IS 'Roles that the policy is for; NULL for PUBLIC.';
COMMENT ON COLUMN credits.dumped_row_security.using_expression IS 'USING, if the policy has it.';
COMMENT ON COLUMN credits.dumped_row_security.check_expression IS 'WITH CHECK, if the policy has it.';
COMMENT ON COLUMN credits.dumped_row_security.problem IS 'Why the policy could not be made.';
COMMENT ON CONSTRAINT kind_is_known ON credits.dumped_row_security IS
    'A row says ENABLE or FORCE, or holds a policy.';

-- Not a view, because pg_dump allows that condition no view but the system's. Rows are ordered so that a restore in which each is a
-- transaction is safe at each moment: what closes the table comes before what opens it.
CREATE FUNCTION credits.row_security() RETURNS SETOF credits.dumped_row_security
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT s.*
        FROM (
            SELECT d.table_name, d.kind, d.policy, d.is_permissive, d.command, d.roles, d.using_expression, d.check_expression,
                   -- No problem is recorded where the trigger below did not fire.
                   coalesce(d.problem, 'it was not tried')
            FROM credits.dumped_row_security d
            UNION ALL
            SELECT l.*
            FROM (
                SELECT c.relname::text, s.kind, s.policy, s.is_permissive, s.command, s.roles, s.using_expression,
                       s.check_expression, NULL::text
                FROM pg_extension e
                CROSS JOIN unnest(e.extconfig) AS dumped(oid)
                JOIN pg_class c ON c.oid = dumped.oid AND c.relkind = 'r' AND c.oid <> 'credits.dumped_row_security'::regclass
                CROSS JOIN LATERAL (
                    SELECT 'enable', '', NULL::boolean, NULL::text, NULL::text[], NULL::text, NULL::text WHERE c.relrowsecurity
                    UNION ALL
                    SELECT 'force', '', NULL, NULL, NULL, NULL, NULL WHERE c.relforcerowsecurity
                    UNION ALL
                    SELECT 'policy', p.polname::text, p.polpermissive,
                           CASE p.polcmd WHEN '*' THEN 'ALL' WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                         WHEN 'd' THEN 'DELETE' END,
                           CASE WHEN p.polroles <> '{0}'
                                THEN ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.oid = ANY (p.polroles) ORDER BY 1) END,
                           pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
                    FROM pg_policy p
                    WHERE p.polrelid = c.oid
                ) s (kind, policy, is_permissive, command, roles, using_expression, check_expression)
                WHERE e.extname = 'credits_ledger'
            ) l (table_name, kind, policy, is_permissive, command, roles, using_expression, check_expression, problem)
            WHERE NOT EXISTS (SELECT FROM credits.dumped_row_security d
                              WHERE (d.table_name, d.kind, d.policy) = (l.table_name, l.kind, l.policy))
        ) s (table_name, kind, policy, is_permissive, command, roles, using_expression, check_expression, problem)
        ORDER BY s.kind = 'policy', s.is_permissive, s.table_name, s.kind, s.policy
    $$;
COMMENT ON FUNCTION credits.row_security() IS
    'Row-level security of the ledger, as a dump carries it: ENABLE, FORCE and policies, and, with a problem, policies that a '
    'restore could not make. Anybody may call it who may SELECT from dumped_row_security, as whoever dumps must.';

SELECT pg_extension_config_dump('credits.dumped_row_security', 'WHERE false UNION ALL SELECT * FROM credits.row_security()');

-- Rows of this table are executed as SQL by whoever restores. So only the owner and superusers may write them, whatever is granted. A
-- trigger says so, since row-level security would keep a role without BYPASSRLS from dumping the table.
CREATE FUNCTION credits.refuse_others() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT pg_has_role(current_user, (SELECT c.relowner FROM pg_class c WHERE c.oid = TG_RELID), 'USAGE') THEN
        RAISE EXCEPTION '% is written by its owner and by superusers only', TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Change row-level security with CREATE POLICY, ALTER POLICY, DROP POLICY and ALTER TABLE.';
    END IF;
    RETURN NULL;
END
    $$;
COMMENT ON FUNCTION credits.refuse_others() IS
    'Trigger: refuses changes by anybody but the owner of the table and superusers, with SQLSTATE 42501.';

CREATE TRIGGER owner_only
    BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON credits.dumped_row_security
    FOR EACH STATEMENT EXECUTE FUNCTION credits.refuse_others();
ALTER TABLE credits.dumped_row_security ENABLE ALWAYS TRIGGER owner_only;
COMMENT ON TRIGGER owner_only ON credits.dumped_row_security IS
    'Refuses changes by others, whatever they are granted.';

CREATE FUNCTION credits.make_row_security() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    hint CONSTANT text := 'When that is mended: SELECT * FROM credits.restore_row_security().';
    here credits.dumped_row_security;
    is_here boolean;
    known_roles text[];
    grantees text;
    statement text;
    lockable CONSTANT regclass[] := ARRAY(
        SELECT c.oid FROM pg_extension e JOIN pg_class c ON c.oid = ANY (e.extconfig)
        WHERE e.extname = 'credits_ledger' AND c.relkind = 'r' AND c.oid <> TG_RELID AND pg_has_role(current_user, c.relowner, 'USAGE')
        ORDER BY c.oid);
    contested regclass := lockable[1];
    is_waiting boolean;
BEGIN
    IF TG_RELID <> 'credits.dumped_row_security'::regclass OR TG_OP <> 'INSERT' OR TG_WHEN <> 'BEFORE' OR TG_LEVEL <> 'ROW' THEN
        RAISE EXCEPTION 'make_row_security was not called by the trigger that it is made for'
            USING ERRCODE = 'trigger_protocol_violated';
    END IF;
    -- A publisher's row is about a policy that the publisher could not make: it is skipped.
    IF EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = pg_backend_pid() AND a.backend_type LIKE 'logical replication%') THEN
        RETURN NULL;
    END IF;

    -- The rows of one COPY can concern several tables, each locked to the end. Other jobs of the restore fill these tables meanwhile: a commit
    -- of theirs that has one of them can need any other. So all are locked before the first is changed, and without having one while it waits
    -- for another: as std::lock of C++ does, it waits for one, tries the rest, and lets all go if one of them is not free.
    LOOP
        EXIT WHEN contested IS NULL;
        BEGIN
            is_waiting := true;
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', contested);
            is_waiting := false;
            FOREACH contested IN ARRAY lockable LOOP
                EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', contested);
            END LOOP;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            -- lock_timeout has the same SQLSTATE.
            IF is_waiting THEN
                RAISE;
            END IF;
        END;
    END LOOP;

    DELETE FROM credits.dumped_row_security d
    WHERE (d.table_name, d.kind, d.policy) = (NEW.table_name, NEW.kind, NEW.policy);
    SELECT s.* INTO here FROM credits.row_security() s
    WHERE (s.table_name, s.kind, s.policy) = (NEW.table_name, NEW.kind, NEW.policy);
    is_here := FOUND;

    IF NEW.kind <> 'policy' THEN
        IF NOT is_here THEN
            EXECUTE format('ALTER TABLE credits.%I %s ROW LEVEL SECURITY', NEW.table_name, upper(NEW.kind));
        END IF;
        RETURN NULL;
    END IF;

    SELECT array_agg(r.rolname::text ORDER BY r.rolname::text), string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname::text)
    INTO known_roles, grantees
    FROM pg_roles r WHERE r.rolname = ANY (NEW.roles);
    grantees := CASE WHEN NEW.roles IS NULL THEN 'PUBLIC' ELSE grantees END;
    statement := format('CREATE POLICY %I ON credits.%I AS %s FOR %s TO %s', NEW.policy, NEW.table_name,
                        CASE WHEN NEW.is_permissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END, NEW.command, grantees);

    IF is_here THEN
        IF (here.is_permissive, here.command, here.roles, here.using_expression, here.check_expression)
           IS NOT DISTINCT FROM (NEW.is_permissive, NEW.command, NEW.roles, NEW.using_expression, NEW.check_expression) THEN
            RETURN NULL;
        END IF;
        -- The policy that an earlier attempt made in its place, for fewer roles or denying everything, is replaced.
        IF NEW.problem IS NOT NULL AND (here.is_permissive, here.command) = (NEW.is_permissive, NEW.command) AND (
               here.roles <@ NEW.roles AND (here.using_expression, here.check_expression)
                                           IS NOT DISTINCT FROM (NEW.using_expression, NEW.check_expression)
               OR NOT here.is_permissive AND 'false' = ALL (array_remove(ARRAY[here.using_expression, here.check_expression], NULL))) THEN
            EXECUTE format('DROP POLICY %I ON credits.%I', NEW.policy, NEW.table_name);
        ELSE
            RAISE WARNING 'policy "%" on % stays as it is here: the dump has another one', NEW.policy, NEW.table_name;
            RETURN NULL;
        END IF;
    END IF;

    NEW.problem := (SELECT format('role "%s" does not exist', string_agg(n.name, '", "' ORDER BY n.name))
                    FROM unnest(NEW.roles) AS n(name)
                    WHERE n.name <> ALL (coalesce(known_roles, '{}')) HAVING count(*) > 0);
    IF grantees IS NOT NULL THEN
        BEGIN
            EXECUTE concat(statement, ' USING (' || NEW.using_expression || ')', ' WITH CHECK (' || NEW.check_expression || ')');
        EXCEPTION WHEN OTHERS THEN
            NEW.problem := concat_ws('; ', NEW.problem, SQLERRM);
            -- Leaving a permissive policy out hides rows; leaving a restrictive one out would show them, so one that denies everything takes its place.
            IF NOT NEW.is_permissive THEN
                EXECUTE concat(statement, CASE WHEN NEW.command <> 'INSERT' THEN ' USING (false)' END,
                               CASE WHEN NEW.command IN ('ALL', 'INSERT', 'UPDATE') THEN ' WITH CHECK (false)' END);
            END IF;
        END;
    END IF;
    IF NEW.problem IS NULL THEN
        RETURN NULL;
    END IF;
    RAISE WARNING 'policy "%" on % cannot be made as it was: %', NEW.policy, NEW.table_name, NEW.problem USING HINT = hint;
    RETURN NEW;
END
    $$;
COMMENT ON FUNCTION credits.make_row_security() IS
    'Trigger: makes the policy, ENABLE or FORCE of an inserted row, unless it is there already, and keeps the row only if that '
    'fails. A policy for a role that does not exist is made for its other roles. One that cannot be made is left out if it is '
    'permissive, and denies everything if it is restrictive. Each with a warning. A policy of that name with another definition '
    'stays as it is. Locks the ledger, holds, spending_limits and spend_caps until the transaction ends. Errors: 55P03 if '
    'lock_timeout is set and passes, 39P01 if it is not the trigger of that table.';

-- ALWAYS: whatever session_replication_role a restore has set.
CREATE TRIGGER make_row_security
    BEFORE INSERT ON credits.dumped_row_security
    FOR EACH ROW EXECUTE FUNCTION credits.make_row_security();
ALTER TABLE credits.dumped_row_security ENABLE ALWAYS TRIGGER make_row_security;
COMMENT ON TRIGGER make_row_security ON credits.dumped_row_security IS
    'Makes the row-level security that a restore brings.';

CREATE FUNCTION credits.restore_row_security() RETURNS SETOF credits.dumped_row_security
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    waiting credits.dumped_row_security;
BEGIN
    FOR waiting IN SELECT * FROM credits.dumped_row_security ORDER BY kind = 'policy', is_permissive, table_name, kind, policy LOOP
        -- The trigger makes the policy, and keeps the row if that fails.
        INSERT INTO credits.dumped_row_security SELECT waiting.*;
    END LOOP;
    RETURN QUERY SELECT * FROM credits.dumped_row_security;
END
    $$;
COMMENT ON FUNCTION credits.restore_row_security() IS
    'Makes the policies that a restore could not make, because a role or what they refer to was missing. Returns those that still'
    ' cannot be made, each with its problem. Errors: 42501 for anybody but the owner of dumped_row_security and superusers.';

REVOKE ALL ON credits.dumped_row_security FROM PUBLIC;
REVOKE ALL ON FUNCTION credits.refuse_others(), credits.make_row_security(), credits.restore_row_security(), credits.row_security()
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION credits.row_security() TO PUBLIC;

-- Recording.

COMMENT ON FUNCTION credits.create_transaction(uuid, text, numeric, text, text, uuid, uuid) IS
    'Records a transaction and returns its row, exactly as an INSERT does. If source_id is taken by a transaction of the same '
    'user, type and amount, that row is returned: a retry is safe. Errors: 23505 source_id taken by another transaction, '
    '23514 amount not above 0 or of more than 13 integer or 15 fractional digits, a batch on a row that is not usage, or a blank '
    'source_id, 22023 unknown type, 22004 NULL where a value is required, 54000 source_id too long for its index, 09000 a trigger '
    'left the row out; an error of a trigger comes as the trigger raised it.';
CREATE TYPE credits.recorded_transaction AS (
    item           int,
    source_id      text,
    outcome        text,
    transaction_id uuid,
    seq            bigint,
    detail         text
);
COMMENT ON TYPE credits.recorded_transaction IS
    'Result of an item of record_transactions. item: its place in the array, from 1. outcome: recorded; exists, if it was stored '
    'before with the same user, type and amount; conflict, if another transaction has its source_id or id; refused. '
    'transaction_id and seq are those of the stored row, for recorded and exists; detail says why, for conflict and refused.';
REVOKE ALL ON TYPE credits.recorded_transaction FROM PUBLIC;

CREATE FUNCTION credits.record_transactions(transactions jsonb) RETURNS SETOF credits.recorded_transaction
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100
    AS 'MODULE_PATHNAME', 'record_transactions';
COMMENT ON FUNCTION credits.record_transactions(jsonb) IS
    'Records the items of an array of at most 10,000 objects, each as an INSERT does, and returns the result of each, in the '
    'order of the array. Keys: user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id, id, '
    'created_at, category, metadata; one that is null counts as not given. An amount may be a number or a string, and is exact. '
    'An item that is refused does not affect the others. Rows get their seqs in the order of their source_ids. Errors: 22004 for '
    'NULL, 22023 for what is no array or has too many items, 25006 in a read-only transaction, 42501 without INSERT on the '
    'columns that are given and SELECT on the ledger, and what ends a transaction: 40001, 40P01, a cancel.';
REVOKE ALL ON FUNCTION credits.record_transactions(jsonb) FROM PUBLIC;

CREATE FUNCTION credits.reverse_transaction(
    transaction_id uuid, source_id text, amount numeric DEFAULT NULL, description text DEFAULT NULL
) RETURNS credits.credit_transaction
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'reverse_transaction';
COMMENT ON FUNCTION credits.reverse_transaction(uuid, text, numeric, text) IS
    'Takes a transaction back, or part of it: records admin_removal for a purchase or grant and admin_grant for usage or a removal, '
    'with reverses set, for the same user, API key and category, and no batch. A NULL amount is what is left of it. All reversals of a '
    'transaction together never exceed it. Called again with the same source_id and transaction, and the same amount or NULL, it '
    'returns the stored row. Errors: P0002 no such transaction, 22023 it is a reversal itself, 23514 less is left than amount, also '
    'by COMMIT, an amount not above 0 or of more than 13 integer or 15 fractional digits, or a blank source_id, 23505 source_id taken '
    'by another transaction, 22004 NULL where a value is required, 54000 source_id too long for its index, 09000 a trigger left the '
    'row out, 0A000 if the transaction is prepared, 25006 in a read-only transaction.';
REVOKE ALL ON FUNCTION credits.reverse_transaction(uuid, text, numeric, text) FROM PUBLIC;

-- Holding and charging. Each of these does what statements of the caller do, with the same privileges, triggers and policies.

CREATE FUNCTION credits.create_hold(
    user_id uuid, amount numeric, source_id text, expires_in interval DEFAULT '1 hour',
    description text DEFAULT NULL, fusillade_batch_id uuid DEFAULT NULL, api_key_id uuid DEFAULT NULL,
    category text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS credits.credit_hold
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'create_hold';
COMMENT ON FUNCTION credits.create_hold(uuid, numeric, text, interval, text, uuid, uuid, text, jsonb) IS
    'Holds credits for usage to come, if what is available covers them, and returns the hold. If source_id is that of an open hold '
    'of the same user and amount, that one is returned: a retry is safe. One of the same user that has expired gives way. Errors: '
    'LC001 not covered, also from COMMIT; 23505 source_id taken by another hold or by a transaction, 23514 amount not above 0 or of '
    'more than 13 integer or 15 fractional digits, a blank source_id, a category of more than 200 characters or metadata that is no '
    'object, 22023 expires_in not above 0 or of more than 30 days, 22004 NULL where a value is required, 54000 source_id too long '
    'for its index, 09000 a trigger left the row out.';

CREATE FUNCTION credits.capture_hold(source_id text, amount numeric DEFAULT NULL) RETURNS credits.credit_transaction
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'capture_hold';
COMMENT ON FUNCTION credits.capture_hold(text, numeric) IS
    'Deletes a hold and records usage with its source_id, batch, key, category, metadata and description: of its whole amount, or of '
    'this one, which may be more. Never refused for lack of credits, and works after the hold has expired. If the ledger has usage '
    'of this account with this source_id and amount already, that row is returned. Errors: P0002 neither a hold nor such usage, '
    '23505 source_id taken by another transaction, 23514 amount, 22004 NULL source_id, 40001 the hold has changed since the '
    'transaction''s snapshot, 09000 a trigger left a row out.';

CREATE FUNCTION credits.release_hold(source_id text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'release_hold';
COMMENT ON FUNCTION credits.release_hold(text) IS
    'Deletes a hold, and returns whether there was one. Errors: 22004 NULL, 40001 the hold has changed since the transaction''s '
    'snapshot, 09000 a trigger left it there.';

CREATE FUNCTION credits.extend_hold(source_id text, expires_in interval) RETURNS credits.credit_hold
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'extend_hold';
COMMENT ON FUNCTION credits.extend_hold(text, interval) IS
    'Has a hold expire so long after now, and returns it. An open one is never refused; one that has expired is held anew. Errors: '
    'P0002 no such hold, LC001 it has expired and is not covered, also from COMMIT; 22023 expires_in not above 0 or of more than 30 '
    'days, 22004 NULL, 40001 the hold has changed since the transaction''s snapshot, 09000 a trigger left it as it was.';

CREATE FUNCTION credits.charge(
    user_id uuid, amount numeric, source_id text, description text DEFAULT NULL, fusillade_batch_id uuid DEFAULT NULL,
    api_key_id uuid DEFAULT NULL, category text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS credits.credit_transaction
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'charge';
COMMENT ON FUNCTION credits.charge(uuid, numeric, text, text, uuid, uuid, text, jsonb) IS
    'Records usage, if what is available covers it, and returns its row. If source_id is taken by usage of the same user and amount, '
    'that row is returned: a retry is safe. Errors: LC001 not covered, also from COMMIT; 23505 source_id taken by another transaction '
    'or by an open hold, and those of create_transaction.';
REVOKE ALL ON FUNCTION
    credits.create_hold(uuid, numeric, text, interval, text, uuid, uuid, text, jsonb), credits.capture_hold(text, numeric),
    credits.release_hold(text), credits.extend_hold(text, interval),
    credits.charge(uuid, numeric, text, text, uuid, uuid, text, jsonb)
    FROM PUBLIC;

-- Reading forward and redaction.

-- Reading.

COMMENT ON FUNCTION credits.get_monthly_auto_topup_spend(uuid) IS
    'Sum of the amounts, not signed, of a user''s transactions of this month (UTC) whose source_id begins with auto_topup_, of '
    'any type, exact; 0 if none. 22004 for NULL. Cost: these rows.';
COMMENT ON FUNCTION credits.get_monthly_auto_topup_spend_bulk(uuid[]) IS
    'Sum of the amounts, not signed, of this month''s (UTC) transactions whose source_id begins with auto_topup_, of any type, '
    'exact, for each of the users that has any, once. 22004 for NULL, also in the array. Cost: these rows and one index lookup '
    'per user.';

-- The server has no BRIN operator class for xid8. This one consists of the server's own operators and functions.
CREATE OPERATOR CLASS credits.xid8_minmax_ops FOR TYPE xid8 USING brin AS
    OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
    FUNCTION 1 brin_minmax_opcinfo(internal),
    FUNCTION 2 brin_minmax_add_value(internal, internal, internal, internal),
    FUNCTION 3 brin_minmax_consistent(internal, internal, internal),
    FUNCTION 4 brin_minmax_union(internal, internal, internal);
COMMENT ON OPERATOR CLASS credits.xid8_minmax_ops USING brin IS 'Block range index of transaction ids.';
COMMENT ON OPERATOR FAMILY credits.xid8_minmax_ops USING brin IS 'Block range index of transaction ids.';
-- For transactions_after. As above, an insert does not touch it: a block range is summarized when the next one begins, or by a vacuum.
CREATE INDEX credits_transactions_stamp_idx ON credits.credits_transactions USING brin (xact_id credits.xid8_minmax_ops)
    WITH (pages_per_range = 64, autosummarize = on);
COMMENT ON INDEX credits.credits_transactions_stamp_idx IS
    'Finds the rows of all users by the transaction that inserted them.';

-- The reversals of a transaction: what a commit adds up, and what became of a charge. A row that reverses nothing is not in it. A hash
-- index would do without the predicate, and would be built with room for every row of the table.
CREATE INDEX credits_transactions_reverses_idx ON credits.credits_transactions (reverses) WHERE reverses IS NOT NULL;
COMMENT ON INDEX credits.credits_transactions_reverses_idx IS
    'Finds the reversals of a transaction.';

-- A position of transactions_after is valid in one ledger, and contains its name. pg_dump leaves this row out, so a restored ledger gets a
-- name of its own, and so does a subscriber; pg_upgrade and a copy of the whole database keep it.
CREATE TABLE credits.ledger_identity (
    is_only   boolean NOT NULL DEFAULT true,
    ledger_id uuid    NOT NULL DEFAULT gen_random_uuid(),

    CONSTRAINT ledger_identity_pkey PRIMARY KEY (is_only),
    CONSTRAINT there_is_one CHECK (is_only)
) USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_scale_factor = 0);
COMMENT ON TABLE credits.ledger_identity IS 'Derived: the name of this ledger. Positions of transactions_after contain it.';
COMMENT ON COLUMN credits.ledger_identity.is_only IS 'Always true: it keeps the table at one row.';
COMMENT ON COLUMN credits.ledger_identity.ledger_id IS
    'Random: kept by pg_upgrade and by copies of the database, another one in a restored ledger and at a subscriber.';
COMMENT ON CONSTRAINT there_is_one ON credits.ledger_identity IS
    'A ledger has one name.';
INSERT INTO credits.ledger_identity DEFAULT VALUES;
ALTER TABLE credits.ledger_identity ENABLE ROW LEVEL SECURITY;

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.ledger_identity
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.ledger_identity ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.ledger_identity IS
    'Skips the names of other ledgers, which replication brings.';

CREATE TYPE credits.feed_item AS (
    feed_position      text,
    id                 uuid,
    user_id            uuid,
    transaction_type   text,
    amount             numeric,
    source_id          text,
    description        text,
    created_at         timestamptz,
    seq                bigint,
    fusillade_batch_id uuid,
    api_key_id         uuid,
    category           text,
    metadata           jsonb,
    reverses           uuid
);
COMMENT ON TYPE credits.feed_item IS 'One ledger row of transactions_after. Pass its feed_position to read the rows behind it.';
REVOKE ALL ON TYPE credits.feed_item FROM PUBLIC;
REVOKE ALL ON TABLE credits.ledger_identity FROM PUBLIC;

-- Forward, for projections and exports
CREATE FUNCTION credits.transactions_after(feed_position text DEFAULT NULL, "limit" bigint DEFAULT 1000)
    RETURNS SETOF credits.feed_item
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 1000
    AS 'MODULE_PATHNAME', 'transactions_after';
COMMENT ON FUNCTION credits.transactions_after(text, bigint) IS
    'The ledger read forward: the first "limit" rows (NULL: all) behind a feed_position of an earlier row, or from the beginning,'
    ' in the order of the transactions that inserted them and of seq. It leaves out rows of transactions that are not older than '
    'the oldest open one; a later call returns them. So no row ever belongs before a position that was returned, and each row '
    'comes once. It waits for no transaction, and returns nothing that a crash could take back. Errors: 22023 for a negative limit and a position that is malformed or of another ledger, '
    '42501 without SELECT on the ledger. Cost: a few thousand rows read besides the page; where row-level security filters, a '
    'query.';
REVOKE ALL ON FUNCTION credits.transactions_after(text, bigint) FROM PUBLIC;

CREATE FUNCTION credits.redact_account(user_id uuid) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'redact_account_wrapper';
COMMENT ON FUNCTION credits.redact_account(uuid) IS
    'For erasure requests: clears description and metadata of the rows and holds of a user that are committed or the '
    'transaction''s own, and changes nothing else; returns how many rows, holds among them, it has cleared. Waits for '
    'transactions that extend, capture or release a hold of the user, then takes the stripe of the user exclusively, so commits '
    'of its users wait until this transaction ends. Fires no trigger. EXECUTE suffices, which nobody but the owner has at first; '
    'row-level security hides no row from it. Vacuum removes the old versions of the rows. Errors: 22004 for NULL, 25006 in a '
    'read-only transaction, 0A000 if the transaction is prepared.';
REVOKE ALL ON FUNCTION credits.redact_account(uuid) FROM PUBLIC;

-- Verification.

-- Plain SQL on purpose: it shares nothing with the code that it checks.
CREATE OR REPLACE FUNCTION credits.verify_ledger()
    RETURNS TABLE (check_name text, user_id uuid, detail text)
    LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp SET row_security = off
    AS $$
        WITH covered AS (
            SELECT t.user_id, t.fusillade_batch_id, t.amount, t.seq, t.created_at, t.transaction_type, t.category, t.api_key_id, c.has_days,
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
        -- One row for each total that is stored, and one for each that the covered rows make: a NULL is grouped with NULLs.
        daily AS (
            SELECT d.user_id, d.day, d.transaction_type, d.category, d.api_key_id,
                   d.total_amount AS stored_amount, d.transaction_count AS stored_count, NULL::numeric AS amount, NULL::bigint AS transaction_count
            FROM credits.folded_days d
            UNION ALL
            SELECT k.user_id, k.day, k.transaction_type, k.category, k.api_key_id, NULL, NULL, sum(k.amount), count(*)
            FROM (SELECT k.user_id, (k.created_at AT TIME ZONE 'UTC')::date AS day, k.category, k.api_key_id, k.amount,
                         CASE WHEN k.transaction_type IN ('purchase', 'admin_grant', 'admin_removal', 'usage') THEN k.transaction_type
                              ELSE '' END AS transaction_type
                  FROM covered k
                  WHERE k.has_days) k
            GROUP BY k.user_id, k.day, k.transaction_type, k.category, k.api_key_id
        ),
        summed AS (
            SELECT t.user_id,
                   sum(CASE WHEN t.transaction_type IN ('purchase', 'admin_grant') THEN t.amount ELSE -t.amount END) AS balance
            FROM credits.credits_transactions t
            GROUP BY t.user_id
        ),
        -- What a checkpoint has of spending_limits: NULL where an account has nothing but the defaults.
        bounded AS (
            SELECT c.user_id, coalesce(c.overdraft_limit, 0) AS stored_limit, coalesce(c.thresholds, '{}') AS stored_thresholds,
                   b.overdraft_limit, b.thresholds, c.thresholds_below, coalesce(s.balance, 0) AS balance,
                   coalesce(c.overdraft_limit, 0) IS DISTINCT FROM b.overdraft_limit
                   OR coalesce(c.thresholds, '{}') IS DISTINCT FROM b.thresholds AS differs,
                   c.thresholds_below IS DISTINCT FROM
                   (SELECT CASE WHEN c.thresholds IS NOT NULL THEN count(*) FILTER (WHERE t < coalesce(s.balance, 0)) END FROM unnest(c.thresholds) t)
                   OR cardinality(c.thresholds_crossed_at) IS DISTINCT FROM cardinality(c.thresholds) AS is_elsewhere
            FROM credits.checkpoints c
            LEFT JOIN summed s ON s.user_id = c.user_id
            LEFT JOIN credits.spending_limits l ON l.user_id = c.user_id
            CROSS JOIN LATERAL (
                SELECT CASE WHEN l.user_id IS NULL THEN 0 ELSE coalesce(l.overdraft_limit, 'Infinity') END,
                       ARRAY(SELECT t FROM unnest(l.thresholds) t ORDER BY t)
            ) b (overdraft_limit, thresholds)
            WHERE credits.is_here(c.user_id)
        ),
        -- What a checkpoint has of spend_caps, and what there is.
        capped AS (
            SELECT c.user_id, c.cap_ids, n.ids, c.caps_reached_until, n.reached_until,
                   c.cap_ids IS DISTINCT FROM n.ids
                   OR cardinality(c.caps_reached_until) IS DISTINCT FROM cardinality(c.cap_ids) AS differs
            FROM credits.checkpoints c
            LEFT JOIN (
                SELECT s.user_id, array_agg(s.cap_id ORDER BY s.cap_id) AS ids,
                       array_agg(CASE WHEN r.spent >= s.amount THEN coalesce(s.resets_at, 'infinity') END ORDER BY s.cap_id) AS reached_until
                FROM credits.spend_cap_states s
                JOIN credits.spend_caps p ON p.id = s.cap_id
                -- Of the rows: what the view says that was spent is derived.
                CROSS JOIN LATERAL (
                    SELECT coalesce(sum(t.amount), 0)
                    FROM credits.credits_transactions t
                    WHERE t.user_id = s.user_id AND t.transaction_type = 'usage'
                      AND t.created_at::timestamptz(0) >= s.window_start::timestamptz(0) AND t.created_at >= s.window_start
                      AND (t.created_at < s.resets_at OR s.resets_at IS NULL)
                      AND (t.api_key_id = ANY (p.api_key_ids) OR p.api_key_ids IS NULL)
                ) r (spent)
                GROUP BY s.user_id
            ) n ON n.user_id = c.user_id
            WHERE (c.cap_ids IS NOT NULL OR n.ids IS NOT NULL) AND credits.is_here(c.user_id)
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
        WHERE c.is_positive <> (coalesce(s.balance, 0) > 0) AND credits.is_here(c.user_id)
        UNION ALL
        SELECT 'checkpoint boundaries', b.user_id,
               format('stored %s and %s, spending_limits has %s and %s', b.stored_limit, b.stored_thresholds, b.overdraft_limit, b.thresholds)
        FROM bounded b
        WHERE b.differs
        UNION ALL
        SELECT 'checkpoint thresholds_below', b.user_id,
               format('announced above %s of %s, the balance is %s',
                      coalesce(b.thresholds_below::text, 'none'), b.stored_thresholds, b.balance)
        FROM bounded b
        WHERE b.is_elsewhere
        UNION ALL
        SELECT 'checkpoint caps', k.user_id, format('stored %s, spend_caps has %s', coalesce(k.cap_ids::text, 'none'), coalesce(k.ids::text, 'none'))
        FROM capped k
        WHERE k.differs
        UNION ALL
        SELECT 'checkpoint caps_reached_until', k.user_id,
               format('of %s, announced %s, reached until %s', k.ids, k.caps_reached_until, k.reached_until)
        FROM capped k
        -- An announcement that has expired counts no more.
        WHERE NOT k.differs
          AND EXISTS (SELECT FROM unnest(k.caps_reached_until, k.reached_until) AS r(announced, reached)
                      WHERE nullif(greatest(r.announced, statement_timestamp()), statement_timestamp()) IS DISTINCT FROM r.reached)
        UNION ALL
        -- Not of a checkpoint that is named above: nothing can be read from one that holds no number of credits.
        SELECT 'balance', s.user_id, format('read as %s, the rows sum to %s', credits.get_user_balance(s.user_id), s.balance)
        FROM summed s
        LEFT JOIN credits.checkpoints c ON c.user_id = s.user_id
        LEFT JOIN recomputed r ON r.user_id = s.user_id
        LEFT JOIN bounded b ON b.user_id = s.user_id
        LEFT JOIN capped k ON k.user_id = s.user_id
        WHERE CASE WHEN c.balance <> coalesce(r.balance, 0) OR b.differs OR b.is_elsewhere OR k.differs OR NOT credits.is_here(s.user_id) THEN false
                   ELSE credits.get_user_balance(s.user_id) <> s.balance END
        UNION ALL
        SELECT 'batch', coalesce(b.user_id, r.user_id),
               format('batch %s: stored %s, the covered rows make %s', coalesce(b.fusillade_batch_id, r.fusillade_batch_id),
                      coalesce(b.total_amount || ' in ' || b.transaction_count || ' rows up to seq ' || b.max_seq || ' since ' || b.created_at,
                               'nothing'),
                      coalesce(r.total_amount || ' in ' || r.transaction_count || ' rows up to seq ' || r.max_seq || ' since ' || r.created_at,
                               'nothing'))
        FROM credits.folded_batches b
        FULL JOIN recomputed_batches r ON r.user_id = b.user_id AND r.fusillade_batch_id = b.fusillade_batch_id
        WHERE (b.total_amount, b.transaction_count, b.max_seq, b.created_at)
              IS DISTINCT FROM (r.total_amount, r.transaction_count, r.max_seq, r.created_at)
        UNION ALL
        SELECT 'daily total', d.user_id,
               format('%s on %s, category %s, key %s: stored %s, the covered rows make %s',
                      d.transaction_type, d.day, coalesce(quote_literal(d.category), 'none'), coalesce(d.api_key_id::text, 'none'),
                      coalesce(string_agg(d.stored_amount || ' in ' || d.stored_count || ' rows', ' and '), 'nothing'),
                      coalesce(max(d.amount) || ' in ' || max(d.transaction_count) || ' rows', 'nothing'))
        FROM daily d
        GROUP BY d.user_id, d.day, d.transaction_type, d.category, d.api_key_id
        HAVING (count(d.stored_amount), max(d.stored_amount), max(d.stored_count))
               IS DISTINCT FROM (count(d.amount), max(d.amount), max(d.transaction_count))
        UNION ALL
        SELECT 'checkpoint watermark', c.user_id,
               format('watermark %s covers transactions that have not begun, or stragglers %s are not below it', c.watermark, c.stragglers)
        FROM credits.checkpoints c
        WHERE c.watermark > pg_snapshot_xmax(pg_current_snapshot()) OR c.watermark <= ANY (c.stragglers)
        UNION ALL
        SELECT 'row xact_id', t.user_id, format('row %s is stamped %s, which is no transaction of this cluster yet', t.id, t.xact_id)
        FROM credits.credits_transactions t
        WHERE t.xact_id >= pg_snapshot_xmax(pg_current_snapshot()) AND t.xact_id IS DISTINCT FROM pg_current_xact_id_if_assigned()
        UNION ALL
        SELECT 'reversal', r.user_id, format('row %s reverses %s, %s', r.id, r.reverses, r.problem)
        FROM (
            SELECT s.id, s.user_id, s.reverses,
                   CASE WHEN o.id IS NULL THEN 'which is not there'
                        WHEN o.reverses IS NOT NULL THEN 'which is a reversal itself'
                        WHEN o.user_id <> s.user_id THEN format('which is of user %s', o.user_id)
                        WHEN s.transaction_type <> CASE WHEN o.transaction_type IN ('purchase', 'admin_grant') THEN 'admin_removal'
                                                        ELSE 'admin_grant' END
                            THEN format('which is of type %s, by %s', o.transaction_type, s.transaction_type)
                        WHEN s.reversed > o.amount THEN format('whose reversals sum to %s, more than %s', s.reversed, o.amount)
                   END AS problem
            FROM (
                SELECT t.id, t.user_id, t.transaction_type, t.reverses,
                       sum(t.amount) OVER (PARTITION BY t.reverses, t.user_id) AS reversed
                FROM credits.credits_transactions t
                WHERE t.reverses IS NOT NULL
            ) s
            LEFT JOIN credits.credits_transactions o ON o.id = s.reverses
        ) r
        WHERE r.problem IS NOT NULL
    $$;
COMMENT ON FUNCTION credits.verify_ledger() IS
    'Recomputes every derived value from the ledger rows and returns what differs; no rows is the good answer. A crossing '
    'that is not announced yet (COMMIT PREPARED, rows written with triggers off) shows as ''checkpoint is_positive'', ''thresholds_below'' or ''caps_reached_until'' until '
    'refresh_checkpoint. Rows that reverse what is not there (a restore in another order, a trigger that was off), or what does not '
    'cover them, show as ''reversal''. Raises 42501 where row-level security would hide rows. Costs a few scans of the whole ledger.';

-- Whether tables, indexes, triggers and what guards them are as this version made them. What is expected is written out, for people
-- to read and to compare with the other files; a definition is in the words of the server's own functions, the same on all majors.
CREATE FUNCTION credits.verify_installation()
    RETURNS TABLE (check_name text, object text, detail text)
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
    AS $$
        WITH expected (check_name, relation, name, definition) AS (VALUES
            ('relation', 'credits_transactions', '', 'table, dumped of accounts that are here'),
            ('column', 'credits_transactions', 'id', 'uuid NOT NULL DEFAULT credits.uuid_v7()'),
            ('column', 'credits_transactions', 'user_id', 'uuid NOT NULL'),
            ('column', 'credits_transactions', 'transaction_type', 'text NOT NULL'),
            ('column', 'credits_transactions', 'amount', 'numeric NOT NULL'),
            ('column', 'credits_transactions', 'source_id', 'text NOT NULL'),
            ('column', 'credits_transactions', 'description', 'text'),
            ('column', 'credits_transactions', 'fusillade_batch_id', 'uuid'),
            ('column', 'credits_transactions', 'api_key_id', 'uuid'),
            ('column', 'credits_transactions', 'created_at', 'timestamp with time zone NOT NULL DEFAULT clock_timestamp()'),
            ('column', 'credits_transactions', 'seq', 'bigint NOT NULL GENERATED ALWAYS AS IDENTITY'),
            ('column', 'credits_transactions', 'xact_id', 'xid8 NOT NULL GENERATED ALWAYS AS credits.current_xact_id(seq)'),
            ('column', 'credits_transactions', 'category', 'text'),
            ('column', 'credits_transactions', 'metadata', 'jsonb'),
            ('column', 'credits_transactions', 'reverses', 'uuid'),
            ('constraint', 'credits_transactions', 'amount_is_positive_and_exact', 'CHECK (credits.is_amount(amount))'),
            ('constraint', 'credits_transactions', 'batch_is_usage', 'CHECK (credits.may_have_batch(transaction_type, fusillade_batch_id))'),
            ('constraint', 'credits_transactions', 'credits_transactions_pkey', 'PRIMARY KEY (id)'),
            ('constraint', 'credits_transactions', 'credits_transactions_source_id_key', 'UNIQUE (source_id)'),
            ('constraint', 'credits_transactions', 'transaction_type_is_known', 'CHECK (credits.is_transaction_type(transaction_type))'),
            ('index', 'credits_transactions', 'credits_transactions_auto_topup_idx', 'btree (user_id, created_at) WHERE starts_with(source_id, ''auto_topup_''::text)'),
            ('index', 'credits_transactions', 'credits_transactions_batched_idx', 'btree (user_id, seq) WHERE (fusillade_batch_id IS NOT NULL)'),
            ('index', 'credits_transactions', 'credits_transactions_created_idx', 'brin (created_at)'),
            ('index', 'credits_transactions', 'credits_transactions_delta_idx', 'btree (user_id, xact_id)'),
            ('index', 'credits_transactions', 'credits_transactions_pkey', 'unique btree (id)'),
            ('index', 'credits_transactions', 'credits_transactions_reverses_idx', 'btree (reverses) WHERE (reverses IS NOT NULL)'),
            ('index', 'credits_transactions', 'credits_transactions_seq_idx', 'unique btree (seq) WHERE (seq >= ''-9223372036854775808''::bigint)'),
            ('index', 'credits_transactions', 'credits_transactions_single_idx', 'btree (user_id, seq) WHERE (fusillade_batch_id IS NULL)'),
            ('index', 'credits_transactions', 'credits_transactions_source_id_key', 'unique btree (source_id)'),
            ('index', 'credits_transactions', 'credits_transactions_stamp_idx', 'brin (xact_id credits.xid8_minmax_ops)'),
            ('index', 'credits_transactions', 'credits_transactions_user_created_idx', 'btree (user_id, ((created_at)::timestamp(0) with time zone))'),
            ('trigger', 'credits_transactions', 'append_only', 'BEFORE DELETE OR UPDATE OR TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.refuse_change(), always'),
            ('trigger', 'credits_transactions', 'append_only_applied', 'BEFORE DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.refuse_change(), always'),
            ('trigger', 'credits_transactions', 'note_transaction', 'AFTER INSERT FOR EACH ROW EXECUTE FUNCTION credits.note_transaction(), always'),
            ('relation', 'spending_limits', '', 'table, dumped of accounts that are here'),
            ('column', 'spending_limits', 'user_id', 'uuid NOT NULL'),
            ('column', 'spending_limits', 'overdraft_limit', 'numeric DEFAULT 0'),
            ('column', 'spending_limits', 'thresholds', 'numeric[] NOT NULL DEFAULT ''{}''::numeric[]'),
            ('column', 'spending_limits', 'updated_at', 'timestamp with time zone NOT NULL DEFAULT clock_timestamp()'),
            ('constraint', 'spending_limits', 'overdraft_limit_is_exact',
             'CHECK (((overdraft_limit >= (0)::numeric) AND (overdraft_limit < (''10000000000000''::bigint)::numeric) AND (min_scale(overdraft_limit) <= 15)))'),
            ('constraint', 'spending_limits', 'spending_limits_pkey', 'PRIMARY KEY (user_id)'),
            ('constraint', 'spending_limits', 'thresholds_are_distinct_balances', 'CHECK (credits.are_thresholds(thresholds))'),
            ('index', 'spending_limits', 'spending_limits_bucket_idx', 'btree (credits.bucket_of(user_id))'),
            ('index', 'spending_limits', 'spending_limits_pkey', 'unique btree (user_id)'),
            ('trigger', 'spending_limits', 'note_all_limits', 'BEFORE TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.note_limits(), always'),
            ('trigger', 'spending_limits', 'note_limits', 'AFTER INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.note_limits(), always'),
            ('trigger', 'spending_limits', 'set_updated_at', 'BEFORE UPDATE FOR EACH ROW EXECUTE FUNCTION credits.set_updated_at(), not in replication'),
            ('relation', 'spend_caps', '', 'table, dumped of accounts that are here'),
            ('column', 'spend_caps', 'id', 'uuid NOT NULL DEFAULT gen_random_uuid()'),
            ('column', 'spend_caps', 'user_id', 'uuid NOT NULL'),
            ('column', 'spend_caps', 'api_key_ids', 'uuid[]'),
            ('column', 'spend_caps', 'period', 'text'),
            ('column', 'spend_caps', 'amount', 'numeric NOT NULL'),
            ('column', 'spend_caps', 'since', 'timestamp with time zone NOT NULL DEFAULT now()'),
            ('column', 'spend_caps', 'is_enforced', 'boolean NOT NULL DEFAULT false'),
            ('constraint', 'spend_caps', 'amount_is_positive_and_exact', 'CHECK (credits.is_amount(amount))'),
            ('constraint', 'spend_caps', 'api_key_ids_has_keys',
             'CHECK ( CASE WHEN (api_key_ids IS NULL) THEN true WHEN (array_ndims(api_key_ids) = 1) THEN (array_position(api_key_ids, NULL::uuid) IS NULL) ELSE false END)'),
            ('constraint', 'spend_caps', 'period_is_known', 'CHECK ((period = ANY (ARRAY[''daily''::text, ''weekly''::text, ''monthly''::text])))'),
            ('constraint', 'spend_caps', 'spend_caps_pkey', 'PRIMARY KEY (id)'),
            ('index', 'spend_caps', 'spend_caps_bucket_idx', 'btree (credits.bucket_of(user_id))'),
            ('index', 'spend_caps', 'spend_caps_pkey', 'unique btree (id)'),
            ('index', 'spend_caps', 'spend_caps_user_idx', 'btree (user_id)'),
            ('trigger', 'spend_caps', 'note_all_caps', 'BEFORE TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.note_caps(), always'),
            ('trigger', 'spend_caps', 'note_caps', 'AFTER INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.note_caps(), always'),
            ('relation', 'holds', '', 'table, dumped of accounts that are here'),
            ('column', 'holds', 'source_id', 'text NOT NULL'),
            ('column', 'holds', 'user_id', 'uuid NOT NULL'),
            ('column', 'holds', 'amount', 'numeric NOT NULL'),
            ('column', 'holds', 'description', 'text'),
            ('column', 'holds', 'fusillade_batch_id', 'uuid'),
            ('column', 'holds', 'api_key_id', 'uuid'),
            ('column', 'holds', 'category', 'text'),
            ('column', 'holds', 'metadata', 'jsonb'),
            ('column', 'holds', 'created_at', 'timestamp with time zone NOT NULL DEFAULT clock_timestamp()'),
            ('column', 'holds', 'expires_at', 'timestamp with time zone NOT NULL'),
            ('constraint', 'holds', 'amount_is_positive_and_exact', 'CHECK (credits.is_amount(amount))'),
            ('constraint', 'holds', 'holds_pkey', 'PRIMARY KEY (source_id)'),
            ('index', 'holds', 'holds_pkey', 'unique btree (source_id)'),
            ('index', 'holds', 'holds_user_idx', 'btree (user_id, expires_at)'),
            ('trigger', 'holds', 'never_truncated', 'BEFORE TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.refuse_hold_change(), always'),
            ('trigger', 'holds', 'note_hold', 'AFTER INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.note_hold(), always'),
            ('trigger', 'holds', 'only_extended', 'AFTER UPDATE FOR EACH ROW EXECUTE FUNCTION credits.refuse_hold_change(), always'),
            ('relation', 'user_balance_checkpoints', '', 'table, row-level security'),
            ('column', 'user_balance_checkpoints', 'user_id', 'uuid NOT NULL'),
            ('column', 'user_balance_checkpoints', 'checkpoint_seq', 'bigint NOT NULL'),
            ('column', 'user_balance_checkpoints', 'balance', 'numeric NOT NULL'),
            ('column', 'user_balance_checkpoints', 'updated_at', 'timestamp with time zone NOT NULL'),
            ('column', 'user_balance_checkpoints', 'transaction_count', 'bigint NOT NULL'),
            ('column', 'user_balance_checkpoints', 'watermark', 'xid8 NOT NULL'),
            ('column', 'user_balance_checkpoints', 'stragglers', 'xid8[] NOT NULL'),
            ('column', 'user_balance_checkpoints', 'is_positive', 'boolean NOT NULL'),
            ('column', 'user_balance_checkpoints', 'crossed_at', 'timestamp with time zone'),
            ('column', 'user_balance_checkpoints', 'overdraft_limit', 'numeric'),
            ('column', 'user_balance_checkpoints', 'thresholds', 'numeric[]'),
            ('column', 'user_balance_checkpoints', 'thresholds_below', 'smallint'),
            ('column', 'user_balance_checkpoints', 'thresholds_crossed_at', 'timestamp with time zone[]'),
            ('column', 'user_balance_checkpoints', 'has_days', 'boolean'),
            ('column', 'user_balance_checkpoints', 'cap_ids', 'uuid[]'),
            ('column', 'user_balance_checkpoints', 'caps_reached_until', 'timestamp with time zone[]'),
            ('constraint', 'user_balance_checkpoints', 'user_balance_checkpoints_pkey', 'PRIMARY KEY (user_id)'),
            ('index', 'user_balance_checkpoints', 'user_balance_checkpoints_pkey', 'unique btree (user_id)'),
            ('trigger', 'user_balance_checkpoints', 'announce_change', 'AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.announce_change(), always'),
            ('trigger', 'user_balance_checkpoints', 'keep_all_announced', 'BEFORE TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.keep_announced(), always'),
            ('trigger', 'user_balance_checkpoints', 'keep_announced', 'AFTER DELETE OR UPDATE OF user_id FOR EACH ROW EXECUTE FUNCTION credits.keep_announced(), always'),
            ('trigger', 'user_balance_checkpoints', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'batch_aggregates', '', 'table, row-level security'),
            ('column', 'batch_aggregates', 'fusillade_batch_id', 'uuid NOT NULL STATISTICS 0'),
            ('column', 'batch_aggregates', 'user_id', 'uuid NOT NULL STATISTICS 0'),
            ('column', 'batch_aggregates', 'total_amount', 'numeric NOT NULL STATISTICS 0'),
            ('column', 'batch_aggregates', 'transaction_count', 'bigint NOT NULL STATISTICS 0'),
            ('column', 'batch_aggregates', 'max_seq', 'bigint NOT NULL STATISTICS 0'),
            ('column', 'batch_aggregates', 'created_at', 'timestamp with time zone NOT NULL STATISTICS 0'),
            ('column', 'batch_aggregates', 'updated_at', 'timestamp with time zone NOT NULL STATISTICS 0'),
            ('constraint', 'batch_aggregates', 'batch_aggregates_pkey', 'PRIMARY KEY (user_id, fusillade_batch_id)'),
            ('index', 'batch_aggregates', 'batch_aggregates_pkey', 'unique btree (user_id, fusillade_batch_id)'),
            ('index', 'batch_aggregates', 'batch_aggregates_user_seq_idx', 'btree (user_id, max_seq, created_at)'),
            ('trigger', 'batch_aggregates', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'daily_totals', '', 'table, row-level security'),
            ('column', 'daily_totals', 'user_id', 'uuid NOT NULL'),
            ('column', 'daily_totals', 'day', 'date NOT NULL'),
            ('column', 'daily_totals', 'category', 'text'),
            ('column', 'daily_totals', 'api_key_id', 'uuid'),
            ('column', 'daily_totals', 'transaction_type', 'text NOT NULL'),
            ('column', 'daily_totals', 'total_amount', 'numeric NOT NULL'),
            ('column', 'daily_totals', 'transaction_count', 'bigint NOT NULL'),
            ('index', 'daily_totals', 'daily_totals_user_day_idx', 'btree (user_id, day, transaction_type COLLATE "C", category COLLATE "C", api_key_id)'),
            ('trigger', 'daily_totals', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'checkpoint_changes', '', 'table'),
            ('column', 'checkpoint_changes', 'xact_id', 'xid8 NOT NULL'),
            ('column', 'checkpoint_changes', 'changed_at', 'timestamp with time zone NOT NULL'),
            ('trigger', 'checkpoint_changes', 'announce_change', 'AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.announce_change(), always'),
            ('trigger', 'checkpoint_changes', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'ledger_identity', '', 'table, row-level security'),
            ('column', 'ledger_identity', 'is_only', 'boolean NOT NULL DEFAULT true'),
            ('column', 'ledger_identity', 'ledger_id', 'uuid NOT NULL DEFAULT gen_random_uuid()'),
            ('constraint', 'ledger_identity', 'ledger_identity_pkey', 'PRIMARY KEY (is_only)'),
            ('constraint', 'ledger_identity', 'there_is_one', 'CHECK (is_only)'),
            ('index', 'ledger_identity', 'ledger_identity_pkey', 'unique btree (is_only)'),
            ('trigger', 'ledger_identity', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'node', '', 'table, dumped'),
            ('column', 'node', 'is_only', 'boolean NOT NULL DEFAULT true'),
            ('column', 'node', 'node_number', 'integer NOT NULL'),
            ('constraint', 'node', 'node_pkey', 'PRIMARY KEY (is_only)'),
            ('constraint', 'node', 'there_are_1024', 'CHECK (((node_number >= 0) AND (node_number <= 1023)))'),
            ('constraint', 'node', 'there_is_one', 'CHECK (is_only)'),
            ('index', 'node', 'node_pkey', 'unique btree (is_only)'),
            ('trigger', 'node', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('trigger', 'node', 'number_by_node', 'AFTER INSERT OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.number_by_node(), not in replication'),
            ('relation', 'bucket_states', '', 'table, dumped'),
            ('column', 'bucket_states', 'bucket', 'smallint NOT NULL'),
            ('column', 'bucket_states', 'copied_from', 'text'),
            ('column', 'bucket_states', 'copied_to', 'xid8'),
            ('column', 'bucket_states', 'handover', 'jsonb'),
            ('column', 'bucket_states', 'received', 'xid8'),
            ('column', 'bucket_states', 'state', 'text NOT NULL'),
            ('constraint', 'bucket_states', 'bucket_states_pkey', 'PRIMARY KEY (bucket)'),
            ('constraint', 'bucket_states', 'state_is_known', 'CHECK ((state = ANY (ARRAY[''elsewhere''::text, ''arriving''::text, ''moving''::text])))'),
            ('constraint', 'bucket_states', 'there_are_1024', 'CHECK (((bucket >= 0) AND (bucket <= 1023)))'),
            ('index', 'bucket_states', 'bucket_states_pkey', 'unique btree (bucket)'),
            ('trigger', 'bucket_states', 'announce_buckets', 'AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.announce_buckets(), always'),
            ('trigger', 'bucket_states', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'copies', '', 'table'),
            ('column', 'copies', 'xact_id', 'xid8 NOT NULL'),
            ('constraint', 'copies', 'copies_pkey', 'PRIMARY KEY (xact_id)'),
            ('index', 'copies', 'copies_pkey', 'unique btree (xact_id)'),
            ('trigger', 'copies', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'purged_buckets', '', 'table, dumped'),
            ('column', 'purged_buckets', 'balance', 'numeric NOT NULL'),
            ('column', 'purged_buckets', 'bucket', 'smallint NOT NULL'),
            ('column', 'purged_buckets', 'digest', 'text NOT NULL'),
            ('column', 'purged_buckets', 'purged_at', 'timestamp with time zone NOT NULL'),
            ('column', 'purged_buckets', 'transaction_count', 'bigint NOT NULL'),
            ('constraint', 'purged_buckets', 'purged_buckets_pkey', 'PRIMARY KEY (bucket, purged_at)'),
            ('index', 'purged_buckets', 'purged_buckets_pkey', 'unique btree (bucket, purged_at)'),
            ('trigger', 'purged_buckets', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'taken_buckets', '', 'table, dumped'),
            ('column', 'taken_buckets', 'bucket', 'smallint NOT NULL'),
            ('column', 'taken_buckets', 'seq', 'bigint NOT NULL'),
            ('constraint', 'taken_buckets', 'taken_buckets_pkey', 'PRIMARY KEY (bucket)'),
            ('index', 'taken_buckets', 'taken_buckets_pkey', 'unique btree (bucket)'),
            ('trigger', 'taken_buckets', 'leave_out_replicated', 'BEFORE INSERT OR DELETE OR UPDATE FOR EACH ROW EXECUTE FUNCTION credits.leave_out(), in replication only'),
            ('relation', 'dumped_row_security', '', 'table, dumped WHERE false UNION ALL SELECT * FROM credits.row_security()'),
            ('column', 'dumped_row_security', 'table_name', 'text NOT NULL'),
            ('column', 'dumped_row_security', 'kind', 'text NOT NULL'),
            ('column', 'dumped_row_security', 'policy', 'text NOT NULL'),
            ('column', 'dumped_row_security', 'is_permissive', 'boolean'),
            ('column', 'dumped_row_security', 'command', 'text'),
            ('column', 'dumped_row_security', 'roles', 'text[]'),
            ('column', 'dumped_row_security', 'using_expression', 'text'),
            ('column', 'dumped_row_security', 'check_expression', 'text'),
            ('column', 'dumped_row_security', 'problem', 'text'),
            ('constraint', 'dumped_row_security', 'dumped_row_security_pkey', 'PRIMARY KEY (table_name, kind, policy)'),
            ('constraint', 'dumped_row_security', 'kind_is_known',
             'CHECK ( CASE kind WHEN ''enable''::text THEN (policy = ''''::text) WHEN ''force''::text THEN (policy = ''''::text)'
             ' WHEN ''policy''::text THEN ((policy <> ''''::text) AND (is_permissive IS NOT NULL) AND (command IS NOT NULL)'
             ' AND (command = ANY (ARRAY[''ALL''::text, ''SELECT''::text, ''INSERT''::text, ''UPDATE''::text, ''DELETE''::text]))) ELSE false END)'),
            ('index', 'dumped_row_security', 'dumped_row_security_pkey', 'unique btree (table_name, kind, policy)'),
            ('trigger', 'dumped_row_security', 'make_row_security', 'BEFORE INSERT FOR EACH ROW EXECUTE FUNCTION credits.make_row_security(), always'),
            ('trigger', 'dumped_row_security', 'owner_only', 'BEFORE INSERT OR DELETE OR UPDATE OR TRUNCATE FOR EACH STATEMENT EXECUTE FUNCTION credits.refuse_others(), always'),
            ('relation', 'credits_transactions_seq_seq', '', 'sequence, bigint from 1 to 9223372036854775807 by 1, cache 1, owned by column seq of table credits.credits_transactions, dumped'),
            ('relation', 'checkpoints', '', 'view, security barrier'),
            ('relation', 'folded_batches', '', 'view'),
            ('relation', 'folded_days', '', 'view, security barrier'),
            ('relation', 'users_without_checkpoint', '', 'view, security barrier'),
            ('relation', 'uncovered_transactions', '', 'view, security barrier'),
            ('relation', 'balances', '', 'view, security barrier'),
            ('relation', 'thresholds', '', 'view, security barrier'),
            ('relation', 'spend_cap_states', '', 'view, security barrier'),
            ('relation', 'batches', '', 'view, security barrier'),
            ('relation', 'checkpoint_lag', '', 'view, security barrier'),
            ('relation', 'hold_counts', '', 'view, security barrier'),
            ('relation', 'stragglers', '', 'view, security barrier'),
            ('event trigger', '', 'credits_ledger_guard', 'ddl_command_start credits.guard_ledger(), always'),
            ('event trigger', '', 'credits_ledger_guard_end', 'ddl_command_end credits.guard_ledger(), always'),
            ('event trigger', '', 'credits_ledger_guard_rewrite', 'table_rewrite credits.guard_ledger(), always')
        ),
        relations AS (
            SELECT c.oid, c.relname, c.relkind, c.relpersistence, c.relam, c.relrowsecurity, c.relforcerowsecurity, c.reloptions,
                   EXISTS (SELECT FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid
                           WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass
                             AND d.deptype = 'e' AND x.extname = 'credits_ledger') AS is_member
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'credits' AND c.relkind NOT IN ('i', 'I', 'c', 't')
        ),
        found (check_name, relation, name, definition) AS (
            SELECT 'relation', r.relname::text, '',
                   concat_ws(', ',
                       concat_ws(' ', CASE r.relpersistence WHEN 'u' THEN 'unlogged' WHEN 't' THEN 'temporary' END,
                                 CASE r.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence'
                                                ELSE format('relation of kind %s', r.relkind) END),
                       (SELECT 'access method ' || a.amname FROM pg_am a WHERE a.oid = r.relam AND a.amname <> 'heap'),
                       -- Row-level security of the tables that are dumped is the users' choice.
                       CASE WHEN r.relname NOT IN ('credits_transactions', 'spending_limits', 'spend_caps', 'holds') AND r.relrowsecurity THEN 'row-level security' END,
                       CASE WHEN r.relname NOT IN ('credits_transactions', 'spending_limits', 'spend_caps', 'holds') AND r.relforcerowsecurity THEN 'forced' END,
                       CASE WHEN r.relkind = 'v' AND r.reloptions @> '{security_barrier=true}' THEN 'security barrier' END,
                       CASE WHEN r.relkind = 'v' AND r.reloptions @> '{security_invoker=true}' THEN 'security invoker' END,
                       (SELECT format('%s from %s to %s by %s, cache %s%s', format_type(s.seqtypid, NULL), s.seqmin, s.seqmax,
                                      -- One of many nodes counts by 1,024: set_node_number.
                                      CASE WHEN s.seqincrement = 1024 THEN 1 ELSE s.seqincrement END,
                                      s.seqcache, CASE WHEN s.seqcycle THEN ', cycle' END)
                        FROM pg_sequence s WHERE s.seqrelid = r.oid),
                       (SELECT 'owned by ' || pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
                        FROM pg_depend d
                        WHERE r.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype IN ('a', 'i')
                          AND d.refclassid = 'pg_class'::regclass),
                       (SELECT 'inherits from ' || string_agg(i.inhparent::regclass::text, ', ') FROM pg_inherits i WHERE i.inhrelid = r.oid),
                       (SELECT 'inherited by ' || string_agg(i.inhrelid::regclass::text, ', ') FROM pg_inherits i WHERE i.inhparent = r.oid),
                       CASE WHEN NOT r.is_member THEN 'not a member of the extension' END,
                       (SELECT concat_ws(' ', 'dumped',
                                         -- Accounts that are here: nodes.sql has the condition.
                                         CASE x.extcondition[d.place]
                                         WHEN 'WHERE (SELECT NOT EXISTS (SELECT FROM credits.bucket_states s WHERE s.state <> ''moving''))'
                                              ' OR credits.bucket_of(user_id) NOT IN (SELECT s.bucket FROM credits.bucket_states s WHERE s.state <> ''moving'')'
                                         THEN 'of accounts that are here' ELSE nullif(x.extcondition[d.place], '') END)
                        FROM pg_extension x CROSS JOIN unnest(x.extconfig) WITH ORDINALITY AS d(oid, place)
                        WHERE x.extname = 'credits_ledger' AND d.oid = r.oid))
            FROM relations r
            WHERE r.is_member OR r.relname IN (SELECT e.relation FROM expected e)
            UNION ALL
            SELECT 'column', r.relname, a.attname,
                   concat(format_type(a.atttypid, a.atttypmod),
                          (SELECT format(' COLLATE %s', l.collname) FROM pg_collation l
                           WHERE l.oid = a.attcollation AND l.collname <> 'default'),
                          CASE WHEN a.attnotnull THEN ' NOT NULL' END,
                          CASE a.attidentity WHEN 'a' THEN ' GENERATED ALWAYS AS IDENTITY'
                                             WHEN 'd' THEN ' GENERATED BY DEFAULT AS IDENTITY' END,
                          CASE WHEN a.attgenerated <> '' THEN ' GENERATED ALWAYS AS ' WHEN d.oid IS NOT NULL THEN ' DEFAULT ' END,
                          pg_get_expr(d.adbin, d.adrelid),
                          CASE WHEN a.attstattarget = 0 AND r.relname = 'batch_aggregates' THEN ' STATISTICS 0' END)
            FROM relations r
            JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
            LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
            WHERE r.relkind NOT IN ('v', 'S')
            UNION ALL
            -- NOT VALID is no difference: an update adds constraints that old rows were not checked for.
            SELECT 'constraint', r.relname, c.conname, regexp_replace(regexp_replace(pg_get_constraintdef(c.oid), ' NOT VALID$', ''), E'\\s+', ' ', 'g')
            FROM relations r JOIN pg_constraint c ON c.conrelid = r.oid
            WHERE c.contype NOT IN ('n', 't')
            UNION ALL
            SELECT 'index', r.relname, x.relname,
                   concat(CASE WHEN i.indisunique THEN 'unique ' END,
                          -- Storage settings are the owner's.
                          regexp_replace(substring(pg_get_indexdef(i.indexrelid) FROM ' USING (.*)'), E' WITH \\([^)]*\\)', ''),
                          CASE WHEN NOT i.indisvalid THEN ', not valid' WHEN NOT i.indisready THEN ', not ready' END)
            FROM relations r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class x ON x.oid = i.indexrelid
            UNION ALL
            SELECT 'trigger', r.relname, g.tgname,
                   concat(regexp_replace(substring(pg_get_triggerdef(g.oid) FROM ' ((BEFORE|AFTER|INSTEAD OF) .*)'), E' ON \\S+', ''),
                          CASE g.tgenabled WHEN 'A' THEN ', always' WHEN 'R' THEN ', in replication only' WHEN 'D' THEN ', disabled'
                                           ELSE ', not in replication' END)
            FROM relations r JOIN pg_trigger g ON g.tgrelid = r.oid
            WHERE NOT g.tgisinternal
            UNION ALL
            SELECT 'rule', r.relname, w.rulename, regexp_replace(pg_get_ruledef(w.oid), E'\\s+', ' ', 'g')
            FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid
            WHERE r.relkind <> 'v'
            UNION ALL
            SELECT 'policy', r.relname, p.polname, 'for others than the owner'
            FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
            WHERE r.relname NOT IN ('credits_transactions', 'spending_limits', 'spend_caps', 'holds')
            UNION ALL
            SELECT 'event trigger', '', v.evtname,
                   concat(v.evtevent, (SELECT format(' (%s)', array_to_string(v.evttags, ', ')) WHERE v.evttags IS NOT NULL), ' ',
                          v.evtfoid::regprocedure,
                          CASE v.evtenabled WHEN 'A' THEN ', always' WHEN 'R' THEN ', in replication only' WHEN 'D' THEN ', disabled'
                                            ELSE ', not in replication' END)
            FROM pg_event_trigger v JOIN pg_proc p ON p.oid = v.evtfoid JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname = 'credits'
        ),
        differing AS (
            SELECT check_name, relation, name, e.definition AS expected, f.definition AS found
            FROM expected e FULL JOIN found f USING (check_name, relation, name)
            WHERE e.definition IS DISTINCT FROM f.definition
        )
        -- An application's own index, constraint or trigger on a table that is dumped does no harm, nor do ids of its own, but a dump leaves it out.
        SELECT CASE WHEN d.expected IS NULL AND d.relation IN ('credits_transactions', 'spending_limits', 'spend_caps', 'holds') AND d.check_name IN ('constraint', 'index', 'trigger')
                      OR d.check_name = 'column' AND d.relation = 'credits_transactions' AND d.name = 'id' AND starts_with(d.found, 'uuid NOT NULL DEFAULT ')
                    THEN 'left out of dumps' ELSE d.check_name END,
               CASE WHEN d.relation = '' THEN d.name ELSE concat_ws('.', 'credits', d.relation, nullif(d.name, '')) END,
               CASE WHEN d.found IS NULL THEN 'is missing; it was: ' || d.expected
                    WHEN d.expected IS NULL THEN format('%s, is not of the extension: %s', d.check_name, d.found)
                    ELSE format('is: %s; was: %s', d.found, d.expected) END
        FROM differing d
        -- For a table that is missing, or is not the extension's, its columns, indexes and triggers are not listed as well.
        WHERE d.check_name IN ('relation', 'event trigger')
           OR d.relation IN (SELECT e.relation FROM expected e INTERSECT SELECT r.relname FROM relations r)
        UNION ALL
        SELECT 'event trigger', 'event_triggers', 'the setting is off: nothing guards the ledger'
        WHERE current_setting('event_triggers', true) = 'off'
        UNION ALL
        SELECT 'function', f.oid::regprocedure::text,
               CASE WHEN f.prosecdef THEN 'is SECURITY DEFINER' ELSE 'sets no search_path of its own' END
        FROM pg_proc f
        JOIN pg_namespace n ON n.oid = f.pronamespace
        JOIN pg_language l ON l.oid = f.prolang
        JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e'
        JOIN pg_extension x ON d.refclassid = 'pg_extension'::regclass AND x.oid = d.refobjid AND x.extname = 'credits_ledger'
        WHERE n.nspname = 'credits'
          AND (f.prosecdef
               -- A procedure that commits cannot have a setting of its own; a body that was bound when it was created needs none.
               OR l.lanname <> 'c' AND f.prokind <> 'p' AND f.prosqlbody IS NULL
                  -- With quotes, where the extension was made under quote_all_identifiers.
                  AND NOT EXISTS (SELECT FROM unnest(f.proconfig) AS setting WHERE replace(setting, '"', '') = 'search_path=pg_catalog, pg_temp'))
        UNION ALL
        SELECT 'row security', concat_ws('.', 'credits', u.table_name, nullif(u.policy, '')), 'a restore has brought it and could not make it: ' || u.problem
        -- Without SELECT on the table, the function would raise an error.
        FROM unnest(CASE WHEN has_table_privilege('credits.dumped_row_security', 'SELECT')
                         THEN ARRAY(SELECT s FROM credits.row_security() s WHERE s.problem IS NOT NULL) END) u
        ORDER BY 1, 2
    $$;
COMMENT ON FUNCTION credits.verify_installation() IS
    'Compares tables, columns, constraints, indexes, triggers, sequences, views and event triggers with what this version makes, '
    'and lists what differs, and policies that a restore could not make; no rows is the good answer. ''left out of dumps'' names '
    'an index, constraint or trigger of an application''s own on the ledger, holds, limits or caps, and a default of its own for the ledger''s ids. Not compared: owners, privileges, storage and '
    'statistics settings, tablespaces, bodies of views and functions. Reads catalogs only.';

REVOKE ALL ON FUNCTION credits.verify_installation() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION credits.verify_installation() TO pg_monitor;

-- Import.

CREATE OR REPLACE FUNCTION credits.import_query(source regclass) RETURNS text
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
            ('seq', true, 'bigint', '{bigint}'),
            ('category', false, 'text', '{text, varchar}'),
            ('metadata', false, 'jsonb', '{jsonb}'),
            ('reverses', false, 'uuid', '{uuid}')
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

CREATE OR REPLACE FUNCTION credits.unimportable_transactions(source regclass)
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
                     WHEN s.source_id !~ E'\\S' THEN format('source_id "%%s" is blank', s.source_id)
                     -- The index may hold a longer one, if it can be compressed.
                     WHEN octet_length(s.source_id) > 2692
                         THEN format('source_id has %%s bytes, more than the 2692 that fit its index',
                                     octet_length(s.source_id)) END,
                CASE WHEN s.fusillade_batch_id IS NOT NULL AND s.transaction_type <> 'usage'
                         THEN format('fusillade_batch_id %%s on a row that is not usage', s.fusillade_batch_id) END,
                CASE WHEN s.created_at IS NULL THEN 'created_at is NULL'
                     WHEN NOT isfinite(s.created_at) THEN format('created_at is %%s', s.created_at) END,
                CASE WHEN s.seq IS NULL THEN 'seq is NULL'
                     WHEN s.seq >= 4611686018427387904 THEN format('seq %%s is not below 4611686018427387904', s.seq) END,
                CASE WHEN char_length(s.category) > 200
                         THEN format('category has %%s characters, more than 200', char_length(s.category)) END,
                CASE WHEN jsonb_typeof(s.metadata) <> 'object'
                         THEN format('metadata is not an object but of type %%s', jsonb_typeof(s.metadata)) END) AS reason
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
    -- Who has no reversals need not be able to read the ledger.
    IF NOT EXISTS (SELECT FROM pg_attribute a
                   WHERE a.attrelid = source AND a.attname = 'reverses' AND a.attnum > 0 AND NOT a.attisdropped) THEN
        RETURN;
    END IF;
    RETURN QUERY EXECUTE format($query$
        WITH reversal AS MATERIALIZED (
            SELECT s.* FROM (%1$s) s WHERE s.reverses IS NOT NULL
        ),
        original AS (
            SELECT DISTINCT ON (o.id) o.*
            FROM (
                SELECT s.id, s.user_id, s.transaction_type, s.amount, s.reverses
                FROM (%1$s) s
                WHERE s.id IN (SELECT r.reverses FROM reversal r)
                UNION ALL
                SELECT t.id, t.user_id, t.transaction_type, t.amount, t.reverses
                FROM credits.credits_transactions t
                WHERE t.id IN (SELECT r.reverses FROM reversal r)
            ) o
        ),
        taken_back AS (
            SELECT b.reverses, b.user_id, sum(b.amount) AS amount
            FROM (
                SELECT r.reverses, r.user_id, r.amount FROM reversal r
                UNION ALL
                SELECT t.reverses, t.user_id, t.amount
                FROM credits.credits_transactions t
                WHERE t.reverses IN (SELECT r.reverses FROM reversal r)
                  AND NOT EXISTS (SELECT FROM reversal r WHERE r.source_id = t.source_id)
            ) b
            GROUP BY b.reverses, b.user_id
        )
        SELECT c.id, c.seq, format('it reverses %%s, but %%s', c.reverses, c.reason)
        FROM (
            SELECT r.id, r.seq, r.reverses,
                   CASE WHEN o.reverses IS NOT NULL THEN 'that is a reversal itself'
                        WHEN o.user_id <> r.user_id THEN format('that is of user %%s', o.user_id)
                        WHEN r.transaction_type
                             <> CASE WHEN o.transaction_type IN ('purchase', 'admin_grant') THEN 'admin_removal' ELSE 'admin_grant' END
                            THEN format('that is of type %%s', o.transaction_type)
                        WHEN b.amount > o.amount
                            THEN format('all reversals take back %%s of its %%s', trim_scale(b.amount), trim_scale(o.amount)) END AS reason
            FROM reversal r
            JOIN original o ON o.id = r.reverses
            JOIN taken_back b ON b.reverses = r.reverses AND b.user_id = r.user_id
            -- The import passes over what is in the ledger already.
            WHERE NOT EXISTS (SELECT FROM credits.credits_transactions t WHERE t.source_id = r.source_id)
        ) c
        WHERE c.reason IS NOT NULL
        $query$, query);
END
    $$;

COMMENT ON FUNCTION credits.unimportable_transactions(regclass) IS
    'Rows of a table that import_transactions would refuse, and why: what the ledger cannot keep exactly, ids, source_ids and '
    'seqs that occur more than once, and reversals that do not fit their original, which may be in the ledger. A row may be '
    'listed more than once. Errors: 22004 for NULL, 42703 and 42804 for a column that is missing or of another type, 42501 '
    'without SELECT on the table, and on the ledger if the table has a column reverses, or where row-level security would hide '
    'rows. Cost: a scan of the table, a sort or hash of it for each of the three that has no unique index, and two more scans if '
    'it has a column reverses.';

CREATE OR REPLACE PROCEDURE credits.import_transactions(source regclass, chunk_size bigint DEFAULT 50000, announce boolean DEFAULT false)
    LANGUAGE plpgsql
    AS $$
DECLARE
    -- Types are looked up before the search_path is pinned: a name that is no keyword is qualified.
    query pg_catalog.text;
    -- The number of problems, and the first of them as text.
    problems bigint;
    problem pg_catalog.text;
    -- The highest seq of the source at the start, the number of rows up to it, and how many of these are imported.
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
    -- Raises 2D000 inside a transaction block, before anything is imported.
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
    -- Transactions that are recorded meanwhile get higher numbers than all that is imported.
    IF from_seq IS NOT NULL THEN
        PERFORM credits.advance_seq(last_seq);
    END IF;
    began := clock_timestamp();
    began_with := done;

    WHILE from_seq IS NOT NULL LOOP
        IF NOT announce THEN
            -- The settings exist once the library is loaded.
            PERFORM credits.get_user_balance('00000000-0000-0000-0000-000000000000');
            BEGIN
                PERFORM set_config('credits_ledger.config_channel', '', true),
                        set_config('credits_ledger.crossing_channel', '', true),
                        set_config('credits_ledger.cap_channel', '', true);
            EXCEPTION WHEN insufficient_privilege THEN
                RAISE EXCEPTION '%', SQLERRM
                    USING ERRCODE = 'insufficient_privilege',
                          HINT = 'Only who may set the channels can import in silence. With announce => true, crossings and spend '
                                 'caps are announced as the chunks make them.';
            END;
        END IF;
        EXECUTE format($query$
            SELECT max(c.seq), count(*)
            FROM (SELECT s.seq FROM (%s) s WHERE s.seq >= $1 AND s.seq <= $2 ORDER BY s.seq LIMIT $3) c
            $query$, query) INTO to_seq, chunk_rows USING from_seq, last_seq, chunk_size;
        EXECUTE format($query$
            INSERT INTO credits.credits_transactions
                (id, user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id, created_at, seq,
                 category, metadata, reverses)
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
    'fusillade_batch_id, api_key_id, category, metadata and reverses may be missing, others are ignored) into the ledger, with their id, created_at and seq, in '
    'the order of seq; new transactions get higher seqs from the start. Checks every row before it imports any '
    '(unimportable_transactions), then commits chunk_size rows at a time with a NOTICE each, and in the end compares each user''s '
    'rows and balance with the source. Called again, it goes on where it stopped. A row whose source_id is in the ledger with the '
    'same user, type and amount is skipped; with others it stops the import: 23505, and its chunk is rolled back. Announces no '
    'crossing and no spend cap unless announce is true. Runs as the caller, who needs SELECT on the source, SELECT and INSERT on the ledger, '
    'EXECUTE on the functions of the schema and, unless announce is true, the right to set the channels. Errors '
    'besides: 23514 for rows that cannot be kept exactly, 42703 and 42804 for columns that do not fit, 55000 if a user differs in '
    'the end, 2D000 inside a transaction block, 22004, 22023, 42501.';

-- What was spent when, statements, and balances of the past. Days are those of UTC whatever the session's time zone. As all reading
-- functions, these answer for the rows that the caller's snapshot and row-level security show, whenever those were written and
-- whatever dates they bear.
CREATE TYPE credits.transaction_with_balance AS (
    id                 uuid,
    user_id            uuid,
    transaction_type   text,
    amount             numeric,
    source_id          text,
    description        text,
    created_at         timestamptz,
    seq                bigint,
    fusillade_batch_id uuid,
    api_key_id         uuid,
    balance_after      numeric
);
COMMENT ON TYPE credits.transaction_with_balance IS
    'A credit_transaction and balance_after: the signed sum of its account''s transactions up to and including its seq.';
REVOKE ALL ON TYPE credits.transaction_with_balance FROM PUBLIC;

CREATE FUNCTION credits.get_user_balance_at(user_id uuid, at timestamptz) RETURNS numeric
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'get_user_balance_at';
COMMENT ON FUNCTION credits.get_user_balance_at(uuid, timestamptz) IS
    'Signed sum of a user''s transactions with created_at <= at, exact; 0 if there are none. 22004 for NULL. Cost: the daily totals before '
    'or after at, whichever days are fewer; of the day of at, the rows before or after it; and the rows that are not folded yet. Without '
    'daily totals or under row-level security, the rows up to at.';
CREATE FUNCTION credits.account_statement(user_id uuid, period_start timestamptz, period_end timestamptz)
    RETURNS TABLE (line text, amount numeric, transaction_count bigint)
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 6
    AS 'MODULE_PATHNAME', 'account_statement';
COMMENT ON FUNCTION credits.account_statement(uuid, timestamptz, timestamptz) IS
    'A user''s statement for the time from period_start up to, not including, period_end, in six lines: opening (the rows before '
    'period_start), purchase, admin_grant, usage, admin_removal (the rows of the period), closing (the rows before period_end), '
    'each with its signed sum and the number of its rows. Opening and the lines of the types add up to closing. 22004 for NULL, 22023 '
    'unless period_end is after period_start. Cost: the daily totals of the period, and of the days before or after it; of the days in '
    'which it begins and ends, the rows before or after that; and the rows that are not folded yet. Without daily totals or under '
    'row-level security, the user''s rows before period_end.';
CREATE FUNCTION credits.list_user_transactions_with_balance(
    user_id uuid, skip bigint DEFAULT 0, "limit" bigint DEFAULT 50,
    search text DEFAULT NULL, transaction_types text[] DEFAULT NULL,
    start_date timestamptz DEFAULT NULL, end_date timestamptz DEFAULT NULL,
    before_seq bigint DEFAULT NULL
) RETURNS SETOF credits.transaction_with_balance
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 50
    AS 'MODULE_PATHNAME', 'list_user_transactions_with_balance';
COMMENT ON FUNCTION credits.list_user_transactions_with_balance(
    uuid, bigint, bigint, text, text[], timestamptz, timestamptz, bigint) IS
    'A user''s transactions as list_user_transactions lists them, each with balance_after: the signed sum of the user''s transactions up '
    'to and including this seq, also of those that filters leave out. Arguments and errors as list_user_transactions. Cost: as '
    'list_user_transactions; the rows between those of the page; and, for a page that is not the newest one, twice the rows on the shorter '
    'way to it: from the newest row, or from the first. Where row-level security filters, the rows up to the page''s newest.';
REVOKE ALL ON FUNCTION credits.usage_by_day(uuid, date, date), credits.get_user_balance_at(uuid, timestamptz),
    credits.account_statement(uuid, timestamptz, timestamptz),
    credits.list_user_transactions_with_balance(uuid, bigint, bigint, text, text[], timestamptz, timestamptz, bigint) FROM PUBLIC;

CREATE FUNCTION credits.add_up_days(user_ids uuid[]) RETURNS bigint
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'add_up_days_wrapper';
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
REVOKE ALL ON FUNCTION credits.add_up_days(uuid[]) FROM PUBLIC;
REVOKE ALL ON PROCEDURE credits.fill_daily_totals(bigint) FROM PUBLIC;

-- Nodes behind a router.

-- Bound when it is created: no search_path can change it. The remainder of a hash partition is that of the extended hash with this seed, to
-- which the server adds 0x49a0f4dd15e5a8e3; modulo 1024 that adds 227.
CREATE FUNCTION credits.bucket_of(user_id uuid) RETURNS int
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((uuid_hash_extended(user_id, 8816678312871386365) & 1023) + 227)::int & 1023;
COMMENT ON FUNCTION credits.bucket_of(uuid) IS
    'The bucket of an account, 0 to 1023: the remainder of a hash partition by user_id with modulus 1024. NULL for NULL.';

-- A bucket is given away while commits wait: what is read of it then must not depend on how many accounts there are. Holds are few, and often written: an
-- index would cost each a tenth of what it costs, so all are read, once. Checkpoints are written by the engine, which maintains no index of an expression: bucket_accounts finds those.
CREATE INDEX spending_limits_bucket_idx ON credits.spending_limits (credits.bucket_of(user_id));
CREATE INDEX spend_caps_bucket_idx ON credits.spend_caps (credits.bucket_of(user_id));
COMMENT ON INDEX credits.spending_limits_bucket_idx IS 'Finds the limits of a bucket that moves.';
COMMENT ON INDEX credits.spend_caps_bucket_idx IS 'Finds the caps of a bucket that moves.';

-- postgres_fdw does not send the bounds of a partition, so each of a router's partitions has a view that is no larger. The role that reads or
-- writes it is asked for its own privileges, and row-level security is its own.
CREATE FUNCTION credits.make_class_views(modulus int, remainder int) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    name text;
    is_table boolean;
    -- Name of the view, and what it is of.
    class text;
    source text;
BEGIN
    IF modulus IS NULL OR remainder IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument modulus or remainder must not be NULL';
    ELSIF modulus NOT BETWEEN 1 AND 1024 OR modulus & (modulus - 1) <> 0 OR remainder NOT BETWEEN 0 AND modulus - 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('there is no class of buckets with modulus %s and remainder %s', modulus, remainder),
            HINT = 'A modulus is a power of two, at most 1024; a remainder is below it.';
    ELSIF current_setting('server_version_num')::int < 150000 THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a node behind a router needs Postgres 15 or later',
            DETAIL = 'Before, a view reads with its owner''s privileges.';
    END IF;
    -- Two routers may ask at once.
    PERFORM pg_advisory_xact_lock(hashtextextended('credits.make_class_views', 0));
    -- Without a notice that it is there, of which PL/Proxy makes a warning.
    IF to_regnamespace('credits_classes') IS NULL THEN
        CREATE SCHEMA credits_classes;
        GRANT USAGE ON SCHEMA credits_classes TO PUBLIC;
    END IF;
    -- Another owner could put something else in the place of a view.
    IF (SELECT n.nspowner <> r.oid FROM pg_namespace n, pg_roles r WHERE n.nspname = 'credits_classes' AND r.rolname = current_user) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'the schema credits_classes is another role''s',
            HINT = 'Call this as that role, or have it owned by yours.';
    END IF;
    FOREACH name IN ARRAY ARRAY['balances', 'batches', 'credits_transactions', 'holds', 'spend_cap_states', 'spend_caps', 'spending_limits', 'thresholds'] LOOP
        SELECT c.relkind = 'r' INTO is_table FROM pg_class c WHERE c.oid = ('credits.' || name)::regclass;
        class := format('%s_%s_%s', name, modulus, remainder);
        -- What is read is of a class that is here as a whole, as one snapshot sees it: a node keeps rows of buckets that have left.
        source := format('SELECT %st.* FROM credits.%I t WHERE credits.require_class(%s, %s)', CASE WHEN is_table THEN 't.ctid, ' END, name, modulus, remainder);
        IF is_table THEN
            -- A view of its own, that of what is written asks nothing of a row but its class: whether its bucket is here is asked by the commit. ctid, by
            -- which postgres_fdw finds the rows that it updates: a view may have a column of that name.
            EXECUTE format('CREATE OR REPLACE VIEW credits_classes.%I WITH (security_invoker = true) AS %s', 'whole_' || class, source);
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON credits_classes.%I TO PUBLIC', 'whole_' || class);
            source := format('SELECT t.* FROM credits_classes.%I t WHERE true', 'whole_' || class);
        END IF;
        -- The check option refuses a row of another class, which an UPDATE of user_id would make: postgres_fdw sends it as it stands.
        EXECUTE format('CREATE OR REPLACE VIEW credits_classes.%I WITH (security_invoker = true) AS %s AND credits.bucket_of(t.user_id) & %s = %s%s',
                       class, source, modulus - 1, remainder, CASE WHEN is_table THEN ' WITH LOCAL CHECK OPTION' END);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON credits_classes.%I TO PUBLIC', class);
    END LOOP;
END
    $$;
COMMENT ON FUNCTION credits.make_class_views(int, int) IS
    'For a router: makes a view of each table and view that has accounts, in the schema credits_classes, with the accounts whose bucket leaves this '
    'remainder. A caller of a view needs the privileges on the table or view below it. Reading a view raises LC003 if a bucket of the class is not '
    'here. Called again, it replaces the views and adds columns of a later version. 22004, 22023, 55000 if that schema is another role''s, 0A000 '
    'before Postgres 15. For the owner of the ledger.';

-- The seqs of all nodes are one series, of which a node gives out those that leave its number when divided by 1024: rows keep theirs when their
-- account moves. The sequence's step is no part of a dump; this row is, and has the restored ledger follow it.
CREATE TABLE credits.node (
    is_only     boolean NOT NULL DEFAULT true,
    node_number int     NOT NULL,

    CONSTRAINT node_pkey PRIMARY KEY (is_only),
    CONSTRAINT there_is_one CHECK (is_only),
    CONSTRAINT there_are_1024 CHECK (node_number BETWEEN 0 AND 1023)
) USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_scale_factor = 0);
COMMENT ON TABLE credits.node IS
    'The number of this ledger among the nodes behind a router, in its only row; empty without a router. Written by set_node_number.';
COMMENT ON COLUMN credits.node.is_only IS 'Always true: it keeps the table at one row.';
COMMENT ON COLUMN credits.node.node_number IS 'What each seq that this ledger gives out leaves when divided by 1,024.';
COMMENT ON CONSTRAINT there_is_one ON credits.node IS 'A ledger has one number.';
COMMENT ON CONSTRAINT there_are_1024 ON credits.node IS 'There are 1,024 numbers.';

CREATE FUNCTION credits.number_by_node() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    numbers regclass := pg_get_serial_sequence('credits.credits_transactions', 'seq');
    last bigint;
BEGIN
    IF TG_RELID <> 'credits.node'::regclass THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'number_by_node() is a trigger of credits.node only';
    END IF;
    EXECUTE format('SELECT last_value FROM %s', numbers) INTO last;
    IF (SELECT s.seqincrement FROM pg_sequence s WHERE s.seqrelid = numbers) = 1024 AND last & 1023 = NEW.node_number THEN
        RETURN NULL;
    END IF;
    -- Waits for whoever has drawn a number, and lets nobody draw one until this commits.
    EXECUTE format('ALTER SEQUENCE %s INCREMENT 1024', numbers);
    EXECUTE format('SELECT last_value FROM %s', numbers) INTO last;
    PERFORM setval(numbers, last + 1 + ((NEW.node_number - last - 1) & 1023), false);
    RETURN NULL;
END
    $$;
COMMENT ON FUNCTION credits.number_by_node() IS
    'Trigger: has seq follow the node''s number, above all that was given out.';

CREATE TRIGGER number_by_node
    AFTER INSERT OR UPDATE ON credits.node
    FOR EACH ROW EXECUTE FUNCTION credits.number_by_node();
COMMENT ON TRIGGER number_by_node ON credits.node IS 'Has the rows of this ledger numbered by its number.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.node
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.node ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.node IS 'Skips the number of another ledger, which replication brings.';

SELECT pg_extension_config_dump('credits.node', '');

CREATE FUNCTION credits.set_node_number(node_number int) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF node_number IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument node_number must not be NULL';
    ELSIF node_number NOT BETWEEN 0 AND 1023 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('node_number must be 0 to 1023, not %s', node_number);
    END IF;
    INSERT INTO credits.node AS n (node_number) VALUES (set_node_number.node_number)
    ON CONFLICT (is_only) DO UPDATE SET node_number = excluded.node_number;
END
    $$;
COMMENT ON FUNCTION credits.set_node_number(int) IS
    'Gives this ledger a number among the nodes behind a router, 0 to 1023, which no other node may have. From now on each seq leaves that number when divided by 1,024, and is above '
    'all given out so far. Waits for transactions that have drawn a seq, unless the ledger has this number already. 22004, 22023, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.get_node_number() RETURNS int
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    numbers regclass := pg_get_serial_sequence('credits.credits_transactions', 'seq');
    last bigint;
BEGIN
    -- Who may read the table alone is told what it says.
    IF has_sequence_privilege(numbers, 'SELECT') THEN
        EXECUTE format('SELECT last_value FROM %s', numbers) INTO last;
    END IF;
    RETURN (SELECT n.node_number FROM credits.node n
            WHERE n.node_number = coalesce(last & 1023, n.node_number) AND (SELECT s.seqincrement FROM pg_sequence s WHERE s.seqrelid = numbers) = 1024);
END
    $$;
COMMENT ON FUNCTION credits.get_node_number() IS
    'The number that set_node_number has given; NULL if there is none, or if the sequence of the ledger was changed since and does not go by it.';

-- Which buckets are not here, on one of many nodes: accounts of these are refused, by commits and by whoever reads them.
CREATE TABLE credits.bucket_states (
    bucket      smallint NOT NULL,
    state       text     NOT NULL,
    copied_from text,
    copied_to   xid8,
    received    xid8,
    handover    jsonb,

    CONSTRAINT bucket_states_pkey PRIMARY KEY (bucket),
    CONSTRAINT there_are_1024 CHECK (bucket BETWEEN 0 AND 1023),
    CONSTRAINT state_is_known CHECK (state IN ('elsewhere', 'arriving', 'moving'))
) USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_scale_factor = 0);
COMMENT ON TABLE credits.bucket_states IS
    'The buckets of accounts that this node does not have, or not to itself; empty without a router. Written by disown_buckets and '
    'own_buckets, and by what moves buckets.';
COMMENT ON COLUMN credits.bucket_states.bucket IS 'Bucket, as bucket_of names it.';
COMMENT ON COLUMN credits.bucket_states.state IS
    'elsewhere: not here; arriving: not here yet; moving: here, but transactions that have written of it are not prepared. A bucket without a row is here.';
COMMENT ON COLUMN credits.bucket_states.copied_from IS
    'The ledger (get_ledger) that the bucket''s rows were last copied from; NULL if from none, or if they were purged since.';
COMMENT ON COLUMN credits.bucket_states.copied_to IS
    'All rows of transactions of that ledger below this one are here; NULL if none are.';
COMMENT ON COLUMN credits.bucket_states.received IS
    'The position of the handover that was received last: all that it lists is here; NULL if none was.';
COMMENT ON COLUMN credits.bucket_states.handover IS
    'Of a bucket that was given away: what the node that it is given to must have; on a standby that took over, perhaps its number alone. Otherwise NULL.';
COMMENT ON CONSTRAINT there_are_1024 ON credits.bucket_states IS 'There are 1,024 buckets.';
COMMENT ON CONSTRAINT state_is_known ON credits.bucket_states IS 'The three states of a bucket that is not simply here.';

CREATE FUNCTION credits.announce_buckets() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'announce_buckets';
COMMENT ON FUNCTION credits.announce_buckets() IS
    'Trigger: has all sessions read bucket_states again when the transaction has committed.';

CREATE TRIGGER announce_buckets
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON credits.bucket_states
    FOR EACH STATEMENT EXECUTE FUNCTION credits.announce_buckets();
ALTER TABLE credits.bucket_states ENABLE ALWAYS TRIGGER announce_buckets;
COMMENT ON TRIGGER announce_buckets ON credits.bucket_states IS 'Has all sessions read the table again.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.bucket_states
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.bucket_states ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.bucket_states IS 'Skips the buckets of another node, which replication brings.';

SELECT pg_extension_config_dump('credits.bucket_states', '');

-- By the number of the handover, a standby that has lost a tombstone is given one again: what the node that took the bucket then gives away is numbered above it, whatever its own
-- standby has lost.
CREATE TABLE credits.taken_buckets (
    bucket smallint NOT NULL,
    seq    bigint   NOT NULL,

    CONSTRAINT taken_buckets_pkey PRIMARY KEY (bucket)
) USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_scale_factor = 0);
COMMENT ON TABLE credits.taken_buckets IS
    'The buckets that this node has taken from others. Written by activate_bucket.';
COMMENT ON COLUMN credits.taken_buckets.bucket IS 'Bucket, as bucket_of names it.';
COMMENT ON COLUMN credits.taken_buckets.seq IS 'The number of the handover by which it was taken last.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.taken_buckets
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.taken_buckets ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.taken_buckets IS 'Skips what another node has taken, which replication brings.';

SELECT pg_extension_config_dump('credits.taken_buckets', '');

-- A dump has the accounts that are here: a restored commit with rows of others would be refused. The first condition is asked once, and is true of a ledger
-- that has all accounts. In plain SQL: pg_dump runs it whatever version the library is.
DO $$
DECLARE
    dumped regclass;
BEGIN
    FOREACH dumped IN ARRAY ARRAY['credits.credits_transactions', 'credits.holds', 'credits.spending_limits', 'credits.spend_caps']::regclass[] LOOP
        PERFORM pg_extension_config_dump(dumped, 'WHERE (SELECT NOT EXISTS (SELECT FROM credits.bucket_states s WHERE s.state <> ''moving''))'
            ' OR credits.bucket_of(user_id) NOT IN (SELECT s.bucket FROM credits.bucket_states s WHERE s.state <> ''moving'')');
    END LOOP;
END
$$;

-- The feed of a node has the rows that came into being there. It leaves out those that were copied there with an account: the node that they come from
-- has had them in its feed. The transaction that copied them tells, since a purge takes rows of this node away, too, which come back as copies.
CREATE TABLE credits.copies (
    xact_id xid8 NOT NULL,

    CONSTRAINT copies_pkey PRIMARY KEY (xact_id)
) USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_scale_factor = 0);
COMMENT ON TABLE credits.copies IS
    'Derived: the transactions that have copied rows of another node into the ledger. transactions_after leaves their rows out. Not for clients.';
COMMENT ON COLUMN credits.copies.xact_id IS 'Transaction, as xact_id of the rows.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.copies
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.copies ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.copies IS 'Skips the transactions of another ledger, which replication brings.';

CREATE FUNCTION credits.disown_buckets(buckets int[]) RETURNS int
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    occupied int;
    disowned int;
BEGIN
    IF buckets IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument buckets must not be NULL';
    ELSIF EXISTS (SELECT FROM unnest(buckets) b WHERE b IS NULL OR b NOT BETWEEN 0 AND 1023) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'argument buckets must have numbers from 0 to 1023 only';
    END IF;
    -- Waits for every transaction that has written, prepared ones too, and lets nobody write until this commits.
    LOCK TABLE credits.credits_transactions, credits.holds, credits.spending_limits, credits.spend_caps IN SHARE ROW EXCLUSIVE MODE;
    SELECT credits.bucket_of(a.user_id) INTO occupied
    FROM (SELECT t.user_id FROM credits.credits_transactions t UNION ALL SELECT h.user_id FROM credits.holds h
          UNION ALL SELECT l.user_id FROM credits.spending_limits l UNION ALL SELECT c.user_id FROM credits.spend_caps c) a
    WHERE credits.bucket_of(a.user_id) = ANY (buckets) LIMIT 1;
    IF occupied IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s has accounts here', occupied);
    END IF;
    INSERT INTO credits.bucket_states AS s (bucket, state) SELECT DISTINCT b, 'elsewhere' FROM unnest(buckets) b
    ON CONFLICT (bucket) DO NOTHING;
    GET DIAGNOSTICS disowned = ROW_COUNT;
    RETURN disowned;
END
    $$;
COMMENT ON FUNCTION credits.disown_buckets(int[]) IS
    'For a new node: says that these buckets are on other nodes. From the commit on, commits and reads of their accounts are refused with LC003. Returns how many were here. Waits for all '
    'transactions that have written, and writers wait for it. Costs a scan of the ledger. 22004, 22023, 55000 if one of them has accounts here, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.own_buckets(buckets int[]) RETURNS int
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    owned int;
BEGIN
    IF buckets IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument buckets must not be NULL';
    ELSIF EXISTS (SELECT FROM unnest(buckets) b WHERE b IS NULL OR b NOT BETWEEN 0 AND 1023) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'argument buckets must have numbers from 0 to 1023 only';
    END IF;
    DELETE FROM credits.bucket_states s WHERE s.bucket = ANY (buckets) AND s.state = 'elsewhere' AND s.handover IS NULL;
    GET DIAGNOSTICS owned = ROW_COUNT;
    RETURN owned;
END
    $$;
COMMENT ON FUNCTION credits.own_buckets(int[]) IS
    'Takes back disown_buckets: these buckets are here. Returns how many were not. Leaves out those that were given away. No other node may have '
    'them, which nothing checks. 22004, 22023, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.owns_bucket(bucket int) RETURNS boolean
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN credits.bucket_state(bucket) IN ('here', 'moving');
END
    $$;
COMMENT ON FUNCTION credits.owns_bucket(int) IS
    'Whether the accounts of this bucket are here. 22004, 22023, 42501 without SELECT on bucket_states.';

-- How a bucket of accounts moves from one node to another while it is charged: a function for each step on the old node or on the new one. models/README.md
-- has the order of the steps, and what each is there for. Whoever changes what bucket_states says of a bucket locks its row first.

CREATE FUNCTION credits.begin_transfer(bucket int) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'begin_transfer';
COMMENT ON FUNCTION credits.begin_transfer(int) IS
    'For the functions that move buckets: until the transaction ends, it may insert rows of this bucket while that is arriving, which announces nothing, and read balances of its accounts, '
    'and delete rows of it while it is elsewhere. 22004, 22023, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.wait_for_transaction(xact_id bigint) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'wait_for_transaction';
COMMENT ON FUNCTION credits.wait_for_transaction(bigint) IS
    'For hold_bucket: waits until the transaction with this id, of 32 bits, has ended. 22004, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.hold_stripes(bucket int) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'hold_stripes';
COMMENT ON FUNCTION credits.hold_stripes(int) IS
    'For hold_bucket: keeps commits with rows of the ledger out until the transaction ends. 22004, 22023, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.holds_stripes(bucket int) RETURNS boolean
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'holds_stripes';
COMMENT ON FUNCTION credits.holds_stripes(int) IS
    'For the functions that move buckets: whether the transaction has called hold_stripes for this bucket last, and keeps commits out. 22004, 22023, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.bucket_state(bucket int) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF bucket IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument bucket must not be NULL';
    ELSIF bucket NOT BETWEEN 0 AND 1023 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('bucket must be 0 to 1023, not %s', bucket);
    END IF;
    RETURN coalesce((SELECT s.state FROM credits.bucket_states s WHERE s.bucket = bucket_state.bucket), 'here');
END
    $$;
COMMENT ON FUNCTION credits.bucket_state(int) IS
    'Where this bucket is: here; moving, which is here and about to leave; elsewhere; arriving, which is not here yet. 22004, 22023, 42501 without SELECT on bucket_states.';

-- Copies of a database have the same row in ledger_identity; the numbers of nodes differ.
CREATE FUNCTION credits.get_ledger() RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT format('%s/%s', i.ledger_id, (SELECT n.node_number FROM credits.node n)) FROM credits.ledger_identity i
    $$;
COMMENT ON FUNCTION credits.get_ledger() IS
    'The name of this ledger among those that buckets move between: that of ledger_identity, and the node''s number. A standby that takes over keeps '
    'it, a restored ledger has another. 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.lock_bucket(bucket int, allowed text[]) RETURNS text
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    state text;
BEGIN
    PERFORM credits.bucket_state(bucket);
    SELECT s.state INTO state FROM credits.bucket_states s WHERE s.bucket = lock_bucket.bucket FOR UPDATE;
    state := coalesce(state, 'here');
    IF state <> ALL (allowed) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s is %s', bucket, state);
    END IF;
    RETURN state;
END
    $$;
COMMENT ON FUNCTION credits.lock_bucket(int, text[]) IS
    'For the functions that move buckets: locks the row of a bucket in bucket_states, if it has one, and returns its state. 22004, 22023, 55000 if that is none of those allowed, 42501 for anybody '
    'but the owner of the ledger.';

CREATE FUNCTION credits.start_moving_bucket(bucket int) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits.bucket_state(bucket);
    -- hold_bucket waits for this lock, and so until all sessions have been told that the bucket is about to leave. A commit is visible a moment before its invalidations
    -- are sent, and readers trust what they remember of a bucket that is not about to leave.
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('credits.hold_bucket', 0));
    -- A bucket that is here has no row to lock. Of two sessions that insert one, the second waits here.
    INSERT INTO credits.bucket_states AS s (bucket, state) VALUES (start_moving_bucket.bucket, 'moving') ON CONFLICT DO NOTHING;
    PERFORM credits.lock_bucket(bucket, '{moving}');
END
    $$;
COMMENT ON FUNCTION credits.start_moving_bucket(int) IS
    'Old node: says that this bucket is about to leave. From the commit on, transactions that have written of it are not prepared; nothing else changes. Again: nothing. '
    '22004, 22023, 55000 if it is not here, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.stop_moving_bucket(bucket int) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF credits.lock_bucket(bucket, '{here,moving}') = 'here' THEN
        RETURN false;
    END IF;
    DELETE FROM credits.bucket_states s WHERE s.bucket = stop_moving_bucket.bucket;
    RETURN true;
END
    $$;
COMMENT ON FUNCTION credits.stop_moving_bucket(int) IS
    'Old node: takes start_moving_bucket back; false if the bucket is here anyway. 22004, 22023, 55000 if it is not here, 42501 for anybody but the owner of the ledger.';

-- The body is bound when it is created, so that no search_path can change it. A query that calls the function in FROM has it inlined, and streams.
CREATE FUNCTION credits.bucket_transactions(bucket int, from_xact_id xid8, below_xact_id xid8) RETURNS SETOF credits.credits_transactions
    LANGUAGE sql STABLE
    BEGIN ATOMIC
        SELECT t.* FROM credits.credits_transactions t
        WHERE credits.bucket_of(t.user_id) = bucket_transactions.bucket AND t.xact_id >= coalesce(from_xact_id, '0'::xid8)
          AND (below_xact_id IS NULL OR t.xact_id < below_xact_id);
    END;
COMMENT ON FUNCTION credits.bucket_transactions(int, xid8, xid8) IS
    'Old node: the rows of this bucket with from_xact_id <= xact_id < below_xact_id, where NULL is no bound, in no order. All below pg_snapshot_xmin of an earlier snapshot has ended: what was read '
    'below it is complete for good. Costs a scan of the ledger, from a bound on one of the rows since then, by block ranges. 42501 without SELECT on the ledger.';

CREATE FUNCTION credits.hold_bucket(bucket int) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    written constant oid[] := ARRAY['credits.credits_transactions'::regclass, 'credits.holds'::regclass, 'credits.spending_limits'::regclass,
                                    'credits.spend_caps'::regclass];
    writer bigint;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'hold_bucket() needs a transaction under READ COMMITTED',
            DETAIL = 'Another would not see what has committed while it waited.';
    END IF;
    PERFORM credits.bucket_state(bucket);
    -- Before start_moving_bucket has committed, nobody is kept from preparing.
    IF pg_current_xact_id_if_assigned() IS NOT NULL AND NOT credits.holds_stripes(bucket) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'hold_bucket() needs a transaction that has written nothing yet';
    END IF;
    -- Two that wait for writers would wait for each other.
    PERFORM pg_advisory_xact_lock(hashtextextended('credits.hold_bucket', 0));
    PERFORM credits.lock_bucket(bucket, '{moving}');
    PERFORM credits.refuse_prepared(written);
    -- A transaction with rows in flight may have been about to prepare before the bucket was moving: so all are waited for. No lock of a relation is kept meanwhile: a
    -- maintenance command that queues behind it would block those that are waited for.
    FOR writer IN
        WITH locks AS MATERIALIZED (SELECT * FROM pg_locks)
        SELECT DISTINCT x.transactionid::text::bigint
        FROM locks r
        JOIN locks x ON x.virtualtransaction = r.virtualtransaction AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock' AND x.granted
        WHERE r.locktype = 'relation' AND r.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) AND r.relation = ANY (written)
          AND r.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') AND r.granted AND r.pid <> pg_backend_pid()
    LOOP
        PERFORM credits.wait_for_transaction(writer);
    END LOOP;
    PERFORM credits.hold_stripes(bucket);
    PERFORM credits.refuse_prepared(written);
END
    $$;
COMMENT ON FUNCTION credits.hold_bucket(int) IS
    'Old node: waits for everybody who has rows in flight, then keeps commits with rows of this ledger out until the transaction ends, which should '
    'be soon: it copies the rest of the bucket, and gives it away. lock_timeout bounds each wait. 22004, 22023, 55000 if the bucket is not moving, or '
    'the transaction is not READ COMMITTED or has written, 55006 while a transaction is prepared that has written, 42501 for anybody but the owner of '
    'the ledger.';

CREATE FUNCTION credits.refuse_prepared(relations oid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_locks r
               WHERE r.locktype = 'relation' AND r.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                 AND r.relation = ANY (relations) AND r.mode NOT IN ('AccessShareLock', 'RowShareLock') AND r.granted AND r.pid IS NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use', MESSAGE = 'a prepared transaction has written to the ledger',
            DETAIL = 'It may have rows of the bucket, and is not settled when it commits.', HINT = 'COMMIT PREPARED or ROLLBACK PREPARED ends it: pg_prepared_xacts lists it.';
    END IF;
END
    $$;
COMMENT ON FUNCTION credits.refuse_prepared(oid[]) IS
    'For hold_bucket: raises 55006 while a prepared transaction has a lock on one of these relations that writers have.';

-- What would have to be looked for among all accounts of a node: collected before commits wait for it. The new node is asked, too: what it has of an earlier stay may be of an account
-- that the old one does not know any more, as after dump and restore, or that lost its first rows with a node's last commits.
CREATE FUNCTION credits.bucket_accounts(bucket int) RETURNS uuid[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits.bucket_state(bucket);
    RETURN ARRAY(
        -- By the index, from one account to the next. One that has rows and no checkpoint, as after a restore, may get a checkpoint any time, without another row.
        WITH RECURSIVE with_rows AS (
            (SELECT t.user_id FROM credits.credits_transactions t ORDER BY t.user_id LIMIT 1)
            UNION ALL
            SELECT n.user_id
            FROM with_rows w
            CROSS JOIN LATERAL (SELECT t.user_id FROM credits.credits_transactions t WHERE t.user_id > w.user_id ORDER BY t.user_id LIMIT 1) n
        )
        SELECT w.user_id FROM with_rows w WHERE credits.bucket_of(w.user_id) = bucket
        UNION
        SELECT c.user_id FROM credits.user_balance_checkpoints c WHERE credits.bucket_of(c.user_id) = bucket
        UNION
        SELECT h.user_id FROM credits.holds h WHERE credits.bucket_of(h.user_id) = bucket);
END
    $$;
COMMENT ON FUNCTION credits.bucket_accounts(int) IS
    'Both nodes, before hold_bucket: the accounts of this bucket that have rows, a checkpoint or holds, for bucket_handover and give_away_bucket, '
    'which then need not look for them among all accounts while commits wait. Costs a descent of an index for each account of the ledger. 22004, '
    '22023, 42501 without SELECT on the ledger, the checkpoints, holds and bucket_states.';

CREATE FUNCTION credits.bucket_handover(bucket int, accounts uuid[] DEFAULT NULL, since xid8 DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    result jsonb;
BEGIN
    IF credits.lock_bucket(bucket, '{moving,elsewhere,arriving}') <> 'moving' THEN
        SELECT s.handover INTO result FROM credits.bucket_states s WHERE s.bucket = bucket_handover.bucket;
        IF result IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s was not given away by this node', bucket);
        END IF;
        RETURN result;
    ELSIF NOT credits.holds_stripes(bucket) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('the transaction does not hold bucket %s', bucket),
            HINT = 'Call hold_bucket first, in the same transaction.';
    END IF;
    result := jsonb_build_object(
        'ledger', credits.get_ledger(),
        -- A node that takes the bucket numbers on above it: so a bucket's handovers are in the order of this number, whichever nodes made them.
        'seq', nextval(pg_get_serial_sequence('credits.credits_transactions', 'seq')),
        'position', pg_current_xact_id(),
        'holds', (SELECT coalesce(jsonb_agg(to_jsonb(h)), '[]') FROM credits.holds h WHERE credits.bucket_of(h.user_id) = bucket),
        'limits', (SELECT coalesce(jsonb_agg(to_jsonb(l)), '[]') FROM credits.spending_limits l WHERE credits.bucket_of(l.user_id) = bucket),
        'caps', (SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]') FROM credits.spend_caps c WHERE credits.bucket_of(c.user_id) = bucket));
    IF accounts IS NULL THEN
        accounts := credits.bucket_accounts(bucket);
    ELSE
        accounts := accounts || ARRAY(SELECT t.user_id FROM credits.bucket_transactions(bucket, since, NULL) t);
    END IF;
    -- Whoever has got a checkpoint since they were collected had rows then, has got some since, or has got boundaries. If these are gone again, the checkpoint says no more than none.
    accounts := accounts
        || ARRAY(SELECT (b ->> 'user_id')::uuid FROM unnest(ARRAY['holds', 'limits', 'caps']) boundary CROSS JOIN jsonb_array_elements(result -> boundary) b);
    -- Those of which nothing was announced are listed, too: by this list the new node finds the accounts that it has from an earlier stay.
    RETURN result || jsonb_build_object('accounts', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
                   'user_id', a.user_id, 'balance', credits.get_user_balance(a.user_id), 'transaction_count', credits.count_user_transactions(a.user_id),
                   'is_positive', coalesce(c.is_positive, false), 'crossed_at', c.crossed_at,
                   'thresholds', c.thresholds, 'thresholds_below', c.thresholds_below, 'thresholds_crossed_at', c.thresholds_crossed_at,
                   'cap_ids', c.cap_ids, 'caps_reached_until', c.caps_reached_until)), '[]')
        FROM (SELECT DISTINCT u FROM unnest(accounts) u WHERE credits.bucket_of(u) = bucket) a (user_id)
        LEFT JOIN credits.user_balance_checkpoints c ON c.user_id = a.user_id));
END
    $$;
COMMENT ON FUNCTION credits.bucket_handover(int, uuid[], xid8) IS
    'Old node, in the transaction that holds the bucket: what the new node must have when it takes over: a JSON object with ledger, seq (a number '
    'that no other handover has), position (of the transaction), accounts (balance, count of rows, and what was announced), and the rows of holds, '
    'limits and caps. accounts: what bucket_accounts has returned on both nodes, and since: pg_snapshot_xmin of the snapshot that it had on this one, '
    'or of an earlier one; without them, it is called here. Of a bucket that was given away, also where it is expected again: the same, as it was '
    'then, and is_purged once its rows were purged. 22004, 22023, 55000, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.give_away_bucket(bucket int, node_number int DEFAULT NULL, accounts uuid[] DEFAULT NULL, since xid8 DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    result jsonb;
BEGIN
    IF node_number NOT BETWEEN 0 AND 1023 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('node_number must be 0 to 1023, not %s', node_number);
    END IF;
    PERFORM credits.lock_bucket(bucket, '{moving}');
    -- By the number of the node, no other router takes this for the handover of its own move.
    result := credits.bucket_handover(bucket, accounts, since) || jsonb_build_object('given_to', node_number);
    PERFORM credits.begin_transfer(bucket);
    -- Stored without the texts of people: erasure reaches those on the new node.
    UPDATE credits.bucket_states s
    SET state = 'elsewhere', copied_from = NULL, copied_to = NULL, received = NULL,
        handover = result || jsonb_build_object('holds',
            (SELECT coalesce(jsonb_agg(h - '{description,metadata}'::text[]), '[]') FROM jsonb_array_elements(result -> 'holds') h))
    WHERE s.bucket = give_away_bucket.bucket;
    PERFORM credits.drop_holds_and_boundaries(bucket, ARRAY(SELECT h ->> 'source_id' FROM jsonb_array_elements(result -> 'holds') h));
    RETURN result;
END
    $$;
COMMENT ON FUNCTION credits.give_away_bucket(int, int, uuid[], xid8) IS
    'Old node, in the transaction that holds the bucket: says that the bucket is elsewhere, stores bucket_handover, without the texts of holds, and '
    'returns it, with the number of the node that it is given to: no other takes it then, and any does where that is NULL. accounts and since are for '
    'bucket_handover. Deletes holds, limits and caps of the bucket here. The commit is the point of no return. Rows of the ledger and what is derived '
    'from them stay until purge_bucket. 22004, 22023, 55000, 42501 for anybody but the owner of the ledger.';

-- A session that has locked one of these rows has changed it, waits for its stripe, and will be refused. To wait for it would be a deadlock: its row is left, and counts
-- for nothing. Holds are looked for among all holds of the node unless the caller knows them: where commits wait, it does.
CREATE FUNCTION credits.drop_holds_and_boundaries(bucket int, holds text[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    holds := coalesce(holds, ARRAY(SELECT h.source_id FROM credits.holds h WHERE credits.bucket_of(h.user_id) = bucket));
    DELETE FROM credits.holds WHERE source_id = ANY (ARRAY(SELECT h.source_id FROM credits.holds h WHERE h.source_id = ANY (drop_holds_and_boundaries.holds) FOR UPDATE SKIP LOCKED));
    DELETE FROM credits.spending_limits WHERE user_id IN
        (SELECT l.user_id FROM credits.spending_limits l WHERE credits.bucket_of(l.user_id) = drop_holds_and_boundaries.bucket FOR UPDATE SKIP LOCKED);
    DELETE FROM credits.spend_caps WHERE id IN
        (SELECT c.id FROM credits.spend_caps c WHERE credits.bucket_of(c.user_id) = drop_holds_and_boundaries.bucket FOR UPDATE SKIP LOCKED);
END
    $$;
COMMENT ON FUNCTION credits.drop_holds_and_boundaries(int, text[]) IS
    'For the functions that move buckets: deletes holds, limits and caps of a bucket that is elsewhere, but those that others have locked. holds: by '
    'their source_id, NULL if the caller does not know which there are.';

CREATE FUNCTION credits.expect_bucket(bucket int, ledger text) RETURNS xid8
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    copied xid8;
BEGIN
    IF ledger IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument ledger must not be NULL';
    ELSIF ledger = credits.get_ledger() THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a bucket does not move to the ledger that it is in';
    END IF;
    PERFORM credits.lock_bucket(bucket, '{elsewhere,arriving}');
    UPDATE credits.bucket_states s
    SET state = 'arriving', copied_from = ledger, copied_to = CASE WHEN s.copied_from = ledger THEN s.copied_to END,
        received = CASE WHEN s.copied_from = ledger AND s.state = 'arriving' THEN s.received END
    WHERE s.bucket = expect_bucket.bucket
    RETURNING s.copied_to INTO copied;
    RETURN copied;
END
    $$;
COMMENT ON FUNCTION credits.expect_bucket(int, text) IS
    'New node: says that this bucket is arriving from that ledger (get_ledger there): its accounts are refused with LC003 as before, and copies of '
    'their rows are taken. Returns from which transaction of that ledger on it lacks rows, NULL for all. Again: the same. 22004, 22023, 55000 if the '
    'bucket is here, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.receive_transactions(bucket int, transactions jsonb, copied_to xid8 DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    received bigint;
BEGIN
    IF transactions IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument transactions must not be NULL';
    ELSIF jsonb_typeof(transactions) <> 'array' THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'argument transactions must be a JSON array';
    ELSIF EXISTS (SELECT FROM jsonb_array_elements(transactions) t WHERE credits.bucket_of((t ->> 'user_id')::uuid) IS DISTINCT FROM bucket) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('argument transactions must have rows of bucket %s only', bucket);
    END IF;
    PERFORM credits.lock_bucket(bucket, '{arriving}');
    PERFORM credits.begin_transfer(bucket);
    INSERT INTO credits.credits_transactions
        (id, user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id, created_at, seq, category, metadata, reverses)
        OVERRIDING SYSTEM VALUE
    SELECT t.id, t.user_id, t.transaction_type, t.amount, t.source_id, t.description, t.fusillade_batch_id, t.api_key_id, t.created_at, t.seq, t.category, t.metadata,
           t.reverses
    FROM jsonb_populate_recordset(NULL::credits.credits_transactions, transactions) t
    ON CONFLICT (id) DO NOTHING;
    GET DIAGNOSTICS received = ROW_COUNT;
    IF received > 0 THEN
        -- The feed leaves them out.
        INSERT INTO credits.copies (xact_id) VALUES (pg_current_xact_id()) ON CONFLICT DO NOTHING;
    END IF;
    IF copied_to IS NOT NULL THEN
        UPDATE credits.bucket_states s SET copied_to = receive_transactions.copied_to WHERE s.bucket = receive_transactions.bucket;
    END IF;
    RETURN received;
END
    $$;
COMMENT ON FUNCTION credits.receive_transactions(int, jsonb, xid8) IS
    'New node: takes copies of rows (a JSON array of rows as bucket_transactions returns them) as far as it lacks them, by id, and returns how many. '
    'Nothing is announced. With copied_to it notes that it has all rows below that transaction of the old ledger, for good: so not in the transaction '
    'that holds the bucket. 22004, 22023, 23505 if a source_id is taken here, 55000 if the bucket is not arriving, 42501 for anybody but the owner of '
    'the ledger.';

CREATE FUNCTION credits.put_holds_and_boundaries(bucket int, handover jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    -- Whoever has a hold here from an earlier stay is among them.
    accounts constant uuid[] := ARRAY(SELECT (a ->> 'user_id')::uuid FROM jsonb_array_elements(handover -> 'accounts') a);
BEGIN
    -- A handover that was stored has no texts: those of a hold that has been received stay.
    DELETE FROM credits.holds h
    WHERE h.user_id = ANY (accounts)
      AND NOT EXISTS (SELECT FROM jsonb_array_elements(handover -> 'holds') n WHERE n ->> 'source_id' = h.source_id AND jsonb_populate_record(h, n) = h);
    INSERT INTO credits.holds SELECT n.* FROM jsonb_populate_recordset(NULL::credits.holds, handover -> 'holds') n
    WHERE NOT EXISTS (SELECT FROM credits.holds h WHERE h.source_id = n.source_id AND h.user_id = n.user_id);
    DELETE FROM credits.spending_limits l
    WHERE credits.bucket_of(l.user_id) = bucket AND NOT EXISTS (SELECT FROM jsonb_populate_recordset(NULL::credits.spending_limits, handover -> 'limits') n WHERE n = l);
    INSERT INTO credits.spending_limits SELECT n.* FROM jsonb_populate_recordset(NULL::credits.spending_limits, handover -> 'limits') n
    WHERE NOT EXISTS (SELECT FROM credits.spending_limits l WHERE l.user_id = n.user_id AND l = n);
    DELETE FROM credits.spend_caps c
    WHERE credits.bucket_of(c.user_id) = bucket AND NOT EXISTS (SELECT FROM jsonb_populate_recordset(NULL::credits.spend_caps, handover -> 'caps') n WHERE n = c);
    INSERT INTO credits.spend_caps SELECT n.* FROM jsonb_populate_recordset(NULL::credits.spend_caps, handover -> 'caps') n
    WHERE NOT EXISTS (SELECT FROM credits.spend_caps c WHERE c.id = n.id AND c = n);
END
    $$;
COMMENT ON FUNCTION credits.put_holds_and_boundaries(int, jsonb) IS
    'For receive_handover and activate_bucket: makes holds, limits and caps of an arriving bucket those of the handover.';

CREATE FUNCTION credits.require_handover(bucket int, handover jsonb) RETURNS void
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF handover IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument handover must not be NULL';
    ELSIF jsonb_typeof(handover) <> 'object' OR jsonb_typeof(handover -> 'accounts') IS DISTINCT FROM 'array' OR jsonb_typeof(handover -> 'holds') IS DISTINCT FROM 'array'
          OR jsonb_typeof(handover -> 'limits') IS DISTINCT FROM 'array' OR jsonb_typeof(handover -> 'caps') IS DISTINCT FROM 'array'
          OR handover ->> 'ledger' IS NULL OR (handover ->> 'seq' ~ '^[0-9]{1,19}$') IS NOT TRUE OR (handover ->> 'position' ~ '^[0-9]{1,19}$') IS NOT TRUE THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'argument handover must be what bucket_handover has returned';
    ELSIF EXISTS (SELECT FROM unnest(ARRAY['accounts', 'holds', 'limits', 'caps']) of, jsonb_array_elements(handover -> of) a
                  WHERE credits.bucket_of((a ->> 'user_id')::uuid) IS DISTINCT FROM bucket) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('argument handover must be that of bucket %s', bucket);
    ELSIF handover ->> 'given_to' <> (SELECT n.node_number::text FROM credits.node n) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s was given to node %s', bucket, handover ->> 'given_to');
    END IF;
END
    $$;
COMMENT ON FUNCTION credits.require_handover(int, jsonb) IS
    'For receive_handover and activate_bucket: raises 22004 or 22023 unless this is a handover of the bucket, and 55000 if it is for another node.';

-- The new node has got every row of the old one. So it has no others, if it has as many.
CREATE FUNCTION credits.require_same_rows(bucket int, handover jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    differing record;
BEGIN
    SELECT there.user_id, here.balance AS balance_here, here.transaction_count AS count_here, there.balance, there.transaction_count INTO differing
    FROM jsonb_to_recordset(handover -> 'accounts') AS there (user_id uuid, balance numeric, transaction_count bigint)
    CROSS JOIN LATERAL (SELECT credits.get_user_balance(there.user_id) AS balance, credits.count_user_transactions(there.user_id) AS transaction_count) here
    WHERE (there.balance, there.transaction_count) IS DISTINCT FROM (here.balance, here.transaction_count)
    ORDER BY there.user_id LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('account %s of bucket %s has not the rows of the handover', differing.user_id, bucket),
            DETAIL = format('Here it has %s (rows: %s), by the handover %s (rows: %s). Rows of it are missing here, or there are rows that the old '
                            'node does not have. One of the two may have lost commits.',
                            trim_scale(differing.balance_here), differing.count_here, coalesce(trim_scale(differing.balance)::text, 'none'), coalesce(differing.transaction_count::text, 'none')),
            HINT = CASE WHEN handover @> '{"is_purged": true}' THEN 'The old node has purged its rows, so keep those that are here: no other node has them.'
                        ELSE format('Compare its rows on both nodes. SELECT credits.return_bucket(%1$s), credits.purge_bucket(%1$s) on the new node '
                                    'removes what that has; then all is copied that the old node has.', bucket) END;
    END IF;
END
    $$;
COMMENT ON FUNCTION credits.require_same_rows(int, jsonb) IS
    'For receive_handover and activate_bucket, after begin_transfer: raises 55000 unless the accounts have the balances and as many rows as the handover says.';

CREATE FUNCTION credits.receive_handover(bucket int, handover jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits.require_handover(bucket, handover);
    PERFORM credits.lock_bucket(bucket, '{arriving}');
    PERFORM credits.begin_transfer(bucket);
    UPDATE credits.bucket_states s SET received = (receive_handover.handover ->> 'position')::xid8
    WHERE s.bucket = receive_handover.bucket AND s.copied_from = receive_handover.handover ->> 'ledger';
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s is arriving from another ledger', bucket);
    END IF;
    PERFORM credits.require_same_rows(bucket, handover);
    PERFORM credits.put_holds_and_boundaries(bucket, handover);
END
    $$;
COMMENT ON FUNCTION credits.receive_handover(int, jsonb) IS
    'New node, when the last rows have been received: makes holds, limits and caps of the bucket those of the handover, and notes that it has all '
    'that the handover lists. Nothing is announced. 22004, 22023, 23505 if a source_id of a hold is taken here, 55000 if the bucket is not arriving '
    'from that ledger, or an account has other rows here, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.activate_bucket(bucket int, handover jsonb) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits.require_handover(bucket, handover);
    IF credits.lock_bucket(bucket, '{here,arriving}') = 'here' THEN
        RETURN false;
    ELSIF EXISTS (SELECT FROM credits.bucket_states s
                  WHERE s.bucket = activate_bucket.bucket AND (s.handover ->> 'seq')::bigint >= (activate_bucket.handover ->> 'seq')::bigint) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s was given away since this handover', bucket),
            DETAIL = 'Another node has it by now, or is to have it.';
    ELSIF NOT EXISTS (SELECT FROM credits.bucket_states s WHERE s.bucket = activate_bucket.bucket AND s.copied_from = activate_bucket.handover ->> 'ledger'
                                                            AND s.received = (activate_bucket.handover ->> 'position')::xid8) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s has not received this handover', bucket),
            HINT = 'Copy its rows again, from where expect_bucket says, and call receive_handover.';
    END IF;
    PERFORM credits.begin_transfer(bucket);
    -- They were compared when the handover was received. Since then a standby may have taken over.
    PERFORM credits.require_same_rows(bucket, handover);
    PERFORM credits.put_holds_and_boundaries(bucket, handover);
    PERFORM credits.advance_seq((handover ->> 'seq')::bigint);
    INSERT INTO credits.taken_buckets AS t (bucket, seq) VALUES (activate_bucket.bucket, (activate_bucket.handover ->> 'seq')::bigint)
    ON CONFLICT ON CONSTRAINT taken_buckets_pkey DO UPDATE SET seq = excluded.seq;
    DELETE FROM credits.bucket_states s WHERE s.bucket = activate_bucket.bucket;
    -- What the old node has announced counts as announced here. This also voids what sessions have published of these accounts when they were here before.
    INSERT INTO credits.user_balance_checkpoints AS c
        (user_id, checkpoint_seq, balance, updated_at, transaction_count, watermark, stragglers, is_positive, crossed_at, thresholds, thresholds_below, thresholds_crossed_at,
         has_days, cap_ids, caps_reached_until)
    SELECT a.user_id, 0, 0, clock_timestamp(), 0, '0', '{}', a.is_positive, a.crossed_at, a.thresholds, a.thresholds_below, a.thresholds_crossed_at, true, a.cap_ids,
           a.caps_reached_until
    FROM jsonb_populate_recordset(NULL::credits.user_balance_checkpoints, handover -> 'accounts') a
    ON CONFLICT (user_id) DO UPDATE
    SET is_positive = excluded.is_positive, crossed_at = excluded.crossed_at, thresholds = excluded.thresholds, thresholds_below = excluded.thresholds_below,
        thresholds_crossed_at = excluded.thresholds_crossed_at, cap_ids = excluded.cap_ids, caps_reached_until = excluded.caps_reached_until;
    -- The commit then decides about each of them.
    PERFORM credits.refresh_checkpoint((a ->> 'user_id')::uuid) FROM jsonb_array_elements(handover -> 'accounts') a;
    RETURN true;
END
    $$;
COMMENT ON FUNCTION credits.activate_bucket(int, jsonb) IS
    'New node, when the old one has given the bucket away with this handover: the bucket is here. Returns false if it is already. What the old node '
    'has announced is not announced again; what it had not got to is, by this commit, which waits for the stripes of all accounts. seq goes on above '
    'that of the handover. 22004, 22023, 55000 if the bucket has not all that the handover lists, or other rows, or was given away by this node after '
    'this handover, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.return_bucket(bucket int) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF credits.lock_bucket(bucket, '{elsewhere,arriving}') = 'elsewhere' THEN
        RETURN false;
    END IF;
    PERFORM credits.begin_transfer(bucket);
    UPDATE credits.bucket_states s SET state = 'elsewhere', received = NULL WHERE s.bucket = return_bucket.bucket;
    PERFORM credits.drop_holds_and_boundaries(bucket);
    RETURN true;
END
    $$;
COMMENT ON FUNCTION credits.return_bucket(int) IS
    'New node: takes expect_bucket back; false if the bucket is elsewhere anyway. Deletes its holds, limits and caps here; rows that were copied stay '
    'until purge_bucket, and are not copied again. Only once the old node has the bucket for good. 22004, 22023, 55000 if the bucket is here, 42501 '
    'for anybody but the owner of the ledger.';

CREATE FUNCTION credits.bucket_digest(bucket int) RETURNS TABLE (transaction_count bigint, balance numeric, digest text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
    AS $$
BEGIN
    PERFORM credits.bucket_state(bucket);
    RETURN QUERY
    SELECT count(*), coalesce(sum(CASE WHEN t.transaction_type IN ('purchase', 'admin_grant') THEN t.amount ELSE -t.amount END), 0),
           encode(sha256(coalesce(string_agg(sha256(convert_to((to_jsonb(t) - 'xact_id')::text, 'UTF8')), '' ORDER BY t.id), '')), 'hex')
    FROM credits.credits_transactions t
    WHERE credits.bucket_of(t.user_id) = bucket_digest.bucket;
END
    $$;
COMMENT ON FUNCTION credits.bucket_digest(int) IS
    'How many rows of this bucket are here, their signed sum, and a SHA-256 of all their columns but xact_id: two nodes that have the same rows have '
    'the same. Reads as the caller sees the ledger. Costs a scan of the ledger. 22004, 22023, 42501 without SELECT on the ledger and on bucket_states.';

-- The proof of what was removed. Dumped.
CREATE TABLE credits.purged_buckets (
    bucket            smallint    NOT NULL,
    purged_at         timestamptz NOT NULL,
    transaction_count bigint      NOT NULL,
    balance           numeric     NOT NULL,
    digest            text        NOT NULL,

    CONSTRAINT purged_buckets_pkey PRIMARY KEY (bucket, purged_at)
) USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_scale_factor = 0);
COMMENT ON TABLE credits.purged_buckets IS
    'What purge_bucket has removed of buckets that have left this node. Written by purge_bucket.';
COMMENT ON COLUMN credits.purged_buckets.bucket IS 'Bucket, as bucket_of names it.';
COMMENT ON COLUMN credits.purged_buckets.purged_at IS 'When it was purged.';
COMMENT ON COLUMN credits.purged_buckets.transaction_count IS 'How many rows of the ledger were removed.';
COMMENT ON COLUMN credits.purged_buckets.balance IS 'Their signed sum.';
COMMENT ON COLUMN credits.purged_buckets.digest IS 'Their digest, as bucket_digest returned it.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.purged_buckets
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.purged_buckets ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.purged_buckets IS 'Skips what another node has purged, which replication brings.';

SELECT pg_extension_config_dump('credits.purged_buckets', '');

CREATE FUNCTION credits.purge_bucket(bucket int) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    removed bigint;
BEGIN
    PERFORM credits.lock_bucket(bucket, '{elsewhere}');
    PERFORM credits.begin_transfer(bucket);
    INSERT INTO credits.purged_buckets (bucket, purged_at, transaction_count, balance, digest)
    SELECT purge_bucket.bucket, clock_timestamp(), d.transaction_count, d.balance, d.digest FROM credits.bucket_digest(bucket) d
    WHERE d.transaction_count > 0;
    DELETE FROM credits.credits_transactions t WHERE credits.bucket_of(t.user_id) = purge_bucket.bucket;
    GET DIAGNOSTICS removed = ROW_COUNT;
    DELETE FROM credits.user_balance_checkpoints c WHERE credits.bucket_of(c.user_id) = purge_bucket.bucket;
    DELETE FROM credits.batch_aggregates b WHERE credits.bucket_of(b.user_id) = purge_bucket.bucket;
    DELETE FROM credits.daily_totals d WHERE credits.bucket_of(d.user_id) = purge_bucket.bucket;
    PERFORM credits.drop_holds_and_boundaries(bucket);
    UPDATE credits.bucket_states s SET copied_from = NULL, copied_to = NULL, handover = s.handover || '{"is_purged": true}' WHERE s.bucket = purge_bucket.bucket;
    RETURN removed;
END
    $$;
COMMENT ON FUNCTION credits.purge_bucket(int) IS
    'Removes the rows of a bucket that is elsewhere, and all that was derived from them, and returns how many rows of the ledger; leaves count, sum '
    'and digest in purged_buckets. Only once the node that has the bucket is known to keep it: nothing else has these rows then. The bucket stays '
    'elsewhere. 22004, 22023, 55000 if it is not elsewhere, 42501 for anybody but the owner of the ledger.';

REVOKE ALL ON TABLE credits.node, credits.bucket_states, credits.taken_buckets, credits.copies FROM PUBLIC;
REVOKE ALL ON FUNCTION credits.bucket_of(uuid), credits.make_class_views(int, int), credits.number_by_node(), credits.set_node_number(int),
    credits.get_node_number(), credits.announce_buckets(), credits.disown_buckets(int[]), credits.own_buckets(int[]), credits.owns_bucket(int) FROM PUBLIC;
REVOKE ALL ON TABLE credits.purged_buckets FROM PUBLIC;
REVOKE ALL ON FUNCTION
    credits.begin_transfer(int), credits.wait_for_transaction(bigint), credits.hold_stripes(int), credits.holds_stripes(int),
    credits.bucket_state(int), credits.get_ledger(), credits.lock_bucket(int, text[]), credits.start_moving_bucket(int),
    credits.stop_moving_bucket(int), credits.bucket_transactions(int, xid8, xid8), credits.hold_bucket(int), credits.refuse_prepared(oid[]),
    credits.bucket_accounts(int), credits.bucket_handover(int, uuid[], xid8), credits.give_away_bucket(int, int, uuid[], xid8), credits.drop_holds_and_boundaries(int, text[]),
    credits.expect_bucket(int, text), credits.receive_transactions(int, jsonb, xid8), credits.put_holds_and_boundaries(int, jsonb), credits.require_same_rows(int, jsonb),
    credits.require_handover(int, jsonb), credits.receive_handover(int, jsonb), credits.activate_bucket(int, jsonb), credits.return_bucket(int), credits.bucket_digest(int),
    credits.purge_bucket(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION credits.bucket_of(uuid), credits.owned_buckets(), credits.has_all_buckets(), credits.is_here(uuid), credits.require_class(int, int) TO PUBLIC;

-- Accounts that are not on this node are left out.
CREATE OR REPLACE FUNCTION credits.visible_balances()
    RETURNS TABLE (user_id uuid, balance numeric, is_positive boolean, crossed_at timestamptz)
    LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT b.user_id, b.balance, b.balance > 0, NULL::timestamptz
        FROM (SELECT t.user_id, credits.get_user_balance(t.user_id) AS balance
              FROM (SELECT DISTINCT t.user_id FROM credits.credits_transactions t WHERE ((SELECT credits.has_all_buckets()) OR credits.is_here(t.user_id))) t OFFSET 0) b
    $$;

CREATE OR REPLACE FUNCTION credits.visible_batches()
    RETURNS TABLE (fusillade_batch_id uuid, user_id uuid, total_amount numeric, transaction_count bigint, max_seq bigint,
                   created_at timestamptz)
    LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT t.fusillade_batch_id, t.user_id, sum(t.amount), count(*), max(t.seq), min(t.created_at)
        FROM credits.credits_transactions t
        WHERE t.fusillade_batch_id IS NOT NULL AND ((SELECT credits.has_all_buckets()) OR credits.is_here(t.user_id))
        GROUP BY t.fusillade_batch_id, t.user_id
    $$;

-- Comments say it more plainly.
COMMENT ON FUNCTION credits.count_user_transactions(uuid, text, text[], timestamptz, timestamptz) IS
    'Number of a user''s transactions; filters and errors as list_user_transactions. Cost: without filters that of a balance; with '
    'types and dates the daily totals of the period; with search the user''s rows, or the period''s.';
COMMENT ON FUNCTION credits.sum_transactions_after_date(uuid, timestamptz) IS
    'Signed sum of a user''s transactions with created_at > after_date, exact; 0 if there are none. 22004 for NULL. Cost: as '
    'get_user_balance_at.';
COMMENT ON FUNCTION credits.leave_out() IS 'Trigger: skips rows that logical replication brings for a derived table.';
COMMENT ON TRIGGER leave_out_replicated ON credits.user_balance_checkpoints IS
    'Skips the checkpoints of other databases, which replication brings.';
COMMENT ON TRIGGER leave_out_replicated ON credits.batch_aggregates IS
    'Skips the batch totals of other databases, which replication brings.';
COMMENT ON TRIGGER announce_change ON credits.user_balance_checkpoints IS
    'Has sessions read a checkpoint again that was changed or deleted by hand.';
COMMENT ON FUNCTION credits.note_transaction() IS
    'Trigger: notes the user of an inserted row and its amount; the user is settled when the transaction commits.';
COMMENT ON TRIGGER note_transaction ON credits.credits_transactions IS
    'Notes the accounts whose balances the transaction changes; they are settled when it commits.';
COMMENT ON VIEW credits.checkpoints IS
    'The table user_balance_checkpoints, for callers who may SELECT all rows of the ledger; empty for others.';
COMMENT ON VIEW credits.folded_batches IS
    'The table batch_aggregates, for callers who may SELECT all rows of the ledger; empty for others.';
COMMENT ON VIEW credits.users_without_checkpoint IS
    'Users whose rows were all written without a settlement, as by a restore: their balances are summed from all of their rows '
    'until refresh_checkpoint or their next transaction. For operators and members of pg_monitor: empty for others under row-'
    'level security.';
COMMENT ON VIEW credits.uncovered_transactions IS
    'The deltas: ledger rows that no checkpoint covers yet. For operators: empty under row-level security.';
COMMENT ON FUNCTION credits.visible_balances() IS
    'For the view balances under row-level security: balances of the users of whom the caller may see a row, summed from the rows'
    ' that it may see. Costs a scan of them.';
COMMENT ON FUNCTION credits.visible_batches() IS
    'For the view batches under row-level security: batches summed from the rows that the caller may see. Costs a scan of them.';
COMMENT ON FUNCTION credits.aggregate_user_batches(uuid) IS
    'Another name for refresh_checkpoint, for applications that call it: batches are folded with the checkpoint.';
COMMENT ON FUNCTION credits.refresh_idle_checkpoints(interval, bigint) IS
    'When the transaction commits: refreshes checkpoints that were last written longer than idle ago and could cover more than '
    'they do, "limit" of them at most (NULL: all), and announces crossings of their users that are not announced yet. Returns how'
    ' many. Takes the stripes of these users as their own commits do, and skips checkpoints that another session is refreshing: '
    'for a job that runs every few minutes. Cost: an index lookup for each checkpoint, and the deltas that it folds. Errors: '
    '22004 for a NULL idle, 22008 for one that reaches back further than timestamps do, 22023 for a negative limit, 25006 in a '
    'read-only transaction, 42501 without SELECT on ledger and checkpoints or where row-level security would hide rows.';
