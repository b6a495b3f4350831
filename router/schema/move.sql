-- Moving a bucket while it is charged. Each step is a transaction on the router, which notes the next state at its end. After an interruption, the next
-- call goes on from the state that was noted, after it has asked the nodes whether the commit point is past.

-- What a call does first if a move is not over.
CREATE FUNCTION credits_routes.resume_move(m credits.moves, is_wanted boolean) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF m.state = 'active' AND credits_routes.ask_new(format('SELECT credits.bucket_state(%s)', m.bucket)) NOT IN ('here', 'moving') THEN
        -- A standby has taken over that has lost it.
        RETURN 'given';
    ELSIF m.state IN ('given', 'active') THEN
        RETURN m.state;
    ELSIF credits_routes.is_given(m) THEN
        RETURN 'given';
    ELSIF is_wanted AND m.state <> 'undoing' THEN
        RETURN 'noted';
    END IF;
    UPDATE credits.moves n SET problem = NULL WHERE n.move = m.move;
    RETURN 'undoing';
END
    $$;
COMMENT ON FUNCTION credits_routes.resume_move(credits.moves, boolean) IS 'The state that a move which is not over goes on from, after the nodes were asked.';

-- Notes what is asked for; false if there is nothing to do.
CREATE FUNCTION credits_routes.note_move(moved int, new_node text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    by_map constant text := (SELECT b.node FROM credits.buckets b WHERE b.bucket = moved);
    origin text := by_map;
    first_state text := 'noted';
BEGIN
    IF credits_routes.bucket_state(by_map, moved) NOT IN ('here', 'moving') THEN
        -- A standby may have lost the end of a move, or a router that there was one: it is gone on with, whichever router began it.
        SELECT h.giver INTO origin FROM credits_routes.last_handover(moved) h WHERE h.taker = new_node;
        IF NOT FOUND THEN
            PERFORM credits_routes.refuse_absent(moved, by_map);
        END IF;
        first_state := 'given';
    ELSIF by_map = new_node THEN
        RETURN false;
    END IF;
    INSERT INTO credits.moves (move, bucket, from_node, to_node, state)
    SELECT coalesce(max(m.move), 0) + 1, moved, origin, new_node, first_state FROM credits.moves m;
    RETURN true;
END
    $$;
COMMENT ON FUNCTION credits_routes.note_move(int, text) IS 'Notes a move, if the bucket is not where it is to be.';

CREATE FUNCTION credits_routes.begin_moving(moved int, new_node text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    mover record;
BEGIN
    IF moved IS NULL OR new_node IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument bucket or node must not be NULL';
    ELSIF moved NOT BETWEEN 0 AND 1023 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('bucket must be 0 to 1023, not %s', moved);
    ELSIF NOT EXISTS (SELECT FROM credits.nodes n WHERE n.node = new_node) THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('there is no node "%s"', new_node);
    ELSIF NOT EXISTS (SELECT FROM credits.buckets) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'the map is empty', HINT = 'Fill credits.buckets first.';
    ELSIF NOT credits_routes.holds_key(credits_routes.mover_key()) AND NOT pg_try_advisory_lock(credits_routes.mover_key()) THEN
        -- A session that was cancelled between two steps keeps the lock until it ends, or calls move_bucket again.
        SELECT a.pid, a.state INTO mover FROM credits_routes.key_holder(credits_routes.mover_key()) h JOIN pg_stat_activity a ON a.pid = h;
        RAISE EXCEPTION USING ERRCODE = 'object_in_use', MESSAGE = 'a bucket is being moved',
            DETAIL = concat_ws(' ', 'One is moved at a time.', format('The session that moves it has pid %s, and is %s.', mover.pid, mover.state)),
            HINT = CASE WHEN mover.state LIKE 'idle%' THEN format('It was cancelled. SELECT pg_terminate_backend(%s) ends it; then call move_bucket again.', mover.pid)
                        ELSE 'SELECT * FROM credits.moves shows how far it is.' END;
    END IF;
    PERFORM credits_routes.close_sessions();
END
    $$;
COMMENT ON FUNCTION credits_routes.begin_moving(int, text) IS 'Checks the arguments of move_bucket, and locks.';

CREATE FUNCTION credits_routes.take_step(m credits.moves, is_wanted boolean, is_resumed boolean) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- What must not happen to the bucket during a move takes this lock shared.
    IF NOT credits_routes.holds_key(credits_routes.bucket_key(m.bucket)) THEN
        PERFORM set_config('lock_timeout', '5s', true);
        PERFORM pg_advisory_lock(credits_routes.bucket_key(m.bucket));
    END IF;
    RETURN CASE
        WHEN is_resumed THEN credits_routes.resume_move(m, is_wanted)
        WHEN m.state = 'noted' THEN credits_routes.prepare_move(m)
        WHEN m.state = 'expected' THEN credits_routes.set_apart(m)
        WHEN m.state = 'copying' THEN credits_routes.copy_pass(m)
        WHEN m.state = 'copied' THEN credits_routes.hand_over(m)
        WHEN m.state = 'given' THEN credits_routes.activate(m)
        WHEN m.state = 'active' THEN credits_routes.turn_map(m)
        ELSE credits_routes.undo_move(m)
    END;
END
    $$;
COMMENT ON FUNCTION credits_routes.take_step(credits.moves, boolean, boolean) IS 'Takes the next step of a move, and returns the state after it.';

-- An error is returned, not raised, so that the state after it can be noted.
CREATE FUNCTION credits_routes.move_on(moved int, new_node text, is_resumed boolean, OUT is_over boolean, OUT problem jsonb)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    m credits.moves := credits_routes.open_move();
    is_wanted constant boolean := m.bucket = moved AND m.to_node = new_node;
    next_state text;
    message text;
    detail text;
    hint text;
BEGIN
    is_over := false;
    BEGIN
        IF m.move IS NULL THEN
            is_over := NOT credits_routes.note_move(moved, new_node);
            RETURN;
        END IF;
        next_state := credits_routes.take_step(m, is_wanted, is_resumed);
    EXCEPTION WHEN query_canceled OR OTHERS THEN
        GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        problem := jsonb_build_object('sqlstate', SQLSTATE, 'message', message, 'detail', detail, 'hint', hint);
        PERFORM credits_routes.close_sessions();
        IF m.move IS NULL THEN
            is_over := true;
            RETURN;
        END IF;
        next_state := CASE WHEN is_resumed THEN m.state ELSE credits_routes.state_after(m, problem) END;
        is_over := next_state = m.state;
    END;
    IF m.state = 'copied' THEN
        UPDATE credits.moves n SET holds = n.holds + 1 WHERE n.move = m.move;
    END IF;
    IF next_state = 'undoing' AND m.state <> 'undoing' AND problem IS NOT NULL THEN
        -- It is raised when the move is undone.
        UPDATE credits.moves n SET problem = move_on.problem WHERE n.move = m.move;
        problem := NULL;
    ELSIF next_state IN ('done', 'undone') THEN
        -- Otherwise what an earlier call has left is out of the way, and the move that is asked for is noted next.
        is_over := is_wanted AND (next_state = 'done' OR m.problem IS NOT NULL);
        problem := m.problem;
        PERFORM credits_routes.close_sessions();
        PERFORM pg_advisory_unlock(credits_routes.bucket_key(m.bucket));
    END IF;
    PERFORM credits_routes.set_move_state(next_state);
END
    $$;
COMMENT ON FUNCTION credits_routes.move_on(int, text, boolean) IS 'Takes a step of the move that is noted, or notes one.';

-- Before the commit point, a move that fails is undone, or tried again if a lock was in the way; behind it, it stays noted. COMMIT on the old node may have
-- succeeded without an answer: so the nodes are asked whether the commit point is past.
CREATE FUNCTION credits_routes.state_after(m credits.moves, problem jsonb) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF m.state NOT IN ('noted', 'expected', 'copying', 'copied') THEN
        RETURN m.state;
    ELSIF m.state = 'copied' AND credits_routes.is_given(m) THEN
        RETURN 'given';
    ELSIF m.state = 'copied' AND problem ->> 'sqlstate' IN ('55P03', '40P01') AND m.holds < 9 THEN
        PERFORM pg_sleep(0.05 * (m.holds + 1));
        RETURN 'copying';
    END IF;
    RETURN 'undoing';
EXCEPTION WHEN query_canceled OR OTHERS THEN
    PERFORM credits_routes.close_sessions();
    RETURN m.state;
END
    $$;
COMMENT ON FUNCTION credits_routes.state_after(credits.moves, jsonb) IS 'How a move goes on after an error.';

CREATE FUNCTION credits_routes.end_moving(problem jsonb) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    m constant credits.moves := credits_routes.open_move();
BEGIN
    PERFORM credits_routes.close_sessions();
    IF m.move IS NOT NULL AND credits_routes.holds_key(credits_routes.bucket_key(m.bucket)) THEN
        PERFORM pg_advisory_unlock(credits_routes.bucket_key(m.bucket));
    END IF;
    PERFORM pg_advisory_unlock(credits_routes.mover_key());
    IF problem IS NULL THEN
        RETURN;
    END IF;
    RAISE EXCEPTION USING ERRCODE = problem ->> 'sqlstate', MESSAGE = problem ->> 'message',
        DETAIL = concat_ws(' ', nullif(problem ->> 'detail', ''),
            CASE WHEN m.move IS NULL THEN 'The move was undone: the bucket is where it was.'
                 WHEN m.state IN ('given', 'active') THEN format('Bucket %s is behind the commit point of its move to %s.', m.bucket, m.to_node)
                 ELSE format('The move of bucket %s to %s is noted, and not done.', m.bucket, m.to_node) END),
        HINT = concat_ws(' ', nullif(problem ->> 'hint', ''),
            CASE WHEN m.move IS NOT NULL THEN format('CALL credits.move_bucket(%s, %L) again goes on.', m.bucket, m.to_node)
                 ELSE 'Call it again.' END);
END
    $$;
COMMENT ON FUNCTION credits_routes.end_moving(jsonb) IS 'Unlocks, and says what went wrong.';

-- A procedure that commits can pin no search_path: what is done is in functions that do.
CREATE PROCEDURE credits.move_bucket(bucket int, node text)
    LANGUAGE plpgsql
    AS $$
DECLARE
    outcome record;
    is_resumed boolean := true;
BEGIN
    -- In a transaction block this fails, and does so before the session takes its advisory lock, which would outlive the error.
    COMMIT;
    PERFORM credits_routes.begin_moving(bucket, node);
    LOOP
        COMMIT;
        SELECT s.is_over, s.problem INTO outcome FROM credits_routes.move_on(bucket, node, is_resumed) s;
        is_resumed := false;
        EXIT WHEN outcome.is_over;
    END LOOP;
    COMMIT;
    PERFORM credits_routes.end_moving(outcome.problem);
END
    $$;
COMMENT ON PROCEDURE credits.move_bucket(int, text) IS
    'Moves the accounts of a bucket to a node while they are charged; commits between its steps, so not in a transaction block. A move that an '
    'earlier call has left is gone on with first, or undone if it was another one before its commit point. Commits of the old node wait while the '
    'rest is copied, and calls for its accounts until the new node serves them. Errors: 22004, 22023, 55006 while another session moves a bucket, or '
    'where a transaction that has written of it is prepared, 55P03 where others stay in the way, and what a node says. How far it is: '
    'credits.moves. For superusers.';
