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
