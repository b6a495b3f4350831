/* router/generate has written this: change router/schema or it, and say `make router-schema`. */

\echo Use "CREATE EXTENSION credits_ledger_router" to load this file. \quit

-- The schema credits may have been made by somebody else, with operators in it: names without a schema are the server's own.
SET LOCAL search_path = pg_catalog, pg_temp;

-- The functions and foreign tables that lead to the nodes. Clients do not name them, but a role that may call a function of the schema
-- credits needs EXECUTE on the function of the same name in here, too.
CREATE SCHEMA credits_routes;
COMMENT ON SCHEMA credits_routes IS 'Parts of credits_ledger_router: routes to the nodes, and the foreign tables that lead there.';

CREATE TABLE credits.nodes (
    node        text  NOT NULL,
    host        text  NOT NULL,
    port        int   NOT NULL DEFAULT 5432,
    dbname      text  NOT NULL,
    options     jsonb NOT NULL DEFAULT '{}',
    node_number int   NOT NULL,

    CONSTRAINT nodes_pkey PRIMARY KEY (node),
    CONSTRAINT nodes_node_number_key UNIQUE (node_number),
    CONSTRAINT node_is_a_short_name CHECK (node ~ '^[a-z][a-z0-9_]{0,39}$'),
    CONSTRAINT port_is_one CHECK (port BETWEEN 1 AND 65535),
    CONSTRAINT node_number_is_one CHECK (node_number BETWEEN 0 AND 1023),
    -- A password belongs in a user mapping or in the password file of the server's user.
    CONSTRAINT options_are_without_users
        CHECK (jsonb_typeof(options) = 'object' AND NOT options ?| ARRAY['user', 'password', 'host', 'port', 'dbname'])
);
COMMENT ON TABLE credits.nodes IS 'The servers that have the accounts. A change applies at its commit, to connections that are open as well.';
COMMENT ON COLUMN credits.nodes.node IS 'Name of the node: a letter, then letters, digits and underscores, at most 40.';
COMMENT ON COLUMN credits.nodes.host IS 'Where it is: a name, an address, or the folder of a socket.';
COMMENT ON COLUMN credits.nodes.port IS 'Where it listens.';
COMMENT ON COLUMN credits.nodes.dbname IS 'The database that has credits_ledger.';
COMMENT ON COLUMN credits.nodes.options IS 'Further options of libpq, as {"sslmode": "verify-full", "connect_timeout": "3"}; no user and no password.';
COMMENT ON COLUMN credits.nodes.node_number IS 'The number that the node is given by set_node_number, which no other node has: its seqs leave it as remainder when divided by 1024.';

CREATE TABLE credits.buckets (
    bucket int  NOT NULL,
    node   text NOT NULL,

    CONSTRAINT buckets_pkey PRIMARY KEY (bucket),
    CONSTRAINT buckets_node_fkey FOREIGN KEY (node) REFERENCES credits.nodes (node),
    CONSTRAINT bucket_is_one CHECK (bucket BETWEEN 0 AND 1023)
);
CREATE INDEX buckets_node_idx ON credits.buckets (node, bucket);
COMMENT ON TABLE credits.buckets IS
    'The map: which node has the accounts of a bucket. All 1,024 are there, or none. A change applies at its commit, to functions and tables alike.';
COMMENT ON COLUMN credits.buckets.bucket IS 'Number of the bucket, 0 to 1023: bucket_of() of its accounts.';
COMMENT ON COLUMN credits.buckets.node IS 'The node that has these accounts.';

CREATE TABLE credits.moves (
    move        int         NOT NULL,
    bucket      int         NOT NULL,
    from_node   text        NOT NULL,
    to_node     text        NOT NULL,
    state       text        NOT NULL DEFAULT 'noted',
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    passes      int         NOT NULL DEFAULT 0,
    holds       int         NOT NULL DEFAULT 0,
    rows_copied bigint      NOT NULL DEFAULT 0,
    pause       interval,
    problem     jsonb,

    CONSTRAINT moves_pkey PRIMARY KEY (move),
    CONSTRAINT bucket_is_one CHECK (bucket BETWEEN 0 AND 1023),
    CONSTRAINT state_is_known CHECK (state IN ('noted', 'expected', 'copying', 'copied', 'given', 'active', 'undoing', 'done', 'undone'))
);
CREATE UNIQUE INDEX one_move_at_a_time ON credits.moves ((true)) WHERE state NOT IN ('done', 'undone');
COMMENT ON TABLE credits.moves IS
    'Moves of buckets, by move_bucket: at most one that is neither done nor undone. After a crash of any part, the next call of move_bucket reads here how to go on with the move, or undo it.';
COMMENT ON COLUMN credits.moves.move IS 'Number of the move.';
COMMENT ON COLUMN credits.moves.bucket IS 'The bucket that is moved.';
COMMENT ON COLUMN credits.moves.from_node IS 'The old node, which it leaves.';
COMMENT ON COLUMN credits.moves.to_node IS 'The new node, where it goes.';
COMMENT ON COLUMN credits.moves.state IS
    'noted; expected by the new node, and to be set apart in the tables; copying; copied, and to be handed over; given: behind the commit point; '
    'active: the new node serves it, and the map is to turn; done; undoing; undone.';
COMMENT ON COLUMN credits.moves.started_at IS 'When it was noted.';
COMMENT ON COLUMN credits.moves.changed_at IS 'When its state, or what it has copied, changed last.';
COMMENT ON COLUMN credits.moves.passes IS 'How many times rows were copied.';
COMMENT ON COLUMN credits.moves.holds IS 'How many times the bucket was held on its old node, to be handed over.';
COMMENT ON COLUMN credits.moves.rows_copied IS 'How many rows were copied that the new node did not have.';
COMMENT ON COLUMN credits.moves.pause IS 'How long the old node kept commits waiting, until the bucket was given away.';
COMMENT ON COLUMN credits.moves.problem IS 'The error that it was undone for: sqlstate, message, detail, hint; NULL if it made way for another move.';

SELECT pg_extension_config_dump('credits.nodes', '');
SELECT pg_extension_config_dump('credits.buckets', '');
SELECT pg_extension_config_dump('credits.moves', '');

CREATE FUNCTION credits.spread_buckets(nodes text[]) RETURNS TABLE (bucket int, node text)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        -- Each node gets whole residue classes modulo 64 that are neighbours in bit-reversed order: so the map needs few partitions.
        SELECT b, nodes[1 + (reversed.place * cardinality(nodes)) / 64]
        FROM generate_series(0, 1023) b
        CROSS JOIN LATERAL (SELECT sum((b >> bit & 1) << (5 - bit))::int AS place FROM generate_series(0, 5) bit) reversed
        WHERE cardinality(nodes) BETWEEN 1 AND 64
        ORDER BY b
    $$;
COMMENT ON FUNCTION credits.spread_buckets(text[]) IS
    'All buckets for these nodes, 64 at most, in shares that differ by 16 buckets at most: INSERT INTO credits.buckets SELECT * FROM credits.spread_buckets(...).';

-- The default of id for rows that are inserted into a table of the router. Functions get ids from their node.
CREATE FUNCTION credits.uuid_v7() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
                                          PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1),
                                  52, 1), 53, 1), 'hex')::uuid;
COMMENT ON FUNCTION credits.uuid_v7() IS 'A uuid of version 7: in the order of time, to the millisecond.';

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

COMMENT ON SCHEMA credits IS 'Prepaid-credit ledgers, kept by the extension credits_ledger.';

CREATE TYPE credits.credit_transaction AS (
    id                 uuid,
    user_id            uuid,
    transaction_type   text,
    amount             numeric,
    source_id          text,
    description        text,
    created_at         timestamptz,
    seq                bigint,
    fusillade_batch_id uuid,
    api_key_id         uuid
);
COMMENT ON TYPE credits.credit_transaction IS
    'One ledger row as the functions return it. amount is positive; the sign follows from transaction_type.';

CREATE TYPE credits.transaction_with_category AS (
    id               uuid,
    user_id          uuid,
    transaction_type text,
    amount           numeric,
    source_id        text,
    description      text,
    created_at       timestamptz,
    seq              bigint,
    batch_id         uuid,
    request_origin   text,
    batch_sla        text,
    batch_count      int
);
COMMENT ON TYPE credits.transaction_with_category IS
    'An item of a grouped list: one ledger row, or one batch with its total, its number of rows (batch_count) and its '
    'highest seq. For a batch, id and batch_id are the batch''s id and description is ''Batch''.';

CREATE TYPE credits.transaction_with_balance AS (
    id                 uuid,
    user_id            uuid,
    transaction_type   text,
    amount             numeric,
    source_id          text,
    description        text,
    created_at         timestamptz,
    seq                bigint,
    fusillade_batch_id uuid,
    api_key_id         uuid,
    balance_after      numeric
);
COMMENT ON TYPE credits.transaction_with_balance IS
    'A credit_transaction and balance_after: the signed sum of its account''s transactions up to and including its seq.';

CREATE TYPE credits.credit_hold AS (
    source_id          text,
    user_id            uuid,
    amount             numeric,
    description        text,
    fusillade_batch_id uuid,
    api_key_id         uuid,
    category           text,
    metadata           jsonb,
    created_at         timestamptz,
    expires_at         timestamptz
);
COMMENT ON TYPE credits.credit_hold IS 'One row of holds as the functions return it.';

CREATE TYPE credits.recorded_transaction AS (
    item           int,
    source_id      text,
    outcome        text,
    transaction_id uuid,
    seq            bigint,
    detail         text
);
COMMENT ON TYPE credits.recorded_transaction IS
    'Result of an item of record_transactions. item: its place in the array, from 1. outcome: recorded; exists, if it was stored '
    'before with the same user, type and amount; conflict, if another transaction has its source_id or id; refused. '
    'transaction_id and seq are those of the stored row, for recorded and exists; detail says why, for conflict and refused.';

CREATE TYPE credits.feed_item AS (
    feed_position      text,
    id                 uuid,
    user_id            uuid,
    transaction_type   text,
    amount             numeric,
    source_id          text,
    description        text,
    created_at         timestamptz,
    seq                bigint,
    fusillade_batch_id uuid,
    api_key_id         uuid,
    category           text,
    metadata           jsonb,
    reverses           uuid
);
COMMENT ON TYPE credits.feed_item IS 'One ledger row of transactions_after. Pass its feed_position to read the rows behind it.';

CREATE FUNCTION credits.bucket_of(user_id uuid) RETURNS int
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((uuid_hash_extended(user_id, 8816678312871386365) & 1023) + 227)::int & 1023;
COMMENT ON FUNCTION credits.bucket_of(uuid) IS
    'The bucket of an account, 0 to 1023: the remainder of a hash partition by user_id with modulus 1024. NULL for NULL.';

CREATE TABLE credits.balances (
    user_id uuid,
    balance numeric,
    is_positive boolean,
    crossed_at timestamp with time zone,
    held numeric,
    available numeric
) PARTITION BY HASH (user_id);
COMMENT ON TABLE credits.balances IS 'Routed to the nodes by user_id. Every user with a transaction: the balance, exact now; is_positive, the side of zero last announced; crossed_at, when that last changed; held, the sum of the open holds, and available, the balance less that: 42501 for who may not read holds, if they are asked for. For one user: index lookups, and before Postgres 16 a scan of the user''s rows for one without a checkpoint.';

CREATE TABLE credits.batches (
    fusillade_batch_id uuid,
    user_id uuid,
    total_amount numeric,
    transaction_count bigint,
    max_seq bigint,
    created_at timestamp with time zone
) PARTITION BY HASH (user_id);
COMMENT ON TABLE credits.batches IS 'Routed to the nodes by user_id. Every batch of every user: total, number of rows, highest seq and first created_at, exact now.';

CREATE TABLE credits.credits_transactions (
    id uuid DEFAULT credits.uuid_v7() NOT NULL,
    user_id uuid NOT NULL,
    transaction_type text NOT NULL,
    amount numeric NOT NULL,
    source_id text NOT NULL,
    description text,
    fusillade_batch_id uuid,
    api_key_id uuid,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    seq bigint GENERATED ALWAYS AS (NULL::bigint) STORED,
    xact_id xid8 GENERATED ALWAYS AS (NULL::xid8) STORED,
    category text,
    metadata jsonb,
    reverses uuid
) PARTITION BY HASH (user_id);
COMMENT ON TABLE credits.credits_transactions IS 'Routed to the nodes by user_id. The ledger: append-only, and the only source of truth. Balances, checkpoints and batch totals are derived from it.';

CREATE TABLE credits.holds (
    source_id text NOT NULL,
    user_id uuid NOT NULL,
    amount numeric NOT NULL,
    description text,
    fusillade_batch_id uuid,
    api_key_id uuid,
    category text,
    metadata jsonb,
    created_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    expires_at timestamp with time zone NOT NULL
) PARTITION BY HASH (user_id);
COMMENT ON TABLE credits.holds IS 'Routed to the nodes by user_id. Credits that are held for usage to come. A hold is open until expires_at; capture_hold and release_hold delete it. What is available to an account is its balance less its open holds.';

CREATE TABLE credits.spend_cap_states (
    cap_id uuid,
    user_id uuid,
    amount numeric,
    spent numeric,
    remaining numeric,
    is_reached boolean,
    window_start timestamp with time zone,
    resets_at timestamp with time zone
) PARTITION BY HASH (user_id);
COMMENT ON TABLE credits.spend_cap_states IS 'Routed to the nodes by user_id. Every cap as of now: what its keys have spent in the current window, what remains (never below 0), whether it is reached, and when spending begins anew (NULL: never). 42501 for who may not read the ledger. For one user: an index lookup, the daily totals of the window, and the rows of the day on which it begins. Without daily totals or under row-level security, its rows of the window.';

CREATE TABLE credits.spend_caps (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    user_id uuid NOT NULL,
    api_key_ids uuid[],
    period text,
    amount numeric NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL,
    is_enforced boolean DEFAULT false NOT NULL
) PARTITION BY HASH (user_id);
COMMENT ON TABLE credits.spend_caps IS 'Routed to the nodes by user_id. How much of an account''s usage is to be announced, or refused, in a day, a week, a month or altogether, for clients to write. Applies from the commit of the change. At most 16 for an account.';

CREATE TABLE credits.spending_limits (
    user_id uuid NOT NULL,
    overdraft_limit numeric DEFAULT 0,
    thresholds numeric[] DEFAULT '{}'::numeric[] NOT NULL,
    updated_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
) PARTITION BY HASH (user_id);
COMMENT ON TABLE credits.spending_limits IS 'Routed to the nodes by user_id. Boundaries of accounts, for clients to write: how far holds and charges may overdraw one, and at which balances besides zero a notification is sent. Applies from the commit of the change. An account without a row has the defaults.';

CREATE TABLE credits.thresholds (
    user_id uuid,
    threshold numeric,
    is_above boolean,
    crossed_at timestamp with time zone
) PARTITION BY HASH (user_id);
COMMENT ON TABLE credits.thresholds IS 'Routed to the nodes by user_id. Of every user with a transaction, zero and the thresholds from spending_limits: is_above, the side of each last announced; crossed_at, when that last changed. For one user: index lookups.';

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

-- A standby that takes over may lack what its node has committed last. If that was a tombstone, it is written again before the standby serves, or two nodes would take
-- the bucket for theirs. The map does not say so where another router has moved the bucket: the nodes do. models/routers.pml has what each part is there for.

CREATE FUNCTION credits_routes.doubtful_buckets(standby text) RETURNS SETOF int
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        WITH said AS MATERIALIZED (
            SELECT n.node, r.* FROM credits.nodes n CROSS JOIN LATERAL credits_routes.bucket_reports(n.node) r
        ), newest AS (
            SELECT DISTINCT ON (s.bucket) s.bucket, s.seq FROM said s WHERE s.node <> standby AND s.seq > 0 ORDER BY s.bucket, s.seq DESC
        )
        SELECT DISTINCT own.bucket
        FROM said own
        JOIN said other ON other.bucket = own.bucket AND other.node <> own.node
        LEFT JOIN newest n ON n.bucket = own.bucket
        WHERE own.node = standby AND own.state IN ('here', 'moving')
          AND (other.state = 'arriving' OR n.seq > own.taken_seq OR (other.state <> 'elsewhere' AND other.taken_seq > own.taken_seq))
    $$;
COMMENT ON FUNCTION credits_routes.doubtful_buckets(text) IS
    'The buckets that a standby says it has, and that may be another node''s by what those say.';

CREATE FUNCTION credits_routes.hold_on_standby(standby text, moved int, OUT state_before text, OUT since text, OUT accounts text)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits_routes.open_session('credits_ledger_old', standby);
    PERFORM credits_routes.do_in_session('credits_ledger_old', 'SET idle_in_transaction_session_timeout = ''60s''');
    SELECT a.answer INTO state_before FROM credits_routes.ask_session('credits_ledger_old', format('SELECT credits.bucket_state(%s)', moved)) a (answer);
    SELECT c.since, c.accounts INTO since, accounts FROM credits_routes.collect_accounts(moved) c;
    PERFORM credits_routes.ask_session('credits_ledger_old', format('SELECT credits.start_moving_bucket(%s)::text', moved));
    PERFORM credits_routes.do_in_session('credits_ledger_old', 'BEGIN');
    PERFORM credits_routes.ask_session('credits_ledger_old', format('SELECT credits.hold_bucket(%s)::text', moved));
END
    $$;
COMMENT ON FUNCTION credits_routes.hold_on_standby(text, int) IS
    'Opens a session that holds a bucket on a standby: nobody moves it there or away. Returns the state that it had before, and what collect_accounts has.';

CREATE FUNCTION credits_routes.awaited_report(node text, asked int, OUT has_it boolean, OUT seq bigint, OUT given_to int, OUT taken_seq bigint)
    LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT r.state IN ('here', 'moving'), r.seq, r.given_to, r.taken_seq FROM credits_routes.bucket_reports(node, awaited_bucket => asked) r WHERE r.bucket = asked
    $$;
COMMENT ON FUNCTION credits_routes.awaited_report(text, int) IS
    'What a node says of one bucket, after a wait for a transaction that gives it away: whether it has it, its last handover of it, and the number of '
    'the one by which it took it.';

CREATE FUNCTION credits_routes.ask_others(standby text, moved int, OUT owner int, OUT taken_seq bigint, OUT heir int, OUT newest bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    other record;
    said record;
BEGIN
    newest := 0;
    -- Two may say that they have it, if another standby has lost a tombstone, too: the one that took it later has it.
    FOR other IN SELECT n.node, n.node_number FROM credits.nodes n WHERE n.node <> standby ORDER BY n.node LOOP
        said := credits_routes.awaited_report(other.node, moved);
        IF said.has_it AND said.taken_seq >= coalesce(taken_seq, 0) THEN
            owner := other.node_number;
            taken_seq := said.taken_seq;
        ELSIF NOT said.has_it AND said.seq > newest THEN
            newest := said.seq;
            heir := said.given_to;
        END IF;
    END LOOP;
END
    $$;
COMMENT ON FUNCTION credits_routes.ask_others(text, int) IS
    'What the other nodes say of a bucket: the number of its owner, NULL if none has it, with the number of the handover by which that took it; and '
    'of the newest handover its taker, the heir, and its number, 0 if there is none.';

-- A tombstone whose taker is the standby itself is for nobody: no node takes the bucket by it.
CREATE FUNCTION credits_routes.lost_tombstone(standby text, moved int, OUT taker int, OUT seq bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    nobody constant int := credits_routes.number_of_node(standby);
    said constant record := credits_routes.ask_others(standby, moved);
    taken_seq constant bigint := (SELECT r.taken_seq FROM credits_routes.bucket_reports(standby) r WHERE r.bucket = moved);
BEGIN
    IF said.taken_seq > taken_seq THEN
        -- Of two that say they have it, the one that took it last has it. The lost one is this handover, or an earlier one. Whatever handover the owner makes later is numbered above it.
        taker := said.owner;
        seq := said.taken_seq;
    ELSIF said.heir = nobody AND said.newest > taken_seq THEN
        -- The bucket was given to the standby's node. The standby has not taken it: it says what was before. It takes this handover, and none before it.
        taker := nobody;
        seq := said.newest - 1;
    ELSIF said.heir <> nobody AND said.newest > taken_seq AND EXISTS (SELECT FROM credits.nodes n WHERE n.node_number = said.heir) THEN
        -- Given to another, which has not taken it yet.
        taker := nobody;
        seq := said.newest;
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.lost_tombstone(text, int) IS
    'The tombstone that a standby has lost of a bucket that it says it has: who is to take it, and its number. No taker if the bucket is the standby''s.';

CREATE FUNCTION credits_routes.write_tombstone(moved int, held record, tombstone record) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits_routes.ask_session('credits_ledger_old', format('SELECT credits.give_away_bucket(%s, %s, %L::uuid[], %L::xid8)::text',
        moved, tombstone.taker, held.accounts, held.since));
    PERFORM credits_routes.do_in_session('credits_ledger_old',
        format('UPDATE credits.bucket_states SET handover = handover || ''{"seq": %s}'' WHERE bucket = %s', tombstone.seq, moved));
    PERFORM credits_routes.do_in_session('credits_ledger_old', 'COMMIT');
END
    $$;
COMMENT ON FUNCTION credits_routes.write_tombstone(int, record, record) IS 'Has the standby give up the bucket that is held: what hold_on_standby and lost_tombstone have returned.';

CREATE FUNCTION credits_routes.let_go(moved int, state_before text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits_routes.do_in_session('credits_ledger_old', 'ROLLBACK');
    IF state_before = 'here' THEN
        PERFORM credits_routes.ask_session('credits_ledger_old', format('SELECT credits.stop_moving_bucket(%s)::text', moved));
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.let_go(int, text) IS 'Leaves the bucket that is held to the standby, as it was before.';

CREATE FUNCTION credits_routes.carry_over(standby text, moved int) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    held record;
    tombstone record;
BEGIN
    held := credits_routes.hold_on_standby(standby, moved);
    tombstone := credits_routes.lost_tombstone(standby, moved);
    IF tombstone.taker IS NULL THEN
        PERFORM credits_routes.let_go(moved, held.state_before);
    ELSE
        PERFORM credits_routes.write_tombstone(moved, held, tombstone);
    END IF;
    PERFORM credits_routes.close_session('credits_ledger_old');
EXCEPTION WHEN query_canceled OR OTHERS THEN
    -- Whoever uses the standby through another router does not wait for this session.
    PERFORM credits_routes.close_session('credits_ledger_old');
    RAISE;
END
    $$;
COMMENT ON FUNCTION credits_routes.carry_over(text, int) IS 'Has a standby that takes over give up a bucket that it says it has, if its node has given it away.';

-- A node takes no handover that is older than its own last one. A standby that has lost that its node took a bucket, or that it gave it away then, would take one again that is over.
CREATE FUNCTION credits_routes.refuse_older_handovers(standby text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    number constant int := credits_routes.number_of_node(standby);
    -- For each bucket that another node has given to the standby's: the newest handover that is over, as far as the others know.
    newest constant jsonb := (
        SELECT jsonb_object_agg(h.bucket, h.seq)
        FROM (SELECT r.bucket, max(CASE
                  -- The node has the bucket: the handover by which it took it is over.
                  WHEN r.state IN ('here', 'moving') THEN r.taken_seq
                  -- It gave the bucket to the standby's node, or to any: the standby may take that handover, and none before it.
                  WHEN coalesce(r.given_to, number) = number THEN r.seq - 1
                  -- It gave the bucket to a third node.
                  ELSE r.seq
              END) AS seq
              FROM credits.nodes n CROSS JOIN LATERAL credits_routes.bucket_reports(n.node) r
              WHERE n.node <> standby GROUP BY r.bucket HAVING bool_or(r.given_to = number)) h);
BEGIN
    PERFORM credits_routes.ask_node(standby, format(
        'WITH told AS (UPDATE credits.bucket_states s SET handover = coalesce(s.handover, ''{}'') || jsonb_build_object(''given_to'', %s, ''seq'', n.value::bigint)'
        ' FROM jsonb_each_text(%L) n WHERE s.bucket = n.key::int AND s.state IN (''elsewhere'', ''arriving'') AND coalesce((s.handover ->> ''seq'')::bigint, 0) < n.value::bigint'
        ' RETURNING s.bucket) SELECT count(*)::text FROM told', number, newest));
END
    $$;
COMMENT ON FUNCTION credits_routes.refuse_older_handovers(text) IS
    'Has a standby take no handover of a bucket that it does not have, but the newest one, if that is to it: by a tombstone to nobody, numbered by what the other nodes know.';

-- What a node has of the standby's node may be what the standby has lost. And the standby gives out ids of transactions again, so rows of its own are below where that node has all.
CREATE FUNCTION credits_routes.forget_copies_of(standby text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    ledger constant text := credits_routes.ask_node(standby, 'SELECT credits.get_ledger()');
BEGIN
    PERFORM credits_routes.ask_node(n.node, format(
        'WITH forgotten AS (UPDATE credits.bucket_states SET copied_to = NULL WHERE copied_from = %L RETURNING bucket) SELECT count(*)::text FROM forgotten', ledger))
    FROM credits.nodes n WHERE n.node <> standby;
END
    $$;
COMMENT ON FUNCTION credits_routes.forget_copies_of(text) IS 'Has the other nodes forget how far they have all rows of a standby''s node, so that a move copies from the beginning.';

-- A standby has what its node had. A ledger that was just made has nothing, and would answer 0 for all accounts of the node.
CREATE FUNCTION credits_routes.refuse_empty_ledger(standby text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF credits_routes.ask_node(standby, 'SELECT (NOT EXISTS (SELECT FROM credits.node) AND NOT EXISTS (SELECT FROM credits.credits_transactions))::text')::boolean THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('the ledger of %s is empty and has no number', standby),
            HINT = format('If it is a standby that was behind when %s was added: SELECT credits.set_node_number(%s) there, and repeat the UPDATE.',
                          standby, credits_routes.number_of_node(standby));
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.refuse_empty_ledger(text) IS 'Refuses a standby whose ledger has neither rows nor a number (55000).';

CREATE FUNCTION credits_routes.carry_over_moves() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    standbys constant text[] := ARRAY(
        SELECT n.node FROM new_nodes n JOIN old_nodes o USING (node)
        -- While the map is empty, a node that says it has all buckets may be a new one, and before anybody is let in, none can be asked.
        WHERE CASE WHEN EXISTS (SELECT FROM credits.buckets) THEN true
                   WHEN EXISTS (SELECT FROM pg_user_mappings m WHERE m.srvname = credits_routes.server_of(n.node)) THEN credits_routes.buckets_away(n.node) <> '{}'
                   ELSE false END
          -- A standby may have the address of its node: an UPDATE that changes nothing names it. One of options alone names none.
          AND ((n.host, n.port, n.dbname, n.node_number) IS DISTINCT FROM (o.host, o.port, o.dbname, o.node_number) OR n.options = o.options)
        ORDER BY n.node);
    doubtful record;
BEGIN
    -- All nodes must be there: by what they say, a standby is told what it has lost.
    PERFORM credits_routes.bucket_reports(n.node) FROM credits.nodes n WHERE standbys <> '{}';
    PERFORM credits_routes.refuse_empty_ledger(s.node) FROM unnest(standbys) s (node);
    -- The number that its node was given, by which the others know its ledger. And the numbers of rows that are on other nodes are not given out again.
    PERFORM credits_routes.number_node(s.node) FROM unnest(standbys) s (node);
    -- The views that it was told to make last.
    PERFORM credits_routes.make_lacking_views(c.node, array_agg(c.modulus), array_agg(c.remainder))
    FROM credits_routes.present_classes() c WHERE c.node = ANY (standbys) GROUP BY c.node;
    FOR doubtful IN
        SELECT s.node, d.bucket FROM unnest(standbys) s (node) CROSS JOIN LATERAL credits_routes.doubtful_buckets(s.node) d (bucket) ORDER BY s.node, d.bucket
    LOOP
        PERFORM credits_routes.carry_over(doubtful.node, doubtful.bucket);
    END LOOP;
    PERFORM credits_routes.refuse_older_handovers(s.node), credits_routes.forget_copies_of(s.node) FROM unnest(standbys) s (node);
    RETURN NULL;
END
    $$;
COMMENT ON FUNCTION credits_routes.carry_over_moves() IS 'Trigger: has a standby that takes over give up what its node has given away.';

CREATE TRIGGER carry_over_moves AFTER UPDATE ON credits.nodes REFERENCING OLD TABLE AS old_nodes NEW TABLE AS new_nodes
    FOR EACH STATEMENT EXECUTE FUNCTION credits_routes.carry_over_moves();
COMMENT ON TRIGGER carry_over_moves ON credits.nodes IS 'Has a standby that takes over give up what its node has given away.';

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

-- What all routes use.

CREATE FUNCTION credits_routes.bucket(user_id uuid) RETURNS int
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    -- NULL goes to any node, which raises the error for it.
    RETURN coalesce(credits.bucket_of(user_id), 0);
COMMENT ON FUNCTION credits_routes.bucket(uuid) IS 'The bucket of an account; 0 for NULL.';

-- SECURITY DEFINER: callers need no privilege on the map.
CREATE FUNCTION credits_routes.nodes() RETURNS text[]
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT array_agg(n.node ORDER BY n.node) FROM credits.nodes n $$;
COMMENT ON FUNCTION credits_routes.nodes() IS 'The nodes, those without accounts, too.';

CREATE FUNCTION credits_routes.place_of_node(node text) RETURNS int
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT 1024 + n.node_number FROM credits.nodes n WHERE n.node = place_of_node.node $$;
COMMENT ON FUNCTION credits_routes.place_of_node(text) IS 'The partition of the cluster that leads to a node, whatever buckets it has: apply_cluster has made it.';

-- A session learns of changes of the catalog when it locks a table that it has no lock on, and to call a function locks none. The try that fails
-- releases the lock, so the next one takes it anew.
CREATE TABLE credits_routes.unused ();
COMMENT ON TABLE credits_routes.unused IS 'Locked by read_the_map_again, and by nothing else.';

CREATE FUNCTION credits_routes.read_the_map_again() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ BEGIN PERFORM FROM credits_routes.unused; END $$;
COMMENT ON FUNCTION credits_routes.read_the_map_again() IS 'Has PL/Proxy notice that the map has turned since the statement began.';

-- PL/Proxy puts its own name before the message of a node. Clients get the message without it.
CREATE FUNCTION credits_routes.try_again(tried int, state text, message text, detail text, hint text) RETURNS int
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    said constant text := regexp_replace(message, E'^\\S+\\(\\d+\\): \\[[^]]*\\] REMOTE [^:]+: ', '');
    more constant text := regexp_replace(detail, '^Remote detail: ', '');
    advice constant text := regexp_replace(hint, '^Remote hint: ', '');
BEGIN
    -- The account is not on this node any more, or not yet; nothing of the call has been kept.
    IF state = 'LC003' AND tried < 100 THEN
        PERFORM pg_sleep(least(0.002 * (tried + 1), 0.1));
        RETURN tried + 1;
    END IF;
    IF state = 'XX000' AND message ~ E'^PL/Proxy function .*: \\[[^]]*\\] PQ' THEN
        RAISE EXCEPTION USING ERRCODE = CASE WHEN message ~ 'PQconnect' THEN '08001' ELSE '08006' END,
            MESSAGE = regexp_replace(message, E'^PL/Proxy function \\S+: \\[([^]]*)\\] PQ\\w+: ', E'node of database \\1: '),
            HINT = 'Accounts of other nodes are served. What the call was to write may have been written.';
    ELSIF more = '' AND advice = '' THEN
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = said;
    ELSIF advice = '' THEN
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = said, DETAIL = more;
    ELSIF more = '' THEN
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = said, HINT = advice;
    ELSE
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = said, DETAIL = more, HINT = advice;
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.try_again(int, text, text, text, text) IS
    'Waits a little if the account is being moved (LC003), for about 8 s in 100 tries, and returns the count of tries; raises any other error '
    'in the node''s own words.';

-- Routes that router/generate cannot make by rule. PL/Proxy takes the SELECT in its functions as text, and replaces the names of arguments in it:
-- so no argument has the name of a column.

-- The answers of all nodes together are complete if each bucket was on exactly one of them. So each node says which buckets it has, in the statement that answers.
CREATE FUNCTION credits_routes.are_all(owned bit, buckets bigint) RETURNS boolean
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF buckets = 1024 AND bit_count(owned) = 1024 THEN
        RETURN true;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'LC003', MESSAGE = 'the nodes do not have each bucket once', DETAIL = 'A bucket is being moved.';
END
    $$;
COMMENT ON FUNCTION credits_routes.are_all(bit, bigint) IS
    'True if the nodes that have answered have every bucket once: owned is what any of them has, buckets how many they have together. LC003 otherwise.';

CREATE FUNCTION credits_routes.has_bucket(home int) RETURNS boolean
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
        CLUSTER 'credits_nodes';
        RUN ON home;
        SELECT get_bit(credits.owned_buckets(), home::int) = 1;
    $$;
COMMENT ON FUNCTION credits_routes.has_bucket(int) IS 'Whether the node of a bucket has it.';

CREATE FUNCTION credits_routes.require_bucket(home int) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT credits_routes.has_bucket(home) THEN
        RAISE EXCEPTION USING ERRCODE = 'LC003', MESSAGE = format('bucket %s is being moved', home);
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.require_bucket(int) IS 'Raises LC003 if the node of a bucket, by the map, does not have it: then its answer that there is nothing does not count.';

-- For calls that name no account. All nodes are asked. One that an account has left may have kept its rows: then both name the same account.
CREATE FUNCTION credits_routes.accounts_by_source(source text) RETURNS TABLE (account uuid, is_hold boolean, owned varbit)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
        CLUSTER 'credits_nodes';
        RUN ON ALL;
        SELECT NULL::uuid AS account, NULL::boolean AS is_hold, credits.owned_buckets()::varbit AS owned
        UNION ALL
        SELECT h.user_id, true, NULL FROM credits.holds h WHERE h.source_id = source::text
        UNION ALL
        SELECT t.user_id, false, NULL FROM credits.credits_transactions t WHERE t.source_id = source::text;
    $$;
COMMENT ON FUNCTION credits_routes.accounts_by_source(text) IS
    'The accounts of holds and transactions with a source_id, of all nodes, and for each node a row that says which buckets it has.';

CREATE FUNCTION credits_routes.accounts_by_transaction(transaction uuid) RETURNS TABLE (account uuid, owned varbit)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
        CLUSTER 'credits_nodes';
        RUN ON ALL;
        SELECT NULL::uuid AS account, credits.owned_buckets()::varbit AS owned
        UNION ALL
        SELECT t.user_id, NULL FROM credits.credits_transactions t WHERE t.id = transaction::uuid;
    $$;
COMMENT ON FUNCTION credits_routes.accounts_by_transaction(uuid) IS
    'The account of a transaction, of all nodes, and for each node a row that says which buckets it has.';

CREATE FUNCTION credits_routes.hinted_account() RETURNS uuid
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT nullif(current_setting('credits_ledger_router.account', true), '')::uuid $$;
COMMENT ON FUNCTION credits_routes.hinted_account() IS 'The account that the setting credits_ledger_router.account names; NULL without.';

CREATE FUNCTION credits_routes.bucket_by_source(source text) RETURNS int
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    account uuid := credits_routes.hinted_account();
    owned bit varying;
    buckets bigint;
BEGIN
    IF account IS NULL AND source IS NOT NULL THEN
        -- A hold before a transaction: it is what is captured, released or extended.
        SELECT (array_agg(a.account ORDER BY a.is_hold DESC, a.account) FILTER (WHERE a.owned IS NULL))[1], bit_or(a.owned), sum(bit_count(a.owned))
        INTO account, owned, buckets
        FROM credits_routes.accounts_by_source(source) a;
        -- No node has it. That counts unless a bucket was between two nodes.
        IF account IS NULL THEN
            PERFORM credits_routes.are_all(owned, buckets);
        END IF;
    END IF;
    RETURN credits_routes.bucket(account);
END
    $$;
COMMENT ON FUNCTION credits_routes.bucket_by_source(text) IS 'The bucket of a source_id, by the hint or by asking all nodes. LC003 if no node has it and a bucket is being moved.';

CREATE FUNCTION credits_routes.bucket_by_transaction(transaction uuid) RETURNS int
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    account uuid := credits_routes.hinted_account();
    owned bit varying;
    buckets bigint;
BEGIN
    IF account IS NULL AND transaction IS NOT NULL THEN
        SELECT (array_agg(a.account ORDER BY a.account) FILTER (WHERE a.owned IS NULL))[1], bit_or(a.owned), sum(bit_count(a.owned))
        INTO account, owned, buckets
        FROM credits_routes.accounts_by_transaction(transaction) a;
        IF account IS NULL THEN
            PERFORM credits_routes.are_all(owned, buckets);
        END IF;
    END IF;
    RETURN credits_routes.bucket(account);
END
    $$;
COMMENT ON FUNCTION credits_routes.bucket_by_transaction(uuid) IS 'The bucket of a transaction, by the hint or by asking all nodes. LC003 if no node has it and a bucket is being moved.';

-- redact_account clears the rows that a bucket has left behind on other nodes, too. A move at the same time could copy them as they were before. Its own router's is
-- kept away, and that of another one seen by the node that the bucket is arriving at.
CREATE FUNCTION credits_routes.keep_bucket(account uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    home constant int := credits_routes.bucket(account);
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared(credits_routes.bucket_key(home))
       OR EXISTS (SELECT FROM credits.moves m WHERE m.bucket = home AND m.state NOT IN ('done', 'undone'))
       OR EXISTS (SELECT FROM credits.nodes n WHERE credits_routes.bucket_state(n.node, home) = 'arriving') THEN
        RAISE EXCEPTION USING ERRCODE = 'LC003', MESSAGE = format('bucket %s is being moved', home);
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.keep_bucket(uuid) IS 'Keeps the bucket of an account from being moved by this router until the transaction ends. LC003 if any router moves it.';

-- SECURITY DEFINER: callers need no privilege on the map.
CREATE FUNCTION credits_routes.are_on_many_nodes(homes int[]) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT count(DISTINCT b.node) > 1 FROM credits.buckets b WHERE b.bucket = ANY (homes) $$;
COMMENT ON FUNCTION credits_routes.are_on_many_nodes(int[]) IS 'Whether buckets are on more than one node.';

-- Each node gets an array of its items, and one of their places in the caller's array.
CREATE FUNCTION credits_routes.record_transactions(items jsonb[], places int[], homes int[]) RETURNS SETOF credits.recorded_transaction
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
        CLUSTER 'credits_nodes';
        SPLIT items, places, homes;
        RUN ON homes;
        SELECT (places::int[])[r.item] AS item, r.source_id, r.outcome, r.transaction_id, r.seq, r.detail
        FROM credits.record_transactions(to_jsonb(items::jsonb[])) r;
    $$;
COMMENT ON FUNCTION credits_routes.record_transactions(jsonb[], int[], int[]) IS 'Records each item on the node of its bucket, and names it by its place in the caller''s array.';

CREATE FUNCTION credits_routes.record_whole(whole jsonb) RETURNS SETOF credits.recorded_transaction
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
        CLUSTER 'credits_nodes';
        RUN ON 0;
        TARGET credits.record_transactions;
    $$;
COMMENT ON FUNCTION credits_routes.record_whole(jsonb) IS 'Sends what is no array of items to a node, which refuses it.';

-- An item that names no account goes to the node of bucket 0, which refuses it.
CREATE FUNCTION credits_routes.bucket_of_item(item jsonb) RETURNS int
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT CASE WHEN jsonb_typeof(item -> 'user_id') = 'string'
                     AND item ->> 'user_id' ~* E'^(([0-9a-f]{4}-?){7}[0-9a-f]{4}|\\{([0-9a-f]{4}-?){7}[0-9a-f]{4}\\})$'
                    THEN credits_routes.bucket((item ->> 'user_id')::uuid) ELSE 0 END
    $$;
COMMENT ON FUNCTION credits_routes.bucket_of_item(jsonb) IS 'The bucket of an item of record_transactions; 0 if it names no account.';

-- Each node records its items in a transaction of its own. If one of them answers LC003, the call is repeated, and the others have recorded their items
-- already. So items are sent with ids: one that "exists" with the id that it was sent with was recorded by an earlier try.
CREATE FUNCTION credits_routes.with_ids(transactions jsonb) RETURNS jsonb
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF jsonb_typeof(transactions) IS DISTINCT FROM 'array' OR jsonb_array_length(transactions) NOT BETWEEN 2 AND 10000
       OR NOT credits_routes.are_on_many_nodes(ARRAY(SELECT credits_routes.bucket_of_item(i) FROM jsonb_array_elements(transactions) i)) THEN
        RETURN transactions;
    END IF;
    RETURN (SELECT jsonb_agg(CASE WHEN jsonb_typeof(i.item) = 'object' AND i.item ->> 'id' IS NULL THEN jsonb_set(i.item, '{id}', to_jsonb(credits.uuid_v7())) ELSE i.item END
                             ORDER BY i.place)
            FROM jsonb_array_elements(transactions) WITH ORDINALITY i (item, place));
END
    $$;
COMMENT ON FUNCTION credits_routes.with_ids(jsonb) IS 'Gives ids to items that have none, if they go to more than one node.';

CREATE FUNCTION credits_routes.record_split(given jsonb, sent jsonb, tried int) RETURNS SETOF credits.recorded_transaction
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    items jsonb[];
    places int[];
    homes int[];
BEGIN
    IF jsonb_typeof(sent) = 'array' AND jsonb_array_length(sent) BETWEEN 1 AND 10000 THEN
        SELECT array_agg(i.item ORDER BY i.place), array_agg(i.place::int ORDER BY i.place),
               array_agg(credits_routes.bucket_of_item(i.item) ORDER BY i.place)
        INTO items, places, homes
        FROM jsonb_array_elements(sent) WITH ORDINALITY i (item, place);
        RETURN QUERY
            SELECT r.item, r.source_id,
                   CASE WHEN tried > 0 AND r.outcome = 'exists' AND given -> r.item - 1 ->> 'id' IS NULL AND r.transaction_id::text = items[r.item] ->> 'id'
                        THEN 'recorded' ELSE r.outcome END,
                   r.transaction_id, r.seq, r.detail
            FROM credits_routes.record_transactions(items, places, homes) r ORDER BY r.item;
    ELSE
        RETURN QUERY SELECT * FROM credits_routes.record_whole(sent);
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.record_split(jsonb, jsonb, int) IS 'record_transactions over all nodes: of the items as the caller gave them, as they are sent, and after how many tries.';

-- The feed of all nodes. A position of it has the position of each node.
CREATE FUNCTION credits_routes.feed(nodes text[], positions text[], most bigint)
    RETURNS TABLE (node text, feed_position text, id uuid, user_id uuid, transaction_type text, amount numeric, source_id text,
                   description text, created_at timestamptz, seq bigint, fusillade_batch_id uuid, api_key_id uuid, category text,
                   metadata jsonb, reverses uuid)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
        CLUSTER 'credits_nodes';
        SPLIT nodes, positions;
        RUN ON credits_routes.place_of_node(nodes);
        SELECT (nodes::text[])[1] AS node, f.feed_position, f.id, f.user_id, f.transaction_type, f.amount, f.source_id, f.description,
               f.created_at, f.seq, f.fusillade_batch_id, f.api_key_id, f.category, f.metadata, f.reverses
        FROM credits.transactions_after((positions::text[])[1], most::bigint) f;
    $$;
COMMENT ON FUNCTION credits_routes.feed(text[], text[], bigint) IS 'At most so many rows of each node after its position.';

CREATE FUNCTION credits_routes.merge_feeds(feed_position text, "limit" bigint) RETURNS SETOF credits.feed_item
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    nodes constant text[] := credits_routes.nodes();
    left_at jsonb := '{}';
    next_row record;
BEGIN
    IF "limit" < 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = format('argument limit must not be negative, but is %s', "limit");
    END IF;
    IF feed_position IS NOT NULL THEN
        BEGIN
            left_at := feed_position::jsonb;
            -- Of a node that it does not name, the feed begins at the beginning: so it must name one.
            IF jsonb_typeof(left_at) <> 'object' OR NOT left_at ?| nodes OR EXISTS (SELECT FROM jsonb_each(left_at) l WHERE jsonb_typeof(l.value) <> 'string') THEN
                RAISE data_exception;
            END IF;
        EXCEPTION WHEN data_exception THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is not a position of this router''s feed', feed_position),
                HINT = 'Pass the feed_position of a row that transactions_after has returned, as it is.';
        END;
    END IF;
    FOR next_row IN
        -- By turns, so that a busy node does not keep the others from being read.
        SELECT f.*
        FROM (
            SELECT f.*, row_number() OVER (PARTITION BY f.node) AS turn
            FROM credits_routes.feed(nodes, ARRAY(SELECT left_at ->> n.node FROM unnest(nodes) WITH ORDINALITY n (node, place) ORDER BY n.place), "limit") f
        ) f
        ORDER BY f.turn, f.node LIMIT "limit"
    LOOP
        left_at := jsonb_set(left_at, ARRAY[next_row.node], to_jsonb(next_row.feed_position));
        RETURN NEXT (left_at::text, next_row.id, next_row.user_id, next_row.transaction_type, next_row.amount, next_row.source_id,
                     next_row.description, next_row.created_at, next_row.seq, next_row.fusillade_batch_id, next_row.api_key_id,
                     next_row.category, next_row.metadata, next_row.reverses)::credits.feed_item;
    END LOOP;
END
    $$;
COMMENT ON FUNCTION credits_routes.merge_feeds(text, bigint) IS 'transactions_after over all nodes.';

CREATE FUNCTION credits_routes.account_statement(home int, user_id uuid, period_start timestamp with time zone, period_end timestamp with time zone) RETURNS TABLE(line text, amount numeric, transaction_count bigint)
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT * FROM credits.account_statement($2, $3, $4);
$$;
CREATE FUNCTION credits.account_statement(user_id uuid, period_start timestamp with time zone, period_end timestamp with time zone) RETURNS TABLE(line text, amount numeric, transaction_count bigint)
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN QUERY SELECT * FROM credits_routes.account_statement(credits_routes.bucket($1), $1, $2, $3); RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.account_statement(user_id uuid, period_start timestamp with time zone, period_end timestamp with time zone) IS 'A user''s statement for the time from period_start up to, not including, period_end, in six lines: opening (the rows before period_start), purchase, admin_grant, usage, admin_removal (the rows of the period), closing (the rows before period_end), each with its signed sum and the number of its rows. Opening and the lines of the types add up to closing. 22004 for NULL, 22023 unless period_end is after period_start. Cost: the daily totals of the period, and of the days before or after it; of the days in which it begins and ends, the rows before or after that; and the rows that are not folded yet. Without daily totals or under row-level security, the user''s rows before period_end.';

CREATE FUNCTION credits.activate_bucket(bucket integer, handover jsonb) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have activate_bucket',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.activate_bucket(bucket integer, handover jsonb) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.advance_seq(past bigint) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have advance_seq',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.advance_seq(past bigint) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits_routes.aggregate_user_batches(home int, user_id uuid) RETURNS void
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT credits.aggregate_user_batches($2);
$$;
CREATE FUNCTION credits.aggregate_user_batches(user_id uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            PERFORM credits_routes.aggregate_user_batches(credits_routes.bucket($1), $1); RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.aggregate_user_batches(user_id uuid) IS 'Another name for refresh_checkpoint, for applications that call it: batches are folded with the checkpoint.';

CREATE FUNCTION credits.bucket_accounts(bucket integer) RETURNS uuid[]
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have bucket_accounts',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.bucket_accounts(bucket integer) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.bucket_digest(bucket integer) RETURNS TABLE(transaction_count bigint, balance numeric, digest text)
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have bucket_digest',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.bucket_digest(bucket integer) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.bucket_handover(bucket integer, accounts uuid[] DEFAULT NULL::uuid[], since xid8 DEFAULT NULL::xid8) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have bucket_handover',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.bucket_handover(bucket integer, accounts uuid[], since xid8) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.bucket_state(bucket integer) RETURNS text
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have bucket_state',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.bucket_state(bucket integer) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.bucket_transactions(bucket integer, from_xact_id xid8, below_xact_id xid8) RETURNS SETOF credits.credits_transactions
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have bucket_transactions',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.bucket_transactions(bucket integer, from_xact_id xid8, below_xact_id xid8) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits_routes.calculate_balance_with_seq(home int, user_id uuid) RETURNS TABLE(balance numeric, latest_seq bigint)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT * FROM credits.calculate_balance_with_seq($2);
$$;
CREATE FUNCTION credits.calculate_balance_with_seq(user_id uuid) RETURNS TABLE(balance numeric, latest_seq bigint)
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN QUERY SELECT * FROM credits_routes.calculate_balance_with_seq(credits_routes.bucket($1), $1); RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.calculate_balance_with_seq(user_id uuid) IS 'Balance of a user and the highest seq among its rows; 0 and NULL for an unknown user. Costs and errors as get_user_balance.';

CREATE FUNCTION credits_routes.capture_hold(found int, source_id text, amount numeric) RETURNS credits.credit_transaction
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON found;
    SELECT * FROM credits.capture_hold(source_id::text, amount::numeric);
$$;
CREATE FUNCTION credits.capture_hold(source_id text, amount numeric DEFAULT NULL::numeric) RETURNS credits.credit_transaction
    LANGUAGE plpgsql
    AS $$
DECLARE
    home int;
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            home := credits_routes.bucket_by_source($1);
            BEGIN
                RETURN credits_routes.capture_hold(home, $1, $2);
            EXCEPTION WHEN no_data_found THEN
                PERFORM credits_routes.require_bucket(home);
                RAISE;
            END;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.capture_hold(source_id text, amount numeric) IS 'Deletes a hold and records usage with its source_id, batch, key, category, metadata and description: of its whole amount, or of this one, which may be more. Never refused for lack of credits, and works after the hold has expired. If the ledger has usage of this account with this source_id and amount already, that row is returned. Errors: P0002 neither a hold nor such usage, 23505 source_id taken by another transaction, 23514 amount, 22004 NULL source_id, 40001 the hold has changed since the transaction''s snapshot, 09000 a trigger left a row out.';

CREATE FUNCTION credits_routes.charge(home int, user_id uuid, amount numeric, source_id text, description text, fusillade_batch_id uuid, api_key_id uuid, category text, metadata jsonb) RETURNS credits.credit_transaction
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT * FROM credits.charge($2, $3, $4, $5, $6, $7, $8, $9);
$$;
CREATE FUNCTION credits.charge(user_id uuid, amount numeric, source_id text, description text DEFAULT NULL::text, fusillade_batch_id uuid DEFAULT NULL::uuid, api_key_id uuid DEFAULT NULL::uuid, category text DEFAULT NULL::text, metadata jsonb DEFAULT NULL::jsonb) RETURNS credits.credit_transaction
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN credits_routes.charge(credits_routes.bucket($1), $1, $2, $3, $4, $5, $6, $7, $8);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.charge(user_id uuid, amount numeric, source_id text, description text, fusillade_batch_id uuid, api_key_id uuid, category text, metadata jsonb) IS 'Records usage, if what is available covers it, and returns its row. If source_id is taken by usage of the same user and amount, that row is returned: a retry is safe. Errors: LC001 not covered, also from COMMIT; 23505 source_id taken by another transaction or by an open hold, and those of create_transaction.';

CREATE FUNCTION credits_routes.count_all_transactions(search text, transaction_types text[], start_date timestamp with time zone, end_date timestamp with time zone) RETURNS TABLE (owned varbit, answer bigint)
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON ALL;
    SELECT credits.owned_buckets()::varbit AS owned, credits.count_all_transactions(search::text, transaction_types::text[], start_date::timestamp with time zone, end_date::timestamp with time zone) AS answer;
$$;
CREATE FUNCTION credits.count_all_transactions(search text DEFAULT NULL::text, transaction_types text[] DEFAULT NULL::text[], start_date timestamp with time zone DEFAULT NULL::timestamp with time zone, end_date timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN (SELECT pg_catalog.sum(n.answer)::bigint FROM credits_routes.count_all_transactions($1, $2, $3, $4) n
                HAVING credits_routes.are_all(pg_catalog.bit_or(n.owned), pg_catalog.sum(pg_catalog.bit_count(n.owned))::bigint));
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.count_all_transactions(search text, transaction_types text[], start_date timestamp with time zone, end_date timestamp with time zone) IS 'Number of transactions of all users; filters and errors as list_all_transactions. Cost: a scan of the ledger, parallel if large.';

CREATE FUNCTION credits_routes.count_transactions_with_batches(home int, user_id uuid, search text, transaction_types text[], start_date timestamp with time zone, end_date timestamp with time zone) RETURNS bigint
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT credits.count_transactions_with_batches($2, $3, $4, $5, $6);
$$;
CREATE FUNCTION credits.count_transactions_with_batches(user_id uuid, search text DEFAULT NULL::text, transaction_types text[] DEFAULT NULL::text[], start_date timestamp with time zone DEFAULT NULL::timestamp with time zone, end_date timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN credits_routes.count_transactions_with_batches(credits_routes.bucket($1), $1, $2, $3, $4, $5);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.count_transactions_with_batches(user_id uuid, search text, transaction_types text[], start_date timestamp with time zone, end_date timestamp with time zone) IS 'Number of items in a user''s grouped history; filters and errors as list_transactions_with_batches. Cost: the user''s batches, single rows and rows that are not folded yet.';

CREATE FUNCTION credits_routes.count_user_transactions(home int, user_id uuid, search text, transaction_types text[], start_date timestamp with time zone, end_date timestamp with time zone) RETURNS bigint
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT credits.count_user_transactions($2, $3, $4, $5, $6);
$$;
CREATE FUNCTION credits.count_user_transactions(user_id uuid, search text DEFAULT NULL::text, transaction_types text[] DEFAULT NULL::text[], start_date timestamp with time zone DEFAULT NULL::timestamp with time zone, end_date timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN credits_routes.count_user_transactions(credits_routes.bucket($1), $1, $2, $3, $4, $5);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.count_user_transactions(user_id uuid, search text, transaction_types text[], start_date timestamp with time zone, end_date timestamp with time zone) IS 'Number of a user''s transactions; filters and errors as list_user_transactions. Cost: without filters that of a balance; with types and dates the daily totals of the period; with search the user''s rows, or the period''s.';

CREATE FUNCTION credits_routes.create_hold(home int, user_id uuid, amount numeric, source_id text, expires_in interval, description text, fusillade_batch_id uuid, api_key_id uuid, category text, metadata jsonb) RETURNS credits.credit_hold
    LANGUAGE plproxy SET client_min_messages = warning SET intervalstyle = 'postgres'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT * FROM credits.create_hold($2, $3, $4, $5, $6, $7, $8, $9, $10);
$$;
CREATE FUNCTION credits.create_hold(user_id uuid, amount numeric, source_id text, expires_in interval DEFAULT '01:00:00'::interval, description text DEFAULT NULL::text, fusillade_batch_id uuid DEFAULT NULL::uuid, api_key_id uuid DEFAULT NULL::uuid, category text DEFAULT NULL::text, metadata jsonb DEFAULT NULL::jsonb) RETURNS credits.credit_hold
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN credits_routes.create_hold(credits_routes.bucket($1), $1, $2, $3, $4, $5, $6, $7, $8, $9);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.create_hold(user_id uuid, amount numeric, source_id text, expires_in interval, description text, fusillade_batch_id uuid, api_key_id uuid, category text, metadata jsonb) IS 'Holds credits for usage to come, if what is available covers them, and returns the hold. If source_id is that of an open hold of the same user and amount, that one is returned: a retry is safe. One of the same user that has expired gives way. Errors: LC001 not covered, also from COMMIT; 23505 source_id taken by another hold or by a transaction, 23514 amount not above 0 or of more than 13 integer or 15 fractional digits, a blank source_id, a category of more than 200 characters or metadata that is no object, 22023 expires_in not above 0 or of more than 30 days, 22004 NULL where a value is required, 54000 source_id too long for its index, 09000 a trigger left the row out.';

CREATE FUNCTION credits_routes.create_transaction(home int, user_id uuid, transaction_type text, amount numeric, source_id text, description text, fusillade_batch_id uuid, api_key_id uuid) RETURNS credits.credit_transaction
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT * FROM credits.create_transaction($2, $3, $4, $5, $6, $7, $8);
$$;
CREATE FUNCTION credits.create_transaction(user_id uuid, transaction_type text, amount numeric, source_id text, description text DEFAULT NULL::text, fusillade_batch_id uuid DEFAULT NULL::uuid, api_key_id uuid DEFAULT NULL::uuid) RETURNS credits.credit_transaction
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN credits_routes.create_transaction(credits_routes.bucket($1), $1, $2, $3, $4, $5, $6, $7);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.create_transaction(user_id uuid, transaction_type text, amount numeric, source_id text, description text, fusillade_batch_id uuid, api_key_id uuid) IS 'Records a transaction and returns its row, exactly as an INSERT does. If source_id is taken by a transaction of the same user, type and amount, that row is returned: a retry is safe. Errors: 23505 source_id taken by another transaction, 23514 amount not above 0 or of more than 13 integer or 15 fractional digits, a batch on a row that is not usage, or a blank source_id, 22023 unknown type, 22004 NULL where a value is required, 54000 source_id too long for its index, 09000 a trigger left the row out; an error of a trigger comes as the trigger raised it.';

CREATE FUNCTION credits.disown_buckets(buckets integer[]) RETURNS integer
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have disown_buckets',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.disown_buckets(buckets integer[]) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.expect_bucket(bucket integer, ledger text) RETURNS xid8
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have expect_bucket',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.expect_bucket(bucket integer, ledger text) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits_routes.extend_hold(found int, source_id text, expires_in interval) RETURNS credits.credit_hold
    LANGUAGE plproxy SET client_min_messages = warning SET intervalstyle = 'postgres'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON found;
    SELECT * FROM credits.extend_hold(source_id::text, expires_in::interval);
$$;
CREATE FUNCTION credits.extend_hold(source_id text, expires_in interval) RETURNS credits.credit_hold
    LANGUAGE plpgsql
    AS $$
DECLARE
    home int;
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            home := credits_routes.bucket_by_source($1);
            BEGIN
                RETURN credits_routes.extend_hold(home, $1, $2);
            EXCEPTION WHEN no_data_found THEN
                PERFORM credits_routes.require_bucket(home);
                RAISE;
            END;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.extend_hold(source_id text, expires_in interval) IS 'Has a hold expire so long after now, and returns it. An open one is never refused; one that has expired is held anew. Errors: P0002 no such hold, LC001 it has expired and is not covered, also from COMMIT; 22023 expires_in not above 0 or of more than 30 days, 22004 NULL, 40001 the hold has changed since the transaction''s snapshot, 09000 a trigger left it as it was.';

CREATE PROCEDURE credits.fill_daily_totals(IN chunk_size bigint DEFAULT 500000)
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have fill_daily_totals',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON PROCEDURE credits.fill_daily_totals(IN chunk_size bigint) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits_routes.get_available_balance(home int, user_id uuid) RETURNS numeric
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT credits.get_available_balance($2);
$$;
CREATE FUNCTION credits.get_available_balance(user_id uuid) RETURNS numeric
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN credits_routes.get_available_balance(credits_routes.bucket($1), $1);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.get_available_balance(user_id uuid) IS 'What is available to a user: the balance less the holds that are open when the statement begins; 0 for an unknown user. Costs what get_user_balance does, and a scan of the open holds. Errors: 22004 for NULL, 42501 without SELECT on the ledger and on holds.';

CREATE FUNCTION credits_routes.get_available_balances_bulk(user_ids uuid[]) RETURNS TABLE(user_id uuid, balance numeric, held numeric, available numeric)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    SPLIT user_ids;
    RUN ON credits_routes.bucket(user_ids);
    TARGET credits.get_available_balances_bulk;
$$;
CREATE FUNCTION credits.get_available_balances_bulk(user_ids uuid[]) RETURNS TABLE(user_id uuid, balance numeric, held numeric, available numeric)
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            IF $1 IS NULL THEN
                RAISE null_value_not_allowed USING MESSAGE = 'argument user_ids must not be NULL';
            END IF;
            RETURN QUERY SELECT r.* FROM credits_routes.get_available_balances_bulk(ARRAY(SELECT pg_catalog.unnest($1))) r
                LEFT JOIN (SELECT a.account, pg_catalog.min(a.place) AS place FROM pg_catalog.unnest($1) WITH ORDINALITY a (account, place)
                           GROUP BY a.account) a ON a.account OPERATOR(pg_catalog.=) r.user_id
                ORDER BY a.place;
            RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.get_available_balances_bulk(user_ids uuid[]) IS 'Balances of several users, what open holds hold of them and what is available, each distinct id once, unknown ones with 0. Errors: 22004 for NULL or a NULL in the array, 42501 without SELECT on the ledger and on holds.';

CREATE FUNCTION credits.get_ledger() RETURNS text
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have get_ledger',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.get_ledger() IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits_routes.get_monthly_auto_topup_spend(home int, user_id uuid) RETURNS numeric
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT credits.get_monthly_auto_topup_spend($2);
$$;
CREATE FUNCTION credits.get_monthly_auto_topup_spend(user_id uuid) RETURNS numeric
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN credits_routes.get_monthly_auto_topup_spend(credits_routes.bucket($1), $1);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.get_monthly_auto_topup_spend(user_id uuid) IS 'Sum of the amounts, not signed, of a user''s transactions of this month (UTC) whose source_id begins with auto_topup_, of any type, exact; 0 if none. 22004 for NULL. Cost: these rows.';

CREATE FUNCTION credits_routes.get_monthly_auto_topup_spend_bulk(user_ids uuid[]) RETURNS TABLE(user_id uuid, total numeric)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    SPLIT user_ids;
    RUN ON credits_routes.bucket(user_ids);
    TARGET credits.get_monthly_auto_topup_spend_bulk;
$$;
CREATE FUNCTION credits.get_monthly_auto_topup_spend_bulk(user_ids uuid[]) RETURNS TABLE(user_id uuid, total numeric)
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            IF $1 IS NULL THEN
                RAISE null_value_not_allowed USING MESSAGE = 'argument user_ids must not be NULL';
            END IF;
            RETURN QUERY SELECT r.* FROM credits_routes.get_monthly_auto_topup_spend_bulk(ARRAY(SELECT pg_catalog.unnest($1))) r
                LEFT JOIN (SELECT a.account, pg_catalog.min(a.place) AS place FROM pg_catalog.unnest($1) WITH ORDINALITY a (account, place)
                           GROUP BY a.account) a ON a.account OPERATOR(pg_catalog.=) r.user_id
                ORDER BY a.place;
            RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.get_monthly_auto_topup_spend_bulk(user_ids uuid[]) IS 'Sum of the amounts, not signed, of this month''s (UTC) transactions whose source_id begins with auto_topup_, of any type, exact, for each of the users that has any, once. 22004 for NULL, also in the array. Cost: these rows and one index lookup per user.';

CREATE FUNCTION credits.get_node_number() RETURNS integer
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have get_node_number',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.get_node_number() IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits_routes.get_transaction_by_id(found int, transaction_id uuid) RETURNS SETOF credits.credit_transaction
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON found;
    SELECT * FROM credits.get_transaction_by_id(transaction_id::uuid);
$$;
CREATE FUNCTION credits.get_transaction_by_id(transaction_id uuid) RETURNS SETOF credits.credit_transaction
    LANGUAGE plpgsql
    AS $$
DECLARE
    home int;
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            home := credits_routes.bucket_by_transaction($1);
            RETURN QUERY SELECT * FROM credits_routes.get_transaction_by_id(home, $1);
            IF NOT FOUND THEN
                PERFORM credits_routes.require_bucket(home);
            END IF;
            RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.get_transaction_by_id(transaction_id uuid) IS 'The transaction with this id, or no row. 22004 for NULL. Cost: one lookup by primary key.';

CREATE FUNCTION credits_routes.get_user_balance(home int, user_id uuid) RETURNS numeric
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT credits.get_user_balance($2);
$$;
CREATE FUNCTION credits.get_user_balance(user_id uuid) RETURNS numeric
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN credits_routes.get_user_balance(credits_routes.bucket($1), $1);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.get_user_balance(user_id uuid) IS 'Balance of a user in credits: the signed sum of the rows that the caller''s snapshot sees; 0 for an unknown user. Costs an index lookup plus the rows since the last checkpoint. Errors: 22004 for NULL, 42501 without SELECT on the ledger.';

CREATE FUNCTION credits_routes.get_user_balance_at(home int, user_id uuid, at timestamp with time zone) RETURNS numeric
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT credits.get_user_balance_at($2, $3);
$$;
CREATE FUNCTION credits.get_user_balance_at(user_id uuid, at timestamp with time zone) RETURNS numeric
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN credits_routes.get_user_balance_at(credits_routes.bucket($1), $1, $2);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.get_user_balance_at(user_id uuid, at timestamp with time zone) IS 'Signed sum of a user''s transactions with created_at <= at, exact; 0 if there are none. 22004 for NULL. Cost: the daily totals before or after at, whichever days are fewer; of the day of at, the rows before or after it; and the rows that are not folded yet. Without daily totals or under row-level security, the rows up to at.';

CREATE FUNCTION credits_routes.get_users_balances_bulk(user_ids uuid[], checkpoint_refresh_probability integer) RETURNS TABLE(user_id uuid, balance numeric)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    SPLIT user_ids;
    RUN ON credits_routes.bucket(user_ids);
    TARGET credits.get_users_balances_bulk;
$$;
CREATE FUNCTION credits.get_users_balances_bulk(user_ids uuid[], checkpoint_refresh_probability integer DEFAULT NULL::integer) RETURNS TABLE(user_id uuid, balance numeric)
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            IF $1 IS NULL THEN
                RAISE null_value_not_allowed USING MESSAGE = 'argument user_ids must not be NULL';
            END IF;
            RETURN QUERY SELECT r.* FROM credits_routes.get_users_balances_bulk(ARRAY(SELECT pg_catalog.unnest($1)), $2) r
                LEFT JOIN (SELECT a.account, pg_catalog.min(a.place) AS place FROM pg_catalog.unnest($1) WITH ORDINALITY a (account, place)
                           GROUP BY a.account) a ON a.account OPERATOR(pg_catalog.=) r.user_id
                ORDER BY a.place;
            RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.get_users_balances_bulk(user_ids uuid[], checkpoint_refresh_probability integer) IS 'Balances of several users, each distinct id once, unknown ones with 0. checkpoint_refresh_probability N asks for a refresh of each user''s checkpoint at commit with chance 1 in N; NULL and 0: never; ignored where the transaction cannot write. Errors: 22004 for NULL or a NULL in the array, 22023 for a negative probability, 42501 without SELECT on the ledger.';

CREATE FUNCTION credits.give_away_bucket(bucket integer, node_number integer DEFAULT NULL::integer, accounts uuid[] DEFAULT NULL::uuid[], since xid8 DEFAULT NULL::xid8) RETURNS jsonb
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have give_away_bucket',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.give_away_bucket(bucket integer, node_number integer, accounts uuid[], since xid8) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.has_all_buckets() RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have has_all_buckets',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.has_all_buckets() IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.hold_bucket(bucket integer) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have hold_bucket',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.hold_bucket(bucket integer) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE PROCEDURE credits.import_transactions(IN source regclass, IN chunk_size bigint DEFAULT 50000, IN announce boolean DEFAULT false)
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have import_transactions',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON PROCEDURE credits.import_transactions(IN source regclass, IN chunk_size bigint, IN announce boolean) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.is_here(user_id uuid) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have is_here',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.is_here(user_id uuid) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits_routes.list_all_transactions(nodes text[], rows_wanted bigint, words text, types text[], from_date timestamptz, to_date timestamptz) RETURNS TABLE (node text, owned varbit, id uuid, user_id uuid, transaction_type text, amount numeric, source_id text, description text, created_at timestamp with time zone, seq bigint, fusillade_batch_id uuid, api_key_id uuid)
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    SPLIT nodes;
    RUN ON credits_routes.place_of_node(nodes);
    SELECT (nodes::text[])[1] AS node, credits.owned_buckets()::varbit AS owned, NULL::uuid AS id, NULL::uuid AS user_id, NULL::text AS transaction_type, NULL::numeric AS amount, NULL::text AS source_id, NULL::text AS description, NULL::timestamp with time zone AS created_at, NULL::bigint AS seq, NULL::uuid AS fusillade_batch_id, NULL::uuid AS api_key_id UNION ALL SELECT (nodes::text[])[1], NULL, t.* FROM credits.list_all_transactions(0, rows_wanted::bigint, words::text, types::text[], from_date::timestamptz, to_date::timestamptz) t;
$$;
CREATE FUNCTION credits_routes.list_all_of_one(leaving_out bigint, rows_wanted bigint) RETURNS SETOF credits.credit_transaction
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON 0;
    TARGET credits.list_all_transactions;
$$;
CREATE FUNCTION credits.list_all_transactions(skip bigint DEFAULT 0, "limit" bigint DEFAULT 50, search text DEFAULT NULL::text, transaction_types text[] DEFAULT NULL::text[], start_date timestamp with time zone DEFAULT NULL::timestamp with time zone, end_date timestamp with time zone DEFAULT NULL::timestamp with time zone, before_seq bigint DEFAULT NULL::bigint) RETURNS SETOF credits.credit_transaction
    LANGUAGE plpgsql
    AS $$
DECLARE
    most bigint;
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            IF $7 IS NOT NULL THEN
                RAISE feature_not_supported USING MESSAGE = 'a router cannot list all transactions before a seq',
                    DETAIL = 'Each node draws its own.', HINT = 'Page with skip, or with end_date.';
            END IF;
            IF $1 IS NULL OR $1 OPERATOR(pg_catalog.<) 0 OR $2 OPERATOR(pg_catalog.<) 0 THEN
                RETURN QUERY SELECT * FROM credits_routes.list_all_of_one($1, $2); RETURN;
            END IF;
            -- NULL, which is all, where a bigint cannot say it.
            most := CASE WHEN $1 OPERATOR(pg_catalog.<=) (9223372036854775807 OPERATOR(pg_catalog.-) $2) THEN $1 OPERATOR(pg_catalog.+) $2 END;
            RETURN QUERY WITH said AS MATERIALIZED (
                    SELECT * FROM credits_routes.list_all_transactions(credits_routes.nodes(), most, $3, $4, $5, $6))
                SELECT t.id, t.user_id, t.transaction_type, t.amount, t.source_id, t.description, t.created_at, t.seq, t.fusillade_batch_id, t.api_key_id
                FROM (SELECT t.*, pg_catalog.min(t.created_at) OVER (PARTITION BY t.node ORDER BY t.seq DESC) AS head
                      FROM said t WHERE t.owned IS NULL) t
                WHERE credits_routes.are_all((SELECT pg_catalog.bit_or(s.owned) FROM said s),
                                             (SELECT pg_catalog.sum(pg_catalog.bit_count(s.owned))::bigint FROM said s))
                ORDER BY t.head DESC, t.node, t.seq DESC OFFSET $1 LIMIT $2;
            RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.list_all_transactions(skip bigint, "limit" bigint, search text, transaction_types text[], start_date timestamp with time zone, end_date timestamp with time zone, before_seq bigint) IS 'The transactions of all users, by descending seq; arguments and errors as list_user_transactions. Cost: the page and what is skipped or filtered out.';

CREATE FUNCTION credits_routes.list_holds(home int, user_id uuid, skip bigint, "limit" bigint) RETURNS SETOF credits.credit_hold
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT * FROM credits.list_holds($2, $3, $4);
$$;
CREATE FUNCTION credits.list_holds(user_id uuid, skip bigint DEFAULT 0, "limit" bigint DEFAULT 50) RETURNS SETOF credits.credit_hold
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN QUERY SELECT * FROM credits_routes.list_holds(credits_routes.bucket($1), $1, $2, $3); RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.list_holds(user_id uuid, skip bigint, "limit" bigint) IS 'A user''s holds that are open when the statement begins, by ascending expires_at and source_id. "limit" => NULL is all. 22004 for a NULL user_id or skip; 22023 for a negative skip or limit; 42501 without SELECT on holds. Cost: the page and what is skipped.';

CREATE FUNCTION credits_routes.list_transactions_with_batches(home int, user_id uuid, skip bigint, "limit" bigint, search text, transaction_types text[], start_date timestamp with time zone, end_date timestamp with time zone, before_seq bigint) RETURNS SETOF credits.transaction_with_category
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT * FROM credits.list_transactions_with_batches($2, $3, $4, $5, $6, $7, $8, $9);
$$;
CREATE FUNCTION credits.list_transactions_with_batches(user_id uuid, skip bigint DEFAULT 0, "limit" bigint DEFAULT 50, search text DEFAULT NULL::text, transaction_types text[] DEFAULT NULL::text[], start_date timestamp with time zone DEFAULT NULL::timestamp with time zone, end_date timestamp with time zone DEFAULT NULL::timestamp with time zone, before_seq bigint DEFAULT NULL::bigint) RETURNS SETOF credits.transaction_with_category
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN QUERY SELECT * FROM credits_routes.list_transactions_with_batches(credits_routes.bucket($1), $1, $2, $3, $4, $5, $6, $7, $8); RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.list_transactions_with_batches(user_id uuid, skip bigint, "limit" bigint, search text, transaction_types text[], start_date timestamp with time zone, end_date timestamp with time zone, before_seq bigint) IS 'A user''s history with each batch as one item, by descending seq (of a batch: its highest). A batch''s description is ''Batch'', its type ''usage'', its date its first row''s. request_origin and batch_sla come from the table that credits_ledger.analytics_table names, if it exists. Arguments and errors as list_user_transactions; 42501 if that table may not be read. Cost: the page, what is skipped or filtered out, and the rows that are not folded yet.';

CREATE FUNCTION credits_routes.list_user_transactions(home int, user_id uuid, skip bigint, "limit" bigint, search text, transaction_types text[], start_date timestamp with time zone, end_date timestamp with time zone, before_seq bigint) RETURNS SETOF credits.credit_transaction
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT * FROM credits.list_user_transactions($2, $3, $4, $5, $6, $7, $8, $9);
$$;
CREATE FUNCTION credits.list_user_transactions(user_id uuid, skip bigint DEFAULT 0, "limit" bigint DEFAULT 50, search text DEFAULT NULL::text, transaction_types text[] DEFAULT NULL::text[], start_date timestamp with time zone DEFAULT NULL::timestamp with time zone, end_date timestamp with time zone DEFAULT NULL::timestamp with time zone, before_seq bigint DEFAULT NULL::bigint) RETURNS SETOF credits.credit_transaction
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN QUERY SELECT * FROM credits_routes.list_user_transactions(credits_routes.bucket($1), $1, $2, $3, $4, $5, $6, $7, $8); RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.list_user_transactions(user_id uuid, skip bigint, "limit" bigint, search text, transaction_types text[], start_date timestamp with time zone, end_date timestamp with time zone, before_seq bigint) IS 'A user''s transactions, by descending seq. search is literal text, found anywhere in the description whatever its case; dates are inclusive; "limit" => NULL is all; before_seq keeps smaller seqs, before skip counts. 22004 for a NULL user_id or skip, or NULL in transaction_types; 22023 for a negative skip or limit or an unknown type. Cost: the page and what is skipped or filtered out.';

CREATE FUNCTION credits_routes.list_user_transactions_with_balance(home int, user_id uuid, skip bigint, "limit" bigint, search text, transaction_types text[], start_date timestamp with time zone, end_date timestamp with time zone, before_seq bigint) RETURNS SETOF credits.transaction_with_balance
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT * FROM credits.list_user_transactions_with_balance($2, $3, $4, $5, $6, $7, $8, $9);
$$;
CREATE FUNCTION credits.list_user_transactions_with_balance(user_id uuid, skip bigint DEFAULT 0, "limit" bigint DEFAULT 50, search text DEFAULT NULL::text, transaction_types text[] DEFAULT NULL::text[], start_date timestamp with time zone DEFAULT NULL::timestamp with time zone, end_date timestamp with time zone DEFAULT NULL::timestamp with time zone, before_seq bigint DEFAULT NULL::bigint) RETURNS SETOF credits.transaction_with_balance
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN QUERY SELECT * FROM credits_routes.list_user_transactions_with_balance(credits_routes.bucket($1), $1, $2, $3, $4, $5, $6, $7, $8); RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.list_user_transactions_with_balance(user_id uuid, skip bigint, "limit" bigint, search text, transaction_types text[], start_date timestamp with time zone, end_date timestamp with time zone, before_seq bigint) IS 'A user''s transactions as list_user_transactions lists them, each with balance_after: the signed sum of the user''s transactions up to and including this seq, also of those that filters leave out. Arguments and errors as list_user_transactions. Cost: as list_user_transactions; the rows between those of the page; and, for a page that is not the newest one, twice the rows on the shorter way to it: from the newest row, or from the first. Where row-level security filters, the rows up to the page''s newest.';

CREATE FUNCTION credits.make_class_views(modulus integer, remainder integer) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have make_class_views',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.make_class_views(modulus integer, remainder integer) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.own_buckets(buckets integer[]) RETURNS integer
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have own_buckets',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.own_buckets(buckets integer[]) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.owned_buckets() RETURNS bit
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have owned_buckets',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.owned_buckets() IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.owns_bucket(bucket integer) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have owns_bucket',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.owns_bucket(bucket integer) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.purge_bucket(bucket integer) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have purge_bucket',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.purge_bucket(bucket integer) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.receive_handover(bucket integer, handover jsonb) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have receive_handover',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.receive_handover(bucket integer, handover jsonb) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.receive_transactions(bucket integer, transactions jsonb, copied_to xid8 DEFAULT NULL::xid8) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have receive_transactions',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.receive_transactions(bucket integer, transactions jsonb, copied_to xid8) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.record_transactions(transactions jsonb) RETURNS SETOF credits.recorded_transaction
    LANGUAGE plpgsql
    AS $$
DECLARE
    sent jsonb;
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            IF tried OPERATOR(pg_catalog.=) 0 THEN
                sent := credits_routes.with_ids($1);
            END IF;
            RETURN QUERY SELECT * FROM credits_routes.record_split($1, sent, tried); RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.record_transactions(transactions jsonb) IS 'Records the items of an array of at most 10,000 objects, each as an INSERT does, and returns the result of each, in the order of the array. Keys: user_id, transaction_type, amount, source_id, description, fusillade_batch_id, api_key_id, id, created_at, category, metadata; one that is null counts as not given. An amount may be a number or a string, and is exact. An item that is refused does not affect the others. Rows get their seqs in the order of their source_ids. Errors: 22004 for NULL, 22023 for what is no array or has too many items, 25006 in a read-only transaction, 42501 without INSERT on the columns that are given and SELECT on the ledger, and what ends a transaction: 40001, 40P01, a cancel.';

CREATE FUNCTION credits_routes.redact_account(user_id uuid) RETURNS SETOF bigint
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON ALL;
    TARGET credits.redact_account;
$$;
CREATE FUNCTION credits.redact_account(user_id uuid) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    cleared bigint;
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            -- What another router has read of the rows before they were cleared, it copies while the bucket is arriving. Once it is not, all copies are cleared, too.
            PERFORM credits_routes.keep_bucket($1);
            cleared := GREATEST(cleared, (SELECT pg_catalog.max(n) FROM credits_routes.redact_account($1) n));
            PERFORM credits_routes.keep_bucket($1);
            cleared := GREATEST(cleared, (SELECT pg_catalog.max(n) FROM credits_routes.redact_account($1) n));
            RETURN cleared;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.redact_account(user_id uuid) IS 'For erasure requests: clears description and metadata of the rows and holds of a user that are committed or the transaction''s own, and changes nothing else; returns how many rows, holds among them, it has cleared. Waits for transactions that extend, capture or release a hold of the user, then takes the stripe of the user exclusively, so commits of its users wait until this transaction ends. Fires no trigger. EXECUTE suffices, which nobody but the owner has at first; row-level security hides no row from it. Vacuum removes the old versions of the rows. Errors: 22004 for NULL, 25006 in a read-only transaction, 0A000 if the transaction is prepared.';

CREATE FUNCTION credits_routes.refresh_checkpoint(home int, user_id uuid) RETURNS void
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT credits.refresh_checkpoint($2);
$$;
CREATE FUNCTION credits.refresh_checkpoint(user_id uuid) RETURNS void
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            PERFORM credits_routes.refresh_checkpoint(credits_routes.bucket($1), $1); RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.refresh_checkpoint(user_id uuid) IS 'When the transaction commits: folds the user''s delta into its checkpoint and batches, and announces a crossing that is not announced yet. Nothing happens for an unknown user. Errors: 22004 for NULL, 25006 in a read-only transaction.';

CREATE FUNCTION credits_routes.refresh_checkpoints_bulk(user_ids uuid[]) RETURNS TABLE(user_id uuid, balance numeric)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    SPLIT user_ids;
    RUN ON credits_routes.bucket(user_ids);
    TARGET credits.refresh_checkpoints_bulk;
$$;
CREATE FUNCTION credits.refresh_checkpoints_bulk(user_ids uuid[]) RETURNS TABLE(user_id uuid, balance numeric)
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            IF $1 IS NULL THEN
                RAISE null_value_not_allowed USING MESSAGE = 'argument user_ids must not be NULL';
            END IF;
            RETURN QUERY SELECT r.* FROM credits_routes.refresh_checkpoints_bulk(ARRAY(SELECT pg_catalog.unnest($1))) r
                LEFT JOIN (SELECT a.account, pg_catalog.min(a.place) AS place FROM pg_catalog.unnest($1) WITH ORDINALITY a (account, place)
                           GROUP BY a.account) a ON a.account OPERATOR(pg_catalog.=) r.user_id
                ORDER BY a.place;
            RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.refresh_checkpoints_bulk(user_ids uuid[]) IS 'refresh_checkpoint for several users; returns the balances of those that have transactions, each once. Errors: 22004 for NULL or a NULL in the array, 25006 in a read-only transaction, 42501 without SELECT on the ledger.';

CREATE FUNCTION credits_routes.refresh_idle_checkpoints(idle interval, "limit" bigint) RETURNS SETOF bigint
    LANGUAGE plproxy SET client_min_messages = warning SET intervalstyle = 'postgres'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON ALL;
    TARGET credits.refresh_idle_checkpoints;
$$;
CREATE FUNCTION credits.refresh_idle_checkpoints(idle interval DEFAULT '01:00:00'::interval, "limit" bigint DEFAULT 1000) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN (SELECT pg_catalog.sum(n)::bigint FROM credits_routes.refresh_idle_checkpoints($1, $2) n);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.refresh_idle_checkpoints(idle interval, "limit" bigint) IS 'When the transaction commits: refreshes checkpoints that were last written longer than idle ago and could cover more than they do, "limit" of them at most (NULL: all), and announces crossings of their users that are not announced yet. Returns how many. Takes the stripes of these users as their own commits do, and skips checkpoints that another session is refreshing: for a job that runs every few minutes. Cost: an index lookup for each checkpoint, and the deltas that it folds. Errors: 22004 for a NULL idle, 22008 for one that reaches back further than timestamps do, 22023 for a negative limit, 25006 in a read-only transaction, 42501 without SELECT on ledger and checkpoints or where row-level security would hide rows.';

CREATE FUNCTION credits_routes.release_expired_holds(grace interval, "limit" bigint) RETURNS SETOF bigint
    LANGUAGE plproxy SET client_min_messages = warning SET intervalstyle = 'postgres'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON ALL;
    TARGET credits.release_expired_holds;
$$;
CREATE FUNCTION credits.release_expired_holds(grace interval DEFAULT '1 day'::interval, "limit" bigint DEFAULT 1000) RETURNS bigint
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN (SELECT pg_catalog.sum(n)::bigint FROM credits_routes.release_expired_holds($1, $2) n);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.release_expired_holds(grace interval, "limit" bigint) IS 'Deletes up to "limit" (NULL: all) of the holds that expired longer than grace ago, and returns how many it deleted: for a job. Until then capture_hold finds them. Errors: 22004 for a NULL grace; 22008 for one that reaches back further than timestamps do; 22023 for a negative grace or limit; 25006 in a read-only transaction; 42501 without SELECT and DELETE on holds. Cost: a scan of holds up to the last one that is deleted.';

CREATE FUNCTION credits_routes.release_hold(found int, source_id text) RETURNS boolean
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON found;
    SELECT * FROM credits.release_hold(source_id::text);
$$;
CREATE FUNCTION credits.release_hold(source_id text) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
DECLARE
    home int;
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            home := credits_routes.bucket_by_source($1);
            IF credits_routes.release_hold(home, $1) THEN
                RETURN true;
            END IF;
            PERFORM credits_routes.require_bucket(home);
            RETURN false;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.release_hold(source_id text) IS 'Deletes a hold, and returns whether there was one. Errors: 22004 NULL, 40001 the hold has changed since the transaction''s snapshot, 09000 a trigger left it there.';

CREATE FUNCTION credits.require_class(modulus integer, remainder integer) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have require_class',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.require_class(modulus integer, remainder integer) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.restore_row_security() RETURNS SETOF record
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have restore_row_security',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.restore_row_security() IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.return_bucket(bucket integer) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have return_bucket',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.return_bucket(bucket integer) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits_routes.reverse_transaction(found int, transaction_id uuid, source_id text, amount numeric, description text) RETURNS credits.credit_transaction
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON found;
    SELECT * FROM credits.reverse_transaction(transaction_id::uuid, source_id::text, amount::numeric, description::text);
$$;
CREATE FUNCTION credits.reverse_transaction(transaction_id uuid, source_id text, amount numeric DEFAULT NULL::numeric, description text DEFAULT NULL::text) RETURNS credits.credit_transaction
    LANGUAGE plpgsql
    AS $$
DECLARE
    home int;
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            home := credits_routes.bucket_by_transaction($1);
            BEGIN
                RETURN credits_routes.reverse_transaction(home, $1, $2, $3, $4);
            EXCEPTION WHEN no_data_found THEN
                PERFORM credits_routes.require_bucket(home);
                RAISE;
            END;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.reverse_transaction(transaction_id uuid, source_id text, amount numeric, description text) IS 'Takes a transaction back, or part of it: records admin_removal for a purchase or grant and admin_grant for usage or a removal, with reverses set, for the same user, API key and category, and no batch. A NULL amount is what is left of it. All reversals of a transaction together never exceed it. Called again with the same source_id and transaction, and the same amount or NULL, it returns the stored row. Errors: P0002 no such transaction, 22023 it is a reversal itself, 23514 less is left than amount, also by COMMIT, an amount not above 0 or of more than 13 integer or 15 fractional digits, or a blank source_id, 23505 source_id taken by another transaction, 22004 NULL where a value is required, 54000 source_id too long for its index, 09000 a trigger left the row out, 0A000 if the transaction is prepared, 25006 in a read-only transaction.';

CREATE FUNCTION credits.row_security() RETURNS SETOF record
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have row_security',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.row_security() IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.set_node_number(node_number integer) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have set_node_number',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.set_node_number(node_number integer) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits_routes.settlement_statistics() RETURNS TABLE(exclusive_sections bigint, crossings_up bigint, crossings_down bigint, refreshes bigint, refreshes_skipped bigint, refreshes_failed bigint)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON ALL;
    TARGET credits.settlement_statistics;
$$;
CREATE FUNCTION credits.settlement_statistics() RETURNS TABLE(exclusive_sections bigint, crossings_up bigint, crossings_down bigint, refreshes bigint, refreshes_skipped bigint, refreshes_failed bigint)
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN QUERY SELECT pg_catalog.sum(n.exclusive_sections)::bigint, pg_catalog.sum(n.crossings_up)::bigint, pg_catalog.sum(n.crossings_down)::bigint, pg_catalog.sum(n.refreshes)::bigint, pg_catalog.sum(n.refreshes_skipped)::bigint, pg_catalog.sum(n.refreshes_failed)::bigint FROM credits_routes.settlement_statistics() n; RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.settlement_statistics() IS 'Counts for this database since the server started or recovered from a crash, of transactions that have committed: exclusive_sections, stripes taken exclusively (close to zero, for a new user, for refresh_checkpoint); crossings_up and crossings_down, also with the channels off; refreshes, checkpoints that were refreshed or made; refreshes_skipped, lagging ones left alone while someone else refreshed on that stripe or the tables were locked; refreshes_failed, those put off by an error, which is in the server''s log. Settlements that find nothing to decide are not counted. No row if the server has no room for the counts: there are places for 128 databases.';

CREATE FUNCTION credits.start_moving_bucket(bucket integer) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have start_moving_bucket',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.start_moving_bucket(bucket integer) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits.stop_moving_bucket(bucket integer) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have stop_moving_bucket',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.stop_moving_bucket(bucket integer) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits_routes.sum_recent_transactions(home int, user_id uuid, count bigint, start_date timestamp with time zone, end_date timestamp with time zone) RETURNS numeric
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT credits.sum_recent_transactions($2, $3, $4, $5);
$$;
CREATE FUNCTION credits.sum_recent_transactions(user_id uuid, count bigint, start_date timestamp with time zone DEFAULT NULL::timestamp with time zone, end_date timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS numeric
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN credits_routes.sum_recent_transactions(credits_routes.bucket($1), $1, $2, $3, $4);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.sum_recent_transactions(user_id uuid, count bigint, start_date timestamp with time zone, end_date timestamp with time zone) IS 'Signed sum of the newest count transactions of a user within the dates (inclusive), exact; 0 if there are none. 22004 for a NULL user_id or count, 22023 for a negative count. Cost: as the list of these rows.';

CREATE FUNCTION credits_routes.sum_recent_transactions_grouped(home int, user_id uuid, count bigint, start_date timestamp with time zone, end_date timestamp with time zone) RETURNS numeric
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT credits.sum_recent_transactions_grouped($2, $3, $4, $5);
$$;
CREATE FUNCTION credits.sum_recent_transactions_grouped(user_id uuid, count bigint, start_date timestamp with time zone DEFAULT NULL::timestamp with time zone, end_date timestamp with time zone DEFAULT NULL::timestamp with time zone) RETURNS numeric
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN credits_routes.sum_recent_transactions_grouped(credits_routes.bucket($1), $1, $2, $3, $4);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.sum_recent_transactions_grouped(user_id uuid, count bigint, start_date timestamp with time zone, end_date timestamp with time zone) IS 'Signed sum of the newest count items of a user''s grouped history within the dates (inclusive), exact; 0 if there are none. 22004 for a NULL user_id or count, 22023 for a negative count. Cost: as the list of these items.';

CREATE FUNCTION credits_routes.sum_transactions_after_date(home int, user_id uuid, after_date timestamp with time zone) RETURNS numeric
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT credits.sum_transactions_after_date($2, $3);
$$;
CREATE FUNCTION credits.sum_transactions_after_date(user_id uuid, after_date timestamp with time zone) RETURNS numeric
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN credits_routes.sum_transactions_after_date(credits_routes.bucket($1), $1, $2);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.sum_transactions_after_date(user_id uuid, after_date timestamp with time zone) IS 'Signed sum of a user''s transactions with created_at > after_date, exact; 0 if there are none. 22004 for NULL. Cost: as get_user_balance_at.';

CREATE FUNCTION credits_routes.sum_transactions_after_date_grouped(home int, user_id uuid, after_date timestamp with time zone) RETURNS numeric
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT credits.sum_transactions_after_date_grouped($2, $3);
$$;
CREATE FUNCTION credits.sum_transactions_after_date_grouped(user_id uuid, after_date timestamp with time zone) RETURNS numeric
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN credits_routes.sum_transactions_after_date_grouped(credits_routes.bucket($1), $1, $2);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.sum_transactions_after_date_grouped(user_id uuid, after_date timestamp with time zone) IS 'Signed sum of the items of a user''s grouped history that are dated after after_date, exact; 0 if there are none. 22004 for NULL. Cost: the user''s batches, the single rows after the date and the rows that are not folded yet.';

CREATE FUNCTION credits_routes.transaction_exists_by_source_id(source_id text) RETURNS TABLE (owned varbit, answer boolean)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON ALL;
    SELECT credits.owned_buckets()::varbit AS owned, credits.transaction_exists_by_source_id(source_id::text) AS answer;
$$;
CREATE FUNCTION credits.transaction_exists_by_source_id(source_id text) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN (SELECT pg_catalog.bool_or(n.answer) FROM credits_routes.transaction_exists_by_source_id($1) n
                HAVING credits_routes.are_all(pg_catalog.bit_or(n.owned), pg_catalog.sum(pg_catalog.bit_count(n.owned))::bigint));
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.transaction_exists_by_source_id(source_id text) IS 'Whether a transaction has this source_id. 22004 for NULL. Cost: one lookup by unique index.';

CREATE FUNCTION credits.transactions_after(feed_position text DEFAULT NULL::text, "limit" bigint DEFAULT 1000) RETURNS SETOF credits.feed_item
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN QUERY SELECT * FROM credits_routes.merge_feeds($1, $2); RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.transactions_after(feed_position text, "limit" bigint) IS 'The ledger read forward: the first "limit" rows (NULL: all) behind a feed_position of an earlier row, or from the beginning, in the order of the transactions that inserted them and of seq. It leaves out rows of transactions that are not older than the oldest open one; a later call returns them. So no row ever belongs before a position that was returned, and each row comes once. It waits for no transaction, and returns nothing that a crash could take back. Errors: 22023 for a negative limit and a position that is malformed or of another ledger, 42501 without SELECT on the ledger. Cost: a few thousand rows read besides the page; where row-level security filters, a query.';

CREATE FUNCTION credits.unimportable_transactions(source regclass) RETURNS TABLE(id uuid, seq bigint, reason text)
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'feature_not_supported', MESSAGE = 'a router does not have unimportable_transactions',
        HINT = 'It belongs to one node: call it there.';
END
$$;
COMMENT ON FUNCTION credits.unimportable_transactions(source regclass) IS 'Refused with 0A000. It belongs to one node: call it there.';

CREATE FUNCTION credits_routes.usage_by_day(home int, user_id uuid, start_date date, end_date date) RETURNS TABLE(day date, category text, api_key_id uuid, transaction_type text, total_amount numeric, transaction_count bigint)
    LANGUAGE plproxy SET client_min_messages = warning SET datestyle = 'ISO'
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON home;
    SELECT * FROM credits.usage_by_day($2, $3, $4);
$$;
CREATE FUNCTION credits.usage_by_day(user_id uuid, start_date date DEFAULT NULL::date, end_date date DEFAULT NULL::date) RETURNS TABLE(day date, category text, api_key_id uuid, transaction_type text, total_amount numeric, transaction_count bigint)
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN QUERY SELECT * FROM credits_routes.usage_by_day(credits_routes.bucket($1), $1, $2, $3); RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.usage_by_day(user_id uuid, start_date date, end_date date) IS 'Totals of a user''s transactions of every type by day of created_at (UTC), category and API key, exact now, amounts not signed; ordered by day, transaction_type, category, api_key_id, NULLs last. Both dates are inclusive; NULL: no bound. 22004 for a NULL user_id. Cost: the totals of these days and the rows that are not folded yet. Without daily totals or under row-level security, the user''s rows within the dates.';

CREATE FUNCTION credits_routes.verify_installation(nodes text[]) RETURNS TABLE(check_name text, object text, detail text)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    SPLIT nodes;
    RUN ON credits_routes.place_of_node(nodes);
    SELECT v.check_name, v.object, (nodes::text[])[1] || ': ' || v.detail AS detail FROM credits.verify_installation() v;
$$;
CREATE FUNCTION credits.verify_installation() RETURNS TABLE(check_name text, object text, detail text)
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN QUERY SELECT * FROM credits_routes.verify_installation(credits_routes.nodes()); RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.verify_installation() IS 'Compares tables, columns, constraints, indexes, triggers, sequences, views and event triggers with what this version makes, and lists what differs, and policies that a restore could not make; no rows is the good answer. ''left out of dumps'' names an index, constraint or trigger of an application''s own on the ledger, holds, limits or caps, and a default of its own for the ledger''s ids. Not compared: owners, privileges, storage and statistics settings, tablespaces, bodies of views and functions. Reads catalogs only.';

CREATE FUNCTION credits_routes.verify_ledger() RETURNS TABLE(check_name text, user_id uuid, detail text)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    RUN ON ALL;
    TARGET credits.verify_ledger;
$$;
CREATE FUNCTION credits.verify_ledger() RETURNS TABLE(check_name text, user_id uuid, detail text)
    LANGUAGE plpgsql
    AS $$
DECLARE
    tried int := 0;
    message text;
    detail text;
    hint text;
BEGIN
    LOOP
        BEGIN
            IF tried OPERATOR(pg_catalog.>) 0 THEN
                PERFORM credits_routes.read_the_map_again();
            END IF;
            RETURN QUERY SELECT * FROM credits_routes.verify_ledger(); RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            tried := credits_routes.try_again(tried, SQLSTATE, message, detail, hint);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION credits.verify_ledger() IS 'Recomputes every derived value from the ledger rows and returns what differs; no rows is the good answer. A crossing that is not announced yet (COMMIT PREPARED, rows written with triggers off) shows as ''checkpoint is_positive'', ''thresholds_below'' or ''caps_reached_until'' until refresh_checkpoint. Rows that reverse what is not there (a restore in another order, a trigger that was off), or what does not cover them, show as ''reversal''. Raises 42501 where row-level security would hide rows. Costs a few scans of the whole ledger.';

CREATE FUNCTION credits_routes.checkpoint_lag(nodes text[]) RETURNS TABLE (user_id uuid, delta_rows bigint, updated_at timestamp with time zone, watermark_lag bigint, stragglers integer, node text)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    SPLIT nodes;
    RUN ON credits_routes.place_of_node(nodes);
    SELECT v.user_id, v.delta_rows, v.updated_at, v.watermark_lag, v.stragglers, (nodes::text[])[1] AS node FROM credits.checkpoint_lag v;
$$;
CREATE VIEW credits.checkpoint_lag AS
    SELECT v.user_id, v.delta_rows, v.updated_at, v.watermark_lag, v.stragglers, v.node FROM credits_routes.checkpoint_lag(credits_routes.nodes()) v;
COMMENT ON VIEW credits.checkpoint_lag IS 'Of all nodes, and node, whose row it is. How far each checkpoint is behind: delta_rows, the committed rows that it does not cover; updated_at, when it was last written; watermark_lag, how many transaction ids have been given out since its watermark; stragglers, how many it lists. Cost: a scan of the checkpoints and, for delta_rows, an index lookup for each and its delta; without delta_rows the scan alone; for one user index lookups. Users without a checkpoint are in users_without_checkpoint. Names users: for operators and members of pg_monitor.';

CREATE FUNCTION credits_routes.checkpoints(nodes text[]) RETURNS TABLE (user_id uuid, checkpoint_seq bigint, balance numeric, updated_at timestamp with time zone, transaction_count bigint, watermark xid8, stragglers xid8[], is_positive boolean, crossed_at timestamp with time zone, overdraft_limit numeric, thresholds numeric[], thresholds_below smallint, thresholds_crossed_at timestamp with time zone[], has_days boolean, cap_ids uuid[], caps_reached_until timestamp with time zone[], node text)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    SPLIT nodes;
    RUN ON credits_routes.place_of_node(nodes);
    SELECT v.user_id, v.checkpoint_seq, v.balance, v.updated_at, v.transaction_count, v.watermark, v.stragglers, v.is_positive, v.crossed_at, v.overdraft_limit, v.thresholds, v.thresholds_below, v.thresholds_crossed_at, v.has_days, v.cap_ids, v.caps_reached_until, (nodes::text[])[1] AS node FROM credits.checkpoints v;
$$;
CREATE VIEW credits.checkpoints AS
    SELECT v.user_id, v.checkpoint_seq, v.balance, v.updated_at, v.transaction_count, v.watermark, v.stragglers, v.is_positive, v.crossed_at, v.overdraft_limit, v.thresholds, v.thresholds_below, v.thresholds_crossed_at, v.has_days, v.cap_ids, v.caps_reached_until, v.node FROM credits_routes.checkpoints(credits_routes.nodes()) v;
COMMENT ON VIEW credits.checkpoints IS 'Of all nodes, and node, whose row it is. The table user_balance_checkpoints, for callers who may SELECT all rows of the ledger; empty for others.';

CREATE FUNCTION credits_routes.hold_counts(nodes text[]) RETURNS TABLE (open bigint, expired bigint, first_expired_at timestamp with time zone, node text)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    SPLIT nodes;
    RUN ON credits_routes.place_of_node(nodes);
    SELECT v.open, v.expired, v.first_expired_at, (nodes::text[])[1] AS node FROM credits.hold_counts v;
$$;
CREATE VIEW credits.hold_counts AS
    SELECT v.open, v.expired, v.first_expired_at, v.node FROM credits_routes.hold_counts(credits_routes.nodes()) v;
COMMENT ON VIEW credits.hold_counts IS 'Of all nodes, and node, whose row it is. How many holds are open, and how many have expired and were neither captured nor deleted; first_expired_at, when the first of those did. Cost: a scan of holds. No amount and no user: for operators and members of pg_monitor.';

CREATE FUNCTION credits_routes.stragglers(nodes text[]) RETURNS TABLE (xact_id xid8, listed_by bigint, watermark_of bigint, state text, database name, role name, since timestamp with time zone, pid integer, application_name text, gid text, holds_back boolean, node text)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    SPLIT nodes;
    RUN ON credits_routes.place_of_node(nodes);
    SELECT v.xact_id, v.listed_by, v.watermark_of, v.state, v.database, v.role, v.since, v.pid, v.application_name, v.gid, v.holds_back, (nodes::text[])[1] AS node FROM credits.stragglers v;
$$;
CREATE VIEW credits.stragglers AS
    SELECT v.xact_id, v.listed_by, v.watermark_of, v.state, v.database, v.role, v.since, v.pid, v.application_name, v.gid, v.holds_back, v.node FROM credits_routes.stragglers(credits_routes.nodes()) v;
COMMENT ON VIEW credits.stragglers IS 'Of all nodes, and node, whose row it is. Open transactions that checkpoints pass by or stop at, and transactions that a checkpoint has passed by. listed_by: how many checkpoints list it as a straggler; watermark_of: how many have stopped at it, while it is open. state: that of its session in pg_stat_activity, prepared, open (by a session whose state the caller may not see), or ended, and then each checkpoint forgets it with its next refresh. since: the start of the transaction, or when it was prepared. holds_back: a checkpoint that is refreshed now stops at it. Cost: two scans of the checkpoints. On a standby only those that a checkpoint lists, without their sessions, which are the primary''s. For operators and members of pg_monitor.';

CREATE FUNCTION credits_routes.uncovered_transactions(nodes text[]) RETURNS TABLE (id uuid, user_id uuid, transaction_type text, amount numeric, source_id text, description text, fusillade_batch_id uuid, api_key_id uuid, created_at timestamp with time zone, seq bigint, xact_id xid8, category text, metadata jsonb, reverses uuid, node text)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    SPLIT nodes;
    RUN ON credits_routes.place_of_node(nodes);
    SELECT v.id, v.user_id, v.transaction_type, v.amount, v.source_id, v.description, v.fusillade_batch_id, v.api_key_id, v.created_at, v.seq, v.xact_id, v.category, v.metadata, v.reverses, (nodes::text[])[1] AS node FROM credits.uncovered_transactions v;
$$;
CREATE VIEW credits.uncovered_transactions AS
    SELECT v.id, v.user_id, v.transaction_type, v.amount, v.source_id, v.description, v.fusillade_batch_id, v.api_key_id, v.created_at, v.seq, v.xact_id, v.category, v.metadata, v.reverses, v.node FROM credits_routes.uncovered_transactions(credits_routes.nodes()) v;
COMMENT ON VIEW credits.uncovered_transactions IS 'Of all nodes, and node, whose row it is. The deltas: ledger rows that no checkpoint covers yet. For operators: empty under row-level security.';

CREATE FUNCTION credits_routes.users_without_checkpoint(nodes text[]) RETURNS TABLE (user_id uuid, node text)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
    CLUSTER 'credits_nodes';
    SPLIT nodes;
    RUN ON credits_routes.place_of_node(nodes);
    SELECT v.user_id, (nodes::text[])[1] AS node FROM credits.users_without_checkpoint v;
$$;
CREATE VIEW credits.users_without_checkpoint AS
    SELECT v.user_id, v.node FROM credits_routes.users_without_checkpoint(credits_routes.nodes()) v;
COMMENT ON VIEW credits.users_without_checkpoint IS 'Of all nodes, and node, whose row it is. Users whose rows were all written without a settlement, as by a restore: their balances are summed from all of their rows until refresh_checkpoint or their next transaction. For operators and members of pg_monitor: empty for others under row-level security.';

-- router/roles.sql grants what clients need, let_in a way to the nodes. A role that may call a function of the schema credits needs EXECUTE on the one of the
-- same name in credits_routes, too: that is the one that goes to the node. What both use is for everybody who may use the schema.
REVOKE ALL ON ALL TABLES IN SCHEMA credits, credits_routes FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA credits, credits_routes FROM PUBLIC;
REVOKE ALL ON SCHEMA credits, credits_routes FROM PUBLIC;
REVOKE ALL ON TYPE credits.credit_transaction, credits.transaction_with_category, credits.transaction_with_balance, credits.credit_hold,
    credits.recorded_transaction, credits.feed_item FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    credits_routes.bucket, credits_routes.bucket_of_item, credits_routes.nodes, credits_routes.place_of_node, credits_routes.try_again,
    credits_routes.read_the_map_again,
    credits_routes.hinted_account, credits_routes.bucket_by_source, credits_routes.bucket_by_transaction,
    credits_routes.are_all, credits_routes.has_bucket, credits_routes.require_bucket, credits_routes.keep_bucket, credits_routes.are_on_many_nodes,
    credits_routes.accounts_by_source, credits_routes.accounts_by_transaction, credits_routes.with_ids, credits_routes.record_split, credits_routes.merge_feeds
    TO PUBLIC;
-- The default of a column is evaluated as the role that inserts.
GRANT EXECUTE ON FUNCTION credits.bucket_of(uuid), credits.uuid_v7() TO PUBLIC;

-- Who watches the cluster watches the nodes, as far as they let the role.
GRANT USAGE ON SCHEMA credits, credits_routes TO pg_monitor;
GRANT SELECT ON credits.nodes, credits.buckets, credits.moves, credits.checkpoint_lag, credits.hold_counts, credits.stragglers, credits.users_without_checkpoint
    TO pg_monitor;
GRANT EXECUTE ON FUNCTION credits.node_of, credits.settlement_statistics, credits.verify_installation, credits_routes.settlement_statistics,
    credits_routes.verify_installation, credits_routes.checkpoint_lag, credits_routes.hold_counts, credits_routes.stragglers,
    credits_routes.users_without_checkpoint
    TO pg_monitor;
