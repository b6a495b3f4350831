CREATE FUNCTION credits.guard_ledger() RETURNS event_trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'guard_ledger';
COMMENT ON FUNCTION credits.guard_ledger() IS
    'Event trigger: refuses, with SQLSTATE 55000, to drop a ledger that holds transactions, unless credits_ledger.allow_drop is '
    'on, and to give the ledger, derived tables or result types another shape. Warns of what pg_dump leaves out.';

-- Fires for every command, because a cascade can reach a table from almost anything. It notes the shape of the tables before the
-- command: while it is disabled, the other two triggers do nothing. ALWAYS: also while replication applies changes.
CREATE EVENT TRIGGER credits_ledger_guard ON ddl_command_start
    EXECUTE FUNCTION credits.guard_ledger();
ALTER EVENT TRIGGER credits_ledger_guard ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER credits_ledger_guard IS
    'Refuses to drop a ledger that holds transactions, and notes the shape of its tables before a command.';

CREATE EVENT TRIGGER credits_ledger_guard_end ON ddl_command_end
    EXECUTE FUNCTION credits.guard_ledger();
ALTER EVENT TRIGGER credits_ledger_guard_end ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER credits_ledger_guard_end IS
    'Refuses changes of the shape of the ledger''s tables, and warns of what pg_dump leaves out.';

-- Refuses before the server rewrites a large table, not after.
CREATE EVENT TRIGGER credits_ledger_guard_rewrite ON table_rewrite
    EXECUTE FUNCTION credits.guard_ledger();
ALTER EVENT TRIGGER credits_ledger_guard_rewrite ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER credits_ledger_guard_rewrite IS
    'Refuses changes of the shape of the ledger''s tables before the server rewrites them.';
