-- Names without a schema are not looked up in the schema credits: ledger.sql says why.
SET LOCAL search_path = pg_catalog, pg_temp;

-- How a bucket of accounts moves from one node to another while it is charged: a function for each step on the old node, here, or on the new one, in
-- arrivals.sql. models/README.md has the order of the steps, and what each is there for. Whoever changes what bucket_states says of a bucket locks its row first.

CREATE FUNCTION credits.begin_transfer(bucket int) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'begin_transfer';
COMMENT ON FUNCTION credits.begin_transfer(int) IS
    'For the functions that move buckets: until the transaction ends, it may insert rows of this bucket while that is arriving, which announces nothing, and read balances of its accounts, '
    'and delete rows of it while it is elsewhere. 22004, 22023, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.wait_for_transaction(xact_id bigint) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'wait_for_transaction';
COMMENT ON FUNCTION credits.wait_for_transaction(bigint) IS
    'For hold_bucket: waits until the transaction with this id, of 32 bits, has ended. 22004, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.hold_stripes(bucket int) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'hold_stripes';
COMMENT ON FUNCTION credits.hold_stripes(int) IS
    'For hold_bucket: keeps commits with rows of the ledger out until the transaction ends. 22004, 22023, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.holds_stripes(bucket int) RETURNS boolean
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'holds_stripes';
COMMENT ON FUNCTION credits.holds_stripes(int) IS
    'For the functions that move buckets: whether the transaction has called hold_stripes for this bucket last, and keeps commits out. 22004, 22023, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.bucket_state(bucket int) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF bucket IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'null_value_not_allowed', MESSAGE = 'argument bucket must not be NULL';
    ELSIF bucket NOT BETWEEN 0 AND 1023 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('bucket must be 0 to 1023, not %s', bucket);
    END IF;
    RETURN coalesce((SELECT s.state FROM credits.bucket_states s WHERE s.bucket = bucket_state.bucket), 'here');
END
    $$;
COMMENT ON FUNCTION credits.bucket_state(int) IS
    'Where this bucket is: here; moving, which is here and about to leave; elsewhere; arriving, which is not here yet. 22004, 22023, 42501 without SELECT on bucket_states.';

-- Copies of a database have the same row in ledger_identity; the numbers of nodes differ.
CREATE FUNCTION credits.get_ledger() RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT format('%s/%s', i.ledger_id, (SELECT n.node_number FROM credits.node n)) FROM credits.ledger_identity i
    $$;
COMMENT ON FUNCTION credits.get_ledger() IS
    'The name of this ledger among those that buckets move between: that of ledger_identity, and the node''s number. A standby that takes over keeps '
    'it, a restored ledger has another. 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.lock_bucket(bucket int, allowed text[]) RETURNS text
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    state text;
BEGIN
    PERFORM credits.bucket_state(bucket);
    SELECT s.state INTO state FROM credits.bucket_states s WHERE s.bucket = lock_bucket.bucket FOR UPDATE;
    state := coalesce(state, 'here');
    IF state <> ALL (allowed) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s is %s', bucket, state);
    END IF;
    RETURN state;
END
    $$;
COMMENT ON FUNCTION credits.lock_bucket(int, text[]) IS
    'For the functions that move buckets: locks the row of a bucket in bucket_states, if it has one, and returns its state. 22004, 22023, 55000 if that is none of those allowed, 42501 for anybody '
    'but the owner of the ledger.';

CREATE FUNCTION credits.start_moving_bucket(bucket int) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits.bucket_state(bucket);
    -- hold_bucket waits for this lock, and so until all sessions have been told that the bucket is about to leave. A commit is visible a moment before its invalidations
    -- are sent, and readers trust what they remember of a bucket that is not about to leave.
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('credits.hold_bucket', 0));
    -- A bucket that is here has no row to lock. Of two sessions that insert one, the second waits here.
    INSERT INTO credits.bucket_states AS s (bucket, state) VALUES (start_moving_bucket.bucket, 'moving') ON CONFLICT DO NOTHING;
    PERFORM credits.lock_bucket(bucket, '{moving}');
END
    $$;
COMMENT ON FUNCTION credits.start_moving_bucket(int) IS
    'Old node: says that this bucket is about to leave. From the commit on, transactions that have written of it are not prepared; nothing else changes. Again: nothing. '
    '22004, 22023, 55000 if it is not here, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.stop_moving_bucket(bucket int) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF credits.lock_bucket(bucket, '{here,moving}') = 'here' THEN
        RETURN false;
    END IF;
    DELETE FROM credits.bucket_states s WHERE s.bucket = stop_moving_bucket.bucket;
    RETURN true;
END
    $$;
COMMENT ON FUNCTION credits.stop_moving_bucket(int) IS
    'Old node: takes start_moving_bucket back; false if the bucket is here anyway. 22004, 22023, 55000 if it is not here, 42501 for anybody but the owner of the ledger.';

-- The body is bound when it is created, so that no search_path can change it. A query that calls the function in FROM has it inlined, and streams.
CREATE FUNCTION credits.bucket_transactions(bucket int, from_xact_id xid8, below_xact_id xid8) RETURNS SETOF credits.credits_transactions
    LANGUAGE sql STABLE
    BEGIN ATOMIC
        SELECT t.* FROM credits.credits_transactions t
        WHERE credits.bucket_of(t.user_id) = bucket_transactions.bucket AND t.xact_id >= coalesce(from_xact_id, '0'::xid8)
          AND (below_xact_id IS NULL OR t.xact_id < below_xact_id);
    END;
COMMENT ON FUNCTION credits.bucket_transactions(int, xid8, xid8) IS
    'Old node: the rows of this bucket with from_xact_id <= xact_id < below_xact_id, where NULL is no bound, in no order. All below pg_snapshot_xmin of an earlier snapshot has ended: what was read '
    'below it is complete for good. Costs a scan of the ledger, from a bound on one of the rows since then, by block ranges. 42501 without SELECT on the ledger.';

CREATE FUNCTION credits.hold_bucket(bucket int) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    written constant oid[] := ARRAY['credits.credits_transactions'::regclass, 'credits.holds'::regclass, 'credits.spending_limits'::regclass,
                                    'credits.spend_caps'::regclass];
    writer bigint;
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'hold_bucket() needs a transaction under READ COMMITTED',
            DETAIL = 'Another would not see what has committed while it waited.';
    END IF;
    PERFORM credits.bucket_state(bucket);
    -- Before start_moving_bucket has committed, nobody is kept from preparing.
    IF pg_current_xact_id_if_assigned() IS NOT NULL AND NOT credits.holds_stripes(bucket) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = 'hold_bucket() needs a transaction that has written nothing yet';
    END IF;
    -- Two that wait for writers would wait for each other.
    PERFORM pg_advisory_xact_lock(hashtextextended('credits.hold_bucket', 0));
    PERFORM credits.lock_bucket(bucket, '{moving}');
    PERFORM credits.refuse_prepared(written);
    -- A transaction with rows in flight may have been about to prepare before the bucket was moving: so all are waited for. No lock of a relation is kept meanwhile: a
    -- maintenance command that queues behind it would block those that are waited for.
    FOR writer IN
        WITH locks AS MATERIALIZED (SELECT * FROM pg_locks)
        SELECT DISTINCT x.transactionid::text::bigint
        FROM locks r
        JOIN locks x ON x.virtualtransaction = r.virtualtransaction AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock' AND x.granted
        WHERE r.locktype = 'relation' AND r.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) AND r.relation = ANY (written)
          AND r.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') AND r.granted AND r.pid <> pg_backend_pid()
    LOOP
        PERFORM credits.wait_for_transaction(writer);
    END LOOP;
    PERFORM credits.hold_stripes(bucket);
    PERFORM credits.refuse_prepared(written);
END
    $$;
COMMENT ON FUNCTION credits.hold_bucket(int) IS
    'Old node: waits for everybody who has rows in flight, then keeps commits with rows of this ledger out until the transaction ends, which should '
    'be soon: it copies the rest of the bucket, and gives it away. lock_timeout bounds each wait. 22004, 22023, 55000 if the bucket is not moving, or '
    'the transaction is not READ COMMITTED or has written, 55006 while a transaction is prepared that has written, 42501 for anybody but the owner of '
    'the ledger.';

CREATE FUNCTION credits.refuse_prepared(relations oid[]) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_locks r
               WHERE r.locktype = 'relation' AND r.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                 AND r.relation = ANY (relations) AND r.mode NOT IN ('AccessShareLock', 'RowShareLock') AND r.granted AND r.pid IS NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_in_use', MESSAGE = 'a prepared transaction has written to the ledger',
            DETAIL = 'It may have rows of the bucket, and is not settled when it commits.', HINT = 'COMMIT PREPARED or ROLLBACK PREPARED ends it: pg_prepared_xacts lists it.';
    END IF;
END
    $$;
COMMENT ON FUNCTION credits.refuse_prepared(oid[]) IS
    'For hold_bucket: raises 55006 while a prepared transaction has a lock on one of these relations that writers have.';

-- What would have to be looked for among all accounts of a node: collected before commits wait for it. The new node is asked, too: what it has of an earlier stay may be of an account
-- that the old one does not know any more, as after dump and restore, or that lost its first rows with a node's last commits.
CREATE FUNCTION credits.bucket_accounts(bucket int) RETURNS uuid[]
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM credits.bucket_state(bucket);
    RETURN ARRAY(
        -- By the index, from one account to the next. One that has rows and no checkpoint, as after a restore, may get a checkpoint any time, without another row.
        WITH RECURSIVE with_rows AS (
            (SELECT t.user_id FROM credits.credits_transactions t ORDER BY t.user_id LIMIT 1)
            UNION ALL
            SELECT n.user_id
            FROM with_rows w
            CROSS JOIN LATERAL (SELECT t.user_id FROM credits.credits_transactions t WHERE t.user_id > w.user_id ORDER BY t.user_id LIMIT 1) n
        )
        SELECT w.user_id FROM with_rows w WHERE credits.bucket_of(w.user_id) = bucket
        UNION
        SELECT c.user_id FROM credits.user_balance_checkpoints c WHERE credits.bucket_of(c.user_id) = bucket
        UNION
        SELECT h.user_id FROM credits.holds h WHERE credits.bucket_of(h.user_id) = bucket);
END
    $$;
COMMENT ON FUNCTION credits.bucket_accounts(int) IS
    'Both nodes, before hold_bucket: the accounts of this bucket that have rows, a checkpoint or holds, for bucket_handover and give_away_bucket, '
    'which then need not look for them among all accounts while commits wait. Costs a descent of an index for each account of the ledger. 22004, '
    '22023, 42501 without SELECT on the ledger, the checkpoints, holds and bucket_states.';

CREATE FUNCTION credits.bucket_handover(bucket int, accounts uuid[] DEFAULT NULL, since xid8 DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    result jsonb;
BEGIN
    IF credits.lock_bucket(bucket, '{moving,elsewhere,arriving}') <> 'moving' THEN
        SELECT s.handover INTO result FROM credits.bucket_states s WHERE s.bucket = bucket_handover.bucket;
        IF result IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('bucket %s was not given away by this node', bucket);
        END IF;
        RETURN result;
    ELSIF NOT credits.holds_stripes(bucket) THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = format('the transaction does not hold bucket %s', bucket),
            HINT = 'Call hold_bucket first, in the same transaction.';
    END IF;
    result := jsonb_build_object(
        'ledger', credits.get_ledger(),
        -- A node that takes the bucket numbers on above it: so a bucket's handovers are in the order of this number, whichever nodes made them.
        'seq', nextval(pg_get_serial_sequence('credits.credits_transactions', 'seq')),
        'position', pg_current_xact_id(),
        'holds', (SELECT coalesce(jsonb_agg(to_jsonb(h)), '[]') FROM credits.holds h WHERE credits.bucket_of(h.user_id) = bucket),
        'limits', (SELECT coalesce(jsonb_agg(to_jsonb(l)), '[]') FROM credits.spending_limits l WHERE credits.bucket_of(l.user_id) = bucket),
        'caps', (SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]') FROM credits.spend_caps c WHERE credits.bucket_of(c.user_id) = bucket));
    IF accounts IS NULL THEN
        accounts := credits.bucket_accounts(bucket);
    ELSE
        accounts := accounts || ARRAY(SELECT t.user_id FROM credits.bucket_transactions(bucket, since, NULL) t);
    END IF;
    -- Whoever has got a checkpoint since they were collected had rows then, has got some since, or has got boundaries. If these are gone again, the checkpoint says no more than none.
    accounts := accounts
        || ARRAY(SELECT (b ->> 'user_id')::uuid FROM unnest(ARRAY['holds', 'limits', 'caps']) boundary CROSS JOIN jsonb_array_elements(result -> boundary) b);
    -- Those of which nothing was announced are listed, too: by this list the new node finds the accounts that it has from an earlier stay.
    RETURN result || jsonb_build_object('accounts', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
                   'user_id', a.user_id, 'balance', credits.get_user_balance(a.user_id), 'transaction_count', credits.count_user_transactions(a.user_id),
                   'is_positive', coalesce(c.is_positive, false), 'crossed_at', c.crossed_at,
                   'thresholds', c.thresholds, 'thresholds_below', c.thresholds_below, 'thresholds_crossed_at', c.thresholds_crossed_at,
                   'cap_ids', c.cap_ids, 'caps_reached_until', c.caps_reached_until)), '[]')
        FROM (SELECT DISTINCT u FROM unnest(accounts) u WHERE credits.bucket_of(u) = bucket) a (user_id)
        LEFT JOIN credits.user_balance_checkpoints c ON c.user_id = a.user_id));
END
    $$;
COMMENT ON FUNCTION credits.bucket_handover(int, uuid[], xid8) IS
    'Old node, in the transaction that holds the bucket: what the new node must have when it takes over: a JSON object with ledger, seq (a number '
    'that no other handover has), position (of the transaction), accounts (balance, count of rows, and what was announced), and the rows of holds, '
    'limits and caps. accounts: what bucket_accounts has returned on both nodes, and since: pg_snapshot_xmin of the snapshot that it had on this one, '
    'or of an earlier one; without them, it is called here. Of a bucket that was given away, also where it is expected again: the same, as it was '
    'then, and is_purged once its rows were purged. 22004, 22023, 55000, 42501 for anybody but the owner of the ledger.';

CREATE FUNCTION credits.give_away_bucket(bucket int, node_number int DEFAULT NULL, accounts uuid[] DEFAULT NULL, since xid8 DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    result jsonb;
BEGIN
    IF node_number NOT BETWEEN 0 AND 1023 THEN
        RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('node_number must be 0 to 1023, not %s', node_number);
    END IF;
    PERFORM credits.lock_bucket(bucket, '{moving}');
    -- By the number of the node, no other router takes this for the handover of its own move.
    result := credits.bucket_handover(bucket, accounts, since) || jsonb_build_object('given_to', node_number);
    PERFORM credits.begin_transfer(bucket);
    -- Stored without the texts of people: erasure reaches those on the new node.
    UPDATE credits.bucket_states s
    SET state = 'elsewhere', copied_from = NULL, copied_to = NULL, received = NULL,
        handover = result || jsonb_build_object('holds',
            (SELECT coalesce(jsonb_agg(h - '{description,metadata}'::text[]), '[]') FROM jsonb_array_elements(result -> 'holds') h))
    WHERE s.bucket = give_away_bucket.bucket;
    PERFORM credits.drop_holds_and_boundaries(bucket, ARRAY(SELECT h ->> 'source_id' FROM jsonb_array_elements(result -> 'holds') h));
    RETURN result;
END
    $$;
COMMENT ON FUNCTION credits.give_away_bucket(int, int, uuid[], xid8) IS
    'Old node, in the transaction that holds the bucket: says that the bucket is elsewhere, stores bucket_handover, without the texts of holds, and '
    'returns it, with the number of the node that it is given to: no other takes it then, and any does where that is NULL. accounts and since are for '
    'bucket_handover. Deletes holds, limits and caps of the bucket here. The commit is the point of no return. Rows of the ledger and what is derived '
    'from them stay until purge_bucket. 22004, 22023, 55000, 42501 for anybody but the owner of the ledger.';

-- A session that has locked one of these rows has changed it, waits for its stripe, and will be refused. To wait for it would be a deadlock: its row is left, and counts
-- for nothing. Holds are looked for among all holds of the node unless the caller knows them: where commits wait, it does.
CREATE FUNCTION credits.drop_holds_and_boundaries(bucket int, holds text[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    holds := coalesce(holds, ARRAY(SELECT h.source_id FROM credits.holds h WHERE credits.bucket_of(h.user_id) = bucket));
    DELETE FROM credits.holds WHERE source_id = ANY (ARRAY(SELECT h.source_id FROM credits.holds h WHERE h.source_id = ANY (drop_holds_and_boundaries.holds) FOR UPDATE SKIP LOCKED));
    DELETE FROM credits.spending_limits WHERE user_id IN
        (SELECT l.user_id FROM credits.spending_limits l WHERE credits.bucket_of(l.user_id) = drop_holds_and_boundaries.bucket FOR UPDATE SKIP LOCKED);
    DELETE FROM credits.spend_caps WHERE id IN
        (SELECT c.id FROM credits.spend_caps c WHERE credits.bucket_of(c.user_id) = drop_holds_and_boundaries.bucket FOR UPDATE SKIP LOCKED);
END
    $$;
COMMENT ON FUNCTION credits.drop_holds_and_boundaries(int, text[]) IS
    'For the functions that move buckets: deletes holds, limits and caps of a bucket that is elsewhere, but those that others have locked. holds: by '
    'their source_id, NULL if the caller does not know which there are.';

-- Back to the search_path of CREATE EXTENSION.
SET LOCAL search_path = credits, pg_temp;
