-- Balances of users in the caller's snapshot: their checkpoints plus their deltas. Where row-level security filters the ledger, the sum of
-- the rows that the caller may see.

CREATE FUNCTION credits.get_user_balance(user_id uuid) RETURNS numeric
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'get_user_balance_wrapper';
COMMENT ON FUNCTION credits.get_user_balance(uuid) IS
    'Balance of a user in credits: the signed sum of the rows that the caller''s snapshot sees; 0 for an unknown user. Costs '
    'an index lookup plus the rows since the last checkpoint. Errors: 22004 for NULL, 42501 without SELECT on the ledger.';
CREATE FUNCTION credits.calculate_balance_with_seq(user_id uuid) RETURNS TABLE (balance numeric, latest_seq bigint)
    LANGUAGE c STABLE PARALLEL RESTRICTED
    AS 'MODULE_PATHNAME', 'calculate_balance_with_seq_wrapper';
COMMENT ON FUNCTION credits.calculate_balance_with_seq(uuid) IS
    'Balance of a user and the highest seq among its rows; 0 and NULL for an unknown user. Costs and errors as get_user_balance.';
CREATE FUNCTION credits.get_users_balances_bulk(user_ids uuid[], checkpoint_refresh_probability integer DEFAULT NULL)
    RETURNS TABLE (user_id uuid, balance numeric)
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'get_users_balances_bulk_wrapper';
COMMENT ON FUNCTION credits.get_users_balances_bulk(uuid[], integer) IS
    'Balances of several users, each distinct id once, unknown ones with 0. checkpoint_refresh_probability N asks for a refresh '
    'of each user''s checkpoint at commit with chance 1 in N; NULL and 0: never; ignored where the transaction cannot write. '
    'Errors: 22004 for NULL or a NULL in the array, 22023 for a negative probability, 42501 without SELECT on the ledger.';
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
CREATE FUNCTION credits.refresh_checkpoints_bulk(user_ids uuid[]) RETURNS TABLE (user_id uuid, balance numeric)
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'refresh_checkpoints_bulk_wrapper';
COMMENT ON FUNCTION credits.refresh_checkpoints_bulk(uuid[]) IS
    'refresh_checkpoint for several users; returns the balances of those that have transactions, each once. Errors: 22004 for '
    'NULL or a NULL in the array, 25006 in a read-only transaction, 42501 without SELECT on the ledger.';
