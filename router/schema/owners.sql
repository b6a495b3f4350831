-- Which node has a bucket is what the nodes say, each in its own credits.bucket_states. The map follows: whatever changes it compares it with what they say, and
-- changes no node that has accounts. Only move_bucket does that, and turns the map when the new node has the bucket.

CREATE FUNCTION credits_routes.buckets_away(node text) RETURNS int[]
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT a.answer::int[]
        FROM credits_routes.ask_node(node, 'SELECT coalesce(array_agg(s.bucket ORDER BY s.bucket), ''{}'')::text'
                                           ' FROM credits.bucket_states s WHERE s.state <> ''moving''') a (answer)
    $$;
COMMENT ON FUNCTION credits_routes.buckets_away(text) IS 'The buckets that are not on a node, as it says.';

CREATE FUNCTION credits_routes.bucket_state(node text, bucket int) RETURNS text
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT a.answer FROM credits_routes.ask_node(node, format('SELECT credits.bucket_state(%s)', bucket)) a (answer) $$;
COMMENT ON FUNCTION credits_routes.bucket_state(text, int) IS 'Where a bucket is, as a node says.';

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
    AS $$ SELECT n.node_number FROM credits.nodes n WHERE n.node = number_of_node.node $$;
COMMENT ON FUNCTION credits_routes.number_of_node(text) IS 'The number of a node, by the list of nodes.';

-- A tombstone whose taker (given_to) is the node itself is for nobody: standby.sql has standbys write it. Nothing was handed over by it, so its seq is reported as 0.
CREATE FUNCTION credits_routes.bucket_reports(node text, awaited_bucket int DEFAULT NULL) RETURNS TABLE (bucket int, state text, seq bigint, given_to int, taken_seq bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    number constant int := credits_routes.number_of_node(node);
    cause text;
BEGIN
    IF awaited_bucket IS NOT NULL THEN
        PERFORM credits_routes.ask_node(node, format('SELECT credits.lock_bucket(%s, ''{here,moving,elsewhere,arriving}'')', awaited_bucket));
    END IF;
    RETURN QUERY
    SELECT b, coalesce(r.state, 'here'), CASE WHEN r.given_to = number THEN 0 ELSE coalesce(r.seq, 0) END, r.given_to, coalesce(r.taken_seq, 0)
    FROM credits_routes.ask_node(node, 'SELECT jsonb_agg(jsonb_build_object(''bucket'', bucket, ''state'', s.state, ''seq'', s.handover -> ''seq'','
                                       ' ''given_to'', s.handover -> ''given_to'', ''taken_seq'', t.seq))::text'
                                       ' FROM credits.bucket_states s FULL JOIN credits.taken_buckets t USING (bucket)') a (answer)
    CROSS JOIN generate_series(0, 1023) b
    LEFT JOIN jsonb_to_recordset(a.answer::jsonb) r (bucket int, state text, seq bigint, given_to int, taken_seq bigint) ON r.bucket = b;
EXCEPTION WHEN sqlclient_unable_to_establish_sqlconnection THEN
    GET STACKED DIAGNOSTICS cause = PG_EXCEPTION_DETAIL;
    RAISE EXCEPTION USING ERRCODE = 'sqlclient_unable_to_establish_sqlconnection', MESSAGE = format('%s cannot be asked which buckets it has', node),
        DETAIL = format('It may have one that the standby says it has. %s', cause), HINT = 'If it has failed, too, name both standbys in one UPDATE.';
END
    $$;
COMMENT ON FUNCTION credits_routes.bucket_reports(text, int) IS
    'What a node says of each bucket: its state; number and taker of the last handover by which the node gave it away; number of the last one by which '
    'the node took it. A number is 0 where there is none. Before it answers, the node waits for a transaction that gives awaited_bucket away.';

CREATE FUNCTION credits_routes.last_handover(bucket int, OUT giver text, OUT taker text)
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        WITH said AS MATERIALIZED (
            SELECT n.node, r.* FROM credits.nodes n CROSS JOIN LATERAL credits_routes.bucket_reports(n.node) r WHERE r.bucket = last_handover.bucket
        )
        SELECT s.node, n.node
        FROM said s JOIN credits.nodes n ON n.node_number = s.given_to
        WHERE s.seq > 0 AND NOT EXISTS (SELECT FROM said o WHERE o.state IN ('here', 'moving'))
        ORDER BY s.seq DESC LIMIT 1
    $$;
COMMENT ON FUNCTION credits_routes.last_handover(int) IS 'Of a bucket that no node has: which node gave it away last, and to which. NULL if a node has it.';

CREATE FUNCTION credits_routes.last_seq(node text) RETURNS bigint
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT a.answer::bigint
        FROM credits_routes.ask_node(node, 'SELECT coalesce(pg_sequence_last_value('
                                           'pg_get_serial_sequence(''credits.credits_transactions'', ''seq'')::regclass), 0)::text') a (answer)
    $$;
COMMENT ON FUNCTION credits_routes.last_seq(text) IS 'The last seq that a node has given out, or given away with a bucket.';

-- By its number other nodes know to whom they have given a bucket. So a node keeps it, and a ledger with another number is another node, at an address that was mistyped.
CREATE FUNCTION credits_routes.require_number(node text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    number constant int := credits_routes.number_of_node(node);
    said constant int := (SELECT a.answer::int FROM credits_routes.ask_node(node, 'SELECT (SELECT n.node_number FROM credits.node n)::text') a (answer));
BEGIN
    IF said <> number THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('the ledger of %s has the number %s and not %s', node, said, number),
            DETAIL = 'It is another node, or has been one. A node keeps its number.', HINT = 'Say where the node is, with the number that it has.';
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.require_number(text) IS 'Refuses a node whose ledger has the number of another one (55000). A new one has none.';

-- Each node has a number of its own, and its seq begins above all that other nodes have given out.
CREATE FUNCTION credits_routes.number_node(node text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    past bigint;
BEGIN
    PERFORM credits_routes.require_number(node);
    SELECT max(credits_routes.last_seq(n.node)) INTO past FROM credits.nodes n;
    -- Before it has the number: a node without one has given out seqs with any remainder.
    PERFORM credits_routes.ask_node(node, format('SELECT credits.advance_seq(%s)::text', past));
    PERFORM credits_routes.ask_node(node, format('SELECT credits.set_node_number(%s)::text', credits_routes.number_of_node(node)));
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
    FOR dispute IN
        SELECT b.bucket, b.node, a.key AS other
        FROM credits.buckets b CROSS JOIN LATERAL jsonb_each(away) a
        WHERE a.value <> '[]' AND (a.key = b.node) = (a.value @> to_jsonb(b.bucket))
        ORDER BY b.bucket
    LOOP
        -- A bucket that no node has yet, behind the commit point of a move, is to be on the node that it was given to.
        CONTINUE WHEN dispute.other = dispute.node AND dispute.node = (SELECT h.taker FROM credits_routes.last_handover(dispute.bucket) h);
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = format('bucket %s is not on %s', dispute.bucket, dispute.node),
            DETAIL = CASE WHEN dispute.node = dispute.other THEN format('%s says so.', dispute.other) ELSE format('%s says that it has it.', dispute.other) END,
            HINT = 'INSERT INTO credits.buckets SELECT bucket, coalesce(owners[1], (credits_routes.last_handover(bucket)).taker) FROM credits.bucket_owners()'
                   ' makes the map as the nodes have it. If two have a bucket, one of them is a standby that has taken over: first,'
                   ' UPDATE credits.nodes SET host = host WHERE node = ... names it.';
    END LOOP;
    PERFORM credits_routes.number_node(n.node) FROM credits.nodes n ORDER BY n.node;
    FOR told IN
        SELECT a.key AS node, ARRAY(SELECT b.bucket FROM credits.buckets b WHERE b.node <> a.key ORDER BY b.bucket) AS buckets
        FROM jsonb_each(away) a WHERE a.value = '[]' ORDER BY a.key
    LOOP
        PERFORM credits_routes.disown(told.node, told.buckets);
    END LOOP;
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
        PERFORM credits_routes.require_number(new_node);
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
