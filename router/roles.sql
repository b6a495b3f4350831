-- The roles of sql/roles.sql, for the clients of a router. A superuser runs this with psql in the router's database, as often as it likes, and
-- again after an update. What a member may do is decided twice: here, and on the node, by the role there that credits.let_in has named.

\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;

SELECT format('CREATE ROLE %I NOLOGIN', role)
FROM unnest(ARRAY['credits_reader', 'credits_writer', 'credits_charger', 'credits_limiter']) AS role
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role) \gexec

REVOKE ALL ON SCHEMA credits, credits_routes FROM credits_reader, credits_writer, credits_charger, credits_limiter;
REVOKE ALL ON ALL TABLES IN SCHEMA credits, credits_routes FROM credits_reader, credits_writer, credits_charger, credits_limiter;
REVOKE ALL ON ALL ROUTINES IN SCHEMA credits, credits_routes FROM credits_reader, credits_writer, credits_charger, credits_limiter;
REVOKE ALL ON TYPE credits.credit_transaction, credits.transaction_with_category, credits.transaction_with_balance, credits.credit_hold,
    credits.recorded_transaction, credits.feed_item
    FROM credits_reader, credits_writer, credits_charger, credits_limiter;

GRANT USAGE ON SCHEMA credits, credits_routes TO credits_reader;
GRANT SELECT ON credits.credits_transactions, credits.holds, credits.spending_limits, credits.spend_caps, credits.balances, credits.thresholds,
    credits.spend_cap_states, credits.batches, credits.checkpoints
    TO credits_reader;
-- Where to listen.
GRANT SELECT (node, host, port, dbname) ON credits.nodes TO credits_reader;
GRANT EXECUTE ON FUNCTION credits_routes.checkpoints, credits_routes.list_all_of_one TO credits_reader;
GRANT USAGE ON TYPE credits.credit_transaction, credits.transaction_with_category, credits.transaction_with_balance, credits.credit_hold,
    credits.feed_item
    TO credits_reader;
GRANT credits_reader TO credits_writer;
GRANT INSERT (id, user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id, created_at, category,
              metadata, reverses)
    ON credits.credits_transactions TO credits_writer;
GRANT EXECUTE ON FUNCTION credits_routes.record_whole TO credits_writer;
GRANT USAGE ON TYPE credits.recorded_transaction TO credits_writer;
GRANT credits_writer TO credits_charger;
GRANT INSERT, UPDATE (expires_at), DELETE ON credits.holds TO credits_charger;
GRANT credits_reader TO credits_limiter;
GRANT INSERT (user_id, overdraft_limit, thresholds), UPDATE (overdraft_limit, thresholds), DELETE ON credits.spending_limits TO credits_limiter;
GRANT INSERT, UPDATE, DELETE ON credits.spend_caps TO credits_limiter;

-- Each function, with the one of the same name that goes to the nodes.
SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', p.oid::regprocedure, g.role)
FROM (VALUES
    ('credits_reader', ARRAY[
        'get_user_balance', 'calculate_balance_with_seq', 'get_users_balances_bulk', 'get_available_balance', 'get_available_balances_bulk',
        'list_holds', 'get_transaction_by_id', 'transaction_exists_by_source_id', 'list_user_transactions', 'list_all_transactions',
        'list_transactions_with_batches', 'list_user_transactions_with_balance', 'usage_by_day', 'get_user_balance_at', 'account_statement',
        'count_user_transactions', 'count_all_transactions', 'count_transactions_with_batches', 'sum_recent_transactions',
        'sum_recent_transactions_grouped', 'sum_transactions_after_date', 'sum_transactions_after_date_grouped',
        'get_monthly_auto_topup_spend', 'get_monthly_auto_topup_spend_bulk', 'transactions_after', 'feed', 'verify_ledger',
        'verify_installation']),
    ('credits_writer', ARRAY[
        'create_transaction', 'record_transactions', 'reverse_transaction', 'refresh_checkpoint', 'refresh_checkpoints_bulk',
        'aggregate_user_batches']),
    ('credits_charger', ARRAY['create_hold', 'capture_hold', 'release_hold', 'extend_hold', 'charge', 'release_expired_holds'])
) g (role, names)
JOIN pg_proc p ON p.proname = ANY (g.names) AND p.pronamespace IN ('credits'::regnamespace, 'credits_routes'::regnamespace)
ORDER BY g.role, p.oid::regprocedure::text \gexec

COMMIT;
