-- What a bucket's old node has kept is removed once nobody needs it any more.

-- Should a node fail and its standby take over, what the standby lacks of a bucket is copied again from the old node. It must have all before that loses it.
CREATE FUNCTION credits_routes.wait_for_standbys(node text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    goal constant text := (SELECT a.answer FROM credits_routes.ask_node(node, 'SELECT pg_current_wal_flush_lsn()::text') a (answer));
    -- A backup, which is no standby, writes nothing. Nor is a subscriber one: its slot is logical.
    query constant text := format(
        'SELECT jsonb_build_object('
        ' ''is_shown'', pg_has_role(''pg_read_all_stats'', ''USAGE''),'
        ' ''are_behind'', EXISTS (SELECT FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid'
                               ' WHERE s.slot_type IS DISTINCT FROM ''logical'' AND r.state IS DISTINCT FROM ''backup'''
                               ' AND (r.write_lsn >= %1$L) IS NOT TRUE),'
        ' ''left_behind'', (SELECT min(s.slot_name) FROM pg_replication_slots s'
                          ' WHERE s.slot_type = ''physical'' AND NOT s.active AND s.restart_lsn < %1$L))::text', goal);
    standbys record;
BEGIN
    LOOP
        SELECT r.* INTO standbys
        FROM credits_routes.ask_node(node, query) a (answer)
        CROSS JOIN LATERAL jsonb_to_record(a.answer::jsonb) r (is_shown boolean, are_behind boolean, left_behind text);
        IF standbys.left_behind IS NOT NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
                MESSAGE = format('a standby of %s has not received what was copied there', node),
                DETAIL = format('It is not connected, and its replication slot "%s" is behind.', standbys.left_behind),
                HINT = 'Call it again when the standby is connected. If there is none any more, drop its slot.';
        ELSIF standbys.are_behind AND NOT standbys.is_shown THEN
            RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege', MESSAGE = format('%s does not show what its standbys have received', node),
                HINT = 'Grant pg_read_all_stats there to the role by which this router connects.';
        END IF;
        EXIT WHEN NOT standbys.are_behind;
        PERFORM pg_sleep(0.1);
    END LOOP;
END
    $$;
COMMENT ON FUNCTION credits_routes.wait_for_standbys(text) IS
    'Waits until the standbys that are connected to a node have written its log as far as it has flushed it now. Errors: 55000 if one with a replication slot is '
    'behind and not connected, 42501 if the role on the node may not see how far they are.';

CREATE PROCEDURE credits.purge_bucket(bucket int, node text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    home constant text := (SELECT b.node FROM credits.buckets b WHERE b.bucket = purge_bucket.bucket);
    state text;
BEGIN
    IF bucket IS NULL OR node IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument bucket or node must not be NULL';
    ELSIF home IS NULL OR NOT EXISTS (SELECT FROM credits.nodes n WHERE n.node = purge_bucket.node) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('there is no bucket %s or no node "%s"', bucket, node);
    ELSIF NOT pg_try_advisory_xact_lock(credits_routes.mover_key()) OR (credits_routes.open_move()).bucket = bucket THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use', MESSAGE = 'a bucket is being moved', HINT = 'SELECT * FROM credits.moves shows how far it is.';
    ELSIF home = node THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s is on %s', bucket, node);
    END IF;
    state := credits_routes.bucket_state(home, bucket);
    IF state NOT IN ('here', 'moving') THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('%s does not serve bucket %s', home, bucket),
            DETAIL = format('There, it is %s.', state);
    END IF;
    IF credits_routes.bucket_state(node, bucket) = 'arriving' THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s is arriving at %s', bucket, node),
            DETAIL = 'Another router moves it there, or the node is a standby that has lost that a move was undone.',
            HINT = format('If none moves it, SELECT credits.return_bucket(%s) on %s takes that back.', bucket, node);
    END IF;
    PERFORM credits_routes.wait_for_standbys(home);
    PERFORM credits_routes.ask_node(node, format('SELECT credits.purge_bucket(%s)::text', bucket));
END
    $$;
COMMENT ON PROCEDURE credits.purge_bucket(int, text) IS
    'Removes from a node the rows of a bucket that it has given away, if the node of the map says that it serves it. Waits until the standbys that follow '
    'that one have received them. The feed of the node loses them: what reads it must have. The node keeps their number, sum and digest. Errors: 22004, 22023, '
    '42501 and 55000 as of wait_for_standbys, 55000 if the bucket is there, arrives there or is not served, 55006 while a bucket is moved. For superusers.';
