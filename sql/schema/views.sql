-- Names without a schema are not looked up in the schema credits: ledger.sql says why.
SET LOCAL search_path = pg_catalog, pg_temp;

-- A view reads its tables with its owner's privileges, and so does the planner their statistics: it would try an operator of the caller's on
-- values that the caller may not see. security_barrier prevents that; it has no effect on a view that is nothing but a UNION ALL.

-- A node keeps rows of accounts that have left it, and has some of accounts that are arriving. They are not counted with those that are here: views
-- ask for each account, unless the ledger has all, which is asked once.

-- The folded sums, for callers who may read all rows of the ledger. Others see no row: their queries take every row of the ledger for a
-- part of the delta, which costs more and gives the same answer.

CREATE VIEW credits.checkpoints WITH (security_barrier) AS
    SELECT c.*
    FROM credits.user_balance_checkpoints c
    WHERE has_table_privilege('credits.credits_transactions', 'SELECT')
      AND NOT row_security_active('credits.credits_transactions');
COMMENT ON VIEW credits.checkpoints IS
    'The table user_balance_checkpoints, for callers who may SELECT all rows of the ledger; empty for others.';

-- No security_barrier: a page reads the newest batches of a user in index order, and the barrier would keep the ORDER BY from the index. The
-- table has no statistics, and the condition below, which depends on no column, is evaluated before any row is read.
CREATE VIEW credits.folded_batches AS
    SELECT b.*
    FROM credits.batch_aggregates b
    WHERE has_table_privilege('credits.credits_transactions', 'SELECT')
      AND NOT row_security_active('credits.credits_transactions');
COMMENT ON VIEW credits.folded_batches IS
    'The table batch_aggregates, for callers who may SELECT all rows of the ledger; empty for others.';

CREATE VIEW credits.folded_days WITH (security_barrier) AS
    SELECT d.*
    FROM credits.daily_totals d
    WHERE has_table_privilege('credits.credits_transactions', 'SELECT')
      AND NOT row_security_active('credits.credits_transactions');
COMMENT ON VIEW credits.folded_days IS
    'The table daily_totals, for callers who may SELECT all rows of the ledger; empty for others.';

-- A view sees every row, as its owner does. Where row-level security filters the ledger for the caller, the views for clients call
-- these functions instead, which run as the caller and sum the rows that it may see.

CREATE FUNCTION credits.visible_balances()
    RETURNS TABLE (user_id uuid, balance numeric, is_positive boolean, crossed_at timestamptz)
    LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT b.user_id, b.balance, b.balance > 0, NULL::timestamptz
        FROM (SELECT t.user_id, credits.get_user_balance(t.user_id) AS balance
              FROM (SELECT DISTINCT t.user_id FROM credits.credits_transactions t WHERE ((SELECT credits.has_all_buckets()) OR credits.is_here(t.user_id))) t OFFSET 0) b
    $$;
COMMENT ON FUNCTION credits.visible_balances() IS
    'For the view balances under row-level security: balances of the users of whom the caller may see a row, summed from the rows'
    ' that it may see. Costs a scan of them.';

CREATE FUNCTION credits.visible_batches()
    RETURNS TABLE (fusillade_batch_id uuid, user_id uuid, total_amount numeric, transaction_count bigint, max_seq bigint,
                   created_at timestamptz)
    LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT t.fusillade_batch_id, t.user_id, sum(t.amount), count(*), max(t.seq), min(t.created_at)
        FROM credits.credits_transactions t
        WHERE t.fusillade_batch_id IS NOT NULL AND ((SELECT credits.has_all_buckets()) OR credits.is_here(t.user_id))
        GROUP BY t.fusillade_batch_id, t.user_id
    $$;
COMMENT ON FUNCTION credits.visible_batches() IS
    'For the view batches under row-level security: batches summed from the rows that the caller may see. Costs a scan of them.';

CREATE VIEW credits.users_without_checkpoint WITH (security_barrier) AS
    SELECT u.user_id
    FROM (SELECT DISTINCT t.user_id FROM credits.credits_transactions t) u
    LEFT JOIN credits.user_balance_checkpoints c ON c.user_id = u.user_id
    WHERE c.user_id IS NULL AND ((SELECT credits.has_all_buckets()) OR credits.is_here(u.user_id))
      AND (NOT row_security_active('credits.credits_transactions') OR pg_has_role('pg_monitor', 'USAGE'));
COMMENT ON VIEW credits.users_without_checkpoint IS
    'Users whose rows were all written without a settlement, as by a restore: their balances are summed from all of their rows '
    'until refresh_checkpoint or their next transaction. For operators and members of pg_monitor: empty for others under row-'
    'level security.';

CREATE VIEW credits.uncovered_transactions WITH (security_barrier) AS
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
COMMENT ON VIEW credits.uncovered_transactions IS
    'The deltas: ledger rows that no checkpoint covers yet. For operators: empty under row-level security.';

CREATE VIEW credits.balances WITH (security_barrier) AS
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

CREATE VIEW credits.batches WITH (security_barrier) AS
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
COMMENT ON VIEW credits.batches IS
    'Every batch of every user: total, number of rows, highest seq and first created_at, exact now.';

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
