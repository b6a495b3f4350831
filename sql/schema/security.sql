-- Names without a schema are not looked up in the schema credits: ledger.sql says why.
SET LOCAL search_path = pg_catalog, pg_temp;

-- pg_dump leaves the tables of an extension to CREATE EXTENSION, and with them what a user has put on them: policies, ENABLE and FORCE ROW
-- LEVEL SECURITY. It does dump their rows, by a query to which it appends the condition that the extension has registered. The condition of
-- dumped_row_security adds the rows of the function row_security, which reads the catalogs at that moment: nothing has to be stored when a
-- policy changes. In a restore, a trigger makes the policy of each row that is inserted; the row stays only if that fails.

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
    'Carries row-level security of the ledger through pg_dump: a dump has the rows of row_security() in place of its own, and a '
    'restore makes each policy when its row is inserted. Rows that stay could not be made: see restore_row_security. Only its '
    'owner and superusers write to it.';
COMMENT ON COLUMN credits.dumped_row_security.table_name IS 'Table of the schema credits.';
COMMENT ON COLUMN credits.dumped_row_security.kind IS 'enable or force (row-level security of the table), or policy.';
COMMENT ON COLUMN credits.dumped_row_security.policy IS 'Name of the policy; empty for enable and force.';
COMMENT ON COLUMN credits.dumped_row_security.is_permissive IS 'Whether the policy is permissive; it is restrictive otherwise.';
COMMENT ON COLUMN credits.dumped_row_security.command IS 'Command that the policy is for: ALL, SELECT, INSERT, UPDATE or DELETE.';
COMMENT ON COLUMN credits.dumped_row_security.roles IS 'Roles that the policy is for; NULL for PUBLIC.';
COMMENT ON COLUMN credits.dumped_row_security.using_expression IS 'USING, if the policy has it.';
COMMENT ON COLUMN credits.dumped_row_security.check_expression IS 'WITH CHECK, if the policy has it.';
COMMENT ON COLUMN credits.dumped_row_security.problem IS 'Why the policy could not be made.';
COMMENT ON CONSTRAINT kind_is_known ON credits.dumped_row_security IS
    'A row says ENABLE or FORCE, or holds a policy.';

-- Not a view, because pg_dump allows that condition no view but the system's. Rows are ordered so that a restore in which each is a
-- transaction is safe at each moment: what closes the table comes before what opens it.
CREATE FUNCTION credits.row_security() RETURNS SETOF credits.dumped_row_security
    LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT s.*
        FROM (
            SELECT d.table_name, d.kind, d.policy, d.is_permissive, d.command, d.roles, d.using_expression, d.check_expression,
                   -- No problem is recorded where the trigger below did not fire.
                   coalesce(d.problem, 'it was not tried')
            FROM credits.dumped_row_security d
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
        ) s (table_name, kind, policy, is_permissive, command, roles, using_expression, check_expression, problem)
        ORDER BY s.kind = 'policy', s.is_permissive, s.table_name, s.kind, s.policy
    $$;
COMMENT ON FUNCTION credits.row_security() IS
    'Row-level security of the ledger, as a dump carries it: ENABLE, FORCE and policies, and, with a problem, policies that a '
    'restore could not make. Anybody may call it who may SELECT from dumped_row_security, as whoever dumps must.';

SELECT pg_extension_config_dump('credits.dumped_row_security', 'WHERE false UNION ALL SELECT * FROM credits.row_security()');

-- Rows of this table are executed as SQL by the role that restores. So only the owner and superusers may write them, whatever is granted. A
-- trigger says so, since row-level security would keep a role without BYPASSRLS from dumping the table.
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
    lockable CONSTANT regclass[] := ARRAY(
        SELECT c.oid FROM pg_extension e JOIN pg_class c ON c.oid = ANY (e.extconfig)
        WHERE e.extname = 'credits_ledger' AND c.relkind = 'r' AND c.oid <> TG_RELID AND pg_has_role(current_user, c.relowner, 'USAGE')
        ORDER BY c.oid);
    contested regclass := lockable[1];
    is_waiting boolean;
BEGIN
    IF TG_RELID <> 'credits.dumped_row_security'::regclass OR TG_OP <> 'INSERT' OR TG_WHEN <> 'BEFORE' OR TG_LEVEL <> 'ROW' THEN
        RAISE EXCEPTION 'make_row_security was not called by the trigger that it is made for'
            USING ERRCODE = 'trigger_protocol_violated';
    END IF;
    -- A publisher's row is about a policy that the publisher could not make: it is skipped.
    IF EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = pg_backend_pid() AND a.backend_type LIKE 'logical replication%') THEN
        RETURN NULL;
    END IF;

    -- The rows of one COPY can concern several tables, each locked to the end. Other jobs of the restore fill these tables meanwhile: a commit
    -- of theirs that has one of them can need any other. So all are locked before the first is changed, and without having one while it waits
    -- for another: as std::lock of C++ does, it waits for one, tries the rest, and lets all go if one of them is not free.
    LOOP
        EXIT WHEN contested IS NULL;
        BEGIN
            is_waiting := true;
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', contested);
            is_waiting := false;
            FOREACH contested IN ARRAY lockable LOOP
                EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', contested);
            END LOOP;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            -- lock_timeout has the same SQLSTATE.
            IF is_waiting THEN
                RAISE;
            END IF;
        END;
    END LOOP;

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
        -- The policy that an earlier attempt made in its place, for fewer roles or denying everything, is replaced.
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
            -- Leaving a permissive policy out hides rows; leaving a restrictive one out would show them, so one that denies everything takes its place.
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
    'Trigger: makes the policy, ENABLE or FORCE of an inserted row, unless it is there already, and keeps the row only if that '
    'fails. A policy for a role that does not exist is made for its other roles. One that cannot be made is left out if it is '
    'permissive, and denies everything if it is restrictive. Each with a warning. A policy of that name with another definition '
    'stays as it is. Locks the ledger, holds, spending_limits and spend_caps until the transaction ends. Errors: 55P03 if '
    'lock_timeout is set and passes, 39P01 if it is not the trigger of that table.';

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
        -- The trigger makes the policy, and keeps the row if that fails.
        INSERT INTO credits.dumped_row_security SELECT waiting.*;
    END LOOP;
    RETURN QUERY SELECT * FROM credits.dumped_row_security;
END
    $$;
COMMENT ON FUNCTION credits.restore_row_security() IS
    'Makes the policies that a restore could not make, because a role or what they refer to was missing. Returns those that still'
    ' cannot be made, each with its problem. Errors: 42501 for anybody but the owner of dumped_row_security and superusers.';

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
