-- Roles for the clients of a ledger. A superuser runs this with psql in the database that has the extension, as often as it
-- likes, and again after an update; then it makes login roles members: GRANT credits_writer TO app.
--
-- credits_reader   reads
-- credits_writer   reads and records
-- credits_charger  reads, records, holds and charges
-- credits_limiter  reads, and sets limits, thresholds and spend caps. An application that may do all is a member of both
--
-- None of them is a way around row-level security: with a policy on credits.credits_transactions, a member sees what that
-- lets it see. Views and functions that are not named here are for operators. Who may call a function has USAGE on the type that it
-- returns, so that functions of an application may return that, too.

\set ON_ERROR_STOP on
BEGIN;
-- Without notices that a role is a member already.
SET LOCAL client_min_messages = warning;

SELECT format('CREATE ROLE %I NOLOGIN', role)
FROM unnest(ARRAY['credits_reader', 'credits_writer', 'credits_charger', 'credits_limiter']) AS role
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role) \gexec

REVOKE ALL ON SCHEMA credits FROM credits_reader, credits_writer, credits_charger, credits_limiter;
REVOKE ALL ON ALL TABLES IN SCHEMA credits FROM credits_reader, credits_writer, credits_charger, credits_limiter;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA credits FROM credits_reader, credits_writer, credits_charger, credits_limiter;
REVOKE ALL ON ALL ROUTINES IN SCHEMA credits FROM credits_reader, credits_writer, credits_charger, credits_limiter;
REVOKE ALL ON TYPE credits.credit_transaction, credits.transaction_with_category, credits.transaction_with_balance,
    credits.credit_hold, credits.recorded_transaction, credits.feed_item
    FROM credits_reader, credits_writer, credits_charger, credits_limiter;

-- A reader reads the ledger, balances, batches, holds, limits and caps, by table, view and function, and has them checked. Grouped lists and
-- the check read what is folded.
GRANT USAGE ON SCHEMA credits TO credits_reader;
GRANT SELECT ON credits.credits_transactions, credits.holds, credits.spending_limits, credits.spend_caps, credits.balances,
    credits.thresholds, credits.spend_cap_states, credits.batches, credits.checkpoints, credits.folded_batches, credits.folded_days
    TO credits_reader;
GRANT EXECUTE ON FUNCTION
    credits.get_user_balance, credits.calculate_balance_with_seq, credits.get_users_balances_bulk,
    credits.get_available_balance, credits.get_available_balances_bulk, credits.visible_held, credits.list_holds,
    credits.visible_balances, credits.visible_batches, credits.visible_caps, credits.visible_spend,
    credits.get_transaction_by_id, credits.transaction_exists_by_source_id,
    credits.list_user_transactions, credits.list_all_transactions, credits.list_transactions_with_batches,
    credits.list_user_transactions_with_balance, credits.usage_by_day, credits.get_user_balance_at, credits.account_statement,
    credits.count_user_transactions, credits.count_all_transactions, credits.count_transactions_with_batches,
    credits.sum_recent_transactions, credits.sum_recent_transactions_grouped,
    credits.sum_transactions_after_date, credits.sum_transactions_after_date_grouped,
    credits.get_monthly_auto_topup_spend, credits.get_monthly_auto_topup_spend_bulk, credits.transactions_after,
    credits.verify_ledger, credits.verify_installation
    TO credits_reader;
GRANT USAGE ON TYPE credits.credit_transaction, credits.transaction_with_category, credits.transaction_with_balance,
    credits.credit_hold, credits.feed_item
    TO credits_reader;

-- A writer also records transactions, and has checkpoints refreshed. It may not choose a seq (OVERRIDING SYSTEM VALUE): the next
-- ones could be taken when their turn comes.
GRANT credits_reader TO credits_writer;
GRANT INSERT (id, user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id, created_at, category,
              metadata, reverses)
    ON credits.credits_transactions TO credits_writer;
GRANT EXECUTE ON FUNCTION
    credits.create_transaction, credits.record_transactions, credits.reverse_transaction,
    credits.refresh_checkpoint, credits.refresh_checkpoints_bulk, credits.aggregate_user_batches
    TO credits_writer;
GRANT USAGE ON TYPE credits.recorded_transaction TO credits_writer;

-- A charger also holds credits and charges what is covered; the functions insert, extend and delete holds as the caller.
GRANT credits_writer TO credits_charger;
GRANT INSERT, UPDATE (expires_at), DELETE ON credits.holds TO credits_charger;
GRANT EXECUTE ON FUNCTION
    credits.create_hold, credits.capture_hold, credits.release_hold, credits.extend_hold, credits.charge, credits.release_expired_holds
    TO credits_charger;

-- A limiter says how far accounts may be overdrawn, what may be spent in a while, and at which balances a notification is sent. Its own role, so that who charges does
-- not lift the limit. When a row was changed is for the table to say.
GRANT credits_reader TO credits_limiter;
GRANT INSERT (user_id, overdraft_limit, thresholds), UPDATE (overdraft_limit, thresholds), DELETE ON credits.spending_limits
    TO credits_limiter;
GRANT INSERT, UPDATE, DELETE ON credits.spend_caps TO credits_limiter;

COMMIT;
