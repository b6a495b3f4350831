-- Plain SQL on purpose: it shares nothing with the code that it checks. Of accounts that are not on this node, what is derived from the rows that it keeps
-- or has received is checked as well; what is announced, limits and caps are those of the node that has them.
CREATE FUNCTION credits.verify_ledger()
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
