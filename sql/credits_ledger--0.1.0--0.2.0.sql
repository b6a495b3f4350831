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

-- A ledger that holds transactions is not dropped by accident.
CREATE FUNCTION credits.guard_ledger() RETURNS event_trigger
    LANGUAGE c SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'guard_ledger';
COMMENT ON FUNCTION credits.guard_ledger() IS
    'Event trigger: has the library loaded and the ledger looked up before anything is dropped. The library refuses to drop a '
    'ledger that holds transactions, with SQLSTATE 55000, unless credits_ledger.allow_drop is on.';

-- Every command whose cascade can reach a table: of its type or its access method, too. ALWAYS: also while replication applies.
CREATE EVENT TRIGGER credits_ledger_guard ON ddl_command_start
    WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP TABLE', 'DROP OWNED', 'DROP TYPE', 'DROP ACCESS METHOD')
    EXECUTE FUNCTION credits.guard_ledger();
ALTER EVENT TRIGGER credits_ledger_guard ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER credits_ledger_guard IS
    'Keeps a ledger that holds transactions from being dropped by accident.';
REVOKE ALL ON FUNCTION credits.guard_ledger() FROM PUBLIC;
