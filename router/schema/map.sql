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
