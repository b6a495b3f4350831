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
        -- ctid, by which postgres_fdw finds the rows that it updates: a view may have a column of that name.
        EXECUTE format('CREATE OR REPLACE VIEW credits_classes.%I WITH (security_invoker = true) AS SELECT %st.* FROM credits.%I t'
                       ' WHERE credits.bucket_of(t.user_id) & %s = %s',
                       format('%s_%s_%s', name, modulus, remainder),
                       (SELECT 't.ctid, ' FROM pg_class c WHERE c.oid = ('credits.' || name)::regclass AND c.relkind = 'r'),
                       name, modulus - 1, remainder);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON credits_classes.%I TO PUBLIC', format('%s_%s_%s', name, modulus, remainder));
    END LOOP;
END
    $$;
COMMENT ON FUNCTION credits.make_class_views(int, int) IS
    'For a router: makes views in the schema credits_classes of the tables and views that have accounts, each of those whose bucket leaves this remainder. Who '
    'uses them needs the privileges on what they are of. Again to have columns of a later version. 22004, 22023, 55000 if that schema is another role''s, 0A000 before Postgres 15. For the owner '
    'of the ledger.';

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
