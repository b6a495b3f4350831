CREATE FUNCTION credits.guard_ledger() RETURNS event_trigger
    LANGUAGE c
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
