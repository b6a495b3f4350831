-- Names without a schema are not looked up in the schema credits: ledger.sql says why.
SET LOCAL search_path = pg_catalog, pg_temp;

-- What a ledger needs to be one of many behind a router.

-- Bound when it is created: no search_path can change it. The remainder of a hash partition is that of the extended hash with this seed, to
-- which the server adds 0x49a0f4dd15e5a8e3; modulo 1024 that adds 227.
CREATE FUNCTION credits.bucket_of(user_id uuid) RETURNS int
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((uuid_hash_extended(user_id, 8816678312871386365) & 1023) + 227)::int & 1023;
COMMENT ON FUNCTION credits.bucket_of(uuid) IS
    'The bucket of an account, 0 to 1023: the remainder of a hash partition by user_id with modulus 1024. NULL for NULL.';

-- A bucket is given away while commits wait: what is read of it then must not depend on how many accounts there are. Holds are few, and often written: an
-- index would cost each a tenth of what it costs, so all are read, once. Checkpoints are written by the engine, which maintains no index of an expression: bucket_accounts finds those.
CREATE INDEX spending_limits_bucket_idx ON credits.spending_limits (credits.bucket_of(user_id));
CREATE INDEX spend_caps_bucket_idx ON credits.spend_caps (credits.bucket_of(user_id));
COMMENT ON INDEX credits.spending_limits_bucket_idx IS 'Finds the limits of a bucket that moves.';
COMMENT ON INDEX credits.spend_caps_bucket_idx IS 'Finds the caps of a bucket that moves.';

-- postgres_fdw does not send the bounds of a partition, so each of a router's partitions has a view that is no larger. The role that reads or
-- writes it is asked for its own privileges, and row-level security is its own.
CREATE FUNCTION credits.make_class_views(modulus int, remainder int) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    name text;
    is_table boolean;
    -- Name of the view, and what it is of.
    class text;
    source text;
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
        SELECT c.relkind = 'r' INTO is_table FROM pg_class c WHERE c.oid = ('credits.' || name)::regclass;
        class := format('%s_%s_%s', name, modulus, remainder);
        -- What is read is of a class that is here as a whole, as one snapshot sees it: a node keeps rows of buckets that have left.
        source := format('SELECT %st.* FROM credits.%I t WHERE credits.require_class(%s, %s)', CASE WHEN is_table THEN 't.ctid, ' END, name, modulus, remainder);
        IF is_table THEN
            -- A view of its own, that of what is written asks nothing of a row but its class: whether its bucket is here is asked by the commit. ctid, by
            -- which postgres_fdw finds the rows that it updates: a view may have a column of that name.
            EXECUTE format('CREATE OR REPLACE VIEW credits_classes.%I WITH (security_invoker = true) AS %s', 'whole_' || class, source);
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON credits_classes.%I TO PUBLIC', 'whole_' || class);
            source := format('SELECT t.* FROM credits_classes.%I t WHERE true', 'whole_' || class);
        END IF;
        -- The check option refuses a row of another class, which an UPDATE of user_id would make: postgres_fdw sends it as it stands.
        EXECUTE format('CREATE OR REPLACE VIEW credits_classes.%I WITH (security_invoker = true) AS %s AND credits.bucket_of(t.user_id) & %s = %s%s',
                       class, source, modulus - 1, remainder, CASE WHEN is_table THEN ' WITH LOCAL CHECK OPTION' END);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON credits_classes.%I TO PUBLIC', class);
    END LOOP;
END
    $$;
COMMENT ON FUNCTION credits.make_class_views(int, int) IS
    'For a router: makes a view of each table and view that has accounts, in the schema credits_classes, with the accounts whose bucket leaves this '
    'remainder. A caller of a view needs the privileges on the table or view below it. Reading a view raises LC003 if a bucket of the class is not '
    'here. Called again, it replaces the views and adds columns of a later version. 22004, 22023, 55000 if that schema is another role''s, 0A000 '
    'before Postgres 15. For the owner of the ledger.';

-- The seqs of all nodes are one series, of which a node gives out those that leave its number when divided by 1024: rows keep theirs when their
-- account moves. The sequence's step is no part of a dump; this row is, and has the restored ledger follow it.
CREATE TABLE credits.node (
    is_only     boolean NOT NULL DEFAULT true,
    node_number int     NOT NULL,

    CONSTRAINT node_pkey PRIMARY KEY (is_only),
    CONSTRAINT there_is_one CHECK (is_only),
    CONSTRAINT there_are_1024 CHECK (node_number BETWEEN 0 AND 1023)
) USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_scale_factor = 0);
COMMENT ON TABLE credits.node IS
    'The number of this ledger among the nodes behind a router, in its only row; empty without a router. Written by set_node_number.';
COMMENT ON COLUMN credits.node.is_only IS 'Always true: it keeps the table at one row.';
COMMENT ON COLUMN credits.node.node_number IS 'What each seq that this ledger gives out leaves when divided by 1,024.';
COMMENT ON CONSTRAINT there_is_one ON credits.node IS 'A ledger has one number.';
COMMENT ON CONSTRAINT there_are_1024 ON credits.node IS 'There are 1,024 numbers.';

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
    'Trigger: has seq follow the node''s number, above all that was given out.';

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
    'Gives this ledger a number among the nodes behind a router, 0 to 1023, which no other node may have. From now on each seq leaves that number when divided by 1,024, and is above '
    'all given out so far. Waits for transactions that have drawn a seq, unless the ledger has this number already. 22004, 22023, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.get_node_number() RETURNS int
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    numbers regclass := pg_get_serial_sequence('credits.credits_transactions', 'seq');
    last bigint;
BEGIN
    -- Who may read the table alone is told what it says.
    IF has_sequence_privilege(numbers, 'SELECT') THEN
        EXECUTE format('SELECT last_value FROM %s', numbers) INTO last;
    END IF;
    RETURN (SELECT n.node_number FROM credits.node n
            WHERE n.node_number = coalesce(last & 1023, n.node_number) AND (SELECT s.seqincrement FROM pg_sequence s WHERE s.seqrelid = numbers) = 1024);
END
    $$;
COMMENT ON FUNCTION credits.get_node_number() IS
    'The number that set_node_number has given; NULL if there is none, or if the sequence of the ledger was changed since and does not go by it.';

-- Which buckets are not here, on one of many nodes: accounts of these are refused, by commits and by whoever reads them.
CREATE TABLE credits.bucket_states (
    bucket      smallint NOT NULL,
    state       text     NOT NULL,
    copied_from text,
    copied_to   xid8,
    received    xid8,
    handover    jsonb,

    CONSTRAINT bucket_states_pkey PRIMARY KEY (bucket),
    CONSTRAINT there_are_1024 CHECK (bucket BETWEEN 0 AND 1023),
    CONSTRAINT state_is_known CHECK (state IN ('elsewhere', 'arriving', 'moving'))
) USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_scale_factor = 0);
COMMENT ON TABLE credits.bucket_states IS
    'The buckets of accounts that this node does not have, or not to itself; empty without a router. Written by disown_buckets and '
    'own_buckets, and by what moves buckets.';
COMMENT ON COLUMN credits.bucket_states.bucket IS 'Bucket, as bucket_of names it.';
COMMENT ON COLUMN credits.bucket_states.state IS
    'elsewhere: not here; arriving: not here yet; moving: here, but transactions that have written of it are not prepared. A bucket without a row is here.';
COMMENT ON COLUMN credits.bucket_states.copied_from IS
    'The ledger (get_ledger) that the bucket''s rows were last copied from; NULL if from none, or if they were purged since.';
COMMENT ON COLUMN credits.bucket_states.copied_to IS
    'All rows of transactions of that ledger below this one are here; NULL if none are.';
COMMENT ON COLUMN credits.bucket_states.received IS
    'The position of the handover that was received last: all that it lists is here; NULL if none was.';
COMMENT ON COLUMN credits.bucket_states.handover IS
    'Of a bucket that was given away: what the node that it is given to must have; on a standby that took over, perhaps its number alone. Otherwise NULL.';
COMMENT ON CONSTRAINT there_are_1024 ON credits.bucket_states IS 'There are 1,024 buckets.';
COMMENT ON CONSTRAINT state_is_known ON credits.bucket_states IS 'The three states of a bucket that is not simply here.';

CREATE FUNCTION credits.announce_buckets() RETURNS trigger
    LANGUAGE c
    AS 'MODULE_PATHNAME', 'announce_buckets';
COMMENT ON FUNCTION credits.announce_buckets() IS
    'Trigger: has all sessions read bucket_states again when the transaction has committed.';

CREATE TRIGGER announce_buckets
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON credits.bucket_states
    FOR EACH STATEMENT EXECUTE FUNCTION credits.announce_buckets();
ALTER TABLE credits.bucket_states ENABLE ALWAYS TRIGGER announce_buckets;
COMMENT ON TRIGGER announce_buckets ON credits.bucket_states IS 'Has all sessions read the table again.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.bucket_states
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.bucket_states ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.bucket_states IS 'Skips the buckets of another node, which replication brings.';

SELECT pg_extension_config_dump('credits.bucket_states', '');

-- By the number of the handover, a standby that has lost a tombstone is given one again: what the node that took the bucket then gives away is numbered above it, whatever its own
-- standby has lost.
CREATE TABLE credits.taken_buckets (
    bucket smallint NOT NULL,
    seq    bigint   NOT NULL,

    CONSTRAINT taken_buckets_pkey PRIMARY KEY (bucket)
) USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_scale_factor = 0);
COMMENT ON TABLE credits.taken_buckets IS
    'The buckets that this node has taken from others. Written by activate_bucket.';
COMMENT ON COLUMN credits.taken_buckets.bucket IS 'Bucket, as bucket_of names it.';
COMMENT ON COLUMN credits.taken_buckets.seq IS 'The number of the handover by which it was taken last.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.taken_buckets
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.taken_buckets ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.taken_buckets IS 'Skips what another node has taken, which replication brings.';

SELECT pg_extension_config_dump('credits.taken_buckets', '');

-- A dump has the accounts that are here: a restored commit with rows of others would be refused. The first condition is asked once, and is true of a ledger
-- that has all accounts. In plain SQL: pg_dump runs it whatever version the library is.
DO $$
DECLARE
    dumped regclass;
BEGIN
    FOREACH dumped IN ARRAY ARRAY['credits.credits_transactions', 'credits.holds', 'credits.spending_limits', 'credits.spend_caps']::regclass[] LOOP
        PERFORM pg_extension_config_dump(dumped, 'WHERE (SELECT NOT EXISTS (SELECT FROM credits.bucket_states s WHERE s.state <> ''moving''))'
            ' OR credits.bucket_of(user_id) NOT IN (SELECT s.bucket FROM credits.bucket_states s WHERE s.state <> ''moving'')');
    END LOOP;
END
$$;

-- The feed of a node has the rows that came into being there. It leaves out those that were copied there with an account: the node that they come from
-- has had them in its feed. The transaction that copied them tells, since a purge takes rows of this node away, too, which come back as copies.
CREATE TABLE credits.copies (
    xact_id xid8 NOT NULL,

    CONSTRAINT copies_pkey PRIMARY KEY (xact_id)
) USING heap WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_analyze_scale_factor = 0);
COMMENT ON TABLE credits.copies IS
    'Derived: the transactions that have copied rows of another node into the ledger. transactions_after leaves their rows out. Not for clients.';
COMMENT ON COLUMN credits.copies.xact_id IS 'Transaction, as xact_id of the rows.';

CREATE TRIGGER leave_out_replicated
    BEFORE INSERT OR UPDATE OR DELETE ON credits.copies
    FOR EACH ROW EXECUTE FUNCTION credits.leave_out();
ALTER TABLE credits.copies ENABLE REPLICA TRIGGER leave_out_replicated;
COMMENT ON TRIGGER leave_out_replicated ON credits.copies IS 'Skips the transactions of another ledger, which replication brings.';

CREATE FUNCTION credits.disown_buckets(buckets int[]) RETURNS int
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    occupied int;
    disowned int;
BEGIN
    IF buckets IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument buckets must not be NULL';
    ELSIF EXISTS (SELECT FROM unnest(buckets) b WHERE b IS NULL OR b NOT BETWEEN 0 AND 1023) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'argument buckets must have numbers from 0 to 1023 only';
    END IF;
    -- Waits for every transaction that has written, prepared ones too, and lets nobody write until this commits.
    LOCK TABLE credits.credits_transactions, credits.holds, credits.spending_limits, credits.spend_caps IN SHARE ROW EXCLUSIVE MODE;
    SELECT credits.bucket_of(a.user_id) INTO occupied
    FROM (SELECT t.user_id FROM credits.credits_transactions t UNION ALL SELECT h.user_id FROM credits.holds h
          UNION ALL SELECT l.user_id FROM credits.spending_limits l UNION ALL SELECT c.user_id FROM credits.spend_caps c) a
    WHERE credits.bucket_of(a.user_id) = ANY (buckets) LIMIT 1;
    IF occupied IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s has accounts here', occupied);
    END IF;
    INSERT INTO credits.bucket_states AS s (bucket, state) SELECT DISTINCT b, 'elsewhere' FROM unnest(buckets) b
    ON CONFLICT (bucket) DO NOTHING;
    GET DIAGNOSTICS disowned = ROW_COUNT;
    RETURN disowned;
END
    $$;
COMMENT ON FUNCTION credits.disown_buckets(int[]) IS
    'For a new node: says that these buckets are on other nodes. From the commit on, commits and reads of their accounts are refused with LC003. Returns how many were here. Waits for all '
    'transactions that have written, and writers wait for it. Costs a scan of the ledger. 22004, 22023, 55000 if one of them has accounts here, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.own_buckets(buckets int[]) RETURNS int
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    owned int;
BEGIN
    IF buckets IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument buckets must not be NULL';
    ELSIF EXISTS (SELECT FROM unnest(buckets) b WHERE b IS NULL OR b NOT BETWEEN 0 AND 1023) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'argument buckets must have numbers from 0 to 1023 only';
    END IF;
    DELETE FROM credits.bucket_states s WHERE s.bucket = ANY (buckets) AND s.state = 'elsewhere' AND s.handover IS NULL;
    GET DIAGNOSTICS owned = ROW_COUNT;
    RETURN owned;
END
    $$;
COMMENT ON FUNCTION credits.own_buckets(int[]) IS
    'Takes back disown_buckets: these buckets are here. Returns how many were not. Leaves out those that were given away. No other node may have '
    'them, which nothing checks. 22004, 22023, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.owns_bucket(bucket int) RETURNS boolean
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN credits.bucket_state(bucket) IN ('here', 'moving');
END
    $$;
COMMENT ON FUNCTION credits.owns_bucket(int) IS
    'Whether the accounts of this bucket are here. 22004, 22023, 42501 without SELECT on bucket_states.';

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
