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

-- From here on nothing is attached to the ledger: some reads would count the rows of a child, and others not.
DO $$
DECLARE
    attached text;
BEGIN
    SELECT string_agg(format('%s inherits from %s, or is a partition of it', inhrelid::regclass, inhparent::regclass), '; ')
    INTO attached FROM pg_inherits
    WHERE inhrelid IN ('credits.credits_transactions'::regclass, 'credits.user_balance_checkpoints'::regclass,
                       'credits.batch_aggregates'::regclass)
       OR inhparent IN ('credits.credits_transactions'::regclass, 'credits.user_balance_checkpoints'::regclass,
                        'credits.batch_aggregates'::regclass);
    IF attached IS NOT NULL THEN
        RAISE EXCEPTION 'the tables of the ledger are attached to others: %', attached
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Say ALTER TABLE child NO INHERIT parent, or DETACH PARTITION, and then update.';
    END IF;
END $$;

ALTER TABLE credits.credits_transactions ENABLE ALWAYS TRIGGER append_only_applied;
COMMENT ON TRIGGER append_only_applied ON credits.credits_transactions IS
    'Refuses UPDATE and DELETE that logical replication applies, or that come through another table.';

-- Derived tables and their views.

-- Views for operators.

CREATE OR REPLACE VIEW credits.stragglers WITH (security_barrier) AS
    WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS snapshot),
    open AS MATERIALIZED (
        -- What a commit would pass by now: ledger::coverage has the same numbers.
        SELECT o.xact_id,
               o.place <= 200 AND pg_snapshot_xmax(n.snapshot)::text::numeric - o.xact_id::text::numeric > greatest(128, 8 * (o.place - 1))
                   AS is_passed_by
        FROM now n
        CROSS JOIN LATERAL (
            SELECT i.xact_id, row_number() OVER (ORDER BY i.xact_id) AS place
            FROM (SELECT pg_snapshot_xip(n.snapshot) UNION ALL SELECT pg_current_xact_id_if_assigned()) i (xact_id)
            WHERE i.xact_id < pg_snapshot_xmax(n.snapshot)
        ) o
    ),
    -- The first that is not passed by. From it on nothing is covered.
    stop AS MATERIALIZED (SELECT o.xact_id FROM open o WHERE NOT o.is_passed_by ORDER BY o.xact_id LIMIT 1)
    SELECT s.xact_id, s.listed_by, s.watermark_of,
           coalesce(a.state, CASE WHEN p.gid IS NOT NULL THEN 'prepared'
                                  WHEN pg_xact_status(s.xact_id) = 'in progress' THEN 'open'
                                  ELSE 'ended' END) AS state,
           coalesce(a.datname, p.database) AS database, coalesce(a.usename, p.owner) AS role,
           coalesce(a.xact_start, p.prepared) AS since, a.pid, a.application_name, p.gid,
           s.xact_id IS NOT DISTINCT FROM (SELECT t.xact_id FROM stop t) AS holds_back
    FROM (
        SELECT l.xact_id, coalesce(sum(l.checkpoints) FILTER (WHERE l.is_listed), 0)::bigint AS listed_by,
               coalesce(sum(l.checkpoints) FILTER (WHERE NOT l.is_listed), 0)::bigint AS watermark_of
        FROM (
            -- Most checkpoints list none, and many the same.
            SELECT unnest(c.stragglers), true, c.checkpoints
            FROM (SELECT c.stragglers, count(*) AS checkpoints FROM credits.user_balance_checkpoints c
                  WHERE cardinality(c.stragglers) > 0 GROUP BY c.stragglers) c
            UNION ALL
            SELECT c.watermark, false, count(*)
            FROM credits.user_balance_checkpoints c
            JOIN open o ON o.xact_id = c.watermark
            GROUP BY c.watermark
            UNION ALL
            -- Also where no checkpoint was written since they began: any refresh would list or stop at them.
            SELECT o.xact_id, false, 0
            FROM open o
            WHERE o.is_passed_by OR o.xact_id = (SELECT t.xact_id FROM stop t)
        ) l (xact_id, is_listed, checkpoints)
        GROUP BY l.xact_id
    ) s
    -- Every transaction holds a lock on its id, and who holds a lock may be seen by everybody. Of the transactions that share the
    -- lower half of an id, one at most is in progress.
    LEFT JOIN pg_locks k
        ON k.locktype = 'transactionid' AND k.mode = 'ExclusiveLock' AND k.transactionid = s.xact_id::xid
           AND pg_xact_status(s.xact_id) = 'in progress'
    LEFT JOIN pg_stat_activity a ON a.pid = k.pid
    LEFT JOIN pg_prepared_xacts p ON p.transaction = s.xact_id::xid AND pg_xact_status(s.xact_id) = 'in progress'
    WHERE NOT row_security_active('credits.credits_transactions');
COMMENT ON VIEW credits.stragglers IS
    'Open transactions that checkpoints pass by or stop at, and transactions that a checkpoint has passed by. listed_by: how many '
    'checkpoints list it as a straggler; watermark_of: how many have stopped at it, while it is open. state: that of its session '
    'in pg_stat_activity, prepared, open (by a session whose state the caller may not see), or ended, and then each checkpoint '
    'forgets it with its next refresh. since: the start of the transaction, or when it was prepared. holds_back: a checkpoint '
    'that is refreshed now stops at it. Cost: two scans of the checkpoints. On a standby only those that a checkpoint lists, '
    'without their sessions, which are the primary''s. For operators.';

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

-- Row-level security in dumps.

-- pg_dump has an extension's tables made by CREATE EXTENSION and leaves out what a user has put on them: policies, ENABLE and FORCE ROW
-- LEVEL SECURITY. It carries rows, and a condition on them, which it puts behind FROM as it is: that of dumped_row_security
-- appends what the function row_security reads from the catalog at that moment. Nothing has to be noted when a policy changes, so nothing
-- is ever out of date, the names of roles included. What a restore brings is made at once by a trigger; rows stay only if it cannot be.

CREATE TABLE credits.dumped_row_security (
    table_name       text NOT NULL,
    kind             text NOT NULL,
    policy           text NOT NULL,
    is_permissive    boolean,
    command          text,
    roles            text[],
    using_expression text,
    check_expression text,
    problem          text,

    CONSTRAINT dumped_row_security_pkey PRIMARY KEY (table_name, kind, policy),
    CONSTRAINT kind_is_known
        CHECK (CASE kind
                   WHEN 'enable' THEN policy = ''
                   WHEN 'force' THEN policy = ''
                   WHEN 'policy' THEN policy <> '' AND is_permissive IS NOT NULL AND command IS NOT NULL
                                      AND command IN ('ALL', 'SELECT', 'INSERT', 'UPDATE', 'DELETE')
                   ELSE false
               END)
) USING heap WITH (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 1000
);
COMMENT ON TABLE credits.dumped_row_security IS
    'The way of row-level security through pg_dump: a dump of it has what row_security() returns, and what a restore inserts is '
    'made at once. Its own rows are what could not be made, see restore_row_security. Only its owner and superusers write to it.';
COMMENT ON COLUMN credits.dumped_row_security.table_name IS 'Table of the schema credits.';
COMMENT ON COLUMN credits.dumped_row_security.kind IS 'enable or force (row-level security of the table), or policy.';
COMMENT ON COLUMN credits.dumped_row_security.policy IS 'Name of the policy; empty for enable and force.';
COMMENT ON COLUMN credits.dumped_row_security.is_permissive IS 'Whether the policy is permissive; it is restrictive otherwise.';
COMMENT ON COLUMN credits.dumped_row_security.command IS 'Command that the policy is for: ALL, SELECT, INSERT, UPDATE or DELETE.';
COMMENT ON COLUMN credits.dumped_row_security.roles IS 'Roles that the policy is for; NULL for PUBLIC.';
COMMENT ON COLUMN credits.dumped_row_security.using_expression IS 'USING, if the policy has it.';
COMMENT ON COLUMN credits.dumped_row_security.check_expression IS 'WITH CHECK, if the policy has it.';
COMMENT ON COLUMN credits.dumped_row_security.problem IS 'Why it could not be made as it is here.';
COMMENT ON CONSTRAINT kind_is_known ON credits.dumped_row_security IS
    'A row says ENABLE or FORCE, or holds a policy.';

-- Not a view: pg_dump reads none but the system's own. The order is that of safety, should each row be restored by itself: what closes
-- the table comes before what opens it.
CREATE FUNCTION credits.row_security() RETURNS SETOF credits.dumped_row_security
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT s.*
        FROM (
            SELECT d.* FROM credits.dumped_row_security d
            UNION ALL
            SELECT l.*
            FROM (
                SELECT c.relname::text, s.kind, s.policy, s.is_permissive, s.command, s.roles, s.using_expression,
                       s.check_expression, NULL::text
                FROM pg_extension e
                CROSS JOIN unnest(e.extconfig) AS dumped(oid)
                JOIN pg_class c ON c.oid = dumped.oid AND c.relkind = 'r' AND c.oid <> 'credits.dumped_row_security'::regclass
                CROSS JOIN LATERAL (
                    SELECT 'enable', '', NULL::boolean, NULL::text, NULL::text[], NULL::text, NULL::text WHERE c.relrowsecurity
                    UNION ALL
                    SELECT 'force', '', NULL, NULL, NULL, NULL, NULL WHERE c.relforcerowsecurity
                    UNION ALL
                    SELECT 'policy', p.polname::text, p.polpermissive,
                           CASE p.polcmd WHEN '*' THEN 'ALL' WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                                         WHEN 'd' THEN 'DELETE' END,
                           CASE WHEN p.polroles <> '{0}'
                                THEN ARRAY(SELECT r.rolname::text FROM pg_roles r WHERE r.oid = ANY (p.polroles) ORDER BY 1) END,
                           pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
                    FROM pg_policy p
                    WHERE p.polrelid = c.oid
                ) s (kind, policy, is_permissive, command, roles, using_expression, check_expression)
                WHERE e.extname = 'credits_ledger'
            ) l (table_name, kind, policy, is_permissive, command, roles, using_expression, check_expression, problem)
            WHERE NOT EXISTS (SELECT FROM credits.dumped_row_security d
                              WHERE (d.table_name, d.kind, d.policy) = (l.table_name, l.kind, l.policy))
        ) s
        ORDER BY s.kind = 'policy', s.is_permissive, s.table_name, s.kind, s.policy
    $$;
COMMENT ON FUNCTION credits.row_security() IS
    'Row-level security of the tables that are dumped: ENABLE, FORCE and policies, as a dump carries them, and with a problem what a '
    'restore has brought and could not make. Anybody may call it who may dump: SELECT on dumped_row_security is needed.';

SELECT pg_extension_config_dump('credits.dumped_row_security', 'WHERE false UNION ALL SELECT * FROM credits.row_security()');

-- What is said here is run, as SQL, by whoever restores: nobody else may say it, whatever is granted. Row-level security would
-- have a role without BYPASSRLS fail to dump the table.
CREATE FUNCTION credits.refuse_others() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT pg_has_role(current_user, (SELECT c.relowner FROM pg_class c WHERE c.oid = TG_RELID), 'USAGE') THEN
        RAISE EXCEPTION '% is written by its owner and by superusers only', TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege',
                  HINT = 'Change row-level security with CREATE POLICY, ALTER POLICY, DROP POLICY and ALTER TABLE.';
    END IF;
    RETURN NULL;
END
    $$;
COMMENT ON FUNCTION credits.refuse_others() IS
    'Trigger: refuses changes by anybody but the owner of the table and superusers, with SQLSTATE 42501.';

CREATE TRIGGER owner_only
    BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON credits.dumped_row_security
    FOR EACH STATEMENT EXECUTE FUNCTION credits.refuse_others();
ALTER TABLE credits.dumped_row_security ENABLE ALWAYS TRIGGER owner_only;
COMMENT ON TRIGGER owner_only ON credits.dumped_row_security IS
    'Refuses changes by others, whatever they are granted.';

CREATE FUNCTION credits.make_row_security() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    hint CONSTANT text := 'When that is mended: SELECT * FROM credits.restore_row_security().';
    here credits.dumped_row_security;
    is_here boolean;
    known_roles text[];
    grantees text;
    statement text;
BEGIN
    IF TG_RELID <> 'credits.dumped_row_security'::regclass OR TG_OP <> 'INSERT' OR TG_WHEN <> 'BEFORE' OR TG_LEVEL <> 'ROW' THEN
        RAISE EXCEPTION 'make_row_security was not called by the trigger that it is made for'
            USING ERRCODE = 'trigger_protocol_violated';
    END IF;
    -- What another database could not make is no concern of this one.
    IF EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = pg_backend_pid() AND a.backend_type LIKE 'logical replication%') THEN
        RETURN NULL;
    END IF;
    DELETE FROM credits.dumped_row_security d
    WHERE (d.table_name, d.kind, d.policy) = (NEW.table_name, NEW.kind, NEW.policy);
    SELECT s.* INTO here FROM credits.row_security() s
    WHERE (s.table_name, s.kind, s.policy) = (NEW.table_name, NEW.kind, NEW.policy);
    is_here := FOUND;

    IF NEW.kind <> 'policy' THEN
        IF NOT is_here THEN
            EXECUTE format('ALTER TABLE credits.%I %s ROW LEVEL SECURITY', NEW.table_name, upper(NEW.kind));
        END IF;
        RETURN NULL;
    END IF;

    SELECT array_agg(r.rolname::text ORDER BY r.rolname::text), string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname::text)
    INTO known_roles, grantees
    FROM pg_roles r WHERE r.rolname = ANY (NEW.roles);
    grantees := CASE WHEN NEW.roles IS NULL THEN 'PUBLIC' ELSE grantees END;
    statement := format('CREATE POLICY %I ON credits.%I AS %s FOR %s TO %s', NEW.policy, NEW.table_name,
                        CASE WHEN NEW.is_permissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END, NEW.command, grantees);

    IF is_here THEN
        IF (here.is_permissive, here.command, here.roles, here.using_expression, here.check_expression)
           IS NOT DISTINCT FROM (NEW.is_permissive, NEW.command, NEW.roles, NEW.using_expression, NEW.check_expression) THEN
            RETURN NULL;
        END IF;
        -- What was made in its place when it could not be made: for fewer roles, or denying everything.
        IF NEW.problem IS NOT NULL AND (here.is_permissive, here.command) = (NEW.is_permissive, NEW.command) AND (
               here.roles <@ NEW.roles AND (here.using_expression, here.check_expression)
                                           IS NOT DISTINCT FROM (NEW.using_expression, NEW.check_expression)
               OR NOT here.is_permissive AND 'false' = ALL (array_remove(ARRAY[here.using_expression, here.check_expression], NULL))) THEN
            EXECUTE format('DROP POLICY %I ON credits.%I', NEW.policy, NEW.table_name);
        ELSE
            RAISE WARNING 'policy "%" on % stays as it is here: the dump has another one', NEW.policy, NEW.table_name;
            RETURN NULL;
        END IF;
    END IF;

    NEW.problem := (SELECT format('role "%s" does not exist', string_agg(n.name, '", "' ORDER BY n.name))
                    FROM unnest(NEW.roles) AS n(name)
                    WHERE n.name <> ALL (coalesce(known_roles, '{}')) HAVING count(*) > 0);
    IF grantees IS NOT NULL THEN
        BEGIN
            EXECUTE concat(statement, ' USING (' || NEW.using_expression || ')', ' WITH CHECK (' || NEW.check_expression || ')');
        EXCEPTION WHEN OTHERS THEN
            NEW.problem := concat_ws('; ', NEW.problem, SQLERRM);
            -- Without a permissive policy rows stay hidden; without a restrictive one they would be shown.
            IF NOT NEW.is_permissive THEN
                EXECUTE concat(statement, CASE WHEN NEW.command <> 'INSERT' THEN ' USING (false)' END,
                               CASE WHEN NEW.command IN ('ALL', 'INSERT', 'UPDATE') THEN ' WITH CHECK (false)' END);
            END IF;
        END;
    END IF;
    IF NEW.problem IS NULL THEN
        RETURN NULL;
    END IF;
    RAISE WARNING 'policy "%" on % cannot be made as it was: %', NEW.policy, NEW.table_name, NEW.problem USING HINT = hint;
    RETURN NEW;
END
    $$;
COMMENT ON FUNCTION credits.make_row_security() IS
    'Trigger: makes what a row of dumped_row_security says, unless it is there already, and keeps the row only if that fails. A policy '
    'for a role that does not exist is made for the others; one that cannot be made is left out if it is permissive, and denies '
    'everything if it is restrictive; each with a warning. One of another definition that is there already stays.';

-- ALWAYS: whatever session_replication_role a restore has set.
CREATE TRIGGER make_row_security
    BEFORE INSERT ON credits.dumped_row_security
    FOR EACH ROW EXECUTE FUNCTION credits.make_row_security();
ALTER TABLE credits.dumped_row_security ENABLE ALWAYS TRIGGER make_row_security;
COMMENT ON TRIGGER make_row_security ON credits.dumped_row_security IS
    'Makes the row-level security that a restore brings.';

CREATE FUNCTION credits.restore_row_security() RETURNS SETOF credits.dumped_row_security
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    waiting credits.dumped_row_security;
BEGIN
    FOR waiting IN SELECT * FROM credits.dumped_row_security ORDER BY kind = 'policy', is_permissive, table_name, kind, policy LOOP
        -- The trigger makes it, and keeps the row if it cannot be made.
        INSERT INTO credits.dumped_row_security SELECT waiting.*;
    END LOOP;
    RETURN QUERY SELECT * FROM credits.dumped_row_security;
END
    $$;
COMMENT ON FUNCTION credits.restore_row_security() IS
    'Makes what a restore has brought and could not make then (a role was missing, or what a policy refers to); returns what still '
    'cannot be made, each with its problem. Errors: 42501 for anybody but the owner of dumped_row_security and superusers.';

REVOKE ALL ON credits.dumped_row_security FROM PUBLIC;
REVOKE ALL ON FUNCTION credits.refuse_others(), credits.make_row_security(), credits.restore_row_security(), credits.row_security()
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION credits.row_security() TO PUBLIC;

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
