COMMENT ON FUNCTION credits.refresh_checkpoint(uuid) IS
    'When the transaction commits: folds the user''s delta into its checkpoint and batches, and announces a crossing that is '
    'not announced yet. Nothing happens for an unknown user. Errors: 22004 for NULL, 25006 in a read-only transaction.';
COMMENT ON FUNCTION credits.aggregate_user_batches(uuid) IS
    'Another name for refresh_checkpoint, for applications that call it: batches are folded with the checkpoint.';
