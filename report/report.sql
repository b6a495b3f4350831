-- The figures of a report, as one JSON object in one line: of the account in the variable `account`, or of the whole ledger if that is empty.
-- One statement, so that all of it is of one snapshot. Cost: a few scans of the account's rows, or of the ledger, and verify_ledger().
WITH transactions AS NOT MATERIALIZED (
    SELECT t.user_id, t.seq, t.created_at, t.amount, t.api_key_id, t.transaction_type,
           CASE WHEN t.transaction_type IN ('purchase', 'admin_grant') THEN t.amount ELSE -t.amount END AS credits
    FROM credits.credits_transactions t
    WHERE (:'account' = '' OR t.user_id = nullif(:'account', '')::uuid)
      -- A node keeps rows of accounts that it has no more.
      AND ((SELECT credits.has_all_buckets()) OR credits.is_here(t.user_id))
),
summary AS (
    SELECT count(*) AS transactions, count(DISTINCT t.user_id) AS accounts, sum(t.credits) AS balance,
           sum(t.amount) FILTER (WHERE t.transaction_type = 'usage') AS spent,
           sum(t.amount) FILTER (WHERE t.transaction_type = 'purchase') AS bought,
           min(t.created_at) AS first, max(t.created_at) AS last
    FROM transactions t
),
-- At most 400 points, however many rows there are.
steps AS (
    SELECT max(t.created_at) AS at, sum(t.credits) AS credits
    FROM transactions t, summary s
    GROUP BY floor(399 * extract(epoch FROM t.created_at - s.first) / nullif(extract(epoch FROM s.last - s.first), 0))
),
balances AS (
    SELECT s.at, sum(s.credits) OVER (ORDER BY s.at) AS balance FROM steps s
),
usage AS (
    SELECT (t.created_at AT TIME ZONE 'UTC')::date AS day, t.api_key_id, sum(t.amount) AS spent
    FROM transactions t, summary s
    WHERE t.transaction_type = 'usage' AND t.created_at > s.last - interval '60 days'
    GROUP BY 1, 2
),
named_keys AS (
    SELECT u.api_key_id, row_number() OVER (ORDER BY sum(u.spent) DESC, u.api_key_id) AS place
    FROM usage u
    WHERE u.api_key_id IS NOT NULL
    GROUP BY u.api_key_id
),
spend AS (
    SELECT u.day,
           CASE WHEN u.api_key_id IS NULL THEN 'no key' WHEN k.place <= 6 THEN u.api_key_id::text ELSE 'other keys' END AS key,
           sum(u.spent) AS spent
    FROM usage u
    LEFT JOIN named_keys k ON k.api_key_id = u.api_key_id
    GROUP BY 1, 2
),
-- In the order of seq: of transactions that overlap, one may have been committed before another with a lower seq.
sides AS (
    SELECT t.user_id, t.seq, t.created_at, sum(t.credits) OVER (PARTITION BY t.user_id ORDER BY t.seq) > 0 AS is_positive
    FROM transactions t
),
crossings AS (
    SELECT c.user_id, c.seq, c.created_at, c.is_positive
    FROM (SELECT s.*, lag(s.is_positive, 1, false) OVER (PARTITION BY s.user_id ORDER BY s.seq) AS was_positive FROM sides s) c
    WHERE c.is_positive <> c.was_positive
),
checks AS (
    SELECT 'verify_ledger' AS function, v.check_name, coalesce(v.user_id::text, '') AS object, v.detail FROM credits.verify_ledger() v
    UNION ALL
    SELECT 'verify_installation', v.check_name, v.object, v.detail FROM credits.verify_installation() v
)
SELECT json_build_object(
    'account', nullif(:'account', ''),
    'database', current_database(),
    'made_at', statement_timestamp(),
    'version', (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'credits_ledger'),
    -- Amounts are text where they are shown as numbers, which JSON would round.
    'summary', (SELECT json_build_object('transactions', s.transactions, 'accounts', s.accounts, 'balance', trim_scale(coalesce(s.balance, 0))::text,
                                         'spent', trim_scale(coalesce(s.spent, 0))::text, 'bought', trim_scale(coalesce(s.bought, 0))::text,
                                         'first', s.first, 'last', s.last)
                FROM summary s),
    'balances', (SELECT json_agg(json_build_array(extract(epoch FROM b.at) * 1000, b.balance) ORDER BY b.at) FROM balances b),
    'spend', (SELECT json_agg(json_build_array(s.day, s.key, s.spent) ORDER BY s.day, s.key) FROM spend s),
    'crossings', (SELECT json_agg(json_build_array(d.day, d.up, d.down) ORDER BY d.day)
                  FROM (SELECT (c.created_at AT TIME ZONE 'UTC')::date AS day, count(*) FILTER (WHERE c.is_positive) AS up,
                               count(*) FILTER (WHERE NOT c.is_positive) AS down
                        FROM crossings c GROUP BY 1) d),
    'latest_crossings', (SELECT json_agg(json_build_array(c.created_at, c.user_id, CASE WHEN c.is_positive THEN 'up' ELSE 'down' END)
                                         ORDER BY c.seq DESC)
                         FROM (SELECT * FROM crossings c ORDER BY c.seq DESC LIMIT 10) c),
    'batches', (SELECT json_agg(json_build_array(b.fusillade_batch_id, b.user_id, trim_scale(b.total_amount)::text, b.transaction_count, b.created_at)
                                ORDER BY b.total_amount DESC, b.fusillade_batch_id)
                FROM (SELECT * FROM credits.batches b WHERE :'account' = '' OR b.user_id = nullif(:'account', '')::uuid
                      ORDER BY b.total_amount DESC, b.fusillade_batch_id LIMIT 10) b),
    'differences', (SELECT count(*) FROM checks),
    'checks', (SELECT json_agg(json_build_array(c.function, c.check_name, c.object, c.detail))
               FROM (SELECT * FROM checks LIMIT 20) c)
)::jsonb;
