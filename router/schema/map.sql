\echo Use "CREATE EXTENSION credits_ledger_router" to load this file. \quit

-- The schema credits may have been made by somebody else, with operators in it: names without a schema are the server's own.
SET LOCAL search_path = pg_catalog, pg_temp;

-- What carries the routes. Clients have no business in it; a role that may call a function of the schema credits needs the one of the
-- same name in here, too.
CREATE SCHEMA credits_routes;
COMMENT ON SCHEMA credits_routes IS 'Parts of credits_ledger_router: routes to the nodes, and the foreign tables that lead there.';

CREATE TABLE credits.nodes (
    node        text  NOT NULL,
    host        text  NOT NULL,
    port        int   NOT NULL DEFAULT 5432,
    dbname      text  NOT NULL,
    options     jsonb NOT NULL DEFAULT '{}',
    seq_residue int   NOT NULL,

    CONSTRAINT nodes_pkey PRIMARY KEY (node),
    CONSTRAINT nodes_seq_residue_key UNIQUE (seq_residue),
    CONSTRAINT node_is_a_short_name CHECK (node ~ '^[a-z][a-z0-9_]{0,39}$'),
    CONSTRAINT port_is_one CHECK (port BETWEEN 1 AND 65535),
    CONSTRAINT seq_residue_is_one CHECK (seq_residue BETWEEN 0 AND 1023),
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
COMMENT ON COLUMN credits.nodes.seq_residue IS 'What is left of each seq of the node when it is divided by 1024: no two nodes draw the same.';

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
COMMENT ON COLUMN credits.buckets.node IS 'The node that has them.';

SELECT pg_extension_config_dump('credits.nodes', '');
SELECT pg_extension_config_dump('credits.buckets', '');

CREATE FUNCTION credits.spread_buckets(nodes text[]) RETURNS TABLE (bucket int, node text)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
    AS $$
        -- A node gets whole residue classes of 64, neighbours in the order of their bits reversed: they make few partitions.
        SELECT b, nodes[1 + (reversed.place * cardinality(nodes)) / 64]
        FROM generate_series(0, 1023) b
        CROSS JOIN LATERAL (SELECT sum((b >> bit & 1) << (5 - bit))::int AS place FROM generate_series(0, 5) bit) reversed
        WHERE cardinality(nodes) BETWEEN 1 AND 64
        ORDER BY b
    $$;
COMMENT ON FUNCTION credits.spread_buckets(text[]) IS
    'All buckets in equal shares (of 16) for these nodes, 64 at most: INSERT INTO credits.buckets SELECT * FROM credits.spread_buckets(...).';

-- For rows that come by INSERT and COPY; functions have it from their node.
CREATE FUNCTION credits.uuid_v7() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
                                          PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1),
                                  52, 1), 53, 1), 'hex')::uuid;
COMMENT ON FUNCTION credits.uuid_v7() IS 'A uuid of version 7: in the order of time, to the millisecond.';
