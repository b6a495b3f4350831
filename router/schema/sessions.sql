-- dblink does what PL/Proxy cannot: sessions on nodes that outlast a call, and statements for a node that has no bucket yet. It uses the servers of the
-- map, as the role by which the owner was let in. These functions are bound to the schema of dblink when they are created.

SELECT set_config('search_path', format('pg_catalog, %I, pg_temp', e.extnamespace::regnamespace), true) FROM pg_extension e WHERE e.extname = 'dblink';

CREATE FUNCTION credits_routes.session_is_open(session text) RETURNS boolean
    LANGUAGE sql VOLATILE
    RETURN coalesce(session = ANY (dblink_get_connections()), false);
COMMENT ON FUNCTION credits_routes.session_is_open(text) IS 'Whether a session on a node has this name.';

CREATE FUNCTION credits_routes.connect_session(session text, server text) RETURNS void
    LANGUAGE sql VOLATILE
    BEGIN ATOMIC
        SELECT dblink_connect(session, server);
    END;
COMMENT ON FUNCTION credits_routes.connect_session(text, text) IS 'Opens a session on the node of a foreign server.';

CREATE FUNCTION credits_routes.do_in_session(session text, statement text) RETURNS void
    LANGUAGE sql VOLATILE
    BEGIN ATOMIC
        SELECT dblink_exec(session, statement);
    END;
COMMENT ON FUNCTION credits_routes.do_in_session(text, text) IS 'Runs a statement without a result in a session.';

CREATE FUNCTION credits_routes.ask_session(session text, query text) RETURNS SETOF text
    LANGUAGE sql VOLATILE
    BEGIN ATOMIC
        SELECT a.answer FROM dblink(session, query) a (answer text);
    END;
COMMENT ON FUNCTION credits_routes.ask_session(text, text) IS 'What a query of one column returns in a session.';

CREATE FUNCTION credits_routes.drop_session(session text) RETURNS void
    LANGUAGE sql VOLATILE
    BEGIN ATOMIC
        SELECT dblink_disconnect(session);
    END;
COMMENT ON FUNCTION credits_routes.drop_session(text) IS 'Ends a session that is open: its transaction is rolled back.';

-- postgres_fdw has options of its own, which PL/Proxy would pass to libpq.
CREATE FUNCTION credits_routes.require_libpq_options(options text[]) RETURNS void
    LANGUAGE sql VOLATILE
    BEGIN ATOMIC
        SELECT dblink_fdw_validator(options, 'pg_foreign_server'::regclass);
    END;
COMMENT ON FUNCTION credits_routes.require_libpq_options(text[]) IS 'Raises HV00J for what is no option of libpq, each given as name=value.';

SET LOCAL search_path = pg_catalog, pg_temp;

CREATE FUNCTION credits_routes.server_of(node text) RETURNS name
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT ('credits_node_' || node)::name $$;
COMMENT ON FUNCTION credits_routes.server_of(text) IS 'Name of the foreign server of a node.';

CREATE FUNCTION credits_routes.close_session(session text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF credits_routes.session_is_open(session) THEN
        PERFORM credits_routes.drop_session(session);
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.close_session(text) IS 'Ends a session, if it is open: its transaction is rolled back.';

-- If the router dies or is cut off, the node ends the session after five to eight seconds, and so releases its locks.
CREATE FUNCTION credits_routes.open_session(session text, node text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits_routes.close_session(session);
    PERFORM credits_routes.connect_session(session, credits_routes.server_of(node));
    PERFORM credits_routes.do_in_session(session,
        'SET application_name = ''credits_ledger_router''; SET client_min_messages = warning; SET search_path = pg_catalog, pg_temp;'
        ' SET lock_timeout = ''5s''; SET idle_in_transaction_session_timeout = ''5s''; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 1;'
        ' SET tcp_keepalives_count = 3; SET tcp_user_timeout = ''8s''');
END
    $$;
COMMENT ON FUNCTION credits_routes.open_session(text, text) IS
    'Opens a session on a node, instead of the one of that name. It waits five seconds for a lock, and is ended by the node after five seconds in an idle transaction.';

CREATE FUNCTION credits_routes.ask_node(node text, query text) RETURNS SETOF text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits_routes.open_session('credits_ledger_ask', node);
    RETURN QUERY SELECT * FROM credits_routes.ask_session('credits_ledger_ask', query);
    PERFORM credits_routes.close_session('credits_ledger_ask');
END
    $$;
COMMENT ON FUNCTION credits_routes.ask_node(text, text) IS 'What a query of one column returns on a node, in a session of its own.';
