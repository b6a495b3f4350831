-- The map is the tables nodes and buckets. Triggers make from them, in the transaction that changes them, what leads to the nodes: a server of
-- postgres_fdw for each node, a cluster of PL/Proxy with a partition for each bucket, and for each routed table partitions whose bounds
-- are residue classes of buckets. Each step compares what is there with what the map says, so it can be repeated.

CREATE FUNCTION credits_routes.connection_options(n credits.nodes) RETURNS TABLE (name text, value text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT o.name, o.value
        FROM (SELECT 1, 'host', n.host UNION ALL SELECT 2, 'port', n.port::text UNION ALL SELECT 3, 'dbname', n.dbname
              UNION ALL SELECT 4, key, value FROM jsonb_each_text(n.options)) o (place, name, value)
        ORDER BY o.place, o.name
    $$;
COMMENT ON FUNCTION credits_routes.connection_options(credits.nodes) IS 'How libpq reaches a node, without a user.';

-- PL/Proxy shares a connection among equal strings.
CREATE FUNCTION credits_routes.connection_string(n credits.nodes) RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT string_agg(format('%s=''%s''', o.name, replace(replace(o.value, E'\\', E'\\\\'), '''', E'\\''')), ' ')
        FROM credits_routes.connection_options(n) o
    $$;
COMMENT ON FUNCTION credits_routes.connection_string(credits.nodes) IS 'How libpq reaches a node, without a user, as a connection string.';

-- Writes CREATE SERVER or ALTER SERVER so that the server has these options and no others; only what differs.
CREATE FUNCTION credits_routes.set_server_options(server name, wrapper name, wanted jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    present jsonb;
    changes text;
BEGIN
    SELECT coalesce(jsonb_object_agg(o.option_name, o.option_value) FILTER (WHERE o.option_name IS NOT NULL), '{}')
    INTO present
    FROM pg_foreign_server s LEFT JOIN LATERAL pg_options_to_table(s.srvoptions) o ON true
    WHERE s.srvname = server GROUP BY s.oid;
    IF present IS NULL THEN
        SELECT string_agg(format('%I %L', w.key, w.value), ', ') INTO changes FROM jsonb_each_text(wanted) w;
        EXECUTE format('CREATE SERVER %I FOREIGN DATA WRAPPER %I OPTIONS (%s)', server, wrapper, changes);
        RETURN;
    END IF;
    SELECT string_agg(c.change, ', ') INTO changes
    FROM (
        SELECT format('%s %I %L', CASE WHEN present ? w.key THEN 'SET' ELSE 'ADD' END, w.key, w.value)
        FROM jsonb_each_text(wanted) w WHERE present ->> w.key IS DISTINCT FROM w.value
        UNION ALL
        SELECT format('DROP %I', p.key) FROM jsonb_each_text(present) p WHERE NOT wanted ? p.key
    ) c (change);
    IF changes IS NOT NULL THEN
        EXECUTE format('ALTER SERVER %I OPTIONS (%s)', server, changes);
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.set_server_options(name, name, jsonb) IS 'Makes a foreign server, or changes its options to these.';

-- The nodes' servers and the cluster have the same user mappings.
CREATE FUNCTION credits_routes.servers() RETURNS TABLE (server oid, name name)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT s.oid, s.srvname FROM pg_foreign_server s
        WHERE s.srvname = 'credits_nodes' OR s.srvname IN (SELECT credits_routes.server_of(n.node) FROM credits.nodes n)
        ORDER BY s.srvname
    $$;
COMMENT ON FUNCTION credits_routes.servers() IS 'The cluster and the nodes'' servers, as far as they are there.';

CREATE FUNCTION credits_routes.map_user(who text, server name, node_role text, password text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    EXECUTE format('CREATE USER MAPPING FOR %s SERVER %I OPTIONS (user %L%s%s)', who, server, node_role,
                   CASE WHEN password IS NOT NULL THEN format(', password %L', password) END,
                   -- postgres_fdw wants a password of who is no superuser, unless a superuser says that none is needed.
                   CASE WHEN password IS NULL AND server <> 'credits_nodes' THEN ', password_required ''false''' END);
    IF server = 'credits_nodes' THEN
        EXECUTE format('GRANT USAGE ON FOREIGN SERVER %I TO %s', server, who);
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.map_user(text, name, text, text) IS 'Lets a role in to one server.';

-- Roles that have been let in are let in to a server that is added later.
CREATE FUNCTION credits_routes.copy_user_mappings() RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT credits_routes.map_user(CASE m.umuser WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(m.umuser)) END, s.name,
                                       o.options ->> 'user', o.options ->> 'password')
        FROM (SELECT DISTINCT ON (m.umuser) m.umuser, m.umoptions
              FROM pg_user_mapping m JOIN credits_routes.servers() s ON s.server = m.umserver ORDER BY m.umuser, s.name) m
        CROSS JOIN LATERAL (SELECT jsonb_object_agg(o.option_name, o.option_value) FROM pg_options_to_table(m.umoptions) o) o (options)
        CROSS JOIN credits_routes.servers() s
        WHERE NOT EXISTS (SELECT FROM pg_user_mapping x WHERE x.umserver = s.server AND x.umuser = m.umuser)
    $$;
COMMENT ON FUNCTION credits_routes.copy_user_mappings() IS 'Gives each server the user mappings that it lacks and another has.';

-- The cluster has a partition for each bucket, then one for each number that a node may have. By these a node is called that has no buckets, too. One whose
-- number no node has leads where the bucket of that number does.
CREATE FUNCTION credits_routes.apply_cluster() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM credits.buckets) THEN
        PERFORM credits_routes.set_server_options('credits_nodes', 'plproxy', (
            WITH node AS MATERIALIZED (SELECT n.node, n.node_number, credits_routes.connection_string(n) AS string FROM credits.nodes n),
            -- Functions follow as soon as a bucket is active; the tables follow when nobody uses them.
            bucket AS (SELECT b.bucket, coalesce(m.to_node, b.node) AS node FROM credits.buckets b LEFT JOIN credits.moves m ON m.bucket = b.bucket AND m.state = 'active')
            SELECT jsonb_object_agg('p' || p.place, p.string)
            FROM (SELECT b.bucket, n.string FROM bucket b JOIN node n USING (node)
                  UNION ALL
                  SELECT 1024 + b.bucket, coalesce(own.string, n.string)
                  FROM bucket b JOIN node n USING (node) LEFT JOIN node own ON own.node_number = b.bucket) p (place, string)));
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.apply_cluster() IS 'Has the cluster of PL/Proxy lead each bucket to its node.';

CREATE FUNCTION credits_routes.apply_nodes() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    gone name;
BEGIN
    PERFORM credits_routes.require_libpq_options(ARRAY(SELECT format('%s=%s', o.key, o.value) FROM credits.nodes n, jsonb_each_text(n.options) o));
    FOR gone IN
        SELECT s.srvname FROM pg_foreign_server s
        WHERE starts_with(s.srvname, 'credits_node_')
          AND NOT EXISTS (SELECT FROM credits.nodes n WHERE credits_routes.server_of(n.node) = s.srvname)
    LOOP
        EXECUTE format('DROP SERVER %I CASCADE', gone);
    END LOOP;
    PERFORM credits_routes.set_server_options(
        credits_routes.server_of(n.node), 'postgres_fdw',
        (SELECT jsonb_object_agg(o.name, o.value) FROM credits_routes.connection_options(n) o)
        || jsonb_build_object('async_capable', 'true', 'batch_size', '100', 'fetch_size', '1000', 'parallel_commit', 'true'))
    FROM credits.nodes n;
    PERFORM credits_routes.apply_cluster();
    PERFORM credits_routes.copy_user_mappings();
    RETURN NULL;
END
    $$;
COMMENT ON FUNCTION credits_routes.apply_nodes() IS 'Trigger: applies a change of nodes.';

-- The fewest residue classes such that each is on one node: (1, 0) if one node has everything, 1,024 of them at worst. A bucket that is about to leave
-- its node is a class of its own: while no node has it, reads of this class alone are refused.
CREATE FUNCTION credits_routes.classes(moved int DEFAULT NULL, new_node text DEFAULT NULL) RETURNS TABLE (modulus int, remainder int, node text)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        WITH map AS (
            SELECT b.bucket, CASE WHEN b.bucket = moved THEN new_node ELSE b.node END AS node FROM credits.buckets b
        ), leaving AS (
            SELECT b.bucket FROM map b JOIN credits.moves m USING (bucket) WHERE m.state NOT IN ('undoing', 'done', 'undone') AND m.to_node <> b.node
        ), class AS (
            SELECT m.modulus, b.bucket % m.modulus AS remainder, min(b.node) AS node,
                   min(b.node) = max(b.node) AND (m.modulus = 1024 OR count(l.bucket) = 0) AS is_whole
            FROM map b LEFT JOIN leaving l USING (bucket) CROSS JOIN (SELECT 1 << bits FROM generate_series(0, 10) bits) m (modulus)
            GROUP BY 1, 2
        )
        SELECT c.modulus, c.remainder, c.node
        FROM class c
        LEFT JOIN class larger ON larger.modulus = c.modulus / 2 AND larger.remainder = c.remainder % greatest(c.modulus / 2, 1)
        WHERE c.is_whole AND larger.is_whole IS NOT TRUE
    $$;
COMMENT ON FUNCTION credits_routes.classes(int, text) IS 'The partitions of a routed table, by the map, or with a bucket moved to a node.';

-- postgres_fdw does not send the bounds of a partition. So each partition leads to a view on its node that has these bounds. A view that is there is kept:
-- to make it anew would wait for its readers.
CREATE FUNCTION credits_routes.make_lacking_views(node text, moduli int[], remainders int[]) RETURNS void
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT credits_routes.ask_node(node, format(
            'SELECT credits.make_class_views(c.modulus, c.remainder)::text FROM unnest(%L::int[], %L::int[]) c (modulus, remainder)'
            ' WHERE to_regclass(format(''credits_classes.thresholds_%%s_%%s'', c.modulus, c.remainder)) IS NULL', moduli, remainders))
    $$;
COMMENT ON FUNCTION credits_routes.make_lacking_views(text, int[], int[]) IS 'Has a node make the views that it lacks of these classes: of the first modulus and the first remainder, and so on.';

CREATE FUNCTION credits_routes.present_classes() RETURNS TABLE (node text, modulus int, remainder int)
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT n.node, c.parts[1]::int, c.parts[2]::int
        FROM credits.nodes n
        JOIN pg_foreign_server s ON s.srvname = credits_routes.server_of(n.node)
        JOIN pg_foreign_table f ON f.ftserver = s.oid
        JOIN pg_class p ON p.oid = f.ftrelid
        CROSS JOIN LATERAL regexp_match(p.relname, '^credits_transactions_([0-9]+)_([0-9]+)$') c (parts)
        WHERE c.parts IS NOT NULL
    $$;
COMMENT ON FUNCTION credits_routes.present_classes() IS 'The partitions that routed tables have: those by the map, unless a move that was undone has left some.';

CREATE FUNCTION credits_routes.make_views_for_map(moved int DEFAULT NULL, new_node text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits_routes.make_lacking_views(c.node, array_agg(c.modulus), array_agg(c.remainder))
    FROM credits_routes.classes(moved, new_node) c
    -- A class that has been on its node before has its views.
    WHERE (c.node, c.modulus, c.remainder) NOT IN (SELECT p.node, p.modulus, p.remainder FROM credits_routes.present_classes() p)
    GROUP BY c.node;
END
    $$;
COMMENT ON FUNCTION credits_routes.make_views_for_map(int, text) IS 'Has the nodes make the views that the partitions lead to: by the map, or by the map with a bucket moved to a node.';

-- All at once, or not at all: a client that has one and waits for another would end in a deadlock, of which either may be the victim. So this gives up
-- before the server looks for deadlocks (deadlock_timeout, 1 s), and nobody queues behind it for long.
CREATE FUNCTION credits_routes.lock_tables() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF current_setting('lock_timeout') = '0' THEN
        PERFORM set_config('lock_timeout', '500ms', true);
    END IF;
    EXECUTE (SELECT format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', string_agg(c.oid::regclass::text, ', ' ORDER BY c.relname))
             FROM pg_class c WHERE c.relnamespace = 'credits'::regnamespace AND c.relkind = 'p');
END
    $$;
COMMENT ON FUNCTION credits_routes.lock_tables() IS 'Waits until nobody uses the routed tables: as long as lock_timeout says, or half a second without one.';

CREATE FUNCTION credits_routes.apply_partitions() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    changes text[];
    change text;
BEGIN
    -- Another session that changes the map waits here, and then compares with what this one has made.
    PERFORM pg_advisory_xact_lock(hashtextextended('credits.apply_partitions', 0));
    -- This takes time: so it comes before the tables are locked.
    PERFORM credits_routes.make_views_for_map();
    WITH routed AS (
        SELECT c.oid, c.relname FROM pg_class c WHERE c.relnamespace = 'credits'::regnamespace AND c.relkind = 'p'
    ), wanted AS (
        SELECT t.oid AS parent, format('%s_%s_%s', t.relname, c.modulus, c.remainder) AS partition, c.modulus, c.remainder,
               credits_routes.server_of(c.node) AS server
        FROM credits_routes.classes() c CROSS JOIN routed t
    ), present AS (
        SELECT i.inhparent AS parent, p.relname::text AS partition, s.srvname AS server
        FROM pg_inherits i JOIN routed t ON t.oid = i.inhparent JOIN pg_class p ON p.oid = i.inhrelid
        JOIN pg_foreign_table f ON f.ftrelid = p.oid JOIN pg_foreign_server s ON s.oid = f.ftserver
    )
    -- Old partitions are dropped before new ones take their bounds.
    SELECT array_agg(CASE WHEN w.partition IS NULL THEN format('DROP FOREIGN TABLE credits_routes.%I', p.partition)
                          ELSE format('CREATE FOREIGN TABLE credits_routes.%I PARTITION OF %s FOR VALUES WITH (MODULUS %s, REMAINDER %s)'
                                      ' SERVER %I OPTIONS (schema_name ''credits_classes'')',
                                      w.partition, parent::regclass, w.modulus, w.remainder, w.server) END
                     ORDER BY w.partition IS NOT NULL, parent, w.modulus, w.remainder)
    INTO changes
    FROM wanted w FULL JOIN present p USING (parent, partition, server)
    WHERE w.modulus IS NULL OR p.parent IS NULL;
    IF changes IS NULL THEN
        RETURN;
    END IF;
    PERFORM credits_routes.lock_tables();
    FOREACH change IN ARRAY changes LOOP
        EXECUTE change;
    END LOOP;
END
    $$;
COMMENT ON FUNCTION credits_routes.apply_partitions() IS 'Has the partitions of each routed table lead to the nodes of the map.';

CREATE FUNCTION credits_routes.apply_buckets() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF TG_OP IN ('DELETE', 'TRUNCATE') OR (SELECT count(*) FROM credits.buckets) <> 1024 THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'every bucket has a node: all 1,024 are inserted by one statement, and none is deleted',
            HINT = 'INSERT INTO credits.buckets SELECT * FROM credits.spread_buckets(ARRAY[...]); CALL credits.move_bucket(...) moves one.';
    END IF;
    PERFORM credits_routes.apply_cluster();
    PERFORM credits_routes.copy_user_mappings();
    IF TG_OP = 'INSERT' THEN
        PERFORM credits_routes.share_out_buckets();
    END IF;
    PERFORM credits_routes.apply_partitions();
    RETURN NULL;
END
    $$;
COMMENT ON FUNCTION credits_routes.apply_buckets() IS 'Trigger: applies a change of the map.';

CREATE TRIGGER apply_nodes AFTER INSERT OR UPDATE OR DELETE ON credits.nodes FOR EACH STATEMENT EXECUTE FUNCTION credits_routes.apply_nodes();
COMMENT ON TRIGGER apply_nodes ON credits.nodes IS 'Makes and changes the foreign servers.';
CREATE TRIGGER apply_buckets AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON credits.buckets
    FOR EACH STATEMENT EXECUTE FUNCTION credits_routes.apply_buckets();
COMMENT ON TRIGGER apply_buckets ON credits.buckets IS 'Has functions and tables follow the map.';

CREATE FUNCTION credits.let_in(role name, node_role name DEFAULT NULL, password text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    is_public constant boolean := role = 'public';
    who constant text := CASE WHEN is_public THEN 'PUBLIC' ELSE quote_ident(role) END;
    server name;
BEGIN
    IF role IS NULL OR (is_public AND node_role IS NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'a role, and for PUBLIC the role of the nodes, must be named';
    END IF;
    IF NOT EXISTS (SELECT FROM credits.nodes) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'there is no node to be let in to',
            HINT = 'Fill credits.nodes first.';
    END IF;
    FOR server IN SELECT s.name FROM credits_routes.servers() s LOOP
        IF EXISTS (SELECT FROM pg_user_mappings m WHERE m.srvname = server AND m.usename = role) THEN
            EXECUTE format('DROP USER MAPPING FOR %s SERVER %I', who, server);
        END IF;
        PERFORM credits_routes.map_user(who, server, coalesce(node_role, role), password);
    END LOOP;
END
    $$;
COMMENT ON FUNCTION credits.let_in(name, name, text) IS
    'Lets a role of the router (public: any other) reach the nodes as this role of theirs, NULL: of the same name, with this password, NULL: as '
    'the password file of the server''s user or the node says. Again to change it. For superusers. 55000 before there are nodes.';

CREATE FUNCTION credits.node_of(user_id uuid) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    BEGIN ATOMIC
        SELECT b.node FROM credits.buckets b WHERE b.bucket = credits.bucket_of(node_of.user_id);
    END;
COMMENT ON FUNCTION credits.node_of(uuid) IS 'The node of an account by the map. NULL for NULL.';
