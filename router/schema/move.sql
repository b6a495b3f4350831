-- Moving a bucket while it is charged. models/nodes.pml has the order of the steps and what each is there for; the names of states are those of
-- credits.moves. Each step is a transaction on the router, which notes the next state at its end. After an interruption, the next call goes on from
-- the state that was noted, after it has asked the nodes whether the commit point is past.

CREATE FUNCTION credits_routes.mover_key() RETURNS bigint
    LANGUAGE sql IMMUTABLE RETURN hashtextextended('credits.move_bucket', 0);
COMMENT ON FUNCTION credits_routes.mover_key() IS 'The advisory lock of the session that moves a bucket.';

CREATE FUNCTION credits_routes.bucket_key(bucket int) RETURNS bigint
    LANGUAGE sql IMMUTABLE RETURN hashtextextended('credits.move_bucket', 1 + bucket);
COMMENT ON FUNCTION credits_routes.bucket_key(int) IS 'The advisory lock of the session that moves this bucket. What must not happen during a move takes it shared.';

CREATE FUNCTION credits_routes.key_holder(key bigint) RETURNS int
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT l.pid FROM pg_locks l
        WHERE l.locktype = 'advisory' AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) AND l.objsubid = 1
          AND l.mode = 'ExclusiveLock' AND l.granted AND l.classid::bigint = (key >> 32 & 4294967295) AND l.objid::bigint = (key & 4294967295)
    $$;
COMMENT ON FUNCTION credits_routes.key_holder(bigint) IS 'The pid of the session that holds an advisory lock.';

CREATE FUNCTION credits_routes.holds_key(key bigint) RETURNS boolean
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT coalesce(credits_routes.key_holder(key) = pg_backend_pid(), false) $$;
COMMENT ON FUNCTION credits_routes.holds_key(bigint) IS 'Whether this session holds an advisory lock.';

CREATE FUNCTION credits_routes.open_move() RETURNS credits.moves
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT m.* FROM credits.moves m WHERE m.state NOT IN ('done', 'undone') $$;
COMMENT ON FUNCTION credits_routes.open_move() IS 'The move that is neither done nor undone.';

CREATE FUNCTION credits_routes.set_move_state(new_state text) RETURNS void
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$ UPDATE credits.moves m SET state = new_state, changed_at = clock_timestamp() WHERE m.state NOT IN ('done', 'undone') $$;
COMMENT ON FUNCTION credits_routes.set_move_state(text) IS 'Notes how far the move is.';

-- The mover's two sessions stay from step to step.
CREATE FUNCTION credits_routes.ask_in_move(session text, node text, query text) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT credits_routes.session_is_open(session) THEN
        PERFORM credits_routes.open_session(session, node);
    END IF;
    RETURN (SELECT a.answer FROM credits_routes.ask_session(session, query) a (answer));
END
    $$;
COMMENT ON FUNCTION credits_routes.ask_in_move(text, text, text) IS 'What a node answers in a session of the mover, which is opened if need be.';

CREATE FUNCTION credits_routes.ask_old(query text) RETURNS text
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT credits_routes.ask_in_move('credits_ledger_old', (credits_routes.open_move()).from_node, query) $$;
COMMENT ON FUNCTION credits_routes.ask_old(text) IS 'What the old node answers.';

CREATE FUNCTION credits_routes.ask_new(query text) RETURNS text
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT credits_routes.ask_in_move('credits_ledger_new', (credits_routes.open_move()).to_node, query) $$;
COMMENT ON FUNCTION credits_routes.ask_new(text) IS 'What the new node answers.';

CREATE FUNCTION credits_routes.tell_old(statement text) RETURNS void
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT credits_routes.do_in_session('credits_ledger_old', statement) $$;
COMMENT ON FUNCTION credits_routes.tell_old(text) IS 'Has the old node run a statement without a result, in the session in which it was asked.';

CREATE FUNCTION credits_routes.tell_new(statement text) RETURNS void
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT credits_routes.do_in_session('credits_ledger_new', statement) $$;
COMMENT ON FUNCTION credits_routes.tell_new(text) IS 'Has the new node run a statement without a result, in the session in which it was asked.';

CREATE FUNCTION credits_routes.close_sessions() RETURNS void
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT credits_routes.close_session('credits_ledger_old'); SELECT credits_routes.close_session('credits_ledger_new') $$;
COMMENT ON FUNCTION credits_routes.close_sessions() IS 'Ends the mover''s sessions: what they have begun is rolled back.';

CREATE FUNCTION credits_routes.timeouts(of_locks text, of_statements text, of_idleness text) RETURNS text
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT format('SELECT set_config(''lock_timeout'', %L, false) || set_config(''statement_timeout'', %L, false)'
                      ' || set_config(''idle_in_transaction_session_timeout'', %L, false)', of_locks, of_statements, of_idleness)
    $$;
COMMENT ON FUNCTION credits_routes.timeouts(text, text, text) IS 'What sets the timeouts of a session on a node.';

-- A session of a mover that died may hold the bucket's row for five more seconds. The steps that lock the row wait longer. What reads rows on the old node is
-- idle while the new one takes them, which is long for long ones.
CREATE FUNCTION credits_routes.be_patient() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits_routes.ask_old(credits_routes.timeouts('10s', '0', '10min'));
    PERFORM credits_routes.ask_new(credits_routes.timeouts('10s', '0', '60s'));
END
    $$;
COMMENT ON FUNCTION credits_routes.be_patient() IS 'Has the mover''s sessions wait long for locks: in these steps nobody waits for the mover.';

-- While the bucket is held, commits of the old node wait: so each statement ends soon, or fails.
CREATE FUNCTION credits_routes.be_quick() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits_routes.ask_old(credits_routes.timeouts('1s', '5s', '2s'));
    PERFORM credits_routes.ask_new(credits_routes.timeouts('500ms', '1s', '60s'));
END
    $$;
COMMENT ON FUNCTION credits_routes.be_quick() IS 'Has the mover''s sessions give up soon: commits wait for them.';

-- Whoever wants to use a table queues behind a session that waits to lock it. So none waits while an idle transaction has a table locked.
CREATE FUNCTION credits_routes.be_brief() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    pids text;
BEGIN
    PERFORM set_config('lock_timeout', '500ms', true);
    -- Without this, a transaction sees the same pg_stat_activity each time.
    PERFORM pg_stat_clear_snapshot();
    SELECT string_agg(DISTINCT a.pid::text, ', ') INTO pids
    FROM pg_class c
    JOIN pg_locks l ON l.locktype = 'relation' AND l.relation = c.oid AND l.granted
    JOIN pg_stat_activity a ON a.pid = l.pid AND a.datname = current_database()
    WHERE c.relnamespace = 'credits'::regnamespace AND c.relkind = 'p' AND a.state LIKE 'idle in transaction%'
      AND a.state_change < clock_timestamp() - interval '0.5 s';
    IF pids IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'lock_not_available', MESSAGE = 'transactions that have used a table of the router stay open',
            DETAIL = format('Sessions, by pid, that are idle in one: %s.', pids), HINT = 'End them.';
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.be_brief() IS
    'Has the transaction wait half a second for the routed tables, and raises 55P03 while one that has used them is idle for as long.';

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
