-- The map and the nodes always agree. Each node stores which buckets it has (credits.bucket_states). Whatever changes the map compares it with what the nodes
-- say, and changes no node that has accounts: move_bucket does.

CREATE FUNCTION credits_routes.buckets_away(node text) RETURNS int[]
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT a.answer::int[]
        FROM credits_routes.ask_node(node, 'SELECT coalesce(array_agg(s.bucket ORDER BY s.bucket), ''{}'')::text FROM credits.bucket_states s WHERE s.state <> ''moving''') a (answer)
    $$;
COMMENT ON FUNCTION credits_routes.buckets_away(text) IS 'The buckets that are not on a node, as it says.';

CREATE FUNCTION credits.bucket_owners() RETURNS TABLE (bucket int, node text, owners text[])
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        WITH said AS MATERIALIZED (SELECT n.node, credits_routes.buckets_away(n.node) AS away FROM credits.nodes n)
        SELECT b, m.node, ARRAY(SELECT s.node FROM said s WHERE b <> ALL (s.away) ORDER BY s.node)
        FROM generate_series(0, 1023) b LEFT JOIN credits.buckets m ON m.bucket = b
        ORDER BY b
    $$;
COMMENT ON FUNCTION credits.bucket_owners() IS
    'All buckets: the node by the map, and the nodes that say they have it, which is that one alone unless the bucket is being moved. Asks all nodes. For superusers.';

CREATE FUNCTION credits_routes.number_of_node(node text) RETURNS int
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT n.seq_residue FROM credits.nodes n WHERE n.node = number_of_node.node $$;
COMMENT ON FUNCTION credits_routes.number_of_node(text) IS 'The number of a node: what each of its seq leaves when it is divided by 1024.';

CREATE FUNCTION credits_routes.last_seq(node text) RETURNS bigint
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT a.answer::bigint
        FROM credits_routes.ask_node(node, 'SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence(''credits.credits_transactions'', ''seq'')::regclass), 0)::text') a (answer)
    $$;
COMMENT ON FUNCTION credits_routes.last_seq(text) IS 'The last seq that a node has given out, or given away with a bucket.';

-- Each node has a number of its own, and its seq begins above all that other nodes have given out.
CREATE FUNCTION credits_routes.number_node(node text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    residue constant int := credits_routes.number_of_node(node);
    past bigint;
BEGIN
    SELECT max(credits_routes.last_seq(n.node)) INTO past FROM credits.nodes n;
    -- Before it has the number: a node without one has given out a seq of each residue.
    PERFORM credits_routes.ask_node(node, format('SELECT credits.advance_seq(%s)::text', past));
    PERFORM credits_routes.ask_node(node, format('SELECT credits.set_node_number(%s)::text', residue));
END
    $$;
COMMENT ON FUNCTION credits_routes.number_node(text) IS 'Gives a node its number, and has its seq go on above those of all nodes.';

CREATE FUNCTION credits_routes.disown(node text, buckets int[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$ BEGIN PERFORM credits_routes.ask_node(node, format('SELECT credits.disown_buckets(%L)::text', buckets)); END $$;
COMMENT ON FUNCTION credits_routes.disown(text, int[]) IS 'Has a node say that it does not have these buckets; 55000 if it has accounts of theirs.';

-- The map is filled. A node that says it has all buckets is new, and is told which it does not have. What any other says is compared with the map.
CREATE FUNCTION credits_routes.share_out_buckets() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    away jsonb;
    dispute record;
    told record;
BEGIN
    SELECT jsonb_object_agg(n.node, credits_routes.buckets_away(n.node)) INTO away FROM credits.nodes n;
    SELECT b.bucket, b.node, a.key AS other INTO dispute
    FROM credits.buckets b CROSS JOIN LATERAL jsonb_each(away) a
    WHERE a.value <> '[]' AND (a.key = b.node) = (a.value @> to_jsonb(b.bucket))
    ORDER BY b.bucket LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('bucket %s is not on %s', dispute.bucket, dispute.node),
            DETAIL = CASE WHEN dispute.node = dispute.other THEN format('%s says so.', dispute.other) ELSE format('%s says that it has it.', dispute.other) END,
            HINT = 'INSERT INTO credits.buckets SELECT bucket, owners[1] FROM credits.bucket_owners() makes the map as the nodes have it.';
    END IF;
    FOR told IN
        SELECT a.key AS node, ARRAY(SELECT b.bucket FROM credits.buckets b WHERE b.node <> a.key ORDER BY b.bucket) AS buckets
        FROM jsonb_each(away) a WHERE a.value = '[]' ORDER BY a.key
    LOOP
        PERFORM credits_routes.disown(told.node, told.buckets);
    END LOOP;
    PERFORM credits_routes.number_node(n.node) FROM credits.nodes n;
END
    $$;
COMMENT ON FUNCTION credits_routes.share_out_buckets() IS 'Has new nodes say which buckets they have, by the map, and compares the map with what the others say.';

-- The map is changed by hand only to follow the nodes, on a router that has not moved the bucket itself.
CREATE FUNCTION credits_routes.agree_with_nodes() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    changed int[];
    dispute record;
BEGIN
    SELECT array_agg(n.bucket ORDER BY n.bucket) INTO changed
    FROM new_map n JOIN old_map o USING (bucket)
    WHERE n.node <> o.node AND NOT EXISTS (SELECT FROM credits.moves m WHERE m.bucket = n.bucket AND m.to_node = n.node AND m.state = 'active');
    IF changed IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT o.* INTO dispute FROM credits.bucket_owners() o WHERE o.bucket = ANY (changed) AND o.owners <> ARRAY[o.node] ORDER BY o.bucket LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s is not on %s', dispute.bucket, dispute.node),
            DETAIL = format('Nodes that say they have it: %s.', coalesce(nullif(array_to_string(dispute.owners, ', '), ''), 'none')),
            HINT = format('CALL credits.move_bucket(%s, %L) moves it.', dispute.bucket, dispute.node);
    END IF;
    RETURN NULL;
END
    $$;
COMMENT ON FUNCTION credits_routes.agree_with_nodes() IS 'Trigger: refuses a map that the nodes do not agree with.';

CREATE TRIGGER agree_with_nodes AFTER UPDATE ON credits.buckets REFERENCING OLD TABLE AS old_map NEW TABLE AS new_map
    FOR EACH STATEMENT EXECUTE FUNCTION credits_routes.agree_with_nodes();
COMMENT ON TRIGGER agree_with_nodes ON credits.buckets IS 'Refuses a map that the nodes do not agree with.';

-- A node that is added has no bucket until one is moved there.
CREATE FUNCTION credits_routes.take_in_nodes() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    new_node text;
    has int[];
BEGIN
    IF NOT EXISTS (SELECT FROM credits.buckets) THEN
        RETURN NULL;
    END IF;
    FOR new_node IN SELECT n.node FROM new_nodes n ORDER BY n.node LOOP
        has := ARRAY(SELECT generate_series(0, 1023) EXCEPT SELECT unnest(credits_routes.buckets_away(new_node)) ORDER BY 1);
        IF has <> '{}' THEN
            PERFORM credits_routes.disown(new_node, has);
        END IF;
        PERFORM credits_routes.number_node(new_node);
    END LOOP;
    RETURN NULL;
END
    $$;
COMMENT ON FUNCTION credits_routes.take_in_nodes() IS 'Trigger: has a node that is added say that it has no bucket, and gives it its number.';

-- Named to fire after apply_nodes.
CREATE TRIGGER take_in_nodes AFTER INSERT ON credits.nodes REFERENCING NEW TABLE AS new_nodes
    FOR EACH STATEMENT EXECUTE FUNCTION credits_routes.take_in_nodes();
COMMENT ON TRIGGER take_in_nodes ON credits.nodes IS 'Has a node that is added say that it has no bucket.';

-- A standby that takes over may lack what its node has committed last. If that was a tombstone, it is written again before the standby serves, or two nodes would take
-- the bucket for theirs. The map does not say so where another router has moved the bucket: the nodes do.

CREATE FUNCTION credits_routes.bucket_reports(node text, settled int DEFAULT NULL) RETURNS TABLE (bucket int, state text, seq bigint, given_to int)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    number constant int := credits_routes.number_of_node(node);
BEGIN
    IF settled IS NOT NULL THEN
        PERFORM credits_routes.ask_node(node, format('SELECT credits.lock_bucket(%s, ''{here,moving,elsewhere,arriving}'')', settled));
    END IF;
    RETURN QUERY
    SELECT b, coalesce(r.state, 'here'), CASE WHEN r.given_to = number THEN 0 ELSE coalesce(r.seq, 0) END, r.given_to
    FROM credits_routes.ask_node(node, 'SELECT jsonb_agg(jsonb_build_object(''bucket'', s.bucket, ''state'', s.state,'
                                       ' ''seq'', s.handover -> ''seq'', ''given_to'', s.handover -> ''given_to''))::text FROM credits.bucket_states s') a (answer)
    CROSS JOIN generate_series(0, 1023) b
    LEFT JOIN jsonb_to_recordset(a.answer::jsonb) r (bucket int, state text, seq bigint, given_to int) ON r.bucket = b;
EXCEPTION WHEN sqlclient_unable_to_establish_sqlconnection THEN
    RETURN QUERY SELECT b.bucket, CASE WHEN b.node = bucket_reports.node THEN 'here' ELSE 'elsewhere' END, 0::bigint, NULL::int FROM credits.buckets b;
END
    $$;
COMMENT ON FUNCTION credits_routes.bucket_reports(text, int) IS
    'What a node says of each bucket, with number and taker of the handover by which it gave the bucket away last, if that has a taker. Of one bucket it says so when no transaction that gives it away is under way. Of a '
    'node that cannot be reached, what the map says.';

-- Whose a bucket is that a standby says it has: another node's that says so, too, or that of the one to which any node has given it last. The tombstone is numbered above
-- all handovers that the lost one came after, and below all that came after it. models/routers.pml has what each part is there for.
CREATE FUNCTION credits_routes.carry_over(standby text, moved int) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    number constant int := credits_routes.number_of_node(standby);
    state_before text;
    other record;
    said record;
    drawn bigint;
    taker int;
    handover_seq bigint;
    newest bigint := 0;
    -- The node that it was given to, by the newest handover.
    heir int := number;
    is_left boolean := false;
BEGIN
    PERFORM credits_routes.open_session('credits_ledger_old', standby);
    PERFORM credits_routes.do_in_session('credits_ledger_old', 'SET idle_in_transaction_session_timeout = ''60s''');
    SELECT a.answer INTO state_before FROM credits_routes.ask_session('credits_ledger_old', format('SELECT credits.bucket_state(%s)', moved)) a (answer);
    PERFORM credits_routes.ask_session('credits_ledger_old', format('SELECT credits.start_moving_bucket(%s)::text', moved));
    -- While it is held, nobody moves it there or away.
    PERFORM credits_routes.do_in_session('credits_ledger_old', 'BEGIN');
    PERFORM credits_routes.ask_session('credits_ledger_old', format('SELECT credits.hold_bucket(%s)::text', moved));
    FOR other IN SELECT n.node, n.seq_residue FROM credits.nodes n WHERE n.node <> standby ORDER BY n.node LOOP
        drawn := NULL;
        LOOP
            SELECT r.* INTO said FROM credits_routes.bucket_reports(other.node, moved) r WHERE r.bucket = moved;
            EXIT WHEN said.state NOT IN ('here', 'moving') OR drawn IS NOT NULL;
            -- It has the bucket before and after: so this number is above those that it has taken, and below that of whatever handover it makes later.
            drawn := credits_routes.draw_number(other.node);
            EXIT WHEN drawn IS NULL;
        END LOOP;
        IF said.state IN ('here', 'moving') THEN
            taker := other.seq_residue;
            handover_seq := drawn;
        ELSIF said.seq > newest THEN
            newest := said.seq;
            heir := said.given_to;
        END IF;
    END LOOP;
    IF taker IS NULL AND heir = number THEN
        -- A node numbers on above what it takes: so it was given to it, and the standby has not taken it, but says what was before.
        is_left := newest > credits_routes.last_seq(standby);
        newest := 0;
    ELSIF taker IS NULL THEN
        is_left := EXISTS (SELECT FROM credits.nodes n WHERE n.seq_residue = heir);
    END IF;
    IF taker IS NOT NULL OR is_left THEN
        -- With the standby itself for its taker, nobody takes it: there is a newer handover, or the node that should have it cannot be reached.
        PERFORM credits_routes.ask_session('credits_ledger_old', format('SELECT credits.give_away_bucket(%s, %s)::text', moved,
            CASE WHEN handover_seq IS NULL THEN number ELSE taker END));
        IF handover_seq IS NOT NULL OR taker IS NULL THEN
            PERFORM credits_routes.do_in_session('credits_ledger_old', format(
                'UPDATE credits.bucket_states SET handover = handover || ''{"seq": %s}'' WHERE bucket = %s', coalesce(handover_seq, newest), moved));
        END IF;
        PERFORM credits_routes.do_in_session('credits_ledger_old', 'COMMIT');
    ELSE
        PERFORM credits_routes.do_in_session('credits_ledger_old', 'ROLLBACK');
        IF state_before = 'here' THEN
            PERFORM credits_routes.ask_session('credits_ledger_old', format('SELECT credits.stop_moving_bucket(%s)::text', moved));
        END IF;
    END IF;
    PERFORM credits_routes.close_session('credits_ledger_old');
EXCEPTION WHEN query_canceled OR OTHERS THEN
    -- Whoever uses the standby through another router does not wait for this session.
    PERFORM credits_routes.close_session('credits_ledger_old');
    RAISE;
END
    $$;
COMMENT ON FUNCTION credits_routes.carry_over(text, int) IS 'Has a standby give up a bucket that it says it has, if its node has given it away.';

CREATE FUNCTION credits_routes.draw_number(node text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN (SELECT a.answer FROM credits_routes.ask_node(node, 'SELECT nextval(pg_get_serial_sequence(''credits.credits_transactions'', ''seq''))::text') a (answer));
EXCEPTION WHEN sqlclient_unable_to_establish_sqlconnection THEN
    RETURN NULL;
END
    $$;
COMMENT ON FUNCTION credits_routes.draw_number(text) IS 'A number by which a node may number a handover, and that it gives out to nothing else; NULL from a node that cannot be reached.';

CREATE FUNCTION credits_routes.carry_over_moves() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    standby record;
    standby_seq bigint;
    doubtful int[];
    moved int;
BEGIN
    FOR standby IN
        SELECT n.node, n.seq_residue, n.seq_residue <> o.seq_residue AS has_new_number
        FROM new_nodes n JOIN old_nodes o USING (node)
        WHERE EXISTS (SELECT FROM credits.buckets)
          AND (n.host, n.port, n.dbname, n.seq_residue) IS DISTINCT FROM (o.host, o.port, o.dbname, o.seq_residue)
        ORDER BY n.node
    LOOP
        -- Views that its node was told to make last may not be there either.
        PERFORM credits_routes.make_lacking_views(standby.node, c.of_node)
        FROM (SELECT string_agg(format('(%s, %s)', c.modulus, c.remainder), ', ') AS of_node FROM credits_routes.classes() c WHERE c.node = standby.node) c
        WHERE c.of_node IS NOT NULL;
        standby_seq := credits_routes.last_seq(standby.node);
        -- Each of these is held while the nodes are asked again.
        WITH said AS MATERIALIZED (
            SELECT n.node, r.* FROM credits.nodes n CROSS JOIN LATERAL credits_routes.bucket_reports(n.node) r
        ), newest AS (
            SELECT DISTINCT ON (s.bucket) s.bucket, s.given_to, s.seq FROM said s WHERE s.node <> standby.node AND s.seq > 0 ORDER BY s.bucket, s.seq DESC
        )
        SELECT array_agg(DISTINCT own.bucket ORDER BY own.bucket) INTO doubtful
        FROM said own
        JOIN said other ON other.bucket = own.bucket AND other.node <> own.node
        LEFT JOIN newest n ON n.bucket = own.bucket
        WHERE own.node = standby.node AND own.state IN ('here', 'moving')
          AND (other.state <> 'elsewhere' OR n.given_to <> standby.seq_residue OR n.seq > standby_seq);
        FOREACH moved IN ARRAY coalesce(doubtful, '{}') LOOP
            PERFORM credits_routes.carry_over(standby.node, moved);
        END LOOP;
        IF standby.has_new_number THEN
            PERFORM credits_routes.number_node(standby.node);
        END IF;
    END LOOP;
    RETURN NULL;
END
    $$;
COMMENT ON FUNCTION credits_routes.carry_over_moves() IS 'Trigger: has a standby that takes over give up what its node has given away.';

CREATE TRIGGER carry_over_moves AFTER UPDATE ON credits.nodes REFERENCING OLD TABLE AS old_nodes NEW TABLE AS new_nodes
    FOR EACH STATEMENT EXECUTE FUNCTION credits_routes.carry_over_moves();
COMMENT ON TRIGGER carry_over_moves ON credits.nodes IS 'Has a standby that takes over give up what its node has given away.';
