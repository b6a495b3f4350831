-- Recording. These functions do what an INSERT of the caller does, with the same privileges, triggers and policies.

CREATE FUNCTION credits.create_transaction(
    user_id uuid, transaction_type text, amount numeric, source_id text,
    description text DEFAULT NULL, fusillade_batch_id uuid DEFAULT NULL, api_key_id uuid DEFAULT NULL
) RETURNS credits.credit_transaction
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'create_transaction_wrapper';
COMMENT ON FUNCTION credits.create_transaction(uuid, text, numeric, text, text, uuid, uuid) IS
    'Records a transaction and returns its row, exactly as an INSERT does. If source_id is taken by a transaction of the same '
    'user, type and amount, that row is returned: a retry is safe. Errors: 23505 source_id taken by another transaction, '
    '23514 amount not above 0 or of more than 13 integer or 15 fractional digits, a batch on a row that is not usage, or a blank '
    'source_id, 22023 unknown type, 22004 NULL where a value is required, 54000 source_id too long for its index, 09000 a trigger '
    'left the row out; an error of a trigger comes as the trigger raised it.';

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
