-- Routes that are not made by rule. Whatever is sent to the nodes as it stands is text to PL/Proxy, which replaces the names of arguments in
-- it: they differ from those of columns.

-- Where an account is not named. Asked of all nodes: those that an account has moved away from may have it, too, and the same answer.
CREATE FUNCTION credits_routes.accounts_by_source(source text) RETURNS TABLE (account uuid, is_hold boolean)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
        CLUSTER 'credits_nodes';
        RUN ON ALL;
        SELECT h.user_id AS account, true AS is_hold FROM credits.holds h WHERE h.source_id = source::text
        UNION ALL
        SELECT t.user_id, false FROM credits.credits_transactions t WHERE t.source_id = source::text;
    $$;
COMMENT ON FUNCTION credits_routes.accounts_by_source(text) IS 'The accounts of holds and transactions with a source_id, of all nodes.';

CREATE FUNCTION credits_routes.accounts_by_transaction(transaction uuid) RETURNS TABLE (account uuid)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
        CLUSTER 'credits_nodes';
        RUN ON ALL;
        SELECT t.user_id AS account FROM credits.credits_transactions t WHERE t.id = transaction::uuid;
    $$;
COMMENT ON FUNCTION credits_routes.accounts_by_transaction(uuid) IS 'The account of a transaction, of all nodes.';

CREATE FUNCTION credits_routes.hinted_account() RETURNS uuid
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$ SELECT nullif(current_setting('credits_ledger_router.account', true), '')::uuid $$;
COMMENT ON FUNCTION credits_routes.hinted_account() IS 'The account that the setting credits_ledger_router.account names; NULL without.';

CREATE FUNCTION credits_routes.bucket_by_source(source text) RETURNS int
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    account uuid := credits_routes.hinted_account();
BEGIN
    IF account IS NULL AND source IS NOT NULL THEN
        -- A hold before a transaction: it is what is captured, released or extended.
        SELECT a.account INTO account FROM credits_routes.accounts_by_source(source) a ORDER BY a.is_hold DESC, a.account LIMIT 1;
    END IF;
    -- Nobody has it: any node says so.
    RETURN credits_routes.bucket(account);
END
    $$;
COMMENT ON FUNCTION credits_routes.bucket_by_source(text) IS 'The bucket of a source_id, by the hint or by asking all nodes.';

CREATE FUNCTION credits_routes.bucket_by_transaction(transaction uuid) RETURNS int
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    account uuid := credits_routes.hinted_account();
BEGIN
    IF account IS NULL AND transaction IS NOT NULL THEN
        SELECT a.account INTO account FROM credits_routes.accounts_by_transaction(transaction) a ORDER BY a.account LIMIT 1;
    END IF;
    RETURN credits_routes.bucket(account);
END
    $$;
COMMENT ON FUNCTION credits_routes.bucket_by_transaction(uuid) IS 'The bucket of a transaction, by the hint or by asking all nodes.';

-- Each node gets its items as an array of its own, and where each stands in the caller's.
CREATE FUNCTION credits_routes.record_transactions(items jsonb[], places int[], homes int[]) RETURNS SETOF credits.recorded_transaction
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
        CLUSTER 'credits_nodes';
        SPLIT items, places, homes;
        RUN ON homes;
        SELECT (places::int[])[r.item] AS item, r.source_id, r.outcome, r.transaction_id, r.seq, r.detail
        FROM credits.record_transactions(to_jsonb(items::jsonb[])) r;
    $$;
COMMENT ON FUNCTION credits_routes.record_transactions(jsonb[], int[], int[]) IS 'Items for the nodes of these buckets.';

CREATE FUNCTION credits_routes.record_whole(whole jsonb) RETURNS SETOF credits.recorded_transaction
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
        CLUSTER 'credits_nodes';
        RUN ON 0;
        TARGET credits.record_transactions;
    $$;
COMMENT ON FUNCTION credits_routes.record_whole(jsonb) IS 'What is no array of items, for a node to refuse.';

-- Of an item that names no account, a node says so.
CREATE FUNCTION credits_routes.bucket_of_item(item jsonb) RETURNS int
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT CASE WHEN jsonb_typeof(item -> 'user_id') = 'string'
                     AND item ->> 'user_id' ~* '^\{?([0-9a-f]{4}-?){7}[0-9a-f]{4}\}?$'
                    THEN credits_routes.bucket((item ->> 'user_id')::uuid) ELSE 0 END
    $$;
COMMENT ON FUNCTION credits_routes.bucket_of_item(jsonb) IS 'The bucket of an item of record_transactions; 0 if it names no account.';

CREATE FUNCTION credits_routes.record_split(transactions jsonb) RETURNS SETOF credits.recorded_transaction
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    items jsonb[];
    places int[];
    homes int[];
BEGIN
    IF jsonb_typeof(transactions) = 'array' AND jsonb_array_length(transactions) BETWEEN 1 AND 10000 THEN
        SELECT array_agg(i.item ORDER BY i.place), array_agg(i.place::int ORDER BY i.place),
               array_agg(credits_routes.bucket_of_item(i.item) ORDER BY i.place)
        INTO items, places, homes
        FROM jsonb_array_elements(transactions) WITH ORDINALITY i (item, place);
        RETURN QUERY SELECT * FROM credits_routes.record_transactions(items, places, homes) r ORDER BY r.item;
    ELSE
        RETURN QUERY SELECT * FROM credits_routes.record_whole(transactions);
    END IF;
END
    $$;
COMMENT ON FUNCTION credits_routes.record_split(jsonb) IS 'record_transactions over all nodes.';

-- The ledgers read forward. A position is where each node was left.
CREATE FUNCTION credits_routes.feed(nodes text[], positions text[], most bigint)
    RETURNS TABLE (node text, feed_position text, id uuid, user_id uuid, transaction_type text, amount numeric, source_id text,
                   description text, created_at timestamptz, seq bigint, fusillade_batch_id uuid, api_key_id uuid, category text,
                   metadata jsonb, reverses uuid)
    LANGUAGE plproxy SET client_min_messages = warning
    AS $$
        CLUSTER 'credits_nodes';
        SPLIT nodes, positions;
        RUN ON credits_routes.bucket_of_node(nodes);
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
    IF feed_position IS NOT NULL THEN
        BEGIN
            left_at := feed_position::jsonb;
            IF jsonb_typeof(left_at) <> 'object' THEN
                RAISE invalid_text_representation;
            END IF;
        EXCEPTION WHEN invalid_text_representation THEN
            RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('"%s" is not a position of this router''s feed', feed_position);
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
