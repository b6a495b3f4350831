-- Holding and charging. Each of these does what statements of the caller do, with the same privileges, triggers and policies.

CREATE FUNCTION credits.create_hold(
    user_id uuid, amount numeric, source_id text, expires_in interval DEFAULT '1 hour',
    description text DEFAULT NULL, fusillade_batch_id uuid DEFAULT NULL, api_key_id uuid DEFAULT NULL,
    category text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS credits.credit_hold
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'create_hold';
COMMENT ON FUNCTION credits.create_hold(uuid, numeric, text, interval, text, uuid, uuid, text, jsonb) IS
    'Holds credits for usage to come, if what is available covers them, and returns the hold. If source_id is that of an open hold '
    'of the same user and amount, that one is returned: a retry is safe. One of the same user that has expired gives way. Errors: '
    'LC001 not covered, also from COMMIT; 23505 source_id taken by another hold or by a transaction, 23514 amount not above 0 or of '
    'more than 13 integer or 15 fractional digits, a blank source_id, a category of more than 200 characters or metadata that is no '
    'object, 22023 expires_in not above 0 or of more than 30 days, 22004 NULL where a value is required, 54000 source_id too long '
    'for its index, 09000 a trigger left the row out.';

CREATE FUNCTION credits.capture_hold(source_id text, amount numeric DEFAULT NULL) RETURNS credits.credit_transaction
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'capture_hold';
COMMENT ON FUNCTION credits.capture_hold(text, numeric) IS
    'Deletes a hold and records usage with its source_id, batch, key, category, metadata and description: of its whole amount, or of '
    'this one, which may be more. Never refused for lack of credits, and works after the hold has expired. If the ledger has usage '
    'of this account with this source_id and amount already, that row is returned. Errors: P0002 neither a hold nor such usage, '
    '23505 source_id taken by another transaction, 23514 amount, 22004 NULL source_id, 40001 the hold has changed since the '
    'transaction''s snapshot, 09000 a trigger left a row out.';

CREATE FUNCTION credits.release_hold(source_id text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'release_hold';
COMMENT ON FUNCTION credits.release_hold(text) IS
    'Deletes a hold, and returns whether there was one. Errors: 22004 NULL, 40001 the hold has changed since the transaction''s '
    'snapshot, 09000 a trigger left it there.';

CREATE FUNCTION credits.extend_hold(source_id text, expires_in interval) RETURNS credits.credit_hold
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'extend_hold';
COMMENT ON FUNCTION credits.extend_hold(text, interval) IS
    'Has a hold expire so long after now, and returns it. An open one is never refused; one that has expired is held anew. Errors: '
    'P0002 no such hold, LC001 it has expired and is not covered, also from COMMIT; 22023 expires_in not above 0 or of more than 30 '
    'days, 22004 NULL, 40001 the hold has changed since the transaction''s snapshot, 09000 a trigger left it as it was.';

CREATE FUNCTION credits.charge(
    user_id uuid, amount numeric, source_id text, description text DEFAULT NULL, fusillade_batch_id uuid DEFAULT NULL,
    api_key_id uuid DEFAULT NULL, category text DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS credits.credit_transaction
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'charge';
COMMENT ON FUNCTION credits.charge(uuid, numeric, text, text, uuid, uuid, text, jsonb) IS
    'Records usage, if what is available covers it, and returns its row. If source_id is taken by usage of the same user and amount, '
    'that row is returned: a retry is safe. Errors: LC001 not covered, also from COMMIT; 23505 source_id taken by another transaction '
    'or by an open hold, and those of create_transaction.';
