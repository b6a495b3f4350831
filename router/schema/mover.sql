-- What a session that moves a bucket has: its locks, the move that it has noted, and its two sessions on nodes.

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
