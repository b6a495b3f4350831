-- Recording. What is recorded by a function has all that an INSERT of the caller's has: its privileges, triggers and policies.

CREATE FUNCTION credits.create_transaction(
    user_id uuid, transaction_type text, amount numeric, source_id text,
    description text DEFAULT NULL, fusillade_batch_id uuid DEFAULT NULL, api_key_id uuid DEFAULT NULL
) RETURNS credits.credit_transaction
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'create_transaction_wrapper';
COMMENT ON FUNCTION credits.create_transaction(uuid, text, numeric, text, text, uuid, uuid) IS
    'Records a transaction and returns its row, exactly as an INSERT does. If source_id is taken by a transaction of the same '
    'user, type and amount, that row is returned: a retry is safe. Errors: 23505 source_id taken by another transaction, '
    '23514 amount not above 0 or of more than 13 integer or 15 fractional digits, or a batch on a row that is not usage, '
    '22023 unknown type, 22004 NULL where a value is required, 54000 source_id too long for its index, 09000 a trigger left the '
    'row out; an error of a trigger comes as the trigger raised it.';
