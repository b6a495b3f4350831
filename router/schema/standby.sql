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
