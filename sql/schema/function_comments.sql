COMMENT ON FUNCTION credits.get_user_balance(uuid) IS
    'Balance of a user in credits: the signed sum of the rows that the caller''s snapshot sees; 0 for an unknown user. Costs '
    'an index lookup plus the rows since the last checkpoint. Errors: 22004 for NULL, 42501 without SELECT on the ledger.';
COMMENT ON FUNCTION credits.calculate_balance_with_seq(uuid) IS
    'Balance of a user and the highest seq among its rows; 0 and NULL for an unknown user. Costs and errors as get_user_balance.';
COMMENT ON FUNCTION credits.get_users_balances_bulk(uuid[], integer) IS
    'Balances of several users, each distinct id once, unknown ones with 0. checkpoint_refresh_probability N asks for a refresh '
    'of each user''s checkpoint at commit with chance 1 in N; NULL and 0: never; ignored where the transaction cannot write. '
    'Errors: 22004 for NULL or a NULL in the array, 22023 for a negative probability, 42501 without SELECT on the ledger.';
COMMENT ON FUNCTION credits.refresh_checkpoint(uuid) IS
    'When the transaction commits: folds the user''s delta into its checkpoint and batches, and announces a crossing that is '
    'not announced yet. Nothing happens for an unknown user. Errors: 22004 for NULL, 25006 in a read-only transaction.';
COMMENT ON FUNCTION credits.refresh_checkpoints_bulk(uuid[]) IS
    'refresh_checkpoint for several users; returns the balances of those that have transactions, each once. Errors: 22004 for '
    'NULL or a NULL in the array, 25006 in a read-only transaction, 42501 without SELECT on the ledger.';
COMMENT ON FUNCTION credits.aggregate_user_batches(uuid) IS
    'The same as refresh_checkpoint: batches are folded with the checkpoint. Nothing needs it to be called.';
