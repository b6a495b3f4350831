-- From 0.2.0 to 0.3.0. A database that is updated by it is the same as one in which 0.3.0 was created.

-- As the install script does: nothing unqualified is looked up in the schema credits.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Begins every update: it waits for all who are using the ledger, and has every session look its relations up again.
ALTER TABLE credits.credits_transactions ALTER COLUMN seq SET GENERATED ALWAYS;

-- The ledger: three more columns. Nullable, without default and with constraints that are NOT VALID: no row is looked at.

ALTER TABLE credits.credits_transactions ADD COLUMN category text, ADD COLUMN metadata jsonb, ADD COLUMN reverses uuid;
ALTER TABLE credits.credits_transactions
    ADD CONSTRAINT category_is_short CHECK (char_length(category) <= 200) NOT VALID,
    ADD CONSTRAINT metadata_is_object CHECK (jsonb_typeof(metadata) = 'object') NOT VALID;
COMMENT ON COLUMN credits.credits_transactions.category IS
    'What the transaction was for: a model, a product, a tier. At most 200 characters; NULL unless given.';
COMMENT ON COLUMN credits.credits_transactions.metadata IS
    'The application''s own: a JSON object; NULL unless given.';
COMMENT ON COLUMN credits.credits_transactions.reverses IS
    'id of the transaction that this one takes back; NULL unless given.';
COMMENT ON CONSTRAINT category_is_short ON credits.credits_transactions IS
    'A category is a label, not a text.';
COMMENT ON CONSTRAINT metadata_is_object ON credits.credits_transactions IS
    'metadata has keys.';

CREATE OR REPLACE VIEW credits.uncovered_transactions WITH (security_barrier) AS
    SELECT u.*
    FROM (
        SELECT t.*
        FROM credits.user_balance_checkpoints c
        -- The upper end, which no transaction reaches, has the planner expect a short range and not a third of the rows.
        JOIN credits.credits_transactions t
          ON t.user_id = c.user_id AND t.xact_id >= c.watermark AND t.xact_id < '18446744073709551615'
        WHERE NOT row_security_active('credits.credits_transactions')
        UNION ALL
        SELECT t.*
        FROM credits.user_balance_checkpoints c
        CROSS JOIN unnest(c.stragglers) AS s(xact_id)
        JOIN credits.credits_transactions t ON t.user_id = c.user_id AND t.xact_id = s.xact_id
        WHERE NOT row_security_active('credits.credits_transactions')
        UNION ALL
        SELECT t.*
        FROM credits.users_without_checkpoint u
        JOIN credits.credits_transactions t ON t.user_id = u.user_id
    ) u;

-- What the ledger refuses, and what it is stamped and numbered by.

-- Derived tables and their views.

-- Views for operators.

-- The guard, and what it keeps.

DROP EVENT TRIGGER credits_ledger_guard;
COMMENT ON FUNCTION credits.guard_ledger() IS
    'Event trigger: refuses, with SQLSTATE 55000, to drop a ledger that holds transactions, unless credits_ledger.allow_drop is '
    'on, and to give the ledger, derived tables or result types another shape. Warns of what pg_dump leaves out.';

-- Every command, as cascades reach a table from almost anything. It is this one that notes what was there: disabled, it
-- switches the other two off. ALWAYS: also while replication applies.
CREATE EVENT TRIGGER credits_ledger_guard ON ddl_command_start
    EXECUTE FUNCTION credits.guard_ledger();
ALTER EVENT TRIGGER credits_ledger_guard ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER credits_ledger_guard IS
    'Keeps a ledger that holds transactions from being dropped by accident, and notes the shape of its tables.';

CREATE EVENT TRIGGER credits_ledger_guard_end ON ddl_command_end
    EXECUTE FUNCTION credits.guard_ledger();
ALTER EVENT TRIGGER credits_ledger_guard_end ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER credits_ledger_guard_end IS
    'Refuses changes of the shape of the ledger''s tables, and warns of what pg_dump leaves out.';

-- A large table is not rewritten first and refused then.
CREATE EVENT TRIGGER credits_ledger_guard_rewrite ON table_rewrite
    EXECUTE FUNCTION credits.guard_ledger();
ALTER EVENT TRIGGER credits_ledger_guard_rewrite ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER credits_ledger_guard_rewrite IS
    'Refuses changes of the shape of the ledger''s tables before their rows are written anew.';

-- Recording.

COMMENT ON FUNCTION credits.create_transaction(uuid, text, numeric, text, text, uuid, uuid) IS
    'Records a transaction and returns its row, exactly as an INSERT does. If source_id is taken by a transaction of the same '
    'user, type and amount, that row is returned: a retry is safe. Errors: 23505 source_id taken by another transaction, '
    '23514 amount not above 0 or of more than 13 integer or 15 fractional digits, or a batch on a row that is not usage, '
    '22023 unknown type, 22004 NULL where a value is required, 54000 source_id too long for its index, 09000 a trigger left the '
    'row out; an error of a trigger comes as the trigger raised it.';

-- Reading forward and redaction.

-- Verification.

-- Import.
