-- The steps of a move. models/nodes.pml has their order and what each is there for; the names of states are those of credits.moves.

-- Rows pass through the router as text, which it does not parse. The elements of a JSON array have 256 MB at most, so long rows are sent in parts of 16 MB.
CREATE FUNCTION credits_routes.copy_rows(bucket int, from_xact text, below_xact text, new_position text, until timestamptz) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    receive constant text := format('SELECT credits.receive_transactions(%s, %%L::jsonb, %%L::xid8)::text', bucket);
    part record;
    fetched bigint;
    received bigint := 0;
BEGIN
    PERFORM credits_routes.tell_old(format(
        'DECLARE rows_of_bucket NO SCROLL CURSOR FOR SELECT to_jsonb(t)::text FROM credits.bucket_transactions(%s, %L::xid8, %L::xid8) t',
        bucket, from_xact, below_xact));
    LOOP
        fetched := 0;
        FOR part IN
            SELECT string_agg(r.row_text, ',') AS row_texts, count(*) AS row_count
            FROM (SELECT f.row_text, sum(octet_length(f.row_text)) OVER (ROWS UNBOUNDED PRECEDING) / 16777216 AS place
                  FROM credits_routes.ask_session('credits_ledger_old', 'FETCH 2000 FROM rows_of_bucket') f (row_text)) r
            GROUP BY r.place ORDER BY r.place
        LOOP
            fetched := fetched + part.row_count;
            received := received + credits_routes.ask_new(format(receive, '[' || part.row_texts || ']', NULL))::bigint;
        END LOOP;
        EXIT WHEN fetched < 2000;
        IF clock_timestamp() > until THEN
            RAISE EXCEPTION USING ERRCODE = 'lock_not_available', MESSAGE = 'there are too many rows to be copied while commits wait',
                HINT = 'A transaction that has been open for long keeps the mover from copying what came after it. Try again when it has ended.';
        END IF;
    END LOOP;
    IF new_position IS NOT NULL THEN
        PERFORM credits_routes.ask_new(format(receive, '[]', new_position));
    END IF;
    PERFORM credits_routes.tell_old('CLOSE rows_of_bucket');
    RETURN received;
END
    $$;
COMMENT ON FUNCTION credits_routes.copy_rows(int, text, text, text, timestamptz) IS
    'Copies rows of the old node to the new one, and returns how many it did not have. The new node notes that it has all below new_position, NULL: '
    'nothing. 55P03 if rows are left at the moment until.';

CREATE FUNCTION credits_routes.collect_accounts(bucket int, OUT since text, OUT accounts text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    collected constant text := (SELECT a.answer FROM credits_routes.ask_session('credits_ledger_old', format(
        'SELECT format(''%%s %%s'', pg_snapshot_xmin(pg_current_snapshot()), credits.bucket_accounts(%s))', bucket)) a (answer));
BEGIN
    since := split_part(collected, ' ', 1);
    accounts := split_part(collected, ' ', 2);
END
    $$;
COMMENT ON FUNCTION credits_routes.collect_accounts(int) IS
    'For give_away_bucket, before the bucket is held, in the session with the old node: the accounts that the node knows, and the transaction since which others may have come.';

CREATE FUNCTION credits_routes.expect_rows(bucket int) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    ledger constant text := credits_routes.ask_old('SELECT credits.get_ledger()');
BEGIN
    RETURN credits_routes.ask_new(format('SELECT credits.expect_bucket(%s, %L)::text', bucket, ledger));
END
    $$;
COMMENT ON FUNCTION credits_routes.expect_rows(int) IS 'Has the new node take copies, and returns the transaction of the old node from which on it may lack rows.';

-- Another router may have had the old node give it to another node, or the new one give it on. A node numbers its handovers above those that it has taken.
CREATE FUNCTION credits_routes.is_given(m credits.moves) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    number constant int := credits_routes.number_of_node(m.to_node);
    given constant text := credits_routes.ask_old(format(
        'SELECT (SELECT s.handover ->> ''seq'' FROM credits.bucket_states s'
        ' WHERE s.bucket = %s AND s.state IN (''elsewhere'', ''arriving'') AND coalesce(s.handover ->> ''given_to'', ''%s'') = ''%s'')',
        m.bucket, number, number));
BEGIN
    RETURN given IS NOT NULL AND credits_routes.ask_new(format(
        'SELECT (NOT EXISTS (SELECT FROM credits.bucket_states s WHERE s.bucket = %s AND (s.handover ->> ''seq'')::bigint > %s))::text',
        m.bucket, given))::boolean;
END
    $$;
COMMENT ON FUNCTION credits_routes.is_given(credits.moves) IS
    'Whether a move is behind its commit point: the old node has given the bucket to the new one, and that has not given it on since.';

CREATE FUNCTION credits_routes.refuse_absent(bucket int, node text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    taker constant text := (SELECT h.taker FROM credits_routes.last_handover(bucket) h);
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s is not on %s', bucket, node),
        DETAIL = 'Another router may have moved it, or the node has lost the end of a move.',
        HINT = format('UPDATE credits.buckets b SET node = o.owners[1] FROM credits.bucket_owners() o WHERE o.bucket = b.bucket AND o.owners <> ARRAY[b.node]'
                      ' AND cardinality(o.owners) = 1 has the map follow the nodes; where none has the bucket, CALL credits.move_bucket(%s, %L) does.', bucket, coalesce(taker, node));
END
    $$;
COMMENT ON FUNCTION credits_routes.refuse_absent(int, text) IS 'Raises 55000: a bucket is not on the node that it was to leave.';

-- noted -> expected
CREATE FUNCTION credits_routes.prepare_move(m credits.moves) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits_routes.be_patient();
    -- The new node does not expect what the old one cannot give.
    IF credits_routes.ask_old(format('SELECT credits.bucket_state(%s)', m.bucket)) NOT IN ('here', 'moving') THEN
        PERFORM credits_routes.refuse_absent(m.bucket, m.from_node);
    END IF;
    PERFORM credits_routes.expect_rows(m.bucket);
    -- They are made now, so that the map does not wait for them when it turns.
    PERFORM credits_routes.make_views_for_map(m.bucket, m.to_node);
    RETURN 'expected';
END
    $$;
COMMENT ON FUNCTION credits_routes.prepare_move(credits.moves) IS 'Step: the bucket is arriving at the new node.';

-- expected -> copying. From here on the bucket has partitions of its own. So after it is given away, the tables serve the other buckets of its class, even if the map cannot
-- turn for long.
CREATE FUNCTION credits_routes.set_apart(m credits.moves) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    FOR tried IN 1 .. 10 LOOP
        BEGIN
            PERFORM credits_routes.be_brief();
            PERFORM credits_routes.apply_partitions();
            RETURN 'copying';
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            IF tried = 10 THEN
                RAISE;
            END IF;
        END;
        PERFORM pg_sleep(0.5);
    END LOOP;
END
    $$;
COMMENT ON FUNCTION credits_routes.set_apart(credits.moves) IS 'Step: the tables get partitions for the bucket alone, when nobody uses them.';

-- copying -> copying or copied. All transactions below the xmin of an earlier snapshot have ended: no row of theirs is still to come.
CREATE FUNCTION credits_routes.copy_pass(m credits.moves) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    from_xact text;
    below_xact text;
    received bigint;
BEGIN
    PERFORM credits_routes.be_patient();
    from_xact := credits_routes.expect_rows(m.bucket);
    below_xact := credits_routes.ask_old('SELECT pg_snapshot_xmin(pg_current_snapshot())::text');
    -- After a crash, a server gives out ids again of which nothing was in its log yet, as those of transactions that were rolled back. This message is in the log when it has
    -- committed, and its id is not below below_xact: so ids below that are not given out again.
    PERFORM credits_routes.ask_old($s$SELECT set_config('synchronous_commit', 'on', true) || pg_logical_emit_message(true, 'credits_ledger_router', 'copied')$s$);
    PERFORM credits_routes.tell_old('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    received := credits_routes.copy_rows(m.bucket, from_xact, below_xact, below_xact, 'infinity');
    PERFORM credits_routes.tell_old('COMMIT');
    UPDATE credits.moves n SET passes = n.passes + 1, rows_copied = n.rows_copied + received WHERE n.move = m.move;
    -- Where ten passes have not caught up, the rest is copied while commits wait, or the bucket is let go and there are ten more.
    RETURN CASE WHEN received < 500 OR m.passes % 10 = 9 THEN 'copied' ELSE 'copying' END;
END
    $$;
COMMENT ON FUNCTION credits_routes.copy_pass(credits.moves) IS 'Step: copies what the new node has not, while more comes; again until little has come.';

-- copied -> given
CREATE FUNCTION credits_routes.hand_over(m credits.moves) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    BEGIN
        PERFORM credits_routes.give_away(m);
    EXCEPTION WHEN object_not_in_prerequisite_state THEN
        PERFORM credits_routes.tell_old('ROLLBACK');
        IF credits_routes.ask_old(format('SELECT credits.bucket_state(%s)', m.bucket)) <> 'moving' THEN
            RAISE;
        END IF;
        -- The new node may lack rows below where it was copied to: it was restored from a dump, or the old node is a standby that gives out ids again which its node had
        -- given out. So all are copied, while commits go on.
        PERFORM credits_routes.be_patient();
        PERFORM credits_routes.forget_copies(m.bucket);
        PERFORM credits_routes.copy_pass(m);
        PERFORM credits_routes.give_away(m);
    END;
    RETURN 'given';
END
    $$;
COMMENT ON FUNCTION credits_routes.hand_over(credits.moves) IS 'Step: the old node gives the bucket away, if the new one has all of it.';

-- What is read while commits wait is the bucket's, and all open holds of the old node.
CREATE FUNCTION credits_routes.give_away(m credits.moves) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    collected record;
    left_over text;
    from_xact text;
    handover text;
    held_at timestamptz;
    received bigint;
BEGIN
    PERFORM credits_routes.be_patient();
    collected := credits_routes.collect_accounts(m.bucket);
    -- Of accounts that the new node alone knows, as from an earlier stay, the handover says that there is nothing.
    left_over := credits_routes.ask_new(format('SELECT credits.bucket_accounts(%s)::text', m.bucket));
    -- That may have taken long: what has come meanwhile is not left for when commits wait.
    PERFORM credits_routes.copy_pass(m);
    -- receive_handover compares their balances and counts: what is added up now is not while commits wait.
    PERFORM credits_routes.ask_new(format('SELECT count(credits.get_user_balance(u))::text FROM credits.begin_transfer(%s), unnest(%L::uuid[] || %L::uuid[]) u',
        m.bucket, collected.accounts, left_over));
    PERFORM credits_routes.ask_old(format('SELECT credits.start_moving_bucket(%s)::text', m.bucket));
    from_xact := credits_routes.expect_rows(m.bucket);
    PERFORM credits_routes.be_quick();
    PERFORM credits_routes.tell_old('BEGIN ISOLATION LEVEL READ COMMITTED');
    PERFORM credits_routes.ask_old(format('SELECT credits.hold_bucket(%s)::text', m.bucket));
    held_at := clock_timestamp();
    received := credits_routes.copy_rows(m.bucket, from_xact, NULL, NULL, held_at + interval '1 second');
    handover := credits_routes.ask_old(format('SELECT credits.give_away_bucket(%s, %s, %L::uuid[] || %L::uuid[], %L::xid8)::text',
        m.bucket, credits_routes.number_of_node(m.to_node), collected.accounts, left_over, collected.since));
    -- The new node compares the rows of the accounts.
    PERFORM credits_routes.ask_new(format('SELECT credits.receive_handover(%s, %L::jsonb)::text', m.bucket, handover));
    -- The commit point.
    PERFORM credits_routes.tell_old('COMMIT');
    UPDATE credits.moves n SET rows_copied = n.rows_copied + received, pause = clock_timestamp() - held_at WHERE n.move = m.move;
END
    $$;
COMMENT ON FUNCTION credits_routes.give_away(credits.moves) IS 'Holds the bucket, copies the rest, and gives it away.';

-- given -> active, or noted. A standby that takes over for the old node is told of the commit point since that was noted. One may have taken over before: so the nodes
-- are asked once more, and if the bucket is not given any more, the move begins anew. The new node may be a standby that lacks what was sent last. So that is sent again,
-- and then all rows: those of the old node do not change any more.
CREATE FUNCTION credits_routes.activate(m credits.moves) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    handover text;
BEGIN
    PERFORM credits_routes.be_patient();
    FOR tried IN 0 .. 2 LOOP
        IF NOT credits_routes.is_given(m) THEN
            RETURN 'noted';
        END IF;
        handover := credits_routes.ask_old(format('SELECT credits.bucket_handover(%s)::text', m.bucket));
        IF tried = 2 THEN
            PERFORM credits_routes.forget_copies(m.bucket);
        END IF;
        IF tried > 0 THEN
            PERFORM credits_routes.copy_again(m.bucket);
        END IF;
        BEGIN
            -- While nobody else changes the bucket there, the old node is asked again: in a session with one that failed since, this raises an error.
            PERFORM credits_routes.tell_new('BEGIN');
            PERFORM credits_routes.ask_new(format('SELECT credits.lock_bucket(%s, ''{here,arriving}'')', m.bucket));
            IF NOT credits_routes.is_given(m) THEN
                PERFORM credits_routes.tell_new('ROLLBACK');
                RETURN 'noted';
            END IF;
            IF tried > 0 THEN
                PERFORM credits_routes.ask_new(format('SELECT credits.receive_handover(%s, %L::jsonb)::text', m.bucket, handover));
            END IF;
            PERFORM credits_routes.ask_new(format('SELECT credits.activate_bucket(%s, %L::jsonb)::text', m.bucket, handover));
            PERFORM credits_routes.tell_new('COMMIT');
            -- Functions follow with this transaction.
            PERFORM credits_routes.set_move_state('active');
            PERFORM credits_routes.apply_cluster();
            RETURN 'active';
        EXCEPTION WHEN object_not_in_prerequisite_state THEN
            PERFORM credits_routes.tell_new('ROLLBACK');
            IF tried = 2 THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END
    $$;
COMMENT ON FUNCTION credits_routes.activate(credits.moves) IS 'Step: the new node has the bucket.';

CREATE FUNCTION credits_routes.copy_again(bucket int) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    from_xact constant text := credits_routes.expect_rows(bucket);
BEGIN
    PERFORM credits_routes.tell_old('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
    PERFORM credits_routes.copy_rows(bucket, from_xact, NULL, NULL, 'infinity');
    PERFORM credits_routes.tell_old('COMMIT');
END
    $$;
COMMENT ON FUNCTION credits_routes.copy_again(int) IS 'Copies what the new node has lost of a bucket that was given away.';

CREATE FUNCTION credits_routes.forget_copies(bucket int) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$ BEGIN PERFORM credits_routes.tell_new(format('UPDATE credits.bucket_states SET copied_to = NULL WHERE bucket = %s', bucket)); END $$;
COMMENT ON FUNCTION credits_routes.forget_copies(int) IS 'Has the new node forget how far it has all rows of a bucket, so that they are copied from the beginning.';

-- active -> active or done
CREATE FUNCTION credits_routes.turn_map(m credits.moves) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits_routes.be_brief();
    UPDATE credits.buckets b SET node = m.to_node WHERE b.bucket = m.bucket AND b.node <> m.to_node;
    RETURN 'done';
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    PERFORM pg_sleep(0.2);
    RETURN 'active';
END
    $$;
COMMENT ON FUNCTION credits_routes.turn_map(credits.moves) IS 'Step: the map turns, when nobody uses the tables.';

-- undoing -> undone, or given. The old node first: when it has stopped moving the bucket, no session of an earlier mover can still give it to the new one.
CREATE FUNCTION credits_routes.undo_move(m credits.moves) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits_routes.be_patient();
    IF credits_routes.is_given(m) THEN
        RETURN 'given';
    END IF;
    -- If another router has moved the bucket, these states are not of this move, and stay.
    IF credits_routes.ask_old(format('SELECT credits.bucket_state(%s)', m.bucket)) = 'moving' THEN
        PERFORM credits_routes.ask_old(format('SELECT credits.stop_moving_bucket(%s)::text', m.bucket));
    END IF;
    IF credits_routes.ask_new(format('SELECT credits.bucket_state(%s)', m.bucket)) = 'arriving' THEN
        PERFORM credits_routes.ask_new(format('SELECT credits.return_bucket(%s)::text', m.bucket));
    END IF;
    BEGIN
        PERFORM credits_routes.be_brief();
        PERFORM credits_routes.apply_partitions();
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
        -- The next change of the map joins the partitions again.
        NULL;
    END;
    RETURN 'undone';
END
    $$;
COMMENT ON FUNCTION credits_routes.undo_move(credits.moves) IS 'Step: the old node has the bucket as before.';
