-- Names without a schema are not looked up in the schema credits: ledger.sql says why.
SET LOCAL search_path = pg_catalog, pg_temp;

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

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
