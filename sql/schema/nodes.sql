-- Names without a schema are not looked up in the schema credits: views.sql says why.
SET LOCAL search_path = pg_catalog, pg_temp;

-- What a ledger needs to be one of many behind a router.

-- Bound when it is created: no search_path can change it. The remainder of a hash partition is that of the extended hash with this seed, to
-- which the server adds 0x49a0f4dd15e5a8e3; modulo 1024 that adds 227.
CREATE FUNCTION credits.bucket_of(user_id uuid) RETURNS int
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((uuid_hash_extended(user_id, 8816678312871386365) & 1023) + 227)::int & 1023;
COMMENT ON FUNCTION credits.bucket_of(uuid) IS
    'The bucket of an account, 0 to 1023: the remainder of a hash partition by user_id with modulus 1024. NULL for NULL.';

-- postgres_fdw does not send the bounds of a partition, so each of a router's partitions has a view that is no larger. The role that reads or
-- writes it is asked for its own privileges, and row-level security is its own.
CREATE FUNCTION credits.make_class_views(modulus int, remainder int) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    name text;
    is_table boolean;
BEGIN
    IF modulus IS NULL OR remainder IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument modulus or remainder must not be NULL';
    ELSIF modulus NOT BETWEEN 1 AND 1024 OR modulus & (modulus - 1) <> 0 OR remainder NOT BETWEEN 0 AND modulus - 1 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('there is no class of buckets with modulus %s and remainder %s', modulus, remainder),
            HINT = 'A modulus is a power of two, at most 1024; a remainder is below it.';
    ELSIF current_setting('server_version_num')::int < 150000 THEN
        RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a node behind a router needs Postgres 15 or later',
            DETAIL = 'Before, a view reads with its owner''s privileges.';
    END IF;
    -- Two routers may ask at once.
    PERFORM pg_advisory_xact_lock(hashtextextended('credits.make_class_views', 0));
    -- Without a notice that it is there, of which PL/Proxy makes a warning.
    IF to_regnamespace('credits_classes') IS NULL THEN
        CREATE SCHEMA credits_classes;
        GRANT USAGE ON SCHEMA credits_classes TO PUBLIC;
    END IF;
    -- Another owner could put something else in the place of a view.
    IF (SELECT n.nspowner <> r.oid FROM pg_namespace n, pg_roles r WHERE n.nspname = 'credits_classes' AND r.rolname = current_user) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'the schema credits_classes is another role''s',
            HINT = 'Call this as that role, or have it owned by yours.';
    END IF;
    FOREACH name IN ARRAY ARRAY['balances', 'batches', 'credits_transactions', 'holds', 'spend_cap_states', 'spend_caps', 'spending_limits', 'thresholds'] LOOP
        -- ctid, by which postgres_fdw finds the rows that it updates: a view may have a column of that name. The check option refuses a row of
        -- another class, which an UPDATE of user_id would make: postgres_fdw sends it as it stands.
        SELECT c.relkind = 'r' INTO is_table FROM pg_class c WHERE c.oid = ('credits.' || name)::regclass;
        EXECUTE format('CREATE OR REPLACE VIEW credits_classes.%I WITH (security_invoker = true) AS SELECT %st.* FROM credits.%I t'
                       ' WHERE credits.bucket_of(t.user_id) & %s = %s%s',
                       format('%s_%s_%s', name, modulus, remainder), CASE WHEN is_table THEN 't.ctid, ' END, name, modulus - 1, remainder,
                       CASE WHEN is_table THEN ' WITH LOCAL CHECK OPTION' END);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON credits_classes.%I TO PUBLIC', format('%s_%s_%s', name, modulus, remainder));
    END LOOP;
END
    $$;
COMMENT ON FUNCTION credits.make_class_views(int, int) IS
    'For a router: makes views in the schema credits_classes of the tables and views that have accounts, each of those whose bucket leaves this remainder. Who '
    'uses them needs the privileges on what they are of. Again to have columns of a later version. 22004, 22023, 55000 if that schema is another role''s, 0A000 before Postgres 15. For the owner '
    'of the ledger.';

-- Nodes give out numbers of one series, of which each has its residue: rows keep theirs when their account moves. The series of the column is no
-- part of a dump; this row is, and has the restored ledger follow it.
CREATE TABLE credits.node (
    is_only     boolean NOT NULL DEFAULT true,
    node_number int     NOT NULL,

    CONSTRAINT node_pkey PRIMARY KEY (is_only),
    CONSTRAINT there_is_one CHECK (is_only),
    CONSTRAINT number_is_residue CHECK (node_number BETWEEN 0 AND 1023)
) USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_scale_factor = 0);
COMMENT ON TABLE credits.node IS
    'The number of this ledger among the nodes behind a router, in its only row; empty without a router. Written by set_node_number.';
COMMENT ON COLUMN credits.node.is_only IS 'Always true: it keeps the table at one row.';
COMMENT ON COLUMN credits.node.node_number IS 'seq of the rows that this ledger numbers leaves it when divided by 1,024.';
COMMENT ON CONSTRAINT there_is_one ON credits.node IS 'A ledger has one number.';
COMMENT ON CONSTRAINT number_is_residue ON credits.node IS 'There are 1,024 numbers.';

CREATE FUNCTION credits.number_by_node() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    numbers regclass := pg_get_serial_sequence('credits.credits_transactions', 'seq');
    last bigint;
BEGIN
    IF TG_RELID <> 'credits.node'::regclass THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'number_by_node() is a trigger of credits.node only';
    END IF;
    EXECUTE format('SELECT last_value FROM %s', numbers) INTO last;
    IF (SELECT s.seqincrement FROM pg_sequence s WHERE s.seqrelid = numbers) = 1024 AND last & 1023 = NEW.node_number THEN
        RETURN NULL;
    END IF;
    -- Waits for whoever has drawn a number, and lets nobody draw one until this commits.
    EXECUTE format('ALTER SEQUENCE %s INCREMENT 1024', numbers);
    EXECUTE format('SELECT last_value FROM %s', numbers) INTO last;
    PERFORM setval(numbers, last + 1 + ((NEW.node_number - last - 1) & 1023), false);
    RETURN NULL;
END
    $$;
COMMENT ON FUNCTION credits.number_by_node() IS
    'Trigger: has seq go on with the residue of the node''s number, above all that was given out.';

CREATE TRIGGER number_by_node
    AFTER INSERT OR UPDATE ON credits.node
    FOR EACH ROW EXECUTE FUNCTION credits.number_by_node();
COMMENT ON TRIGGER number_by_node ON credits.node IS 'Has the rows of this ledger numbered by its number.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.node
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.node ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.node IS 'Skips the number of another ledger, which replication brings.';

SELECT pg_extension_config_dump('credits.node', '');

CREATE FUNCTION credits.set_node_number(node_number int) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF node_number IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument node_number must not be NULL';
    ELSIF node_number NOT BETWEEN 0 AND 1023 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('node_number must be 0 to 1023, not %s', node_number);
    END IF;
    INSERT INTO credits.node AS n (node_number) VALUES (set_node_number.node_number)
    ON CONFLICT (is_only) DO UPDATE SET node_number = excluded.node_number;
END
    $$;
COMMENT ON FUNCTION credits.set_node_number(int) IS
    'Gives this ledger a number among the nodes behind a router, 0 to 1023, which no other node may have: from now on seq leaves it when divided by 1,024, above '
    'all given out so far. Waits for transactions that have drawn a number, where the number is another one than before. 22004, 22023, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.get_node_number() RETURNS int
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT n.node_number FROM credits.node n
        WHERE (SELECT s.seqincrement FROM pg_sequence s
               WHERE s.seqrelid = pg_get_serial_sequence('credits.credits_transactions', 'seq')::regclass) = 1024
    $$;
COMMENT ON FUNCTION credits.get_node_number() IS
    'The number that set_node_number has given; NULL if there is none, or if the sequence of the ledger was changed since and does not go by it.';

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
