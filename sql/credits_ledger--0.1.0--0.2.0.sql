-- From 0.1.0 to 0.2.0. A database that is updated by it is the same as one in which 0.2.0 was created.

-- What runs for each insert is not pinned any more; the stamp needs no support function then.
CREATE OR REPLACE FUNCTION credits.current_xact_id(seq bigint) RETURNS xid8
    LANGUAGE c IMMUTABLE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'current_xact_id';
DROP FUNCTION credits.current_xact_id_support(internal);
ALTER FUNCTION credits.note_transaction() RESET ALL;

-- The index of deltas without seq.
DROP INDEX credits.credits_transactions_delta_idx;
CREATE INDEX credits_transactions_delta_idx ON credits.credits_transactions (user_id, xact_id);
COMMENT ON INDEX credits.credits_transactions_delta_idx IS
    'Finds the rows of a user that a checkpoint does not cover yet.';
-- Begins every update: it waits for all who are using the ledger, and has every session look its relations up again.
ALTER TABLE credits.credits_transactions ALTER COLUMN seq SET GENERATED ALWAYS;
